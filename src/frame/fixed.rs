//! Fixed frames: all have the same length.
//!
//! `size` is what a frame has on the wire, the CRC included. How the decoder finds back after damage: the head of
//! `window.rs`.

use super::check::{Check, Form};
use super::window::{Front, Window};
use super::{Counters, EncodeError};
use crate::config::{Framing, MAX_FRAME};
use std::time::Duration;

/// Decoder of fixed frames; the module's head has the rules.
#[derive(Debug)]
pub struct Fixed {
    size: usize,
    window: Window,
}

impl Fixed {
    pub(super) fn new(framing: &Framing, size: usize, idle: Option<Duration>) -> Self {
        // A frame of nothing would never need a byte.
        let size = size.clamp(1, MAX_FRAME);
        Fixed { size, window: Window::new(Check::new(framing, Form::Binary), idle) }
    }

    /// See [`super::Decoder::next`].
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<&[u8]> {
        let size = self.size;
        self.window.next(chunk, move |bytes| match bytes.len() < size {
            true => Front::Needs(size),
            false => Front::Frame { start: 0, total: size },
        })
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

/// See [`super::encode`].
pub(super) fn encode(framing: &Framing, size: usize, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let trailer = Check::new(framing, Form::Binary).trailer(&[], payload);
    if payload.len() + trailer.len() != size {
        return Err(EncodeError::WrongSize(payload.len(), size.saturating_sub(trailer.len())));
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(&trailer);
    Ok(())
}
