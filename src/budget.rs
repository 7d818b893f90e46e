//! A budget of bytes that begins anew with each hour, day or month of UTC, and who may use how much of it. Pure.
//!
//! The most urgent priority may use all of it. Each less urgent one leaves a part to those before it (of three priorities the
//! second leaves a third, the third two thirds), and that part shrinks evenly to nothing until the period ends: what nobody
//! urgent needs is not wasted, and an event finds room at any time.
//!
//! What is used is kept in a file, so that a restart does not give it back. For the sake of flash it is not written for each
//! message: a part is *reserved* ahead, as the spool does with its numbers, and a kill costs what of that was not used. That is
//! never more than half of what was left: a kill must not take the room of the events until the period ends.
//!
//! The clock may be wrong after boot. While it is not trusted the period that the file names goes on, and ends when this process
//! has run for as long as a period takes. A clock that is set back does not give anything back.
//!
//! Format of the file, one line of text: the number of the period, a blank, the bytes that count as used in it.

use crate::config::{self, Period};
use crate::record::{ClockQuality, Timestamp};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Whoever has to wait does so until so much is free again: a fraction of the budget. Else each byte that gets free would wake
/// somebody.
const SLICE: u64 = 256;

/// How much of a budget is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    bytes: u64,
    period: Period,
    /// Priorities that there are.
    ranks: u64,
    /// The number of the period: of its hour, day or month since 1970. `None`: not known yet.
    number: Option<u64>,
    /// When the period began for this process, in milliseconds of the monotonic clock.
    began_ms: u64,
    used: u64,
    /// As the file has it.
    reserved: u64,
    /// The period that the file has.
    kept: Option<u64>,
}

impl Budget {
    /// As the file has it; `ranks` is how many priorities there are.
    pub fn new(limit: config::Budget, ranks: usize, file: Option<&str>, now: Timestamp) -> Self {
        let config::Budget { bytes, period } = limit;
        let read = |text: &str| {
            let (number, used) = text.trim_end().split_once(' ')?;
            Some((number.parse().ok()?, used.parse().ok()?))
        };
        let kept: Option<(u64, u64)> = file.and_then(read);
        let used = kept.map_or(0, |(_, used)| used);
        let mut budget = Budget {
            bytes,
            period,
            ranks: u64::try_from(ranks).unwrap_or(1).max(1),
            number: kept.map(|(number, _)| number),
            began_ms: now.mono_ms,
            used,
            reserved: used,
            kept: kept.map(|(number, _)| number),
        };
        budget.turn(now);
        budget
    }

    /// Goes on where another one has stopped, if their periods are alike.
    pub fn follow(&mut self, before: &Budget) {
        if self.period == before.period {
            *self = Budget { bytes: self.bytes, ranks: self.ranks, ..before.clone() };
        }
    }

    /// Begins the next period if it is time.
    pub fn turn(&mut self, now: Timestamp) {
        if now.quality == ClockQuality::Unsynced {
            if now.mono_ms.saturating_sub(self.began_ms) >= longest_ms(self.period) {
                (self.began_ms, self.used, self.reserved) = (now.mono_ms, 0, 0);
            }
            return;
        }
        let number = number(self.period, now.wall_ms);
        if self.number != Some(number) {
            if self.number.is_some_and(|before| before < number) {
                (self.used, self.reserved) = (0, 0);
            }
            (self.number, self.began_ms) = (Some(number), now.mono_ms);
        }
    }

    /// Bytes were sent.
    pub fn spend(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// When a message of this rank (0: the most urgent priority) may go, in milliseconds from now; `None`: at once. Call
    /// [`Budget::turn`] before. `waits`: it had to wait already.
    pub fn wait_ms(&self, rank: usize, waits: bool, now: Timestamp) -> Option<u64> {
        let rank = u64::try_from(rank).unwrap_or(u64::MAX).min(self.ranks - 1);
        let (left_ms, length_ms) = (self.left_ms(now), longest_ms(self.period));
        // What has to stay for others: bytes * rank / ranks * left / length.
        let part = |number: u64, of: u64, whole: u64| {
            u64::try_from(u128::from(number) * u128::from(of) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
        };
        let kept_at_start = part(self.bytes, rank, self.ranks);
        let kept = part(kept_at_start, left_ms.min(length_ms), length_ms);
        let wanted = if waits { (self.bytes / SLICE).max(1) } else { 1 };
        let missing = self.used.saturating_add(kept).saturating_add(wanted).saturating_sub(self.bytes);
        if missing == 0 {
            return None;
        }
        if missing > kept {
            return Some(left_ms.max(1));
        }
        // What has to stay is rounded down, so it takes up to one byte more.
        let wait_ms = part(missing.saturating_add(1), length_ms, kept_at_start).saturating_add(1);
        Some(wait_ms.min(left_ms.max(1)))
    }

    /// How long the period still takes, in milliseconds.
    fn left_ms(&self, now: Timestamp) -> u64 {
        match now.quality {
            ClockQuality::Trusted => end_ms(self.period, now.wall_ms).saturating_sub(now.wall_ms),
            ClockQuality::Unsynced => {
                (self.began_ms.saturating_add(longest_ms(self.period))).saturating_sub(now.mono_ms)
            }
        }
    }

    /// What the file has to hold from now on, if that has changed; it is to be written before more is sent.
    pub fn note(&mut self) -> Option<String> {
        let is_behind = self.used > self.reserved || self.kept != self.number;
        let half = self.bytes.saturating_sub(self.used) / 2;
        is_behind.then(|| self.reserve((self.bytes / lease(self.period)).min(half).max(self.bytes / SLICE)))
    }

    /// What the file has to hold when the process ends.
    pub fn last_note(&mut self) -> Option<String> {
        (self.used != self.reserved || self.kept != self.number).then(|| self.reserve(0))
    }

    fn reserve(&mut self, ahead: u64) -> String {
        self.reserved = self.used.saturating_add(ahead);
        self.kept = self.number;
        format!("{} {}\n", self.number.unwrap_or(0), self.reserved)
    }

    /// The whole, and what of it is used, in bytes.
    pub fn used(&self) -> (u64, u64) {
        (self.bytes, self.used)
    }

    /// When the period ends, in milliseconds since 1970; `None`: the clock is not trusted.
    pub fn ends_ms(&self, now: Timestamp) -> Option<u64> {
        (now.quality == ClockQuality::Trusted).then(|| end_ms(self.period, now.wall_ms))
    }
}

/// Parts in which a budget is reserved, but for the smaller ones near its end: writes in a period at the most, and up to eight.
fn lease(period: Period) -> u64 {
    match period {
        Period::Hour => 4,
        Period::Day => 32,
        Period::Month => 256,
    }
}

/// How long a period takes at the most, in milliseconds.
fn longest_ms(period: Period) -> u64 {
    match period {
        Period::Hour => HOUR_MS,
        Period::Day => DAY_MS,
        Period::Month => 31 * DAY_MS,
    }
}

/// The number of the period at this time.
fn number(period: Period, wall_ms: u64) -> u64 {
    match period {
        Period::Hour => wall_ms / HOUR_MS,
        Period::Day => wall_ms / DAY_MS,
        Period::Month => month(wall_ms / DAY_MS).0,
    }
}

/// When the period of this time ends, in milliseconds since 1970.
fn end_ms(period: Period, wall_ms: u64) -> u64 {
    match period {
        Period::Hour => (wall_ms / HOUR_MS + 1).saturating_mul(HOUR_MS),
        Period::Day => (wall_ms / DAY_MS + 1).saturating_mul(DAY_MS),
        Period::Month => month(wall_ms / DAY_MS).1.saturating_mul(DAY_MS),
    }
}

/// The month of this day since 1970: its number, and the day on which the next one begins. Years count from March, so that the
/// leap day is their last one.
fn month(day: u64) -> (u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let day_of_march = day + DAYS_TO_1970;
    let (centuries, day) = (day_of_march / DAYS_OF_400_YEARS, day_of_march % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // Five months from March take 153 days, and so do the next five.
    let month = (5 * day_of_year + 2) / 153;
    let first_of_next = match month {
        11 => 365 + u64::from((year + 1).is_multiple_of(4) && (!(year + 1).is_multiple_of(100) || year == 399)),
        _ => (153 * (month + 1) + 2) / 5,
    };
    let number = (400 * centuries + year) * 12 + month;
    (number, day_of_march - day_of_year + first_of_next - DAYS_TO_1970)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-25 00:00:00 UTC.
    const MIDNIGHT_MS: u64 = 1_795_564_800_000;
    const LIMIT: config::Budget = config::Budget { bytes: 3_000_000, period: Period::Day };

    fn at(ms: u64) -> Timestamp {
        Timestamp { wall_ms: MIDNIGHT_MS + ms, mono_ms: 1000 + ms, quality: ClockQuality::Trusted }
    }

    fn unsynced(mono_ms: u64) -> Timestamp {
        Timestamp { wall_ms: 0, mono_ms, quality: ClockQuality::Unsynced }
    }

    fn budget() -> Budget {
        Budget::new(LIMIT, 3, None, at(0))
    }

    #[test]
    fn an_event_never_finds_the_budget_used_up_by_logs() {
        let mut budget = budget();
        let mut sent = [0; 3];
        // From the least urgent on, each as much as it may.
        for rank in [2, 1, 0] {
            while budget.wait_ms(rank, false, at(0)).is_none() {
                budget.spend(1000);
                sent[rank] += 1000;
            }
        }
        assert_eq!(sent, [1_000_000; 3]);
        assert_eq!(budget.wait_ms(0, false, at(0)), Some(DAY_MS), "and now nothing until midnight");
        budget.turn(at(DAY_MS));
        assert_eq!(budget.wait_ms(2, true, at(DAY_MS)), None);
    }

    #[test]
    fn what_nobody_urgent_needs_is_never_wasted() {
        let mut budget = budget();
        let (mut now_ms, mut wakes) = (0, 0);
        while now_ms < DAY_MS {
            match budget.wait_ms(2, wakes > 0, at(now_ms)) {
                None => budget.spend(1000),
                Some(wait_ms) => {
                    now_ms += wait_ms;
                    wakes += 1;
                    while now_ms < DAY_MS && budget.wait_ms(2, false, at(now_ms)).is_none() {
                        budget.spend(1000);
                    }
                }
            }
        }
        let (bytes, used) = budget.used();
        assert!(used > bytes - bytes / 64, "{used}");
        assert!(wakes <= SLICE, "{wakes}");
    }

    #[test]
    fn neither_a_kill_nor_a_restart_ever_gives_anything_back() {
        let mut budget = budget();
        let mut file = None;
        let mut writes = 0;
        for _ in 0..1500 {
            budget.spend(1000);
            if let Some(note) = budget.note() {
                file = Some(note);
                writes += 1;
            }
        }
        assert!(writes <= 17, "{writes}: half of the 32 of a day, and the first");
        let killed = Budget::new(LIMIT, 3, file.as_deref(), at(5));
        assert!((1_500_000..1_600_000).contains(&killed.used().1), "{:?}", killed.used());
        let note = budget.last_note();
        assert_eq!(note.as_deref(), Some("20782 1500000\n"));
        let mut restarted = Budget::new(LIMIT, 3, note.as_deref(), at(5));
        assert_eq!((restarted.used().1, restarted.note(), restarted.last_note()), (1_500_000, None, None));
        // The next day.
        assert_eq!(Budget::new(LIMIT, 3, note.as_deref(), at(DAY_MS)).used().1, 0);
        for damaged in ["", "x", "1", "1 x", "-1 5", "1 2 3"] {
            assert_eq!(Budget::new(LIMIT, 3, Some(damaged), at(5)).used().1, 0, "{damaged}");
        }
    }

    #[test]
    fn a_kill_never_takes_more_than_half_of_what_is_left() {
        for (period, most) in [(Period::Hour, 12), (Period::Day, 40), (Period::Month, 264)] {
            let limit = config::Budget { period, ..LIMIT };
            let mut budget = Budget::new(limit, 3, None, at(0));
            let (mut file, mut writes) = (None, 0);
            while budget.used().1 < limit.bytes {
                budget.spend(1000);
                if let Some(note) = budget.note() {
                    file = Some(note);
                    writes += 1;
                }
                let left = |budget: &Budget| limit.bytes.saturating_sub(budget.used().1);
                let killed = Budget::new(limit, 3, file.as_deref(), at(0));
                assert!(left(&killed) + limit.bytes / SLICE >= left(&budget) / 2, "{killed:?} after {budget:?}");
                assert!(killed.used().1 >= budget.used().1, "{killed:?} after {budget:?}");
                assert!(killed.used().1 <= limit.bytes + limit.bytes / SLICE, "{killed:?}");
            }
            assert!(writes <= most, "{writes} in one {period:?}");
        }
    }

    #[test]
    fn no_clock_ever_gives_anything_back() {
        let note = Some("20782 2000000\n");
        // Wrong at boot: the period goes on, and the right clock changes nothing.
        let mut budget = Budget::new(LIMIT, 1, note, unsynced(5));
        assert_eq!(budget.used().1, 2_000_000);
        budget.spend(1_000_000);
        assert!(budget.wait_ms(0, false, unsynced(6)).is_some());
        budget.turn(at(3_600_000));
        assert_eq!(budget.used().1, 3_000_000);
        // Set back.
        budget.turn(Timestamp { wall_ms: MIDNIGHT_MS - DAY_MS, ..at(0) });
        budget.turn(at(0));
        assert_eq!(budget.used().1, 0, "a day forward is a new day, whatever was before");
        let mut never_set = Budget::new(LIMIT, 1, note, unsynced(5));
        never_set.turn(unsynced(DAY_MS + 4));
        assert_eq!(never_set.used().1, 2_000_000);
        never_set.turn(unsynced(DAY_MS + 5));
        assert_eq!(never_set.used().1, 0, "a clock that is never set never stops everything for ever");
    }

    #[test]
    fn months_are_never_counted_wrongly() {
        let day = |text: &str| {
            let time = humantime::parse_rfc3339(&format!("{text}T12:34:56Z")).unwrap();
            time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400
        };
        for (in_month, next, length) in [
            ("1970-02-01", "1970-03-01", 28),
            ("2024-02-29", "2024-03-01", 29),
            ("2026-02-01", "2026-03-01", 28),
            ("2026-12-31", "2027-01-01", 31),
            ("2000-02-15", "2000-03-01", 29),
            ("2100-02-28", "2100-03-01", 28),
            ("2026-11-25", "2026-12-01", 30),
        ] {
            let (number, end) = month(day(in_month));
            assert_eq!(end, day(next), "{in_month}");
            assert_eq!((month(end).0, month(end - 1).0, month(end - length).0), (number + 1, number, number), "{next}");
            assert_eq!(month(end - length - 1).0, number - 1, "{in_month}");
        }
    }

    proptest! {
        /// Whoever waits as long as he is told may go then, unless others were faster.
        #[test]
        fn no_wait_is_ever_in_vain(
            used in 0..4_000_000usize, rank in 0..5usize, ranks in 1..5usize, now_ms in 0..DAY_MS, waits in any::<bool>(),
        ) {
            let mut budget = Budget::new(LIMIT, ranks, None, at(0));
            budget.spend(used);
            if let Some(wait_ms) = budget.wait_ms(rank, waits, at(now_ms)) {
                prop_assert!(wait_ms > 0 && now_ms + wait_ms <= DAY_MS);
                let then = at(now_ms + wait_ms);
                budget.turn(then);
                let more = budget.wait_ms(rank, waits, then);
                prop_assert!(more.is_none(), "{more:?} more after {wait_ms}");
            } else {
                prop_assert!(used < 3_000_000);
            }
        }
    }
}
