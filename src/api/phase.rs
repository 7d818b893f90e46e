//! What a connection is doing, and so how long it may go on: the handler of a request says it, the server acts on it.
//!
//! ```text
//! Idle ──head──> Request ──────────answer──────────> Idle
//!                   ├──> Upload ──> Request
//!                   └──> Stream ──> Idle, or Cut
//! ```

use std::sync::Arc;
use tokio::sync::watch;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code)]
pub(super) enum Phase {
    /// It waits for the head of a request; hyper minds the time.
    Idle,
    /// A request is under way: from its head to the last byte of its answer. The server minds the time.
    Request,
    /// A body is taken in that may be of any length; its handler minds the time.
    Upload,
    /// The answer goes on until the client or we have enough of it.
    Stream,
    /// The client doesn't read: the connection ends at once, whatever is still to be sent.
    Cut,
}

/// The writing end; cheap to clone. Every request of a connection has the same one.
#[derive(Debug, Clone)]
pub(super) struct Phases(Arc<watch::Sender<Phase>>);

impl Phases {
    /// Of a new connection.
    pub(super) fn new() -> (Phases, watch::Receiver<Phase>) {
        let (sender, receiver) = watch::channel(Phase::Idle);
        (Phases(Arc::new(sender)), receiver)
    }

    /// From now on the connection is in this phase; its time begins anew.
    pub(super) fn enter(&self, phase: Phase) {
        self.0.send_replace(phase);
    }
}
