//! Reads a segment from front to back, past damage.

use super::fs::LogFile;
use super::log::CACHED_BYTES;
use super::segment::{COMMON_LEN, Entries, HEADER_LEN, Header, HeaderError, MAX_BODY, Step, resync, step};
use crate::record::Sequenced;
use std::io;

/// Bytes that are read at a time.
pub(super) const CHUNK: usize = 32 * 1024;

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A whole record.
    Entry(Sequenced),
    /// Bytes that are no entry, with whole entries behind them.
    Damage(Region),
    /// Nothing more; bytes that are left are the beginning of an entry at best.
    End(Option<Region>),
}

/// Bytes of a segment that are no entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Where they start in the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A place in a segment.
pub struct SegmentReader {
    file: Box<dyn LogFile>,
    header: Result<Header, HeaderError>,
    /// No copy of the header is damaged.
    header_is_whole: bool,
    entries: Entries,
    /// The sequence number of the last entry.
    last: u64,
    /// Bytes read and not yet parsed begin at `parsed`.
    buffer: Vec<u8>,
    parsed: usize,
    /// Offset in the file of the end of `buffer`.
    offset: u64,
    /// The kernel was told that it need not keep the bytes before this one in its cache.
    dropped_to: u64,
}

impl SegmentReader {
    /// At the first entry. A header that can't be used is kept as an error, for entries may stand behind it.
    /// `first` is the number that the segment is named after.
    pub fn new(file: Box<dyn LogFile>, first: u64) -> io::Result<Self> {
        let mut reader = SegmentReader {
            file,
            header: Err(HeaderError::Incomplete),
            header_is_whole: false,
            entries: Entries::Unknown,
            last: first.saturating_sub(1),
            buffer: Vec::new(),
            parsed: 0,
            offset: 0,
            dropped_to: 0,
        };
        reader.fill(HEADER_LEN)?;
        reader.header = Header::decode(&reader.buffer);
        reader.header_is_whole = Header::is_whole(&reader.buffer);
        let header = reader.header.as_ref().ok().copied();
        let start = match header {
            Some(header) => {
                reader.entries = header.entries();
                header.end()
            }
            // It may have been one of either version: the first entry tells. Without that one, too, all is searched.
            None if !reader.begins_at(COMMON_LEN, first)? && reader.begins_at(HEADER_LEN, first)? => HEADER_LEN,
            None => COMMON_LEN,
        };
        reader.parsed = start.min(reader.buffer.len());
        Ok(reader)
    }

    /// Whether the first entry stands at `start`. Before anything is parsed.
    fn begins_at(&mut self, start: usize, first: u64) -> io::Result<bool> {
        loop {
            match step(self.buffer.get(start..).unwrap_or_default(), self.entries) {
                Step::Entry { record, .. } => return Ok(record.seq == first),
                Step::Incomplete { needed } if self.fill(start.saturating_add(needed))? => {}
                Step::Incomplete { .. } | Step::Corrupt => return Ok(false),
            }
        }
    }

    /// What the segment says of itself.
    pub fn header(&self) -> &Result<Header, HeaderError> {
        &self.header
    }

    /// Whether no copy of the header is damaged: one whole copy is enough to read it.
    pub fn header_is_whole(&self) -> bool {
        self.header_is_whole
    }

    /// Where the next entry starts in the file.
    pub fn position(&self) -> u64 {
        let unparsed = self.buffer.len().saturating_sub(self.parsed);
        self.offset.saturating_sub(u64::try_from(unparsed).unwrap_or(u64::MAX))
    }

    /// Goes one step. At the end it may be called again after the file has grown.
    pub fn next(&mut self) -> io::Result<Next> {
        loop {
            match step(self.rest(), self.entries) {
                // Another number is no entry of this segment, though a whole one: old bytes that a file system left behind.
                Step::Entry { record, .. } if Some(record.seq) != self.last.checked_add(1) => return self.damage(),
                Step::Entry { record, length } => {
                    self.parsed += length;
                    self.last = record.seq;
                    return Ok(Next::Entry(record));
                }
                Step::Incomplete { needed } => {
                    if self.rest().is_empty() && !self.fill(CHUNK)? {
                        return Ok(Next::End(None));
                    }
                    if self.rest().len() < needed && !self.fill(needed)? && self.rest().len() < needed {
                        return self.damage();
                    }
                }
                Step::Corrupt => return self.damage(),
            }
        }
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.parsed..).unwrap_or_default()
    }

    /// Reads on until `wanted` unparsed bytes are there. Returns whether anything came. Memory is taken for a chunk at a time:
    /// a damaged length may ask for more bytes than the file has.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        self.buffer.drain(..self.parsed.min(self.buffer.len()));
        self.parsed = 0;
        if self.buffer.is_empty() {
            // A single huge record must not keep its memory.
            self.buffer.shrink_to(CHUNK);
        }
        let before = self.buffer.len();
        while self.buffer.len() < wanted {
            let have = self.buffer.len();
            self.buffer.reserve_exact(CHUNK);
            self.buffer.resize(have + CHUNK, 0);
            let target = self.buffer.get_mut(have..).unwrap_or_default();
            let count = self.file.read_at(target, self.offset).inspect_err(|_| self.buffer.truncate(have))?;
            self.buffer.truncate(have + count);
            self.offset += u64::try_from(count).unwrap_or(0);
            if self.offset >= self.dropped_to.saturating_add(CACHED_BYTES) {
                self.file.drop_cache(self.offset);
                self.dropped_to = self.offset;
            }
            if count == 0 {
                break;
            }
        }
        Ok(self.buffer.len() > before)
    }

    /// No entry starts here: finds the next one in the rest of the file, which is read whole (a segment at the most).
    fn damage(&mut self) -> io::Result<Next> {
        let offset = self.position();
        while self.rest().len() < MAX_BODY && self.fill(self.rest().len() + CHUNK)? {}
        match resync(self.rest(), self.entries, self.last) {
            Some((length, seq)) => {
                self.last = seq.saturating_sub(1);
                let bytes = self.rest().get(..length).unwrap_or_default().to_vec();
                self.parsed += length;
                Ok(Next::Damage(Region { offset, bytes }))
            }
            None => {
                let bytes = self.rest().to_vec();
                self.parsed = self.buffer.len();
                Ok(Next::End(Some(Region { offset, bytes })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Encoding, Record, Timestamp};
    use crate::spool::fs::{Disk, FileSystem as _};
    use crate::spool::segment::{Base, encode_entry};
    use std::path::Path;

    fn record(seq: u64, size: usize) -> Sequenced {
        let time = Timestamp { wall_ms: 1, mono_ms: 2, quality: ClockQuality::Trusted };
        let record = Record { topic: "t".into(), time, encoding: Encoding::Text, data: vec![b'x'; size] };
        Sequenced { seq, record }
    }

    fn segment(records: &[Sequenced]) -> Vec<u8> {
        let base = Base { wall_ms: 1, mono_ms: 2 };
        let mut bytes = Header { first: 1, done: 0, created_ms: 0, boot_id: [0; 16], base: Some(base) }.encode();
        records.iter().for_each(|record| encode_entry(record, base, &mut bytes).unwrap());
        bytes
    }

    fn read(dir: &Path, bytes: &[u8]) -> Vec<Next> {
        let path = dir.join("a.seg");
        std::fs::write(&path, bytes).unwrap();
        let mut reader = SegmentReader::new(Disk.open(&path).unwrap(), 1).unwrap();
        let mut all = Vec::new();
        loop {
            all.push(reader.next().unwrap());
            if let Some(Next::End(_)) = all.last() {
                return all;
            }
        }
    }

    #[test]
    fn records_of_any_size_never_stop_the_reader() {
        let dir = tempfile::tempdir().unwrap();
        let records: Vec<_> = [0, 1, 100, CHUNK - 30, CHUNK, 5 * CHUNK, 3]
            .iter()
            .zip(1..)
            .map(|(&size, seq)| record(seq, size))
            .collect();
        let mut expected: Vec<_> = records.iter().cloned().map(Next::Entry).collect();
        expected.push(Next::End(None));
        assert_eq!(read(dir.path(), &segment(&records)), expected);
    }

    #[test]
    fn a_damaged_length_never_costs_more_memory_than_the_file_has_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.seg");
        let largest = u32::try_from(MAX_BODY).unwrap().to_le_bytes();
        for size in [0, 10, 3 * CHUNK] {
            let mut bytes = segment(&[record(1, size)]);
            let whole = bytes.len();
            bytes.extend_from_slice(&largest);
            std::fs::write(&path, &bytes).unwrap();
            let mut reader = SegmentReader::new(Disk.open(&path).unwrap(), 1).unwrap();
            assert_eq!(reader.next().unwrap(), Next::Entry(record(1, size)));
            let torn = Region { offset: whole as u64, bytes: largest.to_vec() };
            assert_eq!(reader.next().unwrap(), Next::End(Some(torn)));
            let capacity = reader.buffer.capacity();
            assert!(capacity <= bytes.len() + CHUNK, "{capacity} bytes for a file of {}", bytes.len());
        }
    }

    #[test]
    fn a_torn_tail_is_never_taken_for_damage_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let whole = segment(&[record(1, 10)]);
        let both = segment(&[record(1, 10), record(2, 10)]);
        for cut in whole.len() + 1..both.len() {
            let all = read(dir.path(), &both[..cut]);
            let torn = Region { offset: whole.len() as u64, bytes: both[whole.len()..cut].to_vec() };
            assert_eq!(all, [Next::Entry(record(1, 10)), Next::End(Some(torn))]);
        }
    }

    #[test]
    fn a_flipped_byte_never_costs_more_than_its_record() {
        let dir = tempfile::tempdir().unwrap();
        let one = segment(&[record(1, 10)]).len();
        let two = segment(&[record(1, 10), record(2, 40)]).len();
        let bytes = segment(&[record(1, 10), record(2, 40), record(3, 10)]);
        for at in one..two {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x80;
            let all = read(dir.path(), &damaged);
            let region = Region { offset: one as u64, bytes: damaged[one..two].to_vec() };
            assert_eq!(
                all,
                [Next::Entry(record(1, 10)), Next::Damage(region), Next::Entry(record(3, 10)), Next::End(None)]
            );
        }
    }
}
