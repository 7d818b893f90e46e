//! The application's log on its way to a consumer, with a journalctl that reads the tests' own journal.

use super::World;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::{LONG, seed, subscriber::Inbox};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A journal that tests write, and the journalctl that reads it.
pub(super) struct Journal {
    bin: PathBuf,
    next: u64,
    file: u32,
}

impl Journal {
    /// In the home's folder. The sidecar is told to follow the unit.
    pub(super) fn beside(home: &mut Home) -> Journal {
        let bin = home.path("bin");
        fs::create_dir_all(bin.join("journal")).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/journalctl.py");
        std::os::unix::fs::symlink(stand_in, bin.join("journalctl")).unwrap();
        let path = format!("{}:/usr/bin:/bin", bin.display());
        home.environment.insert("PATH".to_owned(), path);
        home.tables += "[app]\nunit = \"gw.service\"\n";
        // The machine has logged before.
        let other = json!({ "__CURSOR": cursor(1), "MESSAGE": "", "_SYSTEMD_UNIT": "other.service" });
        fs::write(bin.join("journal/00001"), format!("{other}\n")).unwrap();
        Journal { bin, next: 2, file: 1 }
    }

    /// Logs `count` lines `line N`; every fourth is of priority debug, and named `debug N`.
    pub(super) fn log(&mut self, count: u64) {
        let mut text = String::new();
        for number in self.next..self.next + count {
            let (message, priority) = match number % 4 {
                0 => (format!("debug {number}"), "7"),
                _ => (format!("line {number}"), "6"),
            };
            let line = json!({ "__CURSOR": cursor(number), "MESSAGE": message, "PRIORITY": priority, "_PID": "7",
                "__REALTIME_TIMESTAMP": (1_795_000_000_000_000 + number * 10_000).to_string() });
            text += &format!("{line}\n");
        }
        self.next += count;
        let path = self.bin.join(format!("journal/{:05}", self.file));
        File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&mut self) {
        self.file += 1;
    }

    /// The messages that are to be shipped, so far.
    pub(super) fn shipped(&self) -> Vec<String> {
        (2..self.next).filter(|number| number % 4 != 0).map(|number| format!("line {number}")).collect()
    }
}

/// The place of a line in the journal.
fn cursor(number: u64) -> String {
    format!("s=0123456789abcdef;i={number:x};b=b;m={number:x};t={number:x};x={number:x}")
}

/// The messages of all lines on `p/log`, in the order of their records.
fn messages(inbox: &Inbox) -> Vec<String> {
    let mut records: Vec<_> = inbox.on("p/log").collect();
    records.sort_by_key(|record| record.seq);
    let lines = records.iter().filter_map(|record| record.envelope["data"]["lines"].as_array()).flatten();
    lines.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

/// Waits for all lines; fails when one is missing, doubled, or out of order.
pub(super) fn expect_each_once(world: &World, journal: &Journal) {
    let expected = journal.shipped();
    let last = expected.last().cloned();
    world.subscriber.expect("the last line", LONG, |inbox| messages(inbox).last() == last.as_ref());
    let came = world.subscriber.read(messages);
    let mut counts: HashMap<&str, usize> = HashMap::new();
    came.iter().for_each(|message| *counts.entry(message).or_default() += 1);
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    let missing: Vec<_> = expected.iter().filter(|message| !counts.contains_key(message.as_str())).take(10).collect();
    assert!(doubled.is_empty() && missing.is_empty(), "doubled: {doubled:?}, missing: {missing:?}");
    assert_eq!(came, expected, "out of order");
}

#[test]
fn of_10_000_lines_over_a_stop_and_a_rotation_each_arrives_once() {
    let world = World::new();
    let mut home = world.home();
    let mut journal = Journal::beside(&mut home);
    let mut sidecar = Sidecar::start(home);
    sidecar.expect_status("the journal to be followed", |status| status["logs"]["state"] == "following");
    journal.log(2500);
    journal.rotate();
    journal.log(1000);
    assert!(sidecar.terminate().success());
    journal.log(3000);
    journal.rotate();
    journal.log(2000);
    sidecar.start_again();
    journal.log(1500);
    expect_each_once(&world, &journal);
    let records = world.subscriber.read(|inbox| inbox.count("p/log"));
    println!("7,500 lines in {records} records");
    assert!(records < 100, "{records}");
    let first = world.subscriber.read(|inbox| inbox.on("p/log").next().unwrap().envelope["data"].clone());
    assert_eq!((&first["unit"], &first["lines"][0]["pid"]), (&json!("gw.service"), &json!(7)));
    assert_eq!(first["lines"][0]["id"], "01234567:2");
}

#[test]
fn a_kill_never_costs_or_doubles_a_line() {
    const KILLS: usize = 25;
    let mut world = World::new();
    let mut home = world.home();
    let mut journal = Journal::beside(&mut home);
    let mut sidecar = Sidecar::start(home);
    let mut rng = fastrand::Rng::with_seed(seed());
    // A new installation begins with the latest 1,000 lines: with the first one it has begun.
    journal.log(1);
    world.subscriber.expect("the first line", LONG, |inbox| messages(inbox).len() == 1);
    for kill in 0..KILLS {
        let lines = rng.u64(1..400);
        journal.log(lines);
        match kill % 5 {
            // The broker is away over this kill, and back after it.
            3 => world.relay.cut(),
            4 => world.relay.open(),
            _ => {}
        }
        if rng.bool() {
            // Into the time in which batches are handed over.
            std::thread::sleep(std::time::Duration::from_millis(rng.u64(0..1300)));
        } else if kill % 5 < 3 {
            let last = journal.shipped().last().cloned();
            world.subscriber.expect("the flow", LONG, |inbox| messages(inbox).last() == last.as_ref());
        }
        sidecar.kill();
        if rng.bool() {
            journal.rotate();
        }
        journal.log(rng.u64(0..50));
        sidecar.start_again();
    }
    world.relay.open();
    journal.log(1);
    journal.log(3);
    expect_each_once(&world, &journal);
    world.stop_broker();
}

#[test]
fn what_the_application_posts_is_shipped_like_its_journal() {
    let world = World::new();
    let sidecar = Sidecar::start(world.home());
    let post = |kind: &str, body: &str| sidecar.request("POST", "/v1/logs", kind, body.as_bytes()).unwrap();
    let answer = post(
        "application/x-ndjson",
        "\"one\"\n{\"message\":\"two\",\"level\":\"debug\"}\n{\"message\":\"three\",\"n\":3}\n",
    );
    assert_eq!(
        (answer.code, &answer.json),
        (200, &json!({ "accepted": 3, "shipped": 2, "below_level": 1, "suppressed": 0 }))
    );
    assert_eq!(post("text/plain", "four\n").json["shipped"], 1);
    let refused = post("application/x-ndjson", "{\"massage\":\"x\"}");
    assert_eq!(refused.code, 400, "{refused:?}");
    assert!(refused.json["error"].as_str().unwrap().contains("line 1: it has no message"));
    world.subscriber.expect("the lines", LONG, |inbox| messages(inbox) == ["one", "three", "four"]);
    let status = sidecar.status();
    assert_eq!((&status["logs"]["posted"], &status["logs"]["state"]), (&json!(4), &json!("off")));
    // An error brings what came before it.
    assert_eq!(post("application/x-ndjson", "{\"message\":\"bad\",\"priority\":3}").code, 200);
    world.subscriber.expect("the flight recorder", LONG, |inbox| {
        let recorders: Vec<&Value> = inbox
            .on("p/log")
            .map(|record| &record.envelope["data"]["recorder"])
            .filter(|lines| lines.is_array())
            .collect();
        recorders.len() == 1 && recorders[0].as_array().unwrap().len() == 1 && recorders[0][0]["message"] == "two"
    });
    assert!(sidecar.request("GET", "/metrics", "", b"").is_ok());
}

#[test]
fn a_sidecar_without_a_journal_never_fails_for_it() {
    let world = World::new();
    let mut home = world.home();
    home.tables += "[app]\nunit = \"gw.service\"\n";
    home.environment.insert("PATH".to_owned(), "/nowhere".to_owned());
    let sidecar = Sidecar::start(home);
    let status = sidecar.expect_status("the complaint", |status| status["logs"]["state"] == "failed");
    let reasons = status["health"]["reasons"].to_string();
    assert!(reasons.contains("the application's log can't be read: journalctl can't be started"), "{reasons}");
    sidecar.publish("t", "still here");
    world.subscriber.expect_text("work", "still here");
}
