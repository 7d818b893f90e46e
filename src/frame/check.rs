//! What is asked of the bytes of every frame, whatever framing brought them: the length, and the CRC, which comes off.
//!
//! The CRC stands behind the payload, before the framing does its part. Which one, what it covers, its byte order and
//! its check value stand in the table at the head of this module's folder.

use super::Counters;
use crate::config::{Crc, Endian, Framing, MAX_FRAME};
use crc::{CRC_16_IBM_3740, CRC_16_MODBUS, CRC_32_ISO_HDLC};
use heapless::Vec;

static MODBUS: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_MODBUS);
static CCITT: crc::Crc<u16> = crc::Crc::<u16>::new(&CRC_16_IBM_3740);
static CRC_32: crc::Crc<u32> = crc::Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The longest CRC as it stands in a frame: eight hexadecimal digits.
pub(super) const LONGEST_CRC: usize = 8;

/// How a CRC stands in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As bytes.
    Binary,
    /// As hexadecimal digits, most significant first, for framings that can't carry any byte.
    Digits,
}

/// What the bytes of a frame turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A whole frame; its payload is this many bytes from the start.
    Whole(usize),
    /// There is no payload.
    Empty,
    /// The payload is longer than `max`.
    Oversize,
    /// The CRC is wrong, or there is no room for one.
    Damaged,
}

/// The rules of one device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    max: usize,
    crc: Option<Crc>,
    form: Form,
}

impl Check {
    pub(super) fn new(framing: &Framing, form: Form) -> Self {
        Check { max: framing.max.min(MAX_FRAME), crc: framing.crc, form }
    }

    /// Whether frames have a CRC.
    pub(super) fn has_crc(&self) -> bool {
        self.crc.is_some()
    }

    /// Bytes of the CRC in a frame.
    pub(super) fn crc_width(&self) -> usize {
        let bytes = self.crc.map_or(0, Crc::bytes);
        match self.form {
            Form::Binary => bytes,
            Form::Digits => bytes * 2,
        }
    }

    /// The longest payload and its CRC.
    pub(super) fn room(&self) -> usize {
        self.max + self.crc_width()
    }

    /// What these bytes, payload and CRC, are.
    pub(super) fn judge(&self, bytes: &[u8]) -> Verdict {
        self.judge_behind(&[], bytes)
    }

    /// The same where the CRC covers a header too.
    pub(super) fn judge_behind(&self, header: &[u8], bytes: &[u8]) -> Verdict {
        if bytes.is_empty() {
            return Verdict::Empty;
        }
        if bytes.len() > self.room() {
            return Verdict::Oversize;
        }
        let Some((payload, given)) =
            bytes.len().checked_sub(self.crc_width()).and_then(|at| bytes.split_at_checked(at))
        else {
            return Verdict::Damaged;
        };
        let right = self.trailer(header, payload);
        let is_right = match self.form {
            Form::Binary => right == given,
            // In either case of letters.
            Form::Digits => right.eq_ignore_ascii_case(given),
        };
        match payload.len() {
            _ if !is_right => Verdict::Damaged,
            0 => Verdict::Empty,
            length => Verdict::Whole(length),
        }
    }

    /// The CRC that belongs behind this header and payload.
    pub(super) fn trailer(&self, header: &[u8], payload: &[u8]) -> Vec<u8, LONGEST_CRC> {
        let Some(crc) = self.crc else { return Vec::new() };
        match crc {
            Crc::Crc16Modbus => {
                let mut digest = MODBUS.digest();
                digest.update(header);
                digest.update(payload);
                written(digest.finalize().to_be_bytes(), self.form, Endian::Little)
            }
            Crc::Crc16Ccitt => {
                let mut digest = CCITT.digest();
                digest.update(header);
                digest.update(payload);
                written(digest.finalize().to_be_bytes(), self.form, Endian::Big)
            }
            Crc::Crc32 => {
                let mut digest = CRC_32.digest();
                digest.update(header);
                digest.update(payload);
                written(digest.finalize().to_be_bytes(), self.form, Endian::Little)
            }
        }
    }
}

impl Counters {
    pub(super) fn note(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Whole(_) => self.frames += 1,
            Verdict::Empty => self.empty += 1,
            Verdict::Oversize => self.oversize += 1,
            Verdict::Damaged => self.damaged += 1,
        }
    }
}

/// A CRC, given most significant byte first, as it stands in a frame.
fn written<const N: usize>(mut number: [u8; N], form: Form, endian: Endian) -> Vec<u8, LONGEST_CRC> {
    match form {
        Form::Binary => {
            if endian == Endian::Little {
                number.reverse();
            }
            number.into_iter().collect()
        }
        Form::Digits => {
            let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' - 10 + value };
            number.into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
        }
    }
}
