//! The decoder of lines against anything: it must not panic, a line must keep to its limit, and how the bytes were cut
//! into chunks must not show in what comes out.
//!
//! The input: two bytes for `max`, one for the length of the chunks (0 counts as 1), then what the device sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::config::{Framing, MAX_FRAME};
use pillion::frame::{Counters, Decoder};

fuzz_target!(|data: &[u8]| {
    let [high, low, length, wire @ ..] = data else { return };
    let max = usize::from(u16::from_be_bytes([*high, *low])).clamp(1, MAX_FRAME);
    let whole = decode(max, [wire].into_iter());
    let cut = decode(max, wire.chunks(usize::from(*length).max(1)));
    assert_eq!(whole, cut);
});

fn decode<'a>(max: usize, chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Counters) {
    let mut lines = Decoder::new(&Framing::lines(max));
    let mut out = Vec::new();
    for mut chunk in chunks {
        while let Some(line) = lines.next(&mut chunk) {
            assert!((1..=max).contains(&line.len()) && !line.contains(&b'\n'));
            out.push(line.to_vec());
        }
        assert!(chunk.is_empty());
    }
    lines.cut_off();
    (out, lines.counters())
}
