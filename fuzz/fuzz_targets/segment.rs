//! The reader of segments against anything, as a file on disk. It must not panic, and it must come to an end; records
//! and damage must take up the file without a gap, with numbers that only rise; a record must come back the same when
//! it is written again; how the file was read piece by piece must not show; and no more memory is taken at once than
//! the file is long, and a chunk.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use pillion::spool::fuzz::{Found, SLACK, entry, record, segment};
use pillion_fuzz::{HEADER_LENS, seal_segment, with_largest};
use std::ops::Range;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    // Else few records would ever come past their CRCs.
    if !seed.is_multiple_of(4) {
        seal_segment(&mut data[..size]);
    }
    size
});

fuzz_target!(|data: &[u8]| {
    let (read, largest) = with_largest(|| segment(data, usize::MAX, |_, _| {}));
    read.expect("the file has no errors");
    assert!(largest <= data.len() + SLACK, "{largest} bytes at once for a file of {}", data.len());

    let whole = all(data, usize::MAX);
    assert_eq!(whole, all(data, data.len() / 7 + 1));

    let (mut end, mut last) = (whole.first().map_or(data.len(), |(place, _)| place.start), 0);
    assert!(HEADER_LENS.contains(&end) || end == data.len() && end < HEADER_LENS[1], "{end}");
    for (place, found) in whole {
        assert_eq!(place.start, end);
        end = place.end;
        match found {
            Found::Damage(bytes) => assert!(!bytes.is_empty() && bytes == data[place]),
            Found::Record(found) => {
                assert!(found.seq > last || (found.seq, last) == (0, 0), "{} after {last}", found.seq);
                last = found.seq;
                let again = entry(&found);
                assert!(again.len() <= place.len());
                assert_eq!(record(&again, found.record.time), Some(found));
            }
        }
    }
    assert_eq!(end, data.len());
});

fn all(data: &[u8], piece: usize) -> Vec<(Range<usize>, Found)> {
    let mut all = Vec::new();
    segment(data, piece, |place, found| all.push((place.start as usize..place.end as usize, found)))
        .expect("the file has no errors");
    all
}
