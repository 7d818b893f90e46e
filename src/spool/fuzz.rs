//! The decoders of the spool, for the fuzz targets in `fuzz/`: bytes in memory instead of files.
//!
//! Constraint: no part of the interface; nothing else calls it.

use super::checkpoint::Checkpoint;
use super::fs::LogFile;
use super::ledger::Ledger;
use super::reader::{CHUNK, Next, SegmentReader};
use super::segment::{Base, Entries, Header, Step, encode_entry, step};
use crate::record::{Sequenced, Timestamp};
use crate::stats::StreamStatus;
use std::io;
use std::ops::Range;

/// What reading a segment takes at most in one allocation, beyond the length of its file, in bytes.
pub const SLACK: usize = CHUNK;

/// What stands in some bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An entry.
    Record(Sequenced),
    /// These bytes, which are no entry.
    Damage(Vec<u8>),
}

/// A file that is read in pieces of so many bytes at the most.
struct Pieces {
    bytes: Vec<u8>,
    piece: usize,
}

impl LogFile for Pieces {
    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len()).min(self.piece);
        if let (Some(target), Some(source)) = (buffer.get_mut(..count), rest.get(..count)) {
            target.copy_from_slice(source);
        }
        Ok(count)
    }
}

/// Reads a segment that is named after the number in its header, at most `piece` bytes at a time, and shows what stands
/// behind the header, with its place in the file.
pub fn segment(bytes: &[u8], piece: usize, mut found: impl FnMut(Range<u64>, Found)) -> io::Result<()> {
    let first = Header::decode(bytes).map_or(1, |header| header.first);
    let mut reader = SegmentReader::new(Box::new(Pieces { bytes: bytes.to_vec(), piece }), first)?;
    loop {
        let start = reader.position();
        let next = reader.next()?;
        let place = start..reader.position();
        match next {
            Next::Entry(record) => found(place, Found::Record(record)),
            Next::Damage(region) => found(place, Found::Damage(region.bytes)),
            Next::End(None) => return Ok(()),
            Next::End(Some(region)) => {
                found(place, Found::Damage(region.bytes));
                return Ok(());
            }
        }
    }
}

/// The record of an entry of either version that takes up all of `bytes`, in a segment whose first record is of this time.
pub fn record(bytes: &[u8], first: Timestamp) -> Option<Sequenced> {
    let of = |entries| match step(bytes, entries) {
        Step::Entry { record, length } if length == bytes.len() => Some(record),
        _ => None,
    };
    of(Entries::V1).or_else(|| of(Entries::V2(Base::of(first))))
}

/// The entry of a record as the first of its segment, or nothing if it is too large for one.
pub fn entry(record: &Sequenced) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = encode_entry(record, Base::of(record.record.time), &mut out);
    out
}

/// What the bytes of a checkpoint say.
pub fn checkpoint(bytes: &[u8]) -> Option<Checkpoint> {
    Checkpoint::decode(bytes).ok()
}

/// The ledger that a checkpoint makes: its status, and the checkpoint that it makes in turn.
pub fn ledger(checkpoint: &Checkpoint) -> (StreamStatus, Checkpoint) {
    let ledger = Ledger::from_checkpoint(checkpoint);
    (ledger.status(), ledger.to_checkpoint(u64::from(!checkpoint.clean)))
}
