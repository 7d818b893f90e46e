//! Writing a stream to flash: pending records into the active segment, and onto the medium.
//!
//! An error of the disk is kept as *trouble*: the records stay pending, the disk is left in peace until the next try is
//! due, and the first step that works ends it. On a disk that is full, a stream whose rule is `drop-oldest` gives up its oldest
//! segment for the records to come.

use super::ledger::Fate;
use super::log::{Active, CACHED_BYTES, Created, Log, Pending, Segment, made_at};
use super::segment::{Base, Header, encode_entry};
use super::upkeep::LEASE;
use crate::config::WhenFull;
use crate::record::{StreamId, Timestamp};
use std::io;

/// Bytes handed to the file system in one write.
pub(super) const WRITE_BYTES: usize = 64 * 1024;
/// Waits between tries of a disk that fails, in milliseconds: doubling from the first to the second.
pub(super) const RETRY_MS: (u64, u64) = (1_000, 30_000);
/// When a full disk that others fill is worth another segment, in milliseconds.
const FREE_AGAIN_MS: u64 = 600_000;

/// What a disk that fails makes us wait for.
pub(super) struct Trouble {
    pub text: String,
    pub retry_at_ms: u64,
    wait_ms: u64,
    /// The disk has no space left.
    full: bool,
}

/// What was given up for the sake of a full disk.
pub(super) struct Freed {
    at_ms: u64,
    bytes: u64,
    /// What we have written since.
    refilled: u64,
}

impl Trouble {
    /// The wait after an error: twice as long as the one before it.
    pub(super) fn after(before: Option<&Trouble>, text: String, full: bool, mono_ms: u64) -> Trouble {
        let wait_ms = before.map_or(RETRY_MS.0, |trouble| (trouble.wait_ms * 2).min(RETRY_MS.1));
        Trouble { text, retry_at_ms: mono_ms.saturating_add(wait_ms), wait_ms, full }
    }
}

impl Log {
    /// Hands pending records to the file system of `state_dir`: from here on they survive a kill of the process. Only where
    /// the runtime tier does not take them.
    pub fn write(&mut self, now: Timestamp) -> io::Result<()> {
        self.guarded(now, Self::write_pending)
    }

    /// Writes pending records and returns when they are on the medium.
    pub fn commit(&mut self, now: Timestamp) -> io::Result<()> {
        let step = |log: &mut Self| {
            log.write_pending()?;
            log.sync_active()
        };
        let again = self.trouble.is_some();
        let mut done = self.guarded(now, step);
        // A short shortage is sat out in memory, where memory is enough for acceptance; events are few, and sit out a long one.
        let urgent = (again || self.rules.window_ms.is_none()) && self.rules.id != StreamId::EVENT;
        if done.is_err() && urgent && self.free_space(now) {
            done = self.guarded(now, step);
        }
        done?;
        self.enforce_quota(now);
        Ok(())
    }

    /// Gives up oldest segments for the sake of a full disk, as much as what is pending takes, if that is the stream's rule
    /// and it is we who fill the disk: where somebody else does, giving up the whole backlog would help nobody. Returns
    /// whether it is worth trying again now.
    pub(super) fn free_space(&mut self, now: Timestamp) -> bool {
        let worthwhile = self.freed.as_ref().is_none_or(|freed| {
            freed.refilled >= freed.bytes / 2 || now.mono_ms >= freed.at_ms.saturating_add(FREE_AGAIN_MS)
        });
        let Some(trouble) = self.trouble.as_mut().filter(|trouble| trouble.full && worthwhile) else { return false };
        if self.rules.stream.when_full == WhenFull::Reject || self.segments.is_empty() {
            return false;
        }
        trouble.retry_at_ms = now.mono_ms;
        let wanted = u64::try_from(self.pending_bytes).unwrap_or(u64::MAX);
        let mut freed = Freed { at_ms: now.mono_ms, bytes: 0, refilled: 0 };
        while let Some(oldest) = self.segments.front()
            && freed.bytes < wanted.max(1)
        {
            freed.bytes = freed.bytes.saturating_add(oldest.bytes);
            self.drop_oldest(Fate::Evicted, now);
        }
        self.freed = Some(freed);
        true
    }

    /// Runs a step that touches the disk; keeps its error, and the disk in peace until the next try is due.
    fn guarded(&mut self, now: Timestamp, step: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if let Some(text) = self.resting(now) {
            return Err(io::Error::other(text.to_owned()));
        }
        let idle = self.pending.is_empty();
        // No segment may go beyond what the checkpoint knows: a crash right behind it would take numbers that were skipped
        // for records that wait.
        let known = if idle || self.leased_to >= self.ledger.next() { Ok(()) } else { self.save(LEASE, now) };
        let mut done = known.and_then(|()| step(self));
        if done.is_ok() && self.trouble.is_some() {
            // The checkpoint fell behind meanwhile. And where nothing was to be written, this is the try.
            let saved = self.save(LEASE, now);
            done = if idle { saved } else { done };
        }
        match &done {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    tracing::info!(stream = %self.rules.stream.name, "the disk takes records of stream {} again", self.rules.stream.name);
                }
            }
            Err(error) => {
                self.note_trouble(error, now);
                self.abandon_active();
            }
        }
        done
    }

    /// Why the disk is left in peace now, if it is.
    pub(super) fn resting(&self, now: Timestamp) -> Option<&str> {
        let trouble = self.trouble.as_ref().filter(|trouble| now.mono_ms < trouble.retry_at_ms);
        trouble.map(|trouble| trouble.text.as_str())
    }

    pub(super) fn note_trouble(&mut self, error: &io::Error, now: Timestamp) {
        if self.trouble.is_none() {
            let (name, dir) = (&self.rules.stream.name, self.dir.display());
            tracing::error!(stream = %name, %dir, "{dir} takes no records ({error}); stream {name} is held in memory");
        }
        let text = format!("{}: {error}", self.dir.display());
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        self.trouble = Some(Trouble::after(self.trouble.as_ref(), text, full, now.mono_ms));
    }

    /// Seals the active segment after an error. What is pending will be written again, so this segment counts only up to
    /// what was synced before.
    pub(super) fn abandon_active(&mut self) {
        self.written = 0;
        let Some(active) = self.active.take() else { return };
        self.cursor.close();
        self.disk_end = self.first_pending().map_or(self.disk_end, |first| first.min(self.disk_end));
        let path = self.path_of(active.segment.first);
        if active.segment.first < self.disk_end {
            let _ = self.fs.truncate(&path, active.segment.bytes);
            self.segments.push_back(active.segment);
        } else {
            let _ = self.fs.remove(&path);
        }
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while let Some(first) = self.first_unwritten() {
            let full = |active: &Active| active.segment.bytes >= self.rules.segment_bytes;
            if self.active.as_ref().is_some_and(|active| active.next != first || full(active)) {
                self.seal()?;
            }
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

    fn first_unwritten(&self) -> Option<u64> {
        self.pending.get(self.written).map(|pending| pending.record.seq)
    }

    /// Writes as many pending records as fit one write and the segment.
    fn append_batch(&mut self, active: &mut Active) -> io::Result<()> {
        self.scratch.clear();
        let room = usize::try_from(self.rules.segment_bytes.saturating_sub(active.segment.bytes)).unwrap_or(usize::MAX);
        let count =
            encode_run(self.pending.iter().skip(self.written), active.base, room.min(WRITE_BYTES), &mut self.scratch)?;
        active.unsynced = true;
        active.file.append(&self.scratch)?;
        let bytes = u64::try_from(self.scratch.len()).unwrap_or(0);
        active.segment.bytes += bytes;
        if let Some(freed) = &mut self.freed {
            freed.refilled = freed.refilled.saturating_add(bytes);
        }
        active.next += u64::try_from(count).unwrap_or(0);
        self.written += count;
        self.disk_end = active.next;
        self.scratch.shrink_to(WRITE_BYTES * 2);
        Ok(())
    }

    fn create(&mut self, first: u64) -> io::Result<Active> {
        self.check_unlisted()?;
        self.fs.create_dir_all(&self.dir)?;
        let record = self.pending.get(self.written).map(|pending| &pending.record.record);
        let created_ms = record.and_then(made_at).unwrap_or(0);
        let base = record.map_or(Base { wall_ms: 0, mono_ms: 0 }, |record| Base::of(record.time));
        let (done, boot_id) = (self.ledger.done(), self.rules.boot_id);
        let header = Header { first, done, created_ms, boot_id, base: Some(base) }.encode();
        let path = self.path_of(first);
        let file = self.fs.create(&path).and_then(|mut file| {
            file.append(&header)?;
            self.fs.sync_dir(&self.dir)?;
            Ok(file)
        });
        let file = file.inspect_err(|_| {
            let _ = self.fs.remove(&path);
        })?;
        let bytes = u64::try_from(header.len()).unwrap_or(0);
        let segment = Segment { first, bytes, created: Created::from_header(created_ms) };
        Ok(Active { segment, base, file, next: first, unsynced: true, dropped_to: 0 })
    }

    /// Refuses to write into a folder that may hold records of an earlier run: a new checkpoint would disown them.
    pub(super) fn check_unlisted(&mut self) -> io::Result<()> {
        if self.unlisted {
            let strangers = match self.fs.list(&self.dir) {
                Ok(files) => !files.is_empty(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if strangers {
                let text = "it can be read again and holds records of an earlier run; restart pillion to take them up";
                return Err(io::Error::other(text));
            }
            self.unlisted = false;
            if let Some(runtime) = &mut self.runtime {
                runtime.sees_flash();
            }
        }
        Ok(())
    }

    fn sync_active(&mut self) -> io::Result<()> {
        if let Some(active) = &mut self.active
            && active.unsynced
        {
            active.file.sync()?;
            active.unsynced = false;
            if active.segment.bytes >= active.dropped_to.saturating_add(CACHED_BYTES) {
                active.drop_cache();
            }
            for _ in 0..self.written {
                self.pop_pending();
            }
        }
        Ok(())
    }

    pub(super) fn seal(&mut self) -> io::Result<()> {
        // Nothing needs an fsync in a segment that is done with.
        if !self.active_is_done() {
            self.sync_active()?;
        }
        if let Some(mut active) = self.active.take() {
            active.drop_cache();
            self.segments.push_back(active.segment);
        }
        Ok(())
    }

    /// Whether everything in the active segment is done with.
    pub(super) fn active_is_done(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.next <= self.ledger.done().saturating_add(1))
    }
}

/// Appends the entries of the first records to `out`, for a segment of this base, until it has `limit` bytes, or the next number does not follow the one
/// before: what was taken over from an earlier run has gaps. Returns how many.
pub(super) fn encode_run<'a>(
    records: impl Iterator<Item = &'a Pending>,
    base: Base,
    limit: usize,
    out: &mut Vec<u8>,
) -> io::Result<usize> {
    let (mut count, mut next) = (0, None);
    for Pending { record, .. } in records {
        if out.len() >= limit && count > 0 || next.is_some_and(|next| next != record.seq) {
            break;
        }
        encode_entry(record, base, out).map_err(io::Error::other)?;
        next = record.seq.checked_add(1);
        count += 1;
    }
    Ok(count)
}
