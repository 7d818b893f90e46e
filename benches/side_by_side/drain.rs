//! A stored backlog goes out: how fast, and with how much memory.
//!
//! pillion's backlog is filled once, by its own local API without a broker in reach, and copied for each round. The time is
//! that from the first to the last record as seen behind the broker, for every contender. Twice: an observer that gets two
//! records only (the first and the last have topics of their own), so that contender and broker have the machine for
//! themselves; and an observer that counts all, so that none can be missing. mosquitto_pub has one topic for all
//! lines and takes part in the second only.

use super::rivals::{bare_rumqttc, mosquitto_pub_from_file, record, topic_of};
use super::scratch::Scratch;
use super::sidecar::{PREFIX, Setup, Sidecar};
use super::subscriber::Subscriber;
use super::tally::{Rounds, Target, Unit, Verdict};
use super::{Result, gauges};
use crate::broker::Broker;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Beyond 65,535 unacknowledged lines, mosquitto_pub loses some and doesn't say so.
pub const MOSQUITTO_PUB_LINES: usize = 60_000;
/// Records in one request to the local API: below its limits of 1 MiB and 10,000.
const REQUEST: usize = 5_000;

/// Who looks on.
#[derive(Clone, Copy, PartialEq)]
enum Observer {
    FirstAndLast,
    All,
}

struct Drain<'s> {
    scratch: &'s Scratch,
    broker: Broker,
    backlog: PathBuf,
    records: usize,
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (records, rounds) = if quick { (20_000, 3) } else { (100_000, 5) };
    let lines = records.min(MOSQUITTO_PUB_LINES);
    let file = scratch.path("lines");
    fs::write(&file, (0..lines).map(|number| record(number) + "\n").collect::<String>())?;
    let backlog = fill(scratch, records)?;
    let drain = Drain { scratch, broker: Broker::start(scratch)?, backlog, records };
    verdict.part(&format!("drain: {records} stored records of 128 bytes, QoS 1, window 128"), rounds);

    let (mut pillion, mut bare) = (Results::default(), Results::default());
    for _ in 0..rounds {
        drain.bare(Observer::FirstAndLast, &mut bare)?;
        drain.pillion(Observer::FirstAndLast, &mut pillion)?;
    }
    verdict.setting("nobody has subscribed to the records");
    compare(&pillion, &bare, verdict);

    let (mut pillion, mut bare, mut lines_rate) = (Results::default(), Results::default(), Rounds::default());
    for _ in 0..rounds {
        drain.bare(Observer::All, &mut bare)?;
        lines_rate.add(drain.mosquitto_pub(&file, lines)?);
        drain.pillion(Observer::All, &mut pillion)?;
    }
    verdict.setting("one subscriber to all records, which counts them");
    compare(&pillion, &bare, verdict);
    verdict.line(&format!("(b) mosquitto_pub -l, {lines} lines of a file"), &lines_rate, Unit::PerSecond);
    let ratio = pillion.rate.per_round(&lines_rate, |one, other| one / other);
    verdict.target("rate, pillion to (b)", &ratio, Unit::Ratio, Target::MoreThan(1.0));
    Ok(())
}

/// What one contender's rounds have shown.
#[derive(Default)]
struct Results {
    rate: Rounds,
    cpu_s: Rounds,
    peak_mib: Rounds,
    anonymous_mib: Rounds,
}

impl Results {
    /// A round whose last record has just arrived.
    fn add(&mut self, records: usize, time: Duration, process: u32) -> Result<()> {
        self.rate.add(rate(records, time));
        self.cpu_s.add(gauges::cpu(process)?.as_secs_f64() * 100_000.0 / records as f64);
        self.peak_mib.add(gauges::peak_rss(process)? as f64 / f64::from(1 << 20));
        self.anonymous_mib.add(gauges::anonymous(process)? as f64 / f64::from(1 << 20));
        Ok(())
    }
}

fn compare(pillion: &Results, bare: &Results, verdict: &mut Verdict) {
    verdict.line("pillion, from its spool", &pillion.rate, Unit::PerSecond);
    verdict.line("(a) bare rumqttc, from memory", &bare.rate, Unit::PerSecond);
    let ratio = pillion.rate.per_round(&bare.rate, |one, other| one / other);
    verdict.target("rate, pillion to (a)", &ratio, Unit::Ratio, Target::AtLeast(0.9));
    verdict.line("CPU for 100,000 records with the start, pillion", &pillion.cpu_s, Unit::Seconds);
    verdict.line("CPU for 100,000 records with the start, (a)", &bare.cpu_s, Unit::Seconds);
    verdict.target("peak RSS, pillion", &pillion.peak_mib, Unit::Mebibytes, Target::NeverOver(8.0));
    verdict.line("of it without program and libraries, at the end, pillion", &pillion.anonymous_mib, Unit::Mebibytes);
    verdict.line("peak RSS, (a)", &bare.peak_mib, Unit::Mebibytes);
    verdict.line("of it without program and libraries, at the end, (a)", &bare.anonymous_mib, Unit::Mebibytes);
}

impl Drain<'_> {
    fn bare(&self, observer: Observer, results: &mut Results) -> Result<()> {
        let watch = self.watch(observer, self.records)?;
        let mut publisher = bare_rumqttc(self.broker.port(), self.records, self.scratch)?;
        let time = watch.result()?;
        publisher.still_runs()?;
        results.add(self.records, time, publisher.id())?;
        drop(publisher.stdin());
        publisher.finish()
    }

    fn mosquitto_pub(&self, file: &Path, lines: usize) -> Result<f64> {
        let watch = self.watch(Observer::All, lines)?;
        let publisher = mosquitto_pub_from_file(self.broker.port(), file, self.scratch)?;
        let rate = rate(lines, watch.result()?);
        publisher.finish()?;
        Ok(rate)
    }

    fn pillion(&self, observer: Observer, results: &mut Results) -> Result<()> {
        let state = self.scratch.path("drain");
        copy(&self.backlog, &state)?;
        let watch = self.watch(observer, self.records)?;
        let setup = Setup { state: &state, broker: Some(self.broker.port()), serial: &[], mqtt: "", more: "" };
        let mut sidecar = Sidecar::start(&setup, self.scratch)?;
        results.add(self.records, watch.result()?, sidecar.id())?;
        sidecar.delivered(self.records as u64)?;
        sidecar.stop()?;
        Ok(fs::remove_dir_all(&state)?)
    }

    /// From the first to the last of so many records.
    fn watch(&self, observer: Observer, records: usize) -> Result<Subscriber<Duration>> {
        let all = format!("{PREFIX}/app/#");
        let [first, last] = [topic_of(0, records), topic_of(records - 1, records)];
        let (topics, expected) = match observer {
            Observer::FirstAndLast => (vec![first.as_str(), last.as_str()], 2),
            Observer::All => (vec![all.as_str()], records),
        };
        let (mut seen, mut start) = (0, Instant::now());
        Subscriber::start(self.broker.port(), &topics, move |_, at| {
            seen += 1;
            if seen == 1 {
                start = at;
            }
            (seen == expected).then(|| at - start)
        })
    }
}

/// Fills a spool while no broker is in reach. What another part has left in its place goes.
pub fn fill(scratch: &Scratch, records: usize) -> Result<PathBuf> {
    let state = scratch.path("backlog");
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    let mut sidecar = Sidecar::start(&Setup { state: &state, broker: None, serial: &[], mqtt: "", more: "" }, scratch)?;
    sidecar.ready()?;
    let lines = |from: usize, to: usize| (from..to).map(|number| record(number) + "\n").collect::<String>();
    sidecar.publish("first", lines(0, 1).as_bytes())?;
    for from in (1..records - 1).step_by(REQUEST) {
        let to = (from + REQUEST).min(records - 1);
        sidecar.publish("record", lines(from, to).as_bytes())?;
    }
    sidecar.publish("last", lines(records - 1, records).as_bytes())?;
    sidecar.stop()?;
    Ok(state)
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}

/// Records in a second.
pub fn rate(records: usize, time: Duration) -> f64 {
    records as f64 / time.as_secs_f64()
}
