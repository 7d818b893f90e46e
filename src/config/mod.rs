//! The configuration: what a user writes, checked, with every default filled in.
//!
//! These types are the *result*: every value in them is valid by itself and with the others, so no later floor
//! checks again.
//!
//! The way from text to this: `load` reads the files, `syntax` understands each, and all are merged as a `tree` that knows
//! where each value stands; `reader` walks it and notes every problem. Each section has a file with its types, what its keys may
//! be, and how they are read and printed (`sections` has the smallest ones and puts all together); `values` and `units` are for
//! single values, `keys` says what exists at all. `effective` prints the result back as TOML, `difference` tells which keys
//! differ from one to the next.
//!
//! A new key: its name in `keys`; its field, its reading and its printing in the file of its section; its line in
//! `systemd/gateway.toml`; and what is said about wrong values in `tests/wrong/`.

mod api;
mod app;
mod batch;
mod commands;
mod devices;
mod difference;
mod discovery;
mod effective;
mod framing;
mod gpio;
mod health;
mod homeassistant;
mod keys;
mod load;
mod managed;
pub mod modbus;
mod mqtt;
mod pacing;
mod port;
mod problem;
mod reader;
mod sections;
mod serial;
mod sparkplug;
mod streams;
mod syntax;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod values;

pub use api::Api;
pub use app::App;
pub use batch::{BatchFormat, Batching};
pub use commands::Commands;
pub use framing::{Crc, Delimiter, Endian, Framing, FramingKind, LengthBytes, MAX_DELIMITER, MAX_FRAME};
pub use gpio::{Bias, Direction, Edge, Gpio, GpioLine, Input, Output, Safe};
pub use health::{Amount, Health, Limits, TemperatureLimit};
pub use homeassistant::{HomeAssistant, Sensor};
pub use load::{Loaded, MAX_FILE_BYTES, Surroundings, load, parse};
pub use managed::{Action, ManagedFile};
pub use mqtt::{Identity, Mqtt, MqttVersion, Server, Tls};
pub use pacing::{Budget, Period, QuietHours};
pub use port::{DataBits, Flow, Line, Parity, Rs485, StopBits, UsbId};
pub use problem::{Problem, Problems};
pub use reader::Source;
pub use sections::{Spool, Sync};
pub use serial::Serial;
pub use sparkplug::Sparkplug;
pub use streams::{Convention, Stream, WhenFull};

use std::path::PathBuf;

/// A whole, valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of this sidecar, from `instance`, `--instance`, or the file's stem.
    pub instance: String,
    /// Where the spool lives; survives power cuts.
    pub state_dir: PathBuf,
    /// Where the socket lives; a tmpfs.
    pub runtime_dir: PathBuf,
    /// The accompanied application.
    pub app: App,
    /// The broker.
    pub mqtt: Mqtt,
    /// The store.
    pub spool: Spool,
    /// Every stream; the index is the `StreamId`: event, telemetry, log, then the user's in name order.
    pub streams: Vec<Stream>,
    /// Serial devices in the order of the file.
    pub serial: Vec<Serial>,
    /// Modbus buses in the order of the file.
    pub modbus: Vec<modbus::Bus>,
    /// GPIO lines in the order of the file.
    pub gpio: Vec<Gpio>,
    /// Files that are written from keys of the configuration store.
    pub managed_files: Vec<ManagedFile>,
    /// Where `pillion apply` keeps its own state; only root writes there.
    pub apply_dir: PathBuf,
    /// The topic filter of other gateways' statuses; `None`: they are not looked for.
    pub discovery: Option<String>,
    /// What pillion is in Sparkplug; `None`: no stream has that convention.
    pub sparkplug: Option<Sparkplug>,
    /// Home Assistant.
    pub homeassistant: HomeAssistant,
    /// Health reports.
    pub health: Health,
    /// The local socket.
    pub api: Api,
}
