//! What pillion says about itself: the status document and its parts.
//!
//! Constraints: these are copied snapshots, never live state. Their serialised form is the contract of
//! `GET /v1/status`, `pillion status --json` and `P/health`: fields are added, never renamed. Unknown fields are ignored
//! when read, so that an older command line reads a newer sidecar.
//!
//! A new number: its field in the file of its subject, its family in `api/metrics`, and, where they speak of the subject, its
//! schema in `api/openapi.json` and its words in `cli/screen`.

mod app;
mod clients;
mod commands;
mod device;
mod host;
mod inbound;
mod link;
mod logs;
mod reload;
mod stream;

pub use app::{AppRequest, AppState, AppStatus, AppUsage, HeartbeatState, HeartbeatStatus, LastExit};
pub use clients::{ApiStatus, Outcomes};
pub use commands::{CommandCounts, CommandsStatus, SessionStatus};
pub use device::{DeviceState, DeviceStatus, Direction, GpioStatus, ModbusStatus, TraceEntry, TraceRequest};
pub use host::{
    ClockSync, DiskSpace, Facts, FlashWear, HostStatus, Hundredths, Interface, Load, Memory, Os, Power, Pressure,
    SpareBlocks, Stall, Temperature,
};
pub use inbound::{InboxStatus, SettingsStatus};
pub use link::{BudgetStatus, LinkState, LinkStatus, ServerState, ServerStatus};
pub use logs::{LogsState, LogsStatus};
pub use reload::{ConfigurationStatus, MOST_PROBLEMS, ReloadOutcome, ReloadRequest, ReloadStatus};
pub use stream::StreamStatus;

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
