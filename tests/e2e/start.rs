//! Starting where something is absent or wrong.

use crate::common::own_address;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// An address that nobody listens at.
fn nobody() -> String {
    let address = TcpListener::bind((own_address(), 0)).unwrap().local_addr().unwrap();
    format!("mqtt://{address}")
}

#[test]
fn absent_broker_and_device_never_delay_the_start() {
    let mut home = Home::new([nobody()]);
    let path = home.path("nothing-here");
    home.serial("meter", &path, "");
    let start = Instant::now();
    let mut sidecar = Sidecar::start(home);
    // Far below any connect time-out, far above what a busy machine needs.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    sidecar.publish("orders", "kept meanwhile");
    let status = sidecar.expect_status("the verdict", |status| status["health"]["state"] == "degraded");
    assert_eq!(status["devices"]["meter"]["state"], "offline", "{status:#}");
    assert_ne!(status["link"]["state"], "connected", "{status:#}");
    assert_eq!(status["streams"][STREAM]["waiting"], 1, "{status:#}");
    assert!(!status["health"]["reasons"].as_array().unwrap().is_empty(), "{status:#}");
    assert_eq!(sidecar.request("GET", "/v1/health", "", b"").unwrap().code, 503);

    let socket = sidecar.home.socket();
    let shown = sidecar.home.run(&["status", "--socket", socket.to_str().unwrap(), "--json"], b"");
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["instance"], "test");

    assert_eq!(sidecar.terminate().code(), Some(0));
    let shown = sidecar.home.run(&["status", "--socket", socket.to_str().unwrap()], b"");
    assert_eq!(shown.status.code(), Some(69), "{shown:?}");
}

#[test]
fn a_wrong_configuration_never_starts_and_says_where_it_is_wrong() {
    let mut home = Home::new([nobody()]);
    home.mqtt = "inflight = 0\nkeep_alvie = \"30s\"".to_owned();
    let mut sidecar = Sidecar::new(home);
    sidecar.launch();
    assert_eq!(sidecar.wait().code(), Some(78), "{}", sidecar.log());
    assert!(!sidecar.notes().contains(&"READY=1".to_owned()));
    let (log, path) = (sidecar.log(), sidecar.home.path("test.toml"));
    let text = std::fs::read_to_string(&path).unwrap();
    for key in ["inflight", "keep_alvie"] {
        let line = text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
        let place = format!("{}:{line}", path.display());
        let told = log.lines().any(|told| told.contains(&place) && told.contains(key));
        assert!(told, "{key} is told as {place}:\n{log}");
    }
    let checked = sidecar.home.run(&["check", "--config", path.to_str().unwrap()], b"");
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
}

#[test]
fn a_second_process_never_shares_a_spool() {
    let mut sidecar = Sidecar::start(Home::new([nobody()]));
    let config = sidecar.home.configure();
    let mut second = sidecar.home.command(&["run", "--config", config.to_str().unwrap()]);
    let second = second.env_remove("NOTIFY_SOCKET").output().unwrap();
    assert!(!second.status.success(), "{second:?}");
    assert!(!second.stderr.is_empty());
    // The first is not disturbed.
    sidecar.publish("orders", "still here");
    assert_eq!(sidecar.terminate().code(), Some(0));
}

#[test]
fn the_records_of_a_stream_that_is_configured_no_more_never_wait_in_silence() {
    let mut sidecar = Sidecar::start(Home::new([nobody()]));
    sidecar.publish("orders", "accepted");
    assert_eq!(sidecar.terminate().code(), Some(0));

    let tables = std::mem::take(&mut sidecar.home.tables);
    sidecar.start_again();
    sidecar.expect_log(&format!("stream {STREAM} is not configured any more"));
    let status = sidecar.status();
    let left = &status["streams"][STREAM];
    assert_eq!((&left["waiting"], &left["retired"]), (&1.into(), &true.into()), "{status:#}");
    assert_eq!(sidecar.terminate().code(), Some(0));

    sidecar.home.tables = tables;
    sidecar.start_again();
    assert_eq!(sidecar.status()["streams"][STREAM]["waiting"], 1);
    assert_eq!(sidecar.log().matches("is not configured any more").count(), 1, "{}", sidecar.log());
}
