//! The connection to the broker that takes the records: where it stands, what went over it, and each server.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
