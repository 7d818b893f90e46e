//! The accompanied application as numbers.

use super::family::{Family, Value, counter_if_known, gauge_if_known, moment};
use super::text::Text;
use crate::stats::{AppState, AppStatus, HeartbeatState};

const APP: &[Family<AppStatus>] = &[
    gauge_if_known("pillion_app_up", "Whether the application's unit runs; none if nobody knows.", |app| {
        (app.state != AppState::Unknown).then_some(Value::Flag(app.state == AppState::Running))
    }),
    moment("pillion_app_since_timestamp_seconds", "When the application came into its state.", |app| app.since_ms),
    gauge_if_known("pillion_app_pid", "The application's main process.", |app| {
        app.pid.map(|pid| Value::Count(pid.into()))
    }),
    counter_if_known(
        "pillion_app_restarts",
        "Times that systemd has started the application again by itself.",
        |app| app.restarts.map(Value::Count),
    ),
    counter_if_known("pillion_app_cpu_seconds", "Processor time of the application.", |app| {
        app.usage.cpu_ns.map(Value::Nanos)
    }),
    gauge_if_known("pillion_app_memory_bytes", "Memory of the application, its page cache included.", |app| {
        app.usage.memory_bytes.map(Value::Count)
    }),
    gauge_if_known("pillion_app_memory_peak_bytes", "The most memory that the application has had.", |app| {
        app.usage.memory_peak.map(Value::Count)
    }),
    gauge_if_known("pillion_app_memory_limit_bytes", "The memory that the application may have.", |app| {
        app.usage.memory_limit.map(Value::Count)
    }),
    gauge_if_known("pillion_app_tasks", "Processes and threads of the application.", |app| {
        app.usage.tasks.map(Value::Count)
    }),
    gauge_if_known("pillion_app_descriptors", "Open descriptors of the application's main process.", |app| {
        app.usage.descriptors.map(Value::Count)
    }),
    gauge_if_known(
        "pillion_app_heartbeat_up",
        "Whether the application's heartbeat comes in time; none if none is awaited.",
        |app| {
            (app.heartbeat.state != HeartbeatState::Off)
                .then_some(Value::Flag(app.heartbeat.state != HeartbeatState::Lost))
        },
    ),
    gauge_if_known("pillion_app_heartbeat_age_seconds", "Time since the application's last heartbeat.", |app| {
        app.heartbeat.age_ms.map(Value::Millis)
    }),
    gauge_if_known(
        "pillion_app_heartbeat_timeout_seconds",
        "The time that the application has for each heartbeat.",
        |app| app.heartbeat.timeout_ms.map(Value::Millis),
    ),
];

/// How the application ended last.
const LAST_EXIT: &[Family<AppStatus>] = &[
    gauge_if_known("pillion_app_last_exit_timestamp_seconds", "When the application ended last.", |app| {
        app.last_exit.as_ref()?.at_ms.map(Value::Millis)
    }),
    gauge_if_known(
        "pillion_app_last_exit_code",
        "The application's last exit code, where it exited by itself.",
        |app| app.last_exit.as_ref()?.code.and_then(|code| u64::try_from(code).ok()).map(Value::Count),
    ),
];

pub(super) fn write(text: &mut Text, app: Option<&AppStatus>) {
    text.families(APP, || app.map(|app| (vec![], app)));
    text.families(LAST_EXIT, || {
        app.map(|app| (app.last_exit.iter().map(|exit| ("cause", exit.cause.as_str())).collect(), app))
    });
}
