//! Reading a stream in order: from its segments, then from what is pending.
//!
//! Damage is met here, not when the spool opens: the bad bytes are copied aside once, the records that are missing
//! are counted as quarantined, and reading goes on behind them.

use super::Reason;
use super::fs::replace;
use super::ledger::Fate;
use super::log::{Log, cost};
use super::reader::{Next, Region, SegmentReader};
use crate::record::Sequenced;
use std::io;

/// Copies of damaged parts, per damaged place, are cut to this many bytes: they are for finding out what happened.
const QUARANTINE_BYTES: usize = 256 * 1024;
/// No more than this many copies are kept for each stream.
const QUARANTINE_FILES: usize = 32;

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
        self.ledger.skip_holes(self.cursor.next) < self.ledger.next()
    }

    /// The next records, until their cost in memory exceeds `limit` bytes; at least one if there is one.
    pub fn read(&mut self, limit: usize) -> Vec<Sequenced> {
        let mut batch = Vec::new();
        let mut total = 0;
        while total < limit && self.has_more() {
            let next = self.ledger.skip_holes(self.cursor.next);
            let record = match self.pending(next) {
                Some(record) => Some(record.clone()),
                None => self.read_disk(next),
            };
            // None: damage was met and counted, so the next number is another one now.
            if let Some(record) = record {
                total += cost(&record.record);
                self.cursor.next = record.seq.saturating_add(1);
                batch.push(record);
            }
        }
        batch
    }

    /// The record `next` or the first after it, from a segment. What lies between is counted as lost.
    fn read_disk(&mut self, next: u64) -> Option<Sequenced> {
        let Some((first, end)) = self.covering(next) else {
            let following = self.segments.front().map(|segment| segment.first).filter(|&first| first > next);
            let end = following.or(self.first_pending()).unwrap_or(self.ledger.next()).max(next.saturating_add(1));
            self.lose(next, end.saturating_sub(1), Reason::Missing, None);
            return None;
        };
        let mut region = None;
        let found = self.find(first, next, end, &mut region);
        self.cursor.next = next;
        match found {
            Ok(Some(record)) => {
                if record.seq > next {
                    let detail = region.and_then(|region| self.keep_copy(first, &region));
                    self.lose(next, record.seq.saturating_sub(1), Reason::Damaged, detail);
                }
                Some(record)
            }
            Ok(None) => {
                let detail = region.and_then(|region| self.keep_copy(first, &region));
                self.lose(next, end.saturating_sub(1), Reason::Damaged, detail);
                None
            }
            Err(error) => {
                self.cursor.close();
                self.lose(next, end.saturating_sub(1), Reason::Unreadable, Some(error.to_string()));
                None
            }
        }
    }

    /// The segment that holds this number: its first number, and the one after its last.
    fn covering(&self, seq: u64) -> Option<(u64, u64)> {
        let active = self.active.as_ref().map(|active| active.segment.first).filter(|&first| first <= seq);
        let (first, end) = match active {
            Some(first) => (first, self.disk_end),
            None => {
                let index = self.segments.partition_point(|segment| segment.first <= seq).checked_sub(1)?;
                (self.segments.get(index)?.first, self.end_of(index))
            }
        };
        (seq < end).then_some((first, end))
    }

    fn open_segment(&mut self, first: u64) -> io::Result<OpenSegment> {
        let reader = SegmentReader::new(self.fs.open(&self.path_of(first))?)?;
        let created_ms = reader.header().as_ref().ok().map(|header| header.created_ms);
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.first == first) {
            segment.created_ms = created_ms;
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
                Next::Entry(record) if record.seq < next => {}
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

    fn lose(&mut self, first: u64, last: u64, reason: Reason, detail: Option<String>) {
        let count = self.ledger.settle_range(first, last, Fate::Quarantined);
        let name = &self.rules.stream.name;
        tracing::error!(stream = %name, first, last, count, ?reason, detail, "stored records are lost; reading goes on behind them");
        self.gap(first, last, count, reason, (None, None), detail);
    }

    /// Copies damaged bytes into `quarantine/` and tells where they are.
    fn keep_copy(&mut self, first: u64, region: &Region) -> Option<String> {
        let folder = self.dir.join("quarantine");
        let path = folder.join(format!("{first:020}-{}.bad", region.offset));
        self.fs.create_dir_all(&folder).ok()?;
        let kept = self.fs.list(&folder).ok()?.len();
        let place = format!("{} bytes at {} of {first:020}.seg", region.bytes.len(), region.offset);
        if kept >= QUARANTINE_FILES {
            return Some(format!("{place}; not copied, {} holds {kept} files already", folder.display()));
        }
        let bytes = region.bytes.get(..QUARANTINE_BYTES).unwrap_or(&region.bytes);
        replace(self.fs.as_ref(), &path, bytes).ok()?;
        Some(format!("{place}; copied to {}", path.display()))
    }
}
