//! The ingest flow: everything that becomes a record comes through here, in order, on its way into the spool.
//!
//! Devices, the local API and the health flow share one bounded channel: when the spool is slow, they wait, and a
//! serial port that waits leaves its bytes to the kernel.

use crate::pulse::Pulse;
use crate::record::{StreamId, Submission};
use crate::spool::thread::Handle;
use tokio::sync::{mpsc, watch};

/// Submissions that wait for the spool before their senders wait themselves.
pub const WAITING: usize = 64;

/// `refused` tells of records that were wrong and never came this far. Runs until every sender is gone, or `stop` is
/// set and what had been sent by then is in the spool.
pub async fn run(
    mut submissions: mpsc::Receiver<Submission>,
    mut refused: mpsc::Receiver<(StreamId, u64)>,
    spool: Handle,
    mut pulse: Pulse,
    mut stop: watch::Receiver<bool>,
) {
    let mut batch = Vec::with_capacity(WAITING);
    loop {
        tokio::select! {
            count = submissions.recv_many(&mut batch, WAITING) => {
                if count == 0 {
                    return;
                }
            }
            Some((stream, count)) = refused.recv() => {
                if spool.refuse(stream, count).await.is_err() {
                    return;
                }
            }
            () = pulse.answer() => {}
            // Senders get an error from now on; what is in the channel still comes.
            _ = stop.changed() => submissions.close(),
        }
        for submission in batch.drain(..) {
            if spool.append(submission).await.is_err() {
                return;
            }
        }
    }
}
