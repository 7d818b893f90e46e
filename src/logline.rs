//! A line of the application's log, whichever way it came: the journal, or the local API.
//!
//! Constraints: plain data; the JSON form is what consumers of `P/log` and of exit reports see, so fields are added, never
//! renamed.

use crate::record::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::oneshot;

/// One line; a multi-line message is one, too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// The journal's number for it, by which a line that comes twice is known: after a power cut lines of the last minutes
    /// may be read again. None for what did not come from the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it was logged: RFC 3339 with microseconds, as the journal has it.
    pub ts: String,
    /// How severe it is: 0 emergency to 7 debug (syslog(3)).
    pub priority: u8,
    /// What it says.
    pub message: String,
    /// `base64` where the message's bytes are no text (not UTF-8, or with a NUL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// The message, or one of the fields, was too long, and its end is missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// The process that logged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program's name for itself (`SYSLOG_IDENTIFIER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// The place in the program that logged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// What else the application said in fields of its own.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// A place in a program (`CODE_FILE`, `CODE_LINE`, `CODE_FUNC`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Code {
    /// The source file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub func: Option<String>,
}

impl LogLine {
    /// A line of which no more than this is known.
    pub fn plain(ts: String, priority: u8, message: String) -> Self {
        LogLine {
            id: None,
            ts,
            priority,
            message,
            encoding: None,
            truncated: false,
            pid: None,
            identifier: None,
            code: None,
            fields: Map::new(),
        }
    }
}

/// serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The question for the latest lines, the most verbose ones included, oldest first: the flight recorder. It is answered
/// when what the application has logged until now has been read.
pub type RecentRequest = oneshot::Sender<Vec<LogLine>>;

/// Lines that the application hands over itself, and where the answer goes: when those that are shipped would survive a kill of
/// the process.
#[derive(Debug)]
pub struct Posted {
    /// In order.
    pub lines: Vec<LogLine>,
    /// What became of them.
    pub reply: oneshot::Sender<Result<PostedCounts, Refusal>>,
}

/// What became of lines that the application has handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PostedCounts {
    /// All of them: they are at least in the flight recorder.
    pub accepted: u64,
    /// Those that are on their way to the broker.
    pub shipped: u64,
    /// Those that are less severe than `app.log_level`.
    pub below_level: u64,
    /// Those beyond `app.log_rate`.
    pub suppressed: u64,
}

/// Microseconds since 1970 as `2026-11-23T02:41:07.123456Z`; past the year 9999 as its last second.
pub fn rfc3339_us(wall_us: u64) -> String {
    const LAST_US: u64 = 253_402_300_799_000_000;
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(wall_us.min(LAST_US))).to_string()
}

/// Cuts a text to so many bytes, at a character's end. Returns whether that was needed.
pub fn shorten(text: &mut String, bytes: usize) -> bool {
    let is_long = text.len() > bytes;
    if is_long {
        text.truncate((0..=bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0));
    }
    is_long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_never_cut_within_a_character() {
        let cut = |bytes| {
            let mut text = "aü€".to_owned();
            (shorten(&mut text, bytes), text)
        };
        assert_eq!([cut(6), cut(5), cut(2), cut(0)].map(|(is_long, _)| is_long), [false, true, true, true]);
        assert_eq!([cut(6).1, cut(5).1, cut(2).1, cut(0).1], ["aü€", "aü", "a", ""]);
    }

    #[test]
    fn time_stamps_never_panic() {
        assert_eq!(rfc3339_us(1), "1970-01-01T00:00:00.000001Z");
        assert_eq!(rfc3339_us(u64::MAX), "9999-12-31T23:59:59.000000Z");
    }
}
