//! The checkpoint of a stream: how far the broker has acknowledged, and the ledger. Pure, no I/O.
//!
//! A small file that is replaced as a whole (write a temporary one, fsync, rename, fsync the folder):
//! magic `pillchk\n`, format version (u16, little endian), CRC-32C of the body (u32), then the body in postcard.

use super::segment::checksum;
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"pillchk\n";
const VERSION: u16 = 1;
/// No stream ever comes near this number; from here on adding to one might overflow.
const NUMBERS_END: u64 = 1 << 63;

/// What is known of a stream besides its segments.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Every record up to this sequence number is done with: delivered, evicted, expired or quarantined.
    pub done: u64,
    /// No record has this sequence number or a higher one yet. While the spool is open this lies ahead of the truth (the
    /// *lease*), so that a crash can't make a number be given twice.
    pub next: u64,
    /// The spool was closed: all records below `next` that are not done with were on disk.
    pub clean: bool,
    /// Records that the broker acknowledged.
    pub delivered: u64,
    /// Records dropped because the stream was full.
    pub evicted: u64,
    /// Records dropped because of their age.
    pub expired: u64,
    /// Records that were damaged or that the broker can't take.
    pub quarantined: u64,
    /// Records never taken in.
    pub refused: u64,
    /// Numbers above `done` that wait for nothing: lost ones that are counted already, and ones never given.
    pub holes: Vec<(u64, u64)>,
}

/// Why a checkpoint can't be used. The segments tell the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// It ends too early, its CRC or its form does not fit, or what it says can't be.
    #[error("the checkpoint is damaged")]
    Corrupt,
    /// It was written by a newer program.
    #[error("the checkpoint's format version is {0}, this program reads up to {VERSION}; upgrade pillion to read it")]
    Newer(u16),
}

impl Checkpoint {
    /// The file's content. Fails only if memory does.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let body = postcard::to_stdvec(self)?;
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&checksum(&body).to_le_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// Reads a file's content.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(CheckpointError::Corrupt)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(CheckpointError::Corrupt)?;
        let (crc, body) = rest.split_first_chunk::<4>().ok_or(CheckpointError::Corrupt)?;
        let version = u16::from_le_bytes(*version);
        if version > VERSION {
            return Err(CheckpointError::Newer(version));
        }
        if checksum(body) != u32::from_le_bytes(*crc) {
            return Err(CheckpointError::Corrupt);
        }
        let checkpoint: Checkpoint = postcard::from_bytes(body).map_err(|_| CheckpointError::Corrupt)?;
        // A hole holds numbers that were given or skipped. A new record that got one of them would never be looked for.
        let is_possible = checkpoint.holes.iter().all(|&(_, last)| last < checkpoint.next);
        if is_possible && checkpoint.done.max(checkpoint.next) < NUMBERS_END {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::Corrupt)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        Checkpoint {
            done: 300,
            next: 1_048_877,
            clean: false,
            delivered: 290,
            evicted: 4,
            expired: 3,
            quarantined: 2,
            refused: 1,
            holes: vec![(310, 312)],
        }
    }

    #[test]
    fn the_format_on_disk_never_changes_unnoticed() {
        let hex: String = sample().encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../tests/fixtures/spool/checkpoint-v1.hex").trim());
    }

    #[test]
    fn a_hole_never_takes_numbers_of_records_to_come() {
        let until = |last| Checkpoint { holes: vec![(310, last)], ..sample() }.encode().unwrap();
        assert!(Checkpoint::decode(&until(sample().next - 1)).is_ok());
        assert_eq!(Checkpoint::decode(&until(sample().next)), Err(CheckpointError::Corrupt));
    }

    #[test]
    fn numbers_never_overflow() {
        for (done, next) in [(0, u64::MAX), (u64::MAX, 0), (0, NUMBERS_END)] {
            let bytes = Checkpoint { done, next, holes: Vec::new(), ..sample() }.encode().unwrap();
            assert_eq!(Checkpoint::decode(&bytes), Err(CheckpointError::Corrupt));
        }
    }

    #[test]
    fn damage_is_never_believed() {
        let bytes = sample().encode().unwrap();
        assert_eq!(Checkpoint::decode(&bytes), Ok(sample()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(Checkpoint::decode(&damaged).is_err(), "byte {at}");
            assert!(Checkpoint::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
