//! The accompanied application in the status.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// The accompanied application. Numbers that can't be had are missing: the unit does not run, an older kernel or systemd.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What it does now.
    #[serde(default)]
    pub state: AppState,
    /// The same in systemd's own word (`SubState`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Why nobody knows what it does, in words that say what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The id of this run; systemd gives a new one to each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// Since when it is in this state, milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
    /// Times that systemd has started it again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// What it uses of the machine.
    #[serde(default, flatten)]
    pub usage: AppUsage,
    /// Its heartbeat.
    #[serde(default)]
    pub heartbeat: HeartbeatStatus,
    /// How it ended last, while this sidecar was there or since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
}

impl AppStatus {
    /// Whether nobody is there to do the application's work: it does not run, or does not answer. That nobody knows is not
    /// enough.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, AppState::Restarting | AppState::Stopped | AppState::Failed)
            || self.heartbeat.state == HeartbeatState::Lost
    }
}

/// What the application does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppState {
    /// Nobody knows: no unit is configured, there is none of that name, or systemd does not answer.
    #[default]
    Unknown,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It has ended, and systemd is going to start it again.
    Restarting,
    /// It does not run, and nothing is wrong with that.
    Stopped,
    /// It has ended in a way that counts as a failure, and stays so.
    Failed,
}

/// What the application uses: all processes of its control group together, the descriptors of the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppUsage {
    /// Processor time so far in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ns: Option<u64>,
    /// Memory in bytes, the page cache that it has filled included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The most that this was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// How much of it it may have, in bytes, where there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// Open descriptors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<u64>,
}

/// Whether the application says that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeartbeatState {
    /// Nobody waits for it: there is no `app.heartbeat_timeout`, or the application does not run.
    #[default]
    Off,
    /// The first one has not come, and still may.
    Awaited,
    /// It comes in time.
    Alive,
    /// It has not come for longer than `app.heartbeat_timeout`.
    Lost,
}

/// The heartbeat of the application: `POST /v1/heartbeat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HeartbeatStatus {
    /// How it is.
    #[serde(default)]
    pub state: HeartbeatState,
    /// How long ago the last one came, in milliseconds; before the first one, how long it has been waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// `app.heartbeat_timeout` in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// How the application ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastExit {
    /// Why, as in the exit report.
    pub cause: String,
    /// Its exit code, where it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The name of the signal that ended it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// What happened, as the end of a sentence that begins with its name.
    pub text: String,
    /// When, in milliseconds since 1970, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

/// The question for the application's status, with what it uses now.
pub type AppRequest = oneshot::Sender<AppStatus>;
