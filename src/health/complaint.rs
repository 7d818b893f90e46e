//! What is wrong, in words: one complaint for each thing, with what to do about it.
//!
//! Pure: parts of the status go in, complaints come out. A complaint has a name beside its sentence: numbers and reasons in a
//! sentence change all the time, and only a new name is news.

use crate::record::rfc3339;
use crate::stats::{
    BudgetStatus, CommandsStatus, DeviceState, DeviceStatus, HealthState, InboxStatus, LinkState, LinkStatus,
    SettingsStatus, StreamStatus,
};
use std::collections::BTreeMap;

/// Something that is wrong: what, for telling whether it changed, and the sentence for people.
#[derive(Debug, Clone)]
pub(super) struct Complaint {
    pub(super) what: String,
    pub(super) text: String,
    /// Whether it is the application that is lost.
    pub(super) is_lost: bool,
}

impl Complaint {
    /// About anything but the application.
    pub(super) fn of(what: impl Into<String>, text: impl Into<String>) -> Self {
        Complaint { what: what.into(), text: text.into(), is_lost: false }
    }
}

/// What all of them come to.
pub(super) fn verdict(complaints: &[Complaint]) -> HealthState {
    match complaints {
        [] => HealthState::Healthy,
        complaints if complaints.iter().any(|complaint| complaint.is_lost) => HealthState::Failed,
        _ => HealthState::Degraded,
    }
}

/// The connection to the broker, and what may be sent over it.
pub(super) fn of_link(link: &LinkStatus) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut complain = |what: String, text: String| complaints.push(Complaint::of(what, text));
    if !matches!(link.state, LinkState::Connected | LinkState::Draining) {
        let server = link.server.as_deref().unwrap_or("a broker");
        let reason = link.reason.as_deref().unwrap_or("not tried yet");
        complain("link".to_owned(), format!("not connected to {server}: {reason}"));
    }
    if let Some(BudgetStatus { limit, ends_ms, .. }) = link.budget.as_ref().filter(|budget| budget.used >= budget.bytes)
    {
        let until = ends_ms.map_or_else(|| "its next period".to_owned(), rfc3339);
        complain(
            "budget".to_owned(),
            format!("all of mqtt.budget ({limit}) is used up: nothing is sent until {until}"),
        );
    }
    complaints
}

/// Devices that can't be talked to.
pub(super) fn of_devices(devices: &BTreeMap<String, DeviceStatus>) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut complain = |what: String, text: String| complaints.push(Complaint::of(what, text));
    for (name, device) in devices {
        if device.state == DeviceState::Offline {
            let reason = device.reason.as_deref().unwrap_or("no reason known");
            complain(format!("device {name}"), format!("{} device {name} is offline: {reason}", device.kind));
        }
    }
    complaints
}

/// Streams whose disks fail.
pub(super) fn of_streams(streams: &BTreeMap<String, StreamStatus>) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut complain = |what: String, text: String| complaints.push(Complaint::of(what, text));
    for (name, stream) in streams {
        if let Some(error) = &stream.disk_error {
            complain(format!("disk {name}"), format!("stream {name} is held in memory, the disk fails: {error}"));
        }
        if let Some(error) = &stream.runtime_error {
            let text = format!("a kill would cost stream {name} what is not on flash, runtime_dir fails: {error}");
            complain(format!("runtime_dir {name}"), text);
        }
    }
    complaints
}

/// The session in which commands come, and their journal.
pub(super) fn of_commands(commands: &CommandsStatus, link: LinkState) -> Vec<Complaint> {
    let CommandsStatus { session, counts } = commands;
    let mut complaints = Vec::new();
    // Without a link that has been said.
    if link == LinkState::Connected && session.state != LinkState::Connected {
        let server = session.server.as_deref().unwrap_or("a broker");
        let reason = session.reason.as_deref().unwrap_or("not tried yet");
        let text = format!("not connected to {server} for commands: {reason}");
        complaints.push(Complaint::of("commands", text));
    }
    for filter in &session.denied {
        let text = format!("the broker does not allow to subscribe to {filter}; allow that in its access control");
        complaints.push(Complaint::of(format!("subscription {filter}"), text));
    }
    for filter in &session.set_aside {
        let text = format!(
            "{filter} is not subscribed to, since the broker seems to keep a message there that is too large or no MQTT; \
             remove that, then restart pillion or wait for a day"
        );
        complaints.push(Complaint::of(format!("subscription {filter}"), text));
    }
    if let Some(error) = &counts.journal_error {
        let text = format!("commands are refused, for they can't be noted: {error}");
        complaints.push(Complaint::of("journal of commands", text));
    }
    complaints
}

pub(super) fn of_inbox(inbox: &InboxStatus) -> Option<Complaint> {
    let error = inbox.error.as_ref()?;
    Some(Complaint::of("inbox", format!("messages for the application can't be kept, and have to come again: {error}")))
}

/// The application's configuration.
pub(super) fn of_config(config: &SettingsStatus) -> Option<Complaint> {
    let error = config.error.as_ref()?;
    Some(Complaint::of(
        "config",
        format!("the application's configuration can't be kept, and has to come again: {error}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::notify::tests::status;
    use crate::stats::Status;

    #[test]
    fn what_fails_never_goes_without_a_complaint() {
        let mut status = status(&[]);
        let wrong = |status: &Status| -> Vec<String> {
            let devices_and_streams = of_devices(&status.devices).into_iter().chain(of_streams(&status.streams));
            of_link(&status.link).into_iter().chain(devices_and_streams).map(|complaint| complaint.what).collect()
        };
        assert_eq!(wrong(&status), ["link", "device meter"]);
        status.link.state = LinkState::Connected;
        let used_up = BudgetStatus { limit: "1MiB/day".into(), bytes: 1 << 20, used: 1 << 20, ends_ms: Some(0) };
        status.link.budget = Some(BudgetStatus { used: 1, ..used_up.clone() });
        assert_eq!(wrong(&status), ["device meter"]);
        status.link.budget = Some(used_up);
        assert_eq!(wrong(&status), ["budget", "device meter"]);
        status.link.budget = None;
        status.devices.clear();
        assert!(wrong(&status).is_empty());
        status.streams.values_mut().for_each(|stream| stream.disk_error = Some("full".into()));
        assert_eq!(wrong(&status), ["disk telemetry"]);
        status.streams.values_mut().for_each(|stream| stream.runtime_error = Some("full".into()));
        assert_eq!(wrong(&status), ["disk telemetry", "runtime_dir telemetry"]);
        let mut commands = CommandsStatus::default();
        commands.counts.journal_error = Some("full".into());
        let wrong_with = |commands: &CommandsStatus, link| -> Vec<String> {
            of_commands(commands, link).into_iter().map(|complaint| complaint.what).collect()
        };
        let wrong = |commands: &CommandsStatus| wrong_with(commands, LinkState::Connected);
        assert_eq!(wrong(&commands), ["commands", "journal of commands"]);
        assert_eq!(wrong_with(&commands, LinkState::Disconnected), ["journal of commands"], "told with the link");
        commands.session.state = LinkState::Connected;
        commands.counts.journal_error = None;
        assert!(wrong(&commands).is_empty());
    }
}
