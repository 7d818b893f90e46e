//! A stored backlog goes out by other ways than plain MQTT 3.1.1 to a broker next door: TLS, MQTT 5, batches, a long link.
//!
//! All of them in one run, in turns, against pillion itself by the plain way. The backlog and the watching are those of the
//! drain: from the first to the last record behind the broker.

use super::delay::Link;
use super::drain::{copy, fill, rate};
use super::rivals::topic_of;
use super::scratch::Scratch;
use super::sidecar::{PREFIX, Setup, Sidecar, WINDOW};
use super::subscriber::Subscriber;
use super::tally::{Rounds, Target, Unit, Verdict};
use super::{Result, gauges};
use crate::broker::Broker;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// To the broker and back.
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// Stored records that take the long link: a few seconds.
const LONG: usize = 5_000;
/// Batches as a metered link would have them.
const BATCH: &str = "[stream.telemetry]\nbatch = { records = 100, format = \"ndjson\", compress = \"COMPRESS\" }\n";

struct Links<'s> {
    scratch: &'s Scratch,
    broker: Broker,
}

/// What a drain has shown.
struct Drained {
    time: Duration,
    cpu_s: f64,
}

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    let (records, rounds) = if quick { (20_000, 3) } else { (100_000, 5) };
    let (tls, certificate) = Broker::certified(scratch)?;
    let links = Links { scratch, broker: tls };
    let backlog = fill(scratch, records)?;
    verdict.part(
        &format!("link: {records} stored records of 128 bytes, nobody subscribed, QoS 1, window {WINDOW}"),
        rounds,
    );

    let secure = format!(
        "servers = [\"mqtts://localhost:{}\"]\nca_file = {certificate:?}\n",
        links.broker.secure_port().ok_or("the broker has no TLS")?
    );
    let ways = [("plain, MQTT 3.1.1", ""), ("TLS", secure.as_str()), ("MQTT 5", "version = \"5\"\n")];
    let mut seen = [(); 3].map(|()| (Rounds::default(), Rounds::default()));
    for _ in 0..rounds {
        for ((_, mqtt), (speed, cpu)) in ways.iter().zip(&mut seen) {
            let drained = links.drain(&backlog, records, mqtt, "")?;
            speed.add(rate(records, drained.time));
            cpu.add(drained.cpu_s * 100_000.0 / records as f64);
        }
    }
    for ((name, _), (speed, cpu)) in ways.iter().zip(&seen) {
        verdict.line(name, speed, Unit::PerSecond);
        verdict.line(&format!("CPU for 100,000 records with the start, {name}"), cpu, Unit::Seconds);
    }
    for ((name, _), (speed, _)) in ways.iter().zip(&seen).skip(1) {
        let ratio = speed.per_round(&seen[0].0, |one, other| one / other);
        verdict.line(&format!("rate, {name} to plain"), &ratio, Unit::Ratio);
    }

    verdict.setting("bytes towards the broker for a record, in MQTT and without TCP's own");
    let mut plain = Rounds::default();
    for (name, compress) in
        [("one record, one message", None), ("100 in one", Some("none")), ("and deflated", Some("deflate"))]
    {
        let more = compress.map(|compress| BATCH.replace("COMPRESS", compress)).unwrap_or_default();
        let mut bytes = Rounds::default();
        for _ in 0..rounds {
            bytes.add(links.bytes(&backlog, records, &more)? / records as f64);
        }
        verdict.line(name, &bytes, Unit::Bytes);
        if compress.is_none() {
            plain = bytes;
        } else {
            verdict.line("to one each", &bytes.per_round(&plain, |one, other| one / other), Unit::Ratio);
        }
    }

    verdict.setting(&format!("{LONG} records over a link of {} ms and back", ROUND_TRIP.as_millis()));
    let backlog = fill(scratch, LONG)?;
    let mut speed = Rounds::default();
    for _ in 0..rounds {
        let link = Link::to(links.broker.port(), ROUND_TRIP / 2)?;
        let mqtt = format!("servers = [\"mqtt://127.0.0.1:{}\"]\n", link.port());
        speed.add(rate(LONG, links.drain(&backlog, LONG, &mqtt, "")?.time));
    }
    verdict.line("pillion", &speed, Unit::PerSecond);
    let most = f64::from(WINDOW) / ROUND_TRIP.as_secs_f64();
    let ratio = speed.per_round(&speed, |one, _| one / most);
    verdict.target("of window / round trip", &ratio, Unit::Ratio, Target::AtLeast(0.9));
    Ok(())
}

impl Links<'_> {
    fn drain(&self, backlog: &Path, records: usize, mqtt: &str, more: &str) -> Result<Drained> {
        let state = self.scratch.path("link");
        copy(backlog, &state)?;
        let (mut started, [first, last]) = (Instant::now(), [topic_of(0, records), topic_of(records - 1, records)]);
        let mut seen = 0;
        let watch = Subscriber::start(self.broker.port(), &[first.as_str(), last.as_str()], move |_, at| {
            seen += 1;
            if seen == 1 {
                started = at;
            }
            (seen == 2).then(|| at - started)
        })?;
        let setup = Setup { state: &state, broker: Some(self.broker.port()), serial: &[], mqtt, more };
        let mut sidecar = Sidecar::start(&setup, self.scratch)?;
        let time = watch.result()?;
        let cpu_s = gauges::cpu(sidecar.id())?.as_secs_f64();
        sidecar.delivered(records as u64)?;
        sidecar.stop()?;
        fs::remove_dir_all(&state)?;
        Ok(Drained { time, cpu_s })
    }

    /// Of a whole connection, from CONNECT to DISCONNECT.
    fn bytes(&self, backlog: &Path, records: usize, more: &str) -> Result<f64> {
        let link = Link::to(self.broker.port(), Duration::ZERO)?;
        let mqtt = format!("servers = [\"mqtt://127.0.0.1:{}\"]\n", link.port());
        let state = self.scratch.path("link");
        copy(backlog, &state)?;
        let setup = Setup { state: &state, broker: None, serial: &[], mqtt: &mqtt, more };
        let watch = Subscriber::start(self.broker.port(), &[&format!("{PREFIX}/app/last")], |_, _| Some(()))?;
        let mut sidecar = Sidecar::start(&setup, self.scratch)?;
        watch.result()?;
        sidecar.delivered(records as u64)?;
        sidecar.stop()?;
        fs::remove_dir_all(&state)?;
        Ok(link.sent() as f64)
    }
}
