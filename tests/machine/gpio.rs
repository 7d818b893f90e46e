//! GPIO lines of a real kernel: edges are counted and timed, outputs are left alone.
//!
//! The machine's own chip is a pl061. Its line 3 is the power button, and what its pins do is seen from outside by QEMU. Its
//! other lines can't be moved from outside; for edges by the thousand there is a second chip, the kernel's own simulator.

use crate::common::SOON;
use crate::common::subscriber::Inbox;
use crate::gateway::{Gateway, SIDECAR};
use crate::machine::{HOST, Machine};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// Moves a line of gpio-sim. Arguments: its file `pull`, how many edges, how many of them in a second. 113 is clock_gettime.
const PULSES: &str = r#"use strict;
my ($file, $count, $rate) = @ARGV;
open(my $pull, '>', $file) or die "$file: $!";
sub now { my $time = pack('qq', 0, 0); syscall(113, 1, $time); my ($s, $ns) = unpack('qq', $time); $s + $ns / 1e9 }
my $start = now();
for my $number (1 .. $count) {
    my $left = $start + $number / $rate - now();
    select(undef, undef, undef, $left) if $left > 0;
    syswrite($pull, $number % 2 ? 'pull-up' : 'pull-down') or die $!;
}
printf("%.3f\n", now() - $start);
"#;

/// Where its chip is set up.
const SIMULATED: &str = "/sys/kernel/config/gpio-sim/test";

/// A chip of gpio-sim with one line, and one processor to serve it.
///
/// The kernel numbers edges on a thread, to which the interrupt says no more than that it shall look. Two that come before it
/// has run are one, and nobody is told. On real hardware that is a matter of microseconds; here the second processor may
/// wait for milliseconds for its turn on a machine that is busy with other tests. With one processor the thread runs before
/// whoever moved the line goes on.
struct Simulator<'a> {
    machine: &'a Machine,
    /// Such as gpiochip1.
    chip: String,
    /// The file that moves the line.
    pull: String,
}

impl<'a> Simulator<'a> {
    fn start(machine: &'a Machine) -> Self {
        machine.write("/root/pulses", PULSES);
        machine
            .shell("modprobe gpio-sim && (mountpoint -q /sys/kernel/config || mount -t configfs x /sys/kernel/config)");
        machine.shell(&format!("mkdir -p {SIMULATED}/bank && echo 1 > {SIMULATED}/live && udevadm settle"));
        machine.shell("echo 0 > /sys/devices/system/cpu/cpu1/online");
        let chip = machine.shell(&format!("cat {SIMULATED}/bank/chip_name"));
        let device = machine.shell(&format!("cat {SIMULATED}/dev_name"));
        Simulator { machine, pull: format!("/sys/devices/platform/{device}/{chip}/sim_gpio0/pull"), chip }
    }

    /// Gives the line 1,000 edges in a second, rising first.
    fn pulse(&self) {
        let interrupts = "awk '/irq_sim/ {sum = $2} END {print sum + 0}' /proc/interrupts";
        let before: u32 = self.machine.shell(interrupts).parse().unwrap();
        let seconds: f64 = self.machine.shell(&format!("perl /root/pulses {} 1000 1000", self.pull)).parse().unwrap();
        let after: u32 = self.machine.shell(interrupts).parse().unwrap();
        println!("{} interrupts in {seconds} s", after - before);
        assert_eq!(after - before, 1000, "the kernel was not given the edges");
        assert!(seconds < 1.5, "1,000 edges took {seconds} s");
    }
}

impl Drop for Simulator<'_> {
    fn drop(&mut self) {
        let _ = self.machine.try_run("echo 1 > /sys/devices/system/cpu/cpu1/online", b"");
        let _ = self.machine.try_run(&format!("echo 0 > {SIMULATED}/live; rmdir {SIMULATED}/bank {SIMULATED}"), b"");
    }
}

/// A table of an input.
fn input(name: &str, chip: &str, line: u8, more: &str) -> String {
    format!("[[gpio]]\nname = {name:?}\nchip = {chip:?}\nline = {line}\ndirection = \"input\"\n{more}\n")
}

/// A table of an output of the machine's own chip.
fn output(name: &str, line: u8, more: &str) -> String {
    format!(
        "[[gpio]]\nname = {name:?}\nchip = \"gpiochip0\"\nline = {line}\ndirection = \"output\"\ncommands = {{ allow = [\"on\", \"off\"] }}\n{more}\n"
    )
}

#[test]
fn a_counter_never_loses_an_edge_of_a_thousand_in_a_second() {
    let Some(gateway) = Gateway::install() else { return };
    let simulator = Simulator::start(&gateway.machine);
    let water = input("water", &simulator.chip, 0, "edge = \"both\"\ncounter = { interval = \"1s\" }");
    gateway.configure("sync = \"1s\"", &water);
    gateway.start();
    gateway.expect_device("water", "online");
    // The second thousand after a restart.
    for total in [1000, 2000] {
        simulator.pulse();
        let counted = |status: &Value| status["devices"]["water"]["gpio"]["count"].as_u64();
        let status = gateway.expect_status("the count", |status| counted(status) >= Some(total));
        assert_eq!(counted(&status), Some(total));
        assert_eq!(status["devices"]["water"]["gpio"]["lost"], 0);
        gateway.subscriber.expect("the published count", SOON, |inbox| {
            let last = inbox.on("p/device/water/data").last();
            last.is_some_and(|arrival| arrival.envelope["data"]["count"] == total)
        });
        gateway.restart();
    }
    gateway.stop();
    let deltas = |inbox: &Inbox| -> u64 {
        let records = inbox.on("p/device/water/data");
        records.map(|arrival| arrival.envelope["data"]["delta"].as_u64().unwrap()).sum()
    };
    assert_eq!(gateway.subscriber.read(deltas), 2000);
}

#[test]
fn no_edge_of_a_thousand_in_a_second_is_ever_missing_among_the_records() {
    let Some(gateway) = Gateway::install() else { return };
    let simulator = Simulator::start(&gateway.machine);
    gateway.configure("sync = \"1s\"", &input("door", &simulator.chip, 0, ""));
    gateway.start();
    gateway.expect_device("door", "online");
    simulator.pulse();
    let door = "p/device/door/data";
    // The first record is the level at the start.
    gateway.subscriber.expect("an edge for each", SOON, |inbox| inbox.count(door) == 1 + 1000);
    let records: Vec<Value> = gateway.subscriber.read(|inbox| inbox.on(door).map(|one| one.envelope.clone()).collect());
    assert_eq!(records[0]["data"], json!({"value": false}));
    for (number, pair) in records.windows(2).enumerate() {
        let rises = number % 2 == 0;
        let edge = if rises { "rising" } else { "falling" };
        assert_eq!(pair[1]["data"], json!({"value": rises, "edge": edge}), "edge {number}");
        assert!(time_ms(&pair[0]) <= time_ms(&pair[1]), "{pair:?}");
    }
    let status = gateway.status();
    assert_eq!(status["devices"]["door"]["gpio"]["lost"], 0, "{status:#}");
}

#[test]
fn an_edge_from_outside_never_has_another_time_than_the_kernels() {
    let Some(gateway) = Gateway::install() else { return };
    gateway.configure("sync = \"1s\"", &input("button", "gpiochip0", 3, ""));
    gateway.start();
    gateway.expect_device("button", "online");
    let button = "p/device/button/data";
    gateway.subscriber.expect("the level", SOON, |inbox| inbox.count(button) == 1);
    // pillion sleeps over the edges, and reads them long after.
    gateway.machine.shell(&format!("systemctl kill --signal=STOP {SIDECAR}"));
    let before = gateway.machine.now_ms();
    gateway.machine.press_button();
    gateway.machine.expect("the falling edge", "grep -q '[^0-9]2 .*pl061 *3 ' /proc/interrupts");
    let after = gateway.machine.now_ms();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(gateway.subscriber.read(|inbox| inbox.count(button)), 1, "it does not sleep");
    gateway.machine.shell(&format!("systemctl kill --signal=CONT {SIDECAR}"));

    gateway.subscriber.expect("both edges", SOON, |inbox| inbox.count(button) >= 3);
    let records: Vec<Value> =
        gateway.subscriber.read(|inbox| inbox.on(button).map(|one| one.envelope.clone()).collect());
    let data: Vec<&Value> = records.iter().map(|record| &record["data"]).collect();
    let expected =
        [json!({"value": false}), json!({"value": true, "edge": "rising"}), json!({"value": false, "edge": "falling"})];
    assert_eq!(data, expected.iter().collect::<Vec<_>>());
    let [rising, falling] = [1, 2].map(|number: usize| time_ms(&records[number]));
    assert!(before <= rising && falling <= after, "{before} {records:?} {after}");
    assert!((50..1000).contains(&(falling - rising)), "the button is down for 100 ms: {records:?}");
}

#[test]
fn a_restart_never_toggles_an_output() {
    let Some(gateway) = Gateway::install() else { return };
    // Name, pin, and the pin's level when it is on.
    let outputs = [("inverted", 4, false), ("held", 5, true), ("safe", 6, true), ("free", 7, true)];
    let settings = ["active_low = true", "hold = true", "safe = true", ""];
    let tables = outputs.iter().zip(settings).map(|((name, pin, _), more)| output(name, *pin, more));
    gateway.configure("sync = \"1s\"", &tables.collect::<String>());
    gateway.start();
    for (name, pin, level) in outputs {
        gateway.expect_device(name, "online");
        gateway.command(name, "on");
        assert_eq!(gateway.machine.levels(pin).last(), Some(&level), "{name} is switched on");
    }
    let before = outputs.map(|(_, pin, _)| gateway.machine.levels(pin));

    for _ in 0..3 {
        gateway.restart();
    }
    gateway.stop();
    gateway.start();
    for _ in 0..3 {
        let process = gateway.property("MainPID");
        gateway.machine.shell(&format!("systemctl kill --signal=KILL {SIDECAR}"));
        let another =
            format!("systemctl is-active -q {SIDECAR} && [ $(systemctl show -P MainPID {SIDECAR}) != {process} ]");
        gateway.machine.expect("another process", &another);
    }
    for (name, ..) in outputs {
        assert_eq!(gateway.expect_device(name, "online")["gpio"]["value"], true, "{name} is still on");
    }
    assert_eq!(outputs.map(|(_, pin, _)| gateway.machine.levels(pin)), before, "no pin has moved");

    // And what watches the pins is not asleep.
    for (name, pin, level) in outputs {
        gateway.command(name, "off");
        assert_eq!(gateway.machine.levels(pin).last(), Some(&!level), "{name} is switched off");
    }
}

#[test]
fn a_stop_never_leaves_an_output_unsafe() {
    let Some(gateway) = Gateway::install() else { return };
    let outputs = [output("valve", 5, "safe = false"), output("held", 6, "safe = false\nhold = true")];
    gateway.configure("sync = \"1s\"", &outputs.concat());
    gateway.start();
    for (name, pin) in [("valve", 5), ("held", 6)] {
        gateway.expect_device(name, "online");
        gateway.command(name, "on");
        assert_eq!(gateway.machine.levels(pin).last(), Some(&true), "{name} is switched on");
    }
    let [valve, held] = [5, 6].map(|pin| gateway.machine.levels(pin));
    gateway.stop();
    assert_eq!(gateway.machine.levels(5), [&valve[..], &[false]].concat(), "one edge, to the safe value");
    assert_eq!(gateway.machine.levels(6), held, "held as it was");
}

/// Waits until the valve has its safe value, for this reason, and no other pin has moved.
fn expect_safe(gateway: &Gateway, before: &[bool]) {
    gateway.expect_status("the safe value", |status| status["devices"]["valve"]["gpio"]["value"] == false);
    assert_eq!(gateway.machine.levels(5), [before, &[false]].concat(), "one edge, to the safe value");
    assert_eq!(gateway.machine.levels(6).last(), Some(&true), "it has no safe value");
    gateway.subscriber.expect("the reason", SOON, |inbox| {
        let last = inbox.on("p/device/valve/data").last();
        last.is_some_and(|arrival| arrival.envelope["data"] == json!({"value": false, "cause": "safe"}))
    });
}

/// Switches a valve with a safe value and a lamp without one on. Returns all levels that the valve had.
fn switch_on(gateway: &Gateway) -> Vec<bool> {
    for (name, pin) in [("valve", 5), ("lamp", 6)] {
        gateway.expect_device(name, "online");
        gateway.command(name, "on");
        assert_eq!(gateway.machine.levels(pin).last(), Some(&true), "{name} is switched on");
    }
    gateway.machine.levels(5)
}

fn valve_and_lamp() -> String {
    // Held over a stop, so that none can be the reason.
    output("valve", 5, "safe = false\nsafe_after = \"1s\"\nhold = true") + &output("lamp", 6, "")
}

#[test]
fn an_application_that_hangs_never_leaves_an_output_unsafe() {
    let Some(gateway) = Gateway::install() else { return };
    // A heartbeat takes seconds on an emulated machine that waits for its turn beside other tests.
    let app = "[app]\nunit = \"gateway.service\"\nheartbeat_timeout = \"20s\"\n";
    gateway.configure("sync = \"1s\"", &(valve_and_lamp() + app));
    gateway.start();
    // It beats until it is stopped, or pillion is.
    let beat = "curl -sS --fail -X POST --unix-socket /run/pillion/gateway/pillion.sock http://localhost/v1/heartbeat";
    let beats = format!("systemd-run --quiet --collect --unit=beats sh -c 'while {beat}; do sleep 1; done'");
    let heart = |status: &Value| status["app"]["heartbeat"]["state"].clone();
    gateway.machine.shell(&beats);
    gateway.expect_status("heartbeats", |status| heart(status) == "alive");
    let before = switch_on(&gateway);
    gateway.machine.shell("systemctl stop beats");
    expect_safe(&gateway, &before);
    let status = gateway.status();
    assert_eq!((heart(&status), &status["link"]["connects"]), (json!("lost"), &json!(1)), "{status:#}");
    let journal = gateway.machine.shell(&format!("journalctl --no-pager --unit={SIDECAR} --output=cat"));
    assert!(journal.contains("gets its safe value, false: the application is gone, or does not answer"), "{journal}");
    // And back again.
    gateway.machine.shell(&beats);
    gateway.expect_status("heartbeats", |status| heart(status) == "alive");
    switch_on(&gateway);
    gateway.machine.shell("systemctl stop beats");
    assert_eq!(gateway.property("NRestarts"), "0");
}

#[test]
fn a_broker_that_is_out_of_reach_never_leaves_an_output_unsafe() {
    let Some(gateway) = Gateway::install() else { return };
    gateway.configure("sync = \"1s\"", &valve_and_lamp());
    gateway.start();
    for _ in 0..2 {
        let before = switch_on(&gateway);
        gateway.relay.cut();
        gateway.expect_status("the loss", |status| status["link"]["state"] != "connected");
        gateway.expect_status("the safe value", |status| status["devices"]["valve"]["gpio"]["value"] == false);
        gateway.relay.open();
        expect_safe(&gateway, &before);
        gateway.expect_status("the link", |status| status["link"]["state"] == "connected");
    }
}

#[test]
fn a_line_that_another_holds_is_never_called_missing_or_driven() {
    let Some(gateway) = Gateway::install() else { return };
    gateway.configure("sync = \"1s\"", &output("relay", 5, ""));
    gateway.start();
    gateway.expect_device("relay", "online");
    gateway.command("relay", "on");
    let before = gateway.machine.levels(5);
    let folders = "instance = \"second\"\nstate_dir = \"/run/second/state\"\nruntime_dir = \"/run/second/run\"";
    let second =
        format!("{folders}\n[mqtt]\nservers = [\"mqtt://{HOST}:1\"]\n{}", output("other", 5, "initial = false"));
    gateway.machine.write("/run/second/second.toml", second);
    gateway.machine.shell("mkdir -p /run/second/{state,run}");
    gateway
        .machine
        .shell("systemd-run --quiet --unit=second --property=Type=notify pillion run --config /run/second/second.toml");
    let status = "pillion status --socket /run/second/run/pillion.sock --json";
    let status = gateway.machine.try_run(status, b"").unwrap().said;
    gateway.machine.shell("systemctl stop second; rm -r /run/second");
    let status: Value = serde_json::from_str(&status).unwrap_or_else(|error| panic!("{error}: {status}"));
    let other = &status["devices"]["other"];
    assert_eq!(other["state"], "offline");
    assert!(other["reason"].as_str().is_some_and(|reason| reason.contains("\"pillion\"")), "{other:#}");
    assert_eq!(gateway.machine.levels(5), before);
}

/// The time in a record's envelope, in milliseconds since the epoch.
fn time_ms(envelope: &Value) -> u64 {
    let time = humantime::parse_rfc3339(envelope["ts"].as_str().unwrap()).unwrap();
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
