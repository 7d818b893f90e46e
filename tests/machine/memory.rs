//! An application that runs out of memory: the kernel of a real machine ends it, and pillion says so.

use crate::common::SOON;
use crate::gateway::{Gateway, SIDECAR};
use serde_json::Value;

/// Logs its last words, and when it is told to, takes all memory that it gets.
const APPLICATION: &str = "[Service]
ExecStart=/bin/sh -c 'for i in $(seq 20); do echo \"<7>last word $$i\"; done; \
while ! test -e /run/take; do sleep 0.1; done; exec tail /dev/zero'
MemoryMax=24M
MemorySwapMax=0
";

#[test]
fn an_end_for_want_of_memory_is_never_told_as_another() {
    let Some(gateway) = Gateway::install() else { return };
    let machine = &gateway.machine;
    machine.write(
        "/run/systemd/system/gateway.service.d/memory.conf",
        format!("[Service]\nExecStart=\n{}", &APPLICATION[10..]),
    );
    machine.shell("rm -f /run/take && systemctl daemon-reload");
    gateway.configure("sync = \"1s\"", "[app]\nunit = \"gateway.service\"");
    gateway.start();
    gateway.expect_status("the application to be watched", |status| {
        status["app"]["state"] == "running" && status["logs"]["state"] == "following"
    });
    machine.shell("touch /run/take");
    machine
        .expect("the end of both", &format!("! systemctl is-active -q gateway && ! systemctl is-active -q {SIDECAR}"));
    assert_eq!(machine.shell("systemctl show -P Result gateway"), "oom-kill", "it was the kernel");
    machine.shell(
        "rm -r /run/take /run/systemd/system/gateway.service.d && systemctl daemon-reload && systemctl reset-failed",
    );

    gateway.start();
    gateway.subscriber.expect("the report", SOON, |inbox| !inbox.events("app-exit").is_empty());
    let reports = gateway.subscriber.read(|inbox| inbox.events("app-exit"));
    let report = &reports[0];
    assert_eq!(report["cause"], "oom-kill", "{report:#}");
    let lines = report["lines"].as_array().into_iter().flatten();
    let words = lines.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("last word"))).count();
    assert_eq!((words, reports.len()), (20, 1), "{:#}", Value::from(reports.clone()));
}
