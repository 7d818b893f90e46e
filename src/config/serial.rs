//! `[[serial]]`: the devices.

use super::devices::{Names, Taken, sections};
use super::reader::{Report, Section};
use super::tree::Value;
use super::units::size_text;
use super::{DataBits, Flow, Framing, MAX_FRAME, Parity, PayloadRule, Serial, StopBits, commands, keys, values};

const DEFAULT_MAX: usize = 1024;
/// The longest envelope around a device's data: stream `telemetry`, 20 digits of sequence number, both flags.
const ENVELOPE: usize = 120;
const EXAMPLE_PATH: &str = "/dev/serial/by-id/usb-…";
const EXAMPLE_FRAMING: &str = "framing = { kind = \"lines\", max = 1024 }";

/// Reads all devices, in the order of the files.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, max_payload: usize, names: &mut Names) -> Vec<Serial> {
    let mut paths = Taken::default();
    let mut devices = Vec::new();
    for section in sections(root, report, &keys::SERIAL, "serial") {
        let device = device(&section, report, max_payload);
        names.claim(&section, report, &device.name);
        // One that is absent or wrong is empty here, and was reported.
        if !device.path.as_os_str().is_empty() {
            // Paths compare by their parts: `//` and `/./` make no difference.
            paths.claim(&section, report, "path", device.path.clone(), &device.path.to_string_lossy());
        }
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
        path: section.required(report, "path", &values::quoted(EXAMPLE_PATH), path).unwrap_or_default(),
        baud: section.read(report, "baud", baud).unwrap_or(9600),
        data_bits: section.read(report, "data_bits", data_bits).unwrap_or(DataBits::Eight),
        parity: section.choice(report, "parity", &parity).unwrap_or(Parity::None),
        stop_bits: section.read(report, "stop_bits", stop_bits).unwrap_or(StopBits::One),
        flow: section.choice(report, "flow", &flow).unwrap_or(Flow::None),
        framing: framing(section, report, payload, max_payload),
        payload,
        commands: commands::read(section, report),
    }
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
