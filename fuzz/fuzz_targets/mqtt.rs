//! What a broker sends, as both versions of MQTT read it, against anything: it must not panic, and no packet may be larger than was
//! agreed.
//!
//! The input: a byte for the limit, then what the broker sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::mqtt::fuzz::packets;

fuzz_target!(|data: &[u8]| {
    let [max, wire @ ..] = data else { return };
    let count = packets(wire, usize::from(*max));
    // The smallest one has two bytes.
    assert!(count <= wire.len() / 2);
});
