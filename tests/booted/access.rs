//! Who may ask.

use crate::gateway::Gateway;
use serde_json::Value;

/// Runs a script as a user; returns its exit code and all that it said.
fn as_user(gateway: &Gateway, user: &str, script: &str) -> (Option<i32>, String) {
    let output = gateway.container.run(&["runuser", "--user", user, "--", "sh", "-c", script]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_user_outside_the_group_never_gets_an_answer() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.container.shell("useradd --groups pillion member && useradd stranger");
    gateway.start();
    let curl = "curl -sS --unix-socket /run/pillion/gateway/pillion.sock http://localhost/v1/status";

    let (code, screen) = as_user(&gateway, "member", "pillion status --instance gateway");
    assert_eq!(code, Some(0), "{screen}");
    let (code, document) = as_user(&gateway, "member", curl);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap()["instance"], "gateway");

    let (code, complaint) = as_user(&gateway, "stranger", "pillion status --instance gateway");
    assert_eq!(code, Some(69), "{complaint}");
    // 7: it could not connect.
    let (code, complaint) = as_user(&gateway, "stranger", curl);
    assert_eq!(code, Some(7), "{complaint}");
}
