//! Sparkplug B 3.0: what pillion is there, an *edge node* with its *devices*. Pure: records and events in, messages out.
//!
//! ```text
//! spBv1.0/GROUP/NBIRTH/NODE          after each connect: bdSeq, Node Control/Rebirth          seq 0
//! spBv1.0/GROUP/DBIRTH/NODE/DEVICE   its metrics, with what they were last, or null           seq 1, 2, ... 255, 0, ...
//! spBv1.0/GROUP/DDATA/NODE/DEVICE    a record                                                 seq
//! spBv1.0/GROUP/DDEATH/NODE/DEVICE   it is offline                                            seq
//! spBv1.0/GROUP/NDEATH/NODE          the Last Will, and on a clean stop: bdSeq of the NBIRTH
//! spBv1.0/GROUP/NCMD/NODE            Node Control/Rebirth: everything is born again
//! spBv1.0/GROUP/DCMD/NODE/DEVICE     a command for the device, see `command`
//! ```
//!
//! Which record is whose: `device/NAME/data` is the device's; what else is below `device/NAME` too, with the rest of the topic
//! before its metrics' names. Records that are of no device belong to one with the first part of their topic in capitals, which no
//! device's name has: `app/orders` is the metric `orders` of the device `APP`.
//!
//! Where this is not what the specification says, and why:
//!
//! - Everything has QoS 1 and not 0: a record is trimmed from the spool when the broker has acknowledged it, and not before.
//!   What subscribers get is at the QoS that they ask for, as ever.
//! - Commands come in on the other connection, whose session is persistent (see `listen`). Its Last Will is that of `P/status`,
//!   and it says birth and good-bye there, for a connection has one Last Will only, and that of the publishing one is the NDEATH.
//! - No aliases: names cost bytes, and each message can be read by itself.

mod command;
mod metric;
mod protobuf;
mod session;
#[cfg(test)]
mod tests;
mod types;

pub use command::{asks_for_rebirth, command};
pub use metric::Kind;
pub use session::{Outgoing, Session, TooLarge};
pub use types::MAX_FILE as MAX_TYPES_FILE;

use crate::config::modbus::Poll;
use crate::config::{self, Config, Convention, Direction};
use crate::record::StreamId;

/// A device, and the metrics of which it is known beforehand that it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub device: String,
    /// Their names and types.
    pub metrics: Vec<(String, Kind)>,
}

/// The topics of an edge node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    group: String,
    node: String,
}

impl Node {
    /// As configured.
    pub fn new(config: &config::Sparkplug) -> Node {
        Node { group: config.group.clone(), node: config.node.clone() }
    }

    fn topic(&self, kind: &str, device: Option<&str>) -> String {
        let Node { group, node } = self;
        match device {
            Some(device) => format!("spBv1.0/{group}/{kind}/{node}/{device}"),
            None => format!("spBv1.0/{group}/{kind}/{node}"),
        }
    }

    /// The filter of its own commands.
    pub fn commands(&self) -> String {
        self.topic("NCMD", None)
    }

    /// The filter of its devices' commands.
    pub fn device_commands(&self) -> String {
        self.topic("DCMD", Some("+"))
    }

    /// The device whose command comes on this topic.
    pub fn commanded<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let device = topic.strip_prefix(&self.topic("DCMD", Some("")))?;
        (!device.is_empty() && !device.contains('/')).then_some(device)
    }
}

/// The devices, if their records go this way.
pub fn declared(config: &Config) -> Option<Vec<Declared>> {
    let telemetry = config.streams.get(StreamId::TELEMETRY.index());
    if telemetry.is_none_or(|stream| stream.convention != Convention::Sparkplug) {
        return None;
    }
    let serial = config.serial.iter().map(|device| Declared { device: device.name.clone(), metrics: Vec::new() });
    let units = config.modbus.iter().flat_map(|bus| &bus.units).map(|unit| Declared {
        device: unit.name.clone(),
        metrics: unit.polls.iter().map(|poll| (poll.name.clone(), kind(poll))).collect(),
    });
    let lines = config.gpio.iter().map(|line| {
        let metrics: &[(&str, Kind)] = match &line.direction {
            Direction::Input(input) if input.counter.is_some() => &[("count", Kind::Int64), ("delta", Kind::Int64)],
            Direction::Input(_) => &[("value", Kind::Boolean), ("edge", Kind::String)],
            Direction::Output(_) => &[("value", Kind::Boolean), ("cause", Kind::String)],
        };
        let metrics = metrics.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        Declared { device: line.name.clone(), metrics }
    });
    Some(serial.chain(units).chain(lines).collect())
}

fn kind(poll: &Poll) -> Kind {
    use config::modbus::Kind as Register;
    match poll.kind {
        Register::Bool => Kind::Boolean,
        Register::Text { .. } => Kind::String,
        Register::F32 | Register::F64 => Kind::Double,
        _ if poll.scale.fract() != 0.0 || poll.offset.fract() != 0.0 => Kind::Double,
        _ => Kind::Int64,
    }
}
