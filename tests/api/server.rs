//! What any request meets: routes, garbage, slow clients, crowds, the end.

use crate::sidecar::{DEADLINE, Plan, Reply, rest_of, sidecar, until};
use pillion::record::Accepted;
use pillion::stats::{HealthState, Status};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[test]
fn health_is_never_told_by_the_body_alone() {
    let (_dir, sidecar) = sidecar();
    let reply = sidecar.get("/v1/health");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"state":"healthy","reasons":[]}"#));
    *sidecar.health.lock().unwrap() = HealthState::Degraded;
    let reply = sidecar.get("/v1/health");
    assert_eq!((reply.code, reply.body.as_str()), (503, r#"{"state":"degraded","reasons":["the meter is gone"]}"#));
    let reply = sidecar.get("/v1/status?x=1");
    assert_eq!(reply.code, 200);
    assert!(reply.head.contains("content-type: application/json"));
    let status: Status = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((status.instance.as_str(), status.health.state), ("gateway", HealthState::Degraded));
}

#[test]
fn metrics_never_tell_another_story_than_the_status() {
    let (_dir, sidecar) = sidecar();
    *sidecar.health.lock().unwrap() = HealthState::Degraded;
    let reply = sidecar.get("/metrics");
    assert_eq!(reply.code, 200);
    assert!(
        reply.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{reply:?}"
    );
    assert!(reply.body.contains("\npillion_healthy 0\n") && reply.body.contains("\npillion_uptime_seconds 61\n"));
    assert!(reply.body.ends_with("\n# EOF"), "{reply:?}");
    let reply = sidecar.send(b"POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(reply.starts_with("HTTP/1.1 405") && reply.to_lowercase().contains("allow: get, head"), "{reply}");
}

#[test]
fn a_wrong_path_or_method_never_passes_silently() {
    let (_dir, sidecar) = sidecar();
    for path in ["/", "/v1", "/v1/metrics", "/v1/status/", "/V1/STATUS", "//v1/status", "/v1/../v1/status"] {
        assert_eq!(sidecar.get(path).code, 404, "{path}");
    }
    assert!(sidecar.get("/nowhere").error().contains("/v1/publish"));
    let reply = sidecar.get("/v1/publish");
    assert_eq!(reply.code, 405);
    assert!(reply.head.contains("allow: post"), "{reply:?}");
    let reply = sidecar.send(b"DELETE /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(reply.starts_with("HTTP/1.1 405") && reply.to_lowercase().contains("allow: get, head"), "{reply}");
    let reply = sidecar.send(b"HEAD /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\n"), "{reply}");
}

#[test]
fn garbage_never_disturbs_anyone() {
    let (_dir, sidecar) = sidecar();
    let mut keeps = sidecar.connect();
    let long_head = [b"GET /v1/health HTTP/1.1\r\nx: ".as_slice(), &[b'a'; 100_000]].concat();
    let many_headers = format!("GET /v1/health HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    let smuggled = b"POST /v1/publish?topic=t HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef";
    for garbage in [
        b"\0\0\0\0\0\0\0\0\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET  /v1/health  HTTP/9.9\r\n\r\n",
        b"POST /v1/publish?topic=t HTTP/1.1\r\ncontent-length: -1\r\n\r\nx",
        b"POST /v1/publish?topic=t HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        smuggled,
        &long_head,
        many_headers.as_bytes(),
    ] {
        let reply = sidecar.send(garbage);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{reply}");
    }
    keeps.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(Reply::of(&rest_of(keeps)).code, 200, "a connection that was there all the time");
    assert!(sidecar.accepted().is_empty());
}

#[test]
fn a_client_that_leaves_in_the_middle_never_leaves_half_a_record() {
    let (_dir, sidecar) = sidecar();
    for framing in ["content-length: 100\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut stream = sidecar.connect();
        write!(stream, "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\n{framing}").unwrap();
        drop(stream);
        // Who closes only the sending half gets told.
        let mut stream = sidecar.connect();
        write!(stream, "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\n{framing}").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let reply = rest_of(stream);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    let mut stream = sidecar.connect();
    stream.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nwhole").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(Reply::of(&rest_of(stream)).code, 200, "as curl | nc would do");
    assert_eq!(sidecar.accepted(), [("app/t".to_owned(), "whole".to_owned())]);
}

#[test]
fn a_slow_or_silent_client_never_holds_up_the_others() {
    let (_dir, mut sidecar) = sidecar();
    let mut slow = sidecar.connect();
    slow.write_all(b"GET /v1/hea").unwrap();
    let silent: Vec<_> = (0..300).map(|_| sidecar.connect()).collect();
    // All places are taken now; the idle ones have to go.
    let start = Instant::now();
    assert_eq!(sidecar.get("/v1/health").code, 200);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let reply = rest_of(slow);
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 408"), "{reply}");
    for stream in silent {
        rest_of(stream);
    }
    // A client that stays connected keeps its place between requests, for some seconds.
    let mut keeps = sidecar.connect();
    for _ in 0..2 {
        keeps.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut buffer = [0; 1024];
        assert!(keeps.read(&mut buffer).unwrap() > 0);
    }
    assert_eq!(rest_of(keeps), "");
    sidecar.stop();
}

#[test]
fn a_crowd_never_goes_unanswered() {
    let (_dir, sidecar) = sidecar();
    std::thread::scope(|scope| {
        for _ in 0..150 {
            scope.spawn(|| assert_eq!(sidecar.post("topic=t", "", b"x").code, 200));
        }
    });
    assert_eq!(sidecar.accepted().len(), 150);
}

#[test]
fn a_busy_server_never_misses_its_beat() {
    let (_dir, sidecar) = sidecar();
    let _crowd: Vec<_> = (0..80).map(|_| sidecar.connect()).collect();
    sidecar.plan(Plan::Keep);
    let mut stuck = sidecar.connect();
    stuck.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").unwrap();
    for _ in 0..3 {
        sidecar.heart.ask();
        until("the beat is answered", || sidecar.heart.stuck().is_empty());
    }
}

#[test]
fn stopping_never_cuts_off_a_request_that_is_under_way() {
    let (_dir, mut sidecar) = sidecar();
    let (to, from) = mpsc::channel();
    sidecar.plan(Plan::Hand(to));
    let mut stream = sidecar.connect();
    stream.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").unwrap();
    let submission = from.recv_timeout(DEADLINE).unwrap();
    sidecar.stop.send_replace(true);
    until("the socket is gone", || !sidecar.path.exists());
    submission.reply.unwrap().send(Ok(Accepted { first: 5, last: 5 })).unwrap();
    let reply = Reply::of(&rest_of(stream));
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":1,"first":5,"last":5}"#));
    sidecar.stop();
}

#[test]
fn stopping_never_waits_for_a_client_that_hangs() {
    let (_dir, mut sidecar) = sidecar();
    sidecar.plan(Plan::Keep);
    let mut stuck = sidecar.connect();
    stuck.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").unwrap();
    let mut slow = sidecar.connect();
    slow.write_all(b"GET /v1/he").unwrap();
    assert_eq!(sidecar.get("/v1/health").code, 200);
    let start = Instant::now();
    sidecar.stop();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn the_socket_never_lets_others_in_nor_stays_behind() {
    let (dir, mut sidecar) = sidecar();
    assert_eq!(sidecar.path, dir.path().join("pillion.sock"));
    assert_eq!(std::fs::metadata(&sidecar.path).unwrap().permissions().mode() & 0o7777, 0o660);
    sidecar.stop();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
