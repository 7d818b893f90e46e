//! A gateway without a clock of its own: its records are of 1970 until the network has told the time.

use super::{Rig, T, WINDOW};
use crate::config::Sync;
use crate::record::{ClockQuality, Durability, Timestamp};

const TRUE_MS: u64 = 1_795_401_667_123;

/// A spool that was opened five seconds after boot, with one record of that moment.
fn without_a_clock(sync: Sync) -> Rig {
    let mut rig = Rig::new(sync);
    rig.now = Timestamp { wall_ms: 5_000, mono_ms: 5_000, quality: ClockQuality::Unsynced };
    rig.append_to(T, &["early"]).unwrap();
    rig
}

/// The network tells the time, a minute after boot.
fn tell_the_time(rig: &mut Rig) {
    rig.now = Timestamp { wall_ms: TRUE_MS, mono_ms: 60_000, quality: ClockQuality::Trusted };
}

fn time_read(rig: &mut Rig) -> Timestamp {
    rig.spool.rewind();
    let all = rig.read_all();
    all.iter().find(|(stream, _)| *stream == T).unwrap().1.record.time
}

#[test]
fn a_record_that_still_waits_never_keeps_the_time_of_1970() {
    for durability in [Durability::Window, Durability::Power] {
        let mut rig = without_a_clock(WINDOW);
        rig.spool.harden(T, durability, rig.now).unwrap();
        let before = time_read(&mut rig);
        assert_eq!((before.wall_ms, before.quality), (5_000, ClockQuality::Unsynced), "nobody knows better yet");
        tell_the_time(&mut rig);
        let after = time_read(&mut rig);
        assert_eq!((after.wall_ms, after.quality), (TRUE_MS - 55_000, ClockQuality::Trusted));
    }
}

#[test]
fn a_restart_in_the_same_boot_never_loses_the_true_time() {
    let mut rig = without_a_clock(Sync::Always);
    rig.spool.harden(T, Durability::Power, rig.now).unwrap();
    tell_the_time(&mut rig);
    rig.reopen();
    assert_eq!(time_read(&mut rig).wall_ms, TRUE_MS + 100 - 55_100);
}

#[test]
fn a_record_of_another_boot_never_gets_a_time_that_is_made_up() {
    let mut rig = without_a_clock(Sync::Always);
    rig.spool.harden(T, Durability::Power, rig.now).unwrap();
    rig.options.boot_id = [8; 16];
    tell_the_time(&mut rig);
    rig.reopen();
    let time = time_read(&mut rig);
    assert_eq!((time.wall_ms, time.quality), (5_000, ClockQuality::Unsynced));
}
