//! Salvages a damaged stream: writes every whole record that waits into a clean folder, under its own number.
//!
//! Constraints: the damaged folder is only read. The new one is made of segments like the old ones, less what is lost, and a
//! checkpoint: its ledger counts what is lost as quarantined, and it says "closed" only where the damaged one did, for else there
//! may be more records in the runtime tier. It is written last, so a folder that was left half done does not look like a whole one.

use super::fs::{FileSystem, LogFile, replace};
use super::inspect::{Finding, Item, Report, inspect};
use super::log::made_at;
use super::open::CHECKPOINT_LIMIT;
use super::segment::{Base, Header, encode_entry};
use crate::record::{Sequenced, Timestamp};
use std::io;
use std::path::Path;

/// Bytes handed to the file system in one write.
const WRITE_BYTES: usize = 64 * 1024;

/// What the new folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Saved {
    /// Records.
    pub records: u64,
    /// Files of them.
    pub segments: u64,
}

/// Writes what waits in the stream's folder `from` into the folder `to`, which must hold nothing. Shows each finding to
/// `found`. Returns what there was, and what is saved.
///
/// # Errors
/// `to` can't be written; what is there then is no use.
pub fn salvage(
    fs: &dyn FileSystem,
    from: &Path,
    to: &Path,
    now: Timestamp,
    mut found: impl FnMut(&Finding),
) -> io::Result<(Report, Saved)> {
    fs.create_dir_all(to)?;
    let mut writer = Writer { fs, dir: to, boot_id: [0; 16], done: 0, open: None, saved: Saved::default() };
    let (report, checkpoint) = inspect(fs, from, now, |item| match item {
        Item::Segment { boot_id, done } => writer.next_segment(boot_id, done),
        Item::Record { record, waits: true } => writer.add(&record),
        Item::Record { waits: false, .. } => Ok(()),
        Item::Finding(finding) => {
            found(finding);
            Ok(())
        }
    })?;
    writer.finish()?;
    fs.sync_dir(to)?;
    let checkpoint = checkpoint.encode().map_err(io::Error::other)?;
    if checkpoint.len() > CHECKPOINT_LIMIT {
        return Err(io::Error::other("the stream is damaged in more places than a checkpoint can hold"));
    }
    replace(fs, &to.join("checkpoint"), &checkpoint)?;
    Ok((report, writer.saved))
}

/// Writes segments.
struct Writer<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    boot_id: [u8; 16],
    done: u64,
    open: Option<Open>,
    saved: Saved,
}

struct Open {
    file: Box<dyn LogFile>,
    /// The number that the next entry must have.
    next: u64,
    base: Base,
    unwritten: Vec<u8>,
}

impl Writer<'_> {
    /// What follows comes out of another segment.
    fn next_segment(&mut self, boot_id: [u8; 16], done: u64) -> io::Result<()> {
        self.boot_id = boot_id;
        self.done = done;
        self.finish()
    }

    fn add(&mut self, record: &Sequenced) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.next != record.seq) {
            // Behind a gap: entries of a segment have none.
            self.finish()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.create(record)?,
        };
        encode_entry(record, open.base, &mut open.unwritten).map_err(io::Error::other)?;
        if open.unwritten.len() >= WRITE_BYTES {
            open.file.append(&open.unwritten)?;
            open.unwritten.clear();
            open.unwritten.shrink_to(WRITE_BYTES * 2);
        }
        open.next = record.seq.saturating_add(1);
        self.open = Some(open);
        self.saved.records += 1;
        Ok(())
    }

    /// Begins a segment with this record.
    fn create(&mut self, record: &Sequenced) -> io::Result<Open> {
        let first = record.seq;
        let created_ms = made_at(&record.record).unwrap_or(0);
        let base = Base::of(record.record.time);
        let header = Header { first, done: self.done, created_ms, boot_id: self.boot_id, base: Some(base) };
        let file = self.fs.create(&self.dir.join(format!("{first:020}.seg")))?;
        self.saved.segments += 1;
        Ok(Open { file, next: first, base, unwritten: header.encode() })
    }

    /// Ends the segment that is being written: it is on the medium.
    fn finish(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.file.append(&open.unwritten)?;
        open.file.sync()
    }
}
