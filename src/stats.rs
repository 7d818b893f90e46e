//! What pillion says about itself: the status document and its parts.
//!
//! Constraints: these are copied snapshots, never live state. Their serialised form is the contract of
//! `GET /v1/status`, `pillion status --json` and `P/health`: fields are added, never renamed. Unknown fields are ignored
//! when read, so that an older command line reads a newer sidecar.

mod app;
mod host;
mod link;
mod logs;
mod reload;

pub use app::{AppState, AppStatus, AppUsage, HeartbeatState, HeartbeatStatus, LastExit};
pub use host::{
    ClockSync, DiskSpace, Facts, FlashWear, HostStatus, Hundredths, Interface, Load, Memory, Os, Power, Pressure,
    SpareBlocks, Stall, Temperature,
};
pub use link::{ServerState, ServerStatus};
pub use logs::{LogsState, LogsStatus};
pub use reload::{ConfigurationStatus, MOST_PROBLEMS, ReloadOutcome, ReloadRequest, ReloadStatus};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of pillion that runs.
    pub version: String,
    /// Name of the instance.
    pub instance: String,
    /// Seconds since the sidecar started.
    pub uptime_s: u64,
    /// The verdict.
    pub health: Health,
    /// The configuration that runs; none where an older sidecar says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,
    /// The connection to the broker.
    pub link: LinkStatus,
    /// Every stream by name, with its ledger.
    pub streams: BTreeMap<String, StreamStatus>,
    /// Every device by name.
    pub devices: BTreeMap<String, DeviceStatus>,
    /// Commands to devices, if any device takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<CommandsStatus>,
    /// Messages for the application, if they are kept for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbox: Option<InboxStatus>,
    /// The application's configuration, if it is kept for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<SettingsStatus>,
    /// The local API; none where an older sidecar says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiStatus>,
    /// The application that this sidecar accompanies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppStatus>,
    /// The application's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogsStatus>,
    /// The machine.
    pub host: HostStatus,
}

/// The question that the health flow answers: a whole status, now.
pub type StatusRequest = oneshot::Sender<Status>;

/// Healthy or not, and why, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// One sentence for each thing that is wrong; empty when healthy.
    pub reasons: Vec<String>,
}

/// The verdict on the sidecar and what it accompanies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Everything that is configured works.
    Healthy,
    /// It runs, but something that is configured doesn't work now.
    Degraded,
    /// The application is lost: it is down, or does not answer.
    Failed,
}

/// Where the connection to the broker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No connection; waiting out the back-off.
    #[default]
    Disconnected,
    /// A server is being tried.
    Connecting,
    /// CONNACK has arrived; records flow.
    Connected,
    /// Stopping, or about to move to a better server: what is in flight is being finished.
    Draining,
}

/// The connection to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// The server that is connected or was tried last, as configured, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// All servers, in the order of the configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerStatus>,
    /// Why it is not connected, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state, milliseconds since 1970.
    pub since_ms: u64,
    /// CONNACKs so far.
    pub connects: u64,
    /// Messages sent and not acknowledged yet.
    pub in_flight: u64,
    /// Messages that may be under way on the present link: `mqtt.inflight` at most.
    #[serde(default)]
    pub window: u64,
    /// PUBACKs for records so far.
    pub acknowledged: u64,
    /// Records that had to be sent again after a lost connection.
    pub repeated: u64,
    /// Messages with records that were sent, in all connections.
    #[serde(default)]
    pub sent_messages: u64,
    /// Records in them.
    #[serde(default)]
    pub sent_records: u64,
    /// Bytes of them, topics and payloads.
    #[serde(default)]
    pub sent_bytes: u64,
    /// The same before compression.
    #[serde(default)]
    pub plain_bytes: u64,
    /// How `mqtt.budget` stands, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetStatus>,
    /// Streams that wait although the broker is there, and why, in words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held: BTreeMap<String, String>,
    /// Topics on which messages have ended the connection time and again, and what becomes of their records, in words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub barred: BTreeMap<String, String>,
    /// PUBACKs that nothing was waiting for.
    pub unsolicited_acks: u64,
    /// Connections given up because an acknowledgement did not come within `ack_timeout`.
    pub ack_timeouts: u64,
    /// Connections that TLS did not come about on, by the reason's short name (see `mqtt::tls`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tls_failures: BTreeMap<String, u64>,
    /// Messages that the broker did not take, by the reason's short name (MQTT 5 table 2-6), each time counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refusals: BTreeMap<String, u64>,
    /// What the broker does not do, or does otherwise than it was asked to, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// How `mqtt.budget` stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// As it is configured: `50MiB/day`.
    pub limit: String,
    /// The limit in bytes.
    pub bytes: u64,
    /// What of it is used, in bytes.
    pub used: u64,
    /// When it begins anew, in milliseconds since 1970; none while the clock is not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_ms: Option<u64>,
}

/// The local API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ApiStatus {
    /// Connections that are open now.
    pub open: u64,
    /// Connections so far.
    pub connections: u64,
    /// Idle or slow connections ended to make room for new ones.
    pub sent_away: u64,
    /// Requests of users who may not use the socket.
    pub forbidden: u64,
    /// What became of requests, by method and route (`GET /v1/health`); `other` are those that no route has.
    pub requests: BTreeMap<String, Outcomes>,
    /// Requests by the number of their user; `other` are users beyond the first sixteen.
    pub users: BTreeMap<String, u64>,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Answered with a status below 400.
    pub ok: u64,
    /// Answered with 400 to 499: the client did something wrong, or came at a bad time.
    pub client_errors: u64,
    /// Answered with 500 to 599: something does not work. The 503 of `GET /v1/health` is one of them.
    pub server_errors: u64,
}

/// Commands to devices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CommandsStatus {
    /// The session with the broker in which they come.
    pub session: SessionStatus,
    /// What became of them.
    pub counts: CommandCounts,
}

/// The session with the broker in which commands come, and messages for the application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Where it stands. `connected`: the broker has confirmed the subscription.
    pub state: LinkState,
    /// The server that is connected or was tried last, as configured, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Why it is not connected, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state, milliseconds since 1970.
    pub since_ms: u64,
    /// Confirmed subscriptions so far.
    pub connects: u64,
    /// Messages received.
    pub received: u64,
    /// Sessions that had to be given up with all commands in them, since the broker sent something that can't be taken.
    pub resets: u64,
    /// Topic filters that the broker does not allow us to subscribe to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<String>,
    /// What the broker does otherwise than it was asked to, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Topic filters that are not subscribed to, since the broker seems to keep something there that can't be taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<String>,
}

/// What became of commands since the sidecar started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CommandCounts {
    /// Noted and handed to their device.
    pub begun: u64,
    /// Done, with an answer where one is awaited.
    pub done: u64,
    /// It did not work, or nobody knows.
    pub failed: u64,
    /// Too late to begin.
    pub expired: u64,
    /// Not allowed, malformed, too many.
    pub refused: u64,
    /// They came again, and were not carried out again.
    pub repeated: u64,
    /// Refusals, expiries and repetitions that got no reply, since there were too many of them.
    pub unanswered: u64,
    /// Why commands can't be noted now; none is carried out meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_error: Option<String>,
}

/// The application's inbox: messages from the broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InboxStatus {
    /// Messages that are kept.
    pub kept: u64,
    /// Their bytes, topics included.
    pub bytes: u64,
    /// The number of the latest one.
    pub latest: u64,
    /// Messages taken in since the sidecar started.
    pub received: u64,
    /// Messages that came again and were not taken in again.
    pub repeated: u64,
    /// Messages that had to go before any client had read them.
    pub dropped: u64,
    /// Messages that were too large, or had no usable topic.
    pub refused: u64,
    /// Why messages can't be kept now; they are not acknowledged, and come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The configuration store: keys from the broker, kept for the application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SettingsStatus {
    /// Whether it has all that the broker has.
    pub synced: bool,
    /// Keys.
    pub keys: u64,
    /// Bytes of all values and keys.
    pub bytes: u64,
    /// Values that were new, since the sidecar started.
    pub updates: u64,
    /// Keys that were deleted.
    pub deletions: u64,
    /// Values that were not taken: too large, or too many.
    pub refused: u64,
    /// Keys whose files were damaged.
    pub damaged: u64,
    /// Keys that the broker did not send when it was asked for all, and that are kept, since it may have lost them.
    pub unconfirmed: u64,
    /// Why values can't be kept now; they are not acknowledged, and come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One stream. The ledger balances, always:
/// `accepted = delivered + waiting + evicted + expired + quarantined`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Records taken in, ever.
    pub accepted: u64,
    /// Records that the broker acknowledged.
    pub delivered: u64,
    /// Records that wait for an acknowledgement.
    pub waiting: u64,
    /// Records dropped because the stream was full.
    pub evicted: u64,
    /// Records dropped because they were older than `max_age`.
    pub expired: u64,
    /// Records that were damaged on disk, or that the broker can't take.
    pub quarantined: u64,
    /// Records never taken in: the stream was full or they were wrong.
    pub refused: u64,
    /// Bytes on flash.
    pub bytes: u64,
    /// Age of the oldest waiting record in seconds, if one waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_s: Option<u64>,
    /// Why records of this stream can't be written to flash now; they are held in memory meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_error: Option<String>,
    /// Why records of this stream can't be written to `runtime_dir` now; a kill costs what is not on flash meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_error: Option<String>,
}

impl StreamStatus {
    /// Whether the ledger balances.
    pub fn balances(&self) -> bool {
        let parts = [self.delivered, self.waiting, self.evicted, self.expired, self.quarantined];
        self.accepted == parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Whether a device can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// It is open.
    Online,
    /// It is not; the reason says why.
    Offline,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// What it is: `serial`, `gpio`, `modbus` (a bus), `modbus-unit`.
    pub kind: String,
    /// Whether it can be talked to.
    pub state: DeviceState,
    /// Why it is offline, or what does not work although it is online, in words that say what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state, milliseconds since 1970.
    pub since_ms: u64,
    /// Times it was opened.
    pub opens: u64,
    /// When it was last heard of, milliseconds since 1970, if it was and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// Bytes received.
    pub bytes: u64,
    /// Whole frames received.
    pub frames: u64,
    /// Frames longer than `framing.max`, skipped.
    pub oversize: u64,
    /// Empty frames, skipped.
    pub empty: u64,
    /// Frames cut off because the device vanished or fell silent in the middle of one.
    pub incomplete: u64,
    /// Frames with a wrong CRC, escape or length, skipped.
    #[serde(default)]
    pub damaged: u64,
    /// Times that the next frame was found by its CRC, for nothing else showed where it began.
    #[serde(default)]
    pub resyncs: u64,
    /// Frames whose bytes are no text (not UTF-8, or with a NUL) and travel as base64.
    pub not_text: u64,
    /// Of a Modbus bus or unit: what became of its requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusStatus>,
    /// What only a GPIO line has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpio: Option<GpioStatus>,
}

/// What became of the requests to a Modbus unit, or of all requests on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModbusStatus {
    /// Requests that were sent.
    pub requests: u64,
    /// Requests that nothing came back to.
    pub timeouts: u64,
    /// Requests that something came back to that is no answer to them: a wrong CRC, part of a frame, another function.
    pub garbled: u64,
    /// Requests that were answered with an exception.
    pub exceptions: u64,
    /// Whole frames that nobody was waiting for, such as late answers: of a bus only.
    pub strays: u64,
}

/// A GPIO line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpioStatus {
    /// The level that is known last, after `active_low`; none while the line is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<bool>,
    /// Edges that the kernel has handed over.
    pub edges: u64,
    /// Edges that it dropped because they came too fast, or an output's values that found no room.
    pub lost: u64,
    /// A counter's total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Who debounces: `kernel` or `software`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce: Option<String>,
    /// What is worth knowing and not wrong now: a counter's file was damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

impl DeviceStatus {
    /// A device of this kind that has not been opened yet.
    pub fn closed(kind: &str, since_ms: u64) -> Self {
        DeviceStatus {
            kind: kind.to_owned(),
            state: DeviceState::Offline,
            reason: Some("not opened yet".to_owned()),
            since_ms,
            opens: 0,
            last_ms: None,
            bytes: 0,
            frames: 0,
            oversize: 0,
            empty: 0,
            incomplete: 0,
            damaged: 0,
            resyncs: 0,
            not_text: 0,
            modbus: None,
            gpio: None,
        }
    }
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the device.
    Sent,
    /// From the device.
    Received,
}

/// What passed a port at once: an element of `GET /v1/devices/NAME/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Which way.
    pub direction: Direction,
    /// How many bytes there were.
    pub count: u64,
    /// The bytes in hexadecimal, the last ones if there were more than are kept.
    pub hex: String,
}

/// The question for the last bytes of a port.
pub type TraceRequest = oneshot::Sender<Vec<TraceEntry>>;

/// The question for the application's status, with what it uses now.
pub type AppRequest = oneshot::Sender<AppStatus>;
