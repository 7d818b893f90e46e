//! `[[serial]]`: the devices.

use super::reader::{Report, Section};
use super::tree::{Place, Table, Value};
use super::{DataBits, Flow, Parity, PayloadRule, Serial, StopBits, commands, framing, keys, port, values};
use std::collections::BTreeMap;
use std::path::PathBuf;

const MOST_DEVICES: usize = 64;
const EXAMPLE_PATH: &str = "/dev/serial/by-id/usb-…";

/// Reads all devices, in the order of the files.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, max_payload: usize) -> Vec<Serial> {
    let list = root.read(report, "serial", |value| match value {
        Value::List(list) if list.len() > MOST_DEVICES => {
            Err(format!("there are {} devices; give at most {MOST_DEVICES}", list.len()))
        }
        Value::List(list) => Ok(list),
        other => Err(format!("{} is not a list; write [[serial]] once for each device", values::show(other))),
    });
    let mut names = BTreeMap::new();
    let mut paths = BTreeMap::new();
    let mut devices = Vec::new();
    for (index, node) in list.into_iter().flatten().enumerate() {
        let Value::Table(table) = &node.value else {
            let message = format!("{} is not a table; write [[serial]] and its keys below", values::show(&node.value));
            report.problem(node.place, format!("serial[{index}]"), message);
            continue;
        };
        let section = Section::at(&keys::SERIAL, dotted_name(table, index), node.place, table);
        let device = device(&section, report, max_payload);
        // What is absent or wrong is empty here, and was reported.
        if !device.name.is_empty() {
            unique(&section, report, &mut names, "name", PathBuf::from(&device.name));
        }
        if !device.path.as_os_str().is_empty() {
            unique(&section, report, &mut paths, "path", device.path.clone());
        }
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
    let stop_bits = |value: &Value| match values::number(value, 1..=2, "give 1 or 2")? {
        1 => Ok(StopBits::One),
        _ => Ok(StopBits::Two),
    };
    let baud = |value: &Value| values::number(value, 1..=i64::from(u32::MAX), "give the bits per second, such as 9600");
    let name = |value| values::name(values::text(value)?).map(str::to_owned);
    let path = |value| values::absolute_path(values::text(value)?, EXAMPLE_PATH);
    let parity = [("none", Parity::None), ("even", Parity::Even), ("odd", Parity::Odd)];
    let flow = [("none", Flow::None), ("software", Flow::Software), ("hardware", Flow::Hardware)];
    let payload = [
        ("auto", PayloadRule::Auto),
        ("text", PayloadRule::Text),
        ("base64", PayloadRule::Base64),
        ("raw", PayloadRule::Raw),
    ];
    let payload = section.choice(report, "payload", &payload).unwrap_or_default();
    Serial {
        name: section.required(report, "name", "\"meter\"", name).unwrap_or_default(),
        path: match section.has("usb") {
            false => section.required(report, "path", &values::quoted(EXAMPLE_PATH), path).unwrap_or_default(),
            true if section.has("path") => {
                let message = "stands beside path; remove one of them: path is a place, usb an adapter wherever it is";
                report.problem(section.place("usb"), section.key("usb"), message.to_owned());
                PathBuf::new()
            }
            true => PathBuf::new(),
        },
        usb: section.read(report, "usb", port::usb),
        baud: section.read(report, "baud", baud).unwrap_or(9600),
        data_bits: section.read(report, "data_bits", data_bits).unwrap_or(DataBits::Eight),
        parity: section.choice(report, "parity", &parity).unwrap_or(Parity::None),
        stop_bits: section.read(report, "stop_bits", stop_bits).unwrap_or(StopBits::One),
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
