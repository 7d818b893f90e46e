//! The logs flow: the application's lines, from its journal and from the local API, on their way to the log stream.
//!
//! Lines of all levels go into the flight recorder. Those that are severe enough, and not too many, are shipped: many in one
//! record (`batch`). After an error the others in the flight recorder are shipped, too, which say how it came to that. Whoever
//! asks for the latest lines gets them when the journal has been read up to now.
//!
//! Constraints: what is held is one batch and one record's worth; while the log stream refuses it, nothing more is read, and the
//! journal keeps what comes. `position` tells how lines come neither twice nor never. When a reload changes the settings, what came
//! under the old ones is handed over by them, and reading goes on where it was.
//!
//! States of the journal: *off*, *resting* (it can't be read; the back-off runs), *reading* (what was there, or what comes).

mod batch;
mod bookmark;
mod flow;
mod limit;
mod outbox;
mod position;
mod recorder;
mod tail;
#[cfg(test)]
mod tests;

pub use bookmark::Unsaved;
pub use limit::NAMES as LEVELS;

use crate::app::journal::Journal;
use crate::logline::{Posted, RecentRequest};
use crate::pulse::Pulse;
use crate::record::{Clock, Submission};
use crate::spool::Newest;
use crate::stats::LogsStatus;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot, watch};

/// Questions for the flight recorder that wait.
pub const REQUESTS: usize = 4;
/// Posts that wait for the flow before their senders wait themselves.
pub const POSTS: usize = 8;
/// The topic of records of lines, below the prefix.
pub const TOPIC: &str = "log";

/// What is read, and how much of it goes out. A reload may change all but the unit, the folders and the size of messages.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The unit that records name.
    pub unit: Option<String>,
    /// Its journal, if that is to be read.
    pub journal: Option<Journal>,
    /// The least severe priority that is shipped, 0 to 7.
    pub level: u8,
    /// Lines per second that are shipped; 0: no limit.
    pub rate: u32,
    /// Size of the flight recorder in bytes.
    pub recorder: usize,
    /// `mqtt.max_payload`
    pub max_payload: usize,
    /// Where the position is noted after each batch.
    pub runtime_dir: PathBuf,
    /// Where it is noted for good.
    pub state_dir: PathBuf,
    /// The kernel's boot id: of which boot a note is.
    pub boot_id: String,
}

/// What the flow speaks to.
pub struct Wiring {
    /// Questions for the flight recorder.
    pub recent: mpsc::Receiver<RecentRequest>,
    /// Lines from the local API.
    pub posts: mpsc::Receiver<Posted>,
    /// Into the ingest flow.
    pub submissions: mpsc::Sender<Submission>,
    /// The newest record of lines that waits in the spool, asked for before anything could be acknowledged.
    pub newest: oneshot::Receiver<Newest>,
    /// What is shown of the flow.
    pub status: watch::Sender<LogsStatus>,
    /// Where time stamps come from.
    pub clock: Clock,
    /// Its proof of progress.
    pub pulse: Pulse,
    /// Set when it has to stop: when nobody asks any more.
    pub stop: watch::Receiver<bool>,
}

/// Runs until `stop` is set, by the latest settings. Returns the position that is to be saved when the spool has been closed, if it
/// is another than the one on flash.
pub async fn run(settings: watch::Receiver<Settings>, wiring: Wiring) -> Option<Unsaved> {
    flow::Flow::new(settings, wiring).run().await
}
