//! What edges mean: levels that last, edges that were lost, and when it all happened. Pure: the caller brings the clock.
//!
//! The kernel debounces. Where a driver refuses that, it is done here: the kernel is asked for both edges, and a level counts
//! when it has lasted. A count of lost edges is then a count of raw ones.

use super::chip::{EdgeEvent, Role};
use crate::config::{self, Edge};
use crate::record::Timestamp;
use std::time::Duration;

/// An edge that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The level that it leads to.
    pub value: bool,
    /// When, in nanoseconds of CLOCK_MONOTONIC; 0 if nobody knows.
    pub at_ns: u64,
}

/// One input.
#[derive(Debug)]
pub struct Input {
    edge: Edge,
    debounce: Option<Duration>,
    /// Whether the kernel does the debouncing.
    by_kernel: bool,
    line_seqno: u32,
    /// The level that has lasted; of use only where we debounce.
    stable: bool,
    /// Another level, and since when.
    pending: Option<Change>,
}

impl Input {
    /// An input that the kernel is asked to debounce, if it is to be debounced.
    pub fn new(config: &config::Input) -> Self {
        let config::Input { edge, debounce, .. } = *config;
        Input { edge, debounce, by_kernel: true, line_seqno: 0, stable: false, pending: None }
    }

    /// How the line is to be taken.
    pub fn role(&self) -> Role {
        match self.debounce {
            Some(_) if !self.by_kernel => Role::Read { rising: true, falling: true, debounce: None },
            debounce => Role::Read {
                rising: matches!(self.edge, Edge::Rising | Edge::Both),
                falling: matches!(self.edge, Edge::Falling | Edge::Both),
                debounce,
            },
        }
    }

    /// The kernel has refused [`Input::role`]: whether there is another way to try.
    pub fn refused(&mut self) -> bool {
        let other = self.by_kernel && self.debounce.is_some();
        self.by_kernel = !other;
        other
    }

    /// The kernel is to be asked first again.
    pub fn start_over(&mut self) {
        self.by_kernel = true;
    }

    /// Who debounces, if anybody does.
    pub fn debouncer(&self) -> Option<&'static str> {
        self.debounce.map(|_| if self.by_kernel { "kernel" } else { "software" })
    }

    /// The line is ours; this is its level.
    pub fn taken(&mut self, level: bool) {
        self.line_seqno = 0;
        self.reading(level);
    }

    /// The level was looked at.
    pub fn reading(&mut self, level: bool) {
        self.stable = level;
        self.pending = None;
    }

    /// Takes in an edge and adds the changes that follow from it. Returns how many edges were lost before it.
    pub fn edge(&mut self, event: EdgeEvent, changes: &mut Vec<Change>) -> u32 {
        // The first edge has the number 1, and numbers wrap round.
        let lost = event.line_seqno.wrapping_sub(self.line_seqno).wrapping_sub(1);
        self.line_seqno = event.line_seqno;
        let change = Change { value: event.rising, at_ns: event.at_ns };
        if self.by_kernel || self.debounce.is_none() {
            changes.push(change);
            return lost;
        }
        self.settle(event.at_ns, changes);
        self.pending = match self.pending {
            _ if change.value == self.stable => None,
            // Two edges to the same level: the one between them was lost or too short to be seen.
            _ => Some(change),
        };
        lost
    }

    /// When [`Input::settle`] has something to do, in nanoseconds of CLOCK_MONOTONIC.
    pub fn due_ns(&self) -> Option<u64> {
        let pending = self.pending?;
        let period = u64::try_from(self.debounce?.as_nanos()).unwrap_or(u64::MAX);
        Some(pending.at_ns.saturating_add(period))
    }

    /// A level that has lasted until now counts, since it came.
    pub fn settle(&mut self, now_ns: u64, changes: &mut Vec<Change>) {
        if self.due_ns().is_none_or(|due| due > now_ns) {
            return;
        }
        if let Some(change) = self.pending.take() {
            self.stable = change.value;
            let wanted = match self.edge {
                Edge::Both => true,
                Edge::Rising => change.value,
                Edge::Falling => !change.value,
                Edge::None => false,
            };
            changes.extend(wanted.then_some(change));
        }
    }
}

/// One instant by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Instant {
    /// As records have it.
    pub time: Timestamp,
    /// CLOCK_MONOTONIC in nanoseconds, as edges have it.
    pub ns: u64,
}

impl Instant {
    /// The record's time stamp of an edge that came before this instant. The clocks differ by the time that the machine was
    /// suspended, so it is the edge's age that is carried over.
    pub fn of_edge(&self, at_ns: u64) -> Timestamp {
        let age_ms = if at_ns == 0 { 0 } else { self.ns.saturating_sub(at_ns) / 1_000_000 };
        Timestamp {
            wall_ms: self.time.wall_ms.saturating_sub(age_ms),
            mono_ms: self.time.mono_ms.saturating_sub(age_ms),
            quality: self.time.quality,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClockQuality;

    const MS: u64 = 1_000_000;

    fn input(edge: Edge, debounce_ms: Option<u64>) -> Input {
        let debounce = debounce_ms.map(Duration::from_millis);
        Input::new(&config::Input { edge, debounce, counter: None })
    }

    fn software(edge: Edge) -> Input {
        let mut input = input(edge, Some(10));
        assert!(input.refused());
        input.taken(false);
        input
    }

    /// Edges to alternating levels at these milliseconds, the first one rising; then the time goes on to `end`.
    fn bounce(input: &mut Input, at_ms: &[u64], end_ms: u64) -> Vec<(bool, u64)> {
        let mut changes = Vec::new();
        for (number, at) in (1..).zip(at_ms) {
            let event = EdgeEvent { rising: number % 2 == 1, at_ns: at * MS, line_seqno: number };
            assert_eq!(input.edge(event, &mut changes), 0);
        }
        input.settle(end_ms * MS, &mut changes);
        changes.into_iter().map(|change| (change.value, change.at_ns / MS)).collect()
    }

    #[test]
    fn a_gap_in_the_kernels_numbers_never_goes_unnoticed() {
        let mut input = input(Edge::Both, None);
        input.taken(false);
        let mut changes = Vec::new();
        let mut lost = |line_seqno| input.edge(EdgeEvent { rising: true, at_ns: 1, line_seqno }, &mut changes);
        assert_eq!([lost(1), lost(2), lost(5), lost(6)], [0, 0, 2, 0]);
        assert_eq!([lost(u32::MAX), lost(0), lost(1), lost(3)], [u32::MAX - 7, 0, 0, 1], "over the end of the numbers");
        assert_eq!(changes.len(), 8);
        // A new request counts from 1 again; edges that came and went before the first read are lost, too.
        input.taken(true);
        assert_eq!(input.edge(EdgeEvent { rising: true, at_ns: 1, line_seqno: 4 }, &mut changes), 3);
    }

    #[test]
    fn a_level_that_does_not_last_never_counts() {
        assert_eq!(bounce(&mut software(Edge::Both), &[100, 103, 105], 114), []);
        assert_eq!(bounce(&mut software(Edge::Both), &[100, 103, 105], 115), [(true, 105)]);
        assert_eq!(bounce(&mut software(Edge::Both), &[100, 104], 1000), [], "a spike");
        let pulses = [100, 120, 121, 122, 140];
        assert_eq!(bounce(&mut software(Edge::Both), &pulses, 150), [(true, 100), (false, 122), (true, 140)]);
        assert_eq!(bounce(&mut software(Edge::Rising), &pulses, 150), [(true, 100), (true, 140)]);
        assert_eq!(bounce(&mut software(Edge::Falling), &pulses, 150), [(false, 122)]);
    }

    #[test]
    fn a_refusal_never_makes_the_kernel_asked_for_less_than_is_needed() {
        let mut asked = input(Edge::Rising, Some(10));
        let debounce = Some(Duration::from_millis(10));
        assert_eq!(asked.role(), Role::Read { rising: true, falling: false, debounce });
        assert_eq!(asked.debouncer(), Some("kernel"));
        assert!(asked.refused());
        assert_eq!(asked.role(), Role::Read { rising: true, falling: true, debounce: None });
        assert_eq!(asked.debouncer(), Some("software"));
        assert!(!asked.refused(), "there is no third way");
        assert_eq!(asked.debouncer(), Some("kernel"), "the next attempt starts over");
        assert!(!input(Edge::Both, None).refused());
    }

    #[test]
    fn an_edge_never_gets_the_time_of_its_reading() {
        let time = Timestamp { wall_ms: 10_000, mono_ms: 5_000, quality: ClockQuality::Unsynced };
        // The machine has slept for 2 s: CLOCK_MONOTONIC does not know of it.
        let now = Instant { time, ns: 3_000 * MS };
        let of = |at_ns| (now.of_edge(at_ns).wall_ms, now.of_edge(at_ns).mono_ms);
        assert_eq!(of(2_900 * MS), (9_900, 4_900));
        assert_eq!(of(3_001 * MS), (10_000, 5_000), "a clock of its own never leads into the future");
        assert_eq!(of(0), (10_000, 5_000));
        assert_eq!(now.of_edge(1).quality, ClockQuality::Unsynced);
    }
}
