//! What a local client sends, as query and as body, against anything: it must not panic, a topic must be one that can be published to,
//! and how a body was cut into pieces must not show in its lines.
//!
//! The input: a byte for the longest line, one for the length of the pieces (0 counts as 1), then the query or the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::api::fuzz::{lines, log, topic};
use pillion::record::{ClockQuality, Timestamp};

const NOW: Timestamp = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 77, quality: ClockQuality::Trusted };

fuzz_target!(|data: &[u8]| {
    let [max, piece, body @ ..] = data else { return };
    let max = usize::from(*max);
    if let Ok(query) = std::str::from_utf8(body)
        && let Some(topic) = topic(query, max)
    {
        assert!((1..=max).contains(&topic.len()) && !topic.contains(['+', '#']));
        assert!(!topic.contains(char::is_control) && topic.split('/').all(|level| !level.is_empty()));
    }
    let (whole, is_wrong) = lines(body, body.len(), max);
    assert_eq!(lines(body, usize::from(*piece), max), (whole.clone(), is_wrong));
    assert!(whole.iter().all(|(_, line)| line.len() <= max && !line.contains(&b'\n')));
    assert!(whole.iter().map(|(number, _)| *number).eq(1..=whole.len() as u64));
    for is_plain in [false, true] {
        for line in log(body, is_plain, NOW).unwrap_or_default() {
            assert!(line.priority <= 7 && line.fields.len() <= 32);
        }
    }
});
