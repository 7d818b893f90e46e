//! MQTT 3.1.1: our vocabulary to packets and back, by rumqttc's codec.

use super::{About, Delivery, Dialect, LinkError, Message, Purpose, Received, Session, Terms, Verdict};
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, LastWill, Packet, PubAck, Publish, Subscribe, SubscribeReasonCode,
};

/// Nothing needs to be remembered but the limit.
pub(super) struct V4 {
    /// The largest packet that may be sent, in bytes.
    pub(super) max_outgoing: usize,
}

impl V4 {
    fn write(&self, packet: Packet, out: &mut BytesMut) -> Result<(), LinkError> {
        packet.write(out, self.max_outgoing).map(|_| ()).map_err(|error| LinkError::Unsendable(error.to_string()))
    }
}

fn read(mut packet: BytesMut) -> Result<Packet, LinkError> {
    Packet::read(&mut packet, usize::MAX).map_err(|error| LinkError::Protocol(error.to_string()))
}

fn last_will(Message { topic, payload, retain, .. }: Message) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, retain)
}

impl Dialect for V4 {
    fn connect(&mut self, session: &Session, out: &mut BytesMut) -> Result<(), LinkError> {
        let mut connect = Connect::new(&session.client_id);
        connect.keep_alive = u16::try_from(session.keep_alive.as_secs()).unwrap_or(u16::MAX);
        match session.purpose.clone() {
            Purpose::Publish { will } => {
                connect.clean_session = true;
                connect.last_will = Some(last_will(will));
            }
            // An empty client id can't have a session that lasts (section 3.1.3.1).
            Purpose::Commands { clean, will } => {
                connect.clean_session = clean || session.client_id.is_empty();
                connect.last_will = will.map(last_will);
            }
        }
        if let Some((username, password)) = &session.credentials {
            connect.set_login(username, password);
        }
        self.write(Packet::Connect(connect), out)
    }

    fn accepted(&mut self, packet: BytesMut, session: &Session) -> Result<Terms, LinkError> {
        // A broker of MQTT 5 alone may say so in its own way (MQTT 5 section 3.1.2.2).
        if matches!(*packet, [0x20, _, _, 0x84, ..]) {
            return Err(LinkError::Refused(refusal(ConnectReturnCode::RefusedProtocolVersion).to_owned()));
        }
        match read(packet)? {
            Packet::ConnAck(connack) if connack.code == ConnectReturnCode::Success => Ok(Terms {
                session_present: connack.session_present,
                keep_alive: session.keep_alive,
                receive_maximum: u16::MAX,
                max_packet: usize::MAX,
                notices: Vec::new(),
            }),
            Packet::ConnAck(connack) => Err(LinkError::Refused(refusal(connack.code).to_owned())),
            other => Err(LinkError::Protocol(format!("{other:?} instead of CONNACK"))),
        }
    }

    fn overhead(&self, topic: &str, _: &About) -> usize {
        topic.len() + 9
    }

    fn publish(&mut self, message: Message, id: u16, out: &mut BytesMut) -> Result<(), LinkError> {
        let mut publish = Publish::from_bytes(message.topic, QoS::AtLeastOnce, Bytes::from(message.payload));
        publish.pkid = id;
        publish.retain = message.retain;
        self.write(Packet::Publish(publish), out)
    }

    fn subscribe(&mut self, filter: String, queued: bool, id: u16, out: &mut BytesMut) -> Result<(), LinkError> {
        let mut subscribe = Subscribe::new(filter, if queued { QoS::AtLeastOnce } else { QoS::AtMostOnce });
        subscribe.pkid = id;
        self.write(Packet::Subscribe(subscribe), out)
    }

    fn acknowledge(&mut self, id: u16, out: &mut BytesMut) -> Result<(), LinkError> {
        self.write(Packet::PubAck(PubAck::new(id)), out)
    }

    fn ping(&mut self, out: &mut BytesMut) -> Result<(), LinkError> {
        self.write(Packet::PingReq, out)
    }

    fn disconnect(&mut self, out: &mut BytesMut) -> Result<(), LinkError> {
        self.write(Packet::Disconnect, out)
    }

    fn receive(&mut self, packet: BytesMut) -> Result<Received, LinkError> {
        match read(packet)? {
            Packet::PubAck(puback) => Ok(Received::Acknowledged { id: puback.pkid, verdict: Verdict::Taken }),
            Packet::Publish(publish) => Ok(Received::Delivered(Delivery {
                packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
                retained: publish.retain,
                redelivered: publish.dup,
                topic: publish.topic,
                payload: publish.payload,
            })),
            Packet::SubAck(suback) => {
                let is_yes = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                Ok(Received::Subscribed { id: suback.pkid, granted: suback.return_codes.iter().all(is_yes) })
            }
            Packet::PingResp => Ok(Received::Pong),
            Packet::Disconnect => Err(LinkError::Closed),
            _ => Ok(Received::Other),
        }
    }
}

/// MQTT 3.1.1 table 3.1 in words that say what to do.
fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it said yes and meant no",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1; set mqtt.version = \"5\"",
        ConnectReturnCode::BadClientId => "it does not allow this client id; set mqtt.client_id",
        ConnectReturnCode::ServiceUnavailable => "it is not available now",
        ConnectReturnCode::BadUserNamePassword => {
            "wrong user name or password; see mqtt.username and mqtt.password_file"
        }
        ConnectReturnCode::NotAuthorized => "not authorised; see mqtt.username and mqtt.password_file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session() -> Session {
        Session {
            version: crate::config::MqttVersion::V3_1_1,
            client_id: "c".to_owned(),
            credentials: None,
            keep_alive: std::time::Duration::from_secs(30),
            max_payload: 1000,
            purpose: Purpose::Commands { clean: false, will: None },
        }
    }

    #[test]
    fn a_broker_of_another_version_never_goes_without_advice() {
        for answer in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 0x84, 0]] {
            let error = V4 { max_outgoing: 1000 }.accepted(BytesMut::from(answer), &session()).unwrap_err().to_string();
            assert!(error.contains("set mqtt.version = \"5\""), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_from_a_broker_ever_end_in_a_panic(
            kind in any::<u8>(),
            rest in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let mut packet = BytesMut::from(&[kind, u8::try_from(rest.len()).unwrap()][..]);
            packet.extend_from_slice(&rest);
            let mut v4 = V4 { max_outgoing: 1000 };
            let _: Result<_, _> = v4.receive(packet.clone());
            let _: Result<_, _> = v4.accepted(packet, &session());
        }
    }
}
