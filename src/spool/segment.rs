//! The bytes of a segment: header, entries, and how damage is told from a torn tail. Pure, no I/O.
//!
//! The layout is described at the head of [`crate::spool`].

use crate::record::Sequenced;
use crc::{CRC_32_ISCSI, Crc, Table};

/// CRC-32C (Castagnoli), RFC 3720 section 12.1.
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// First bytes of every segment.
const MAGIC: [u8; 8] = *b"pillseg\n";
/// The format that this version writes.
pub const VERSION: u16 = 1;
/// Length of a header in bytes.
pub const HEADER_LEN: usize = 56;
/// Length and CRC in front of an entry's body, in bytes.
pub const ENTRY_HEAD: usize = 8;
/// The shortest entry in bytes: its head, and a body of one byte for each of its seven fields.
const MIN_ENTRY: usize = ENTRY_HEAD + 7;
/// The longest body of an entry in bytes: the largest `mqtt.max_payload` (8 MiB) and room for topic and time.
pub const MAX_BODY: usize = 9 * 1024 * 1024;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sequence number of the first entry.
    pub first: u64,
    /// All records up to this one were done with when the segment was created.
    pub done: u64,
    /// Wall clock of the first record, milliseconds since 1970; 0 if it was not to be trusted.
    pub created_ms: u64,
    /// The boot in which it was written (the kernel's boot id), or zeros.
    pub boot_id: [u8; 16],
}

/// Why a header can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file ends within the header.
    #[error("the header is incomplete")]
    Incomplete,
    /// The magic is another one.
    #[error("it is no segment of a pillion spool")]
    Foreign,
    /// The format is newer than this program.
    #[error("its format version is {0}, this program reads up to {VERSION}; upgrade pillion to read it")]
    Newer(u16),
    /// The CRC does not fit.
    #[error("the header is damaged")]
    Corrupt,
}

impl Header {
    /// The header as it stands on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.done.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.boot_id);
        out.extend_from_slice(&CRC32C.checksum(&out).to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let start = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if !MAGIC.starts_with(start) && start.iter().any(|&byte| byte != 0) {
            return Err(HeaderError::Foreign);
        }
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(HeaderError::Incomplete)?;
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(HeaderError::Incomplete)?;
        let (magic, rest) = body.split_first_chunk::<8>().ok_or(HeaderError::Incomplete)?;
        if *magic == [0; MAGIC.len()] {
            // The file grew, and the power went before its bytes were there.
            return Err(HeaderError::Incomplete);
        }
        if CRC32C.checksum(body) != u32::from_le_bytes(*crc) {
            return Err(HeaderError::Corrupt);
        }
        let mut fields = Fields(rest);
        let version = u16::from_le_bytes(fields.take().ok_or(HeaderError::Incomplete)?);
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        let _reserved: [u8; 2] = fields.take().ok_or(HeaderError::Incomplete)?;
        Ok(Header {
            first: u64::from_le_bytes(fields.take().ok_or(HeaderError::Incomplete)?),
            done: u64::from_le_bytes(fields.take().ok_or(HeaderError::Incomplete)?),
            created_ms: u64::from_le_bytes(fields.take().ok_or(HeaderError::Incomplete)?),
            boot_id: fields.take().ok_or(HeaderError::Incomplete)?,
        })
    }
}

/// Takes fixed-size fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

/// CRC over the length and the body, so that a flipped bit in either shows.
fn entry_crc(length: [u8; 4], body: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&length);
    digest.update(body);
    digest.finalize()
}

/// CRC-32C of `bytes`, for the spool's other files.
pub fn checksum(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes)
}

/// An entry could not be written down: its record is larger than [`MAX_BODY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is larger than {MAX_BODY} bytes")]
pub struct TooLarge;

/// Appends the entry of `record` to `out`. On an error `out` is as it was.
pub fn encode_entry(record: &Sequenced, out: &mut Vec<u8>) -> Result<(), TooLarge> {
    let body = postcard::to_stdvec(record).map_err(|_| TooLarge)?;
    if body.len() > MAX_BODY {
        return Err(TooLarge);
    }
    let length = u32::try_from(body.len()).map_err(|_| TooLarge)?.to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&entry_crc(length, &body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole entry of `length` bytes, head included.
    Entry {
        /// What it holds.
        record: Sequenced,
        /// Its bytes on disk.
        length: usize,
    },
    /// The beginning of an entry; `needed` bytes in all would show what it is.
    Incomplete {
        /// Bytes from the entry's start.
        needed: usize,
    },
    /// No entry starts here.
    Corrupt,
}

/// Looks at the front of `bytes`.
pub fn step(bytes: &[u8]) -> Step {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Step::Incomplete { needed: ENTRY_HEAD };
    };
    let body_len = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if body_len == 0 || body_len > MAX_BODY {
        return Step::Corrupt;
    }
    let needed = ENTRY_HEAD + body_len;
    let Some((crc, rest)) = rest.split_first_chunk::<4>() else {
        return Step::Incomplete { needed };
    };
    let Some(body) = rest.get(..body_len) else {
        return Step::Incomplete { needed };
    };
    if entry_crc(*length, body) != u32::from_le_bytes(*crc) {
        return Step::Corrupt;
    }
    match postcard::from_bytes(body) {
        Ok(record) => Step::Entry { record, length: needed },
        Err(_) => Step::Corrupt,
    }
}

/// The place of the next whole entry in `bytes`, from 1 on: its offset and its sequence number. This is where reading goes on
/// behind damage, when the last good entry was number `after`.
pub fn resync(bytes: &[u8], after: u64) -> Option<(usize, u64)> {
    (1..bytes.len()).find_map(|start| {
        let rest = bytes.get(start..)?;
        // First the cheap question: the CRCs of all that might be a length would take hours.
        let seq = number_of(rest)?;
        let skipped = seq.checked_sub(after.checked_add(1)?)?;
        let possible = skipped <= u64::try_from(start / MIN_ENTRY).unwrap_or(u64::MAX);
        (possible && matches!(step(rest), Step::Entry { .. })).then_some((start, seq))
    })
}

/// The sequence number of the entry that may stand at the front of `bytes`.
fn number_of(bytes: &[u8]) -> Option<u64> {
    postcard::take_from_bytes(bytes.get(ENTRY_HEAD..)?).ok().map(|(seq, _)| seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Encoding, Record, Timestamp};
    use proptest::prelude::*;

    fn record(seq: u64, data: &[u8]) -> Sequenced {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 77, quality: ClockQuality::Trusted };
        let record = Record { topic: "device/meter/data".into(), time, encoding: Encoding::Json, data: data.to_vec() };
        Sequenced { seq, record }
    }

    fn header() -> Header {
        Header { first: 7, done: 3, created_ms: 1_795_401_667_123, boot_id: *b"0123456789abcdef" }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_format_on_disk_never_changes_unnoticed() {
        let mut bytes = header().encode();
        encode_entry(&record(7, b"{\"v\":1}"), &mut bytes).unwrap();
        encode_entry(&record(8, &[0, 255, 10]), &mut bytes).unwrap();
        assert_eq!(hex(&bytes), include_str!("../../tests/fixtures/spool/segment-v1.hex").trim());
    }

    #[test]
    fn a_damaged_header_is_never_believed() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), HEADER_LEN);
        assert_eq!(Header::decode(&bytes), Ok(header()));
        assert_eq!(Header::decode(&bytes[..HEADER_LEN - 1]), Err(HeaderError::Incomplete));
        assert_eq!(Header::decode(&[b'x'; HEADER_LEN]), Err(HeaderError::Foreign));
        for at in 8..HEADER_LEN {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Header::decode(&damaged), Err(HeaderError::Corrupt), "byte {at}");
        }
        let mut newer = bytes[..HEADER_LEN - 4].to_vec();
        newer[8] = 2;
        newer.extend_from_slice(&checksum(&newer).to_le_bytes());
        assert_eq!(Header::decode(&newer), Err(HeaderError::Newer(2)));
    }

    #[test]
    fn incomplete_is_never_taken_for_corrupt() {
        let mut bytes = Vec::new();
        encode_entry(&record(1, b"22.5"), &mut bytes).unwrap();
        for cut in 0..bytes.len() {
            assert!(matches!(step(&bytes[..cut]), Step::Incomplete { .. }), "cut at {cut}");
        }
        let length = bytes.len();
        assert_eq!(step(&bytes), Step::Entry { record: record(1, b"22.5"), length });
    }

    #[test]
    fn a_flipped_bit_never_passes() {
        let mut bytes = Vec::new();
        encode_entry(&record(1, b"22.5"), &mut bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(step(&damaged), Step::Entry { .. }), "bit {bit}");
        }
    }

    #[test]
    fn damage_never_hides_the_entry_behind_it() {
        let mut bytes = Vec::new();
        encode_entry(&record(1, b"first"), &mut bytes).unwrap();
        let second = bytes.len();
        encode_entry(&record(2, b"second"), &mut bytes).unwrap();
        bytes[12] ^= 1;
        assert_eq!(step(&bytes), Step::Corrupt);
        assert_eq!(resync(&bytes, 0), Some((second, 2)));
        assert_eq!(resync(&bytes[..bytes.len() - 1], 0), None);
    }

    #[test]
    fn damage_never_lets_a_record_of_another_place_in() {
        let mut bytes = vec![0xff; 40];
        encode_entry(&record(9, b"stale"), &mut bytes).unwrap();
        assert_eq!(resync(&bytes, 8), Some((40, 9)));
        assert_eq!(resync(&bytes, 6), Some((40, 9)), "40 bytes may have been two entries");
        assert_eq!(resync(&bytes, 5), None, "but not three");
        assert_eq!(resync(&bytes, 9), None, "and numbers never go back");
        assert_eq!(resync(&bytes, u64::MAX), None);
    }

    /// Zeros with lengths among them: at every place an entry might start, by its length.
    #[test]
    fn damage_never_takes_hours_to_pass() {
        let bytes: Vec<u8> = [0, 0, 8, 0].repeat(1 << 18);
        assert_eq!(resync(&bytes, 0), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = step(&bytes);
            let _ = resync(&bytes, 0);
            let _ = Header::decode(&bytes);
        }
    }
}
