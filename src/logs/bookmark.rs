//! How far the flow has come in the journal: moves the position, and has it noted. Which note counts is in `position`.
//!
//! Constraints: no note is ever ahead of what its place keeps. The one in `runtime_dir`, which a kill leaves, has a batch when the
//! batch survives a kill; the spool writes it then (see [`Note`]), before anybody gets the batch. The one in `state_dir`, which a
//! power cut leaves, has a batch when the broker or flash has it; it is written now and then, and when the spool has been closed.

use super::Settings;
use super::position::{FILE_NAME, Marks, Position};
use crate::app::journal::Cursor;
use crate::record::Note;
use crate::spool::Newest;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Flash gets the position at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// When that is looked at again, if nothing could be saved.
const SAVE_AGAIN: Duration = Duration::from_secs(30);
/// How long the flow waits for the disk.
const SAVE_TIME: Duration = Duration::from_secs(1);

/// A position with records before it that a power cut may still cost.
pub struct Ahead {
    position: Position,
    /// Gets the error if the note could not be written.
    failed: Option<oneshot::Receiver<String>>,
    /// Told when it is safe.
    safe: oneshot::Receiver<()>,
}

/// The position in memory and on disk.
pub struct Bookmark {
    runtime_dir: PathBuf,
    state_dir: PathBuf,
    boot_id: String,
    position: Option<Position>,
    /// The number of the latest batch that was begun.
    batches: u64,
    marks: Marks,
    /// Behind a batch that is in memory alone. It must not be noted before the batch is on disk, and that is so when a later one is.
    in_doubt: Option<Position>,
    /// The oldest position that is not known to be safe, and the newest.
    unsafe_ones: VecDeque<Ahead>,
    /// The newest position that a power cut can't take back.
    safe: Option<Position>,
    saved: Option<Position>,
    /// What is being saved, and has not been done in time.
    saving: Option<(Position, JoinHandle<io::Result<()>>)>,
    /// Not before this.
    save_at: Instant,
    note_error: Option<String>,
    save_error: Option<String>,
}

impl Bookmark {
    /// Without a position.
    pub fn new(settings: &Settings) -> Self {
        Bookmark {
            runtime_dir: settings.runtime_dir.clone(),
            state_dir: settings.state_dir.clone(),
            boot_id: settings.boot_id.clone(),
            position: None,
            batches: 0,
            marks: Marks::new(settings.recorder),
            in_doubt: None,
            unsafe_ones: VecDeque::new(),
            safe: None,
            saved: None,
            saving: None,
            save_at: Instant::now() + SAVE_EVERY,
            note_error: None,
            save_error: None,
        }
    }

    /// Finds out where the last process stood. `left` is what it has left in the spool.
    pub fn take_up(&mut self, left: Option<Newest>) {
        let (record, safe) = left.map(|left| (left.record, left.safe)).unzip();
        let waiting = record.flatten().and_then(|record| Position::decode(&record.record.data));
        let runtime = Position::noted(&self.runtime_dir, &self.boot_id);
        let flash = Position::saved(&self.state_dir);
        self.saved.clone_from(&flash);
        self.safe.clone_from(&flash);
        self.position = Position::latest(runtime, flash, waiting);
        // What was posted meanwhile has numbers, too.
        self.batches = self.position.as_ref().map_or(0, |position| position.batch).max(self.batches);
        if let (Some(position), Some(safe)) = (self.position.clone(), safe) {
            self.unsafe_ones.push_back(Ahead { position, failed: None, safe });
        }
    }

    /// The flight recorder has another size now.
    pub fn resize(&mut self, recorder: usize) {
        self.marks = Marks::new(recorder);
    }

    /// Where reading goes on; `None`: nothing has ever been read.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The last line that is shipped or passed over when the next batch is accepted, whatever is in that one.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.before_next().filter(|position| position.read).map(|position| &position.cursor)
    }

    fn before_next(&self) -> Option<&Position> {
        self.in_doubt.as_ref().or(self.position.as_ref())
    }

    /// The number of a new batch.
    pub fn next_batch(&mut self) -> u64 {
        self.batches = self.batches.saturating_add(1);
        self.batches
    }

    /// Reading begins with what comes from this line on.
    pub fn begin_with(&mut self, cursor: Cursor) {
        self.jump(cursor, false);
    }

    /// A line was read that is not shipped, of so many bytes, and nothing else is on its way.
    pub fn pass(&mut self, cursor: &Cursor, bytes: usize) {
        if let Some(cursor) = self.marks.pass(cursor, bytes)
            && self.in_doubt.is_none()
        {
            self.jump(cursor, true);
        }
    }

    fn jump(&mut self, cursor: Cursor, read: bool) {
        let position = Position { batch: self.batches, cursor, read };
        let noted = position.note(&self.runtime_dir, &self.boot_id);
        self.note_error = noted.err().map(|error| format!("{}: {error}", self.runtime_dir.join(FILE_NAME).display()));
        self.position = Some(position);
    }

    /// Where the position will be when this batch is accepted, and the note that has to be written then.
    pub fn ahead(&self, batch: u64, cursor: Option<Cursor>) -> Option<(Ahead, Note)> {
        let position = match (cursor, self.before_next()) {
            (Some(cursor), _) => Position { batch, cursor, read: true },
            (None, Some(position)) => Position { batch, ..position.clone() },
            // Only what was posted has been shipped.
            (None, None) => return None,
        };
        let ((tell_failed, failed), (tell_safe, safe)) = (oneshot::channel(), oneshot::channel());
        let file = self.runtime_dir.join(FILE_NAME);
        let content = position.encode(Some(&self.boot_id));
        let note = Note { file, content, failed: tell_failed, safe: tell_safe };
        Some((Ahead { position, failed: Some(failed), safe }, note))
    }

    /// The batch was accepted.
    pub fn move_to(&mut self, mut ahead: Ahead) {
        self.note_error = ahead.failed.take().and_then(|mut failed| failed.try_recv().ok());
        self.position = Some(ahead.position.clone());
        self.marks.clear();
        self.in_doubt = None;
        self.unsafe_ones.truncate(1);
        self.unsafe_ones.push_back(ahead);
    }

    /// The batch is in memory alone.
    pub fn doubt(&mut self, ahead: Ahead) {
        self.in_doubt = Some(ahead.position);
    }

    /// Why a kill or a power cut would bring lines again, if one would.
    pub fn error(&self) -> Option<&String> {
        self.note_error.as_ref().or(self.save_error.as_ref())
    }

    /// When [`Bookmark::save`] has to be called.
    pub fn save_at(&self) -> Option<Instant> {
        (self.saved != self.position).then_some(self.save_at)
    }

    /// Saves the position where a power cut leaves it, if that is due. Returns whether it has.
    pub async fn save(&mut self) -> bool {
        if self.save_at().is_none_or(|at| Instant::now() < at) {
            return false;
        }
        let (position, mut saving) = match self.saving.take() {
            Some(saving) => saving,
            None => match self.next_save() {
                Some(unsaved) => (unsaved.position.clone(), tokio::task::spawn_blocking(move || unsaved.save())),
                None => {
                    self.save_at = Instant::now() + SAVE_AGAIN;
                    return false;
                }
            },
        };
        let Ok(saved) = timeout(SAVE_TIME, &mut saving).await else {
            tracing::warn!("the position in the journal could not be saved in time");
            self.saving = Some((position, saving));
            self.save_at = Instant::now() + SAVE_AGAIN;
            return false;
        };
        self.save_at = Instant::now() + SAVE_EVERY;
        let saved = saved.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.save_error = saved.err().map(|error| format!("{}: {error}", self.state_dir.join(FILE_NAME).display()));
        if self.save_error.is_none() {
            self.saved = Some(position);
        }
        self.save_error.is_none()
    }

    /// The newest position that a power cut can't take back, if flash does not have it.
    fn next_save(&mut self) -> Option<Unsaved> {
        self.look_for_safe_ones();
        let position = self.safe.clone().filter(|safe| self.saved.as_ref() != Some(safe))?;
        Some(Unsaved { position, folder: self.state_dir.clone() })
    }

    fn look_for_safe_ones(&mut self) {
        while let Some(mut ahead) = self.unsafe_ones.pop_front() {
            if ahead.safe.try_recv().is_err() {
                self.unsafe_ones.push_front(ahead);
                return;
            }
            self.safe = Some(ahead.position);
        }
        // What came since was not shipped.
        self.safe.clone_from(&self.position);
    }

    /// What is to be saved when the spool has been closed.
    pub fn close(self) -> Option<Unsaved> {
        if self.saving.is_some() {
            // The disk hangs, and two must not write the same file.
            return None;
        }
        let position = self.position.filter(|position| self.saved.as_ref() != Some(position))?;
        Some(Unsaved { position, folder: self.state_dir })
    }
}

/// A position that flash does not have yet.
#[derive(Debug)]
pub struct Unsaved {
    position: Position,
    folder: PathBuf,
}

impl Unsaved {
    /// Saves it, for which flash or the broker must have everything before it. Blocks as long as the disk takes.
    pub fn save(&self) -> io::Result<()> {
        self.position.save(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::super::position::tests::{at, cursor};
    use super::*;
    use tempfile::TempDir;

    fn bookmark(folder: &TempDir) -> Bookmark {
        Bookmark::new(&Settings {
            unit: None,
            journal: None,
            level: 6,
            rate: 0,
            recorder: 0,
            max_payload: 1024,
            runtime_dir: folder.path().join("run"),
            state_dir: folder.path().join("state"),
            boot_id: "b1".into(),
        })
    }

    /// A batch up to this line is accepted, and its note written. Returns what tells that it is safe.
    fn accept(bookmark: &mut Bookmark, number: u64) -> oneshot::Sender<()> {
        let batch = bookmark.next_batch();
        let (ahead, note) = bookmark.ahead(batch, Some(cursor(number))).unzip();
        let Note { file, content, safe, .. } = note.unwrap();
        std::fs::write(file, content).unwrap();
        bookmark.move_to(ahead.unwrap());
        safe
    }

    /// Saves as if it were due.
    async fn save(bookmark: &mut Bookmark) -> bool {
        bookmark.save_at = Instant::now();
        bookmark.save().await
    }

    fn folders() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        ["run", "state"].iter().for_each(|name| std::fs::create_dir(folder.path().join(name)).unwrap());
        folder
    }

    #[tokio::test]
    async fn flash_is_never_ahead_of_what_a_power_cut_leaves() {
        let folder = folders();
        let saved = || Position::saved(&folder.path().join("state"));
        let mut bookmark = bookmark(&folder);
        let first = accept(&mut bookmark, 10);
        assert!(!save(&mut bookmark).await);
        assert_eq!(saved(), None);
        let second = accept(&mut bookmark, 20);
        let third = accept(&mut bookmark, 30);
        first.send(()).unwrap();
        assert!(save(&mut bookmark).await);
        assert_eq!(saved(), Some(at(1, 10)));
        // Only the oldest and the newest are looked after.
        assert!(second.is_closed());
        assert!(!save(&mut bookmark).await);
        third.send(()).unwrap();
        assert!(save(&mut bookmark).await);
        assert_eq!(saved(), Some(at(3, 30)));
        assert_eq!(bookmark.save_at(), None, "there is nothing to save");
        // Lines that are not shipped.
        bookmark.pass(&cursor(31), 1);
        bookmark.pass(&cursor(32), 1);
        assert!(save(&mut bookmark).await);
        assert_eq!(saved(), Some(at(3, 31)));
        assert!(bookmark.close().is_none());
    }

    #[tokio::test]
    async fn what_the_last_process_left_is_never_safe_before_the_spool_says_so() {
        let folder = folders();
        drop(accept(&mut bookmark(&folder), 10));
        let (tell, safe) = oneshot::channel();
        let mut bookmark = bookmark(&folder);
        bookmark.take_up(Some(Newest { record: None, safe }));
        assert_eq!(bookmark.position(), Some(&at(1, 10)));
        assert!(!save(&mut bookmark).await);
        tell.send(()).unwrap();
        assert!(save(&mut bookmark).await);
        assert_eq!(Position::saved(&folder.path().join("state")), Some(at(1, 10)));
    }

    #[tokio::test]
    async fn a_batch_that_no_disk_took_is_never_passed_before_a_later_one_is_on_disk() {
        let folder = folders();
        let noted = || Position::noted(&folder.path().join("run"), "b1");
        let mut bookmark = bookmark(&folder);
        drop(accept(&mut bookmark, 10));
        let batch = bookmark.next_batch();
        let (ahead, _) = bookmark.ahead(batch, Some(cursor(20))).unwrap();
        bookmark.doubt(ahead);
        (21..30).for_each(|number| bookmark.pass(&cursor(number), 1));
        assert_eq!((bookmark.position(), noted()), (Some(&at(1, 10)), Some(at(1, 10))));
        // Of lines that were posted; the spool writes in order.
        let batch = bookmark.next_batch();
        assert_eq!(bookmark.cursor(), Some(&cursor(20)));
        let (ahead, _) = bookmark.ahead(batch, None).unwrap();
        bookmark.move_to(ahead);
        assert_eq!(bookmark.position(), Some(&at(3, 20)));
    }

    #[tokio::test]
    async fn a_note_that_cant_be_written_is_never_kept_a_secret() {
        let folder = folders();
        let mut bookmark = bookmark(&folder);
        let (ahead, note) = bookmark.ahead(1, Some(cursor(1))).unzip();
        note.unwrap().failed.send("no space".to_owned()).unwrap();
        bookmark.move_to(ahead.unwrap());
        assert_eq!(bookmark.error().map(String::as_str), Some("no space"));
        drop(accept(&mut bookmark, 2));
        assert_eq!(bookmark.error(), None);
        std::fs::remove_dir(folder.path().join("state")).unwrap();
        let safe = accept(&mut bookmark, 3);
        (bookmark.safe, bookmark.unsafe_ones) = (Some(at(3, 3)), VecDeque::new());
        assert!(!save(&mut bookmark).await);
        assert!(bookmark.error().unwrap().contains("state/log-position"));
        drop(safe);
    }
}
