//! Streams that reach their quota, and a `state_dir` that is full: a tmpfs of 2 MiB, with a file that takes the rest.

use super::World;
use crate::common::disk::Tmpfs;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::{LONG, SOON};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const DISK_KIB: u64 = 2048;
/// Bytes of a record's text.
const RECORD: usize = 1000;
/// Records in a request.
const BATCH: u64 = 20;
/// Segments that are small beside the disk.
const SPOOL: &str = "sync = \"100ms\"\nsegment_bytes = \"64KiB\"";

/// Mounts the small disk as the sidecar's `state_dir`.
fn mount(home: &Home) -> Option<Tmpfs> {
    let disk = Tmpfs::mount(DISK_KIB)?;
    std::os::unix::fs::symlink(disk.path(), home.path("state")).unwrap();
    Some(disk)
}

/// Takes all the space that is left. Returns the file to be removed.
fn fill(disk: &Tmpfs) -> PathBuf {
    let path = disk.path().join("filler");
    let mut file = File::create(&path).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    path
}

/// What became of the records that were published.
#[derive(Debug, Default)]
struct Outcome {
    /// Texts by number: the next one's.
    next: u64,
    /// Answered with 200.
    accepted: BTreeSet<u64>,
    /// Answered with 429.
    refused: BTreeSet<u64>,
}

impl Outcome {
    /// Publishes one request of numbered texts. Returns the status code.
    fn publish(&mut self, sidecar: &Sidecar, parameters: &str) -> u16 {
        let numbers = self.next..self.next + BATCH;
        self.next += BATCH;
        let lines: String = numbers.clone().map(|number| format!("\"{}\"\n", text(number))).collect();
        let target = format!("/v1/publish?topic=t&stream={STREAM}{parameters}");
        let answer = sidecar.request("POST", &target, "application/x-ndjson", lines.as_bytes()).unwrap();
        match answer.code {
            200 => self.accepted.extend(numbers),
            429 => self.refused.extend(numbers),
            507 => {}
            other => panic!("{other}: {answer:?}"),
        }
        answer.code
    }

    /// Everything that was accepted, and nothing that was refused, came or was announced as lost. Returns the texts'
    /// numbers that came.
    fn expect_accounted(&self, world: &World, sidecar: &Sidecar) -> BTreeSet<u64> {
        let ledger = sidecar.expect_drained(STREAM);
        let count = |name: &str| ledger[name].as_u64().unwrap();
        assert_eq!((count("quarantined"), count("expired")), (0, 0), "{ledger}");
        world.subscriber.expect("all gaps to be announced", SOON, |inbox| {
            let gaps = inbox.events("gap").into_iter().filter(|gap| gap["stream"] == STREAM);
            gaps.map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>() == count("evicted")
        });
        world.subscriber.flush();
        world.subscriber.read(|inbox| {
            inbox.assert_in_order();
            let mut seqs: BTreeSet<u64> = inbox.of(STREAM).iter().map(|arrival| arrival.seq).collect();
            assert_eq!(u64::try_from(seqs.len()), Ok(count("delivered")), "{ledger}");
            for gap in inbox.events("gap").iter().filter(|gap| gap["stream"] == STREAM) {
                assert_eq!(gap["reason"], "full", "{gap}");
                for seq in gap["first"].as_u64().unwrap()..=gap["last"].as_u64().unwrap() {
                    assert!(seqs.insert(seq), "{seq} was announced as lost, and came or was announced before: {gap}");
                }
            }
            // On a full disk no numbers can be reserved, so they are taken from the clock; there was no restart that skips any.
            let first = *seqs.first().unwrap();
            assert!(seqs.into_iter().eq(first..first + count("accepted")), "records are missing in silence: {ledger}");

            let came: BTreeSet<u64> = inbox.of(STREAM).iter().map(|arrival| number(arrival.text())).collect();
            assert!(came.is_disjoint(&self.refused), "refused records came");
            let lost = self.accepted.difference(&came).count();
            assert!(u64::try_from(lost).unwrap() <= count("evicted"), "{lost} accepted records did not come: {ledger}");
            assert_eq!(count("refused"), u64::try_from(self.refused.len()).unwrap(), "{ledger}");
            came
        })
    }

    /// The newest of those that were accepted came.
    fn assert_newest(&self, came: &BTreeSet<u64>, count: usize) {
        let missing: Vec<&u64> =
            self.accepted.iter().rev().take(count).filter(|number| !came.contains(number)).collect();
        assert!(missing.is_empty(), "of the newest {count} records some did not come: {missing:?}");
    }
}

fn text(number: u64) -> String {
    format!("{number:0RECORD$}")
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// Bytes of all segments, in whole blocks.
fn segment_bytes(home: &Home) -> u64 {
    home.segments(STREAM).iter().map(|path| fs::metadata(path).unwrap().len().next_multiple_of(4096)).sum()
}

/// Waits until the status and `GET /v1/health` say that the disk is full.
fn expect_degraded(sidecar: &Sidecar) {
    let told = |reasons: &Value| {
        let reasons = reasons.as_array().unwrap().iter().map(|reason| reason.as_str().unwrap());
        let of_stream =
            |reason: &str| reason.contains(&format!("stream {STREAM} ")) && reason.contains("No space left");
        reasons.into_iter().any(of_stream)
    };
    let status = sidecar.expect_status("the full disk to be told", |status| told(&status["health"]["reasons"]));
    assert_eq!(status["health"]["state"], "degraded");
    let health = sidecar.request("GET", "/v1/health", "", b"").unwrap();
    assert!(health.code == 503 && told(&health.json["reasons"]), "{health:?}");
}

/// Gives the space back; nobody tells the sidecar.
fn expect_recovery(sidecar: &Sidecar, filler: &Path) {
    fs::remove_file(filler).unwrap();
    let fails = |stream: &Value| !stream["disk_error"].is_null();
    sidecar.expect_status("the disk to be used again", |status| {
        !status["streams"].as_object().unwrap().values().any(fails)
    });
}

#[test]
fn a_full_disk_never_stops_it_and_never_loses_a_record_in_silence() {
    let world = World::new();
    world.relay.cut();
    let mut home = world.home();
    home.spool = SPOOL.to_owned();
    let Some(disk) = mount(&home) else { return };
    let filler = fill(&disk);
    // It starts on a full disk.
    let sidecar = Sidecar::start(home);
    let mut outcome = Outcome::default();
    assert_eq!(outcome.publish(&sidecar, ""), 200, "runtime_dir has it");
    expect_degraded(&sidecar);
    assert_eq!(outcome.publish(&sidecar, "&sync=true"), 507, "no disk has it");
    // More than memory is given: the oldest go, for nothing of the stream is on the disk that could go instead.
    for _ in 0..500 / BATCH {
        assert_eq!(outcome.publish(&sidecar, ""), 200);
    }
    let evicted = |sidecar: &Sidecar| sidecar.status()["streams"][STREAM]["evicted"].as_u64().unwrap();
    let before = evicted(&sidecar);
    assert!(before > 200, "{before} records were evicted");

    expect_recovery(&sidecar, &filler);
    assert_eq!(outcome.publish(&sidecar, "&sync=true"), 200);
    assert!(segment_bytes(&sidecar.home) > 100 * 1024, "what was in memory is on the disk now");
    // And now the stream itself fills the disk, which is smaller than its quota, twice over.
    for _ in 0..2 * DISK_KIB / BATCH {
        assert_eq!(outcome.publish(&sidecar, ""), 200);
    }
    assert!(evicted(&sidecar) > before + 1000, "{before}, then {}", evicted(&sidecar));

    world.relay.open();
    let came = outcome.expect_accounted(&world, &sidecar);
    outcome.assert_newest(&came, 150);
    println!("{} of {} records came", came.len(), outcome.next);
    sidecar.expect_status("it to be well, and its disk empty", |status| {
        status["health"]["state"] == "healthy" && status["streams"][STREAM]["bytes"] == 0
    });
}

#[test]
fn a_full_disk_never_gets_a_record_of_a_stream_that_rejects_lost() {
    let world = World::new();
    world.relay.cut();
    let mut home = world.home();
    home.spool = SPOOL.to_owned();
    home.tables = format!("[stream.{STREAM}]\nwhen_full = \"reject\"\nmax_bytes = \"512KiB\"\n");
    let Some(disk) = mount(&home) else { return };
    let filler = fill(&disk);
    let sidecar = Sidecar::start(home);
    let mut outcome = Outcome::default();
    assert_eq!(outcome.publish(&sidecar, "&sync=true"), 507, "no disk has it");
    expect_degraded(&sidecar);
    let held = (0..50).take_while(|_| outcome.publish(&sidecar, "") == 200).count();
    assert!((5..20).contains(&held), "memory took {held} requests");
    assert_eq!(outcome.publish(&sidecar, "&sync=true"), 429, "full is full");

    expect_recovery(&sidecar, &filler);
    // There is room again, up to the quota.
    let more = (0..50).take_while(|_| outcome.publish(&sidecar, "") == 200).count();
    assert!((5..20).contains(&more), "{more} requests more were taken");
    assert_eq!(outcome.publish(&sidecar, "&sync=true"), 429);
    assert!(segment_bytes(&sidecar.home) <= 512 * 1024, "{} bytes", segment_bytes(&sidecar.home));
    // The other streams have room on the disk.
    let target = "/v1/publish?topic=t&stream=telemetry&sync=true";
    assert_eq!(sidecar.request("POST", target, "", b"1").unwrap().code, 200);

    world.relay.open();
    let texts: Vec<String> = outcome.accepted.iter().map(|&number| text(number)).collect();
    world.subscriber.expect_texts(STREAM, texts, LONG);
    outcome.expect_accounted(&world, &sidecar);
    assert_eq!(sidecar.status()["streams"][STREAM]["evicted"], 0);
    assert_eq!(outcome.publish(&sidecar, "&sync=true"), 200, "the drain made room");
}

#[test]
fn a_stream_never_outgrows_its_quota_nor_drops_the_newest() {
    let world = World::new();
    world.relay.cut();
    let mut home = world.home();
    home.spool = SPOOL.to_owned();
    home.tables = format!("[stream.{STREAM}]\nmax_bytes = \"512KiB\"\n");
    let sidecar = Sidecar::start(home);
    let mut outcome = Outcome::default();
    for _ in 0..2000 / BATCH {
        assert_eq!(outcome.publish(&sidecar, "&sync=true"), 200);
        let bytes = segment_bytes(&sidecar.home);
        assert!(bytes <= 512 * 1024, "{bytes} bytes");
    }
    world.relay.open();
    let came = outcome.expect_accounted(&world, &sidecar);
    // All but the segment that made room and the one that is written.
    outcome.assert_newest(&came, 350);
    assert!(came.len() < 520, "{} records came", came.len());
}
