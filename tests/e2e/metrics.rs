//! What a scraper gets from the real binary.

use crate::common::SOON;
use crate::common::fake_broker::{FakeBroker, Script};
use crate::common::sidecar::{Home, STREAM, Sidecar};
use std::io::Write;
use std::process::{Command, Stdio};

fn scrape(sidecar: &Sidecar) -> String {
    let answer = sidecar.request("GET", "/metrics", "", b"").unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    answer.text
}

/// A sidecar that has delivered two records and waits for a device.
fn busy() -> (FakeBroker, Sidecar) {
    let broker = FakeBroker::start(Script::POLITE, 0);
    let mut home = Home::new([broker.url()]);
    let path = home.path("nothing-here");
    home.serial("meter", &path, "");
    let sidecar = Sidecar::start(home);
    sidecar.publish("orders", "one");
    sidecar.publish("orders", "two");
    broker.expect("the records", SOON, |account| account.distinct(STREAM) == 2);
    sidecar.expect_drained(STREAM);
    (broker, sidecar)
}

#[test]
fn metrics_never_contradict_the_status() {
    let (broker, sidecar) = busy();
    let text = scrape(&sidecar);
    for sample in [
        format!("pillion_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        "pillion_healthy 0".to_owned(),
        "pillion_link_up 1".to_owned(),
        "pillion_link_connects_total 1".to_owned(),
        format!("pillion_link_info{{server=\"{}\"}} 1", broker.url()),
        format!("pillion_stream_accepted_total{{stream=\"{STREAM}\"}} 2"),
        format!("pillion_stream_delivered_total{{stream=\"{STREAM}\"}} 2"),
        format!("pillion_stream_waiting{{stream=\"{STREAM}\"}} 0"),
        "pillion_device_up{device=\"meter\",kind=\"serial\"} 0".to_owned(),
    ] {
        assert!(text.lines().any(|line| line == sample), "no {sample} in\n{text}");
    }
    assert!(text.ends_with("\n# EOF\n"), "{text}");
}

/// Reads the text as Prometheus's own library for Python does, which knows the whole specification.
const PARSE: &str = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
families = list(parse(sys.stdin.read()))
print(len(families), sum(len(family.samples) for family in families))";

#[test]
fn no_strict_parser_ever_refuses_the_metrics() {
    let known = Command::new("python3").args(["-c", "import prometheus_client"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: prometheus_client is missing (pip install prometheus-client)");
        return;
    }
    let (_broker, sidecar) = busy();
    let text = scrape(&sidecar);
    let mut python = Command::new("python3");
    let mut parser = python.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    let families = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{families} {samples}\n"), "{text}");
}
