//! Lines on their way into records: many in one, and none larger than a message may be.
//!
//! Pure. Form of a record's data on `P/log`:
//!
//! ```text
//! {"unit":…,"batch":n,"lines":[line, …],"cursor":…}        lines that are shipped
//! {"unit":…,"batch":n,"recorder":[line, …],"cursor":…}     less severe ones from the flight recorder, after an error
//! ```
//!
//! `unit` is missing where no unit is configured. `batch` and `cursor` are ours: see [`position`](super::position). A kill may leave
//! the first records of a batch without the others, so each has the cursor of the last line that need not be read again once it is
//! there.

use crate::app::journal::Cursor;
use crate::logline::{LogLine, shorten};
use std::time::Duration;

/// A batch has so many bytes of lines at the most.
const BYTES: usize = 64 * 1024;
/// And so many lines.
const LINES: usize = 1000;
/// What a record has besides its lines and the unit: the envelope with its id (less than 140 bytes), names, number, cursor.
const FRAME: usize = 140 + 60 + 200;
/// However small the messages: enough for time stamp, priority and a few words.
const LEAST: usize = 160;
/// The first line of a batch waits for others this long.
pub const WINDOW: Duration = Duration::from_secs(1);

/// How large the lines of a record may be in bytes, for messages of this size about this unit.
pub fn room(max_payload: usize, unit: Option<&str>) -> usize {
    let unit = unit.map_or(0, |unit| unit.len());
    max_payload.saturating_sub(FRAME + unit).clamp(LEAST, BYTES)
}

/// A line as JSON of at most `room` bytes. Returns whether it had to be cut for that.
pub fn encode(mut line: LogLine, room: usize) -> (String, bool) {
    let json = |line: &LogLine| serde_json::to_string(line).unwrap_or_default();
    let mut text = json(&line);
    let cut = text.len() > room;
    if cut {
        line.truncated = true;
        line.fields.clear();
        line.code = None;
        line.identifier.as_mut().map(|name| shorten(name, 32));
        text = json(&line);
    }
    while text.len() > room && !line.message.is_empty() {
        // What is left of it when its share is cut off; a byte of the message may take six.
        let over = (text.len() - room).div_ceil(6).max(line.message.len() / 8).max(1);
        let mut left = line.message.len().saturating_sub(over);
        if line.encoding.is_some() {
            left -= left % 4;
        }
        shorten(&mut line.message, left);
        text = json(&line);
    }
    (text, cut)
}

/// Lines that wait for others.
#[derive(Debug)]
pub struct Batch {
    room: usize,
    kind: &'static str,
    parts: Vec<Part>,
    lines: usize,
}

/// Lines of one record.
#[derive(Debug)]
pub struct Part {
    kind: &'static str,
    /// As JSON, with commas between them.
    lines: String,
    /// The last one of them that is of the journal, if they are read once only.
    upto: Option<Cursor>,
}

impl Batch {
    /// For records with so many bytes of lines of this kind: `lines` or `recorder`.
    pub fn new(kind: &'static str, room: usize) -> Self {
        Batch { room, kind, parts: Vec::new(), lines: 0 }
    }

    /// Adds an encoded line of at most `room` bytes, and its place in the journal.
    pub fn push(&mut self, json: &str, cursor: Option<&Cursor>) {
        self.lines += 1;
        let fits = self.parts.last().is_some_and(|part| part.lines.len() + 1 + json.len() <= self.room);
        if !fits {
            self.parts.push(Part { kind: self.kind, lines: String::new(), upto: None });
        }
        let Some(part) = self.parts.last_mut() else { return };
        if fits {
            part.lines.push(',');
        }
        part.lines.push_str(json);
        if cursor.is_some() {
            part.upto = cursor.cloned();
        }
    }

    /// Whether it is time: there is more than a record takes, or nearly that.
    pub fn is_full(&self) -> bool {
        self.lines >= LINES
            || self.parts.len() > 1
            || self.parts.first().is_some_and(|part| part.lines.len() * 8 >= self.room * 7)
    }

    /// What is in it; it is empty then.
    pub fn take(&mut self) -> Vec<Part> {
        self.lines = 0;
        std::mem::take(&mut self.parts)
    }
}

/// The data of a batch's records: so numbered, with everything read up to `from` before it, and up to `to` with all of it.
pub fn encode_all(
    parts: Vec<Part>,
    unit: Option<&str>,
    batch: u64,
    from: Option<&Cursor>,
    to: Option<&Cursor>,
) -> Vec<Vec<u8>> {
    let mut cursor = from.cloned();
    let mut records = Vec::with_capacity(parts.len());
    let mut parts = parts.into_iter().peekable();
    while let Some(Part { kind, lines, upto }) = parts.next() {
        let last = to.filter(|_| parts.peek().is_none());
        cursor = last.cloned().or(upto).or(cursor);
        records.push(data(kind, unit, batch, cursor.as_ref(), &lines));
    }
    records
}

fn data(kind: &str, unit: Option<&str>, batch: u64, cursor: Option<&Cursor>, lines: &str) -> Vec<u8> {
    let mut data = String::with_capacity(lines.len() + FRAME);
    data.push('{');
    if let Some(unit) = unit {
        data += &format!("\"unit\":{},", serde_json::Value::from(unit));
    }
    data += &format!("\"batch\":{batch},\"{kind}\":[{lines}]");
    if let Some(cursor) = cursor {
        data += &format!(",\"cursor\":\"{}\"", cursor.as_str());
    }
    data.push('}');
    data.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Encoding, Record, Sequenced, Timestamp};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn line(message: &str) -> LogLine {
        LogLine::plain("2026-11-25T10:10:41.274021Z".to_owned(), 6, message.to_owned())
    }

    fn cursor(number: u64) -> Cursor {
        let text = format!("s={};i={number:010x};b={};m=fff;t=fff;x=ffff", "f".repeat(32), "f".repeat(32));
        Cursor::parse(&text).unwrap()
    }

    fn decoded(records: &[Vec<u8>]) -> Vec<Value> {
        records.iter().map(|data| serde_json::from_slice(data).unwrap()).collect()
    }

    #[test]
    fn a_record_never_changes_its_form() {
        let mut batch = Batch::new("lines", 1000);
        batch.push(&encode(line("a"), 1000).0, Some(&cursor(1)));
        batch.push(&encode(line("b"), 1000).0, Some(&cursor(2)));
        let records = encode_all(batch.take(), Some("gw.service"), 8, Some(&cursor(0)), Some(&cursor(3)));
        let expected = json!({ "unit": "gw.service", "batch": 8, "cursor": cursor(3).as_str(), "lines": [
            { "ts": "2026-11-25T10:10:41.274021Z", "priority": 6, "message": "a" },
            { "ts": "2026-11-25T10:10:41.274021Z", "priority": 6, "message": "b" },
        ]});
        assert_eq!(decoded(&records), [expected]);
        assert!(!batch.is_full());
        let mut recorder = Batch::new("recorder", 1000);
        recorder.push("1", None);
        assert_eq!(encode_all(recorder.take(), None, 9, None, None), [b"{\"batch\":9,\"recorder\":[1]}"]);
    }

    #[test]
    fn of_a_batch_that_was_torn_no_line_is_missing_and_none_comes_again() {
        // Each line is a record of its own; the second one was posted, and the last one of the journal is not shipped.
        let mut recorder = Batch::new("recorder", 3);
        recorder.push("100", None);
        let mut batch = Batch::new("lines", 3);
        batch.push("101", Some(&cursor(1)));
        batch.push("102", None);
        batch.push("103", Some(&cursor(3)));
        let mut parts = recorder.take();
        parts.extend(batch.take());
        let records = decoded(&encode_all(parts, None, 8, Some(&cursor(0)), Some(&cursor(4))));
        let places: Vec<&str> = records.iter().map(|record| record["cursor"].as_str().unwrap()).collect();
        assert_eq!(places, [cursor(0).as_str(), cursor(1).as_str(), cursor(1).as_str(), cursor(4).as_str()]);
        assert!(records.iter().all(|record| record["batch"] == 8));
    }

    #[test]
    fn a_long_line_never_loses_more_than_it_must() {
        let mut long = line(&"ü".repeat(5_000));
        long.fields.insert("A".into(), json!("b"));
        long.identifier = Some("i".repeat(1000));
        let (text, cut) = encode(long, 4_000);
        let back: LogLine = serde_json::from_str(&text).unwrap();
        assert!(cut && back.truncated && back.fields.is_empty());
        assert!(text.len() <= 4_000 && text.len() > 3_000, "{}", text.len());
        let (text, cut) = encode(line("short"), 4_000);
        assert!(!cut && !text.contains("truncated"));
    }

    proptest! {
        #[test]
        fn no_record_is_ever_larger_than_a_message_may_be(
            messages in prop::collection::vec((any::<String>(), 1..60usize), 1..30),
            base64: bool,
            max_payload in 1024..8000usize,
            unit in prop::option::of("[a-z]{1,230}"),
        ) {
            let room = room(max_payload, unit.as_deref());
            let mut batch = Batch::new("recorder", room);
            for (message, times) in &messages {
                let mut line = line(&message.repeat(*times));
                line.encoding = base64.then(|| "base64".to_owned());
                batch.push(&encode(line, room).0, None);
            }
            let longest = format!("s={0};i=ffffffffff;b={0};m=ffffffffffff;t=ffffffffffffff;x=ffffffffffffffff", "f".repeat(32));
            let longest = Cursor::parse(&longest).unwrap();
            let mut lines = 0;
            for data in encode_all(batch.take(), unit.as_deref(), u64::MAX, Some(&longest), None) {
                let document: Value = serde_json::from_slice(&data).unwrap();
                lines += document["recorder"].as_array().unwrap().len();
                let time = Timestamp { wall_ms: 1, mono_ms: 1, quality: ClockQuality::Unsynced };
                let record = Record { topic: "log".into(), time, encoding: Encoding::Json, data };
                let size = Sequenced { seq: u64::MAX, record }.payload("log").len();
                prop_assert!(size <= max_payload, "{} > {}", size, max_payload);
            }
            prop_assert_eq!(lines, messages.len());
        }
    }
}
