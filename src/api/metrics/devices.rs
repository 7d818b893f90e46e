//! The devices as numbers, one by one.

use super::family::{Family, Value, counter, counter_if_known, flag, gauge_if_known, moment};
use super::text::{Label, Text};
use crate::stats::{DeviceState, DeviceStatus, GpioStatus, ModbusStatus, Status};

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

/// Of a bus these are the sums over its units, and the strays.
const MODBUS: &[Family<ModbusStatus>] = &[
    counter("pillion_device_modbus_requests", "Requests that were sent.", |modbus| modbus.requests),
    counter("pillion_device_modbus_timeouts", "Requests that nothing came back to.", |modbus| modbus.timeouts),
    counter("pillion_device_modbus_garbled", "Requests that something came back to that is no answer.", |modbus| {
        modbus.garbled
    }),
    counter("pillion_device_modbus_exceptions", "Requests that were answered with an exception.", |modbus| {
        modbus.exceptions
    }),
    counter("pillion_device_modbus_strays", "Whole frames that nobody was waiting for; of a bus only.", |modbus| {
        modbus.strays
    }),
];

const GPIO: &[Family<GpioStatus>] = &[
    gauge_if_known("pillion_device_gpio_value", "The line's level; none while the line is not ours.", |gpio| {
        gpio.value.map(Value::Flag)
    }),
    counter("pillion_device_gpio_edges", "Edges that the kernel has handed over.", |gpio| gpio.edges),
    counter("pillion_device_gpio_lost", "Edges that came too fast, or values that found no room.", |gpio| gpio.lost),
    counter_if_known("pillion_device_gpio_count", "A counter's total.", |gpio| gpio.count.map(Value::Count)),
];

pub(super) fn write(text: &mut Text, status: &Status) {
    let devices = || status.devices.iter();
    text.families(DEVICES, || devices().map(|(name, device)| (labels(name, device), device)));
    text.families(MODBUS, || {
        devices().filter_map(|(name, device)| Some((labels(name, device), device.modbus.as_ref()?)))
    });
    text.families(GPIO, || devices().filter_map(|(name, device)| Some((labels(name, device), device.gpio.as_ref()?))));
}

fn labels<'a>(name: &'a str, device: &'a DeviceStatus) -> Vec<Label<'a>> {
    vec![("device", name), ("kind", device.kind.as_str())]
}
