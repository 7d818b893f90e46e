//! MQTT 5: our vocabulary to packets and back, by rumqttc's codec, but for reason codes (see [`super::reason`]).
//!
//! What is said to the broker in CONNECT: how large a packet we take (it leaves out what is larger, as a message too large, or a
//! reason in words), and how long it is to keep the session: not at all for records, for ever for commands (section 3.1.2.11.2; a
//! broker may make that less, and says so).

use super::alias::{Aliases, Written};
use super::reason::{self, Reason, Refusal};
use super::{About, Delivery, Dialect, LinkError, Message, Purpose, Received, Session, Terms, Verdict};
use crate::config::Server;
use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, Disconnect, DisconnectReasonCode, Filter, LastWill, LastWillProperties, Login, Packet,
    PingReq, PubAck, Publish, PublishProperties, Subscribe,
};
use std::time::Duration;

/// For ever (section 3.1.2.11.2).
const FOR_EVER: u32 = u32::MAX;
/// What a message may have besides, in bytes: an alias (3), a longer length (3), a longer content type (4).
const SPARE: usize = 10;

/// What has to be remembered on a connection.
pub(super) struct V5 {
    /// The largest packet that is taken, in bytes.
    max_incoming: usize,
    aliases: Aliases,
    retain_available: bool,
    /// Whose broker it is: where it sends us is spoken to in the same way.
    server: Server,
}

impl V5 {
    /// For a connection to this server; no packet larger than `max_incoming` is taken.
    pub(super) fn new(server: &Server, max_incoming: usize) -> Self {
        V5 { max_incoming, aliases: Aliases::default(), retain_available: true, server: server.clone() }
    }

    /// The same, to a broker that keeps no messages.
    pub(super) fn without_retained(mut self) -> Self {
        self.retain_available = false;
        self
    }

    fn redirected(&self, reason: &Reason) -> LinkError {
        let to = reason.reference().and_then(|reference| elsewhere(reference, &self.server));
        let name = to.as_ref().map_or_else(|| "and does not say where".to_owned(), |server| format!("to {server}"));
        LinkError::Redirected { to, says: reason.explain(&format!("the broker sends us on {name}")) }
    }
}

fn write(packet: &Packet, out: &mut BytesMut) -> Result<(), LinkError> {
    packet.write(out, None).map(|_| ()).map_err(|error| LinkError::Unsendable(error.to_string()))
}

/// What stands behind the fixed header, which is there as a whole.
fn body(packet: &[u8]) -> &[u8] {
    let length = packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    packet.get(1 + length..).unwrap_or_default()
}

fn kind(packet: &[u8]) -> u8 {
    packet.first().map_or(0, |byte| byte >> 4)
}

/// The first server that a broker refers to (section 4.11): a host, with a port if need be. It is spoken to as the one
/// that says so is, with TLS or without.
fn elsewhere(reference: &str, here: &Server) -> Option<Server> {
    let first = reference.split_ascii_whitespace().next()?;
    let (host, port) = match first.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':'))
        }
        None if first.matches(':').count() > 1 => (first, None),
        None => first.split_once(':').map_or((first, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => here.port,
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let is_host = !host.is_empty() && host.len() <= 253 && host.chars().all(fits);
    is_host.then(|| Server { host: host.to_owned(), port, ..here.clone() })
}

fn properties(about: About, alias: Option<u16>) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: about.is_text.then_some(1),
        message_expiry_interval: about.expiry_s,
        topic_alias: alias,
        user_properties: about.properties,
        content_type: about.content_type.map(str::to_owned),
        ..PublishProperties::default()
    }
}

impl Dialect for V5 {
    fn connect(&mut self, session: &Session, out: &mut BytesMut) -> Result<(), LinkError> {
        let (clean_start, expiry, will) = match session.purpose.clone() {
            Purpose::Publish { will } => (true, 0, Some(will)),
            Purpose::Commands { clean: true, will } => (true, 0, will),
            Purpose::Commands { clean: false, will } => (false, FOR_EVER, will),
        };
        let will = will.map(|Message { topic, payload, retain, about }| {
            let properties = LastWillProperties {
                delay_interval: None,
                payload_format_indicator: about.is_text.then_some(1),
                message_expiry_interval: None,
                content_type: about.content_type.map(str::to_owned),
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            };
            LastWill::new(topic, payload, QoS::AtLeastOnce, retain && self.retain_available, Some(properties))
        });
        let properties = ConnectProperties {
            session_expiry_interval: Some(expiry),
            max_packet_size: u32::try_from(self.max_incoming).ok(),
            ..ConnectProperties::default()
        };
        let connect = Connect {
            keep_alive: u16::try_from(session.keep_alive.as_secs()).unwrap_or(u16::MAX),
            client_id: session.client_id.clone(),
            clean_start,
            properties: Some(properties),
        };
        let login = session.credentials.as_ref().map(|(username, password)| Login::new(username, password));
        write(&Packet::Connect(connect, will, login), out)
    }

    fn accepted(&mut self, packet: BytesMut, session: &Session) -> Result<Terms, LinkError> {
        let [flags, rest @ ..] = body(&packet) else {
            return Err(LinkError::Protocol("an empty packet instead of CONNACK".to_owned()));
        };
        if kind(&packet) != 2 {
            return Err(LinkError::Protocol(format!("a packet of kind {} instead of CONNACK", kind(&packet))));
        }
        // A broker that knows MQTT 3.1.1 at the most says so in its own way (MQTT 3.1.1 table 3.1).
        if let [code @ 1..=5] = rest {
            let code = if *code == 1 { 0x84 } else { *code };
            return Err(LinkError::Refused(reason::refusal(code)));
        }
        let reason = Reason::read(rest)?;
        match reason.code {
            0..=0x7f => {}
            0x9a if self.retain_available => return Err(LinkError::NoRetained),
            0x9c | 0x9d => return Err(self.redirected(&reason)),
            code => return Err(LinkError::Refused(reason.explain(&reason::refusal(code)))),
        }
        if reason.number(reason::MAXIMUM_QOS) == Some(0) {
            return Err(LinkError::NoQos);
        }
        // An error of the protocol (section 3.2.2.3.6), which would have every record be too large.
        if reason.number(reason::MAXIMUM_PACKET_SIZE) == Some(0) {
            return Err(LinkError::Protocol("a CONNACK that allows packets of 0 bytes".to_owned()));
        }
        self.retain_available &= reason.number(reason::RETAIN_AVAILABLE) != Some(0);
        let small = |property| reason.number(property).and_then(|number| u16::try_from(number).ok());
        self.aliases = Aliases::new(small(reason::TOPIC_ALIAS_MAXIMUM).unwrap_or(0));
        let keep_alive = small(reason::SERVER_KEEP_ALIVE).map(|seconds| Duration::from_secs(u64::from(seconds)));
        let mut notices = Vec::new();
        if !self.retain_available {
            notices.push(
                "the broker keeps no messages: births, states and the Last Will reach those only who listen".to_owned(),
            );
        }
        if let Some(id) = reason.text(reason::ASSIGNED_CLIENT_ID) {
            notices.push(format!("the broker has given this client the id {id:?}"));
        }
        let expiry = reason.number(reason::SESSION_EXPIRY);
        if let (Purpose::Commands { clean: false, .. }, Some(seconds)) = (&session.purpose, expiry)
            && seconds != FOR_EVER
        {
            notices
                .push(format!("the broker keeps commands and messages for {seconds} s only while the gateway is away"));
        }
        Ok(Terms {
            session_present: flags & 1 == 1,
            // 0: the broker does not look at it; we do all the same.
            keep_alive: keep_alive.filter(|keep_alive| !keep_alive.is_zero()).unwrap_or(session.keep_alive),
            receive_maximum: small(reason::RECEIVE_MAXIMUM).filter(|most| *most > 0).unwrap_or(u16::MAX),
            max_packet: reason
                .number(reason::MAXIMUM_PACKET_SIZE)
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(usize::MAX),
            notices,
        })
    }

    fn overhead(&self, topic: &str, about: &About) -> usize {
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            pkid: 1,
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            properties: Some(properties(about.clone(), None)),
            ..Publish::default()
        };
        publish.size() + SPARE
    }

    fn publish(&mut self, message: Message, id: u16, out: &mut BytesMut) -> Result<(), LinkError> {
        let Message { mut topic, payload, retain, about } = message;
        let alias = match self.aliases.write(&topic) {
            Written::Whole => None,
            Written::Introduced(alias) => Some(alias),
            Written::Aliased(alias) => {
                topic.clear();
                Some(alias)
            }
        };
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            pkid: id,
            retain: retain && self.retain_available,
            topic: Bytes::from(topic),
            payload: Bytes::from(payload),
            properties: Some(properties(about, alias)),
            dup: false,
        };
        write(&Packet::Publish(publish), out)
    }

    fn subscribe(&mut self, filter: String, queued: bool, id: u16, out: &mut BytesMut) -> Result<(), LinkError> {
        let qos = if queued { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let mut subscribe = Subscribe::new(Filter::new(filter, qos), None);
        subscribe.pkid = id;
        write(&Packet::Subscribe(subscribe), out)
    }

    fn acknowledge(&mut self, id: u16, out: &mut BytesMut) -> Result<(), LinkError> {
        write(&Packet::PubAck(PubAck::new(id, None)), out)
    }

    fn ping(&mut self, out: &mut BytesMut) -> Result<(), LinkError> {
        write(&Packet::PingReq(PingReq), out)
    }

    fn disconnect(&mut self, out: &mut BytesMut) -> Result<(), LinkError> {
        write(&Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)), out)
    }

    fn receive(&mut self, mut packet: BytesMut) -> Result<Received, LinkError> {
        match kind(&packet) {
            // PUBLISH
            3 => {}
            // PUBACK
            4 => {
                let [high, low, rest @ ..] = body(&packet) else {
                    return Err(LinkError::Protocol("a PUBACK without a packet id".to_owned()));
                };
                let reason = Reason::read(rest)?;
                let verdict = match reason.code {
                    0..=0x7f => Verdict::Taken,
                    code => Verdict::Refused(Refusal { code, says: reason.says() }),
                };
                return Ok(Received::Acknowledged { id: u16::from_be_bytes([*high, *low]), verdict });
            }
            // SUBACK
            9 => {
                let (id, reason) = Reason::of_subscription(body(&packet))?;
                return Ok(Received::Subscribed { id, granted: reason.code < 0x80 });
            }
            // PINGRESP
            13 => return Ok(Received::Pong),
            // DISCONNECT
            14 => {
                let reason = Reason::read(body(&packet))?;
                return Err(match reason.code {
                    0 => LinkError::Closed,
                    0x9c | 0x9d => self.redirected(&reason),
                    code => LinkError::Ended { code, says: reason.explain(&reason::farewell(code)) },
                });
            }
            _ => return Ok(Received::Other),
        }
        match Packet::read(&mut packet, None) {
            Ok(Packet::Publish(publish)) => Ok(Received::Delivered(Delivery {
                packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
                retained: publish.retain,
                redelivered: publish.dup,
                topic: String::from_utf8(publish.topic.to_vec())
                    .map_err(|_| LinkError::Protocol("a topic that is no UTF-8".to_owned()))?,
                payload: publish.payload,
            })),
            Ok(_) => Ok(Received::Other),
            Err(error) => Err(LinkError::Protocol(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
