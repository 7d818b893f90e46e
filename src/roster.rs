//! The devices that there are now, for the flows that have to know of them. A reload of the configuration changes them while
//! these flows run, so it is a `watch` channel that goes round.

use crate::command::Order;
use crate::config::Commands;
use crate::stats::{DeviceStatus, TraceRequest};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Every device, in the order of the configuration.
pub type Roster = Arc<[Member]>;

/// A device as the other flows see it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Unique among them.
    pub name: String,
    /// What it says of itself. Another channel is another run of the device's task.
    pub status: watch::Receiver<DeviceStatus>,
    /// Which commands it takes; `None`: none at all.
    pub commands: Option<Commands>,
    /// The way to its task; `None` where it takes no commands.
    pub orders: Option<mpsc::Sender<Order>>,
    /// For the last bytes that have passed. `None`: it does not keep them.
    pub traces: Option<mpsc::Sender<TraceRequest>>,
}
