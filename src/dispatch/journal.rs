//! The journal of ids: what was begun, and how it ended, so that nothing is done twice after a restart.
//!
//! Constraint: a command is on the medium here before its device hears of it.
//!
//! Format of `STATE_DIR/commands/ids`: a [`crate::disk::journal`] with the magic "pillion ids 1\n". Variants of [`Entry`]
//! and of [`Ending`] may be added at their ends; anything else needs a new magic.
//!
//! The ending of a command is appended without fdatasync: it survives a kill of the process. A power cut may take it
//! along, and then the answer to a repetition is that nobody knows.

use crate::disk::journal;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The journal.
pub type Journal = journal::Journal<Entry>;
/// What opening it found.
pub type Found = journal::Found<Entry>;

/// The folder of the journal.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("commands")
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The device's name.
    pub device: String,
    /// The command's id.
    pub id: String,
    /// What is said of it.
    pub what: What,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It is about to be begun.
    Noted {
        /// When, in milliseconds since 1970; 0: the clock was not set.
        at_ms: u64,
        /// The packet id that it had, for finding a redelivery of what has no id of its own.
        packet: Option<u16>,
        /// CRC-64 of its payload.
        sum: u64,
    },
    /// It has come to its end.
    Ended(Ending),
}

/// A final reply, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The device had it.
    Done,
    /// The device has answered: JSON, and whether it is base64.
    Replied(String, bool),
    /// It was too late.
    Expired(String),
    /// The device can't do it.
    Refused(String),
    /// It did not work, or nobody knows.
    Failed(String),
}

impl journal::Entry for Entry {
    const TITLE: &'static str = "the journal of commands";
    const FILE: &'static str = "ids";
    const MAGIC: &'static [u8] = b"pillion ids 1\n";
    /// An id, a name and a reply that is kept (see `memory`) take less than 2 KiB.
    const MAX: usize = 8 * 1024;
    const GROWTH: u64 = 256 * 1024;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimFs;

    fn noted(id: usize) -> Entry {
        let what = What::Noted { at_ms: 1, packet: Some(7), sum: u64::MAX };
        Entry { device: "meter".into(), id: format!("c-{id}"), what }
    }

    fn ended(id: usize) -> Entry {
        Entry { what: What::Ended(Ending::Replied("22.5".into(), false)), ..noted(id) }
    }

    #[test]
    fn the_format_never_changes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/commands-v1.ids");
        let endings = ["x", "y", "z"].map(str::to_owned);
        let [expired, refused, failed] = endings;
        let mut entries = vec![noted(1), ended(1), noted(2)];
        let all = [Ending::Done, Ending::Expired(expired), Ending::Refused(refused), Ending::Failed(failed)];
        entries.extend(all.map(|ending| Entry { what: What::Ended(ending), ..noted(2) }));
        let fixture = std::fs::read(path).unwrap();
        let fs = SimFs::default();
        fs.put(Path::new("/state/commands/ids"), &fixture);
        let (mut journal, found) = Journal::open(fs.shared(), "/state/commands".into());
        assert_eq!(found.entries, entries);
        journal.rewrite(&entries).unwrap();
        assert_eq!(fs.content(Path::new("/state/commands/ids")), fixture);
    }
}
