//! When the publisher has to look at something though nothing happened.
//!
//! Checked lazily: one timer is armed for the earliest time and moved to a later one only when a ping was answered, so
//! that a record costs no timer.

use crate::mqtt::keep_alive::KeepAlive;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// "Not armed": a time that no timer reaches.
pub(super) const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is due when.
pub(super) struct Timers {
    pub(super) alarm: Pin<Box<Sleep>>,
    pub(super) keep_alive: KeepAlive,
    pub(super) ack_check: Instant,
    pub(super) report: Instant,
    /// A batch has waited long enough.
    pub(super) batch: Instant,
    /// A stream need not wait any longer.
    pub(super) gate: Instant,
    /// What the alarm is set to has become later.
    relaxed: bool,
    /// The address of this end has gone, and the broker was asked whether it is still there.
    uprooted: bool,
}

impl Timers {
    pub(super) fn new() -> Self {
        let (now, far) = (Instant::now(), Instant::now() + NEVER);
        let keep_alive = KeepAlive::new(NEVER, now);
        Timers {
            alarm: Box::pin(sleep(NEVER)),
            keep_alive,
            ack_check: far,
            report: far,
            batch: far,
            gate: far,
            relaxed: false,
            uprooted: false,
        }
    }

    /// For a new connection.
    pub(super) fn restart(&mut self, keep_alive: Duration) {
        self.keep_alive = KeepAlive::new(keep_alive, Instant::now());
        self.uprooted = false;
        self.go_on();
    }

    /// For one that another configuration has left: what the broker expects of it, and we of the broker, stays due when it was.
    pub(super) fn go_on(&mut self) {
        let far = Instant::now() + NEVER;
        (self.ack_check, self.report, self.batch, self.gate) = (far, far, far, far);
        self.relaxed = true;
    }

    /// The broker has spoken.
    pub(super) fn heard(&mut self) {
        self.relaxed |= self.keep_alive.heard();
        self.uprooted = false;
    }

    /// The address of this end has gone. The caller pings, and that must be answered within this time.
    pub(super) fn uprooted(&mut self, within: Duration) {
        self.keep_alive.test(Instant::now(), within);
        self.uprooted = true;
    }

    pub(super) fn is_uprooted(&self) -> bool {
        self.uprooted
    }

    /// No record waits for a time.
    pub(super) fn wait_for_nobody(&mut self) {
        (self.batch, self.gate) = (self.keep_alive.due() + NEVER, self.keep_alive.due() + NEVER);
    }

    pub(super) fn arm(&mut self) {
        let earliest = self.keep_alive.due().min(self.ack_check).min(self.report).min(self.batch).min(self.gate);
        let relaxed = std::mem::take(&mut self.relaxed);
        if relaxed || earliest < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(earliest);
        }
    }
}
