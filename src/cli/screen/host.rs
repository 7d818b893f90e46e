//! The machine: who it is, how it is doing, and its network.

use super::page::{Page, clean};
use crate::cli::quantity::{bytes, duration};
use crate::stats::{ClockSync, HostStatus, Interface};

pub(super) fn draw(page: &mut Page, host: &HostStatus) {
    let boot: String = clean(&host.boot_id).chars().take(8).collect();
    let rss = bytes(host.rss_bytes);
    page.section("host", &format!("{}, boot {boot}, pillion uses {rss}", clean(&host.name)));
    for words in [machine(host), network(host)].into_iter().filter(|words| !words.is_empty()) {
        page.more(&words.join(", "));
    }
}

/// How the machine is doing, as far as it tells.
fn machine(host: &HostStatus) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(host.uptime_s.map(|uptime| format!("up {}", duration(uptime))));
    words.extend(host.load.map(|load| format!("load {}", load.avg5)));
    words.extend(
        host.memory.map(|memory| {
            format!("memory {} of {} available", bytes(memory.available_bytes), bytes(memory.total_bytes))
        }),
    );
    words.extend(host.disk.map(|disk| format!("disk {} of {} free", bytes(disk.free_bytes), bytes(disk.total_bytes))));
    let hottest = host.temperatures.values().map(|sensor| sensor.celsius).max();
    words.extend(hottest.map(|celsius| format!("{celsius} C")));
    match host.clock {
        ClockSync::Synced => words.push("clock synced".to_owned()),
        ClockSync::Unsynced => words.push("CLOCK NOT SYNCED".to_owned()),
        ClockSync::Unknown => {}
    }
    if let Some(power) = host.power {
        let told = [
            (power.undervoltage, "UNDERVOLTAGE"),
            (power.undervoltage_since_boot == Some(true) && !power.undervoltage, "undervoltage since boot"),
            (power.throttled == Some(true), "THROTTLED"),
        ];
        words.extend(told.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word.to_owned()));
    }
    for (name, wear) in &host.flash {
        words.extend(wear.life_used_percent.map(|used| format!("{name} {used}% worn")));
    }
    words
}

/// Interfaces with their addresses, or their state if they have none.
fn network(host: &HostStatus) -> Vec<String> {
    let shown = |(name, interface): (&String, &Interface)| match interface.addresses.as_slice() {
        [] => format!("{name} {}", interface.state),
        addresses => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{name} {}", addresses.join(" "))
        }
    };
    host.network.iter().map(shown).collect()
}
