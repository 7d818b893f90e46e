//! COBS: Consistent Overhead Byte Stuffing (Cheshire and Baker, IEEE/ACM Transactions on Networking 7(2), 1999).
//!
//! A frame is encoded so that no byte of it is zero; one zero ends it. Zeros before a frame, which some devices send to
//! flush the line, are empty frames: skipped and counted.

use super::check::{Check, Form, Verdict};
use super::delimited::{Delimited, Event};
use super::{CAPACITY, Counters, EncodeError};
use crate::config::{Delimiter, Framing};

/// Decoder of COBS; the module's head has the rules.
#[derive(Debug)]
pub struct Cobs {
    check: Check,
    bytes: Delimited,
    counters: Counters,
}

/// The longest that `bytes` become without the zero at the end: one more, and one for each 254.
const fn encoded(bytes: usize) -> usize {
    bytes + bytes / 254 + 1
}

const _: () = assert!(encoded(crate::config::MAX_FRAME + 4) < CAPACITY);

impl Cobs {
    pub(super) fn new(framing: &Framing) -> Self {
        let check = Check::new(framing, Form::Binary);
        let bytes = Delimited::new(Delimiter::zero(), encoded(check.room()));
        Cobs { check, bytes, counters: Counters::default() }
    }

    /// See [`super::Decoder::next`].
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        loop {
            let verdict = match self.bytes.next(chunk)? {
                Event::TooLong => Verdict::Oversize,
                Event::Ended if self.bytes.frame().is_empty() => Verdict::Empty,
                Event::Ended => {
                    let frame = self.bytes.frame();
                    match cobs::decode_in_place(frame) {
                        Ok(length) => self.check.judge(frame.get(..length).unwrap_or_default()),
                        Err(_) => Verdict::Damaged,
                    }
                }
            };
            self.counters.note(verdict);
            if let Verdict::Whole(length) = verdict {
                return self.bytes.frame().get(..length);
            }
        }
    }

    pub(super) fn cut_off(&mut self) {
        self.counters.incomplete += u64::from(self.bytes.cut_off());
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }
}

/// See [`super::encode`].
pub(super) fn encode(framing: &Framing, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let check = Check::new(framing, Form::Binary);
    let plain = [payload, &check.trailer(&[], payload)].concat();
    let mut wire = vec![0; encoded(plain.len())];
    let length = cobs::try_encode(&plain, &mut wire).map_err(|_| EncodeError::TooLong(payload.len(), framing.max))?;
    wire.truncate(length);
    wire.push(0);
    out.append(&mut wire);
    Ok(())
}
