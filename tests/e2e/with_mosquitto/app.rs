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

/// The unit has ended: exit code 3, or signal 9.
const EXITED: &str =
    "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainCode=1\nExecMainStatus=3\nNRestarts=0";
const KILLED: &str = "ActiveState=activating\nSubState=auto-restart\nResult=signal\nExecMainCode=2\nExecMainStatus=9";

/// A sidecar that has the application in its sight.
fn accompanied(world: &World) -> (Sidecar, Systemd, Application) {
    let (home, systemd) = home(world, UNIT);
    let app = Application::start();
    systemd.running("a1", app.pid());
    let sidecar = Sidecar::start(home);
    sidecar.expect_status("the application", |status| status["app"]["state"] == "running");
    (sidecar, systemd, app)
}

/// Waits for so many exit reports, and returns them.
fn expect_exits(world: &World, count: usize) -> Vec<Value> {
    world.subscriber.expect("exit reports", SOON, |inbox| inbox.events("app-exit").len() >= count);
    exits(world)
}

fn exits(world: &World) -> Vec<Value> {
    world.subscriber.flush();
    world.subscriber.read(|inbox| inbox.events("app-exit"))
}

#[test]
fn a_stop_because_the_application_failed_never_goes_without_the_reason() {
    let world = World::new();
    let (mut sidecar, systemd, mut app) = accompanied(&world);
    world.expect_online();
    let line =
        |number| format!("{{\"MESSAGE\":\"debug {number}\",\"PRIORITY\":\"7\",\"__CURSOR\":\"s=1;i={number}\"}}\n");
    systemd.log(&(10..40).map(line).collect::<String>());
    systemd.unit(&format!("{EXITED}\nInvocationID=a1"));
    app.kill();
    assert_eq!(sidecar.terminate().code(), Some(0));
    let [report] = expect_exits(&world, 1).try_into().unwrap();
    assert_eq!(
        (&report["cause"], &report["code"], &report["invocation"]),
        (&"exit-code".into(), &3.into(), &"a1".into())
    );
    assert_eq!(report["text"], "gw.service exited with code 3", "{report:#}");
    let messages: Vec<&str> =
        report["lines"].as_array().unwrap().iter().map(|l| l["message"].as_str().unwrap()).collect();
    let expected: Vec<String> = (10..40).map(|number| format!("debug {number}")).collect();
    assert_eq!(messages, expected);
    // The next run is another one, and nothing is told twice.
    let next = Application::start();
    systemd.running("a2", next.pid());
    sidecar.start_again();
    world.subscriber.expect("the restart", SOON, |inbox| inbox.events("app-restarted").len() == 1);
    assert_eq!(exits(&world).len(), 1);
}

#[test]
fn a_report_is_never_lost_while_the_broker_is_down() {
    let mut world = World::new();
    let (mut sidecar, systemd, mut app) = accompanied(&world);
    world.expect_online();
    world.stop_broker();
    systemd.unit(&format!("{KILLED}\nInvocationID=a1"));
    app.kill();
    assert_eq!(sidecar.terminate().code(), Some(0));
    // As RuntimeDirectoryPreserve=no has it.
    std::fs::remove_dir_all(sidecar.home.path("run")).unwrap();
    let next = Application::start();
    systemd.running("a2", next.pid());
    sidecar.start_again();
    world.start_broker();
    let [report] = expect_exits(&world, 1).try_into().unwrap();
    assert_eq!((&report["cause"], &report["signal"]), (&"signal".into(), &"SIGKILL".into()));
    assert_eq!((&report["will_restart"], &report["late"]), (&true.into(), &Value::Null));
    sidecar.expect_drained("event");
    assert_eq!(exits(&world).len(), 1);
}

#[test]
fn a_stop_by_hand_is_never_taken_for_a_crash() {
    let world = World::new();
    let (mut sidecar, systemd, app) = accompanied(&world);
    world.expect_online();
    let running =
        format!("ActiveState=active\nSubState=running\nResult=success\nMainPID={}\nInvocationID=a1", app.pid());
    // The sidecar alone is stopped.
    assert_eq!(sidecar.terminate().code(), Some(0));
    sidecar.start_again();
    world.expect_online();
    sidecar.expect_status("the application", |status| status["app"]["state"] == "running");
    systemd.unit(&format!("{running}\nJob=17"));
    let begin = Instant::now();
    assert_eq!(sidecar.terminate().code(), Some(0));
    println!("an ordinary stop took {:?}", begin.elapsed());
    let [report] = expect_exits(&world, 1).try_into().unwrap();
    assert_eq!((&report["cause"], &report["lines"]), (&"stopped".into(), &Value::Null), "{report:#}");
    // The whole system goes down.
    systemd.unit(&running.replace("a1", "a2"));
    sidecar.start_again();
    sidecar.expect_status("the application", |status| status["app"]["invocation"] == "a2");
    systemd.unit(&format!("{}\nJob=18", running.replace("a1", "a2")));
    systemd.system("stopping");
    assert_eq!(sidecar.terminate().code(), Some(0));
    assert_eq!(expect_exits(&world, 2)[1]["cause"], "shutdown");
}

#[test]
fn an_end_while_the_sidecar_was_dead_is_never_missed_nor_told_twice() {
    let world = World::new();
    let (mut sidecar, systemd, mut app) = accompanied(&world);
    world.expect_online();
    sidecar.kill();
    app.kill();
    systemd.unit(&format!("{EXITED}\nInvocationID=a1"));
    systemd.lines("{\"MESSAGE\":\"the last words\",\"PRIORITY\":\"7\",\"__CURSOR\":\"s=1;i=2\"}\n");
    for _ in 0..2 {
        sidecar.start_again();
        sidecar.expect_status("the application", |status| status["app"]["state"] == "failed");
        let [report] = expect_exits(&world, 1).try_into().unwrap();
        assert_eq!(
            (&report["cause"], &report["code"], &report["late"]),
            (&"exit-code".into(), &3.into(), &true.into())
        );
        assert_eq!(report["lines"][0]["message"], "the last words", "{report:#}");
        sidecar.kill();
    }
    // It is started by hand, and systemd and the journal forget it.
    systemd.unit("ActiveState=active\nSubState=running\nResult=success\nInvocationID=a5");
    sidecar.start_again();
    sidecar.expect_status("the application", |status| status["app"]["invocation"] == "a5");
    sidecar.kill();
    systemd.unit("ActiveState=inactive\nSubState=dead\nResult=success\nInvocationID=");
    sidecar.start_again();
    let report = expect_exits(&world, 2).remove(1);
    assert_eq!((&report["cause"], &report["invocation"]), (&"unknown".into(), &"a5".into()), "{report:#}");
}

#[test]
fn no_restart_that_nobody_saw_is_ever_left_out() {
    let world = World::new();
    let (mut sidecar, systemd, mut app) = accompanied(&world);
    world.expect_online();
    sidecar.kill();
    app.kill();
    let message = |id: &str, run: &str, more: &str| {
        format!("{{\"MESSAGE_ID\":\"{id}\",\"INVOCATION_ID\":\"{run}\",\"__MONOTONIC_TIMESTAMP\":\"5\"{more}}}\n")
    };
    let mut journal = String::new();
    for (run, code) in [("a0", 9), ("a1", 1), ("a2", 2), ("a3", 3)] {
        let exited = format!(",\"COMMAND\":\"ExecStart\",\"EXIT_CODE\":\"exited\",\"EXIT_STATUS\":\"{code}\"");
        journal.insert_str(0, &message("98e322203f7a4ed290d09fe03c09fe15", run, &exited));
        journal.insert_str(0, &message("d9b373ed55a64feb8242e02dbe79a49c", run, ",\"UNIT_RESULT\":\"exit-code\""));
    }
    systemd.journal(&journal);
    let next = Application::start();
    systemd.running("a4", next.pid());
    sidecar.start_again();
    let reports = expect_exits(&world, 3);
    let told: Vec<_> = reports.iter().map(|report| (report["invocation"].clone(), report["code"].clone())).collect();
    let right: Vec<(Value, Value)> =
        [("a1", 1), ("a2", 2), ("a3", 3)].map(|(run, code)| (run.into(), code.into())).into();
    assert_eq!(told, right);
    assert_eq!(sidecar.terminate().code(), Some(0));
    assert_eq!(exits(&world).len(), 3);
}

#[test]
fn a_restart_in_plain_sight_never_goes_unreported() {
    let world = World::new();
    let (sidecar, systemd, mut app) = accompanied(&world);
    world.expect_online();
    systemd.unit(&format!("{KILLED}\nNRestarts=0\nInvocationID=a1"));
    app.kill();
    let [report] = expect_exits(&world, 1).try_into().unwrap();
    assert_eq!((&report["cause"], &report["late"]), (&"signal".into(), &Value::Null), "{report:#}");
    let reasons = expect_health(&sidecar, 503, "failed");
    assert!(
        reasons.contains("gw.service is down until systemd starts it again; it was killed by signal 9"),
        "{reasons}"
    );
    let next = Application::start();
    systemd.running("a2", next.pid());
    expect_health(&sidecar, 200, "healthy");
    assert_eq!(sidecar.status()["app"]["last_exit"]["signal"], "SIGKILL");
}
