//! Taking over what an earlier process of this boot left in the runtime tier.
//!
//! Constraint: it changes nothing there, so a process that dies meanwhile leaves the same to the next one. The records become
//! pending, under their numbers; numbers between them were delivered from memory, and are passed over.

use super::Reason;
use super::ledger::Fate;
use super::log::{Log, Pending, cost};
use super::open::set_aside;
use super::reader::{Next, SegmentReader};
use super::runtime::Closed;
use crate::record::{Sequenced, Timestamp};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Log {
    /// Takes over the records that an earlier process of this boot left in the runtime tier and that flash does not have.
    /// Returns how many, and the files that can't be read.
    pub(super) fn take_over(&mut self, now: Timestamp) -> (u64, Vec<(PathBuf, String)>) {
        let Some(runtime) = &mut self.runtime else { return (0, Vec::new()) };
        let (fs, dir) = (Arc::clone(&self.fs), runtime.dir.clone());
        let (mut count, mut closed, mut unreadable) = (0, VecDeque::new(), Vec::new());
        for Closed { first, .. } in std::mem::take(&mut runtime.closed) {
            let path = dir.join(format!("{first:020}.seg"));
            let read = fs.open(&path).and_then(|file| SegmentReader::new(file, first)).and_then(|reader| {
                let (end, taken) = self.take_over_segment(reader, first, &path, now)?;
                count += taken;
                Ok(end)
            });
            match read {
                Ok(end) => closed.push_back(Closed { first, end }),
                Err(error) => {
                    let moved = set_aside(fs.as_ref(), &dir, &path);
                    unreadable.push((moved.unwrap_or(path), format!("it can't be read: {error}")));
                }
            }
        }
        if let Some(runtime) = &mut self.runtime {
            runtime.end = closed.iter().map(|closed| closed.end).max().unwrap_or(0);
            runtime.closed = closed;
        }
        (count, unreadable)
    }

    /// Returns the number after the last record of the segment, and how many were taken over.
    fn take_over_segment(
        &mut self,
        mut reader: SegmentReader,
        first: u64,
        path: &Path,
        now: Timestamp,
    ) -> io::Result<(u64, u64)> {
        let (mut end, mut count) = (first, 0);
        loop {
            match reader.next()? {
                Next::Entry(record) => {
                    if record.seq > end {
                        self.count_damaged(end, record.seq, path, now);
                    }
                    end = record.seq.saturating_add(1);
                    count += u64::from(self.take_over_record(record, now));
                }
                Next::Damage(_) => {}
                // The process was killed while it wrote.
                Next::End(_) => return Ok((end, count)),
            }
        }
    }

    /// Whether flash and an earlier file did not have it, and it waits.
    fn take_over_record(&mut self, record: Sequenced, now: Timestamp) -> bool {
        let seq = record.seq;
        if seq < self.ledger.next() {
            return false;
        }
        // What lies between was delivered from memory, and its file removed.
        self.ledger.skip_to(seq);
        self.ledger.accept(1);
        if self.ledger.skip_holes(seq) != seq {
            return false;
        }
        self.pending_bytes += cost(&record.record);
        let since_ms = record.record.time.mono_ms.min(now.mono_ms);
        self.pending.push_back(Pending { record, since_ms });
        true
    }

    /// The records from `first` to before `end` were in the runtime tier and can't be decoded.
    fn count_damaged(&mut self, first: u64, end: u64, path: &Path, now: Timestamp) {
        let first = first.max(self.ledger.next());
        if first >= end {
            return;
        }
        self.ledger.skip_to(first);
        self.ledger.accept(end - first);
        let count = self.ledger.settle_range(first, end - 1, Fate::Quarantined);
        let detail = Some(path.display().to_string());
        self.gap((first, end - 1), count, Reason::Damaged, (None, None), detail, now);
    }
}
