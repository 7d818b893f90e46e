//! A threshold with hysteresis: pure, told a value and the time.
//!
//! ```text
//! Normal ── beyond the limit ──> Beyond ── for as long as `hold` ──> Exceeded
//!    ^                             │                                   │
//!    ├── at the limit or better ───┘                                   │
//!    └── better than the limit by the margin, or no value any more ────┘
//! ```

use std::time::Duration;

/// On which side of the limit it is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Less than the limit is beyond it.
    AtLeast,
    /// More than the limit is beyond it.
    AtMost,
}

/// When it is exceeded. All of it may change with every value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The side.
    pub bound: Bound,
    /// In the unit of the values.
    pub limit: i64,
    /// How much better than the limit a value must be to end it, at least 0.
    pub margin: i64,
    /// How long values must be beyond the limit.
    pub hold: Duration,
}

impl Rule {
    fn is_beyond(&self, value: i64) -> bool {
        match self.bound {
            Bound::AtLeast => value < self.limit,
            Bound::AtMost => value > self.limit,
        }
    }

    fn is_well(&self, value: i64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= self.limit.saturating_add(self.margin),
            Bound::AtMost => value <= self.limit.saturating_sub(self.margin),
        }
    }
}

/// Where one threshold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threshold {
    /// Nothing is wrong.
    #[default]
    Normal,
    /// The limit was passed, not long enough ago.
    Beyond {
        /// When.
        since: Duration,
    },
    /// Something is wrong.
    Exceeded,
}

impl Threshold {
    /// Takes a value, or that there is none; `now` is on any clock that only goes forward. Returns whether it is exceeded.
    pub fn observe(&mut self, value: Option<i64>, rule: &Rule, now: Duration) -> bool {
        *self = match (*self, value) {
            // A sensor that is gone says nothing, good or bad.
            (_, None) => Threshold::Normal,
            (Threshold::Normal, Some(value)) if rule.is_beyond(value) && rule.hold.is_zero() => Threshold::Exceeded,
            (Threshold::Normal, Some(value)) if rule.is_beyond(value) => Threshold::Beyond { since: now },
            (Threshold::Normal, Some(_)) => Threshold::Normal,
            (Threshold::Beyond { since }, Some(value)) if rule.is_beyond(value) => {
                match now.saturating_sub(since) >= rule.hold {
                    true => Threshold::Exceeded,
                    false => Threshold::Beyond { since },
                }
            }
            (Threshold::Beyond { .. }, Some(_)) => Threshold::Normal,
            (Threshold::Exceeded, Some(value)) if rule.is_well(value) => Threshold::Normal,
            (Threshold::Exceeded, Some(_)) => Threshold::Exceeded,
        };
        *self == Threshold::Exceeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOT: Rule = Rule { bound: Bound::AtMost, limit: 80, margin: 5, hold: Duration::from_secs(30) };
    const FULL: Rule = Rule { bound: Bound::AtLeast, limit: 10, margin: 2, hold: Duration::ZERO };

    /// What becomes of these values, ten seconds apart.
    fn verdicts<const N: usize>(rule: &Rule, values: [i64; N]) -> [bool; N] {
        let (mut threshold, mut now) = (Threshold::default(), Duration::ZERO);
        values.map(|value| {
            now += Duration::from_secs(10);
            threshold.observe(Some(value), rule, now)
        })
    }

    #[test]
    fn a_short_peak_is_never_a_complaint() {
        assert_eq!(verdicts(&HOT, [81, 81, 81, 80, 81, 99]), [false; 6]);
        assert_eq!(verdicts(&HOT, [80; 9]), [false; 9], "the limit itself is allowed");
    }

    #[test]
    fn a_value_about_the_limit_never_makes_it_flap() {
        assert_eq!(verdicts(&HOT, [81, 81, 81, 81, 79, 81, 76, 75, 80]), {
            [false, false, false, true, true, true, true, false, false]
        });
        assert_eq!(verdicts(&FULL, [10, 9, 10, 11, 9, 12, 10, 9]), [false, true, true, true, true, false, false, true]);
    }

    #[test]
    fn a_sensor_that_is_gone_never_leaves_a_complaint_behind() {
        let mut threshold = Threshold::Exceeded;
        assert!(!threshold.observe(None, &HOT, Duration::ZERO));
        assert_eq!(threshold, Threshold::Normal);
    }

    proptest! {
        #[test]
        fn it_never_enters_within_the_limit_nor_stays_when_all_is_well(
            values in prop::collection::vec(prop_oneof![any::<i64>(), 0_i64..100], 1..50),
            (limit, margin, hold) in (any::<i64>(), 0..=i64::MAX, 0_u64..5),
            at_least in any::<bool>(),
        ) {
            let bound = if at_least { Bound::AtLeast } else { Bound::AtMost };
            let rule = Rule { bound, limit, margin, hold: Duration::from_secs(hold) };
            let (mut threshold, mut was) = (Threshold::Normal, false);
            for (now, value) in (0..).zip(values) {
                let is = threshold.observe(Some(value), &rule, Duration::from_secs(now));
                prop_assert!(was || !is || rule.is_beyond(value));
                prop_assert!(!is || !rule.is_well(value) || rule.is_beyond(value));
                was = is;
            }
        }
    }
}
