//! Idle-gap frames: a frame ends when the line falls silent, as in Modbus RTU.
//!
//! The decoder has no clock: it says for how long the line has to be silent (`patience`), and is told when it
//! was (`silence`). A frame may come in any number of chunks.
//!
//! A frame longer than `max` is skipped until the next silence and counted once.

use super::check::{Check, Form, Verdict};
use super::{CAPACITY, Counters};
use crate::config::Framing;
use heapless::Vec;
use std::time::Duration;

/// Decoder of idle-gap frames; the module's head has the rules.
#[derive(Debug)]
pub struct IdleGap {
    gap: Duration,
    check: Check,
    state: State,
    frame: Vec<u8, CAPACITY>,
    counters: Counters,
}

/// What the bytes that come next are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Part of the frame in the buffer, or the first of a new one if that is empty.
    Collecting,
    /// The first of a new frame; the one in the buffer has ended and is to be judged.
    Ended,
    /// The first of a new frame; the one in the buffer has been given out.
    Complete,
    /// Part of an oversize frame, which is counted and gone already.
    Skipping,
}

impl IdleGap {
    pub(super) fn new(framing: &Framing, gap: Duration) -> Self {
        let check = Check::new(framing, Form::Binary);
        IdleGap { gap, check, state: State::Collecting, frame: Vec::new(), counters: Counters::default() }
    }

    /// See [`super::Decoder::next`].
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        if self.state == State::Complete {
            self.begin();
        }
        if self.state == State::Ended {
            let verdict = self.check.judge(&self.frame);
            self.counters.note(verdict);
            if let Verdict::Whole(length) = verdict {
                self.state = State::Complete;
                return self.frame.get(..length);
            }
            self.begin();
        }
        if self.state == State::Collecting {
            let too_long = self.frame.len() + chunk.len() > self.check.room();
            if too_long || self.frame.extend_from_slice(chunk).is_err() {
                self.counters.oversize += 1;
                self.state = State::Skipping;
            }
        }
        *chunk = &[];
        None
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        let has_begun = match self.state {
            State::Collecting => !self.frame.is_empty(),
            State::Skipping => true,
            State::Ended | State::Complete => false,
        };
        has_begun.then_some(self.gap)
    }

    pub(super) fn silence(&mut self) {
        match self.state {
            State::Collecting if !self.frame.is_empty() => self.state = State::Ended,
            State::Collecting | State::Ended => {}
            State::Complete | State::Skipping => self.begin(),
        }
    }

    pub(super) fn cut_off(&mut self) {
        if matches!(self.state, State::Collecting | State::Ended) && !self.frame.is_empty() {
            self.counters.incomplete += 1;
        }
        self.begin();
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// A new frame begins.
    fn begin(&mut self) {
        self.frame.clear();
        self.state = State::Collecting;
    }
}

/// See [`super::encode`].
pub(super) fn encode(framing: &Framing, payload: &[u8], out: &mut std::vec::Vec<u8>) {
    out.extend_from_slice(payload);
    out.extend_from_slice(&Check::new(framing, Form::Binary).trailer(&[], payload));
}
