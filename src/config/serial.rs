//! `[[serial]]`: the devices.

use super::reader::{Report, Section};
use super::tree::{Place, Table, Value};
use super::units::size_text;
use super::{DataBits, Flow, Framing, MAX_FRAME, Parity, PayloadRule, Serial, StopBits, commands, keys, values};
use std::collections::BTreeMap;
use std::path::PathBuf;

const MOST_DEVICES: usize = 64;
const DEFAULT_MAX: usize = 1024;
/// The longest envelope around a device's data: stream `telemetry`, 20 digits of sequence number, both flags.
pub(super) const ENVELOPE: usize = 120;
const EXAMPLE_PATH: &str = "/dev/serial/by-id/usb-…";
const EXAMPLE_FRAMING: &str = "framing = { kind = \"lines\", max = 1024 }";

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
    Serial {
        name: name(section, report, "\"meter\""),
        path: path(section, report),
        baud: baud(section, report).unwrap_or(9600),
        data_bits: section.read(report, "data_bits", data_bits).unwrap_or(DataBits::Eight),
        parity: parity(section, report).unwrap_or(Parity::None),
        stop_bits: stop_bits(section, report),
        flow: section.choice(report, "flow", &flow).unwrap_or(Flow::None),
        framing: framing(section, report, payload, max_payload),
        payload,
        commands: commands::read(section, report),
    }
}

/// `name`; empty if it is absent or wrong.
pub(super) fn name(section: &Section<'_>, report: &mut Report<'_>, example: &str) -> String {
    let name = |value| values::name(values::text(value)?).map(str::to_owned);
    section.required(report, "name", example, name).unwrap_or_default()
}

/// `path`; empty if it is absent or wrong.
pub(super) fn path(section: &Section<'_>, report: &mut Report<'_>) -> PathBuf {
    let path = |value| values::absolute_path(values::text(value)?, EXAMPLE_PATH);
    section.required(report, "path", &values::quoted(EXAMPLE_PATH), path).unwrap_or_default()
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

fn framing(device: &Section<'_>, report: &mut Report<'_>, payload: PayloadRule, max_payload: usize) -> Framing {
    let section = device.section(report, &keys::FRAMING, "framing", EXAMPLE_FRAMING);
    if section.choice(report, "kind", &[("lines", ())]).is_some() || !section.has("kind") {
        // A kind that is not known may well have other keys.
        section.refuse_unknown(report);
    }
    let most = i64::try_from(MAX_FRAME).unwrap_or(i64::MAX);
    let advice = format!("give 1 to {MAX_FRAME} bytes, such as {DEFAULT_MAX}");
    let max = section.read(report, "max", |value| values::number(value, 1..=most, &advice)).unwrap_or(DEFAULT_MAX);
    let message_bytes = longest_message(max, payload);
    if message_bytes > max_payload {
        let message = format!(
            "frames of {max} bytes make messages of up to {message_bytes}, more than mqtt.max_payload ({}); make max \
             smaller or max_payload larger",
            size_text(u64::try_from(max_payload).unwrap_or(u64::MAX))
        );
        report.conclusion(section.place("max"), section.key("max"), message);
    }
    Framing::Lines { max }
}

/// What a frame can become with base64 and the envelope around it. Text that is all quotes or control characters
/// can become longer still, by JSON's escapes; such a record is set aside and counted when it comes.
fn longest_message(frame: usize, payload: PayloadRule) -> usize {
    match payload {
        PayloadRule::Raw => frame,
        PayloadRule::Auto | PayloadRule::Text | PayloadRule::Base64 => ENVELOPE + frame.div_ceil(3) * 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Encoding, Record, Sequenced, Timestamp};

    #[test]
    fn the_envelope_is_never_longer_than_we_think() {
        let time = Timestamp { wall_ms: u64::MAX, mono_ms: 0, quality: ClockQuality::Unsynced };
        for bytes in [1, 2, 3, 1024, MAX_FRAME] {
            let record = Record { topic: String::new(), time, encoding: Encoding::Base64, data: vec![0; bytes] };
            let payload = Sequenced { seq: u64::MAX, record }.payload("telemetry");
            assert_eq!(payload.len(), longest_message(bytes, PayloadRule::Base64));
        }
    }
}
