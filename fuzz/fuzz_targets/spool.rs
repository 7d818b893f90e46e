//! A whole stream's folder with anything in it. The spool must open and be read to its end, in order; its ledger must
//! balance; what is appended then must get a new number and come out behind the rest; and so it must go on after a stop.
//!
//! The input: two bytes (little endian) for the length of the checkpoint, the checkpoint (of no bytes: there is none), and
//! the same for each segment, which is named after the number in its header.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use pillion::config::{Stream, Sync, WhenFull};
use pillion::record::{ClockQuality, Encoding, Record, StreamId, Timestamp};
use pillion::disk::FileSystem;
use pillion::spool::{Options, Spool};
use pillion_fuzz::memory::Memory;
use pillion_fuzz::{seal_checkpoint, seal_segment};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DIR: &str = "/spool";
const STREAM: StreamId = StreamId::TELEMETRY;
/// From here on a file that is named after a number is nobody's. No stream ever comes that far.
const NUMBERS_END: u64 = 1 << 62;
/// More reads than there are records in an input.
const READS: usize = 10_000;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    // Else few of them would ever come past their CRCs.
    if !seed.is_multiple_of(4) {
        let mut seal: fn(&mut [u8]) = seal_checkpoint;
        let mut rest = &mut data[..size];
        while let Some((length, behind)) = rest.split_first_chunk_mut::<2>() {
            let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
            let (file, behind) = behind.split_at_mut(length);
            seal(file);
            seal = seal_segment;
            rest = behind;
        }
    }
    size
});

fuzz_target!(|data: &[u8]| {
    let files = Arc::new(folder(data));
    let fs: Arc<dyn FileSystem> = files;
    let options = options();
    let mut now = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 50_000, quality: ClockQuality::Trusted };
    for _ in 0..2 {
        let mut spool = Spool::open(&fs, &options, now);
        check(&spool, now);
        let last = read(&mut spool, &mut now);
        let record = Record { topic: "t".into(), time: now, encoding: Encoding::Raw, data: b"new".to_vec() };
        let accepted = spool.append(STREAM, vec![record.clone()], now).expect("there is room");
        if accepted.last >= NUMBERS_END {
            return;
        }
        assert!(accepted.first > last, "{} was given before, {last} was read", accepted.first);
        assert_eq!(read(&mut spool, &mut now), accepted.first);
        check(&spool, now);
        spool.close(now);
        check(&spool, now);
    }
});

/// Reads what waits and returns the last number of the stream, 0 for none.
fn read(spool: &mut Spool, now: &mut Timestamp) -> u64 {
    let mut last = 0;
    for _ in 0..READS {
        while let Some((stream, records, _)) = spool.read(usize::MAX, *now) {
            for record in records.iter().filter(|_| stream == STREAM) {
                assert!(record.seq > last, "{} after {last}", record.seq);
                last = record.seq;
            }
        }
        if !spool.has_more() {
            return last;
        }
        now.mono_ms += 1_000;
        spool.tick(*now);
    }
    panic!("reading never ends");
}

fn check(spool: &Spool, now: Timestamp) {
    for status in spool.status(now) {
        assert!(status.balances(), "{status:?}");
    }
}

fn folder(data: &[u8]) -> Memory {
    let files = Memory::default();
    let dir = Path::new(DIR).join("telemetry");
    let mut rest = data;
    let mut is_checkpoint = true;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(behind.len());
        let (file, behind) = behind.split_at(length);
        rest = behind;
        let first = file.get(12..).and_then(|file| file.first_chunk().copied()).map_or(1, u64::from_le_bytes);
        if !is_checkpoint {
            files.put(dir.join(format!("{first:020}.seg")), file);
        } else if !file.is_empty() {
            files.put(dir.join("checkpoint"), file);
        }
        is_checkpoint = false;
    }
    files
}

fn options() -> Options {
    let names = ["event", "telemetry", "log"];
    let streams = names.iter().zip(0..).map(|(name, priority)| Stream {
        name: (*name).to_owned(),
        max_bytes: 16 << 20,
        max_age: None,
        when_full: WhenFull::DropOldest,
        batch: None,
        convention: Default::default(),
        quiet_hours: None,
        priority,
    });
    Options {
        dir: PathBuf::from(DIR),
        runtime_dir: None,
        streams: streams.collect(),
        sync: Sync::After(Duration::from_secs(1)),
        segment_bytes: 4096,
        boot_id: [7; 16],
        backfill_rate: 0,
    }
}
