//! Whose turn it is on a bus, where one request at a time is on the line.
//!
//! Pure: the caller brings time and randomness, and tells what came of each turn.
//!
//! - Writes go before polls; but after [`WRITES`] of them in a row a poll that is due has its turn.
//! - Of the cycles that are due, the one that is due for longest goes first, so none can be starved by another. Its next time
//!   lies on the grid of its interval: it never drifts, and what was missed is never made up for in a burst.
//! - A unit that fails is left alone for a while, which doubles, and costs the bus one time-out each time.
//!
//! ```text
//! Good ── no answer, garbage ──> Paused ── answers a trial ──> Settling ── timeout over ──> Good
//!                                  ^ └─ fails it again ─┐
//!                                  └────────────────────┘
//! ```
//!
//! Why a trial: the answer to a read does not say which read it answers. A slow unit may still answer the request that was
//! given up, just when it is asked anew. So a pause is never shorter than the time-out; the answer after it proves that
//! the unit lives and is thrown away; and only after one more time-out, in which a second answer would show itself and go to
//! nobody, is the unit asked for values again. A late answer would have to come later than all that, and within the
//! time-out of another request of the same shape, to be mistaken.

use crate::backoff::Backoff;
use std::time::Duration;
use tokio::time::Instant;

/// Writes in a row while a poll is due.
pub const WRITES: u8 = 4;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Carry out the command that waits for this unit.
    Write {
        /// The unit's index.
        unit: usize,
    },
    /// Ask for everything in this cycle; then call [`Schedule::polled`].
    Poll {
        /// The unit's index.
        unit: usize,
        /// The cycle's index.
        cycle: usize,
    },
    /// Ask once, for the first read of this cycle, and throw the answer away.
    Trial {
        /// The unit's index.
        unit: usize,
        /// The cycle's index.
        cycle: usize,
    },
    /// Nothing, until then; `None`: until a command comes.
    Wait(Option<Instant>),
}

/// A bus.
#[derive(Debug)]
pub struct Schedule {
    units: Vec<Unit>,
    timeout: Duration,
    /// Writes since the last poll.
    writes: u8,
    /// The unit that was written to last.
    writer: usize,
}

#[derive(Debug)]
struct Unit {
    cycles: Vec<Cycle>,
    standing: Standing,
    backoff: Backoff,
    has_order: bool,
}

#[derive(Debug)]
struct Cycle {
    interval: Duration,
    due: Instant,
}

/// What a unit's answers are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// They are believed.
    Good,
    /// It failed, and is not asked until then.
    Paused(Instant),
    /// It has answered a trial. Once that time has come, it is as good.
    Settling(Instant),
}

impl Schedule {
    /// A bus with this time-out and no units; everything is due at once when a unit is added.
    pub fn new(timeout: Duration) -> Self {
        Schedule { units: Vec::new(), timeout, writes: 0, writer: 0 }
    }

    /// Adds a unit, whose index is one more than the last one's.
    pub fn add(&mut self, intervals: impl IntoIterator<Item = Duration>, backoff: Backoff, now: Instant) {
        let cycles = intervals.into_iter().map(|interval| Cycle { interval, due: now }).collect();
        self.units.push(Unit { cycles, standing: Standing::Good, backoff, has_order: false });
    }

    /// Whose turn it is.
    pub fn next(&mut self, now: Instant) -> Turn {
        for unit in &mut self.units {
            if matches!(unit.standing, Standing::Settling(until) if until <= now) {
                unit.standing = Standing::Good;
            }
        }
        let poll = self.earliest();
        let is_due = poll.is_some_and(|(due, _)| due <= now);
        if (self.writes < WRITES || !is_due)
            && let Some(unit) = self.next_writer()
        {
            (self.writer, self.writes) = (unit, self.writes.saturating_add(1));
            return Turn::Write { unit };
        }
        match poll {
            Some((_, turn)) if is_due => {
                self.writes = 0;
                turn
            }
            _ => Turn::Wait(poll.map(|(due, _)| due)),
        }
    }

    /// The unit to write to between two reads of a cycle, if a command waits.
    pub fn interruption(&mut self) -> Option<usize> {
        self.writer = self.next_writer()?;
        Some(self.writer)
    }

    /// The poll or trial that is due first, now or later.
    fn earliest(&self) -> Option<(Instant, Turn)> {
        let turns = self.units.iter().enumerate().filter_map(|(unit, state)| {
            let (cycle, due) = state.cycles.iter().map(|cycle| cycle.due).enumerate().min_by_key(|(_, due)| *due)?;
            Some(match state.standing {
                Standing::Good => (due, Turn::Poll { unit, cycle }),
                // A command need not wait for the next poll.
                Standing::Paused(until) if state.has_order => (until, Turn::Trial { unit, cycle }),
                Standing::Paused(until) => (due.max(until), Turn::Trial { unit, cycle }),
                Standing::Settling(until) if state.has_order => (until, Turn::Wait(Some(until))),
                Standing::Settling(until) => (due.max(until), Turn::Wait(Some(until))),
            })
        });
        turns.min_by_key(|(due, _)| *due)
    }

    /// The next unit, in turn, for which a command waits and which may be asked.
    fn next_writer(&self) -> Option<usize> {
        let count = self.units.len();
        let in_turn = (1..=count).map(|step| (self.writer + step) % count);
        let is_ready =
            |unit: &usize| self.units.get(*unit).is_some_and(|unit| unit.has_order && unit.standing == Standing::Good);
        in_turn.into_iter().find(is_ready)
    }

    /// Whether a command waits for a unit.
    pub fn order(&mut self, unit: usize, waits: bool) {
        if let Some(unit) = self.units.get_mut(unit) {
            unit.has_order = waits;
        }
    }

    /// Whether this unit's answers are believed now.
    pub fn is_good(&self, unit: usize) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.standing == Standing::Good)
    }

    /// A cycle was gone through, or given up. It is due again at the next point of its grid.
    pub fn polled(&mut self, unit: usize, cycle: usize, now: Instant) {
        let cycle = self.units.get_mut(unit).and_then(|unit| unit.cycles.get_mut(cycle));
        let Some(Cycle { interval, due }) = cycle else { return };
        let passed = now.saturating_duration_since(*due).as_nanos() / interval.as_nanos().max(1);
        let steps = u32::try_from(passed).ok().and_then(|passed| passed.checked_add(1));
        let next = steps.and_then(|steps| interval.checked_mul(steps)).and_then(|ahead| due.checked_add(ahead));
        *due = next.unwrap_or(now + *interval);
    }

    /// A unit has answered, be it with an exception.
    pub fn answered(&mut self, unit: usize, now: Instant) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        match unit.standing {
            Standing::Good => unit.backoff.reset(),
            Standing::Paused(_) | Standing::Settling(_) => unit.standing = Standing::Settling(now + self.timeout),
        }
    }

    /// A unit has not answered, or with garbage. `random` is uniform in 0.0..=1.0.
    pub fn failed(&mut self, unit: usize, now: Instant, random: f64) {
        let Some(unit) = self.units.get_mut(unit) else { return };
        unit.standing = Standing::Paused(now + unit.backoff.next(random).max(self.timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_millis(300);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn bus(units: &[&[u64]], now: Instant) -> Schedule {
        let mut schedule = Schedule::new(TIMEOUT);
        for intervals in units {
            schedule.add(intervals.iter().map(|n| ms(*n)), Backoff::new(ms(1000), ms(60_000)), now);
        }
        schedule
    }

    #[test]
    fn an_answer_after_a_failure_is_never_believed_at_once() {
        let start = Instant::now();
        let mut bus = bus(&[&[1000]], start);
        let (poll, trial) = (Turn::Poll { unit: 0, cycle: 0 }, Turn::Trial { unit: 0, cycle: 0 });
        assert_eq!(bus.next(start), poll);
        let mut now = start + TIMEOUT;
        bus.failed(0, now, 1.0);
        bus.polled(0, 0, now);
        assert_eq!(bus.next(now), Turn::Wait(Some(now + ms(1000))), "the pause is longer than the interval");
        now += ms(1000);
        assert_eq!(bus.next(now), trial);
        bus.failed(0, now, 1.0);
        assert_eq!(bus.next(now), Turn::Wait(Some(now + ms(2000))), "and doubles");
        now += ms(2000);
        assert_eq!(bus.next(now), trial);
        assert!(!bus.is_good(0));
        bus.answered(0, now);
        assert_eq!(bus.next(now), Turn::Wait(Some(now + TIMEOUT)));
        now += TIMEOUT;
        assert_eq!(bus.next(now), poll);
        bus.failed(0, now, 1.0);
        assert_eq!(bus.next(now), Turn::Wait(Some(now + ms(4000))), "one trial is no recovery");
        now += ms(4000);
        bus.answered(0, now);
        now += TIMEOUT;
        assert_eq!(bus.next(now), poll);
        bus.answered(0, now);
        bus.failed(0, now, 1.0);
        assert_eq!(bus.next(now), Turn::Wait(Some(now + ms(1000))), "an answer that was believed is one");
    }

    #[test]
    fn what_was_missed_is_never_made_up_for() {
        let start = Instant::now();
        let mut bus = bus(&[&[1000]], start);
        assert_eq!(bus.next(start), Turn::Poll { unit: 0, cycle: 0 });
        bus.polled(0, 0, start + ms(30));
        assert_eq!(bus.next(start + ms(30)), Turn::Wait(Some(start + ms(1000))), "no drift");
        // An hour's outage.
        let back = start + ms(3_600_400);
        assert_eq!(bus.next(back), Turn::Poll { unit: 0, cycle: 0 });
        bus.polled(0, 0, back + ms(30));
        assert_eq!(bus.next(back + ms(30)), Turn::Wait(Some(start + ms(3_601_000))), "no burst");
        bus.polled(0, 0, start + ms(3_601_000));
        assert_eq!(bus.next(back), Turn::Wait(Some(start + ms(3_602_000))), "not twice at one point of the grid");
    }

    #[test]
    fn writes_never_wait_for_polls_and_never_starve_them() {
        let now = Instant::now();
        let mut bus = bus(&[&[1000], &[1000]], now);
        (0..2).for_each(|unit| bus.order(unit, true));
        let turns: Vec<_> = (0..11).map(|_| bus.next(now)).collect();
        let written = |turns: &[Turn]| turns.iter().all(|turn| matches!(turn, Turn::Write { .. }));
        assert!(written(&turns[..4]) && written(&turns[5..9]), "{turns:?}");
        assert_eq!(turns[4], Turn::Poll { unit: 0, cycle: 0 });
        assert_ne!(turns[0], turns[1], "each unit in its turn");
        (0..2).for_each(|unit| bus.polled(unit, 0, now));
        assert!((0..9).all(|_| matches!(bus.next(now), Turn::Write { .. })), "no poll is due");
    }

    #[test]
    fn a_command_never_waits_for_the_next_poll_of_a_unit_that_failed() {
        let start = Instant::now();
        let mut bus = bus(&[&[3_600_000]], start);
        bus.polled(0, 0, start);
        bus.failed(0, start, 1.0);
        assert_eq!(bus.next(start), Turn::Wait(Some(start + ms(3_600_000))));
        bus.order(0, true);
        assert_eq!(bus.next(start), Turn::Wait(Some(start + ms(1000))));
        let now = start + ms(1000);
        assert_eq!(bus.next(now), Turn::Trial { unit: 0, cycle: 0 });
        bus.answered(0, now);
        assert_eq!(bus.next(now), Turn::Wait(Some(now + TIMEOUT)));
        assert_eq!(bus.next(now + TIMEOUT), Turn::Write { unit: 0 });
    }

    /// How a simulated unit behaves: its intervals, how long a poll takes in ms, and whether it answers.
    type Simulated = (Vec<u64>, u64, bool);

    fn units() -> impl Strategy<Value = Vec<Simulated>> {
        let intervals = prop::collection::vec(50..3000u64, 1..4);
        prop::collection::vec((intervals, 1..60u64, prop::bool::weighted(0.7)), 1..8)
    }

    proptest! {
        #[test]
        fn no_unit_is_ever_starved_and_none_polled_in_bursts(units in units(), seed in any::<u64>()) {
            let start = Instant::now();
            let mut rng = fastrand::Rng::with_seed(seed);
            let intervals: Vec<&[u64]> = units.iter().map(|(intervals, ..)| intervals.as_slice()).collect();
            let mut schedule = bus(&intervals, start);
            let mut polls: Vec<Vec<Vec<Instant>>> = units.iter().map(|(i, ..)| vec![Vec::new(); i.len()]).collect();
            let mut asked: Vec<Vec<Instant>> = vec![Vec::new(); units.len()];
            let (mut now, end) = (start, start + ms(60_000));
            while now < end {
                if rng.u8(..10) == 0 {
                    schedule.order(rng.usize(..units.len()), rng.bool());
                }
                let turn = schedule.next(now);
                let unit = match turn {
                    Turn::Wait(until) => {
                        let until = until.expect("there are polls");
                        prop_assert!(until > now, "a wait that is over");
                        now = until;
                        continue;
                    }
                    Turn::Write { unit } | Turn::Poll { unit, .. } | Turn::Trial { unit, .. } => unit,
                };
                asked[unit].push(now);
                let (_, cost, answers) = units[unit];
                now += if answers { ms(cost) } else { TIMEOUT };
                match answers {
                    true => schedule.answered(unit, now),
                    false => schedule.failed(unit, now, rng.f64()),
                }
                match turn {
                    Turn::Poll { unit, cycle } => {
                        polls[unit][cycle].push(asked[unit].last().copied().unwrap());
                        schedule.polled(unit, cycle, now);
                    }
                    Turn::Write { unit } => schedule.order(unit, false),
                    _ => {}
                }
            }
            // One round of everything, with writes between.
            let round: u64 = units.iter().map(|(i, cost, answers)| {
                let each = if *answers { *cost } else { 300 };
                each * i.len() as u64 * (1 + u64::from(WRITES))
            }).sum::<u64>() + 300 * u64::from(WRITES);
            for (unit, (intervals, _, answers)) in units.iter().enumerate() {
                if !answers {
                    let first = asked[unit].windows(2).all(|pair| pair[1] - pair[0] >= TIMEOUT + ms(500));
                    prop_assert!(first && asked[unit].len() <= 12, "a dead unit costs one time-out for each pause");
                    continue;
                }
                for (cycle, interval) in intervals.iter().enumerate() {
                    let times = &polls[unit][cycle];
                    for pair in times.windows(2) {
                        prop_assert!(pair[1] - pair[0] <= ms(2 * interval + round), "starved: {:?}", pair[1] - pair[0]);
                    }
                    let slots: Vec<u128> = times.iter().map(|at| (*at - start).as_millis() / u128::from(*interval)).collect();
                    prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]), "twice in one interval");
                    prop_assert!(!times.is_empty());
                }
            }
        }
    }
}
