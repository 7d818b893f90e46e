//! Lines on their way into records: many in one, and none larger than a message may be.
//!
//! Pure. Form of a record's data on `P/log`:
//!
//! ```text
//! {"unit":…,"batch":n,"lines":[line, …],"cursor":…}        lines that are shipped
//! {"unit":…,"batch":n,"recorder":[line, …],"cursor":…}     less severe ones from the flight recorder, after an error
//! ```
//!
//! `unit` is missing where no unit is configured. `batch` and `cursor` are ours: see [`position`](super::position).

use super::position::Position;
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
    /// Of each record, its lines as JSON with commas between them.
    parts: Vec<String>,
    lines: usize,
}

impl Batch {
    /// For records with so many bytes of lines.
    pub fn new(room: usize) -> Self {
        Batch { room, parts: Vec::new(), lines: 0 }
    }

    /// Adds an encoded line of at most `room` bytes.
    pub fn push(&mut self, json: &str) {
        self.lines += 1;
        match self.parts.last_mut() {
            Some(part) if part.len() + 1 + json.len() <= self.room => {
                part.push(',');
                part.push_str(json);
            }
            _ => self.parts.push(json.to_owned()),
        }
    }

    /// Whether it is time: there is more than a record takes, or nearly that.
    pub fn is_full(&self) -> bool {
        self.lines >= LINES
            || self.parts.len() > 1
            || self.parts.first().is_some_and(|part| part.len() * 8 >= self.room * 7)
    }

    /// The data of its records, and an empty batch.
    pub fn take(&mut self, kind: &str, unit: Option<&str>, position: &Numbered<'_>) -> Vec<Vec<u8>> {
        self.lines = 0;
        std::mem::take(&mut self.parts).into_iter().map(|lines| data(kind, unit, position, &lines)).collect()
    }
}

/// What a record says of its place.
#[derive(Debug, Clone, Copy)]
pub struct Numbered<'a> {
    /// The number of the batch.
    pub batch: u64,
    /// Up to where the journal has been read.
    pub position: Option<&'a Position>,
}

fn data(kind: &str, unit: Option<&str>, place: &Numbered<'_>, lines: &str) -> Vec<u8> {
    let mut data = String::with_capacity(lines.len() + FRAME);
    data.push('{');
    if let Some(unit) = unit {
        data += &format!("\"unit\":{},", serde_json::Value::from(unit));
    }
    data += &format!("\"batch\":{},\"{kind}\":[{lines}]", place.batch);
    if let Some(position) = place.position {
        data += &format!(",\"cursor\":\"{}\"", position.cursor.as_str());
    }
    data.push('}');
    data.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::journal::Cursor;
    use crate::record::{ClockQuality, Encoding, Record, Sequenced, Timestamp};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn line(message: &str) -> LogLine {
        LogLine::plain("2026-11-25T10:10:41.274021Z".to_owned(), 6, message.to_owned())
    }

    fn position() -> Position {
        let cursor =
            format!("s={0};i=ffffffffff;b={0};m=ffffffffffff;t=ffffffffffffff;x=ffffffffffffffff", "f".repeat(32));
        Position { batch: 7, cursor: Cursor::parse(&cursor).unwrap(), read: true }
    }

    #[test]
    fn a_record_never_changes_its_form() {
        let mut batch = Batch::new(1000);
        batch.push(&encode(line("a"), 1000).0);
        batch.push(&encode(line("b"), 1000).0);
        let position = position();
        let place = Numbered { batch: 8, position: Some(&position) };
        let records = batch.take("lines", Some("gw.service"), &place);
        let expected = json!({ "unit": "gw.service", "batch": 8, "cursor": position.cursor.as_str(), "lines": [
            { "ts": "2026-11-25T10:10:41.274021Z", "priority": 6, "message": "a" },
            { "ts": "2026-11-25T10:10:41.274021Z", "priority": 6, "message": "b" },
        ]});
        assert_eq!(
            records.iter().map(|data| serde_json::from_slice(data).unwrap()).collect::<Vec<Value>>(),
            [expected]
        );
        assert!(!batch.is_full());
        batch.push("1");
        let records = batch.take("recorder", None, &Numbered { batch: 9, position: None });
        assert_eq!(records, [b"{\"batch\":9,\"recorder\":[1]}"]);
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
            let mut batch = Batch::new(room);
            for (message, times) in &messages {
                let mut line = line(&message.repeat(*times));
                line.encoding = base64.then(|| "base64".to_owned());
                batch.push(&encode(line, room).0);
            }
            let position = position();
            let place = Numbered { batch: u64::MAX, position: Some(&position) };
            let mut lines = 0;
            for data in batch.take("recorder", unit.as_deref(), &place) {
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
