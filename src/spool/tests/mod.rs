//! Tests of a whole spool on the simulated file system. Here: the rig that they share.

mod backfill;
mod damage;
mod disk;
mod limits;
mod model;
mod newest;
mod tiers;
mod time;
mod tools;
mod versions;

use super::segment::{Header, Step, step};
use super::sim::{Call, SimFs};
use super::{Options, Reason, Spool};
use crate::config::{Stream, Sync, WhenFull};
use crate::record::{Accepted, ClockQuality, Durability, Encoding, Record, Refusal, Sequenced, StreamId, Timestamp};
use crate::stats::StreamStatus;
use std::path::{Path, PathBuf};
use std::time::Duration;

const T: StreamId = StreamId::TELEMETRY;
const L: StreamId = StreamId::LOG;

fn stream(name: &str, priority: u8) -> Stream {
    Stream {
        name: name.to_owned(),
        max_bytes: 16 << 20,
        max_age: None,
        when_full: WhenFull::DropOldest,
        priority,
        batch: None,
        quiet_hours: None,
        convention: Default::default(),
    }
}

/// Three streams in segments of half a kilobyte.
fn options(sync: Sync) -> Options {
    let streams = vec![stream("event", 0), stream("telemetry", 1), stream("log", 2)];
    Options {
        dir: PathBuf::from("/state/spool"),
        runtime_dir: None,
        streams,
        sync,
        segment_bytes: 512,
        boot_id: [7; 16],
        backfill_rate: 0,
    }
}

/// The same, with a runtime tier.
fn tiered(sync: Sync) -> Options {
    Options { runtime_dir: Some(PathBuf::from("/run/spool")), ..options(sync) }
}

const WINDOW: Sync = Sync::After(Duration::from_secs(1));

struct Rig {
    fs: SimFs,
    options: Options,
    spool: Spool,
    now: Timestamp,
}

impl Rig {
    fn new(sync: Sync) -> Rig {
        Rig::with(options(sync))
    }

    fn with(options: Options) -> Rig {
        Rig::on(SimFs::default(), options)
    }

    fn on(fs: SimFs, options: Options) -> Rig {
        let now = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 50_000, quality: ClockQuality::Trusted };
        let spool = Spool::open(&fs.shared(), &options, now);
        Rig { fs, options, spool, now }
    }

    /// The process is killed, or stops if it was closed before; another one starts.
    fn reopen(&mut self) {
        self.wait(100);
        self.spool = Spool::open(&self.fs.shared(), &self.options, self.now);
    }

    fn close_and_reopen(&mut self) {
        self.spool.close(self.now);
        self.reopen();
    }

    fn cut_and_reopen(&mut self, seed: u64) {
        self.fs.cut(&mut fastrand::Rng::with_seed(seed));
        self.reopen();
    }

    fn wait(&mut self, ms: u64) {
        self.now.wall_ms += ms;
        self.now.mono_ms += ms;
    }

    fn tick_after(&mut self, ms: u64) {
        self.wait(ms);
        self.spool.tick(self.now);
    }

    /// Does everything that falls due, until nothing does any more.
    fn settle_down(&mut self) {
        for _ in 0..100 {
            let Some(due) = self.spool.deadline_ms() else { return };
            self.tick_after(due.saturating_sub(self.now.mono_ms));
        }
        panic!("something is always due");
    }

    fn record(&self, data: &str) -> Record {
        Record { topic: "t".into(), time: self.now, encoding: Encoding::Text, data: data.into() }
    }

    fn append_to(&mut self, stream: StreamId, data: &[&str]) -> Result<Accepted, Refusal> {
        let records = data.iter().map(|data| self.record(data)).collect();
        self.spool.append(stream, records, self.now)
    }

    /// Appends one record to telemetry and makes it survive everything.
    fn store(&mut self, data: &str) -> u64 {
        let accepted = self.append_to(T, &[data]).unwrap();
        self.spool.harden(T, Durability::Power, self.now).unwrap();
        accepted.last
    }

    /// Stores records of 100 bytes and more with their numbers in them; four fill a segment.
    fn store_many(&mut self, count: u64) -> u64 {
        let numbers: Vec<u64> = (0..count).map(|number| self.store(&format!("{number:0>100}"))).collect();
        *numbers.last().unwrap()
    }

    /// Everything that waits behind the cursor.
    fn read_all(&mut self) -> Vec<(StreamId, Sequenced)> {
        let mut all = Vec::new();
        while let Some((stream, records, _)) = self.spool.read(10_000, self.now) {
            all.extend(records.into_iter().map(|record| (stream, record)));
        }
        all
    }

    /// Numbers of everything in the stream that waits behind the cursor. Others are read past.
    fn numbers(&mut self, stream: StreamId) -> Vec<u64> {
        self.read_all().into_iter().filter(|(of, _)| *of == stream).map(|(_, record)| record.seq).collect()
    }

    fn status(&self, stream: StreamId) -> StreamStatus {
        let status = self.spool.status(self.now).swap_remove(stream.index());
        assert!(status.balances());
        status
    }

    /// The events of this kind that wait.
    fn events(&mut self, kind: &str) -> Vec<serde_json::Value> {
        self.tick_after(1000);
        self.spool.rewind();
        let all = self.read_all();
        let events = all.iter().filter(|(stream, _)| *stream == StreamId::EVENT);
        let parsed = events.map(|(_, event)| serde_json::from_slice::<serde_json::Value>(&event.record.data).unwrap());
        parsed.filter(|event| event["type"] == kind).collect()
    }

    /// Files of the telemetry stream with this ending.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let dir = self.options.dir.join("telemetry");
        let here = |path: &PathBuf| path.starts_with(&dir) && path.to_string_lossy().ends_with(ending);
        self.fs.files().into_iter().filter(here).collect()
    }

    /// Flips a byte in the entry at this place of a segment.
    fn damage_entry(&self, path: &Path, index: usize) {
        let bytes = self.fs.content(path);
        let header = Header::decode(&bytes).unwrap();
        let mut offset = header.end();
        for _ in 0..index {
            let Step::Entry { length, .. } = step(&bytes[offset..], header.entries()) else {
                panic!("no entry at {offset}")
            };
            offset += length;
        }
        self.fs.flip(path, offset + 12);
    }
}
