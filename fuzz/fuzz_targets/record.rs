//! The body of one entry, of either version, against anything, with a CRC that fits. The decoder must not panic, nor take more memory at
//! once than the entry is long; what it takes must come back the same when it is written again, and make a message
//! that says so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::record::{ClockQuality, Encoding, PayloadRule, Sequenced, Timestamp};
use pillion::spool::fuzz::{entry, record};
use pillion_fuzz::{entry_of, with_largest};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

fuzz_target!(|body: &[u8]| {
    for mark in [0, 2] {
        let bytes = entry_of(mark, body);
        let (found, largest) = with_largest(|| record(&bytes, FIRST));
        // The topic of version 2 gets back what was left out of it.
        assert!(largest <= bytes.len() + 12, "{largest} bytes at once for an entry of {}", bytes.len());
        let Some(found) = found else { continue };
        let again = entry(&found);
        assert!(again.len() <= bytes.len());
        assert_eq!(record(&again, found.record.time).as_ref(), Some(&found));
        check_message(&found);
    }
});

/// When the first record of the segment was made.
const FIRST: Timestamp = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 77, quality: ClockQuality::Trusted };

fn check_message(found: &Sequenced) {
    let message = found.payload("telemetry");
    let data = &found.record.data;
    match found.record.encoding {
        Encoding::Raw => return assert_eq!(message, *data),
        // The spool does not look into what was taken for JSON when it came.
        Encoding::Json if PayloadRule::Auto.encoding_of(data) != Encoding::Json => return,
        Encoding::Json | Encoding::Text | Encoding::Base64 => {}
    }
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&message).expect("an envelope is JSON");
    assert_eq!(fields["id"].get(), format!("\"telemetry:{}\"", found.seq));
    let shown = fields["data"].get();
    match found.record.encoding {
        Encoding::Text => {
            let text = String::from_utf8_lossy(data).into_owned();
            assert_eq!(serde_json::from_str::<Value>(shown).expect("JSON"), Value::String(text));
        }
        Encoding::Base64 => assert_eq!(shown.len(), 2 + data.len().div_ceil(3) * 4),
        Encoding::Json | Encoding::Raw => {
            assert_eq!(shown.as_bytes(), data.trim_ascii());
        }
    }
}
