//! The devices as numbers, one by one.

use super::family::{Family, Value, counter, flag, gauge_if_known, moment};
use super::text::{Row, Text};
use crate::stats::{DeviceState, DeviceStatus, Status};

const DEVICES: &[Family<DeviceStatus>] = &[
    flag("pillion_device_up", "Whether the device can be talked to.", |device| device.state == DeviceState::Online),
    moment("pillion_device_since_timestamp_seconds", "When the device came into its state.", |device| device.since_ms),
    gauge_if_known("pillion_device_last_timestamp_seconds", "When the device was last heard of.", |device| {
        device.last_ms.map(Value::Millis)
    }),
    counter("pillion_device_opens", "Times that the device was opened.", |device| device.opens),
    counter("pillion_device_bytes", "Bytes received.", |device| device.bytes),
    counter("pillion_device_frames", "Whole frames received.", |device| device.frames),
    counter("pillion_device_oversize", "Frames longer than framing.max, skipped.", |device| device.oversize),
    counter("pillion_device_empty", "Empty frames, skipped.", |device| device.empty),
    counter("pillion_device_incomplete", "Frames cut off because the device vanished or fell silent.", |device| {
        device.incomplete
    }),
    counter("pillion_device_damaged", "Frames with a wrong CRC, escape or length, skipped.", |device| device.damaged),
    counter("pillion_device_resyncs", "Times that the next frame was found by its CRC alone.", |device| device.resyncs),
    counter("pillion_device_not_text", "Frames that are no text and travel as base64.", |device| device.not_text),
];

pub(super) fn write(text: &mut Text, status: &Status) {
    text.families(DEVICES, || status.devices.iter().map(row));
}

fn row<'a>((name, device): (&'a String, &'a DeviceStatus)) -> Row<'a, DeviceStatus> {
    (vec![("device", name.as_str()), ("kind", device.kind.as_str())], device)
}
