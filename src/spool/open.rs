//! Opening a stream: finds out from the checkpoint and the last segment where the last run stood.
//!
//! Constraint: it never fails. What can't be read is set aside and told; a folder that can't be used at all leaves a log
//! that keeps its records in memory and tries the disk again and again.

use super::checkpoint::Checkpoint;
use super::fs::{FileSystem, is_passing, read_all};
use super::ledger::{Fate, Ledger};
use super::log::{Created, Log, Rules, Segment};
use super::reader::{Next, Region, SegmentReader};
use super::runtime::{Left, Runtime};
use super::segment::HeaderError;
use super::{Finding, Reason};
use crate::record::{ClockQuality, Timestamp};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checkpoint is smaller than this by far, in bytes; a larger file isn't one.
pub(super) const CHECKPOINT_LIMIT: usize = 1024 * 1024;
/// Numbers that are skipped at least when nobody knows which ones were given: the lease of any run.
const UNKNOWN_LEASE: u64 = 1 << 21;
/// Faster than this, in records per millisecond since 1970, no stream has ever been: when nobody knows which numbers were
/// given, going on from there repeats none. In 2100 that is still below 2^53, which JSON numbers hold.
const NUMBERS_PER_MS: u64 = 1_000;
/// No run of ours gives numbers from here on: a file that is named after one is not ours.
const NUMBERS_END: u64 = 1 << 62;

impl Log {
    /// Opens the stream in `dir`, and tells what was found that should not be.
    pub(super) fn open(fs: Arc<dyn FileSystem>, dir: PathBuf, rules: Rules, now: Timestamp) -> (Log, Vec<Finding>) {
        let in_use = rules.window_ms.is_some();
        let opened =
            rules.runtime_dir.clone().map(|dir| Runtime::open(Arc::clone(&fs), dir, rules.boot_id, in_use, now));
        let (runtime, left) = opened.map_or((None, Left::default()), |(runtime, left)| (Some(runtime), left));
        let found = Found::look(fs.as_ref(), &dir);
        let mut log = Log::new(fs, dir, rules, Ledger::default());
        log.runtime = runtime;
        let mut findings = log.take_up(found, left, now);
        let error = log.runtime.as_ref().and_then(Runtime::error);
        findings.extend(error.map(|error| Finding::Runtime(error.to_owned())));
        if let Some(runtime) = &mut log.runtime {
            runtime.starts_from(&log.ledger);
        }
        (log, findings)
    }

    /// Goes on from where the last run stood.
    fn take_up(&mut self, found: io::Result<Found>, left: Left, now: Timestamp) -> Vec<Finding> {
        let mut findings = Vec::new();
        let next = match found {
            Ok(found) => self.take_up_flash(found, left.checkpoint, &mut findings, now),
            Err(error) => {
                findings.push(Finding::Unusable(format!("{}: {error}", self.dir.display())));
                self.take_up_blindly(left.checkpoint, &error, now)
            }
        };
        let (taken_over, unreadable) = self.take_over(now);
        for (file, why) in left.set_aside.into_iter().chain(unreadable) {
            findings.push(Finding::SetAside { file, why });
        }
        if taken_over > 0 || next.reserved > self.ledger.next() {
            findings.push(Finding::UncleanStop { taken_over });
        }
        // These numbers were given to records that never reached the disk, or to none.
        self.ledger.skip_to(next.reserved);
        if let Some(behind) = next.unknown_behind {
            self.is_by_clock = true;
            self.ledger.skip_to(unknown_next(self.ledger.next().max(behind), now));
        }
        findings
    }

    fn take_up_flash(
        &mut self,
        found: Found,
        left: Option<Checkpoint>,
        findings: &mut Vec<Finding>,
        now: Timestamp,
    ) -> NextNumber {
        let Found { checkpoint, segments, last, findings: found } = found;
        findings.extend(found);
        let is_unknown = checkpoint.is_none() || last.set_aside.is_some();
        // One that only reserves numbers knows nothing of those before.
        let knows = |left: &Checkpoint| *left != Checkpoint { next: left.next, ..Checkpoint::default() };
        let is_known = checkpoint.is_some() || left.as_ref().is_some_and(knows);
        let flash = checkpoint.unwrap_or_default();
        let saved = later(&flash, left.as_ref());
        let mut end = last.end.max(flash.done.saturating_add(1));
        if flash.clean {
            // All of them were on disk. Reading counts what is not there any more.
            end = end.max(flash.next);
        }
        self.ledger = Ledger::from_checkpoint(&Checkpoint { next: end, ..saved.clone() });
        self.ledger.settle(last.done, Fate::Delivered);
        if let (false, Some(oldest)) = (is_known, segments.first()) {
            // Segments are removed when they are done with; without a checkpoint that is all that is known.
            self.ledger.settle(oldest.first.saturating_sub(1), Fate::Delivered);
        }
        self.disk_end = end;
        self.segments = segments.into();
        self.count_missing(now);
        let reserved = flash.next.max(left.map_or(0, |left| left.next));
        NextNumber { reserved, unknown_behind: is_unknown.then_some(last.set_aside.unwrap_or(0)) }
    }

    /// A log whose folder can't be looked into: it knows what the runtime tier tells, and leaves alone what may be there.
    fn take_up_blindly(&mut self, left: Option<Checkpoint>, error: &io::Error, now: Timestamp) -> NextNumber {
        let left = left.unwrap_or_default();
        self.ledger = Ledger::from_checkpoint(&Checkpoint { next: 1, ..left.clone() });
        self.disk_end = self.ledger.next();
        self.unlisted = true;
        self.note_trouble(error, now);
        let reserved = left.next;
        if let Some(runtime) = &mut self.runtime {
            runtime.set_blind(left);
        }
        NextNumber { reserved, unknown_behind: Some(0) }
    }

    /// Somebody removed the oldest segments: what waited in them is gone.
    fn count_missing(&mut self, now: Timestamp) {
        let Some(oldest) = self.segments.front().map(|segment| segment.first) else { return };
        let (first, last) = (self.ledger.done().saturating_add(1), oldest.saturating_sub(1));
        let count = self.ledger.settle(last, Fate::Quarantined);
        let detail = Some(format!("not in {} any more", self.dir.display()));
        self.gap((first, last), count, Reason::Missing, (None, None), detail, now);
    }
}

/// What is in the folder.
struct Found {
    /// `None`: it can't be used.
    checkpoint: Option<Checkpoint>,
    segments: Vec<Segment>,
    last: Last,
    findings: Vec<Finding>,
}

impl Found {
    /// Fails where the disk or the process is in a state that says nothing about what is stored.
    fn look(fs: &dyn FileSystem, dir: &Path) -> io::Result<Found> {
        fs.create_dir_all(dir)?;
        let mut segments = segments_of(&fs.list(dir)?);
        let mut findings = Vec::new();
        let checkpoint = match load_checkpoint(fs, dir, !segments.is_empty())? {
            Ok(checkpoint) => Some(checkpoint),
            Err(problem) => {
                findings.push(Finding::Checkpoint(problem));
                None
            }
        };
        let clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        let last = look_at_last(fs, dir, clean, &mut segments, &mut findings)?;
        if checkpoint.is_none() {
            // Kept for whoever wants to know; the next one takes its place.
            set_aside(fs, dir, &dir.join("checkpoint"));
        }
        Ok(Found { checkpoint, segments, last, findings })
    }
}

/// Where the numbers of this run begin.
struct NextNumber {
    /// None below this one may be given again.
    reserved: u64,
    /// Nobody knows how many more were given, behind this one too.
    unknown_behind: Option<u64>,
}

/// A number that was certainly never given, if the clock is right.
pub(super) fn unknown_next(next: u64, now: Timestamp) -> u64 {
    let by_clock = match now.quality {
        ClockQuality::Trusted => now.wall_ms.saturating_mul(NUMBERS_PER_MS).min(NUMBERS_END),
        ClockQuality::Unsynced => 0,
    };
    by_clock.max(next.saturating_add(UNKNOWN_LEASE))
}

/// The number that a segment of this name begins with.
pub(super) fn numbered(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
    digits.parse().ok().filter(|first| (1..NUMBERS_END).contains(first))
}

/// The one of the two tiers' checkpoints that knows more.
fn later<'a>(flash: &'a Checkpoint, runtime: Option<&'a Checkpoint>) -> &'a Checkpoint {
    let progress = |checkpoint: &Checkpoint| Ledger::from_checkpoint(checkpoint).progress();
    runtime.filter(|runtime| progress(runtime) > progress(flash)).unwrap_or(flash)
}

pub(super) fn segments_of(files: &[(String, u64)]) -> Vec<Segment> {
    let segment = |(name, bytes): &(String, u64)| {
        Some(Segment { first: numbered(name)?, bytes: *bytes, created: Created::Unread })
    };
    let mut segments: Vec<Segment> = files.iter().filter_map(segment).collect();
    segments.sort_by_key(|segment| segment.first);
    segments
}

/// The checkpoint, an empty one if there never was one, or why it can't be used.
pub(super) fn load_checkpoint(
    fs: &dyn FileSystem,
    dir: &Path,
    has_segments: bool,
) -> io::Result<Result<Checkpoint, String>> {
    let path = dir.join("checkpoint");
    let problem = |error: &dyn std::fmt::Display| Err(format!("{}: {error}", path.display()));
    Ok(match read_all(fs, &path, CHECKPOINT_LIMIT) {
        Ok(content) => Checkpoint::decode(&content).or_else(|error| problem(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !has_segments => Ok(Checkpoint::default()),
        Err(error) if is_passing(&error) => return Err(error),
        Err(error) => problem(&error),
    })
}

/// What the newest usable segment shows.
#[derive(Default)]
struct Last {
    /// Everything up to here was done with when it was made.
    done: u64,
    /// The number after its last whole record; 0 without a segment.
    end: u64,
    /// The highest number that a file was named after which is not used: there may have been more records than can be seen.
    set_aside: Option<u64>,
}

/// Looks at the newest segment, cuts off its torn tail, and sets aside what is no segment of ours. One that can't be read is
/// set aside too; when that befalls two, it is the disk, and all stay where they are.
///
/// After a clean stop no tail is torn: then it is damage, left where it is for reading to meet.
fn look_at_last(
    fs: &dyn FileSystem,
    dir: &Path,
    clean: bool,
    segments: &mut Vec<Segment>,
    findings: &mut Vec<Finding>,
) -> io::Result<Last> {
    let mut last = Last::default();
    let mut unusable = Vec::new();
    let mut is_unreadable = false;
    while let Some(segment) = segments.last_mut() {
        let first = segment.first;
        let path = dir.join(format!("{first:020}.seg"));
        match scan(fs, &path, first) {
            Ok(scan) => {
                last.done = last.done.max(scan.done);
                last.end = last.end.max(scan.end);
                segment.created = Created::from_header(scan.created_ms);
                if let Some(torn) = scan.torn.filter(|_| !clean) {
                    segment.bytes = torn.offset;
                    if let Err(error) = fs.truncate(&path, torn.offset) {
                        let file = path.display();
                        tracing::warn!(%file, "the torn tail of {file} can't be cut off ({error}); it is passed over");
                    }
                    findings.push(Finding::TornTail {
                        file: path.clone(),
                        offset: torn.offset,
                        bytes: torn.bytes.len(),
                    });
                }
                if clean {
                    break;
                }
                if scan.end > first {
                    harden(fs, &path);
                    break;
                }
                // No record got into it before the power went.
                let _ = fs.remove(&path);
            }
            Err(Unusable::Io(error)) if is_unreadable || is_passing(&error) => return Err(error),
            Err(why) => {
                is_unreadable |= matches!(why, Unusable::Io(_));
                last.set_aside = last.set_aside.max(Some(first));
                unusable.push((path, why));
            }
        }
        segments.pop();
    }
    for (path, why) in unusable {
        let moved = set_aside(fs, dir, &path);
        findings.push(Finding::SetAside { file: moved.unwrap_or(path), why: why.to_string() });
    }
    Ok(last)
}

/// A killed process may have written what it could not sync any more. From here on it counts as being on the medium.
fn harden(fs: &dyn FileSystem, path: &Path) {
    if let Err(error) = fs.open(path).and_then(|mut file| file.sync()) {
        let file = path.display();
        tracing::warn!(%file, "{file} can't be synced ({error}); a power cut may take its last records");
    }
}

/// Why a file that is named like a segment is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("its header names {0} as its first record")]
    Misnamed(u64),
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
}

struct Scan {
    done: u64,
    /// The number after its last record; 0 if it has none, and no header that says what was before.
    end: u64,
    created_ms: u64,
    torn: Option<Region>,
}

fn scan(fs: &dyn FileSystem, path: &Path, first: u64) -> Result<Scan, Unusable> {
    let mut reader = SegmentReader::new(fs.open(path)?, first)?;
    let mut foreign = None;
    let (done, created_ms) = match reader.header() {
        Ok(header) if header.first != first => return Err(Unusable::Misnamed(header.first)),
        Ok(header) => (header.done, header.created_ms),
        Err(newer @ HeaderError::Newer(_)) => return Err(newer.clone().into()),
        // Entries may stand behind a damaged header; behind a torn one there is nothing.
        Err(HeaderError::Corrupt | HeaderError::Incomplete) => (0, 0),
        Err(other @ HeaderError::Foreign) => {
            foreign = Some(other.clone());
            (0, 0)
        }
    };
    let mut end = first;
    loop {
        match reader.next()? {
            Next::Entry(record) => end = end.max(record.seq.saturating_add(1)),
            // Reading counts and copies it, when it gets there.
            Next::Damage(_) => {}
            Next::End(torn) => {
                return match foreign {
                    Some(foreign) if end == first => Err(foreign.into()),
                    _ if end == first && reader.header().is_err() => Ok(Scan { done, end: 0, created_ms, torn }),
                    _ => Ok(Scan { done, end, created_ms, torn }),
                };
            }
        }
    }
}

/// Moves a file into `quarantine/`. Returns its new place.
pub(super) fn set_aside(fs: &dyn FileSystem, dir: &Path, path: &Path) -> Option<PathBuf> {
    let quarantine = dir.join("quarantine");
    let target = quarantine.join(path.file_name()?);
    fs.create_dir_all(&quarantine).and_then(|()| fs.rename(path, &target)).ok()?;
    Some(target)
}
