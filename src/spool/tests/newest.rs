//! The newest record on a topic that waits.

use super::*;

/// Appends a record on this topic and makes it survive a kill, or with `flash` a power cut.
fn put(rig: &mut Rig, topic: &str, data: &str, flash: bool) -> u64 {
    let record = Record { topic: topic.to_owned(), ..rig.record(data) };
    let accepted = rig.spool.append(T, vec![record], rig.now).unwrap();
    let durability = if flash { Durability::Power } else { Durability::Process };
    rig.spool.harden(T, durability, rig.now).unwrap();
    accepted.last
}

fn newest(rig: &Rig) -> Option<u64> {
    rig.spool.newest(T, "log").map(|record| record.seq)
}

#[test]
fn the_newest_record_is_never_missed_wherever_it_is() {
    for flash in [false, true] {
        let mut rig = Rig::with(tiered(WINDOW));
        assert_eq!(newest(&rig), None);
        put(&mut rig, "log", "first", flash);
        let second = put(&mut rig, "log", "second", flash);
        // Over several segments.
        let last = (0..20).map(|number| put(&mut rig, "health", &format!("{number:0>100}"), flash)).last().unwrap();
        assert_eq!(newest(&rig), Some(second));
        rig.reopen();
        assert_eq!(newest(&rig), Some(second), "killed");
        assert_eq!(rig.spool.newest(T, "health").unwrap().seq, last);
        rig.close_and_reopen();
        assert_eq!(newest(&rig), Some(second), "stopped");
        rig.spool.acknowledge(T, second, rig.now);
        assert_eq!(newest(&rig), None, "done with");
        let third = put(&mut rig, "log", "third", true);
        rig.cut_and_reopen(1);
        assert_eq!(newest(&rig), Some(third), "the power went");
    }
}

#[test]
fn a_damaged_record_never_hides_an_older_one() {
    let mut rig = Rig::new(Sync::Always);
    let first = put(&mut rig, "log", "first", true);
    put(&mut rig, "log", "second", true);
    let path = rig.files(".seg").pop().unwrap();
    rig.damage_entry(&path, 1);
    rig.reopen();
    assert_eq!(newest(&rig), Some(first));
}
