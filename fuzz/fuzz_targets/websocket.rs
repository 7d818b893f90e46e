//! What a WebSocket server sends against anything: it must not panic, how the bytes were cut into chunks must not show in what comes
//! out, and nothing comes out that did not come in.
//!
//! The input: a byte for the length of the chunks (0 counts as 1), then what the server sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::mqtt::fuzz::frames;
use pillion_fuzz::with_largest;

fuzz_target!(|data: &[u8]| {
    let [chunk, wire @ ..] = data else { return };
    let (whole, largest) = with_largest(|| frames(wire, wire.len()));
    // A length is not believed. A ping of two bytes is kept here in a vector of 24, in one that grows by doubling; and what is
    // wrong is told in a sentence.
    assert!(largest <= 32 * wire.len() + 1024, "{largest} bytes at once for {}", wire.len());
    assert_eq!(whole, frames(wire, usize::from(*chunk)));
    let pinged: usize = whole.pings.iter().map(Vec::len).sum();
    assert!(whole.payload.len() + pinged + 2 * whole.pings.len() <= wire.len());
    assert!(whole.pings.iter().all(|ping| ping.len() <= 125));
});
