//! Devices: one task for each, the only holder of its device's handle.
//!
//! Constraints: a device may be absent, vanish and come back at any time, and none of that ends its task or disturbs
//! another's. A task turns what the device says into submissions and reports on itself through a watch channel; it
//! knows neither broker nor disk.
//!
//! A new kind of device is a file here whose `run` takes its own configuration and a [`Wiring`].

pub mod gpio;
pub mod modbus;
pub mod serial;

use crate::command::Order;
use crate::pulse::Pulse;
use crate::record::{Clock, Submission};
use crate::stats::{DeviceStatus, TraceRequest};
use tokio::sync::{mpsc, watch};

/// Orders that wait for a device before the dispatch flow refuses more.
pub const ORDERS: usize = 16;

/// What a device's task is connected to.
#[derive(Debug)]
pub struct Wiring {
    /// Commands that this device has to carry out, one after the other. Closed where it takes none.
    pub orders: mpsc::Receiver<Order>,
    /// Questions for the last bytes that passed. Closed where nobody asks.
    pub traces: mpsc::Receiver<TraceRequest>,
    /// Where records go. Bounded: while it is full the device is not read, and its data waits in the kernel.
    pub submissions: mpsc::Sender<Submission>,
    /// Where the task reports. Receivers are notified when the state or the reason changes; the counters are kept up
    /// to date in between without waking anybody.
    pub status: watch::Sender<DeviceStatus>,
    /// Where time stamps come from.
    pub clock: Clock,
    /// Answered while the task waits for its device, not while it waits for `submissions`.
    pub pulse: Pulse,
    /// Ends the task when it becomes true, or when nobody can set it any more.
    pub stop: watch::Receiver<bool>,
}
