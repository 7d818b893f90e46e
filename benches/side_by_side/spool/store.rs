//! A spool as the bench drives it, and the backlogs that wait in one.

use super::super::Result;
use super::super::rivals;
use pillion::config::{Stream, Sync, WhenFull};
use pillion::disk::{Disk, FileSystem, LogFile};
use pillion::host;
use pillion::record::{Durability, Encoding, Record, Sequenced, StreamId, Timestamp};
use pillion::spool::{self, Options, Spool};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The stream that everything here is about.
pub const STREAM: StreamId = StreamId::TELEMETRY;
/// Its name.
pub const STREAM_NAME: &str = "telemetry";
/// Bytes of data in a record.
pub const PAYLOAD: u64 = 128;
/// Below the prefix, as a serial device named `meter` has it.
const TOPIC: &str = "device/meter/data";
/// More than any backlog of the bench, in bytes.
const QUOTA: u64 = 4 << 30;
/// What the publisher gets at a time, and holds at the most, in bytes: as the spool's thread has it.
const BATCH: usize = 32 * 1024;
const HELD_BATCHES: usize = spool::thread::CREDIT / BATCH;
/// Bytes in a segment, the default.
const SEGMENT: u64 = 1 << 20;
/// Records that come in together while a backlog is filled.
const FILL: u64 = 1_000;

/// Defaults, but for the quota.
pub fn options(state: &Path, runtime: Option<&Path>, sync: Sync) -> Options {
    let stream = |(name, priority): (&str, u8)| Stream {
        name: name.to_owned(),
        max_bytes: QUOTA,
        max_age: None,
        when_full: WhenFull::DropOldest,
        convention: Default::default(),
        priority,
        batch: None,
        quiet_hours: None,
    };
    Options {
        dir: spool::folder(state),
        runtime_dir: runtime.map(spool::folder),
        streams: [("event", 0), (STREAM_NAME, 1), ("log", 2)].map(stream).to_vec(),
        sync,
        segment_bytes: SEGMENT,
        boot_id: host::boot_id_bytes(),
        backfill_rate: 0,
    }
}

/// Opens it on the real file system.
pub fn open(options: &Options) -> Spool {
    let disk: Arc<dyn FileSystem> = Arc::new(Disk);
    Spool::open(&disk, options, host::now())
}

pub fn record(number: u64, time: Timestamp) -> Record {
    let data = rivals::record(number as usize).into_bytes();
    Record { topic: TOPIC.to_owned(), time, encoding: Encoding::Json, data }
}

/// Fills a spool until it holds so many bytes and a newest segment that is nearly full, the one that opening looks
/// through. Leaves it as a kill or a power cut would. Returns how many records wait.
pub fn fill(state: &Path, bytes: u64) -> Result<u64> {
    let disk: Arc<dyn FileSystem> = Arc::new(Unsynced);
    let mut spool = Spool::open(&disk, &options(state, None, Sync::Always), host::now());
    let mut records = 0;
    let folder = spool::folder(state).join(STREAM_NAME);
    while bytes > 0 && !(spool.status(host::now())[STREAM.index()].bytes >= bytes && is_newest_full(&folder)?) {
        let now = host::now();
        spool.append(STREAM, (records..records + FILL).map(|number| record(number, now)).collect(), now)?;
        spool.harden(STREAM, Durability::Power, now)?;
        records += FILL;
    }
    rustix::fs::syncfs(File::open(state)?)?;
    Ok(records)
}

fn is_newest_full(folder: &Path) -> Result<bool> {
    let newest = Disk.list(folder)?.into_iter().filter(|(name, _)| name.ends_with(".seg")).max();
    Ok(newest.is_some_and(|(_, bytes)| bytes > SEGMENT / 8 * 6))
}

/// The same files under another name: the spool replaces and removes, but never appends to what an earlier run left,
/// and there is no torn tail to be cut off, so each round can have its own for nothing.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => link(&entry.path(), &target)?,
            false => fs::hard_link(entry.path(), target)?,
        }
    }
    Ok(())
}

/// Makes the kernel forget what it has read from disks. Returns whether it did: that takes root.
pub fn forget_files() -> Result<bool> {
    rustix::fs::sync();
    match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads and acknowledges all that waits, as far behind as the publisher may be. Returns how many records of the stream
/// there were.
pub fn drain(spool: &mut Spool, mut look: impl FnMut(&Sequenced)) -> u64 {
    let mut held: VecDeque<(StreamId, Vec<Sequenced>)> = VecDeque::new();
    let mut count = 0;
    loop {
        let read = spool.read(BATCH, host::now());
        let is_over = read.is_none();
        held.extend(read.map(|(stream, records, _)| (stream, records)));
        if is_over && held.is_empty() {
            return count;
        }
        if is_over || held.len() >= HELD_BATCHES {
            let Some((stream, records)) = held.pop_front() else { continue };
            let last = records.last().map_or(0, |record| record.seq);
            spool.acknowledge(stream, last, host::now());
            if stream == STREAM {
                records.iter().for_each(&mut look);
                count += records.len() as u64;
            }
        }
        spool.tick(host::now());
    }
}

/// The disk without its fdatasync, so that filling a large backlog does not take minutes.
struct Unsynced;

struct UnsyncedFile(Box<dyn LogFile>);

impl FileSystem for Unsynced {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        Disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        Disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(UnsyncedFile(Disk.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Disk.open(path)
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        Disk.truncate(path, length)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for UnsyncedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}
