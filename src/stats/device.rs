//! A device: whether it can be talked to, what came from it, and what passed its port last.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Whether a device can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// It is open.
    Online,
    /// It is not; the reason says why.
    Offline,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// What it is: `serial`, `gpio`, `modbus` (a bus), `modbus-unit`.
    pub kind: String,
    /// Whether it can be talked to.
    pub state: DeviceState,
    /// Why it is offline, or what does not work although it is online, in words that say what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state, milliseconds since 1970.
    pub since_ms: u64,
    /// Times it was opened.
    pub opens: u64,
    /// When it was last heard of, milliseconds since 1970, if it was and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// Bytes received.
    pub bytes: u64,
    /// Whole frames received.
    pub frames: u64,
    /// Frames longer than `framing.max`, skipped.
    pub oversize: u64,
    /// Empty frames, skipped.
    pub empty: u64,
    /// Frames cut off because the device vanished or fell silent in the middle of one.
    pub incomplete: u64,
    /// Frames with a wrong CRC, escape or length, skipped.
    #[serde(default)]
    pub damaged: u64,
    /// Times that the next frame was found by its CRC, for nothing else showed where it began.
    #[serde(default)]
    pub resyncs: u64,
    /// Frames whose bytes are no text (not UTF-8, or with a NUL) and travel as base64.
    pub not_text: u64,
    /// Of a Modbus bus or unit: what became of its requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusStatus>,
    /// What only a GPIO line has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpio: Option<GpioStatus>,
}

impl DeviceStatus {
    /// A device of this kind that has not been opened yet.
    pub fn closed(kind: &str, since_ms: u64) -> Self {
        DeviceStatus {
            kind: kind.to_owned(),
            state: DeviceState::Offline,
            reason: Some("not opened yet".to_owned()),
            since_ms,
            opens: 0,
            last_ms: None,
            bytes: 0,
            frames: 0,
            oversize: 0,
            empty: 0,
            incomplete: 0,
            damaged: 0,
            resyncs: 0,
            not_text: 0,
            modbus: None,
            gpio: None,
        }
    }

    /// Enters a state at `now_ms`, in milliseconds since 1970. Returns whether that is news: a device that stays as it is
    /// for the same reason is none.
    pub fn enter(&mut self, state: DeviceState, reason: Option<&str>, now_ms: u64) -> bool {
        if self.state == state && self.reason.as_deref() == reason {
            return false;
        }
        if self.state != state {
            self.since_ms = now_ms;
        }
        self.state = state;
        self.reason = reason.map(str::to_owned);
        true
    }
}

/// What became of the requests to a Modbus unit, or of all requests on a bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ModbusStatus {
    /// Requests that were sent.
    pub requests: u64,
    /// Requests that nothing came back to.
    pub timeouts: u64,
    /// Requests that something came back to that is no answer to them: a wrong CRC, part of a frame, another function.
    pub garbled: u64,
    /// Requests that were answered with an exception.
    pub exceptions: u64,
    /// Whole frames that nobody was waiting for, such as late answers: of a bus only.
    pub strays: u64,
}

/// A GPIO line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GpioStatus {
    /// The level that is known last, after `active_low`; none while the line is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<bool>,
    /// Edges that the kernel has handed over.
    pub edges: u64,
    /// Edges that it dropped because they came too fast, or an output's values that found no room.
    pub lost: u64,
    /// A counter's total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Who debounces: `kernel` or `software`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debounce: Option<String>,
    /// What is worth knowing and not wrong now: a counter's file was damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the device.
    Sent,
    /// From the device.
    Received,
}

/// What passed a port at once: an element of `GET /v1/devices/NAME/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Which way.
    pub direction: Direction,
    /// How many bytes there were.
    pub count: u64,
    /// The bytes in hexadecimal, the last ones if there were more than are kept.
    pub hex: String,
}

/// The question for the last bytes of a port.
pub type TraceRequest = oneshot::Sender<Vec<TraceEntry>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_never_counts_from_when_only_its_reason_changed() {
        let mut device = DeviceStatus::closed("serial", 1);
        assert!(device.enter(DeviceState::Offline, Some("busy"), 2));
        assert!(!device.enter(DeviceState::Offline, Some("busy"), 3));
        assert_eq!((device.since_ms, device.reason.as_deref()), (1, Some("busy")));
        assert!(device.enter(DeviceState::Online, None, 4));
        assert_eq!((device.state, device.since_ms, device.reason), (DeviceState::Online, 4, None));
    }
}
