//! What pillion tells systemd (sd_notify(3)). Without systemd nothing is sent and nothing fails.

use crate::stats::{DeviceState, HealthState, Status};
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

/// One line for `systemctl status`.
pub(super) fn headline(status: &Status) -> String {
    let waiting: u64 = status.streams.values().map(|stream| stream.waiting).sum();
    let online = status.devices.values().filter(|device| device.state == DeviceState::Online).count();
    let verdict = if status.health.state == HealthState::Failed { "Failed" } else { "Degraded" };
    let mut line = match status.health.reasons.as_slice() {
        [] => format!("Healthy: connected to {}", status.link.server.as_deref().unwrap_or("the broker")),
        [reason] => format!("{verdict}: {reason}"),
        [reason, rest @ ..] => format!("{verdict}: {reason} (and {} more)", rest.len()),
    };
    if !status.devices.is_empty() {
        line += &format!("; {online} of {} devices online", status.devices.len());
    }
    line + &format!("; {waiting} waiting")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::stats::{DeviceStatus, Health, HostStatus, LinkStatus, StreamStatus};

    /// A status with these reasons, a stream and a device that is not open.
    pub(in crate::health) fn status(reasons: &[&str]) -> Status {
        let state = if reasons.is_empty() { HealthState::Healthy } else { HealthState::Degraded };
        let stream = StreamStatus { waiting: 3, ..StreamStatus::default() };
        Status {
            version: "0".into(),
            instance: "gw".into(),
            uptime_s: 0,
            health: Health { state, reasons: reasons.iter().map(ToString::to_string).collect() },
            configuration: None,
            link: LinkStatus { server: Some("mqtt://b:1883".into()), ..LinkStatus::default() },
            streams: [("telemetry".to_owned(), stream)].into(),
            devices: [("meter".to_owned(), DeviceStatus::closed("serial", 0))].into(),
            commands: None,
            inbox: None,
            config: None,
            api: None,
            app: None,
            logs: None,
            host: HostStatus::default(),
        }
    }

    #[test]
    fn the_status_line_never_hides_what_is_wrong() {
        assert_eq!(headline(&status(&[])), "Healthy: connected to mqtt://b:1883; 0 of 1 devices online; 3 waiting");
        assert!(headline(&status(&["a is off", "b is off"])).starts_with("Degraded: a is off (and 1 more); "));
    }
}
