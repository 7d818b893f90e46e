//! What is written to `state_dir`, and when.

use super::World;
use crate::common::disk::{LoopDisk, Tmpfs};
use crate::common::sidecar::{Home, STREAM, Sidecar};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Every file and folder below this one: inode, size, and when it was written last.
fn footprint(dir: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(footprint(&path));
        }
        found.insert(path, (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()));
    }
    found
}

/// The first record of a stream reserves numbers on flash: in the tests' stream, and in those of health documents and
/// events, which may come at any time.
fn reserve_numbers(sidecar: &Sidecar) {
    for stream in [STREAM, "log", "event"] {
        let target = format!("/v1/publish?topic=orders&stream={stream}");
        assert_eq!(sidecar.request("POST", &target, "text/plain", b"first").unwrap().code, 200);
        sidecar.expect_drained(stream);
    }
}

/// `state_dir` on an ext4 and `runtime_dir` on a tmpfs, as on a gateway. They must outlive the sidecar.
fn mount(home: &Home) -> Option<(LoopDisk, Tmpfs)> {
    let mounted = (LoopDisk::mount()?, Tmpfs::mount(16 * 1024)?);
    std::os::unix::fs::symlink(mounted.0.path(), home.path("state")).unwrap();
    std::os::unix::fs::symlink(mounted.1.path(), home.path("run")).unwrap();
    Some(mounted)
}

/// Two counters that stand outside the program: file pages that it made the kernel write, and all that the device of
/// `state_dir` was given.
fn written(sidecar: &Sidecar, flash: &LoopDisk) -> (u64, u64) {
    let device = flash.bytes_written();
    (sidecar.bytes_to_disk(), device)
}

#[test]
fn not_one_sector_is_written_for_10_000_records_that_the_broker_takes_in_time() {
    const WINDOW: Duration = Duration::from_secs(1);
    let world = World::new();
    let home = world.home();
    let Some((flash, _tmpfs)) = mount(&home) else { return };
    let sidecar = Sidecar::start(home);
    world.expect_online();
    reserve_numbers(&sidecar);
    // A machine so busy that records wait out the window says nothing about the program: such a run counts for nothing.
    for _ in 0..3 {
        let before = written(&sidecar, &flash);
        let (start, mut slowest) = (Instant::now(), Duration::ZERO);
        for round in 0..100_u32 {
            let lines: Vec<String> = (0..100).map(|number| format!("record {round}.{number}")).collect();
            let sent = Instant::now();
            sidecar.publish_lines("orders", &lines);
            sidecar.expect_drained(STREAM);
            slowest = slowest.max(sent.elapsed());
            // A minute: longer than anything that is put off, such as checkpoints.
            std::thread::sleep((Duration::from_millis(600) * round).saturating_sub(start.elapsed()));
        }
        let after = written(&sidecar, &flash);
        println!("10,000 records in {:?}, the slowest in {slowest:?}", start.elapsed());
        if slowest < WINDOW {
            assert_eq!(after, before, "bytes of pages, and of the device");
            return;
        }
    }
    panic!("this machine is too busy to tell");
}

/// What the kernel is made to write for records that wait out an outage, as whole 4 KiB pages: a page that takes the
/// end of one group and the beginning of the next is written twice, and counts twice. All files count: segments and
/// checkpoints. The journal and the tables of the file system don't; the device's own count, which holds them too, is
/// printed.
///
/// An entry is 14 to 19 bytes longer than its data here: 8 of length and CRC, 1 of flags, 1 to 3 of sequence number, 1 to 3
/// of wall and 1 of monotonic time, as they count from the first of the segment, and 2 of topic (`app/t`); a segment's
/// header takes 152. So with data of 128 bytes the content alone is at most 1.15 times the data, and with the pages that
/// are written twice at most 1.2 times.
#[test]
fn an_outage_never_costs_more_flash_than_its_entries_and_a_page_for_each_group() {
    const RECORDS: usize = 20_000;
    const DATA: usize = 128;
    const ENTRY: usize = DATA + 19;
    let world = World::new();
    let home = world.home();
    let Some((flash, _tmpfs)) = mount(&home) else { return };
    let sidecar = Sidecar::start(home);
    world.expect_online();
    world.relay.cut();
    let before = written(&sidecar, &flash);
    let start = Instant::now();
    // 2,000 records a second: a group is what came in a second, or what fills 256 KiB of memory.
    for round in 0..RECORDS / 100 {
        // As JSON it has its quotes, too.
        let line = |number: usize| format!("{:0width$}", round * 100 + number, width = DATA - 2);
        sidecar.publish_lines("t", &(0..100).map(line).collect::<Vec<_>>());
        let due = Duration::from_millis(50) * u32::try_from(round).unwrap();
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    // Takes along what still waits for its group.
    let target = format!("/v1/publish?topic=t&stream={STREAM}&sync=true");
    assert_eq!(sidecar.request("POST", &target, "", &[b'x'; DATA]).unwrap().code, 200);
    let after = written(&sidecar, &flash);

    let segments = sidecar.home.segments(STREAM);
    let content: u64 = segments.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    let (pages, device) = (after.0 - before.0, after.1 - before.1);
    let thousandths = |bytes: u64| bytes * 1000 / u64::try_from((RECORDS + 1) * DATA).unwrap();
    println!(
        "thousandths of the data: content {}, pages {}, device {}",
        thousandths(content),
        thousandths(pages),
        thousandths(device)
    );
    assert!(content > u64::try_from((RECORDS + 1) * DATA).unwrap(), "not all of it is on flash: {content} bytes");
    assert!(content < u64::try_from((RECORDS + 1) * ENTRY).unwrap(), "{content} bytes of content");
    // A group has what came in a second, or 128 KiB at the least; then there are segments' first pages and checkpoints.
    let groups = start.elapsed().as_secs() + content / (128 << 10) + 1;
    assert!(pages <= content + (groups + 8) * 4096, "{pages} bytes of pages for {content} of content");
    assert!(thousandths(pages) <= 1200, "{} thousandths of the data", thousandths(pages));
}

#[test]
fn records_that_the_broker_takes_in_time_never_touch_state_dir() {
    let world = World::new();
    let mut home = world.home();
    // A busy machine must not be taken for a slow broker.
    home.spool = "sync = \"1m\"".to_owned();
    let sidecar = Sidecar::start(home);
    reserve_numbers(&sidecar);
    let state = sidecar.home.path("state");
    let before = footprint(&state);
    for round in 0..50 {
        let lines: Vec<String> = (0..100).map(|number| format!("record {round}.{number}")).collect();
        sidecar.publish_lines("orders", &lines);
        // More than 256 KiB that wait go to flash at once.
        if round % 10 == 9 {
            sidecar.expect_drained(STREAM);
        }
    }
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["delivered"], 5001, "{ledger}");
    assert_eq!(footprint(&state), before);
}
