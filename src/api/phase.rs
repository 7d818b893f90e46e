//! What a connection is doing, and so how long it may go on: the handler of a request says it, the server acts on it.
//!
//! ```text
//! Idle ──head──> Request <──────────> Body
//!  ^                ├<──────────> Wait
//!  │                ├──────answer──────────────────> Idle
//!  │                ├──> Upload ──> Request
//!  │                └──> Stream ──> Idle, or Cut
//!  └── from the start
//! ```

use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for the head of a request; hyper minds the time.
    Idle,
    /// A request is under way: from its head to the last byte of its answer. The server minds the time.
    Request,
    /// The same, while its body is waited for.
    Body,
    /// The same, while it waits for something to happen, as its client has asked.
    Wait,
    /// A body is taken in that may be of any length; its handler minds the time.
    Upload,
    /// The answer goes on until the client or we have enough of it.
    Stream,
    /// The client doesn't read: the connection ends at once, whatever is still to be sent.
    Cut,
}

/// The phase of a connection and since when; cheap to clone. Every request of a connection has the same one.
#[derive(Debug, Clone)]
pub(super) struct Phases(Arc<watch::Sender<(Phase, Instant)>>);

impl Phases {
    /// Of a new connection.
    pub(super) fn new() -> Phases {
        Phases(Arc::new(watch::channel((Phase::Idle, Instant::now())).0))
    }

    /// From now on the connection is in this phase; its time begins anew.
    pub(super) fn enter(&self, phase: Phase) {
        self.0.send_replace((phase, Instant::now()));
    }

    /// The phase, and since when.
    pub(super) fn now(&self) -> (Phase, Instant) {
        *self.0.borrow()
    }

    /// For waiting until it changes.
    pub(super) fn watch(&self) -> watch::Receiver<(Phase, Instant)> {
        self.0.subscribe()
    }
}
