//! The sections of a line or two. Each is left out where the sidecar has nothing of the kind.

use super::page::{Colour, MARGIN, Page, counted};
use crate::stats::{
    ApiStatus, CommandsStatus, ConfigurationStatus, InboxStatus, LogsState, LogsStatus, Outcomes, ReloadOutcome,
    SettingsStatus,
};

/// What became of reading the configuration again.
pub(super) fn reload(page: &mut Page, configuration: Option<&ConfigurationStatus>) {
    let Some(reload) = configuration.and_then(|configuration| configuration.last_reload.as_ref()) else { return };
    let outcome = match reload.outcome {
        ReloadOutcome::Applied => "applied",
        ReloadOutcome::Unchanged => "nothing had changed",
        ReloadOutcome::NeedsRestart => "refused, needs a restart",
        ReloadOutcome::Wrong => "refused, the configuration is wrong",
    };
    let ago = page.since(reload.at_ms);
    page.section("reload", &format!("{outcome}, {ago} ago"));
}

pub(super) fn commands(page: &mut Page, commands: Option<&CommandsStatus>) {
    let Some(CommandsStatus { counts, .. }) = commands else { return };
    let told = counted(&[
        (counts.done, "done"),
        (counts.failed, "failed"),
        (counts.expired, "too late"),
        (counts.refused, "refused"),
        (counts.repeated, "repeated"),
    ]);
    page.section("commands", or(&told, "none so far"));
}

/// Who asks for this screen is one of them.
pub(super) fn clients(page: &mut Page, api: Option<&ApiStatus>) {
    let Some(api) = api else { return };
    let sum = |count: fn(&Outcomes) -> u64| api.requests.values().map(count).fold(0, u64::saturating_add);
    let told = counted(&[
        (api.open, "open"),
        (sum(|outcomes| outcomes.ok), "requests answered"),
        (sum(|outcomes| outcomes.client_errors), "wrong"),
        (sum(|outcomes| outcomes.server_errors), "failed"),
        (api.sent_away, "sent away"),
        (api.forbidden, "forbidden"),
    ]);
    page.section("clients", or(&told, "none so far"));
}

/// Messages for the application.
pub(super) fn inbox(page: &mut Page, inbox: Option<&InboxStatus>) {
    let Some(inbox) = inbox else { return };
    let told = counted(&[
        (inbox.kept, "messages kept"),
        (inbox.received, "received"),
        (inbox.dropped, "dropped unread"),
        (inbox.refused, "refused"),
    ]);
    page.section("inbox", or(&told, "nothing so far"));
}

/// The application's configuration.
pub(super) fn config(page: &mut Page, config: Option<&SettingsStatus>) {
    let Some(config) = config else { return };
    let state = if config.synced { "synced" } else { "not synced" };
    let told = counted(&[
        (config.keys, "keys"),
        (config.refused, "refused"),
        (config.damaged, "damaged"),
        (config.unconfirmed, "unconfirmed"),
    ]);
    page.section("config", &and(state, &told));
}

/// The application's log.
pub(super) fn logs(page: &mut Page, logs: Option<&LogsStatus>) {
    let Some(logs) = logs else { return };
    let state = match logs.state {
        LogsState::Off => "by the local API only",
        LogsState::Starting => "starting",
        LogsState::Following => "followed",
        LogsState::Failed => "can't be read",
    };
    let told = counted(&[
        (logs.shipped, "lines shipped"),
        (logs.below_level, "below the level"),
        (logs.suppressed, "beyond the rate"),
        (logs.truncated, "cut"),
        (logs.rubbish, "not understood"),
        (logs.gaps, "gaps"),
    ]);
    page.item(&format!("{:MARGIN$}", "logs"), &and(state, &told));
    for error in [&logs.reason, &logs.note_error].into_iter().flatten() {
        page.note("", error, Colour::Bad);
    }
}

/// What is told, or these words where there is nothing to tell.
fn or<'a>(told: &'a str, nothing: &'a str) -> &'a str {
    if told.is_empty() { nothing } else { told }
}

/// A state, and what more is told, if anything.
fn and(state: &str, told: &str) -> String {
    if told.is_empty() { state.to_owned() } else { format!("{state}, {told}") }
}
