//! Frames of WebSocket: those of a server out of the bytes, and those of a client into bytes. Pure.
//!
//! Constraints: nothing of a frame is believed beyond what is there; a payload is handed on as it comes, however long its
//! frame says that it is. A control frame is handed on as a whole: it has 125 bytes at the most.
//!
//! Format (RFC 6455 section 5.2):
//!
//! ```text
//! byte 0     final, three reserved bits that are 0, opcode: 0 more of the same, 1 text, 2 binary, 8 close, 9 ping, 10 pong
//! byte 1     masked, length: up to 125, or 126: two bytes with the length follow, or 127: eight, of which the first bit is 0
//!            the mask, if masked, as a client's frames are and a server's are not: four bytes
//! ```

use bytes::{Buf as _, BufMut as _, BytesMut};
use std::io;

const MORE: u8 = 0;
const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// What a server has sent.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum Seen {
    /// Bytes of the stream.
    Payload(BytesMut),
    /// A ping, to be answered with what is in it.
    Ping(BytesMut),
    /// The last frame, with its status code, if it has one.
    Close(Option<u16>),
    /// Nothing that is whole.
    Incomplete,
}

/// A server's frames.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct Decoder {
    incoming: BytesMut,
    /// Bytes of the present frame that are still to come.
    left: u64,
    /// The message has another frame.
    goes_on: bool,
}

struct Head {
    is_final: bool,
    opcode: u8,
    length: u64,
}

impl Decoder {
    /// Goes on with these bytes, which are here already.
    pub(in crate::mqtt) fn new(incoming: BytesMut) -> Decoder {
        Decoder { incoming, ..Decoder::default() }
    }

    /// Where bytes are appended.
    pub(in crate::mqtt) fn incoming(&mut self) -> &mut BytesMut {
        &mut self.incoming
    }

    /// What comes next; of a payload at most so many bytes.
    ///
    /// # Errors
    /// A frame that no server may send. The stream is of no use any more.
    pub(in crate::mqtt) fn next(&mut self, most: usize) -> io::Result<Seen> {
        loop {
            if self.left > 0 {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let count = self.incoming.len().min(left).min(most);
                self.left -= count as u64;
                return Ok(match self.incoming.is_empty() {
                    true => Seen::Incomplete,
                    false => Seen::Payload(self.incoming.split_to(count)),
                });
            }
            let Some(Head { is_final, opcode, length }) = self.head()? else { return Ok(Seen::Incomplete) };
            match opcode {
                MORE | BINARY => {
                    if (opcode == MORE) != self.goes_on {
                        return Err(wrong("a message within another one, or the rest of none"));
                    }
                    (self.left, self.goes_on) = (length, !is_final);
                }
                TEXT => return Err(wrong("a text, and MQTT is binary")),
                CLOSE | PING | PONG => {
                    let payload = self.incoming.split_to(usize::try_from(length).unwrap_or_default());
                    match (opcode, &payload[..]) {
                        (PING, _) => return Ok(Seen::Ping(payload)),
                        (PONG, _) => {}
                        (_, []) => return Ok(Seen::Close(None)),
                        (_, &[high, low, ..]) => return Ok(Seen::Close(Some(u16::from_be_bytes([high, low])))),
                        (_, [_]) => return Err(wrong("half of a reason to close")),
                    }
                }
                opcode => return Err(wrong(&format!("a frame of kind {opcode}"))),
            }
        }
    }

    /// Takes the head of a frame, if it is there, and with it the rest of a control frame.
    fn head(&mut self) -> io::Result<Option<Head>> {
        let &[first, second, ref rest @ ..] = &self.incoming[..] else { return Ok(None) };
        let (is_final, opcode, short) = (first & 0x80 != 0, first & 0x0f, second & 0x7f);
        if first & 0x70 != 0 || second & 0x80 != 0 {
            return Err(wrong("a frame that is masked, or of an extension"));
        }
        let is_control = opcode >= CLOSE;
        if is_control && (short > 125 || !is_final) {
            return Err(wrong("a control frame that is too long, or not the last of its kind"));
        }
        let bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((extended, rest)) = rest.split_at_checked(bytes) else { return Ok(None) };
        let length = match bytes {
            0 => u64::from(short),
            _ => extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        if length >> 63 != 0 {
            return Err(wrong("a frame that is longer than any may be"));
        }
        if is_control && (rest.len() as u64) < length {
            return Ok(None);
        }
        self.incoming.advance(2 + bytes);
        Ok(Some(Head { is_final, opcode, length }))
    }
}

/// Appends a client's frame.
pub(super) fn write(opcode: u8, payload: &[u8], mask: [u8; 4], out: &mut BytesMut) {
    out.reserve(payload.len() + 14);
    out.put_u8(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => out.put_u8(0x80 | u8::try_from(length).unwrap_or_default()),
        Ok(length) => {
            out.put_u8(0x80 | 126);
            out.put_u16(length);
        }
        Err(_) => {
            out.put_u8(0x80 | 127);
            out.put_u64(payload.len() as u64);
        }
    }
    out.put_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// What is wrong with the other side.
pub(super) fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no WebSocket for MQTT: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that is seen in these bytes, and whether they end in an error.
    fn seen(bytes: &[u8], chunk: usize) -> (Vec<u8>, Vec<Seen>, bool) {
        let mut decoder = Decoder::default();
        let (mut payload, mut control) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(chunk.max(1)) {
            decoder.incoming().extend_from_slice(chunk);
            loop {
                match decoder.next(7) {
                    Ok(Seen::Payload(bytes)) => payload.extend(bytes),
                    Ok(Seen::Incomplete) => break,
                    Ok(other) => control.push(other),
                    Err(_) => return (payload, control, true),
                }
            }
        }
        (payload, control, false)
    }

    #[test]
    fn frames_never_show_in_the_bytes() {
        let incoming =
            [&[0x02, 2, 1, 2, 0x89, 1, 7, 0x00, 1, 3, 0x8a, 2, 9, 9, 0x80, 126, 0, 1, 4, 0x88, 2, 3, 0xe8], &b"x"[..]];
        let (payload, control, failed) = seen(&incoming.concat()[..23], 100);
        assert_eq!((payload, failed), (vec![1, 2, 3, 4], false));
        assert_eq!(control, [Seen::Ping(BytesMut::from(&[7][..])), Seen::Close(Some(1000))]);
        assert_eq!(seen(&[0x82, 0, 0x88, 0], 1), (vec![], vec![Seen::Close(None)], false));
    }

    #[test]
    fn what_no_server_may_send_never_gets_through() {
        for (name, wrong) in [
            ("a text", &[0x81, 1, b'x'][..]),
            ("masked", &[0x82, 0x81, 0, 0, 0, 0, 1]),
            ("of an extension", &[0xc2, 0]),
            ("a long ping", &[0x89, 126, 0, 126]),
            ("a ping in parts", &[0x09, 0]),
            ("an unknown kind", &[0x83, 0]),
            ("an unknown control frame", &[0x8b, 0]),
            ("the rest of nothing", &[0x80, 1, 1]),
            ("the rest of what was over", &[0x82, 1, 1, 0x80, 1, 1]),
            ("a message within another one", &[0x02, 1, 1, 0x82, 1, 1]),
            ("longer than any", &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 1]),
            ("half of a reason", &[0x88, 1, 3]),
        ] {
            assert!(seen(wrong, 100).2, "{name}");
        }
    }

    #[test]
    fn a_huge_frame_never_takes_more_memory_than_what_is_there() {
        let mut decoder = Decoder::new(BytesMut::from(&[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2][..]));
        assert_eq!(decoder.next(100).unwrap(), Seen::Payload(BytesMut::from(&[1, 2][..])));
        assert_eq!(decoder.next(100).unwrap(), Seen::Incomplete);
        assert!(decoder.incoming.capacity() < 100);
    }

    #[test]
    fn frames_never_change_their_shape() {
        let mut out = BytesMut::new();
        write(BINARY, &[1, 2, 3, 4, 5], [0, 1, 0, 1], &mut out);
        assert_eq!(out[..], [0x82, 0x85, 0, 1, 0, 1, 1, 3, 3, 5, 5]);
        let mut out = BytesMut::new();
        write(BINARY, &[0; 126], [0; 4], &mut out);
        assert_eq!(out[..4], [0x82, 0xfe, 0, 126]);
        let mut out = BytesMut::new();
        write(BINARY, &[0; 65_536], [0; 4], &mut out);
        assert_eq!(out[..10], [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_ever_mean_something_else_in_pieces(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x82), Just(0x02), Just(0x80), Just(1)], 0..300),
            chunk in 1..20usize,
        ) {
            prop_assert_eq!(seen(&bytes, bytes.len()), seen(&bytes, chunk));
        }

        #[test]
        fn what_is_cut_into_frames_never_changes(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
            chunk in 1..400usize,
        ) {
            let mut bytes = BytesMut::new();
            let last = parts.len() - 1;
            for (place, part) in parts.iter().enumerate() {
                let mut frame = BytesMut::new();
                write(if place == 0 { BINARY } else { MORE }, part, [0; 4], &mut frame);
                // As a server has it: not masked, and not the last one but at the end.
                let mask_at = frame.len() - part.len() - 4;
                frame[1] &= 0x7f;
                frame[0] &= if place == last { 0xff } else { 0x7f };
                bytes.extend_from_slice(&frame[..mask_at]);
                bytes.extend_from_slice(part);
            }
            prop_assert_eq!(seen(&bytes, chunk), (parts.concat(), vec![], false));
        }
    }
}
