//! A unit as its device: what it takes, what it makes of readings, and what it says about itself.
//!
//! No I/O on the line; that is the bus'.

use super::plan::{Cycle, Read, cycles};
use super::rtu::{Answer, Exception, Miss, Request};
use super::value::{Value, decode, encode, is_news};
use super::{UnitWiring, show};
use crate::command::{Data, Order, Progress};
use crate::config::modbus::{Poll, Table, Unit as Config};
use crate::record::{Clock, Encoding, Record, Timestamp};
use crate::stats::{DeviceState, DeviceStatus, ModbusStatus};
use std::task::{Context, Poll as Ready};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Failures in a row that make a unit offline. One may be a disturbance on the line.
const FAILURES: u32 = 2;

/// One value that a command wants to have written.
#[derive(Debug)]
pub struct Write {
    /// The index of its poll.
    pub poll: usize,
    /// What the registers or the coil shall hold.
    pub words: Vec<u16>,
}

/// A command that waits for its turn.
#[derive(Debug)]
pub struct Held {
    /// Where it came from.
    pub order: mpsc::Sender<Progress>,
    /// Not to be begun at this time or later, in milliseconds since boot.
    pub expires_ms: u64,
    /// What is to be written, in the order of the polls; not empty.
    pub writes: Vec<Write>,
}

impl Held {
    /// Ends it.
    pub fn report(self, progress: Progress) {
        // Whoever has gone doesn't want to know.
        let _ = self.order.try_send(progress);
    }
}

/// A unit.
#[derive(Debug)]
pub struct Unit {
    /// As configured.
    pub config: Config,
    /// What it is asked for.
    pub cycles: Vec<Cycle>,
    /// The command that is next.
    pub held: Option<Held>,
    /// `None` once nobody can send any more.
    orders: Option<mpsc::Receiver<Order>>,
    status: watch::Sender<DeviceStatus>,
    clock: Clock,
    topic: String,
    /// What was published last, for each poll.
    published: Vec<Option<Value>>,
    /// Why a poll does not work.
    faults: Vec<Option<Exception>>,
    failures: u32,
}

impl Unit {
    /// A unit that was not asked for anything yet.
    pub fn new(config: Config, wiring: UnitWiring, clock: Clock) -> Self {
        let count = config.polls.len();
        Unit {
            cycles: cycles(&config.polls),
            held: None,
            orders: Some(wiring.orders),
            status: wiring.status,
            clock,
            topic: format!("device/{}/data", config.name),
            published: vec![None; count],
            faults: vec![None; count],
            failures: 0,
            config,
        }
    }

    // Commands.

    /// Takes the next command if there is one and none is held. `Ready(false)`: nobody can send any.
    pub fn poll_order(&mut self, context: &mut Context<'_>) -> Ready<bool> {
        if self.held.is_some() {
            return Ready::Pending;
        }
        let Some(orders) = &mut self.orders else { return Ready::Pending };
        match orders.poll_recv(context) {
            Ready::Ready(Some(order)) => {
                self.hold(order);
                Ready::Ready(true)
            }
            Ready::Ready(None) => {
                self.orders = None;
                Ready::Ready(false)
            }
            Ready::Pending => Ready::Pending,
        }
    }

    /// Takes the next command without waiting, and lets go of one that is too late.
    pub fn take_order(&mut self) {
        let now_ms = (self.clock)().mono_ms;
        if let Some(held) = self.held.take_if(|held| held.expires_ms <= now_ms) {
            held.report(Progress::Expired);
        }
        // One that is refused makes room for the next; the channel's bound is the limit.
        while self.held.is_none()
            && let Some(order) = self.orders.as_mut().and_then(|orders| orders.try_recv().ok())
        {
            self.hold(order);
        }
    }

    /// Fails the commands that are there, which were not begun.
    pub fn fail_orders(&mut self, why: &str) {
        self.take_order();
        while let Some(held) = self.held.take() {
            held.report(Progress::Failed(format!("{why}; it was not done")));
            self.take_order();
        }
    }

    fn hold(&mut self, order: Order) {
        let Order { data, expires_ms, progress } = order;
        match self.writes(data) {
            Ok(writes) => self.held = Some(Held { order: progress, expires_ms, writes }),
            Err(why) => {
                let _ = progress.try_send(Progress::Refused(why));
            }
        }
    }

    /// What a command's data asks for.
    fn writes(&self, data: Data) -> Result<Vec<Write>, String> {
        let names: Vec<&str> = self.writable().map(|(_, poll)| poll.name.as_str()).collect();
        let names = names.join(", ");
        let value = data.into_value();
        let Some(wanted) = value.as_object().filter(|wanted| !wanted.is_empty()) else {
            let example = self.writable().next().map_or("x", |(_, poll)| poll.name.as_str());
            return Err(format!("not a JSON object with values; write one such as {{\"{example}\":1}}, of: {names}"));
        };
        if let Some(name) = wanted.keys().find(|name| self.writable().all(|(_, poll)| poll.name != **name)) {
            let name: String = name.chars().take(32).collect();
            return Err(format!("{name:?} can't be written; these can: {names}"));
        }
        let asked = self.writable().filter_map(|(index, poll)| Some((index, poll, wanted.get(&poll.name)?)));
        asked.map(|(index, poll, value)| Ok(Write { poll: index, words: encode(poll, value)? })).collect()
    }

    fn writable(&self) -> impl Iterator<Item = (usize, &Poll)> {
        self.config.polls.iter().enumerate().filter(|(_, poll)| poll.write)
    }

    /// The request that writes this.
    pub fn request(&self, write: &Write) -> Option<Request> {
        let address = self.config.polls.get(write.poll)?.address;
        Some(match self.config.polls.get(write.poll)?.table {
            Table::Coil | Table::Discrete => Request::WriteCoil { address, on: write.words.contains(&1) },
            Table::Holding | Table::Input => Request::WriteRegisters { address, words: write.words.clone() },
        })
    }

    /// The request that reads it back, if it is to be.
    pub fn verification(&self, write: &Write) -> Option<Request> {
        let poll = self.config.polls.get(write.poll).filter(|poll| poll.verify)?;
        Some(Request::Read { table: poll.table, address: poll.address, count: poll.count() })
    }

    /// What was read back instead of what was written, as it would be shown; `None` if it is the same.
    pub fn difference(&self, write: &Write, answer: &Answer) -> Option<String> {
        let poll = self.config.polls.get(write.poll)?;
        let words = match answer {
            Answer::Words(words) => words.clone(),
            Answer::Bits(bits) => bits.iter().take(1).map(|bit| u16::from(*bit)).collect(),
            Answer::Done | Answer::Exception(_) => return Some(format!("no {}", poll.name)),
        };
        (words != write.words)
            .then(|| decode(poll, &words).map_or_else(|| "something else".to_owned(), |value| value.json()))
    }

    // Readings.

    /// The readings in an answer, each with the index of its poll.
    pub fn readings(&mut self, read: &Read, answer: &Answer) -> Vec<(usize, Value)> {
        let mut readings = Vec::new();
        for index in &read.polls {
            let Some(poll) = self.config.polls.get(*index) else { continue };
            let value = match answer {
                Answer::Words(words) => read.part(poll, words).and_then(|part| decode(poll, part)),
                Answer::Bits(bits) => read.part(poll, bits).and_then(|part| part.first()).map(|bit| Value::Bool(*bit)),
                Answer::Done | Answer::Exception(_) => None,
            };
            readings.extend(value.map(|value| (*index, value)));
            if let Some(fault) = self.faults.get_mut(*index) {
                *fault = None;
            }
        }
        readings
    }

    /// Notes that a read was refused. Says whether its polls are now asked for one by one instead, at once.
    pub fn refused(&mut self, cycle: usize, index: usize, read: &Read, exception: Exception) -> bool {
        let splits = exception.is_lasting()
            && self.cycles.get_mut(cycle).is_some_and(|cycle| cycle.split(index, &self.config.polls));
        if !splits {
            for poll in &read.polls {
                if let Some(fault) = self.faults.get_mut(*poll) {
                    *fault = Some(exception);
                }
            }
        }
        splits
    }

    /// One record of what is worth publishing, if anything is.
    pub fn record(&mut self, mut readings: Vec<(usize, Value)>, time: Timestamp) -> Option<Record> {
        readings.sort_by_key(|(index, _)| *index);
        let mut members = Vec::new();
        for (index, value) in readings {
            let (Some(poll), Some(last)) = (self.config.polls.get(index), self.published.get_mut(index)) else {
                continue;
            };
            if is_news(poll, last.as_ref(), &value) {
                members.push(format!("\"{}\":{}", poll.name, value.json()));
                *last = Some(value);
            }
        }
        let data = format!("{{{}}}", members.join(",")).into_bytes();
        let record = Record { topic: self.topic.clone(), time, encoding: Encoding::Json, data };
        (!members.is_empty()).then_some(record)
    }

    // Status.

    /// Brings the status' counters up to date and wakes nobody for it.
    pub fn count(&self, bytes: u64, result: &Result<Answer, Miss>, now_ms: u64) {
        self.status.send_if_modified(|status| {
            count(status, bytes, result, now_ms);
            false
        });
    }

    /// It has answered, and the answer is believed.
    pub fn online(&mut self) {
        self.failures = 0;
        let faults = self.config.polls.iter().zip(&self.faults);
        let faults: Vec<String> = faults
            .filter_map(|(poll, fault)| {
                let (table, address) = (poll.table.word(), poll.address);
                fault.map(|exception| format!("{} (table {table}, address {address}): {exception}", poll.name))
            })
            .collect();
        let reason = (!faults.is_empty()).then(|| format!("can't read {}", faults.join("; ")));
        self.show(DeviceState::Online, reason);
    }

    /// It has not answered.
    pub fn failed(&mut self, miss: Miss, timeout: Duration) {
        self.failures = self.failures.saturating_add(1);
        let offline = self.status.borrow().state == DeviceState::Offline;
        if !offline && self.failures < FAILURES {
            return;
        }
        let unit = self.config.unit;
        self.offline(match miss {
            Miss::Silence => format!(
                "unit {unit} does not answer within {} ms; check its power, wiring and address, and that baud and parity \
                 are its own",
                timeout.as_millis()
            ),
            Miss::Garbage => format!(
                "unit {unit} answers with garbage; check wiring, termination and parity, and that no other unit has its \
                 address"
            ),
        });
    }

    /// It can't be talked to. What it shows when it is back is published, changed or not.
    pub fn offline(&mut self, why: String) {
        self.published.iter_mut().for_each(|last| *last = None);
        self.show(DeviceState::Offline, Some(why));
    }

    fn show(&self, state: DeviceState, reason: Option<String>) {
        show(&self.status, self.clock, &self.config.name, state, reason);
    }
}

/// One request more.
pub fn count(status: &mut DeviceStatus, bytes: u64, result: &Result<Answer, Miss>, now_ms: u64) {
    let counts = status.modbus.get_or_insert_with(ModbusStatus::default);
    counts.requests += 1;
    match result {
        Ok(Answer::Exception(_)) => counts.exceptions += 1,
        Ok(_) => {}
        Err(Miss::Silence) => counts.timeouts += 1,
        Err(Miss::Garbage) => counts.garbled += 1,
    }
    status.bytes += bytes;
    status.frames += u64::from(result.is_ok());
    if result.is_ok() {
        status.last_ms = Some(now_ms);
    }
}
