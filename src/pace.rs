//! A steady pace for what would otherwise come as a flood: a token bucket. Pure: the caller brings the clock.
//!
//! Turns come in slices of a tenth of a second (or of one turn, where that takes longer), so that whoever waits for them
//! wakes ten times a second at the most. Two slices can be saved up: who comes late by less than one loses nothing.

use std::num::NonZeroU32;

/// Parts of a turn that are counted: with a rate per second and a clock in milliseconds nothing is rounded.
const PARTS: u64 = 1000;
/// Length of a slice in milliseconds.
const SLICE_MS: u64 = 100;

/// So many turns in a second, and not more than that in any second but for two slices.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Parts that come in a millisecond.
    rate: u64,
    slice: u64,
    left: u64,
    /// Until when `left` is right.
    at_ms: u64,
}

impl Pace {
    /// `rate` turns in a second; the first slice is there at once.
    pub fn new(rate: NonZeroU32, now_ms: u64) -> Self {
        Pace::in_slices(rate, SLICE_MS, now_ms)
    }

    /// For what comes in bursts: slices of a whole second.
    pub fn with_bursts(rate: NonZeroU32, now_ms: u64) -> Self {
        Pace::in_slices(rate, 1000, now_ms)
    }

    fn in_slices(rate: NonZeroU32, slice_ms: u64, now_ms: u64) -> Self {
        let rate = u64::from(rate.get());
        let slice = (rate * slice_ms).max(PARTS);
        Pace { rate, slice, left: slice, at_ms: now_ms }
    }

    /// Turns that may be taken now.
    pub fn available(&mut self, now_ms: u64) -> u64 {
        let passed = now_ms.saturating_sub(self.at_ms);
        let more = passed.saturating_mul(self.rate);
        self.left = self.left.saturating_add(more).min(2 * self.slice);
        self.at_ms = self.at_ms.max(now_ms);
        self.left / PARTS
    }

    /// Takes turns.
    pub fn take(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count.saturating_mul(PARTS));
    }

    /// When a whole slice is there, in milliseconds of the same clock.
    pub fn due_ms(&self) -> u64 {
        self.at_ms.saturating_add(self.slice.saturating_sub(self.left).div_ceil(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(rate: u32) -> Pace {
        Pace::new(NonZeroU32::new(rate).unwrap(), 1_000)
    }

    #[test]
    fn whoever_waits_until_it_is_due_never_gets_less_than_the_rate() {
        for rate in [1, 3, 7, 10, 200, 999, 1_000_000] {
            let mut pace = pace(rate);
            let (mut now_ms, mut taken, mut wakes) = (1_000, 0, 0);
            while now_ms < 61_000 {
                let available = pace.available(now_ms);
                assert!(available > 0, "{rate} at {now_ms}");
                pace.take(available);
                taken += available;
                wakes += 1;
                now_ms = pace.due_ms();
            }
            let fair = u64::from(rate) * 60;
            assert!((fair..=fair + u64::from(rate) / 10 + 1).contains(&taken), "{taken} of {rate}");
            assert!(wakes <= 601, "{wakes}");
        }
    }

    #[test]
    fn no_clock_ever_makes_a_flood() {
        let mut pace = pace(200);
        assert_eq!(pace.available(1_000), 20);
        pace.take(20);
        assert_eq!((pace.available(1_000), pace.available(0)), (0, 0), "stands still, goes back");
        assert_eq!(pace.due_ms(), 1_100);
        assert_eq!(pace.available(u64::MAX), 40, "leaps");
        pace.take(u64::MAX);
        assert_eq!((pace.available(u64::MAX), pace.due_ms()), (0, u64::MAX));
    }

    proptest! {
        #[test]
        fn no_habit_ever_gets_more_than_the_rate(
            rate in 1..100_000u32,
            habit in prop::collection::vec((0..500u64, 0..1000u64), 1..200),
        ) {
            let mut pace = pace(rate);
            let (mut now_ms, mut taken) = (1_000, 0);
            for (wait_ms, wish) in habit {
                now_ms += wait_ms;
                let take = wish.min(pace.available(now_ms));
                pace.take(take);
                taken += take;
            }
            let slice = (u64::from(rate) / 10).max(1) + 1;
            prop_assert!(taken <= (now_ms - 1_000) * u64::from(rate) / 1000 + 2 * slice);
        }
    }
}
