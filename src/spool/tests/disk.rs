//! Disks that are full or failing, and what is written when.

use super::*;
use crate::spool::log::PENDING_BYTES;
use crate::spool::upkeep::LEASE;
use rustix::io::Errno;
use std::sync::Arc;

fn writes(rig: &Rig) -> Vec<(Call, PathBuf)> {
    rig.fs.journal().into_iter().filter(|(call, _)| call.writes()).collect()
}

#[test]
fn a_full_disk_never_costs_a_record_nor_needs_a_restart() {
    for sync in [Sync::Always, WINDOW] {
        let mut options = options(sync);
        options.streams[T.index()].when_full = WhenFull::Reject;
        let mut rig = Rig::with(options);
        rig.store_many(6);
        rig.fs.fail(Call::Append, ".seg", usize::MAX, Errno::NOSPC);
        let numbers: Vec<u64> = (0..9).map(|_| rig.append_to(T, &["held in memory"]).unwrap().first).collect();
        assert_eq!(numbers, (7..=15).collect::<Vec<_>>());
        let refused = rig.spool.harden(T, Durability::Power, rig.now).unwrap_err();
        assert!(refused.to_string().contains("No space left"), "{refused}");
        assert!(rig.status(T).disk_error.unwrap().contains("/state/spool/telemetry: No space left"));
        assert_eq!(rig.numbers(T), (1..=15).collect::<Vec<_>>(), "readers notice nothing");

        // Between the tries the disk is left in peace.
        rig.fs.journal();
        assert!(rig.spool.harden(T, Durability::Power, rig.now).is_err());
        rig.spool.tick(rig.now);
        assert!(writes(&rig).is_empty());
        rig.tick_after(20_000);
        assert!(rig.status(T).disk_error.is_some(), "it was tried again");
        assert!(!writes(&rig).is_empty());

        rig.fs.heal();
        rig.settle_down();
        assert_eq!(rig.status(T).disk_error, None);
        rig.cut_and_reopen(9);
        assert_eq!(rig.numbers(T), (1..=15).collect::<Vec<_>>());
        assert_eq!((rig.status(T).waiting, rig.status(T).quarantined), (15, 0));
    }
}

#[test]
fn a_disk_that_fails_for_an_hour_never_floods_the_log() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(log.reopen().unwrap())).with_ansi(false).finish();
    let said = |text: &str| std::fs::read_to_string(log.path()).unwrap().matches(text).count();
    // Where there is one subscriber only, tracing asks that of the thread that comes by a message first whether anybody wants it: that
    // may be another test's, which has none. Where there are two it asks both.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    tracing::subscriber::with_default(subscriber, || {
        let mut rig = Rig::new(WINDOW);
        rig.store_many(4);
        for call in [Call::Append, Call::Create] {
            rig.fs.fail(call, "telemetry", usize::MAX, Errno::NOSPC);
        }
        for _ in 0..3600 {
            rig.append_to(T, &["held in memory"]).unwrap();
            rig.tick_after(1000);
        }
        assert_eq!(said("stream telemetry is held in memory"), 1);
        assert_eq!(said("the checkpoint of stream telemetry can't be written"), 1);
        rig.fs.heal();
        rig.settle_down();
        assert_eq!(said("the disk takes records of stream telemetry again"), 1);
        assert_eq!(said("the checkpoint of stream telemetry is written again"), 1);
    });
}

#[test]
fn an_error_never_stays_in_the_status_when_the_broker_was_faster() {
    let mut rig = Rig::new(WINDOW);
    rig.fs.fail(Call::Create, ".seg", 1, Errno::NOSPC);
    let one = rig.append_to(T, &["soon delivered"]).unwrap().first;
    rig.tick_after(1000);
    rig.spool.acknowledge(T, one, rig.now);
    assert!(rig.status(T).disk_error.is_some());
    rig.settle_down();
    assert_eq!(rig.status(T).disk_error, None);
}

#[test]
fn memory_never_grows_while_the_disk_fails() {
    let mut rig = Rig::new(WINDOW);
    rig.store_many(4);
    rig.fs.fail(Call::Append, ".seg", usize::MAX, Errno::IO);
    let record = "x".repeat(1000);
    for _ in 0..1000 {
        rig.append_to(T, &[&record]).unwrap();
        rig.tick_after(10);
    }
    assert!(rig.spool.logs[T.index()].pending_bytes <= PENDING_BYTES);
    let status = rig.status(T);
    assert_eq!((status.accepted, status.waiting + status.evicted), (1004, 1004));
    let kept = rig.numbers(T);
    assert_eq!(kept.len() as u64, status.waiting);
    assert!(kept.starts_with(&[1, 2, 3, 4]) && kept.ends_with(&[1003, 1004]), "the oldest in memory went");

    // Thousands of losses make no thousands of events.
    rig.fs.heal();
    rig.settle_down();
    let gaps = rig.events("gap");
    assert_eq!(gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>(), status.evicted);
    assert!(gaps.len() <= 11, "{} events in ten seconds", gaps.len());
    assert!(gaps.windows(2).all(|pair| pair[0]["last"].as_u64().unwrap() + 1 == pair[1]["first"].as_u64().unwrap()));
    rig.cut_and_reopen(4);
    assert_eq!((rig.numbers(T), rig.status(T).evicted), (kept, status.evicted));
}

/// The disk is smaller than the quota: what the stream is to keep is what came last.
#[test]
fn a_disk_that_is_smaller_than_the_quota_never_keeps_old_records_instead_of_new_ones() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = Rig::with(Options { segment_bytes: 64 << 10, ..options(sync) });
        rig.fs.limit(Some(512 << 10));
        let record = "x".repeat(1000);
        let mut last = 0;
        for _ in 0..2000 {
            last = rig.append_to(T, &[&record]).unwrap().last;
            let done = rig.spool.harden(T, Durability::Window, rig.now);
            assert_eq!(done, Ok(()), "{sync:?}: there is always space to be freed");
            rig.tick_after(20);
        }
        let status = rig.status(T);
        assert!(status.evicted > 1000 && status.waiting > 400, "{sync:?} {status:?}");
        rig.tick_after(1000);
        let status = rig.status(T);
        let kept = rig.numbers(T);
        assert!(kept.iter().copied().eq(last + 1 - status.waiting..=last), "{sync:?}: there is a hole");
        let gaps = rig.events("gap");
        assert_eq!(gaps.iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>(), status.evicted);
        assert!(gaps.iter().all(|gap| gap["reason"] == "full"));
        rig.cut_and_reopen(3);
        assert!(rig.numbers(T) == kept, "{sync:?}: not all of it was on the disk");
    }
}

/// Whatever is freed is eaten up by somebody else.
#[test]
fn a_disk_that_others_fill_never_costs_the_whole_backlog() {
    let mut rig = Rig::with(Options { segment_bytes: 4096, ..options(WINDOW) });
    let record = "x".repeat(1000);
    for _ in 0..100 {
        rig.store(&record);
    }
    rig.fs.fail(Call::Append, ".seg", usize::MAX, Errno::NOSPC);
    for _ in 0..1000 {
        rig.append_to(T, &[&record]).unwrap();
        rig.tick_after(60);
    }
    let kept = rig.numbers(T);
    assert!(kept.iter().filter(|&&seq| seq <= 100).count() > 20, "in one minute");
    rig.fs.heal();
    rig.settle_down();
    assert_eq!(rig.status(T).disk_error, None);
}

#[test]
fn a_stream_that_rejects_never_gives_up_a_segment_for_a_full_disk() {
    let mut options = Options { segment_bytes: 64 << 10, ..options(WINDOW) };
    options.streams[T.index()].when_full = WhenFull::Reject;
    let mut rig = Rig::with(options);
    rig.fs.limit(Some(256 << 10));
    let record = "x".repeat(1000);
    while rig.append_to(T, &[&record]).is_ok() {
        rig.tick_after(20);
    }
    let status = rig.status(T);
    assert_eq!((status.refused, status.evicted), (1, 0));
    assert_eq!(rig.numbers(T), (1..=status.accepted).collect::<Vec<_>>());
    rig.fs.limit(None);
    rig.settle_down();
    assert!(rig.append_to(T, &[&record]).is_ok(), "there is space again");
}

#[test]
fn a_stream_that_rejects_never_drops_while_the_disk_fails() {
    let mut options = options(WINDOW);
    options.streams[T.index()].when_full = WhenFull::Reject;
    let mut rig = Rig::with(options);
    rig.fs.fail(Call::Create, ".seg", usize::MAX, Errno::NOSPC);
    let record = "x".repeat(1000);
    let accepted = (0..1000).filter(|_| rig.append_to(T, &[&record]).is_ok()).count() as u64;
    let status = rig.status(T);
    assert_eq!((status.waiting, status.refused, status.evicted), (accepted, 1000 - accepted, 0));
    assert!(accepted > 200 && accepted < 300);
    rig.fs.heal();
    rig.settle_down();
    assert_eq!(rig.append_to(T, &[&record]).unwrap().first, accepted + 1);
}

/// While its own disk fails and its memory is full, each announcement would push out an older event.
#[test]
fn announcements_never_push_out_events_that_nobody_has_read() {
    let mut rig = Rig::new(WINDOW);
    for call in [Call::Append, Call::Create] {
        rig.fs.fail(call, ".seg", usize::MAX, Errno::IO);
    }
    let record = format!("\"{}\"", "x".repeat(2000));
    while rig.status(StreamId::EVENT).evicted == 0 {
        rig.append_to(StreamId::EVENT, &[&record]).unwrap();
    }
    for _ in 0..300 {
        rig.append_to(T, &[&record]).unwrap();
        rig.tick_after(1500);
    }
    assert_eq!(rig.status(StreamId::EVENT).evicted, 1);
    assert!(rig.status(T).evicted > 100);
    rig.fs.heal();
    rig.settle_down();
    let counts: Vec<_> = rig.events("gap").iter().map(|gap| gap["count"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 1 + rig.status(T).evicted, "they are made up for later");
    assert!(counts.len() < 10, "as few as would fit, and one: {counts:?}");
}

#[test]
fn a_failed_fsync_is_never_tried_again_on_its_file() {
    for call in [Call::Sync, Call::Append, Call::SyncDir, Call::Create] {
        let mut rig = Rig::new(WINDOW);
        rig.store_many(2);
        let accepted = rig.append_to(T, &["not on the medium", "this neither"]).unwrap();
        let ending = if call == Call::SyncDir { "telemetry" } else { ".seg" };
        rig.fs.fail(call, ending, 1, Errno::IO);
        if matches!(call, Call::SyncDir | Call::Create) {
            // These happen with a new segment only.
            rig.append_to(T, &["x".repeat(400).as_str(), "y"]).unwrap();
        }
        assert!(rig.spool.harden(T, Durability::Power, rig.now).is_err(), "{call:?}");
        assert!(rig.status(T).disk_error.is_some());
        rig.settle_down();
        assert_eq!(rig.status(T).disk_error, None);
        let last = rig.status(T).accepted;
        assert!(!rig.fs.resynced());
        assert!(last >= accepted.last);
        for seed in 0..20 {
            rig.cut_and_reopen(seed);
            assert_eq!(rig.numbers(T), (1..=last).collect::<Vec<_>>(), "{call:?} {seed}");
            assert_eq!(rig.status(T).quarantined, 0);
        }
    }
}

#[test]
fn records_that_the_broker_takes_in_time_never_touch_the_disk() {
    let mut rig = Rig::new(WINDOW);
    rig.fs.journal();
    for number in 0..20_000 {
        let accepted = rig.append_to(T, &["in time"]).unwrap();
        assert_eq!(rig.spool.read(1, rig.now).map(|(_, records, _)| records[0].seq), Some(accepted.last));
        rig.tick_after(500);
        rig.spool.acknowledge(T, accepted.last, rig.now);
        rig.spool.tick(rig.now);
        let written = writes(&rig);
        if number == 0 {
            let appended = |(call, path): &&(Call, PathBuf)| *call == Call::Append && path.ends_with("checkpoint.tmp");
            assert_eq!(written.iter().filter(appended).count(), 1, "the lease");
            assert!(written.len() <= 6, "{written:?}");
        } else {
            assert_eq!(written, [], "record {number}");
        }
    }
    assert_eq!(rig.status(T).delivered, 20_000);
    assert_eq!(rig.spool.deadline_ms(), None);
}

#[test]
fn an_idle_spool_never_wakes_up() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = Rig::new(sync);
        rig.store_many(10);
        rig.append_to(L, &["a", "b"]).unwrap();
        rig.settle_down();
        rig.spool.acknowledge(T, 5, rig.now);
        rig.spool.discard(T, 8, Reason::Oversize, "too large".into(), rig.now);
        rig.settle_down();
        assert_eq!(rig.spool.deadline_ms(), None);
        rig.fs.journal();
        rig.tick_after(3_600_000);
        assert_eq!(writes(&rig), []);
        assert_eq!(rig.spool.deadline_ms(), None);
    }
}

#[test]
fn a_slow_broker_never_costs_an_fsync_for_what_it_has_taken() {
    let mut rig = Rig::new(WINDOW);
    rig.append_to(T, &["slow"]).unwrap();
    rig.tick_after(1000);
    rig.append_to(T, &["fast"]).unwrap();
    rig.spool.acknowledge(T, 2, rig.now);
    rig.append_to(T, &["slow again"]).unwrap();
    rig.fs.journal();
    rig.tick_after(1000);
    let syncs: Vec<_> = writes(&rig)
        .into_iter()
        .filter(|(call, path)| *call == Call::Sync && path.extension().unwrap() == "seg")
        .collect();
    assert_eq!(syncs, [(Call::Sync, rig.files("3.seg").pop().unwrap())]);
    rig.cut_and_reopen(2);
    assert_eq!(rig.numbers(T), [3]);
}

#[test]
fn a_clean_stop_never_skips_a_number() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = Rig::new(sync);
        let mut next = 1;
        for round in 0..6 {
            assert_eq!(rig.append_to(T, &["a", "b", "c"]).unwrap().first, next);
            next += 3;
            rig.spool.acknowledge(T, next - round % 3 - 1, rig.now);
            rig.close_and_reopen();
            assert!(rig.events("unclean-stop").is_empty());
            assert_eq!(rig.status(T).accepted, next - 1);
        }
        rig.spool.rewind();
        let waiting = rig.status(T).waiting;
        assert_eq!(rig.numbers(T).len() as u64, waiting);
        assert_eq!(rig.status(T).quarantined, 0);
    }
}

#[test]
fn a_kill_never_lets_a_number_be_given_twice() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = Rig::new(sync);
        let mut last = 0;
        for round in 0..5u64 {
            let accepted = rig.append_to(T, &["a", "b"]).unwrap();
            assert!(accepted.first > last);
            assert!(round == 0 || accepted.first >= last + LEASE - 3, "numbers skip ahead");
            last = accepted.last;
            // It may be with the broker before it is on disk.
            assert!(rig.numbers(T).ends_with(&[last]));
            rig.cut_and_reopen(round);
            assert!(!rig.events("unclean-stop").is_empty());
        }
        assert_eq!(rig.status(T).waiting, 0);
    }
}

#[test]
fn a_lease_that_a_full_disk_refused_is_never_forgotten() {
    let mut rig = Rig::new(WINDOW);
    rig.fs.fail(Call::Create, "telemetry/checkpoint.tmp", 1, Errno::NOSPC);
    rig.append_to(T, &["a"]).unwrap();
    assert!(rig.status(T).disk_error.is_some());
    rig.tick_after(1000);
    assert_eq!(rig.status(T).disk_error, None);
    rig.spool.acknowledge(T, 1, rig.now);
    let second = rig.append_to(T, &["b"]).unwrap().first;
    rig.spool.acknowledge(T, second, rig.now);
    rig.cut_and_reopen(1);
    assert!(rig.append_to(T, &["c"]).unwrap().first > second);
}

#[test]
fn numbers_that_a_disk_cant_reserve_are_never_given_twice() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = Rig::new(sync);
        let mut given = std::collections::HashSet::from([rig.store("before")]);
        for (fails, seed) in [(true, 1), (true, 2), (false, 3), (false, 4)] {
            rig.cut_and_reopen(seed);
            if fails {
                rig.fs.fail(Call::Create, "", usize::MAX, Errno::ROFS);
            }
            for _ in 0..3 {
                let accepted = rig.append_to(T, &["out of memory", "with the broker"]).unwrap();
                assert!((accepted.first..=accepted.last).all(|seq| given.insert(seq)), "{sync:?} {seed}: {accepted:?}");
                rig.tick_after(1);
            }
            rig.fs.heal();
        }
    }
}

#[test]
fn a_lease_never_runs_out() {
    let mut rig = Rig::new(WINDOW);
    for _ in 0..3 {
        let records = vec![rig.record("a"); 700_000];
        let accepted = rig.spool.append(T, records, rig.now).unwrap();
        rig.spool.acknowledge(T, accepted.last, rig.now);
        assert!(rig.spool.logs[T.index()].leased_to > accepted.last);
    }
}

#[test]
fn a_record_too_large_for_an_entry_never_blocks_those_behind_it() {
    let mut rig = Rig::new(WINDOW);
    let record = Record { data: vec![b'x'; 10 << 20], ..rig.record("") };
    assert!(matches!(rig.spool.append(T, vec![record], rig.now), Err(Refusal::NotDurable(_))));
    assert_eq!(rig.status(T).refused, 1);
    let record = Record { data: vec![b'x'; 8 << 20], ..rig.record("") };
    rig.spool.append(T, vec![record], rig.now).unwrap();
    assert_eq!(rig.store("behind it"), 2);
}

#[test]
fn sync_always_never_accepts_what_a_power_cut_can_take() {
    let mut rig = Rig::new(Sync::Always);
    rig.append_to(T, &["whatever was asked for"]).unwrap();
    rig.spool.harden(T, Durability::Window, rig.now).unwrap();
    rig.cut_and_reopen(1);
    assert_eq!(rig.numbers(T), [1]);
}

#[test]
fn a_kill_never_takes_what_was_written() {
    let mut rig = Rig::new(WINDOW);
    rig.append_to(T, &["a", "b"]).unwrap();
    rig.fs.journal();
    rig.spool.harden(T, Durability::Process, rig.now).unwrap();
    assert!(writes(&rig).iter().all(|(call, _)| *call != Call::Sync), "without an fdatasync");
    rig.reopen();
    assert_eq!(rig.numbers(T), [1, 2]);
}

#[test]
fn a_close_that_fails_never_forgets_what_was_acknowledged() {
    let mut rig = Rig::new(WINDOW);
    rig.store_many(8);
    rig.append_to(T, &["lost with the process"]).unwrap();
    rig.spool.acknowledge(T, 6, rig.now);
    rig.fs.fail(Call::Append, ".seg", usize::MAX, Errno::NOSPC);
    rig.spool.close(rig.now);
    rig.fs.heal();
    rig.reopen();
    assert_eq!(rig.numbers(T), [7, 8]);
    assert!(rig.append_to(T, &["next"]).unwrap().first > 9);
}

/// The eviction happens in the last commit of all; its event must be on disk too.
#[test]
fn a_loss_while_stopping_never_goes_unannounced() {
    let mut options = options(WINDOW);
    options.streams[T.index()].max_bytes = 8192;
    let mut rig = Rig::with(options);
    rig.store_many(8);
    for _ in 0..8 {
        rig.append_to(T, &["x".repeat(100).as_str()]).unwrap();
    }
    rig.close_and_reopen();
    let evicted = rig.status(T).evicted;
    assert!(evicted > 0);
    assert_eq!(rig.events("gap").iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>(), evicted);
}
