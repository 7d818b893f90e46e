//! What several fuzz targets need: CRCs that fit, which no fuzzer guesses, and the largest allocation that a piece of
//! code makes.

pub mod memory;

use crc::{CRC_32_ISCSI, Crc};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where a segment's entries may begin, in bytes: behind the header of version 1, and of version 2.
pub const HEADER_LENS: [usize; 2] = [COMMON_LEN, 2 * COPY_LEN];
/// Length of the header of version 1, and of what begins each copy in version 2, in bytes.
const COMMON_LEN: usize = 56;
/// Length of a copy of the header in version 2, in bytes.
const COPY_LEN: usize = 76;
/// Length and CRC in front of an entry's body, in bytes.
const ENTRY_HEAD: usize = 8;
/// Magic and version in front of a checkpoint's CRC, in bytes.
const CHECKPOINT_HEAD: usize = 10;

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// An entry with this body, of version 1 (`mark` 0) or 2 (`mark` 2).
pub fn entry_of(mark: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("the fuzzer keeps far below 16 MiB") | u32::from(mark) << 24;
    let mut entry = [&length.to_le_bytes(), &[0; 4], body].concat();
    seal_entry(&mut entry);
    entry
}

fn seal_entry(entry: &mut [u8]) {
    let mut digest = CRC32C.digest();
    digest.update(&entry[..4]);
    digest.update(&entry[ENTRY_HEAD..]);
    entry[4..ENTRY_HEAD].copy_from_slice(&digest.finalize().to_le_bytes());
}

/// Makes the CRCs of a segment fit: those of its header, and of its entries as far as their lengths lead.
pub fn seal_segment(bytes: &mut [u8]) {
    let is_v2 = bytes.get(8..10) == Some(&[2, 0]);
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER_LENS[usize::from(is_v2)]) else { return };
    for copy in header.chunks_mut(COPY_LEN) {
        seal_front(&mut copy[..COMMON_LEN]);
        if is_v2 {
            seal_front(copy);
        }
    }
    while let Some(&[low, mid, high, _]) = rest.first_chunk::<4>() {
        let length = u32::from_le_bytes([low, mid, high, 0]) as usize + ENTRY_HEAD;
        let Some((entry, behind)) = rest.split_at_mut_checked(length) else { return };
        seal_entry(entry);
        rest = behind;
    }
}

/// Makes the last four bytes the CRC of those before them.
fn seal_front(bytes: &mut [u8]) {
    let (body, crc) = bytes.split_at_mut(bytes.len() - 4);
    crc.copy_from_slice(&CRC32C.checksum(body).to_le_bytes());
}

/// Makes the CRC of a checkpoint fit.
pub fn seal_checkpoint(bytes: &mut [u8]) {
    let Some((head, body)) = bytes.split_at_mut_checked(CHECKPOINT_HEAD + 4) else { return };
    head[CHECKPOINT_HEAD..].copy_from_slice(&CRC32C.checksum(body).to_le_bytes());
}

/// The system's allocator, which notes how much was asked for at once.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// What `run` returns, and its largest allocation in bytes.
pub fn with_largest<T>(run: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.store(0, Ordering::Relaxed);
    let result = run();
    (result, LARGEST.load(Ordering::Relaxed))
}
