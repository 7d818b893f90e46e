//! What several fuzz targets need: CRCs that fit, which no fuzzer guesses, and the largest allocation that a piece of
//! code makes.

pub mod memory;

use crc::{CRC_32_ISCSI, Crc};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Length of a segment's header in bytes.
pub const HEADER_LEN: usize = 56;
/// Length and CRC in front of an entry's body, in bytes.
const ENTRY_HEAD: usize = 8;
/// Magic and version in front of a checkpoint's CRC, in bytes.
const CHECKPOINT_HEAD: usize = 10;

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// An entry with this body.
pub fn entry_of(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("the fuzzer keeps far below 4 GiB");
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

/// Makes the CRCs of a segment fit: that of its header, and of its entries as far as their lengths lead.
pub fn seal_segment(bytes: &mut [u8]) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let (header, mut rest) = bytes.split_at_mut(HEADER_LEN);
    let crc = CRC32C.checksum(&header[..HEADER_LEN - 4]);
    header[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    while let Some(length) = rest.first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).saturating_add(ENTRY_HEAD);
        let Some((entry, behind)) = rest.split_at_mut_checked(length) else { return };
        seal_entry(entry);
        rest = behind;
    }
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
