//! Modbus RTU: the master of a bus. Each unit on it is a device of its own, with its own data, state and commands.
//!
//! Constraints: one task holds the port, and one request is on the line at a time. A unit that is dead, slow or answers
//! garbage costs the others one time-out for each of its pauses, and a late answer is never taken for another's
//! (`schedule` says how). A write that was begun is never repeated by itself.
//!
//! Why the framing is our own (`rtu`, 150 lines) and not tokio-modbus 0.17, read and judged for this: its RTU client
//! empties its own buffer before a request and not the kernel's, takes an answer of any length in release builds, gives up a
//! request when a late answer of another unit comes before the right one, hides wrong CRCs from its caller, and
//! keeps no silence between frames. All that matters here would have been built around it, and its codec is private.
//!
//! States of the port, as in [`super::serial`]:
//!
//! ```text
//! Closed ── opened ──> Open ── hung up, failed ──> Backoff ── delay over ──> Closed
//!    └──────────────── not opened ────────────────────^
//! ```
//!
//! `decimal`, `value`, `plan`, `schedule` and `rtu` are pure; `line` does the I/O of one request; `unit` is what a unit's
//! device is; this file brings them together.

pub mod decimal;
mod line;
pub mod plan;
pub mod rtu;
pub mod schedule;
mod unit;
pub mod value;

use super::Wiring;
use crate::backoff::Backoff;
use crate::command::{Order, Progress};
use crate::config::modbus::Bus as Config;
use crate::record::{Clock, Durability, Record, StreamId, Submission};
use crate::stats::{DeviceState, DeviceStatus, ModbusStatus};
use line::{Ears, End, Line, Outcome, stopped};
use rtu::{Answer, Miss, Request};
use schedule::{Schedule, Turn};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use unit::{Held, Unit, Write};

/// The delays between attempts to open the port, as for a serial device.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Why all is offline at the end.
const STOPPING: &str = "pillion is stopping";

/// What a unit is connected to besides what its bus is.
#[derive(Debug)]
pub struct UnitWiring {
    /// Commands for the unit. Closed where it takes none.
    pub orders: mpsc::Receiver<Order>,
    /// Where it reports, as in [`Wiring::status`].
    pub status: watch::Sender<DeviceStatus>,
}

/// Where the port stands. Whoever holds the line is in `Open`.
enum State {
    /// Nothing is held; the port is about to be opened.
    Closed,
    /// The port is ours.
    Open(Line),
    /// Nothing is held; the next attempt comes after a delay.
    Backoff,
}

/// Masters one bus until `wiring.stop` becomes true or nobody takes its records any more. `units` are in the order of the
/// configuration; `wiring.orders` is not listened to, for a bus as such takes no commands.
pub async fn run(config: Config, wiring: Wiring, units: Vec<UnitWiring>) {
    let mut bus = Bus::new(config, wiring, units);
    let mut state = State::Closed;
    loop {
        let next = match state {
            // One attempt. It is made on the runtime's thread, since it never waits for the device.
            State::Closed => Some(bus.open()),
            // Requests and answers, until the port is lost.
            State::Open(line) => bus.work(line).await,
            // The port is away or unusable.
            State::Backoff => bus.wait().await,
        };
        match next {
            Some(next) => state = next,
            None => return bus.stopped(),
        }
    }
}

struct Bus {
    config: Config,
    submissions: mpsc::Sender<Submission>,
    status: watch::Sender<DeviceStatus>,
    clock: Clock,
    ears: Ears,
    units: Vec<Unit>,
    schedule: Schedule,
    backoff: Backoff,
}

impl Bus {
    fn new(config: Config, wiring: Wiring, units: Vec<UnitWiring>) -> Self {
        let Wiring { submissions, status, clock, pulse, stop, .. } = wiring;
        let unit = |(config, wiring): (&crate::config::modbus::Unit, _)| Unit::new(config.clone(), wiring, clock);
        let units: Vec<Unit> = config.units.iter().zip(units).map(unit).collect();
        let mut schedule = Schedule::new(config.timeout);
        let now = Instant::now();
        for unit in &units {
            let backoff = Backoff::new(unit.config.backoff, unit.config.max_backoff);
            schedule.add(unit.cycles.iter().map(|cycle| cycle.interval), backoff, now);
        }
        let backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        Bus { config, submissions, status, clock, ears: Ears { pulse, stop }, units, schedule, backoff }
    }

    /// State Closed: `Open`, or `Backoff` if that did not work.
    fn open(&mut self) -> State {
        match Line::open(&self.config) {
            Ok(line) => {
                self.status.send_if_modified(|status| {
                    status.opens += 1;
                    false
                });
                self.show(DeviceState::Online, None);
                State::Open(line)
            }
            Err(trouble) => {
                self.offline(&trouble.to_string());
                State::Backoff
            }
        }
    }

    /// State Open: `Backoff` when the port is lost, `None` when the task shall end. The port is closed in both cases.
    async fn work(&mut self, mut line: Line) -> Option<State> {
        loop {
            self.take_orders();
            let done = match self.schedule.next(Instant::now()) {
                Turn::Write { unit } => self.write(&mut line, unit).await,
                Turn::Poll { unit, cycle } => self.poll(&mut line, unit, cycle).await,
                Turn::Trial { unit, cycle } => self.trial(&mut line, unit, cycle).await,
                Turn::Wait(until) => self.idle(&mut line, until).await,
            };
            match done {
                Ok(()) => {}
                Err(End::Stop) => return None,
                Err(End::Lost(trouble)) => {
                    drop(line);
                    self.offline(&trouble.to_string());
                    return Some(State::Backoff);
                }
            }
        }
    }

    /// State Backoff: `Closed` when the delay is over, `None` when the task shall end.
    async fn wait(&mut self) -> Option<State> {
        let delay = sleep(self.backoff.next(fastrand::f64()));
        tokio::pin!(delay);
        loop {
            self.fail_orders("the bus is not open");
            tokio::select! {
                biased;
                () = stopped(&mut self.ears.stop) => return None,
                () = self.ears.pulse.answer() => {}
                () = order(&mut self.units) => {}
                () = &mut delay => return Some(State::Closed),
            }
        }
    }

    /// The task ends.
    fn stopped(&mut self) {
        self.offline(STOPPING);
    }

    /// Waits for the next turn, for a command, or until one that is held expires.
    async fn idle(&mut self, line: &mut Line, until: Option<Instant>) -> Result<(), End> {
        let (now, now_ms) = (Instant::now(), (self.clock)().mono_ms);
        let held = self.units.iter().filter_map(|unit| unit.held.as_ref());
        let expiry = held.map(|held| now + Duration::from_millis(held.expires_ms.saturating_sub(now_ms))).min();
        let until = until.into_iter().chain(expiry).min();
        tokio::select! {
            biased;
            () = order(&mut self.units) => Ok(()),
            done = line.listen(until, &mut self.ears) => done,
        }
    }

    /// Sends one request and notes what that says about the unit.
    async fn ask(&mut self, line: &mut Line, unit: usize, request: &Request) -> Result<Result<Answer, Miss>, End> {
        let Some(state) = self.units.get_mut(unit) else { return Ok(Err(Miss::Silence)) };
        let Outcome { result, strays, bytes } = line.exchange(state.config.unit, request, &mut self.ears).await?;
        let now_ms = (self.clock)().wall_ms;
        state.count(bytes, &result, now_ms);
        self.status.send_if_modified(|status| {
            unit::count(status, bytes, &result, now_ms);
            status.modbus.get_or_insert_with(ModbusStatus::default).strays += strays;
            false
        });
        match &result {
            Ok(_) => {
                self.backoff.reset();
                self.schedule.answered(unit, Instant::now());
            }
            Err(miss) => {
                state.failed(*miss, self.config.timeout);
                self.schedule.failed(unit, Instant::now(), fastrand::f64());
            }
        }
        Ok(result)
    }

    /// Reads everything in a cycle and makes one record of it. A unit that fails in the middle is not asked for the rest.
    async fn poll(&mut self, line: &mut Line, unit: usize, cycle: usize) -> Result<(), End> {
        let mut readings = Vec::new();
        let mut index = 0;
        let mut time = (self.clock)();
        while let Some(read) = self.read_at(unit, cycle, index) {
            let Ok(answer) = self.ask(line, unit, &read.request()).await? else { break };
            time = (self.clock)();
            let Some(state) = self.units.get_mut(unit) else { break };
            match &answer {
                Answer::Exception(exception) if state.refused(cycle, index, &read, *exception) => {}
                Answer::Exception(_) => index += 1,
                answer => {
                    readings.extend(state.readings(&read, answer));
                    index += 1;
                }
            }
            self.take_orders();
            if let Some(writer) = self.schedule.interruption() {
                self.write(line, writer).await?;
            }
            if !self.schedule.is_good(unit) {
                break;
            }
        }
        self.schedule.polled(unit, cycle, Instant::now());
        let Some(state) = self.units.get_mut(unit) else { return Ok(()) };
        if self.schedule.is_good(unit) {
            state.online();
        }
        match state.record(readings, time) {
            Some(record) => self.send(record).await,
            None => Ok(()),
        }
    }

    /// Asks a unit that failed for a sign of life. The answer may be a late one, so it is not looked at.
    async fn trial(&mut self, line: &mut Line, unit: usize, cycle: usize) -> Result<(), End> {
        let Some(read) = self.read_at(unit, cycle, 0) else { return Ok(()) };
        let result = self.ask(line, unit, &read.request()).await?;
        if result.is_err()
            && let Some(state) = self.units.get_mut(unit)
        {
            state.fail_orders("the unit does not answer");
            self.schedule.order(unit, false);
        }
        Ok(())
    }

    fn read_at(&self, unit: usize, cycle: usize, index: usize) -> Option<plan::Read> {
        self.units.get(unit)?.cycles.get(cycle)?.reads.get(index).cloned()
    }

    /// Carries out the command that is held for a unit.
    async fn write(&mut self, line: &mut Line, unit: usize) -> Result<(), End> {
        self.schedule.order(unit, false);
        let Some(held) = self.units.get_mut(unit).and_then(|unit| unit.held.take()) else { return Ok(()) };
        if held.expires_ms <= (self.clock)().mono_ms {
            held.report(Progress::Expired);
            return Ok(());
        }
        let done = self.write_all(line, unit, &held).await;
        let unknown = |why: String| Progress::Failed(format!("{why}; nobody knows whether it was done"));
        match done {
            Ok(progress) => {
                held.report(progress);
                Ok(())
            }
            Err(End::Stop) => {
                held.report(unknown(STOPPING.to_owned()));
                Err(End::Stop)
            }
            Err(End::Lost(trouble)) => {
                held.report(unknown(trouble.to_string()));
                Err(End::Lost(trouble))
            }
        }
    }

    /// Writes one value after the other until one fails.
    async fn write_all(&mut self, line: &mut Line, unit: usize, held: &Held) -> Result<Progress, End> {
        let mut done: Vec<String> = Vec::new();
        for write in &held.writes {
            let Some(name) = self.units.get(unit).and_then(|unit| unit.config.polls.get(write.poll)) else { continue };
            let name = name.name.clone();
            if let Some(why) = self.write_one(line, unit, write).await? {
                let before = match done.is_empty() {
                    true => String::new(),
                    false => format!("{} done; ", done.join(", ")),
                };
                return Ok(Progress::Failed(format!("{before}{name}: {why}")));
            }
            done.push(name);
        }
        Ok(Progress::Done)
    }

    /// Writes one value, and reads it back where that is configured. Says why it did not work.
    async fn write_one(&mut self, line: &mut Line, unit: usize, write: &Write) -> Result<Option<String>, End> {
        let of = |bus: &Self, request: fn(&Unit, &Write) -> Option<Request>| {
            bus.units.get(unit).and_then(|unit| request(unit, write))
        };
        let Some(request) = of(self, Unit::request) else { return Ok(None) };
        match self.ask(line, unit, &request).await? {
            Ok(Answer::Exception(exception)) => return Ok(Some(format!("the unit has refused it: {exception}"))),
            Ok(_) => {}
            Err(Miss::Silence) => return Ok(Some("no answer; nobody knows whether it was done".to_owned())),
            Err(Miss::Garbage) => {
                return Ok(Some("garbage for an answer; nobody knows whether it was done".to_owned()));
            }
        }
        let Some(request) = of(self, Unit::verification) else { return Ok(None) };
        Ok(match self.ask(line, unit, &request).await? {
            Ok(Answer::Exception(exception)) => Some(format!("done, but it can't be read back: {exception}")),
            Ok(answer) => {
                let difference = self.units.get(unit).and_then(|unit| unit.difference(write, &answer));
                difference.map(|value| format!("the unit has accepted it, but reads back as {value}"))
            }
            Err(_) => Some("the unit has accepted it, but does not answer when it is read back".to_owned()),
        })
    }

    fn take_orders(&mut self) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            unit.take_order();
            self.schedule.order(index, unit.held.is_some());
        }
    }

    fn fail_orders(&mut self, why: &str) {
        for (index, unit) in self.units.iter_mut().enumerate() {
            unit.fail_orders(why);
            self.schedule.order(index, false);
        }
    }

    /// Waits for room and hands a record over.
    async fn send(&self, record: Record) -> Result<(), End> {
        let (stream, records) = (StreamId::TELEMETRY, vec![record]);
        let submission = Submission { stream, records, durability: Durability::Window, note: None, reply: None };
        self.submissions.send(submission).await.map_err(|_| End::Stop)
    }

    /// The bus and all its units are offline.
    fn offline(&mut self, why: &str) {
        self.show(DeviceState::Offline, Some(why.to_owned()));
        let name = &self.config.name;
        self.units.iter_mut().for_each(|unit| unit.offline(format!("bus {name} is offline: {why}")));
        self.fail_orders("the bus is not open");
    }

    fn show(&self, state: DeviceState, reason: Option<String>) {
        show(&self.status, self.clock, &self.config.name, state, reason);
    }
}

/// Waits for a command for any unit that holds none, and takes it. Cancel-safe.
async fn order(units: &mut [Unit]) {
    std::future::poll_fn(|context| {
        // All are asked, so that each of them wakes us.
        let taken: Vec<_> = units.iter_mut().map(|unit| unit.poll_order(context)).collect();
        if taken.contains(&Poll::Ready(true)) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Enters the state of a device in its status. Receivers are woken and a line is logged if state or reason are news.
fn show(status: &watch::Sender<DeviceStatus>, clock: Clock, device: &str, state: DeviceState, reason: Option<String>) {
    let now = clock().wall_ms;
    let is_news = status.send_if_modified(|status| status.enter(state, reason.as_deref(), now));
    match (state, reason) {
        _ if !is_news => {}
        // The daemon says so itself.
        (_, Some(reason)) if reason.ends_with(STOPPING) => {}
        (DeviceState::Offline, reason) => {
            tracing::warn!(device, "device {device} is offline: {}", reason.unwrap_or_default());
        }
        (DeviceState::Online, Some(reason)) => tracing::warn!(device, "device {device} is online, but {reason}"),
        (DeviceState::Online, None) => tracing::info!(device, "device {device} is online"),
    }
}
