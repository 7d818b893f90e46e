//! Records travel together, compressed, to a consumer in Python that takes the messages apart.

use super::World;
use crate::common::sidecar::{STREAM, Sidecar};
use crate::common::subscriber::Inbox;
use crate::common::{LONG, SOON};
use serde_json::Value;
use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CONSUMER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/batches.py");
const TOPIC: &str = "p/app/orders";

/// The records of all messages on the topic that no plain consumer understands, as the Python consumer reads them.
fn taken_apart(world: &World) -> Vec<Value> {
    world.subscriber.flush();
    let payloads: String = world.subscriber.read(|inbox| {
        let ours = inbox.messages.iter().filter(|message| message.topic == TOPIC);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        ours.map(|message| hex(&message.payload) + "\n").collect()
    });
    let mut consumer = Command::new("python3");
    let mut consumer = consumer.arg(CONSUMER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = consumer.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(payloads.as_bytes()));
    let output = consumer.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Publishes records with these numbers.
fn publish(sidecar: &Sidecar, numbers: std::ops::Range<usize>) {
    let lines: Vec<String> = numbers.map(|number| format!("order {number}")).collect();
    lines.chunks(1000).for_each(|chunk| sidecar.publish_lines("orders", chunk));
}

fn messages(inbox: &Inbox) -> usize {
    inbox.messages.iter().filter(|message| message.topic == TOPIC).count()
}

#[test]
fn none_of_20_000_records_in_batches_is_lost_over_an_outage_and_two_kills() {
    let world = World::new();
    let mut home = world.home();
    home.tables = format!(
        "[stream.{STREAM}]\nbatch = {{ records = 50, delay = \"200ms\", format = \"array\", compress = \"deflate\" }}\n"
    );
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    publish(&sidecar, 0..4000);
    world.subscriber.expect("the flow", LONG, |inbox| inbox.messages.len() > 40);
    world.relay.cut();
    publish(&sidecar, 4000..12_000);
    sidecar.kill();
    sidecar.start_again();
    let before = world.subscriber.read(messages);
    world.relay.open();
    // In the middle of the drain.
    world.subscriber.expect("some of the backlog", LONG, |inbox| messages(inbox) > before + 10);
    sidecar.kill();
    sidecar.start_again();
    publish(&sidecar, 12_000..20_000);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["quarantined"], 0, "{ledger}");

    let records = taken_apart(&world);
    let (mut known, mut last) = (HashSet::new(), 0);
    let mut texts = Vec::new();
    for record in &records {
        if known.insert(record["id"].as_str().unwrap()) {
            let number: u64 = record["id"].as_str().unwrap().strip_prefix("work:").unwrap().parse().unwrap();
            assert!(number > last, "{record} behind {last}");
            last = number;
            texts.push(record["data"].as_str().unwrap());
        }
    }
    let expected: Vec<String> = (0..20_000).map(|number| format!("order {number}")).collect();
    assert!(texts.iter().eq(expected.iter()), "{} distinct records", texts.len());

    let link = &sidecar.status()["link"];
    println!("{} records came as {}; of the last life: {link}", records.len(), world.subscriber.read(messages));
    let of = |name: &str| link[name].as_u64().unwrap();
    assert!(of("sent_records") > 20 * of("sent_messages"), "{link}");
    assert!(of("plain_bytes") > 5 * of("sent_bytes"), "{link}");
}

#[test]
fn a_record_of_a_quiet_stream_never_waits_longer_than_its_delay() {
    const DELAY: Duration = Duration::from_secs(2);
    let world = World::new();
    let mut home = world.home();
    home.tables =
        format!("[stream.{STREAM}]\nbatch = {{ delay = \"2s\" }}\n[stream.slow]\nbatch = {{ delay = \"1h\" }}\n");
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    let start = Instant::now();
    sidecar.publish("orders", "a single one");
    // Whoever is urgent goes by.
    let answer = sidecar.request("POST", "/v1/publish?topic=door&stream=event", "text/plain", b"open").unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    world.subscriber.expect_text("event", "open");
    world.subscriber.read(|inbox| assert!(start.elapsed() >= DELAY || inbox.of(STREAM).is_empty()));
    world.subscriber.expect_text(STREAM, "a single one");
    let took = start.elapsed();
    println!("{took:?}");
    assert!((DELAY..DELAY + SOON / 2).contains(&took), "{took:?}");
    // A stop waits for no company.
    let answer = sidecar.request("POST", "/v1/publish?topic=x&stream=slow", "text/plain", b"the last").unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    assert!(sidecar.terminate().success());
    world.subscriber.expect_text("slow", "the last");
}

#[test]
fn a_record_that_is_too_large_never_takes_its_batch_along() {
    let world = World::new();
    let mut home = world.home();
    home.tables = format!("[stream.{STREAM}]\nbatch = {{ delay = \"100ms\", format = \"array\" }}\n");
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    world.relay.cut();
    publish(&sidecar, 0..30);
    sidecar.publish("orders", &"x".repeat(2000));
    publish(&sidecar, 30..60);
    assert!(sidecar.terminate().success());
    sidecar.home.mqtt = "max_payload = \"1KiB\"".to_owned();
    sidecar.start_again();
    world.relay.open();
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&60.into(), &1.into()), "{ledger}");
    let records = taken_apart(&world);
    let texts: Vec<&str> = records.iter().map(|record| record["data"].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..60).map(|number| format!("order {number}")).collect();
    assert_eq!(texts, expected);
    world.subscriber.read(|inbox| {
        let mut ours = inbox.messages.iter().filter(|message| message.topic == TOPIC);
        assert!(messages(inbox) < 15 && ours.all(|message| message.payload.len() <= 1024));
    });
    world.subscriber.expect("the loss to be told", SOON, |inbox| !inbox.events("gap").is_empty());
}
