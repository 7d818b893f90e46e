//! The logs flow: the application's lines, on their way to the log stream.
//!
//! The flight recorder holds the last lines of all levels, and answers whoever asks for them.

pub mod recorder;

use crate::logline::RecentRequest;
use crate::pulse::Pulse;
use recorder::Recorder;
use tokio::sync::{mpsc, watch};

/// Questions for the flight recorder that wait.
pub const REQUESTS: usize = 4;

/// What the flow speaks to.
pub struct Wiring {
    /// Questions for the flight recorder.
    pub recent: mpsc::Receiver<RecentRequest>,
    /// Its proof of progress.
    pub pulse: Pulse,
    /// Set when it has to stop: when nobody asks any more.
    pub stop: watch::Receiver<bool>,
}

/// Size of the flight recorder in bytes.
const RECORDER: usize = 64 * 1024;

/// Runs until `stop` is set.
pub async fn run(mut wiring: Wiring) {
    let recorder = Recorder::new(RECORDER);
    loop {
        tokio::select! {
            Some(reply) = wiring.recent.recv() => {
                // Who asked may have given up.
                let _ = reply.send(recorder.lines());
            }
            () = wiring.pulse.answer() => {}
            _ = wiring.stop.changed() => return,
        }
    }
}
