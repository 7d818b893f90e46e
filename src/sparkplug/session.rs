//! The edge node over its connections: what was born, with which metrics, and the sequence number of the next message.
//!
//! States of a device, from one connection to the next:
//!
//! ```text
//!           online, a record of it, or born again
//! Unborn ─────────────────────────────────────────> Born ──┐ a metric or a type that the birth had not; or, when the backlog
//!    ^                                                │ ^───┘ is through, values that the birth could not have: born again
//!    └── a new connection; offline, and nothing ──────┘
//!        of it waits to be sent
//! ```
//!
//! A record that was made before the NBIRTH of its session is *historical*: consumers file it, and do not take it for the
//! present value. So that this one comes, too, a device of which there was such a record is born again at the end.
//!
//! A birth that the broker can't take, for all that the device has said, is one of a device without metrics: the next record has it
//! born again with its own. What a metric had to be (`types`) it stays over restarts, so that a record that comes again comes
//! as it was.
//!
//! Constraints: memory is bounded by [`MOST_METRICS`] for each device, and [`LONGEST_BIRTH_VALUE`] for each of these; a device with
//! more forgets those that the present record has not.

use super::metric::{self, Kind, Value};
use super::protobuf::{Metric, Payload};
use super::types::Types;
use super::{Declared, Node};
use crate::record::Record;
use prost::Message as _;
use std::collections::BTreeMap;

/// Metrics that a device may have.
const MOST_METRICS: usize = 1024;
/// A birth leaves out values that are longer, in bytes.
const LONGEST_BIRTH_VALUE: usize = 256;

/// A message to be sent, not retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The whole topic.
    pub topic: String,
    /// Protobuf.
    pub payload: Vec<u8>,
}

/// A record can't be sent: its message, or the birth of its device, has this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge(pub usize);

/// The edge node.
#[derive(Debug)]
pub struct Session {
    node: Node,
    devices: BTreeMap<String, Device>,
    /// Whether pillion's devices are the node's.
    has_devices: bool,
    bd_seq: u8,
    /// Of the next message.
    seq: u8,
    /// When this session's NBIRTH was made, in milliseconds since 1970.
    born_ms: u64,
    /// The latest record that was sent was historical: others may follow.
    is_draining: bool,
    /// The largest payload that may be sent, in bytes.
    limit: usize,
    types: Types,
}

#[derive(Debug, Default)]
struct Device {
    metrics: BTreeMap<String, Known>,
    is_online: bool,
    is_born: bool,
    /// Its metrics or their types are others than those of its birth.
    is_changed: bool,
    /// It has had values that the birth had not, and that were historical.
    is_outdated: bool,
}

#[derive(Debug, Clone)]
struct Known {
    /// `None`: it was always null.
    kind: Option<Kind>,
    value: Value,
    /// When it was measured.
    time_ms: Option<u64>,
}

impl Known {
    fn shown(&self) -> Kind {
        self.kind.unwrap_or(Kind::String)
    }
}

impl Session {
    /// With these devices, none of which is online; others may come. `None`: the devices' records don't go this way.
    pub fn new(node: Node, declared: Option<Vec<Declared>>) -> Session {
        let known = |kind| Known { kind: Some(kind), value: Value::Null, time_ms: None };
        let device = |Declared { device, metrics }| {
            let metrics = metrics.into_iter().map(|(name, kind)| (name, known(kind))).collect();
            (device, Device { metrics, ..Device::default() })
        };
        let has_devices = declared.is_some();
        let devices = declared.into_iter().flatten().map(device).collect();
        let (types, limit) = (Types::default(), usize::MAX);
        Session { node, devices, has_devices, bd_seq: 0, seq: 0, born_ms: 0, is_draining: false, limit, types }
    }

    /// The types that metrics have had, as [`Session::types`] has said it last, at best before a kill.
    pub fn remember(&mut self, types: &[u8]) {
        self.types = Types::read(types);
    }

    /// What is to be remembered, if that has changed since it was asked for: at most [`MAX_TYPES_FILE`](super::MAX_TYPES_FILE) bytes.
    pub fn types(&mut self) -> Option<Vec<u8>> {
        self.types.write()
    }

    /// A connection is about to be made, with this number and this Last Will.
    pub fn connecting(&mut self, bd_seq: u8) -> Outgoing {
        self.bd_seq = bd_seq;
        self.death()
    }

    /// The NDEATH of this connection.
    pub fn death(&self) -> Outgoing {
        let payload = Payload { timestamp: None, metrics: vec![self.bd_seq(None)], seq: None };
        Outgoing { topic: self.node.topic("NDEATH", None), payload: payload.encode_to_vec() }
    }

    fn bd_seq(&self, time_ms: Option<u64>) -> Metric {
        metric::wire("bdSeq", &Value::Int64(self.bd_seq.into()), Kind::Int64, time_ms, false)
    }

    /// The connection is there, and takes payloads of so many bytes with [`Session::longest_topic`].
    pub fn connected(&mut self, now_ms: u64, limit: usize) -> Vec<Outgoing> {
        self.born_ms = now_ms;
        self.limit = limit;
        self.is_draining = false;
        for device in self.devices.values_mut() {
            device.is_born = false;
        }
        self.births(now_ms)
    }

    /// Somebody has asked for it: everything again that was born.
    pub fn rebirth(&mut self, now_ms: u64) -> Vec<Outgoing> {
        self.births(now_ms)
    }

    /// NBIRTH, and a DBIRTH for each device that is there.
    fn births(&mut self, now_ms: u64) -> Vec<Outgoing> {
        self.seq = 0;
        let rebirth = metric::wire("Node Control/Rebirth", &Value::Boolean(false), Kind::Boolean, Some(now_ms), false);
        let version = Value::String(env!("CARGO_PKG_VERSION").to_owned());
        let version = metric::wire("Properties/pillion", &version, Kind::String, Some(now_ms), false);
        let metrics = vec![self.bd_seq(Some(now_ms)), rebirth, version];
        let mut messages = vec![self.message("NBIRTH", None, metrics, now_ms)];
        let is_there = |device: &Device| device.is_online || device.is_born;
        let there = self.devices.iter().filter(|(_, device)| is_there(device)).map(|(name, _)| name.clone());
        for name in there.collect::<Vec<_>>() {
            messages.push(self.birth(&name, now_ms));
        }
        messages
    }

    /// Which devices are online, and which are not. Those that came are born; for those that went see [`Session::settle`].
    pub fn presence<'d>(&mut self, devices: impl Iterator<Item = (&'d str, bool)>, now_ms: u64) -> Vec<Outgoing> {
        let mut come = Vec::new();
        for (name, is_online) in devices.filter(|_| self.has_devices) {
            // A reload may have brought it.
            let device = self.devices.entry(name.to_owned()).or_default();
            device.is_online = is_online;
            if is_online && !device.is_born {
                come.push(name.to_owned());
            }
        }
        come.into_iter().map(|name| self.birth(&name, now_ms)).collect()
    }

    /// Whether records of earlier times are being sent, and more of them may come.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Nothing waits to be sent: those that are offline die, and those whose present values were historical are born again.
    pub fn settle(&mut self, now_ms: u64) -> Vec<Outgoing> {
        self.is_draining = false;
        let is_due = |device: &Device| device.is_born && (!device.is_online || device.is_outdated);
        let due = self.devices.iter().filter(|(_, device)| is_due(device));
        let due: Vec<(String, bool)> = due.map(|(name, device)| (name.clone(), device.is_online)).collect();
        due.into_iter()
            .map(|(name, is_online)| match is_online {
                true => self.birth(&name, now_ms),
                false => {
                    if let Some(device) = self.devices.get_mut(&name) {
                        device.is_born = false;
                    }
                    self.message("DDEATH", Some(&name), Vec::new(), now_ms)
                }
            })
            .collect()
    }

    /// The longest topic of a birth.
    pub fn longest_topic(&self) -> String {
        let longest = self.devices.keys().max_by_key(|name| name.len());
        self.node.topic("DBIRTH", longest.map(String::as_str))
    }

    /// The longest topic of what a record becomes.
    pub fn topic(&self, record: &Record) -> String {
        self.node.topic("DBIRTH", Some(&owner(&record.topic).0))
    }

    /// The messages that a record becomes: births that must come first, and then the record itself. None has more than `limit`
    /// bytes.
    ///
    /// # Errors
    /// Nothing that fits can be made of it.
    pub fn record(&mut self, record: &Record, now_ms: u64, limit: usize) -> Result<Vec<Outgoing>, TooLarge> {
        let limit = limit.min(self.limit);
        let (name, prefix) = owner(&record.topic);
        let metrics = metric::metrics(record, &prefix);
        let time_ms = record.time.wall_ms;
        let is_historical = time_ms < self.born_ms;
        // Devices that are not configured, APP and the like, are there as long as pillion is.
        let device =
            self.devices.entry(name.clone()).or_insert_with(|| Device { is_online: true, ..Device::default() });
        device.learn(&name, &metrics, time_ms, &mut self.types);
        let must_be_born = device.is_changed || !device.is_born;
        let shown = |(name, value): &(String, Value)| {
            let kind = device.metrics.get(name).map_or(Kind::String, Known::shown);
            metric::wire(name, value, kind, Some(time_ms), is_historical)
        };
        let data = Payload { timestamp: Some(now_ms), metrics: metrics.iter().map(shown).collect(), seq: Some(255) };
        if data.encoded_len() > limit {
            return Err(TooLarge(data.encoded_len()));
        }
        if must_be_born && device.birth_len(now_ms) > limit {
            device.metrics.retain(|name, _| metrics.iter().any(|(of, _)| of == name));
            if device.birth_len(now_ms) > limit {
                return Err(TooLarge(device.birth_len(now_ms)));
            }
        }
        let mut messages = Vec::new();
        if must_be_born {
            messages.push(self.birth(&name, now_ms));
        }
        messages.push(self.message("DDATA", Some(&name), data.metrics, now_ms));
        self.is_draining = is_historical;
        if let Some(device) = self.devices.get_mut(&name) {
            device.is_outdated |= is_historical;
        }
        Ok(messages)
    }

    /// The DBIRTH of a device, which is born from then on.
    fn birth(&mut self, name: &str, now_ms: u64) -> Outgoing {
        let mut metrics = Vec::new();
        if let Some(device) = self.devices.get_mut(name) {
            (device.is_born, device.is_changed, device.is_outdated) = (true, false, false);
            if device.birth_len(now_ms) > self.limit {
                device.metrics.clear();
            }
            metrics = device.birth(now_ms);
        }
        self.message("DBIRTH", Some(name), metrics, now_ms)
    }

    fn message(&mut self, kind: &str, device: Option<&str>, metrics: Vec<Metric>, now_ms: u64) -> Outgoing {
        let payload = Payload { timestamp: Some(now_ms), metrics, seq: Some(self.seq.into()) };
        self.seq = self.seq.wrapping_add(1);
        Outgoing { topic: self.node.topic(kind, device), payload: payload.encode_to_vec() }
    }
}

impl Device {
    /// Takes in values of the device with this name.
    fn learn(&mut self, device: &str, metrics: &[(String, Value)], time_ms: u64, types: &mut Types) {
        let is_new = |(name, _): &&(String, Value)| !self.metrics.contains_key(name);
        if self.metrics.len() + metrics.iter().filter(is_new).count() > MOST_METRICS {
            self.metrics.retain(|name, _| metrics.iter().any(|(of, _)| of == name));
        }
        for (name, value) in metrics {
            let is_short = value.length() <= LONGEST_BIRTH_VALUE;
            let kept = if is_short { value.clone() } else { Value::Null };
            let before = self.metrics.get(name);
            let kind = match (before.map_or_else(|| types.of(device, name), |known| known.kind), value.kind()) {
                (Some(one), Some(other)) => Some(one.or(other)),
                (one, other) => one.or(other),
            };
            let known = Known { kind, value: kept, time_ms: Some(time_ms) };
            self.is_changed |= before.is_none_or(|before| before.shown() != known.shown());
            if let Some(kind) = kind {
                types.note(device, name, kind);
            }
            self.metrics.insert(name.clone(), known);
        }
    }

    /// Its metrics as a birth shows them.
    fn birth(&self, now_ms: u64) -> Vec<Metric> {
        let shown = |(name, known): (&String, &Known)| {
            metric::wire(name, &known.value, known.shown(), known.time_ms.or(Some(now_ms)), false)
        };
        self.metrics.iter().map(shown).collect()
    }

    fn birth_len(&self, now_ms: u64) -> usize {
        Payload { timestamp: Some(now_ms), metrics: self.birth(now_ms), seq: Some(255) }.encoded_len()
    }
}

/// The device that a record is of, and what stands before its metrics' names.
fn owner(topic: &str) -> (String, String) {
    let of_device = topic.strip_prefix("device/").and_then(|rest| rest.split_once('/'));
    match of_device {
        Some((name, "data")) => (name.to_owned(), String::new()),
        Some((name, rest)) => (name.to_owned(), rest.to_owned()),
        None => {
            let (first, rest) = topic.split_once('/').unwrap_or((topic, ""));
            (first.to_uppercase(), rest.to_owned())
        }
    }
}
