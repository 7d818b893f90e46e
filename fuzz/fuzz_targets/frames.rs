//! Every decoder against anything: it must not panic, a payload must keep to its limit, how the bytes were cut into
//! chunks must not show in what comes out, and what comes out must survive being sent again.
//!
//! The input: one byte for the kind and one for its CRC, two for `max`, one for the other keys, one for the length of
//! the chunks (0 counts as 1), then what the device sends, with a silence at every sixteenth byte if the other keys say
//! so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::config::{Crc, Delimiter, Endian, Framing, FramingKind, LengthBytes, MAX_FRAME};
use pillion::frame::{Counters, Decoder, EncodeError, encode};
use std::time::Duration;

const IDLE: Duration = Duration::from_millis(20);

fuzz_target!(|data: &[u8]| {
    let [kind, crc, high, low, more, length, wire @ ..] = data else { return };
    let max = usize::from(u16::from_be_bytes([*high, *low])).clamp(1, MAX_FRAME - 4);
    let crc = [None, Some(Crc::Crc16Modbus), Some(Crc::Crc16Ccitt), Some(Crc::Crc32)][usize::from(crc % 4)];
    let framing = framing(*kind, crc, max, *more);
    let silent = more & 64 != 0;
    let whole = decode(&framing, wire, 16, silent);
    let cut = decode(&framing, wire, usize::from(*length).clamp(1, 16), silent);
    assert_eq!(whole, cut);
    for payload in whole.0 {
        let mut wire = Vec::new();
        match encode(&framing, &payload, &mut wire) {
            Ok(()) => assert_eq!(decode(&framing, &wire, usize::MAX, false).0, [payload]),
            // A CR that stands before CR LF is data, and can't be sent again before LF alone.
            Err(error) => assert_eq!(error, EncodeError::CarriageReturn),
        }
    }
});

fn framing(kind: u8, crc: Option<Crc>, max: usize, more: u8) -> Framing {
    let idle = (more & 32 != 0).then_some(IDLE);
    let kind = match kind % 6 {
        0 => {
            let delimiters: [&[u8]; 4] = [b"\n", b"\r\n", b";;", b"xyxxy"];
            FramingKind::Lines { delimiter: Delimiter::new(delimiters[usize::from(more % 4)]).unwrap() }
        }
        1 => FramingKind::Cobs,
        2 => FramingKind::Slip,
        3 => FramingKind::LengthPrefixed {
            // One byte would not hold every `max`.
            length_bytes: if more & 1 == 0 { LengthBytes::Two } else { LengthBytes::Four },
            endian: if more & 2 == 0 { Endian::Big } else { Endian::Little },
            includes_header: more & 4 == 0,
            idle,
        },
        4 => FramingKind::Fixed { size: max + crc.map_or(0, Crc::bytes), idle },
        _ => FramingKind::IdleGap { gap: IDLE },
    };
    Framing { kind, max, crc }
}

/// Without silence, the line is silent at the end only.
fn decode(framing: &Framing, wire: &[u8], chunk: usize, silent: bool) -> (Vec<Vec<u8>>, Counters) {
    let mut decoder = Decoder::new(framing);
    let mut out = Vec::new();
    for burst in wire.chunks(if silent { 16 } else { usize::MAX }) {
        for chunk in burst.chunks(chunk) {
            take(&mut decoder, chunk, &mut out);
        }
        if decoder.patience().is_some() {
            decoder.silence();
            take(&mut decoder, &[], &mut out);
            assert_eq!(decoder.patience(), None);
        }
    }
    decoder.cut_off();
    take(&mut decoder, &[], &mut out);
    assert!(out.iter().all(|payload| (1..=framing.max).contains(&payload.len())));
    (out, decoder.counters())
}

fn take(decoder: &mut Decoder, mut chunk: &[u8], out: &mut Vec<Vec<u8>>) {
    while let Some(payload) = decoder.next(&mut chunk) {
        out.push(payload.to_vec());
    }
    assert!(chunk.is_empty());
}
