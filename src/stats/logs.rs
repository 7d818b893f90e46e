//! The application's log in the status document.

use serde::{Deserialize, Serialize};

/// Where reading the application's journal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogsState {
    /// It is not read: no unit is configured, or `app.logs = false`. Lines may come through the local API.
    #[default]
    Off,
    /// journalctl has just been started.
    Starting,
    /// Each line is read when it comes.
    Following,
    /// It can't be read; the reason says why. It is tried again.
    Failed,
}

/// The application's log, since the sidecar started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogsStatus {
    /// Where reading the journal stands.
    pub state: LogsState,
    /// Why it can't be read, in words that say what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state, milliseconds since 1970.
    pub since_ms: u64,
    /// Lines read from the journal.
    pub read: u64,
    /// Lines that came through the local API.
    pub posted: u64,
    /// Lines that are on their way to the broker, or there.
    pub shipped: u64,
    /// Lines that are less severe than `app.log_level`; they are in the flight recorder only.
    pub below_level: u64,
    /// Lines beyond `app.log_rate`; they are in the flight recorder only.
    pub suppressed: u64,
    /// Lines from the flight recorder that were shipped after an error.
    pub recorder: u64,
    /// Records made of them.
    pub records: u64,
    /// Lines whose end, or some of whose fields, are missing, for they were too long.
    pub truncated: u64,
    /// What came from journalctl and was no line.
    pub rubbish: u64,
    /// Times that the journal could not be read, or that reading broke off.
    pub failures: u64,
    /// Times that the journal did not have any more what was to be read next.
    pub gaps: u64,
    /// When the line was written to the journal that was read last, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// When the position in the journal was written to flash, milliseconds since 1970: what was shipped since then may come
    /// twice after a power cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_ms: Option<u64>,
    /// Why the position can't be noted now; lines may come twice after a kill or a power cut meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note_error: Option<String>,
}
