//! One stream on disk and in memory: taking records in, committing them, and letting go of what is done with.
//!
//! A record is *pending* (in memory) until an fdatasync has covered it. Records that are done with before that never
//! reach the disk. Opening is in `open`, reading in `read`.
//!
//! ```text
//!  segments (sealed)        active segment            pending
//! [ … ][ … ][ … ]          [ ………… | written ]        [ written, not synced | not written ]
//! ```
//!
//! States of a segment: *active* (the one that is appended to), *sealed* (whole, on the medium, only read), *quarantined* (its bad
//! parts copied aside and counted). After a failed write or fsync the active segment is sealed at its last good byte
//! and never touched again: its pending records go to a new one.

use super::fs::{FileSystem, LogFile, replace};
use super::ledger::{Fate, Ledger};
use super::read::Cursor;
use super::segment::{Header, encode_entry};
use super::{Gap, Reason};
use crate::config::{Stream, WhenFull};
use crate::record::{Accepted, Record, Refusal, Sequenced, StreamId, Timestamp};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Memory that pending records may take, in bytes per stream. More than this is committed at once, or dropped by the
/// stream's rule while the disk fails.
const PENDING_BYTES: usize = 256 * 1024;
/// Bytes handed to the file system in one write.
const WRITE_BYTES: usize = 64 * 1024;
/// What a file costs on disk at least: a block.
const BLOCK: u64 = 4096;
/// Sequence numbers that a checkpoint reserves while records may live and die in memory alone.
const LEASE: u64 = 1 << 20;
/// Acknowledgements of stored records are saved after this many milliseconds at the latest: the repeats after a crash.
const CHECKPOINT_LAG_MS: u64 = 10_000;
/// Segments that are done with are removed at most this often, in milliseconds, since each removal saves a checkpoint.
const REMOVE_EVERY_MS: u64 = 1_000;
/// Waits between tries of a disk that fails, in milliseconds: doubling from the first to the second.
const RETRY_MS: (u64, u64) = (1_000, 30_000);

/// A file of whole records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub first: u64,
    pub bytes: u64,
    /// Wall clock of its first record; known once it was written or read in this run.
    pub created_ms: Option<u64>,
}

/// The segment that is appended to.
pub(super) struct Active {
    pub segment: Segment,
    file: Box<dyn LogFile>,
    /// Sequence number that the next entry must have: entries of a segment have no gaps.
    next: u64,
    unsynced: bool,
}

struct Pending {
    record: Sequenced,
    since_ms: u64,
}

/// What a disk that fails makes us wait for.
struct Trouble {
    text: String,
    retry_at_ms: u64,
    wait_ms: u64,
}

/// How a log is kept.
pub(super) struct Rules {
    pub stream: Stream,
    pub id: StreamId,
    pub segment_bytes: u64,
    /// How long a record may stay in memory alone, in milliseconds; `None`: every record is synced on acceptance.
    pub window_ms: Option<u64>,
    pub boot_id: [u8; 16],
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
    pub(super) cursor: Cursor,
    pub(super) gaps: Vec<Gap>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// How many of `pending`, from the front, are in the active segment and wait for its fdatasync.
    written: usize,
    trouble: Option<Trouble>,
    saved_done: u64,
    leased_to: u64,
    unsaved_since_ms: Option<u64>,
    removed_at_ms: u64,
    scratch: Vec<u8>,
}

/// What a record costs in memory, in bytes: its own and what the containers add.
pub(super) fn cost(record: &Record) -> usize {
    record.data.len() + record.topic.len() + 96
}

impl Log {
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: PathBuf, rules: Rules, ledger: Ledger, leased_to: u64) -> Self {
        let saved_done = ledger.done();
        Log {
            fs,
            dir,
            rules,
            disk_end: ledger.next(),
            ledger,
            segments: VecDeque::new(),
            active: None,
            cursor: Cursor::default(),
            gaps: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            written: 0,
            trouble: None,
            saved_done,
            leased_to,
            unsaved_since_ms: None,
            removed_at_ms: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes records in: all of them, or none.
    pub fn append(&mut self, records: Vec<Record>, now: Timestamp) -> Result<Accepted, Refusal> {
        let count = u64::try_from(records.len()).unwrap_or(u64::MAX);
        let bytes: usize = records.iter().map(cost).sum();
        self.make_room(bytes, now).inspect_err(|_| self.ledger.refuse(count))?;
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
        if reject && self.disk_bytes().saturating_add(more) > self.rules.stream.max_bytes {
            return Err(Refusal::Full);
        }
        if self.pending_bytes + bytes <= PENDING_BYTES || self.pending.is_empty() {
            return Ok(());
        }
        // A disk that works takes the pending ones; the error of one that doesn't is kept in `trouble`.
        let _ = self.commit(now);
        while self.pending_bytes + bytes > PENDING_BYTES && !self.pending.is_empty() {
            if reject {
                return Err(Refusal::Full);
            }
            self.evict_pending();
        }
        Ok(())
    }

    /// Drops the oldest pending record that memory has no room for.
    fn evict_pending(&mut self) {
        let Some(oldest) = self.pop_pending() else { return };
        let seq = oldest.record.seq;
        let count = self.ledger.settle_range(seq, seq, Fate::Evicted);
        let at = Some(oldest.record.record.time.wall_ms);
        self.gap(seq, seq, count, Reason::Full, (at, at), None);
    }

    fn pop_pending(&mut self) -> Option<Pending> {
        let front = self.pending.pop_front()?;
        self.pending_bytes = self.pending_bytes.saturating_sub(cost(&front.record.record));
        self.written = self.written.saturating_sub(1);
        Some(front)
    }

    /// The broker has taken all records up to `last`.
    pub fn acknowledge(&mut self, last: u64, now: Timestamp) {
        if self.ledger.settle(last, Fate::Delivered) > 0 {
            self.drop_done(now);
        }
    }

    /// The broker can't take this record.
    pub fn discard(&mut self, seq: u64, detail: String, now: Timestamp) {
        let count = self.ledger.settle_range(seq, seq, Fate::Quarantined);
        self.gap(seq, seq, count, Reason::Oversize, (None, None), Some(detail));
        self.drop_done(now);
    }

    fn drop_done(&mut self, now: Timestamp) {
        while self.pending.front().is_some_and(|front| front.record.seq <= self.ledger.done()) {
            self.pop_pending();
        }
        if !self.segments.is_empty() || self.active.is_some() {
            self.unsaved_since_ms.get_or_insert(now.mono_ms);
        }
    }

    /// Hands pending records to the file system: from here on they survive a kill of the process.
    pub fn write(&mut self, now: Timestamp) -> io::Result<()> {
        self.guarded(now, Self::write_pending)
    }

    /// Writes pending records and returns when they are on the medium.
    pub fn commit(&mut self, now: Timestamp) -> io::Result<()> {
        self.guarded(now, |log| {
            log.write_pending()?;
            log.sync_active()
        })?;
        self.enforce_quota(now);
        Ok(())
    }

    /// Runs a step that touches the disk; keeps its error, and the disk in peace until the next try is due.
    fn guarded(&mut self, now: Timestamp, step: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if let Some(trouble) = &self.trouble
            && now.mono_ms < trouble.retry_at_ms
        {
            return Err(io::Error::other(trouble.text.clone()));
        }
        match step(self) {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    tracing::info!(stream = %self.rules.stream.name, "the disk takes records again");
                }
                Ok(())
            }
            Err(error) => {
                self.fail(&error, now);
                Err(error)
            }
        }
    }

    fn fail(&mut self, error: &io::Error, now: Timestamp) {
        if self.trouble.is_none() {
            tracing::error!(stream = %self.rules.stream.name, dir = %self.dir.display(), %error,
                "the disk does not take records; they are held in memory");
        }
        let wait_ms = self.trouble.as_ref().map_or(RETRY_MS.0, |trouble| (trouble.wait_ms * 2).min(RETRY_MS.1));
        let text = format!("{}: {error}", self.dir.display());
        self.trouble = Some(Trouble { text, retry_at_ms: now.mono_ms.saturating_add(wait_ms), wait_ms });
        if let Some(active) = self.active.take() {
            // What is pending will be written again, so this segment counts only up to what was synced before.
            let path = self.path_of(active.segment.first);
            let _ = self.fs.truncate(&path, active.segment.bytes);
            self.disk_end = self.pending.front().map_or(self.disk_end, |front| front.record.seq.min(self.disk_end));
            if active.segment.first < self.disk_end {
                self.segments.push_back(active.segment);
            } else {
                let _ = self.fs.remove(&path);
            }
            self.cursor.close();
        }
        self.written = 0;
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while let Some(first) = self.pending.get(self.written).map(|pending| pending.record.seq) {
            let full = |active: &Active| active.segment.bytes >= self.rules.segment_bytes;
            if self.active.as_ref().is_some_and(|active| active.next != first || full(active)) {
                self.seal()?;
            }
            let Some(first) = self.pending.get(self.written).map(|pending| pending.record.seq) else { break };
            let mut active = match self.active.take() {
                Some(active) => active,
                None => self.create(first)?,
            };
            let appended = self.append_batch(&mut active);
            self.active = Some(active);
            appended?;
        }
        Ok(())
    }

    /// Writes as many pending records as fit one write and the segment.
    fn append_batch(&mut self, active: &mut Active) -> io::Result<()> {
        self.scratch.clear();
        let room = usize::try_from(self.rules.segment_bytes.saturating_sub(active.segment.bytes)).unwrap_or(usize::MAX);
        let mut count = 0;
        for pending in self.pending.iter().skip(self.written) {
            encode_entry(&pending.record, &mut self.scratch).map_err(io::Error::other)?;
            count += 1;
            if self.scratch.len() >= room.min(WRITE_BYTES) {
                break;
            }
        }
        active.unsynced = true;
        active.file.append(&self.scratch)?;
        active.segment.bytes += u64::try_from(self.scratch.len()).unwrap_or(0);
        active.next += u64::try_from(count).unwrap_or(0);
        self.written += count;
        self.disk_end = active.next;
        self.scratch.shrink_to(WRITE_BYTES * 2);
        Ok(())
    }

    fn create(&mut self, first: u64) -> io::Result<Active> {
        self.fs.create_dir_all(&self.dir)?;
        let created_ms = self.pending.get(self.written).map_or(0, |pending| pending.record.record.time.wall_ms);
        let header = Header { first, done: self.ledger.done(), created_ms, boot_id: self.rules.boot_id }.encode();
        let mut file = self.fs.create(&self.path_of(first))?;
        file.append(&header)?;
        self.fs.sync_dir(&self.dir)?;
        let bytes = u64::try_from(header.len()).unwrap_or(0);
        let segment = Segment { first, bytes, created_ms: Some(created_ms) };
        Ok(Active { segment, file, next: first, unsynced: true })
    }

    fn sync_active(&mut self) -> io::Result<()> {
        if let Some(active) = &mut self.active
            && active.unsynced
        {
            active.file.sync()?;
            active.unsynced = false;
            for _ in 0..std::mem::take(&mut self.written) {
                if let Some(front) = self.pending.pop_front() {
                    self.pending_bytes = self.pending_bytes.saturating_sub(cost(&front.record.record));
                }
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        self.sync_active()?;
        if let Some(active) = self.active.take() {
            self.segments.push_back(active.segment);
        }
        Ok(())
    }

    /// Drops oldest segments while the stream is over its quota.
    fn enforce_quota(&mut self, now: Timestamp) {
        while self.disk_bytes() > self.rules.stream.max_bytes && self.drop_oldest(Fate::Evicted, now) {}
    }

    /// Drops the oldest sealed segment with what waits in it. Returns whether there was one.
    fn drop_oldest(&mut self, fate: Fate, now: Timestamp) -> bool {
        let Some(oldest) = self.segments.front() else { return false };
        let (first, end, from) = (oldest.first, self.end_of(0), oldest.created_ms);
        let first = first.max(self.ledger.done().saturating_add(1));
        let to = self
            .segments
            .get(1)
            .or(self.active.as_ref().map(|active| &active.segment))
            .and_then(|next| next.created_ms);
        let count = self.ledger.settle(end.saturating_sub(1), fate);
        let reason = if fate == Fate::Expired { Reason::Age } else { Reason::Full };
        self.gap(first, end.saturating_sub(1), count, reason, (from, to), None);
        self.drop_done(now);
        self.remove_done(now);
        true
    }

    /// The number after the last record of a sealed segment.
    pub(super) fn end_of(&self, index: usize) -> u64 {
        let next = self.segments.get(index + 1).or(self.active.as_ref().map(|active| &active.segment));
        next.map_or(self.disk_end, |next| next.first)
    }

    /// Removes segments that are done with, after saving that they are.
    fn remove_done(&mut self, now: Timestamp) {
        let is_done = |log: &Self| !log.segments.is_empty() && log.end_of(0) <= log.ledger.done().saturating_add(1);
        if !is_done(self) {
            return;
        }
        self.removed_at_ms = now.mono_ms;
        // If this fails, opening finds the first segments missing and still knows where to go on.
        let _ = self.save(self.lease_length(), now);
        while is_done(self) {
            let Some(segment) = self.segments.pop_front() else { break };
            if let Err(error) = self.fs.remove(&self.path_of(segment.first)) {
                tracing::warn!(stream = %self.rules.stream.name, %error, "a segment that is done with can't be removed");
            }
        }
        self.cursor.close();
    }

    fn lease_length(&self) -> u64 {
        if self.rules.window_ms.is_some() { LEASE } else { 0 }
    }

    /// Makes sure that a crash can't give the coming numbers a second time, though their records may never be on disk.
    fn lease(&mut self, count: u64, now: Timestamp) {
        let wanted = self.ledger.next().saturating_add(count);
        if self.rules.window_ms.is_some() && wanted > self.leased_to {
            // In vain on a disk that fails; then the numbers of this run may come again after a crash.
            let _ = self.save(LEASE.saturating_add(count), now);
            self.leased_to = wanted.saturating_add(LEASE);
        }
    }

    /// Writes the checkpoint.
    fn save(&mut self, lease: u64, now: Timestamp) -> io::Result<()> {
        let checkpoint = self.ledger.to_checkpoint(lease);
        let content = checkpoint.encode().map_err(io::Error::other)?;
        let path = self.dir.join("checkpoint");
        let saved = self.fs.create_dir_all(&self.dir).and_then(|()| replace(self.fs.as_ref(), &path, &content));
        match &saved {
            Ok(()) => {
                self.saved_done = checkpoint.done;
                self.leased_to = checkpoint.next;
                self.unsaved_since_ms = None;
            }
            Err(error) => {
                tracing::warn!(stream = %self.rules.stream.name, %error, "the checkpoint can't be written; records may be repeated after a restart");
                self.unsaved_since_ms = Some(now.mono_ms);
            }
        }
        saved
    }

    /// Does what is due: commits records that waited out the window, saves acknowledgements, removes what is done with
    /// or too old.
    pub fn tick(&mut self, now: Timestamp) {
        if self.commit_due_ms().is_some_and(|due| due <= now.mono_ms) {
            // The error is kept in `trouble` and shown in the status.
            let _ = self.commit(now);
        }
        if self.remove_due_ms().is_some_and(|due| due <= now.mono_ms) {
            self.retire_active();
            self.remove_done(now);
        }
        if self.save_due_ms().is_some_and(|due| due <= now.mono_ms) {
            let _ = self.save(self.lease_length(), now);
        }
        self.expire(now);
    }

    fn expire(&mut self, now: Timestamp) {
        let Some(max_age) = self.rules.stream.max_age else { return };
        let age_ms = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        let limit = now.wall_ms.saturating_sub(age_ms);
        // All records of a segment are older than the first of its successor.
        let successor = |log: &Self| {
            let next = log.segments.get(1).or(log.active.as_ref().map(|active| &active.segment));
            next.and_then(|next| next.created_ms)
        };
        while !self.segments.is_empty() && successor(self).is_some_and(|created| created < limit) {
            self.drop_oldest(Fate::Expired, now);
        }
    }

    /// When `tick` has to be called next, in milliseconds of the monotonic clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        [self.commit_due_ms(), self.remove_due_ms(), self.save_due_ms()].into_iter().flatten().min()
    }

    fn commit_due_ms(&self) -> Option<u64> {
        let oldest = self.pending.front()?;
        match &self.trouble {
            Some(trouble) => Some(trouble.retry_at_ms),
            None => Some(oldest.since_ms.saturating_add(self.rules.window_ms.unwrap_or(0))),
        }
    }

    /// Whether everything in the active segment is done with, so that it is better removed than appended to. With
    /// `sync = "always"` it would be created again for the next record: there it stays until it is full.
    fn active_is_idle(&self) -> bool {
        let is_done = |active: &Active| active.next <= self.ledger.done().saturating_add(1);
        self.rules.window_ms.is_some() && self.active.as_ref().is_some_and(is_done)
    }

    fn retire_active(&mut self) {
        if self.active_is_idle()
            && let Some(active) = self.active.take()
        {
            // Without an fsync: nothing in it is needed any more.
            self.segments.push_back(active.segment);
        }
    }

    fn remove_due_ms(&self) -> Option<u64> {
        let sealed = !self.segments.is_empty() && self.end_of(0) <= self.ledger.done().saturating_add(1);
        let done = sealed || self.active_is_idle();
        done.then(|| self.removed_at_ms.saturating_add(REMOVE_EVERY_MS))
    }

    fn save_due_ms(&self) -> Option<u64> {
        let unsaved = self.unsaved_since_ms.filter(|_| self.ledger.done() > self.saved_done)?;
        Some(unsaved.saturating_add(CHECKPOINT_LAG_MS))
    }

    /// Commits and saves everything: the next opening finds no number skipped.
    pub fn close(&mut self, now: Timestamp) -> io::Result<()> {
        self.trouble = None;
        self.commit(now)?;
        self.seal()?;
        self.remove_done(now);
        self.save(0, now)
    }

    /// Bytes on disk, in whole blocks.
    fn disk_bytes(&self) -> u64 {
        let active = self.active.as_ref().map(|active| &active.segment);
        self.segments.iter().chain(active).map(|segment| segment.bytes.next_multiple_of(BLOCK)).sum()
    }

    /// The pending record of this number.
    pub(super) fn pending(&self, seq: u64) -> Option<&Sequenced> {
        let front = self.pending.front()?.record.seq;
        let index = usize::try_from(seq.checked_sub(front)?).ok()?;
        self.pending.get(index).map(|pending| &pending.record).filter(|record| record.seq == seq)
    }

    pub(super) fn first_pending(&self) -> Option<u64> {
        self.pending.front().map(|front| front.record.seq)
    }

    pub(super) fn path_of(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:020}.seg"))
    }

    pub(super) fn gap(
        &mut self,
        first: u64,
        last: u64,
        count: u64,
        reason: Reason,
        (from_ms, to_ms): (Option<u64>, Option<u64>),
        detail: Option<String>,
    ) {
        if count == 0 {
            return;
        }
        let stream = self.rules.id;
        // A run of neighbours is one gap: memory overflows record by record.
        if let Some(gap) = self.gaps.last_mut()
            && gap.reason == reason
            && gap.last.checked_add(1) == Some(first)
            && gap.detail == detail
        {
            gap.last = last;
            gap.count += count;
            gap.to_ms = to_ms;
            return;
        }
        self.gaps.push(Gap { stream, first, last, count, reason, from_ms, to_ms, detail });
    }

    /// The ledger and the disk, for the status.
    pub fn status(&self, now: Timestamp) -> crate::stats::StreamStatus {
        let active = self.active.as_ref().map(|active| &active.segment);
        let on_disk = self.segments.iter().chain(active).next().and_then(|segment| segment.created_ms);
        let in_memory = self.pending.front().map(|front| front.record.record.time.wall_ms);
        let mut status = self.ledger.status();
        let oldest = on_disk.or(in_memory).filter(|_| status.waiting > 0);
        status.oldest_s = oldest.map(|oldest| now.wall_ms.saturating_sub(oldest) / 1000);
        status.bytes = self.disk_bytes();
        status.disk_error = self.trouble.as_ref().map(|trouble| trouble.text.clone());
        status
    }
}
