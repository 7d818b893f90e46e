//! Why there is no connection, in words that say what to do.

use super::tls::TlsError;
use super::{CONNECT_TIMEOUT_S, transport};
use crate::config::Server;
use std::io;

/// Why there is no connection, or none any more. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens there, the name is unknown, the network is down.
    #[error("{0}")]
    Network(io::Error),
    /// No CONNACK in time.
    #[error("no answer within {CONNECT_TIMEOUT_S} s; is this an MQTT broker?")]
    ConnectTimeout,
    /// CONNACK with a return code (MQTT 3.1.1 section 3.2.2.3, MQTT 5 section 3.2.2.2).
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    /// The broker has closed the connection.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker has closed the connection in the place of an answer.
    #[error("the broker closed the connection without an answer to {to}{hint}")]
    Unanswered {
        /// What it was sent.
        to: String,
        /// What brokers do that for, behind a semicolon.
        hint: String,
    },
    /// The broker has ended the connection, and says why.
    #[error("{says}")]
    Ended {
        /// The reason code.
        code: u8,
        /// The sentence.
        says: String,
    },
    /// The broker wants us to go somewhere else.
    #[error("{says}")]
    Redirected {
        /// Where, if it says so in a way that is understood.
        to: Option<Server>,
        /// The sentence.
        says: String,
    },
    /// The broker keeps no messages, and refuses a Last Will that it would have to keep.
    #[error("the broker keeps no messages, and refuses a Last Will that it would have to keep")]
    NoRetained,
    /// The broker takes no message that it has to acknowledge.
    #[error(
        "the broker takes messages with QoS 0 only, which it does not acknowledge, so that any of them may be lost; use another"
    )]
    NoQos,
    /// Bytes that are no MQTT.
    #[error("the broker sent what is not MQTT: {0}")]
    Protocol(String),
    /// A packet of ours that can't be written.
    #[error("a packet can't be sent: {0}")]
    Unsendable(String),
    /// The connection is there, and TLS on it is not.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Our side took too long to send: the broker does not read.
    #[error("the broker takes no data any more")]
    Stalled,
}

impl LinkError {
    /// The broker has closed the connection before it had answered a SUBSCRIBE of this filter.
    pub fn unsubscribed(filter: &str) -> LinkError {
        LinkError::Unanswered { to: format!("a subscription to {filter}"), hint: about_topic(filter) }
    }

    /// Whether it was the broker who ended the connection, without a word.
    pub fn is_hang_up(&self) -> bool {
        match self {
            LinkError::Closed => true,
            LinkError::Network(error) => transport::has_hung_up(error),
            _ => false,
        }
    }

    /// Whether the broker may have ended the connection for something that we sent.
    pub fn may_be_a_messages_fault(&self) -> bool {
        match self {
            LinkError::Ended { code, .. } => {
                matches!(code, 0x80..=0x83 | 0x87 | 0x90 | 0x93..=0x95 | 0x97 | 0x99..=0x9b)
            }
            other => other.is_hang_up(),
        }
    }
}

/// Why a broker may close the connection on this topic without a word, behind a semicolon.
pub(super) fn about_topic(topic: &str) -> String {
    match topic.contains('.') {
        true => format!("; NATS does so for a topic with a dot, and here is {topic}: see mqtt.topic_prefix"),
        false => String::new(),
    }
}
