//! What README says to type when something is wrong, typed.

use crate::common::device::Device;
use crate::gateway::{APP, Gateway, SIDECAR};
use std::fs;
use std::path::Path;

/// The lines of the shell blocks below this heading, without their comments.
fn commands(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let part = page.split(&format!("\n## {heading}\n")).nth(1).expect("the heading");
    let part = part.split("\n## ").next().unwrap();
    let blocks = part.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let line = |line: &str| line.split(" #").next().unwrap().trim().trim_start_matches("sudo ").to_owned();
    blocks.flat_map(str::lines).map(line).filter(|line| !line.is_empty()).collect()
}

/// Types one; returns its exit code and all that it said.
fn typed(gateway: &Gateway, command: &str) -> (Option<i32>, String) {
    let output = gateway.container.run(&["sh", "-c", &format!("SYSTEMD_PAGER= {command}")]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_the_readme_says_to_type_never_fails_to_tell_what_is_wrong() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.configure("[[serial]]\nname = \"meter\"\npath = \"/dev/meter\"\n");
    gateway.start();
    let mut device = Device::of(gateway.container.path("/dev/pts/ptmx"), gateway.container.path("/dev/meter"));
    gateway.container.shell("chgrp --dereference dialout /dev/meter && chmod 660 /dev/meter");
    gateway.expect_status("the device", |status| status["devices"]["meter"]["state"] == "online");
    device.line("220 V");
    gateway.subscriber.expect_text("telemetry", "220 V");
    device.pull_out();
    let is_told = |status: &serde_json::Value| status["health"]["state"] == "degraded";
    gateway.expect_status("the loss of the device", is_told);
    gateway.container.expect_property(SIDECAR, "StatusText", |text| text.starts_with("Degraded: "));
    // Each with its exit code and a part of what it says.
    let expected = [
        (0, "Degraded: serial device meter is offline"),
        (1, "! serial device meter is offline"),
        (0, "device meter is offline"),
        (0, "device meter is online"),
        (0, "220 V"),
        (0, "path = \"/dev/meter\""),
        (0, ""),
        (0, "whole: nothing is damaged"),
        (0, ""),
    ];
    let commands = commands("When something is wrong");
    assert_eq!(commands.len(), expected.len(), "{commands:?}");
    for (command, (code, text)) in commands.iter().zip(expected) {
        let (ended, said) = typed(&gateway, command);
        assert_eq!(ended, Some(code), "{command}\n{said}");
        assert!(said.contains(text), "{command}\n{said}");
    }
    gateway.expect_state(SIDECAR, "active");

    // The exit codes.
    let (code, said) = typed(&gateway, "pillion spool verify /var/lib/pillion/gateway");
    assert_eq!(code, Some(69), "it is in use: {said}");
    gateway.configure("mqtt.inflight = \"many\"\n");
    let (code, said) = typed(&gateway, "pillion check --config /etc/pillion/gateway.toml");
    assert_eq!(code, Some(78), "{said}");
    assert_eq!(typed(&gateway, "systemctl reload pillion@gateway").0, Some(1));
    gateway.container.shell(&format!("systemctl stop {APP} && systemctl start --no-block {APP}"));
    gateway.container.expect_property(SIDECAR, "ExecMainStatus", |status| status == "78");
    let (code, said) = typed(&gateway, "systemctl status pillion@gateway");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("test.toml:1:17: mqtt.inflight: "), "{said}");
    let (_, said) = typed(&gateway, "journalctl -b -p warning -u pillion@gateway");
    assert!(said.contains("test.toml:1:17: mqtt.inflight: "), "{said}");
    gateway.container.expect_property(SIDECAR, "NRestarts", |restarts| restarts == "0");
}
