//! The managed files, as far as the sidecar has to do with them: it says that there is something new for `pillion apply`, and
//! tells the broker what became of it.
//!
//! Constraints: the sidecar writes none of these files; it writes `RUNTIME_DIR/apply-wanted`, which systemd watches, and reads
//! what `pillion apply` has written (see [`crate::outcome`]). It looks every two seconds while something is wanted that has
//! no outcome yet, and asks again every minute; at rest it does not look. What was told is in `STATE_DIR/config/told`, so that
//! a restart, which a managed file may well bring about, does not tell it again. Calls block.

use super::known::Known;
use crate::disk::{Disk, FileSystem as _, read_all, replace};
use crate::outcome::{Ledger, MAX_LEDGER, Outcome, name_of};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Between looks for an outcome.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between questions for one.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Which files, and where things are.
#[derive(Debug, Clone, Default)]
pub struct Managed {
    /// Their keys.
    pub keys: Vec<String>,
    /// Where `pillion apply` writes.
    pub apply_dir: PathBuf,
    /// The file that systemd watches.
    pub trigger: PathBuf,
    /// What was told.
    pub told: PathBuf,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Look {
    /// Outcomes that nobody was told yet.
    pub news: Vec<(String, Outcome)>,
    /// Whether something is wanted that has no outcome.
    pub pending: bool,
}

impl Managed {
    /// The ETags that are wanted.
    pub fn wanted(&self, known: &Known) -> BTreeMap<String, String> {
        let of = |key: &String| Some((key.clone(), known.get(key)?.print.etag()));
        self.keys.iter().filter_map(of).collect()
    }

    /// How many looks there are between two questions.
    pub fn patience() -> u128 {
        ASK_EVERY.as_millis() / LOOK_EVERY.as_millis()
    }

    /// Reads what became of the files.
    pub fn look(&self, wanted: &BTreeMap<String, String>) -> Look {
        let told = self.read_told();
        let mut look = Look::default();
        for key in &self.keys {
            let path = self.apply_dir.join(format!("{}.json", name_of(key)));
            let ledger = read_all(&Disk, &path, MAX_LEDGER).ok();
            let ledger = ledger.and_then(|bytes| serde_json::from_slice::<Ledger>(&bytes).ok());
            let last = ledger.filter(|ledger| ledger.key == *key).and_then(|ledger| ledger.last);
            look.pending |= wanted.get(key).is_some_and(|etag| last.as_ref().is_none_or(|last| last.etag != *etag));
            look.news.extend(last.filter(|last| told.get(key) != Some(last)).map(|last| (key.clone(), last)));
        }
        look
    }

    /// Notes that these were told.
    ///
    /// # Errors
    /// The disk does not take it: they may be told again after a restart.
    pub fn note(&self, news: &[(String, Outcome)]) -> io::Result<()> {
        let mut told = self.read_told();
        told.retain(|key, _| self.keys.contains(key));
        told.extend(news.iter().cloned());
        if let Some(folder) = self.told.parent() {
            Disk.create_dir_all(folder)?;
        }
        replace(&Disk, &self.told, &serde_json::to_vec(&told)?)
    }

    /// Asks for the files to be written.
    ///
    /// # Errors
    /// `runtime_dir` can't be written to.
    pub fn ask(&self, wanted: &BTreeMap<String, String>) -> io::Result<()> {
        std::fs::write(&self.trigger, serde_json::to_vec(wanted)?)
    }

    fn read_told(&self) -> BTreeMap<String, Outcome> {
        let limit = MAX_LEDGER * self.keys.len().max(1);
        read_all(&Disk, &self.told, limit)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }
}
