//! The configuration: what a user writes, checked, with every default filled in.
//!
//! These types are the *result*: every value in them is valid by itself and with the others, so no later floor
//! checks again.
//!
//! The way from text to this: `load` reads the files and merges them as a `tree` that knows where each value stands;
//! `reader` walks it and notes every problem; `sections`, `mqtt`, `streams`, `serial`, `framing`, `port`, `modbus`, `gpio`
//! `health`, `homeassistant`, `sparkplug` and `api` say what each key may be, with `values` and `units` for single values and `keys` for what exists at all;
//! `effective` prints it back as TOML, `difference` tells which keys differ from one to the next.
//!
//! A new key: its name in `keys`, its reading in the file of its section, its printing in `effective`, its line in
//! `systemd/gateway.toml`, and what is said about wrong values in the table of `tests`.

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
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod values;

pub use framing::{Crc, Delimiter, Endian, Framing, FramingKind, LengthBytes, MAX_DELIMITER, MAX_FRAME};
pub use load::{Loaded, MAX_FILE_BYTES, Surroundings, load, parse};
pub use problem::{Problem, Problems};
pub use reader::Source;

use crate::record::PayloadRule;
use crate::stats::Hundredths;
use std::path::PathBuf;
use std::time::Duration;

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

/// `[api]`: users and groups by name or number. Both empty: everybody whom the socket's mode lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// Users who may use the socket.
    pub allow_users: Vec<String>,
    /// Groups whose members may.
    pub allow_groups: Vec<String>,
}

/// `[app]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// The application's systemd unit.
    pub unit: Option<String>,
    /// How long the application may go without a heartbeat, 1 s to 1 day. `None`: none is waited for.
    pub heartbeat_timeout: Option<Duration>,
    /// Whether messages on `P/app/set/#` are kept for the application (default: yes, if it has a unit).
    pub commands: bool,
    /// Whether the keys of `P/config/#` are kept for the application (default: yes, if it has a unit).
    pub config: bool,
    /// Whether the unit's journal is followed (default yes if there is a unit).
    pub logs: bool,
    /// The least severe priority of lines that are shipped, 0 (emerg) to 7 (debug) as in syslog(3) (default 6, info).
    pub log_level: u8,
    /// Lines per second that are shipped, bursts apart, 0 to 100,000 (default 500); 0 for no limit.
    pub log_rate: u32,
    /// Size of the flight recorder in bytes, 0 to 1 MiB (default 64 KiB).
    pub recorder: usize,
}

/// `[[managed_file]]`: see `apply`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedFile {
    /// Below `P/config/`.
    pub key: String,
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// A command that fails if the file can't be used, `{file}` standing for it; empty: none.
    pub check: Vec<String>,
    /// What the application's unit is told.
    pub action: Action,
    /// How long the application must go on after that, 1 s to 10 min (default 60 s).
    pub healthy_within: Duration,
    /// Of the file (default 0640).
    pub mode: u32,
    /// `USER:GROUP` of the file. `None`: those of the old one, or root.
    pub owner: Option<String>,
}

/// `action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The unit is restarted (default).
    Restart,
    /// It is told to read its files again.
    Reload,
    /// Nothing.
    None,
}

/// `mqtt.version`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// 3.1.1
    #[default]
    V3_1_1,
    /// 5
    V5,
}

impl MqttVersion {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            MqttVersion::V3_1_1 => "3.1.1",
            MqttVersion::V5 => "5",
        }
    }
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// The protocol's version (default 3.1.1).
    pub version: MqttVersion,
    /// Tried in order, then round again. Not empty.
    pub servers: Vec<Server>,
    /// Expanded.
    pub client_id: String,
    /// Expanded, without a slash at the end; called P in the documentation.
    pub topic_prefix: String,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// The file that holds the password, resolved to where it is looked for.
    pub password_file: Option<PathBuf>,
    /// For servers with `mqtts://`.
    pub tls: Tls,
    /// Whole seconds, 1 s to 65,535 s (default 30 s): MQTT 3.1.1 section 3.1.2.10.
    pub keep_alive: Duration,
    /// Unacknowledged records on the wire, 1 to 65,535 (default 128).
    pub inflight: u16,
    /// The connection is given up when an acknowledgement takes longer (default 20 s).
    pub ack_timeout: Duration,
    /// How often a better server than the present one is looked at, 1 s to a day; `None`: never (default 5 min).
    pub fall_back: Option<Duration>,
    /// The largest message in bytes, envelope included, topic and header not (default 256 KiB).
    pub max_payload: usize,
    /// Records per second of what was accepted before the present connection, 0 to 1,000,000; 0, the default, for no
    /// limit.
    pub backfill_rate: u32,
    /// What may be sent in an hour, day or month. `None`: no limit.
    pub budget: Option<Budget>,
}

/// `budget`: bytes that may be published in each period of UTC
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// 16 KiB to 1 TiB: payloads and topics, and 12 bytes for each message.
    pub bytes: u64,
    /// How often it begins anew.
    pub period: Period,
}

/// The period of a budget
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Period {
    Hour,
    Day,
    Month,
}

/// The keys of `[mqtt]` for servers with `mqtts://`. Files are read again for each connection when they have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Whom to trust, in PEM. `None`: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Who we are: the certificate, its chain behind it, and the key, in PEM. `None`: the broker does not ask.
    pub identity: Option<Identity>,
    /// The name that the broker's certificate must have. `None`: the host of its address.
    pub server_name: Option<String>,
    /// Protocols to offer (ALPN, RFC 7301), for brokers that share a port with others.
    pub alpn: Vec<String>,
}

/// `cert_file` and `key_file`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and its chain behind it.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// One element of `mqtt.servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Whether it is spoken to over TLS: `mqtts://`, `wss://`.
    pub tls: bool,
    /// The path of a WebSocket (RFC 6455), with its query if it has one: `ws://`, `wss://`.
    pub websocket: Option<String>,
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// TCP port (default 1883, with TLS 8883; for WebSockets 80 and 443).
    pub port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match (self.tls, self.websocket.is_some()) {
            (false, false) => "mqtt",
            (true, false) => "mqtts",
            (false, true) => "ws",
            (true, true) => "wss",
        };
        let path = self.websocket.as_deref().unwrap_or_default();
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}{path}", self.host, self.port),
        }
    }
}

/// `[spool]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// When records reach flash.
    pub sync: Sync,
    /// Size of a segment in bytes, 64 KiB to 64 MiB (default 1 MiB).
    pub segment_bytes: u64,
}

/// `spool.sync`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// fdatasync before a record counts as accepted.
    Always,
    /// Records that the broker has not acknowledged after this long are committed to flash together (default 1 s).
    After(Duration),
}

/// `[stream.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// `[a-z0-9_-]{1,32}`
    pub name: String,
    /// Quota on flash in bytes (default 64 MiB); at least two segments.
    pub max_bytes: u64,
    /// Records older than this are dropped.
    pub max_age: Option<Duration>,
    /// What happens when the quota is reached.
    pub when_full: WhenFull,
    /// Lower drains first (default event 0, telemetry 1, log 2, others 1).
    pub priority: u8,
    /// How its records travel together. `None`: each in a message of its own.
    pub batch: Option<Batching>,
    /// When nothing of it is sent. `None`: it is at any time.
    pub quiet_hours: Option<QuietHours>,
    /// How its records look on the wire.
    pub convention: Convention,
}

/// `quiet_hours` of a stream: a part of each day, in UTC
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// The minute of the day that is their first one.
    pub from: u16,
    /// The minute of the day that is none of them any more; may be before `from`: they go on over midnight.
    pub until: u16,
}

/// `convention`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Convention {
    /// The envelope in JSON, on `P/…` (see `record`).
    #[default]
    Pillion,
    /// Sparkplug B (see `sparkplug`).
    Sparkplug,
}

/// `[sparkplug]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparkplug {
    /// The group id, without `/`, `+` and `#`.
    pub group: String,
    /// The edge node id, unique in the group, expanded (default `{host}-{instance}`).
    pub node: String,
}

/// `batch = { … }` of a stream
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Records in one message at the most, 1 to 1000 (default 100).
    pub records: u16,
    /// Bytes of one message at the most, before it is compressed, 1 KiB to 64 KiB (default 64 KiB). A record that is larger
    /// travels alone.
    pub bytes: usize,
    /// How long a record waits for others at the most, 0 to 1 hour (default 5 s).
    pub delay: Duration,
    /// How they stand in their message.
    pub format: BatchFormat,
    /// Whether messages are compressed, where that makes them smaller (default no).
    pub deflate: bool,
}

/// `format` of a batch
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchFormat {
    /// An envelope on each line (default).
    #[default]
    Ndjson,
    /// A JSON array of envelopes.
    Array,
}

/// `when_full`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest segment goes; the loss is counted and announced.
    #[default]
    DropOldest,
    /// New records are refused.
    Reject,
}

/// `[[serial]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// `[a-z0-9_-]{1,32}`, unique over all devices.
    pub name: String,
    /// The device node or a link to it; may be absent. Empty where `usb` is given.
    pub path: PathBuf,
    /// The USB adapter, wherever it is plugged in.
    pub usb: Option<UsbId>,
    /// Bits per second, any that the kernel takes (default 9600).
    pub baud: u32,
    /// 5 to 8 (default 8).
    pub data_bits: DataBits,
    /// None by default.
    pub parity: Parity,
    /// 1 or 2 (default 1).
    pub stop_bits: StopBits,
    /// None by default.
    pub flow: Flow,
    /// RS-485 by the driver. `None`: the driver's RS-485 mode is never touched.
    pub rs485: Option<Rs485>,
    /// Whether the driver is asked to hand over each byte at once (default no).
    pub low_latency: bool,
    /// Level of the DTR line when the port is opened. `None`: as the driver has it, which is high as a rule.
    pub dtr: Option<bool>,
    /// Level of the RTS line when the port is opened. `None`: as the driver has it.
    pub rts: Option<bool>,
    /// How bytes become frames.
    pub framing: Framing,
    /// How frames become payloads.
    pub payload: PayloadRule,
    /// Which commands it takes; `None`: none at all.
    pub commands: Option<Commands>,
}

impl Serial {
    /// What its port is opened with.
    pub fn line(&self) -> Line {
        Line {
            path: self.path.clone(),
            usb: self.usb.clone(),
            baud: self.baud,
            data_bits: self.data_bits,
            parity: self.parity,
            stop_bits: self.stop_bits,
            flow: self.flow,
            rs485: self.rs485.clone(),
            low_latency: self.low_latency,
            dtr: self.dtr,
            rts: self.rts,
        }
    }
}

/// What a serial port is opened with; see [`Serial`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Line {
    pub path: PathBuf,
    pub usb: Option<UsbId>,
    pub baud: u32,
    pub data_bits: DataBits,
    pub parity: Parity,
    pub stop_bits: StopBits,
    pub flow: Flow,
    pub rs485: Option<Rs485>,
    pub low_latency: bool,
    pub dtr: Option<bool>,
    pub rts: Option<bool>,
}

/// `usb = "VENDOR:PRODUCT"` or `"VENDOR:PRODUCT:SERIAL"`: a USB adapter by what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbId {
    /// `idVendor`, four hexadecimal digits.
    pub vendor: u16,
    /// `idProduct`, four hexadecimal digits.
    pub product: u16,
    /// `iSerial`. `None`: any.
    pub serial: Option<String>,
}

impl std::fmt::Display for UsbId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)?;
        self.serial.iter().try_for_each(|serial| write!(f, ":{serial}"))
    }
}

/// `rs485 = { … }`: how the driver switches the line between sending and receiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rs485 {
    /// RTS is high while sending, and low otherwise (default); else the other way round.
    pub rts_on_send: bool,
    /// From RTS to the first bit, 0 to 100 ms (default 0).
    pub delay_before_send: Duration,
    /// From the last bit to RTS, 0 to 100 ms (default 0).
    pub delay_after_send: Duration,
    /// Also receive what is being sent (default no).
    pub rx_during_tx: bool,
}

/// `commands = { … }` of a device
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// A command's data, as text, must match one of these patterns, in which `*` stands for any characters; empty:
    /// everything is allowed (default).
    pub allow: Vec<String>,
    /// Commands per second at the most, 1 to 1,000 (default 10).
    pub rate: u32,
    /// How long after it was sent a command that does not say so itself may be carried out, 100 ms to 7 days (default 60 s).
    pub ttl: Duration,
    /// Serial devices: how long the device may take to answer, 1 ms to 60 s; its next frame is the answer. `None`: none is
    /// awaited.
    pub reply: Option<Duration>,
}

/// `data_bits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DataBits {
    Five,
    Six,
    Seven,
    Eight,
}

/// `parity`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// `stop_bits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StopBits {
    One,
    Two,
}

/// `flow`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// No flow control.
    None,
    /// XON/XOFF.
    Software,
    /// RTS/CTS.
    Hardware,
}

/// `[[gpio]]`: one line of a chip
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpio {
    /// `[a-z0-9_-]{1,32}`, unique over all devices.
    pub name: String,
    /// `gpiochipN`, a path, or the chip's label; the chip may be absent.
    pub chip: String,
    /// Which line of the chip.
    pub line: GpioLine,
    /// What pulls the line where nothing drives it (default: as it is).
    pub bias: Bias,
    /// Whether a low level is `true` (default no).
    pub active_low: bool,
    /// `direction`, with the keys that belong to it.
    pub direction: Direction,
}

/// `line`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpioLine {
    /// Counted from 0.
    Offset(u32),
    /// As the board's device tree or firmware calls it; 31 bytes at the most.
    Name(String),
}

/// `bias`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Bias {
    #[default]
    AsIs,
    PullUp,
    PullDown,
    Disabled,
}

/// `direction`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// The line is read.
    Input(Input),
    /// The line is driven.
    Output(Output),
}

/// A `[[gpio]]` with `direction = "input"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What is published, or counted (default both; with a counter rising). In terms of `true` and `false`, so after
    /// `active_low`.
    pub edge: Edge,
    /// How long a level must last to count, 1 ms to 10 s; `None`: every edge counts.
    pub debounce: Option<Duration>,
    /// Edges are counted, and the count is published this often, 100 ms to 1 day. `None`: each edge is a record.
    pub counter: Option<Duration>,
}

/// `edge`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// From `false` to `true`.
    Rising,
    /// From `true` to `false`.
    Falling,
    /// Each of them.
    Both,
    /// None: the level is read when the line is opened, and then no more.
    None,
}

/// A `[[gpio]]` with `direction = "output"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The value when the line is opened; `None` (`"keep"`, default): the one that it has.
    pub initial: Option<bool>,
    /// What the line falls back to.
    pub safe: Option<Safe>,
    /// Whether the line is left alone when pillion stops (default no: then it gets its safe value, if it has one).
    pub hold: bool,
    /// Which commands it takes; `None`: none at all.
    pub commands: Option<Commands>,
}

/// `safe` and `safe_after`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Safe {
    /// The value.
    pub value: bool,
    /// How long the broker or the application must be away before it is applied, 0 to 1 day (default 30 s).
    pub after: Duration,
}

/// `[homeassistant]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAssistant {
    /// Whether it is told of the devices (default no).
    pub enable: bool,
    /// Its discovery prefix (default `homeassistant`).
    pub prefix: String,
    /// What it can't know of values.
    pub sensors: Vec<Sensor>,
}

/// `[[homeassistant.sensor]]`: a value of a serial device, or more about one of a Modbus unit
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sensor {
    /// A serial device or a Modbus unit.
    pub device: String,
    /// Keys in the record's data, with dots between; unique with the device.
    pub field: String,
    /// What users see (default: the field).
    pub name: Option<String>,
    /// As Home Assistant writes it: `kWh`, `°C`.
    pub unit_of_measurement: Option<String>,
    /// One of Home Assistant's: `energy`, `temperature`.
    pub device_class: Option<String>,
    /// `measurement`, `total` or `total_increasing` (default: a Modbus number is a measurement).
    pub state_class: Option<&'static str>,
}

/// `[health]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How often the health document is published, and the machine looked at (default 60 s); at least 1 s.
    pub interval: Duration,
    /// From where on the machine itself is unwell.
    pub limits: Limits,
}

/// The limits of `[health]`; `None`: nobody minds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Least free space on the disk of `state_dir` (default 5 %).
    pub disk_free_min: Option<Amount>,
    /// Least files that can still be made there (default 5 %).
    pub inodes_free_min: Option<Amount>,
    /// Least memory that programs can still get (default 5 %).
    pub memory_available_min: Option<Amount>,
    /// Highest temperature of any sensor (default: close to what the sensor itself calls critical).
    pub temperature_max: Option<TemperatureLimit>,
    /// Highest load average over five minutes (default: none).
    pub load_max: Option<Hundredths>,
    /// Most per cent of the time, over a minute, in which work stands still for want of processor, memory or disk, 1 to 99
    /// (default: none).
    pub pressure_max: Option<u8>,
}

impl Default for Limits {
    fn default() -> Self {
        let five = Some(Amount::Percent(5));
        Limits {
            disk_free_min: five,
            inodes_free_min: five,
            memory_available_min: five,
            temperature_max: Some(TemperatureLimit::Critical),
            load_max: None,
            pressure_max: None,
        }
    }
}

/// So much of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// 1 to 50.
    Percent(u8),
    /// Bytes or pieces.
    Absolute(u64),
}

/// `temperature_max`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemperatureLimit {
    /// What each sensor calls critical, less 5 °C; a sensor that says nothing of the kind has no limit.
    Critical,
    /// Degrees Celsius, 1 to 200, for every sensor.
    Celsius(i64),
}
