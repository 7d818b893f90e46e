//! The application beside the sidecar: its life, its heartbeat, and why it ended.

use super::World;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::systemd::Systemd;
use crate::common::{SOON, http};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const UNIT: &str = "[app]\nunit = \"gw.service\"\n";

/// A process that lives until the test ends it.
struct Application(Child);

impl Application {
    fn start() -> Self {
        Application(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn home(world: &World, tables: &str) -> (Home, Systemd) {
    let mut home = world.home();
    home.tables += tables;
    let systemd = Systemd::stand_in(&mut home);
    (home, systemd)
}

/// Waits until `GET /v1/health` says this, and returns its reasons.
fn expect_health(sidecar: &Sidecar, code: u16, state: &str) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = sidecar.request("GET", "/v1/health", "", b"").unwrap();
        if answer.code == code && answer.json["state"] == state {
            return answer.json["reasons"].to_string();
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} for {code} {state}; {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn beat(sidecar: &Sidecar) -> http::Answer {
    sidecar.request("POST", "/v1/heartbeat", "", b"").unwrap()
}

#[test]
fn a_heartbeat_that_stops_never_goes_unnoticed() {
    let world = World::new();
    let mut home = world.home();
    home.tables += "[app]\nheartbeat_timeout = \"1s\"\n";
    let sidecar = Sidecar::start(home);
    world.expect_online();
    let reasons = expect_health(&sidecar, 503, "failed");
    assert!(reasons.contains("the application does not answer: no heartbeat for 1 s"), "{reasons}");
    let answer = beat(&sidecar);
    assert_eq!((answer.code, answer.text.as_str()), (204, ""), "{answer:?}");
    assert_eq!(expect_health(&sidecar, 200, "healthy"), "[]");
    expect_health(&sidecar, 503, "failed");
    world.subscriber.expect("two losses and a return", SOON, |inbox| {
        inbox.events("app-unresponsive").len() == 2 && inbox.events("app-responsive").len() == 1
    });
    assert_eq!(sidecar.request("GET", "/v1/heartbeat", "", b"").unwrap().code, 405);
}

#[test]
fn an_application_that_fails_never_counts_as_healthy() {
    let world = World::new();
    let (home, systemd) = home(&world, UNIT);
    let mut app = Application::start();
    systemd.running("a1", app.pid());
    let sidecar = Sidecar::start(home);
    world.expect_online();
    expect_health(&sidecar, 200, "healthy");
    let status = sidecar.expect_status("the application", |status| status["app"]["state"] == "running");
    assert_eq!(status["app"]["pid"], app.pid(), "{status:#}");
    assert!(status["app"]["descriptors"].as_u64() > Some(0) || status["app"]["descriptors"] == Value::Null);
    let asked = systemd.asked();
    systemd
        .unit("ActiveState=failed\nSubState=failed\nResult=signal\nExecMainCode=2\nExecMainStatus=9\nInvocationID=a1");
    assert_eq!(systemd.asked(), asked, "while it runs, nobody is asked");
    app.kill();
    let reasons = expect_health(&sidecar, 503, "failed");
    assert!(reasons.contains("gw.service has failed; it was killed by signal 9 (SIGKILL)"), "{reasons}");
    let next = Application::start();
    systemd.running("a2", next.pid());
    expect_health(&sidecar, 200, "healthy");
    world.subscriber.expect("the restart", SOON, |inbox| inbox.events("app-restarted").len() == 1);
}

#[test]
fn a_machine_without_systemd_never_keeps_it_from_running() {
    let world = World::new();
    let (home, systemd) = home(&world, UNIT);
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    let reasons = expect_health(&sidecar, 503, "degraded");
    assert!(reasons.contains("gw.service can't be watched: systemctl says: System has not been booted"), "{reasons}");
    let app = Application::start();
    systemd.running("a1", app.pid());
    expect_health(&sidecar, 200, "healthy");
    assert_eq!(sidecar.terminate().code(), Some(0));
}

#[test]
fn a_systemd_that_hangs_never_holds_up_the_stop() {
    let world = World::new();
    let (home, systemd) = home(&world, UNIT);
    systemd.hang();
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    let reasons = expect_health(&sidecar, 503, "degraded");
    assert!(reasons.contains("has not answered within 2000 ms"), "{reasons}");
    let begin = Instant::now();
    assert_eq!(sidecar.terminate().code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    systemd.go_on();
}
