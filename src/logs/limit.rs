//! How many lines may be shipped, and of which priority: a token bucket in the time of the lines themselves.
//!
//! Pure. A backlog of an hour is an hour's lines and no flood, though it is read in a second: so the clock is that of the lines.
//! Bursts are half a minute's worth: by default more than what journald itself takes from a unit (`RateLimitBurst=`, 10,000 in
//! 30 s).

use crate::logline::{LogLine, rfc3339_us};
use serde_json::Map;

/// A burst may have so many seconds' worth of lines.
const BURST_S: u64 = 30;
/// Microseconds in a second: a token is counted in so many parts.
const PARTS: u64 = 1_000_000;
/// Lines of several processes are some microseconds out of order; a clock that goes back further has been set.
const SET_BACK_US: u64 = 1_000_000;

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the broker.
    Ship,
    /// It is less severe than what goes there.
    BelowLevel,
    /// There are too many.
    Suppress,
}

/// The rules for what is shipped.
#[derive(Debug)]
pub struct Limit {
    level: u8,
    /// Lines per second; 0: no limit.
    rate: u64,
    tokens: u64,
    at_us: Option<u64>,
}

impl Limit {
    /// Lines of `level` and more severe ones, `rate` per second of them; 0: all of them.
    pub fn new(level: u8, rate: u32) -> Self {
        let rate = u64::from(rate);
        Limit { level, rate, tokens: rate * BURST_S * PARTS, at_us: None }
    }

    /// Judges a line of this priority and time.
    pub fn judge(&mut self, priority: u8, wall_us: u64) -> Verdict {
        if priority > self.level {
            return Verdict::BelowLevel;
        }
        if self.rate == 0 {
            return Verdict::Ship;
        }
        let last = self.at_us.unwrap_or(wall_us);
        let passed = wall_us.saturating_sub(last);
        let back = last.saturating_sub(wall_us);
        self.at_us = Some(if back > SET_BACK_US { wall_us } else { last.max(wall_us) });
        let most = self.rate * BURST_S * PARTS;
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(self.rate)).min(most);
        match self.tokens.checked_sub(PARTS) {
            Some(left) => {
                self.tokens = left;
                Verdict::Ship
            }
            None => Verdict::Suppress,
        }
    }
}

/// syslog(3)
const WARNING: u8 = 4;

/// How many lines were suppressed, by priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Suppressed([u64; 8]);

/// syslog(3), by priority.
pub const NAMES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

impl Suppressed {
    /// Counts a line.
    pub fn count(&mut self, priority: u8) {
        if let Some(count) = self.0.get_mut(usize::from(priority)) {
            *count += 1;
        }
    }

    /// How many there are by now.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// A line of our own that says how many of the application's are missing, with what was allowed per second.
    pub fn summary(&self, rate: u32, now_us: u64) -> LogLine {
        let list: Vec<String> = self.by_name().map(|(name, count)| format!("{count} {name}")).collect();
        let message = format!(
            "{} lines were not shipped, for there were more than log_rate = {rate} per second: {}",
            self.total(),
            list.join(", ")
        );
        let mut line = LogLine::plain(rfc3339_us(now_us), WARNING, message);
        line.identifier = Some("pillion".to_owned());
        let counts: Map<_, _> = self.by_name().map(|(name, count)| (name.to_owned(), count.into())).collect();
        line.fields.insert("suppressed".to_owned(), counts.into());
        line
    }

    /// The counts with their priorities' names, of those that are not 0.
    fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: u64 = 1_000_000;

    fn shipped(limit: &mut Limit, times: impl Iterator<Item = u64>) -> usize {
        times.filter(|at| limit.judge(6, *at) == Verdict::Ship).count()
    }

    #[test]
    fn a_backlog_is_never_taken_for_a_flood() {
        // Two days of a line every 100 ms, read at once.
        let mut limit = Limit::new(6, 10);
        assert_eq!(shipped(&mut limit, (0..1_728_000).map(|number| number * 100_000)), 1_728_000);
    }

    #[test]
    fn a_flood_never_gets_more_than_its_rate_and_one_burst() {
        let mut limit = Limit::new(6, 100);
        assert_eq!(shipped(&mut limit, (0..200_000).map(|number| 5 * S + number * 50)), 3000 + 1000 - 1);
        assert_eq!(limit.judge(7, 100 * S), Verdict::BelowLevel);
        let mut unlimited = Limit::new(6, 0);
        assert_eq!(shipped(&mut unlimited, (0..100_000).map(|_| 0)), 100_000);
    }

    #[test]
    fn a_clock_that_is_set_never_stops_the_flow() {
        let mut limit = Limit::new(6, 1);
        assert_eq!(shipped(&mut limit, (0..100).map(|_| 1000 * S)), 30);
        // Back by a quarter of an hour, and on from there.
        assert_eq!(shipped(&mut limit, (0..100).map(|number| 100 * S + number * S)), 99);
        assert_eq!(shipped(&mut limit, [u64::MAX, 0, u64::MAX].into_iter()), 3);
        // Two that are out of order take no more than their share.
        let mut limit = Limit::new(6, 1);
        let zigzag = (0..10_000).map(|number| 1000 * S + if number % 2 == 0 { 0 } else { S / 2 });
        assert!(shipped(&mut limit, zigzag) <= 31);
    }

    proptest! {
        #[test]
        fn no_times_ever_panic(rate: u32, times in prop::collection::vec(any::<u64>(), 0..50), priority: u8) {
            let mut limit = Limit::new(priority, rate);
            let mut suppressed = Suppressed::default();
            for at in times {
                limit.judge(priority, at);
                suppressed.count(priority);
            }
            prop_assert_eq!(suppressed.total(), suppressed.by_name().map(|(_, count)| count).sum::<u64>());
        }
    }
}
