//! Eight serial ports at once, against one: what they cost pillion together.
//!
//! The devices speak one after the other with equal pauses between them, never together: so nothing of the work for one
//! frame can be shared with that for another by chance.

use super::broker::Broker;
use super::latency::Watch;
use super::scratch::Scratch;
use super::serial_line::{LINES, SerialLine, send_steadily};
use super::sidecar::{Setup, Sidecar};
use super::tally::{Rounds, Target, Unit, Verdict};
use super::{Result, gauges};
use std::time::{Duration, Instant};

/// How many ports are compared with one.
const PORTS: usize = 8;
/// What each port receives in a second.
const RATES: [u32; 2] = [100, 500];
/// More than pillion's `sync`: what would be done about a record later has been done by then.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// What some ports have shown.
#[derive(Default)]
struct Results {
    cpu_s: Rounds,
    peak_mib: Rounds,
    median_ms: Rounds,
    late_ms: Rounds,
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (seconds, rounds) = if quick { (2, 1) } else { (10, 5) };
    let broker = Broker::start(scratch)?;
    for rate in RATES {
        let frames = u64::from(rate) * seconds;
        let (mut one, mut eight) = (Results::default(), Results::default());
        for _ in 0..rounds {
            measure(scratch, &broker, 1, frames, rate, &mut one)?;
            measure(scratch, &broker, PORTS, frames, rate, &mut eight)?;
        }
        verdict.part(&format!("ports: {rate} lines of 128 bytes a second on each, for {seconds} s"), rounds);
        verdict.line("CPU, one port", &one.cpu_s, Unit::Seconds);
        verdict.line("CPU, eight ports", &eight.cpu_s, Unit::Seconds);
        let ratio = |eight: &Rounds, one: &Rounds| eight.per_round(one, |eight, one| eight / one);
        let less = Target::LessThan(PORTS as f64);
        verdict.target("CPU, eight ports to one", &ratio(&eight.cpu_s, &one.cpu_s), Unit::Ratio, less);
        verdict.line("peak RSS, one port", &one.peak_mib, Unit::Mebibytes);
        verdict.line("peak RSS, eight ports", &eight.peak_mib, Unit::Mebibytes);
        verdict.target("peak RSS, eight ports to one", &ratio(&eight.peak_mib, &one.peak_mib), Unit::Ratio, less);
        verdict.line("latency, median, one port", &one.median_ms, Unit::Milliseconds);
        verdict.line("latency, median, eight ports", &eight.median_ms, Unit::Milliseconds);
        verdict.line("latency, 99th percentile, one port", &one.late_ms, Unit::Milliseconds);
        verdict.line("latency, 99th percentile, eight ports", &eight.late_ms, Unit::Milliseconds);
    }
    Ok(())
}

fn measure(
    scratch: &Scratch,
    broker: &Broker,
    ports: usize,
    frames: u64,
    rate: u32,
    results: &mut Results,
) -> Result<()> {
    let epoch = Instant::now();
    let lines: Result<Vec<SerialLine>> =
        (0..ports).map(|port| SerialLine::new(&format!("line-{port}"), LINES, epoch)).collect();
    let mut lines = lines?;
    let shared: Vec<&SerialLine> = lines.iter().collect();
    let watch = Watch::start(broker, epoch, &shared, frames)?;
    // A spool of its own, else the later one would begin with what the earlier one has left.
    let state = tempfile::tempdir_in(scratch.path(""))?;
    let setup = Setup { state: state.path(), broker: Some(broker.port()), serial: &shared, mqtt: "", more: "" };
    let mut sidecar = Sidecar::start(&setup, scratch)?;
    sidecar.online()?;
    let mut lines: Vec<&mut SerialLine> = lines.iter_mut().collect();
    watch.wait_for_first(&mut lines)?;
    std::thread::sleep(AFTERWARDS);
    let before = gauges::cpu(sidecar.id())?;
    send_steadily(&mut lines, frames, Duration::from_secs(1) / rate, Duration::ZERO)?;
    let latencies = watch.all()?;
    std::thread::sleep(AFTERWARDS);
    results.cpu_s.add((gauges::cpu(sidecar.id())? - before).as_secs_f64());
    results.peak_mib.add(gauges::peak_rss(sidecar.id())? as f64 / f64::from(1 << 20));
    results.median_ms.add(latencies.median());
    results.late_ms.add(latencies.late());
    sidecar.stop()
}
