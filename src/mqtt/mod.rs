//! The broker: one connection, from CONNECT to its end. MQTT 3.1.1 by rumqttc 0.25.1.
//!
//! There are two of them at a time, for two purposes: records go out on one with a clean session, commands come in on one with a
//! session that the broker keeps, and are acknowledged by whoever received them.
//!
//! Constraints: a connection is used once; what was not acknowledged when it ends is sent again on the next one, by
//! whoever knows what that was (the publisher, with the spool behind it). Nothing is queued here.
//!
//! # What of rumqttc is used, and what not
//!
//! rumqttc connects (host name, TCP, CONNECT, CONNACK) and turns packets into bytes and back. Its `EventLoop::poll` is not used after
//! CONNACK, nor is its `MqttState`: they keep a queue of their own, which is emptied silently when a broker has no
//! session, take one packet and one system call at a time, and can stall for good on a packet id that is used again
//! (issues 1014 and 1056 there). The connection's packet ids are ours (see [`crate::inflight`]), so there is one truth only.
//!
//! [`tls`] is what servers with `mqtts://` need besides. MQTT 5 would be a second implementation of
//! [`Connection`]'s methods, with the reason code of a PUBACK in [`Received`].

pub mod tls;

use crate::config::Server;
use bytes::Bytes;
use rumqttc::{
    ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming, LastWill, MqttOptions, NetworkOptions, Packet,
    PubAck, Publish, QoS, StateError, Subscribe, SubscribeReasonCode, TlsConfiguration, Transport,
};
use std::io;
use std::time::Duration;
use tls::{Setup, TlsError};

/// The time that connecting may take, host name look-up and CONNACK included, in seconds.
const CONNECT_TIMEOUT_S: u64 = 10;
/// Room for topic and header in a packet, in bytes: MQTT allows a topic of 65,535 (section 1.5.3).
const PACKET_OVERHEAD: usize = 65_535 + 16;
/// Brokers send the publisher small packets only, since it subscribes to nothing.
const MAX_INCOMING: usize = 4 * 1024;
/// A command that is larger than this, in bytes with its topic, can't be taken off the wire and costs its session (see `listen`);
/// what is smaller, but too large for a command, is refused. MQTT allows 256 MiB.
const MAX_INCOMING_COMMAND: usize = 256 * 1024;

/// What a connection needs besides a server.
#[derive(Debug, Clone)]
pub struct Session {
    /// The client id.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// 1 s at least, whole seconds.
    pub keep_alive: Duration,
    /// The largest payload in bytes.
    pub max_payload: usize,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Publishing, in a clean session.
    Publish {
        /// The Last Will, retained, QoS 1.
        will: Message,
    },
    /// Receiving commands.
    Commands {
        /// Whether what the broker has kept for this session shall be thrown away, and the session with it.
        clean: bool,
    },
}

/// A topic and what is to be said there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The whole topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// PUBACK for this packet id.
    Acknowledged(u16),
    /// SUBACK.
    Subscribed {
        /// The packet id of the SUBSCRIBE.
        id: u16,
        /// Whether it was a yes.
        granted: bool,
    },
    /// PUBLISH.
    Delivered(Delivery),
    /// PINGRESP.
    Pong,
    /// Anything else: the broker lives.
    Other,
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The whole topic.
    pub topic: String,
    /// The payload.
    pub payload: Bytes,
    /// To be acknowledged by; `None` with QoS 0.
    pub packet: Option<u16>,
    /// The broker had kept it for whoever subscribes.
    pub retained: bool,
    /// The broker may have sent it before.
    pub redelivered: bool,
}

/// Why there is no connection, or none any more. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens there, the name is unknown, the network is down.
    #[error("{0}")]
    Network(io::Error),
    /// No CONNACK in time.
    #[error("no answer within {CONNECT_TIMEOUT_S} s; is this an MQTT broker?")]
    ConnectTimeout,
    /// CONNACK with a return code (MQTT 3.1.1 section 3.2.2.3).
    #[error("the broker refused the connection: {0}")]
    Refused(&'static str),
    /// The broker has closed the connection.
    #[error("the broker closed the connection")]
    Closed,
    /// Bytes that are no MQTT.
    #[error("the broker sent what is not MQTT 3.1.1: {0}")]
    Protocol(String),
    /// The connection is there, and TLS on it is not.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Our side took too long to send: the broker does not read.
    #[error("the broker takes no data any more")]
    Stalled,
}

/// An open connection.
pub struct Connection {
    eventloop: EventLoop,
    session_present: bool,
}

impl Connection {
    /// Connects; `tls` is used for a server with `mqtts://`. Cancel-safe: a half-made connection is dropped.
    pub async fn open(server: &Server, session: &Session, tls: &mut Setup) -> Result<Connection, LinkError> {
        // With TLS the host is also the name that is verified, which has no brackets.
        let host = match server.host.contains(':') && !server.tls {
            true => format!("[{}]", server.host),
            false => server.host.clone(),
        };
        let mut options = MqttOptions::new(&session.client_id, host, server.port);
        if server.tls {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls.config()?)));
        }
        options.set_keep_alive(session.keep_alive);
        options.set_inflight(1);
        let max_incoming = match session.purpose.clone() {
            Purpose::Publish { will: Message { topic, payload, retain } } => {
                options.set_clean_session(true);
                options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, retain));
                MAX_INCOMING
            }
            Purpose::Commands { clean } => {
                // Only an empty client id needs a clean session, and rumqttc insists on that.
                options.set_clean_session(clean || session.client_id.is_empty());
                MAX_INCOMING_COMMAND
            }
        };
        options.set_max_packet_size(max_incoming, session.max_payload.saturating_add(PACKET_OVERHEAD));
        if let Some((username, password)) = &session.credentials {
            options.set_credentials(username, password);
        }
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(CONNECT_TIMEOUT_S);
        network.set_tcp_nodelay(true);
        let mut eventloop = EventLoop::new(options, 1);
        eventloop.set_network_options(network);
        match eventloop.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(connack))) => {
                Ok(Connection { eventloop, session_present: connack.session_present })
            }
            Ok(other) => Err(LinkError::Protocol(format!("{other:?} instead of CONNACK"))),
            Err(error) => Err(why_not(error, server, tls)),
        }
    }

    /// Puts a QoS 1 message into the send buffer, and writes when that is full. Not cancel-safe.
    pub async fn publish(&mut self, message: Message, id: u16) -> Result<(), LinkError> {
        let mut publish = Publish::from_bytes(message.topic, QoS::AtLeastOnce, Bytes::from(message.payload));
        publish.pkid = id;
        publish.retain = message.retain;
        self.write(Packet::Publish(publish)).await
    }

    /// Whether the broker had a session for us, with whatever came since.
    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// Puts a SUBSCRIBE of one filter into the send buffer. `queued`: with QoS 1, so that the broker queues what comes while we
    /// are away; else with QoS 0.
    pub async fn subscribe(&mut self, filter: String, queued: bool, id: u16) -> Result<(), LinkError> {
        let mut subscribe = Subscribe::new(filter, if queued { QoS::AtLeastOnce } else { QoS::AtMostOnce });
        subscribe.pkid = id;
        self.write(Packet::Subscribe(subscribe)).await
    }

    /// Puts a PUBACK into the send buffer.
    pub async fn acknowledge(&mut self, id: u16) -> Result<(), LinkError> {
        self.write(Packet::PubAck(PubAck::new(id))).await
    }

    /// Puts a PINGREQ into the send buffer.
    pub async fn ping(&mut self) -> Result<(), LinkError> {
        self.write(Packet::PingReq).await
    }

    /// Says good-bye: the broker drops the Last Will.
    pub async fn disconnect(mut self) -> Result<(), LinkError> {
        self.write(Packet::Disconnect).await?;
        self.flush().await
    }

    async fn write(&mut self, packet: Packet) -> Result<(), LinkError> {
        let network = self.eventloop.network.as_mut().ok_or(LinkError::Closed)?;
        Ok(network.write(packet).await?)
    }

    /// Writes out what is in the send buffer.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        let network = self.eventloop.network.as_mut().ok_or(LinkError::Closed)?;
        Ok(network.flush().await?)
    }

    /// The next packet from the broker. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Received, LinkError> {
        let network = self.eventloop.network.as_mut().ok_or(LinkError::Closed)?;
        match network.read().await? {
            Incoming::PubAck(puback) => Ok(Received::Acknowledged(puback.pkid)),
            Incoming::Publish(publish) => Ok(Received::Delivered(Delivery {
                packet: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
                retained: publish.retain,
                redelivered: publish.dup,
                topic: publish.topic,
                payload: publish.payload,
            })),
            Incoming::SubAck(suback) => {
                let is_yes = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
                Ok(Received::Subscribed { id: suback.pkid, granted: suback.return_codes.iter().all(is_yes) })
            }
            Incoming::PingResp => Ok(Received::Pong),
            Incoming::Disconnect => Err(LinkError::Closed),
            _ => Ok(Received::Other),
        }
    }

    /// A packet that is here already. Returns at once.
    pub async fn receive_ready(&mut self) -> Option<Result<Received, LinkError>> {
        tokio::select! {
            biased;
            received = self.receive() => Some(received),
            () = std::future::ready(()) => None,
        }
    }
}

impl From<StateError> for LinkError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Io(error) => LinkError::Network(error),
            StateError::ConnectionAborted => LinkError::Closed,
            StateError::Deserialization(rumqttc::mqttbytes::Error::Io(error)) => LinkError::Network(error),
            other => LinkError::Protocol(other.to_string()),
        }
    }
}

/// Why no connection came about. With TLS 1.3 what the broker thinks of our certificate comes with the first read.
fn why_not(error: ConnectionError, server: &Server, tls: &Setup) -> LinkError {
    let of_io = |error: io::Error| match TlsError::of_io(&error, tls.clock()) {
        Some(error) => LinkError::Tls(error),
        None => LinkError::Network(error),
    };
    match error {
        ConnectionError::Io(error) => of_io(error),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => LinkError::ConnectTimeout,
        ConnectionError::ConnectionRefused(code) => LinkError::Refused(refusal(code)),
        ConnectionError::Tls(rumqttc::TlsError::Io(error)) if has_hung_up(&error) => TlsError::HungUp.into(),
        ConnectionError::Tls(rumqttc::TlsError::Io(error)) => of_io(error),
        ConnectionError::Tls(rumqttc::TlsError::TLS(error)) => TlsError::of(&error, tls.clock()).into(),
        ConnectionError::Tls(error) => TlsError::Other(error.to_string()).into(),
        ConnectionError::MqttState(error) => match LinkError::from(error) {
            LinkError::Network(error) => of_io(error),
            LinkError::Closed if server.tls => TlsError::HungUp.into(),
            other => other,
        },
        other => LinkError::Protocol(other.to_string()),
    }
}

/// Whether it was the other side that ended the connection.
fn has_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// MQTT 3.1.1 table 3.1 in words that say what to do.
fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it said yes and meant no",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
        ConnectReturnCode::BadClientId => "it does not allow this client id; set mqtt.client_id",
        ConnectReturnCode::ServiceUnavailable => "it is not available now",
        ConnectReturnCode::BadUserNamePassword => {
            "wrong user name or password; see mqtt.username and mqtt.password_file"
        }
        ConnectReturnCode::NotAuthorized => "not authorised; see mqtt.username and mqtt.password_file",
    }
}
