//! The runtime tier: what is written where, and what is left of it after a kill.

use super::*;
use crate::spool::runtime::{SAVE_EVERY_MS, SEGMENT_BYTES};
use crate::spool::sim::TMPFS;
use rustix::io::Errno;

/// Calls that change something below this folder.
fn writes_below(rig: &Rig, dir: &str) -> Vec<(Call, PathBuf)> {
    rig.fs.journal().into_iter().filter(|(call, path)| call.writes() && path.starts_with(dir)).collect()
}

fn runtime_files(rig: &Rig) -> Vec<PathBuf> {
    rig.fs.files().into_iter().filter(|path| path.starts_with(TMPFS)).collect()
}

/// The runtime segments of telemetry.
fn runtime_segments(rig: &Rig) -> Vec<PathBuf> {
    let of_telemetry = |path: &PathBuf| {
        path.starts_with("/run/spool/telemetry") && path.extension().is_some_and(|ending| ending == "seg")
    };
    runtime_files(rig).into_iter().filter(of_telemetry).collect()
}

/// One loop of the thread.
fn append(rig: &mut Rig, data: &[&str]) -> Accepted {
    let accepted = rig.append_to(T, data).unwrap();
    rig.spool.tick(rig.now);
    accepted
}

#[test]
fn a_kill_never_takes_what_was_accepted() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    append(&mut rig, &["c"]);
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2, 3]);
    let event = rig.events("unclean-stop").pop().unwrap();
    assert!(event["detail"].as_str().unwrap().contains("3 records that were not on flash"), "{event}");
    // Killed again before anything else happened, and once more with new records.
    rig.reopen();
    let next = append(&mut rig, &["d"]).first;
    assert!(next > 3);
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2, 3, next]);
    assert_eq!((rig.status(T).waiting, rig.status(T).accepted, rig.status(T).quarantined), (4, 4, 0));
    rig.tick_after(1000);
    assert!(rig.files(".seg").iter().any(|path| path.starts_with("/state")), "it waited long enough");
    rig.cut_and_reopen(1);
    assert_eq!(rig.numbers(T), [1, 2, 3, next]);
}

/// The whole way of records through both tiers, cut off at each call to the file system.
#[test]
fn a_kill_between_any_two_calls_never_costs_or_doubles_a_record() {
    // Some of them fill a segment of the runtime tier.
    let large = "x".repeat(usize::try_from(SEGMENT_BYTES).unwrap() / 5);
    for calls in 0.. {
        let mut rig = Rig::with(tiered(WINDOW));
        let (mut safe, mut given, mut acknowledged) = (Vec::new(), 0, 0);
        rig.fs.die_after(calls);
        for round in 0..12 {
            let accepted = rig.append_to(T, &["a", &large]).unwrap();
            if !rig.fs.is_dead() {
                given = accepted.last;
            }
            let staged = rig.spool.harden(T, Durability::Process, rig.now).is_ok();
            if staged {
                safe.extend(accepted.first..=accepted.last);
            }
            if rig.fs.is_dead() {
                break;
            }
            if round == 2 {
                rig.spool.acknowledge(T, 3, rig.now);
                acknowledged = 3;
            }
            rig.tick_after(700);
        }
        if !rig.fs.is_dead() {
            rig.spool.acknowledge(T, 9, rig.now);
            acknowledged = 9;
            rig.tick_after(1000);
            rig.tick_after(1000);
        }
        let died = rig.fs.revive();
        // The next one dies too: opening, and all that it writes at once.
        for calls in [0, 1, 3, 7] {
            rig.fs.die_after(calls);
            rig.reopen();
            let _ = rig.append_to(L, &["elsewhere"]);
            rig.tick_after(0);
            rig.fs.revive();
        }
        rig.reopen();
        let numbers = rig.numbers(T);
        assert!(numbers.is_sorted_by(|a, b| a < b), "{calls}: {numbers:?}");
        let must = safe.iter().filter(|&&seq| seq > acknowledged);
        assert!(must.clone().all(|seq| numbers.contains(seq)), "{calls}: {numbers:?} of {safe:?}");
        assert!(numbers.iter().all(|seq| *seq <= given), "{calls}: {numbers:?}");
        assert_eq!(rig.status(T).quarantined, 0, "{calls}");
        assert!(rig.append_to(T, &["next"]).unwrap().first > given, "{calls}");
        if !died {
            assert_eq!(numbers, (10..=24).collect::<Vec<_>>());
            assert!(calls > 60, "{calls} calls are no way through both tiers");
            return;
        }
    }
}

#[test]
fn records_that_the_broker_takes_in_time_never_touch_flash() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["the first one reserves numbers"]);
    rig.fs.journal();
    let mut appends = 0;
    for _ in 0..10_000 {
        let accepted = append(&mut rig, &["in time"]);
        rig.tick_after(6);
        rig.spool.acknowledge(T, accepted.last, rig.now);
        rig.spool.tick(rig.now);
        let calls = rig.fs.journal();
        let flash = calls.iter().find(|(call, path)| call.writes() && !path.starts_with(TMPFS));
        assert_eq!(flash, None);
        appends += calls.iter().filter(|(call, _)| *call == Call::Append).count();
    }
    // A minute: one write for each record, a checkpoint each second, and the headers of segments.
    assert!(appends <= 10_000 + 61 + 10, "{appends}");
    rig.settle_down();
    assert_eq!(writes_below(&rig, "/state"), []);
    assert_eq!((rig.status(T).delivered, rig.spool.deadline_ms()), (10_001, None));
    // And after a kill nothing of it comes again.
    rig.reopen();
    assert!(rig.numbers(T).is_empty());
    assert_eq!((rig.status(T).delivered, rig.status(T).accepted), (10_001, 10_001));
}

#[test]
fn records_of_one_group_never_cost_a_write_each() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["the file is made"]);
    rig.fs.journal();
    for _ in 0..20 {
        rig.append_to(T, &["a", "b"]).unwrap();
    }
    rig.spool.tick(rig.now);
    assert_eq!(writes_below(&rig, "/"), [(Call::Append, runtime_segments(&rig).pop().unwrap())]);
    rig.spool.tick(rig.now);
    assert_eq!(writes_below(&rig, "/"), []);
}

#[test]
fn acknowledgements_are_never_forgotten_for_long() {
    let mut rig = Rig::with(tiered(WINDOW));
    for _ in 0..100 {
        let accepted = append(&mut rig, &["x"]);
        rig.tick_after(100);
        rig.spool.acknowledge(T, accepted.last, rig.now);
        rig.spool.tick(rig.now);
    }
    rig.reopen();
    let repeated = rig.numbers(T);
    assert!(repeated.len() as u64 <= SAVE_EVERY_MS / 100, "{repeated:?}");
    assert_eq!((rig.status(T).accepted, rig.status(T).quarantined), (100, 0));
}

#[test]
fn the_runtime_tier_never_grows_with_what_passes_through_it() {
    let mut options = tiered(WINDOW);
    options.segment_bytes = 1 << 20;
    let mut rig = Rig::with(options);
    let record = "x".repeat(1000);
    let bytes = |rig: &Rig| runtime_files(rig).iter().map(|path| rig.fs.content(path).len() as u64).sum::<u64>();
    // With a broker, which is some records behind, and without one, where flash takes them.
    for online in [true, false] {
        for _ in 0..2000 {
            let accepted = append(&mut rig, &[&record]);
            if online {
                rig.spool.acknowledge(T, accepted.last.saturating_sub(10), rig.now);
            }
            rig.tick_after(5);
            assert!(bytes(&rig) < 4 * SEGMENT_BYTES, "{}", bytes(&rig));
        }
    }
    assert!(rig.status(T).waiting >= 2000);
    rig.spool.rewind();
    let before = rig.numbers(T);
    rig.reopen();
    assert_eq!(rig.numbers(T), before);
}

#[test]
fn what_is_left_of_another_boot_is_never_taken_over() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    rig.spool.acknowledge(T, 1, rig.now);
    rig.tick_after(1);
    rig.options.boot_id = [8; 16];
    rig.reopen();
    assert!(rig.numbers(T).is_empty());
    let old = |path: &PathBuf| rig.fs.content(path).windows(16).any(|bytes| bytes == [7; 16]);
    assert!(!runtime_files(&rig).iter().any(old));
    assert!(!runtime_files(&rig).iter().any(|path| path.to_string_lossy().contains("0707")));
    assert!(append(&mut rig, &["c"]).first > 2);
}

#[test]
fn a_clean_stop_never_leaves_anything_in_the_runtime_tier() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    rig.spool.acknowledge(T, 1, rig.now);
    rig.close_and_reopen();
    assert_eq!(runtime_files(&rig), [] as [PathBuf; 0]);
    assert_eq!(rig.numbers(T), [2]);
    assert_eq!(append(&mut rig, &["c"]).first, 3);
    // Its files can't be removed: they are never taken for new ones.
    rig.fs.fail(Call::Remove, TMPFS, usize::MAX, Errno::IO);
    rig.spool.close(rig.now);
    rig.fs.heal();
    assert_ne!(runtime_files(&rig), [] as [PathBuf; 0]);
    rig.reopen();
    assert_eq!(rig.numbers(T), [2, 3]);
    rig.tick_after(1000);
    assert!(runtime_segments(&rig).is_empty(), "they are removed now");
}

#[test]
fn a_stop_that_a_full_disk_spoils_never_costs_a_record() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    rig.fs.fail(Call::Append, "/state", usize::MAX, Errno::NOSPC);
    rig.spool.close(rig.now);
    rig.fs.heal();
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2]);
}

#[test]
fn a_full_tmpfs_never_costs_a_record_nor_needs_a_restart() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["before"]);
    rig.fs.fail(Call::Append, TMPFS, usize::MAX, Errno::NOSPC);
    append(&mut rig, &["in memory"]);
    let error = rig.status(T).runtime_error.unwrap();
    assert!(error.contains("/run/spool/telemetry: No space left"), "{error}");
    assert_eq!(rig.status(T).disk_error, None);
    // Who asks for more than memory gets it from flash.
    rig.spool.harden(T, Durability::Process, rig.now).unwrap();
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2]);

    append(&mut rig, &["again in memory"]);
    assert!(rig.status(T).runtime_error.is_some());
    rig.fs.journal();
    rig.spool.tick(rig.now);
    assert_eq!(writes_below(&rig, TMPFS), [], "it is left in peace between the tries");
    rig.fs.heal();
    rig.settle_down();
    assert_eq!(rig.status(T).runtime_error, None);
    let last = append(&mut rig, &["after"]).last;
    rig.reopen();
    assert!(rig.numbers(T).ends_with(&[last]));
    assert_eq!(rig.status(T).waiting, 4);
}

#[test]
fn a_runtime_dir_that_cant_be_used_never_keeps_it_from_working() {
    for call in [Call::MakeDir, Call::List, Call::Create, Call::Append, Call::Rename] {
        let fs = SimFs::default();
        fs.fail(call, TMPFS, usize::MAX, Errno::ACCESS);
        let mut rig = Rig::on(fs, tiered(WINDOW));
        append(&mut rig, &["a"]);
        rig.spool.acknowledge(T, 1, rig.now);
        rig.tick_after(SAVE_EVERY_MS);
        assert!(rig.status(T).runtime_error.is_some(), "{call:?}");
        append(&mut rig, &["b"]);
        rig.tick_after(1000);
        rig.cut_and_reopen(3);
        assert_eq!(rig.numbers(T), [2], "{call:?}");
        rig.tick_after(40_000);
        append(&mut rig, &["c"]);
        assert_eq!(rig.status(T).runtime_error, None, "{call:?}");
    }
}

/// What happens in the run that could not read the tier at first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Killed,
    Recovered,
    Closed,
    ClosedAtOnce,
}

#[test]
fn a_runtime_dir_that_cant_be_read_for_a_moment_never_costs_what_is_in_it() {
    for (call, sync) in [(Call::List, WINDOW), (Call::Open, WINDOW), (Call::Read, WINDOW), (Call::List, Sync::Always)] {
        for then in [Then::Killed, Then::Recovered, Then::Closed, Then::ClosedAtOnce] {
            let at = format!("{call:?} {sync:?} {then:?}");
            let mut rig = Rig::with(tiered(WINDOW));
            rig.store("on flash");
            rig.spool.acknowledge(T, 1, rig.now);
            rig.tick_after(20_000);
            rig.wait(SAVE_EVERY_MS);
            append(&mut rig, &["a", "b", "refused", "c"]);
            rig.spool.discard(T, 4, Reason::Refused, "not for us".into(), rig.now);
            rig.spool.acknowledge(T, 2, rig.now);
            rig.tick_after(SAVE_EVERY_MS / 2);
            rig.fs.fail(call, "/run/spool/telemetry", usize::MAX, Errno::MFILE);
            rig.options.sync = sync;
            rig.reopen();
            assert!(rig.numbers(T).is_empty(), "{at}");
            assert_eq!(rig.events("runtime-unusable").len(), 1, "{at}");
            assert!(rig.status(T).runtime_error.is_some(), "{at}");
            let waits = |rig: &mut Rig| {
                rig.spool.rewind();
                let all = rig.read_all().into_iter().filter(|(stream, _)| *stream == T);
                let all: Vec<_> = all.map(|(_, record)| (record.seq, record.record.data)).collect();
                assert!(all.is_sorted_by_key(|(seq, _)| *seq), "{at}");
                let mut data: Vec<_> = all.into_iter().map(|(_, data)| String::from_utf8(data).unwrap()).collect();
                data.sort();
                data
            };
            if then == Then::Killed {
                rig.fs.heal();
                rig.reopen();
                assert_eq!(waits(&mut rig), ["b", "c"], "{at}");
                continue;
            }
            append(&mut rig, &["new"]);
            if then != Then::ClosedAtOnce {
                rig.tick_after(10_000);
                assert_eq!(waits(&mut rig), ["new"], "{at}");
            }
            rig.fs.heal();
            if then != Then::ClosedAtOnce {
                rig.tick_after(40_000);
                assert_eq!(rig.status(T).runtime_error, None, "{at}");
                assert_eq!(waits(&mut rig), ["b", "c", "new"], "{at}");
            }
            if then != Then::Recovered {
                rig.spool.close(rig.now);
                assert_eq!(runtime_segments(&rig), [] as [PathBuf; 0], "{at}");
            }
            rig.reopen();
            assert_eq!(waits(&mut rig), ["b", "c", "new"], "{at}");
            rig.close_and_reopen();
            rig.cut_and_reopen(1);
            assert_eq!(waits(&mut rig), ["b", "c", "new"], "{at}");
            assert_eq!((rig.status(T).waiting, rig.status(T).evicted), (3, 0), "{at}");
        }
    }
}

#[test]
fn damage_in_what_is_taken_over_late_is_never_passed_over_in_silence() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b", "c"]);
    let path = runtime_segments(&rig).pop().unwrap();
    rig.damage_entry(&path, 1);
    rig.fs.fail(Call::List, "/run/spool/telemetry", 1, Errno::MFILE);
    rig.reopen();
    rig.tick_after(1000);
    assert_eq!(rig.numbers(T).len(), 2);
    assert_eq!((rig.status(T).waiting, rig.status(T).quarantined), (2, 1));
    let gap = rig.events("gap").pop().unwrap();
    assert_eq!((gap["count"].as_u64(), gap["reason"].as_str()), (Some(1), Some("damaged")));
}

/// A want of descriptors meets both tiers. Flash may have the same records: only the next run can tell.
#[test]
fn a_run_that_sees_neither_tier_never_doubles_what_is_in_both() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    rig.spool.harden(T, Durability::Power, rig.now).unwrap();
    append(&mut rig, &["c"]);
    rig.fs.fail(Call::List, "telemetry", 2, Errno::MFILE);
    rig.reopen();
    append(&mut rig, &["new"]);
    rig.tick_after(60_000);
    assert!(rig.status(T).runtime_error.unwrap().contains("restart pillion"));
    assert!(rig.spool.deadline_ms().unwrap() > rig.now.mono_ms, "it waits");
    rig.spool.close(rig.now);
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2, 3]);
}

#[test]
fn a_runtime_dir_that_somebody_removed_is_filled_again() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a"]);
    runtime_files(&rig).iter().for_each(|path| rig.fs.take_away(path));
    // The next checkpoint meets it.
    rig.fs.fail(Call::Create, TMPFS, 1, Errno::NOENT);
    rig.spool.refuse(T, 1);
    rig.tick_after(100);
    assert!(rig.status(T).runtime_error.is_some());
    rig.fs.fail(Call::Append, "/state", usize::MAX, Errno::IO);
    rig.tick_after(1000);
    assert_eq!(rig.status(T).runtime_error, None);
    rig.fs.heal();
    rig.reopen();
    assert_eq!(rig.numbers(T), [1]);
}

#[test]
fn damage_in_the_runtime_tier_is_never_passed_over_in_silence() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b", "c"]);
    let path = runtime_segments(&rig).pop().unwrap();
    rig.damage_entry(&path, 1);
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 3]);
    assert_eq!((rig.status(T).waiting, rig.status(T).quarantined), (2, 1));
    let gap = rig.events("gap").pop().unwrap();
    assert_eq!((gap["first"].as_u64(), gap["reason"].as_str()), (Some(2), Some("damaged")));
}

#[test]
fn a_foreign_file_in_the_runtime_tier_is_set_aside_and_never_removed() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a"]);
    rig.fs.put(Path::new("/run/spool/telemetry/00000000000000000009.seg"), &[b'x'; 100]);
    rig.fs.put(Path::new("/run/spool/telemetry/notes.txt"), b"mine");
    rig.reopen();
    assert_eq!(rig.numbers(T), [1]);
    assert_eq!(rig.events("set-aside").len(), 1);
    let files = runtime_files(&rig);
    assert!(files.contains(&PathBuf::from("/run/spool/telemetry/quarantine/00000000000000000009.seg")), "{files:?}");
    assert!(files.contains(&PathBuf::from("/run/spool/telemetry/notes.txt")), "{files:?}");
}

#[test]
fn a_change_to_sync_always_never_leaves_records_behind() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    rig.options.sync = Sync::Always;
    rig.reopen();
    rig.spool.tick(rig.now);
    assert!(runtime_segments(&rig).is_empty(), "flash has them");
    append(&mut rig, &["c"]);
    assert!(runtime_segments(&rig).is_empty());
    rig.cut_and_reopen(5);
    assert_eq!(rig.numbers(T).len(), 3);
}

#[test]
fn a_disk_that_cant_be_read_never_hides_the_runtime_tier() {
    let mut rig = Rig::with(tiered(WINDOW));
    append(&mut rig, &["a", "b"]);
    rig.fs.fail(Call::List, "/state", usize::MAX, Errno::IO);
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2]);
    let third = append(&mut rig, &["c"]).last;
    rig.reopen();
    rig.fs.heal();
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2, third]);
    assert_eq!(rig.status(T).quarantined, 0);
}

#[test]
fn an_idle_runtime_tier_never_wakes_anybody_up() {
    let mut rig = Rig::with(tiered(WINDOW));
    let accepted = append(&mut rig, &["a", "b"]);
    rig.tick_after(100);
    rig.spool.acknowledge(T, accepted.last, rig.now);
    rig.spool.tick(rig.now);
    assert_eq!(rig.spool.deadline_ms(), None, "a single acknowledgement is noted at once");
    let accepted = append(&mut rig, &["c"]);
    rig.spool.acknowledge(T, accepted.last, rig.now);
    rig.settle_down();
    rig.fs.journal();
    rig.tick_after(3_600_000);
    assert_eq!(writes_below(&rig, "/"), []);
}
