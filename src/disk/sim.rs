//! A file system in memory that loses power on demand.
//!
//! File contents and directory entries are volatile until `sync` and `sync_dir`. [`SimFs::cut`] keeps any subset of what
//! was not synced: of appended bytes any prefix, with garbage or zeros behind it; of directory operations any subset, in
//! order. What is below [`TMPFS`] is gone. A kill of the process needs no call here: the page cache is what the next run
//! sees; [`SimFs::die_after`] has it happen between any two calls, or within a write.
//!
//! Faults are ordered with [`SimFs::fail`]. A failed fsync is the one of Linux: the bytes that it did not write are never
//! written by a later one that succeeds, and a later one of the same process is noted as a sin ([`SimFs::resynced`]).

use super::{FileSystem, LogFile};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A power cut empties this folder.
pub const TMPFS: &str = "/run";

/// Of the kernel's cache, in bytes.
const PAGE: usize = 4096;

/// The calls of the trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    MakeDir,
    List,
    Create,
    Open,
    Append,
    Sync,
    Read,
    Truncate,
    Rename,
    Remove,
    SyncDir,
}

impl Call {
    /// Whether it wears flash out.
    pub fn writes(self) -> bool {
        !matches!(self, Call::List | Call::Open | Call::Read)
    }
}

/// The next `count` calls of this kind on paths with this part fail.
#[derive(Debug, Clone)]
struct Fault {
    call: Call,
    part: String,
    count: usize,
    errno: Errno,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// What is on the medium.
    durable: Vec<u8>,
    /// A range that a failed fsync dropped: never durable.
    dropped: Option<(usize, usize)>,
    /// The pages that the kernel's cache has.
    cached: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum DirOp {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

impl DirOp {
    fn is_in(&self, dir: &Path) -> bool {
        let (DirOp::Link(path, _) | DirOp::Unlink(path) | DirOp::Rename(_, path, _)) = self;
        path.parent() == Some(dir)
    }

    fn perform(&self, entries: &mut BTreeMap<PathBuf, u64>) {
        match self {
            DirOp::Link(path, inode) => {
                entries.insert(path.clone(), *inode);
            }
            DirOp::Unlink(path) => {
                entries.remove(path);
            }
            DirOp::Rename(from, to, inode) => {
                entries.remove(from);
                entries.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Default)]
struct State {
    dirs: BTreeSet<PathBuf>,
    entries: BTreeMap<PathBuf, u64>,
    durable_entries: BTreeMap<PathBuf, u64>,
    dir_ops: Vec<DirOp>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    faults: Vec<Fault>,
    journal: Vec<(Call, PathBuf)>,
    /// Calls until the process dies; none has an effect from then on.
    calls_left: Option<usize>,
    dead: bool,
    resynced: bool,
    hurried: bool,
    /// Bytes in files that the disk has room for.
    capacity: Option<usize>,
}

impl State {
    /// Notes the call, and fails it if that was ordered.
    fn call(&mut self, call: Call, path: &Path) -> io::Result<()> {
        if let Some(left) = &mut self.calls_left {
            self.dead |= *left == 0;
            *left = left.saturating_sub(1);
        }
        if self.dead {
            return Err(Errno::IO.into());
        }
        self.journal.push((call, path.to_owned()));
        let ordered =
            |fault: &&mut Fault| fault.call == call && fault.count > 0 && path.to_string_lossy().contains(&fault.part);
        match self.faults.iter_mut().find(ordered) {
            Some(fault) => {
                fault.count -= 1;
                Err(fault.errno.into())
            }
            None => Ok(()),
        }
    }

    /// How many of `wanted` bytes more the disk has room for.
    fn room(&self, path: &Path, wanted: usize) -> usize {
        let Some(capacity) = self.capacity.filter(|_| !path.starts_with(TMPFS)) else { return wanted };
        let on_disk = self.entries.iter().filter(|(path, _)| !path.starts_with(TMPFS));
        let used: usize = on_disk.map(|(_, inode)| self.inodes[inode].bytes.len()).sum();
        capacity.saturating_sub(used).min(wanted)
    }

    fn inode_of(&self, path: &Path) -> io::Result<u64> {
        self.entries.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.entry(number).or_default()
    }

    fn change_entries(&mut self, op: DirOp) {
        op.perform(&mut self.entries);
        self.dir_ops.push(op);
    }
}

/// The file system. Clones share it.
#[derive(Clone, Default)]
pub struct SimFs(Arc<Mutex<State>>);

impl SimFs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// As a store takes it.
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    /// Cuts the power: keeps what is on the medium, and any subset of the rest.
    pub fn cut(&self, rng: &mut fastrand::Rng) {
        let mut state = self.state();
        let state = &mut *state;
        for op in std::mem::take(&mut state.dir_ops) {
            if rng.bool() {
                op.perform(&mut state.durable_entries);
            }
        }
        state.durable_entries.retain(|path, _| !path.starts_with(TMPFS));
        state.dirs.retain(|path| !path.starts_with(TMPFS));
        state.entries = state.durable_entries.clone();
        for inode in state.inodes.values_mut() {
            inode.cut(rng);
        }
        state.faults.clear();
    }

    /// The next `count` calls of this kind on paths with this part fail. A failed append writes half of the bytes.
    pub fn fail(&self, call: Call, part: &str, count: usize, errno: Errno) {
        self.state().faults.push(Fault { call, part: part.to_owned(), count, errno });
    }

    /// The files on the disk can't become more than this many bytes.
    pub fn limit(&self, capacity: Option<usize>) {
        self.state().capacity = capacity;
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// The process dies at the call after so many; half of what that one appends is written.
    pub fn die_after(&self, calls: usize) {
        self.state().calls_left = Some(calls);
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Another process can go on. Returns whether the last one had died.
    pub fn revive(&self) -> bool {
        let mut state = self.state();
        state.calls_left = None;
        std::mem::take(&mut state.dead)
    }

    /// The calls since the last time this was asked.
    pub fn journal(&self) -> Vec<(Call, PathBuf)> {
        std::mem::take(&mut self.state().journal)
    }

    /// Whether an fsync was tried again on a file that had failed one.
    pub fn resynced(&self) -> bool {
        self.state().resynced
    }

    /// Whether the kernel was asked to drop from its cache what was not on the medium: it would write that at once.
    pub fn hurried(&self) -> bool {
        self.state().hurried
    }

    /// Bytes of files on the disk that the kernel has in its cache.
    pub fn cached(&self) -> usize {
        let state = self.state();
        let on_disk = state.entries.iter().filter(|(path, _)| !path.starts_with(TMPFS));
        on_disk.map(|(_, inode)| state.inodes[inode].cached.len() * PAGE).sum()
    }

    /// Paths of all files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().entries.keys().cloned().collect()
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let mut state = self.state();
        let number = state.inode_of(path).unwrap();
        state.inode(number).bytes.clone()
    }

    /// Puts a file there, on the medium.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        state.next_inode += 1;
        let number = state.next_inode;
        state.inodes.insert(number, Inode { bytes: bytes.to_vec(), durable: bytes.to_vec(), ..Inode::default() });
        state.entries.insert(path.to_owned(), number);
        state.durable_entries.insert(path.to_owned(), number);
    }

    /// Somebody removes a file.
    pub fn take_away(&self, path: &Path) {
        let mut state = self.state();
        state.entries.remove(path).unwrap();
        state.durable_entries.remove(path);
    }

    /// Flips bits of one byte, on the medium too.
    pub fn flip(&self, path: &Path, offset: usize) {
        let mut bytes = self.content(path);
        bytes[offset] ^= 0x55;
        self.put(path, &bytes);
    }
}

impl Inode {
    fn cache(&mut self, start: usize, count: usize) {
        self.cached.extend(start / PAGE..(start + count).div_ceil(PAGE));
    }

    fn cut(&mut self, rng: &mut fastrand::Rng) {
        if let Some((from, to)) = self.dropped.take() {
            let to = to.min(self.bytes.len());
            self.bytes[from.min(to)..to].fill_with(|| rng.u8(..));
        }
        let kept = if self.bytes.len() >= self.durable.len() && self.bytes.starts_with(&self.durable) {
            let tail = self.bytes.len() - self.durable.len();
            let mut kept = self.bytes[..self.durable.len() + rng.usize(..=tail)].to_vec();
            let rest = self.bytes.len() - kept.len();
            match rng.u8(..3) {
                0 => {}
                // The length was on the medium before the bytes were.
                1 => kept.resize(kept.len() + rng.usize(..=rest), 0),
                _ => kept.extend((0..rng.usize(..=rest)).map(|_| rng.u8(..))),
            }
            kept
        } else if rng.bool() {
            self.bytes.clone()
        } else {
            self.durable.clone()
        };
        self.bytes.clone_from(&kept);
        self.durable = kept;
        self.cached.clear();
    }
}

struct SimFile {
    fs: SimFs,
    path: PathBuf,
    inode: u64,
    /// Whether this process wrote it.
    is_own: bool,
}

impl LogFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.fs.state();
        let was_dead = state.dead;
        let done = state.call(Call::Append, &self.path);
        let room = state.room(&self.path, bytes.len());
        let done = done.and_then(|()| if room < bytes.len() { Err(Errno::NOSPC.into()) } else { Ok(()) });
        let part = match &done {
            Ok(()) => bytes,
            Err(error) if error.kind() == io::ErrorKind::StorageFull && room < bytes.len() => &bytes[..room],
            Err(_) if was_dead => &[],
            Err(_) => &bytes[..bytes.len() / 2],
        };
        let inode = state.inode(self.inode);
        let start = inode.bytes.len();
        inode.bytes.extend_from_slice(part);
        inode.cache(start, part.len());
        done
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.fs.state();
        let done = state.call(Call::Sync, &self.path);
        let dead = state.dead;
        let inode = state.inode(self.inode);
        let again = inode.dropped.is_some() && self.is_own;
        match &done {
            Ok(()) => inode.durable.clone_from(&inode.bytes),
            Err(_) if dead => {}
            Err(_) => inode.dropped = Some((inode.durable.len(), inode.bytes.len())),
        }
        state.resynced |= again;
        done
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.fs.state();
        state.call(Call::Read, &self.path)?;
        let inode = state.inode(self.inode);
        let start = usize::try_from(offset).unwrap();
        let rest = inode.bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        inode.cache(start, count);
        Ok(count)
    }

    fn drop_cache(&self, length: u64) {
        let mut state = self.fs.state();
        let inode = state.inode(self.inode);
        let length = usize::try_from(length).unwrap();
        let is_hurried = length > inode.durable.len();
        inode.cached.retain(|page| (page + 1) * PAGE > length);
        state.hurried |= is_hurried;
    }
}

impl FileSystem for SimFs {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.dirs.contains(dir) {
            return Ok(());
        }
        state.call(Call::MakeDir, dir)?;
        state.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.call(Call::List, dir)?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.entries.iter().filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.map(|(path, number)| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, state.inodes[number].bytes.len() as u64)
        });
        Ok(named.collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let mut state = self.state();
        state.call(Call::Create, path)?;
        let inode = match state.inode_of(path) {
            Ok(number) => {
                let inode = state.inode(number);
                inode.bytes.clear();
                inode.dropped = None;
                inode.cached.clear();
                number
            }
            Err(_) => {
                state.next_inode += 1;
                let number = state.next_inode;
                state.inodes.insert(number, Inode::default());
                state.change_entries(DirOp::Link(path.to_owned(), number));
                number
            }
        };
        Ok(Box::new(SimFile { fs: self.clone(), path: path.to_owned(), inode, is_own: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let mut state = self.state();
        state.call(Call::Open, path)?;
        let inode = state.inode_of(path)?;
        Ok(Box::new(SimFile { fs: self.clone(), path: path.to_owned(), inode, is_own: false }))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Truncate, path)?;
        let number = state.inode_of(path)?;
        state.inode(number).bytes.resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Rename, to)?;
        let number = state.inode_of(from)?;
        state.change_entries(DirOp::Rename(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Remove, path)?;
        state.inode_of(path)?;
        state.change_entries(DirOp::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        state.call(Call::SyncDir, dir)?;
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.dir_ops).into_iter().partition(|op| op.is_in(dir));
        here.iter().for_each(|op| op.perform(&mut state.durable_entries));
        state.dir_ops = elsewhere;
        Ok(())
    }
}
