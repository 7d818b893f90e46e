//! The segment decoder against anything: it must not panic, it must come to an end, and it must not find more records than
//! there is room for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let numbers = pillion::spool::fuzz_segment(data);
    // No entry is shorter than its head of 8 bytes and a body of 7.
    assert!(numbers.len() <= data.len() / 15);
});
