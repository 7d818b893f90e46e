//! pillion goes where the application goes, and never the other way round.

use crate::common::sidecar::STREAM;
use crate::gateway::{APP, Gateway, SIDECAR};

#[test]
fn an_application_that_starts_or_stops_is_never_left_alone() {
    let Some(gateway) = Gateway::boot() else { return };
    assert_eq!(gateway.container.property(SIDECAR, "ActiveState"), "inactive");
    gateway.start();
    gateway.expect_state(SIDECAR, "active");
    gateway.container.shell(&format!("systemctl stop {APP}"));
    // systemd stops the bound one first.
    assert_eq!(gateway.container.property(SIDECAR, "ActiveState"), "inactive");
    assert_eq!(gateway.container.property(SIDECAR, "Result"), "success");
    // systemd forgets units that are at rest, and their times; the journal does not.
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --unit={APP} --output=cat"));
    let place = |text: &str| journal.find(text).unwrap_or_else(|| panic!("no {text:?} in {journal}"));
    assert!(place("Stopped pillion@gateway") < place("Stopping gateway"), "{journal}");
    let farewell = gateway.subscriber.expect_latest("p/status", |status| status["state"] == "offline").json();
    assert_eq!(farewell["reason"], "stopped", "{farewell}");
    // Nor were its own children taken from it meanwhile.
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --output=cat"));
    assert!(!journal.contains("can't be read"), "{journal}");
}

#[test]
fn a_sidecar_that_is_started_first_never_runs_without_its_application() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.container.shell(&format!("systemctl start {SIDECAR}"));
    assert_eq!(gateway.container.property(APP, "ActiveState"), "active");
    gateway.container.shell(&format!("systemctl stop {SIDECAR}"));
    assert_eq!(gateway.container.property(APP, "ActiveState"), "active");
}

#[test]
fn a_sidecar_never_outlives_an_application_that_dies() {
    let Some(gateway) = Gateway::boot() else { return };
    for (end, result) in [("exit 3", "exit-code"), ("kill -9 $$", "signal"), ("exit 0", "success")] {
        gateway.start();
        gateway.order(end);
        gateway.expect_state(SIDECAR, "inactive");
        assert_eq!(gateway.container.property(APP, "Result"), result);
        assert_eq!(gateway.container.property(SIDECAR, "Result"), "success", "after {end}");
        gateway.container.shell("systemctl reset-failed");
    }
}

#[test]
fn a_restart_of_the_application_never_leaves_it_without_its_sidecar() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.application("Restart=always\nRestartSec=100ms");
    gateway.start();
    for end in ["exit 3", "kill -9 $$", "exit 0"] {
        let (app, sidecar) = (gateway.invocation(APP), gateway.invocation(SIDECAR));
        gateway.order(end);
        gateway.expect_another(APP, &app);
        gateway.expect_another(SIDECAR, &sidecar);
    }
    assert_eq!(gateway.container.property(APP, "NRestarts"), "3");
    assert_eq!(gateway.container.property(SIDECAR, "NRestarts"), "0");
}

#[test]
fn a_killed_sidecar_never_touches_the_application_nor_stays_away() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.start();
    gateway.publish("before");
    let (app, sidecar) = (gateway.main_pid(APP), gateway.invocation(SIDECAR));
    gateway.container.shell(&format!("systemctl kill --signal=KILL {SIDECAR}"));
    gateway.expect_another(SIDECAR, &sidecar);
    gateway.publish("after");
    for text in ["before", "after"] {
        gateway.subscriber.expect_text(STREAM, text);
    }
    assert_eq!(gateway.container.property(SIDECAR, "NRestarts"), "1");
    assert_eq!(gateway.main_pid(APP), app);
    // However often that happens; and one that hangs is killed.
    let properties = ["StartLimitIntervalUSec", "WatchdogUSec"].map(|name| gateway.container.property(SIDECAR, name));
    assert_eq!(properties, ["0", "1min"]);
}

#[test]
fn a_sidecar_that_hangs_never_stays_so_and_never_loses_a_record() {
    let Some(gateway) = Gateway::boot() else { return };
    // The unit's own is too long for a test.
    gateway.drop_in("WatchdogSec=2s");
    gateway.start();
    // Nothing is acknowledged any more, so all of it is in the spool when it hangs.
    gateway.relay.silence();
    let texts: Vec<String> = (0..100).map(|number| format!("record {number}")).collect();
    texts.iter().for_each(|text| gateway.publish(text));
    let (app, sidecar) = (gateway.main_pid(APP), gateway.invocation(SIDECAR));
    gateway.container.shell(&format!("systemctl kill --signal=STOP {SIDECAR}"));
    gateway.expect_another(SIDECAR, &sidecar);
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --output=cat"));
    assert!(journal.contains("Failed with result 'watchdog'"), "{journal}");
    gateway.relay.cut();
    gateway.relay.open();
    gateway.subscriber.expect_texts(STREAM, texts, crate::common::SOON);
    assert_eq!(gateway.main_pid(APP), app);
}

#[test]
fn what_only_the_runtime_tier_has_never_goes_with_a_killed_process() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.configure("[spool]\nsync = \"10m\"\n");
    gateway.start();
    gateway.relay.silence();
    let texts: Vec<String> = (0..100).map(|number| format!("record {number}")).collect();
    texts.iter().for_each(|text| gateway.publish(text));
    let on_flash = format!("find /var/lib/pillion/gateway/spool/{STREAM} -name '*.seg'");
    assert_eq!(gateway.container.shell(&on_flash), "", "flash has none of them");
    let sidecar = gateway.invocation(SIDECAR);
    gateway.container.shell(&format!("systemctl kill --signal=KILL {SIDECAR}"));
    gateway.expect_another(SIDECAR, &sidecar);
    gateway.relay.cut();
    gateway.relay.open();
    gateway.subscriber.expect_texts(STREAM, texts, crate::common::SOON);
}
