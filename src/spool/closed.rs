//! A spool that no process has open: which folder is meant, which streams are in it, and the lock that keeps it closed.
//!
//! Constraints: nothing is written, not even a lock file that is not there. The lock is a shared one: several may look at
//! a spool at once, and no process opens it meanwhile.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// What kind of folder was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `STATE_DIR`, with a `spool` in it.
    State,
    /// `STATE_DIR/spool`.
    Spool,
    /// One stream's folder.
    Stream,
}

/// A stream's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamDir {
    /// Its name: the folder's.
    pub name: String,
    /// Where it is.
    pub dir: PathBuf,
}

/// A spool that stays closed as long as this is held.
#[derive(Debug)]
pub struct ClosedSpool {
    /// What kind of folder was named.
    pub level: Level,
    /// The folder that was named, as an absolute path without symbolic links.
    pub dir: PathBuf,
    /// The streams in it, by name.
    pub streams: Vec<StreamDir>,
    _lock: Option<File>,
}

/// Why a folder can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A process has it open.
    #[error("the spool at {0} is in use by a running pillion; stop it first (systemctl stop pillion@INSTANCE)")]
    InUse(PathBuf),
    /// It is not there.
    #[error("there is no folder {0}")]
    Absent(PathBuf),
    /// There is no spool.
    #[error("{0} holds no spool: give the state_dir, the spool folder in it, or the folder of one stream")]
    NoSpool(PathBuf),
    /// It can't be read.
    #[error("{0} can't be read: {1}")]
    Unreadable(PathBuf, io::Error),
}

impl ClosedSpool {
    /// Finds the spool that `dir` means, and locks it.
    pub fn open(dir: &Path) -> Result<ClosedSpool, OpenError> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OpenError::Absent(dir.to_owned()),
            _ => OpenError::Unreadable(dir.to_owned(), error),
        };
        let dir = fs::canonicalize(dir).map_err(unreadable)?;
        // Reading it first tells a folder that may not be looked into from an empty one.
        fs::read_dir(&dir).map_err(unreadable)?;
        let level = level_of(&dir).ok_or_else(|| OpenError::NoSpool(dir.clone()))?;
        let spool = match level {
            Level::State => super::folder(&dir),
            Level::Spool => dir.clone(),
            Level::Stream => dir.parent().unwrap_or(&dir).to_owned(),
        };
        let lock = lock(&spool)?;
        let streams = match level {
            Level::Stream => vec![named(dir.clone())],
            Level::State | Level::Spool => folders_in(&spool).map_err(unreadable)?.into_iter().map(named).collect(),
        };
        Ok(ClosedSpool { level, dir, streams, _lock: lock })
    }
}

/// The kind of the folder, by what is in it.
fn level_of(dir: &Path) -> Option<Level> {
    if dir.join("lock").is_file() {
        Some(Level::Spool)
    } else if is_stream(dir) {
        Some(Level::Stream)
    } else if super::folder(dir).is_dir() && !is_stream(&super::folder(dir)) {
        Some(Level::State)
    } else {
        // A copy without the lock, in which a stream may be named `spool`.
        let folders = folders_in(dir).unwrap_or_default();
        folders.iter().any(|folder| is_stream(folder)).then_some(Level::Spool)
    }
}

fn is_stream(dir: &Path) -> bool {
    let is_segment = |path: PathBuf| path.extension().is_some_and(|kind| kind == "seg") && path.is_file();
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    dir.join("checkpoint").is_file() || entries.any(|entry| is_segment(entry.path()))
}

fn folders_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let mut folders: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn named(dir: PathBuf) -> StreamDir {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    StreamDir { name, dir }
}

/// Keeps the spool from being opened. Without a lock file nobody has it.
fn lock(spool: &Path) -> Result<Option<File>, OpenError> {
    let path = spool.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::Unreadable(path, error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(spool.to_owned())),
        // A file system without locks: the daemon has to do without, too.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    fn spool_with(streams: &[&str]) -> TempDir {
        let state = tempdir().unwrap();
        for stream in streams {
            let dir = state.path().join("spool").join(stream);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("checkpoint"), "").unwrap();
        }
        fs::write(state.path().join("spool/lock"), "").unwrap();
        state
    }

    fn names(spool: &ClosedSpool) -> Vec<&str> {
        spool.streams.iter().map(|stream| stream.name.as_str()).collect()
    }

    #[test]
    fn whichever_folder_is_named_the_spool_is_never_missed() {
        let state = spool_with(&["spool", "work", "event"]);
        let open = |path: &str| ClosedSpool::open(&state.path().join(path)).unwrap();
        for (path, level) in [(".", Level::State), ("spool", Level::Spool)] {
            let spool = open(path);
            assert_eq!((spool.level, names(&spool)), (level, vec!["event", "spool", "work"]), "{path}");
        }
        for path in ["spool/work", "spool/work/../work/."] {
            let stream = open(path);
            assert_eq!((stream.level, names(&stream)), (Level::Stream, vec!["work"]), "{path}");
        }
        fs::remove_file(state.path().join("spool/lock")).unwrap();
        assert_eq!(open("spool").level, Level::Spool);
        assert!(!state.path().join("spool/lock").exists(), "nothing is written");
    }

    #[test]
    fn a_folder_without_a_spool_is_never_taken_for_an_empty_one() {
        let folder = tempdir().unwrap();
        assert!(matches!(ClosedSpool::open(folder.path()), Err(OpenError::NoSpool(_))));
        assert!(matches!(ClosedSpool::open(&folder.path().join("nothing")), Err(OpenError::Absent(_))));
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(matches!(ClosedSpool::open(&folder.path().join("file")), Err(OpenError::Absent(_))));
    }

    #[test]
    fn a_spool_that_is_in_use_is_never_read() {
        let state = spool_with(&["work"]);
        let first = ClosedSpool::open(state.path()).unwrap();
        let second = ClosedSpool::open(state.path()).unwrap();
        let lock = File::open(state.path().join("spool/lock")).unwrap();
        assert!(lock.try_lock().is_err(), "nobody opens it meanwhile");
        drop((first, second));
        lock.try_lock().unwrap();
        for path in ["", "spool", "spool/work"] {
            assert!(matches!(ClosedSpool::open(&state.path().join(path)), Err(OpenError::InUse(_))), "{path}");
        }
    }
}
