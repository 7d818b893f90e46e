//! Whether the application says that it lives.
//!
//! The clock starts when the application runs (without a unit: when pillion does), and anew with each heartbeat; so one that
//! never beats is noticed as well. While the application does not run, nothing is waited for.
//!
//! A reload may change the timeout. Then the clock starts anew, for the application may have been changed with it. One that is lost
//! stays so until it beats: no output leaves its safe state for a number.

use crate::stats::{HeartbeatState, HeartbeatStatus};
use std::time::Duration;
use tokio::time::Instant;

/// The heartbeat of the application.
#[derive(Debug)]
pub(super) struct Heartbeat {
    timeout: Option<Duration>,
    state: State,
    last: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing is waited for.
    Off,
    /// Since then the first one is waited for.
    Awaited(Instant),
    /// Then came the last one.
    Alive(Instant),
    /// None has come since then, for too long.
    Lost(Instant),
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// None came in time. For how long there was none.
    Lost(Duration),
    /// It is back. For how long there was none.
    Back(Duration),
}

impl Heartbeat {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Heartbeat { timeout, state: State::Off, last: None }
    }

    /// The application runs, in a new run of it.
    pub(super) fn begin(&mut self, now: Instant) {
        self.last = None;
        if self.timeout.is_some() {
            self.state = State::Awaited(now);
        }
    }

    /// The application does not run.
    pub(super) fn end(&mut self) {
        self.state = State::Off;
    }

    /// From `now` on it must come this often; `None`: nothing is waited for. What is waited for stays to be seen where nothing was
    /// before: `begin` it if the application runs.
    pub(super) fn change(&mut self, timeout: Option<Duration>, now: Instant) {
        self.timeout = timeout;
        self.state = match self.state {
            _ if timeout.is_none() => State::Off,
            State::Awaited(_) | State::Alive(_) => State::Awaited(now),
            State::Off | State::Lost(_) => self.state,
        };
    }

    /// One came at `at`.
    pub(super) fn beat(&mut self, at: Instant) -> Option<Change> {
        self.last = Some(at);
        let before = self.state;
        match before {
            State::Off => None,
            State::Awaited(_) | State::Alive(_) => {
                self.state = State::Alive(at);
                None
            }
            State::Lost(since) => {
                self.state = State::Alive(at);
                Some(Change::Back(at.saturating_duration_since(since)))
            }
        }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Awaited(since) | State::Alive(since) => since.checked_add(self.timeout?),
            State::Off | State::Lost(_) => None,
        }
    }

    /// Looks whether it is overdue.
    pub(super) fn look(&mut self, now: Instant) -> Option<Change> {
        let deadline = self.deadline()?;
        let (State::Awaited(since) | State::Alive(since)) = self.state else { return None };
        if now < deadline {
            return None;
        }
        self.state = State::Lost(since);
        Some(Change::Lost(now.saturating_duration_since(since)))
    }

    pub(super) fn status(&self, now: Instant) -> HeartbeatStatus {
        let (state, since) = match self.state {
            State::Off => (HeartbeatState::Off, self.last),
            State::Awaited(since) => (HeartbeatState::Awaited, Some(since)),
            State::Alive(since) => (HeartbeatState::Alive, Some(since)),
            State::Lost(since) => (HeartbeatState::Lost, Some(since)),
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let age = since.map(|since| now.saturating_duration_since(since));
        HeartbeatStatus { state, age_ms: age.map(millis), timeout_ms: self.timeout.map(millis) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_application_that_never_beats_never_goes_unnoticed() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(Some(TIMEOUT));
        assert_eq!((heartbeat.look(after(start, 99)), heartbeat.deadline()), (None, None), "it does not run yet");
        heartbeat.begin(after(start, 100));
        assert_eq!(heartbeat.deadline(), Some(after(start, 130)));
        assert_eq!(heartbeat.look(after(start, 129)), None);
        assert_eq!(heartbeat.status(after(start, 129)).state, HeartbeatState::Awaited);
        assert_eq!(heartbeat.look(after(start, 130)), Some(Change::Lost(TIMEOUT)));
        assert_eq!(heartbeat.look(after(start, 131)), None, "said once");
        let status = heartbeat.status(after(start, 135));
        assert_eq!(
            (status.state, status.age_ms, status.timeout_ms),
            (HeartbeatState::Lost, Some(35_000), Some(30_000))
        );
    }

    #[test]
    fn a_heartbeat_that_is_back_never_stays_lost() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(Some(TIMEOUT));
        heartbeat.begin(start);
        assert_eq!(heartbeat.beat(after(start, 20)), None);
        assert_eq!(heartbeat.look(after(start, 49)), None);
        assert_eq!(heartbeat.look(after(start, 50)), Some(Change::Lost(TIMEOUT)));
        assert_eq!(heartbeat.beat(after(start, 61)), Some(Change::Back(Duration::from_secs(41))));
        assert_eq!(heartbeat.status(after(start, 62)).state, HeartbeatState::Alive);
        assert_eq!(heartbeat.deadline(), Some(after(start, 91)));
        heartbeat.end();
        assert_eq!((heartbeat.look(after(start, 200)), heartbeat.deadline()), (None, None), "it does not run");
        assert_eq!(heartbeat.beat(after(start, 210)), None);
        heartbeat.begin(after(start, 220));
        assert_eq!(heartbeat.deadline(), Some(after(start, 250)), "each run has its own clock");
    }

    #[test]
    fn a_new_timeout_never_costs_an_application_its_chance_nor_brings_a_lost_one_back() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(Some(TIMEOUT));
        heartbeat.begin(start);
        heartbeat.beat(after(start, 10));
        // It has been silent for longer than the new one allows, which was not asked of it before.
        heartbeat.change(Some(TIMEOUT / 10), after(start, 30));
        assert_eq!((heartbeat.look(after(start, 32)), heartbeat.deadline()), (None, Some(after(start, 33))));
        assert_eq!(heartbeat.look(after(start, 33)), Some(Change::Lost(TIMEOUT / 10)));
        heartbeat.change(Some(TIMEOUT), after(start, 34));
        assert_eq!(heartbeat.status(after(start, 35)).state, HeartbeatState::Lost);
        assert!(matches!(heartbeat.beat(after(start, 36)), Some(Change::Back(_))));
        assert_eq!(heartbeat.deadline(), Some(after(start, 66)));
        heartbeat.change(None, after(start, 40));
        assert_eq!((heartbeat.look(after(start, 99)), heartbeat.beat(after(start, 99))), (None, None));
        heartbeat.change(Some(TIMEOUT), after(start, 100));
        assert_eq!(heartbeat.deadline(), None, "nobody knows here whether it runs");
    }

    #[test]
    fn nothing_is_ever_lost_that_nobody_waits_for() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(None);
        heartbeat.begin(start);
        assert_eq!((heartbeat.beat(start), heartbeat.look(after(start, 9_999))), (None, None));
        let status = heartbeat.status(after(start, 5));
        assert_eq!((status.state, status.age_ms, status.timeout_ms), (HeartbeatState::Off, Some(5000), None));
    }
}
