//! Files that are torn, damaged, foreign, or gone.

use super::*;
use crate::spool::checkpoint::Checkpoint;
use crate::spool::segment::{COMMON_LEN, HEADER_LEN, Header, checksum};
use rustix::io::Errno;

/// Twelve stored records in three segments of four.
fn three_segments() -> Rig {
    let mut rig = Rig::new(Sync::Always);
    assert_eq!(rig.store_many(12), 12);
    assert_eq!(rig.files(".seg").len(), 3);
    rig
}

fn all_but(lost: &[u64]) -> Vec<u64> {
    (1..=12).filter(|seq| !lost.contains(seq)).collect()
}

#[test]
fn a_torn_tail_never_keeps_it_from_starting() {
    for cut in 1..100 {
        let mut rig = three_segments();
        let newest = rig.files(".seg").pop().unwrap();
        let bytes = rig.fs.content(&newest);
        rig.fs.put(&newest, &bytes[..bytes.len() - cut]);
        rig.reopen();
        assert_eq!(rig.numbers(T), all_but(&[12]), "cut by {cut}");
        assert_eq!(rig.status(T).quarantined, 0);
        assert_eq!(rig.events("torn-tail").len(), 1);
        assert!(rig.store("next") > 12, "its number never comes again");
    }
}

#[test]
fn a_tail_that_is_torn_after_a_clean_stop_is_never_passed_over() {
    let mut rig = three_segments();
    rig.spool.close(rig.now);
    let newest = rig.files(".seg").pop().unwrap();
    rig.damage_entry(&newest, 3);
    rig.reopen();
    assert_eq!(rig.numbers(T), all_but(&[12]));
    assert_eq!((rig.status(T).quarantined, rig.status(T).waiting), (1, 11));
    assert_eq!(rig.files(".bad").len(), 1);
    let gaps = rig.events("gap");
    assert_eq!((gaps[0]["first"].as_u64(), gaps[0]["count"].as_u64()), (Some(12), Some(1)));
    assert_eq!(rig.store("next"), 13);
}

#[test]
fn a_flipped_byte_never_costs_more_than_its_record() {
    for (segment, lost) in [(0, 2), (1, 6), (2, 10)] {
        let mut rig = three_segments();
        rig.spool.close(rig.now);
        let file = rig.files(".seg")[segment].clone();
        rig.damage_entry(&file, 1);
        rig.reopen();
        assert_eq!(rig.numbers(T), all_but(&[lost]));
        let gaps = rig.events("gap");
        assert_eq!(gaps.len(), 1);
        let gap = &gaps[0];
        assert_eq!(
            (gap["first"].as_u64(), gap["last"].as_u64(), gap["count"].as_u64()),
            (Some(lost), Some(lost), Some(1))
        );
        assert_eq!((gap["stream"].as_str(), gap["reason"].as_str()), (Some("telemetry"), Some("damaged")));
        let detail = gap["detail"].as_str().unwrap();
        let copies = rig.files(".bad");
        assert!(detail.contains(file.file_name().unwrap().to_str().unwrap()), "{detail}");
        assert!(copies.len() == 1 && detail.contains(copies[0].to_str().unwrap()), "{detail}");

        // It is counted once: after a rewind, after a stop, and after a crash.
        for again in 0..3 {
            match again {
                0 => rig.spool.rewind(),
                1 => rig.close_and_reopen(),
                _ => rig.reopen(),
            }
            assert_eq!(rig.numbers(T), all_but(&[lost]));
            assert_eq!((rig.status(T).quarantined, rig.status(T).waiting), (1, 11));
            assert_eq!(rig.events("gap").len(), 1);
        }
    }
}

#[test]
fn damage_that_a_crash_made_forget_is_counted_once_again() {
    let mut rig = three_segments();
    rig.damage_entry(&rig.files(".seg")[1], 0);
    assert_eq!(rig.numbers(T), all_but(&[5]));
    rig.reopen();
    assert_eq!(rig.status(T).quarantined, 0, "the checkpoint is younger than its lag");
    assert_eq!(rig.numbers(T), all_but(&[5]));
    rig.settle_down();
    rig.reopen();
    assert_eq!((rig.status(T).quarantined, rig.numbers(T)), (1, all_but(&[5])));
}

#[test]
fn a_damaged_header_never_hides_the_records_behind_it() {
    for segment in 0..3 {
        for byte in [0, 7, 8, 12, 20, HEADER_LEN - 1] {
            let mut rig = three_segments();
            rig.fs.flip(&rig.files(".seg")[segment], byte);
            rig.reopen();
            assert_eq!(rig.numbers(T), all_but(&[]), "segment {segment}, byte {byte}");
            assert_eq!(rig.status(T).quarantined, 0);
        }
    }
}

#[test]
fn a_damaged_checkpoint_never_keeps_it_from_starting() {
    type Harm = fn(&SimFs, &PathBuf);
    let cases: [(&str, Harm); 5] = [
        ("damaged", |fs, path| fs.flip(path, 20)),
        ("empty", |fs, path| fs.put(path, b"")),
        ("missing", |fs, path| fs.take_away(path)),
        ("unreadable", |fs, _| fs.fail(Call::Read, "telemetry/checkpoint", 1, Errno::IO)),
        ("newer", |fs, path| {
            let mut bytes = fs.content(path);
            bytes[8] = 9;
            fs.put(path, &bytes);
        }),
    ];
    for (name, harm) in cases {
        let mut rig = three_segments();
        rig.spool.acknowledge(T, 5, rig.now);
        rig.settle_down();
        assert_eq!(rig.files(".seg").len(), 2, "the first is removed");
        harm(&rig.fs, &rig.options.dir.join("telemetry/checkpoint"));
        rig.reopen();
        // Number 5 comes again: only the checkpoint knew of it.
        assert_eq!(rig.numbers(T), (5..=12).collect::<Vec<_>>(), "{name}");
        assert_eq!((rig.status(T).quarantined, rig.status(T).delivered), (0, 4), "{name}");
        assert_eq!(rig.events("checkpoint-damaged").len(), 1, "{name}");
        // Records that were never on disk may have had any number below.
        let next = rig.store("next");
        assert!(next > rig.now.wall_ms && next < 1 << 53, "{name}: {next}");
        rig.close_and_reopen();
        assert_eq!((rig.store("after"), rig.events("checkpoint-damaged").len()), (next + 1, 1), "{name}");
    }
}

#[test]
fn a_lost_checkpoint_never_repeats_a_number_though_the_clock_is_wrong() {
    let mut rig = three_segments();
    rig.fs.take_away(&rig.options.dir.join("telemetry/checkpoint"));
    rig.now.quality = ClockQuality::Unsynced;
    rig.now.wall_ms = 1000;
    rig.reopen();
    assert!(rig.store("next") > 12 + (1 << 20));
}

#[test]
fn a_file_that_is_no_segment_is_set_aside_and_never_removed() {
    // Longer than a header, and shorter.
    for (name, length) in
        [("00000000000000000013.seg", 20), ("00000000000000777777.seg", 20), ("00000000000000777777.seg", 1)]
    {
        let mut rig = three_segments();
        let path = rig.options.dir.join("telemetry").join(name);
        rig.fs.put(&path, &b"somebody's holiday pictures ".repeat(length));
        rig.reopen();
        assert_eq!(rig.numbers(T), all_but(&[]));
        assert_eq!((rig.status(T).quarantined, rig.status(T).waiting), (0, 12));
        assert_eq!(rig.events("set-aside").len(), 1);
        assert_eq!(rig.files(&format!("quarantine/{name}")).len(), 1);
        assert!(rig.store("next") > 777_777);
    }
}

#[test]
fn a_newer_segment_is_set_aside_and_never_removed() {
    let mut rig = three_segments();
    rig.spool.close(rig.now);
    let newest = rig.files(".seg").pop().unwrap();
    let mut bytes = rig.fs.content(&newest);
    bytes[8] = 3;
    let crc = checksum(&bytes[..COMMON_LEN - 4]).to_le_bytes();
    bytes[COMMON_LEN - 4..COMMON_LEN].copy_from_slice(&crc);
    rig.fs.put(&newest, &bytes);
    rig.reopen();
    assert_eq!(rig.numbers(T), (1..=8).collect::<Vec<_>>());
    assert_eq!(rig.events("set-aside").len(), 1);
    assert_eq!(rig.status(T).quarantined, 4, "a clean stop knew of them");
    assert_eq!(rig.fs.content(&rig.files("quarantine/00000000000000000009.seg")[0]), bytes);
    assert!(rig.store("next") > 12);
}

#[test]
fn a_file_of_zeros_that_a_power_cut_left_is_never_called_foreign() {
    let mut rig = three_segments();
    rig.fs.put(&rig.options.dir.join("telemetry/00000000000000000013.seg"), &[0; 4096]);
    rig.reopen();
    assert_eq!(rig.numbers(T), all_but(&[]));
    assert!(rig.events("set-aside").is_empty());
}

#[test]
fn files_of_other_names_are_never_touched() {
    let mut rig = three_segments();
    let names =
        ["notes.txt", "1.seg", "18446744073709551615.seg", "99999999999999999999.seg", "00000000000000000000.seg"];
    let paths: Vec<_> = names.iter().map(|name| rig.options.dir.join("telemetry").join(name)).collect();
    paths.iter().for_each(|path| rig.fs.put(path, b"mine"));
    rig.close_and_reopen();
    assert_eq!(rig.numbers(T), all_but(&[]));
    rig.spool.acknowledge(T, 12, rig.now);
    rig.settle_down();
    rig.close_and_reopen();
    assert_eq!(rig.store("next"), 13);
    assert!(paths.iter().all(|path| rig.fs.content(path) == b"mine"));
}

#[test]
fn segments_that_somebody_removed_never_go_uncounted() {
    // While stopped, cleanly or not; while running; while it is being read.
    for (when, segment, lost) in [
        ("stopped", 0, 1..=4),
        ("killed", 0, 1..=4),
        ("running", 0, 1..=4),
        ("stopped", 1, 5..=8),
        ("running", 2, 9..=12),
        ("stopped", 2, 9..=12),
    ] {
        let mut rig = three_segments();
        if when == "stopped" {
            rig.spool.close(rig.now);
        }
        rig.fs.take_away(&rig.files(".seg")[segment]);
        if when != "running" {
            rig.reopen();
        }
        let lost: Vec<u64> = lost.collect();
        assert_eq!(rig.numbers(T), all_but(&lost), "{when} {segment}");
        assert_eq!((rig.status(T).quarantined, rig.status(T).waiting), (4, 8), "{when} {segment}");
        let gaps = rig.events("gap");
        assert_eq!((gaps.len(), gaps[0]["count"].as_u64(), gaps[0]["reason"].as_str()), (1, Some(4), Some("missing")));
        let next = rig.store("next");
        rig.spool.rewind();
        assert_eq!(rig.numbers(T).last(), Some(&next), "{when} {segment}: what comes now is kept");
        rig.cut_and_reopen(1);
        assert_eq!(rig.numbers(T).last(), Some(&next), "{when} {segment}: and survives");
    }
}

#[test]
fn a_removed_file_never_costs_what_is_in_memory_still() {
    let mut rig = Rig::new(WINDOW);
    rig.store_many(2);
    rig.append_to(T, &["written", "but not synced"]).unwrap();
    rig.spool.harden(T, Durability::Process, rig.now).unwrap();
    rig.fs.take_away(&rig.files(".seg")[0]);
    assert_eq!(rig.numbers(T), [3, 4]);
    assert_eq!(rig.status(T).quarantined, 2);
    rig.spool.harden(T, Durability::Power, rig.now).unwrap();
    rig.cut_and_reopen(1);
    assert_eq!(rig.numbers(T), [3, 4]);
}

#[test]
fn an_emptied_folder_never_stops_it() {
    let mut rig = three_segments();
    assert_eq!(rig.numbers(T).len(), 12);
    rig.files("").iter().for_each(|path| rig.fs.take_away(path));
    rig.spool.rewind();
    assert!(rig.numbers(T).is_empty());
    assert_eq!((rig.status(T).quarantined, rig.status(T).waiting), (12, 0));
    assert_eq!(rig.events("gap").iter().map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>(), 12);
    assert_eq!(rig.store("next"), 13);
    rig.settle_down();
    rig.cut_and_reopen(5);
    assert_eq!(rig.numbers(T), [13]);
    // And while it was stopped.
    rig.spool.close(rig.now);
    rig.files("").iter().for_each(|path| rig.fs.take_away(path));
    rig.reopen();
    assert!(rig.numbers(T).is_empty());
    rig.store("from the start");
    assert_eq!(rig.numbers(T).len(), 1);
}

#[test]
fn a_record_that_is_done_with_never_comes_back_behind_damage() {
    let mut rig = three_segments();
    rig.spool.discard(T, 6, Reason::Oversize, "too large".into(), rig.now);
    rig.damage_entry(&rig.files(".seg")[1], 0);
    assert_eq!(rig.numbers(T), all_but(&[5, 6]));
    assert_eq!(rig.status(T).quarantined, 2);
}

#[test]
fn a_file_that_cant_be_read_for_a_moment_never_costs_a_record() {
    for errno in [Errno::IO, Errno::MFILE] {
        for call in [Call::Open, Call::Read] {
            let mut rig = three_segments();
            rig.close_and_reopen();
            rig.fs.fail(call, "00000000000000000005.seg", 3, errno);
            assert_eq!(rig.numbers(T), [1, 2, 3, 4]);
            rig.fs.journal();
            assert!(rig.numbers(T).is_empty(), "it waits");
            assert!(rig.fs.journal().is_empty(), "and leaves the disk in peace");
            assert_eq!(rig.append_to(L, &["others go on"]).map(|_| rig.numbers(L)), Ok(vec![1]));
            let mut rest = Vec::new();
            for _ in 0..3 {
                let due = rig.spool.logs[T.index()].stall_due_ms().unwrap();
                rig.wait(due - rig.now.mono_ms);
                rest.extend(rig.numbers(T));
                rig.spool.tick(rig.now);
            }
            assert_eq!(rest, (5..=12).collect::<Vec<_>>());
            assert_eq!(rig.status(T).quarantined, 0);
        }
    }
}

#[test]
fn a_file_that_can_never_be_read_never_stops_the_others() {
    let mut rig = three_segments();
    rig.close_and_reopen();
    rig.fs.fail(Call::Read, "00000000000000000005.seg", usize::MAX, Errno::IO);
    let mut read = rig.numbers(T);
    for _ in 0..6 {
        rig.tick_after(30_000);
        read.extend(rig.numbers(T));
    }
    assert_eq!(read, all_but(&[5, 6, 7, 8]));
    assert_eq!(rig.status(T).quarantined, 4);
    let gaps = rig.events("gap");
    assert_eq!((gaps.len(), gaps[0]["count"].as_u64(), gaps[0]["reason"].as_str()), (1, Some(4), Some("unreadable")));
}

#[test]
fn a_process_that_is_out_of_file_handles_never_gives_a_segment_up() {
    let mut rig = three_segments();
    rig.close_and_reopen();
    rig.fs.fail(Call::Open, "00000000000000000005.seg", 50, Errno::MFILE);
    let mut read = rig.numbers(T);
    for _ in 0..60 {
        rig.tick_after(30_000);
        read.extend(rig.numbers(T));
    }
    assert_eq!(read, all_but(&[]));
    assert_eq!(rig.status(T).quarantined, 0);
}

#[test]
fn a_stalled_reader_never_keeps_the_thread_awake() {
    let mut rig = three_segments();
    rig.close_and_reopen();
    rig.fs.fail(Call::Open, "00000000000000000005.seg", usize::MAX, Errno::MFILE);
    assert_eq!(rig.numbers(T).len(), 4);
    // The publisher has no credit: nobody reads when the wait is over.
    rig.settle_down();
}

#[test]
fn a_folder_that_cant_be_listed_never_costs_what_is_in_it() {
    // Also where a runtime tier takes what comes meanwhile.
    for options in [options(Sync::Always), tiered(WINDOW)] {
        let has_runtime = options.runtime_dir.is_some();
        let mut rig = Rig::with(options);
        assert_eq!(rig.store_many(12), 12);
        rig.spool.close(rig.now);
        rig.fs.fail(Call::List, "/state/spool/telemetry", 1, Errno::IO);
        rig.reopen();
        assert_eq!(rig.events("spool-unusable").len(), 1);
        let one = rig.append_to(T, &["in memory"]).unwrap().first;
        assert!(one > 12);
        rig.tick_after(60_000);
        assert!(rig.status(T).disk_error.unwrap().contains("restart pillion"), "it says what to do");
        rig.spool.rewind();
        assert_eq!(rig.numbers(T), [one], "it works in memory");
        rig.spool.acknowledge(T, one, rig.now);
        rig.tick_after(2000);
        let two = rig.append_to(T, &["nobody takes it"]).unwrap().first;
        rig.spool.tick(rig.now);
        rig.spool.close(rig.now);
        let kept = if has_runtime { vec![two] } else { Vec::new() };
        for _ in 0..3 {
            rig.reopen();
            assert_eq!(rig.numbers(T), [all_but(&[]), kept.clone()].concat(), "everything is there again");
            assert_eq!((rig.status(T).waiting, rig.status(T).quarantined), (12 + kept.len() as u64, 0));
        }
        assert!(!has_runtime || rig.append_to(T, &["next"]).unwrap().first > two, "no number comes twice");
        rig.close_and_reopen();
        rig.cut_and_reopen(1);
        assert!(rig.numbers(T).starts_with(&[all_but(&[]), kept].concat()));
    }
}

#[test]
fn a_folder_that_cant_be_made_yet_never_needs_a_restart() {
    let fs = SimFs::default();
    fs.fail(Call::MakeDir, "telemetry", 3, Errno::NOSPC);
    let mut rig = Rig::on(fs, options(WINDOW));
    let one = rig.append_to(T, &["in memory"]).unwrap().first;
    assert!(rig.status(T).disk_error.is_some());
    rig.settle_down();
    assert_eq!(rig.status(T).disk_error, None);
    rig.cut_and_reopen(3);
    assert_eq!(rig.numbers(T), [one]);
}

#[test]
fn opening_never_reads_more_than_the_checkpoint_and_the_newest_segment() {
    let mut rig = Rig::new(Sync::Always);
    rig.store_many(4000);
    assert_eq!(rig.files(".seg").len(), 1000);
    rig.spool.close(rig.now);
    rig.fs.journal();
    rig.reopen();
    let opened = |(call, path): (Call, PathBuf)| (call == Call::Open).then_some(path);
    let telemetry = rig.options.dir.join("telemetry");
    let mut opened: Vec<_> =
        rig.fs.journal().into_iter().filter_map(opened).filter(|path| path.starts_with(&telemetry)).collect();
    opened.sort();
    assert_eq!(opened, [telemetry.join("00000000000000003997.seg"), telemetry.join("checkpoint")]);
    rig.fs.journal();
    rig.spool.tick(rig.now);
    let reads = rig.fs.journal().into_iter().filter(|(call, _)| *call == Call::Read).count();
    assert!(reads <= 2, "{reads} reads for the age of the oldest");
    assert_eq!(rig.status(T).waiting, 4000);
}

/// A checkpoint from before a crash in the future of the segments: both are believed in what they say of the past.
#[test]
fn an_old_backup_of_the_segments_never_takes_numbers_back() {
    let mut rig = three_segments();
    let checkpoint = Checkpoint { done: 500, next: 600, clean: true, delivered: 500, ..Checkpoint::default() };
    rig.fs.put(&rig.options.dir.join("telemetry/checkpoint"), &checkpoint.encode().unwrap());
    rig.reopen();
    assert!(rig.numbers(T).is_empty());
    assert_eq!((rig.status(T).delivered, rig.status(T).quarantined), (500, 99));
    assert_eq!(rig.store("next"), 600);
}

#[test]
fn a_copy_under_another_name_never_delivers_its_records_twice() {
    let mut rig = three_segments();
    let first = rig.fs.content(&rig.files(".seg")[0]);
    assert_eq!(Header::decode(&first).unwrap().first, 1);
    rig.fs.put(&rig.options.dir.join("telemetry/00000000000000000099.seg"), &first);
    rig.reopen();
    assert_eq!(rig.numbers(T), all_but(&[]));
    assert_eq!(rig.events("set-aside").len(), 1);
}

#[test]
fn a_disk_that_reads_nothing_for_a_moment_never_empties_the_spool() {
    for errno in [Errno::IO, Errno::MFILE] {
        let mut rig = three_segments();
        rig.fs.fail(Call::Open, "/telemetry/", usize::MAX, errno);
        rig.reopen();
        assert_eq!(rig.events("spool-unusable").len(), 1);
        rig.append_to(T, &["in memory"]).unwrap();
        rig.tick_after(30_000);
        rig.fs.heal();
        rig.reopen();
        assert_eq!(rig.numbers(T), all_but(&[]), "{errno}");
        assert!(rig.files("quarantine/00000000000000000009.seg").is_empty());
    }
}

#[test]
fn no_failing_call_ever_keeps_it_from_starting() {
    use Call as C;
    let calls = [
        C::MakeDir,
        C::List,
        C::Open,
        C::Read,
        C::Truncate,
        C::Rename,
        C::Remove,
        C::Create,
        C::Append,
        C::Sync,
        C::SyncDir,
    ];
    for call in calls {
        for (count, errno) in [(1, Errno::IO), (2, Errno::NOSPC), (usize::MAX, Errno::ROFS)] {
            let mut rig = three_segments();
            let newest = rig.files(".seg").pop().unwrap();
            let bytes = rig.fs.content(&newest);
            rig.fs.put(&newest, &bytes[..bytes.len() - 3]);
            rig.fs.fail(call, "", count, errno);
            rig.reopen();
            rig.append_to(T, &["goes on"]).unwrap();
            let mut before = Vec::new();
            for _ in 0..8 {
                rig.tick_after(10_000);
                before.extend(rig.numbers(T));
            }
            let blind = matches!(call, C::Open | C::Read);
            assert!(blind || before.last().unwrap() > &12, "{call:?} {count}: {before:?}");
            rig.fs.heal();
            (0..5).for_each(|_| rig.tick_after(40_000));
            rig.cut_and_reopen(7);
            let after = rig.numbers(T);
            // Opening could not read the newest one: it is set aside for whoever wants to repair it.
            let kept = if blind && count < 3 { 8 } else { 11 };
            assert!(after.iter().filter(|seq| **seq <= 12).count() >= kept, "{call:?} {count}: {after:?}");
        }
    }
}
