//! Framing: how a device's bytes become frames.
//!
//! Constraints: pure (no I/O, no clock), fed with chunks of any size, and the frames must not depend on how the bytes
//! were cut into chunks. A decoder holds one frame of at most `MAX_FRAME` bytes in a fixed buffer; what is longer or
//! damaged is counted and skipped up to a point where a frame can begin again. Bytes inside a frame are never changed.
//!
//! The wire framings:
//!
//! | `kind` | a frame is | file |
//! |---|---|---|
//! | `lines` | what stands before a line feed, without one carriage return before that | [`lines`] |
//!
//! A new framing is a file here, a variant of [`Framing`] and one arm in each method of [`Decoder`].

pub mod lines;

use crate::config::Framing;
use lines::Lines;

/// What a decoder has seen so far. Every frame that began is counted exactly once: as whole, oversize, empty or
/// incomplete, or it is still arriving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Whole frames given out.
    pub frames: u64,
    /// Frames longer than the configured maximum, skipped.
    pub oversize: u64,
    /// Frames without a byte in them, skipped.
    pub empty: u64,
    /// Frames whose end never came, because the device vanished.
    pub incomplete: u64,
}

/// The decoder that a device's configuration asks for.
#[derive(Debug)]
pub enum Decoder {
    /// `kind = "lines"`
    Lines(Lines),
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    pub fn new(framing: &Framing) -> Self {
        match framing {
            Framing::Lines { max } => Decoder::Lines(Lines::new(*max)),
        }
    }

    /// The next whole frame. Takes from the front of `chunk` what it has looked at; `None` means that all of the
    /// chunk is taken and more bytes are needed.
    pub fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        match self {
            Decoder::Lines(lines) => lines.next(chunk),
        }
    }

    /// The device vanished: what has arrived of a frame is dropped and counted, and the next byte begins a new one.
    pub fn cut_off(&mut self) {
        match self {
            Decoder::Lines(lines) => lines.cut_off(),
        }
    }

    /// What was seen so far.
    pub fn counters(&self) -> Counters {
        match self {
            Decoder::Lines(lines) => lines.counters(),
        }
    }
}
