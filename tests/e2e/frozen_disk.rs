//! A disk that hangs, as worn-out cards do for seconds or for ever. The kernel's own freezer (fsfreeze(8)) stands in for it,
//! on a file system of the test's own in a loop device.

use crate::common::disk::LoopDisk;
use crate::common::own_address;
use crate::common::sidecar::{Home, Sidecar};
use std::time::{Duration, Instant};

#[test]
fn a_flow_that_hangs_never_gets_its_watchdog_pinged() {
    let Some(disk) = LoopDisk::mount() else { return };
    let mut home = Home::new([format!("mqtt://{}:1", own_address())]);
    std::os::unix::fs::symlink(disk.path(), home.path("state")).unwrap();
    home.environment.insert("WATCHDOG_USEC".to_owned(), "900000".to_owned());
    let sidecar = Sidecar::start(home);
    sidecar.expect_notes("WATCHDOG=1", 2);

    disk.freeze();
    let pings = || sidecar.notes().iter().filter(|note| *note == "WATCHDOG=1").count();
    std::thread::scope(|scope| {
        // Blocks the spool's thread in the kernel, and is answered after the thaw.
        let publish = scope.spawn(|| sidecar.request("POST", "/v1/publish?topic=t&sync=true", "", b"1"));
        sidecar.expect_log("no progress: spool");
        let before = pings();
        // The answer takes longer than two pings would, since the spool is asked and given up on.
        let health = sidecar.request("GET", "/v1/health", "", b"").unwrap();
        let after = pings();
        disk.thaw();
        assert_eq!(before, after, "pinged though the spool hangs");
        assert_eq!(health.code, 503);
        assert!(health.json["reasons"].to_string().contains("the spool does not answer"), "{}", health.json);
        assert_eq!(publish.join().unwrap().unwrap().code, 200, "nothing is lost by it");
    });
    sidecar.expect_notes("WATCHDOG=1", pings() + 2);
}

/// Thaws it when it is dropped.
struct Frozen<'d>(&'d LoopDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

#[test]
fn a_reload_that_waits_for_the_disk_never_holds_up_the_stop() {
    let Some(disk) = LoopDisk::mount() else { return };
    let home = Home::new([format!("mqtt://{}:1", own_address())]);
    std::os::unix::fs::symlink(disk.path(), home.path("state")).unwrap();
    let mut sidecar = Sidecar::start(home);
    // What Home Assistant is told is written down first.
    sidecar.home.tables += "[homeassistant]\nenable = true\n";
    sidecar.home.configure();
    disk.freeze();
    // A process that the kernel holds can't be ended, so whatever comes of this.
    let frozen = Frozen(&disk);
    sidecar.hang_up();
    sidecar.expect_notes("RELOADING=1", 1);
    let begin = Instant::now();
    sidecar.begin_stop();
    sidecar.expect_note("the stop", |note| note == "STOPPING=1");
    // All threads but those that the kernel holds are at their end. systemd waits for 20 s.
    sidecar.expect_log("the disk did not take what is left in time");
    let elapsed = begin.elapsed();
    drop(frozen);
    assert!(sidecar.wait().success());
    assert!(elapsed < Duration::from_secs(19), "{elapsed:?}");
}
