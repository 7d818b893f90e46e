//! Which keys there are, which of them the broker still has, and what changed when. Pure.
//!
//! When all retained keys have come (a *round* is complete, see `listen`), a key that did not come was deleted while we were
//! away. That is believed of a broker only if it still knew our session, for else it may have lost its memory; only of the
//! broker that gave the key, for others never had it; and not if it lost several keys at once and has none at all, for then
//! rather its access control hides them from us. What is not believed is kept and counted as unconfirmed.
//!
//! Every change has a *revision*, a number that counts up as long as the process lives, so that a client can ask for what
//! changed since it asked last. Of a deleted key the name is kept for that, of the latest [`MOST`] deletions.

use super::store::{OnDisk, Print};
use crate::record::Timestamp;
use std::collections::BTreeMap;

/// Keys that are kept.
pub const MOST: usize = 256;
/// Bytes of all values and keys.
pub const BYTES: usize = 1024 * 1024;

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The number of its file.
    pub file: u64,
    /// Its value.
    pub print: Print,
    /// When it came.
    pub time: Timestamp,
    /// The broker that it came from.
    pub server: String,
    /// Of its latest change.
    pub revision: u64,
    /// In which round it came last; 0: in none yet.
    round: u64,
}

/// Why a key can't be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There are too many.
    #[error("there are {MOST} keys already")]
    Keys,
    /// They are too large.
    #[error("all values together would be larger than {} KiB", BYTES / 1024)]
    Bytes,
}

/// All keys. See the module's head.
#[derive(Debug, Default)]
pub struct Known {
    keys: BTreeMap<String, Key>,
    /// Revisions of deletions.
    gone: BTreeMap<String, u64>,
    /// Deletions up to this revision are forgotten.
    forgotten: u64,
    revision: u64,
    next_file: u64,
    round: u64,
    /// Whether anything came in this round.
    came: bool,
    unconfirmed: u64,
}

impl Known {
    /// As the disk has them; files from `next_file` on are free.
    pub fn restore(keys: Vec<OnDisk>, next_file: u64) -> Known {
        let mut known = Known { next_file, ..Known::default() };
        for OnDisk { file, print, entry } in keys {
            known.set(&entry.key, file, print, entry.time, &entry.server);
        }
        known
    }

    /// A round begins.
    pub fn begin(&mut self) {
        self.round += 1;
        self.came = false;
    }

    /// The key has come. Whether its value is another one than before.
    pub fn came(&mut self, name: &str, print: Print, server: &str) -> bool {
        self.came = true;
        let Some(key) = self.keys.get_mut(name) else { return true };
        key.round = self.round;
        server.clone_into(&mut key.server);
        key.print != print
    }

    /// The number of the file that a key's new value goes into.
    pub fn place(&self, name: &str, length: usize) -> Result<u64, Full> {
        let old = self.keys.get(name);
        if old.is_none() && self.keys.len() >= MOST {
            return Err(Full::Keys);
        }
        let before = old.map_or(0, |old| old.print.length + name.len());
        match self.bytes() - before + name.len() + length {
            0..=BYTES => Ok(old.map_or(self.next_file, |old| old.file)),
            _ => Err(Full::Bytes),
        }
    }

    /// A value that is on disk now.
    pub fn set(&mut self, name: &str, file: u64, print: Print, time: Timestamp, server: &str) {
        self.revision += 1;
        self.next_file = self.next_file.max(file.saturating_add(1));
        self.gone.remove(name);
        let key = Key { file, print, time, server: server.to_owned(), revision: self.revision, round: self.round };
        self.keys.insert(name.to_owned(), key);
    }

    /// A key whose file is removed.
    pub fn remove(&mut self, name: &str) {
        if self.keys.remove(name).is_none() {
            return;
        }
        self.revision += 1;
        self.gone.insert(name.to_owned(), self.revision);
        while self.gone.len() > MOST {
            let oldest = self.gone.iter().min_by_key(|(_, revision)| **revision);
            let Some((name, revision)) = oldest.map(|(name, revision)| (name.clone(), *revision)) else { break };
            self.gone.remove(&name);
            self.forgotten = self.forgotten.max(revision);
        }
    }

    /// The round is complete: the keys that were deleted at the broker.
    pub fn complete(&mut self, server: &str, remembered: bool) -> Vec<String> {
        let missing: Vec<_> = self.keys.iter().filter(|(_, key)| key.round != self.round).collect();
        let hidden = !self.came && missing.len() > 1;
        let (deleted, unconfirmed): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|(_, key)| remembered && !hidden && key.server == server);
        self.unconfirmed = u64::try_from(unconfirmed.len()).unwrap_or(u64::MAX);
        deleted.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// A key.
    pub fn get(&self, name: &str) -> Option<&Key> {
        self.keys.get(name)
    }

    /// Keys that changed after this revision, in the order of their changes, and the names of deleted ones (`None`), but for
    /// whoever asks for `all` keys that there are. `None`: some deletions since are forgotten.
    pub fn changes(&self, after: u64, all: bool) -> Option<Vec<(u64, String, Option<Key>)>> {
        if !all && after < self.forgotten {
            return None;
        }
        let set = self.keys.iter().map(|(name, key)| (key.revision, name.clone(), Some(key.clone())));
        let gone = self.gone.iter().filter(|_| !all).map(|(name, revision)| (*revision, name.clone(), None));
        let mut changes: Vec<_> = set.chain(gone).filter(|(revision, ..)| *revision > after).collect();
        changes.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        Some(changes)
    }

    /// Of the latest change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Bytes of all values and keys.
    pub fn bytes(&self) -> usize {
        self.keys.iter().map(|(name, key)| name.len() + key.print.length).sum()
    }

    /// Keys that did not come in the latest complete round, and are kept all the same.
    pub fn unconfirmed(&self) -> u64 {
        self.unconfirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClockQuality;

    const NOW: Timestamp = Timestamp { wall_ms: 1, mono_ms: 1, quality: ClockQuality::Trusted };

    fn put(known: &mut Known, name: &str, value: &str, server: &str) {
        let print = Print::of(value.as_bytes());
        if known.came(name, print, server) {
            let file = known.place(name, value.len()).unwrap();
            known.set(name, file, print, NOW, server);
        }
    }

    fn on_disk(file: u64, key: &str) -> OnDisk {
        let entry = super::super::store::Entry { key: key.into(), time: NOW, server: "here".into(), value: Vec::new() };
        OnDisk { file, print: Print::of(b"x"), entry }
    }

    fn with(names: &[&str]) -> Known {
        let mut known = Known::restore(Vec::new(), 1);
        known.begin();
        names.iter().for_each(|name| put(&mut known, name, "1", "here"));
        assert!(known.complete("here", true).is_empty());
        known.begin();
        known
    }

    #[test]
    fn a_key_is_never_deleted_on_the_word_of_a_broker_that_can_t_know() {
        let mut known = with(&["a", "b", "c"]);
        put(&mut known, "a", "1", "here");
        assert_eq!(known.complete("here", true), ["b", "c"]);
        assert!(known.complete("here", false).is_empty(), "it has forgotten our session, and maybe more");
        assert!(known.complete("there", true).is_empty(), "it never had them");
        assert_eq!((known.unconfirmed(), known.count()), (2, 3));
        let mut known = with(&["a", "b"]);
        assert!(known.complete("here", true).is_empty(), "all at once");
        assert_eq!(with(&["a"]).complete("here", true), ["a"]);
    }

    #[test]
    fn a_client_never_misses_a_change() {
        let mut known = with(&["a", "b"]);
        let names = |known: &Known, after| {
            let changes = known.changes(after, after == 0).unwrap();
            changes.into_iter().map(|(_, name, key)| (name, key.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(names(&known, 0), [("a".to_owned(), true), ("b".to_owned(), true)]);
        let before = known.revision();
        put(&mut known, "b", "1", "here");
        assert!(names(&known, before).is_empty(), "the same value");
        put(&mut known, "a", "2", "here");
        known.remove("b");
        assert_eq!(names(&known, before), [("a".to_owned(), true), ("b".to_owned(), false)]);
        assert_eq!(names(&known, 0), [("a".to_owned(), true)], "who asks for all needs no deletions");
        put(&mut known, "b", "3", "here");
        assert_eq!(names(&known, before), [("a".to_owned(), true), ("b".to_owned(), true)]);
        for number in 0..=MOST {
            put(&mut known, &format!("k{number}"), "", "here");
            known.remove(&format!("k{number}"));
        }
        assert!(known.changes(before, false).is_none(), "it must begin anew");
        assert_eq!(known.changes(1, true).unwrap().len(), 2);
        let restored: Vec<_> = [1, 2, 3].map(|file| on_disk(file, &format!("k{file}"))).into();
        let revisions: Vec<_> =
            Known::restore(restored, 4).changes(0, true).unwrap().iter().map(|change| change.0).collect();
        assert_eq!(revisions, [1, 2, 3], "or pages would skip some");
    }

    #[test]
    fn no_broker_ever_makes_it_grow() {
        let mut known = Known::restore(Vec::new(), 1);
        for number in 0..MOST {
            put(&mut known, &format!("{number:04}"), "x", "here");
        }
        assert_eq!(known.place("more", 1), Err(Full::Keys));
        assert!(known.place("0000", 5).is_ok());
        assert_eq!(known.place("0000", BYTES), Err(Full::Bytes));
    }

    #[test]
    fn a_file_is_never_given_to_two_keys() {
        let mut known = with(&["a", "b"]);
        let of = |known: &Known, name: &str| known.get(name).unwrap().file;
        assert_ne!(of(&known, "a"), of(&known, "b"));
        known.remove("a");
        put(&mut known, "c", "1", "here");
        assert_ne!(of(&known, "c"), of(&known, "b"));
    }
}
