//! Framing: how a device's bytes become frames, and commands for it become bytes.
//!
//! Constraints: pure (no I/O, no clock), fed with chunks of any size, and the frames must not depend on how the bytes
//! were cut into chunks. A decoder holds one frame of at most `MAX_FRAME` bytes and what its framing adds in a fixed
//! buffer; what is longer or damaged is counted and skipped up to a point where a frame can begin again. The bytes of a
//! payload are never changed, and an empty payload is never a frame.
//!
//! # The wire
//!
//! A device sends, one after the other and with nothing between them (`[…]` is there if configured, numbers are bytes):
//!
//! | `kind` | on the wire | file |
//! |---|---|---|
//! | `lines` | payload, \[CRC as digits\], `delimiter`: 1 to 8 ASCII bytes; before LF one CR may stand | [`lines`] |
//! | `cobs` | COBS(payload, \[CRC\]), `00` | [`cobs`] |
//! | `slip` | \[`C0`\], payload and \[CRC\] with `C0` as `DB DC` and `DB` as `DB DD`, `C0` | [`slip`] |
//! | `length-prefixed` | length in 1, 2 or 4 bytes, payload, \[CRC\] | [`length_prefixed`] |
//! | `fixed` | payload, \[CRC\], together always `size` bytes | [`fixed`] |
//! | `idle-gap` | payload, \[CRC\], then silence of at least `gap` | [`idle_gap`] |
//!
//! The length of `length-prefixed` counts payload and CRC, with `includes_header` its own bytes too. `AB CD` is
//! `00 02 AB CD` (2 bytes, big endian), `04 00 AB CD` (2, little, `includes_header`), `02 AB CD` (1) and
//! `00 00 00 02 AB CD` (4, big).
//!
//! COBS cuts the data behind each zero, imagining one more zero at its end, and in front of each piece puts its length
//! instead of the zero: `11 22 00 33` is `03 11 22 02 33`. A piece without a zero ends after 254 bytes and has `FF` as
//! its length.
//!
//! # CRC
//!
//! It is computed over the payload before it is escaped, in `length-prefixed` over length and payload, and stands
//! behind the payload:
//!
//! | `crc` | polynomial, initial value, reflected, final XOR | byte order | of `123456789` | on the wire | in `lines` |
//! |---|---|---|---|---|---|
//! | `crc16-modbus` | 8005, FFFF, yes, 0000 | little endian | 4B37 | `37 4B` | `4B37` |
//! | `crc16-ccitt` | 1021, FFFF, no, 0000 | big endian | 29B1 | `29 B1` | `29B1` |
//! | `crc32` | 04C11DB7, FFFFFFFF, yes, FFFFFFFF | little endian | CBF43926 | `26 39 F4 CB` | `CBF43926` |
//!
//! Their names in the catalogue of parametrised CRC algorithms are CRC-16/MODBUS, CRC-16/IBM-3740 (widely called
//! CCITT-FALSE; other "CCITT" CRCs are others) and CRC-32/ISO-HDLC. In `lines` the CRC is text, 4 or 8 hexadecimal
//! digits in either case, most significant first, directly before the delimiter: as bytes it could hold the delimiter.
//!
//! # What damage costs
//!
//! Damage is any bytes changed, lost or added. It touches a frame that it stands in, its delimiters included. Then:
//!
//! | `kind` | of the frames that it does not touch arrive |
//! |---|---|
//! | `lines`, `cobs` | all but the one directly behind it if it stands in a delimiter or between two frames (1) |
//! | `slip` | all, where the device sends `C0` at both sides, else as `lines` |
//! | `length-prefixed`, `fixed`, with `crc` | all; but late, as below |
//! | `length-prefixed`, `fixed`, with `idle` only | all behind the next silence |
//! | `length-prefixed`, `fixed`, with neither | none if it moved a boundary, until the port is opened again |
//! | `idle-gap` | all, if the damage is no noise in a gap; then the frames at its two sides may be lost |
//!
//! (1): With a delimiter that ends as it begins, such as two LFs, also if it stands directly before one.
//!
//! Without a CRC the touched bytes themselves, or parts of them, may be given out as frames: nothing shows that they
//! are wrong. With a CRC they are counted as damaged. One flipped bit in a payload or CRC is always noticed; other
//! damage passes as a frame by chance once in 65,536 (16 bits) or 4,294,967,296 (32 bits) tries, and where damage moves
//! a boundary (a length, a delimiter, an escape) one flipped bit counts as such.
//!
//! *Late*: the search for the next good CRC may first take other bytes for a length, and waits until as many have come
//! (at most `max`, the CRC and the length), or until the line was silent for `idle`. One stretch of damage is counted
//! once however many frames it took, and a search that ends with a frame is a *resync*. What is found there need not be
//! what the device meant as a frame: a payload that contains a whole frame of the same kind may give that one out.
//!
//! # Silence
//!
//! `idle-gap` needs to know when the line was silent, and the two kinds without marks can use it. A decoder has no
//! clock: after each chunk [`Decoder::patience`] says after how much silence it wants to be told, and
//! [`Decoder::silence`] tells it. Silence is measured where bytes are read, so `gap` and `idle` must be longer than
//! what adapters, drivers and the load of the machine put between the bytes of a frame (an FTDI adapter: up to 16 ms by
//! default), and the device must pause longer still: bytes that wait while nobody reads are read as one piece. A frame
//! that is merged or cut so can only be told from a good one by its CRC. A `gap` of less than a millisecond is kept to, but
//! what the device pauses beyond it is all the time that pillion has to get its turn on the CPU.
//!
//! A new framing is a file here, a variant of [`FramingKind`] and one arm in each method of [`Decoder`] and in
//! [`encode`].

mod check;
mod delimited;
mod window;

pub mod cobs;
pub mod fixed;
pub mod idle_gap;
pub mod length_prefixed;
pub mod lines;
pub mod slip;
#[cfg(test)]
mod tests;

use self::cobs::Cobs;
use crate::config::{Framing, FramingKind, MAX_DELIMITER, MAX_FRAME};
use fixed::Fixed;
use idle_gap::IdleGap;
use length_prefixed::{Header, LengthPrefixed};
use lines::Lines;
use slip::Slip;
use std::time::Duration;

/// Bytes of a frame buffer: the longest frame, and the most that a framing adds to it. That is a line's CRC, CR and
/// delimiter; COBS adds 17 and its zero to a frame with its CRC.
const CAPACITY: usize = MAX_FRAME + 32;

const _: () = assert!(check::LONGEST_CRC + 1 + MAX_DELIMITER <= 32);

/// What a decoder has seen so far. Every frame that began is counted exactly once: as whole, oversize, empty, damaged
/// or incomplete, or it is still arriving. Where nothing marks a frame, damage is counted once however long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Whole frames given out.
    pub frames: u64,
    /// Frames with a wrong CRC, a wrong escape or an impossible length, skipped.
    pub damaged: u64,
    /// Frames longer than the configured maximum, skipped.
    pub oversize: u64,
    /// Frames without a byte in them, skipped.
    pub empty: u64,
    /// Frames whose end never came, because the device vanished or fell silent.
    pub incomplete: u64,
    /// Times that the next frame was found by its CRC, for nothing else showed where it began.
    pub resyncs: u64,
}

/// The decoder that a device's configuration asks for.
#[derive(Debug)]
pub enum Decoder {
    /// `kind = "lines"`
    Lines(Lines),
    /// `kind = "cobs"`
    Cobs(Cobs),
    /// `kind = "slip"`
    Slip(Slip),
    /// `kind = "length-prefixed"`
    LengthPrefixed(LengthPrefixed),
    /// `kind = "fixed"`
    Fixed(Fixed),
    /// `kind = "idle-gap"`
    IdleGap(IdleGap),
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    pub fn new(framing: &Framing) -> Self {
        match &framing.kind {
            FramingKind::Lines { delimiter } => Decoder::Lines(Lines::new(framing, delimiter)),
            FramingKind::Cobs => Decoder::Cobs(Cobs::new(framing)),
            FramingKind::Slip => Decoder::Slip(Slip::new(framing)),
            FramingKind::LengthPrefixed { length_bytes, endian, includes_header, idle } => {
                let header = Header { width: *length_bytes, endian: *endian, includes_header: *includes_header };
                Decoder::LengthPrefixed(LengthPrefixed::new(framing, header, *idle))
            }
            FramingKind::Fixed { size, idle } => Decoder::Fixed(Fixed::new(framing, *size, *idle)),
            FramingKind::IdleGap { gap } => Decoder::IdleGap(IdleGap::new(framing, *gap)),
        }
    }

    /// The payload of the next whole frame. Takes from the front of `chunk` what it has looked at; `None` means that
    /// all of the chunk is taken and more bytes are needed.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        match self {
            Decoder::Lines(lines) => lines.next(chunk),
            Decoder::Cobs(cobs) => cobs.next(chunk),
            Decoder::Slip(slip) => slip.next(chunk),
            Decoder::LengthPrefixed(frames) => frames.next(chunk),
            Decoder::Fixed(frames) => frames.next(chunk),
            Decoder::IdleGap(frames) => frames.next(chunk),
        }
    }

    /// How long the line has to be silent from now for [`Decoder::silence`] to be called; `None` if silence means
    /// nothing now. Ask again after every chunk and every silence, when [`Decoder::next`] has returned `None`.
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Decoder::Lines(_) | Decoder::Cobs(_) | Decoder::Slip(_) => None,
            Decoder::LengthPrefixed(frames) => frames.patience(),
            Decoder::Fixed(frames) => frames.patience(),
            Decoder::IdleGap(frames) => frames.patience(),
        }
    }

    /// The line was silent for as long as [`Decoder::patience`] said. Call [`Decoder::next`] with an empty chunk after
    /// it, until that returns `None`: the silence may have completed frames.
    pub fn silence(&mut self) {
        match self {
            Decoder::Lines(_) | Decoder::Cobs(_) | Decoder::Slip(_) => {}
            Decoder::LengthPrefixed(frames) => frames.end(),
            Decoder::Fixed(frames) => frames.end(),
            Decoder::IdleGap(frames) => frames.silence(),
        }
    }

    /// The device vanished: what has arrived of a frame is dropped and counted, and the next byte begins a new one.
    /// Call [`Decoder::next`] with an empty chunk after it, until that returns `None`: behind a damaged frame there may
    /// be whole ones that a wrong length has held back.
    pub fn cut_off(&mut self) {
        match self {
            Decoder::Lines(lines) => lines.cut_off(),
            Decoder::Cobs(cobs) => cobs.cut_off(),
            Decoder::Slip(slip) => slip.cut_off(),
            Decoder::LengthPrefixed(frames) => frames.end(),
            Decoder::Fixed(frames) => frames.end(),
            Decoder::IdleGap(frames) => frames.cut_off(),
        }
    }

    /// What was seen so far.
    pub fn counters(&self) -> Counters {
        match self {
            Decoder::Lines(lines) => lines.counters(),
            Decoder::Cobs(cobs) => cobs.counters(),
            Decoder::Slip(slip) => slip.counters(),
            Decoder::LengthPrefixed(frames) => frames.counters(),
            Decoder::Fixed(frames) => frames.counters(),
            Decoder::IdleGap(frames) => frames.counters(),
        }
    }
}

/// Why a payload can't be sent in a frame. Lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Nothing to send.
    #[error("there is nothing in it, and an empty frame is none; send at least one byte")]
    Empty,
    /// Length and limit.
    #[error("it has {0} bytes, more than framing.max allows; send at most {1}")]
    TooLong(usize, usize),
    /// Length and the only one that is right.
    #[error("it has {0} bytes, and all frames of this device have the same length; send exactly {1}")]
    WrongSize(usize, usize),
    /// A line with its own end inside.
    #[error("it holds the delimiter of lines, or ends with the start of it, and would arrive in pieces; remove that")]
    Delimiter,
    /// A line whose last byte would be lost.
    #[error("it ends with a carriage return, which would count as part of the line's end; remove that")]
    CarriageReturn,
}

/// Appends one frame with this payload to `out`, with its CRC and all that stands around it on the wire. What a decoder
/// of the same framing makes of it is the payload. After a frame of `idle-gap` the line must be left silent.
///
/// # Errors
/// An [`EncodeError`] if this framing can't carry the payload; nothing is appended then.
pub fn encode(framing: &Framing, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if payload.is_empty() {
        return Err(EncodeError::Empty);
    }
    if let FramingKind::Fixed { size, .. } = &framing.kind {
        return fixed::encode(framing, *size, payload, out);
    }
    if payload.len() > framing.max {
        return Err(EncodeError::TooLong(payload.len(), framing.max));
    }
    match &framing.kind {
        FramingKind::Lines { delimiter } => lines::encode(framing, delimiter, payload, out)?,
        FramingKind::Cobs => cobs::encode(framing, payload, out)?,
        FramingKind::Slip => slip::encode(framing, payload, out),
        FramingKind::LengthPrefixed { length_bytes, endian, includes_header, .. } => {
            let header = Header { width: *length_bytes, endian: *endian, includes_header: *includes_header };
            length_prefixed::encode(framing, header, payload, out)?;
        }
        FramingKind::Fixed { size, .. } => fixed::encode(framing, *size, payload, out)?,
        FramingKind::IdleGap { .. } => idle_gap::encode(framing, payload, out),
    }
    Ok(())
}
