//! The broker: one connection, from CONNECT to its end.
//!
//! There are two of them at a time, for two purposes: records go out on one with a clean session, commands come in on one with a
//! session that the broker keeps, and are acknowledged by whoever received them.
//!
//! Constraints: a connection is used once; what was not acknowledged when it ends is sent again on the next one, by
//! whoever knows what that was (the publisher, with the spool behind it). Nothing is queued here. The connection's packet ids
//! are ours (see [`crate::inflight`]), so there is one truth only.
//!
//! ```text
//!               ┌ v4: MQTT 3.1.1 ──────────┐
//! Connection ──>│                           ├──> bytes ──> transport: TCP, TLS, WebSocket ──> broker
//!               └ v5: MQTT 5, reason, alias ┘
//! ```
//!
//! Of rumqttc 0.25.1 the codec is used, and nothing else: its event loops keep a queue of their own, which is emptied silently
//! when a broker has no session, take one packet and one system call at a time, and can stall for good on a packet id that is
//! used again (issues 1014 and 1056 there).
//!
//! [`tls`] is what servers with `mqtts://` need besides.

mod alias;
pub mod dial;
mod error;
pub mod failover;
#[doc(hidden)]
pub mod fuzz;
pub mod keep_alive;
pub mod reason;
pub mod tls;
mod transport;
mod v4;
mod v5;
mod websocket;

use crate::config::{MqttVersion, Server};
use bytes::{Bytes, BytesMut};
pub use error::LinkError;
use error::about_topic;
use reason::Refusal;
use std::net::IpAddr;
use std::time::Duration;
use tls::Setup;
use tokio::time::{Instant, timeout, timeout_at};
use transport::Transport;
use v4::V4;
use v5::V5;

/// The time that connecting may take, host name look-up and CONNACK included, in seconds.
const CONNECT_TIMEOUT_S: u64 = 10;
/// How long a broker has to close a connection after DISCONNECT (MQTT 3.1.1 section 3.14.4 says that it does).
const CLOSING: Duration = Duration::from_millis(300);
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
    /// The protocol's version.
    pub version: MqttVersion,
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
        /// The Last Will, QoS 1.
        will: Message,
    },
    /// Receiving commands.
    Commands {
        /// Whether what the broker has kept for this session shall be thrown away, and the session with it.
        clean: bool,
        /// The Last Will, QoS 1.
        will: Option<Message>,
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
    /// What is said of it besides.
    pub about: About,
}

/// What MQTT 5 lets one say of a message (section 3.3.2.3). MQTT 3.1.1 leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Seconds after which no subscriber need have it any more.
    pub expiry_s: Option<u32>,
    /// Its payload is UTF-8.
    pub is_text: bool,
    /// The MIME type of its payload.
    pub content_type: Option<&'static str>,
    /// User properties.
    pub properties: Vec<(String, String)>,
}

impl About {
    /// Of a payload in JSON.
    pub fn json() -> About {
        About { is_text: true, content_type: Some("application/json"), ..About::default() }
    }
}

/// What the broker thinks of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has it. With MQTT 3.1.1 a broker can say nothing else.
    Taken,
    /// It does not want it.
    Refused(Refusal),
}

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// PUBACK.
    Acknowledged {
        /// The packet id of the PUBLISH.
        id: u16,
        /// What became of the message.
        verdict: Verdict,
    },
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

/// What CONNACK has said. With MQTT 3.1.1 that is whether there was a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Whether the broker had a session for us, with whatever came since.
    pub session_present: bool,
    /// The longest time without a packet from us.
    pub keep_alive: Duration,
    /// Messages that may wait for an acknowledgement at a time, 1 at least.
    pub receive_maximum: u16,
    /// The largest packet that the broker takes, in bytes.
    pub max_packet: usize,
    /// What a person should know.
    pub notices: Vec<String>,
}

/// One version of the protocol: our vocabulary to packets and back, and what it has to remember on a connection. Packets are
/// appended to `out`; those that come are whole.
trait Dialect: Send {
    /// CONNECT.
    fn connect(&mut self, session: &Session, out: &mut BytesMut) -> Result<(), LinkError>;
    /// The answer to that.
    fn accepted(&mut self, packet: BytesMut, session: &Session) -> Result<Terms, LinkError>;
    /// How many bytes a PUBLISH has at the most besides its payload.
    fn overhead(&self, topic: &str, about: &About) -> usize;
    /// PUBLISH with QoS 1.
    fn publish(&mut self, message: Message, id: u16, out: &mut BytesMut) -> Result<(), LinkError>;
    /// SUBSCRIBE with QoS 1, or with QoS 0 if it need not be `queued`.
    fn subscribe(&mut self, filter: String, queued: bool, id: u16, out: &mut BytesMut) -> Result<(), LinkError>;
    /// PUBACK.
    fn acknowledge(&mut self, id: u16, out: &mut BytesMut) -> Result<(), LinkError>;
    /// PINGREQ.
    fn ping(&mut self, out: &mut BytesMut) -> Result<(), LinkError>;
    /// DISCONNECT.
    fn disconnect(&mut self, out: &mut BytesMut) -> Result<(), LinkError>;
    /// Whatever comes after CONNACK.
    fn receive(&mut self, packet: BytesMut) -> Result<Received, LinkError>;
}

/// An open connection.
pub struct Connection {
    transport: Transport,
    dialect: Box<dyn Dialect>,
    terms: Terms,
}

impl Connection {
    /// Connects; `tls` is used for a server with `mqtts://`. Cancel-safe: a half-made connection is dropped.
    pub async fn open(server: &Server, session: &Session, tls: &mut Setup) -> Result<Connection, LinkError> {
        let deadline = Instant::now() + Duration::from_secs(CONNECT_TIMEOUT_S);
        match timeout_at(deadline, Connection::open_by(deadline, server, session, tls)).await {
            Ok(opened) => opened,
            Err(_) => Err(LinkError::ConnectTimeout),
        }
    }

    async fn open_by(
        deadline: Instant,
        server: &Server,
        session: &Session,
        tls: &mut Setup,
    ) -> Result<Connection, LinkError> {
        let max_incoming = match session.purpose {
            Purpose::Publish { .. } => MAX_INCOMING,
            Purpose::Commands { .. } => MAX_INCOMING_COMMAND,
        };
        let max_outgoing = session.max_payload.saturating_add(PACKET_OVERHEAD);
        let dialect: Box<dyn Dialect> = match session.version {
            MqttVersion::V3_1_1 => Box::new(V4 { max_outgoing }),
            MqttVersion::V5 => Box::new(V5::new(server, max_incoming)),
        };
        let transport = Transport::open(server, tls, max_incoming, session.keep_alive, deadline).await?;
        match Connection::introduce(transport, dialect, server, session, tls).await {
            // Once more, with a Last Will that it need not keep.
            Err(LinkError::NoRetained) => {
                let dialect = Box::new(V5::new(server, max_incoming).without_retained());
                let transport = Transport::open(server, tls, max_incoming, session.keep_alive, deadline).await?;
                Connection::introduce(transport, dialect, server, session, tls).await
            }
            introduced => introduced,
        }
    }

    /// CONNECT and CONNACK.
    async fn introduce(
        mut transport: Transport,
        mut dialect: Box<dyn Dialect>,
        server: &Server,
        session: &Session,
        tls: &Setup,
    ) -> Result<Connection, LinkError> {
        dialect.connect(session, transport.outgoing())?;
        let answer = async {
            transport.flush().await?;
            transport.next().await
        };
        let answer = answer.await.map_err(|error| why_not(error, server, session, tls))?;
        let terms = dialect.accepted(answer, session)?;
        Ok(Connection { transport, dialect, terms })
    }

    /// What the broker has said of this connection.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The largest payload, in bytes, that the broker takes in a message on this topic.
    pub fn payload_limit(&self, topic: &str, about: &About) -> usize {
        match self.terms.max_packet {
            usize::MAX => usize::MAX,
            most => most.saturating_sub(self.dialect.overhead(topic, about)),
        }
    }

    /// Puts a QoS 1 message into the send buffer, and writes when that is full.
    pub async fn publish(&mut self, message: Message, id: u16) -> Result<(), LinkError> {
        self.dialect.publish(message, id, self.transport.outgoing())?;
        self.transport.settle().await
    }

    /// Whether the broker had a session for us, with whatever came since.
    pub fn session_present(&self) -> bool {
        self.terms.session_present
    }

    /// The address of this end.
    pub fn local_address(&self) -> Option<IpAddr> {
        self.transport.local()
    }

    /// Puts a SUBSCRIBE of one filter into the send buffer. `queued`: with QoS 1, so that the broker queues what comes while we
    /// are away; else with QoS 0.
    pub async fn subscribe(&mut self, filter: String, queued: bool, id: u16) -> Result<(), LinkError> {
        self.dialect.subscribe(filter, queued, id, self.transport.outgoing())?;
        self.transport.settle().await
    }

    /// Puts a PUBACK into the send buffer.
    pub async fn acknowledge(&mut self, id: u16) -> Result<(), LinkError> {
        self.dialect.acknowledge(id, self.transport.outgoing())?;
        self.transport.settle().await
    }

    /// Puts a PINGREQ into the send buffer.
    pub async fn ping(&mut self) -> Result<(), LinkError> {
        self.dialect.ping(self.transport.outgoing())?;
        self.transport.settle().await
    }

    /// Says good-bye: the broker drops the Last Will. Waits `CLOSING` for the broker's end of it: a broker that finds the next
    /// CONNECT before this DISCONNECT takes it for a session that is taken over, and says the Last Will.
    pub async fn disconnect(mut self) -> Result<(), LinkError> {
        self.dialect.disconnect(self.transport.outgoing())?;
        self.transport.flush().await?;
        let closed = async {
            self.transport.shut_down().await;
            while self.transport.next().await.is_ok() {}
        };
        let _ = timeout(CLOSING, closed).await;
        Ok(())
    }

    /// Writes out what is in the send buffer. Cancel-safe.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        self.transport.flush().await
    }

    /// The next packet from the broker. Cancel-safe.
    pub async fn receive(&mut self) -> Result<Received, LinkError> {
        let packet = self.transport.next().await?;
        self.dialect.receive(packet)
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

/// Why no connection came about, if that shows in the place of CONNACK. With TLS 1.3 what the broker thinks of our certificate comes
/// with the first read.
fn why_not(error: LinkError, server: &Server, session: &Session, tls: &Setup) -> LinkError {
    match error {
        LinkError::Network(error) if !transport::has_hung_up(&error) => transport::of_io(error, tls),
        LinkError::Closed | LinkError::Network(_) => {
            let mut hint = String::new();
            if session.version == MqttVersion::V5 {
                hint += "; if it does not speak MQTT 5, set mqtt.version = \"3.1.1\"";
            }
            if server.tls {
                hint += "; some brokers do so where they don't know the certificate of mqtt.cert_file, or don't allow mqtt.client_id";
            }
            if let Purpose::Publish { will } | Purpose::Commands { will: Some(will), .. } = &session.purpose {
                hint += &about_topic(&will.topic);
            }
            LinkError::Unanswered { to: "CONNECT".to_owned(), hint }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Timestamp};
    use std::io::{Error, ErrorKind};

    #[test]
    fn a_broker_that_hangs_up_is_never_without_a_hint() {
        let server = |tls| Server { tls, websocket: None, host: "b".to_owned(), port: 1 };
        let session = |version, topic: &str| Session {
            version,
            client_id: "gw".to_owned(),
            credentials: None,
            keep_alive: Duration::from_secs(30),
            max_payload: 1000,
            purpose: Purpose::Publish {
                will: Message { topic: topic.to_owned(), payload: Vec::new(), retain: true, about: About::default() },
            },
        };
        let clock = || Timestamp { wall_ms: 1, mono_ms: 1, quality: ClockQuality::Unsynced };
        let setup = Setup::new(Default::default(), clock);
        let says =
            |error, tls, version, topic| why_not(error, &server(tls), &session(version, topic), &setup).to_string();
        let (v4, v5) = (MqttVersion::V3_1_1, MqttVersion::V5);
        let plain = "the broker closed the connection without an answer to CONNECT";
        assert_eq!(says(LinkError::Closed, false, v4, "p/status"), plain);
        let reset = || LinkError::Network(Error::from(ErrorKind::ConnectionReset));
        assert_eq!(says(reset(), false, v4, "p/status"), plain);
        assert!(says(reset(), false, v4, "p.x/status").contains("a dot, and here is p.x/status"));
        assert!(says(reset(), true, v4, "p/status").contains("mqtt.cert_file"));
        assert!(says(LinkError::Closed, false, v5, "p/status").contains("set mqtt.version = \"3.1.1\""));
        let refused = LinkError::Network(Error::from(ErrorKind::ConnectionRefused));
        assert_eq!(says(refused, false, v4, "p.x/status"), "connection refused");
    }
}
