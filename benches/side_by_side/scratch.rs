//! The folders of a run: one on the disk that the build is on, for what is written to disk is measured there (and /tmp may
//! be memory); one with a short path, for a socket's path has 108 bytes at the most.

use super::Result;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tempfile::TempDir;

/// What an interruption has to remove.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The folders. Dropping them removes them.
pub struct Scratch {
    disk: TempDir,
    short: TempDir,
}

impl Scratch {
    pub fn new() -> Result<Scratch> {
        let mut name = tempfile::Builder::new();
        let name = name.prefix("pillion-bench-");
        // The runtime tier belongs on a tmpfs, as /run is on a gateway: elsewhere it would count as written to disk.
        let short = name.tempdir_in("/dev/shm").or_else(|_| name.tempdir())?;
        let scratch = Scratch { disk: name.tempdir_in(env!("CARGO_TARGET_TMPDIR"))?, short };
        let folders = [&scratch.disk, &scratch.short].map(|folder| folder.path().to_owned());
        FOLDERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(folders);
        Ok(scratch)
    }

    /// A file or folder of this name on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    /// The folder with the short path.
    pub fn short(&self) -> &Path {
        self.short.path()
    }
}

/// Removes what is there, now.
pub fn remove_all() {
    for folder in FOLDERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        let _ = std::fs::remove_dir_all(folder);
    }
}
