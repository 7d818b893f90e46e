//! Devices of every framing at once, on lines that damage some of what they say.

use super::{World, expect_open};
use crate::common::LONG;
use crate::common::device::Device;
use crate::common::sidecar::Sidecar;
use pillion::config::{Crc, Delimiter, Endian, Framing, FramingKind, LengthBytes};
use pillion::frame::encode;
use std::collections::BTreeMap;
use std::time::Duration;

/// Frames of each device that needs no pauses between them.
const FRAMES: usize = 300;
/// Frames of the device that does.
const SLOW_FRAMES: usize = 20;
/// Every tenth frame is preceded by a damaged one; the last ones are good, so that nothing waits for more.
const DAMAGED: usize = 10;

/// What becomes of a frame.
type Damage = fn(&[u8]) -> Vec<u8>;

fn flip(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let middle = frame.len() / 2;
    frame[middle] ^= 1;
    frame
}

fn lose(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.remove(frame.len() / 2);
    frame
}

/// A length that reaches into the next frame.
fn lengthen(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[0] += 5;
    frame
}

/// The name of each device, its framing in the configuration, what its own end makes of that, and its damage.
fn devices() -> Vec<(&'static str, &'static str, Framing, Damage)> {
    let of = |kind, crc| Framing { kind, max: 64, crc };
    let lines = |delimiter| FramingKind::Lines { delimiter: Delimiter::new(delimiter).unwrap() };
    let prefixed = |length_bytes, endian, includes_header| FramingKind::LengthPrefixed {
        length_bytes,
        endian,
        includes_header,
        idle: None,
    };
    let (modbus, ccitt, crc32) = (Some(Crc::Crc16Modbus), Some(Crc::Crc16Ccitt), Some(Crc::Crc32));
    vec![
        ("lines", r#"{ kind = "lines", max = 64, crc = "crc32" }"#, of(lines(b"\n"), crc32), flip),
        ("etx", r#"{ delimiter = "\u0003", max = 64, crc = "crc16-ccitt" }"#, of(lines(b"\x03"), ccitt), lose),
        ("cobs", r#"{ kind = "cobs", max = 64, crc = "crc16-modbus" }"#, of(FramingKind::Cobs, modbus), flip),
        ("slip", r#"{ kind = "slip", max = 64, crc = "crc16-ccitt" }"#, of(FramingKind::Slip, ccitt), lose),
        (
            "byte",
            r#"{ kind = "length-prefixed", length_bytes = 1, max = 64, crc = "crc32" }"#,
            of(prefixed(LengthBytes::One, Endian::Big, false), crc32),
            lengthen,
        ),
        (
            "word",
            r#"{ kind = "length-prefixed", endian = "little", includes_header = true, max = 64, crc = "crc16-modbus" }"#,
            of(prefixed(LengthBytes::Two, Endian::Little, true), modbus),
            lose,
        ),
        (
            "fixed",
            r#"{ kind = "fixed", size = 14, crc = "crc32" }"#,
            Framing { max: 10, ..of(FramingKind::Fixed { size: 14, idle: None }, crc32) },
            lose,
        ),
    ]
}

fn encoded(framing: &Framing, text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    encode(framing, text.as_bytes(), &mut wire).unwrap();
    wire
}

#[test]
fn no_framing_ever_delivers_less_or_more_than_its_good_frames() {
    let world = World::new();
    let mut home = world.home();
    let mut ends = BTreeMap::new();
    for (name, text, _, _) in devices() {
        let device = Device::at(home.path(name));
        home.serial(name, device.path(), &format!("framing = {text}"));
        ends.insert(name, device);
    }
    let modbus = Device::at(home.path("modbus"));
    home.serial(
        "modbus",
        modbus.path(),
        r#"framing = { kind = "idle-gap", max = 64, gap = "50ms", crc = "crc16-modbus" }"#,
    );
    let sidecar = Sidecar::start(home);
    for name in ends.keys().chain(&["modbus"]) {
        expect_open(&sidecar, name);
    }

    for number in 0..FRAMES {
        for (name, _, framing, damage) in devices() {
            let wire = encoded(&framing, &format!("{name:5} {number:04}"));
            if number % DAMAGED == 3 {
                ends[name].write(&damage(&wire));
            }
            ends[name].write(&wire);
        }
    }
    let framing =
        Framing { kind: FramingKind::IdleGap { gap: Duration::from_millis(50) }, max: 64, crc: Some(Crc::Crc16Modbus) };
    for number in 0..SLOW_FRAMES {
        let text = format!("modbus {number:04}");
        let wire = encoded(&framing, &text);
        // One at a time: its end is that nothing follows.
        modbus.write(&wire);
        world.subscriber.expect_text("telemetry", &text);
        modbus.write(&flip(&wire));
        sidecar.expect_status("the damaged frame", |status| status["devices"]["modbus"]["damaged"] == number + 1);
    }

    let mut expected: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, ..) in devices() {
        expected.insert(name, (0..FRAMES).map(|number| format!("{name:5} {number:04}")).collect());
    }
    expected.insert("modbus", (0..SLOW_FRAMES).map(|number| format!("modbus {number:04}")).collect());
    world.subscriber.expect_texts("telemetry", expected.values().flatten().cloned(), LONG);
    sidecar.expect_drained("telemetry");
    world.subscriber.flush();
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        for (name, texts) in &expected {
            let topic = format!("p/device/{name}/data");
            let came: Vec<_> = inbox.on(&topic).map(|arrival| arrival.text().to_owned()).collect();
            assert_eq!(&came, texts, "{name}");
        }
    });
    let status = sidecar.status();
    for (name, ..) in devices() {
        let device = &status["devices"][name];
        let marked = !["byte", "word", "fixed"].contains(&name);
        let counted = [("damaged", 30), ("resyncs", if marked { 0 } else { 30 }), ("frames", 300)];
        for (counter, count) in counted.into_iter().chain([("oversize", 0), ("empty", 0), ("incomplete", 0)]) {
            assert_eq!(device[counter], count, "{name} {counter}: {device}");
        }
    }
}
