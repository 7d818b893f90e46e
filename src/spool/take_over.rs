//! Taking over what an earlier process of this boot left in the runtime tier.
//!
//! Constraint: it changes nothing there, so a process that dies meanwhile leaves the same to the next one. The records become
//! pending, under their numbers; numbers between them were delivered from memory, and are passed over.
//!
//! Where the tier can't be read at the start, its records are taken over late, when it can. By then numbers behind theirs may have
//! been given, so they get new ones.

use super::Reason;
use super::fs::FileSystem;
use super::ledger::{Fate, Ledger};
use super::log::{Log, Pending, cost};
use super::open::set_aside;
use super::reader::{Next, SegmentReader};
use super::runtime::{Closed, Left, Runtime};
use crate::record::{Record, Sequenced, Timestamp};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file of the runtime tier still has, looked at late.
struct Late {
    first: u64,
    path: PathBuf,
    /// Records that wait.
    records: Vec<Record>,
    /// How many more there were that can't be decoded.
    damaged: u64,
}

/// Reads the files of the runtime tier late.
struct LateReader {
    fs: Arc<dyn FileSystem>,
    /// Flash or an earlier file had all before this number.
    from: u64,
    /// Both know of records that don't wait any more: what flash said at the start, and the checkpoint of the tier.
    known: [Ledger; 2],
}

impl LateReader {
    fn read(&mut self, first: u64, path: PathBuf) -> io::Result<Late> {
        let mut reader = SegmentReader::new(self.fs.open(&path)?, first)?;
        let mut late = Late { first, path, records: Vec::new(), damaged: 0 };
        let done = self.known.iter().map(Ledger::done).max().unwrap_or(0);
        let mut end = first.max(self.from).max(done.saturating_add(1));
        loop {
            match reader.next()? {
                Next::Entry(record) if record.seq < end => {}
                Next::Entry(record) => {
                    late.damaged = late.damaged.saturating_add(record.seq - end);
                    end = record.seq.saturating_add(1);
                    if self.known.iter().all(|known| known.skip_holes(record.seq) == record.seq) {
                        late.records.push(record.record);
                    }
                }
                Next::Damage(_) => {}
                // The process was killed while it wrote.
                Next::End(_) => {
                    self.from = end;
                    return Ok(late);
                }
            }
        }
    }
}

impl Log {
    /// Takes over, under new numbers, what an earlier process left in a runtime tier that could not be read when the log was
    /// opened, if it can be now. Its files stay until flash has the records.
    pub(super) fn take_over_late(&mut self, now: Timestamp) {
        let Some(runtime) = self.runtime.as_mut().filter(|runtime| runtime.unlisted) else { return };
        let looked = match self.unlisted {
            // Flash may have the same ones.
            true => Err(io::Error::other("it is left alone in this run; restart pillion to take up what may be there")),
            false => read_late(runtime, &self.fs),
        };
        match looked {
            Ok((left, late)) => self.renumber(left, late, now),
            Err(error) => runtime.note_trouble(&error, now),
        }
    }

    fn renumber(&mut self, left: Left, late: Vec<Late>, now: Timestamp) {
        let (mut closed, mut count) = (VecDeque::new(), 0);
        for Late { first, path, records, damaged } in late {
            let taken = u64::try_from(records.len()).unwrap_or(u64::MAX);
            self.lease(taken.saturating_add(damaged), now);
            count += taken;
            for record in records {
                let seq = self.ledger.accept(1);
                self.pending_bytes += cost(&record);
                let since_ms = record.time.mono_ms.min(now.mono_ms);
                self.pending.push_back(Pending { record: Sequenced { seq, record }, since_ms });
            }
            let next = self.ledger.next();
            self.count_damaged(next, next.saturating_add(damaged), &path, now);
            closed.push_back(Closed { first, end: self.ledger.next() });
        }
        let Some(runtime) = &mut self.runtime else { return };
        runtime.closed = closed;
        runtime.unlisted = false;
        let (name, dir) = (&self.rules.stream.name, runtime.dir.display());
        for (file, why) in left.set_aside {
            let file = file.display();
            tracing::warn!(stream = %name, %file, "stream {name}: set aside as {file}: {why}");
        }
        if count > 0 {
            tracing::warn!(stream = %name, %dir,
                "{dir} can be read again; {count} records that an earlier run left there are taken over, under new numbers");
        }
        // The error is kept in `trouble`.
        let _ = self.commit(now);
    }

    /// Takes over the records that an earlier process of this boot left in the runtime tier and that flash does not have.
    /// Returns how many, and the files that can't be read.
    pub(super) fn take_over(&mut self, now: Timestamp) -> (u64, Vec<(PathBuf, String)>) {
        let Some(runtime) = &mut self.runtime else { return (0, Vec::new()) };
        if runtime.unlisted {
            runtime.before = self.ledger.clone();
            return (0, Vec::new());
        }
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

/// What an earlier run left in the runtime tier, and the records of it that wait.
fn read_late(runtime: &mut Runtime, fs: &Arc<dyn FileSystem>) -> io::Result<(Left, Vec<Late>)> {
    let left = runtime.look()?;
    let files = std::mem::take(&mut runtime.closed);
    let noted = left.checkpoint.as_ref().map(Ledger::from_checkpoint).unwrap_or_default();
    let from = runtime.before.next();
    let mut reader = LateReader { fs: Arc::clone(fs), from, known: [runtime.before.clone(), noted] };
    let late = files.into_iter().map(|Closed { first, .. }| reader.read(first, runtime.path_of(first)));
    Ok((left, late.collect::<io::Result<_>>()?))
}
