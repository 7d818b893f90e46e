//! Random histories of a spool, held against a plain model: kills, power cuts, a failing disk, and all that users do.
//!
//! The model knows every record that was ever accepted. Within a run it knows exactly which ones wait; before every end of
//! a run it reads all that is there, and again behind the next opening, so it knows what each crash took.
//!
//! 256 histories of each kind take two seconds; `.ci/run` goes through thousands. For a night of them:
//! `PROPTEST_CASES=1000000 cargo test --lib spool::tests::model`.

use super::*;
use proptest::prelude::*;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// The streams that the histories use; events are the spool's own.
const USED: [StreamId; 2] = [T, L];

#[derive(Debug, Clone)]
enum Step {
    Append {
        stream: usize,
        count: usize,
        size: usize,
    },
    Harden {
        stream: usize,
        durability: Durability,
    },
    Tick {
        ms: u64,
    },
    Read {
        limit: usize,
    },
    /// Of those that wait, this share of 0 to 9, or more than were given.
    Acknowledge {
        stream: usize,
        tenths: usize,
    },
    Late {
        stream: usize,
        last: u64,
    },
    Discard {
        stream: usize,
        place: usize,
    },
    Rewind,
    Fail {
        call: Call,
        part: &'static str,
        count: usize,
        errno: Errno,
    },
    Heal,
    End(End),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Close,
    Kill,
    Cut(u64),
}

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let stream = 0..USED.len();
    let size = prop_oneof![8 => 0..200usize, 1 => 200..3000usize, 1 => 30_000..90_000usize];
    let durability = prop_oneof![Just(Durability::Window), Just(Durability::Process), Just(Durability::Power)];
    let call = prop_oneof![
        4 => Just((Call::Append, ".seg")),
        4 => Just((Call::Sync, ".seg")),
        2 => Just((Call::Create, "")),
        1 => Just((Call::Append, "")),
        1 => Just((Call::Sync, "")),
        1 => Just((Call::SyncDir, "")),
        1 => Just((Call::Rename, "")),
        1 => Just((Call::Remove, "")),
        1 => Just((Call::Truncate, "")),
        2 => Just((Call::Read, "/telemetry/")),
    ];
    let errno = prop_oneof![Just(Errno::NOSPC), Just(Errno::IO)];
    let fault = prop_oneof![
        (call, prop_oneof![4 => 1..4usize, 1 => Just(usize::MAX)], errno)
            .prop_map(|((call, part), count, errno)| { Step::Fail { call, part, count, errno } }),
        Just(Step::Heal),
    ];
    let use_or_end = prop_oneof![
        12 => (stream.clone(), 1..6usize, size).prop_map(|(stream, count, size)| Step::Append { stream, count, size }),
        6 => (stream.clone(), durability).prop_map(|(stream, durability)| Step::Harden { stream, durability }),
        6 => prop_oneof![0..1500u64, Just(1000), Just(20_000)].prop_map(|ms| Step::Tick { ms }),
        5 => (1..5000usize).prop_map(|limit| Step::Read { limit }),
        5 => (stream.clone(), 0..12usize).prop_map(|(stream, tenths)| Step::Acknowledge { stream, tenths }),
        1 => (stream.clone(), 0..50u64).prop_map(|(stream, last)| Step::Late { stream, last }),
        1 => (stream, 0..10usize).prop_map(|(stream, place)| Step::Discard { stream, place }),
        1 => Just(Step::Rewind),
        1 => Just(Step::End(End::Close)),
        1 => Just(Step::End(End::Kill)),
        1 => any::<u64>().prop_map(|seed| Step::End(End::Cut(seed))),
    ];
    if faults { prop_oneof![7 => use_or_end, 1 => fault].boxed() } else { use_or_end.boxed() }
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    sync: Sync,
    runtime: bool,
    when_full: WhenFull,
    max_bytes: u64,
    max_age: Option<Duration>,
    segment_bytes: u64,
}

fn setting() -> impl Strategy<Value = Setting> {
    (
        prop_oneof![Just(Sync::Always), Just(WINDOW)],
        any::<bool>(),
        prop_oneof![Just(WhenFull::DropOldest), Just(WhenFull::Reject)],
        prop_oneof![Just(5 * 4096u64), Just(40 * 4096), Just(16 << 20)],
        prop_oneof![3 => Just(None), 1 => Just(Some(Duration::from_secs(60)))],
        prop_oneof![Just(512u64), Just(4096)],
    )
        .prop_map(|(sync, runtime, when_full, max_bytes, max_age, segment_bytes)| Setting {
            sync,
            runtime,
            when_full,
            max_bytes,
            max_age,
            segment_bytes,
        })
}

/// What the model knows of one stream.
#[derive(Debug, Default)]
struct Known {
    /// Every record ever accepted, with what it was said to survive.
    given: BTreeMap<u64, (Record, Durability)>,
    /// The first number of this run.
    run_from: u64,
    /// Those that wait, in this run.
    waiting: BTreeSet<u64>,
    /// The last one that was read since the last rewind.
    read: u64,
    /// Lost in this run, not by `discard`.
    lost: u64,
    /// Lost in this run by `discard`.
    discarded: u64,
    /// As it was after the last step.
    status: StreamStatus,
    /// As it was when this run began, without what opening counted as lost.
    start: StreamStatus,
    /// Quarantined in this run because the last one left it so.
    inherited: u64,
}

impl Known {
    /// What waits survives this from now on, if it has a number from `first` on. What was delivered may come again after a
    /// crash, or not.
    fn note_safe(&mut self, first: u64, reached: Durability) {
        for (_, (_, survives)) in self.given.range_mut(first..).filter(|(seq, _)| self.waiting.contains(seq)) {
            *survives = reached.max(*survives);
        }
    }
}

struct World {
    rig: Rig,
    known: Vec<Known>,
    /// The highest number of an event that was seen, and how many records of each stream the later ones call lost.
    last_event: u64,
    told: BTreeMap<String, u64>,
    /// Whether any fault was ordered.
    faults: bool,
    /// Whether reading may have failed for long enough that records were given up.
    unreadable: bool,
    counter: usize,
}

fn losses(status: &StreamStatus) -> u64 {
    status.evicted + status.expired + status.quarantined
}

impl World {
    fn new(setting: Setting) -> World {
        let mut options = if setting.runtime { tiered(setting.sync) } else { options(setting.sync) };
        options.segment_bytes = setting.segment_bytes;
        for stream in options.streams.iter_mut().skip(1) {
            stream.max_bytes = setting.max_bytes;
            stream.when_full = setting.when_full;
            stream.max_age = setting.max_age;
        }
        let known = USED.iter().map(|_| Known::default()).collect();
        World {
            rig: Rig::with(options),
            known,
            last_event: 0,
            told: BTreeMap::new(),
            faults: false,
            unreadable: false,
            counter: 0,
        }
    }

    fn perform(&mut self, step: &Step) {
        let now = self.rig.now;
        match *step {
            Step::Append { stream, count, size } => self.append(stream, count, size),
            Step::Harden { stream, durability } => self.harden(stream, durability),
            Step::Tick { ms } => self.rig.tick_after(ms),
            Step::Read { limit } => {
                if let Some((stream, records, _)) = self.rig.spool.read(limit, now) {
                    self.check_read(stream, &records);
                }
            }
            Step::Acknowledge { stream, tenths } => {
                let known = &mut self.known[stream];
                let place = known.waiting.len() * tenths / 10;
                let last = known.waiting.iter().nth(place).copied().unwrap_or(u64::MAX - tenths as u64);
                known.waiting.retain(|&seq| seq > last);
                self.rig.spool.acknowledge(USED[stream], last, now);
            }
            Step::Late { stream, last } => {
                self.known[stream].waiting.retain(|&seq| seq > last);
                self.rig.spool.acknowledge(USED[stream], last, now);
            }
            Step::Discard { stream, place } => {
                let known = &mut self.known[stream];
                let Some(&seq) = known.waiting.iter().nth(place) else { return };
                known.waiting.remove(&seq);
                known.discarded += 1;
                self.rig.spool.discard(USED[stream], seq, Reason::Oversize, "too large".into(), now);
            }
            Step::Rewind => {
                self.rig.spool.rewind();
                self.known.iter_mut().for_each(|known| known.read = 0);
            }
            Step::Fail { call, part, count, errno } => {
                self.faults = true;
                self.unreadable |= call == Call::Read;
                self.rig.fs.fail(call, part, count, errno);
            }
            Step::Heal => self.rig.fs.heal(),
            Step::End(end) => self.end(end),
        }
        self.check();
    }

    fn append(&mut self, stream: usize, count: usize, size: usize) {
        let mut records = Vec::new();
        for _ in 0..count {
            self.counter += 1;
            records.push(self.rig.record(&format!("{}:{}", self.counter, "x".repeat(size))));
        }
        let Ok(accepted) = self.rig.spool.append(USED[stream], records.clone(), self.rig.now) else { return };
        let known = &mut self.known[stream];
        // A disk that fails may not even reserve numbers; then a kill makes those be given again that are nowhere.
        let counts =
            |(_, (_, survives)): &(&u64, &(Record, Durability))| !self.faults || *survives > Durability::Window;
        let highest = known.given.iter().filter(counts).map(|(seq, _)| *seq).max().unwrap_or(0);
        assert!(accepted.first > highest, "number {} was given before", accepted.first);
        assert_eq!(accepted.last - accepted.first + 1, count as u64);
        for (record, seq) in records.into_iter().zip(accepted.first..) {
            known.given.insert(seq, (record, Durability::Window));
            known.waiting.insert(seq);
        }
        self.stage(stream);
    }

    /// What the thread does before it sleeps: from then on a kill takes nothing, unless the runtime tier is said to fail.
    fn stage(&mut self, stream: usize) {
        if !self.has_runtime() || self.rig.options.sync == Sync::Always {
            return;
        }
        self.rig.spool.harden(USED[stream], Durability::Window, self.rig.now).unwrap();
        let error = self.rig.status(USED[stream]).runtime_error;
        assert!(self.faults || error.is_none(), "{error:?}");
        if error.is_none() {
            let first = self.first_to_count(stream);
            self.known[stream].note_safe(first, Durability::Process);
        }
    }

    /// A file whose fsync failed looks whole to the next process, which can't know better: it answers for its own records.
    fn first_to_count(&self, stream: usize) -> u64 {
        if self.faults { self.known[stream].run_from } else { 0 }
    }

    fn has_runtime(&self) -> bool {
        self.rig.options.runtime_dir.is_some()
    }

    fn harden(&mut self, stream: usize, durability: Durability) {
        if self.rig.spool.harden(USED[stream], durability, self.rig.now).is_err() {
            assert!(self.faults);
            return;
        }
        let always = self.rig.options.sync == Sync::Always;
        let reached = if always { Durability::Power } else { durability };
        let staged = self.has_runtime() && self.rig.status(USED[stream]).runtime_error.is_none();
        if self.faults && reached == Durability::Process && !staged {
            // Flash has it without an fsync; when that fails, it is in memory alone again.
            return;
        }
        let first = self.first_to_count(stream);
        self.known[stream].note_safe(first, reached);
    }

    fn check_read(&mut self, stream: StreamId, records: &[Sequenced]) {
        assert!(!records.is_empty());
        if stream == StreamId::EVENT {
            return records.iter().for_each(|event| self.note_event(event));
        }
        let known = &mut self.known[stream.index() - 1];
        for record in records {
            assert!(record.seq > known.read, "{} after {}", record.seq, known.read);
            known.read = record.seq;
            assert_eq!(record.record, known.given[&record.seq].0);
        }
    }

    /// Events of this run that were not seen before.
    fn note_event(&mut self, event: &Sequenced) {
        if event.seq <= self.last_event {
            return;
        }
        self.last_event = event.seq;
        let content: serde_json::Value = serde_json::from_slice(&event.record.data).unwrap();
        if content["type"] == "gap" {
            let stream = content["stream"].as_str().unwrap().to_owned();
            *self.told.entry(stream).or_default() += content["count"].as_u64().unwrap();
        }
    }

    fn told(&self, stream: StreamId) -> u64 {
        self.told.get(&self.rig.options.streams[stream.index()].name).copied().unwrap_or(0)
    }

    /// Finds out which records were lost since the last time, and that the ledger says the same.
    fn check(&mut self) {
        for (known, stream) in self.known.iter_mut().zip(USED) {
            let status = self.rig.status(stream);
            let log = &self.rig.spool.logs[stream.index()];
            let waits = |seq: &u64| *seq < log.ledger.next() && log.ledger.skip_holes(*seq) == *seq;
            let before = known.waiting.len();
            known.waiting.retain(waits);
            known.lost += (before - known.waiting.len()) as u64;

            assert_eq!(status.waiting, known.waiting.len() as u64);
            // An acknowledgement or a discard may hit records that were lost in the same step, so: at most.
            assert_eq!(losses(&status) - losses(&known.start), known.lost + known.discarded);
            assert!(status.accepted >= known.status.accepted && status.delivered >= known.status.delivered);
            assert!(status.evicted >= known.status.evicted && status.expired >= known.status.expired);
            assert!(status.quarantined >= known.status.quarantined && status.refused >= known.status.refused);
            if !self.unreadable && known.inherited != u64::MAX {
                let expected = known.start.quarantined + known.discarded + known.inherited;
                assert_eq!(status.quarantined, expected, "damage where there is none");
            }
            if !self.faults {
                assert_eq!(status.disk_error, None);
            }
            known.status = status;
        }
        assert!(!self.rig.fs.resynced(), "fsync was tried again");
    }

    /// Reads everything there is, from the start. Returns the numbers of each stream.
    fn read_everything(&mut self) -> Vec<BTreeSet<u64>> {
        self.perform(&Step::Rewind);
        let mut numbers: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); USED.len()];
        // A file that can't be read is tried six times, each of them.
        for _ in 0..60 * 6 {
            while let Some((stream, records, _)) = self.rig.spool.read(3000, self.rig.now) {
                self.check_read(stream, &records);
                if stream != StreamId::EVENT {
                    numbers[stream.index() - 1].extend(records.iter().map(|record| record.seq));
                }
            }
            if !self.rig.spool.has_more() {
                break;
            }
            self.rig.tick_after(8_000);
        }
        assert!(!self.rig.spool.has_more(), "reading never ends");
        self.check();
        numbers
    }

    fn end(&mut self, end: End) {
        let readable = self.read_everything();
        for (known, readable) in self.known.iter_mut().zip(&readable) {
            // What waits can be read; some of what was read may have grown too old meanwhile.
            assert!(known.waiting.is_subset(readable));
        }
        if end == End::Close || !self.is_ready_for(end) {
            // That takes half a minute, in which everything is committed.
            self.check_announcements();
        }
        let clean = end == End::Close && !self.faults;
        let mut lost_at_last = vec![0; USED.len()];
        match end {
            End::Close => {
                let before: Vec<u64> = self.known.iter().map(|known| known.lost).collect();
                self.rig.fs.heal();
                self.rig.spool.close(self.rig.now);
                self.check();
                let left = |path: &PathBuf| path.starts_with(crate::spool::sim::TMPFS);
                assert!(self.faults || !self.rig.fs.files().iter().any(left), "a clean stop leaves nothing behind");
                lost_at_last = self.known.iter().zip(before).map(|(known, before)| known.lost - before).collect();
            }
            End::Kill => {}
            End::Cut(seed) => self.rig.fs.cut(&mut fastrand::Rng::with_seed(seed)),
        }
        self.rig.fs.heal();
        self.rig.reopen();
        for (known, stream) in self.known.iter_mut().zip(USED) {
            known.status = self.rig.status(stream);
            known.read = 0;
            (known.lost, known.discarded) = (0, 0);
        }
        self.told.clear();
        let events = &self.rig.spool.logs[StreamId::EVENT.index()];
        self.last_event = self.last_event.min(events.ledger.next() - 1);
        let events = self.rig.spool.logs[StreamId::EVENT.index()].read(usize::MAX, usize::MAX, self.rig.now);
        events.iter().for_each(|event| self.note_event(event));
        if clean {
            for (stream, lost) in USED.into_iter().zip(lost_at_last) {
                assert_eq!(self.told(stream), lost, "{stream:?} lost records while stopping");
            }
        }
        self.rest_of_reopening(end, clean);
    }

    /// Whether a kill or a power cut may find it as it is. While no tier takes a checkpoint, the numbers that an earlier kill
    /// skipped are noted nowhere, and the next process takes them for lost records.
    fn is_ready_for(&self, end: End) -> bool {
        let tiered = self.has_runtime() && self.rig.options.sync != Sync::Always;
        let works = |stream: &StreamId| self.rig.status(*stream).runtime_error.is_none();
        !self.faults || end == End::Kill && tiered && USED.iter().all(works)
    }

    /// Compares what is there with what must be.
    fn rest_of_reopening(&mut self, end: End, clean: bool) {
        let before: Vec<BTreeSet<u64>> = self.known.iter().map(|known| known.waiting.clone()).collect();
        let survives = match end {
            End::Close => Durability::Window,
            // Written to flash only, it is in memory alone again when an fsync fails.
            End::Kill if self.faults && !self.has_runtime() => Durability::Power,
            End::Kill => Durability::Process,
            End::Cut(_) => Durability::Power,
        };
        // From here on the model believes the ledger about what waits, and reading proves it.
        for (known, stream) in self.known.iter_mut().zip(USED) {
            let ledger = &self.rig.spool.logs[stream.index()].ledger;
            let waits = |seq: &u64| *seq < ledger.next() && ledger.skip_holes(*seq) == *seq;
            known.waiting = known.given.keys().copied().filter(waits).collect();
            // What this end took was not safe, and its number may be given again.
            for (_, (_, safe)) in known.given.iter_mut().filter(|(_, (_, safe))| *safe < survives) {
                *safe = Durability::Window;
            }
            assert_eq!(known.status.waiting, known.waiting.len() as u64, "a number waits that no record has");
            known.run_from = ledger.next();
            known.start = known.status.clone();
            known.inherited = u64::MAX;
        }
        // What was told up to here is of the last run.
        self.told.clear();
        for (index, readable) in self.read_everything().into_iter().enumerate() {
            let known = &self.known[index];
            let must =
                before[index].iter().filter(|seq| known.given.get(seq).is_some_and(|(_, safe)| *safe >= survives));
            for seq in must {
                assert!(readable.contains(seq), "{end:?} took {seq} of {:?}, which was safe", USED[index]);
            }
            if clean {
                assert_eq!(readable, before[index]);
            }
            let known = &mut self.known[index];
            known.inherited = known.status.quarantined - known.start.quarantined;
            assert!(known.inherited == 0 || self.faults);
        }
    }

    /// Every loss is on the event stream, with its count.
    fn check_announcements(&mut self) {
        self.rig.fs.heal();
        self.rig.tick_after(31_000);
        self.check();
        self.rig.tick_after(1_000);
        self.read_everything();
        for (known, stream) in self.known.iter().zip(USED) {
            assert_eq!(self.told(stream), known.lost + known.discarded, "{stream:?}");
        }
    }
}

fn run(setting: Setting, steps: &[Step]) {
    let mut world = World::new(setting);
    steps.iter().for_each(|step| world.perform(step));
    world.perform(&Step::End(End::Close));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn kills_and_power_cuts_never_take_what_was_safe(
        setting in setting(),
        steps in proptest::collection::vec(step(false), 1..60),
    ) {
        run(setting, &steps);
    }

    #[test]
    fn a_failing_disk_never_takes_what_was_safe(
        setting in setting(),
        steps in proptest::collection::vec(step(true), 1..60),
    ) {
        run(setting, &steps);
    }
}
