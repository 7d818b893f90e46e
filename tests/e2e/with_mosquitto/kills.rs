//! `kill -9` at random moments: what was accepted arrives.

use super::{World, expect_open};
use crate::common::device::Device;
use crate::common::sidecar::{Home, PILLION, STREAM, Sidecar, assert_balanced};
use crate::common::{LONG, SOON, http, seed, watched::Watched};
use fastrand::Rng;
use std::collections::BTreeMap;
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

/// The device's own pace: 500 lines a second.
const BETWEEN_LINES: Duration = Duration::from_millis(2);

/// Sends numbered lines. Those that a dying process has read are nobody's.
fn talk_until_over(device: &Device, board: &Watched<Board>) {
    for number in 0_u64.. {
        if board.wait_for(BETWEEN_LINES, |board| board.over.then_some(())).is_some() {
            return;
        }
        device.line(&format!("line {number}"));
    }
}

/// What the sidecar goes through until it is killed.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// Records come and go.
    Flow,
    /// The link is cut, and stays so over the kill.
    Outage,
    /// The link is back, and some of what has gathered goes out.
    Drain,
    /// All of it goes out. Shorter lives than the second between two notes of how far it came deliver the same again.
    Calm,
}

/// A sidecar that is killed and started again while a publisher and a device talk to it.
struct Victim<'a> {
    world: &'a World,
    board: &'a Watched<Board>,
    sidecar: Sidecar,
    rng: Rng,
    /// `accepted` of each stream's ledger, when it was looked at last.
    accepted: BTreeMap<String, u64>,
    kills: usize,
    /// Starts that were not cut short.
    starts: usize,
    /// Kills that found segments of `STREAM` on flash, and newer records in the runtime tier alone.
    in_both_tiers: usize,
}

impl Victim<'_> {
    /// Waits until the publisher has got this many records in.
    fn expect_accepted(&self, more: usize) {
        let goal = self.board.read(|board| board.accepted.len()) + more;
        let came = self.board.wait_for(SOON, |board| (board.accepted.len() >= goal).then_some(()));
        assert!(came.is_some(), "no more records are accepted");
    }

    fn expect_arrived(&self, more: usize) {
        let goal = self.world.subscriber.read(|inbox| inbox.of(STREAM).len()) + more;
        self.world.subscriber.expect("the flow", SOON, |inbox| inbox.of(STREAM).len() >= goal);
    }

    fn live(&mut self, life: Life) {
        let records = self.rng.usize(1..200);
        self.expect_accepted(records);
        match life {
            Life::Flow => self.expect_arrived(1),
            Life::Outage => {
                self.world.relay.cut();
                let records = self.rng.usize(1..400);
                self.expect_accepted(records);
            }
            Life::Drain => {
                self.world.relay.open();
                let records = self.rng.usize(1..200);
                self.expect_arrived(records);
            }
            Life::Calm => {
                self.world.relay.open();
                // The publisher and the device go on: it is never quite empty.
                self.sidecar.expect_status("a short queue", |status| {
                    [STREAM, "telemetry"].iter().all(|stream| status["streams"][stream]["waiting"].as_u64() < Some(50))
                });
            }
        }
        // At once, which is when the disk has seen the least of what the broker has; or at a random moment.
        if self.rng.bool() {
            std::thread::sleep(Duration::from_micros(self.rng.u64(..10_000)));
        }
    }

    /// Kills it and starts it again; now and then it is killed once more while it takes over what the last one left.
    fn die(&mut self) {
        // A question keeps the spool from dying in the middle of its work.
        if self.rng.bool() {
            self.look_at_ledgers();
        }
        self.board.update(|board| board.up = false);
        self.sidecar.kill();
        self.kills += 1;
        let on_flash = !self.sidecar.home.segments(STREAM).is_empty();
        let before = self.taken_over();
        while self.rng.u8(..5) == 0 {
            self.sidecar.launch();
            std::thread::sleep(Duration::from_micros(self.rng.u64(..20_000)));
            self.sidecar.kill();
            self.kills += 1;
        }
        self.sidecar.start_again();
        self.starts += 1;
        // What was found at the start is told before this.
        self.sidecar.expect_log_times("is up as test", self.starts);
        self.in_both_tiers += usize::from(on_flash && self.taken_over() > before);
        self.look_at_ledgers();
        self.board.update(|board| board.up = true);
    }

    /// How often records of `STREAM` were taken over from the runtime tier.
    fn taken_over(&self) -> usize {
        let log = self.sidecar.log();
        let of_stream = log.lines().filter(|line| line.contains(&format!("stream {STREAM}: ")));
        of_stream.filter(|line| line.contains("were taken over")).count()
    }

    /// No ledger forgets what it has called accepted.
    fn look_at_ledgers(&mut self) {
        let status = self.sidecar.status();
        for (stream, ledger) in status["streams"].as_object().unwrap() {
            assert_balanced(ledger);
            let accepted = ledger["accepted"].as_u64().unwrap();
            let before = self.accepted.insert(stream.clone(), accepted).unwrap_or(0);
            assert!(accepted >= before, "{stream} had accepted {before} records and now {accepted}");
        }
    }

    /// What was called accepted came, and nothing was lost on the way. Returns how many records came.
    fn expect_all_of(&self, stream: &str, prefix: &str) -> usize {
        let ledger = self.sidecar.expect_drained(stream);
        self.world.subscriber.flush();
        self.world.subscriber.read(|inbox| {
            let came = inbox.of(stream).len();
            assert_eq!(ledger["accepted"], ledger["delivered"], "{ledger}");
            // The broker may have one that no tier had yet, and that nobody was told of.
            assert!(ledger["delivered"].as_u64() <= u64::try_from(came).ok(), "{came} records of {stream}: {ledger}");
            let numbers =
                inbox.of(stream).iter().filter_map(|arrival| arrival.text().strip_prefix(prefix)?.parse().ok());
            let numbers: Vec<u64> = numbers.collect();
            let wrong = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
            assert!(wrong.is_none(), "{prefix}{wrong:?} out of order, or twice");
            came
        })
    }
}

/// Kills it at least this many times at random moments, while records come from the local API and from a device.
/// Returns how many of the kills found both tiers in use.
fn kill_again_and_again(kills: usize, sync: &str) -> usize {
    let world = World::new();
    let mut home = world.home();
    home.spool = format!("sync = \"{sync}\"");
    let device = Device::at(home.path("meter"));
    home.serial("meter", device.path(), "");
    let socket = home.socket();
    let board = Watched::new(Board { up: true, ..Board::default() });
    let mut victim = Victim {
        world: &world,
        board: &board,
        sidecar: Sidecar::start(home),
        rng: Rng::with_seed(seed()),
        accepted: BTreeMap::new(),
        kills: 0,
        starts: 1,
        in_both_tiers: 0,
    };

    std::thread::scope(|scope| {
        let _end = EndOf(&board);
        scope.spawn(|| publish_until_over(&socket, &board));
        scope.spawn(|| talk_until_over(&device, &board));
        for life in [Life::Flow, Life::Outage, Life::Drain].repeat(5).into_iter().chain([Life::Calm]).cycle() {
            if victim.kills >= kills {
                break;
            }
            victim.live(life);
            victim.die();
        }
        world.relay.open();
        victim.expect_accepted(50);
    });

    let accepted = board.read(|board| board.accepted.clone());
    world.subscriber.expect_texts(STREAM, accepted, LONG);
    let came = (victim.expect_all_of(STREAM, "record "), victim.expect_all_of("telemetry", "line "));
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        assert!(inbox.events("gap").is_empty(), "{:?}", inbox.events("gap"));
        println!(
            "{} kills, {} of them with records in both tiers; {} and {} records, {} repeats",
            victim.kills, victim.in_both_tiers, came.0, came.1, inbox.repeats
        );
    });
    victim.in_both_tiers
}

#[test]
fn no_accepted_record_is_lost_to_ten_kills_with_sync_always() {
    kill_again_and_again(10, "always");
}

#[test]
fn no_accepted_record_is_lost_to_ten_kills_with_a_sync_window() {
    kill_again_and_again(10, "1s");
}

#[test]
fn no_accepted_record_is_lost_to_200_kills_with_records_in_both_tiers() {
    // Short enough that an outage brings records to flash before the kill.
    let in_both_tiers = kill_again_and_again(200, "50ms");
    assert!(in_both_tiers >= 40, "only {in_both_tiers} kills found records in both tiers");
}

#[test]
fn a_kill_never_costs_a_line_that_was_taken_in() {
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
            std::thread::sleep(BETWEEN_LINES);
        }
        // The ledger says how many were taken in. Those behind them may be on their way; nobody asks for them.
        let taken_in = waiting(&sidecar) - before;
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
