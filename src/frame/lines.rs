//! Lines: frames that end in a delimiter.
//!
//! The delimiter is 1 to 8 ASCII bytes. If it is LF, the default, one CR directly before it belongs to the end, so LF
//! and CR LF may be mixed; with any other delimiter CR is a byte like others. Every byte that is no delimiter, NUL and
//! what is no UTF-8 included, passes through as it is.
//!
//! A CRC stands as hexadecimal digits directly before the end of the line, for as bytes it could hold the delimiter.
//!
//! A line may have `max` bytes without its CRC and end. A longer one is skipped up to its delimiter and counted once.
//! An empty line is skipped and counted.
//!
//! Where the first byte after opening a port falls can't be known: in the middle of a line, its rest is given out as a
//! line of its own. A consumer that minds needs a CRC.

use super::check::{Check, Form, Verdict};
use super::delimited::{Delimited, Event};
use super::{Counters, EncodeError};
use crate::config::{Delimiter, Framing};

/// Decoder of lines; the module's head has the rules.
#[derive(Debug)]
pub struct Lines {
    check: Check,
    /// Whether a CR before the delimiter belongs to it.
    ends_in_line_feed: bool,
    bytes: Delimited,
    counters: Counters,
}

impl Lines {
    pub(super) fn new(framing: &Framing, delimiter: &Delimiter) -> Self {
        let check = Check::new(framing, Form::Digits);
        let ends_in_line_feed = delimiter.bytes() == b"\n";
        // One byte over the longest line may still be a CR; two are too many whatever comes.
        let bytes = Delimited::new(delimiter.clone(), check.room() + usize::from(ends_in_line_feed));
        Lines { check, ends_in_line_feed, bytes, counters: Counters::default() }
    }

    /// See [`super::Decoder::next`].
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        loop {
            let verdict = match self.bytes.next(chunk)? {
                Event::TooLong => Verdict::Oversize,
                Event::Ended => {
                    let line = self.bytes.frame();
                    if self.ends_in_line_feed && line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    self.check.judge(line)
                }
            };
            self.counters.note(verdict);
            if let Verdict::Whole(length) = verdict {
                return self.bytes.frame().get(..length);
            }
        }
    }

    pub(super) fn cut_off(&mut self) {
        self.counters.incomplete += u64::from(self.bytes.cut_off());
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }
}

/// See [`super::encode`].
pub(super) fn encode(
    framing: &Framing,
    delimiter: &Delimiter,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let delimiter = delimiter.bytes();
    let mut line = payload.to_vec();
    line.extend_from_slice(&Check::new(framing, Form::Digits).trailer(&[], payload));
    if delimiter == b"\n" && line.ends_with(b"\r") {
        return Err(EncodeError::CarriageReturn);
    }
    line.extend_from_slice(delimiter);
    // The line may also hold the delimiter together with the first bytes of its end.
    if line.windows(delimiter.len()).position(|bytes| bytes == delimiter) != Some(line.len() - delimiter.len()) {
        return Err(EncodeError::Delimiter);
    }
    out.extend_from_slice(&line);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_FRAME;
    use proptest::prelude::*;

    fn lines_of(max: usize) -> Lines {
        Lines::new(&Framing::lines(max), &Delimiter::line_feed())
    }

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
        let mut lines = lines_of(16);
        assert_eq!(feed(&mut lines, b"a\nb\r\nc\rd\ne\r\r\n"), [&b"a"[..], b"b", b"c\rd", b"e\r"]);
        assert_eq!(lines.counters(), Counters { frames: 4, ..Counters::default() });
    }

    #[test]
    fn a_line_of_exactly_max_bytes_is_never_oversize() {
        let mut lines = lines_of(3);
        assert_eq!(feed(&mut lines, b"abc\nabc\r\nabcd\nabcd\r\nabc\rd\nxyz\n"), [b"abc", b"abc", b"xyz"]);
        assert_eq!(lines.counters(), Counters { frames: 3, oversize: 3, ..Counters::default() });
    }

    #[test]
    fn the_longest_frame_never_overruns_the_buffer() {
        let mut lines = lines_of(MAX_FRAME);
        let mut wire = vec![b'x'; MAX_FRAME];
        wire.extend_from_slice(b"\r\n");
        assert_eq!(feed(&mut lines, &wire), [vec![b'x'; MAX_FRAME]]);
        wire.insert(0, b'x');
        assert!(feed(&mut lines, &wire).is_empty());
        assert_eq!(lines.counters(), Counters { frames: 1, oversize: 1, ..Counters::default() });
    }

    #[test]
    fn an_oversize_line_is_never_counted_twice() {
        let mut lines = lines_of(3);
        for _ in 0..100 {
            assert!(feed(&mut lines, b"0123456789").is_empty());
        }
        assert_eq!(feed(&mut lines, b"\nok\n"), [b"ok"]);
        assert_eq!(lines.counters(), Counters { frames: 1, oversize: 1, ..Counters::default() });
    }

    #[test]
    fn strange_bytes_never_change() {
        let mut lines = lines_of(16);
        assert_eq!(feed(&mut lines, b"a\0b\n\xff\xfe\n\0\n\x1b[0m\n"), [&b"a\0b"[..], b"\xff\xfe", b"\0", b"\x1b[0m"]);
    }

    #[test]
    fn empty_lines_are_never_records() {
        let mut lines = lines_of(16);
        assert!(feed(&mut lines, b"\n\r\n\n").is_empty());
        assert_eq!(lines.counters(), Counters { empty: 3, ..Counters::default() });
    }

    #[test]
    fn a_cut_off_line_never_runs_into_the_next_one() {
        let mut lines = lines_of(4);
        assert!(feed(&mut lines, b"hal").is_empty());
        lines.cut_off();
        lines.cut_off();
        assert_eq!(feed(&mut lines, b"one\n"), [b"one"]);
        lines.cut_off();
        assert_eq!(lines.counters(), Counters { frames: 1, incomplete: 1, ..Counters::default() });

        assert!(feed(&mut lines, b"much too long").is_empty());
        lines.cut_off();
        assert_eq!(feed(&mut lines, b"two\n"), [b"two"], "skipping has ended");
        assert_eq!(lines.counters(), Counters { frames: 2, oversize: 1, incomplete: 1, ..Counters::default() });
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
            let mut lines = lines_of(max);
            let out: std::vec::Vec<_> = chunks.iter().flat_map(|chunk| feed(&mut lines, chunk)).collect();
            lines.cut_off();
            prop_assert!(out.iter().all(|line| (1..=max).contains(&line.len())));
            prop_assert_eq!((out, lines.counters()), model(&chunks.concat(), max));
        }
    }
}
