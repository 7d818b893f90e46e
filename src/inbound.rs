//! What comes from the broker for others than devices: messages for the application, its configuration, and word of the
//! neighbours.
//!
//! Constraint: plain data, but for the channels by which a receiver says that it has a message.

use tokio::sync::oneshot;

/// A message on its way to the flow that wants it.
#[derive(Debug)]
pub struct Delivered {
    /// What is left of the topic: below `P/app/set/` or `P/config/`; of a neighbour all of it.
    pub topic: String,
    /// The payload as it came.
    pub payload: Vec<u8>,
    /// The broker had kept it for whoever subscribes.
    pub retained: bool,
    /// The packet id, where it came with QoS 1.
    pub packet: Option<u16>,
    /// The broker says that it may have sent it before, under the same packet id.
    pub redelivered: bool,
    /// Answered when it need not come again. Dropped when it shall come again.
    pub noted: oneshot::Sender<()>,
}

/// What the configuration store hears from the broker, in this order: a round begins, messages, the round is complete; or
/// the connection is lost at any time.
#[derive(Debug)]
pub enum Settings {
    /// The broker was asked for all keys: from now on they come.
    Round {
        /// Which broker.
        server: String,
        /// It still knew our session: it has not lost its memory since we were connected last.
        remembered: bool,
    },
    /// A key and its value.
    Message(Delivered),
    /// All keys that the broker has have come since the round began.
    Complete,
    /// There is no connection any more.
    Lost,
}
