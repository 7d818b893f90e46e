//! An application that runs and does nothing any more.

use crate::gateway::{APP, Gateway};
use std::time::{Duration, Instant};

/// `app.heartbeat_timeout`
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(5);

/// A heartbeat, and the next one: ten a second.
const BEAT: &str = "while :; do curl -s -X POST --unix-socket /run/pillion/gateway/pillion.sock \
                    http://localhost/v1/heartbeat; sleep 0.1; done &";

/// Waits until `GET /v1/health` answers with this code, and returns the reasons.
fn expect_health(gateway: &Gateway, code: u16) -> String {
    let deadline = Instant::now() + TIMEOUT + SLACK;
    loop {
        let answer = gateway.request("GET", "/v1/health", "").unwrap();
        if answer.code == code {
            return answer.json["reasons"].to_string();
        }
        assert!(Instant::now() < deadline, "not {code} within {:?}: {answer:?}", TIMEOUT + SLACK);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_application_that_hangs_is_never_called_healthy() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.configure("[app]\nheartbeat_timeout = \"2s\"");
    gateway.start();
    gateway.order(BEAT);
    gateway.expect_status("a heartbeat", |status| status["app"]["heartbeat"]["state"] == "alive");
    assert_eq!(expect_health(&gateway, 200), "[]");
    let pid = gateway.main_pid(APP);

    let hung = Instant::now();
    gateway.container.shell(&format!("systemctl kill --signal=STOP {APP}"));
    let reasons = expect_health(&gateway, 503);
    assert!(hung.elapsed() >= TIMEOUT - Duration::from_millis(500), "after {:?}", hung.elapsed());
    assert!(reasons.contains("gateway.service does not answer: no heartbeat for 2 s"), "{reasons}");
    assert_eq!(gateway.expect_events("app-unresponsive", 1)[0]["unit"], APP);

    gateway.container.shell(&format!("systemctl kill --signal=CONT {APP}"));
    assert_eq!(expect_health(&gateway, 200), "[]");
    assert_eq!(gateway.expect_events("app-responsive", 1)[0]["unit"], APP);
    assert_eq!(gateway.main_pid(APP), pid);
}
