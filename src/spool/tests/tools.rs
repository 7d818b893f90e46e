//! Looking into a spool that is closed, and salvaging it.

use super::*;
use crate::spool::checkpoint::Checkpoint;
use crate::spool::inspect::{Finding, Item, Kind, Missing, Report, inspect};
use crate::spool::salvage::{Saved, salvage};
use crate::spool::segment::{COMMON_LEN, COPY_LEN, HEADER_LEN, Header, checksum};
use proptest::prelude::*;
use rustix::io::Errno;
use std::convert::Infallible;

const FROM: &str = "/state/spool/telemetry";
const TO: &str = "/new/spool/telemetry";

/// Twelve stored records in three segments of four.
fn three_segments() -> Rig {
    let mut rig = Rig::new(Sync::Always);
    rig.store_many(12);
    rig
}

fn closed() -> Rig {
    let mut rig = three_segments();
    rig.spool.close(rig.now);
    rig
}

/// The report, and the numbers of the records with whether they wait.
fn look(rig: &Rig, dir: &str) -> (Report, Vec<(u64, bool)>) {
    rig.fs.journal();
    let mut seen = Vec::new();
    let looked: Result<(Report, Checkpoint), Infallible> = inspect(&rig.fs, Path::new(dir), rig.now, |item| {
        if let Item::Record { record, waits } = item {
            seen.push((record.seq, waits));
        }
        Ok(())
    });
    assert!(rig.fs.journal().iter().all(|(call, _)| !call.writes()), "nothing is written");
    (looked.unwrap().0, seen)
}

fn waiting(seen: &[(u64, bool)]) -> Vec<u64> {
    seen.iter().filter(|(_, waits)| *waits).map(|(seq, _)| *seq).collect()
}

fn kinds(report: &Report) -> Vec<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

fn repair(rig: &Rig) -> (Report, Saved) {
    salvage(&rig.fs, Path::new(FROM), Path::new(TO), rig.now, |_| {}).unwrap()
}

/// Opens what was salvaged, as a daemon does.
fn open_new(rig: &Rig) -> Rig {
    let options = Options { dir: PathBuf::from("/new/spool"), ..rig.options.clone() };
    Rig::on(rig.fs.clone(), options)
}

#[test]
fn a_whole_spool_is_never_called_damaged() {
    for close in [true, false] {
        let mut rig = three_segments();
        rig.spool.acknowledge(T, 2, rig.now);
        rig.spool.discard(T, 4, Reason::Oversize, "too large".into(), rig.now);
        match close {
            true => _ = rig.spool.close(rig.now),
            false => rig.tick_after(20_000),
        }
        let (report, seen) = look(&rig, FROM);
        assert_eq!((report.damaged, report.lost, &report.findings), (0, 0, &vec![]));
        assert_eq!((report.segments, report.records, report.waiting, report.done), (3, 12, 9, 2));
        assert_eq!(report.ranges, [(1, 12)]);
        assert_eq!(waiting(&seen), [vec![3], (5..=12).collect()].concat());
        assert_eq!((report.from_ms, report.to_ms), (Some(1_795_401_667_123), Some(1_795_401_667_123)));
        assert!(report.ledger.balances());
        assert_eq!((report.ledger.delivered, report.ledger.quarantined, report.ledger.waiting), (2, 1, 9));
    }
}

#[test]
fn a_folder_without_anything_is_never_called_damaged() {
    let rig = Rig::new(Sync::Always);
    let (report, seen) = look(&rig, FROM);
    assert_eq!((report, seen), (Report::default(), vec![]));
    let (report, _) = look(&rig, "/nowhere");
    assert_eq!(kinds(&report), [Kind::Unreadable]);
}

#[test]
fn a_kill_or_a_power_cut_is_never_called_damage() {
    for cut in 1..100 {
        let rig = three_segments();
        let newest = rig.files(".seg").pop().unwrap();
        let bytes = rig.fs.content(&newest);
        rig.fs.put(&newest, &bytes[..bytes.len() - cut]);
        let (report, seen) = look(&rig, FROM);
        assert_eq!((report.damaged, report.lost), (0, 0), "{report:?}");
        assert_eq!(kinds(&report), [Kind::TornTail]);
        assert_eq!(waiting(&seen), (1..=11).collect::<Vec<_>>());
        // Or the beginnings of another one.
        rig.fs.put(&newest, &bytes);
        rig.fs.put(Path::new(&format!("{FROM}/00000000000000000013.seg")), &vec![0; cut]);
        let (report, seen) = look(&rig, FROM);
        assert_eq!((kinds(&report), report.damaged, seen.len()), (vec![Kind::TornTail], 0, 12));
    }
    // Numbers that were skipped then are not missing.
    let mut rig = three_segments();
    rig.reopen();
    rig.store_many(2);
    let (report, seen) = look(&rig, FROM);
    assert_eq!((report.damaged, report.lost, seen.len()), (0, 0, 14), "{report:?}");
}

#[test]
fn each_flipped_byte_is_told_with_its_place_and_what_it_costs() {
    let rig = closed();
    for (file, segment) in rig.files(".seg").iter().zip(0..) {
        let bytes = rig.fs.content(file);
        for at in 0..bytes.len() {
            rig.fs.flip(file, at);
            let (report, seen) = look(&rig, FROM);
            assert_eq!((report.damaged, report.findings.len()), (1, 1), "byte {at}: {report:?}");
            let Finding { kind, file: named, offset, bytes: count, missing, .. } = &report.findings[0];
            assert_eq!(named.as_deref(), file.file_name().unwrap().to_str());
            if at < HEADER_LEN {
                assert_eq!((*kind, *missing, seen.len()), (Kind::HeaderDamaged, None, 12));
            } else {
                let Some(Missing { first, last, waited: 1 }) = *missing else { panic!("{missing:?}") };
                assert!(*kind == Kind::Damaged && first == last && first.div_ceil(4) == segment + 1);
                assert!((*offset..offset + count).contains(&(at as u64)), "byte {at}: {report:?}");
                assert!(seen.len() == 11 && seen.iter().all(|(seq, _)| *seq != first));
            }
            rig.fs.put(file, &bytes);
        }
    }
}

#[test]
fn a_file_that_is_gone_never_goes_unnoticed() {
    for (segment, first) in [(0, 1), (1, 5), (2, 9)] {
        let rig = closed();
        rig.fs.take_away(&rig.files(".seg")[segment]);
        let (report, seen) = look(&rig, FROM);
        assert_eq!(kinds(&report), [Kind::Missing]);
        assert_eq!(report.findings[0].missing, Some(Missing { first, last: first + 3, waited: 4 }));
        assert_eq!((report.lost, seen.len(), report.ledger.quarantined), (4, 8, 4));
    }
    let rig = closed();
    rig.files("").iter().for_each(|file| rig.fs.take_away(file));
    assert_eq!(look(&rig, FROM).0.damaged, 0, "nobody can know");
}

#[test]
fn a_bad_checkpoint_never_hides_a_record() {
    for harm in ["damaged", "gone", "newer"] {
        let mut rig = three_segments();
        rig.spool.acknowledge(T, 5, rig.now);
        rig.settle_down();
        let path = rig.options.dir.join("telemetry/checkpoint");
        match harm {
            "damaged" => rig.fs.flip(&path, 20),
            "gone" => rig.fs.take_away(&path),
            _ => {
                let mut bytes = rig.fs.content(&path);
                bytes[8] = 9;
                rig.fs.put(&path, &bytes);
            }
        }
        let (report, seen) = look(&rig, FROM);
        assert_eq!((kinds(&report), report.damaged), (vec![Kind::CheckpointDamaged], 1));
        assert_eq!(waiting(&seen), (5..=12).collect::<Vec<_>>());
        repair(&rig);
        let mut new = open_new(&rig);
        assert_eq!(new.numbers(T), (5..=12).collect::<Vec<_>>());
        assert!(new.store("next") > 12 + (1 << 20), "{harm}: numbers that nobody knows of are not given again");
    }
}

#[test]
fn a_file_that_is_no_segment_of_ours_is_told_and_left_out() {
    let mut rig = closed();
    let newest = rig.files(".seg").pop().unwrap();
    let whole = rig.fs.content(&newest);
    let with_header = |change: fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let crc = checksum(&bytes[..COMMON_LEN - 4]).to_le_bytes();
        bytes[COMMON_LEN - 4..COMMON_LEN].copy_from_slice(&crc);
        let crc = checksum(&bytes[..COPY_LEN - 4]).to_le_bytes();
        bytes[COPY_LEN - 4..COPY_LEN].copy_from_slice(&crc);
        bytes
    };
    assert_eq!(Header::decode(&whole).unwrap().first, 9);
    for (bytes, kind) in [
        (b"somebody's holiday pictures ".repeat(20), Kind::Foreign),
        (with_header(|bytes| bytes[8] = 3), Kind::Newer),
        (with_header(|bytes| bytes[12] = 77), Kind::Misnamed),
    ] {
        rig.fs.put(&newest, &bytes);
        let (report, seen) = look(&rig, FROM);
        assert_eq!(kinds(&report), [kind, Kind::Missing]);
        assert_eq!((waiting(&seen), report.lost), ((1..=8).collect(), 4));
    }
    rig.fs.put(&newest, &whole);
    rig.fs.put(Path::new(&format!("{FROM}/notes.txt")), b"mine");
    rig.fs.put(Path::new(&format!("{FROM}/checkpoint.tmp")), b"interrupted");
    let (report, _) = look(&rig, FROM);
    assert_eq!((kinds(&report), report.damaged), (vec![Kind::OtherFile], 0));
    rig.fs.fail(Call::Read, newest.to_str().unwrap(), usize::MAX, Errno::IO);
    let (report, seen) = look(&rig, FROM);
    assert_eq!((kinds(&report), seen.len()), (vec![Kind::OtherFile, Kind::Unreadable, Kind::Missing], 8));
    rig.fs.heal();
    rig.reopen();
    assert_eq!(rig.numbers(T).len(), 12, "all of that was only looked at");
}

#[test]
fn damage_in_what_is_done_with_never_alarms() {
    let mut rig = closed();
    let file = rig.files(".seg")[0].clone();
    rig.reopen();
    rig.spool.acknowledge(T, 4, rig.now);
    let first = rig.fs.content(&file);
    rig.settle_down();
    rig.fs.put(&file, &first);
    rig.damage_entry(&file, 1);
    let (report, seen) = look(&rig, FROM);
    assert_eq!((kinds(&report), report.damaged, report.lost), (vec![Kind::DoneWith], 0, 0));
    assert_eq!((seen.len(), waiting(&seen)), (11, (5..=12).collect()));
}

/// A segment that could not be cut after an error of the disk: its last records were written again to the next one.
#[test]
fn what_was_written_twice_is_never_seen_twice() {
    let rig = closed();
    let files = rig.files(".seg");
    let mut bytes = rig.fs.content(&files[0]);
    let behind = rig.fs.content(&files[1]);
    let entry = (bytes.len() - HEADER_LEN) / 4;
    bytes.extend(&behind[HEADER_LEN..HEADER_LEN + entry]);
    rig.fs.put(&files[0], &bytes);
    let (report, seen) = look(&rig, FROM);
    assert_eq!((report.damaged, waiting(&seen)), (0, (1..=12).collect()));
    assert_eq!(repair(&rig).1, Saved { records: 12, segments: 3 });
}

#[test]
fn a_thousand_damaged_places_never_make_the_report_grow() {
    let mut rig = Rig::new(Sync::Always);
    rig.options.segment_bytes = 1 << 20;
    rig.reopen();
    rig.store_many(2500);
    rig.spool.close(rig.now);
    let file = rig.files(".seg").pop().unwrap();
    let mut bytes = rig.fs.content(&file);
    let size = (bytes.len() - HEADER_LEN) / 2500;
    (0..1250).for_each(|pair| bytes[HEADER_LEN + pair * 2 * size + 30] ^= 1);
    rig.fs.put(&file, &bytes);
    let (report, seen) = look(&rig, FROM);
    assert_eq!(report.lost, 2500 - seen.len() as u64);
    assert!(report.damaged > 1000, "{}", report.damaged);
    assert_eq!((report.findings.len(), report.more_findings), (1000, report.damaged - 1000));
    assert_eq!(report.ranges.len(), 100);
}

#[test]
fn repair_never_loses_what_is_whole_nor_invents_anything() {
    let mut rig = three_segments();
    rig.spool.acknowledge(T, 2, rig.now);
    rig.spool.discard(T, 11, Reason::Oversize, "too large".into(), rig.now);
    rig.spool.close(rig.now);
    rig.damage_entry(&rig.files(".seg")[0], 2);
    rig.damage_entry(&rig.files(".seg")[1], 1);
    let before: Vec<_> = rig.files("").iter().map(|file| (file.clone(), rig.fs.content(file))).collect();
    let (report, saved) = repair(&rig);
    assert_eq!((report.lost, saved.records), (2, 7));
    let after: Vec<_> = rig.files("").iter().map(|file| (file.clone(), rig.fs.content(file))).collect();
    assert_eq!(before, after, "the damaged one is as it was");

    // Times are corrected within a boot: the segments say which one it was.
    let segments: Vec<_> = rig
        .fs
        .files()
        .into_iter()
        .filter(|path| path.starts_with(TO) && path.extension().is_some_and(|kind| kind == "seg"))
        .collect();
    let headers: Vec<_> = segments.iter().map(|path| Header::decode(&rig.fs.content(path)).unwrap()).collect();
    assert_eq!(headers.len() as u64, saved.segments);
    assert!(headers.iter().all(|header| header.boot_id == [7; 16] && header.created_ms > 0), "{headers:?}");

    let mut new = open_new(&rig);
    assert_eq!(new.numbers(T), [4, 5, 7, 8, 9, 10, 12]);
    assert!(new.numbers(StreamId::EVENT).is_empty());
    let status = new.status(T);
    assert_eq!((status.accepted, status.delivered, status.quarantined, status.waiting), (12, 2, 3, 7));
    assert_eq!(new.store("next"), 13);
    new.cut_and_reopen(1);
    assert_eq!(new.numbers(T), [4, 5, 7, 8, 9, 10, 12, 13]);
}

#[test]
fn repair_after_a_kill_never_costs_what_is_in_the_runtime_tier() {
    for is_drained in [false, true] {
        let mut rig = Rig::with(tiered(WINDOW));
        rig.store_many(12);
        if is_drained {
            rig.spool.acknowledge(T, 12, rig.now);
        }
        rig.append_to(T, &["neither", "is on flash"]).unwrap();
        rig.spool.tick(rig.now);
        if !is_drained {
            rig.damage_entry(&rig.files(".seg")[0], 1);
        }
        let (report, saved) = repair(&rig);
        let mut new = open_new(&rig);
        let kept: Vec<u64> = [1].into_iter().chain(3..=14).filter(|&seq| !is_drained || seq > 12).collect();
        assert_eq!(new.numbers(T), kept);
        let status = new.status(T);
        assert_eq!((status.waiting, status.quarantined), (kept.len() as u64, report.lost));
        assert!(is_drained || (report.lost, saved.records) == (1, 11));
        assert!(new.append_to(T, &["next"]).unwrap().first > 14);
        new.tick_after(1000);
        new.cut_and_reopen(1);
        assert!(new.numbers(T).starts_with(&kept));
    }
}

#[test]
fn a_target_that_cant_be_written_is_never_called_whole() {
    for call in [Call::Create, Call::Append, Call::Sync, Call::Rename, Call::SyncDir, Call::MakeDir] {
        let rig = closed();
        rig.fs.fail(call, "/new/", 1, Errno::NOSPC);
        let failed = salvage(&rig.fs, Path::new(FROM), Path::new(TO), rig.now, |_| {});
        assert!(failed.is_err(), "{call:?}");
    }
}

/// What happens to the files of a stream.
#[derive(Debug, Clone)]
enum Harm {
    Overwrite { file: usize, at: usize, bytes: Vec<u8> },
    Cut { file: usize, at: usize },
    Extend { file: usize, bytes: Vec<u8> },
    Remove { file: usize },
}

fn harm() -> impl Strategy<Value = Harm> {
    let (file, at) = (0..8usize, any::<usize>());
    let bytes = prop_oneof![
        3 => proptest::collection::vec(any::<u8>(), 1..4),
        1 => proptest::collection::vec(any::<u8>(), 1..300),
        1 => (1..600usize).prop_map(|length| vec![0; length]),
    ];
    prop_oneof![
        6 => (file.clone(), at, bytes.clone()).prop_map(|(file, at, bytes)| Harm::Overwrite { file, at, bytes }),
        1 => (file.clone(), at).prop_map(|(file, at)| Harm::Cut { file, at }),
        1 => (file.clone(), bytes).prop_map(|(file, bytes)| Harm::Extend { file, bytes }),
        1 => file.prop_map(|file| Harm::Remove { file }),
    ]
}

fn inflict(rig: &Rig, harm: &Harm) {
    let files = rig.files("");
    let (Harm::Overwrite { file, .. } | Harm::Cut { file, .. } | Harm::Extend { file, .. } | Harm::Remove { file }) =
        harm;
    let Some(path) = files.get(file % files.len().max(1)) else { return };
    let mut content = rig.fs.content(path);
    match harm {
        Harm::Overwrite { at, bytes, .. } if !content.is_empty() => {
            let at = at % content.len();
            let end = content.len().min(at + bytes.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
        }
        Harm::Overwrite { .. } => {}
        Harm::Cut { at, .. } => content.truncate(at % (content.len() + 1)),
        Harm::Extend { bytes, .. } => content.extend(bytes),
        Harm::Remove { .. } => return rig.fs.take_away(path),
    }
    rig.fs.put(path, &content);
}

/// An entry, with its file, its place there, and its bytes.
type Stored = (PathBuf, usize, Vec<u8>, Sequenced);

/// Every whole entry in the segments, by the place where it stands.
fn entries(rig: &Rig) -> Vec<Stored> {
    let mut all = Vec::new();
    for path in rig.files(".seg") {
        let bytes = rig.fs.content(&path);
        let header = Header::decode(&bytes).unwrap();
        let mut offset = header.end();
        while let Step::Entry { record, length } = step(bytes.get(offset..).unwrap_or_default(), header.entries()) {
            all.push((path.clone(), offset, bytes[offset..offset + length].to_vec(), record));
            offset += length;
        }
    }
    all
}

/// What a stored record is after the damage, if its entry is whole: without both copies of the header its time is not known.
fn left_of((path, _, _, record): &Stored, damaged: &[(PathBuf, Vec<u8>)]) -> Sequenced {
    let mut record = record.clone();
    let file = damaged.iter().find(|(file, _)| file == path);
    if file.is_none_or(|(_, content)| Header::decode(content).is_err()) {
        record.record.time = Timestamp::UNKNOWN;
    }
    record
}

/// The same files on a file system of their own.
fn copy(rig: &Rig) -> SimFs {
    let fs = SimFs::default();
    rig.fs.files().iter().for_each(|path| fs.put(path, &rig.fs.content(path)));
    fs
}

fn telemetry(rig: &mut Rig) -> Vec<Sequenced> {
    rig.read_all().into_iter().filter(|(stream, _)| *stream == T).map(|(_, record)| record).collect()
}

proptest! {
    #[test]
    fn repair_of_random_damage_never_loses_a_whole_record(
        sizes in proptest::collection::vec(0..260usize, 1..30),
        acknowledged in 0..10u64,
        discarded in 0..30u64,
        end in 0..3u8,
        harms in proptest::collection::vec(harm(), 0..6),
    ) {
        let mut rig = Rig::new(Sync::Always);
        sizes.iter().for_each(|size| { rig.store(&"x".repeat(*size)); });
        rig.spool.acknowledge(T, acknowledged.min(sizes.len() as u64), rig.now);
        rig.spool.discard(T, discarded, Reason::Oversize, "too large".into(), rig.now);
        match end {
            0 => _ = rig.spool.close(rig.now),
            1 => { rig.tick_after(20_000); }
            _ => { rig.reopen(); rig.store("of the next run"); }
        }
        let waits = telemetry(&mut Rig::on(copy(&rig), rig.options.clone()));
        let stored = entries(&rig);
        harms.iter().for_each(|harm| inflict(&rig, harm));
        let damaged: Vec<_> = rig.files("").iter().map(|file| (file.clone(), rig.fs.content(file))).collect();

        let (report, saved) = repair(&rig);
        prop_assert_eq!(&damaged, &rig.files("").iter().map(|file| (file.clone(), rig.fs.content(file))).collect::<Vec<_>>());
        let (new, _) = look(&rig, TO);
        prop_assert!(new.findings.is_empty(), "{:?}", new.findings);
        prop_assert_eq!((new.waiting, new.records), (saved.records, saved.records));
        prop_assert_eq!(StreamStatus { bytes: 0, ..new.ledger }, StreamStatus { bytes: 0, ..report.ledger.clone() });

        let mut daemon = open_new(&rig);
        let delivered = telemetry(&mut daemon);
        prop_assert_eq!(delivered.len() as u64, saved.records);
        prop_assert_eq!(daemon.status(T).waiting, saved.records);
        prop_assert!(daemon.events("gap").is_empty());
        for record in &delivered {
            prop_assert!(stored.iter().any(|stored| left_of(stored, &damaged) == *record), "invented {}", record.seq);
        }
        for stored in stored.iter().filter(|(.., record)| waits.contains(record)) {
            let (path, offset, bytes, record) = stored;
            let there = damaged.iter().find(|(file, _)| file == path);
            let whole = there.is_some_and(|(_, content)| content.get(*offset..offset + bytes.len()) == Some(bytes));
            prop_assert!(!whole || delivered.contains(&left_of(stored, &damaged)), "lost {}", record.seq);
        }
        // And what is said is what a daemon makes of the damaged one. Without a checkpoint both can only guess.
        let mut daemon = Rig::on(copy(&rig), rig.options.clone());
        let read = telemetry(&mut daemon);
        prop_assert!(read.iter().all(|record| delivered.contains(record)));
        if report.checkpoint.is_some() {
            let status = daemon.status(T);
            prop_assert_eq!((status.waiting, status.quarantined), (report.ledger.waiting, report.ledger.quarantined));
        }
    }
}
