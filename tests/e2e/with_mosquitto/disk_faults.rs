//! A `state_dir` that can't be used, on a real kernel: the sidecar starts, bridges out of memory, says what is wrong, and is
//! healthy again without a restart where the fault goes away.
//!
//! What a disk that fails does to every single call is tested on a simulated one, in `src/spool/tests`.

use super::World;
use crate::common::SOON;
use crate::common::disk::LoopDisk;
use crate::common::sidecar::{Home, STREAM, Sidecar, assert_balanced};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// A sidecar whose `state_dir` is this folder, which need not be there.
fn home_on(world: &World, state: &Path, spool: &str) -> Home {
    let mut home = world.home();
    home.spool = spool.to_owned();
    let more = home.path("test.toml.d");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("state.toml"), format!("state_dir = {state:?}\n")).unwrap();
    home
}

/// Waits until the health says that the disk fails, and why.
fn expect_degraded(sidecar: &Sidecar, why: &str) {
    let start = format!("stream {STREAM} is held in memory, the disk fails: ");
    let reasons = |status: &serde_json::Value| status["health"]["reasons"].as_array().cloned().unwrap_or_default();
    let told =
        |reason: &serde_json::Value| reason.as_str().is_some_and(|text| text.starts_with(&start) && text.contains(why));
    let status = sidecar.expect_status(why, |status| reasons(status).iter().any(told));
    assert_eq!(status["health"]["state"], "degraded", "{status:#}");
    assert_eq!(sidecar.request("GET", "/v1/health", "", b"").unwrap().code, 503);
    assert_balanced(&status["streams"][STREAM]);
}

fn expect_healthy(sidecar: &Sidecar) {
    sidecar.expect_status("health again", |status| status["health"]["state"] == "healthy");
    assert_eq!(sidecar.request("GET", "/v1/health", "", b"").unwrap().code, 200);
}

/// Publishes a record, which may not be stored, and waits for it to come out.
fn bridge(world: &World, sidecar: &Sidecar, text: &str) -> u64 {
    let target = format!("/v1/publish?topic=orders&stream={STREAM}");
    let answer = sidecar.request("POST", &target, "text/plain", text.as_bytes()).unwrap();
    assert!(matches!(answer.code, 200 | 507), "{answer:?}");
    world.subscriber.expect_text(STREAM, text).seq
}

/// Publishes a record that has to be on the medium. Returns the code and what was said.
fn publish_durably(sidecar: &Sidecar, text: &str) -> (u16, String) {
    let target = format!("/v1/publish?topic=orders&stream={STREAM}&sync=true");
    let answer = sidecar.request("POST", &target, "text/plain", text.as_bytes()).unwrap();
    (answer.code, answer.text)
}

/// No file may be open for writing when it becomes read-only, and segments are closed a while after the last record.
fn make_read_only(disk: &LoopDisk) {
    let deadline = Instant::now() + SOON;
    while !disk.remount("ro") {
        assert!(Instant::now() < deadline, "somebody writes to the disk all the time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_read_only_disk_never_stops_the_bridge_nor_needs_a_restart() {
    let Some(disk) = LoopDisk::mount() else { return };
    let world = World::new();
    let mut sidecar = Sidecar::start(home_on(&world, &disk.path(), "sync = \"200ms\""));
    bridge(&world, &sidecar, "before");
    assert!(sidecar.terminate().success());

    // At the start.
    disk.unmount();
    disk.mount_again_read_only();
    sidecar.start_again();
    bridge(&world, &sidecar, "at the start");
    expect_degraded(&sidecar, "Read-only file system");
    assert!(disk.remount("rw"));
    expect_healthy(&sidecar);
    assert_eq!(publish_durably(&sidecar, "stored").0, 200);

    // While it runs.
    sidecar.expect_drained(STREAM);
    make_read_only(&disk);
    let (code, said) = publish_durably(&sidecar, "while it runs");
    assert!(code == 507 && said.contains("Read-only file system"), "{code} {said}");
    expect_degraded(&sidecar, "Read-only file system");
    world.subscriber.expect_text(STREAM, "while it runs");
    world.relay.cut();
    sidecar.publish("orders", "in memory");
    assert!(disk.remount("rw"));
    sidecar.expect_status("the disk", |status| status["streams"][STREAM]["disk_error"].is_null());
    world.relay.open();
    expect_healthy(&sidecar);
    world.subscriber.expect_text(STREAM, "in memory");
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["quarantined"], &ledger["evicted"]), (&0.into(), &0.into()), "{ledger}");
    world.subscriber.read(|inbox| inbox.assert_in_order());
}

/// The disk came back after somebody looked at it: the numbers that went out meanwhile are in no checkpoint.
#[test]
fn numbers_that_a_read_only_disk_could_not_reserve_are_never_given_twice() {
    let Some(disk) = LoopDisk::mount() else { return };
    for sync in ["always", "1s"] {
        let world = World::new();
        let state = disk.path().join(sync);
        let mut sidecar = Sidecar::start(home_on(&world, &state, &format!("sync = \"{sync}\"")));
        let mut numbers = vec![bridge(&world, &sidecar, "on a disk that works")];
        sidecar.kill();
        disk.unmount();
        disk.mount_again_read_only();
        for text in ["one", "two"] {
            // A tmpfs does not survive a power cut.
            fs::remove_dir_all(sidecar.home.path("run")).unwrap();
            sidecar.start_again();
            numbers.push(bridge(&world, &sidecar, text));
            sidecar.kill();
        }
        fs::remove_dir_all(sidecar.home.path("run")).unwrap();
        assert!(disk.remount("rw"));
        sidecar.start_again();
        numbers.push(bridge(&world, &sidecar, "on a disk that works again"));
        let mut distinct = numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), numbers.len(), "sync = {sync}: {numbers:?}");
        world.subscriber.read(|inbox| assert_eq!(inbox.conflicts, [] as [String; 0]));
    }
}

#[test]
fn a_dead_disk_never_stops_the_bridge() {
    let Some(disk) = LoopDisk::mount() else { return };
    let world = World::new();
    let mut sidecar = Sidecar::start(home_on(&world, &disk.path(), "sync = \"always\""));
    bridge(&world, &sidecar, "before");
    disk.cutter().cut();
    let (code, said) = publish_durably(&sidecar, "not stored");
    assert!(code == 507 && said.contains("Input/output error"), "{code} {said}");
    world.subscriber.expect_text(STREAM, "not stored");
    bridge(&world, &sidecar, "not stored either");
    expect_degraded(&sidecar, "Input/output error");
    // Its lock is on the disk, which can't be unmounted while it runs. So this takes a restart; at first with a dead disk.
    assert!(sidecar.terminate().success(), "a dead disk keeps nobody from stopping");
    sidecar.start_again();
    bridge(&world, &sidecar, "on a dead disk");
    expect_degraded(&sidecar, "Input/output error");
    assert!(sidecar.terminate().success());
    disk.unmount();
    disk.mount_again();
    sidecar.start_again();
    bridge(&world, &sidecar, "on a disk that works again");
    expect_healthy(&sidecar);
    assert_eq!(publish_durably(&sidecar, "stored").0, 200);
    assert_balanced(&sidecar.expect_drained(STREAM));
    world.subscriber.read(|inbox| assert_eq!(inbox.conflicts, [] as [String; 0]));
}

/// Removes a folder that somebody may just be writing to.
fn remove_all_of(folder: &Path) {
    let deadline = Instant::now() + SOON;
    while let Err(error) = fs::remove_dir_all(folder) {
        assert!(Instant::now() < deadline, "{}: {error}", folder.display());
    }
}

#[test]
fn a_removed_state_dir_never_takes_what_is_acknowledged_afterwards() {
    for sync in ["always", "200ms"] {
        let world = World::new();
        let mut home = world.home();
        home.spool = format!("sync = \"{sync}\"");
        let mut sidecar = Sidecar::start(home);
        bridge(&world, &sidecar, "before");
        world.relay.cut();
        assert_eq!(publish_durably(&sidecar, "removed").0, 200);
        remove_all_of(&sidecar.home.path("state"));
        // It may say no at first; what it says yes to has to be there.
        let deadline = Instant::now() + SOON;
        let mut said_yes = Vec::new();
        for number in 0.. {
            let text = format!("after {number}");
            if publish_durably(&sidecar, &text).0 == 200 {
                said_yes.push(text);
            }
            if said_yes.len() >= 5 {
                break;
            }
            assert!(Instant::now() < deadline, "nothing is accepted any more");
            std::thread::sleep(Duration::from_millis(50));
        }
        sidecar.kill();
        fs::remove_dir_all(sidecar.home.path("run")).unwrap();
        sidecar.start_again();
        world.relay.open();
        world.subscriber.expect_texts(STREAM, said_yes, SOON / 4);
        assert_balanced(&sidecar.expect_drained(STREAM));
        expect_healthy(&sidecar);
        world.subscriber.read(|inbox| inbox.assert_in_order());
    }
}

#[test]
fn a_state_dir_that_cant_be_made_never_keeps_it_from_starting() {
    let world = World::new();
    let home = home_on(&world, Path::new("/"), "sync = \"200ms\"");
    let parent = home.path("parent");
    let state = format!("state_dir = {:?}\n", parent.join("state"));
    fs::write(home.path("test.toml.d/state.toml"), state).unwrap();
    fs::write(&parent, "a file where a folder should be").unwrap();
    let sidecar = Sidecar::start(home);
    bridge(&world, &sidecar, "in memory");
    expect_degraded(&sidecar, "Not a directory");
    world.relay.cut();
    sidecar.publish("orders", "kept");
    fs::remove_file(&parent).unwrap();
    sidecar.expect_status("the disk", |status| status["streams"][STREAM]["disk_error"].is_null());
    assert!(fs::read_dir(parent.join("state/spool/work")).unwrap().count() >= 1);
    world.relay.open();
    world.subscriber.expect_text(STREAM, "kept");
    expect_healthy(&sidecar);
    assert_eq!(publish_durably(&sidecar, "stored").0, 200);
    assert_balanced(&sidecar.expect_drained(STREAM));
}

/// Things where the spool's own files should be, as clumsy scripts and restores leave them.
#[test]
fn things_in_the_way_never_keep_it_from_starting() {
    let world = World::new();
    let home = world.home();
    let stream = home.path("state/spool/work");
    fs::create_dir_all(stream.join("checkpoint")).unwrap();
    fs::create_dir_all(stream.join("00000000000000000007.seg")).unwrap();
    fs::create_dir_all(home.path("state/spool/lock")).unwrap();
    fs::write(home.path("state/spool/log"), "a file where a folder should be").unwrap();
    symlink("nowhere", stream.join("00000000000000000009.seg")).unwrap();
    fs::write(stream.join("00000000000000000500.seg"), "left by somebody").unwrap();
    let sidecar = Sidecar::start(home);
    bridge(&world, &sidecar, "past all that");
    assert_eq!(publish_durably(&sidecar, "stored").0, 200, "{}", sidecar.log());
    assert_eq!(fs::read(stream.join("quarantine/00000000000000000500.seg")).unwrap(), b"left by somebody");
    world.subscriber.expect("it to be told", SOON, |inbox| !inbox.events("set-aside").is_empty());
    assert_balanced(&sidecar.expect_drained(STREAM));
    // That one can't be helped without somebody who removes it.
    let degraded =
        |status: &serde_json::Value| status["health"]["reasons"].to_string().contains("stream log is held in memory");
    sidecar.expect_status("the verdict", degraded);
    fs::remove_file(sidecar.home.path("state/spool/log")).unwrap();
    expect_healthy(&sidecar);
}

#[test]
fn a_segment_of_a_newer_pillion_is_never_removed_nor_in_the_way() {
    let world = World::new();
    world.relay.cut();
    let mut home = world.home();
    home.spool = "sync = \"always\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    sidecar.publish("orders", "of another version");
    sidecar.kill();
    let segment = sidecar.home.segments(STREAM).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    // The format version, behind the magic; and the CRC at the end of the header.
    bytes[8] = 9;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes[..52]);
    bytes[52..56].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, &bytes).unwrap();
    sidecar.start_again();
    world.relay.open();
    let seq = bridge(&world, &sidecar, "of this version");
    assert!(seq > 1, "the number of a record that can't be read is given again");
    world.subscriber.expect("it to be told", SOON, |inbox| {
        inbox.events("set-aside").iter().any(|event| event["detail"].as_str().unwrap().contains("format version is 9"))
    });
    let kept = sidecar.home.path("state/spool/work/quarantine").join(segment.file_name().unwrap());
    assert_eq!(fs::read(kept).unwrap(), bytes);
    assert_balanced(&sidecar.expect_drained(STREAM));
    expect_healthy(&sidecar);
}

/// Somebody put an older copy of the segments back, but not the checkpoint.
#[test]
fn a_checkpoint_that_is_ahead_of_the_segments_never_gives_a_number_twice() {
    let world = World::new();
    let mut home = world.home();
    home.spool = "sync = \"always\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    world.relay.cut();
    sidecar.publish("orders", "in the copy");
    assert!(sidecar.terminate().success());
    let segment = sidecar.home.segments(STREAM).remove(0);
    let copy = fs::read(&segment).unwrap();
    world.relay.open();
    sidecar.start_again();
    world.subscriber.expect_text(STREAM, "in the copy");
    let late = bridge(&world, &sidecar, "later");
    sidecar.expect_drained(STREAM);
    world.relay.cut();
    sidecar.publish("orders", "waits");
    assert!(sidecar.terminate().success());
    for newer in sidecar.home.segments(STREAM) {
        fs::remove_file(newer).unwrap();
    }
    fs::write(&segment, copy).unwrap();
    sidecar.start_again();
    world.relay.open();
    assert!(bridge(&world, &sidecar, "after the copy") > late + 1);
    expect_healthy(&sidecar);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&3.into(), &1.into()), "{ledger}");
    world.subscriber.expect("the loss to be told", SOON, |inbox| {
        inbox.events("gap").iter().any(|gap| gap["first"] == late + 1 && gap["reason"] == "missing")
    });
    world.subscriber.read(|inbox| inbox.assert_in_order());
}

#[test]
fn a_second_process_never_shares_a_state_dir_and_says_which() {
    let world = World::new();
    let sidecar = Sidecar::start(world.home());
    let state = sidecar.home.path("state");
    // Another instance, with another runtime_dir, that got at the same folder by another name.
    let other = world.home();
    let alias = other.path("alias");
    symlink(&state, &alias).unwrap();
    let more = other.path("test.toml.d");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("state.toml"), format!("state_dir = {alias:?}\n")).unwrap();
    let config = other.configure();
    let second = other.run(&["run", "--config", config.to_str().unwrap()], b"");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(69), "{said}");
    let line =
        said.lines().find(|line| line.contains("is in use by another process")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(alias.join("spool").to_str().unwrap()) && line.contains("state_dir"), "{line}");
    bridge(&world, &sidecar, "the first is not disturbed");
    expect_healthy(&sidecar);
}

/// Half a minute for each segment: that is how long a disk is given to come back.
#[test]
fn a_backlog_on_a_dead_disk_never_blocks_what_comes_behind_it_for_ever() {
    let Some(disk) = LoopDisk::mount() else { return };
    let world = World::new();
    let mut sidecar = Sidecar::start(home_on(&world, &disk.path(), "sync = \"always\""));
    world.relay.cut();
    let backlog: Vec<String> = (0..20).map(|number| format!("backlog {number}")).collect();
    sidecar.publish_lines("orders", &backlog);
    disk.cutter().cut();
    world.relay.open();
    let live = bridge(&world, &sidecar, "behind the backlog");
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["quarantined"], backlog.len(), "{ledger}");
    world.subscriber.expect("the loss to be told", SOON, |inbox| {
        inbox.events("gap").iter().any(|gap| gap["last"] == live - 1 && gap["reason"] == "unreadable")
    });
    expect_degraded(&sidecar, "Input/output error");

    // The disk has them all the same, and nothing was written there that says that they are lost.
    assert!(sidecar.terminate().success());
    disk.unmount();
    disk.mount_again();
    sidecar.start_again();
    world.subscriber.expect_texts(STREAM, backlog, SOON);
    assert_balanced(&sidecar.expect_drained(STREAM));
    expect_healthy(&sidecar);
    world.subscriber.read(|inbox| assert_eq!(inbox.conflicts, [] as [String; 0]));
}
