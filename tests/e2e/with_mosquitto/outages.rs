//! The broker goes away while a device goes on talking.

use super::{World, expect_open, numbered};
use crate::common::device::Device;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::{LONG, SOON, watched::Watched};

const DATA: &str = "p/device/meter/data";
const LINES: usize = 100_000;

#[test]
fn none_of_100_000_lines_is_lost_over_two_outages() {
    let mut world = World::new();
    let mut home = world.home();
    let device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let mut sidecar = Sidecar::start(home);
    expect_open(&sidecar, "meter");

    let written = Watched::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..LINES {
                device.line(&format!("line {number}"));
                written.update(|written| *written = number + 1);
            }
        });
        for outage in [LINES / 5, LINES * 3 / 5] {
            world.subscriber.expect("lines before the outage", LONG, |inbox| inbox.count(DATA) >= outage);
            world.stop_broker();
            let backlog = (written.read(|written| *written) + LINES / 5).min(LINES);
            let kept_on = written.wait_for(LONG, |written| (*written >= backlog).then_some(()));
            assert!(kept_on.is_some(), "the device was not read on during the outage");
            world.start_broker();
        }
    });
    world.subscriber.expect("every line", LONG, |inbox| inbox.count(DATA) >= LINES);

    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        let texts = inbox.on(DATA).map(|arrival| arrival.text());
        assert!(texts.eq(numbered("line", LINES).iter()), "each line once and in order");
        // No more than the window that was unacknowledged when the link broke, twice.
        assert!(inbox.repeats <= 2 * 128, "{} repeats", inbox.repeats);
    });
    let ledger = sidecar.expect_drained("telemetry");
    assert_eq!(ledger["accepted"], ledger["delivered"], "{ledger}");
    assert!(sidecar.terminate().success());
}

#[test]
fn an_outage_of_the_network_never_needs_a_restart() {
    let world = World::new();
    let mut home = world.home();
    home.mqtt = "keep_alive = \"1s\"\nack_timeout = \"1s\"".to_owned();
    let sidecar = Sidecar::start(home);
    world.expect_online();
    sidecar.publish("orders", "before the silence");
    world.subscriber.expect_text(STREAM, "before the silence");
    // Half open: nobody is told that the link is dead.
    let tries = world.relay.tries();
    world.relay.silence();
    sidecar.publish("orders", "into the silence");
    world.relay.expect_tries(tries + 1, SOON);
    world.relay.cut();
    world.relay.open();
    world.subscriber.expect_text(STREAM, "into the silence");
    assert_eq!(sidecar.expect_drained(STREAM)["delivered"], 2);
}

#[test]
fn an_idle_link_that_dies_never_goes_unnoticed() {
    let world = World::new();
    let mut home = world.home();
    home.mqtt = "keep_alive = \"1s\"".to_owned();
    let sidecar = Sidecar::start(home);
    world.expect_online();
    let tries = world.relay.tries();
    world.relay.silence();
    world.relay.expect_tries(tries + 1, SOON);
    sidecar.expect_status("the link to be reported as lost", |status| status["link"]["state"] != "connected");
}

#[test]
fn a_dead_first_server_never_hides_the_second() {
    let world = World::new();
    let dead = std::net::TcpListener::bind((crate::common::own_address(), 0)).unwrap().local_addr().unwrap();
    let sidecar = Sidecar::start(Home::new([format!("mqtt://{dead}"), world.relay.url()]));
    sidecar.publish("orders", "to whoever lives");
    world.subscriber.expect_text(STREAM, "to whoever lives");
    assert_eq!(sidecar.status()["link"]["server"], world.relay.url());
}
