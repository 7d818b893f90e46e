//! The machine itself is unwell, and well again.

use super::World;
use crate::common::SOON;
use crate::common::disk::Tmpfs;
use crate::common::sidecar::{Home, Sidecar};
use serde_json::Value;
use std::fs::File;
use std::path::Path;

const KIB: u64 = 1024;
const DISK_KIB: u64 = 8 * KIB;
/// A tenth of it, and the way back is at 12 %: 819 and 983 KiB.
const HEALTH: &str = "[health]\ninterval = \"1s\"\ndisk_free_min = \"10%\"\n";

fn mount(home: &Home) -> Option<Tmpfs> {
    let disk = Tmpfs::mount(DISK_KIB)?;
    std::os::unix::fs::symlink(disk.path(), home.path("state")).unwrap();
    Some(disk)
}

/// Takes so much space that this many KiB are free.
fn leave(sidecar: &Sidecar, filler: &Path, kib: u64) {
    let taken = std::fs::metadata(filler).map_or(0, |file| file.len());
    let free = sidecar.status()["host"]["disk"]["free_bytes"].as_u64().unwrap();
    let wanted = (taken + free).checked_sub(kib * KIB).unwrap();
    let file = File::options().write(true).create(true).truncate(false).open(filler).unwrap();
    // A hole takes no space.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, wanted).unwrap();
    file.set_len(wanted).unwrap();
}

fn tells(document: &Value) -> bool {
    let reasons = document["health"]["reasons"].as_array().unwrap();
    reasons.iter().any(|reason| reason.as_str().unwrap().contains("less than health.disk_free_min (10%)"))
}

/// Waits for the latest health document to be so, and returns it.
fn expect_health(world: &World, what: &str, right: impl Fn(&Value) -> bool) -> Value {
    let mut document = Value::Null;
    world.subscriber.expect(what, SOON, |inbox| {
        document = inbox.on("p/health").last().map_or(Value::Null, |arrival| arrival.envelope["data"].clone());
        !document.is_null() && right(&document)
    });
    document
}

#[test]
fn a_disk_that_fills_up_is_never_told_too_late_nor_for_ever() {
    let world = World::new();
    let mut home = world.home();
    home.tables += HEALTH;
    let Some(disk) = mount(&home) else { return };
    let filler = disk.path().join("filler");
    let sidecar = Sidecar::start(home);
    world.expect_online();
    sidecar.expect_status("it to be well", |status| status["health"]["state"] == "healthy");

    // Nobody asks: it tells by itself.
    leave(&sidecar, &filler, 700);
    let told = expect_health(&world, "the full disk to be told", tells);
    assert_eq!(told["health"]["state"], "degraded", "{told:#}");
    let health = sidecar.request("GET", "/v1/health", "", b"").unwrap();
    assert_eq!((health.code, &health.json["state"]), (503, &Value::from("degraded")), "{health:?}");

    // A little better is not well yet.
    leave(&sidecar, &filler, 900);
    let status = sidecar.expect_status("another look", |status| {
        status["host"]["disk"]["free_bytes"].as_u64().is_some_and(|free| free > 850 * KIB)
    });
    assert!(tells(&status), "{status:#}");

    leave(&sidecar, &filler, 1100);
    let told = expect_health(&world, "the end of it to be told", |told| !tells(told));
    assert_eq!(told["health"], serde_json::json!({"state": "healthy", "reasons": []}));
    assert_eq!(sidecar.request("GET", "/v1/health", "", b"").unwrap().code, 200);
}
