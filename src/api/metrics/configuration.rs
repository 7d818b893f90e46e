//! The configuration that runs, and what became of reading it again.

use super::{Family, Value, counter, gauge};
use crate::stats::ConfigurationStatus;

pub(super) const CONFIGURATION: [Family<ConfigurationStatus>; 6] = [
    gauge("pillion_configuration_in_force", "Whether what was read last is what runs.", |configuration| {
        Some(Value::Flag(configuration.last_reload.as_ref().is_none_or(|reload| reload.is_done())))
    }),
    gauge("pillion_configuration_loaded_timestamp_seconds", "When what runs was read.", |configuration| {
        Some(Value::Millis(configuration.loaded_ms))
    }),
    gauge("pillion_configuration_reload_timestamp_seconds", "When it was read last.", |configuration| {
        Some(Value::Millis(configuration.last_reload.as_ref()?.at_ms))
    }),
    counter("pillion_configuration_applied", "Reloads that changed something.", |configuration| {
        Some(Value::Count(configuration.applied))
    }),
    counter("pillion_configuration_unchanged", "Reloads with nothing to change.", |configuration| {
        Some(Value::Count(configuration.unchanged))
    }),
    counter("pillion_configuration_refused", "Reloads of what was wrong or needed a restart.", |configuration| {
        Some(Value::Count(configuration.refused))
    }),
];
