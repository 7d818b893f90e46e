//! What the broker has refused and may take later, and when it is tried again. Pure.
//!
//! A broker whose quota is used up, or that is in trouble, refuses more than one message. So nothing more is sent then, what is under
//! way is waited for, and after a pause everything that is not acknowledged is read from the spool again, which keeps its order; at
//! first a message at a time, until one of them is taken. States:
//!
//! ```text
//!           refused                    pause over, nothing in flight               taken
//! Flowing ───────────> Pausing ─────────────────────────────────────> Probing ───────────> Flowing
//!                         ^                                              │ refused
//!                         └──────────────────────────────────────────────┘
//! ```
//!
//! A message that is refused time and again is given up, see [`TRIES`] and [`TRIES_OF_QUOTA`]: the pauses before that grow from a
//! second to a minute, so a quota has six minutes to be lifted, and an error without a reason seven seconds, for it is more
//! likely the message's own.

use crate::mqtt::reason::Refusal;
use crate::record::StreamId;
use std::collections::BTreeMap;

/// Refusals of one message before it is given up.
const TRIES: u32 = 4;
/// The same, if a quota is the reason (0x97).
const TRIES_OF_QUOTA: u32 = 12;
/// The shortest and the longest pause, in milliseconds.
const PAUSE_MS: (u64, u64) = (1000, 60_000);
/// Messages whose refusals are counted, at the most: more than a window never fail at once, as a rule.
const MOST_COUNTED: usize = 1024;

/// What is to be done about a refused message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It will not be taken.
    GiveUp,
    /// It comes again.
    Again,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was refused.
    Flowing,
    /// Nothing is sent until then, in milliseconds.
    Pausing { until_ms: u64 },
    /// One message at a time is sent.
    Probing,
}

/// What was refused, on one connection after the other.
#[derive(Debug)]
pub(super) struct Refused {
    state: State,
    /// How often, by the stream and the number of a message's first record.
    times: BTreeMap<(StreamId, u64), u32>,
}

impl Refused {
    pub(super) fn new() -> Self {
        Refused { state: State::Flowing, times: BTreeMap::new() }
    }

    /// A connection begins.
    pub(super) fn reset(&mut self) {
        self.state = State::Flowing;
    }

    /// The broker has refused the message with this record for now.
    pub(super) fn refused(&mut self, message: (StreamId, u64), refusal: &Refusal, now_ms: u64) -> Verdict {
        let times = self.times.get(&message).copied().unwrap_or(0) + 1;
        if times >= if refusal.code == 0x97 { TRIES_OF_QUOTA } else { TRIES } {
            self.times.remove(&message);
            // The next one is a probe, too.
            return Verdict::GiveUp;
        }
        if self.times.len() < MOST_COUNTED || self.times.contains_key(&message) {
            self.times.insert(message, times);
        }
        let pause_ms = PAUSE_MS.0.saturating_mul(1 << (times - 1).min(10)).min(PAUSE_MS.1);
        let until_ms = now_ms.saturating_add(pause_ms);
        self.state = match self.state {
            State::Pausing { until_ms: later_ms } => State::Pausing { until_ms: until_ms.max(later_ms) },
            State::Flowing | State::Probing => State::Pausing { until_ms },
        };
        Verdict::Again
    }

    /// The broker has taken the message with this record. Returns whether the window may be as wide again as it was.
    pub(super) fn taken(&mut self, message: (StreamId, u64)) -> bool {
        if !self.times.is_empty() {
            self.times.remove(&message);
        }
        let probed = self.state == State::Probing;
        if probed {
            self.state = State::Flowing;
        }
        probed
    }

    /// Whether nothing is to be sent now; until when, in milliseconds.
    pub(super) fn pausing(&self) -> Option<u64> {
        match self.state {
            State::Pausing { until_ms } => Some(until_ms),
            State::Flowing | State::Probing => None,
        }
    }

    /// Whether one message is to be sent at a time.
    pub(super) fn is_probing(&self) -> bool {
        self.state == State::Probing
    }

    /// Everything is read again now, and a message at a time is sent.
    pub(super) fn probe(&mut self) {
        self.state = State::Probing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: (StreamId, u64) = (StreamId::TELEMETRY, 7);

    fn refusal(code: u8) -> Refusal {
        Refusal { code, says: None }
    }

    /// Refuses the same message until it is given up; returns the pauses.
    fn pauses(code: u8) -> Vec<u64> {
        let mut refused = Refused::new();
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        while refused.refused(MESSAGE, &refusal(code), now_ms) == Verdict::Again {
            let until_ms = refused.pausing().unwrap();
            pauses.push(until_ms - now_ms);
            now_ms = until_ms;
            refused.probe();
            assert_eq!(refused.pausing(), None);
        }
        pauses
    }

    #[test]
    fn a_message_is_never_tried_for_ever_nor_too_soon() {
        assert_eq!(pauses(0x80), [1000, 2000, 4000]);
        let of_quota = pauses(0x97);
        assert_eq!(of_quota.len(), 11);
        assert_eq!((of_quota[0], of_quota[10]), (1000, 60_000));
        assert!(of_quota.iter().sum::<u64>() > 300_000, "time enough for a quota to be lifted");
    }

    #[test]
    fn a_window_full_of_refusals_never_costs_more_than_one_pause() {
        let mut refused = Refused::new();
        for seq in 0..128 {
            assert_eq!(refused.refused((StreamId::LOG, seq), &refusal(0x97), seq), Verdict::Again);
        }
        assert_eq!(refused.pausing(), Some(1127));
        refused.probe();
        assert!(refused.taken((StreamId::LOG, 0)), "all may flow again");
        assert!(!refused.taken((StreamId::LOG, 1)));
    }

    #[test]
    fn what_is_counted_never_grows_without_end() {
        let mut refused = Refused::new();
        for seq in 0..100_000 {
            refused.refused((StreamId::LOG, seq), &refusal(0x97), 0);
        }
        assert_eq!(refused.times.len(), MOST_COUNTED);
    }
}
