//! A serial device that comes and goes, and says strange things.

use super::{World, expect_open};
use crate::common::device::Device;
use crate::common::sidecar::Sidecar;
use crate::common::subscriber::Subscriber;
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
