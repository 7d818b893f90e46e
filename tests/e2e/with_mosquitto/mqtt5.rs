//! MQTT 5 with a real mosquitto: what its access control refuses, what it limits, and the old promises with the new version.

use super::{World, expect_open, numbered};
use crate::common::device::Device;
use crate::common::mosquitto::Mosquitto;
use crate::common::mqtt5::Watcher;
use crate::common::operator::Operator;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::subscriber::Subscriber;
use crate::common::{LONG, SOON};
use std::fs;

const VERSION: &str = "version = \"5\"\n";
const ORDERS: &str = "p/app/orders";

/// A sidecar at this broker.
fn start(mosquitto: &Mosquitto) -> Sidecar {
    let mut home = Home::new([format!("mqtt://{}", mosquitto.address())]);
    home.mqtt = VERSION.to_owned();
    Sidecar::start(home)
}

#[test]
fn a_topic_that_the_broker_forbids_never_holds_up_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    fs::write(&acl, "topic readwrite #\ntopic deny p/app/secret\n").unwrap();
    // Mosquitto 2.0.11 takes a limit of 0, which stands for none, for one that is exceeded, and ends the connection on a refusal.
    let more = format!("acl_file {}\nuser root\nmax_queued_messages 100000", acl.display());
    let mosquitto = Mosquitto::start_with(|_| more);
    let subscriber = Subscriber::at(mosquitto.address());
    let sidecar = start(&mosquitto);
    let sent = numbered("record", 1000);
    for (number, chunk) in sent.chunks(100).enumerate() {
        sidecar.publish_lines("orders", chunk);
        sidecar.publish("secret", &format!("secret {number}"));
    }
    subscriber.expect_texts(STREAM, sent.iter().cloned(), LONG);
    subscriber.read(|inbox| {
        inbox.assert_in_order();
        assert_eq!((inbox.count(ORDERS), inbox.count("p/app/secret")), (1000, 0));
    });
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&1000.into(), &10.into()), "{ledger}");
    let told = |inbox: &crate::common::subscriber::Inbox| {
        let gaps = inbox.events("gap");
        let ours = gaps.iter().filter(|gap| gap["stream"] == STREAM && gap["reason"] == "refused");
        ours.filter(|gap| gap["detail"].as_str().is_some_and(|detail| detail.contains("see its access control")))
            .map(|gap| gap["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    subscriber.expect("ten records to be reported as lost", SOON, |inbox| told(inbox) == 10);
    let status = sidecar.status();
    let link = &status["link"];
    assert_eq!((&link["connects"], &link["refusals"]["not-authorized"]), (&1.into(), &10.into()), "{link}");
}

#[test]
fn what_the_broker_limits_is_never_exceeded() {
    let mosquitto = Mosquitto::start_with(|_| "max_inflight_messages 3\nmax_packet_size 2000".to_owned());
    let subscriber = Subscriber::at(mosquitto.address());
    let sidecar = start(&mosquitto);
    let sent = numbered("record", 3000);
    sidecar.publish_lines("orders", &sent[..1500]);
    sidecar.publish("orders", &"x".repeat(1950));
    sidecar.publish_lines("orders", &sent[1500..]);
    subscriber.expect_texts(STREAM, sent, LONG);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&3000.into(), &1.into()), "{ledger}");
    subscriber.expect("the announcement", SOON, |inbox| {
        inbox.events("gap").iter().any(|gap| gap["reason"] == "oversize" && gap["detail"].to_string().contains("2000"))
    });
    // A broker ends the connection with whoever sends more than it allows.
    assert_eq!(sidecar.status()["link"]["connects"], 1);
}

#[test]
fn neither_outage_nor_kill_ever_costs_a_record() {
    let mut world = World::new();
    let mut home = world.home();
    home.mqtt = VERSION.to_owned();
    let mut sidecar = Sidecar::start(home);
    let sent = numbered("record", 6000);
    sidecar.publish_lines("orders", &sent[..1000]);
    world.stop_broker();
    sidecar.publish_lines("orders", &sent[1000..4000]);
    world.start_broker();
    world.subscriber.expect("a part of the backlog", LONG, |inbox| inbox.of(STREAM).len() >= 1500);
    sidecar.kill();
    sidecar.start_again();
    sidecar.publish_lines("orders", &sent[4000..]);
    world.subscriber.expect_texts(STREAM, sent, LONG);
    world.subscriber.read(crate::common::subscriber::Inbox::assert_in_order);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["quarantined"], 0, "{ledger}");
    assert!(sidecar.terminate().success());
    world.subscriber.expect_latest("p/status", |status| status["reason"] == "stopped");
}

#[test]
fn what_is_lost_on_the_wire_never_counts_as_delivered() {
    for version in ["", VERSION] {
        let world = World::new();
        let mut home = world.home();
        home.mqtt = version.to_owned();
        let mut sidecar = Sidecar::start(home);
        world.expect_online();
        sidecar.publish("orders", "before");
        world.subscriber.expect_text(STREAM, "before");
        sidecar.expect_drained(STREAM);
        // They go out, and what has them loses them.
        world.relay.silence();
        let sent = numbered("record", 300);
        sidecar.publish_lines("orders", &sent);
        let on_their_way = |status: &serde_json::Value| status["link"]["sent_records"].as_u64() >= Some(10);
        let status = sidecar.expect_status("some on their way", on_their_way);
        assert_eq!(status["streams"][STREAM]["delivered"], 1, "{status:#}");
        world.relay.cut();
        sidecar.expect_status("the loss", |status| status["link"]["state"] != "connected");
        sidecar.kill();
        sidecar.start_again();
        world.relay.open();
        world.subscriber.expect_texts(STREAM, sent, LONG);
        world.subscriber.read(crate::common::subscriber::Inbox::assert_in_order);
    }
}

#[test]
fn raw_bytes_never_travel_without_their_id_and_time() {
    let mosquitto = Mosquitto::start();
    let mut watcher = Watcher::at(mosquitto.address(), "p/device/+/data");
    let mut home = Home::new([format!("mqtt://{}", mosquitto.address())]);
    home.mqtt = VERSION.to_owned();
    home.tables += "[stream.telemetry]\nmax_age = \"1h\"\n";
    let [raw, plain] = ["raw", "plain"].map(|name| Device::at(home.path(name)));
    home.serial("raw", raw.path(), "payload = \"raw\"");
    home.serial("plain", plain.path(), "");
    let sidecar = Sidecar::start(home);
    for device in ["raw", "plain"] {
        expect_open(&sidecar, device);
    }
    raw.line("22.5");
    let (message, properties) = watcher.next();
    assert_eq!((&message.topic[..], &message.payload[..]), (&b"p/device/raw/data"[..], &b"22.5"[..]));
    let names: Vec<&str> = properties.user_properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, properties.user_properties[0].1.as_str()), (vec!["id", "ts"], "telemetry:1"));
    humantime::parse_rfc3339(&properties.user_properties[1].1).unwrap();
    assert_eq!((properties.payload_format_indicator, properties.content_type), (Some(1), None));
    plain.line("23.5");
    let (message, properties) = watcher.next();
    assert_eq!(&message.topic[..], b"p/device/plain/data");
    assert_eq!(properties.user_properties, []);
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    let expiry = properties.message_expiry_interval.unwrap();
    assert!((3500..=3600).contains(&expiry), "{expiry}");
}

#[test]
fn a_command_over_the_new_version_is_never_lost_or_carried_out_twice() {
    let world = World::new();
    let mut home = world.home();
    home.mqtt = VERSION.to_owned();
    let device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "commands = { rate = 1000 }");
    let mut sidecar = Sidecar::start(home);
    expect_open(&sidecar, "meter");
    let listening = |sidecar: &Sidecar| {
        sidecar.expect_status("a session for commands", |status| status["commands"]["session"]["state"] == "connected");
    };
    listening(&sidecar);
    let mut operator = Operator::at(world.mosquitto.address());
    let mut send = |id: &str, retain| {
        let command = format!("{{\"id\":\"{id}\",\"data\":\"{id}\",\"ttl\":\"60s\"}}");
        operator.publish("p/device/meter/set", command, retain);
    };
    let expect_reply = |id: &str, stage: &str| {
        world.subscriber.expect(&format!("{id} to be {stage}"), SOON, |inbox| {
            let mut replies = inbox.on("p/device/meter/reply").map(|arrival| &arrival.envelope["data"]);
            replies.any(|reply| reply["id"] == id && reply["stage"] == stage)
        });
    };
    send("one", false);
    expect_reply("one", "written");
    assert!(sidecar.terminate().success());
    // The broker keeps these for the session.
    send("two", false);
    send("one", false);
    send("kept", true);
    sidecar.start_again();
    expect_open(&sidecar, "meter");
    listening(&sidecar);
    expect_reply("two", "written");
    send("three", false);
    expect_reply("three", "written");
    let heard = device.hear(std::time::Duration::ZERO);
    assert_eq!(String::from_utf8_lossy(&heard), "one\ntwo\nkept\nthree\n");
    assert_eq!(sidecar.status()["commands"]["session"]["notices"], serde_json::Value::Null);
}
