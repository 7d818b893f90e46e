//! A line of the application's log, whichever way it came: the journal, or the local API.
//!
//! Constraints: plain data; the JSON form is what consumers of `P/log` and of exit reports see, so fields are added, never
//! renamed.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;

/// One line; a multi-line message is one, too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was logged: RFC 3339 with microseconds, as the journal has it.
    pub ts: String,
    /// How severe it is: 0 emergency to 7 debug (syslog(3)).
    pub priority: u8,
    /// What it says.
    pub message: String,
    /// The process that logged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The program's name for itself (`SYSLOG_IDENTIFIER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// What else the application said in fields of its own.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// The question for the latest lines, the most verbose ones included, oldest first: the flight recorder. It is answered
/// when what the application has logged until now has been read.
pub type RecentRequest = oneshot::Sender<Vec<LogLine>>;
