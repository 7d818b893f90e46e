//! Who may ask, and what the service may do.

use crate::gateway::Gateway;
use serde_json::Value;
use std::process::Command;

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

#[test]
fn the_sandbox_never_gets_wider() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.start();
    let report = gateway.container.shell("systemd-analyze security --no-pager pillion@gateway");
    println!("{report}");
    let verdict = report.lines().last().unwrap();
    let score: f64 = verdict.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(score <= 3.2, "{verdict}");
}

#[test]
fn the_sandbox_never_hides_the_machine() {
    let Some(gateway) = Gateway::boot() else { return };
    // It has the loopback alone, and no tool for more; but this thread is on its network.
    let make = "ip link add eth7 type veth peer name eth8 && ip address add 192.0.2.77/24 dev eth7";
    if !Command::new("sh").args(["-c", make]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: no network interface can be made here (needs iproute2)");
        return;
    }
    gateway.start();
    let told = gateway.request("GET", "/v1/environment", "").unwrap().json;
    let (machine, host) = (&told["machine"], &told["host"]);
    assert_eq!(host["network"]["eth7"]["addresses"], serde_json::json!(["192.0.2.77"]), "{told:#}");
    assert_eq!(machine["os"]["version"], "12", "{told:#}");
    assert_eq!(machine["kernel"], gateway.container.shell("uname -r").trim());
    for (place, known) in [(host, "uptime_s"), (host, "load"), (host, "memory"), (host, "disk"), (machine, "cpus")] {
        assert!(!place[known].is_null(), "no {known} in {told:#}");
    }
    // Its time service does not run in a container, and pillion doesn't make it up.
    assert_eq!(host["clock"], "unknown", "{told:#}");
}
