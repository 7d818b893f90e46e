//! What the broker has refused and may take later, and when it is tried again. Pure.
//!
//! Only the stream that it is of waits, all of it, for its order must stay; the others flow, and if it was for a quota of the whole
//! client, each of them finds that out by itself. Of the stream nothing more is sent then, what is under way is waited for, and
//! after a pause everything of it that is not acknowledged is read from the spool again; at first a message at a time, until one
//! of them is taken. What was on its way behind a refused message may be taken before it, and comes again behind it. The states of a
//! stream:
//!
//! ```text
//!           refused                    pause over, nothing of it in flight               taken
//! Flowing ───────────> Pausing ─────────────────────────────────────────> Probing ───────────> Flowing
//!                         ^                                                  │ refused
//!                         └──────────────────────────────────────────────────┘
//! ```
//!
//! A message that is refused time and again is given up, see [`TRIES`] and [`TRIES_OF_QUOTA`]: the pauses before that grow from a
//! second to a minute, so a quota has six minutes to be lifted, and an error without a reason seven seconds, for it is more
//! likely the message's own. Where several records travel in one message and one of them may be to blame, they come again one
//! by one, so that only that one is given up ([`Refused::split`]).

use crate::mqtt::reason::{Fate, Refusal};
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

/// Why and until when a stream waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pause {
    /// In milliseconds.
    pub(super) until_ms: u64,
    pub(super) why: String,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nothing of it is sent.
    Pausing(Pause),
    /// One message of it at a time is sent.
    Probing,
}

/// What was refused, on one connection after the other.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Of streams that do not flow.
    states: BTreeMap<StreamId, State>,
    /// How often, by the stream and the number of a message's first record.
    times: BTreeMap<(StreamId, u64), u32>,
    /// Up to these numbers records travel alone.
    singly: BTreeMap<StreamId, u64>,
}

impl Refused {
    /// A connection begins.
    pub(super) fn reset(&mut self) {
        self.states.clear();
    }

    /// The broker has refused the message with this record for now.
    pub(super) fn refused(&mut self, message: (StreamId, u64), refusal: &Refusal, now_ms: u64) -> Verdict {
        let times = self.times.get(&message).copied().unwrap_or(0) + 1;
        if times >= if refusal.code == 0x97 { TRIES_OF_QUOTA } else { TRIES } {
            self.times.remove(&message);
            // If it was a probe, so is the next one.
            return Verdict::GiveUp;
        }
        if self.times.len() < MOST_COUNTED || self.times.contains_key(&message) {
            self.times.insert(message, times);
        }
        let pause_ms = PAUSE_MS.0.saturating_mul(1 << (times - 1).min(10)).min(PAUSE_MS.1);
        self.pause(message.0, now_ms.saturating_add(pause_ms), refusal);
        Verdict::Again
    }

    /// The broker has refused a message with several records, the last of them this one, for what may be the fault of one.
    pub(super) fn split(&mut self, stream: StreamId, last: u64, refusal: &Refusal, now_ms: u64) {
        let singly = self.singly.entry(stream).or_default();
        *singly = last.max(*singly);
        let pause_ms = if refusal.fate() == Fate::Never { 0 } else { PAUSE_MS.0 };
        self.pause(stream, now_ms.saturating_add(pause_ms), refusal);
    }

    fn pause(&mut self, stream: StreamId, until_ms: u64, refusal: &Refusal) {
        let until_ms = match self.states.get(&stream) {
            Some(State::Pausing(before)) => before.until_ms.max(until_ms),
            Some(State::Probing) | None => until_ms,
        };
        let why = format!("{refusal}; it is tried again");
        self.states.insert(stream, State::Pausing(Pause { until_ms, why }));
    }

    /// The broker has taken the message with this record.
    pub(super) fn taken(&mut self, message: (StreamId, u64)) {
        self.times.remove(&message);
        if self.states.get(&message.0) == Some(&State::Probing) {
            self.states.remove(&message.0);
        }
    }

    /// The streams of which nothing is to be sent now.
    pub(super) fn pausing(&self) -> impl Iterator<Item = (StreamId, &Pause)> {
        self.states.iter().filter_map(|(stream, state)| match state {
            State::Pausing(pause) => Some((*stream, pause)),
            State::Probing => None,
        })
    }

    /// The streams of which one message is to be sent at a time.
    pub(super) fn probing(&self) -> impl Iterator<Item = StreamId> {
        self.states.iter().filter(|(_, state)| **state == State::Probing).map(|(stream, _)| *stream)
    }

    /// Whether this record is to travel alone.
    pub(super) fn is_single(&self, stream: StreamId, seq: u64) -> bool {
        self.singly.get(&stream).is_some_and(|last| seq <= *last)
    }

    /// Everything of this stream is read again now, and a message at a time is sent.
    pub(super) fn probe(&mut self, stream: StreamId) {
        self.states.insert(stream, State::Probing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: StreamId = StreamId::TELEMETRY;
    const MESSAGE: (StreamId, u64) = (STREAM, 7);

    fn refusal(code: u8) -> Refusal {
        Refusal { code, says: None }
    }

    fn until_ms(refused: &Refused, stream: StreamId) -> Option<u64> {
        refused.pausing().find(|(of, _)| *of == stream).map(|(_, pause)| pause.until_ms)
    }

    fn is_probing(refused: &Refused, stream: StreamId) -> bool {
        refused.probing().any(|of| of == stream)
    }

    /// Refuses the same message until it is given up; returns the pauses.
    fn pauses(code: u8) -> Vec<u64> {
        let mut refused = Refused::default();
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        while refused.refused(MESSAGE, &refusal(code), now_ms) == Verdict::Again {
            let until_ms = until_ms(&refused, STREAM).unwrap();
            assert!(!is_probing(&refused, STREAM));
            pauses.push(until_ms - now_ms);
            now_ms = until_ms;
            refused.probe(STREAM);
            assert!(is_probing(&refused, STREAM) && refused.pausing().next().is_none());
        }
        assert!(is_probing(&refused, STREAM), "the next one is a probe, too");
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
    fn a_window_full_of_refusals_never_costs_more_than_one_pause_nor_another_stream() {
        let mut refused = Refused::default();
        for seq in 0..128 {
            assert_eq!(refused.refused((StreamId::LOG, seq), &refusal(0x97), seq), Verdict::Again);
        }
        assert_eq!(until_ms(&refused, StreamId::LOG), Some(1127));
        assert_eq!(refused.pausing().count(), 1);
        refused.probe(StreamId::LOG);
        refused.taken((StreamId::EVENT, 1));
        assert!(is_probing(&refused, StreamId::LOG), "that was of another stream");
        refused.taken((StreamId::LOG, 0));
        assert!(!is_probing(&refused, StreamId::LOG), "all may flow again");
    }

    #[test]
    fn a_message_of_several_is_never_split_for_longer_than_it_is() {
        let mut refused = Refused::default();
        refused.split(STREAM, 20, &refusal(0x99), 5);
        assert_eq!(until_ms(&refused, STREAM), Some(5), "nothing is to be waited for");
        let single = |refused: &Refused, seq| refused.is_single(STREAM, seq);
        assert_eq!([7, 20, 21].map(|seq| single(&refused, seq)), [true, true, false]);
        assert!(!refused.is_single(StreamId::LOG, 7));
        refused.split(STREAM, 15, &refusal(0x83), 5);
        assert_eq!(until_ms(&refused, STREAM), Some(1005));
        refused.reset();
        assert!(single(&refused, 20), "another connection makes it no better");
    }

    #[test]
    fn what_is_counted_never_grows_without_end() {
        let mut refused = Refused::default();
        for seq in 0..100_000 {
            refused.refused((StreamId::LOG, seq), &refusal(0x97), 0);
        }
        assert_eq!(refused.times.len(), MOST_COUNTED);
    }
}
