//! From the table `framing` to a [`Framing`].

use super::{Crc, Delimiter, Endian, Framing, FramingKind, LengthBytes, MAX_DELIMITER, MAX_FRAME};
use crate::config::keys::{self, Schema};
use crate::config::reader::{Report, Section};
use crate::config::tree::Value;
use crate::config::units::size_text;
use crate::config::values;
use crate::record::PayloadRule;
use std::time::Duration;

const DEFAULT_MAX: usize = 1024;
/// The longest envelope around a device's data: stream `telemetry`, 20 digits of sequence number, both flags.
pub(in crate::config) const ENVELOPE: usize = 120;
const EXAMPLE: &str = "framing = { kind = \"lines\", max = 1024 }";
/// Below this the kernel's slack of 50 µs and the wait for our turn on the CPU count; above it nobody would wait for a
/// record.
const SILENCES: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(10);
/// Longer than 3.5 characters at 2400 baud, and than the 16 ms for which an FTDI adapter holds bytes back by default.
const DEFAULT_GAP: Duration = Duration::from_millis(20);

/// What can stand in `kind`.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Lines,
    Cobs,
    Slip,
    LengthPrefixed,
    Fixed,
    IdleGap,
}

const KINDS: [(&str, Kind); 6] = [
    ("lines", Kind::Lines),
    ("cobs", Kind::Cobs),
    ("slip", Kind::Slip),
    ("length-prefixed", Kind::LengthPrefixed),
    ("fixed", Kind::Fixed),
    ("idle-gap", Kind::IdleGap),
];

impl Kind {
    fn schema(self) -> &'static Schema {
        match self {
            Kind::Lines => &keys::LINES,
            Kind::Cobs => &keys::COBS,
            Kind::Slip => &keys::SLIP,
            Kind::LengthPrefixed => &keys::LENGTH_PREFIXED,
            Kind::Fixed => &keys::FIXED,
            Kind::IdleGap => &keys::IDLE_GAP,
        }
    }
}

/// Reads the framing of a device; one that is not given is lines.
pub(in crate::config) fn read(
    device: &Section<'_>,
    report: &mut Report<'_>,
    payload: PayloadRule,
    max_payload: usize,
) -> Framing {
    let any = device.section(report, &keys::FRAMING, "framing", EXAMPLE);
    let kind = match any.choice(report, "kind", &KINDS) {
        Some(kind) => kind,
        None if !any.has("kind") => Kind::Lines,
        // What the other keys should be depends on the kind.
        None => return Framing::lines(DEFAULT_MAX),
    };
    let section = any.narrowed(kind.schema());
    section.refuse_unknown(report);
    let crcs = [("crc16-modbus", Crc::Crc16Modbus), ("crc16-ccitt", Crc::Crc16Ccitt), ("crc32", Crc::Crc32)];
    let crc = section.choice(report, "crc", &crcs);
    let framing = match kind {
        Kind::Lines => lines(&section, report, crc),
        Kind::Cobs => Framing { kind: FramingKind::Cobs, max: max(&section, report, MAX_FRAME), crc },
        Kind::Slip => Framing { kind: FramingKind::Slip, max: max(&section, report, MAX_FRAME), crc },
        Kind::LengthPrefixed => length_prefixed(&section, report, crc),
        Kind::Fixed => fixed(&section, report, crc),
        Kind::IdleGap => {
            let gap = silence(&section, report, "gap").unwrap_or(DEFAULT_GAP);
            Framing { kind: FramingKind::IdleGap { gap }, max: max(&section, report, MAX_FRAME), crc }
        }
    };
    let limit = if section.has("size") { "size" } else { "max" };
    let message_bytes = longest_message(framing.max, payload);
    if message_bytes > max_payload {
        let message = format!(
            "frames of {} bytes make messages of up to {message_bytes}, more than mqtt.max_payload ({}); make {limit} \
             smaller or max_payload larger",
            framing.max,
            size_text(u64::try_from(max_payload).unwrap_or(u64::MAX))
        );
        report.conclusion(section.place(limit), section.key(limit), message);
    }
    framing
}

fn lines(section: &Section<'_>, report: &mut Report<'_>, crc: Option<Crc>) -> Framing {
    let delimiter = section.read(report, "delimiter", |value| delimiter(value, crc));
    let delimiter = delimiter.unwrap_or_else(Delimiter::line_feed);
    Framing { kind: FramingKind::Lines { delimiter }, max: max(section, report, MAX_FRAME), crc }
}

fn length_prefixed(section: &Section<'_>, report: &mut Report<'_>, crc: Option<Crc>) -> Framing {
    let widths = |value: &Value| match values::number(value, 1..=4, "give 1, 2 or 4")? {
        1 => Ok(LengthBytes::One),
        2 => Ok(LengthBytes::Two),
        4 => Ok(LengthBytes::Four),
        _ => Err("3 is not a width that a length can have; give 1, 2 or 4".to_owned()),
    };
    let flag = |value: &Value| match value {
        Value::Boolean(flag) => Ok(*flag),
        other => Err(format!("{} is not known; write true or false", values::show(other))),
    };
    let length_bytes = section.read(report, "length_bytes", widths).unwrap_or(LengthBytes::Two);
    let endian = section.choice(report, "endian", &[("big", Endian::Big), ("little", Endian::Little)]);
    let includes_header = section.read(report, "includes_header", flag).unwrap_or(false);
    let idle = silence(section, report, "idle");
    let header = if includes_header { length_bytes.bytes() } else { 0 };
    let countable = usize::try_from(length_bytes.largest()).unwrap_or(usize::MAX);
    let most = countable.saturating_sub(header + crc.map_or(0, Crc::bytes)).min(MAX_FRAME);
    let max = max(section, report, most);
    warn_of_lost_sync(section, report, crc, idle);
    let endian = endian.unwrap_or(Endian::Big);
    Framing { kind: FramingKind::LengthPrefixed { length_bytes, endian, includes_header, idle }, max, crc }
}

fn fixed(section: &Section<'_>, report: &mut Report<'_>, crc: Option<Crc>) -> Framing {
    let trailer = crc.map_or(0, Crc::bytes);
    let size = section.required(report, "size", "12", |value| bytes(value, trailer + 1, MAX_FRAME, 12));
    // What is absent or wrong was reported.
    let size = size.unwrap_or(trailer + 1);
    let idle = silence(section, report, "idle");
    warn_of_lost_sync(section, report, crc, idle);
    Framing { kind: FramingKind::Fixed { size, idle }, max: size.saturating_sub(trailer), crc }
}

/// Nothing on the wire shows where a frame begins.
fn warn_of_lost_sync(section: &Section<'_>, report: &mut Report<'_>, crc: Option<Crc>, idle: Option<Duration>) {
    if crc.is_none() && idle.is_none() && !section.has("crc") && !section.has("idle") {
        let message = "after one lost byte every frame is wrong until the port is opened again; give crc if the device \
                       sends one, or idle if it pauses between frames";
        report.warning(section.place("kind"), section.key("kind"), message.to_owned());
    }
}

fn max(section: &Section<'_>, report: &mut Report<'_>, most: usize) -> usize {
    let default = DEFAULT_MAX.min(most);
    section.read(report, "max", |value| bytes(value, 1, most, default)).unwrap_or(default)
}

/// A number of bytes in a range.
fn bytes(value: &Value, least: usize, most: usize, example: usize) -> Result<usize, String> {
    let in_range = |number| i64::try_from(number).unwrap_or(i64::MAX);
    let advice = format!("give {least} to {most} bytes, such as {example}");
    values::number(value, in_range(least)..=in_range(most), &advice)
}

fn silence(section: &Section<'_>, report: &mut Report<'_>, key: &str) -> Option<Duration> {
    section.read(report, key, |value| values::fine_duration(value, SILENCES, "20ms"))
}

fn delimiter(value: &Value, crc: Option<Crc>) -> Result<Delimiter, String> {
    let text = values::text(value)?;
    let shown = values::quoted(text);
    if !text.is_ascii() {
        return Err(format!("{shown} holds a character that is more than one byte; give ASCII, \\u0000 to \\u007F"));
    }
    if crc.is_some() && text.contains(|c: char| c.is_ascii_hexdigit()) {
        return Err(format!("{shown} holds a hexadecimal digit, as the CRC before it does; give a delimiter without"));
    }
    let wrong = || format!("{shown} has {} bytes; give 1 to {MAX_DELIMITER}, such as \"\\n\"", text.len());
    Delimiter::new(text.as_bytes()).ok_or_else(wrong)
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
