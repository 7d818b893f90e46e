//! Nothing happens: what pillion costs a machine while its device is silent and its broker is connected.

use super::scratch::Scratch;
use super::serial_line::{LINES, SerialLine};
use super::sidecar::{DEVICE, Setup, Sidecar};
use super::tally::{Rounds, Target, Unit, Verdict};
use super::{Result, gauges};
use crate::broker::Broker;
use std::time::{Duration, Instant};

pub fn run(scratch: &Scratch, quick: bool, verdict: &mut Verdict) -> Result<()> {
    // Before: what a start leaves behind (retained messages, their acknowledgements) is done with.
    let (before, during, rounds) = match quick {
        true => (Duration::from_secs(2), Duration::from_secs(5), 1),
        false => (Duration::from_secs(5), Duration::from_secs(30), 3),
    };
    let broker = Broker::start(scratch)?;
    let (mut resident, mut wakeups, mut cpu_ms) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 0..rounds {
        let line = SerialLine::new(DEVICE, LINES, Instant::now())?;
        let state = scratch.path(&format!("rest-{round}"));
        let setup = Setup { state: &state, broker: Some(broker.port()), serial: &[&line], mqtt: "", more: "" };
        let mut sidecar = Sidecar::start(&setup, scratch)?;
        sidecar.online()?;
        std::thread::sleep(before);
        let (woken, used, since) = (gauges::wakeups(sidecar.id())?, gauges::cpu(sidecar.id())?, Instant::now());
        std::thread::sleep(during);
        let seconds = since.elapsed().as_secs_f64();
        wakeups.add((gauges::wakeups(sidecar.id())? - woken) as f64 / seconds);
        cpu_ms.add((gauges::cpu(sidecar.id())? - used).as_secs_f64() * 1000.0 / seconds);
        resident.add(gauges::rss(sidecar.id())? as f64 / f64::from(1 << 20));
        sidecar.stop()?;
    }
    let title = format!("rest: broker connected, one open serial line that is silent, {} s", during.as_secs());
    verdict.part(&title, rounds);
    verdict.target("RSS, pillion", &resident, Unit::Mebibytes, Target::NeverOver(6.0));
    verdict.target("wake-ups, pillion, all threads", &wakeups, Unit::WakeUps, Target::AtMost(2.0));
    verdict.line("CPU in a second, pillion", &cpu_ms, Unit::Milliseconds);
    Ok(())
}
