//! Who may ask.

use crate::gateway::Gateway;
use serde_json::Value;

#[test]
fn a_user_outside_the_group_never_gets_an_answer() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.container.shell("useradd --groups pillion member && useradd stranger");
    gateway.start();
    let curl = "curl -sS --unix-socket /run/pillion/gateway/pillion.sock http://localhost/v1/status";

    let (code, screen) = gateway.as_user("member", "pillion status --instance gateway");
    assert_eq!(code, Some(0), "{screen}");
    let (code, document) = gateway.as_user("member", curl);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap()["instance"], "gateway");

    for command in ["pillion status --instance gateway", "pillion status"] {
        let (code, complaint) = gateway.as_user("stranger", command);
        assert_eq!(code, Some(69), "{complaint}");
        assert!(complaint.contains("usermod -aG pillion"), "{command}: {complaint}");
    }
    // 7: it could not connect.
    let (code, complaint) = gateway.as_user("stranger", curl);
    assert_eq!(code, Some(7), "{complaint}");
}
