//! SLIP: RFC 1055.
//!
//! END (0xC0) ends a frame. Inside one, END is sent as ESC ESC_END (0xDB 0xDC) and ESC as ESC ESC_ESC (0xDB 0xDD); all
//! other bytes stand for themselves. Devices may send END before a frame too, so nothing between two ENDs is no frame
//! and isn't counted; we send it at both sides, so that noise on an idle line never joins a frame.
//!
//! ESC before any other byte, END included, is damage: the frame is skipped up to its END and counted.

use super::check::{Check, Form, Verdict};
use super::{CAPACITY, Counters};
use crate::config::Framing;
use heapless::Vec;

const END: u8 = 0xC0;
const ESC: u8 = 0xDB;
const ESC_END: u8 = 0xDC;
const ESC_ESC: u8 = 0xDD;

/// Decoder of SLIP; the module's head has the rules.
#[derive(Debug)]
pub struct Slip {
    check: Check,
    state: State,
    /// Without escapes.
    frame: Vec<u8, CAPACITY>,
    counters: Counters,
}

/// What the byte that comes next is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Part of the frame in the buffer, or the first of a new one if that is empty.
    Collecting,
    /// The second half of an escape.
    Escaped,
    /// The first of a new frame; the one in the buffer has been given out.
    Complete,
    /// Part of a frame that is too long or damaged, which is counted and gone already.
    Skipping,
}

impl Slip {
    pub(super) fn new(framing: &Framing) -> Self {
        let check = Check::new(framing, Form::Binary);
        Slip { check, state: State::Collecting, frame: Vec::new(), counters: Counters::default() }
    }

    /// See [`super::Decoder::next`].
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        if self.state == State::Complete {
            self.begin();
        }
        while let Some((byte, rest)) = chunk.split_first() {
            *chunk = rest;
            if let Some(length) = self.take(*byte) {
                return self.frame.get(..length);
            }
        }
        None
    }

    pub(super) fn cut_off(&mut self) {
        let has_begun = self.state == State::Escaped || (self.state == State::Collecting && !self.frame.is_empty());
        self.counters.incomplete += u64::from(has_begun);
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

    /// Takes one byte; the length of the payload in the buffer if that completes a frame.
    fn take(&mut self, byte: u8) -> Option<usize> {
        match (self.state, byte) {
            (State::Escaped, END) => {
                self.counters.damaged += 1;
                self.begin();
            }
            (State::Escaped, ESC_END) => self.collect(END),
            (State::Escaped, ESC_ESC) => self.collect(ESC),
            (State::Escaped, _) => {
                self.counters.damaged += 1;
                self.state = State::Skipping;
            }
            (State::Skipping, END) => self.begin(),
            (State::Skipping, _) => {}
            (State::Collecting | State::Complete, END) => return self.end(),
            (State::Collecting | State::Complete, ESC) => self.state = State::Escaped,
            (State::Collecting | State::Complete, byte) => self.collect(byte),
        }
        None
    }

    fn collect(&mut self, byte: u8) {
        self.state = State::Collecting;
        if self.frame.len() >= self.check.room() || self.frame.push(byte).is_err() {
            self.counters.oversize += 1;
            self.state = State::Skipping;
        }
    }

    /// END has come.
    fn end(&mut self) -> Option<usize> {
        if self.frame.is_empty() {
            return None;
        }
        let verdict = self.check.judge(&self.frame);
        self.counters.note(verdict);
        let Verdict::Whole(length) = verdict else {
            self.begin();
            return None;
        };
        self.state = State::Complete;
        Some(length)
    }
}

/// See [`super::encode`].
pub(super) fn encode(framing: &Framing, payload: &[u8], out: &mut std::vec::Vec<u8>) {
    out.push(END);
    for byte in payload.iter().chain(&Check::new(framing, Form::Binary).trailer(&[], payload)) {
        match *byte {
            END => out.extend([ESC, ESC_END]),
            ESC => out.extend([ESC, ESC_ESC]),
            byte => out.push(byte),
        }
    }
    out.push(END);
}
