//! What the service may do, and what it can do all the same.

use crate::common::SOON;
use crate::common::device::Device;
use crate::gateway::{Gateway, SIDECAR};
use serde_json::Value;
use std::process::Command;

const METER: &str = "[[serial]]\nname = \"meter\"\npath = \"/dev/meter\"\ncommands = { allow = [\"SET *\"] }";

/// What `systemd-analyze` finds open. All that pillion is for needs these: the machine's figures in /proc, its devices, its network,
/// and the names of its users.
const OPEN: [&str; 10] = [
    "DeviceAllow=",
    "IPAddressDeny=",
    "PrivateDevices=",
    "PrivateNetwork=",
    "PrivateUsers=",
    "ProcSubset=",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "RestrictAddressFamilies=~AF_NETLINK",
    "RestrictAddressFamilies=~AF_UNIX",
    "RootDirectory=/RootImage=",
];

#[test]
fn the_sandbox_never_gets_wider() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.start();
    let report = gateway.container.shell("systemd-analyze security --no-pager pillion@gateway");
    println!("{report}");
    let verdict = report.lines().last().unwrap();
    let score: f64 = verdict.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(score < 1.5, "{verdict}");
    let mut open: Vec<&str> =
        report.lines().filter_map(|line| line.strip_prefix("✗ ")?.split_whitespace().next()).collect();
    open.sort_unstable();
    assert_eq!(open, OPEN);
    // Nor do its limits: the application comes first.
    let limits =
        [("MemoryHigh", 40 << 20), ("MemoryMax", 48 << 20), ("TasksMax", 32), ("CPUWeight", 50), ("IOWeight", 50)];
    for (limit, value) in limits {
        assert_eq!(gateway.container.property(SIDECAR, limit), value.to_string(), "{limit}");
    }
}

#[test]
fn the_sandbox_never_keeps_a_serial_device_from_working() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.configure(METER);
    // Unlike a real port a PTY needs no DeviceAllow=, but the group.
    let device = Device::of(gateway.container.path("/dev/pts/ptmx"), gateway.container.path("/dev/meter"));
    gateway.container.shell("chgrp --dereference dialout /dev/meter && chmod 660 /dev/meter");
    gateway.start();
    gateway.expect_status("the device", |status| status["devices"]["meter"]["state"] == "online");
    device.line("220 V");
    gateway.subscriber.expect_text("telemetry", "220 V");
    gateway.container.shell("runuser -u pillion -- pillion command meter 'SET 5'");
    assert_eq!(device.hear(SOON), b"SET 5\n");
}

#[test]
fn a_device_of_another_kind_is_never_opened() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.configure(METER);
    // Major 240 is for experiments (Documentation/admin-guide/devices.txt). Its mode lets everybody in, the unit does not.
    gateway.container.shell("mknod --mode=666 /dev/meter c 240 0");
    gateway.start();
    let reason = |status: &Value| status["devices"]["meter"]["reason"].as_str().unwrap_or_default().to_owned();
    gateway.expect_status("the refusal", |status| reason(status).contains("no permission"));
    // Nothing is behind it, but now it may look.
    gateway.drop_in("DeviceAllow=/dev/meter rw");
    gateway.container.shell(&format!("systemctl restart {SIDECAR}"));
    let status = gateway.expect_status("a try", |status| !reason(status).is_empty());
    assert!(!reason(&status).contains("no permission"), "{status:#}");
}

#[test]
fn the_sandbox_never_hides_the_machine() {
    let Some(gateway) = Gateway::boot() else { return };
    // It has the loopback alone, and no tool for more; but this thread is on its network.
    let make = "ip link add eth7 type veth peer name eth8 && ip address add 192.0.2.77/24 dev eth7";
    if !Command::new("sh").args(["-c", make]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: no network interface can be made here (needs iproute2)");
        return;
    }
    gateway.start();
    let told = gateway.request("GET", "/v1/environment", "").unwrap().json;
    let (machine, host) = (&told["machine"], &told["host"]);
    assert_eq!(host["network"]["eth7"]["addresses"], serde_json::json!(["192.0.2.77"]), "{told:#}");
    assert_eq!(machine["os"]["version"], "12", "{told:#}");
    assert_eq!(machine["kernel"], gateway.container.shell("uname -r").trim());
    for (place, known) in [(host, "uptime_s"), (host, "load"), (host, "memory"), (host, "disk"), (machine, "cpus")] {
        assert!(!place[known].is_null(), "no {known} in {told:#}");
    }
    // Its time service does not run in a container, and pillion doesn't make it up.
    assert_eq!(host["clock"], "unknown", "{told:#}");
}
