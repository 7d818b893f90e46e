//! Bytes written to disk for each byte of payload: what wears flash out.
//!
//! Two gauges side by side. What the spool hands to write(2) in its folder, counted by a file system that passes
//! everything on to the real one; and what the kernel counts as this process's (`write_bytes` of /proc/self/io): whole
//! pages made dirty, so that a page which is written, synced and written again counts twice. Neither holds what the
//! file system writes of its own.
//!
//! Beside them stands what nobody can do without who appends and syncs: the pages of the bare payloads, the last of
//! them once more with each sync. It is reckoned, not measured.
//!
//! Time is made up, since the spool gets its clock passed in; so a minute of records takes as long as its syncs.

use super::super::scratch::Scratch;
use super::super::tally::{Rounds, Target, Unit, Verdict};
use super::super::{Result, gauges};
use super::store::{PAYLOAD, STREAM, STREAM_NAME, options, record};
use pillion::config::Sync;
use pillion::disk::{Disk, FileSystem, LogFile};
use pillion::record::{ClockQuality, Durability, Sequenced, Timestamp};
use pillion::spool::Spool;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SYNC: Duration = Duration::from_secs(1);
/// When made-up time begins: 2026-11-23, an hour after the machine started. Milliseconds.
const START_MS: (u64, u64) = (1_795_401_667_123, 3_600_000);
/// What the kernel's page cache counts in, in bytes, on most machines.
const PAGE: u64 = 4096;
/// A broker that is fast enough for `SYNC`, in milliseconds.
const ACKNOWLEDGED_AFTER_MS: u64 = 100;
/// What the publisher reads at a time, in bytes.
const READ: usize = 32 * 1024;

/// What was written on the way.
#[derive(Default)]
struct Wear {
    entry: Rounds,
    all: Rounds,
    pages: Rounds,
    least: Rounds,
    message: Rounds,
    syncs: Rounds,
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (seconds, rounds) = if quick { (10, 1) } else { (60, 3) };
    verdict.part(&format!("spool, wear: {seconds} s of records of 128 bytes, sync = \"1s\""), rounds);
    for rate in [100, 1000] {
        let (mut handed, mut pages) = (Rounds::default(), Rounds::default());
        for _ in 0..rounds {
            let flow = flow(scratch, rate, seconds, true)?;
            handed.add((flow.segments + flow.rest) as f64);
            pages.add(flow.pages as f64);
        }
        verdict.setting(&format!("{rate} records/s, acknowledged after {ACKNOWLEDGED_AFTER_MS} ms"));
        verdict.target("handed to write(2)", &handed, Unit::Bytes, Target::NeverOver(1.0));
        verdict.target("pages written (write_bytes)", &pages, Unit::Bytes, Target::NeverOver(1.0));
    }
    for rate in [100, 1000] {
        let mut wear = Wear::default();
        for _ in 0..rounds {
            let flow = flow(scratch, rate, seconds, false)?;
            let payload = (flow.records * PAYLOAD) as f64;
            wear.entry.add(flow.segments as f64 / flow.records as f64);
            wear.all.add((flow.segments + flow.rest) as f64 / payload);
            wear.pages.add(flow.pages as f64 / payload);
            wear.least.add(least_pages(rate * PAYLOAD, seconds) as f64 / payload);
            wear.message.add(flow.pages as f64 / flow.messages as f64);
            wear.syncs.add(flow.syncs as f64 / seconds as f64);
        }
        verdict.setting(&format!("{rate} records/s, no broker"));
        verdict.target("for a byte of payload: to write(2)", &wear.all, Unit::Ratio, Target::AtMost(1.2));
        verdict.line("in segments, for a record", &wear.entry, Unit::Bytes);
        verdict.target("for a byte of payload: pages", &wear.pages, Unit::Ratio, Target::AtMost(1.2));
        verdict.line("the least for bare payloads and a sync a second", &wear.least, Unit::Ratio);
        verdict.line("for a byte of message, envelope included: pages", &wear.message, Unit::Ratio);
        verdict.line("fdatasync and fsync, all files and folders", &wear.syncs, Unit::Syncs);
    }
    Ok(())
}

/// Bytes of the pages that so many appends of so many bytes make dirty, with a sync after each.
fn least_pages(bytes: u64, appends: u64) -> u64 {
    (0..appends).map(|number| ((number + 1) * bytes).div_ceil(PAGE) - number * bytes / PAGE).sum::<u64>() * PAGE
}

/// What a flow of records has come to.
struct Flow {
    records: u64,
    /// Bytes of the messages that they would be.
    messages: u64,
    /// Bytes handed to write(2): into segments, and into other files.
    segments: u64,
    rest: u64,
    /// Bytes that the kernel counts.
    pages: u64,
    syncs: u64,
}

fn flow(scratch: &Scratch, rate: u64, seconds: u64, is_online: bool) -> Result<Flow> {
    let (state, runtime) = (scratch.path("wear"), scratch.short().join("wear"));
    let options = options(&state, Some(&runtime), Sync::After(SYNC));
    let counts = Arc::new(Counts::default());
    let disk: Arc<dyn FileSystem> = Arc::new(Counting { dir: options.dir.clone(), counts: Arc::clone(&counts) });
    let now =
        |ms: u64| Timestamp { wall_ms: START_MS.0 + ms, mono_ms: START_MS.1 + ms, quality: ClockQuality::Trusted };
    let mut spool = Spool::open(&disk, &options, now(0));
    let mut flow = Flow { records: 0, messages: 0, segments: 0, rest: 0, pages: 0, syncs: 0 };
    let mut unacknowledged: VecDeque<(u64, u64)> = VecDeque::new();
    let mut before = None;
    // The first second is not counted: the first record, and after it one in a million, reserves numbers on flash.
    let (first, last) = (1_000, 1_000 + seconds * 1_000);
    for ms in 0..last + 2 * SYNC.as_millis() as u64 {
        let is_new = ms * rate / 1_000 != (ms + 1) * rate / 1_000;
        if ms == first {
            before = Some((counts.read(), gauges::written(std::process::id())?));
        }
        if is_new && ms < last && (ms >= first || is_online) {
            let record = record(flow.records, now(ms));
            let accepted = spool.append(STREAM, vec![record.clone()], now(ms))?;
            spool.harden(STREAM, Durability::Window, now(ms))?;
            if ms >= first {
                flow.records += 1;
                flow.messages += Sequenced { seq: accepted.first, record }.payload(STREAM_NAME).len() as u64;
            }
        }
        if is_online {
            while let Some((stream, records, _)) = spool.read(READ, now(ms)) {
                let last = records.last().map_or(0, |record| record.seq);
                unacknowledged.extend((stream == STREAM).then_some((ms + ACKNOWLEDGED_AFTER_MS, last)));
            }
            while let Some(&(due, last)) = unacknowledged.front()
                && due <= ms
            {
                unacknowledged.pop_front();
                spool.acknowledge(STREAM, last, now(ms));
            }
        }
        if is_new || spool.deadline_ms().is_some_and(|due| due <= now(ms).mono_ms) {
            spool.tick(now(ms));
        }
    }
    let waiting = spool.status(now(last))[STREAM.index()].waiting;
    let expected = if is_online { 0 } else { flow.records };
    let Some(((segments, rest, syncs), pages)) = before else { return Err("no second was counted".into()) };
    let after = counts.read();
    (flow.segments, flow.rest, flow.syncs) = (after.0 - segments, after.1 - rest, after.2 - syncs);
    flow.pages = gauges::written(std::process::id())? - pages;
    drop(spool);
    std::fs::remove_dir_all(&state)?;
    std::fs::remove_dir_all(&runtime)?;
    match waiting.abs_diff(expected) {
        0 => Ok(flow),
        _ => Err(format!("{waiting} records wait, not {expected}").into()),
    }
}

/// What was handed to the file system, in one folder.
#[derive(Default)]
struct Counts {
    segments: AtomicU64,
    rest: AtomicU64,
    syncs: AtomicU64,
}

impl Counts {
    fn read(&self) -> (u64, u64, u64) {
        (self.segments.load(Relaxed), self.rest.load(Relaxed), self.syncs.load(Relaxed))
    }
}

/// The disk, and an account of what is written in `dir`: the runtime tier is elsewhere.
struct Counting {
    dir: PathBuf,
    counts: Arc<Counts>,
}

struct CountingFile {
    file: Box<dyn LogFile>,
    /// `None`: outside of the folder.
    counts: Option<Arc<Counts>>,
    is_segment: bool,
}

impl Counting {
    fn counts(&self, path: &Path) -> Option<Arc<Counts>> {
        path.starts_with(&self.dir).then(|| Arc::clone(&self.counts))
    }

    fn wrap(&self, file: Box<dyn LogFile>, path: &Path) -> Box<dyn LogFile> {
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        Box::new(CountingFile { file, counts: self.counts(path), is_segment })
    }
}

impl FileSystem for Counting {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        Disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        Disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(self.wrap(Disk.create(path)?, path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(self.wrap(Disk.open(path)?, path))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        Disk.truncate(path, length)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if let Some(counts) = self.counts(dir) {
            counts.syncs.fetch_add(1, Relaxed);
        }
        Disk.sync_dir(dir)
    }
}

impl LogFile for CountingFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(counts) = &self.counts {
            let count = if self.is_segment { &counts.segments } else { &counts.rest };
            count.fetch_add(bytes.len() as u64, Relaxed);
        }
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(counts) = &self.counts {
            counts.syncs.fetch_add(1, Relaxed);
        }
        self.file.sync()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}
