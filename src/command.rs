//! Commands: what somebody wants a device to do, and what became of it.
//!
//! Constraints: plain data, but for the channels in [`Order`]; the JSON forms are the contract of `P/device/NAME/set`,
//! `P/device/NAME/reply` and `POST /v1/devices/NAME/command`.
//!
//! A command's payload is either *enveloped*, a JSON object with `data` and no keys but these,
//!
//! ```text
//! {"id":"c-17","ttl":"30s","ts":"2026-11-23T02:41:07.123Z","data":…}      "encoding":"base64" for bytes in a string
//! ```
//!
//! or *plain*: anything else is the data itself, without an id.
//!
//! Stages of a command, each one a reply on `P/device/NAME/reply`:
//!
//! ```text
//! Received ── Written ── Replied        the device had it; it has answered (where an answer is asked for)
//!     │           └───── Failed         no answer in time, or the device is lost: nobody knows whether it was done
//!     ├── Failed                        the device is not there: it was not done
//! Expired, Refused                      it was not done, and is not to be tried again as it is
//! ```

use crate::record::Encoding;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The longest id in bytes.
pub const MAX_ID: usize = 64;
/// The largest payload of a command in bytes, envelope included.
pub const MAX_COMMAND: usize = 16 * 1024;

/// A command as it came in, for one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// What the sender calls it: `[ -~]{1,64}`. Without one it can't be told from another of the same content.
    pub id: Option<String>,
    /// How long after it was sent it may still be carried out. `None`: what the device's configuration says.
    pub ttl: Option<Duration>,
    /// When it was sent, in milliseconds since 1970, if the sender says so.
    pub sent_ms: Option<u64>,
    /// What the device is to do.
    pub data: Data,
}

/// What a device is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// From an envelope without `encoding`.
    Json(serde_json::Value),
    /// From an envelope with `"encoding":"base64"`, or a plain payload.
    Bytes(Vec<u8>),
}

impl Data {
    /// For devices that take bytes: a JSON string stands for its text, any other value for itself.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Data::Bytes(bytes) => bytes,
            Data::Json(serde_json::Value::String(text)) => text.into_bytes(),
            Data::Json(value) => value.to_string().into_bytes(),
        }
    }

    /// For devices that take values: bytes that are no JSON stand for a string.
    pub fn into_value(self) -> serde_json::Value {
        match self {
            Data::Json(value) => value,
            Data::Bytes(bytes) => serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }
}

/// A command that has passed every check, on its way to the device's task.
#[derive(Debug)]
pub struct Order {
    /// What to do.
    pub data: Data,
    /// Not to be begun at this time or later: milliseconds since boot, as in [`crate::record::Timestamp::mono_ms`].
    pub expires_ms: u64,
    /// Where the device's task reports. The last report is one for which [`Progress::is_final`] holds; when the sender is
    /// dropped before that, the command has failed.
    pub progress: mpsc::Sender<Progress>,
}

/// Reports that an [`Order`] may have under way.
pub const PROGRESS: usize = 2;

/// How far an order is.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// The device has it, and a reply is awaited.
    Written,
    /// Done: the device has it, and no reply is awaited.
    Done,
    /// Done: what the device answered.
    Replied {
        /// The answer.
        data: Vec<u8>,
        /// How it is shown.
        encoding: Encoding,
    },
    /// Not begun before `expires_ms`.
    Expired,
    /// Not done: the device can't be asked for this; the text says what it can be asked for.
    Refused(String),
    /// Not done, or nobody knows; the text says which.
    Failed(String),
}

impl Progress {
    /// Whether nothing comes after it.
    pub fn is_final(&self) -> bool {
        *self != Progress::Written
    }
}

/// What a reply says of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is accepted and noted: it will be begun once at most.
    Received,
    /// The device has it. The last reply where no answer is awaited.
    Written,
    /// The device has answered.
    Replied,
    /// It was too late to begin.
    Expired,
    /// It was not begun.
    Refused,
    /// It did not work, or nobody knows.
    Failed,
}

/// A reply: the `data` of a record on `P/device/NAME/reply`, and the answer of the local API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The command's id, or the one it was given here.
    pub id: String,
    /// How far it came.
    pub stage: Stage,
    /// Whether nothing comes after it.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Why it was not done, in words that say what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the device answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// `base64` where the answer is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Whether this is the answer to a command that came before under the same id, and was not carried out again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

/// A command on its way to the dispatch flow.
#[derive(Debug)]
pub struct Request {
    /// The device's name.
    pub device: String,
    /// The payload as it came.
    pub payload: Vec<u8>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a command came from, and who waits for it.
#[derive(Debug)]
pub enum Origin {
    /// The broker.
    Broker {
        /// It was kept by the broker: refused.
        retained: bool,
        /// The broker says it may have been sent before, under this packet id.
        redelivered: Option<u16>,
        /// It may have waited at the broker for this long; `None`: nobody knows how long.
        waited: Option<Duration>,
        /// Answered when the command is noted, refused or found to be a repetition: from then on it need not come again.
        noted: oneshot::Sender<()>,
    },
    /// The local API: gets every reply.
    Local {
        /// Bounded: replies that don't fit are dropped, for the client has gone to sleep.
        replies: mpsc::Sender<Reply>,
    },
}
