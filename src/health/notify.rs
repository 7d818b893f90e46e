//! What pillion tells systemd (sd_notify(3)). Without systemd nothing is sent and nothing fails.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Pings in one watchdog interval: sd_watchdog_enabled(3) asks for two, a third forgives a busy moment.
const PINGS: u32 = 3;

/// systemd, if it started us.
pub(super) struct Systemd {
    watchdog: Option<Duration>,
    status: String,
    stuck: bool,
}

impl Systemd {
    /// Reads what systemd put into the environment.
    pub(super) fn from_env() -> Self {
        Systemd { watchdog: sd_notify::watchdog_enabled(), status: String::new(), stuck: false }
    }

    /// Ticks whenever the flows are to be asked and systemd is to be pinged; `None` without a watchdog.
    pub(super) fn watchdog_interval(&self) -> Option<Interval> {
        let period = (self.watchdog? / PINGS).max(Duration::from_millis(1));
        let mut interval = interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(interval)
    }

    /// Everything is up.
    pub(super) fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    /// What `systemctl status` shows. Sent only when it is another one.
    pub(super) fn status(&mut self, line: &str) {
        if self.status != line {
            line.clone_into(&mut self.status);
            send(&[NotifyState::Status(line)]);
        }
    }

    /// Pings, unless some flow is stuck: then the ping is left out, and systemd restarts us if that goes on.
    pub(super) fn watchdog(&mut self, stuck: &[String]) {
        if stuck.is_empty() {
            self.stuck = false;
            return send(&[NotifyState::Watchdog]);
        }
        if !self.stuck {
            self.stuck = true;
            let flows = stuck.join(", ");
            tracing::error!(flows, "no progress: {flows}; if that goes on, the watchdog restarts pillion");
        }
    }

    /// The stop has begun.
    pub(super) fn stopping(&self) {
        send(&[NotifyState::Stopping, NotifyState::Status("Stopping: handing over what waits")]);
    }
}

/// The configuration is being read again. With the time, for `Type=notify-reload` wants to know which reload is meant.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("systemd was not told: {error}"),
    }
}

/// That is over, with this outcome or that.
pub fn reloaded() {
    send(&[NotifyState::Ready]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd was not told: {error}");
    }
}
