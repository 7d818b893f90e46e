//! What MQTT 5 says of a record's message besides its payload. Pure.
//!
//! Envelopes are JSON and say who they are themselves. The bytes of `payload = "raw"` say nothing, so what the envelope would say
//! travels as user properties: `id`, `ts`, and `clock` while the clock was not to be trusted. What is left of a stream's `max_age` is
//! the time that the broker keeps the message for subscribers who are away.

use crate::config::BatchFormat;
use crate::mqtt::About;
use crate::record::{ClockQuality, Encoding, Sequenced, Timestamp, rfc3339};
use std::time::Duration;

/// Of a record of the stream with this name and `max_age`.
pub(super) fn of(stream: &str, max_age: Option<Duration>, record: &Sequenced, now: Timestamp) -> About {
    let made = record.record.time;
    let expiry_s = max_age.and_then(|max_age| left(max_age, made, now));
    if record.record.encoding != Encoding::Raw {
        return About { expiry_s, ..About::json() };
    }
    let mut properties =
        vec![("id".to_owned(), format!("{stream}:{}", record.seq)), ("ts".to_owned(), rfc3339(made.wall_ms))];
    if made.quality == ClockQuality::Unsynced {
        properties.push(("clock".to_owned(), "unsynced".to_owned()));
    }
    let is_text = std::str::from_utf8(&record.record.data).is_ok_and(|text| !text.contains('\0'));
    About { expiry_s, is_text, content_type: None, properties }
}

/// Of a message that may hold several records, of which `about` is what is said of the first.
pub(super) fn of_several(about: About, format: BatchFormat, count: usize, is_compressed: bool) -> About {
    if about.content_type.is_none() {
        return about;
    }
    let (is_text, content_type) = match format {
        _ if is_compressed => (false, "application/zlib"),
        BatchFormat::Ndjson if count > 1 => (true, "application/x-ndjson"),
        BatchFormat::Ndjson | BatchFormat::Array => (true, "application/json"),
    };
    About { is_text, content_type: Some(content_type), ..about }
}

/// Seconds that are left, 1 at least; `None`: nobody knows how old it is.
fn left(max_age: Duration, made: Timestamp, now: Timestamp) -> Option<u32> {
    let trusted = [made, now].iter().all(|time| time.quality == ClockQuality::Trusted);
    if !trusted {
        return None;
    }
    let age = Duration::from_millis(now.wall_ms.saturating_sub(made.wall_ms));
    let left_s = max_age.saturating_sub(age).as_secs().max(1);
    Some(u32::try_from(left_s).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(wall_ms: u64, quality: ClockQuality) -> Timestamp {
        Timestamp { wall_ms, mono_ms: 0, quality }
    }

    fn record(encoding: Encoding, data: &[u8], quality: ClockQuality) -> Sequenced {
        let time = at(1_795_401_667_123, quality);
        Sequenced { seq: 7, record: Record { topic: "t".into(), time, encoding, data: data.to_vec() } }
    }

    #[test]
    fn raw_bytes_never_travel_without_a_name_and_a_time() {
        let now = at(1_795_401_667_123, ClockQuality::Trusted);
        let about = of("telemetry", None, &record(Encoding::Raw, b"\x01\xff", ClockQuality::Unsynced), now);
        let pairs: Vec<_> = about.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("id", "telemetry:7"), ("ts", "2026-11-23T02:41:07.123Z"), ("clock", "unsynced")]);
        assert_eq!((about.is_text, about.content_type, about.expiry_s), (false, None, None));
        assert!(of("t", None, &record(Encoding::Raw, "22,5 °C".as_bytes(), ClockQuality::Trusted), now).is_text);
        assert!(!of("t", None, &record(Encoding::Raw, b"a\0b", ClockQuality::Trusted), now).is_text);
        let raw = of("t", None, &record(Encoding::Raw, b"x", ClockQuality::Trusted), now);
        assert_eq!(of_several(raw.clone(), BatchFormat::Array, 1, false), raw, "it travels alone");
        let envelope = of("t", None, &record(Encoding::Text, b"x", ClockQuality::Trusted), now);
        assert_eq!(envelope, About::json());
    }

    #[test]
    fn several_records_never_travel_under_a_wrong_name() {
        let kind = |format, count, compressed| {
            let about = of_several(About::json(), format, count, compressed);
            (about.content_type.unwrap(), about.is_text)
        };
        assert_eq!(kind(BatchFormat::Ndjson, 1, false), ("application/json", true));
        assert_eq!(kind(BatchFormat::Ndjson, 2, false), ("application/x-ndjson", true));
        assert_eq!(kind(BatchFormat::Array, 2, false), ("application/json", true));
        assert_eq!(kind(BatchFormat::Array, 2, true), ("application/zlib", false));
    }

    #[test]
    fn a_message_never_outlives_its_stream() {
        let made = record(Encoding::Json, b"1", ClockQuality::Trusted);
        let after = |seconds: u64| at(1_795_401_667_123 + seconds * 1000, ClockQuality::Trusted);
        let expiry = |record: &Sequenced, now| of("t", Some(DAY), record, now).expiry_s;
        assert_eq!(expiry(&made, after(0)), Some(86_400));
        assert_eq!(expiry(&made, after(86_300)), Some(100));
        assert_eq!(expiry(&made, after(90_000)), Some(1), "0 would be for ever");
        assert_eq!(expiry(&made, at(0, ClockQuality::Trusted)), Some(86_400), "from the future");
        assert_eq!(expiry(&made, at(5, ClockQuality::Unsynced)), None);
        assert_eq!(expiry(&record(Encoding::Json, b"1", ClockQuality::Unsynced), after(5)), None);
    }
}
