//! The Modbus master against simulated units on a pseudo terminal: dead ones, late ones, and some that talk garbage.
//!
//! A pseudo terminal has no baud rate; the silence between frames is kept all the same.

// clippy.toml exempts test functions; this exempts what they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use crc::{CRC_16_MODBUS, Crc};
use pillion::command::{Data, Order, PROGRESS, Progress};
use pillion::config::modbus::Bus as Config;
use pillion::config::{Source, Surroundings, parse};
use pillion::device::modbus::{self, UnitWiring};
use pillion::device::{ORDERS, Wiring};
use pillion::host;
use pillion::pulse::Heart;
use pillion::record::{Encoding, Submission};
use pillion::stats::{DeviceState, DeviceStatus};
use serde_json::{Value, json};
use serialport::{SerialPort, TTYPort};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Long enough for a loaded machine; nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// How a unit behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Right,
    Dead,
    Garbage,
    /// Answers after this many milliseconds.
    Late(u64),
    /// Answers the first request when the second one comes, and from then on one each 30 ms, in order.
    Stalled,
}

/// A frame with its CRC.
fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    let crc = Crc::<u16>::new(&CRC_16_MODBUS).checksum(&frame);
    frame.extend(crc.to_le_bytes());
    frame
}

/// Holding registers of all units, and when each unit was asked.
#[derive(Default)]
struct World {
    registers: BTreeMap<(u8, u16), u16>,
    asked: Vec<u8>,
}

/// Units at the far end of a line. They know functions 3, 6 and 16; registers from 1000 on don't exist.
struct Units {
    world: Arc<Mutex<World>>,
    thread: Option<std::thread::JoinHandle<()>>,
    end: Arc<AtomicBool>,
    /// Keeps the line from hanging up while nobody else has it open.
    _port: TTYPort,
    path: String,
}

impl Units {
    fn start(manners: &[(u8, Manner)]) -> Self {
        let (mut master, slave) = TTYPort::pair().unwrap();
        let path = slave.name().unwrap();
        master.set_timeout(Duration::from_millis(5)).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let (shared, manners) = (Arc::clone(&world), manners.iter().copied().collect::<BTreeMap<_, _>>());
        let end = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let (mut heard, mut late) = (Vec::new(), Vec::<(std::time::Instant, Vec<u8>)>::new());
            let (mut chunk, mut stalled, mut free) = ([0; 256], None, std::time::Instant::now());
            while !over.load(Ordering::Relaxed) {
                late.sort_by_key(|(at, _)| *at);
                while late.first().is_some_and(|(at, _)| *at <= std::time::Instant::now()) {
                    master.write_all(&late.remove(0).1).unwrap();
                }
                match master.read(&mut chunk) {
                    Ok(count) => heard.extend_from_slice(&chunk[..count]),
                    Err(error) if error.kind() == ErrorKind::TimedOut => {}
                    Err(_) => return,
                }
                while let Some((request, length)) = whole(&heard) {
                    heard.drain(..length);
                    let unit = request[0];
                    let answer = answer(&mut shared.lock().unwrap(), &request);
                    match manners.get(&unit) {
                        Some(Manner::Right) => master.write_all(&answer).unwrap(),
                        Some(Manner::Garbage) => master.write_all(&[unit, 3, 0xAA, 0x55, 0x13, 0x37]).unwrap(),
                        Some(Manner::Late(ms)) => {
                            late.push((std::time::Instant::now() + Duration::from_millis(*ms), answer));
                        }
                        Some(Manner::Stalled) if stalled.is_none() => stalled = Some(answer),
                        Some(Manner::Stalled) => {
                            let now = std::time::Instant::now();
                            let first = stalled.as_mut().map(std::mem::take).filter(|answer| !answer.is_empty());
                            if let Some(first) = first {
                                master.write_all(&first).unwrap();
                            }
                            free = free.max(now) + Duration::from_millis(30);
                            late.push((free, answer));
                        }
                        Some(Manner::Dead) | None => {}
                    }
                }
            }
        });
        Units { world, thread: Some(thread), end, _port: slave, path }
    }

    fn register(&self, unit: u8, address: u16) -> u16 {
        self.world.lock().unwrap().registers.get(&(unit, address)).copied().unwrap_or(0)
    }

    fn set(&self, unit: u8, address: u16, value: u16) {
        self.world.lock().unwrap().registers.insert((unit, address), value);
    }

    /// How often a unit was asked.
    fn asked(&self, unit: u8) -> usize {
        self.world.lock().unwrap().asked.iter().filter(|asked| **asked == unit).count()
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking(), "the units have broken down");
    }
}

/// The request at the start of what was heard, and its length.
fn whole(heard: &[u8]) -> Option<(Vec<u8>, usize)> {
    let length = match heard.get(1)? {
        16 => usize::from(*heard.get(6)?) + 9,
        _ => 8,
    };
    let frame = heard.get(..length)?.to_vec();
    assert_eq!(sealed(frame[..length - 2].to_vec()), frame, "a request with a right CRC and nothing between");
    Some((frame, length))
}

fn answer(world: &mut World, request: &[u8]) -> Vec<u8> {
    let (unit, function) = (request[0], request[1]);
    let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
    let (address, count) = (word(2), word(4));
    world.asked.push(unit);
    if u32::from(address) + u32::from(if function == 6 { 1 } else { count }) > 1000 {
        return sealed(vec![unit, function | 0x80, 2]);
    }
    match function {
        3 => {
            let mut answer = vec![unit, 3, u8::try_from(count * 2).unwrap()];
            for at in address..address + count {
                answer.extend(world.registers.get(&(unit, at)).copied().unwrap_or(0).to_be_bytes());
            }
            sealed(answer)
        }
        6 => {
            world.registers.insert((unit, address), count);
            request.to_vec()
        }
        16 => {
            for index in 0..count {
                world.registers.insert((unit, address + index), word(7 + usize::from(index) * 2));
            }
            sealed(request[..6].to_vec())
        }
        _ => sealed(vec![unit, function | 0x80, 1]),
    }
}

/// A bus' task, with this test at the other ends of its wiring.
struct Master {
    records: mpsc::Receiver<Submission>,
    bus: watch::Receiver<DeviceStatus>,
    units: BTreeMap<String, (watch::Receiver<DeviceStatus>, mpsc::Sender<Order>)>,
    stop: watch::Sender<bool>,
    _heart: Heart,
    task: JoinHandle<()>,
}

fn config(path: &Path, tables: &str) -> Config {
    let text = format!("[[modbus]]\nname = \"bus\"\npath = \"{}\"\nbaud = 115200\n{tables}", path.display());
    let surroundings = Surroundings { host: "pi".to_owned(), ..Surroundings::default() };
    let loaded = parse(&[Source::new("gateway.toml", &text)], &surroundings, Path::new("/"), &|_| false);
    loaded.unwrap_or_else(|problems| panic!("{problems}")).config.modbus.remove(0)
}

/// A unit and its polls.
fn unit(name: &str, unit: u8, more: &str, polls: &str) -> String {
    format!("[[modbus.unit]]\nname = \"{name}\"\nunit = {unit}\n{more}\n{polls}")
}

fn poll(name: &str, address: u16, more: &str) -> String {
    format!("[[modbus.unit.poll]]\nname = \"{name}\"\ntable = \"holding\"\naddress = {address}\n{more}\n")
}

impl Master {
    fn start(config: Config) -> Self {
        let (submissions, records) = mpsc::channel(1024);
        let (status, bus) = watch::channel(DeviceStatus::closed("modbus", 0));
        let (stop, stop_out) = watch::channel(false);
        let heart = Heart::default();
        let pulse = heart.pulse("bus");
        let mut units = BTreeMap::new();
        let mut wirings = Vec::new();
        for unit in &config.units {
            let (status, shown) = watch::channel(DeviceStatus::closed("modbus-unit", 0));
            let (give, orders) = mpsc::channel(ORDERS);
            units.insert(unit.name.clone(), (shown, give));
            wirings.push(UnitWiring { orders, status });
        }
        let orders = mpsc::channel(1).1;
        let (_, traces) = mpsc::channel(1);
        let wiring = Wiring { orders, traces, submissions, status, clock: host::now, pulse, stop: stop_out };
        let task = tokio::spawn(modbus::run(config, wiring, wirings));
        Master { records, bus, units, stop, _heart: heart, task }
    }

    async fn state(&mut self, unit: &str, state: DeviceState, reason: &str) {
        let (status, _) = self.units.get_mut(unit).unwrap();
        let is = |status: &DeviceStatus| {
            status.state == state && status.reason.as_deref().unwrap_or_default().contains(reason)
        };
        let result = timeout(DEADLINE, status.wait_for(is)).await.map(|_| ());
        assert!(result.is_ok(), "{unit}: {:?}", self.units[unit].0.borrow());
    }

    async fn record(&mut self) -> (String, Value) {
        let submission = timeout(DEADLINE, self.records.recv()).await.expect("a record in time").unwrap();
        let record = &submission.records[0];
        assert_eq!(record.encoding, Encoding::Json);
        (record.topic.clone(), serde_json::from_slice(&record.data).unwrap())
    }

    async fn command(&self, unit: &str, data: Value, ttl_ms: u64) -> Progress {
        let (progress, mut reports) = mpsc::channel(PROGRESS);
        let order = Order { data: Data::Json(data), expires_ms: host::now().mono_ms + ttl_ms, progress };
        self.units[unit].1.send(order).await.unwrap();
        let report = timeout(DEADLINE, reports.recv()).await.expect("a report in time").unwrap();
        assert!(report.is_final());
        report
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        timeout(DEADLINE, self.task).await.expect("ends in time").unwrap();
    }
}

#[tokio::test]
async fn a_dead_unit_and_a_babbling_one_never_cost_the_others_their_rate() {
    let manners = [Manner::Right, Manner::Dead, Manner::Right, Manner::Garbage, Manner::Right];
    let manners: Vec<(u8, Manner)> = (1..).zip(manners).collect();
    let units = Units::start(&manners);
    let polls = poll("v", 0, "interval = \"100ms\"");
    let more = "backoff = \"500ms\"\nmax_backoff = \"2s\"";
    let tables: String = (1..=5).map(|number| unit(&format!("u{number}"), number, more, &polls)).collect();
    let mut master = Master::start(config(Path::new(&units.path), &format!("timeout = \"50ms\"\n{tables}")));
    (1..=5).for_each(|number| units.set(number, 0, u16::from(number)));
    let (start, length) = (Instant::now(), Duration::from_secs(10));
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    while start.elapsed() < length {
        let (topic, data) = master.record().await;
        let number = topic.strip_prefix("device/u").unwrap().strip_suffix("/data").unwrap();
        assert_eq!(data, json!({"v": number.parse::<u16>().unwrap()}), "{topic}");
        *counts.entry(number.to_owned()).or_default() += 1;
    }
    println!("records in {length:?} at 10 per second: {counts:?}");
    for number in ["u2", "u4"] {
        let status = master.units[number].0.borrow().clone();
        println!("{number}: {:?}", status.modbus);
        assert_eq!(status.state, DeviceState::Offline, "{number}");
    }
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["1", "3", "5"]);
    assert!(counts.values().all(|count| *count >= 95), "{counts:?}");
    assert!(units.asked(2) <= 12 && units.asked(4) <= 12, "{} and {}", units.asked(2), units.asked(4));
    master.state("u2", DeviceState::Offline, "does not answer").await;
    master.state("u4", DeviceState::Offline, "garbage").await;
    master.stop().await;
}

#[tokio::test]
async fn a_late_answer_is_never_taken_for_another() {
    for late_ms in [70, 120, 260, 700] {
        let units = Units::start(&[(1, Manner::Late(late_ms)), (2, Manner::Right)]);
        // The slow unit's two values are too far apart for one read, and of the same shape.
        let both = poll("a", 0, "interval = \"100ms\"") + &poll("b", 500, "interval = \"100ms\"");
        let more = "backoff = \"100ms\"\nmax_backoff = \"300ms\"";
        let tables = unit("slow", 1, more, &both) + &unit("quick", 2, more, &both);
        for (number, address, value) in [(1, 0, 11), (1, 500, 12), (2, 0, 21), (2, 500, 22)] {
            units.set(number, address, value);
        }
        let mut master = Master::start(config(Path::new(&units.path), &format!("timeout = \"50ms\"\n{tables}")));
        let mut quick = 0;
        while quick < 30 {
            let (topic, data) = master.record().await;
            let right = if topic == "device/quick/data" { [21, 22] } else { [11, 12] };
            quick += i32::from(topic == "device/quick/data");
            for (key, value) in data.as_object().unwrap() {
                assert_eq!(*value, json!(right[usize::from(key == "b")]), "{topic}: {data}, {late_ms} ms late");
            }
        }
        master.state("slow", DeviceState::Offline, "").await;
        assert!(master.bus.borrow().modbus.is_some_and(|counts| counts.timeouts > 1));
        master.stop().await;
    }
}

#[tokio::test]
async fn answers_that_were_held_up_are_never_taken_for_those_to_the_next_requests() {
    let units = Units::start(&[(1, Manner::Stalled)]);
    let both = poll("a", 0, "interval = \"100ms\"") + &poll("b", 500, "interval = \"100ms\"");
    let tables = unit("slow", 1, "backoff = \"100ms\"\nmax_backoff = \"100ms\"", &both);
    units.set(1, 0, 11);
    units.set(1, 500, 12);
    let mut master = Master::start(config(Path::new(&units.path), &format!("timeout = \"50ms\"\n{tables}")));
    for _ in 0..5 {
        let (_, data) = master.record().await;
        for (key, value) in data.as_object().unwrap() {
            assert_eq!(*value, json!(if key == "b" { 12 } else { 11 }), "{data}");
        }
    }
    master.stop().await;
}

#[tokio::test]
async fn a_command_is_never_carried_out_wrongly_or_late() {
    let units = Units::start(&[(1, Manner::Right), (2, Manner::Dead)]);
    let writable = poll("setpoint", 0, "type = \"i16\"\nscale = 0.1\nwrite = true\nverify = true")
        + &poll("limit", 2, "type = \"f32\"\nword_order = \"little\"\nwrite = true")
        + &poll("power", 10, "")
        + &poll("nowhere", 2000, "write = true");
    let more = "commands = {}\nbackoff = \"10s\"\nmax_backoff = \"10s\"";
    let tables = unit("good", 1, more, &writable) + &unit("dead", 2, more, &writable);
    let mut master = Master::start(config(Path::new(&units.path), &format!("timeout = \"50ms\"\n{tables}")));
    let (topic, data) = master.record().await;
    assert_eq!((topic.as_str(), data), ("device/good/data", json!({"setpoint": 0, "limit": 0, "power": 0})));
    master.state("good", DeviceState::Online, "nowhere (table holding, address 2000): illegal data address").await;

    let data = json!({"setpoint": -21.5, "limit": 0.1});
    assert_eq!(master.command("good", data, 10_000).await, Progress::Done);
    assert_eq!((units.register(1, 0), units.register(1, 2), units.register(1, 3)), (65_321, 0xCCCD, 0x3DCC));
    let Progress::Refused(why) = master.command("good", json!({"power": 1}), 10_000).await else { panic!("taken") };
    assert_eq!(why, "\"power\" can't be written; these can: setpoint, limit, nowhere");
    let refused = master.command("good", json!({"limit": 1, "setpoint": 1e9}), 10_000).await;
    assert!(matches!(refused, Progress::Refused(_)), "{refused:?}");
    assert_eq!(units.register(1, 2), 0xCCCD, "nothing of it was begun");
    let Progress::Failed(why) = master.command("good", json!({"nowhere": 1}), 10_000).await else { panic!("done") };
    assert!(why.contains("illegal data address"), "{why}");
    assert_eq!(master.command("good", json!({"setpoint": 1}), 0).await, Progress::Expired);
    assert_eq!(units.register(1, 0), 65_321);
    // The dead one rests, and its command is not begun when it is too late.
    let asked = units.asked(2);
    assert_eq!(master.command("dead", json!({"setpoint": 1}), 300).await, Progress::Expired);
    assert_eq!(units.asked(2), asked);
    master.stop().await;
}

#[tokio::test]
async fn a_bus_whose_port_is_absent_never_leaves_its_units_or_commands_without_a_reason() {
    let polls = poll("a", 0, "write = true");
    let tables = unit("u", 1, "commands = {}", &polls);
    let mut master = Master::start(config(Path::new("/dev/no-such-port"), &tables));
    master.state("u", DeviceState::Offline, "bus bus is offline: /dev/no-such-port is not there").await;
    let failed = master.command("u", json!({"a": 1}), 10_000).await;
    assert_eq!(failed, Progress::Failed("the bus is not open; it was not done".to_owned()));
    master.stop().await;
}
