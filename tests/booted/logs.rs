//! The application's log, from a real journal.

use crate::common::SOON;
use crate::common::subscriber::Inbox;
use crate::gateway::{Gateway, SIDECAR};
use std::ops::RangeInclusive;

/// Has the application log a line for each of these numbers.
fn log(gateway: &Gateway, numbers: RangeInclusive<u32>) {
    let (first, last) = numbers.into_inner();
    gateway.carry_out(&format!("i={first}; while [ $i -le {last} ]; do echo \"line $i\"; i=$((i + 1)); done"));
    gateway.container.shell("journalctl --sync");
}

/// The numbers of the lines in what has come so far, as they came.
fn numbers(inbox: &Inbox) -> Vec<u32> {
    let lines = inbox.on("p/log").filter_map(|record| record.envelope["data"]["lines"].as_array()).flatten();
    lines.filter_map(|line| line["message"].as_str()?.strip_prefix("line ")?.parse().ok()).collect()
}

#[test]
fn a_line_is_never_lost_or_doubled_over_a_stop_a_rotation_and_a_kill() {
    let Some(gateway) = Gateway::boot() else { return };
    gateway.application("LogRateLimitIntervalSec=0");
    gateway.configure("[app]\nlog_rate = 0");
    gateway.start();
    log(&gateway, 1..=2500);
    gateway.container.shell(&format!("systemctl stop {SIDECAR}"));
    log(&gateway, 2501..=5000);
    gateway.container.shell("journalctl --rotate");
    log(&gateway, 5001..=7500);
    gateway.start();
    log(&gateway, 7501..=8500);
    // In the middle of the next ones.
    let sidecar = gateway.invocation(SIDECAR);
    gateway.order(
        "i=8501; while [ $i -le 9500 ]; do echo \"line $i\"; i=$((i + 1)); [ $((i % 100)) != 0 ] || sleep 0.1; done",
    );
    gateway.container.shell(&format!("journalctl --rotate && systemctl kill --signal=KILL {SIDECAR}"));
    gateway.expect_another(SIDECAR, &sidecar);
    log(&gateway, 9501..=10000);
    gateway.subscriber.expect("the last line", SOON, |inbox| numbers(inbox).contains(&10000));
    let came = gateway.subscriber.read(numbers);
    let jumps: Vec<_> = came.windows(2).filter(|pair| pair[0] + 1 != pair[1]).collect();
    assert_eq!((came.len(), jumps), (10000, vec![]), "from {:?}", came.first());
    let status = gateway.expect_status("the status", |status| status["logs"]["state"] == "following");
    assert_eq!(status["logs"]["gaps"], 0, "{status:#}");
}
