//! What is shown of each server.

use serde::{Deserialize, Serialize};

/// One of `mqtt.servers`, as the connection for records has seen it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerStatus {
    /// As configured, without credentials.
    pub server: String,
    /// Where it stands.
    pub state: ServerState,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// CONNACKs so far.
    pub connects: u64,
    /// Tries that came to nothing, and connections that were lost.
    pub failures: u64,
    /// The latest reason for one of those, in words. It stays when the server is well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_ms: Option<u64>,
    /// What is not as it should be in its address: it is not local, and spoken to without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Where a server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Not tried yet.
    #[default]
    Untried,
    /// It is tried.
    Connecting,
    /// It is the one.
    Connected,
    /// The latest try came to nothing, or the connection was lost.
    Failed,
    /// It was well, and was left for a better one.
    Left,
}
