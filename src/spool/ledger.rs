//! The ledger of a stream: which sequence numbers are done with, which wait, and what became of the others. Pure.
//!
//! ```text
//! 1 ──────── done ──────────────────────────────── next
//!  delivered,      waiting, but for the holes:      not given yet
//!  evicted, …      numbers already counted as lost,
//!                  or never given (skipped after a crash)
//! ```
//!
//! Invariant: `accepted = delivered + waiting + evicted + expired + quarantined`. It holds by construction: `accepted` is
//! that sum, and every change moves a record from `waiting` to exactly one of the others.

use super::checkpoint::Checkpoint;
use crate::stats::StreamStatus;

/// What became of records that don't wait any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The broker acknowledged them.
    Delivered,
    /// Dropped because the stream was full.
    Evicted,
    /// Dropped because of their age.
    Expired,
    /// Damaged, or not to be taken by the broker.
    Quarantined,
}

/// The ledger of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    done: u64,
    next: u64,
    /// Inclusive ranges above `done`, ascending, apart from each other.
    holes: Vec<(u64, u64)>,
    delivered: u64,
    evicted: u64,
    expired: u64,
    quarantined: u64,
    refused: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::from_checkpoint(&Checkpoint { next: 1, ..Checkpoint::default() })
    }
}

impl Ledger {
    /// As the checkpoint had it.
    pub fn from_checkpoint(saved: &Checkpoint) -> Self {
        let mut ledger = Ledger {
            done: saved.done,
            next: saved.next.max(saved.done.saturating_add(1)),
            holes: Vec::new(),
            delivered: saved.delivered,
            evicted: saved.evicted,
            expired: saved.expired,
            quarantined: saved.quarantined,
            refused: saved.refused,
        };
        for &(first, last) in &saved.holes {
            ledger.dig(first, last);
        }
        ledger
    }

    /// To be saved, with `next` moved ahead by `lease` numbers; without a lease it is the last word of a run.
    pub fn to_checkpoint(&self, lease: u64) -> Checkpoint {
        Checkpoint {
            done: self.done,
            next: self.next.saturating_add(lease),
            clean: lease == 0,
            delivered: self.delivered,
            evicted: self.evicted,
            expired: self.expired,
            quarantined: self.quarantined,
            refused: self.refused,
            holes: self.holes.clone(),
        }
    }

    /// Grows with every change but the acceptance of records: see [`super::runtime::Progress`].
    pub fn progress(&self) -> (u64, u64) {
        let settled = [self.delivered, self.evicted, self.expired, self.quarantined, self.refused];
        (self.done, settled.into_iter().fold(0, u64::saturating_add))
    }

    /// Every number up to this one is done with.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The number that the next record gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many records wait.
    pub fn waiting(&self) -> u64 {
        self.between(self.done.saturating_add(1), self.next.saturating_sub(1))
    }

    /// Gives numbers to `count` records and returns the first.
    pub fn accept(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next = self.next.saturating_add(count);
        first
    }

    /// Counts records that were never taken in.
    pub fn refuse(&mut self, count: u64) {
        self.refused = self.refused.saturating_add(count);
    }

    /// Skips all numbers below `next`: they are never given.
    pub fn skip_to(&mut self, next: u64) {
        if next > self.next {
            let first = self.next;
            self.next = next;
            self.dig(first, next - 1);
        }
    }

    /// All records up to `last` met this fate. Returns how many waited.
    pub fn settle(&mut self, last: u64, fate: Fate) -> u64 {
        let last = last.min(self.next.saturating_sub(1));
        if last <= self.done {
            return 0;
        }
        let count = self.between(self.done + 1, last);
        self.count(count, fate);
        self.done = last;
        self.close_up();
        count
    }

    /// The records from `first` to `last` met this fate while older ones still wait. Returns how many waited.
    pub fn settle_range(&mut self, first: u64, last: u64, fate: Fate) -> u64 {
        let first = first.max(self.done.saturating_add(1));
        let last = last.min(self.next.saturating_sub(1));
        let count = self.between(first, last);
        self.count(count, fate);
        self.dig(first, last);
        count
    }

    /// The first number from `seq` on that a waiting record may have.
    pub fn skip_holes(&self, seq: u64) -> u64 {
        let seq = seq.max(self.done.saturating_add(1));
        let hole = self.holes.iter().find(|(first, last)| (*first..=*last).contains(&seq));
        hole.map_or(seq, |(_, last)| last.saturating_add(1))
    }

    /// The counters, without what only the disk knows.
    pub fn status(&self) -> StreamStatus {
        let waiting = self.waiting();
        let parts = [self.delivered, waiting, self.evicted, self.expired, self.quarantined];
        StreamStatus {
            accepted: parts.into_iter().fold(0, u64::saturating_add),
            delivered: self.delivered,
            waiting,
            evicted: self.evicted,
            expired: self.expired,
            quarantined: self.quarantined,
            refused: self.refused,
            ..StreamStatus::default()
        }
    }

    fn count(&mut self, count: u64, fate: Fate) {
        let counter = match fate {
            Fate::Delivered => &mut self.delivered,
            Fate::Evicted => &mut self.evicted,
            Fate::Expired => &mut self.expired,
            Fate::Quarantined => &mut self.quarantined,
        };
        *counter = counter.saturating_add(count);
    }

    /// Numbers from `first` to `last` that lie in no hole.
    fn between(&self, first: u64, last: u64) -> u64 {
        if last < first {
            return 0;
        }
        let overlap = |&(from, to): &(u64, u64)| {
            let (from, to) = (from.max(first), to.min(last));
            if to < from { 0 } else { to - from + 1 }
        };
        (last - first + 1).saturating_sub(self.holes.iter().map(overlap).sum())
    }

    /// Makes a hole, merged with those that it touches.
    fn dig(&mut self, first: u64, last: u64) {
        if last < first || last <= self.done {
            return;
        }
        let (mut first, mut last) = (first, last);
        self.holes.retain(|&(from, to)| {
            let apart = to.saturating_add(1) < first || last.saturating_add(1) < from;
            if !apart {
                first = first.min(from);
                last = last.max(to);
            }
            apart
        });
        let place = self.holes.partition_point(|&(from, _)| from < first);
        self.holes.insert(place, (first, last));
        self.close_up();
    }

    /// Moves `done` over the holes that it has reached and forgets those below it.
    fn close_up(&mut self) {
        while let Some(&(first, last)) = self.holes.first() {
            if first > self.done.saturating_add(1) {
                break;
            }
            self.done = self.done.max(last);
            self.holes.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_number_never_waits_twice() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.accept(10), 1);
        assert_eq!(ledger.settle_range(4, 6, Fate::Quarantined), 3);
        assert_eq!(ledger.settle_range(5, 7, Fate::Quarantined), 1, "5 and 6 are counted already");
        assert_eq!(ledger.skip_holes(4), 8);
        assert_eq!(ledger.settle(3, Fate::Delivered), 3);
        assert_eq!(ledger.done(), 7, "the hole is passed over");
        assert_eq!(ledger.settle(3, Fate::Delivered), 0, "late acknowledgement");
        assert_eq!(ledger.settle(u64::MAX, Fate::Delivered), 3, "of nothing that was not given");
        assert_eq!((ledger.waiting(), ledger.next()), (0, 11));
    }

    #[test]
    fn skipped_numbers_never_count() {
        let mut ledger = Ledger::default();
        ledger.accept(2);
        ledger.skip_to(1000);
        assert_eq!((ledger.accept(1), ledger.waiting()), (1000, 3));
        assert_eq!(ledger.settle(1000, Fate::Delivered), 3);
        assert!(ledger.status().balances() && ledger.status().accepted == 3);
    }

    #[test]
    fn a_checkpoint_of_impossible_counts_never_stops_the_spool() {
        let most = Checkpoint { delivered: u64::MAX, evicted: 2, next: 5, done: 1, ..Checkpoint::default() };
        let status = Ledger::from_checkpoint(&most).status();
        assert_eq!((status.accepted, status.waiting), (u64::MAX, 3));
        assert!(status.balances());
    }

    proptest! {
        /// Against the plain model: a set of the numbers that wait.
        #[test]
        fn the_ledger_never_loses_balance(steps in proptest::collection::vec((0..5u8, 1..40u64, 0..10u64), 1..60)) {
            let mut ledger = Ledger::default();
            let mut waits = BTreeSet::new();
            let mut accepted = 0;
            for (what, a, b) in steps {
                match what {
                    0 => { let first = ledger.accept(b); waits.extend(first..first + b); accepted += b; }
                    1 => { ledger.settle(a, Fate::Delivered); waits.retain(|&seq| seq > a); }
                    2 => { ledger.settle_range(a, a + b, Fate::Quarantined); waits.retain(|&seq| !(a..=a + b).contains(&seq)); }
                    3 => ledger.skip_to(a),
                    _ => ledger = Ledger::from_checkpoint(&ledger.to_checkpoint(0)),
                }
                prop_assert_eq!(ledger.waiting(), waits.len() as u64);
                prop_assert_eq!(ledger.status().accepted, accepted);
                prop_assert!(waits.iter().all(|&seq| seq > ledger.done() && ledger.skip_holes(seq) == seq));
            }
        }
    }
}
