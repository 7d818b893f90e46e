//! From records to the payload of one message. Pure.
//!
//! ```text
//! one record             its envelope, or with a `raw` payload its bytes alone
//! several, ndjson        an envelope on each line; between the lines a newline, behind the last one none
//! several, array         a JSON array of envelopes; one record of such a stream is an array of one
//! compress = "deflate"   any of these in zlib's format (RFC 1950), where that makes them smaller; the first byte is 0x78
//! ```
//!
//! A record whose data is JSON may hold newlines between its values; in company they become spaces, which says the same.
//! A consumer that knows none of this tells by the first byte: `{`, `[` or 0x78.

use crate::config::{BatchFormat, Batching};
use crate::record::{Encoding, Record, Sequenced};
use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};

/// zlib's own default: more costs much and gains little.
const LEVEL: i32 = 6;

/// What goes out as one message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) payload: Vec<u8>,
    /// Records in it: the first so many of those that were to be packed.
    pub(super) count: usize,
    /// Bytes before compression.
    pub(super) plain: usize,
}

/// The first record is too large for any message: its size in bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub(super) usize);

/// Whether this record may travel with others and be compressed: `raw` means the bytes alone, and what the broker keeps is
/// read by whoever comes later.
pub(super) fn likes_company(record: &Record) -> bool {
    record.encoding != Encoding::Raw && !record.is_retained()
}

/// Packs as many of the records as fit; `records` are of one stream, on one topic, and only the first of them may be one that
/// does not like company.
pub(super) fn pack<'r>(
    mut records: impl Iterator<Item = &'r Sequenced>,
    stream: &str,
    batching: Option<&Batching>,
    max_payload: usize,
    deflater: &mut Deflater,
) -> Result<Parcel, TooLarge> {
    let Some(first) = records.next() else { return Err(TooLarge(0)) };
    let Some(batching) = batching.filter(|_| likes_company(&first.record)) else {
        let payload = first.payload(stream);
        return match payload.len() {
            plain if plain > max_payload => Err(TooLarge(plain)),
            plain => Ok(Parcel { payload, count: 1, plain }),
        };
    };
    let limit = batching.bytes.min(max_payload);
    let (open, between, close): (&[u8], &[u8], &[u8]) = match batching.format {
        BatchFormat::Ndjson => (b"", b"\n", b""),
        BatchFormat::Array => (b"[", b",", b"]"),
    };
    let mut plain = open.to_vec();
    append(first, stream, &mut plain);
    let mut count = 1;
    for record in records.take(usize::from(batching.records).saturating_sub(1)) {
        let before = plain.len();
        plain.extend_from_slice(between);
        append(record, stream, &mut plain);
        if plain.len() + close.len() > limit {
            plain.truncate(before);
            break;
        }
        count += 1;
    }
    plain.extend_from_slice(close);
    if count == 1 && plain.len() > max_payload {
        // The brackets alone are no reason to lose it.
        plain = first.payload(stream);
    }
    let deflated = if batching.deflate { deflater.deflate(&plain) } else { None };
    let size = plain.len();
    match deflated {
        Some(payload) if payload.len() <= max_payload => Ok(Parcel { payload, count, plain: size }),
        _ if size <= max_payload => Ok(Parcel { payload: plain, count, plain: size }),
        _ => Err(TooLarge(size)),
    }
}

fn append(record: &Sequenced, stream: &str, out: &mut Vec<u8>) {
    let start = out.len();
    record.append_payload(stream, out);
    if record.record.encoding == Encoding::Json {
        // Inside of a JSON string they are escaped, so these are white space.
        let envelope = out.get_mut(start..).unwrap_or_default();
        envelope.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
}

/// The compressor. Its memory, a third of a MiB, is taken when it is needed first.
#[derive(Default)]
pub(super) struct Deflater(Option<Box<CompressorOxide>>);

impl Deflater {
    /// The same bytes in zlib's format, if that is shorter.
    fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        // 1: with zlib's header and checksum; 0: the strategy for data of any kind.
        let new = || Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(LEVEL, 1, 0)));
        let compressor = self.0.get_or_insert_with(new);
        compressor.reset();
        let mut out = vec![0; plain.len().saturating_sub(1)];
        let (status, _, written) = compress(compressor, plain, &mut out, TDEFLFlush::Finish);
        out.truncate(written);
        (status == TDEFLStatus::Done).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Timestamp};
    use miniz_oxide::inflate::decompress_to_vec_zlib;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::time::Duration;

    const BATCHING: Batching =
        Batching { records: 3, bytes: 1024, delay: Duration::ZERO, format: BatchFormat::Ndjson, deflate: false };
    const ARRAY: Batching = Batching { format: BatchFormat::Array, ..BATCHING };
    const DEFLATE: Batching = Batching { records: 100, bytes: 64 << 10, deflate: true, ..BATCHING };

    fn record(seq: u64, encoding: Encoding, data: &[u8]) -> Sequenced {
        let time = Timestamp { wall_ms: 0, mono_ms: 0, quality: ClockQuality::Trusted };
        Sequenced { seq, record: Record { topic: "app/x".to_owned(), time, encoding, data: data.to_vec() } }
    }

    fn packed(records: &[Sequenced], batching: &Batching, max: usize) -> Result<Parcel, TooLarge> {
        pack(records.iter(), "t", Some(batching), max, &mut Deflater::default())
    }

    fn text(parcel: Result<Parcel, TooLarge>) -> (String, usize) {
        let Parcel { payload, count, .. } = parcel.unwrap();
        (String::from_utf8(payload).unwrap(), count)
    }

    /// What a consumer makes of it, by the first byte alone.
    fn unpacked(payload: &[u8]) -> Vec<Value> {
        match payload[0] {
            0x78 => unpacked(&decompress_to_vec_zlib(payload).unwrap()),
            b'[' => serde_json::from_slice(payload).unwrap(),
            _ => payload.split(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect(),
        }
    }

    fn ids(values: &[Value]) -> Vec<String> {
        values.iter().map(|value| value["id"].as_str().unwrap().to_owned()).collect()
    }

    const ONE: &str = r#"{"id":"t:1","ts":"1970-01-01T00:00:00.000Z","data":1}"#;
    const TWO: &str = r#"{"id":"t:2","ts":"1970-01-01T00:00:00.000Z","data":2}"#;

    #[test]
    fn the_format_never_changes() {
        let records = [record(1, Encoding::Json, b"1"), record(2, Encoding::Json, b"2")];
        assert_eq!(text(packed(&records, &BATCHING, 1000)), (format!("{ONE}\n{TWO}"), 2));
        assert_eq!(text(packed(&records[..1], &BATCHING, 1000)), (ONE.to_owned(), 1));
        assert_eq!(text(packed(&records, &ARRAY, 1000)), (format!("[{ONE},{TWO}]"), 2));
        assert_eq!(text(packed(&records[..1], &ARRAY, 1000)), (format!("[{ONE}]"), 1));
        let deflated = packed(&records, &DEFLATE, 1000).unwrap();
        assert_eq!((deflated.payload[0], deflated.plain), (0x78, 2 * ONE.len() + 1));
        assert_eq!(ids(&unpacked(&deflated.payload)), ["t:1", "t:2"]);
        let alone = pack(records.iter(), "t", None, 1000, &mut Deflater::default());
        assert_eq!(text(alone), (ONE.to_owned(), 1));
    }

    #[test]
    fn a_newline_never_ends_a_record_early() {
        let records = [
            record(1, Encoding::Json, b"{\n \"a\": \"x\\ny\",\r\n \"b\": [1,\n2]\n}"),
            record(2, Encoding::Text, b"one\ntwo\r\n"),
            record(3, Encoding::Base64, b"\n"),
        ];
        let (ndjson, _) = text(packed(&records, &BATCHING, 1000));
        assert_eq!(ndjson.lines().count(), 3, "{ndjson}");
        let values = unpacked(ndjson.as_bytes());
        assert_eq!(values[0]["data"], serde_json::json!({ "a": "x\ny", "b": [1, 2] }));
        assert_eq!((&values[1]["data"], &values[2]["data"]), (&"one\ntwo\r\n".into(), &"Cg==".into()));
    }

    #[test]
    fn a_record_that_is_too_large_never_takes_others_along() {
        let (small, large) = (record(1, Encoding::Text, b"x"), record(2, Encoding::Text, &[b'y'; 300]));
        assert_eq!(packed(&[small.clone(), large.clone(), small.clone()], &BATCHING, 200).unwrap().count, 1);
        let size = large.payload("t").len();
        assert_eq!(packed(&[large.clone(), small.clone()], &BATCHING, 200), Err(TooLarge(size)));
        assert_eq!(pack([&large].into_iter(), "t", None, 200, &mut Deflater::default()), Err(TooLarge(size)));
        // Compressed it fits.
        assert_eq!(packed(&[large.clone(), small.clone()], &DEFLATE, 200).unwrap().count, 1);
        // More than a batch holds, and not more than a message: it travels alone.
        let batching = Batching { bytes: 100, ..BATCHING };
        assert_eq!(packed(&[large.clone(), small], &batching, 1000).unwrap().count, 1);
        // Brackets cost no record.
        assert_eq!(packed(&[large], &ARRAY, size).unwrap().payload.len(), size);
    }

    #[test]
    fn bytes_alone_and_what_the_broker_keeps_never_change_their_form() {
        let raw = record(1, Encoding::Raw, &[b'a'; 500]);
        let mut kept = record(2, Encoding::Json, b"{\n}");
        kept.record.topic = "config-reported/a".to_owned();
        for batching in [BATCHING, ARRAY, DEFLATE] {
            assert_eq!(packed(std::slice::from_ref(&raw), &batching, 1000).unwrap().payload, raw.record.data);
            assert_eq!(packed(std::slice::from_ref(&kept), &batching, 1000).unwrap().payload, kept.payload("t"));
        }
    }

    #[test]
    fn compression_never_makes_a_message_larger() {
        let noise: Vec<u8> = (0..600).map(|_| fastrand::u8(..)).collect();
        let mut deflater = Deflater::default();
        for data in [&b"1"[..], &noise, &[0; 600]] {
            let one = record(1, Encoding::Base64, data);
            let parcel = pack([&one].into_iter(), "t", Some(&DEFLATE), 2000, &mut deflater).unwrap();
            assert!(parcel.payload.len() <= parcel.plain);
            assert_eq!(unpacked(&parcel.payload), unpacked(&one.payload("t")), "a compressor that is used again");
        }
    }

    proptest! {
        /// However the records are, message after message brings all of them, in order, each message within its limits.
        #[test]
        fn no_record_is_ever_lost_on_the_way(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..40),
            (count, bytes, max) in (1..20u16, 64..2000usize, 400..2000usize),
            (array, deflate) in any::<(bool, bool)>(),
        ) {
            let format = if array { BatchFormat::Array } else { BatchFormat::Ndjson };
            let batching = Batching { records: count, bytes, delay: Duration::ZERO, format, deflate };
            let encoding = |data: &[u8]| crate::record::PayloadRule::Auto.encoding_of(data);
            let records: Vec<_> = (1..).zip(&data).map(|(seq, data)| record(seq, encoding(data), data)).collect();
            let mut deflater = Deflater::default();
            let (mut rest, mut values, mut lost) = (&records[..], Vec::new(), 0);
            while !rest.is_empty() {
                match pack(rest.iter(), "t", Some(&batching), max, &mut deflater) {
                    Ok(parcel) => {
                        prop_assert!(parcel.payload.len() <= max && parcel.count <= usize::from(count));
                        prop_assert!(parcel.count == 1 || parcel.plain <= bytes.min(max));
                        let came = unpacked(&parcel.payload);
                        prop_assert_eq!(came.len(), parcel.count);
                        values.extend(came);
                        rest = &rest[parcel.count..];
                    }
                    Err(TooLarge(size)) => {
                        prop_assert!(size > max);
                        lost += 1;
                        rest = &rest[1..];
                    }
                }
            }
            prop_assert_eq!(values.len() + lost, records.len());
            // A newline between its values is no end of it where it is alone.
            let parsed = |record: &Sequenced| serde_json::from_slice::<Value>(&record.payload("t")).unwrap();
            let alone = |value: &Value| records.iter().any(|record| parsed(record) == *value);
            prop_assert!(values.iter().all(alone));
            let numbers: Vec<u64> = ids(&values).iter().map(|id| id[2..].parse().unwrap()).collect();
            prop_assert!(numbers.is_sorted());
        }
    }
}
