//! Bytes up to a delimiter: what `lines` and `cobs` have in common.
//!
//! A delimiter is found wherever its bytes stand, however they are cut into chunks. What is longer than a frame can be
//! is skipped up to the next delimiter, and told once.

use super::CAPACITY;
use crate::config::Delimiter;
use heapless::Vec;

/// Collects the bytes of one frame.
#[derive(Debug)]
pub(super) struct Delimited {
    delimiter: Delimiter,
    /// The most bytes that a frame may have with its delimiter.
    limit: usize,
    state: State,
    frame: Vec<u8, CAPACITY>,
    /// The latest bytes since the last delimiter, at most as many as the delimiter has. Where a frame is skipped, this
    /// is all that is known of it.
    latest: Vec<u8, { crate::config::MAX_DELIMITER }>,
}

/// What the bytes that come next are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Part of the frame in the buffer, or the first of a new one if that is empty.
    Collecting,
    /// The first of a new frame; the one in the buffer has been given out.
    Complete,
    /// Part of a frame that is too long, which is told and gone already.
    Skipping,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The delimiter has come; [`Delimited::frame`] is what stands before it.
    Ended,
    /// What has come since the last delimiter is no frame any more.
    TooLong,
}

impl Delimited {
    /// For frames of at most `room` bytes without the delimiter.
    pub(super) fn new(delimiter: Delimiter, room: usize) -> Self {
        let limit = (room + delimiter.bytes().len()).min(CAPACITY);
        Delimited { delimiter, limit, state: State::Collecting, frame: Vec::new(), latest: Vec::new() }
    }

    /// Takes from the front of `chunk` what it has looked at; `None` means that all of the chunk is taken.
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<Event> {
        let last = self.delimiter.bytes().last().copied().unwrap_or_default();
        while !chunk.is_empty() {
            let end = chunk.iter().position(|byte| *byte == last).map_or(chunk.len(), |at| at + 1);
            let (part, rest) = chunk.split_at_checked(end).unwrap_or((chunk, &[]));
            *chunk = rest;
            if let Some(event) = self.take(part) {
                return Some(event);
            }
        }
        None
    }

    /// The bytes of the frame that has ended, or of what has arrived of one.
    pub(super) fn frame(&mut self) -> &mut Vec<u8, CAPACITY> {
        &mut self.frame
    }

    /// Forgets what has arrived of a frame. Whether that was a part of one nobody knows of yet.
    pub(super) fn cut_off(&mut self) -> bool {
        let had_begun = self.state == State::Collecting && !self.frame.is_empty();
        self.begin();
        had_begun
    }

    /// A new frame begins.
    fn begin(&mut self) {
        self.frame.clear();
        self.latest.clear();
        self.state = State::Collecting;
    }

    /// Takes bytes in which a delimiter can end at the end only.
    fn take(&mut self, part: &[u8]) -> Option<Event> {
        if self.state == State::Complete {
            self.begin();
        }
        let ended = self.ends_with_delimiter(part);
        if self.state == State::Skipping {
            if ended {
                self.begin();
            }
            return None;
        }
        let fits = self.frame.len() + part.len() <= self.limit && self.frame.extend_from_slice(part).is_ok();
        if ended && fits {
            self.frame.truncate(self.frame.len() - self.delimiter.bytes().len());
            self.state = State::Complete;
            return Some(Event::Ended);
        }
        if fits && self.frame.len() < self.limit {
            return None;
        }
        if ended {
            self.begin();
        } else {
            self.state = State::Skipping;
        }
        Some(Event::TooLong)
    }

    /// Whether the delimiter is complete with these bytes.
    fn ends_with_delimiter(&mut self, part: &[u8]) -> bool {
        let delimiter = self.delimiter.bytes();
        if let [_] = delimiter {
            return part.ends_with(delimiter);
        }
        let kept = part.len().saturating_sub(delimiter.len());
        for byte in part.iter().skip(kept) {
            if self.latest.len() == delimiter.len() {
                self.latest.rotate_left(1);
                self.latest.pop();
            }
            // There is room for as many as a delimiter has.
            let _ = self.latest.push(*byte);
        }
        self.latest == delimiter
    }
}
