//! The messages that the broker keeps: that pillion is there, and how each device is.

use super::Identity;
use crate::record::{ClockQuality, Retained, Timestamp, rfc3339};
use crate::roster::Roster;
use crate::stats::DeviceState;
use serde::Serialize;
use std::collections::BTreeSet;

/// The payload of the birth on `P/status`.
#[derive(Serialize)]
struct Birth<'a> {
    state: DeviceState,
    version: &'a str,
    instance: &'a str,
    host: &'a str,
    boot_id: &'a str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'a str>,
}

/// The payload of `P/device/NAME/state`.
#[derive(Serialize)]
struct Presence<'a> {
    state: DeviceState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    since: String,
}

impl Identity {
    /// The retained message that says that pillion is there.
    pub fn birth(&self, now: Timestamp) -> Retained {
        let birth = Birth {
            state: DeviceState::Online,
            version: env!("CARGO_PKG_VERSION"),
            instance: &self.instance,
            host: &self.host.name,
            boot_id: &self.host.boot_id,
            since: rfc3339(now.wall_ms),
            clock: (now.quality == ClockQuality::Unsynced).then_some("unsynced"),
        };
        Retained { topic: "status".to_owned(), payload: json(&birth), device: None }
    }
}

/// All of them: the birth first, then each device, then empty ones for those that are `gone`.
pub(super) fn messages(birth: &Retained, devices: &Roster, gone: &BTreeSet<String>) -> Vec<Retained> {
    let mut messages = vec![birth.clone()];
    let topic = |name: &str| format!("device/{name}/state");
    for member in devices.iter() {
        let device = member.status.borrow();
        let presence =
            Presence { state: device.state, reason: device.reason.as_deref(), since: rfc3339(device.since_ms) };
        let is_online = device.state == DeviceState::Online;
        messages.push(Retained {
            topic: topic(&member.name),
            payload: json(&presence),
            device: Some((member.name.clone(), is_online)),
        });
    }
    // An empty one is what removes it at the broker (MQTT 3.1.1 section 3.3.1.3).
    messages.extend(gone.iter().map(|name| Retained {
        topic: topic(name),
        payload: String::new(),
        device: Some((name.clone(), false)),
    }));
    messages
}

/// These documents hold nothing that JSON can't say.
fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default()
}
