//! Coming and going, as the broker and the service manager see it.

use super::World;
use crate::common::sidecar::{STREAM, Sidecar};
use crate::common::subscriber::Subscriber;

const STATUS: &str = "p/status";

#[test]
fn birth_is_never_missed_by_those_who_come_later() {
    let world = World::new();
    let _sidecar = Sidecar::start(world.home());
    world.expect_online();
    let late = Subscriber::at(world.mosquitto.address());
    assert!(late.expect_latest(STATUS, |status| status["state"] == "online").retained);
}

#[test]
fn a_kill_never_leaves_it_online() {
    let world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    sidecar.kill();
    let will = world.subscriber.expect_latest(STATUS, |status| status["state"] == "offline").json();
    assert_eq!(will["reason"], "connection-lost", "{will}");
    let late = Subscriber::at(world.mosquitto.address());
    assert!(late.expect_latest(STATUS, |status| status["state"] == "offline").retained);
    sidecar.start_again();
    world.expect_online();
}

#[test]
fn a_clean_stop_is_never_taken_for_a_lost_connection() {
    let world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    sidecar.publish("orders", "the last one");
    assert_eq!(sidecar.terminate().code(), Some(0));
    sidecar.expect_note("its stop", |note| note == "STOPPING=1");
    world.subscriber.expect_text(STREAM, "the last one");
    let farewell = world.subscriber.expect_latest(STATUS, |status| status["state"] == "offline").json();
    assert_eq!(farewell["reason"], "stopped", "{farewell}");
    world.subscriber.flush();
    let wills = world
        .subscriber
        .read(|inbox| inbox.messages.iter().filter(|message| message.json()["reason"] == "connection-lost").count());
    assert_eq!(wills, 0);
    let late = Subscriber::at(world.mosquitto.address());
    assert!(late.expect_latest(STATUS, |status| status["reason"] == "stopped").retained);
}

#[test]
fn a_stop_during_an_outage_never_loses_the_backlog() {
    let mut world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    world.stop_broker();
    sidecar.publish("orders", "kept over the stop");
    assert_eq!(sidecar.terminate().code(), Some(0));
    world.start_broker();
    sidecar.start_again();
    world.subscriber.expect_text(STREAM, "kept over the stop");
    assert_eq!(sidecar.expect_drained(STREAM)["delivered"], 1);
}

#[test]
fn the_health_document_never_stays_away() {
    let world = World::new();
    let mut home = world.home();
    home.tables += "[health]\ninterval = \"1s\"\ndisk_free_min = \"off\"\n";
    let _sidecar = Sidecar::start(home);
    let healthy = |health: &serde_json::Value| health["health"]["state"] == "healthy" || health["state"] == "healthy";
    world.subscriber.expect("two health documents", crate::common::SOON, |inbox| {
        let reports = inbox.messages.iter().filter(|message| message.topic == "p/health").map(|message| message.json());
        let records = inbox.records.values().flatten().filter(|arrival| arrival.topic == "p/health");
        let all = reports.chain(records.map(|arrival| arrival.envelope["data"].clone()));
        all.filter(healthy).count() >= 2
    });
}

#[test]
fn watchdog_pings_never_fail_to_come_while_all_goes_well() {
    let world = World::new();
    let mut home = world.home();
    home.environment.insert("WATCHDOG_USEC".to_owned(), "1000000".to_owned());
    let sidecar = Sidecar::start(home);
    sidecar.expect_notes("WATCHDOG=1", 4);
    sidecar.expect_note("a status for people", |note| note.starts_with("STATUS="));
}

#[test]
fn a_silent_link_never_keeps_it_from_stopping() {
    let world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    world.relay.silence();
    sidecar.publish("orders", "into the silence");
    assert_eq!(sidecar.terminate().code(), Some(0));
    world.relay.cut();
    world.relay.open();
    sidecar.start_again();
    world.subscriber.expect_text(STREAM, "into the silence");
    sidecar.expect_drained(STREAM);
}
