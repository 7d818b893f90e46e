//! The machine's data disk, which has a write cache and loses what is in it with the power.
//!
//! A disk may keep what it has taken in volatile memory until it is told to flush; SD cards and SSDs do. QEMU writes down every
//! write and every flush that the machine's kernel asks for, in their order. When the power is cut, all that was written
//! before the last flush is on the disk; of what was written later, each sector is or is not there, as chance has it.
//!
//! ```text
//! data.img   what is on the disk when the power comes
//! data.live  what the kernel sees; QEMU's own copy of it for one life of the machine
//! data.log   what QEMU has written down: its driver blklogwrites, in the format of the kernel's dm-log-writes
//! ```
//!
//! The log, in sectors of 512 bytes, numbers little-endian in 64 bits: first magic, version, and the count of entries at the last
//! flush; then for each entry a sector with place, length (both in sectors), flags (1 flush, 4 discard), zeros; and what was written.
//! Nothing tells its end: there come zeros.

use fastrand::Rng;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 256 << 20;
const SECTOR: usize = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
}

/// What a power cut has done to it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Loss {
    /// Sectors that had been written since the last flush.
    pub at_risk: u64,
    /// Those of them that are lost.
    pub lost: u64,
}

impl Disk {
    /// An empty one.
    pub fn new(folder: &Path) -> Self {
        File::create(folder.join("data.img")).unwrap().set_len(SIZE).unwrap();
        Disk { folder: folder.to_owned() }
    }

    /// The power comes: what QEMU is to be told of the disk.
    pub fn power_on(&self) -> String {
        copy(&self.folder.join("data.img"), &self.folder.join("data.live"));
        File::create(self.folder.join("data.log")).unwrap();
        let child = |name: &str| {
            let path = self.folder.join(format!("data.{name}"));
            let child = if name == "log" { "log" } else { "file" };
            // What is flushed is safe from the end of QEMU in this machine's page cache.
            format!("{child}.driver=file,{child}.filename={},{child}.cache.no-flush=on", path.display())
        };
        format!("driver=blklogwrites,{},{}", child("live"), child("log"))
    }

    /// The power is gone, and QEMU has ended.
    pub fn power_off(&self, rng: &mut Rng) -> Loss {
        let log = Log::read(&self.folder.join("data.log")).unwrap();
        if !log.whole {
            // QEMU ended while it wrote an entry that others follow, so what is behind it can't be found.
            println!("the log of the disk is torn; nothing of its write cache is lost this time");
            fs::rename(self.folder.join("data.live"), self.folder.join("data.img")).unwrap();
            return Loss::default();
        }
        let disk = OpenOptions::new().write(true).open(self.folder.join("data.img")).unwrap();
        let flushed = log.entries.iter().rposition(|entry| entry.flags & FLUSH != 0).map_or(0, |last| last + 1);
        let keeps = rng.f64();
        let mut loss = Loss::default();
        for (number, entry) in log.entries.iter().enumerate() {
            for (sector, data) in (entry.sector..).zip(entry.data.chunks(SECTOR)) {
                if number >= flushed {
                    loss.at_risk += 1;
                    if rng.f64() >= keeps {
                        loss.lost += 1;
                        continue;
                    }
                }
                disk.write_all_at(data, sector * SECTOR as u64).unwrap();
            }
        }
        loss
    }
}

/// Copies a file that is holes for the most part.
pub fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap().success(),
        "{}",
        from.display()
    );
}

#[derive(Debug)]
struct Log {
    entries: Vec<Entry>,
    /// Whether all entries are there that QEMU had counted.
    whole: bool,
}

#[derive(Debug)]
struct Entry {
    sector: u64,
    flags: u64,
    data: Vec<u8>,
}

impl Log {
    fn read(path: &Path) -> io::Result<Self> {
        let mut log = BufReader::new(File::open(path)?);
        let mut head = [0; SECTOR];
        let number = |head: &[u8; SECTOR], place: usize| u64::from_le_bytes(head[place * 8..][..8].try_into().unwrap());
        let mut entries = Vec::new();
        let counted = match log.read_exact(&mut head) {
            // Nothing was ever flushed.
            Err(_) => 0,
            Ok(()) if head == [0; SECTOR] => 0,
            Ok(()) => {
                assert_eq!(number(&head, 0), MAGIC, "not a log of writes");
                number(&head, 2)
            }
        };
        while log.read_exact(&mut head).is_ok() && head != [0; SECTOR] {
            let [sector, length, flags] = [0, 1, 2].map(|place| number(&head, place));
            let length = if flags & DISCARD == 0 { usize::try_from(length).unwrap() * SECTOR } else { 0 };
            let mut data = vec![0; length];
            if log.read_exact(&mut data).is_err() {
                break;
            }
            entries.push(Entry { sector, flags, data });
        }
        let whole = entries.len() as u64 >= counted;
        Ok(Log { entries, whole })
    }
}
