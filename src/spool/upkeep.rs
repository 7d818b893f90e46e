//! What falls due in a stream: commits, checkpoints and leases, the removal of what is done with, quota and age.

use super::Reason;
use super::fs::{read_all, replace};
use super::ledger::Fate;
use super::log::{Created, Log};
use super::open::unknown_next;
use super::segment::{HEADER_LEN, Header};
use crate::config::WhenFull;
use crate::record::{ClockQuality, Timestamp};
use std::io;

/// Sequence numbers that a checkpoint reserves, so that no crash can make one be given twice: records may be with the
/// broker before they are on disk.
pub(super) const LEASE: u64 = 1 << 20;
/// Acknowledgements and losses are saved after this many milliseconds at the latest: the repeats after a crash.
const CHECKPOINT_LAG_MS: u64 = 10_000;
/// Segments that are done with are removed at most this often, in milliseconds, since each removal saves a checkpoint.
const REMOVE_EVERY_MS: u64 = 1_000;

impl Log {
    /// Does what is due: commits records that waited out the window, saves acknowledgements, removes what is done with
    /// or too old.
    pub fn tick(&mut self, now: Timestamp) {
        let is_due = |due: Option<u64>| due.is_some_and(|due| due <= now.mono_ms);
        if is_due(self.commit_due_ms()) {
            // The error is kept in `trouble` and shown in the status.
            let _ = self.commit(now);
        }
        if is_due(self.remove_due_ms()) {
            self.retire_active();
            self.remove_done(now);
        }
        if is_due(self.save_due_ms()) {
            // The error is logged, and the next try is due later.
            let _ = self.save(LEASE, now);
        }
        if is_due(self.stall_due_ms()) {
            self.end_stall();
        }
        self.look_at(0);
        self.expire(now);
    }

    /// When `tick` has to be called next, in milliseconds of the monotonic clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        let flash = [self.commit_due_ms(), self.remove_due_ms(), self.save_due_ms()];
        let dues = flash.into_iter().chain([self.stage_due_ms(), self.stall_due_ms()]);
        dues.flatten().min()
    }

    fn commit_due_ms(&self) -> Option<u64> {
        match &self.trouble {
            // Also with nothing to write: the status must not tell of an error that is over.
            Some(trouble) => Some(trouble.retry_at_ms),
            None => Some(self.pending.front()?.since_ms.saturating_add(self.rules.window_ms.unwrap_or(0))),
        }
    }

    fn remove_due_ms(&self) -> Option<u64> {
        let due = self.oldest_is_done() || self.active_is_idle();
        due.then(|| self.removed_at_ms.saturating_add(REMOVE_EVERY_MS))
    }

    fn save_due_ms(&self) -> Option<u64> {
        self.unsaved_since_ms.map(|since| since.saturating_add(CHECKPOINT_LAG_MS))
    }

    /// Drops oldest segments while the stream is over its quota. One that rejects is so only if its quota was lowered: what it
    /// took it keeps.
    pub(super) fn enforce_quota(&mut self, now: Timestamp) {
        if self.rules.stream.when_full == WhenFull::Reject {
            return;
        }
        while self.disk_bytes() > self.rules.stream.max_bytes && self.drop_oldest(Fate::Evicted, now) {}
    }

    /// Drops segments whose records are all too old: older than the first one of a later segment that is itself too old.
    fn expire(&mut self, now: Timestamp) {
        let Some(max_age) = self.rules.stream.max_age else { return };
        if now.quality == ClockQuality::Unsynced {
            return;
        }
        let age_ms = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        let limit = now.wall_ms.saturating_sub(age_ms);
        while self.second_created_ms().is_some_and(|created| created < limit) && self.drop_oldest(Fate::Expired, now) {}
    }

    /// When all records of the oldest segment were there already: the first known time of a later segment.
    fn second_created_ms(&mut self) -> Option<u64> {
        for index in 1..self.segments.len() {
            if let Some(created) = self.look_at(index).known() {
                return Some(created);
            }
        }
        self.active.as_ref().filter(|_| !self.segments.is_empty())?.segment.created.known()
    }

    /// When a sealed segment begins. Reads its header, once, if it is of an earlier run.
    fn look_at(&mut self, index: usize) -> Created {
        let Some(segment) = self.segments.get(index) else { return Created::Unknown };
        if segment.created != Created::Unread {
            return segment.created;
        }
        let head = read_all(self.fs.as_ref(), &self.path_of(segment.first), HEADER_LEN);
        let header = head.ok().and_then(|head| Header::decode(&head).ok());
        let created = header.map_or(Created::Unknown, |header| Created::from_header(header.created_ms));
        if let Some(segment) = self.segments.get_mut(index) {
            segment.created = created;
        }
        created
    }

    /// Drops the oldest sealed segment with what waits in it. Returns whether there was one.
    pub(super) fn drop_oldest(&mut self, fate: Fate, now: Timestamp) -> bool {
        let Some(oldest) = self.segments.front() else { return false };
        let first = oldest.first.max(self.ledger.done().saturating_add(1));
        let last = self.end_of(0).saturating_sub(1);
        let from = self.look_at(0).known();
        let to = self.second_created_ms();
        let count = self.ledger.settle(last, fate);
        let reason = if fate == Fate::Expired { Reason::Age } else { Reason::Full };
        self.gap((first, last), count, reason, (from, to), None, now);
        self.drop_done(now);
        self.remove_done(now);
        true
    }

    fn oldest_is_done(&self) -> bool {
        !self.segments.is_empty() && self.end_of(0) <= self.ledger.done().saturating_add(1)
    }

    /// Whether the active segment is better removed than appended to. With `sync = "always"` it would be created again
    /// for the next record: there it stays until it is full.
    fn active_is_idle(&self) -> bool {
        self.rules.window_ms.is_some() && self.active_is_done()
    }

    fn retire_active(&mut self) {
        if self.active_is_idle() {
            // A segment that is done with is sealed without touching the disk.
            let _ = self.seal();
        }
    }

    /// Removes what is done with, the active segment too: what is refused for want of space never gets it sealed.
    pub(super) fn remove_now(&mut self, now: Timestamp) {
        if self.active_is_done() {
            // As in `retire_active`.
            let _ = self.seal();
        }
        self.remove_done(now);
    }

    /// Removes segments that are done with, after saving that they are.
    pub(super) fn remove_done(&mut self, now: Timestamp) {
        if !self.oldest_is_done() {
            return;
        }
        self.removed_at_ms = now.mono_ms;
        // A full disk may have no room for a checkpoint before the segments are gone. After a crash right now, opening would
        // take them for missing: counted too often, but nothing lost.
        let saved = self.save(LEASE, now);
        while self.oldest_is_done() {
            let Some(segment) = self.segments.pop_front() else { break };
            if let Err(error) = self.fs.remove(&self.path_of(segment.first)) {
                let name = &self.rules.stream.name;
                tracing::warn!(stream = %name, "a segment of stream {name} that is done with can't be removed: {error}");
            }
        }
        self.cursor.close();
        if saved.is_err() {
            let _ = self.save(LEASE, now);
        }
    }

    /// Makes sure that a crash can't give the coming numbers a second time. Where the disk can't reserve them they are taken
    /// from the clock, as without a checkpoint: a tmpfs reserves nothing over a power cut.
    pub(super) fn lease(&mut self, count: u64, now: Timestamp) {
        let wanted = self.ledger.next().saturating_add(count);
        if wanted <= self.leased_to {
            return;
        }
        if self.resting(now).is_none() {
            match self.save(LEASE.saturating_add(count), now) {
                Ok(()) => return,
                Err(error) => self.note_trouble(&error, now),
            }
        }
        // The next run will find the old checkpoint, and must not give the numbers behind it to other records.
        if !self.is_by_clock {
            self.is_by_clock = true;
            self.ledger.skip_to(unknown_next(self.ledger.next(), now));
        }
    }

    /// Writes the checkpoint; with `lease` 0 it says that every record up to now is on disk or done with.
    pub(super) fn save(&mut self, lease: u64, now: Timestamp) -> io::Result<()> {
        let checkpoint = self.ledger.to_checkpoint(lease);
        let path = self.dir.join("checkpoint");
        let saved = checkpoint.encode().map_err(io::Error::other).and_then(|content| {
            self.check_unlisted()?;
            self.fs.create_dir_all(&self.dir)?;
            replace(self.fs.as_ref(), &path, &content)
        });
        let name = &self.rules.stream.name;
        match &saved {
            Ok(()) => {
                self.leased_to = checkpoint.next;
                self.is_by_clock = false;
                self.unsaved_since_ms = None;
                if std::mem::take(&mut self.is_unsaved_told) {
                    tracing::info!(stream = %name, "the checkpoint of stream {name} is written again");
                }
            }
            Err(error) => {
                // Tried for as long as the disk fails, and told once: a full one has no room for a line at each try.
                if !std::mem::replace(&mut self.is_unsaved_told, true) {
                    tracing::warn!(stream = %name,
                        "the checkpoint of stream {name} can't be written: {error}; records may be repeated after a restart");
                }
                self.unsaved_since_ms = Some(now.mono_ms);
            }
        }
        saved
    }

    /// Commits what is pending, whatever the disk said before.
    pub fn flush(&mut self, now: Timestamp) -> io::Result<()> {
        if let Some(trouble) = &mut self.trouble {
            trouble.retry_at_ms = now.mono_ms;
        }
        self.commit(now)
    }

    /// Commits and saves everything: the next opening finds no number skipped.
    pub fn close(&mut self, now: Timestamp) -> io::Result<()> {
        self.take_over_late(now);
        let flushed = self.flush(now).and_then(|()| self.seal());
        self.remove_done(now);
        let closed = match flushed {
            Ok(()) => self.save(0, now),
            Err(error) => {
                // What is acknowledged can be saved at least.
                let _ = self.save(LEASE, now);
                Err(error)
            }
        };
        match &closed {
            Ok(()) => self.clear_runtime(),
            Err(_) => {
                self.stage(now);
            }
        }
        closed
    }
}
