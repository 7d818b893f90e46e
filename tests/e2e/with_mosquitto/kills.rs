//! `kill -9` at random moments: what was accepted arrives.

use super::{World, expect_open};
use crate::common::device::Device;
use crate::common::sidecar::{Home, PILLION, STREAM, Sidecar};
use crate::common::{LONG, SOON, http, seed, watched::Watched};
use fastrand::Rng;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the publisher and the one who kills know of each other.
#[derive(Debug, Default)]
struct Board {
    /// Texts whose acceptance was confirmed.
    accepted: Vec<String>,
    /// Whether the sidecar runs, as far as the killer knows.
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

/// Publishes numbered texts, one or some at a time, now and then by the command line; what is not confirmed counts
/// for nothing and is not repeated.
fn publish_until_over(socket: &Path, board: &Watched<Board>) {
    let mut next = 0_u64;
    for round in 1_u64.. {
        let up = board.wait_for(SOON, |board| (board.up || board.over).then_some(!board.over));
        if up != Some(true) {
            return;
        }
        let count = if round.is_multiple_of(5) { 20 } else { 1 };
        let texts: Vec<String> = (next..next + count).map(|number| format!("record {number}")).collect();
        next += count;
        let body = texts.join("\n");
        let confirmed = match round % 40 {
            0 => publish_by_command(socket, &body),
            _ => publish_by_request(socket, &body),
        };
        if confirmed {
            board.update(|board| board.accepted.extend(texts));
        }
    }
}

fn publish_by_request(socket: &Path, body: &str) -> bool {
    let target = "/v1/publish?topic=orders&stream=work";
    // Words are no JSON; as JSON strings they are.
    let lines: String = body.lines().map(|line| format!("{line:?}\n")).collect();
    let answer = http::request(socket, "POST", target, "application/x-ndjson", lines.as_bytes());
    answer.is_ok_and(|answer| answer.code == 200)
}

fn publish_by_command(socket: &Path, body: &str) -> bool {
    let mut command = Command::new(PILLION);
    command.args(["publish", "--topic", "orders", "--stream", STREAM, "--socket"]).arg(socket);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It may find nobody at the socket and end before it reads.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{body}\n").as_bytes());
    child.wait().unwrap().success()
}

/// Ten kills, at random moments of steady flow, outage and drain in turn.
fn kill_ten_times(sync: &str) {
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    let mut home = world.home();
    home.spool = format!("sync = \"{sync}\"");
    let socket = home.socket();
    let mut sidecar = Sidecar::start(home);
    let board = Watched::new(Board { up: true, ..Board::default() });

    std::thread::scope(|scope| {
        let _end = EndOf(&board);
        scope.spawn(|| publish_until_over(&socket, &board));
        let expect_accepted = |more: usize| {
            let goal = board.read(|board| board.accepted.len()) + more;
            let came = board.wait_for(SOON, |board| (board.accepted.len() >= goal).then_some(()));
            assert!(came.is_some(), "no more records are accepted");
        };
        for kill in 0..10 {
            expect_accepted(rng.usize(1..200));
            match kill % 3 {
                // Steady flow.
                0 => {
                    let before = world.subscriber.read(|inbox| inbox.of(STREAM).len());
                    world.subscriber.expect("flow", SOON, |inbox| inbox.of(STREAM).len() > before);
                }
                // An outage, which lasts over the kill.
                1 => {
                    world.relay.cut();
                    expect_accepted(rng.usize(1..400));
                }
                // The drain of what has gathered.
                _ => {
                    let before = world.subscriber.read(|inbox| inbox.of(STREAM).len());
                    let goal = before + rng.usize(1..200);
                    world.relay.open();
                    world.subscriber.expect("a drain", SOON, |inbox| inbox.of(STREAM).len() >= goal);
                }
            }
            // At once, which is when the disk has seen the least of what the broker has; or at a random moment.
            if rng.bool() {
                std::thread::sleep(Duration::from_micros(rng.u64(..10_000)));
            }
            board.update(|board| board.up = false);
            sidecar.kill();
            sidecar.start_again();
            board.update(|board| board.up = true);
        }
        world.relay.open();
        expect_accepted(50);
    });

    let accepted = board.read(|board| board.accepted.clone());
    world.subscriber.expect_texts(STREAM, accepted, LONG);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["quarantined"], 0, "{ledger}");
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        // At each of ten kills and some four lost links: the window, and what the checkpoint was behind.
        println!("{} records, {} repeats", inbox.of(STREAM).len(), inbox.repeats);
    });
}

#[test]
fn no_accepted_record_is_lost_to_ten_kills_with_sync_always() {
    kill_ten_times("always");
}

#[test]
fn no_accepted_record_is_lost_to_ten_kills_with_a_sync_window() {
    kill_ten_times("1s");
}

#[test]
fn a_kill_never_costs_a_line_that_was_taken_in() {
    /// They are in the same stream, and each life may bring some: when the device opens, when the link fails.
    const HEALTH_DOCUMENTS: usize = 3;
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    world.relay.cut();
    let mut home: Home = world.home();
    // Long enough that flash gets nothing but the checkpoint.
    home.spool = "sync = \"10m\"".to_owned();
    let mut device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let mut sidecar = Sidecar::start(home);
    let waiting = |sidecar: &Sidecar| {
        usize::try_from(sidecar.status()["streams"]["telemetry"]["waiting"].as_u64().unwrap()).unwrap()
    };

    let (mut next, mut safe) = (0, Vec::new());
    // At most 256 KiB in all: more than that goes to flash at once.
    for _ in 0..5 {
        expect_open(&sidecar, "meter");
        let before = waiting(&sidecar);
        assert!(before >= safe.len(), "{before} of {} lines are left", safe.len());
        let life = Duration::from_millis(rng.u64(100..500));
        let start = Instant::now();
        let mut lines = Vec::new();
        while start.elapsed() < life {
            lines.push(format!("line {next}"));
            next += 1;
            device.line(lines.last().unwrap());
            // The device's own pace: 500 lines a second.
            std::thread::sleep(Duration::from_millis(2));
        }
        // The ledger says how many were taken in. Those behind them may be on their way; nobody asks for them.
        let taken_in = (waiting(&sidecar) - before).saturating_sub(HEALTH_DOCUMENTS);
        sidecar.kill();
        safe.extend(lines.into_iter().take(taken_in));
        // A new line to the device, for the old one may still hold what nobody has read.
        device.pull_out();
        device.plug_in();
        sidecar.start_again();
    }
    assert!(safe.len() > 100, "{} lines were taken in before a kill", safe.len());
    assert!(sidecar.home.segments("telemetry").is_empty(), "flash was written");
    world.relay.open();
    world.subscriber.expect_texts("telemetry", safe, LONG);
    let ledger = sidecar.expect_drained("telemetry");
    assert_eq!(ledger["quarantined"], 0, "{ledger}");
    world.subscriber.read(|inbox| inbox.assert_in_order());
}
