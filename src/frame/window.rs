//! Framings that nothing on the wire marks: what `length-prefixed` and `fixed` have in common.
//!
//! The window holds the bytes from where a frame is thought to begin. Where that was wrong, a CRC is all that can show
//! it, and all that can find the next frame:
//!
//! ```text
//! Synced ── no frame here, and frames have a CRC ──> Hunting (one byte further, look again)
//!    ^──── a frame with a good CRC, or silence ──────────┘
//! ```
//!
//! What is looked at and is no frame stays in the window but for its first byte, so a good frame behind a damaged one
//! is found even if the damaged one's length reached beyond it. It is found once as many bytes have come as the wrong
//! length said, or when the line falls silent.
//!
//! Work: looking for a frame costs one CRC over at most a whole frame for each byte that comes.

use super::check::{Check, Verdict};
use super::{CAPACITY, Counters};
use heapless::Vec;
use std::time::Duration;

/// The bytes that may be a frame.
#[derive(Debug)]
pub(super) struct Window {
    check: Check,
    idle: Option<Duration>,
    state: State,
    bytes: Vec<u8, CAPACITY>,
    /// Bytes at the front of the window that have been given out.
    given: usize,
    /// Bytes of an oversize frame that are still to come. Only without a CRC, where its length is all that there is to
    /// go by.
    skip: u64,
    /// No more bytes belong to what is in the window.
    ended: bool,
    counters: Counters,
}

/// How sure it is that a frame begins at the front of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The bytes before were a frame, or the line was silent.
    Synced,
    /// They were no frame, which is counted.
    Hunting,
}

/// What the bytes at the front of the window look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Front {
    /// That can't be told before there are this many.
    Needs(usize),
    /// A frame of `total` bytes, of which payload and CRC are those from `start`.
    Frame { start: usize, total: usize },
    /// A frame that is too long, of `total` bytes.
    TooLong { total: u64 },
    /// No frame begins with these.
    Impossible { bytes: usize },
}

impl Window {
    pub(super) fn new(check: Check, idle: Option<Duration>) -> Self {
        Window {
            check,
            idle,
            state: State::Synced,
            bytes: Vec::new(),
            given: 0,
            skip: 0,
            ended: false,
            counters: Counters::default(),
        }
    }

    /// See [`super::Decoder::next`]. `look` says what the front of the window is; with no bytes it must need some.
    pub(super) fn next(&mut self, chunk: &mut &[u8], look: impl Fn(&[u8]) -> Front) -> Option<&[u8]> {
        let given = std::mem::take(&mut self.given);
        self.discard(given);
        loop {
            self.skip(chunk);
            match look(&self.bytes) {
                Front::Needs(total) if self.fill(chunk, total) => {}
                Front::Needs(_) if !self.ended => return None,
                Front::Needs(_) if self.bytes.is_empty() => {
                    self.ended = false;
                    self.state = State::Synced;
                }
                Front::Needs(_) => {
                    let missing_end = self.bytes.len();
                    self.refuse(missing_end, |counters| counters.incomplete += 1);
                }
                Front::Frame { start, total } => {
                    if let Some(length) = self.judge(start, total) {
                        self.given = total;
                        return self.bytes.get(start..start + length);
                    }
                }
                Front::TooLong { total } => {
                    let here = self.bytes.len();
                    self.refuse(here, |counters| counters.oversize += 1);
                    if !self.check.has_crc() {
                        self.skip = total.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                    }
                }
                Front::Impossible { bytes } => self.refuse(bytes, |counters| counters.damaged += 1),
            }
        }
    }

    /// After how much silence [`Window::end`] is to be called, if something waits for that.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.idle.filter(|_| self.bytes.len() > self.given || self.skip > 0)
    }

    /// No more bytes belong to what has come. The next calls of [`Window::next`] give out the frames in it, and count
    /// the rest, before they look at their chunk.
    pub(super) fn end(&mut self) {
        self.ended = true;
        self.skip = 0;
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The length of the payload if this is a frame. Else the window has moved on.
    fn judge(&mut self, start: usize, total: usize) -> Option<usize> {
        let frame = self.bytes.get(..total).unwrap_or_default();
        let (header, body) = frame.split_at_checked(start).unwrap_or((frame, &[]));
        let verdict = self.check.judge_behind(header, body);
        match verdict {
            Verdict::Whole(length) => {
                self.counters.frames += 1;
                self.counters.resyncs += u64::from(self.state == State::Hunting);
                self.state = State::Synced;
                return Some(length);
            }
            Verdict::Empty if self.state == State::Synced => {
                self.counters.empty += 1;
                self.discard(total);
            }
            // The CRC of nothing is always the same, so it proves nothing.
            Verdict::Empty => self.discard(1),
            Verdict::Oversize | Verdict::Damaged => {
                self.refuse(total, |counters| counters.note(verdict));
            }
        }
        None
    }

    /// No frame begins at the front, where `length` bytes stood for one. Counted where a frame was expected.
    fn refuse(&mut self, length: usize, count: impl FnOnce(&mut Counters)) {
        if self.state == State::Synced {
            count(&mut self.counters);
        }
        if self.check.has_crc() {
            self.state = State::Hunting;
            self.discard(1);
        } else {
            self.discard(length);
        }
    }

    /// Takes bytes of an oversize frame from the chunk.
    fn skip(&mut self, chunk: &mut &[u8]) {
        let here = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        *chunk = chunk.get(here..).unwrap_or_default();
        self.skip -= u64::try_from(here).unwrap_or(self.skip);
    }

    /// Takes bytes from the chunk until there are `total`. Whether something came.
    fn fill(&mut self, chunk: &mut &[u8], total: usize) -> bool {
        if self.ended || chunk.is_empty() {
            return false;
        }
        let missing = total.saturating_sub(self.bytes.len()).min(chunk.len());
        let (part, rest) = chunk.split_at_checked(missing).unwrap_or((chunk, &[]));
        *chunk = rest;
        // The longest frame fits.
        self.bytes.extend_from_slice(part).is_ok()
    }

    /// Drops bytes at the front.
    fn discard(&mut self, count: usize) {
        let count = count.min(self.bytes.len());
        self.bytes.copy_within(count.., 0);
        self.bytes.truncate(self.bytes.len() - count);
    }
}
