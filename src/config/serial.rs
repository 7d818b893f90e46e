//! `[[serial]]`: the devices.

use super::devices::{self, Names, sections};
use super::effective::Toml;
use super::port::{FLOWS, PARITIES};
use super::reader::{Report, Section};
use super::tree::Value;
use super::{Commands, DataBits, Framing, Line, Parity, StopBits, UsbId, commands, framing, keys, port, values};
use crate::record::PayloadRule;
use std::path::PathBuf;

/// `[[serial]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// `[a-z0-9_-]{1,32}`, unique over all devices.
    pub name: String,
    /// What its port is opened with.
    pub line: Line,
    /// How bytes become frames.
    pub framing: Framing,
    /// How frames become payloads.
    pub payload: PayloadRule,
    /// Which commands it takes; `None`: none at all.
    pub commands: Option<Commands>,
}

const PAYLOADS: [(&str, PayloadRule); 4] = [
    ("auto", PayloadRule::Auto),
    ("text", PayloadRule::Text),
    ("base64", PayloadRule::Base64),
    ("raw", PayloadRule::Raw),
];
const EXAMPLE_PATH: &str = "/dev/serial/by-id/usb-…";

/// Names and paths that devices have, of whatever kind, and where they stand.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub names: Names,
    paths: devices::Taken,
}

impl Taken {
    /// Notes a device's name and path, and a problem if another has them. What is absent or wrong is empty here, and
    /// was reported.
    pub(super) fn note(&mut self, section: &Section<'_>, report: &mut Report<'_>, name: &str, path: Option<&PathBuf>) {
        self.names.claim(section, report, name);
        if let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) {
            // Paths compare by their parts: `//` and `/./` make no difference.
            self.paths.claim(section, report, "path", path.clone(), &path.to_string_lossy());
        }
    }
}

/// Reads all devices, in the order of the files.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, max_payload: usize, taken: &mut Taken) -> Vec<Serial> {
    let mut devices = Vec::new();
    for section in sections(root, report, &keys::SERIAL, "serial") {
        let device = device(&section, report, max_payload);
        taken.note(&section, report, &device.name, Some(&device.line.path));
        devices.push(device);
    }
    devices
}

fn device(section: &Section<'_>, report: &mut Report<'_>, max_payload: usize) -> Serial {
    section.refuse_unknown(report);
    let data_bits = |value: &Value| match values::number(value, 5..=8, "give 5, 6, 7 or 8")? {
        5 => Ok(DataBits::Five),
        6 => Ok(DataBits::Six),
        7 => Ok(DataBits::Seven),
        _ => Ok(DataBits::Eight),
    };
    let payload = section.choice(report, "payload", &PAYLOADS).unwrap_or_default();
    let (path, usb) = path_or_usb(section, report);
    let default = Line::at(path);
    Serial {
        name: name(section, report, "\"meter\""),
        line: Line {
            usb,
            baud: baud(section, report).unwrap_or(default.baud),
            data_bits: section.read(report, "data_bits", data_bits).unwrap_or(default.data_bits),
            parity: parity(section, report).unwrap_or(default.parity),
            stop_bits: stop_bits(section, report),
            flow: section.choice(report, "flow", &FLOWS).unwrap_or(default.flow),
            rs485: port::rs485(section, report),
            low_latency: section.read(report, "low_latency", values::boolean).unwrap_or(default.low_latency),
            dtr: section.read(report, "dtr", values::boolean),
            rts: section.read(report, "rts", values::boolean),
            ..default
        },
        framing: framing::read(section, report, payload, max_payload),
        payload,
        commands: commands::read(section, report),
    }
}

/// `name`; empty if it is absent or wrong.
pub(super) fn name(section: &Section<'_>, report: &mut Report<'_>, example: &str) -> String {
    let name = |value| values::name(values::text(value)?).map(str::to_owned);
    section.required(report, "name", example, name).unwrap_or_default()
}

/// `path`, or `usb` instead; empty and `None` where they are absent or wrong.
pub(super) fn path_or_usb(section: &Section<'_>, report: &mut Report<'_>) -> (PathBuf, Option<UsbId>) {
    let path = |value| values::absolute_path(values::text(value)?, EXAMPLE_PATH);
    if !section.has("usb") {
        let path = section.required(report, "path", &values::quoted(EXAMPLE_PATH), path);
        return (path.unwrap_or_default(), None);
    }
    if section.has("path") {
        let message = "stands beside path; remove one of them: path is a place, usb an adapter wherever it is";
        report.problem(section.place("usb"), section.key("usb"), message.to_owned());
    }
    (PathBuf::new(), section.read(report, "usb", port::usb))
}

/// `baud`
pub(super) fn baud(section: &Section<'_>, report: &mut Report<'_>) -> Option<u32> {
    let baud = |value: &Value| values::number(value, 1..=i64::from(u32::MAX), "give the bits per second, such as 9600");
    section.read(report, "baud", baud)
}

/// `parity`
pub(super) fn parity(section: &Section<'_>, report: &mut Report<'_>) -> Option<Parity> {
    section.choice(report, "parity", &PARITIES)
}

/// `stop_bits`
pub(super) fn stop_bits(section: &Section<'_>, report: &mut Report<'_>) -> StopBits {
    let stop_bits = |value: &Value| match values::number(value, 1..=2, "give 1 or 2")? {
        1 => Ok(StopBits::One),
        _ => Ok(StopBits::Two),
    };
    section.read(report, "stop_bits", stop_bits).unwrap_or(StopBits::One)
}

impl Serial {
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[[serial]]");
        out.text("name", &self.name);
        let line = &self.line;
        line.place(out);
        out.plain("baud", line.baud);
        out.plain("data_bits", line.data_bits.number());
        out.choice("parity", &PARITIES, line.parity);
        out.plain("stop_bits", line.stop_bits.number());
        out.choice("flow", &FLOWS, line.flow);
        line.specials(out);
        for (key, level) in [("dtr", line.dtr), ("rts", line.rts)] {
            if let Some(level) = level {
                out.plain(key, level);
            }
        }
        out.plain("framing", self.framing.to_toml());
        out.choice("payload", &PAYLOADS, self.payload);
        if let Some(commands) = &self.commands {
            out.plain("commands", commands.toml());
        }
    }
}
