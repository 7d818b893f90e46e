//! A pulse counter: the total, when it is published and when it is kept, and the files that keep it.
//!
//! The total is in `RUNTIME_DIR/counter/NAME` before it is published (a restart), and in `STATE_DIR/counter/NAME` on a stop
//! and once in [`FLASH`] if it has changed (a power cut costs what was counted since). A total only grows, so the larger one
//! of the two is the newer. A file is one line, replaced as a whole:
//!
//! ```text
//! {"count":1234,"crc":"9be3e0a3"}      CRC-32 (ISO-HDLC) of the decimal digits
//! ```

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often flash may be written for one counter.
pub const FLASH: Duration = Duration::from_secs(600);
/// No file of ours is longer.
const LONGEST_FILE: u64 = 256;
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// Where counts are kept.
#[derive(Debug, Clone)]
pub struct Keep {
    /// A tmpfs: survives a restart.
    pub runtime_dir: PathBuf,
    /// Flash: survives a power cut.
    pub state_dir: PathBuf,
    /// Replaces a file as a whole and makes its folder if need be. It may take long on flash.
    pub replace: fn(&Path, &[u8]) -> io::Result<()>,
}

impl Keep {
    /// The file on the tmpfs.
    pub fn runtime(&self, name: &str) -> PathBuf {
        self.runtime_dir.join("counter").join(name)
    }

    /// The file on flash.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state_dir.join("counter").join(name)
    }

    /// The total that was kept for this device, and what is wrong with the files.
    pub fn load(&self, name: &str) -> (u64, Vec<String>) {
        let mut total = 0;
        let mut wrong = Vec::new();
        for path in [self.runtime(name), self.state(name)] {
            match read(&path) {
                Ok(Some(count)) => total = total.max(count),
                Ok(None) => {}
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
        }
        (total, wrong)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    count: u64,
    crc: String,
}

fn checksum(count: u64) -> String {
    format!("{:08x}", CRC.checksum(count.to_string().as_bytes()))
}

/// The content of a file.
pub fn line(count: u64) -> Vec<u8> {
    let line = serde_json::to_string(&Line { count, crc: checksum(count) }).unwrap_or_default();
    (line + "\n").into_bytes()
}

fn read(path: &Path) -> io::Result<Option<u64>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut content = Vec::new();
    file.take(LONGEST_FILE).read_to_end(&mut content)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
    let Line { count, crc } = serde_json::from_slice(&content).map_err(|_| damaged())?;
    if crc == checksum(count) { Ok(Some(count)) } else { Err(damaged()) }
}

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Edges ever.
    pub count: u64,
    /// Edges since the record before this one.
    pub delta: u64,
}

/// The total and its times, in milliseconds of one clock that the caller has.
#[derive(Debug)]
pub struct Counter {
    total: u64,
    published: u64,
    interval_ms: u64,
    due_ms: u64,
    on_flash: u64,
    flash_ms: u64,
}

impl Counter {
    /// Goes on from `total`.
    pub fn new(interval: Duration, total: u64, now_ms: u64) -> Self {
        let interval_ms = millis(interval).max(1);
        let due_ms = now_ms.saturating_add(interval_ms);
        Counter { total, published: total, interval_ms, due_ms, on_flash: total, flash_ms: now_ms }
    }

    /// The total so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether something was counted since the last publication.
    pub fn is_news(&self) -> bool {
        self.total != self.published
    }

    /// Counts edges.
    pub fn add(&mut self, edges: u64) {
        self.total = self.total.saturating_add(edges);
    }

    /// When the total is to be published.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// What is to be published now; the next time is one interval later, or the first multiple of it that is to come.
    pub fn publish(&mut self, now_ms: u64) -> Count {
        let delta = self.total.saturating_sub(self.published);
        self.published = self.total;
        if let Some(late_ms) = now_ms.checked_sub(self.due_ms) {
            let steps = late_ms / self.interval_ms + 1;
            self.due_ms = self.due_ms.saturating_add(steps.saturating_mul(self.interval_ms));
        }
        Count { count: self.total, delta }
    }

    /// The total, if it is to go to flash now: because it has changed and that was not done for long, or because of a stop.
    pub fn flash(&mut self, now_ms: u64, stopping: bool) -> Option<u64> {
        let is_time = stopping || now_ms.saturating_sub(self.flash_ms) >= millis(FLASH);
        if !is_time || self.total == self.on_flash {
            return None;
        }
        (self.flash_ms, self.on_flash) = (now_ms, self.total);
        Some(self.total)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &[u8]) -> io::Result<()> {
        std::fs::create_dir_all(path.parent().unwrap())?;
        std::fs::write(path, content)
    }

    fn keep(dir: &tempfile::TempDir) -> Keep {
        Keep { runtime_dir: dir.path().join("run"), state_dir: dir.path().join("state"), replace: write }
    }

    #[test]
    fn a_total_never_goes_back_to_an_older_file() {
        let dir = tempfile::tempdir().unwrap();
        let keep = keep(&dir);
        assert_eq!(keep.load("water"), (0, vec![]));
        write(&keep.state("water"), &line(70)).unwrap();
        assert_eq!(keep.load("water"), (70, vec![]), "after a power cut");
        write(&keep.runtime("water"), &line(100)).unwrap();
        assert_eq!(keep.load("water"), (100, vec![]), "after a restart");
    }

    #[test]
    fn no_damaged_file_is_ever_believed_or_passed_over_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let keep = keep(&dir);
        write(&keep.state("water"), &line(70)).unwrap();
        let whole = line(1234);
        for at in 0..whole.len() - 2 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for damaged in [&flipped[..], &whole[..at]] {
                write(&keep.runtime("water"), damaged).unwrap();
                let (total, wrong) = keep.load("water");
                assert_eq!((total, wrong.len()), (70, 1), "{:?}", String::from_utf8_lossy(damaged));
                assert!(wrong[0].ends_with("run/counter/water: the file is damaged"), "{wrong:?}");
            }
        }
        write(&keep.state("water"), b"").unwrap();
        let (total, wrong) = keep.load("water");
        assert_eq!((total, wrong.len()), (0, 2));
        assert_eq!(String::from_utf8(line(1234)).unwrap(), "{\"count\":1234,\"crc\":\"9be3e0a3\"}\n");
    }

    #[test]
    fn deltas_never_sum_up_to_another_total() {
        let mut counter = Counter::new(Duration::from_secs(10), 500, 1_000);
        assert_eq!(counter.due_ms(), 11_000);
        counter.add(3);
        assert!(counter.is_news());
        assert_eq!(counter.publish(11_000), Count { count: 503, delta: 3 });
        assert_eq!((counter.due_ms(), counter.is_news()), (21_000, false));
        assert_eq!(counter.publish(21_004), Count { count: 503, delta: 0 });
        assert_eq!(counter.due_ms(), 31_000, "the pace never drifts");
        counter.add(1);
        assert_eq!(counter.publish(75_000), Count { count: 504, delta: 1 });
        assert_eq!(counter.due_ms(), 81_000, "what was slept through is never made up for");
    }

    #[test]
    fn flash_is_never_written_for_nothing_or_too_often() {
        let mut counter = Counter::new(Duration::from_secs(10), 0, 0);
        assert_eq!(counter.flash(700_000, false), None, "nothing was counted");
        counter.add(1);
        assert_eq!(counter.flash(599_999, false), None);
        assert_eq!(counter.flash(700_000, false), Some(1));
        counter.add(1);
        assert_eq!(counter.flash(1_299_999, false), None);
        assert_eq!(counter.flash(1_299_999, true), Some(2), "on a stop");
        assert_eq!(counter.flash(9_999_999, true), None, "it is there already");
    }
}
