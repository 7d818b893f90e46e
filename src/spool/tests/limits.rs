//! Quotas, ages, priorities.

use super::*;
use crate::spool::log::CACHED_BYTES;

fn small(sync: Sync, when_full: WhenFull) -> Rig {
    let mut options = options(sync);
    options.streams[T.index()].max_bytes = 4 * 4096;
    options.streams[T.index()].when_full = when_full;
    Rig::with(options)
}

#[test]
fn a_full_stream_never_drops_without_saying_so() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = small(sync, WhenFull::DropOldest);
        let start = rig.now.wall_ms;
        for number in 0..16 {
            rig.store(&format!("{number:0>100}"));
            rig.wait(1000);
        }
        assert_eq!(rig.status(T).evicted, 0, "four segments of four fit");
        rig.store(&"x".repeat(100));
        let status = rig.status(T);
        assert_eq!((status.evicted, status.waiting, status.bytes), (4, 13, 4 * 4096));
        let gaps = rig.events("gap");
        assert_eq!(gaps.len(), 1);
        let gap = &gaps[0];
        assert_eq!((gap["first"].as_u64(), gap["last"].as_u64(), gap["count"].as_u64()), (Some(1), Some(4), Some(4)));
        assert_eq!((gap["stream"].as_str(), gap["reason"].as_str()), (Some("telemetry"), Some("full")));
        assert_eq!(gap["from"].as_str(), Some(crate::record::rfc3339(start).as_str()));
        assert_eq!(gap["to"].as_str(), Some(crate::record::rfc3339(start + 4000).as_str()));
        rig.cut_and_reopen(1);
        assert_eq!(rig.numbers(T), (5..=17).collect::<Vec<_>>());
        assert_eq!(rig.status(T).evicted, 4);
    }
}

#[test]
fn what_was_delivered_is_never_counted_as_evicted() {
    let mut rig = small(Sync::Always, WhenFull::DropOldest);
    rig.store_many(16);
    rig.spool.acknowledge(T, 3, rig.now);
    rig.store(&"x".repeat(100));
    assert_eq!((rig.status(T).evicted, rig.status(T).delivered), (1, 3));
    let gaps = rig.events("gap");
    assert_eq!((gaps[0]["first"].as_u64(), gaps[0]["last"].as_u64()), (Some(4), Some(4)));
    // A late acknowledgement of evicted ones.
    rig.spool.acknowledge(T, 4, rig.now);
    assert_eq!(rig.status(T).delivered, 3);
}

#[test]
fn a_stream_that_rejects_never_drops_what_it_took() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = small(sync, WhenFull::Reject);
        let record = "x".repeat(100);
        let mut taken = 0;
        while let Ok(accepted) = rig.append_to(T, &[&record]) {
            rig.spool.harden(T, Durability::Power, rig.now).unwrap();
            taken = accepted.last;
        }
        assert!(taken >= 12, "{taken}");
        assert_eq!(rig.append_to(T, &["a", "b"]), Err(Refusal::Full));
        let status = rig.status(T);
        assert_eq!((status.accepted, status.refused, status.evicted), (taken, 3, 0));
        rig.spool.acknowledge(T, 8, rig.now);
        rig.settle_down();
        assert_eq!(rig.append_to(T, &[&record]).unwrap().first, taken + 1, "there is room again");
        rig.spool.rewind();
        assert_eq!(rig.numbers(T), (9..=taken + 1).collect::<Vec<_>>());
    }
}

/// Done-with records in the segment that is written to must not fill a stream for ever.
#[test]
fn a_stream_that_rejects_never_stays_full_when_it_is_drained() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = small(sync, WhenFull::Reject);
        for size in [10, 100, 300, 500].iter().cycle().take(400) {
            let accepted = rig.append_to(T, &["x".repeat(*size).as_str()]).unwrap();
            rig.spool.harden(T, Durability::Power, rig.now).unwrap();
            rig.spool.acknowledge(T, accepted.last, rig.now);
            rig.tick_after(1000);
        }
        // Of these, one leaves no room for another.
        for _ in 0..20 {
            let accepted = rig.append_to(T, &["x".repeat(9000).as_str()]).unwrap();
            rig.spool.harden(T, Durability::Power, rig.now).unwrap();
            assert_eq!(rig.append_to(T, &["x".repeat(9000).as_str()]), Err(Refusal::Full), "{sync:?}");
            rig.spool.acknowledge(T, accepted.last, rig.now);
        }
        assert_eq!((rig.status(T).waiting, rig.status(T).evicted), (0, 0));
        rig.tick_after(20_000);
        rig.cut_and_reopen(1);
        assert!(rig.numbers(T).is_empty(), "{sync:?}");
    }
}

#[test]
fn a_record_that_is_too_old_never_stays_and_one_that_is_not_never_goes() {
    let mut options = options(Sync::Always);
    options.streams[T.index()].max_age = Some(Duration::from_secs(100));
    let mut rig = Rig::with(options);
    for number in 0..16 {
        rig.store(&format!("{number:0>100}"));
        rig.wait(10_000);
    }
    // Segments begin 160, 120, 80 and 40 s ago.
    rig.spool.tick(rig.now);
    assert_eq!((rig.status(T).expired, rig.status(T).oldest_s), (4, Some(120)));
    let gaps = rig.events("gap");
    assert_eq!((gaps[0]["count"].as_u64(), gaps[0]["reason"].as_str()), (Some(4), Some("age")));
    // Also when nobody has read them in this run.
    rig.reopen();
    rig.tick_after(38_000);
    assert_eq!((rig.status(T).expired, rig.status(T).waiting), (8, 8));
    assert_eq!(rig.status(T).oldest_s, Some(119));
}

/// A gateway without a battery clock boots in 1970.
#[test]
fn a_clock_that_is_set_late_never_makes_records_too_old() {
    let mut options = options(Sync::Always);
    options.streams[T.index()].max_age = Some(Duration::from_secs(3600));
    let mut rig = Rig::with(options);
    let right = rig.now;
    rig.now.wall_ms = 5_000;
    rig.now.quality = ClockQuality::Unsynced;
    rig.store_many(12);
    rig.spool.tick(rig.now);
    rig.now.wall_ms = right.wall_ms + 60_000;
    rig.now.quality = ClockQuality::Trusted;
    rig.store_many(8);
    rig.spool.tick(rig.now);
    assert_eq!((rig.status(T).expired, rig.status(T).waiting), (0, 20));
    assert_eq!(rig.status(T).oldest_s, None, "nobody knows");
    // They go when a later one is too old.
    rig.tick_after(3_700_000);
    assert_eq!(rig.status(T).expired, 16);
    // And while the clock is wrong nothing is too old.
    rig.now.wall_ms = u64::MAX / 2;
    rig.now.quality = ClockQuality::Unsynced;
    rig.spool.tick(rig.now);
    assert_eq!(rig.status(T).expired, 16);
}

#[test]
fn a_less_urgent_stream_never_goes_first() {
    let mut rig = Rig::new(WINDOW);
    rig.append_to(L, &["log"]).unwrap();
    rig.append_to(T, &["telemetry"]).unwrap();
    rig.append_to(StreamId::EVENT, &["event"]).unwrap();
    let order: Vec<_> = rig.read_all().into_iter().map(|(stream, _)| stream).collect();
    assert_eq!(order, [StreamId::EVENT, T, L]);
    assert_eq!(rig.spool.read(1, rig.now), None);
    assert!(!rig.spool.has_more());
}

#[test]
fn a_busy_stream_never_starves_its_equals() {
    let mut options = options(WINDOW);
    options.streams.push(stream("alpha", 1));
    options.streams.push(stream("beta", 1));
    let mut rig = Rig::with(options);
    let equals = [T, StreamId(3), StreamId(4)];
    for _ in 0..50 {
        equals.iter().for_each(|&stream| assert!(rig.append_to(stream, &["a", "b"]).is_ok()));
    }
    let order: Vec<_> = (0..90).map(|_| rig.spool.read(1, rig.now).unwrap().0).collect();
    for turn in order.chunks(3) {
        assert!(equals.iter().all(|stream| turn.contains(stream)), "{turn:?}");
    }
    // One that falls silent and speaks again waits for one turn of the others at most.
    while rig.spool.read(1, rig.now).is_some() {}
    rig.append_to(T, &["a"; 10]).unwrap();
    rig.spool.read(1, rig.now);
    rig.append_to(StreamId(4), &["b"]).unwrap();
    assert_eq!(rig.spool.read(1, rig.now).unwrap().0, StreamId(4));
}

#[test]
fn a_reader_never_gets_more_than_it_asked_for_but_for_one_record() {
    let mut rig = Rig::new(Sync::Always);
    rig.store_many(20);
    let (_, records, _) = rig.spool.read(1000, rig.now).unwrap();
    let cost: usize = records.iter().map(|record| crate::spool::thread::cost(&record.record)).sum();
    assert!((1000..1200).contains(&cost), "{cost}");
    assert_eq!(rig.spool.read(0, rig.now).unwrap().1.len(), 1, "one at least");
}

#[test]
fn odd_requests_never_disturb_the_ledger() {
    let mut rig = Rig::new(WINDOW);
    rig.spool.acknowledge(T, 100, rig.now);
    rig.spool.discard(T, 100, Reason::Oversize, "never given".into(), rig.now);
    rig.spool.acknowledge(StreamId(77), 1, rig.now);
    assert_eq!(rig.append_to(StreamId(77), &["no such stream"]), Err(Refusal::Stopping));
    assert_eq!(rig.append_to(T, &[]), Ok(Accepted { first: 1, last: 0 }));
    assert_eq!(rig.append_to(T, &["a", "b", "c"]).unwrap().first, 1);
    rig.spool.discard(T, 2, Reason::Oversize, "too large".into(), rig.now);
    rig.spool.discard(T, 2, Reason::Oversize, "too large".into(), rig.now);
    rig.spool.acknowledge(T, 0, rig.now);
    assert_eq!(rig.numbers(T), [1, 3]);
    rig.spool.acknowledge(T, u64::MAX, rig.now);
    rig.spool.acknowledge(T, 1, rig.now);
    rig.spool.discard(T, 0, Reason::Oversize, "no number".into(), rig.now);
    let status = rig.status(T);
    assert_eq!((status.accepted, status.delivered, status.quarantined, status.waiting), (3, 2, 1, 0));
    assert_eq!(rig.events("gap").len(), 1);
}

#[test]
fn a_lower_quota_never_waits_for_the_next_record_nor_drops_in_silence() {
    let mut rig = Rig::new(Sync::Always);
    rig.store_many(16);
    let mut streams = rig.options.streams.clone();
    streams[T.index()].max_bytes = 2 * 4096;
    rig.spool.configure(&streams, 0, rig.now);
    let status = rig.status(T);
    assert_eq!((status.evicted, status.waiting), (8, 8));
    rig.settle_down();
    assert_eq!(rig.events("gap")[0]["count"], 8);
    // What a stream has taken that rejects, it keeps.
    streams[T.index()] = Stream { when_full: WhenFull::Reject, max_bytes: 4096, ..stream("telemetry", 1) };
    rig.spool.configure(&streams, 0, rig.now);
    assert_eq!(rig.append_to(T, &["one more"]), Err(Refusal::Full));
    assert_eq!(rig.status(T).waiting, 8);
    rig.spool.rewind();
    assert_eq!(rig.numbers(T), (9..=16).collect::<Vec<_>>());
}

#[test]
fn a_new_priority_never_changes_the_order_within_a_stream() {
    let mut rig = Rig::new(Sync::Always);
    rig.store_many(8);
    rig.append_to(L, &["a log"]).unwrap();
    let mut streams = rig.options.streams.clone();
    streams[L.index()].priority = 0;
    rig.spool.configure(&streams, 0, rig.now);
    let all: Vec<(StreamId, u64)> = rig.read_all().into_iter().map(|(stream, record)| (stream, record.seq)).collect();
    assert_eq!(all[0], (L, 1));
    assert_eq!(all[1..], (1..=8).map(|number| (T, number)).collect::<Vec<_>>());
}

/// What the kernel has in its cache of our files counts as our memory.
#[test]
fn a_backlog_never_stays_in_the_kernels_cache() {
    for sync in [Sync::Always, WINDOW] {
        let mut rig = Rig::with(Options { segment_bytes: 1 << 20, ..tiered(sync) });
        let most = 2 * usize::try_from(CACHED_BYTES).unwrap() + (64 << 10);
        let record = "x".repeat(10_000);
        for _ in 0..400 {
            rig.append_to(T, &[&record]).unwrap();
            rig.spool.harden(T, Durability::Window, rig.now).unwrap();
            rig.tick_after(100);
            assert!(rig.fs.cached() <= most, "{} bytes while it is written", rig.fs.cached());
        }
        rig.settle_down();
        assert!(rig.status(T).bytes > 3 << 20);
        while let Some((stream, records, _)) = rig.spool.read(50_000, rig.now) {
            assert!(rig.fs.cached() <= most, "{} bytes while it is read", rig.fs.cached());
            rig.spool.acknowledge(stream, records.last().unwrap().seq, rig.now);
            rig.tick_after(100);
        }
        assert_eq!(rig.status(T).waiting, 0);
        assert!(!rig.fs.hurried(), "nothing is written to flash for it");
    }
}

#[test]
fn a_stream_that_comes_later_never_disturbs_those_that_are_there() {
    let mut rig = Rig::with(tiered(WINDOW));
    let late = StreamId(3);
    rig.append_to(T, &["a"]).unwrap();
    assert_eq!(rig.append_to(late, &["too early"]), Err(Refusal::Stopping));
    rig.options.streams.push(stream("late", 0));
    rig.spool.configure(&rig.options.streams, 0, rig.now);
    rig.append_to(late, &["b"]).unwrap();
    rig.append_to(T, &["c"]).unwrap();
    let numbers = |rig: &mut Rig| {
        let all = rig.read_all().into_iter().filter(|(stream, _)| *stream != StreamId::EVENT);
        all.map(|(stream, record)| (stream, record.seq)).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&mut rig), [(late, 1), (T, 1), (T, 2)]);
    // Into the runtime tier.
    rig.tick_after(10);
    rig.reopen();
    assert_eq!(numbers(&mut rig), [(late, 1), (T, 1), (T, 2)], "after a kill");
}
