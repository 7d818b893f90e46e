//! The flows that go on while what they go by changes: each looks at the latest settings of its own.

use super::listening::Listening;
use super::plan::{self, Settings};
use crate::api::access::Access;
use crate::app::journal::Journal;
use crate::config::{self, Config};
use crate::{accompany, api, health, host, logs};
use tokio::sync::watch;

/// What tells them.
pub(super) struct Adjustable {
    pub(super) api: watch::Sender<api::Rules>,
    pub(super) health: watch::Sender<health::Settings>,
    pub(super) companion: watch::Sender<accompany::Settings>,
    pub(super) logs: watch::Sender<logs::Settings>,
}

impl Adjustable {
    /// As these settings say.
    pub(super) fn new(settings: &Settings, listening: &Listening) -> Self {
        Adjustable {
            api: watch::Sender::new(of_api(settings)),
            health: watch::Sender::new(of_health(settings, listening)),
            companion: watch::Sender::new(of_companion(&settings.config)),
            logs: watch::Sender::new(of_logs(&settings.config)),
        }
    }

    /// The application's heartbeat and log go by these settings from now on.
    pub(super) fn app(&self, settings: &Settings) {
        self.companion.send_replace(of_companion(&settings.config));
        self.logs.send_replace(of_logs(&settings.config));
    }

    /// So do the local API, ...
    pub(super) fn api(&self, settings: &Settings) {
        self.api.send_replace(of_api(settings));
    }

    /// ... and what health looks at.
    pub(super) fn health(&self, settings: &Settings, listening: &Listening) {
        self.health.send_replace(of_health(settings, listening));
    }
}

fn of_api(Settings { config, streams, .. }: &Settings) -> api::Rules {
    let (access, unknown) = Access::of_this_machine(&config.api);
    unknown.iter().for_each(|name| tracing::warn!("{name}"));
    api::Rules { streams: streams.open(), access }
}

fn of_health(Settings { config, streams, .. }: &Settings, listening: &Listening) -> health::Settings {
    let config::Health { interval, limits } = config.health;
    health::Settings {
        streams: streams.names(),
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
