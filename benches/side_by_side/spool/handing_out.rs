//! A backlog goes out of the spool, read and acknowledged, against the same records out of a queue in memory, which
//! keeps nothing: what it costs that they were on disk.

use super::super::Result;
use super::super::scratch::Scratch;
use super::super::tally::{Rounds, Unit, Verdict};
use super::store::{drain, fill, forget_files, link, open, options};
use pillion::config::Sync;
use pillion::record::Sequenced;
use std::collections::VecDeque;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

/// Records of this size that the spool hands out at a time.
const BATCH: usize = 136;

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (bytes, rounds) = if quick { (8 << 20, 3) } else { (64 << 20, 9) };
    let backlog = scratch.path("backlog");
    let count = fill(&backlog, bytes)?;
    let mut records: Vec<Sequenced> = Vec::with_capacity(count as usize);
    from_spool(scratch, &backlog, count, |record| records.push(record.clone()))?;
    let (mut cold, mut warm, mut queue) = (Rounds::default(), Rounds::default(), Rounds::default());
    let mut is_cold = true;
    for _ in 0..rounds {
        is_cold &= forget_files()?;
        cold.add(count as f64 / from_spool(scratch, &backlog, count, |_| {})?.as_secs_f64());
        warm.add(count as f64 / from_spool(scratch, &backlog, count, |_| {})?.as_secs_f64());
        queue.add(count as f64 / from_memory(records.iter().cloned().collect()).as_secs_f64());
    }
    fs::remove_dir_all(&backlog)?;
    verdict.part(&format!("spool, handing out: {count} records of 128 bytes, read and acknowledged"), rounds);
    verdict.line("spool, files in memory", &warm, Unit::PerSecond);
    if is_cold {
        verdict.line("spool, files on the disk", &cold, Unit::PerSecond);
    }
    verdict.line("a queue in memory", &queue, Unit::PerSecond);
    verdict.line("rate, spool (files in memory) to queue", &ratio(&warm, &queue), Unit::Ratio);
    if is_cold {
        verdict.line("rate, spool (files on the disk) to queue", &ratio(&cold, &queue), Unit::Ratio);
    }
    Ok(())
}

fn ratio(one: &Rounds, other: &Rounds) -> Rounds {
    one.per_round(other, |one, other| one / other)
}

/// How long it takes once the spool is open.
fn from_spool(scratch: &Scratch, backlog: &Path, count: u64, mut look: impl FnMut(&Sequenced)) -> Result<Duration> {
    let state = scratch.path("handing-out");
    link(backlog, &state)?;
    let mut spool = open(&options(&state, None, Sync::After(Duration::from_secs(1))));
    let start = Instant::now();
    let drained = drain(&mut spool, |record| look(black_box(record)));
    let time = start.elapsed();
    if drained != count {
        return Err(format!("{drained} of {count} records came out of the spool").into());
    }
    drop(spool);
    fs::remove_dir_all(&state)?;
    Ok(time)
}

fn from_memory(mut queue: VecDeque<Sequenced>) -> Duration {
    let start = Instant::now();
    while !queue.is_empty() {
        let batch: Vec<Sequenced> = queue.drain(..BATCH.min(queue.len())).collect();
        batch.iter().for_each(|record| {
            black_box(record);
        });
    }
    start.elapsed()
}
