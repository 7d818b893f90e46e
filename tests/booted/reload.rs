//! `systemctl reload`, with a configuration of each kind.

use crate::common::SOON;
use crate::common::device::Device;
use crate::common::sidecar::STREAM;
use crate::gateway::{APP, Gateway, SIDECAR};

/// What a reload must leave as it is.
fn process(gateway: &Gateway) -> Vec<String> {
    ["ActiveState", "SubState", "NRestarts", "MainPID", "InvocationID"]
        .iter()
        .map(|property| gateway.container.property(SIDECAR, property))
        .collect()
}

/// Exit code and all that was said.
fn reload(gateway: &Gateway) -> (Option<i32>, String) {
    let output = gateway.container.run(&["systemctl", "reload", SIDECAR]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A serial device of the container, as the unit may open it.
fn serial(gateway: &Gateway, name: &str) -> (Device, String) {
    let path = format!("/dev/{name}");
    let device = Device::of(gateway.container.path("/dev/pts/ptmx"), gateway.container.path(&path));
    gateway.container.shell(&format!("chgrp --dereference dialout {path} && chmod 660 {path}"));
    (device, format!("[[serial]]\nname = \"{name}\"\npath = \"{path}\"\n"))
}

#[test]
fn systemctl_reload_never_restarts_anything_nor_hides_a_wrong_configuration() {
    let Some(gateway) = Gateway::boot() else { return };
    let (meter, table) = serial(&gateway, "meter");
    let (pump, second) = serial(&gateway, "pump");
    gateway.configure(&table);
    gateway.start();
    gateway.expect_status("the device", |status| status["devices"]["meter"]["state"] == "online");
    let (before, app) = (process(&gateway), gateway.main_pid(APP));
    assert_eq!(before[..3], ["active", "running", "0"]);
    let mut said = Vec::new();
    let mut say = |text: &str| {
        meter.line(text);
        said.push(text.to_owned());
    };

    say("before");
    assert_eq!(reload(&gateway), (Some(0), String::new()), "nothing has changed");
    assert_eq!(process(&gateway), before);

    say("unchanged");
    gateway.configure(&format!("{table}{second}[mqtt]\ninflight = 7\n"));
    assert_eq!(reload(&gateway), (Some(0), String::new()));
    assert_eq!(process(&gateway), before);
    gateway.expect_status("the new device", |status| status["devices"]["pump"]["state"] == "online");
    pump.line("hello");
    gateway.subscriber.expect_text("telemetry", "hello");

    say("changed");
    gateway.configure(&format!("{table}baud = \"fast\"\n"));
    let (code, complaint) = reload(&gateway);
    assert_eq!(code, Some(1), "{complaint}");
    assert_eq!(process(&gateway), before, "it runs on as if nothing had been");
    // The operator is pointed to the journal, where it stands.
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --output=cat"));
    assert!(journal.contains("/etc/pillion/gateway.toml.d/test.toml:4:8: serial.meter.baud: "), "{journal}");
    let text = gateway.container.property(SIDECAR, "StatusText");
    assert!(text.starts_with("Degraded: ") && text.contains("would not start with it"), "{text}");

    say("wrong");
    gateway.configure(&format!("{table}{second}[mqtt]\ninflight = 7\n[spool]\nsync = \"2s\"\n"));
    let (code, complaint) = reload(&gateway);
    assert_eq!(code, Some(1), "{complaint}");
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --output=cat"));
    assert!(journal.contains("spool.sync can't be changed while pillion runs; restart it"), "{journal}");

    say("needs a restart");
    gateway.configure(&format!("{table}{second}[mqtt]\ninflight = 7\n"));
    gateway.container.shell(&format!("systemctl kill --signal=HUP --kill-who=main {SIDECAR}"));
    gateway.expect_status("the signal to be heard", |status| status["configuration"]["unchanged"] == 2);
    gateway.expect_state(SIDECAR, "active");
    assert_eq!(process(&gateway), before);

    say("after");
    gateway.subscriber.expect_texts("telemetry", said, SOON);
    let status = gateway.expect_status("health", |status| status["health"]["state"] == "healthy");
    assert_eq!(status["link"]["connects"], 1, "{status:#}");
    // A device that is stopped and started begins its own account anew, so the journal has to say.
    let journal = gateway.container.shell(&format!("journalctl --unit={SIDECAR} --output=cat"));
    assert_eq!(journal.matches("device meter is online").count(), 1, "{journal}");
    assert_eq!(gateway.main_pid(APP), app);
    gateway.publish("a record");
    gateway.subscriber.expect_text(STREAM, "a record");
}
