//! `[[serial]]`: the devices.

use super::reader::{Report, Section};
use super::tree::{Place, Table, Value};
use super::{DataBits, Flow, Parity, PayloadRule, Serial, StopBits, UsbId, commands, framing, keys, port, values};
use std::collections::BTreeMap;
use std::path::PathBuf;

const MOST_DEVICES: usize = 64;
const EXAMPLE_PATH: &str = "/dev/serial/by-id/usb-…";

/// Names and paths that devices have, of whatever kind, and where they stand.
#[derive(Debug, Default)]
pub(super) struct Taken {
    names: BTreeMap<PathBuf, Place>,
    paths: BTreeMap<PathBuf, Place>,
}

impl Taken {
    /// Notes a device's name and path, and a problem if another has them. What is absent or wrong is empty here, and
    /// was reported.
    pub(super) fn note(&mut self, section: &Section<'_>, report: &mut Report<'_>, name: &str, path: Option<&PathBuf>) {
        if !name.is_empty() {
            unique(section, report, &mut self.names, "name", PathBuf::from(name));
        }
        if let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) {
            unique(section, report, &mut self.paths, "path", path.clone());
        }
    }
}

/// Reads all devices, in the order of the files.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, max_payload: usize, taken: &mut Taken) -> Vec<Serial> {
    let list = root.read(report, "serial", |value| match value {
        Value::List(list) if list.len() > MOST_DEVICES => {
            Err(format!("there are {} devices; give at most {MOST_DEVICES}", list.len()))
        }
        Value::List(list) => Ok(list),
        other => Err(format!("{} is not a list; write [[serial]] once for each device", values::show(other))),
    });
    let mut devices = Vec::new();
    for (index, node) in list.into_iter().flatten().enumerate() {
        let Value::Table(table) = &node.value else {
            let message = format!("{} is not a table; write [[serial]] and its keys below", values::show(&node.value));
            report.problem(node.place, format!("serial[{index}]"), message);
            continue;
        };
        let section = Section::at(&keys::SERIAL, dotted_name(table, index), node.place, table);
        let device = device(&section, report, max_payload);
        taken.note(&section, report, &device.name, Some(&device.path));
        devices.push(device);
    }
    devices
}

/// `serial.NAME`, or `serial[N]` (from 0) where the name is missing or wrong.
fn dotted_name(table: &Table, index: usize) -> String {
    match table.get("name").map(|entry| &entry.node.value) {
        Some(Value::Text(name)) if values::name(name).is_ok() => format!("serial.{name}"),
        _ => format!("serial[{index}]"),
    }
}

/// Notes a name or path that another device has. Paths compare by their parts: `//` and `/./` make no difference.
fn unique(
    section: &Section<'_>,
    report: &mut Report<'_>,
    seen: &mut BTreeMap<PathBuf, Place>,
    key: &str,
    value: PathBuf,
) {
    let place = section.place(key);
    let shown = values::quoted(&value.to_string_lossy());
    let Some(first) = seen.get(&value) else {
        seen.insert(value, place);
        return;
    };
    let first = report.where_is(*first);
    let message = format!("{shown} is taken by the device at {first}; give each device its own {key}");
    report.problem(place, section.key(key), message);
}

fn device(section: &Section<'_>, report: &mut Report<'_>, max_payload: usize) -> Serial {
    section.refuse_unknown(report);
    let data_bits = |value: &Value| match values::number(value, 5..=8, "give 5, 6, 7 or 8")? {
        5 => Ok(DataBits::Five),
        6 => Ok(DataBits::Six),
        7 => Ok(DataBits::Seven),
        _ => Ok(DataBits::Eight),
    };
    let flow = [("none", Flow::None), ("software", Flow::Software), ("hardware", Flow::Hardware)];
    let payload = [
        ("auto", PayloadRule::Auto),
        ("text", PayloadRule::Text),
        ("base64", PayloadRule::Base64),
        ("raw", PayloadRule::Raw),
    ];
    let payload = section.choice(report, "payload", &payload).unwrap_or_default();
    let (path, usb) = path_or_usb(section, report);
    Serial {
        name: name(section, report, "\"meter\""),
        path,
        usb,
        baud: baud(section, report).unwrap_or(9600),
        data_bits: section.read(report, "data_bits", data_bits).unwrap_or(DataBits::Eight),
        parity: parity(section, report).unwrap_or(Parity::None),
        stop_bits: stop_bits(section, report),
        flow: section.choice(report, "flow", &flow).unwrap_or(Flow::None),
        rs485: port::rs485(section, report),
        low_latency: section.read(report, "low_latency", values::boolean).unwrap_or(false),
        dtr: section.read(report, "dtr", values::boolean),
        rts: section.read(report, "rts", values::boolean),
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
    section.choice(report, "parity", &[("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)])
}

/// `stop_bits`
pub(super) fn stop_bits(section: &Section<'_>, report: &mut Report<'_>) -> StopBits {
    let stop_bits = |value: &Value| match values::number(value, 1..=2, "give 1 or 2")? {
        1 => Ok(StopBits::One),
        _ => Ok(StopBits::Two),
    };
    section.read(report, "stop_bits", stop_bits).unwrap_or(StopBits::One)
}
