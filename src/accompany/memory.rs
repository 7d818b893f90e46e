//! Which run of the application is under watch, over restarts of pillion: so each end is reported once.
//!
//! Constraint: the file is in `runtime_dir` and counts in the boot that wrote it only, for no run outlives its boot. Without it
//! nothing is known of what was, and that is no error.
//!
//! Format: the boot id in the first line; in the second the run's id, a blank, and `watched` or `reported`.

use super::life::Run;
use std::fs;
use std::path::PathBuf;

/// The file's name in `runtime_dir`.
pub const FILE_NAME: &str = "app-run";
/// Bytes of a run's id at the most; systemd's have 32.
const MAX_ID: usize = 64;

#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    boot_id: String,
}

impl Memory {
    pub(super) fn new(path: PathBuf, boot_id: String) -> Self {
        Memory { path, boot_id }
    }

    /// The run that was under watch when the last process of this boot ended.
    pub(super) fn recall(&self) -> Option<Run> {
        let bytes = fs::read(&self.path).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        if self.boot_id.is_empty() || lines.next() != Some(&self.boot_id) {
            return None;
        }
        let (invocation, word) = lines.next()?.split_once(' ')?;
        let is_id = (1..=MAX_ID).contains(&invocation.len()) && invocation.bytes().all(|b| b.is_ascii_alphanumeric());
        let is_reported = match word {
            "watched" => false,
            "reported" => true,
            _ => return None,
        };
        is_id.then(|| Run { invocation: invocation.to_owned(), is_reported })
    }

    /// Keeps it for the next process.
    pub(super) fn keep(&self, run: Option<&Run>) {
        let text = run.map_or_else(String::new, |run| {
            let word = if run.is_reported { "reported" } else { "watched" };
            format!("{}\n{} {word}\n", self.boot_id, run.invocation)
        });
        let temporary = self.path.with_extension("tmp");
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            tracing::debug!("can't write {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_another_boot_or_a_broken_file_is_never_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let memory = |boot: &str| Memory::new(path.clone(), boot.to_owned());
        assert_eq!(memory("b-1").recall(), None);
        for is_reported in [false, true] {
            let run = Run { invocation: "854b7d02914b43ebb071ca795b492f56".to_owned(), is_reported };
            memory("b-1").keep(Some(&run));
            assert_eq!(memory("b-1").recall(), Some(run));
            assert_eq!(memory("b-2").recall(), None);
        }
        memory("b-1").keep(None);
        assert_eq!(memory("b-1").recall(), None);
        for text in ["", "b-1", "b-1\n", "b-1\na", "b-1\na often", "b-1\n watched", "b-1\na=b watched", "\na watched"] {
            fs::write(&path, text).unwrap();
            assert_eq!((memory("b-1").recall(), memory("").recall()), (None, None), "{text:?}");
        }
        fs::write(&path, format!("b-1\n{} watched\n", "a".repeat(65))).unwrap();
        assert_eq!(memory("b-1").recall(), None);
    }
}
