//! The flows that go on while what they go by changes: each looks at the latest settings of its own.

use super::listening::Listening;
use super::plan;
use crate::app::journal::Journal;
use crate::config::{self, Config};
use crate::{accompany, health, host, logs};
use tokio::sync::watch;

/// What tells them.
pub(super) struct Adjustable {
    pub(super) health: watch::Sender<health::Settings>,
    pub(super) companion: watch::Sender<accompany::Settings>,
    pub(super) logs: watch::Sender<logs::Settings>,
}

impl Adjustable {
    /// As this configuration says.
    pub(super) fn new(config: &Config, listening: &Listening) -> Self {
        Adjustable {
            health: watch::Sender::new(of_health(config, listening)),
            companion: watch::Sender::new(of_companion(config)),
            logs: watch::Sender::new(of_logs(config)),
        }
    }

    /// The application's heartbeat and log go by this configuration from now on.
    pub(super) fn app(&self, config: &Config) {
        self.companion.send_replace(of_companion(config));
        self.logs.send_replace(of_logs(config));
    }

    /// So does what health looks at.
    pub(super) fn health(&self, config: &Config, listening: &Listening) {
        self.health.send_replace(of_health(config, listening));
    }
}

fn of_health(config: &Config, listening: &Listening) -> health::Settings {
    let config::Health { interval, limits } = config.health;
    health::Settings {
        interval,
        limits,
        listens: listening.is_needed(plan::takes_commands(config)),
        accompanies: config.app.unit.is_some() || config.app.heartbeat_timeout.is_some(),
    }
}

fn of_companion(config: &Config) -> accompany::Settings {
    accompany::Settings { heartbeat_timeout: config.app.heartbeat_timeout, logs: config.app.logs }
}

fn of_logs(config: &Config) -> logs::Settings {
    let config::App { unit, logs, log_level, log_rate, recorder, .. } = &config.app;
    logs::Settings {
        journal: unit.clone().filter(|_| *logs).map(Journal::of),
        unit: unit.clone(),
        level: *log_level,
        rate: *log_rate,
        recorder: *recorder,
        max_payload: config.mqtt.max_payload,
        runtime_dir: config.runtime_dir.clone(),
        state_dir: config.state_dir.clone(),
        boot_id: host::boot_id(),
    }
}
