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
//! or *plain*: anything else is the data itself, without an id; but what begins with `{` must be JSON, so that a
//! mutilated envelope never reaches a device. `ttl` is a text as in the configuration, or a number of seconds; `ts` is
//! RFC 3339.
//!
//! Stages of a command, each one a reply on `P/device/NAME/reply`:
//!
//! ```text
//! Received ── Written ── Replied        the device had it; it has answered (where an answer is asked for)
//!     │           └───── Failed         no answer in time, or the device is lost: nobody knows whether it was done
//!     ├── Failed                        the device is not there: it was not done
//! Expired, Refused                      it was not done, and is not to be tried again as it is
//! ```

mod payload;

pub use payload::{Command, Data, MAX_COMMAND, MAX_ID, MAX_TTL, Malformed};

use crate::record::Encoding;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A command that has passed every check, on its way to the device's task.
#[derive(Debug)]
pub struct Order {
    /// What to do.
    pub data: Data,
    /// Not to be begun at this time or later: milliseconds since boot, as in [`crate::record::Timestamp::mono_ms`].
    pub expires_ms: u64,
    /// Where the device's task reports. The last report is one for which [`Progress::is_final`] holds; when the sender
    /// is dropped before that, the command has failed.
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
    pub data: Option<Value>,
    /// `base64` where the answer is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Whether this is the answer to a command that came before under the same id, and was not carried out again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

impl Reply {
    /// A reply after which others come.
    pub fn interim(id: &str, stage: Stage) -> Reply {
        Reply { id: id.to_owned(), stage, is_final: false, reason: None, data: None, encoding: None, repeated: false }
    }

    /// The last reply.
    pub fn last(id: &str, stage: Stage) -> Reply {
        Reply { is_final: true, ..Reply::interim(id, stage) }
    }

    /// The last reply of a command that did not work, and why.
    pub fn because(id: &str, stage: Stage, reason: impl Into<String>) -> Reply {
        Reply { reason: Some(reason.into()), ..Reply::last(id, stage) }
    }

    /// What a report of the device's task means to whoever sent the command.
    pub fn of(id: &str, progress: Progress) -> Reply {
        match progress {
            Progress::Written => Reply::interim(id, Stage::Written),
            Progress::Done => Reply::last(id, Stage::Written),
            Progress::Replied { data, encoding } => {
                let (data, encoding) = answer(&data, encoding);
                Reply { data: Some(data), encoding, ..Reply::last(id, Stage::Replied) }
            }
            Progress::Expired => {
                Reply::because(id, Stage::Expired, "its time to live ended before its turn came; nothing was done")
            }
            Progress::Refused(reason) => Reply::because(id, Stage::Refused, reason),
            Progress::Failed(reason) => Reply::because(id, Stage::Failed, reason),
        }
    }
}

/// A device's answer as a JSON value, and its encoding where that has to be said.
fn answer(data: &[u8], encoding: Encoding) -> (Value, Option<String>) {
    let json = || serde_json::from_slice(data).ok();
    let text = || std::str::from_utf8(data).ok().map(|text| Value::String(text.to_owned()));
    let shown = match encoding {
        Encoding::Json => json(),
        Encoding::Text | Encoding::Raw => text(),
        Encoding::Base64 => None,
    };
    match shown {
        Some(value) => (value, None),
        None => (Value::String(BASE64.encode(data)), Some("base64".to_owned())),
    }
}

/// A command on its way to the dispatch flow.
#[derive(Debug)]
pub struct Request {
    /// The device's name.
    pub device: String,
    /// The payload as it came; of one that is larger than [`MAX_COMMAND`] the beginning will do, as long as that is
    /// larger.
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
        /// The packet id, where it came with QoS 1.
        packet: Option<u16>,
        /// The broker says that it may have sent it before, under the same packet id.
        redelivered: bool,
        /// It may have waited at the broker for this long; `None`: nobody knows how long.
        waited: Option<Duration>,
        /// Answered when the command is noted, refused or found to be a repetition: from then on it need not come
        /// again. Dropped when it shall come again.
        noted: oneshot::Sender<()>,
    },
    /// The local API: gets every reply.
    Local {
        /// Bounded: replies that don't fit are dropped, for the client has gone to sleep.
        replies: mpsc::Sender<Reply>,
    },
}
