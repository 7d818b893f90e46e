//! What comes from the broker for others than devices: messages for the application, its configuration, and word of the
//! neighbours.
//!
//! Constraint: plain data, but for the channels by which a receiver says that it has a message.

use crate::record::{Encoding, PayloadRule, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// The largest message or value in bytes.
pub const MAX_VALUE: usize = 64 * 1024;
/// The longest topic or key in bytes, without what is above it.
pub const MAX_TOPIC: usize = 512;

/// A message on its way to the flow that wants it.
#[derive(Debug)]
pub struct Delivered {
    /// What is left of the topic: below `P/app/set/` or `P/config/`; of a neighbour all of it.
    pub topic: String,
    /// The payload as it came.
    pub payload: Vec<u8>,
    /// The broker had kept it for whoever subscribes.
    pub retained: bool,
    /// The packet id, where it came with QoS 1.
    pub packet: Option<u16>,
    /// The broker says that it may have sent it before, under the same packet id.
    pub redelivered: bool,
    /// Answered when it need not come again. Dropped when it shall come again.
    pub noted: oneshot::Sender<()>,
}

/// What the configuration store hears from the broker, in this order: a round begins, messages, the round is complete; or
/// the connection is lost at any time.
#[derive(Debug)]
pub enum Settings {
    /// The broker was asked for all keys: from now on they come.
    Round {
        /// Which broker.
        server: String,
        /// It still knew our session: it has not lost its memory since we were connected last.
        remembered: bool,
    },
    /// A key and its value.
    Message(Delivered),
    /// All keys that the broker has have come since the round began.
    Complete,
    /// There is no connection any more.
    Lost,
}

/// Another gateway, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    /// `online` or `offline`, or whatever it says.
    pub state: String,
    /// Why it is offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version of its pillion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When we heard of it last, by our clock.
    pub heard: String,
}

/// A message that is kept for the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its number: later messages have greater ones.
    pub id: u64,
    /// Below `P/app/set/`.
    pub topic: String,
    /// When it came.
    pub time: Timestamp,
    /// The broker had kept it for whoever subscribes.
    pub retained: bool,
    /// The payload as it came.
    pub data: Vec<u8>,
}

/// The way into the application's inbox.
#[derive(Debug, Clone)]
pub struct Inbox {
    /// Questions for messages.
    pub requests: mpsc::Sender<MessagesRequest>,
    /// The number of the latest message, or 0.
    pub latest: watch::Receiver<u64>,
}

/// The question for what came after a message.
#[derive(Debug)]
pub struct MessagesRequest {
    /// The last number that is known already. One that was never given counts as 0.
    pub after: u64,
    /// Some of the oldest messages after that; none if there is none.
    pub reply: oneshot::Sender<Vec<Arc<Message>>>,
}

/// A key of the configuration, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Below `P/config/`.
    pub key: String,
    /// When it changed, in changes: see [`SettingsNews`].
    pub revision: u64,
    /// Its ETag, when it came, and its value; `None`: it was deleted.
    pub kept: Option<(String, Timestamp, Vec<u8>)>,
}

/// The way into the configuration store.
#[derive(Debug, Clone)]
pub struct SettingsStore {
    /// Questions for keys.
    pub requests: mpsc::Sender<SettingsRequest>,
    /// The latest change.
    pub news: watch::Receiver<SettingsNews>,
}

/// What clients of the configuration store wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SettingsNews {
    /// Counts changes, as long as the process lives.
    pub revision: u64,
    /// Whether the store has all that the broker has.
    pub synced: bool,
}

/// A question for keys.
#[derive(Debug)]
pub enum SettingsRequest {
    /// What changed?
    Changes {
        /// Since this revision.
        after: u64,
        /// Whether only keys that there are count, and no deletions: who begins asks so, from 0, until nothing is left.
        all: bool,
        /// Some of the oldest changes, none if there is none; `None`: it can't be said any more, ask for all.
        reply: oneshot::Sender<Result<Option<Vec<Setting>>, Unreadable>>,
    },
    /// One key, if it is there.
    Value {
        /// Its name.
        key: String,
        /// The key.
        reply: oneshot::Sender<Result<Option<Setting>, Unreadable>>,
    },
}

/// A key is there, and its value can't be had at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key {key:?} can't be read now: {reason}; ask again")]
pub struct Unreadable {
    /// Its name.
    pub key: String,
    /// What the system said.
    pub reason: String,
}

/// Bytes as a JSON value in one line, and `base64` where they are neither JSON nor text.
pub fn data_of(bytes: &[u8]) -> (Box<RawValue>, Option<&'static str>) {
    let value = match PayloadRule::Auto.encoding_of(bytes) {
        // Line breaks in JSON are white space: within a string they are escaped.
        Encoding::Json => {
            let text: String = String::from_utf8_lossy(bytes)
                .chars()
                .map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c })
                .collect();
            RawValue::from_string(text).ok()
        }
        Encoding::Text => to_raw_value(&String::from_utf8_lossy(bytes)).ok(),
        Encoding::Base64 | Encoding::Raw => None,
    };
    match value {
        Some(value) => (value, None),
        None => (to_raw_value(&BASE64.encode(bytes)).unwrap_or_default(), Some("base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_payload_ever_breaks_a_line() {
        let shown = |bytes: &[u8]| {
            let (data, encoding) = data_of(bytes);
            (data.get().to_owned(), encoding)
        };
        assert_eq!(shown(b" {\n\t\"a\":\r\n[1]}\n"), ("{ \t\"a\":  [1]}".to_owned(), None));
        assert_eq!(shown(b"a\nb"), (r#""a\nb""#.to_owned(), None));
        assert_eq!(shown(b""), (r#""""#.to_owned(), None));
        assert_eq!(shown(&[0, 255]), (r#""AP8=""#.to_owned(), Some("base64")));
    }
}
