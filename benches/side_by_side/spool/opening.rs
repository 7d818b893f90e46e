//! What a start costs while a backlog waits: nothing of it may grow with the backlog.
//!
//! A process of its own (this binary in another role) opens the spool and says how long that took, what it read and
//! what memory it had; then it reads and acknowledges everything, and says again what memory it had. The backlog is
//! left as a power cut would leave it, so the newest segment is looked through; and the kernel has forgotten all files,
//! if we may make it. pillion's binary itself is started on the largest one.

use super::super::process::Process;
use super::super::scratch::Scratch;
use super::super::sidecar::{Setup, Sidecar};
use super::super::tally::{Rounds, Target, Unit, Verdict};
use super::super::{Result, gauges};
use super::store::{drain, fill, forget_files, link, open, options};
use pillion::config::Sync;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The first argument that makes this binary the process that opens a spool.
pub const OPENER_ROLE: &str = "open-spool";
const MIB: u64 = 1 << 20;

/// What one size has shown.
#[derive(Default)]
struct Results {
    time_s: Rounds,
    read_mib: Rounds,
    fetched_mib: Rounds,
    peak_mib: Rounds,
    drained_mib: Rounds,
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (sizes, rounds): (&[u64], _) = if quick { (&[0, 16, 128], 2) } else { (&[0, 16, 128, 1024], 5) };
    let is_cold = forget_files()?;
    let cache =
        if is_cold { "files not in memory" } else { "files still in memory: only root makes the kernel forget" };
    verdict.part(&format!("spool, opening, by the backlog that waits; {cache}"), rounds);
    for &size in sizes {
        let backlog = scratch.path("backlog");
        let records = fill(&backlog, size * MIB)?;
        let mut results = Results::default();
        for _ in 0..rounds {
            round(scratch, &backlog, records, &mut results)?;
        }
        verdict.setting(&format!("{size} MiB, {records} records"));
        verdict.target("until Spool::open returns", &results.time_s, Unit::Seconds, Target::NeverOver(0.2));
        verdict.line("read meanwhile (rchar)", &results.read_mib, Unit::Mebibytes);
        verdict.line("fetched from the disk meanwhile (read_bytes)", &results.fetched_mib, Unit::Mebibytes);
        verdict.target("peak RSS, opened", &results.peak_mib, Unit::Mebibytes, Target::NeverOver(10.0));
        verdict.target("peak RSS, all drained", &results.drained_mib, Unit::Mebibytes, Target::NeverOver(10.0));
        if Some(&size) == sizes.last() {
            let mut started = Rounds::default();
            for _ in 0..rounds {
                started.add(start_pillion(scratch, &backlog, records)?);
            }
            verdict.target("peak RSS, pillion's binary", &started, Unit::Mebibytes, Target::NeverOver(10.0));
        }
        fs::remove_dir_all(&backlog)?;
    }
    Ok(())
}

fn round(scratch: &Scratch, backlog: &Path, records: u64, results: &mut Results) -> Result<()> {
    let state = scratch.path("opening");
    link(backlog, &state)?;
    forget_files()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(OPENER_ROLE).arg(&state).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut opener = Process::start("opener", &mut command, scratch)?;
    let mut said = String::new();
    opener.stdout().ok_or("the opener has no standard output")?.read_to_string(&mut said)?;
    opener.finish()?;
    let numbers: Vec<f64> = said.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    let &[time, read, fetched, peak, drained, count] = numbers.as_slice() else {
        return Err(format!("the opener said {said:?}").into());
    };
    if count != records as f64 {
        return Err(format!("{count} of {records} records came out of the spool").into());
    }
    results.time_s.add(time);
    results.read_mib.add(read / MIB as f64);
    results.fetched_mib.add(fetched / MIB as f64);
    results.peak_mib.add(peak / MIB as f64);
    results.drained_mib.add(drained / MIB as f64);
    Ok(fs::remove_dir_all(&state)?)
}

/// The other side of [`round`].
pub fn opener_role(arguments: &[String]) -> Result<()> {
    let [state] = arguments else { return Err("it takes a folder".into()) };
    let options = options(Path::new(state), None, Sync::After(Duration::from_secs(1)));
    let me = std::process::id();
    let (read, fetched) = (gauges::read_by(me)?, gauges::fetched(me)?);
    let start = Instant::now();
    let mut spool = open(&options);
    let time = start.elapsed().as_secs_f64();
    let (read, fetched) = (gauges::read_by(me)? - read, gauges::fetched(me)? - fetched);
    let peak = gauges::peak_rss(me)?;
    let count = drain(&mut spool, |_| {});
    println!("{time} {read} {fetched} {peak} {} {count}", gauges::peak_rss(me)?);
    Ok(())
}

/// Peak memory in MiB of the binary once its local API answers.
fn start_pillion(scratch: &Scratch, backlog: &Path, records: u64) -> Result<f64> {
    let state = scratch.path("opening");
    link(backlog, &state)?;
    forget_files()?;
    let more = "[stream.telemetry]\nmax_bytes = \"4GiB\"\n";
    let mut sidecar = Sidecar::start(&Setup { state: &state, broker: None, serial: &[], mqtt: "", more }, scratch)?;
    sidecar.waits(records)?;
    let peak = gauges::peak_rss(sidecar.id())? as f64 / MIB as f64;
    sidecar.stop()?;
    fs::remove_dir_all(&state)?;
    Ok(peak)
}
