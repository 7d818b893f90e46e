//! Lines of input into request bodies.
//!
//! Pure: bytes go in as they were read, batches come out as soon as all that was read is used up, so that a line never waits
//! for the next one. What a line becomes:
//!
//! ```text
//! empty                         nothing; counted
//! a JSON value                  itself            ┐ several together, as application/x-ndjson
//! other UTF-8 text without NUL  a JSON string     ┘
//! anything else                 itself, alone, as application/octet-stream
//! ```
//!
//! A line ends in LF or CR LF, the last one also at the end of the input.

use serde::de::IgnoredAny;
use std::borrow::Cow;

/// The longest line in bytes.
pub const MAX_LINE: usize = 1024 * 1024;
/// Records in a batch.
const MAX_RECORDS: usize = 500;
/// Bytes in a batch of several lines.
const MAX_BYTES: usize = 256 * 1024;

/// How a batch travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// One JSON value per line.
    #[default]
    Lines,
    /// One record of any bytes.
    Bytes,
}

impl Content {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Content::Lines => "application/x-ndjson",
            Content::Bytes => "application/octet-stream",
        }
    }
}

/// The body of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// How it travels.
    pub content: Content,
    /// The body.
    pub body: Vec<u8>,
    /// Records in it.
    pub records: usize,
    /// The first line of the input that is in it, from 1.
    pub first_line: u64,
    /// The last one.
    pub last_line: u64,
}

/// The input, on its way from bytes to batches.
#[derive(Debug, Default)]
pub struct Batcher {
    /// The beginning of a line whose end has not been read yet.
    partial: Vec<u8>,
    /// The line that is being read is this one less 1.
    lines: u64,
    /// Empty lines so far.
    pub empty: u64,
    /// The line that is longer than [`MAX_LINE`]: nothing from it on is taken in.
    pub too_long: Option<u64>,
    open: Batch,
    ready: Vec<Batch>,
}

impl Batcher {
    /// Takes in what was read and returns the batches for all complete lines.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Batch> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            // The line's end has two bytes at most and doesn't count.
            if self.partial.len() > MAX_LINE.saturating_add(2) {
                self.too_long.get_or_insert(self.lines.saturating_add(1));
            }
            if self.too_long.is_some() {
                self.partial = Vec::new();
                break;
            }
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
        self.flush()
    }

    /// The input has ended: a last line without an end is a line.
    pub fn finish(&mut self) -> Vec<Batch> {
        if !self.partial.is_empty() {
            self.end_line();
        }
        self.flush()
    }

    fn flush(&mut self) -> Vec<Batch> {
        self.close();
        std::mem::take(&mut self.ready)
    }

    fn close(&mut self) {
        if self.open.records > 0 {
            self.ready.push(std::mem::take(&mut self.open));
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.partial);
        self.lines = self.lines.saturating_add(1);
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            self.empty = self.empty.saturating_add(1);
        } else if let Some(json) = as_json(text) {
            self.add(Content::Lines, json.as_bytes());
        } else {
            self.add(Content::Bytes, text);
        }
        // Its memory serves for the next line.
        line.clear();
        self.partial = line;
    }

    fn add(&mut self, content: Content, record: &[u8]) {
        let size = self.open.body.len().saturating_add(record.len()).saturating_add(1);
        let joins = content == Content::Lines && self.open.content == Content::Lines;
        if !joins || self.open.records >= MAX_RECORDS || size > MAX_BYTES {
            self.close();
        }
        let batch = &mut self.open;
        if batch.records == 0 {
            (batch.content, batch.first_line) = (content, self.lines);
        }
        batch.body.extend_from_slice(record);
        if content == Content::Lines {
            batch.body.push(b'\n');
        }
        (batch.records, batch.last_line) = (batch.records.saturating_add(1), self.lines);
    }
}

/// The line as a JSON value, if it is text at all.
fn as_json(line: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(line).ok().filter(|text| !text.contains('\0'))?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Some(Cow::Borrowed(text)),
        Err(_) => Some(Cow::Owned(serde_json::Value::from(text).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(batches: Vec<Batch>) -> Vec<(Content, String)> {
        batches.into_iter().map(|batch| (batch.content, String::from_utf8_lossy(&batch.body).into_owned())).collect()
    }

    fn lines(body: &str) -> (Content, String) {
        (Content::Lines, body.to_owned())
    }

    #[test]
    fn a_line_never_becomes_something_else() {
        let mut batcher = Batcher::default();
        let batches = batcher.read(b"{\"a\": 1}\r\n\n22.5\n007\na \"b\"\\\n\r\n \n");
        assert_eq!(bodies(batches), [lines("{\"a\": 1}\n22.5\n\"007\"\n\"a \\\"b\\\"\\\\\"\n\" \"\n")]);
        assert_eq!(batcher.empty, 2);
    }

    #[test]
    fn bytes_that_are_no_text_never_change_or_overtake() {
        let batches = Batcher::default().read(b"1\n\"\xff\"\na\0b\n2\n");
        let places: Vec<_> = batches.iter().map(|batch| (batch.first_line, batch.last_line, batch.records)).collect();
        assert_eq!(places, [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)]);
        assert_eq!(batches[1].body, b"\"\xff\"");
        assert_eq!(bodies(batches)[2], (Content::Bytes, "a\0b".to_owned()));
    }

    #[test]
    fn a_line_never_waits_for_the_next() {
        let mut batcher = Batcher::default();
        assert_eq!(bodies(batcher.read(b"1\n2")), [lines("1\n")]);
        assert_eq!(bodies(batcher.read(b"3")), []);
        assert_eq!(bodies(batcher.read(b"\n")), [lines("23\n")]);
        assert_eq!(bodies(batcher.read(b"end\r")), []);
        assert_eq!(bodies(batcher.finish()), [lines("\"end\"\n")]);
        assert_eq!(bodies(batcher.finish()), []);
    }

    #[test]
    fn a_batch_never_outgrows_its_limits() {
        let batches = Batcher::default().read(&b"1\n".repeat(1234));
        assert_eq!(batches.iter().map(|batch| batch.records).collect::<Vec<_>>(), [500, 500, 234]);
        assert_eq!((batches[2].first_line, batches[2].last_line), (1001, 1234));
        let line = [b"x".repeat(100_000), b"\n".to_vec()].concat();
        let batches = Batcher::default().read(&line.repeat(5));
        assert_eq!(batches.iter().map(|batch| batch.records).collect::<Vec<_>>(), [2, 2, 1]);
    }

    #[test]
    fn an_endless_line_never_fills_the_memory() {
        let mut batcher = Batcher::default();
        let longest = [b"1\n".to_vec(), b"x".repeat(MAX_LINE), b"\r\n".to_vec()].concat();
        assert_eq!(batcher.read(&longest).iter().map(|batch| batch.records).sum::<usize>(), 2);
        assert_eq!(batcher.too_long, None);
        assert_eq!(bodies(batcher.read(b"3\n")), [lines("3\n")]);
        for _ in 0..20 {
            batcher.read(&b"x".repeat(MAX_LINE / 10));
        }
        assert_eq!(batcher.too_long, Some(4));
        assert_eq!(batcher.partial.capacity(), 0);
        assert_eq!(batcher.read(b"\n1\n"), []);
        assert_eq!(batcher.finish(), []);
    }
}
