//! The journal of ids: what was begun, and how it ended, so that nothing is done twice after a restart.
//!
//! Constraints: a command is on the medium here before its device hears of it. The journal is one file, held open by
//! its one owner; it is only ever appended to, and replaced as a whole (write, fdatasync, rename, fsync of the folder)
//! when it is opened, when it has grown, and after any error, for a file that failed is never written again. Calls
//! block: they are made on a thread for that.
//!
//! Format of `STATE_DIR/commands/ids`, all numbers little-endian:
//!
//! ```text
//! file   = magic "pillion ids 1\n"  entry*
//! entry  = length u32   CRC-32C of what follows u32   an Entry in postcard, of that length
//! ```
//!
//! A file ends where an entry is cut off, which is what a kill within a write leaves. What is damaged before that is
//! skipped up to the next whole entry, and counted. Variants of [`Entry`] and of [`Ending`] may be added at their ends;
//! anything else needs a new magic.
//!
//! The ending of a command is appended without fdatasync: it survives a kill of the process. A power cut may take it
//! along, and then the answer to a repetition is that nobody knows.

use crate::spool::fs::{FileSystem, LogFile, read_all};
use crc::{CRC_32_ISCSI, Crc, Table};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8] = b"pillion ids 1\n";
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
/// Bytes of length and CRC.
const HEAD: usize = 8;
/// No entry is larger, in bytes: an id, a name and a reply that is kept (see `memory`) take less than 2 KiB.
const MAX_ENTRY: usize = 8 * 1024;
/// Bytes of a file that are read; what is written stays far below.
const MAX_FILE: usize = 32 * 1024 * 1024;
/// A file is replaced when it has grown by this many bytes since it was written as a whole, and to the double of that.
const GROWTH: u64 = 256 * 1024;
/// The file's name.
const NAME: &str = "ids";

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
        /// When, in milliseconds since 1970.
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

/// What opening found.
#[derive(Debug, Default)]
pub struct Found {
    /// All entries that can be read, in order.
    pub entries: Vec<Entry>,
    /// Places at which something can't be read.
    pub damaged: usize,
    /// Bytes of an unfinished entry at the end.
    pub torn: usize,
    /// Why there is nothing, though there may be a file.
    pub error: Option<String>,
}

/// The journal. See the module's head.
pub struct Journal {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// `None` before the first write, and after an error.
    file: Option<Box<dyn LogFile>>,
    /// Bytes in the file, and how many of them were written as a whole.
    length: u64,
    whole: u64,
}

impl Journal {
    /// Reads what is there; a file that can't be read at all is set aside as `ids.unreadable`. The next thing to be written is
    /// all of it, by [`Journal::rewrite`].
    pub fn open(fs: Arc<dyn FileSystem>, dir: PathBuf) -> (Journal, Found) {
        let found = match read_all(&*fs, &dir.join(NAME), MAX_FILE) {
            Ok(content) => decode(&content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(error) => Found { error: Some(error.to_string()), ..Found::default() },
        };
        if found.error.is_some() {
            // The next write would replace it, and somebody may want to look at it.
            let _ = fs.rename(&dir.join(NAME), &dir.join("ids.unreadable"));
        }
        (Journal { fs, dir, file: None, length: 0, whole: 0 }, found)
    }

    /// Whether the next write had better be a [`Journal::rewrite`].
    pub fn wants_rewrite(&self) -> bool {
        self.file.is_none() || self.length > self.whole.saturating_mul(2).max(self.whole.saturating_add(GROWTH))
    }

    /// Writes `entries` behind the others; with `sync` they are on the medium when it returns.
    ///
    /// # Errors
    /// The disk does not take them, or there is no file. The file is given up: a rewrite is due.
    pub fn append(&mut self, entries: &[Entry], sync: bool) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the journal of commands is not open"))?;
        let bytes = encode(entries);
        let written = file.append(&bytes).and_then(|()| if sync { file.sync() } else { Ok(()) });
        self.length = self.length.saturating_add(size(&bytes));
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Replaces the file: `entries` are all there is, and on the medium when it returns.
    ///
    /// # Errors
    /// The disk does not take them. The old file is still there, and still written to if it was before.
    pub fn rewrite(&mut self, entries: &[Entry]) -> io::Result<()> {
        let (path, temporary) = (self.dir.join(NAME), self.dir.join("ids.tmp"));
        self.fs.create_dir_all(&self.dir)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(encode(entries));
        let mut file = self.fs.create(&temporary)?;
        let written = file.append(&bytes).and_then(|()| file.sync());
        if let Err(error) = written.and_then(|()| self.fs.rename(&temporary, &path)) {
            // On a full disk even these bytes count.
            let _ = self.fs.remove(&temporary);
            return Err(error);
        }
        // From here on the old file has no name any more.
        self.file = None;
        self.fs.sync_dir(&self.dir)?;
        self.file = Some(file);
        self.whole = size(&bytes);
        self.length = self.whole;
        Ok(())
    }
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        // Plain data always encodes; what is too large would not be read, and is not written.
        let Ok(body) = postcard::to_stdvec(entry) else { continue };
        let Some(length) = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_ENTRY) else { continue };
        bytes.extend(length.to_le_bytes());
        bytes.extend(CRC32C.checksum(&body).to_le_bytes());
        bytes.extend(body);
    }
    bytes
}

fn decode(content: &[u8]) -> Found {
    let mut found = Found::default();
    let Some(mut rest) = content.strip_prefix(MAGIC) else {
        found.error = (!content.is_empty()).then(|| "it is no journal of this version".to_owned());
        return found;
    };
    while !rest.is_empty() {
        if let Some((entry, behind)) = first(rest) {
            found.entries.push(entry);
            rest = behind;
            continue;
        }
        let next = (1..rest.len()).find(|skip| rest.get(*skip..).is_some_and(|rest| first(rest).is_some()));
        match next.and_then(|skip| rest.get(skip..)) {
            Some(behind) => {
                found.damaged += 1;
                rest = behind;
            }
            None => {
                found.torn = rest.len();
                break;
            }
        }
    }
    found
}

/// The entry at the beginning, and what is behind it.
fn first(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (length, sum) = head.split_at_checked(4)?;
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let length = usize::try_from(number(length)?).ok().filter(|length| *length <= MAX_ENTRY)?;
    let (body, behind) = rest.split_at_checked(length)?;
    if CRC32C.checksum(body) != number(sum)? {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::sim::{Call, SimFs};
    use rustix::io::Errno;

    const DIR: &str = "/state/commands";

    fn noted(id: usize) -> Entry {
        let what = What::Noted { at_ms: 1, packet: Some(7), sum: u64::MAX };
        Entry { device: "meter".into(), id: format!("c-{id}"), what }
    }

    fn ended(id: usize) -> Entry {
        Entry { what: What::Ended(Ending::Replied("22.5".into(), false)), ..noted(id) }
    }

    fn reopen(fs: &SimFs) -> (Journal, Found) {
        Journal::open(fs.shared(), DIR.into())
    }

    fn started(fs: &SimFs) -> Journal {
        let (mut journal, found) = reopen(fs);
        assert!(found.entries.is_empty() && found.error.is_none());
        assert!(journal.wants_rewrite());
        journal.rewrite(&[]).unwrap();
        journal
    }

    #[test]
    fn the_format_never_changes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/commands-v1.ids");
        let endings = ["x", "y", "z"].map(str::to_owned);
        let [expired, refused, failed] = endings;
        let mut entries = vec![noted(1), ended(1), noted(2)];
        let all = [Ending::Done, Ending::Expired(expired), Ending::Refused(refused), Ending::Failed(failed)];
        entries.extend(all.map(|ending| Entry { what: What::Ended(ending), ..noted(2) }));
        let bytes = [MAGIC.to_vec(), encode(&entries)].concat();
        let fixture = std::fs::read(path).unwrap();
        assert_eq!(decode(&fixture).entries, entries);
        assert_eq!(fixture, bytes);
    }

    #[test]
    fn a_note_is_never_lost_to_a_power_cut() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let fs = SimFs::default();
            let mut journal = started(&fs);
            let (mut known, mut unsynced) = (Vec::new(), Vec::new());
            for id in 0..rng.usize(1..20) {
                if rng.u8(..4) == 0 {
                    known.append(&mut unsynced);
                    journal.rewrite(&known).unwrap();
                }
                // What was written before a sync is on the medium with it.
                known.append(&mut unsynced);
                journal.append(&[noted(id)], true).unwrap();
                known.push(noted(id));
                if rng.bool() {
                    journal.append(&[ended(id)], false).unwrap();
                    unsynced.push(ended(id));
                }
            }
            fs.cut(&mut rng);
            let (_, found) = reopen(&fs);
            assert_eq!(found.error, None);
            assert_eq!(found.entries.get(..known.len()), Some(known.as_slice()), "seed {seed}");
            assert!(found.entries.len() <= known.len() + unsynced.len(), "seed {seed}: nothing comes from nowhere");
        }
    }

    #[test]
    fn a_death_between_any_two_calls_never_costs_a_note() {
        for calls in 0..40 {
            let fs = SimFs::default();
            let mut journal = started(&fs);
            fs.die_after(calls);
            let mut known = Vec::new();
            for id in 0..6 {
                if id == 3 && journal.rewrite(&known).is_err() {
                    break;
                }
                match journal.append(&[noted(id)], true) {
                    Ok(()) => known.push(noted(id)),
                    Err(_) => break,
                }
            }
            fs.revive();
            let (mut journal, found) = reopen(&fs);
            assert_eq!(found.entries.get(..known.len()), Some(known.as_slice()), "after {calls} calls");
            assert!(found.entries.len() <= known.len() + 1);
            journal.rewrite(&found.entries).unwrap();
            let again = reopen(&fs).1;
            assert_eq!((again.entries, again.torn, again.damaged), (found.entries, 0, 0));
        }
    }

    #[test]
    fn a_torn_tail_is_never_taken_for_damage() {
        let bytes = [MAGIC.to_vec(), encode(&[noted(1), noted(2)])].concat();
        let one = [MAGIC.to_vec(), encode(&[noted(1)])].concat().len();
        for length in one..bytes.len() {
            let found = decode(&bytes[..length]);
            assert_eq!((found.entries.len(), found.damaged, found.torn), (1, 0, length - one));
        }
    }

    #[test]
    fn damage_never_costs_more_than_what_is_damaged() {
        let entries: Vec<_> = (0..20).map(noted).collect();
        let bytes = [MAGIC.to_vec(), encode(&entries)].concat();
        for offset in MAGIC.len()..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x55;
            let found = decode(&damaged);
            assert!(found.entries.len() == 19, "{} at {offset}", found.entries.len());
            assert!(found.damaged == 1 || found.torn > 0);
        }
    }

    #[test]
    fn a_journal_of_another_version_is_never_overwritten() {
        let fs = SimFs::default();
        drop(started(&fs));
        fs.put(&Path::new(DIR).join(NAME), b"pillion ids 2\n...");
        let (mut journal, found) = reopen(&fs);
        assert!(found.error.is_some());
        journal.rewrite(&[noted(1)]).unwrap();
        assert_eq!(fs.content(&Path::new(DIR).join("ids.unreadable")), b"pillion ids 2\n...");
        assert_eq!(reopen(&fs).1.entries, [noted(1)]);
    }

    #[test]
    fn a_failed_sync_is_never_tried_again_on_the_same_file() {
        let fs = SimFs::default();
        let mut journal = started(&fs);
        fs.fail(Call::Sync, "ids", 1, Errno::IO);
        assert!(journal.append(&[noted(1)], true).is_err());
        assert!(journal.wants_rewrite());
        assert!(journal.append(&[noted(2)], true).is_err(), "the file is given up");
        journal.rewrite(&[noted(3)]).unwrap();
        journal.append(&[noted(4)], true).unwrap();
        assert!(!fs.resynced());
        assert_eq!(reopen(&fs).1.entries, [noted(3), noted(4)]);
    }

    #[test]
    fn a_full_disk_never_costs_what_is_there() {
        let fs = SimFs::default();
        let mut journal = started(&fs);
        journal.append(&[noted(1)], true).unwrap();
        fs.limit(Some(0));
        assert!(journal.rewrite(&[noted(1), noted(2)]).is_err());
        assert!(journal.append(&[noted(2)], true).is_err());
        assert!(journal.rewrite(&[noted(1), noted(2)]).is_err());
        assert_eq!(reopen(&fs).1.entries, [noted(1)]);
        fs.limit(None);
        journal.rewrite(&[noted(1), noted(2)]).unwrap();
        assert_eq!(reopen(&fs).1.entries, [noted(1), noted(2)]);
    }

    #[test]
    fn it_never_grows_without_end() {
        let fs = SimFs::default();
        let mut journal = started(&fs);
        let entries: Vec<_> = (0..100).map(noted).collect();
        for _ in 0..200 {
            match journal.wants_rewrite() {
                true => journal.rewrite(&entries).unwrap(),
                false => journal.append(&entries, true).unwrap(),
            }
        }
        let length = fs.content(&Path::new(DIR).join(NAME)).len();
        assert!(length < 300 * 1024, "{length}");
    }
}
