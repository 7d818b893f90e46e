//! Cuts journalctl's output into lines of bounded size, and what is too long in a line down to its beginning.
//!
//! Pure. Each line is one JSON object; a single value in it may have many megabytes, for a journal takes what it is given. Such
//! a value is closed where it gets too long, so that the line that comes out is a smaller object with the same members.
//! Nothing is validated here: of what is no JSON comes something that is none either.

/// Bytes of a value that are kept, in JSON. A message that is no printable text comes as a list of numbers, four bytes for
/// each.
const VALUE: usize = 32 * 1024;
/// Bytes of a line from which on values are kept short: the members that matter are.
const CROWDED: usize = 96 * 1024;
/// Bytes of a value that are kept then.
const SHORT: usize = 256;
/// Bytes of a line from which on it is given up. A journal takes 1024 members for a line.
pub const LINE: usize = 512 * 1024;
/// Lists in lists, at the most; journalctl has two.
const DEPTH: usize = 8;

/// A line, with what was cut.
#[derive(Debug, PartialEq, Eq)]
pub struct Bounded<'a> {
    /// One JSON object, if journalctl wrote one.
    pub json: &'a [u8],
    /// Some value has lost its end.
    pub cut: bool,
}

/// What is known of the byte that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// It is outside of any string.
    Outside,
    /// It is in a string.
    Inside,
    /// A backslash stands before it.
    Escaped,
    /// So many digits of `\uXXXX` are missing.
    Digits(u8),
}

/// Lines of a stream that comes in chunks.
#[derive(Debug)]
pub struct Lines {
    line: Vec<u8>,
    text: Text,
    /// What closes the objects and lists that are open.
    open: Vec<u8>,
    /// Where the value of the present member begins in `line`.
    value: Option<usize>,
    /// The end of the present value is passed over.
    skips: bool,
    cut: bool,
    /// It is no object, or too long: all of it is passed over.
    given_up: bool,
    /// The line was handed out; the next call begins a new one.
    done: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Lines {
            line: Vec::new(),
            text: Text::Outside,
            open: Vec::new(),
            value: None,
            skips: false,
            cut: false,
            given_up: false,
            done: false,
        }
    }
}

impl Lines {
    /// The next whole line; what was used is removed from the front of `chunk`. `None`: it is used up. An error is a line
    /// that had to be given up.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Option<Result<Bounded<'_>, GivenUp>> {
        if std::mem::take(&mut self.done) {
            // A single huge line must not keep its memory.
            self.line.shrink_to(CROWDED);
            *self = Lines { line: std::mem::take(&mut self.line), ..Lines::default() };
            self.line.clear();
        }
        while let Some((&byte, rest)) = chunk.split_first() {
            *chunk = rest;
            if byte == b'\n' {
                self.done = true;
                return Some(match self.given_up {
                    true => Err(GivenUp),
                    false => Ok(Bounded { json: &self.line, cut: self.cut }),
                });
            }
            if !self.given_up {
                self.take(byte);
            }
        }
        None
    }

    fn take(&mut self, byte: u8) {
        if self.value.is_some() && !self.skips && self.may_end_before(byte) {
            self.end_value();
        }
        let before = self.open.len();
        self.step(byte);
        // The value ends with this byte, or before it: a comma or brace of the object itself.
        let leaves_value = self.value.is_some() && self.text == Text::Outside && self.open.len() <= 1 && {
            matches!(byte, b',' | b'}') && before <= 1
        };
        if leaves_value {
            self.value = None;
            self.skips = false;
        }
        if !self.skips {
            self.line.push(byte);
        }
        if self.value.is_none() && byte == b':' && self.text == Text::Outside && self.open.len() == 1 {
            self.value = Some(self.line.len());
        }
        self.given_up = self.line.len() > LINE || self.open.len() > DEPTH;
    }

    /// Whether the value is long enough, and may be closed before this byte.
    fn may_end_before(&self, byte: u8) -> bool {
        let limit = if self.line.len() > CROWDED { SHORT } else { VALUE };
        let length = self.line.len().saturating_sub(self.value.unwrap_or_default());
        length >= limit
            && match self.text {
                // Not within a character of UTF-8, whose other bytes begin with the bits 10.
                Text::Inside => byte & 0xc0 != 0x80 && byte != b'"',
                Text::Outside => byte == b',' && self.open.len() > 1,
                Text::Escaped | Text::Digits(_) => false,
            }
    }

    fn end_value(&mut self) {
        if self.text == Text::Inside {
            self.line.push(b'"');
        }
        self.line.extend(self.open.iter().skip(1).rev());
        (self.skips, self.cut) = (true, true);
    }

    fn step(&mut self, byte: u8) {
        self.text = match (self.text, byte) {
            (Text::Outside, b'"') => Text::Inside,
            (Text::Outside, b'{' | b'[') => {
                self.open.push(if byte == b'{' { b'}' } else { b']' });
                Text::Outside
            }
            (Text::Outside, b'}' | b']') => {
                self.open.pop();
                Text::Outside
            }
            (Text::Outside, _) => Text::Outside,
            (Text::Inside, b'"') => Text::Outside,
            (Text::Inside, b'\\') => Text::Escaped,
            (Text::Inside, _) => Text::Inside,
            (Text::Escaped, b'u') => Text::Digits(4),
            (Text::Escaped, _) => Text::Inside,
            (Text::Digits(missing), _) => {
                if missing > 1 {
                    Text::Digits(missing - 1)
                } else {
                    Text::Inside
                }
            }
        };
    }
}

/// The line is no object of journalctl's, or larger than anything that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {LINE} bytes")]
pub struct GivenUp;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    type Line = Result<(Vec<u8>, bool), GivenUp>;

    fn lines(bytes: &[u8], chunk: usize) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for mut chunk in bytes.chunks(chunk) {
            while let Some(line) = lines.next(&mut chunk) {
                out.push(line.map(|line| (line.json.to_vec(), line.cut)));
            }
        }
        out
    }

    fn one(document: &Value) -> (Value, bool) {
        let text = format!("{document}\n");
        let found = lines(text.as_bytes(), 1000);
        let [Ok((line, cut))] = found.as_slice() else { panic!("{found:?}") };
        (serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}")), *cut)
    }

    #[test]
    fn a_huge_value_never_costs_the_others_nor_memory() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
        for huge in
            [json!("x".repeat(3_000_000)), json!("\u{1b}ü\\".repeat(500_000)), json!(bytes), json!([[1], bytes, "b"])]
        {
            let (line, cut) = one(&json!({ "A": 1, "MESSAGE": huge, "__CURSOR": "s=1", "z": ["a", [1]] }));
            assert!(cut);
            assert_eq!((&line["A"], &line["__CURSOR"], &line["z"]), (&json!(1), &json!("s=1"), &json!(["a", [1]])));
            assert!(line["MESSAGE"].to_string().len() <= VALUE + 16, "{}", line["MESSAGE"].to_string().len());
            assert!(line["MESSAGE"].to_string().len() >= VALUE - 16 || line["MESSAGE"][1].is_array());
        }
    }

    #[test]
    fn a_thousand_long_members_never_cost_the_last_one() {
        let mut members: serde_json::Map<String, Value> =
            (0..1024).map(|number| (format!("F{number}"), json!("y".repeat(40_000)))).collect();
        members.insert("__CURSOR".into(), json!("s=1"));
        let (line, cut) = one(&Value::Object(members));
        assert_eq!((line["__CURSOR"].as_str(), line.as_object().unwrap().len(), cut), (Some("s=1"), 1025, true));
    }

    #[test]
    fn a_line_that_never_ends_is_given_up_and_the_next_one_is_not() {
        let mut bytes = b"{\"a\":".repeat(2_000_000);
        bytes.extend_from_slice(b"\n{\"a\":1}\n");
        assert_eq!(lines(&bytes, 4096), [Err(GivenUp), Ok((b"{\"a\":1}".to_vec(), false))]);
        let mut bytes = vec![b'['; 100];
        bytes.extend_from_slice(b"\n\n");
        assert_eq!(lines(&bytes, 7), [Err(GivenUp), Ok((Vec::new(), false))]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_short_never_changes(line in "[^\n]{0,300}", chunk in 1..50usize) {
            let found = lines(format!("{line}\n").as_bytes(), chunk);
            let nested = line.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count() > DEPTH;
            prop_assert!(nested || found == [Ok((line.into_bytes(), false))]);
        }

        #[test]
        fn no_input_ever_panics_and_chunks_never_show(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["{", "}", "[", "]", "\"", ",", ":", "\\", "\\u00e4", "a", "12", "\n", "\u{e4}", "xxxxxxxx"]), 0..60),
            repeat in prop::sample::select(vec![1usize, 7, 2_000]),
            chunk in 1..5_000usize,
        ) {
            let bytes = pieces.concat().repeat(repeat).into_bytes();
            let whole = lines(&bytes, bytes.len().max(1));
            prop_assert_eq!(&whole, &lines(&bytes, chunk));
            prop_assert!(whole.iter().flatten().all(|(line, _)| line.len() <= LINE + DEPTH + 2));
        }

        #[test]
        fn a_cut_object_is_always_an_object_with_the_same_members(
            members in prop::collection::btree_map("[A-Z]{1,6}", (0..4u8, 0..40_000usize), 1..8),
        ) {
            let value = |(kind, length): &(u8, usize)| match kind {
                0 => json!("\"\\\u{1f}ü€".repeat(length / 5)),
                1 => json!(vec![200; *length]),
                2 => json!(vec!["ab\"c"; length / 4]),
                _ => json!([vec![7; length / 2], vec![0; length / 2]]),
            };
            let document: serde_json::Map<String, Value> =
                members.iter().map(|(key, spec)| (key.clone(), value(spec))).collect();
            let (line, cut) = one(&Value::Object(document.clone()));
            let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            prop_assert_eq!(names(line.as_object().unwrap()), names(&document));
            prop_assert_eq!(!cut, line == Value::Object(document));
        }
    }
}
