//! The flight recorder: the last lines of all levels, in a fixed amount of memory.
//!
//! Pure. A line is kept as the JSON that goes out, so that what it costs is known to the byte. Whether it was shipped is
//! noted, for after an error only the others are.

use crate::logline::LogLine;
use std::collections::VecDeque;

/// What a kept line costs besides its JSON, in bytes: its place in the ring, and the allocator's.
const PLACE: usize = 48;

struct Kept {
    json: Box<str>,
    shipped: bool,
}

/// The ring.
pub struct Recorder {
    lines: VecDeque<Kept>,
    bytes: usize,
    limit: usize,
}

impl Recorder {
    /// One that takes `limit` bytes at the most.
    pub fn new(limit: usize) -> Self {
        Recorder { lines: VecDeque::new(), bytes: 0, limit }
    }

    /// Keeps a line, and lets go of the oldest ones for it.
    pub fn push(&mut self, json: &str, shipped: bool) {
        let cost = json.len() + PLACE;
        while self.bytes + cost > self.limit {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.json.len() + PLACE);
        }
        self.bytes += cost;
        self.lines.push_back(Kept { json: json.into(), shipped });
    }

    /// Takes `limit` bytes at the most from now on.
    pub fn resize(&mut self, limit: usize) {
        self.limit = limit;
        while self.bytes > self.limit {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.json.len() + PLACE);
        }
    }

    /// All of them, oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        // What was encoded here can be decoded.
        self.lines.iter().filter_map(|kept| serde_json::from_str(&kept.json).ok()).collect()
    }

    /// Those that were not shipped, oldest first, as JSON; they count as shipped from here on.
    pub fn ship(&mut self) -> Vec<&str> {
        let mut unshipped = Vec::new();
        for kept in self.lines.iter_mut().filter(|kept| !kept.shipped) {
            kept.shipped = true;
            unshipped.push(&*kept.json);
        }
        unshipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(message: &str) -> String {
        serde_json::to_string(&LogLine::plain("t".into(), 7, message.into())).unwrap()
    }

    fn messages(recorder: &Recorder) -> Vec<String> {
        recorder.lines().into_iter().map(|line| line.message).collect()
    }

    #[test]
    fn the_last_lines_are_never_lost_to_older_ones() {
        let one = json("00").len() + PLACE;
        let mut recorder = Recorder::new(20 * one + one / 2);
        (0..100).for_each(|number| recorder.push(&json(&format!("{number:02}")), false));
        let expected: Vec<String> = (80..100).map(|number| format!("{number:02}")).collect();
        assert_eq!(messages(&recorder), expected);
        recorder.push(&json(&"x".repeat(30 * one)), false);
        assert!(messages(&recorder).is_empty(), "a line larger than the recorder is no reason to grow");
        recorder.push(&json("after"), false);
        assert_eq!(messages(&recorder), ["after"]);
        let mut none = Recorder::new(0);
        none.push(&json("a"), false);
        assert!(none.lines().is_empty() && none.ship().is_empty());
    }

    #[test]
    fn a_line_is_never_shipped_twice() {
        let mut recorder = Recorder::new(10_000);
        recorder.push(&json("debug"), false);
        recorder.push(&json("info"), true);
        assert_eq!(recorder.ship(), [json("debug")]);
        assert!(recorder.ship().is_empty());
        recorder.push(&json("more"), false);
        assert_eq!(recorder.ship(), [json("more")]);
        assert_eq!(messages(&recorder), ["debug", "info", "more"], "they are still there for whoever asks");
    }

    proptest! {
        #[test]
        fn no_history_ever_costs_more_than_the_limit(
            limit in 0..5_000usize,
            smaller in 0..5_000usize,
            lengths in prop::collection::vec(0..2_000usize, 0..100),
        ) {
            let mut recorder = Recorder::new(limit);
            for (number, length) in lengths.into_iter().enumerate() {
                // A reload changes it on the way.
                let limit = if number < 50 { limit } else { smaller };
                recorder.resize(limit);
                recorder.push(&"x".repeat(length), false);
                let cost: usize = recorder.lines.iter().map(|kept| kept.json.len() + PLACE).sum();
                prop_assert_eq!(cost, recorder.bytes);
                prop_assert!(cost <= limit);
            }
        }
    }
}
