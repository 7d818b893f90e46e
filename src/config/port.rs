//! What a `[[serial]]` says of its port beside the line settings: a USB adapter, RS-485.

use super::reader::{Report, Section};
use super::tree::Value;
use super::{Rs485, UsbId, keys, values};
use std::time::Duration;

const EXAMPLE_USB: &str = "\"0403:6001\" or, with its serial number, \"0403:6001:A1000000\"";
const EXAMPLE_RS485: &str = "rs485 = { rts_on_send = true }";
/// The kernel caps these delays at as much (`RS485_MAX_RTS_DELAY` in drivers/tty/serial/serial_core.c).
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// `VENDOR:PRODUCT[:SERIAL]`, as `lsusb` prints the first two.
pub(super) fn usb(value: &Value) -> Result<UsbId, String> {
    let text = values::text(value)?;
    let wrong = || format!("{} is not a USB adapter; write {EXAMPLE_USB}", values::quoted(text));
    let number = |part: &str| match part.len() {
        4 => u16::from_str_radix(part, 16).map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    let mut parts = text.splitn(3, ':');
    let (Some(vendor), Some(product), serial) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong()) };
    if serial.is_some_and(|serial| serial.is_empty() || serial.len() > 126 || serial.chars().any(char::is_control)) {
        return Err(wrong());
    }
    Ok(UsbId { vendor: number(vendor)?, product: number(product)?, serial: serial.map(str::to_owned) })
}

/// The table `rs485`, if there is one.
pub(super) fn rs485(device: &Section<'_>, report: &mut Report<'_>) -> Option<Rs485> {
    if !device.has("rs485") {
        return None;
    }
    let section = device.section(report, &keys::RS485, "rs485", EXAMPLE_RS485);
    section.refuse_unknown(report);
    let delay = |value| values::duration(value, Duration::ZERO..=LONGEST_DELAY, "1ms");
    Some(Rs485 {
        rts_on_send: section.read(report, "rts_on_send", values::boolean).unwrap_or(true),
        delay_before_send: section.read(report, "delay_before_send", delay).unwrap_or_default(),
        delay_after_send: section.read(report, "delay_after_send", delay).unwrap_or_default(),
        rx_during_tx: section.read(report, "rx_during_tx", values::boolean).unwrap_or(false),
    })
}
