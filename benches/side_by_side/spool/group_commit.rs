//! Records accepted and on the medium, group by group: the spool against nothing but write(2) and fdatasync.
//!
//! The contender writes the bytes that the spool has in its segments after the same records, in as many pieces of one
//! length, to one file that grows, and syncs it after each. Both take turns commit by commit, in changing order, so
//! that a disk that slows down slows both. Not measured: making the records, creating folders and the first file.

use super::super::scratch::Scratch;
use super::super::tally::{Rounds, Target, Unit, Verdict};
use super::super::{Broken, Result};
use super::store::{STREAM, open, options, record};
use pillion::config::Sync;
use pillion::host;
use pillion::record::{Durability, Record};
use pillion::spool::{Spool, folder};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How records come in.
struct Setting {
    name: &'static str,
    /// Records in a commit.
    group: u64,
    /// Commits begin so far apart; none: one after the other.
    every: Option<Duration>,
    /// Whether this is group commit, about which something was promised.
    is_promised: bool,
}

/// 200 records in 10 ms are 20,000 in a second.
const SETTINGS: [Setting; 4] = [
    Setting { name: "1 record (sync = \"always\", one source)", group: 1, every: None, is_promised: false },
    Setting { name: "groups of 16", group: 16, every: None, is_promised: true },
    Setting { name: "groups of 128", group: 128, every: None, is_promised: true },
    Setting {
        name: "groups of 10 ms at 20,000 records/s",
        group: 200,
        every: Some(Duration::from_millis(10)),
        is_promised: true,
    },
];

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (commits, rounds) = if quick { (40, 3) } else { (200, 15) };
    verdict.part(&format!("spool, group commit: {commits} commits of records of 128 bytes a round"), rounds);
    for setting in &SETTINGS {
        let bytes = bytes_of(scratch, setting, commits)?;
        let (mut spool, mut bare) = (Rounds::default(), Rounds::default());
        for _ in 0..rounds {
            let (one, other) = round(scratch, setting, commits, &bytes)?;
            spool.add(one.as_secs_f64() * 1000.0 / commits as f64);
            bare.add(other.as_secs_f64() * 1000.0 / commits as f64);
        }
        verdict.setting(setting.name);
        verdict.line("a commit, spool", &spool, Unit::Milliseconds);
        verdict.line("a commit, write(2) and fdatasync", &bare, Unit::Milliseconds);
        let rate = |times: &Rounds| times.per_round(times, |ms, _| setting.group as f64 * 1000.0 / ms);
        if setting.every.is_none() {
            verdict.line("records, spool", &rate(&spool), Unit::PerSecond);
        }
        let ratio = bare.per_round(&spool, |bare, spool| bare / spool);
        match setting.is_promised {
            true => verdict.target("throughput, spool to bare", &ratio, Unit::Ratio, Target::AtLeast(0.8)),
            false => verdict.line("throughput, spool to bare", &ratio, Unit::Ratio),
        }
    }
    Ok(())
}

/// What the spool makes of the records of a round: all of its segments.
fn bytes_of(scratch: &Scratch, setting: &Setting, commits: usize) -> Result<Vec<u8>> {
    let state = scratch.path("group-commit");
    let mut spool = open(&options(&state, None, Sync::Always));
    for number in 0..commits as u64 {
        append(&mut spool, records(setting, number))?;
    }
    drop(spool);
    let stream = folder(&state).join("telemetry");
    let mut paths: Vec<PathBuf> = fs::read_dir(&stream)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    let bytes: Vec<Vec<u8>> = paths.iter().map(fs::read).collect::<std::io::Result<_>>()?;
    fs::remove_dir_all(&state)?;
    Ok(bytes.concat())
}

/// How long all commits of the spool, and all of the contender, took.
fn round(scratch: &Scratch, setting: &Setting, commits: usize, bytes: &[u8]) -> Result<(Duration, Duration)> {
    let state = scratch.path("group-commit");
    let mut spool = open(&options(&state, None, Sync::Always));
    // The first commit creates folders and a file.
    append(&mut spool, records(setting, 0))?;
    let path = state.join("bare");
    let mut file = create(&path)?;
    let mut spent = (Duration::ZERO, Duration::ZERO);
    let mut due = Instant::now();
    let mut wait = || {
        due += setting.every.unwrap_or_default();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    };
    for (number, piece) in bytes.chunks(bytes.len().div_ceil(commits)).enumerate() {
        for turn in [number, number + 1] {
            wait();
            if turn % 2 == 0 {
                let records = records(setting, number as u64);
                let start = Instant::now();
                append(&mut spool, records)?;
                spent.0 += start.elapsed();
            } else {
                let start = Instant::now();
                file.write_all(piece)?;
                file.sync_data()?;
                spent.1 += start.elapsed();
            }
        }
    }
    drop((spool, file));
    fs::remove_dir_all(&state)?;
    Ok(spent)
}

fn create(path: &Path) -> Result<File> {
    let mut file = File::create(path)?;
    file.write_all(b"x")?;
    file.sync_all()?;
    Ok(file)
}

fn records(setting: &Setting, number: u64) -> Vec<Record> {
    let now = host::now();
    (0..setting.group).map(|place| record(number * setting.group + place, now)).collect()
}

/// Takes records in one by one, as devices have them, and commits them together: a turn of the spool's thread.
fn append(spool: &mut Spool, records: Vec<Record>) -> Result<()> {
    for record in records {
        spool.append(STREAM, vec![record], host::now()).map_err(Broken::from)?;
    }
    spool.harden(STREAM, Durability::Power, host::now())?;
    spool.tick(host::now());
    Ok(())
}
