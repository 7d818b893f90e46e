//! The last bytes that a port has sent and received, with the time of each: for finding out what happened on the bus.
//!
//! Constraints: fixed memory, whatever passes; nothing is allocated for a byte. Old bytes make room for new ones.

use crate::record::Timestamp;
use crate::stats::{Direction, TraceEntry};
use std::collections::VecDeque;

/// Bytes that are kept in all.
const BYTES: usize = 4096;
/// Reads and writes that are kept.
const ENTRIES: usize = 256;

/// The ring.
#[derive(Debug, Default)]
pub struct Trace {
    entries: VecDeque<Entry>,
    bytes: VecDeque<u8>,
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    direction: Direction,
    /// How many of the ring's bytes are its own.
    kept: usize,
    /// How many there were.
    count: usize,
}

impl Trace {
    /// Notes what was read or written at once. Of more than the ring holds the end is kept.
    pub fn note(&mut self, at: Timestamp, direction: Direction, bytes: &[u8]) {
        let tail = bytes.get(bytes.len().saturating_sub(BYTES)..).unwrap_or_default();
        if tail.is_empty() {
            return;
        }
        while self.entries.len() >= ENTRIES || self.bytes.len() + tail.len() > BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes.drain(..oldest.kept.min(self.bytes.len()));
        }
        self.bytes.extend(tail);
        self.entries.push_back(Entry { at, direction, kept: tail.len(), count: bytes.len() });
    }

    /// A copy, the oldest first.
    pub fn entries(&self) -> Vec<TraceEntry> {
        let mut rest = self.bytes.iter();
        let copy = |entry: &Entry| TraceEntry {
            at_ms: entry.at.wall_ms,
            direction: entry.direction,
            count: u64::try_from(entry.count).unwrap_or(u64::MAX),
            hex: rest.by_ref().take(entry.kept).map(|byte| format!("{byte:02x}")).collect(),
        };
        self.entries.iter().map(copy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClockQuality;
    use proptest::prelude::*;

    fn at(wall_ms: u64) -> Timestamp {
        Timestamp { wall_ms, mono_ms: 0, quality: ClockQuality::Trusted }
    }

    #[test]
    fn what_was_sent_is_never_shown_as_received() {
        let mut trace = Trace::default();
        trace.note(at(1), Direction::Sent, b"\x01\x03");
        trace.note(at(2), Direction::Received, b"\xffab");
        trace.note(at(3), Direction::Received, b"");
        let shown: Vec<_> =
            trace.entries().into_iter().map(|entry| (entry.at_ms, entry.direction, entry.hex)).collect();
        assert_eq!(shown, [(1, Direction::Sent, "0103".into()), (2, Direction::Received, "ff6162".into())]);
    }

    proptest! {
        #[test]
        fn it_never_grows_nor_shows_what_was_not_there(sizes in proptest::collection::vec(0..6000usize, 1..400)) {
            let mut trace = Trace::default();
            for (&size, number) in sizes.iter().zip(0u8..=255) {
                trace.note(at(u64::from(number)), Direction::Sent, &vec![number; size]);
                prop_assert!(trace.bytes.len() <= BYTES && trace.entries.len() <= ENTRIES);
            }
            for entry in trace.entries() {
                prop_assert!(!entry.hex.is_empty());
                prop_assert_eq!(entry.hex.len(), 2 * usize::try_from(entry.count).unwrap().min(BYTES));
                let byte = format!("{:02x}", entry.at_ms);
                prop_assert!(entry.hex.as_bytes().chunks(2).all(|pair| pair == byte.as_bytes()));
            }
            let last = sizes.iter().take(256).rposition(|&size| size > 0);
            prop_assert_eq!(trace.entries().last().map(|entry| entry.at_ms), last.map(|last| last as u64));
        }
    }
}
