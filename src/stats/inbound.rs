//! What comes from the broker and is kept for the application: messages, and the keys of its configuration.

use serde::{Deserialize, Serialize};

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
