//! The keys on disk: a file for each, which is replaced as a whole.
//!
//! Constraints: nothing is held open, and no value is held in memory; a damaged file is set aside under the name
//! `NUMBER.damaged` (a later one replaces it), and never keeps pillion from starting. Calls block: they are made on a thread
//! for that.
//!
//! Format of `STATE_DIR/config/NUMBER.key` (NUMBER: eight decimal digits or more; it means nothing), numbers little-endian:
//!
//! ```text
//! magic "pillcfg\n"   version u16 = 1   CRC-32C of the rest u32   an Entry in postcard
//! ```

use crate::disk::{FileSystem, is_passing, read_all, replace};
use crate::inbound::{MAX_TOPIC, MAX_VALUE};
use crate::record::Timestamp;
use crc::{CRC_32_ISCSI, CRC_64_XZ, Crc, Table};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8] = b"pillcfg\n";
const VERSION: u16 = 1;
const CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
const CRC64: Crc<u64, Table<1>> = Crc::<u64, Table<1>>::new(&CRC_64_XZ);
/// The largest file in bytes: value, key, name of the server.
const MAX_FILE: usize = MAX_VALUE + MAX_TOPIC + 1024;
/// Files that are looked at; there are never so many unless somebody else has put them there.
const MAX_FILES: usize = 4096;

/// The folder of the keys.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("config")
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below `P/config/`.
    pub key: String,
    /// When it came.
    pub time: Timestamp,
    /// The broker that it came from.
    pub server: String,
    /// The payload as it came.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// What is known of a value without reading it: CRC-64 and length. Other values have other ones, for all purposes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Print {
    sum: u64,
    /// In bytes.
    pub length: usize,
}

impl Print {
    /// Of this value.
    pub fn of(value: &[u8]) -> Print {
        Print { sum: CRC64.checksum(value), length: value.len() }
    }

    /// As clients see it.
    pub fn etag(self) -> String {
        format!("{:016x}-{}", self.sum, self.length)
    }
}

/// A key that was found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    /// The number of its file.
    pub file: u64,
    /// Its value.
    pub print: Print,
    /// The rest; the value is left out.
    pub entry: Entry,
}

/// What is in the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// All keys that can be read.
    pub keys: Vec<OnDisk>,
    /// What is wrong with the other files.
    pub damaged: Vec<String>,
    /// The number from which on no file is there.
    pub next_file: u64,
}

/// The folder. See the module's head.
#[derive(Clone)]
pub struct Store {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
}

impl Store {
    /// Touches nothing.
    pub fn new(fs: Arc<dyn FileSystem>, dir: PathBuf) -> Store {
        Store { fs, dir }
    }

    /// What there is. Of a key that has two files, since one could not be read for a while, the older one is removed.
    pub fn load(&self) -> Found {
        let mut found = Found { next_file: 1, ..Found::default() };
        let files = match self.fs.list(&self.dir) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return found,
            Err(error) => {
                found.damaged.push(format!("{}: {error}", self.dir.display()));
                return found;
            }
        };
        let mut numbers: Vec<u64> = files.iter().filter_map(|(name, _)| number_of(name)).take(MAX_FILES).collect();
        numbers.sort_unstable();
        found.next_file = numbers.last().map_or(1, |last| last.saturating_add(1));
        for file in numbers {
            match self.read(file) {
                Ok(entry) => {
                    if let Some(at) = found.keys.iter().position(|older| older.entry.key == entry.key) {
                        let _ = self.remove(found.keys.swap_remove(at).file);
                    }
                    let print = Print::of(&entry.value);
                    found.keys.push(OnDisk { file, print, entry: Entry { value: Vec::new(), ..entry } });
                }
                Err(error) => {
                    let path = self.path(file);
                    // What the next start can read is not damaged.
                    if !is_passing(&error) {
                        let _ = self.fs.rename(&path, &path.with_extension("damaged"));
                    }
                    found.damaged.push(format!("{}: {error}", path.display()));
                }
            }
        }
        found
    }

    /// A file's content.
    ///
    /// # Errors
    /// It can't be read, or is damaged.
    pub fn read(&self, file: u64) -> io::Result<Entry> {
        let bytes = read_all(&*self.fs, &self.path(file), MAX_FILE + 1)?;
        decode(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
    }

    /// Writes a file, new or in the place of the old one; it is on the medium when this returns.
    ///
    /// # Errors
    /// The disk does not take it. The old one is still there.
    pub fn write(&self, file: u64, entry: &Entry) -> io::Result<()> {
        self.fs.create_dir_all(&self.dir)?;
        let body = postcard::to_stdvec(entry).map_err(io::Error::other)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(CRC32C.checksum(&body).to_le_bytes());
        bytes.extend(body);
        replace(&*self.fs, &self.path(file), &bytes)
    }

    /// Removes a file; that is on the medium when this returns.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn remove(&self, file: u64) -> io::Result<()> {
        match self.fs.remove(&self.path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.fs.sync_dir(&self.dir),
        }
    }

    fn path(&self, file: u64) -> PathBuf {
        self.dir.join(format!("{file:08}.key"))
    }
}

/// The entry of a key in a folder that is not ours; `read` reads a file of at most so many bytes. Changes nothing.
pub fn find(dir: &Path, key: &str, read: impl Fn(&Path, usize) -> Option<Vec<u8>>) -> Option<Entry> {
    let paths = std::fs::read_dir(dir).ok()?.take(MAX_FILES).filter_map(Result::ok).map(|entry| entry.path());
    let ours = paths.filter_map(|path| Some((number_of(path.file_name()?.to_str()?)?, path)));
    let entries = ours.filter_map(|(number, path)| Some((number, decode(&read(&path, MAX_FILE)?)?)));
    // The newest, if there are two: see `load`.
    entries.filter(|(_, entry)| entry.key == key).max_by_key(|(number, _)| *number).map(|(_, entry)| entry)
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".key")?;
    let is_number = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (crc, body) = rest.split_first_chunk::<4>()?;
    let is_whole = u16::from_le_bytes(*version) == VERSION && u32::from_le_bytes(*crc) == CRC32C.checksum(body);
    is_whole.then(|| postcard::from_bytes(body).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Call, SimFs};
    use crate::record::ClockQuality;
    use rustix::io::Errno;

    fn entry(key: &str, value: &[u8]) -> Entry {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };
        Entry { key: key.into(), time, server: "mqtt://b:1883".into(), value: value.to_vec() }
    }

    fn store(fs: &SimFs) -> Store {
        Store::new(fs.shared(), "/state/config".into())
    }

    #[test]
    fn the_format_never_changes() {
        let fixture = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/config-v1.key")).unwrap();
        let fs = SimFs::default();
        let path = Path::new("/state/config/00000007.key");
        store(&fs).write(7, &entry("limits/high", b"{\"bar\":4}")).unwrap();
        assert_eq!(fs.content(path), fixture);
        assert_eq!(store(&fs).read(7).unwrap(), entry("limits/high", b"{\"bar\":4}"));
    }

    #[test]
    fn a_power_cut_never_leaves_half_a_value() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let fs = SimFs::default();
            store(&fs).write(1, &entry("a", &[b'x'; 3000])).unwrap();
            fs.die_after(rng.usize(0..8));
            let new = store(&fs).write(1, &entry("a", &[b'y'; 5000]));
            fs.revive();
            fs.cut(&mut rng);
            let Found { keys, damaged, .. } = store(&fs).load();
            assert_eq!((keys.len(), damaged.len()), (1, 0), "seed {seed}");
            let length = keys[0].print.length;
            assert!(length == 5000 || (length == 3000 && new.is_err()), "seed {seed}: {length}");
        }
    }

    #[test]
    fn a_file_that_can_t_be_read_for_a_while_is_never_set_aside_nor_told_after_a_newer_one() {
        let fs = SimFs::default();
        for (file, key) in [(1, "a"), (2, "b"), (3, "c")] {
            store(&fs).write(file, &entry(key, b"old")).unwrap();
        }
        fs.fail(Call::Open, "00000003.key", 1, Errno::MFILE);
        let Found { keys, damaged, next_file } = store(&fs).load();
        assert_eq!((keys.len(), damaged.len(), next_file), (2, 1, 4));
        assert_eq!(store(&fs).load().keys.len(), 3, "it is there at the next start");
        // The broker has sent it meanwhile.
        store(&fs).write(next_file, &entry("c", b"newest")).unwrap();
        for _ in 0..2 {
            let keys = store(&fs).load().keys;
            assert_eq!(
                keys.iter().map(|key| (key.file, key.print.length)).collect::<Vec<_>>(),
                [(1, 3), (2, 3), (4, 6)]
            );
        }
        assert_eq!(fs.files().len(), 3, "{:?}", fs.files());
    }

    #[test]
    fn of_two_files_of_a_key_the_older_one_is_never_applied() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Arc::new(crate::disk::Disk), folder.path().into());
        for (file, value) in (1..20).map(|file| (file, file.to_string())) {
            store.write(file, &entry("c", value.as_bytes())).unwrap();
        }
        let found = find(folder.path(), "c", |path, _| std::fs::read(path).ok());
        assert_eq!(found.unwrap().value, b"19");
    }

    #[test]
    fn damage_never_costs_more_than_the_damaged_key() {
        let fs = SimFs::default();
        for (file, key) in [(1, "a"), (2, "b"), (3, "c")] {
            store(&fs).write(file, &entry(key, key.as_bytes())).unwrap();
        }
        let path = Path::new("/state/config/00000002.key");
        let whole = fs.content(path);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs.put(path, &bytes);
            let Found { keys, damaged, .. } = store(&fs).load();
            assert_eq!((keys.len(), damaged.len()), (2, 1), "byte {at}");
            fs.put(path, &whole[..at]);
            assert_eq!(store(&fs).load().damaged.len(), 1, "cut at {at}");
        }
        fs.put(Path::new("/state/config/notes.txt"), b"mine");
        fs.put(path, &vec![0; MAX_FILE + 5000]);
        assert_eq!(store(&fs).load().damaged.len(), 1);
        assert_eq!(fs.content(Path::new("/state/config/notes.txt")), b"mine");
    }
}
