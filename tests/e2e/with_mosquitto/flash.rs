//! What is written to `state_dir`, and when.

use super::World;
use crate::common::sidecar::{STREAM, Sidecar};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Every file and folder below this one: inode, size, and when it was written last.
fn footprint(dir: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(footprint(&path));
        }
        found.insert(path, (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()));
    }
    found
}

#[test]
fn records_that_the_broker_takes_in_time_never_touch_state_dir() {
    let world = World::new();
    let mut home = world.home();
    // A busy machine must not be taken for a slow broker.
    home.spool = "sync = \"1m\"".to_owned();
    let sidecar = Sidecar::start(home);
    sidecar.publish("orders", "the first one reserves numbers");
    sidecar.expect_drained(STREAM);
    // In the health documents' stream too, for one of them may come at any time.
    let target = "/v1/publish?topic=orders&stream=telemetry";
    assert_eq!(sidecar.request("POST", target, "text/plain", b"first").unwrap().code, 200);
    sidecar.expect_drained("telemetry");
    let state = sidecar.home.path("state");
    let before = footprint(&state);
    for round in 0..50 {
        let lines: Vec<String> = (0..100).map(|number| format!("record {round}.{number}")).collect();
        sidecar.publish_lines("orders", &lines);
        // More than 256 KiB that wait go to flash at once.
        if round % 10 == 9 {
            sidecar.expect_drained(STREAM);
        }
    }
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["delivered"], 5001, "{ledger}");
    assert_eq!(footprint(&state), before);
}
