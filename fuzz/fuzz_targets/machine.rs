//! What the machine tells, against anything: the journal, systemd and the kernel's news of the network. It must not panic, how the
//! journal was cut into chunks must not show in its lines, and a line must keep to its limit.
//!
//! The input: a byte for the length of the chunks (0 counts as 1), then what is told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::app::journal::{Cursor, Entry, LINE, fuzz::lines};
use pillion::app::unit::UnitState;
use pillion::host::netlink;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let [chunk, told @ ..] = data else { return };
    let whole = lines(told, told.len());
    assert_eq!(whole, lines(told, usize::from(*chunk)));
    for ((json, cut), raw) in
        whole.into_iter().zip(told.split(|byte| *byte == b'\n')).filter_map(|(line, raw)| Some((line?, raw)))
    {
        assert!(json.len() <= LINE + 16);
        assert!(cut || json == raw);
        // What was an object is one still, with the same members.
        if let Ok(Value::Object(members)) = serde_json::from_slice(raw) {
            let bounded: Value = serde_json::from_slice(&json).expect("an object");
            assert!(bounded.as_object().expect("an object").keys().eq(members.keys()));
        }
        if let Ok(entry) = Entry::decode(&json, cut) {
            assert_eq!(Cursor::parse(entry.cursor.as_str()).as_ref(), Some(&entry.cursor));
            assert!(entry.line.priority <= 7 && (!cut || entry.line.truncated));
        }
    }
    if let Ok(text) = std::str::from_utf8(told) {
        let state = UnitState::parse(text);
        let _ = state.exit();
        assert!(state.pid.is_none_or(|pid| pid > 0));
    }
    let (gained, lost) = netlink::fuzz(told);
    assert!(gained + lost <= told.len() as u64 / 16);
});
