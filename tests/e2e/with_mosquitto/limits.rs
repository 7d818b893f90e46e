//! Records that are larger than the broker takes.

use super::World;
use crate::common::sidecar::{STREAM, Sidecar, assert_balanced};

#[test]
fn a_record_that_is_too_large_never_gets_in_and_never_blocks_the_others() {
    let world = World::new();
    let mut home = world.home();
    home.mqtt = "max_payload = \"4KiB\"".to_owned();
    let sidecar = Sidecar::start(home);
    sidecar.publish("orders", "before");
    for size in [4 << 10, 5 << 10, 1 << 20] {
        let body = vec![b'x'; size];
        let answer = sidecar.request("POST", "/v1/publish?topic=orders&stream=work", "text/plain", &body).unwrap();
        assert_eq!(answer.code, 413, "{size}: {answer:?}");
        assert!(answer.json["error"].is_string(), "{size}: {answer:?}");
    }
    sidecar.publish("orders", "after");
    world.subscriber.expect_text(STREAM, "after");
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["refused"]), (&2.into(), &3.into()), "{ledger}");
}

#[test]
fn a_stored_record_that_has_become_too_large_never_blocks_the_others() {
    let world = World::new();
    world.relay.cut();
    let mut home = world.home();
    home.spool = "sync = \"always\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    sidecar.publish("orders", "before");
    sidecar.publish("orders", &"x".repeat(100_000));
    sidecar.publish("orders", "after");
    assert!(sidecar.terminate().success());
    sidecar.home.mqtt = "max_payload = \"64KiB\"".to_owned();
    sidecar.start_again();
    world.relay.open();
    assert_eq!(world.subscriber.expect_text(STREAM, "before").seq, 1);
    assert_eq!(world.subscriber.expect_text(STREAM, "after").seq, 3);
    let ledger = sidecar.expect_drained(STREAM);
    assert_balanced(&ledger);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&2.into(), &1.into()), "{ledger}");
    world.subscriber.expect("the announcement", crate::common::SOON, |inbox| !inbox.events("gap").is_empty());
    let gap = world.subscriber.read(|inbox| inbox.events("gap")).remove(0);
    for (key, value) in [("first", 2), ("last", 2), ("count", 1)] {
        assert_eq!(gap[key], value, "{key} of {gap}");
    }
    assert_eq!((&gap["stream"], &gap["reason"]), (&STREAM.into(), &"oversize".into()), "{gap}");
}
