//! A serial device talks steadily: how late its lines are behind the broker, and what a line costs.
//!
//! The same device for both: a pseudo terminal that the contender opens, 1,000 lines a second.

use super::latency::{Watch, topic};
use super::rivals::Pipeline;
use super::scratch::Scratch;
use super::serial_line::{LINES, SerialLine, send_steadily};
use super::sidecar::{DEVICE, Setup, Sidecar};
use super::tally::{Rounds, Target, Unit, Verdict};
use super::{Result, gauges};
use crate::broker::Broker;
use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_millis(1);
/// More than pillion's `sync`: what would be written to disk has been written by then.
const AFTERWARDS: Duration = Duration::from_millis(1500);

/// What one contender's rounds have shown.
#[derive(Default)]
struct Results {
    median_ms: Rounds,
    late_ms: Rounds,
    cpu_s: Rounds,
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (lines, rounds) = if quick { (2_000, 1) } else { (10_000, 3) };
    let broker = Broker::start(scratch)?;
    let (mut pillion, mut pipe, mut written) = (Results::default(), Results::default(), Rounds::default());
    for round in 0..rounds {
        pipeline(scratch, &broker, lines, &mut pipe)?;
        written.add(sidecar(scratch, &broker, round, lines, &mut pillion)?);
    }
    verdict.part(&format!("steady: {lines} lines of 128 bytes from a serial line, 1,000 a second"), rounds);
    verdict.line("latency, median, pillion (sync = \"1s\")", &pillion.median_ms, Unit::Milliseconds);
    verdict.line("latency, median, (c) socat | mosquitto_pub -l", &pipe.median_ms, Unit::Milliseconds);
    let over = pillion.median_ms.per_round(&pipe.median_ms, |one, other| one - other);
    verdict.target("latency, median, pillion over (c)", &over, Unit::Milliseconds, Target::AtMost(0.5));
    verdict.line("latency, 99th percentile, pillion", &pillion.late_ms, Unit::Milliseconds);
    verdict.line("latency, 99th percentile, (c)", &pipe.late_ms, Unit::Milliseconds);
    verdict.line("CPU for 100,000 records, pillion", &pillion.cpu_s, Unit::Seconds);
    verdict.line("CPU for 100,000 records, (c), both processes", &pipe.cpu_s, Unit::Seconds);
    let ratio = pillion.cpu_s.per_round(&pipe.cpu_s, |one, other| one / other);
    verdict.target("CPU, pillion to (c)", &ratio, Unit::Ratio, Target::LessThan(1.0));
    verdict.target("written to disk meanwhile, pillion", &written, Unit::Bytes, Target::NeverOver(1.0));
    Ok(())
}

/// Returns how many bytes were written to disk.
fn sidecar(scratch: &Scratch, broker: &Broker, round: usize, lines: u64, results: &mut Results) -> Result<f64> {
    let epoch = Instant::now();
    let line = SerialLine::new(DEVICE, LINES, epoch)?;
    let watch = Watch::start(broker, epoch, &[&line], lines)?;
    let state = scratch.path(&format!("steady-{round}"));
    let setup = Setup { state: &state, broker: Some(broker.port()), serial: &[&line], mqtt: "", more: "" };
    let mut sidecar = Sidecar::start(&setup, scratch)?;
    sidecar.online()?;
    let (id, mut written) = (sidecar.id(), 0);
    let cpu = |moment: Moment| {
        match moment {
            Moment::Before => written = gauges::written(id)?,
            Moment::After => written = gauges::written(id)? - written,
        }
        gauges::cpu(id)
    };
    measure(line, &watch, lines, cpu, results)?;
    sidecar.stop()?;
    Ok(written as f64)
}

fn pipeline(scratch: &Scratch, broker: &Broker, lines: u64, results: &mut Results) -> Result<()> {
    let epoch = Instant::now();
    let line = SerialLine::new(DEVICE, LINES, epoch)?;
    let watch = Watch::start(broker, epoch, &[&line], lines)?;
    let pipeline = Pipeline::start(broker.port(), &topic(DEVICE), line.path(), scratch)?;
    measure(line, &watch, lines, |_| pipeline.cpu(), results)?;
    pipeline.stop()
}

/// When a gauge is read.
#[derive(Clone, Copy)]
enum Moment {
    Before,
    After,
}

fn measure(
    mut line: SerialLine,
    watch: &Watch,
    lines: u64,
    mut cpu: impl FnMut(Moment) -> Result<Duration>,
    results: &mut Results,
) -> Result<()> {
    watch.wait_for_first(&mut [&mut line])?;
    std::thread::sleep(AFTERWARDS);
    let before = cpu(Moment::Before)?;
    send_steadily(&mut [&mut line], lines, PAUSE, Duration::ZERO)?;
    let latencies = watch.all()?;
    std::thread::sleep(AFTERWARDS);
    let used = cpu(Moment::After)? - before;
    results.median_ms.add(latencies.median());
    results.late_ms.add(latencies.late());
    results.cpu_s.add(used.as_secs_f64() * 100_000.0 / lines as f64);
    Ok(())
}
