//! A command's payload against anything: it must not panic, bytes that are no envelope must stay what they are, and what is said of
//! a command must be so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion::command::{Command, Data, MAX_COMMAND};

fuzz_target!(|payload: &[u8]| {
    let parsed = Command::parse(payload);
    if payload.is_empty() || payload.len() > MAX_COMMAND {
        assert!(parsed.is_err());
        return;
    }
    let begins_as_object = payload.trim_ascii_start().starts_with(b"{");
    match parsed {
        Ok(command) => {
            let is_plain = command.id.is_none() && command.ttl.is_none() && command.sent_ms.is_none();
            if !begins_as_object {
                assert!(is_plain && command.data == Data::Bytes(payload.to_vec()));
            }
            if let Some(id) = &command.id {
                assert!(!id.is_empty() && id.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
            assert!(command.data.into_bytes().len() <= 6 * payload.len());
        }
        Err(malformed) => assert!(begins_as_object && !malformed.reason.is_empty()),
    }
});
