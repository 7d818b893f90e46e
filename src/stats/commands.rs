//! Commands to devices, and the session with the broker in which they and the application's messages come.

use super::LinkState;
use serde::{Deserialize, Serialize};

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
