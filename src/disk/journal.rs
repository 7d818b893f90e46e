//! An append-only journal: entries that each survive a power cut once they are synced, in one file.
//!
//! Constraints: the file is held open by its one owner; it is only ever appended to, and replaced as a whole (write,
//! fdatasync, rename, fsync of the folder) when it is opened, when it has grown, and after any error, for a file that
//! failed is never written again. Calls block: they are made on a thread for that.
//!
//! Format, all numbers little-endian:
//!
//! ```text
//! file   = magic  entry*
//! entry  = length u32   CRC-32C of what follows u32   a value in postcard, of that length
//! ```
//!
//! A file ends where an entry is cut off, which is what a kill within a write leaves. What is damaged before that is
//! skipped up to the next whole entry, and counted.

use super::{FileSystem, LogFile, put_in_place, read_all};
use crc::{CRC_32_ISCSI, Crc, Table};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;

const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
/// Bytes of length and CRC.
const HEAD: usize = 8;
/// Bytes of a file that are read; what is written stays far below.
const MAX_FILE: usize = 32 * 1024 * 1024;

/// What a journal holds, and what its file is like.
pub trait Entry: Serialize + DeserializeOwned {
    /// What the journal is called in messages: "the journal of …".
    const TITLE: &'static str;
    /// The file's name.
    const FILE: &'static str;
    /// The first bytes of the file. Another format takes another magic.
    const MAGIC: &'static [u8];
    /// No entry is larger, in bytes.
    const MAX: usize;
    /// A file is replaced when it has grown by this many bytes since it was written as a whole, and to the double of that.
    const GROWTH: u64;
}

/// What opening found.
#[derive(Debug)]
pub struct Found<E> {
    /// All entries that can be read, in order.
    pub entries: Vec<E>,
    /// Places at which something can't be read.
    pub damaged: usize,
    /// Bytes of an unfinished entry at the end.
    pub torn: usize,
    /// Why there is nothing, though there may be a file.
    pub error: Option<String>,
}

impl<E> Default for Found<E> {
    fn default() -> Self {
        Found { entries: Vec::new(), damaged: 0, torn: 0, error: None }
    }
}

/// The journal. See the module's head.
pub struct Journal<E> {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// `None` before the first write, and after an error.
    file: Option<Box<dyn LogFile>>,
    /// Bytes in the file, and how many of them were written as a whole.
    length: u64,
    whole: u64,
    entries: PhantomData<fn(E)>,
}

impl<E: Entry> Journal<E> {
    /// Reads what is there; a file that can't be read at all is set aside as `FILE.unreadable`. The next thing to be written is
    /// all of it, by [`Journal::rewrite`].
    pub fn open(fs: Arc<dyn FileSystem>, dir: PathBuf) -> (Journal<E>, Found<E>) {
        let found = match read_all(&*fs, &dir.join(E::FILE), MAX_FILE) {
            Ok(content) => decode(&content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(error) => Found { error: Some(error.to_string()), ..Found::default() },
        };
        if found.error.is_some() {
            // The next write would replace it, and somebody may want to look at it.
            let _ = fs.rename(&dir.join(E::FILE), &dir.join(format!("{}.unreadable", E::FILE)));
        }
        (Journal { fs, dir, file: None, length: 0, whole: 0, entries: PhantomData }, found)
    }

    /// Whether the next write had better be a [`Journal::rewrite`].
    pub fn wants_rewrite(&self) -> bool {
        self.file.is_none() || self.length > self.whole.saturating_mul(2).max(self.whole.saturating_add(E::GROWTH))
    }

    /// Writes `entries` behind the others; with `sync` they are on the medium when it returns.
    ///
    /// # Errors
    /// The disk does not take them, or there is no file. The file is given up: a rewrite is due.
    pub fn append(&mut self, entries: &[E], sync: bool) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other(format!("{} is not open", E::TITLE)))?;
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
    pub fn rewrite(&mut self, entries: &[E]) -> io::Result<()> {
        self.fs.create_dir_all(&self.dir)?;
        let mut bytes = E::MAGIC.to_vec();
        bytes.extend(encode(entries));
        let file = put_in_place(&*self.fs, &self.dir.join(E::FILE), &bytes)?;
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

fn encode<E: Entry>(entries: &[E]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        // Plain data always encodes; what is too large would not be read, and is not written.
        let Ok(body) = postcard::to_stdvec(entry) else { continue };
        let Some(length) = u32::try_from(body.len()).ok().filter(|_| body.len() <= E::MAX) else { continue };
        bytes.extend(length.to_le_bytes());
        bytes.extend(CRC32C.checksum(&body).to_le_bytes());
        bytes.extend(body);
    }
    bytes
}

fn decode<E: Entry>(content: &[u8]) -> Found<E> {
    let mut found = Found::default();
    let Some(mut rest) = content.strip_prefix(E::MAGIC) else {
        found.error = (!content.is_empty()).then(|| "it is no journal of this version".to_owned());
        return found;
    };
    while !rest.is_empty() {
        if let Some((entry, behind)) = first(rest) {
            found.entries.push(entry);
            rest = behind;
            continue;
        }
        let next = (1..rest.len()).find(|skip| rest.get(*skip..).is_some_and(|rest| first::<E>(rest).is_some()));
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
fn first<E: Entry>(bytes: &[u8]) -> Option<(E, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (length, sum) = head.split_at_checked(4)?;
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    let length = usize::try_from(number(length)?).ok().filter(|length| *length <= E::MAX)?;
    let (body, behind) = rest.split_at_checked(length)?;
    if CRC32C.checksum(body) != number(sum)? {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, behind))
}

#[cfg(test)]
mod tests {
    use super::super::sim::{Call, SimFs};
    use super::*;
    use rustix::io::Errno;
    use serde::Deserialize;
    use std::path::Path;

    const DIR: &str = "/state/commands";
    const MAGIC: &[u8] = b"test 1\n";

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Line(String, usize);

    impl Entry for Line {
        const TITLE: &'static str = "the journal of tests";
        const FILE: &'static str = "ids";
        const MAGIC: &'static [u8] = MAGIC;
        const MAX: usize = 8 * 1024;
        const GROWTH: u64 = 256 * 1024;
    }

    fn noted(id: usize) -> Line {
        Line("noted".into(), id)
    }

    fn ended(id: usize) -> Line {
        Line("ended".into(), id)
    }

    fn reopen(fs: &SimFs) -> (Journal<Line>, Found<Line>) {
        Journal::open(fs.shared(), DIR.into())
    }

    fn started(fs: &SimFs) -> Journal<Line> {
        let (mut journal, found) = reopen(fs);
        assert!(found.entries.is_empty() && found.error.is_none());
        assert!(journal.wants_rewrite());
        journal.rewrite(&[]).unwrap();
        journal
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
            let found = decode::<Line>(&bytes[..length]);
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
            let found = decode::<Line>(&damaged);
            assert!(found.entries.len() == 19, "{} at {offset}", found.entries.len());
            assert!(found.damaged == 1 || found.torn > 0);
        }
    }

    #[test]
    fn a_journal_of_another_version_is_never_overwritten() {
        let fs = SimFs::default();
        drop(started(&fs));
        fs.put(&Path::new(DIR).join(Line::FILE), b"test 2\n...");
        let (mut journal, found) = reopen(&fs);
        assert!(found.error.is_some());
        journal.rewrite(&[noted(1)]).unwrap();
        assert_eq!(fs.content(&Path::new(DIR).join("ids.unreadable")), b"test 2\n...");
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
        let entries: Vec<_> = (0..200).map(noted).collect();
        for _ in 0..200 {
            match journal.wants_rewrite() {
                true => journal.rewrite(&entries).unwrap(),
                false => journal.append(&entries, true).unwrap(),
            }
        }
        let length = fs.content(&Path::new(DIR).join(Line::FILE)).len();
        assert!(length < 300 * 1024, "{length}");
    }
}
