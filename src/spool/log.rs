//! One stream on disk and in memory: its state, taking records in, and letting go of what is done with.
//!
//! A record is *pending* (in memory, and in the runtime tier) until an fdatasync in `state_dir` has covered it. Records that
//! are done with before that never reach flash. Opening is in `open`, writing in `commit`, the runtime tier in `runtime`,
//! reading in `read`, what falls due in `upkeep`.
//!
//! ```text
//!  segments (sealed)        active segment            pending
//! [ … ][ … ][ … ]          [ ………… | written ]        [ written, not synced | not written ]
//!                                                     [ ……… runtime tier ………… | not yet ]
//! ```
//!
//! States of a segment: *active* (the one that is appended to), *sealed* (whole, on the medium, only read), *quarantined* (its bad
//! parts copied aside and counted). After a failed write or fsync the active segment is sealed at its last good byte
//! and never touched again: its pending records go to a new one.

use super::commit::{Freed, Trouble};
use super::fs::{FileSystem, LogFile};
use super::gaps::Gaps;
use super::ledger::{Fate, Ledger};
use super::read::{Cursor, Stall};
use super::runtime::Runtime;
use super::segment::{Base, MAX_BODY};
use super::{Gap, Reason};
use crate::config::{Stream, WhenFull};
use crate::record::{Accepted, ClockQuality, Durability, Record, Refusal, Sequenced, StreamId, Timestamp};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// Memory that pending records may take, in bytes per stream. More than this is committed at once, or dropped by the
/// stream's rule while the disk fails.
pub(super) const PENDING_BYTES: usize = 256 * 1024;
/// What the containers of a record add to it, in bytes.
pub(super) const LEAST_COST: usize = 96;
/// Bytes that are on flash, or were read from there, and that the kernel keeps in its cache nevertheless: per stream and per
/// file. Less would take more system calls.
pub(super) const CACHED_BYTES: u64 = 128 * 1024;
/// What a file costs on disk at least: a block.
const BLOCK: u64 = 4096;
/// What an entry's body holds besides topic and data, in bytes: numbers of at most ten bytes each.
const BODY_REST: usize = 64;

/// When the first record of a segment was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Created {
    /// Its wall clock, milliseconds since 1970.
    At(u64),
    /// Its clock was not to be trusted, or its header is damaged.
    Unknown,
    /// The segment is of an earlier run and was not looked at in this one.
    Unread,
}

impl Created {
    /// As a header has it: 0 for a clock that was not to be trusted.
    pub(super) fn from_header(created_ms: u64) -> Self {
        if created_ms == 0 { Created::Unknown } else { Created::At(created_ms) }
    }

    pub(super) fn known(self) -> Option<u64> {
        match self {
            Created::At(at) => Some(at),
            Created::Unknown | Created::Unread => None,
        }
    }
}

/// A file of whole records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub first: u64,
    pub bytes: u64,
    pub created: Created,
}

/// The segment that is appended to.
pub(super) struct Active {
    pub segment: Segment,
    pub base: Base,
    pub file: Box<dyn LogFile>,
    /// Sequence number that the next entry must have: entries of a segment have no gaps.
    pub next: u64,
    pub unsynced: bool,
    /// The kernel was told that it need not keep the bytes before this one in its cache.
    pub dropped_to: u64,
}

impl Active {
    /// What flash has is read back from there, if at all: in the kernel's cache it would count as memory of ours. What flash does
    /// not have would be written for it.
    pub(super) fn drop_cache(&mut self) {
        if !self.unsynced {
            self.file.drop_cache(self.segment.bytes);
            self.dropped_to = self.segment.bytes;
        }
    }
}

pub(super) struct Pending {
    pub record: Sequenced,
    pub since_ms: u64,
}

/// How a log is kept.
pub(super) struct Rules {
    pub stream: Stream,
    pub id: StreamId,
    pub segment_bytes: u64,
    /// How long a record may stay in memory alone, in milliseconds; `None`: every record is synced on acceptance.
    pub window_ms: Option<u64>,
    pub boot_id: [u8; 16],
    /// Where the runtime tier is; `None`: there is none.
    pub runtime_dir: Option<PathBuf>,
}

impl Rules {
    /// What a record has to survive at least before it counts as accepted.
    pub(super) fn durability(&self) -> Durability {
        if self.window_ms.is_some() { Durability::Window } else { Durability::Power }
    }
}

/// One stream.
pub struct Log {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    pub(super) rules: Rules,
    pub(super) ledger: Ledger,
    pub(super) segments: VecDeque<Segment>,
    pub(super) active: Option<Active>,
    /// The number after the last one that was written to a segment.
    pub(super) disk_end: u64,
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: usize,
    /// How many of `pending`, from the front, are in the active segment and wait for its fdatasync.
    pub(super) written: usize,
    pub(super) runtime: Option<Runtime>,
    pub(super) cursor: Cursor,
    /// A segment that can't be read just now.
    pub(super) stall: Option<Stall>,
    pub(super) gaps: Gaps,
    pub(super) trouble: Option<Trouble>,
    /// The last segment that was given up for a full disk.
    pub(super) freed: Option<Freed>,
    /// The folder could not be looked into when the log was opened: nobody knows what is in it.
    pub(super) unlisted: bool,
    /// Numbers below this one are reserved on disk.
    pub(super) leased_to: u64,
    /// Nothing on disk reserves the numbers from here on: they were taken from the clock.
    pub(super) is_by_clock: bool,
    /// Since when the checkpoint is behind, in milliseconds of the monotonic clock.
    pub(super) unsaved_since_ms: Option<u64>,
    /// The log was told that the checkpoint can't be written.
    pub(super) is_unsaved_told: bool,
    pub(super) removed_at_ms: u64,
    pub(super) scratch: Vec<u8>,
}

/// What a record costs in memory, in bytes: its own and what the containers add.
pub(super) fn cost(record: &Record) -> usize {
    record.data.len() + record.topic.len() + LEAST_COST
}

/// When a record was made, if its clock was to be trusted then.
pub(super) fn made_at(record: &Record) -> Option<u64> {
    (record.time.quality == ClockQuality::Trusted).then_some(record.time.wall_ms)
}

impl Log {
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf, rules: Rules, ledger: Ledger) -> Self {
        Log {
            fs,
            dir,
            rules,
            disk_end: ledger.next(),
            ledger,
            segments: VecDeque::new(),
            active: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            written: 0,
            runtime: None,
            cursor: Cursor::default(),
            stall: None,
            gaps: Gaps::default(),
            trouble: None,
            freed: None,
            unlisted: false,
            leased_to: 0,
            is_by_clock: false,
            unsaved_since_ms: None,
            is_unsaved_told: false,
            removed_at_ms: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes records in: all of them, or none.
    pub fn append(&mut self, records: Vec<Record>, now: Timestamp) -> Result<Accepted, Refusal> {
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let bytes: usize = records.iter().map(cost).sum();
        let room = fits_an_entry(&records).and_then(|()| self.make_room(bytes, now));
        room.inspect_err(|_| self.ledger.refuse(count))?;
        self.lease(count, now);
        let first = self.ledger.accept(count);
        for (record, seq) in records.into_iter().zip(first..) {
            self.pending.push_back(Pending { record: Sequenced { seq, record }, since_ms: now.mono_ms });
        }
        self.pending_bytes += bytes;
        Ok(Accepted { first, last: first.saturating_add(count).saturating_sub(1) })
    }

    /// Counts records that were refused before they came here.
    pub fn refuse(&mut self, count: u64) {
        self.ledger.refuse(count);
    }

    fn make_room(&mut self, bytes: usize, now: Timestamp) -> Result<(), Refusal> {
        let reject = self.rules.stream.when_full == WhenFull::Reject;
        let more = u64::try_from(self.pending_bytes + bytes).unwrap_or(u64::MAX);
        if reject && !self.has_disk_for(more) {
            self.remove_now(now);
            if !self.has_disk_for(more) {
                return Err(Refusal::Full);
            }
        }
        if self.has_memory_for(bytes) {
            return Ok(());
        }
        // A disk that works takes the pending ones; the error of one that doesn't is kept in `trouble`.
        if self.commit(now).is_err() && self.free_space(now) {
            let _ = self.commit(now);
        }
        while !self.has_memory_for(bytes) {
            if reject {
                return Err(Refusal::Full);
            }
            self.evict_pending(now);
        }
        Ok(())
    }

    fn has_disk_for(&self, bytes: u64) -> bool {
        self.disk_bytes().saturating_add(bytes) <= self.rules.stream.max_bytes
    }

    /// Whether records of this cost can become pending. A first one always can.
    pub(super) fn has_memory_for(&self, bytes: usize) -> bool {
        self.pending.is_empty() || self.pending_bytes + bytes <= PENDING_BYTES
    }

    /// Drops the oldest pending record that memory has no room for.
    fn evict_pending(&mut self, now: Timestamp) {
        let Some(oldest) = self.pop_pending() else { return };
        let seq = oldest.record.seq;
        let count = self.ledger.settle_range(seq, seq, Fate::Evicted);
        let at = made_at(&oldest.record.record);
        self.gap((seq, seq), count, Reason::Full, (at, at), None, now);
    }

    pub(super) fn pop_pending(&mut self) -> Option<Pending> {
        let front = self.pending.pop_front()?;
        self.pending_bytes = self.pending_bytes.saturating_sub(cost(&front.record.record));
        self.written = self.written.saturating_sub(1);
        if self.pending.is_empty() {
            // One submission may have taken more than is allowed else.
            self.pending.shrink_to(PENDING_BYTES / LEAST_COST);
        }
        Some(front)
    }

    /// The broker has taken all records up to `last`.
    pub fn acknowledge(&mut self, last: u64, now: Timestamp) {
        if self.ledger.settle(last, Fate::Delivered) > 0 {
            self.drop_done(now);
        }
    }

    /// The broker can't take this record.
    pub fn discard(&mut self, seq: u64, reason: Reason, detail: String, now: Timestamp) {
        let count = self.ledger.settle_range(seq, seq, Fate::Quarantined);
        self.gap((seq, seq), count, reason, (None, None), Some(detail), now);
        self.drop_done(now);
    }

    pub(super) fn drop_done(&mut self, now: Timestamp) {
        while self.pending.front().is_some_and(|front| front.record.seq <= self.ledger.done()) {
            self.pop_pending();
        }
        // Records that lived in memory alone are not worth a write: the lease covers their numbers.
        if !self.segments.is_empty() || self.active.is_some() {
            self.unsaved_since_ms.get_or_insert(now.mono_ms);
        }
    }

    /// The pending record of this number.
    pub(super) fn pending(&self, seq: u64) -> Option<&Sequenced> {
        let index = self.pending.binary_search_by_key(&seq, |pending| pending.record.seq).ok()?;
        self.pending.get(index).map(|pending| &pending.record)
    }

    pub(super) fn first_pending(&self) -> Option<u64> {
        self.pending.front().map(|front| front.record.seq)
    }

    pub(super) fn path_of(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:020}.seg"))
    }

    /// The number after the last record of a sealed segment.
    pub(super) fn end_of(&self, index: usize) -> u64 {
        let next = self.segments.get(index + 1).or(self.active.as_ref().map(|active| &active.segment));
        next.map_or(self.disk_end, |next| next.first)
    }

    /// Bytes on disk, in whole blocks.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.on_disk().map(|segment| segment.bytes.next_multiple_of(BLOCK)).sum()
    }

    /// All segments, the oldest first.
    fn on_disk(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain(self.active.as_ref().map(|active| &active.segment))
    }

    /// Notes a loss that has been counted, for the event stream and the checkpoint.
    pub(super) fn gap(
        &mut self,
        (first, last): (u64, u64),
        count: u64,
        reason: Reason,
        (from_ms, to_ms): (Option<u64>, Option<u64>),
        detail: Option<String>,
        now: Timestamp,
    ) {
        if count == 0 {
            return;
        }
        self.unsaved_since_ms.get_or_insert(now.mono_ms);
        let stream = self.rules.id;
        self.gaps.note(Gap { stream, first, last, count, reason, from_ms, to_ms, detail });
    }

    /// The ledger and the disk, for the status.
    pub fn status(&self, now: Timestamp) -> crate::stats::StreamStatus {
        let mut status = self.ledger.status();
        let oldest = match self.on_disk().next() {
            Some(segment) => segment.created.known(),
            None => self.pending.front().and_then(|front| made_at(&front.record.record)),
        };
        let oldest = oldest.filter(|_| status.waiting > 0);
        status.oldest_s = oldest.map(|oldest| now.wall_ms.saturating_sub(oldest) / 1000);
        status.bytes = self.disk_bytes();
        status.disk_error = self.trouble.as_ref().map(|trouble| trouble.text.clone());
        status.runtime_error = self.runtime.as_ref().and_then(Runtime::error).map(str::to_owned);
        status
    }
}

/// A record that can't be written down must not get in: it would stop all behind it.
fn fits_an_entry(records: &[Record]) -> Result<(), Refusal> {
    let too_large = |record: &Record| record.data.len().saturating_add(record.topic.len()) > MAX_BODY - BODY_REST;
    match records.iter().any(too_large) {
        true => Err(Refusal::NotDurable(super::segment::TooLarge.to_string())),
        false => Ok(()),
    }
}
