//! A stream's ledger.

use serde::{Deserialize, Serialize};

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
    /// Whether the configuration names it no more: it takes nothing in, and what waits goes out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retired: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl StreamStatus {
    /// Whether the ledger balances.
    pub fn balances(&self) -> bool {
        let parts = [self.delivered, self.waiting, self.evicted, self.expired, self.quarantined];
        self.accepted == parts.into_iter().fold(0, u64::saturating_add)
    }
}
