//! A serial device that comes and goes, and says strange things.

use super::{World, expect_open};
use crate::common::device::Device;
use crate::common::sidecar::Sidecar;
use crate::common::subscriber::Subscriber;
use serde_json::Value;
use std::time::{Duration, Instant};

const STATE: &str = "p/device/meter/state";
const DATA: &str = "p/device/meter/data";

#[test]
fn a_device_that_returns_never_needs_a_restart_and_never_spins_the_processor() {
    let world = World::new();
    let mut home = world.home();
    let mut device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let sidecar = Sidecar::start(home);
    for round in 1..=3 {
        world.subscriber.expect_latest(STATE, |state| state["state"] == "online");
        device.line(&format!("round {round}"));
        world.subscriber.expect_text("telemetry", &format!("round {round}"));
        device.pull_out();
        let gone = world.subscriber.expect_latest(STATE, |state| state["state"] == "offline");
        assert!(gone.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{gone:?}");
        // Time that passes is what is measured here; nothing is waited for.
        let (start, before) = (Instant::now(), sidecar.cpu_time());
        std::thread::sleep(Duration::from_secs(2));
        let share = (sidecar.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(share < 0.2, "{:.0} % of a core while the device is away", share * 100.0);
        device.plug_in();
    }
    let late = Subscriber::at(world.mosquitto.address());
    let state = late.expect_latest(STATE, |state| state["state"] == "online");
    assert!(
        state.retained
            || late.read(|inbox| inbox.messages.iter().any(|message| message.topic == STATE && message.retained))
    );
    let meter = sidecar.expect_status("the third return", |status| status["devices"]["meter"]["opens"] == 4);
    assert_eq!(meter["devices"]["meter"]["state"], "online");
}

#[test]
fn fifty_replugs_never_leave_the_device_away_nor_a_descriptor_open() {
    let world = World::new();
    let mut home = world.home();
    let mut device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let sidecar = Sidecar::start(home);
    let is = |state: &'static str| move |status: &Value| status["devices"]["meter"]["state"] == state;
    sidecar.expect_status("the device", is("online"));
    let mut slowest = Duration::ZERO;
    let mut open = 0;
    for round in 1..=50 {
        device.line(&format!("round {round}"));
        world.subscriber.expect_text("telemetry", &format!("round {round}"));
        open = if round == 1 { sidecar.descriptors() } else { open };
        device.pull_out();
        sidecar.expect_status("it to be gone", is("offline"));
        device.plug_in();
        let since = Instant::now();
        sidecar.expect_status("it to be back", is("online"));
        slowest = slowest.max(since.elapsed());
    }
    println!("back within {slowest:?}");
    assert_eq!(sidecar.status()["devices"]["meter"]["opens"], 51);
    sidecar.expect_status("all descriptors to be closed", |_| sidecar.descriptors() < open + 10);
}

#[test]
fn the_last_bytes_of_a_port_are_never_out_of_reach() {
    let world = World::new();
    let mut home = world.home();
    let device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "commands = { reply = \"60s\" }");
    let sidecar = Sidecar::start(home);
    sidecar.expect_status("the device", |status| status["devices"]["meter"]["state"] == "online");
    device.line("hello");
    world.subscriber.expect_text("telemetry", "hello");
    // 202: no answer comes to it.
    let answer = sidecar.request("POST", "/v1/devices/meter/command?wait=1s", "", b"STATUS").unwrap();
    assert_eq!(answer.code, 202, "{answer:?}");
    let trace = sidecar.request("GET", "/v1/devices/meter/trace", "", b"").unwrap();
    let shown: Vec<(String, String)> = trace
        .json
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["direction"].as_str().unwrap().to_owned(), entry["hex"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(shown, [("received".into(), "68656c6c6f0a".into()), ("sent".into(), "5354415455530a".into())]);
    assert_eq!(sidecar.request("GET", "/v1/devices/other/trace", "", b"").unwrap().code, 404);
    assert_eq!(sidecar.request("GET", "/v1/devices/a/b/trace", "", b"").unwrap().code, 404);
    let printed =
        sidecar.home.run(&["status", "--socket", sidecar.home.socket().to_str().unwrap(), "--trace", "meter"], b"");
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains("<- 68 65 6c 6c 6f 0a") && text.contains("-> 53 54") && text.contains("STATUS."), "{text}");
}

#[test]
fn a_device_that_hangs_up_at_once_never_spins_the_processor() {
    let world = World::new();
    let mut home = world.home();
    // A link to a node that opens, and reads as its end.
    std::os::unix::fs::symlink("/dev/null", home.path("meter")).unwrap();
    let path = home.path("meter");
    home.serial("meter", &path, "");
    let sidecar = Sidecar::start(home);
    world.expect_online();
    let (start, before) = (Instant::now(), sidecar.cpu_time());
    std::thread::sleep(Duration::from_secs(2));
    let share = (sidecar.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    assert!(share < 0.2, "{:.0} % of a core for a device that is none", share * 100.0);
    assert_eq!(sidecar.status()["devices"]["meter"]["state"], "offline");
}

#[test]
fn a_device_that_returns_during_an_outage_never_loses_a_line() {
    let mut world = World::new();
    let mut home = world.home();
    let mut device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let sidecar = Sidecar::start(home);
    world.expect_online();
    world.stop_broker();
    expect_open(&sidecar, "meter");
    device.line("before");
    sidecar.expect_status("the first line", |status| status["devices"]["meter"]["frames"] == 1);
    device.pull_out();
    sidecar.expect_status("the loss of the device", |status| status["devices"]["meter"]["state"] == "offline");
    device.plug_in();
    expect_open(&sidecar, "meter");
    device.line("after");
    world.start_broker();
    world.subscriber.expect_text("telemetry", "before");
    world.subscriber.expect_text("telemetry", "after");
    // The broker has forgotten what it kept for others: the state comes anew with the connection.
    world.subscriber.expect_latest(STATE, |state| state["state"] == "online");
}

#[test]
fn a_strange_line_never_disturbs_the_others() {
    let world = World::new();
    let mut home = world.home();
    let device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "framing = { kind = \"lines\", max = 64 }");
    let sidecar = Sidecar::start(home);
    expect_open(&sidecar, "meter");
    device.line("first");
    device.line(&"x".repeat(65));
    device.line(&"y".repeat(100_000));
    device.line("second");
    device.line("");
    device.write(b"\r\n");
    device.write(b"no \xff text\n");
    device.write(b"a NUL \0 inside\n");
    device.line("{\"json\": [1, 2.50]}");
    device.line(&"z".repeat(64));
    device.line("last");
    world.subscriber.expect_text("telemetry", "last");

    let data = world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        inbox.on(DATA).map(|arrival| arrival.envelope.clone()).collect::<Vec<_>>()
    });
    let shown: Vec<_> = data.iter().map(|envelope| (&envelope["data"], envelope["encoding"].as_str())).collect();
    let json = serde_json::json!({"json": [1, 2.50]});
    assert_eq!(
        shown,
        [
            (&"first".into(), None),
            (&"second".into(), None),
            (&"bm8g/yB0ZXh0".into(), Some("base64")),
            (&"YSBOVUwgACBpbnNpZGU=".into(), Some("base64")),
            (&json, None),
            (&"z".repeat(64).into(), None),
            (&"last".into(), None),
        ]
    );
    let counted = |meter: &serde_json::Value| {
        [("oversize", 2), ("empty", 2), ("not_text", 2), ("frames", 7)]
            .iter()
            .all(|(name, count)| meter[name] == *count)
    };
    sidecar.expect_status("the counters", |status| counted(&status["devices"]["meter"]));
    sidecar.expect_drained("telemetry");
}

#[test]
fn a_line_that_is_cut_off_by_the_hang_up_never_joins_the_next_one() {
    let world = World::new();
    let mut home = world.home();
    let mut device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let sidecar = Sidecar::start(home);
    expect_open(&sidecar, "meter");
    device.write(b"whole\nhal");
    world.subscriber.expect_text("telemetry", "whole");
    sidecar.expect_status("the half line", |status| status["devices"]["meter"]["bytes"] == 9);
    device.pull_out();
    world.subscriber.expect_latest(STATE, |state| state["state"] == "offline");
    device.plug_in();
    world.subscriber.expect_latest(STATE, |state| state["state"] == "online");
    device.line("next");
    world.subscriber.expect_text("telemetry", "next");
    sidecar.expect_status("the count", |status| status["devices"]["meter"]["incomplete"] == 1);
    assert_eq!(world.subscriber.read(|inbox| inbox.count(DATA)), 2);
}
