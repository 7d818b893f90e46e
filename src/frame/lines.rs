//! Lines: frames that end in a line feed.
//!
//! LF ends a line, and one CR directly before it belongs to the end, so LF and CR LF may be mixed. A CR anywhere else
//! is data; a device that ends its lines with CR alone never completes one here. Every other byte, NUL and what is no
//! UTF-8 included, passes through as it is.
//!
//! A line may have `max` bytes without its end. A longer one is skipped up to its LF and counted once. An empty line is
//! skipped and counted.
//!
//! Where the first byte after opening a port falls can't be known: in the middle of a line, its rest is given out as a
//! line of its own. A consumer that minds needs a checksum in its lines.

use super::Counters;
use crate::config::MAX_FRAME;
use heapless::Vec;

/// The longest line and a CR that may turn out to belong to its end.
const CAPACITY: usize = MAX_FRAME + 1;

/// Decoder of lines; the module's head has the rules.
#[derive(Debug)]
pub struct Lines {
    max: usize,
    state: State,
    line: Vec<u8, CAPACITY>,
    counters: Counters,
}

/// What the bytes that come next are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Part of the line in the buffer, or the first of a new one if that is empty.
    Collecting,
    /// The first of a new line; the one in the buffer has been given out.
    Complete,
    /// Part of an oversize line, which is counted and gone already.
    Skipping,
}

impl Lines {
    /// For lines of at most `max` bytes; more than `MAX_FRAME` counts as `MAX_FRAME`.
    pub fn new(max: usize) -> Self {
        let max = max.min(MAX_FRAME);
        Lines { max, state: State::Collecting, line: Vec::new(), counters: Counters::default() }
    }

    /// The next whole line without its end. Takes from the front of `chunk` what it has looked at; `None` means that
    /// all of the chunk is taken and more bytes are needed.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        loop {
            let mut halves = chunk.splitn(2, |byte| *byte == b'\n');
            self.collect(halves.next().unwrap_or_default());
            let Some(rest) = halves.next() else {
                *chunk = &[];
                return None;
            };
            *chunk = rest;
            self.end();
            if self.state == State::Complete {
                return Some(&self.line);
            }
        }
    }

    /// The device vanished: a line that has begun is dropped and counted as incomplete, unless it is counted as
    /// oversize already. The next byte begins a new line.
    pub fn cut_off(&mut self) {
        if self.state == State::Collecting && !self.line.is_empty() {
            self.counters.incomplete += 1;
        }
        self.begin();
    }

    /// What was seen so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A new line begins.
    fn begin(&mut self) {
        self.line.clear();
        self.state = State::Collecting;
    }

    /// Takes bytes without a LF in them.
    fn collect(&mut self, part: &[u8]) {
        if self.state == State::Complete {
            self.begin();
        }
        // One byte over `max` may still be a CR; two are too many whatever comes.
        let too_long = self.line.len() + part.len() > self.max + 1;
        if self.state == State::Collecting && (too_long || self.line.extend_from_slice(part).is_err()) {
            self.counters.oversize += 1;
            self.state = State::Skipping;
        }
    }

    /// A LF has arrived: leaves `Complete` if the buffer holds a line to give out, else begins a new one.
    fn end(&mut self) {
        if self.state == State::Skipping {
            return self.begin();
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        match self.line.len() {
            0 => self.counters.empty += 1,
            length if length > self.max => self.counters.oversize += 1,
            _ => {
                self.counters.frames += 1;
                self.state = State::Complete;
                return;
            }
        }
        self.begin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(lines: &mut Lines, mut chunk: &[u8]) -> std::vec::Vec<std::vec::Vec<u8>> {
        let mut out = std::vec::Vec::new();
        while let Some(line) = lines.next(&mut chunk) {
            out.push(line.to_vec());
        }
        assert!(chunk.is_empty(), "all of the chunk is taken");
        out
    }

    #[test]
    fn line_ends_never_stay_in_the_line() {
        let mut lines = Lines::new(16);
        assert_eq!(feed(&mut lines, b"a\nb\r\nc\rd\ne\r\r\n"), [&b"a"[..], b"b", b"c\rd", b"e\r"]);
        assert_eq!(lines.counters(), Counters { frames: 4, ..Counters::default() });
    }

    #[test]
    fn a_line_of_exactly_max_bytes_is_never_oversize() {
        let mut lines = Lines::new(3);
        assert_eq!(feed(&mut lines, b"abc\nabc\r\nabcd\nabcd\r\nabc\rd\nxyz\n"), [b"abc", b"abc", b"xyz"]);
        assert_eq!(lines.counters(), Counters { frames: 3, oversize: 3, ..Counters::default() });
    }

    #[test]
    fn the_longest_frame_never_overruns_the_buffer() {
        let mut lines = Lines::new(usize::MAX);
        let mut wire = vec![b'x'; MAX_FRAME];
        wire.extend_from_slice(b"\r\n");
        assert_eq!(feed(&mut lines, &wire), [vec![b'x'; MAX_FRAME]]);
        wire.insert(0, b'x');
        assert!(feed(&mut lines, &wire).is_empty());
        assert_eq!(lines.counters(), Counters { frames: 1, oversize: 1, ..Counters::default() });
    }

    #[test]
    fn an_oversize_line_is_never_counted_twice() {
        let mut lines = Lines::new(3);
        for _ in 0..100 {
            assert!(feed(&mut lines, b"0123456789").is_empty());
        }
        assert_eq!(feed(&mut lines, b"\nok\n"), [b"ok"]);
        assert_eq!(lines.counters(), Counters { frames: 1, oversize: 1, ..Counters::default() });
    }

    #[test]
    fn strange_bytes_never_change() {
        let mut lines = Lines::new(16);
        assert_eq!(feed(&mut lines, b"a\0b\n\xff\xfe\n\0\n\x1b[0m\n"), [&b"a\0b"[..], b"\xff\xfe", b"\0", b"\x1b[0m"]);
    }

    #[test]
    fn empty_lines_are_never_records() {
        let mut lines = Lines::new(16);
        assert!(feed(&mut lines, b"\n\r\n\n").is_empty());
        assert_eq!(lines.counters(), Counters { empty: 3, ..Counters::default() });
    }

    #[test]
    fn a_cut_off_line_never_runs_into_the_next_one() {
        let mut lines = Lines::new(4);
        assert!(feed(&mut lines, b"hal").is_empty());
        lines.cut_off();
        lines.cut_off();
        assert_eq!(feed(&mut lines, b"one\n"), [b"one"]);
        lines.cut_off();
        assert_eq!(lines.counters(), Counters { frames: 1, incomplete: 1, ..Counters::default() });

        assert!(feed(&mut lines, b"much too long").is_empty());
        lines.cut_off();
        assert_eq!(feed(&mut lines, b"two\n"), [b"two"], "skipping has ended");
        assert_eq!(lines.counters(), Counters { frames: 2, oversize: 1, incomplete: 1, empty: 0 });
    }

    /// The rules once more, the plain way: over all bytes at once, with no buffer.
    fn model(wire: &[u8], max: usize) -> (std::vec::Vec<std::vec::Vec<u8>>, Counters) {
        let mut counters = Counters::default();
        let mut out = std::vec::Vec::new();
        let mut parts: std::vec::Vec<&[u8]> = wire.split(|byte| *byte == b'\n').collect();
        let partial = parts.pop().unwrap();
        for part in parts {
            let line = part.strip_suffix(b"\r").unwrap_or(part);
            match line.len() {
                0 => counters.empty += 1,
                length if length > max => counters.oversize += 1,
                _ => out.push(line.to_vec()),
            }
        }
        counters.frames = out.len() as u64;
        match partial.len() {
            0 => {}
            length if length > max + 1 => counters.oversize += 1,
            _ => counters.incomplete += 1,
        }
        (out, counters)
    }

    proptest! {
        #[test]
        fn chunking_never_changes_what_comes_out(
            chunks in prop::collection::vec(prop::collection::vec(
                prop_oneof![2 => Just(b'\n'), 1 => Just(b'\r'), 6 => any::<u8>()], 0..20), 0..40),
            max in 1_usize..12,
        ) {
            let mut lines = Lines::new(max);
            let out: std::vec::Vec<_> = chunks.iter().flat_map(|chunk| feed(&mut lines, chunk)).collect();
            lines.cut_off();
            prop_assert!(out.iter().all(|line| (1..=max).contains(&line.len())));
            prop_assert_eq!((out, lines.counters()), model(&chunks.concat(), max));
        }
    }
}
