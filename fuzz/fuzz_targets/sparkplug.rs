//! What a host application of Sparkplug sends, and the types that were written down, against anything: it must not panic nor take
//! much memory, and what becomes of a command is a command that a device could be given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::command::{Command, MAX_COMMAND};
use pillion::sparkplug::{asks_for_rebirth, command};
use pillion_fuzz::with_largest;
use serde_json::Value;

fuzz_target!(|payload: &[u8]| {
    let (said, largest) = with_largest(|| command(payload));
    // A metric has about a hundred bytes in memory, and two on the wire; a vector grows by doubling.
    assert!(largest <= 4096 + 128 * payload.len(), "{largest} bytes at once for {}", payload.len());
    let rebirth = asks_for_rebirth(payload);
    assert!(payload.len() <= MAX_COMMAND || (said.is_none() && !rebirth));
    if let Some(said) = said {
        let text: &str = std::str::from_utf8(&said).expect("JSON is UTF-8");
        // Names in names may be deeper than a parser goes.
        let Ok(json) = serde_json::from_str::<Value>(text) else { return };
        assert!(json.get("data").is_some());
        if let Ok(command) = Command::parse(&said) {
            assert!(command.id.is_none() && command.ttl.is_none());
        }
    }
});
