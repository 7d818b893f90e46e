//! The bytes of a segment: header, entries, and how damage is told from a torn tail. Pure, no I/O.
//!
//! The layout is described at the head of [`crate::spool`].

mod body;
mod header;

#[cfg(test)]
pub use header::COPY_LEN;
pub use header::{COMMON_LEN, HEADER_LEN, Header, HeaderError};

use crate::record::{Sequenced, Timestamp};
use crc::{CRC_32_ISCSI, Crc, Table};

/// CRC-32C (Castagnoli), RFC 3720 section 12.1.
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Length and CRC in front of an entry's body, in bytes.
pub const ENTRY_HEAD: usize = 8;
/// The shortest entry in bytes: its head, and a body of one byte for each of flags, number, two times, and topic.
const MIN_ENTRY: usize = ENTRY_HEAD + 5;
/// The longest body of an entry in bytes: the largest `mqtt.max_payload` (8 MiB) and room for topic and time. Less than 2^24,
/// so that the fourth byte of the length is left for the mark.
pub const MAX_BODY: usize = 9 * 1024 * 1024;
/// What stands behind the three bytes of an entry's length in version 1, and in version 2.
const MARKS: (u8, u8) = (0, 2);

/// What the times of a segment's entries count from: those of its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Wall clock, milliseconds since 1970, right or not.
    pub wall_ms: u64,
    /// Milliseconds since boot.
    pub mono_ms: u64,
}

impl Base {
    /// The base of a segment whose first record was made then.
    pub fn of(time: Timestamp) -> Base {
        Base { wall_ms: time.wall_ms, mono_ms: time.mono_ms }
    }
}

/// What is known of a segment's entries before they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entries {
    /// They are of version 1.
    V1,
    /// They are of version 2, and their times count from this.
    V2(Base),
    /// The header is damaged: each entry tells its own version, and nobody knows the times of those of version 2.
    Unknown,
}

/// How a body is read.
#[derive(Clone, Copy)]
enum Form {
    V1,
    V2(Option<Base>),
}

impl Entries {
    /// How the body behind this length is read, and how long it is; or nothing, if that is no length of an entry.
    fn body_behind(self, [low, mid, high, mark]: [u8; 4]) -> Option<(Form, usize)> {
        let form = match self {
            Entries::V1 | Entries::Unknown if mark == MARKS.0 => Form::V1,
            Entries::V2(base) if mark == MARKS.1 => Form::V2(Some(base)),
            Entries::Unknown if mark == MARKS.1 => Form::V2(None),
            _ => return None,
        };
        let length = usize::try_from(u32::from_le_bytes([low, mid, high, 0])).unwrap_or(usize::MAX);
        (1..=MAX_BODY).contains(&length).then_some((form, length))
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

/// Appends the entry of `record` to `out`, for a segment of this base. On an error `out` is as it was.
pub fn encode_entry(record: &Sequenced, base: Base, out: &mut Vec<u8>) -> Result<(), TooLarge> {
    append_entry(&body::encode(record, base).ok_or(TooLarge)?, MARKS.1, out)
}

fn append_entry(body: &[u8], mark: u8, out: &mut Vec<u8>) -> Result<(), TooLarge> {
    if body.len() > MAX_BODY {
        return Err(TooLarge);
    }
    let [low, mid, high, _] = u32::try_from(body.len()).map_err(|_| TooLarge)?.to_le_bytes();
    let length = [low, mid, high, mark];
    out.extend_from_slice(&length);
    out.extend_from_slice(&entry_crc(length, body).to_le_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// As version 1 did.
#[cfg(test)]
pub fn encode_entry_v1(record: &Sequenced, out: &mut Vec<u8>) {
    append_entry(&postcard::to_stdvec(record).unwrap(), MARKS.0, out).unwrap();
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
pub fn step(bytes: &[u8], entries: Entries) -> Step {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Step::Incomplete { needed: ENTRY_HEAD };
    };
    let Some((form, body_len)) = entries.body_behind(*length) else { return Step::Corrupt };
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
    let record = match form {
        Form::V1 => body::decode_v1(body),
        Form::V2(base) => body::decode(body, base),
    };
    record.map_or(Step::Corrupt, |record| Step::Entry { record, length: needed })
}

/// The place of the next whole entry in `bytes`, from 1 on: its offset and its sequence number. This is where reading goes on
/// behind damage, when the last good entry was number `after`.
pub fn resync(bytes: &[u8], entries: Entries, after: u64) -> Option<(usize, u64)> {
    (1..bytes.len()).find_map(|start| {
        let rest = bytes.get(start..)?;
        // First the cheap question: the CRCs of all that might be a length would take hours.
        let seq = number_of(rest, entries)?;
        let skipped = seq.checked_sub(after.checked_add(1)?)?;
        let possible = skipped <= u64::try_from(start / MIN_ENTRY).unwrap_or(u64::MAX);
        (possible && matches!(step(rest, entries), Step::Entry { .. })).then_some((start, seq))
    })
}

/// The sequence number of the entry that may stand at the front of `bytes`.
fn number_of(bytes: &[u8], entries: Entries) -> Option<u64> {
    let (form, _) = entries.body_behind(*bytes.first_chunk()?)?;
    let body = bytes.get(ENTRY_HEAD..)?;
    match form {
        Form::V1 => body::number_v1(body),
        Form::V2(_) => body::number(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Encoding, Record, Timestamp};
    use proptest::prelude::*;

    const BASE: Base = Base { wall_ms: 1_795_401_667_000, mono_ms: 70 };
    const ALL: [Entries; 3] = [Entries::V1, Entries::V2(BASE), Entries::Unknown];

    fn record(seq: u64, data: &[u8]) -> Sequenced {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 77, quality: ClockQuality::Trusted };
        let record = Record { topic: "device/meter/data".into(), time, encoding: Encoding::Json, data: data.to_vec() };
        Sequenced { seq, record }
    }

    /// Appends an entry of these, and of version 2 where nobody knows.
    fn append(entries: Entries, seq: u64, data: &[u8], out: &mut Vec<u8>) {
        match entries {
            Entries::V1 => encode_entry_v1(&record(seq, data), out),
            Entries::V2(_) | Entries::Unknown => encode_entry(&record(seq, data), BASE, out).unwrap(),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_format_on_disk_never_changes_unnoticed() {
        let files = [
            (Entries::V1, None, include_str!("../../tests/fixtures/spool/segment-v1.hex")),
            (Entries::V2(BASE), Some(BASE), include_str!("../../tests/fixtures/spool/segment-v2.hex")),
        ];
        for (entries, base, fixture) in files {
            let boot_id = *b"0123456789abcdef";
            let header = Header { first: 7, done: 3, created_ms: 1_795_401_667_123, boot_id, base };
            let mut bytes = header.encode();
            append(entries, 7, b"{\"v\":1}", &mut bytes);
            append(entries, 8, &[0, 255, 10], &mut bytes);
            assert_eq!(hex(&bytes), fixture.trim());
            assert_eq!((Header::decode(&bytes), header.entries()), (Ok(header), entries));
            let Step::Entry { record: read, .. } = step(&bytes[header.end()..], entries) else { panic!("no entry") };
            assert_eq!(read, record(7, b"{\"v\":1}"));
        }
    }

    #[test]
    fn incomplete_is_never_taken_for_corrupt() {
        for entries in ALL {
            let mut bytes = Vec::new();
            append(entries, 1, b"22.5", &mut bytes);
            for cut in 0..bytes.len() {
                assert!(matches!(step(&bytes[..cut], entries), Step::Incomplete { .. }), "cut at {cut}");
            }
            let Step::Entry { record: read, length } = step(&bytes, entries) else { panic!("no entry") };
            assert_eq!((read.seq, read.record.data.as_slice(), length), (1, b"22.5".as_slice(), bytes.len()));
        }
    }

    #[test]
    fn a_flipped_bit_never_passes() {
        for entries in ALL {
            let mut bytes = Vec::new();
            append(entries, 1, b"22.5", &mut bytes);
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(!matches!(step(&damaged, entries), Step::Entry { .. }), "bit {bit}");
            }
        }
    }

    #[test]
    fn an_entry_is_never_read_as_one_of_another_version() {
        let (mut old, mut new) = (Vec::new(), Vec::new());
        append(Entries::V1, 1, b"22.5", &mut old);
        append(Entries::V2(BASE), 1, b"22.5", &mut new);
        assert_eq!((step(&old, Entries::V2(BASE)), step(&new, Entries::V1)), (Step::Corrupt, Step::Corrupt));
        let length = old.len();
        assert_eq!(step(&old, Entries::Unknown), Step::Entry { record: record(1, b"22.5"), length });
        let mut timeless = record(1, b"22.5");
        timeless.record.time = Timestamp::UNKNOWN;
        let length = new.len();
        assert_eq!(step(&new, Entries::Unknown), Step::Entry { record: timeless, length });
    }

    #[test]
    fn damage_never_hides_the_entry_behind_it() {
        for entries in ALL {
            let mut bytes = Vec::new();
            append(entries, 1, b"first", &mut bytes);
            let second = bytes.len();
            append(entries, 2, b"second", &mut bytes);
            bytes[12] ^= 1;
            assert_eq!(step(&bytes, entries), Step::Corrupt);
            assert_eq!(resync(&bytes, entries, 0), Some((second, 2)));
            assert_eq!(resync(&bytes[..bytes.len() - 1], entries, 0), None);
        }
    }

    #[test]
    fn damage_never_lets_a_record_of_another_place_in() {
        for entries in ALL {
            let mut bytes = vec![0xff; 38];
            append(entries, 9, b"stale", &mut bytes);
            assert_eq!(resync(&bytes, entries, 8), Some((38, 9)));
            assert_eq!(resync(&bytes, entries, 6), Some((38, 9)), "38 bytes may have been two entries");
            assert_eq!(resync(&bytes, entries, 5), None, "but not three");
            assert_eq!(resync(&bytes, entries, 9), None, "and numbers never go back");
            assert_eq!(resync(&bytes, entries, u64::MAX), None);
        }
    }

    /// Zeros with lengths among them: at every place an entry might start, by its length.
    #[test]
    fn damage_never_takes_hours_to_pass() {
        for entries in ALL {
            let bytes: Vec<u8> = [0, 0, 8, 0].repeat(1 << 18);
            assert_eq!(resync(&bytes, entries, 0), None);
            let bytes: Vec<u8> = [0, 0, 8, 2].repeat(1 << 18);
            assert_eq!(resync(&bytes, entries, 0), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for entries in ALL {
                let _ = step(&bytes, entries);
                let _ = resync(&bytes, entries, 0);
            }
            let _ = Header::decode(&bytes);
        }
    }
}
