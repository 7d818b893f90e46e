//! Length-prefixed frames: a binary length, then as many bytes.
//!
//! The length is 1, 2 or 4 bytes, big or little endian, and counts the payload and its CRC; with `includes_header` its
//! own bytes too. The CRC covers the length: else a length that is wrong by two would pass wherever zeros follow, for a
//! 16-bit CRC of data and its own CRC is zero. A length of nothing is an empty frame: skipped and counted. With a CRC,
//! a length that leaves no room for it is damage; with `includes_header`, one that is shorter than itself is.
//!
//! A length beyond `max` is counted as oversize. With a CRC the search for the next frame begins behind its first byte;
//! without, as many bytes are skipped as it says, for nothing else is known.
//!
//! How the decoder finds back after damage: the head of `window.rs`.

use super::check::{Check, Form};
use super::window::{Front, Window};
use super::{Counters, EncodeError};
use crate::config::{Endian, Framing, LengthBytes};
use std::time::Duration;

/// Decoder of length-prefixed frames; the module's head has the rules.
#[derive(Debug)]
pub struct LengthPrefixed {
    header: Header,
    check: Check,
    window: Window,
}

/// The length and what it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) width: LengthBytes,
    pub(super) endian: Endian,
    pub(super) includes_header: bool,
}

impl Header {
    /// What the length counts besides payload and CRC.
    fn own(self) -> usize {
        if self.includes_header { self.width.bytes() } else { 0 }
    }

    /// The length at the start of these bytes, if it is there.
    fn read(self, bytes: &[u8]) -> Option<u32> {
        let field = bytes.get(..self.width.bytes())?;
        let fold = |length, byte: &u8| length << 8 | u32::from(*byte);
        Some(match self.endian {
            Endian::Big => field.iter().fold(0, fold),
            Endian::Little => field.iter().rev().fold(0, fold),
        })
    }

    /// A length as it is sent; it must not be larger than the field can hold.
    fn written(self, length: u32) -> Vec<u8> {
        let [a, b, c, d] = length.to_be_bytes();
        let mut field = match self.width {
            LengthBytes::One => vec![d],
            LengthBytes::Two => vec![c, d],
            LengthBytes::Four => vec![a, b, c, d],
        };
        if self.endian == Endian::Little {
            field.reverse();
        }
        field
    }
}

impl LengthPrefixed {
    pub(super) fn new(framing: &Framing, header: Header, idle: Option<Duration>) -> Self {
        let check = Check::new(framing, Form::Binary);
        LengthPrefixed { header, check, window: Window::new(check, idle) }
    }

    /// See [`super::Decoder::next`].
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        let (header, check) = (self.header, self.check);
        self.window.next(chunk, move |bytes| look(header, check, bytes))
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.window.patience()
    }

    pub(super) fn end(&mut self) {
        self.window.end();
    }

    pub(super) fn counters(&self) -> Counters {
        self.window.counters()
    }
}

fn look(header: Header, check: Check, bytes: &[u8]) -> Front {
    let start = header.width.bytes();
    let Some(length) = header.read(bytes) else { return Front::Needs(start) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let Some(body) = length.checked_sub(header.own()).filter(|body| *body >= check.crc_width()) else {
        return Front::Impossible { bytes: start };
    };
    let total = body.saturating_add(start);
    if body > check.room() {
        return Front::TooLong { total: u64::try_from(total).unwrap_or(u64::MAX) };
    }
    if bytes.len() < total { Front::Needs(total) } else { Front::Frame { start, total } }
}

/// See [`super::encode`].
pub(super) fn encode(framing: &Framing, header: Header, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let check = Check::new(framing, Form::Binary);
    let counted = payload.len() + check.crc_width() + header.own();
    let fits = u32::try_from(counted).ok().filter(|length| *length <= header.width.largest());
    let length = header.written(fits.ok_or(EncodeError::TooLong(payload.len(), framing.max))?);
    out.extend_from_slice(&length);
    out.extend_from_slice(payload);
    out.extend_from_slice(&check.trailer(&length, payload));
    Ok(())
}
