//! Power cuts on a real kernel's file system: what was promised to be on the medium is there afterwards.
//!
//! The cut takes what nobody synced, and `runtime_dir` as a whole, since that is a tmpfs. The boot id stays the same, which
//! makes no difference to a runtime tier that is not there. Between the cut and the end of the process there is a moment in
//! which the disk answers with EIO: harder than life, where both end at once.

use super::World;
use crate::common::disk::LoopDisk;
use crate::common::sidecar::{Home, STREAM, Sidecar, assert_balanced};
use crate::common::subscriber::Inbox;
use crate::common::{LONG, SOON, http, seed, watched::Watched};
use fastrand::Rng;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// One request that was answered with 200: its texts, by the number that each was given.
#[derive(Debug, Clone)]
struct Batch {
    life: usize,
    at: Instant,
    texts: BTreeMap<u64, String>,
}

/// What the publisher and the one who cuts know of each other.
#[derive(Debug, Default)]
struct Board {
    accepted: Vec<Batch>,
    records: usize,
    /// How often the sidecar has been started.
    life: usize,
    /// Whether it runs, as far as the cutter knows.
    up: bool,
    /// Nothing more shall be published.
    over: bool,
}

/// Tells the publisher to end, also when the test fails.
struct EndOf<'a>(&'a Watched<Board>);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.update(|board| board.over = true);
    }
}

/// Publishes numbered texts, one or some at a time, with a pause after each. What is not confirmed counts for nothing
/// and is not repeated.
fn publish_until_over(socket: &Path, pause: Duration, board: &Watched<Board>) {
    let mut next = 0_u64;
    for round in 1_u64.. {
        let up = board.wait_for(SOON, |board| (board.up || board.over).then_some((!board.over, board.life)));
        let Some((true, life)) = up else { return };
        let count = if round.is_multiple_of(4) { 20 } else { 1 };
        let texts: Vec<String> = (next..next + count).map(|number| format!("record {number}")).collect();
        next += count;
        let lines: String = texts.iter().map(|text| format!("{text:?}\n")).collect();
        let target = "/v1/publish?topic=orders&stream=work";
        let at = Instant::now();
        let answer = http::request(socket, "POST", target, "application/x-ndjson", lines.as_bytes());
        if let Some(answer) = answer.ok().filter(|answer| answer.code == 200) {
            let first = answer.json["first"].as_u64().unwrap();
            assert_eq!(answer.json["last"].as_u64(), Some(first + count - 1), "{answer:?}");
            board.update(|board| {
                if !board.up || board.life != life {
                    // Nobody hears an answer when the power has gone. And a kernel may say that an fdatasync which it was
                    // at when its journal was shut down has worked.
                    return;
                }
                board.records += texts.len();
                board.accepted.push(Batch { life, at, texts: (first..).zip(texts).collect() });
            });
        }
        std::thread::sleep(pause);
    }
}

fn expect_accepted(board: &Watched<Board>, more: usize) {
    let goal = board.read(|board| board.records) + more;
    let came = board.wait_for(SOON, |board| (board.records >= goal).then_some(()));
    assert!(came.is_some(), "no more records are accepted");
}

/// The power goes and comes back. Returns when it went.
fn cut(disk: &LoopDisk, sidecar: &mut Sidecar, board: &Watched<Board>) -> Instant {
    let cutter = disk.cutter();
    let at = board.update(|board| {
        board.up = false;
        Instant::now()
    });
    cutter.cut();
    sidecar.kill();
    fs::remove_dir_all(sidecar.home.path("run")).unwrap();
    disk.unmount();
    disk.mount_again();
    sidecar.start_again();
    board.update(|board| (board.up, board.life) = (true, board.life + 1));
    at
}

fn on(disk: &LoopDisk, world: &World, spool: &str) -> Home {
    let mut home = world.home();
    home.spool = spool.to_owned();
    std::os::unix::fs::symlink(disk.path(), home.path("state")).unwrap();
    home
}

/// Waits for the last record that was accepted, and returns the numbers of all that came. They come in order, so what is
/// missing then is lost.
fn arrived(world: &World, accepted: &[Batch]) -> HashSet<u64> {
    let last = *accepted.last().unwrap().texts.last_key_value().unwrap().0;
    let came = |inbox: &Inbox| inbox.of(STREAM).last().is_some_and(|arrival| arrival.seq >= last);
    world.subscriber.expect("the last record", LONG, came);
    world.subscriber.read(|inbox| inbox.of(STREAM).iter().map(|arrival| arrival.seq).collect())
}

/// Fails when a number was given to two records, as far as anybody outside can know of it.
fn assert_numbers_unique(world: &World, accepted: &[Batch]) {
    let numbers: Vec<u64> = accepted.iter().flat_map(|batch| batch.texts.keys().copied()).collect();
    let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert!(wrong.is_none(), "numbers were given again: {wrong:?}");
    let given: BTreeMap<u64, &str> =
        accepted.iter().flat_map(|batch| &batch.texts).map(|(seq, text)| (*seq, text.as_str())).collect();
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        for arrival in inbox.of(STREAM) {
            let text = given.get(&arrival.seq);
            assert!(
                text.is_none_or(|text| *text == arrival.text()),
                "{} was given to {text:?}: {arrival:?}",
                arrival.seq
            );
        }
    });
}

#[test]
fn the_rig_never_keeps_what_was_not_synced() {
    let Some(disk) = LoopDisk::mount() else { return };
    let path = |name: &str| disk.path().join(name);
    fs::write(path("synced"), "on the medium").unwrap();
    File::open(path("synced")).unwrap().sync_all().unwrap();
    File::open(disk.path()).unwrap().sync_all().unwrap();
    // All that a spool does: a new file, more at the end of an old one, another content under a name.
    fs::write(path("new"), "in memory").unwrap();
    OpenOptions::new().append(true).open(path("synced")).unwrap().write_all(b", and more in memory").unwrap();
    fs::write(path("other"), "another").unwrap();
    fs::rename(path("other"), path("renamed")).unwrap();
    disk.cutter().cut();
    assert!(fs::write(path("late"), "").is_err(), "the disk is dead");
    disk.unmount();
    disk.mount_again();
    assert_eq!(fs::read_to_string(path("synced")).unwrap(), "on the medium");
    for name in ["new", "other", "renamed", "late"] {
        assert!(!path(name).exists(), "{name} is there");
    }
}

#[test]
fn no_acknowledged_record_is_lost_to_twenty_power_cuts_with_sync_always() {
    let Some(disk) = LoopDisk::mount() else { return };
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    // Small segments: cuts hit their beginnings and their ends too.
    let home = on(&disk, &world, "sync = \"always\"\nsegment_bytes = \"64KiB\"");
    let socket = home.socket();
    let mut sidecar = Sidecar::start(home);
    let board = Watched::new(Board { up: true, ..Board::default() });

    std::thread::scope(|scope| {
        let _end = EndOf(&board);
        scope.spawn(|| publish_until_over(&socket, Duration::ZERO, &board));
        for round in 0..20 {
            match round % 4 {
                // Steady flow.
                0 => {
                    let before = world.subscriber.read(|inbox| inbox.of(STREAM).len());
                    world.subscriber.expect("flow", SOON, |inbox| inbox.of(STREAM).len() > before);
                }
                // An outage, which lasts over two cuts.
                1 => world.relay.cut(),
                2 => {}
                // The drain of what has gathered.
                _ => {
                    let before = world.subscriber.read(|inbox| inbox.of(STREAM).len());
                    let goal = before + rng.usize(1..200);
                    world.relay.open();
                    world.subscriber.expect("a drain", SOON, |inbox| inbox.of(STREAM).len() >= goal);
                }
            }
            expect_accepted(&board, rng.usize(1..400));
            std::thread::sleep(Duration::from_micros(rng.u64(..10_000)));
            cut(&disk, &mut sidecar, &board);
            let status = sidecar.status();
            let ledger = &status["streams"][STREAM];
            assert_balanced(ledger);
            assert_eq!(ledger["quarantined"], 0, "after cut {round}: {ledger}\n{}", sidecar.log());
        }
        world.relay.open();
        expect_accepted(&board, 50);
    });

    let accepted = board.read(|board| board.accepted.clone());
    let arrived = arrived(&world, &accepted);
    let numbers = accepted.iter().flat_map(|batch| batch.texts.keys());
    let lost: Vec<_> = numbers.clone().filter(|seq| !arrived.contains(seq)).collect();
    assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
    let count = numbers.count();
    assert_numbers_unique(&world, &accepted);
    let ledger = sidecar.expect_drained(STREAM);
    assert!(ledger["accepted"].as_u64().unwrap() >= count.try_into().unwrap(), "{count} were accepted: {ledger}");
    assert_eq!((&ledger["quarantined"], &ledger["evicted"]), (&0.into(), &0.into()), "{ledger}");
    world.subscriber.read(|inbox| {
        assert!(inbox.events("gap").is_empty(), "{:?}", inbox.events("gap"));
        println!("{count} acknowledged, {} arrived, {} repeats", inbox.of(STREAM).len(), inbox.repeats);
    });
}

#[test]
fn a_power_cut_never_costs_more_than_the_sync_window() {
    /// How long a commit may take on a machine that is busy with other tests, on top of the window of a second.
    const WINDOW: Duration = Duration::from_secs(1);
    const STALL: Duration = Duration::from_secs(3);
    let Some(disk) = LoopDisk::mount() else { return };
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    let home = on(&disk, &world, "sync = \"1s\"");
    let socket = home.socket();
    let mut sidecar = Sidecar::start(home);
    let board = Watched::new(Board { up: true, ..Board::default() });
    let mut cuts = Vec::new();

    std::thread::scope(|scope| {
        let _end = EndOf(&board);
        scope.spawn(|| publish_until_over(&socket, Duration::from_millis(5), &board));
        for _ in 0..3 {
            // Some are delivered out of memory, and nothing is to be given their numbers afterwards.
            world.relay.open();
            let before = world.subscriber.read(|inbox| inbox.of(STREAM).len());
            world.subscriber.expect("flow", SOON, |inbox| inbox.of(STREAM).len() > before + 10);
            world.relay.cut();
            let outage = Instant::now();
            std::thread::sleep(WINDOW + STALL + Duration::from_millis(rng.u64(..1000)));
            expect_accepted(&board, 1);
            cuts.push((outage, cut(&disk, &mut sidecar, &board)));
            assert_balanced(&sidecar.status()["streams"][STREAM]);
        }
        world.relay.open();
        expect_accepted(&board, 50);
    });

    let accepted = board.read(|board| board.accepted.clone());
    let arrived = arrived(&world, &accepted);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["quarantined"], 0, "{ledger}");
    assert_numbers_unique(&world, &accepted);
    let told = |inbox: &Inbox| {
        inbox.events("unclean-stop").iter().filter(|event| event["stream"] == STREAM).count() >= cuts.len()
    };
    world.subscriber.expect("each cut to be told", SOON, told);
    for (life, (outage, cut)) in cuts.iter().enumerate() {
        let batches = accepted.iter().filter(|batch| batch.life == life);
        let (safe, young): (Vec<&Batch>, Vec<&Batch>) = batches.partition(|batch| batch.at + WINDOW + STALL < *cut);
        assert!(safe.iter().any(|batch| batch.at > *outage), "no record waited long enough for flash");
        let lost = |batch: &&&Batch| batch.texts.keys().any(|seq| !arrived.contains(seq));
        let wrong: Vec<_> = safe.iter().filter(lost).collect();
        assert!(wrong.is_empty(), "older than the window, and gone: {wrong:?}");
        // What is lost is the end: nothing is missing before what arrived.
        let first = young.iter().position(|batch| lost(&batch)).unwrap_or(young.len());
        assert!(young.iter().skip(first + 1).all(|batch| lost(&batch)), "lost in the middle");
        println!(
            "cut {life}: {} requests are safe, {} of {} young ones lost",
            safe.len(),
            young.len() - first,
            young.len()
        );
    }
}
