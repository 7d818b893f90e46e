//! What a port is opened with, whether it is that of a `[[serial]]` or of a `[[modbus]]`; and how its USB adapter and RS-485
//! are read.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::tree::Value;
use super::units::duration_text;
use super::{keys, values};
use std::path::PathBuf;
use std::time::Duration;

/// What a serial port is opened with, of whatever kind of device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The device node or a link to it; may be absent. Empty where `usb` is given.
    pub path: PathBuf,
    /// The USB adapter, wherever it is plugged in.
    pub usb: Option<UsbId>,
    /// Bits per second, any that the kernel takes (default 9600).
    pub baud: u32,
    /// 5 to 8 (default 8).
    pub data_bits: DataBits,
    /// None by default.
    pub parity: Parity,
    /// 1 or 2 (default 1).
    pub stop_bits: StopBits,
    /// None by default.
    pub flow: Flow,
    /// RS-485 by the driver. `None`: the driver's RS-485 mode is never touched.
    pub rs485: Option<Rs485>,
    /// Whether the driver is asked to hand over each byte at once (default no).
    pub low_latency: bool,
    /// Level of the DTR line when the port is opened. `None`: as the driver has it, which is high as a rule.
    pub dtr: Option<bool>,
    /// Level of the RTS line when the port is opened. `None`: as the driver has it.
    pub rts: Option<bool>,
}

impl Line {
    /// The port at `path` with 9600 8N1 and nothing special, as a `[[serial]]` has it by default.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Line {
            path: path.into(),
            usb: None,
            baud: 9600,
            data_bits: DataBits::Eight,
            parity: Parity::None,
            stop_bits: StopBits::One,
            flow: Flow::None,
            rs485: None,
            low_latency: false,
            dtr: None,
            rts: None,
        }
    }
}

/// `usb = "VENDOR:PRODUCT"` or `"VENDOR:PRODUCT:SERIAL"`: a USB adapter by what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbId {
    /// `idVendor`, four hexadecimal digits.
    pub vendor: u16,
    /// `idProduct`, four hexadecimal digits.
    pub product: u16,
    /// `iSerial`. `None`: any.
    pub serial: Option<String>,
}

impl std::fmt::Display for UsbId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)?;
        self.serial.iter().try_for_each(|serial| write!(f, ":{serial}"))
    }
}

/// `rs485 = { … }`: how the driver switches the line between sending and receiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rs485 {
    /// RTS is high while sending, and low otherwise (default); else the other way round.
    pub rts_on_send: bool,
    /// From RTS to the first bit, 0 to 100 ms (default 0).
    pub delay_before_send: Duration,
    /// From the last bit to RTS, 0 to 100 ms (default 0).
    pub delay_after_send: Duration,
    /// Also receive what is being sent (default no).
    pub rx_during_tx: bool,
}

/// `data_bits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DataBits {
    Five,
    Six,
    Seven,
    Eight,
}

/// `parity`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

/// `stop_bits`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum StopBits {
    One,
    Two,
}

/// `flow`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// No flow control.
    None,
    /// XON/XOFF.
    Software,
    /// RTS/CTS.
    Hardware,
}

pub(super) const PARITIES: [(&str, Parity); 3] = [("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)];
pub(super) const FLOWS: [(&str, Flow); 3] =
    [("none", Flow::None), ("software", Flow::Software), ("hardware", Flow::Hardware)];
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

impl Line {
    /// Where the port is.
    pub(super) fn place(&self, out: &mut Toml) {
        match &self.usb {
            None => out.path("path", &self.path),
            Some(adapter) => out.text("usb", &adapter.to_string()),
        }
    }

    /// What termios does not have.
    pub(super) fn specials(&self, out: &mut Toml) {
        if let Some(rs485) = &self.rs485 {
            let Rs485 { rts_on_send, delay_before_send, delay_after_send, rx_during_tx } = rs485;
            let (before, after) = (duration_text(*delay_before_send), duration_text(*delay_after_send));
            out.plain(
                "rs485",
                format!(
                    "{{ rts_on_send = {rts_on_send}, delay_before_send = \"{before}\", delay_after_send = \"{after}\", \
                     rx_during_tx = {rx_during_tx} }}"
                ),
            );
        }
        out.plain("low_latency", self.low_latency);
    }
}

impl DataBits {
    pub(super) fn number(self) -> u8 {
        match self {
            DataBits::Five => 5,
            DataBits::Six => 6,
            DataBits::Seven => 7,
            DataBits::Eight => 8,
        }
    }
}

impl StopBits {
    pub(super) fn number(self) -> u8 {
        match self {
            StopBits::One => 1,
            StopBits::Two => 2,
        }
    }
}
