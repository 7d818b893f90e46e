//! What has to hold with every broker: no record is lost over its restart, commands are answered, birth and Last Will are seen.
//!
//! ```text
//! Device, local API ──> Sidecar ── Relay ──> door ┐
//!                                              Broker ── address ──> consumer, operator
//! ```
//!
//! The consumer has a session that the broker keeps, and de-duplicates by `id`. pillion's promise ends with the PUBACK, so a
//! broker that keeps nothing over a restart is restarted when its consumer has all that it has acknowledged, by pillion's
//! own count; the records flow on meanwhile. All others are restarted in the middle of it.

use crate::broker::{Broker, Keeps};
use crate::common::device::Device;
use crate::common::operator::Operator;
use crate::common::relay::Relay;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::subscriber::{Inbox, Subscriber};
use crate::common::{LONG, SOON};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Records.
pub const RECORDS: usize = 20_000;
/// Records that the broker has acknowledged, by pillion's count, when it is restarted.
const BEFORE: usize = 7_000;
/// Records in one request of the application.
pub const BATCH: usize = 500;
/// Where the application's records arrive.
pub const DATA: &str = "p/app/orders";
/// Birth and Last Will.
pub const STATUS: &str = "p/status";
/// A round of tries with the longest pause of the publisher's and the listener's back-off, and the time that the connection
/// itself may take on a busy machine.
pub const BACK_BY: Duration = Duration::from_secs(30 + 10);

/// The one test.
pub fn nothing_is_ever_lost_over_a_restart_of(mut broker: Broker) {
    let begun = Instant::now();
    // Shown when the test fails.
    let note = |what: &str| println!("{:6.1} s: {what}", begun.elapsed().as_secs_f32());
    let relay = Relay::on(broker.link, broker.door.address);
    let mut consumer = Subscriber::keeping(broker.address, "p/#");
    let mut home = Home::new([format!("{}://{}", broker.door.scheme, relay.address())]);
    home.mqtt = broker.door.mqtt.clone();
    let device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "commands = { rate = 1000 }");
    let mut sidecar = Sidecar::start(home);
    consumer.expect_latest(STATUS, |status| status["state"] == "online");
    expect_session(&sidecar, "connected");
    command(&mut Operator::at(broker.address), "before");
    expect_carried_out(&consumer, &device, "before");
    note("carried out a command");

    let texts: Vec<String> = (0..RECORDS).map(|number| format!("record {number}")).collect();
    std::thread::scope(|scope| {
        let sidecar = &sidecar;
        scope.spawn(|| texts.chunks(BATCH).for_each(|batch| sidecar.publish_lines("orders", batch)));
        sidecar.expect_status("the records before the restart", |status| delivered(status) >= BEFORE);
        if broker.keeps == Keeps::Nothing {
            relay.cut();
            expect_link(sidecar, "not connected", |state| state != "connected");
            let acknowledged = delivered(&sidecar.status());
            let all = |inbox: &Inbox| inbox.of(STREAM).len() >= acknowledged;
            consumer.expect(&format!("the {acknowledged} records that the broker acknowledged"), SOON, all);
        }
        broker.stop();
        note("the broker has stopped");
        relay.cut();
        expect_link(sidecar, "not connected", |state| state != "connected");
        expect_session(sidecar, "disconnected");
        broker.start();
        note("the broker is back");
        consumer.connect(broker.address);
        if broker.keeps != Keeps::Nothing {
            // It has kept the sidecar's session, which gets this when it comes back.
            command(&mut Operator::at(broker.address), "meanwhile");
        }
        let tries = relay.tries();
        relay.open();
        // How long a broker takes that has just started, on a busy machine, is its own business.
        relay.expect_tries(tries + 1, BACK_BY);
        expect_link(sidecar, "connected", |state| state == "connected");
        note("the sidecar is back");
    });
    expect_all(&consumer, &sidecar, &texts);
    note("all records have come");

    let mut operator = Operator::at(broker.address);
    expect_session(&sidecar, "connected");
    if broker.keeps == Keeps::Nothing {
        relay.cut();
        expect_session(&sidecar, "disconnected");
        command(&mut operator, "meanwhile");
        relay.open();
    }
    expect_carried_out(&consumer, &device, "meanwhile");
    command(&mut operator, "after");
    expect_carried_out(&consumer, &device, "after");
    operator.leave();
    note("carried out the other commands");

    sidecar.kill();
    let will = consumer.expect_latest(STATUS, |status| status["state"] == "offline").json();
    assert_eq!(will["reason"], "connection-lost", "{will}");
    let late = Subscriber::keeping(broker.address, STATUS);
    assert!(late.expect_latest(STATUS, |status| status["state"] == "offline").retained);
    sidecar.start_again();
    consumer.expect_latest(STATUS, |status| status["state"] == "online");
    assert!(sidecar.terminate().success());
    let farewell = consumer.expect_latest(STATUS, |status| status["state"] == "offline").json();
    assert_eq!(farewell["reason"], "stopped", "{farewell}");
}

/// With a broker that does not take what is for this topic. Returns the sidecar's account.
pub fn a_topic_never_holds_up_the_others_of(broker: &Broker, topic: &str, count: u64) -> Value {
    let relay = Relay::on(broker.link, broker.door.address);
    let consumer = Subscriber::keeping(broker.address, "p/#");
    let mut home = Home::new([relay.url()]);
    home.mqtt = broker.door.mqtt.clone();
    let sidecar = Sidecar::start(home);
    for number in 0..count {
        sidecar.publish(topic, &format!("refused {number}"));
        sidecar.publish("orders", &format!("allowed {number}"));
    }
    consumer.expect_texts(STREAM, (0..count).map(|number| format!("allowed {number}")), LONG);
    let ledger = sidecar.expect_drained(STREAM);
    let connects = sidecar.status()["link"]["connects"].as_u64().unwrap();
    assert!(connects <= 15, "{connects} connections");
    let lost = ledger["quarantined"].as_u64().unwrap();
    consumer.expect("each loss to be told", SOON, |inbox| {
        inbox.events("gap").iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>() == lost
    });
    consumer.read(|inbox| {
        inbox.assert_in_order();
        assert_eq!(inbox.of(STREAM).len(), usize::try_from(count).unwrap(), "nothing else has come");
    });
    ledger
}

/// Waits until each of these records has come once at least, and none that nobody sent; then the sidecar's own account has
/// to say so too.
pub fn expect_all(consumer: &Subscriber, sidecar: &Sidecar, texts: &[String]) {
    consumer.expect_texts(STREAM, texts.iter().cloned(), LONG);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["accepted"], &ledger["delivered"]), (&json!(texts.len()), &json!(texts.len())), "{ledger}");
    consumer.read(|inbox| {
        assert!(inbox.conflicts.is_empty(), "ids with two contents: {:?}", inbox.conflicts);
        let came: HashSet<_> = inbox.on(DATA).map(|arrival| arrival.text()).collect();
        assert_eq!((came.len(), inbox.count(DATA)), (texts.len(), texts.len()), "records that nobody sent");
    });
}

/// Waits for the link's state.
pub fn expect_link(sidecar: &Sidecar, what: &str, right: impl Fn(&str) -> bool) -> Value {
    sidecar.expect_status(what, |status| status["link"]["state"].as_str().is_some_and(&right))
}

fn expect_session(sidecar: &Sidecar, state: &str) {
    let is = |status: &Value| {
        status["commands"]["session"]["state"] == state && status["devices"]["meter"]["state"] == "online"
    };
    sidecar.expect_status(&format!("a session for commands that is {state}"), is);
}

/// Records that the broker has acknowledged, of those that the tests publish.
pub fn delivered(status: &Value) -> usize {
    usize::try_from(status["streams"][STREAM]["delivered"].as_u64().unwrap()).unwrap()
}

fn command(operator: &mut Operator, id: &str) {
    // Longer than a broker takes to start on a busy machine.
    let text = json!({ "id": id, "data": format!("SET {id}"), "ttl": "1h" }).to_string();
    operator.publish("p/device/meter/set", text, false);
}

/// Waits until the device has heard the command, once, and the consumer of its end.
fn expect_carried_out(consumer: &Subscriber, device: &Device, id: &str) {
    consumer.expect(&format!("the final reply to {id}"), SOON, |inbox| {
        let replies = inbox.on("p/device/meter/reply").map(|arrival| &arrival.envelope["data"]);
        replies.filter(|reply| reply["id"] == id).any(|reply| reply["final"] == true && reply["stage"] == "written")
    });
    assert_eq!(String::from_utf8(device.hear(SOON)).unwrap(), format!("SET {id}\n"));
}
