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

#[test]
fn whoever_is_not_let_in_any_more_never_stays() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.container.shell("useradd --groups pillion member");
    gateway.start();
    let curl = |target: &str| {
        format!(
            "curl -sSN --max-time 25 -w '%{{http_code}}' --unix-socket /run/pillion/gateway/pillion.sock http://localhost{target}"
        )
    };
    let reload = |tables: &str| {
        gateway.configure(tables);
        gateway.container.shell("systemctl reload pillion@gateway");
    };
    std::thread::scope(|scope| {
        // An answer without an end.
        let listening = scope.spawn(|| gateway.as_user("member", &curl("/v1/commands")));
        gateway.expect_status("the client", |status| status["api"]["requests"]["GET /v1/commands"]["ok"] == 1);
        reload("[api]\nallow_users = [\"nobody\"]\n");
        let (code, said) = listening.join().unwrap();
        // 28: it ran out of time.
        assert!(code != Some(28), "{said}");
    });
    let ends = |ending: &str| {
        let (_, said) = gateway.as_user("member", &curl("/v1/status"));
        assert!(said.ends_with(ending), "{said}");
    };
    ends("403");
    assert_eq!(gateway.request("GET", "/v1/status", "").unwrap().code, 200, "root is let in always");
    reload("[api]\nallow_users = [\"member\"]\n");
    ends("200");
}
