//! When the publisher has to look at something though nothing happened.
//!
//! Checked lazily: one timer is armed for the earliest time and never moved to a later one, so that a record costs no timer.

use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// "Not armed": a time that no timer reaches.
pub(super) const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is due when.
pub(super) struct Timers {
    pub(super) alarm: Pin<Box<Sleep>>,
    pub(super) keep_alive: Instant,
    pub(super) ack_check: Instant,
    pub(super) report: Instant,
    /// A batch has waited long enough.
    pub(super) batch: Instant,
    pub(super) heard: bool,
}

impl Timers {
    pub(super) fn new() -> Self {
        let far = Instant::now() + NEVER;
        Timers { alarm: Box::pin(sleep(NEVER)), keep_alive: far, ack_check: far, report: far, batch: far, heard: false }
    }

    /// For a new connection.
    pub(super) fn restart(&mut self, keep_alive: Duration) {
        let now = Instant::now();
        self.keep_alive = now + keep_alive;
        self.ack_check = now + NEVER;
        self.report = now + NEVER;
        self.batch = now + NEVER;
        self.heard = true;
        self.alarm.as_mut().reset(self.keep_alive);
    }

    pub(super) fn arm(&mut self) {
        let earliest = self.keep_alive.min(self.ack_check).min(self.report).min(self.batch);
        if earliest < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(earliest);
        }
    }
}
