//! Reading a stream in order: from its segments, then from what is pending.
//!
//! Damage is met here, not when the spool opens: the bad bytes are copied aside once, the records that are missing
//! are counted as quarantined, and reading goes on behind them. A file that can't be read just now is tried again for
//! a while before its records are given up.

use super::Reason;
use super::commit::RETRY_MS;
use super::fs::{is_passing, replace};
use super::ledger::Fate;
use super::log::{Created, Log, cost};
use super::reader::{Next, Region, SegmentReader};
use crate::record::{Sequenced, Timestamp};
use std::io;

/// Copies of damaged parts, per damaged place, are cut to this many bytes: they are for finding out what happened.
const QUARANTINE_BYTES: usize = 256 * 1024;
/// No more than this many copies are kept for each stream.
const QUARANTINE_FILES: usize = 32;
/// A segment is read this many times before what a disk refuses to read is given up: half a minute.
const READ_TRIES: u32 = 6;

/// How far the stream has been read since the last rewind.
#[derive(Default)]
pub(super) struct Cursor {
    next: u64,
    open: Option<OpenSegment>,
}

struct OpenSegment {
    first: u64,
    /// No record before this number can come from the reader any more.
    at: u64,
    reader: SegmentReader,
}

/// Reading a segment failed; the stream waits.
pub(super) struct Stall {
    first: u64,
    tries: u32,
    wait_ms: u64,
    /// `None`: it may be tried at any time.
    retry_at_ms: Option<u64>,
}

impl Cursor {
    /// Lets go of the file; the place in the stream stays.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}

impl Log {
    /// Goes back to the oldest record that waits.
    pub fn rewind(&mut self) {
        self.cursor = Cursor::default();
    }

    /// Whether there is a record to read.
    pub fn has_more(&self) -> bool {
        self.next_to_read().is_some()
    }

    /// The number of the record that is read next, unless it turns out to be lost.
    pub(super) fn next_to_read(&self) -> Option<u64> {
        Some(self.ledger.skip_holes(self.cursor.next)).filter(|&next| next < self.ledger.next())
    }

    /// The next records, up to `count`, until their cost in memory reaches `limit` bytes; at least one if there is one,
    /// unless its file can't be read just now.
    pub fn read(&mut self, limit: usize, count: usize, now: Timestamp) -> Vec<Sequenced> {
        let mut batch = Vec::new();
        let mut total = 0;
        while total < limit.max(1)
            && batch.len() < count
            && let Some(next) = self.next_to_read()
        {
            let record = match self.pending(next) {
                Some(record) => Some(record.clone()),
                None if self.is_stalled(now) => break,
                None => self.read_disk(next, now),
            };
            // None: what is lost was counted, so the next number is another one now; or the file can't be read just now.
            if let Some(mut record) = record {
                if self.is_of_this_boot(record.seq) {
                    record.record.correct_time(now);
                }
                total += cost(&record.record);
                self.cursor.next = record.seq.saturating_add(1);
                batch.push(record);
            }
        }
        batch
    }

    /// Whether the record that was just read was made since the machine started: its time since boot means something.
    fn is_of_this_boot(&self, seq: u64) -> bool {
        if self.pending(seq).is_some() {
            return true;
        }
        let open = self.cursor.open.as_ref().map(|open| open.reader.header());
        matches!(open, Some(Ok(header)) if header.boot_id == self.rules.boot_id && header.boot_id != [0; 16])
    }

    /// The record `next` or the first after it that waits, from a segment. What lies between is counted as lost.
    fn read_disk(&mut self, next: u64, now: Timestamp) -> Option<Sequenced> {
        let Some((first, end)) = self.covering(next) else {
            let last = self.last_missing(next);
            self.lose(next, last, Reason::Missing, None, now);
            return None;
        };
        let mut region = None;
        let found = self.find(first, next, end, &mut region);
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.cursor.close();
                self.cannot_read(&error, (first, next, end), now);
                return None;
            }
        };
        self.stall = None;
        let last = found.as_ref().map_or(end, |record| record.seq).saturating_sub(1);
        if last >= next {
            let reason = if region.is_some() { Reason::Damaged } else { Reason::Missing };
            let detail = region.and_then(|region| self.keep_copy(first, &region));
            let detail = detail.or_else(|| Some(self.path_of(first).display().to_string()));
            self.lose(next, last, reason, detail, now);
        }
        // Behind damage there may be a record that is done with already.
        found.filter(|record| self.ledger.skip_holes(record.seq) == record.seq)
    }

    /// The segment that holds this number: its first number, and the one after its last.
    fn covering(&self, seq: u64) -> Option<(u64, u64)> {
        let active = self.active.as_ref().map(|active| active.segment.first).filter(|&first| first <= seq);
        let (first, end) = match active {
            // What is pending is in memory still.
            Some(first) => (first, self.first_pending().map_or(self.disk_end, |pending| pending.min(self.disk_end))),
            None => {
                let index = self.segments.partition_point(|segment| segment.first <= seq).checked_sub(1)?;
                (self.segments.get(index)?.first, self.end_of(index))
            }
        };
        (seq < end).then_some((first, end))
    }

    /// The last number of those from `next` on that no segment has.
    fn last_missing(&self, next: u64) -> u64 {
        let sealed = self.segments.iter().map(|segment| segment.first);
        let active = self.active.as_ref().map(|active| active.segment.first);
        let following = sealed.chain(active).chain(self.first_pending()).filter(|&first| first > next).min();
        following.unwrap_or(self.ledger.next()).saturating_sub(1).max(next)
    }

    fn open_segment(&mut self, first: u64) -> io::Result<OpenSegment> {
        let reader = SegmentReader::new(self.fs.open(&self.path_of(first))?, first)?;
        let created_ms = reader.header().as_ref().map_or(0, |header| header.created_ms);
        if let Err(error) = reader.header() {
            let file = self.path_of(first);
            let file = file.display();
            tracing::warn!(%file, "{file}: {error}; its records are read, but the times of some may be lost with it");
        }
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.first == first) {
            segment.created = Created::from_header(created_ms);
        }
        Ok(OpenSegment { first, at: 0, reader })
    }

    /// The first record of the segment in `next..end`, and the damage that was met on the way.
    fn find(&mut self, first: u64, next: u64, end: u64, region: &mut Option<Region>) -> io::Result<Option<Sequenced>> {
        let mut open = match self.cursor.open.take() {
            Some(open) if open.first == first && open.at <= next => open,
            _ => self.open_segment(first)?,
        };
        let record = loop {
            match open.reader.next()? {
                Next::Entry(record) if record.seq < next => *region = None,
                Next::Entry(record) if record.seq < end => break Some(record),
                Next::Entry(_) => break None,
                Next::Damage(damage) => *region = Some(damage),
                Next::End(torn) => {
                    *region = torn.or(region.take());
                    break None;
                }
            }
        };
        if let Some(record) = &record {
            open.at = record.seq.saturating_add(1);
            self.cursor.open = Some(open);
        }
        Ok(record)
    }

    /// A segment, and in it the records from `next` to before `end`, could not be read.
    fn cannot_read(&mut self, error: &io::Error, (first, next, end): (u64, u64, u64), now: Timestamp) {
        let path = self.path_of(first).display().to_string();
        let before = self.stall.take().filter(|stall| stall.first == first);
        let tries = before.as_ref().map_or(0, |stall| stall.tries) + 1;
        if error.kind() == io::ErrorKind::NotFound {
            if self.active.as_ref().is_some_and(|active| active.segment.first == first) {
                // Somebody removed the file: what is appended to it is nowhere.
                self.abandon_active();
            }
            self.lose(next, end.saturating_sub(1), Reason::Missing, Some(path), now);
        } else if tries >= READ_TRIES && !is_passing(error) {
            let detail = format!("{path}: {error}");
            self.lose(next, end.saturating_sub(1), Reason::Unreadable, Some(detail), now);
        } else {
            let wait_ms = before.map_or(RETRY_MS.0, |stall| (stall.wait_ms * 2).min(RETRY_MS.1));
            tracing::warn!(file = path, tries, "{path} can't be read: {error}; next try in {wait_ms} ms");
            let retry_at_ms = Some(now.mono_ms.saturating_add(wait_ms));
            self.stall = Some(Stall { first, tries, wait_ms, retry_at_ms });
        }
    }

    fn is_stalled(&self, now: Timestamp) -> bool {
        self.stall_due_ms().is_some_and(|due| now.mono_ms < due)
    }

    pub(super) fn stall_due_ms(&self) -> Option<u64> {
        self.stall.as_ref()?.retry_at_ms
    }

    /// The wait is over; whoever reads next tries again.
    pub(super) fn end_stall(&mut self) {
        if let Some(stall) = &mut self.stall {
            stall.retry_at_ms = None;
        }
    }

    fn lose(&mut self, first: u64, last: u64, reason: Reason, detail: Option<String>, now: Timestamp) {
        let count = self.ledger.settle_range(first, last, Fate::Quarantined);
        self.gap((first, last), count, reason, (None, None), detail, now);
    }

    /// Copies damaged bytes into `quarantine/` and tells where they are.
    fn keep_copy(&mut self, first: u64, region: &Region) -> Option<String> {
        let folder = self.dir.join("quarantine");
        let path = folder.join(format!("{first:020}-{}.bad", region.offset));
        let place = format!("{} bytes at {} of {first:020}.seg", region.bytes.len(), region.offset);
        let kept = self.fs.create_dir_all(&folder).and_then(|()| self.fs.list(&folder)).map_or(0, |files| files.len());
        if kept >= QUARANTINE_FILES {
            return Some(format!("{place}; not copied, {} holds {kept} files already", folder.display()));
        }
        let bytes = region.bytes.get(..QUARANTINE_BYTES).unwrap_or(&region.bytes);
        match replace(self.fs.as_ref(), &path, bytes) {
            Ok(()) => Some(format!("{place}; copied to {}", path.display())),
            Err(error) => Some(format!("{place}; not copied: {error}")),
        }
    }
}
