//! A backlog is drained, and what is live goes its way meanwhile.

use crate::common::fake_broker::{FakeBroker, Reply, Script};
use crate::common::relay::Relay;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::{LONG, SOON};
use std::time::{Duration, Instant};

/// A sidecar with `count` records waiting in `STREAM`, behind a link that is cut.
fn with_backlog(broker: &FakeBroker, mqtt: &str, count: usize) -> (Relay, Sidecar) {
    let relay = Relay::to(broker.address());
    relay.cut();
    let mut home = Home::new([relay.url()]);
    home.mqtt = mqtt.to_owned();
    let sidecar = Sidecar::start(home);
    let lines: Vec<String> = (0..count).map(|number| format!("old {number}")).collect();
    for chunk in lines.chunks(1000) {
        sidecar.publish_lines("orders", chunk);
    }
    (relay, sidecar)
}

fn publish_to(sidecar: &Sidecar, stream: &str, text: &str) {
    let target = format!("/v1/publish?topic=live&stream={stream}");
    let answer = sidecar.request("POST", &target, "text/plain", text.as_bytes()).unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

/// Publishes a record to this stream. Returns how many records of `STREAM` had arrived when it did.
fn overtake(broker: &FakeBroker, sidecar: &Sidecar, stream: &str, text: &str) -> usize {
    publish_to(sidecar, stream, text);
    let mut arrived = 0;
    broker.expect("the live record", LONG, |account| {
        arrived = account.distinct(STREAM);
        account.records.iter().any(|((of, _), heard)| of == stream && heard.data == text)
    });
    arrived
}

/// Whether a live record of this stream, published in the middle of a drain, comes long before its end.
fn goes_before_a_backlog_of_50_000(stream: &str) {
    const RECORDS: usize = 50_000;
    // Slow enough to be overtaken: 10,000 records take a second at least.
    let script = Script {
        reply: |_, _| {
            std::thread::sleep(Duration::from_micros(100));
            Reply::Ack
        },
        ..Script::POLITE
    };
    let broker = FakeBroker::start(script, 0);
    let (relay, sidecar) = with_backlog(&broker, "", RECORDS);
    relay.open();
    broker.expect("the drain to begin", SOON, |account| account.distinct(STREAM) >= 1000);
    let arrived = overtake(&broker, &sidecar, stream, "the door is open");
    println!("{arrived} records of the backlog came first");
    // A few thousand go out in the time that it takes to publish; the rest is for a busy machine.
    assert!(arrived < RECORDS / 2, "{arrived}");
    for number in 0..50 {
        publish_to(&sidecar, stream, &format!("number {number}"));
    }
    broker.expect("the whole backlog", LONG, |account| account.distinct(STREAM) == RECORDS);
    broker.read(|account| assert!(account.disorder.is_empty(), "out of order: {:?}", account.disorder));
    assert_eq!(sidecar.expect_drained(STREAM)["delivered"], RECORDS);
}

#[test]
fn an_event_never_waits_for_a_backlog_of_50_000() {
    goes_before_a_backlog_of_50_000("event");
}

/// Less urgent than what waits, and live.
#[test]
fn a_log_line_never_waits_for_the_backlog_of_a_more_urgent_stream() {
    goes_before_a_backlog_of_50_000("log");
}

#[test]
fn an_event_never_waits_for_what_is_queued_for_a_slow_link() {
    const RECORDS: usize = 5000;
    let script = Script {
        reply: |_, _| {
            std::thread::sleep(Duration::from_millis(1));
            Reply::Ack
        },
        ..Script::POLITE
    };
    let broker = FakeBroker::start(script, 0);
    let (relay, sidecar) = with_backlog(&broker, "", RECORDS);
    relay.open();
    broker.expect("the drain to begin", SOON, |account| account.distinct(STREAM) >= 500);
    let before = broker.read(|account| account.distinct(STREAM));
    let arrived = overtake(&broker, &sidecar, "event", "the door is open");
    println!("{} records of the backlog came first", arrived - before);
    // What is in flight, and what goes out until the spool has credit again; 2,500 records are queued.
    assert!(arrived < before + 1800, "{before} before, {arrived} after");
    broker.expect("the whole backlog", LONG, |account| account.distinct(STREAM) == RECORDS);
    broker.read(|account| assert!(account.disorder.is_empty(), "out of order: {:?}", account.disorder));
}

#[test]
fn a_paced_backlog_never_floods_the_broker_nor_holds_live_records_up() {
    const RATE: usize = 200;
    const RECORDS: usize = 2000;
    let broker = FakeBroker::start(Script::POLITE, 0);
    let (relay, sidecar) = with_backlog(&broker, &format!("backfill_rate = {RATE}"), RECORDS);
    relay.open();
    broker.expect("the drain to begin", SOON, |account| account.distinct(STREAM) >= RATE);
    let (start, before) = (Instant::now(), broker.read(|account| account.distinct(STREAM)));

    // Less urgent than what waits, and live.
    let arrived = overtake(&broker, &sidecar, "log", "all is well");
    // The backlog is the clock: a second of its rate, and one more for a busy machine.
    assert!(arrived <= before + 2 * RATE, "{before} before, {arrived} after");

    // A live record of the stream itself keeps its place.
    sidecar.publish("orders", "new");
    broker.expect("a part of the backlog", SOON, |account| account.distinct(STREAM) >= before + 1000);
    let came = broker.read(|account| account.distinct(STREAM)) - before;
    let took = start.elapsed();
    println!("{came} records in {took:?}");
    let fair = Duration::from_secs_f64(f64::from(u32::try_from(came).unwrap()) / 200.0);
    assert!(took > fair.mul_f64(0.8), "{came} records in {took:?}: too fast");
    assert!(took < fair.mul_f64(4.0), "{came} records in {took:?}: too slow");
    broker.expect("everything", LONG, |account| account.distinct(STREAM) == RECORDS + 1);

    // Nothing holds up what is live when the backlog is out.
    let lines: Vec<String> = (0..RECORDS).map(|number| format!("live {number}")).collect();
    let start = Instant::now();
    sidecar.publish_lines("orders", &lines);
    broker.expect("live records", LONG, |account| account.distinct(STREAM) == 2 * RECORDS + 1);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}: at the pace of a backlog it takes 10 s", start.elapsed());
    broker.read(|account| assert!(account.disorder.is_empty(), "out of order: {:?}", account.disorder));
}
