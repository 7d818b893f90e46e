//! Every framing through a serial line into the broker, beside `socat | mosquitto_pub -l`, which knows lines only.
//!
//! A frame has 128 bytes without what its framing adds, and is written to the line at once. The base is measured again
//! before each kind of framing: what the machine does beside hits both.
//!
//! `idle-gap` is different by nature: what ends its frame is that nothing follows, so a frame can't leave before the
//! gap is over, and at 1,000 a second the gap has to be a part of a millisecond. Nothing of it is subtracted from what
//! the target is held against; what comes out without it is shown beside. Whoever is late to read by more than the rest
//! of that millisecond gets two frames as one, which are then spoilt: how many is told.

use super::Result;
use super::broker::Broker;
use super::latency::{Latencies, Watch, topic};
use super::rivals::Pipeline;
use super::scratch::Scratch;
use super::serial_line::{LINES, SerialLine, send_steadily};
use super::sidecar::{DEVICE, Setup, Sidecar};
use super::tally::{Rounds, Target, Unit, Verdict};
use std::time::{Duration, Instant};

/// Between two frames.
const PERIOD: Duration = Duration::from_millis(1);
/// After a start: what that leaves behind is done with.
const SETTLE: Duration = Duration::from_millis(300);

/// One kind of framing.
struct Kind {
    name: &'static str,
    /// Without and with a CRC, as `framing` in the configuration.
    variants: [(&'static str, &'static str); 2],
    /// The silence that ends a frame.
    gap: Duration,
    /// The least silence that the device leaves between two frames.
    quiet: Duration,
}

const fn kind(name: &'static str, variants: [(&'static str, &'static str); 2]) -> Kind {
    Kind { name, variants, gap: Duration::ZERO, quiet: Duration::ZERO }
}

const KINDS: [Kind; 6] = [
    kind("lines", [("lines", LINES), ("lines, crc16-modbus", "{ kind = \"lines\", crc = \"crc16-modbus\" }")]),
    kind("cobs", [("cobs", "{ kind = \"cobs\" }"), ("cobs, crc32", "{ kind = \"cobs\", crc = \"crc32\" }")]),
    kind(
        "slip",
        [("slip", "{ kind = \"slip\" }"), ("slip, crc16-ccitt", "{ kind = \"slip\", crc = \"crc16-ccitt\" }")],
    ),
    kind(
        "length-prefixed",
        [
            ("length-prefixed", "{ kind = \"length-prefixed\" }"),
            ("length-prefixed, crc32", "{ kind = \"length-prefixed\", crc = \"crc32\" }"),
        ],
    ),
    kind(
        "fixed",
        [
            ("fixed", "{ kind = \"fixed\", size = 128 }"),
            ("fixed, crc16-modbus", "{ kind = \"fixed\", size = 130, crc = \"crc16-modbus\" }"),
        ],
    ),
    Kind {
        name: "idle-gap",
        variants: [
            ("idle-gap", "{ kind = \"idle-gap\", gap = \"250us\" }"),
            ("idle-gap, crc16-modbus", "{ kind = \"idle-gap\", gap = \"250us\", crc = \"crc16-modbus\" }"),
        ],
        gap: Duration::from_micros(250),
        quiet: Duration::from_micros(500),
    },
];

/// What the rounds of one contender have shown.
#[derive(Default)]
struct Results {
    median_ms: Rounds,
    late_ms: Rounds,
    spoilt: Rounds,
}

impl Results {
    fn add(&mut self, latencies: &Latencies) {
        self.median_ms.add(latencies.median());
        self.late_ms.add(latencies.late());
        self.spoilt.add(latencies.spoilt as f64);
    }
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (frames, rounds) = if quick { (500, 1) } else { (3_000, 5) };
    let broker = Broker::start(scratch)?;
    let bench = Bench { scratch, broker, frames };
    let mut results: [[Results; 3]; KINDS.len()] = Default::default();
    for round in 0..rounds {
        for (kind, [base, plain, checked]) in KINDS.iter().zip(&mut results) {
            base.add(&bench.pipeline()?);
            for ((name, framing), results) in kind.variants.iter().zip([plain, checked]) {
                let state = scratch.path(&format!("framing-{name}-{round}"));
                results.add(&bench.pillion(kind, framing, &state)?);
            }
        }
    }
    let title = format!("framings: {frames} frames of 128 bytes from a serial line, 1,000 a second");
    verdict.part(&title, rounds);
    for (kind, [base, plain, checked]) in KINDS.iter().zip(&results) {
        verdict.setting(kind.name);
        verdict.line("median, (c) socat | mosquitto_pub -l, lines", &base.median_ms, Unit::Milliseconds);
        verdict.line("99th percentile, (c)", &base.late_ms, Unit::Milliseconds);
        for ((name, _), results) in kind.variants.iter().zip([plain, checked]) {
            report(kind, name, results, base, verdict);
        }
    }
    Ok(())
}

fn report(kind: &Kind, name: &str, results: &Results, base: &Results, verdict: &mut Verdict) {
    let over = results.median_ms.per_round(&base.median_ms, |one, other| one - other);
    verdict.line(&format!("median, {name}"), &results.median_ms, Unit::Milliseconds);
    verdict.line(&format!("99th percentile, {name}"), &results.late_ms, Unit::Milliseconds);
    verdict.target(&format!("median over (c), {name}"), &over, Unit::Milliseconds, Target::AtMost(0.5));
    if !kind.gap.is_zero() {
        let gap_ms = kind.gap.as_secs_f64() * 1000.0;
        let own = over.per_round(&over, |over, _| over - gap_ms);
        verdict.line(&format!("… less its gap of {gap_ms} ms, {name}"), &own, Unit::Milliseconds);
        verdict.line(&format!("frames spoilt, {name}"), &results.spoilt, Unit::Frames);
    }
}

struct Bench<'s> {
    scratch: &'s Scratch,
    broker: Broker,
    frames: u64,
}

impl Bench<'_> {
    fn pillion(&self, kind: &Kind, framing: &'static str, state: &std::path::Path) -> Result<Latencies> {
        let epoch = Instant::now();
        let mut line = SerialLine::new(DEVICE, framing, epoch)?;
        let watch = Watch::start(&self.broker, epoch, &[&line], self.frames)?;
        let setup = Setup { state, broker: Some(self.broker.port()), serial: &[&line], mqtt: "", more: "" };
        let mut sidecar = Sidecar::start(&setup, self.scratch)?;
        sidecar.online()?;
        self.send(&mut line, &watch, kind.quiet)?;
        let latencies = if kind.gap.is_zero() { watch.all()? } else { watch.rest(&mut line)? };
        sidecar.stop()?;
        Ok(latencies)
    }

    fn pipeline(&self) -> Result<Latencies> {
        let epoch = Instant::now();
        let mut line = SerialLine::new(DEVICE, LINES, epoch)?;
        let watch = Watch::start(&self.broker, epoch, &[&line], self.frames)?;
        let pipeline = Pipeline::start(self.broker.port(), &topic(DEVICE), line.path(), self.scratch)?;
        self.send(&mut line, &watch, Duration::ZERO)?;
        let latencies = watch.all()?;
        pipeline.stop()?;
        Ok(latencies)
    }

    fn send(&self, line: &mut SerialLine, watch: &Watch, quiet: Duration) -> Result<()> {
        watch.wait_for_first(&mut [&mut *line])?;
        std::thread::sleep(SETTLE);
        send_steadily(&mut [line], self.frames, PERIOD, quiet)
    }
}
