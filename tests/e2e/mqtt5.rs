//! MQTT 5 with a broker that refuses: no refusal is without an end, and none goes without words.

use crate::common::mqtt5::{ACCEPTED, Account, Broker, Reply, Script};
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::{LONG, SOON};
use serde_json::Value;

const ORDERS: &str = "p/app/orders";
const BAD: &str = "p/app/bad";

fn accept(_: u64) -> Option<Vec<u8>> {
    Some(ACCEPTED.to_vec())
}

fn take(_: &Account, _: &str, _: &Value) -> Reply {
    Reply::Say(0)
}

fn is_record(envelope: &Value) -> bool {
    envelope["id"].is_string()
}

fn start(broker: &Broker) -> Sidecar {
    let mut home = Home::new([broker.url()]);
    home.mqtt = "version = \"5\"".to_owned();
    Sidecar::start(home)
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("record {number}")).collect()
}

/// Waits for the link's reason to hold this text.
fn expect_reason(sidecar: &Sidecar, text: &str) {
    sidecar.expect_status(text, |status| status["link"]["reason"].as_str().is_some_and(|reason| reason.contains(text)));
}

#[test]
fn a_quota_that_is_used_up_never_costs_a_record_or_the_connection() {
    // The first window, which is of 16, and two tries of a message alone.
    let broker = Broker::start(Script {
        opening: accept,
        reply: |account, _, envelope| match is_record(envelope) && account.refused < 18 {
            true => Reply::Say(0x97),
            false => Reply::Say(0),
        },
    });
    let sidecar = start(&broker);
    let sent = texts(1000);
    sidecar.publish_lines("orders", &sent);
    broker.expect("every record", LONG, |account| account.texts(ORDERS).len() == sent.len());
    assert_eq!(broker.read(|account| account.texts(ORDERS)), sent, "in order");
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&1000.into(), &0.into()), "{ledger}");
    let link = sidecar.status()["link"].clone();
    assert_eq!((&link["connects"], &link["refusals"]["quota-exceeded"]), (&1.into(), &18.into()), "{link}");
}

#[test]
fn a_record_that_is_refused_for_no_reason_never_blocks_the_others_for_long() {
    let broker = Broker::start(Script {
        opening: accept,
        reply: |_, topic, _| if topic == BAD { Reply::Say(0x80) } else { Reply::Say(0x10) },
    });
    let sidecar = start(&broker);
    sidecar.publish("orders", "before");
    sidecar.publish("bad", "never taken");
    sidecar.publish("orders", "after");
    broker.expect("the others", SOON, |account| account.texts(ORDERS) == ["before", "after"]);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&2.into(), &1.into()), "{ledger}");
    broker.expect("the announcement", SOON, |account| {
        let mut events = account.taken.iter().filter(|(topic, _)| topic == "p/event").map(|(_, event)| &event["data"]);
        events.any(|event| {
            let detail = event["detail"].as_str().unwrap_or_default();
            event["reason"] == "refused" && detail == "the broker refuses it without giving a reason (0x80)"
        })
    });
    let link = sidecar.status()["link"].clone();
    assert_eq!((&link["connects"], &link["refusals"]["unspecified-error"]), (&1.into(), &4.into()), "{link}");
    let metrics = sidecar.request("GET", "/metrics", "", b"").unwrap();
    assert!(metrics.text.contains("pillion_link_refusals_total{reason=\"unspecified-error\"} 4"), "{}", metrics.text);
}

#[test]
fn a_broker_that_takes_no_events_never_makes_more_of_them() {
    let broker = Broker::start(Script {
        opening: accept,
        reply: |_, topic, _| if topic == "p/event" || topic == BAD { Reply::Say(0x87) } else { Reply::Say(0) },
    });
    let sidecar = start(&broker);
    sidecar.publish("bad", "never taken");
    sidecar.expect_status("the end of the event", |status| status["streams"]["event"]["quarantined"] == 1);
    sidecar.publish("orders", "after");
    broker.expect("the next record", SOON, |account| account.texts(ORDERS) == ["after"]);
    sidecar.expect_drained("event");
    // An announcement would come a second later at the latest.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let status = sidecar.status();
    assert_eq!(status["streams"]["event"]["accepted"], 1, "{status:#}");
}

#[test]
fn a_retained_message_that_is_refused_never_stops_the_records() {
    let broker = Broker::start(Script {
        opening: accept,
        reply: |_, topic, _| if topic == "p/status" { Reply::Say(0x87) } else { Reply::Say(0) },
    });
    let sidecar = start(&broker);
    sidecar.publish("orders", "one");
    broker.expect("the record", SOON, |account| account.texts(ORDERS) == ["one"]);
    let link = sidecar.status()["link"].clone();
    assert_eq!((&link["connects"], &link["refusals"]["not-authorized"]), (&1.into(), &1.into()), "{link}");
}

#[test]
fn no_more_is_ever_under_way_than_the_broker_takes_at_a_time() {
    // CONNACK with a receive maximum of 3. It acknowledges when nothing more comes, so all that may come does.
    let broker =
        Broker::start(Script { opening: |_| Some(vec![0x20, 6, 0, 0, 3, 0x21, 0, 3]), reply: |_, _, _| Reply::Hold });
    let sidecar = start(&broker);
    let sent = texts(20);
    sidecar.publish_lines("orders", &sent);
    broker.expect("every record", LONG, |account| account.texts(ORDERS).len() == sent.len());
    sidecar.expect_drained(STREAM);
    assert_eq!(broker.read(|account| (account.most_held, account.connections)), (3, 1));
}

#[test]
fn a_broker_that_speaks_another_version_never_goes_without_advice() {
    let old = Broker::start(Script { opening: |_| Some(vec![0x20, 2, 0, 1]), reply: take });
    expect_reason(&start(&old), "it does not speak MQTT 5; set mqtt.version = \"3.1.1\"");
    let rude = Broker::start(Script { opening: |_| None, reply: take });
    expect_reason(&start(&rude), "if it does not speak MQTT 5, set mqtt.version = \"3.1.1\"");
}

#[test]
fn a_broker_that_says_why_it_goes_is_never_shown_as_one_that_just_closed() {
    let broker = Broker::start(Script {
        opening: accept,
        reply: |_, topic, _| match topic == ORDERS {
            // DISCONNECT, administrative action, with a reason string.
            true => Reply::End([&[0xe0, 9, 0x98, 7, 0x1f, 0, 4], &b"bye!"[..]].concat()),
            false => Reply::Say(0),
        },
    });
    let sidecar = start(&broker);
    sidecar.publish("orders", "one");
    expect_reason(&sidecar, "the broker ended the connection: whoever runs it has ended it (it says: bye!)");
}

#[test]
fn a_broker_that_keeps_nothing_never_goes_unnoticed() {
    // Refuses a retained Last Will first, then says that it keeps nothing.
    let broker = Broker::start(Script {
        opening: |number| match number {
            1 => Some(vec![0x20, 3, 0, 0x9a, 0]),
            _ => Some(vec![0x20, 5, 0, 0, 2, 0x25, 0]),
        },
        reply: take,
    });
    let sidecar = start(&broker);
    sidecar.publish("orders", "one");
    broker.expect("the record", SOON, |account| account.texts(ORDERS) == ["one"]);
    let link = sidecar.status()["link"].clone();
    assert!(link["notices"][0].as_str().is_some_and(|text| text.contains("keeps no messages")), "{link}");
}

#[test]
fn a_broker_that_sends_us_on_is_never_asked_twice() {
    let there = Broker::start(Script { opening: accept, reply: take });
    // CONNACK, server moved, with a reference to the other one.
    let reference = there.url().trim_start_matches("mqtt://").to_owned();
    let length = u8::try_from(reference.len()).unwrap();
    let properties = [&[0x1c, 0, length], reference.as_bytes()].concat();
    let answer = [&[0x20, length + 6, 0, 0x9d, length + 3], &properties[..]].concat();
    let here = Broker::start_with(Script { opening: |_| None, reply: take }, Some(answer));
    let sidecar = start(&here);
    sidecar.publish("orders", "one");
    there.expect("the record", SOON, |account| account.texts(ORDERS) == ["one"]);
    let status = sidecar.expect_status("a connection", |status| status["link"]["state"] == "connected");
    assert_eq!(status["link"]["server"], there.url(), "{status:#}");
    assert_eq!(here.read(|account| account.connections), 1);
}

#[test]
fn a_quota_of_one_stream_never_holds_up_the_others() {
    const FREE: &str = "p/app/free";
    // Takes no order before all of the other stream has come.
    let broker = Broker::start(Script {
        opening: accept,
        reply: |account, topic, _| match topic == ORDERS && account.texts(FREE).len() < 100 {
            true => Reply::Say(0x97),
            false => Reply::Say(0),
        },
    });
    let sidecar = start(&broker);
    let sent = texts(50);
    sidecar.publish_lines("orders", &sent);
    sidecar.expect_status("the pause", |status| {
        status["link"]["held"][STREAM].as_str().is_some_and(|why| why.contains("quota"))
    });
    for text in texts(100) {
        let target = "/v1/publish?topic=free&stream=telemetry";
        assert_eq!(sidecar.request("POST", target, "text/plain", text.as_bytes()).unwrap().code, 200);
    }
    broker.expect("the other stream", SOON, |account| account.texts(FREE) == texts(100));
    broker.expect("every order", LONG, |account| account.texts(ORDERS).len() == sent.len());
    assert_eq!(broker.read(|account| account.texts(ORDERS)), sent, "in order");
    let (held_up, other) = (sidecar.expect_drained(STREAM), sidecar.expect_drained("telemetry"));
    assert_eq!((&held_up["delivered"], &held_up["quarantined"]), (&50.into(), &0.into()), "{held_up}");
    assert_eq!((&other["delivered"], &other["quarantined"]), (&100.into(), &0.into()), "{other}");
    let link = sidecar.status()["link"].clone();
    assert_eq!(link["connects"], 1, "{link}");
    assert!(link["held"].is_null(), "{link}");
}

/// The texts of the records in a message, which may be of several.
fn texts_of(message: &Value) -> Vec<&str> {
    let records = message.as_array().map_or(std::slice::from_ref(message), Vec::as_slice);
    records.iter().filter_map(|record| record["data"].as_str()).collect()
}

fn only_the_bad_one_is_lost_of(reply: fn(&Account, &str, &Value) -> Reply, refusals: (&str, u64)) {
    let broker = Broker::start(Script { opening: accept, reply });
    let mut home = Home::new([broker.url()]);
    home.mqtt = "version = \"5\"".to_owned();
    home.tables += "batch = { records = 10, delay = \"1s\", format = \"array\" }\n";
    let sidecar = Sidecar::start(home);
    let mut sent = texts(100);
    sent[34] = "bad".to_owned();
    sidecar.publish_lines("orders", &sent);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&99.into(), &1.into()), "{ledger}");
    sent.remove(34);
    broker.read(|account| {
        let messages: Vec<_> =
            account.taken.iter().filter(|(topic, _)| topic == ORDERS).map(|(_, message)| texts_of(message)).collect();
        // What was on its way behind the batch has come before it, and comes again behind it.
        let mut came: Vec<&str> = Vec::new();
        for text in messages.iter().rev().flat_map(|message| message.iter().rev()) {
            if !came.contains(text) {
                came.insert(0, text);
            }
        }
        assert_eq!(came, sent, "in order");
        let company = |text| messages.iter().rfind(|message| message.contains(&text)).map(Vec::len);
        assert_eq!((company("record 30"), company("record 39")), (Some(1), Some(1)), "{messages:?}");
        assert_eq!((company("record 29"), company("record 40")), (Some(10), Some(10)), "{messages:?}");
    });
    broker.expect("the loss to be told", SOON, |account| {
        let events = account.taken.iter().filter(|(topic, _)| topic == "p/event").map(|(_, event)| &event["data"]);
        events.filter(|event| event["reason"] == "refused").map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>() == 1
    });
    let link = sidecar.status()["link"].clone();
    assert_eq!((&link["connects"], &link["refusals"][refusals.0]), (&1.into(), &refusals.1.into()), "{link}");
}

#[test]
fn a_record_with_a_bad_payload_never_takes_its_batch_along() {
    // The batch, and the record.
    only_the_bad_one_is_lost_of(
        |_, _, message| Reply::Say(if texts_of(message).contains(&"bad") { 0x99 } else { 0 }),
        ("payload-format-invalid", 2),
    );
}

#[test]
fn a_record_that_is_refused_without_a_reason_never_takes_its_batch_along() {
    // The batch, and the record four times.
    only_the_bad_one_is_lost_of(
        |_, _, message| Reply::Say(if texts_of(message).contains(&"bad") { 0x80 } else { 0 }),
        ("unspecified-error", 5),
    );
}

#[test]
fn a_batch_on_a_topic_that_is_not_allowed_is_never_sent_record_by_record() {
    let broker =
        Broker::start(Script { opening: accept, reply: |_, topic, _| Reply::Say(if topic == BAD { 0x87 } else { 0 }) });
    let mut home = Home::new([broker.url()]);
    home.mqtt = "version = \"5\"".to_owned();
    home.tables += "batch = { records = 10, delay = \"1s\" }\n";
    let sidecar = Sidecar::start(home);
    sidecar.publish_lines("bad", &texts(100));
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&0.into(), &100.into()), "{ledger}");
    let link = sidecar.status()["link"].clone();
    assert_eq!(link["refusals"]["not-authorized"], 10, "{link}");
}
