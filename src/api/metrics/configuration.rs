//! The configuration that runs, and what became of reading it again.

use super::family::{Family, Value, counter, flag, gauge_if_known, moment};
use super::text::Text;
use crate::stats::ConfigurationStatus;

const CONFIGURATION: &[Family<ConfigurationStatus>] = &[
    flag("pillion_configuration_in_force", "Whether what was read last is what runs.", |configuration| {
        configuration.last_reload.as_ref().is_none_or(|reload| reload.is_done())
    }),
    moment("pillion_configuration_loaded_timestamp_seconds", "When what runs was read.", |configuration| {
        configuration.loaded_ms
    }),
    gauge_if_known("pillion_configuration_reload_timestamp_seconds", "When it was read last.", |configuration| {
        Some(Value::Millis(configuration.last_reload.as_ref()?.at_ms))
    }),
    counter("pillion_configuration_applied", "Reloads that changed something.", |configuration| configuration.applied),
    counter("pillion_configuration_unchanged", "Reloads with nothing to change.", |configuration| {
        configuration.unchanged
    }),
    counter("pillion_configuration_refused", "Reloads of what was wrong or needed a restart.", |configuration| {
        configuration.refused
    }),
];

pub(super) fn write(text: &mut Text, configuration: Option<&ConfigurationStatus>) {
    text.families(CONFIGURATION, || configuration.map(|configuration| (vec![], configuration)));
}
