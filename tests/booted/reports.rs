//! Why the application ended: told rightly, each time, whatever else goes wrong.

use crate::gateway::{APP, Gateway, SIDECAR};
use rustix::fs::{XattrFlags, setxattr};
use serde_json::Value;

/// Debug lines that the application leaves behind.
const LAST_WORDS: usize = 20;

/// Starts the application, and waits until pillion watches it and reads its log, with or without a broker.
fn start(gateway: &Gateway) {
    gateway.container.shell(&format!("systemctl start {APP}"));
    expect_watched(gateway);
}

fn expect_watched(gateway: &Gateway) {
    gateway.expect_status("the application to be watched", |status| {
        status["app"]["state"] == "running" && status["logs"]["state"] == "following"
    });
}

/// Has the application log its last words, all of them debugging.
fn last_words(gateway: &Gateway, end: &str) {
    gateway.carry_out(&format!("for i in $(seq {LAST_WORDS}); do echo \"<7>{end} $i\"; done"));
}

/// What systemd-oomd does when it kills (systemd 252, `src/oom/oomd-util.c`): it notes that in the control group, then kills what
/// is in it. systemd reads the note when the process is gone.
fn kill_for_memory(gateway: &Gateway) {
    let group = gateway.container.path("/sys/fs/cgroup/system.slice/gateway.service");
    for note in ["user.oomd_ooms", "user.oomd_kill"] {
        setxattr(&group, note, b"1", XattrFlags::empty()).unwrap();
    }
    gateway.container.shell(&format!("systemctl kill --signal=KILL {APP}"));
}

/// The messages of a report's lines that begin so.
fn words(report: &Value, beginning: &str) -> Vec<String> {
    let lines = report["lines"].as_array().into_iter().flatten();
    let messages = lines.filter_map(|line| line["message"].as_str());
    messages.filter(|message| message.starts_with(beginning)).map(str::to_owned).collect()
}

#[test]
fn an_end_is_never_told_wrongly_nor_lost_with_the_broker() {
    let Some(mut gateway) = Gateway::boot() else { return };
    gateway.start();
    gateway.container.shell(&format!("systemctl stop {APP}"));
    gateway.expect_events("app-exit", 1);
    let of_priority = |priority: &str| {
        gateway.container.shell(&format!("journalctl --unit={SIDECAR} --priority={priority} --output=cat"))
    };
    assert!(of_priority("info").contains("was stopped by hand"), "{}", of_priority("info"));
    assert!(!of_priority("warning").contains("was stopped by hand"), "nothing is wrong: {}", of_priority("warning"));
    gateway.relay.cut();
    gateway.subscriber.flush();
    gateway.mosquitto.stop();

    let exit: fn(&Gateway) = |gateway| gateway.order("exit 3");
    let kill: fn(&Gateway) = |gateway| gateway.order("kill -9 $$");
    // It says nothing more, and that is all.
    let hang: fn(&Gateway) = |_| {};
    let stop: fn(&Gateway) = |gateway| _ = gateway.container.shell(&format!("systemctl stop {APP}"));
    let ends = [
        ("exit-code", exit, "exited with code 3"),
        ("signal", kill, "was killed by signal 9 (SIGKILL)"),
        ("oom-kill", kill_for_memory, "memory"),
        ("watchdog", hang, "watchdog"),
        ("stopped", stop, "was stopped by hand"),
    ];
    for (cause, end, _) in ends {
        gateway.application(if cause == "watchdog" { "Type=notify\nNotifyAccess=all\nWatchdogSec=5s" } else { "" });
        start(&gateway);
        last_words(&gateway, cause);
        end(&gateway);
        gateway.expect_state(SIDECAR, "inactive");
        gateway.container.shell("systemctl reset-failed");
    }

    gateway.mosquitto.start_again();
    let broker = gateway.mosquitto.address();
    gateway.subscriber.connect(broker);
    gateway.relay.open();
    gateway.start();
    let reports = gateway.expect_events("app-exit", 1 + ends.len()).split_off(1);
    for ((cause, _, text), report) in ends.iter().zip(&reports) {
        assert_eq!((report["cause"].as_str(), report["unit"].as_str()), (Some(*cause), Some(APP)), "{report:#}");
        assert!(report["text"].as_str().unwrap().contains(text), "{report:#}");
        assert_eq!(report["late"], Value::Null, "{report:#}");
        let expected = if *cause == "stopped" { 0 } else { LAST_WORDS };
        let all: Vec<String> = (1..=expected).map(|number| format!("{cause} {number}")).collect();
        assert_eq!(words(report, cause), all, "{report:#}");
    }
    assert_eq!(reports.len(), ends.len());
}

#[test]
fn a_restart_is_never_missed_and_its_report_never_lost() {
    let Some(gateway) = Gateway::boot() else { return };
    // Five starts in ten seconds are the most that systemd allows a unit by default.
    gateway.application("Restart=always\nRestartSec=50ms\n[Unit]\nStartLimitIntervalSec=0");
    gateway.start();
    let mut ended = Vec::new();
    // The application is faster than pillion comes back, now and then.
    for end in ["exit 3", "kill -9 $$", "exit 0", "exit 4", "kill -6 $$"] {
        ended.push(gateway.invocation(APP));
        gateway.order(end);
        gateway.expect_another(APP, ended.last().unwrap());
    }
    let reports = gateway.expect_events("app-exit", ended.len());
    let told: Vec<&str> = reports.iter().map(|report| report["invocation"].as_str().unwrap()).collect();
    assert_eq!(told, ended);
    let causes: Vec<&Value> = reports.iter().map(|report| &report["cause"]).collect();
    assert_eq!(causes, ["exit-code", "signal", "exited", "exit-code", "signal"]);
    expect_watched(&gateway);
    let now = gateway.invocation(APP);
    gateway.expect_status("the run of now", |status| status["app"]["invocation"] == now.as_str());
}

#[test]
fn an_end_that_nobody_could_see_is_never_kept_from_the_next_start() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.start();
    expect_watched(&gateway);
    last_words(&gateway, "unseen");
    let run = gateway.invocation(APP);
    gateway.container.shell(&format!("systemctl kill --signal=KILL {SIDECAR} {APP}"));
    // Whichever of them systemd hears of first decides whether it starts both again, or waits for us to.
    gateway.expect_another_or_none(&run);
    gateway.start();
    let reports = gateway.expect_events("app-exit", 1);
    let report = &reports[0];
    assert_eq!(
        (report["invocation"].as_str(), &report["late"]),
        (Some(run.as_str()), &Value::Bool(true)),
        "{report:#}"
    );
    assert_eq!((report["cause"].as_str(), report["signal"].as_str()), (Some("signal"), Some("SIGKILL")), "{report:#}");
    assert_eq!(words(report, "unseen").len(), LAST_WORDS, "{report:#}");
    assert_eq!(reports.len(), 1);
}
