//! The body of an entry: a record as bytes.
//!
//! Constraint: a body is read without any other, so that damage to one costs no other record.

use super::Base;
use crate::record::{ClockQuality, Encoding, Record, Sequenced, Timestamp};

/// What stands in front of a version 2 body's data: flags, number, wall clock, monotonic clock, topic.
type Front<'a> = (u8, u64, u64, u64, &'a str);

/// Flag: the wall clock was not set yet.
const UNSYNCED: u8 = 1 << 2;
/// What every topic of a device begins and ends with.
const DEVICE: (&str, &str) = ("device/", "/data");
/// What every topic of an application begins with.
const APP: &str = "app/";

/// How a topic is written down, in its place among the flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole = 0,
    Device = 1 << 3,
    App = 2 << 3,
}

/// The body of version 2, or nothing where it can't be encoded.
pub(super) fn encode(record: &Sequenced, base: Base) -> Option<Vec<u8>> {
    let Sequenced { seq, record } = record;
    let Timestamp { wall_ms, mono_ms, quality } = record.time;
    let (form, topic) = shorten(&record.topic);
    let encoding = match record.encoding {
        Encoding::Json => 0,
        Encoding::Text => 1,
        Encoding::Base64 => 2,
        Encoding::Raw => 3,
    };
    let quality = if quality == ClockQuality::Unsynced { UNSYNCED } else { 0 };
    let wall = wall_ms.wrapping_sub(base.wall_ms);
    let mono = mono_ms.wrapping_sub(base.mono_ms).wrapping_sub(wall);
    let front: Front<'_> = (encoding | quality | form as u8, *seq, zigzag(wall), zigzag(mono), topic);
    let mut body = postcard::to_stdvec(&front).ok()?;
    body.extend_from_slice(&record.data);
    Some(body)
}

/// The record in a body of version 2. Without a base its time is not known, and said to be none.
pub(super) fn decode(body: &[u8], base: Option<Base>) -> Option<Sequenced> {
    let ((flags, seq, wall, mono, topic), data): (Front<'_>, _) = postcard::take_from_bytes(body).ok()?;
    let (encoding, quality, form) = meaning(flags)?;
    let time = match base {
        None => Timestamp::UNKNOWN,
        Some(base) => {
            let wall = unzigzag(wall);
            let mono_ms = base.mono_ms.wrapping_add(unzigzag(mono)).wrapping_add(wall);
            Timestamp { wall_ms: base.wall_ms.wrapping_add(wall), mono_ms, quality }
        }
    };
    let topic = match form {
        Form::Whole => topic.to_owned(),
        Form::Device => [DEVICE.0, topic, DEVICE.1].concat(),
        Form::App => [APP, topic].concat(),
    };
    Some(Sequenced { seq, record: Record { topic, time, encoding, data: data.to_vec() } })
}

/// The record in a body of version 1.
pub(super) fn decode_v1(body: &[u8]) -> Option<Sequenced> {
    postcard::from_bytes(body).ok()
}

/// The number in what may be the beginning of a body of version 2.
pub(super) fn number(body: &[u8]) -> Option<u64> {
    let (&flags, rest) = body.split_first()?;
    meaning(flags)?;
    number_v1(rest)
}

/// The number in what may be the beginning of a body of version 1.
pub(super) fn number_v1(body: &[u8]) -> Option<u64> {
    postcard::take_from_bytes(body).ok().map(|(seq, _)| seq)
}

fn meaning(flags: u8) -> Option<(Encoding, ClockQuality, Form)> {
    let encoding = match flags & 0b11 {
        0 => Encoding::Json,
        1 => Encoding::Text,
        2 => Encoding::Base64,
        _ => Encoding::Raw,
    };
    let quality = if flags & UNSYNCED == 0 { ClockQuality::Trusted } else { ClockQuality::Unsynced };
    let forms = [Form::Whole, Form::Device, Form::App];
    let form = forms.into_iter().find(|&form| flags & !0b111 == form as u8)?;
    Some((encoding, quality, form))
}

/// A topic without what many have in common.
fn shorten(topic: &str) -> (Form, &str) {
    let device = || topic.strip_prefix(DEVICE.0)?.strip_suffix(DEVICE.1);
    match (topic.strip_prefix(APP), device()) {
        (Some(rest), _) => (Form::App, rest),
        (None, Some(name)) => (Form::Device, name),
        (None, None) => (Form::Whole, topic),
    }
}

/// Makes a small number of a small difference, to either side.
fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ 0_u64.wrapping_sub(difference >> 63)
}

fn unzigzag(number: u64) -> u64 {
    number >> 1 ^ 0_u64.wrapping_sub(number & 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic() -> impl Strategy<Value = String> {
        let known = ["", "app/", "app", "device//data", "device/data", "device/m/data", "device/a/b/data", "event"];
        let known = known.map(str::to_owned).to_vec();
        let name = "[a-z/ü]{0,8}";
        prop_oneof![
            proptest::sample::select(known),
            name,
            name.prop_map(|name| format!("app/{name}")),
            name.prop_map(|name| format!("device/{name}/data")),
        ]
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0..3_u64, u64::MAX - 2..=u64::MAX, (0..64).prop_map(|bit| 1_u64 << bit)]
    }

    proptest! {
        #[test]
        fn a_record_never_comes_back_changed(
            (seq, topic) in (number(), topic()),
            (wall_ms, mono_ms) in (number(), number()),
            (encoding, unsynced) in (0..4_usize, any::<bool>()),
            data in proptest::collection::vec(any::<u8>(), 0..40),
            base in (number(), number()),
        ) {
            let encoding = [Encoding::Json, Encoding::Text, Encoding::Base64, Encoding::Raw][encoding];
            let quality = if unsynced { ClockQuality::Unsynced } else { ClockQuality::Trusted };
            let time = Timestamp { wall_ms, mono_ms, quality };
            let record = Sequenced { seq, record: Record { topic, time, encoding, data } };
            let base = Base { wall_ms: base.0, mono_ms: base.1 };
            let body = encode(&record, base).unwrap();
            prop_assert_eq!(super::number(&body), Some(seq));
            let mut timeless = record.clone();
            timeless.record.time = Timestamp::UNKNOWN;
            prop_assert_eq!(decode(&body, None), Some(timeless));
            prop_assert_eq!(decode(&body, Some(base)), Some(record));
        }
    }

    #[test]
    fn flags_of_a_later_version_are_never_passed_over() {
        let time = Timestamp { wall_ms: 1, mono_ms: 2, quality: ClockQuality::Trusted };
        let record = Record { topic: "t".into(), time, encoding: Encoding::Json, data: vec![1] };
        let body = encode(&Sequenced { seq: 7, record }, Base::of(time)).unwrap();
        for flags in 0..=u8::MAX {
            let body = [&[flags], &body[1..]].concat();
            let known = flags < 3 << 3;
            assert_eq!((decode(&body, None).is_some(), super::number(&body).is_some()), (known, known), "{flags}");
        }
    }

    #[test]
    fn a_payload_of_128_bytes_never_costs_more_than_17_others() {
        let at = |wall_ms, mono_ms| Timestamp { wall_ms, mono_ms, quality: ClockQuality::Trusted };
        let base = Base::of(at(1_795_401_667_123, 50_000));
        // Four seconds later, and its clocks a millisecond apart.
        let time = at(1_795_401_671_123, 54_001);
        let record = Record { topic: "app/t".into(), time, encoding: Encoding::Json, data: vec![b'1'; 128] };
        let body = encode(&Sequenced { seq: 1_000_000, record }, base).unwrap();
        assert_eq!(super::super::ENTRY_HEAD + body.len(), 128 + 17);
    }
}
