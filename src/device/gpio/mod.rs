//! A GPIO line: an input whose edges become records, a pulse counter, or an output that takes orders.
//!
//! The data of a record on `device/NAME/data`; values are logical, so after `active_low`:
//!
//! ```text
//! {"value":true}                      an input's level, when the line is opened
//! {"value":true,"edge":"rising"}      one edge, with the time that the kernel gave it
//! {"value":true,"lost":3}             the level, looked at because three edges were lost before it
//! {"count":1234,"delta":7}            a counter: edges ever, and since its last record
//! {"value":true,"cause":"command"}    an output, when it is opened and when it changes; or "start", "pulse-end", "safe"
//! ```
//!
//! Constraints: a line is ours from the opening to the end, and is let go at the first sign that its chip is gone. Edges
//! are bounded three times: the kernel keeps 256, one submission holds 64, and 1,000 in a second are read; what comes on
//! top is lost and counted, and the level is looked at anew. Counters lose none of these: the kernel numbers every edge, so
//! what was dropped is counted all the same. Edges that come before the kernel's own interrupt thread has run for the one
//! before are one to the kernel itself, and nobody is told: that thread's latency, commonly well below 100 µs, is the limit.
//!
//! States, as of every device (see `serial`):
//!
//! ```text
//! Closed ── taken ──> Open ── chip gone, failed ──> Backoff ── delay over ──> Closed
//!    └──────────────── not taken ───────────────────────^
//! ```
//!
//! The rooms: `input`, `counter` and `output` are pure; `chip` is the seam to the kernel and `cdev` the kernel; `reading`
//! and `driving` are the tasks that connect them.
//!
//! What happens to a line that is let go is up to its driver: most leave the level as it is.

pub mod cdev;
pub mod chip;
pub mod counter;
mod driving;
pub mod input;
pub mod liveness;
pub mod output;
mod reading;

use super::Wiring;
use crate::backoff::Backoff;
use crate::config::{Direction, Gpio};
use crate::record::{Durability, Encoding, Record, StreamId, Submission, Timestamp};
use crate::stats::{DeviceState, GpioStatus};
use chip::{Chips, Request, Role, Trouble, shown};
use counter::Keep;
use liveness::Liveness;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::watch;

/// The delays between attempts to take the line, as for serial ports.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Runs one line until `wiring.stop` becomes true or nobody takes its records any more.
///
/// `keep` is where a counter keeps its total; `liveness` is what an output's safe value depends on.
pub async fn run<C: Chips>(config: Gpio, wiring: Wiring, chips: C, keep: Keep, liveness: Liveness) {
    let direction = config.direction.clone();
    let device = Device::new(config, wiring, chips);
    match direction {
        Direction::Input(input) => reading::run(device, &input, &keep).await,
        Direction::Output(output) => driving::run(device, &output, liveness).await,
    }
}

/// Where the line stands. Whoever holds it is in `Open`.
enum State<H> {
    /// Nothing is held; the line is about to be taken.
    Closed,
    /// The line is ours.
    Open(H),
    /// Nothing is held; the next attempt comes after a delay.
    Backoff,
}

/// What both kinds of lines need.
struct Device<C> {
    config: Gpio,
    topic: String,
    wiring: Wiring,
    chips: C,
    backoff: Backoff,
}

impl<C: Chips> Device<C> {
    fn new(config: Gpio, wiring: Wiring, chips: C) -> Self {
        let topic = format!("device/{}/data", config.name);
        Device { config, topic, wiring, chips, backoff: Backoff::new(FIRST_DELAY, LONGEST_DELAY) }
    }

    fn take(&self, role: Role) -> Result<C::Held, Trouble> {
        let Gpio { chip, line, bias, active_low, .. } = &self.config;
        self.chips.take(&Request { chip, line, bias: *bias, active_low: *active_low, role })
    }

    fn now(&self) -> input::Instant {
        input::Instant { time: (self.wiring.clock)(), ns: self.chips.monotonic_ns() }
    }

    fn now_ms(&self) -> u64 {
        (self.wiring.clock)().mono_ms
    }

    fn record(&self, time: Timestamp, data: &impl Serialize) -> Record {
        // These documents hold nothing that JSON can't say.
        let data = serde_json::to_vec(data).unwrap_or_default();
        Record { topic: self.topic.clone(), time, encoding: Encoding::Json, data }
    }

    /// Waits for room and hands the records over. `None` if nobody takes records any more.
    async fn send(&self, records: Vec<Record>) -> Option<()> {
        if records.is_empty() {
            return Some(());
        }
        self.wiring.submissions.send(submission(records)).await.ok()
    }

    /// Brings the status' own part up to date and wakes nobody for it.
    fn note(&self, change: impl FnOnce(&mut GpioStatus)) {
        self.wiring.status.send_if_modified(|status| {
            let line = status.gpio.get_or_insert_default();
            let edges = line.edges;
            change(line);
            if line.edges != edges {
                status.last_ms = Some((self.wiring.clock)().wall_ms);
            }
            false
        });
    }

    fn online(&mut self) {
        self.backoff.reset();
        self.report(DeviceState::Online, None);
    }

    fn offline(&self, trouble: &Trouble) {
        self.note(|gpio| gpio.value = None);
        self.report(DeviceState::Offline, Some(trouble.to_string()));
    }

    fn stopped(&self) {
        self.report(DeviceState::Offline, Some("pillion is stopping".to_owned()));
    }

    /// Enters the state in the status. Receivers are woken and a line is logged if state or reason are news.
    fn report(&self, state: DeviceState, reason: Option<String>) {
        let now = (self.wiring.clock)().wall_ms;
        let (device, line, chip) = (self.config.name.as_str(), shown(&self.config.line), self.config.chip.as_str());
        let is_news = self.wiring.status.send_if_modified(|status| {
            status.opens += u64::from(state == DeviceState::Online);
            status.enter(state, reason.as_deref(), now)
        });
        match reason {
            _ if !is_news => {}
            // The daemon says so itself.
            Some(_) if *self.wiring.stop.borrow() => {}
            Some(reason) => tracing::warn!(device, chip, line, "device {device} is offline: {reason}"),
            None => tracing::info!(device, chip, line, "device {device} is online: line {line} of {chip}"),
        }
    }
}

fn submission(records: Vec<Record>) -> Submission {
    Submission { stream: StreamId::TELEMETRY, records, durability: Durability::Window, note: None, reply: None }
}

/// Returns when the task shall end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have stopped us.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until `due_ms` of a clock that shows `now_ms`; for ever if nothing is due.
async fn until(due_ms: Option<u64>, now_ms: u64) {
    match due_ms {
        Some(due_ms) => tokio::time::sleep(Duration::from_millis(due_ms.saturating_sub(now_ms))).await,
        None => std::future::pending().await,
    }
}
