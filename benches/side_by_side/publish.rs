//! Many records in one request: `curl` sends a file of lines to the local API, and `mosquitto_pub` sends one to the broker.
//!
//! The time is that from the first to the last record as seen behind the broker, for both. pillion has each record in its
//! runtime tier before it says so; mosquitto_pub keeps nothing. That nothing is missing is held twice: the observer counts,
//! and the ledger and curl's answer must say the same.

use super::Result;
use super::rivals::{mosquitto_pub_from_file, record};
use super::scratch::Scratch;
use super::sidecar::{PREFIX, Setup, Sidecar};
use super::subscriber::Subscriber;
use super::tally::{Rounds, Target, Unit, Verdict};
use super::{drain, gauges};
use crate::broker::Broker;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (records, rounds) = if quick { (20_000, 3) } else { (100_000, 5) };
    let lines = records.min(drain::MOSQUITTO_PUB_LINES);
    let write = |name: &str, count: usize| -> Result<_> {
        let file = scratch.path(name);
        fs::write(&file, (0..count).map(|number| record(number) + "\n").collect::<String>())?;
        Ok(file)
    };
    let (all, some) = (write("records", records)?, write("lines", lines)?);
    let broker = Broker::start(scratch)?;
    verdict.part(&format!("publish: {records} records of 128 bytes in one request by curl, QoS 1"), rounds);
    let (mut pillion, mut rival, mut peak) = (Rounds::default(), Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        let watch = watch(&broker, lines)?;
        let publisher = mosquitto_pub_from_file(broker.port(), &some, scratch)?;
        rival.add(drain::rate(lines, watch.result()?));
        publisher.finish()?;
        drop(watch);
        pillion.add(drain::rate(records, by_pillion(scratch, &broker, &all, records, &mut peak)?));
    }
    verdict.line("pillion, POST /v1/publish", &pillion, Unit::PerSecond);
    verdict.line(&format!("(b) mosquitto_pub -l, {lines} lines of a file"), &rival, Unit::PerSecond);
    let ratio = pillion.per_round(&rival, |one, other| one / other);
    verdict.target("rate, pillion to (b)", &ratio, Unit::Ratio, Target::AtLeast(1.0));
    verdict.target("peak RSS, pillion", &peak, Unit::Mebibytes, Target::NeverOver(16.0));
    Ok(())
}

fn by_pillion(scratch: &Scratch, broker: &Broker, file: &Path, records: usize, peak: &mut Rounds) -> Result<Duration> {
    let state = scratch.path("publish");
    let setup = Setup { state: &state, broker: Some(broker.port()), serial: &[], mqtt: "", more: "" };
    let mut sidecar = Sidecar::start(&setup, scratch)?;
    sidecar.online()?;
    let watch = watch(broker, records)?;
    let answer = sidecar.upload("record", file, scratch)?;
    let time = watch.result()?;
    if !answer.contains(&format!("\"accepted\":{records},")) {
        return Err(format!("not all of {records} records were accepted: {answer}").into());
    }
    sidecar.delivered(records as u64)?;
    peak.add(gauges::peak_rss(sidecar.id())? as f64 / f64::from(1 << 20));
    sidecar.stop()?;
    fs::remove_dir_all(&state)?;
    Ok(time)
}

/// From the first to the last of so many records.
fn watch(broker: &Broker, records: usize) -> Result<Subscriber<Duration>> {
    let (mut seen, mut start) = (0, Instant::now());
    Subscriber::start(broker.port(), &[&format!("{PREFIX}/app/#")], move |_, at| {
        seen += 1;
        if seen == 1 {
            start = at;
        }
        (seen == records).then(|| at - start)
    })
}
