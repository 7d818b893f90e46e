//! Segments of version 1 that an earlier pillion left, and the two copies of the header in version 2.

use super::*;
use crate::spool::inspect::{Item, Kind, inspect};
use crate::spool::salvage::salvage;
use crate::spool::segment::{Base, COMMON_LEN, COPY_LEN, HEADER_LEN, encode_entry, encode_entry_v1};
use std::convert::Infallible;

const DIR: &str = "/state/spool/telemetry";

fn text(seq: u64) -> String {
    format!("{seq:0>40}")
}

/// A stream of three segments of four records each, which version 1 wrote as it did, and what waits in it.
fn old_spool() -> (Rig, Vec<Sequenced>) {
    let rig = Rig::new(Sync::Always);
    let mut all = Vec::new();
    for first in [1, 5, 9] {
        let header = Header { first, done: 0, created_ms: rig.now.wall_ms, boot_id: [7; 16], base: None };
        let mut bytes = header.encode();
        for seq in first..first + 4 {
            let time = Timestamp { wall_ms: rig.now.wall_ms + seq, mono_ms: seq, quality: ClockQuality::Trusted };
            let mut record = rig.record(&text(seq));
            (record.time, record.topic) = (time, "device/meter/data".to_owned());
            let record = Sequenced { seq, record };
            encode_entry_v1(&record, &mut bytes);
            all.push(record);
        }
        rig.fs.put(&Path::new(DIR).join(format!("{first:020}.seg")), &bytes);
    }
    (rig, all)
}

fn waiting(rig: &mut Rig) -> Vec<Sequenced> {
    rig.read_all().into_iter().filter(|(stream, _)| *stream == T).map(|(_, record)| record).collect()
}

#[test]
fn what_an_earlier_version_left_is_never_lost_nor_appended_to() {
    let (mut rig, mut expected) = old_spool();
    let old: Vec<_> = rig.files(".seg").iter().map(|path| (path.clone(), rig.fs.content(path))).collect();
    rig.reopen();
    assert_eq!(waiting(&mut rig), expected);
    let time = rig.now;
    let seq = rig.store("of this version");
    expected.push(Sequenced { seq, record: Record { time, ..rig.record("of this version") } });
    assert!(old.iter().all(|(path, bytes)| rig.fs.content(path) == *bytes));
    let newest = rig.files(".seg").pop().unwrap();
    assert_eq!(Header::decode(&rig.fs.content(&newest)).unwrap().base, Some(Base::of(time)));
    rig.close_and_reopen();
    assert_eq!(waiting(&mut rig), expected);
    assert_eq!(rig.status(T).quarantined, 0);

    // Repair writes all of it anew.
    salvage(&rig.fs, Path::new(DIR), Path::new("/new/telemetry"), rig.now, |_| {}).unwrap();
    let mut new = Rig::on(rig.fs.clone(), Options { dir: PathBuf::from("/new"), ..rig.options.clone() });
    assert_eq!(waiting(&mut new), expected);
}

#[test]
fn a_flipped_byte_in_a_segment_of_version_1_never_costs_more_than_its_record() {
    let (mut rig, all) = old_spool();
    rig.reopen();
    rig.spool.close(rig.now);
    let path = rig.files(".seg")[1].clone();
    let bytes = rig.fs.content(&path);
    let entry = (bytes.len() - COMMON_LEN) / 4;
    for at in 0..bytes.len() {
        let mut expected = all.clone();
        if let Some(place) = at.checked_sub(COMMON_LEN) {
            expected.remove(4 + place / entry);
        }
        // Alone, and with the header.
        for flips in [vec![at], vec![at, 20]] {
            rig.fs.put(&path, &bytes);
            flips.iter().for_each(|&at| rig.fs.flip(&path, at));
            let mut rig = Rig::on(rig.fs.clone(), rig.options.clone());
            assert_eq!(waiting(&mut rig), expected, "bytes {flips:?}");
        }
        rig.fs.put(&path, &bytes);
    }
}

/// Data that looks like the first entry of version 2, where that would be, is only data.
#[test]
fn a_segment_of_version_1_is_never_taken_for_one_of_version_2() {
    let mut rig = Rig::new(Sync::Always);
    let base = Base::of(rig.now);
    let mut forged = Vec::new();
    encode_entry(&Sequenced { seq: 1, record: rig.record("forged") }, base, &mut forged).unwrap();
    let segment = |padding| {
        let data = [vec![b'.'; padding], forged.clone()].concat();
        let record = Sequenced { seq: 1, record: Record { data, ..rig.record("") } };
        let mut bytes = Header { first: 1, done: 0, created_ms: 0, boot_id: [7; 16], base: None }.encode();
        encode_entry_v1(&record, &mut bytes);
        (bytes, record)
    };
    let padding = 50 + HEADER_LEN + forged.len() - segment(50).0.len();
    let (mut bytes, record) = segment(padding);
    assert!(bytes[HEADER_LEN..] == forged);
    bytes[20] ^= 1;
    rig.fs.put(&Path::new(DIR).join("00000000000000000001.seg"), &bytes);
    rig.reopen();
    assert_eq!((waiting(&mut rig), rig.status(T).quarantined), (vec![record], 0));
}

/// Twelve records in three segments of four, closed, with what waits.
fn new_spool() -> (Rig, Vec<Sequenced>) {
    let mut rig = Rig::new(Sync::Always);
    for seq in 1..=12 {
        rig.wait(10);
        rig.store(&format!("{seq:0>100}"));
    }
    rig.spool.close(rig.now);
    rig.reopen();
    let all = waiting(&mut rig);
    assert_eq!((all.len(), rig.files(".seg").len()), (12, 3));
    rig.spool.close(rig.now);
    (rig, all)
}

fn found(rig: &Rig) -> Vec<Kind> {
    let (report, _) = inspect(&rig.fs, Path::new(DIR), rig.now, |_: Item<'_>| Ok::<(), Infallible>(())).unwrap();
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn one_damaged_copy_of_the_header_never_costs_anything_and_is_told() {
    let (rig, all) = new_spool();
    for path in rig.files(".seg") {
        let bytes = rig.fs.content(&path);
        for copy in [0..COPY_LEN, COPY_LEN..HEADER_LEN] {
            for fill in [0, 0xff] {
                let mut damaged = bytes.clone();
                damaged[copy.clone()].fill(fill);
                rig.fs.put(&path, &damaged);
                assert_eq!(found(&rig), [Kind::HeaderDamaged]);
                let mut daemon = Rig::on(copy_of(&rig), rig.options.clone());
                assert_eq!((waiting(&mut daemon), daemon.status(T).quarantined), (all.clone(), 0));
                assert!(daemon.events("set-aside").is_empty());
            }
        }
        rig.fs.put(&path, &bytes);
    }
}

#[test]
fn two_damaged_copies_of_the_header_never_cost_more_than_the_times() {
    let (rig, all) = new_spool();
    for (path, segment) in rig.files(".seg").iter().zip(0..) {
        let bytes = rig.fs.content(path);
        let entry = (bytes.len() - HEADER_LEN) / 4;
        // The first entry as well, or another one.
        for lost in [None, Some(0), Some(2)] {
            for (at, fill) in [(20, 1), (0, HEADER_LEN), (COPY_LEN - 10, 50)] {
                let mut damaged = bytes.clone();
                damaged[at..at + fill].fill(0xa5);
                damaged[COPY_LEN + 20] ^= 1;
                if let Some(lost) = lost {
                    damaged[HEADER_LEN + lost * entry + 15] ^= 1;
                }
                rig.fs.put(path, &damaged);
                let mut expected = all.clone();
                for record in &mut expected[segment * 4..segment * 4 + 4] {
                    record.record.time = Timestamp::UNKNOWN;
                }
                if let Some(lost) = lost {
                    expected.remove(segment * 4 + lost);
                }
                let mut daemon = Rig::on(copy_of(&rig), rig.options.clone());
                assert_eq!(waiting(&mut daemon), expected, "{at} {fill} {lost:?}");
                assert_eq!(daemon.status(T).quarantined, u64::from(lost.is_some()));
                let damage = lost.map(|_| Kind::Damaged);
                assert_eq!(found(&rig), [vec![Kind::HeaderDamaged], damage.into_iter().collect()].concat());
            }
        }
        rig.fs.put(path, &bytes);
    }
}

fn copy_of(rig: &Rig) -> SimFs {
    let fs = SimFs::default();
    rig.fs.files().iter().for_each(|path| fs.put(path, &rig.fs.content(path)));
    fs
}

#[test]
fn a_clock_that_is_set_within_a_segment_never_makes_a_time_wrong() {
    let mut rig = Rig::new(Sync::Always);
    rig.options.boot_id = [0; 16];
    rig.now.quality = ClockQuality::Unsynced;
    rig.now.wall_ms = 17;
    rig.reopen();
    let mut times = Vec::new();
    for wall_ms in [17, 1_795_401_667_123, 1_795_401_600_000, 3] {
        rig.wait(5);
        rig.now.wall_ms = wall_ms;
        times.push(rig.now);
        rig.store("x");
    }
    rig.close_and_reopen();
    assert_eq!(rig.files(".seg").len(), 1);
    assert_eq!(waiting(&mut rig).iter().map(|record| record.record.time).collect::<Vec<_>>(), times);
}
