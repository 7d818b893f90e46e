//! Losses of a stream that have been counted and are not told yet. Pure.
//!
//! What is told of losses must not be as much as what is lost. So a run of neighbours is one gap, and what is lost for the same
//! reason in the same words is one, too, if there are others in between: its `count` says how many numbers it means. A gap that
//! says the same as one that was told before waits, a second at first, then twice as long each time, up to a minute: a topic that
//! the broker does not take loses record by record.

use super::{Gap, Reason};
use std::collections::VecDeque;

/// Gaps that are held at the most; then the newest one takes in whatever comes.
const MOST: usize = 256;
/// Reasons that are remembered.
const MOST_TOLD: usize = 16;
/// The shortest and the longest time before the same is told again, in milliseconds.
const AGAIN_MS: (u64, u64) = (1000, 60_000);

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    waiting: Vec<Gap>,
    /// The latest last.
    told: VecDeque<Told>,
}

#[derive(Debug)]
struct Told {
    reason: Reason,
    detail: String,
    /// The same is told from then on, in milliseconds, which is so long after it was told.
    again_ms: u64,
    wait_ms: u64,
}

impl Gaps {
    /// Takes in a loss.
    pub(super) fn note(&mut self, new: Gap) {
        let is_same = |gap: &Gap| gap.reason == new.reason && gap.detail == new.detail;
        let follows = |gap: &&mut Gap| is_same(gap) && gap.last.checked_add(1) == Some(new.first);
        let is_full = self.waiting.len() >= MOST;
        let gap = match new.detail {
            Some(_) if self.waiting.iter().any(is_same) => self.waiting.iter_mut().rfind(|gap| is_same(gap)),
            _ if is_full => self.waiting.last_mut(),
            _ => self.waiting.last_mut().filter(follows),
        };
        match gap {
            Some(gap) => {
                (gap.first, gap.last) = (gap.first.min(new.first), gap.last.max(new.last));
                gap.count += new.count;
                gap.to_ms = new.to_ms;
            }
            None => self.waiting.push(new),
        }
    }

    /// When something is to be told, in milliseconds; it may be in the past.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.waiting.iter().map(|gap| self.due_of(gap)).min()
    }

    fn due_of(&self, gap: &Gap) -> u64 {
        self.told.iter().find(|told| told.is_of(gap)).map_or(0, |told| told.again_ms)
    }

    /// What is to be told now.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Vec<Gap> {
        if self.due_ms().is_none_or(|due| now_ms < due) {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut self.waiting);
        let (due, waiting) = waiting.into_iter().partition(|gap| self.due_of(gap) <= now_ms);
        self.waiting = waiting;
        due.iter().for_each(|gap| self.tell(gap, now_ms));
        due
    }

    /// All that is left, however often it was told.
    pub(super) fn take_all(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.waiting)
    }

    fn tell(&mut self, gap: &Gap, now_ms: u64) {
        let Some(detail) = &gap.detail else { return };
        let known = self.told.iter().position(|told| told.is_of(gap));
        let before = known.and_then(|place| self.told.remove(place));
        // Where it has stopped meanwhile it begins anew.
        let goes_on = before.filter(|told| now_ms < told.again_ms.saturating_add(told.wait_ms));
        let wait_ms = goes_on.map_or(AGAIN_MS.0, |told| (told.wait_ms * 2).min(AGAIN_MS.1));
        let again_ms = now_ms.saturating_add(wait_ms);
        self.told.push_back(Told { reason: gap.reason, detail: detail.clone(), again_ms, wait_ms });
        if self.told.len() > MOST_TOLD {
            self.told.pop_front();
        }
    }
}

impl Told {
    fn is_of(&self, gap: &Gap) -> bool {
        self.reason == gap.reason && gap.detail.as_ref() == Some(&self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::StreamId;

    fn gap(seq: u64, reason: Reason, detail: Option<&str>) -> Gap {
        let detail = detail.map(str::to_owned);
        Gap { stream: StreamId::LOG, first: seq, last: seq, count: 1, reason, from_ms: None, to_ms: None, detail }
    }

    fn told(gaps: Vec<Gap>) -> Vec<(u64, u64, u64)> {
        gaps.iter().map(|gap| (gap.first, gap.last, gap.count)).collect()
    }

    #[test]
    fn losses_in_between_others_are_never_told_one_by_one() {
        let mut gaps = Gaps::default();
        for seq in 1..=100 {
            gaps.note(gap(2 * seq, Reason::Refused, Some("no")));
        }
        gaps.note(gap(201, Reason::Refused, Some("never")));
        assert_eq!(told(gaps.take_due(0)), [(2, 200, 100), (201, 201, 1)]);
        // Without words nobody could tell which ones are meant.
        for seq in [1, 2, 4] {
            gaps.note(gap(seq, Reason::Full, None));
        }
        assert_eq!(told(gaps.take_due(0)), [(1, 2, 2), (4, 4, 1)]);
    }

    #[test]
    fn a_steady_loss_is_never_told_more_than_once_a_minute_for_long() {
        let mut gaps = Gaps::default();
        let (mut times, mut count) = (Vec::new(), 0);
        for second in 0..300 {
            gaps.note(gap(second, Reason::Refused, Some("no")));
            let due = gaps.take_due(second * 1000);
            if let Some(gap) = due.first() {
                times.push(second);
                count += gap.count;
            }
        }
        assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert_eq!(gaps.due_ms(), Some(303_000));
        count += gaps.take_all().iter().map(|gap| gap.count).sum::<u64>();
        assert_eq!((count, gaps.due_ms()), (300, None), "none was forgotten");
        // Another loss, and the same one much later, wait for nothing.
        gaps.note(gap(300, Reason::Refused, Some("another")));
        assert_eq!(gaps.take_due(300_000).len(), 1);
        gaps.note(gap(301, Reason::Refused, Some("no")));
        assert_eq!(gaps.take_due(500_000).len(), 1);
        assert_eq!(gaps.told.back().map(|told| told.wait_ms), Some(1000));
    }

    #[test]
    fn what_waits_to_be_told_never_grows_without_end() {
        let mut gaps = Gaps::default();
        for seq in 0..10_000 {
            gaps.note(gap(2 * seq, Reason::Refused, Some(&seq.to_string())));
        }
        assert_eq!(gaps.waiting.len(), MOST);
        assert_eq!(gaps.take_due(0).iter().map(|gap| gap.count).sum::<u64>(), 10_000);
        assert_eq!(gaps.told.len(), MOST_TOLD);
    }
}
