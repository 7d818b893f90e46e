//! The runtime tier of a stream: what is pending, in files of `runtime_dir`, so that a kill of the process costs nothing.
//!
//! Constraints: `runtime_dir` is a tmpfs, so nothing here is ever synced, and a power cut takes all of it. At most one write
//! per group of new records. While this folder can't be used the spool goes on without it: *trouble*, as with the disk.
//!
//! ```text
//! RUNTIME_DIR/spool/lock                            held by the process that has the spool open
//! RUNTIME_DIR/spool/STREAM/00000000000000000042.seg   as in `state_dir`; entries of one file have consecutive numbers
//! RUNTIME_DIR/spool/STREAM/checkpoint-BOOTID          as in `state_dir`; the boot id in 32 hex digits
//! ```
//!
//! A segment goes when everything in it is done with or on flash. The checkpoint says how far the broker had acknowledged,
//! and what the ledger was, at most [`SAVE_EVERY_MS`] ago. The next process of the same boot goes on from the later one of
//! both checkpoints, and takes over the records behind the last one on flash. Whatever is of another boot is removed.
//!
//! Where the folder can't be looked into at the start (*unlisted*) nothing is written here until it can: then the records in it are
//! taken over late, by [`Log::take_over_late`].

use super::checkpoint::Checkpoint;
use super::commit::{Trouble, WRITE_BYTES, encode_run};
use super::fs::{FileSystem, LogFile, read_all};
use super::ledger::Ledger;
use super::log::{Log, Pending, made_at};
use super::open::{CHECKPOINT_LIMIT, numbered, set_aside};
use super::reader::SegmentReader;
use super::segment::{Base, Header, HeaderError};
use crate::record::Timestamp;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Size of a segment in bytes. Each stream keeps one at least while it is used, and three when 256 KiB are pending.
pub(super) const SEGMENT_BYTES: u64 = 128 * 1024;
/// Acknowledgements are noted here at most this often, in milliseconds: the repeats after a kill.
pub(super) const SAVE_EVERY_MS: u64 = 1_000;

/// A file that nothing is appended to any more.
pub(super) struct Closed {
    pub first: u64,
    /// The number after its last record; `first` before it has been read.
    pub end: u64,
}

/// The file that is appended to.
struct Active {
    first: u64,
    next: u64,
    bytes: u64,
    base: Base,
    file: Box<dyn LogFile>,
}

/// The tier of one stream.
pub(super) struct Runtime {
    fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    boot_id: [u8; 16],
    /// With `sync = "always"` flash has every record first: what an earlier run left is kept until flash has it, no more.
    in_use: bool,
    pub(super) closed: VecDeque<Closed>,
    active: Option<Active>,
    /// The number after the last record that is in here.
    pub(super) end: u64,
    /// What the checkpoint says.
    saved: Progress,
    saved_at_ms: u64,
    leased_to: u64,
    trouble: Option<Trouble>,
    /// The folder could not be looked into yet: nobody knows what is in it.
    pub(super) unlisted: bool,
    /// What was known of the stream without it, when the log was opened.
    pub(super) before: Ledger,
    /// Nobody knows what is on flash: a checkpoint here repeats this one of an earlier run, and reserves numbers.
    blind: Option<Checkpoint>,
    scratch: Vec<u8>,
}

/// How far a ledger has come: the number up to which all is done with, and how many records were settled or refused. Of two
/// checkpoints of a stream the one with more of it is the later one.
pub(super) type Progress = (u64, u64);

/// What an earlier process of this boot left.
#[derive(Default)]
pub(super) struct Left {
    pub checkpoint: Option<Checkpoint>,
    /// Files that can't be used, and why.
    pub set_aside: Vec<(PathBuf, String)>,
}

impl Runtime {
    /// Looks at what is there, and removes what is of another boot.
    pub(super) fn open(
        fs: Arc<dyn FileSystem>,
        dir: PathBuf,
        boot_id: [u8; 16],
        in_use: bool,
        now: Timestamp,
    ) -> (Runtime, Left) {
        let mut runtime = Runtime {
            fs,
            dir,
            boot_id,
            in_use,
            closed: VecDeque::new(),
            active: None,
            end: 0,
            saved: Progress::default(),
            saved_at_ms: 0,
            leased_to: 0,
            trouble: None,
            unlisted: false,
            before: Ledger::default(),
            blind: None,
            scratch: Vec::new(),
        };
        let left = runtime.look().unwrap_or_else(|error| {
            runtime.unlisted = true;
            runtime.note_trouble(&error, now);
            Left::default()
        });
        (runtime, left)
    }

    /// Looks at what an earlier run left, and removes what is of another boot. Fails where the system is in a state that says
    /// nothing about what is there.
    pub(super) fn look(&mut self) -> io::Result<Left> {
        self.closed.clear();
        let left = self.sort_out();
        match &left {
            Ok(_) => self.closed.make_contiguous().sort_by_key(|closed| closed.first),
            Err(_) => self.closed.clear(),
        }
        left
    }

    fn sort_out(&mut self) -> io::Result<Left> {
        let files = match self.fs.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            files => files?,
        };
        let (mut left, mut stale) = (Left::default(), Vec::new());
        for (name, _) in files {
            let path = self.dir.join(&name);
            if let Some(first) = numbered(&name) {
                match self.is_of_this_boot(&path, first)? {
                    Ok(true) => self.closed.push_back(Closed { first, end: first }),
                    Ok(false) => stale.push(path),
                    Err(why) => left.set_aside.push((path, why)),
                }
            } else if path == self.checkpoint_path() {
                let content = read_all(self.fs.as_ref(), &path, CHECKPOINT_LIMIT)?;
                left.checkpoint = Checkpoint::decode(&content).ok();
            } else if name.starts_with("checkpoint") {
                stale.push(path);
            }
        }
        for path in stale {
            let _ = self.fs.remove(&path);
        }
        for (path, _) in &mut left.set_aside {
            *path = set_aside(self.fs.as_ref(), &self.dir, path).unwrap_or_else(|| path.clone());
        }
        Ok(left)
    }

    /// Whether this segment is of another boot or of ours, or why it is none. One without a whole header is of no boot: the
    /// process was killed before any record was in it.
    fn is_of_this_boot(&self, path: &Path, first: u64) -> io::Result<Result<bool, String>> {
        let reader = SegmentReader::new(self.fs.open(path)?, first)?;
        Ok(match reader.header() {
            Ok(header) if header.first != first => {
                Err(format!("its header names {} as its first record", header.first))
            }
            Ok(header) => Ok(header.boot_id == self.boot_id),
            Err(HeaderError::Incomplete) => Ok(false),
            Err(error) => Err(error.to_string()),
        })
    }

    fn checkpoint_path(&self) -> PathBuf {
        let boot: String = self.boot_id.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("checkpoint-{boot}"))
    }

    pub(super) fn path_of(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:020}.seg"))
    }

    /// Why records are not written here now.
    pub(super) fn error(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.text.as_str())
    }

    /// Nothing is to be saved until the ledger has come further than this.
    pub(super) fn starts_from(&mut self, ledger: &Ledger) {
        self.saved = ledger.progress();
    }

    /// Flash can't be looked into: its records must not count as done with. `left` is what an earlier run noted here.
    pub(super) fn set_blind(&mut self, left: Checkpoint) {
        self.blind = Some(left);
    }

    /// There is nothing on flash that an earlier run left.
    pub(super) fn sees_flash(&mut self) {
        self.blind = None;
        self.saved = Progress::default();
    }

    /// When `update` has to be called next, in milliseconds of the monotonic clock.
    fn deadline_ms(&self, ledger: &Ledger) -> Option<u64> {
        match &self.trouble {
            // Also with nothing to write: the status must not tell of an error that is over.
            Some(trouble) => Some(trouble.retry_at_ms),
            None => self.is_behind(ledger).then(|| self.saved_at_ms.saturating_add(SAVE_EVERY_MS)),
        }
    }

    fn is_behind(&self, ledger: &Ledger) -> bool {
        self.in_use && ledger.progress() != self.saved
    }

    fn is_resting(&self, now: Timestamp) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| now.mono_ms < trouble.retry_at_ms)
    }

    /// Writes what is pending and not here yet, notes acknowledgements, removes what is not needed any more. Returns
    /// whether all that is pending is here. `leased_to` is what flash has reserved.
    fn update(&mut self, pending: &VecDeque<Pending>, ledger: &Ledger, leased_to: u64, now: Timestamp) -> bool {
        let is_here = |runtime: &Runtime| pending.back().is_none_or(|last| last.record.seq < runtime.end);
        if self.unlisted || self.is_resting(now) {
            return is_here(self);
        }
        let keep_from = pending.front().map_or(ledger.next(), |front| front.record.seq);
        let done = self.try_update(pending, ledger, leased_to, keep_from, now);
        match done {
            Ok(()) => {
                if self.trouble.take().is_some() {
                    let dir = self.dir.display();
                    tracing::info!(%dir, "{dir} takes records again");
                }
            }
            Err(error) => {
                self.note_trouble(&error, now);
                self.abandon_active();
                if error.kind() == io::ErrorKind::NotFound {
                    // The folder went, and the files with it: they are written again.
                    self.closed.clear();
                    self.end = 0;
                }
            }
        }
        is_here(self)
    }

    fn try_update(
        &mut self,
        pending: &VecDeque<Pending>,
        ledger: &Ledger,
        leased_to: u64,
        keep_from: u64,
        now: Timestamp,
    ) -> io::Result<()> {
        let wrote = self.in_use && self.write(pending, ledger)?;
        let due = now.mono_ms >= self.saved_at_ms.saturating_add(SAVE_EVERY_MS);
        let removable = self.closed.front().is_some_and(|closed| closed.end <= keep_from);
        let behind = self.is_behind(ledger) && (due || removable);
        // Where flash reserves no numbers, they are reserved here.
        let unreserved = wrote && ledger.next() > leased_to.max(self.leased_to);
        if behind || unreserved || self.in_use && self.trouble.is_some() {
            self.save(ledger, now)?;
        }
        if self.blind.is_some() && self.active.as_ref().is_some_and(|active| active.next <= keep_from) {
            // No checkpoint says that these are done with: the next run would take them over.
            self.close_active();
        }
        while self.closed.front().is_some_and(|closed| closed.end <= keep_from) {
            self.remove_oldest();
        }
        if !self.in_use {
            self.trouble = None;
        }
        Ok(())
    }

    fn remove_oldest(&mut self) {
        let Some(closed) = self.closed.pop_front() else { return };
        let path = self.path_of(closed.first);
        if let Err(error) = self.fs.remove(&path) {
            let file = path.display();
            tracing::warn!(%file, "{file} is not needed any more and can't be removed: {error}");
        }
    }

    /// Appends the pending records that are not here yet. Returns whether there were any.
    fn write(&mut self, pending: &VecDeque<Pending>, ledger: &Ledger) -> io::Result<bool> {
        let mut wrote = false;
        loop {
            let place = pending.partition_point(|pending| pending.record.seq < self.end);
            let Some(first) = pending.get(place) else { return Ok(wrote) };
            let seq = first.record.seq;
            if self.active.as_ref().is_some_and(|active| active.next != seq || active.bytes >= SEGMENT_BYTES) {
                self.close_active();
            }
            if self.active.is_none() {
                self.active = Some(self.create(first, ledger)?);
            }
            let Some(active) = &mut self.active else { return Ok(wrote) };
            self.scratch.clear();
            let count = encode_run(pending.iter().skip(place), active.base, WRITE_BYTES, &mut self.scratch)?;
            active.file.append(&self.scratch)?;
            active.bytes += u64::try_from(self.scratch.len()).unwrap_or(0);
            active.next += u64::try_from(count).unwrap_or(0);
            self.end = active.next;
            self.scratch.shrink_to(WRITE_BYTES / 4);
            wrote = true;
        }
    }

    fn create(&mut self, first: &Pending, ledger: &Ledger) -> io::Result<Active> {
        self.fs.create_dir_all(&self.dir)?;
        let created_ms = made_at(&first.record.record).unwrap_or(0);
        let seq = first.record.seq;
        let base = Base::of(first.record.record.time);
        let (done, boot_id) = (ledger.done(), self.boot_id);
        let header = Header { first: seq, done, created_ms, boot_id, base: Some(base) }.encode();
        let path = self.path_of(seq);
        let file = self.fs.create(&path).and_then(|mut file| {
            file.append(&header)?;
            Ok(file)
        });
        let file = file.inspect_err(|_| {
            let _ = self.fs.remove(&path);
        })?;
        Ok(Active { first: seq, next: seq, bytes: u64::try_from(header.len()).unwrap_or(0), base, file })
    }

    fn close_active(&mut self) {
        if let Some(active) = self.active.take() {
            self.closed.push_back(Closed { first: active.first, end: active.next });
        }
    }

    /// Cuts off what a failed write left.
    fn abandon_active(&mut self) {
        let Some(active) = &self.active else { return };
        let path = self.path_of(active.first);
        if active.next > active.first {
            let _ = self.fs.truncate(&path, active.bytes);
            self.close_active();
        } else {
            let _ = self.fs.remove(&path);
            self.active = None;
        }
    }

    /// Replaces the checkpoint. A kill leaves the old or the new one; nothing has to survive more.
    fn save(&mut self, ledger: &Ledger, now: Timestamp) -> io::Result<()> {
        if self.active.is_none() {
            self.fs.create_dir_all(&self.dir)?;
        }
        // With a file open, a folder that is not there has been removed: `update` fills it again.
        let checkpoint = ledger.to_checkpoint(super::upkeep::LEASE);
        let checkpoint = match &self.blind {
            // Numbers that are skipped here may have records on flash.
            Some(left) => Checkpoint { next: checkpoint.next, ..left.clone() },
            None => checkpoint,
        };
        let content = checkpoint.encode().map_err(io::Error::other)?;
        let (path, temporary) = (self.checkpoint_path(), self.dir.join("checkpoint.tmp"));
        let written = self.fs.create(&temporary).and_then(|mut file| file.append(&content));
        if let Err(error) = written.and_then(|()| self.fs.rename(&temporary, &path)) {
            let _ = self.fs.remove(&temporary);
            return Err(error);
        }
        self.saved = ledger.progress();
        self.saved_at_ms = now.mono_ms;
        self.leased_to = checkpoint.next;
        Ok(())
    }

    pub(super) fn note_trouble(&mut self, error: &io::Error, now: Timestamp) {
        let text = format!("{}: {error}", self.dir.display());
        if self.trouble.is_none() {
            tracing::warn!("{text}; a kill of the process costs what is not on flash yet");
        }
        self.trouble = Some(Trouble::after(self.trouble.as_ref(), text, false, now.mono_ms));
    }

    /// Removes everything: it is on flash or done with.
    fn clear(&mut self) {
        if self.unlisted {
            let dir = self.dir.display();
            tracing::error!(%dir, "{dir} can't be read; records that an earlier run may have left there are lost");
            return;
        }
        // A checkpoint without records says nothing wrong, but it would make the next run skip numbers.
        let _ = self.fs.remove(&self.checkpoint_path());
        self.close_active();
        while !self.closed.is_empty() {
            self.remove_oldest();
        }
    }
}

impl Log {
    /// Hands pending records to the runtime tier: from here on they survive a kill of the process. Returns whether it has
    /// them all.
    pub fn stage(&mut self, now: Timestamp) -> bool {
        if self.runtime.as_ref().is_some_and(|runtime| !runtime.is_resting(now)) {
            self.take_over_late(now);
        }
        let Some(runtime) = &mut self.runtime else { return false };
        runtime.update(&self.pending, &self.ledger, self.leased_to, now)
    }

    pub(super) fn stage_due_ms(&self) -> Option<u64> {
        self.runtime.as_ref()?.deadline_ms(&self.ledger)
    }

    /// Flash has everything.
    pub(super) fn clear_runtime(&mut self) {
        if let Some(runtime) = &mut self.runtime {
            runtime.clear();
        }
    }
}
