//! The record: what a device measured or an application said, on its way to the broker.
//!
//! Constraints: a record is plain data with no handles in it, so every flow may hold one; the serialised form is
//! what version 1 of the spool's segments holds, which is still read, pinned by the fixtures under `tests/fixtures/`: fields
//! and variants are never added, reordered or removed.
//!
//! The envelope, as consumers see it (JSON, one object):
//!
//! ```text
//! {"id":"telemetry:1042","ts":"2026-11-23T02:41:07.123Z","data":…}
//!     "clock":"unsynced"    when the wall clock was not yet to be trusted
//!     "encoding":"base64"   when `data` is a string that holds base64
//! ```
//!
//! Delivery is at least once: `id` (stream and sequence number) is what consumers de-duplicate by.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// A stream, by its place in the configuration's table of streams.
///
/// The built-in ones have fixed places; those that the user adds follow behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u8);

impl StreamId {
    /// Gaps, quarantines, exit reports: drained first.
    pub const EVENT: StreamId = StreamId(0);
    /// What devices measure and applications publish, unless told otherwise.
    pub const TELEMETRY: StreamId = StreamId(1);
    /// Log lines: drained last.
    pub const LOG: StreamId = StreamId(2);

    /// Its place in a set of streams that is a number: there are 64 at the most.
    pub fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }

    /// The index into tables that hold one element for each stream.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Whether a wall-clock reading may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockQuality {
    /// The clock shows a time that can be right.
    Trusted,
    /// The clock shows a time before this program was written: no RTC, and NTP has not answered yet.
    Unsynced,
}

/// When a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01 UTC by the wall clock.
    pub wall_ms: u64,
    /// Milliseconds since boot (CLOCK_BOOTTIME): comparable within one boot only.
    pub mono_ms: u64,
    /// What `wall_ms` is worth.
    pub quality: ClockQuality,
}

impl Timestamp {
    /// Of a record whose time is lost.
    pub const UNKNOWN: Timestamp = Timestamp { wall_ms: 0, mono_ms: 0, quality: ClockQuality::Unsynced };
}

/// Where time stamps come from; the daemon passes the real one, tests their own.
pub type Clock = fn() -> Timestamp;

/// How a record's bytes become the `data` of its envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// The bytes are one valid JSON value and stand as they are.
    Json,
    /// The bytes are UTF-8 without NUL and become a JSON string.
    Text,
    /// Anything else: a JSON string of base64, flagged by `"encoding":"base64"`.
    Base64,
    /// No envelope: the bytes alone are the message.
    Raw,
}

/// How the configuration wants payloads to be shown (`payload = …`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PayloadRule {
    /// A JSON value if it parses, else text, else base64.
    #[default]
    Auto,
    /// Text, or base64 where the bytes are no text.
    Text,
    /// Always base64.
    Base64,
    /// The bytes alone, without an envelope.
    Raw,
}

impl PayloadRule {
    /// The encoding for `bytes` under this rule. Lossless: bytes that are not UTF-8, or that hold a NUL (which many
    /// consumers can't store in text), fall back to base64.
    pub fn encoding_of(self, bytes: &[u8]) -> Encoding {
        // From text, not from bytes: serde_json does not look at the UTF-8 of strings that it ignores.
        let text = std::str::from_utf8(bytes);
        let is_json = || text.is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
        let is_text = || text.is_ok() && !bytes.contains(&0);
        match self {
            PayloadRule::Auto if is_json() => Encoding::Json,
            PayloadRule::Auto | PayloadRule::Text if is_text() => Encoding::Text,
            PayloadRule::Auto | PayloadRule::Text | PayloadRule::Base64 => Encoding::Base64,
            PayloadRule::Raw => Encoding::Raw,
        }
    }
}

/// The topics of what the application reports of its configuration: the broker keeps the latest of each.
pub const REPORTED: &str = "config-reported/";

/// A record before the spool has given it a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The topic below the configured prefix: `device/meter/data`, `app/orders`, `event`.
    pub topic: String,
    /// When it was made.
    pub time: Timestamp,
    /// How `data` enters the envelope.
    pub encoding: Encoding,
    /// The payload as it came.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

impl Record {
    /// Whether the broker is to keep it for later subscribers. All that is on disk of that is the topic.
    pub fn is_retained(&self) -> bool {
        self.topic.starts_with(REPORTED)
    }

    /// Corrects the time of a record that was made in this boot before the clock was right, if it is right now.
    /// The time since boot says how long ago that was.
    pub fn correct_time(&mut self, now: Timestamp) {
        let time = &mut self.time;
        if time.quality == ClockQuality::Unsynced
            && now.quality == ClockQuality::Trusted
            && let Some(age_ms) = now.mono_ms.checked_sub(time.mono_ms)
        {
            time.wall_ms = now.wall_ms.saturating_sub(age_ms);
            time.quality = ClockQuality::Trusted;
        }
    }
}

/// A record with its place in its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequenced {
    /// Sequence number within the stream, from 1; never used twice, may skip ahead after a crash.
    pub seq: u64,
    /// The record.
    pub record: Record,
}

impl Sequenced {
    /// The message payload for the broker.
    pub fn payload(&self, stream: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.likely_size(stream));
        self.append_payload(stream, &mut out);
        out
    }

    /// The size of its message payload in bytes, but for what its data takes more in the envelope.
    pub fn likely_size(&self, stream: &str) -> usize {
        self.record.data.len() + stream.len() + 96
    }

    /// Puts the message payload behind what `out` holds.
    pub fn append_payload(&self, stream: &str, out: &mut Vec<u8>) {
        let record = &self.record;
        if record.encoding == Encoding::Raw {
            return out.extend_from_slice(&record.data);
        }
        out.extend_from_slice(b"{\"id\":\"");
        out.extend_from_slice(stream.as_bytes());
        out.push(b':');
        out.extend_from_slice(self.seq.to_string().as_bytes());
        out.extend_from_slice(b"\",\"ts\":\"");
        out.extend_from_slice(rfc3339(record.time.wall_ms).as_bytes());
        out.push(b'"');
        if record.time.quality == ClockQuality::Unsynced {
            out.extend_from_slice(b",\"clock\":\"unsynced\"");
        }
        match record.encoding {
            Encoding::Json | Encoding::Raw => {
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(&record.data);
            }
            Encoding::Text => {
                out.extend_from_slice(b",\"data\":");
                let text = String::from_utf8_lossy(&record.data);
                out.extend_from_slice(serde_json::Value::from(text.as_ref()).to_string().as_bytes());
            }
            Encoding::Base64 => {
                out.extend_from_slice(b",\"encoding\":\"base64\",\"data\":\"");
                out.extend_from_slice(BASE64.encode(&record.data).as_bytes());
                out.push(b'"');
            }
        }
        out.push(b'}');
    }
}

/// Milliseconds since 1970 as `2026-11-23T02:41:07.123Z`. Times past the year 9999, which RFC 3339 can't write,
/// come out as its last second.
pub fn rfc3339(wall_ms: u64) -> String {
    const LAST_MS: u64 = 253_402_300_799_000;
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(wall_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

/// When the submitter wants its answer: what a record must survive before it counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// In memory; on flash within the `spool.sync` window unless the broker was faster.
    Window,
    /// Survives a kill of the process: it has left our memory for the file system.
    Process,
    /// Survives a power cut: fdatasync has returned.
    Power,
}

/// Records on their way into the spool, all of one stream, accepted or refused together.
#[derive(Debug)]
pub struct Submission {
    /// The stream they join.
    pub stream: StreamId,
    /// In order; not empty.
    pub records: Vec<Record>,
    /// What they must survive before `reply` is sent. The configuration may ask for more.
    pub durability: Durability,
    /// How the submitter knows after a kill that it has submitted them.
    pub note: Option<Note>,
    /// Where the answer goes, if anybody waits for one.
    pub reply: Option<oneshot::Sender<Result<Accepted, Refusal>>>,
}

/// How far the submitter of records has come with them. It is written when the records survive what their submission asks for, and
/// before anybody gets them: so of records that may be with the broker, and gone from the spool, the note is always there.
#[derive(Debug)]
pub struct Note {
    /// The file that is replaced, on a tmpfs: a kill leaves the old content or the new one, a power cut may take both.
    pub file: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
    /// Gets the error if the file can't be written. The records are accepted all the same.
    pub failed: oneshot::Sender<String>,
    /// Told when a power cut can't cost the records any more: they are on flash, or done with.
    pub safe: oneshot::Sender<()>,
}

impl Submission {
    /// Something that whoever looks after the gateway should know: a record on `P/event`. `document` is an object with a
    /// `type`.
    pub fn event(document: &impl Serialize, time: Timestamp) -> Submission {
        // Plain documents with string keys always serialise.
        let data = serde_json::to_vec(document).unwrap_or_default();
        let records = vec![Record { topic: "event".to_owned(), time, encoding: Encoding::Json, data }];
        Submission { stream: StreamId::EVENT, records, durability: Durability::Window, note: None, reply: None }
    }
}

/// A message that the broker keeps: the latest one is all that counts, so it needs no place in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// The topic below the configured prefix.
    pub topic: String,
    /// JSON.
    pub payload: String,
    /// Where it says of a device whether it is online: its name, and that.
    pub device: Option<(String, bool)>,
}

/// A message that the broker keeps on a topic of others, such as Home Assistant's; without a payload that topic is cleared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The whole topic.
    pub topic: String,
    /// JSON, or nothing.
    pub payload: String,
}

/// The sequence numbers that a submission got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Of its first record.
    pub first: u64,
    /// Of its last record.
    pub last: u64,
}

/// Why a submission was not accepted. Nothing of it was kept, but for [`Refusal::NotDurable`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The stream is full and `when_full = "reject"`.
    #[error("the stream is full; try again when its backlog has drained")]
    Full,
    /// The disk did not take it, and the submitter asked for more than memory. It is held in memory and may still be
    /// delivered.
    #[error("the disk did not take it: {0}; it is held in memory, may be delivered, and would not survive a restart")]
    NotDurable(String),
    /// The sidecar is stopping.
    #[error("pillion is stopping; send it again after the restart")]
    Stopping,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequenced(encoding: Encoding, data: &[u8], quality: ClockQuality) -> Sequenced {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality };
        let record = Record { topic: "device/meter/data".into(), time, encoding, data: data.to_vec() };
        Sequenced { seq: 1042, record }
    }

    fn payload(encoding: Encoding, data: &[u8]) -> String {
        String::from_utf8(sequenced(encoding, data, ClockQuality::Trusted).payload("telemetry")).unwrap()
    }

    #[test]
    fn envelope_never_changes_its_shape() {
        assert_eq!(
            payload(Encoding::Json, b"{\"v\": 1}"),
            r#"{"id":"telemetry:1042","ts":"2026-11-23T02:41:07.123Z","data":{"v": 1}}"#
        );
        assert_eq!(
            payload(Encoding::Text, b"a \"b\" \x1b"),
            r#"{"id":"telemetry:1042","ts":"2026-11-23T02:41:07.123Z","data":"a \"b\" \u001b"}"#
        );
        assert_eq!(
            payload(Encoding::Base64, &[0, 255]),
            r#"{"id":"telemetry:1042","ts":"2026-11-23T02:41:07.123Z","encoding":"base64","data":"AP8="}"#
        );
        assert_eq!(payload(Encoding::Raw, b"as it is"), "as it is");
        let unsynced = sequenced(Encoding::Json, b"1", ClockQuality::Unsynced).payload("t");
        assert_eq!(
            String::from_utf8(unsynced).unwrap(),
            r#"{"id":"t:1042","ts":"2026-11-23T02:41:07.123Z","clock":"unsynced","data":1}"#
        );
    }

    #[test]
    fn payload_rule_never_loses_a_byte() {
        assert_eq!(PayloadRule::Auto.encoding_of(b"22.5"), Encoding::Json);
        assert_eq!(PayloadRule::Auto.encoding_of(b"{\"a\":1}"), Encoding::Json);
        assert_eq!(PayloadRule::Auto.encoding_of(b"007"), Encoding::Text);
        assert_eq!(PayloadRule::Auto.encoding_of(b"a\0b"), Encoding::Base64);
        assert_eq!(PayloadRule::Auto.encoding_of(&[0xff, 0xfe]), Encoding::Base64);
        assert_eq!(PayloadRule::Auto.encoding_of(b"\"\xff\""), Encoding::Base64, "JSON but for its UTF-8");
        assert_eq!(PayloadRule::Text.encoding_of(b"22.5"), Encoding::Text);
        assert_eq!(PayloadRule::Text.encoding_of(&[0xff]), Encoding::Base64);
        assert_eq!(PayloadRule::Base64.encoding_of(b"22.5"), Encoding::Base64);
        assert_eq!(PayloadRule::Raw.encoding_of(&[0]), Encoding::Raw);
    }

    #[test]
    fn time_stamps_never_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
