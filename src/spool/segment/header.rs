//! The header of a segment: what the file says of itself, twice.
//!
//! Constraint: the first 56 bytes mean the same in every version, so that each program knows what is too new for it.

use super::{Base, Entries, checksum};

/// First bytes of every segment.
const MAGIC: [u8; 8] = *b"pillseg\n";
/// The format that this program writes.
pub const VERSION: u16 = 2;
/// Length in bytes of what all versions have: all of the header in version 1.
pub const COMMON_LEN: usize = 56;
/// Length of one copy of the header in version 2, in bytes.
pub const COPY_LEN: usize = COMMON_LEN + 20;
/// Length of a header in bytes: both copies.
pub const HEADER_LEN: usize = 2 * COPY_LEN;

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
    /// What the times of its entries count from. `None`: it is of version 1, where they need nothing.
    pub base: Option<Base>,
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
    /// The header as it stands on disk, all copies of it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        let version = if self.base.is_some() { VERSION } else { 1 };
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.done.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.boot_id);
        out.extend_from_slice(&checksum(&out).to_le_bytes());
        if let Some(base) = self.base {
            out.extend_from_slice(&base.wall_ms.to_le_bytes());
            out.extend_from_slice(&base.mono_ms.to_le_bytes());
            out.extend_from_slice(&checksum(&out).to_le_bytes());
            out.extend_from_within(..);
        }
        out
    }

    /// Reads the header at the start of `bytes`; [`HEADER_LEN`] of them are enough. One whole copy will do.
    pub fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        match decode_copy(bytes) {
            Err(HeaderError::Newer(version)) => Err(HeaderError::Newer(version)),
            Err(error) => second_copy(bytes).ok_or(error),
            whole => whole,
        }
    }

    /// Whether no copy of the header at the start of `bytes` is damaged.
    pub fn is_whole(bytes: &[u8]) -> bool {
        decode_copy(bytes).is_ok_and(|header| header.base.is_none() || second_copy(bytes) == Some(header))
    }

    /// Where the first entry begins, in bytes from the start of the file.
    pub fn end(&self) -> usize {
        if self.base.is_some() { HEADER_LEN } else { COMMON_LEN }
    }

    /// What the entries behind it are.
    pub fn entries(&self) -> Entries {
        self.base.map_or(Entries::V1, Entries::V2)
    }
}

fn second_copy(bytes: &[u8]) -> Option<Header> {
    decode_copy(bytes.get(COPY_LEN..)?).ok().filter(|header| header.base.is_some())
}

/// Reads one copy, or the header of version 1.
fn decode_copy(bytes: &[u8]) -> Result<Header, HeaderError> {
    let start = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if !MAGIC.starts_with(start) && start.iter().any(|&byte| byte != 0) {
        return Err(HeaderError::Foreign);
    }
    let mut fields = Fields(bytes);
    let common = bytes.get(..COMMON_LEN).ok_or(HeaderError::Incomplete)?;
    let magic: [u8; 8] = fields.take()?;
    if magic == [0; MAGIC.len()] {
        // The file grew, and the power went before its bytes were there.
        return Err(HeaderError::Incomplete);
    }
    check(common)?;
    let version = u16::from_le_bytes(fields.take()?);
    if version > VERSION {
        return Err(HeaderError::Newer(version));
    }
    let _reserved: [u8; 2] = fields.take()?;
    let mut header = Header {
        first: u64::from_le_bytes(fields.take()?),
        done: u64::from_le_bytes(fields.take()?),
        created_ms: u64::from_le_bytes(fields.take()?),
        boot_id: fields.take()?,
        base: None,
    };
    if version == VERSION {
        check(bytes.get(..COPY_LEN).ok_or(HeaderError::Incomplete)?)?;
        let _checked: [u8; 4] = fields.take()?;
        let wall_ms = u64::from_le_bytes(fields.take()?);
        header.base = Some(Base { wall_ms, mono_ms: u64::from_le_bytes(fields.take()?) });
    }
    Ok(header)
}

/// The last four bytes are the CRC of those before them.
fn check(bytes: &[u8]) -> Result<(), HeaderError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(HeaderError::Incomplete)?;
    if checksum(body) == u32::from_le_bytes(*crc) { Ok(()) } else { Err(HeaderError::Corrupt) }
}

/// Takes fixed-size fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(HeaderError::Incomplete)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let base = Some(Base { wall_ms: 1_795_401_667_123, mono_ms: 77 });
        Header { first: 7, done: 3, created_ms: 1_795_401_667_123, boot_id: *b"0123456789abcdef", base }
    }

    fn version_1() -> Header {
        Header { base: None, ..header() }
    }

    #[test]
    fn a_damaged_header_is_never_believed() {
        let bytes = version_1().encode();
        assert_eq!((bytes.len(), version_1().end()), (COMMON_LEN, COMMON_LEN));
        assert_eq!((Header::decode(&bytes), Header::is_whole(&bytes)), (Ok(version_1()), true));
        assert_eq!(Header::decode(&bytes[..COMMON_LEN - 1]), Err(HeaderError::Incomplete));
        for at in 8..COMMON_LEN {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(Header::decode(&damaged), Err(HeaderError::Corrupt), "byte {at}");
        }
        let both = header().encode();
        for (at, also) in (8..COPY_LEN).flat_map(|at| [(at, COPY_LEN), (at, COPY_LEN + at), (at, HEADER_LEN - 1)]) {
            let mut damaged = both.clone();
            damaged[at] ^= 0x10;
            damaged[also] ^= 0x10;
            assert_eq!(Header::decode(&damaged), Err(HeaderError::Corrupt), "bytes {at} and {also}");
        }
        assert_eq!(Header::decode(&[b'x'; HEADER_LEN]), Err(HeaderError::Foreign));
        assert_eq!(Header::decode(&[0; HEADER_LEN]), Err(HeaderError::Incomplete));
    }

    #[test]
    fn one_damaged_copy_never_costs_anything() {
        let bytes = header().encode();
        assert_eq!((bytes.len(), header().end()), (HEADER_LEN, HEADER_LEN));
        assert_eq!((Header::decode(&bytes), Header::is_whole(&bytes)), (Ok(header()), true));
        for at in 0..HEADER_LEN {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!((Header::decode(&damaged), Header::is_whole(&damaged)), (Ok(header()), false), "byte {at}");
        }
        for copy in [0..COPY_LEN, COPY_LEN..HEADER_LEN] {
            let mut zeros = bytes.clone();
            zeros[copy].fill(0);
            assert_eq!(Header::decode(&zeros), Ok(header()));
        }
        for cut in 0..HEADER_LEN {
            let whole = if cut < COPY_LEN { Err(HeaderError::Incomplete) } else { Ok(header()) };
            assert_eq!(
                (Header::decode(&bytes[..cut]), Header::is_whole(&bytes[..cut])),
                (whole, false),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_newer_format_is_never_called_damage_by_this_program_nor_by_an_older_one() {
        let mut newer = header().encode();
        newer[8] = 3;
        let crc = checksum(&newer[..COMMON_LEN - 4]).to_le_bytes();
        newer[COMMON_LEN - 4..COMMON_LEN].copy_from_slice(&crc);
        assert_eq!(Header::decode(&newer), Err(HeaderError::Newer(3)));
        // What the reader of version 1 looks at.
        let now = header().encode();
        assert_eq!(check(&now[..COMMON_LEN]), Ok(()));
        assert_eq!(now[8..10], [2, 0]);
    }
}
