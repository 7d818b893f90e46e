//! A managed file under a real systemd: pillion ends with the application that is restarted, and the file is right in the end.

use crate::common::operator::Operator;
use crate::gateway::{APP, Gateway, SIDECAR};

const FILE: &str = "/etc/gateway/app.toml";

/// A gateway whose application ends at once if its file holds BREAK.
fn boot() -> Option<Gateway> {
    let gateway = Gateway::boot()?;
    let inside = &gateway.container;
    for (unit, text) in [
        ("pillion-apply@.service", include_str!("../../systemd/pillion-apply@.service")),
        ("pillion-apply@.path", include_str!("../../systemd/pillion-apply@.path")),
    ] {
        inside.write(&format!("/etc/systemd/system/{unit}"), text);
    }
    inside.shell(
        "mkdir -p /etc/gateway && echo 'version = 0' > /etc/gateway/app.toml && chmod 640 /etc/gateway/app.toml",
    );
    gateway.configure(&format!(
        "[[managed_file]]\nkey = \"app.toml\"\npath = {FILE:?}\nhealthy_within = \"2s\"\nowner = \"root:pillion\"\n\
         check = [\"/bin/sh\", \"-c\", \"! grep WRONG $0\", \"{{file}}\"]\n"
    ));
    gateway
        .application("ExecStartPre=/bin/sh -c '! grep -q BREAK /etc/gateway/app.toml'\nRestart=always\nRestartSec=1s");
    inside.shell("systemctl enable --now pillion-apply@gateway.path");
    gateway.start();
    Some(gateway)
}

fn content(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.container.path(FILE)).unwrap()
}

#[test]
fn a_version_that_breaks_the_application_never_stays_on_a_real_system() {
    let Some(gateway) = boot() else { return };
    let mut operator = Operator::at(gateway.mosquitto.address());
    let app = gateway.invocation(APP);
    operator.publish("p/config/app.toml", "version = 1\n", true);
    gateway.subscriber.expect_latest("p/config-reported/app.toml", |report| report["applied"].is_string());
    let app = gateway.expect_another(APP, &app);
    assert_eq!(content(&gateway), "version = 1\n");
    assert_eq!(gateway.container.shell(&format!("stat -c '%U:%G %a' {FILE}")).trim(), "root:pillion 640");

    operator.publish("p/config/app.toml", "WRONG\n", true);
    gateway.subscriber.expect_latest("p/config-reported/app.toml", |report| {
        report["rejected"].as_str().is_some_and(|why| why.contains("WRONG"))
    });
    assert_eq!((content(&gateway).as_str(), gateway.invocation(APP)), ("version = 1\n", app.clone()));

    operator.publish("p/config/app.toml", "version = 2 # BREAK\n", true);
    gateway.subscriber.expect_latest("p/config-reported/app.toml", |report| report["rolled-back"].is_string());
    assert_eq!(content(&gateway), "version = 1\n");
    gateway.expect_another(APP, &app);
    gateway.expect_state(SIDECAR, "active");
    gateway.container.expect_property("pillion-apply@gateway.service", "ActiveState", |now| now == "inactive");
    assert_eq!(gateway.container.property("pillion-apply@gateway.service", "Result"), "success");
}
