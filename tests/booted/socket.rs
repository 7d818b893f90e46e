//! The socket that systemd makes, beside the one that pillion makes itself.

use crate::common::sidecar::STREAM;
use crate::gateway::{APP, Gateway, SIDECAR};
use serde_json::Value;

const UNIT: &str = "pillion@gateway.socket";
const SOCKET: &str = "/run/pillion/gateway/pillion.sock";
const CURL: &str = "curl -sS --max-time 30 --unix-socket /run/pillion/gateway/pillion.sock";

/// Owner, group, mode and number of the socket, and owner, group and mode of its folder.
fn socket(gateway: &Gateway) -> (String, String, String) {
    let stat = |format: &str, path: &str| gateway.container.shell(&format!("stat --format='{format}' {path}"));
    (stat("%U:%G %a", SOCKET), stat("%i", SOCKET), stat("%U:%G %a", "/run/pillion/gateway"))
}

/// An application's first word, before anything of pillion runs.
fn publish(gateway: &Gateway, user: &str, text: &str) {
    let target = format!("'http://localhost/v1/publish?topic=orders&stream={STREAM}'");
    let (code, answer) = gateway.as_user(user, &format!("{CURL} --data-binary '{text}' {target}"));
    assert_eq!(code, Some(0), "{answer}");
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["accepted"], 1, "{answer}");
}

fn users(gateway: &Gateway) {
    gateway.container.shell("useradd --groups pillion member && useradd stranger");
}

/// What every user gets, whoever has made the socket.
fn expect_access(gateway: &Gateway) {
    let status = format!("{CURL} http://localhost/v1/status");
    let (code, document) = gateway.as_user("member", &status);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap()["instance"], "gateway");
    let (code, screen) = gateway.as_user("member", "pillion status --instance gateway");
    assert_eq!(code, Some(0), "{screen}");
    assert_eq!(gateway.as_user("stranger", &status).0, Some(7), "it could not connect");
    assert_eq!(gateway.as_user("stranger", "pillion status --instance gateway").0, Some(69));
}

#[test]
fn a_client_that_comes_first_never_finds_nobody() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.container.write("/etc/systemd/system/pillion@.socket", include_str!("../../systemd/pillion@.socket"));
    users(&gateway);
    gateway.container.shell(&format!("systemctl daemon-reload && systemctl enable --now {UNIT}"));
    assert_eq!(gateway.container.property(SIDECAR, "ActiveState"), "inactive");
    let (owner, number, _) = socket(&gateway);
    assert_eq!(owner, "pillion:pillion 660");
    assert_eq!(gateway.as_user("stranger", &format!("{CURL} http://localhost/v1/status")).0, Some(7));
    assert_eq!(gateway.container.property(SIDECAR, "ActiveState"), "inactive", "who is refused starts nothing");

    // pillion is started for the first word, and what it is bound to with it.
    publish(&gateway, "member", "first");
    assert_eq!(gateway.container.property(APP, "ActiveState"), "active");
    assert_eq!(gateway.container.property(SIDECAR, "ActiveState"), "active");
    gateway.expect_status("the link", |status| status["link"]["state"] == "connected");
    assert_eq!(socket(&gateway), (owner.clone(), number.clone(), "pillion:pillion 750".to_owned()));
    expect_access(&gateway);

    // A restart keeps the socket, and whoever comes meanwhile waits.
    let invocation = gateway.invocation(SIDECAR);
    gateway.container.shell(&format!("systemctl restart --no-block {SIDECAR}"));
    publish(&gateway, "member", "during a restart");
    gateway.expect_another(SIDECAR, &invocation);
    assert_eq!(socket(&gateway), (owner.clone(), number.clone(), "pillion:pillion 750".to_owned()));
    let invocation = gateway.invocation(SIDECAR);
    gateway.container.shell(&format!("systemctl kill --signal=KILL {SIDECAR}"));
    publish(&gateway, "member", "after a kill");
    gateway.expect_another(SIDECAR, &invocation);
    assert_eq!(socket(&gateway).1, number);

    // It outlives the application and pillion.
    gateway.container.shell(&format!("systemctl stop {APP}"));
    assert_eq!(gateway.container.property(SIDECAR, "ActiveState"), "inactive");
    assert_eq!(socket(&gateway), (owner, number, "pillion:pillion 750".to_owned()));
    for text in ["first", "during a restart", "after a kill"] {
        gateway.subscriber.expect_text(STREAM, text);
    }
}

#[test]
fn a_socket_of_our_own_never_lets_in_others_than_that_of_systemd() {
    let Some(gateway) = Gateway::boot() else { return };
    users(&gateway);
    gateway.start();
    let (owner, _, folder) = socket(&gateway);
    assert_eq!((owner.as_str(), folder.as_str()), ("pillion:pillion 660", "pillion:pillion 750"));
    expect_access(&gateway);
    publish(&gateway, "member", "hello");
    gateway.subscriber.expect_text(STREAM, "hello");
}
