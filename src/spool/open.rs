//! Opening a stream: finds out from the checkpoint and the last segment where the last run stood.
//!
//! Constraint: it never fails. What can't be read is set aside and told; a folder that can't be used at all leaves a log
//! that keeps its records in memory and tries the disk again and again.

use super::checkpoint::Checkpoint;
use super::fs::{FileSystem, read_all};
use super::ledger::{Fate, Ledger};
use super::log::{Log, Rules, Segment};
use super::reader::{Next, Region, SegmentReader};
use super::segment::HeaderError;
use super::{Finding, Reason};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checkpoint is smaller than this by far, in bytes; a larger file isn't one.
const CHECKPOINT_LIMIT: usize = 1024 * 1024;
/// Numbers that are skipped when the checkpoint is lost and nobody knows which ones were given: the lease of any run.
const UNKNOWN_LEASE: u64 = 1 << 21;

impl Log {
    /// Opens the stream in `dir`, and tells what was found that should not be.
    pub(super) fn open(fs: Arc<dyn FileSystem>, dir: PathBuf, rules: Rules) -> (Log, Vec<Finding>) {
        let mut findings = Vec::new();
        let mut segments = match fs.create_dir_all(&dir).and_then(|()| fs.list(&dir)) {
            Ok(files) => segments_of(&files),
            Err(error) => {
                findings.push(Finding::Unusable(format!("{}: {error}", dir.display())));
                Vec::new()
            }
        };
        let (saved, mut uncertain) = match load_checkpoint(fs.as_ref(), &dir) {
            Ok(saved) => (saved, false),
            Err(problem) => {
                findings.push(Finding::Checkpoint(problem));
                (Checkpoint::default(), true)
            }
        };
        let last = look_at_last(fs.as_ref(), &dir, &mut segments, &mut findings);
        uncertain |= last.uncertain;

        let end = last.end.max(saved.done.saturating_add(1));
        let mut ledger = Ledger::from_checkpoint(&Checkpoint { next: end, ..saved.clone() });
        ledger.settle(last.done, Fate::Delivered);
        // The numbers from `end` to the lease were given to records that never reached the disk, or to none.
        ledger.skip_to(saved.next);
        if saved.next > end {
            findings.push(Finding::UncleanStop);
        }
        if uncertain {
            let next = ledger.next().saturating_add(UNKNOWN_LEASE);
            ledger.skip_to(next);
        }
        let mut log = Log::new(fs, dir, rules, ledger, saved.next);
        log.disk_end = end;
        log.segments = segments.into();
        log.count_missing();
        (log, findings)
    }

    /// Somebody removed the oldest segments: what waited in them is gone.
    fn count_missing(&mut self) {
        let Some(oldest) = self.segments.front().map(|segment| segment.first) else { return };
        let first = self.ledger.done().saturating_add(1);
        let count = self.ledger.settle(oldest.saturating_sub(1), Fate::Quarantined);
        self.gap(first, oldest.saturating_sub(1), count, Reason::Missing, (None, None), None);
    }
}

fn segments_of(files: &[(String, u64)]) -> Vec<Segment> {
    let segment = |(name, bytes): &(String, u64)| {
        let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
        let first = digits.parse().ok().filter(|&first| first > 0)?;
        Some(Segment { first, bytes: *bytes, created_ms: None })
    };
    let mut segments: Vec<Segment> = files.iter().filter_map(segment).collect();
    segments.sort_by_key(|segment| segment.first);
    segments
}

/// The checkpoint, an empty one if there never was one, or why it can't be used.
fn load_checkpoint(fs: &dyn FileSystem, dir: &Path) -> Result<Checkpoint, String> {
    let path = dir.join("checkpoint");
    let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    match read_all(fs, &path, CHECKPOINT_LIMIT) {
        Ok(content) => Checkpoint::decode(&content).map_err(|error| problem(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::default()),
        Err(error) => Err(problem(&error)),
    }
}

/// What the newest usable segment shows.
#[derive(Default)]
struct Last {
    /// Everything up to here was done with when it was made.
    done: u64,
    /// The number after its last whole record; 0 without a segment.
    end: u64,
    /// There may have been more records than could be seen.
    uncertain: bool,
}

/// Looks at the newest segment, cuts off its torn tail, and sets aside what is no segment of ours.
fn look_at_last(fs: &dyn FileSystem, dir: &Path, segments: &mut Vec<Segment>, findings: &mut Vec<Finding>) -> Last {
    let mut last = Last::default();
    while let Some(segment) = segments.last_mut() {
        let first = segment.first;
        let path = dir.join(format!("{first:020}.seg"));
        last.end = last.end.max(first);
        match scan(fs, &path, first) {
            Ok(scan) => {
                last.done = scan.done;
                last.end = last.end.max(scan.end);
                segment.created_ms = scan.created_ms;
                if let Some(torn) = scan.torn {
                    segment.bytes = torn.offset;
                    findings.push(Finding::TornTail {
                        file: path.clone(),
                        offset: torn.offset,
                        bytes: torn.bytes.len(),
                    });
                    if let Err(error) = fs.truncate(&path, torn.offset) {
                        tracing::warn!(file = %path.display(), %error, "the torn tail can't be cut off; it is passed over");
                    }
                }
                if scan.end > first {
                    break;
                }
                // No record got into it before the power went.
                let _ = fs.remove(&path);
            }
            Err(why) => {
                last.uncertain = true;
                let moved = set_aside(fs, dir, &path);
                findings.push(Finding::SetAside { file: moved.unwrap_or_else(|| path.clone()), why: why.to_string() });
            }
        }
        segments.pop();
    }
    last
}

/// Why a file that is named like a segment is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
}

struct Scan {
    done: u64,
    end: u64,
    created_ms: Option<u64>,
    torn: Option<Region>,
}

fn scan(fs: &dyn FileSystem, path: &Path, first: u64) -> Result<Scan, Unusable> {
    let mut reader = SegmentReader::new(fs.open(path)?)?;
    let (done, created_ms) = match reader.header() {
        Ok(header) => (header.done, Some(header.created_ms)),
        // Entries may stand behind a damaged header; behind a torn one there is nothing.
        Err(HeaderError::Corrupt | HeaderError::Incomplete) => (0, None),
        Err(other) => return Err(other.clone().into()),
    };
    let mut end = first;
    loop {
        match reader.next()? {
            Next::Entry(record) => end = end.max(record.seq.saturating_add(1)),
            // Reading counts and copies it, when it gets there.
            Next::Damage(_) => {}
            Next::End(torn) => return Ok(Scan { done, end, created_ms, torn }),
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
