//! What a power cut and a dying flash leave on disk.

use super::{World, numbered};
use crate::common::sidecar::{STREAM, Sidecar, assert_balanced};
use crate::common::{LONG, SOON};
use std::fs;
use std::path::Path;

const RECORDS: usize = 2000;

/// A sidecar that was killed with `RECORDS` records of a backlog in several segments.
fn killed_with_a_backlog(world: &World) -> Sidecar {
    world.relay.cut();
    let mut home = world.home();
    home.spool = "sync = \"always\"\nsegment_bytes = \"64KiB\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    for lines in texts().chunks(500) {
        sidecar.publish_lines("orders", lines);
    }
    sidecar.kill();
    assert!(sidecar.home.segments(STREAM).len() >= 3);
    sidecar
}

fn texts() -> Vec<String> {
    numbered("a record that is long enough to fill some segments with not too many of its kind", RECORDS)
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn event_of(world: &World, kind: &str) -> serde_json::Value {
    world.subscriber.expect(kind, SOON, |inbox| !inbox.events(kind).is_empty());
    world.subscriber.read(|inbox| inbox.events(kind)).remove(0)
}

#[test]
fn a_torn_tail_never_keeps_it_from_starting() {
    let world = World::new();
    let mut sidecar = killed_with_a_backlog(&world);
    let segments = sidecar.home.segments(STREAM);
    // As the power leaves it: the next entry has begun, and looks like the first part of any other.
    let newest = segments.last().unwrap();
    change(newest, |bytes| bytes.extend_from_within(bytes.len() - 200..bytes.len() - 120));
    sidecar.start_again();
    sidecar.publish("orders", "a record of the next run");
    world.relay.open();
    world.subscriber.expect_texts(STREAM, texts(), LONG);
    world.subscriber.expect_text(STREAM, "a record of the next run");
    world.subscriber.read(|inbox| inbox.assert_in_order());
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["delivered"], RECORDS + 1, "{ledger}");
}

#[test]
fn a_cut_off_record_never_takes_another_with_it() {
    let world = World::new();
    let mut sidecar = killed_with_a_backlog(&world);
    let segments = sidecar.home.segments(STREAM);
    change(segments.last().unwrap(), |bytes| bytes.truncate(bytes.len() - 5));
    sidecar.start_again();
    sidecar.publish("orders", "a record of the next run");
    world.relay.open();
    let mut rest = texts();
    let lost = rest.pop().unwrap();
    world.subscriber.expect_texts(STREAM, rest, LONG);
    world.subscriber.expect_text(STREAM, "a record of the next run");
    let told = event_of(&world, "torn-tail");
    assert_eq!(told["stream"], STREAM, "{told}");
    assert_balanced(&sidecar.expect_drained(STREAM));
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        assert!(inbox.of(STREAM).iter().all(|arrival| arrival.text() != lost));
    });
}

#[test]
fn a_flipped_byte_never_costs_more_than_its_record_and_is_told() {
    let world = World::new();
    let mut sidecar = killed_with_a_backlog(&world);
    let segments = sidecar.home.segments(STREAM);
    for segment in [&segments[0], segments.last().unwrap()] {
        change(segment, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        });
    }
    sidecar.start_again();
    world.relay.open();
    let ledger = sidecar.expect_drained(STREAM);
    let lost = ledger["quarantined"].as_u64().unwrap();
    assert!((2..=4).contains(&lost), "two flipped bytes: {ledger}");
    let arrived = RECORDS - usize::try_from(lost).unwrap();
    world.subscriber.expect("the rest", SOON, |inbox| inbox.of(STREAM).len() >= arrived);
    world.subscriber.expect("two announcements", SOON, |inbox| inbox.events("gap").len() >= 2);
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        assert_eq!(inbox.of(STREAM).len(), arrived);
        let gaps = inbox.events("gap");
        assert!(gaps.iter().all(|gap| gap["reason"] == "damaged" && gap["stream"] == STREAM), "{gaps:?}");
        assert_eq!(gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>(), lost, "{gaps:?}");
        for gap in gaps {
            let (first, last) = (gap["first"].as_u64().unwrap(), gap["last"].as_u64().unwrap());
            assert!(inbox.of(STREAM).iter().all(|arrival| !(first..=last).contains(&arrival.seq)), "{gap}");
        }
    });
    assert!(fs::read_dir(sidecar.home.path("state/spool/work/quarantine")).unwrap().count() >= 1);
}

#[test]
fn a_damaged_checkpoint_never_loses_a_record() {
    let world = World::new();
    let mut sidecar = killed_with_a_backlog(&world);
    fs::write(sidecar.home.path("state/spool/work/checkpoint"), [0xa5; 64]).unwrap();
    sidecar.start_again();
    sidecar.publish("orders", "a record of the next run");
    world.relay.open();
    world.subscriber.expect_texts(STREAM, texts(), LONG);
    world.subscriber.expect_text(STREAM, "a record of the next run");
    world.subscriber.read(|inbox| inbox.assert_in_order());
    assert_balanced(&sidecar.expect_drained(STREAM));
    event_of(&world, "checkpoint-damaged");
}

#[test]
fn a_segment_of_rubbish_never_keeps_it_from_starting() {
    let world = World::new();
    let mut sidecar = killed_with_a_backlog(&world);
    let segments = sidecar.home.segments(STREAM);
    change(&segments[1], |bytes| bytes.fill(0));
    fs::write(sidecar.home.path("state/spool/work/readme.txt"), "left by somebody").unwrap();
    sidecar.start_again();
    world.relay.open();
    let ledger = sidecar.expect_drained(STREAM);
    let (delivered, lost) = (ledger["delivered"].as_u64().unwrap(), ledger["quarantined"].as_u64().unwrap());
    assert!(lost > 0, "{ledger}");
    assert_eq!(delivered + lost, u64::try_from(RECORDS).unwrap(), "{ledger}");
    event_of(&world, "gap");
    world.subscriber.read(|inbox| inbox.assert_in_order());
}
