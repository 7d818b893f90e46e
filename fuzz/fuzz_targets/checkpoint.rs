//! The decoder of checkpoints against anything. It must not panic, nor take more memory than what it decodes; what it
//! takes must come back the same when it is written again; and the ledger that it makes must balance, and survive
//! being saved.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use pillion::spool::fuzz::{checkpoint, ledger};
use pillion_fuzz::{seal_checkpoint, with_largest};

/// Bytes of memory for a byte of the file: a hole takes two numbers of a byte each in the one, of eight in the other,
/// and a list that grows may have twice the room it needs.
const GROWTH: usize = 8 * 2;
/// What the first few holes take in any case, in bytes.
const SLACK: usize = 64;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    // Else next to none would come past their CRC.
    if !seed.is_multiple_of(4) {
        seal_checkpoint(&mut data[..size]);
    }
    size
});

fuzz_target!(|data: &[u8]| {
    let (found, largest) = with_largest(|| checkpoint(data));
    assert!(largest <= data.len() * GROWTH + SLACK, "{largest} bytes at once for a file of {}", data.len());
    let Some(found) = found else { return };
    let again = found.encode().expect("memory");
    assert!(again.len() <= data.len());
    assert_eq!(checkpoint(&again).as_ref(), Some(&found));

    let (status, saved) = ledger(&found);
    assert!(status.balances());
    assert!(saved.done >= found.done && saved.next >= found.next);
    let mut end = saved.done;
    for &(first, last) in &saved.holes {
        assert!(first > end + 1 && last >= first, "{:?}", saved.holes);
        end = last;
    }
    let (_, once_more) = ledger(&saved);
    assert_eq!((once_more.done, &once_more.holes), (saved.done, &saved.holes));
});
