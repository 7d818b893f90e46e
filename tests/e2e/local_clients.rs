//! Clients of the local socket: hostile ones, ones that may not use it, and a socket that systemd made.

use crate::common::fake_broker::{FakeBroker, Script};
use crate::common::sidecar::{Home, PILLION, STREAM, Sidecar};
use crate::common::{LONG, SOON, http};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The peak of the sidecar's memory that no client may bring about, in KiB: with the pages of its file, 4 MiB, it is 16 MiB.
const MOST_MEMORY: u64 = 12 * 1024;

/// How long a well-behaved client may wait for its answer. The machine may be busy with other tests.
const ANSWERED: Duration = Duration::from_secs(3);

fn connect(sidecar: &Sidecar) -> UnixStream {
    let stream = UnixStream::connect(sidecar.home.socket()).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn assert_serves(sidecar: &Sidecar, meanwhile: &str) {
    let begun = Instant::now();
    let answer = sidecar.request("GET", "/v1/health", "", b"").unwrap();
    assert!([200, 503].contains(&answer.code), "{answer:?}");
    assert!(begun.elapsed() < ANSWERED, "it took {:?} with {meanwhile}", begun.elapsed());
    sidecar.publish("good", meanwhile);
}

fn assert_small(sidecar: &Sidecar) {
    let peak = sidecar.peak_memory_kib();
    println!("the peak of its memory is {peak} KiB");
    assert!(peak < MOST_MEMORY, "{peak} KiB");
}

/// A sidecar whose broker takes everything.
fn sidecar() -> (FakeBroker, Sidecar) {
    let broker = FakeBroker::start(Script::POLITE, 0);
    let sidecar = Sidecar::start(Home::new([broker.url()]));
    (broker, sidecar)
}

#[test]
fn a_want_of_descriptors_never_floods_the_log_nor_outlasts_its_cause() {
    let (_broker, sidecar) = sidecar();
    assert_serves(&sidecar, "descriptors");
    let id = sidecar.id();
    // It has as many as it has.
    let before = getrlimit(Resource::Nofile);
    for round in 1..=2 {
        prlimit(Some(id), Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
        // These wait in the kernel's queue.
        let _waiting: Vec<UnixStream> = (0..3).map(|_| connect(&sidecar)).collect();
        sidecar.expect_log_times("can't accept a connection on ", round);
        // It tries twice a second.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(sidecar.log().matches("can't accept a connection").count(), round, "{}", sidecar.log());
        prlimit(Some(id), Resource::Nofile, before).unwrap();
        assert_serves(&sidecar, "those that waited");
    }
}

#[test]
fn a_thousand_silent_clients_never_keep_others_out() {
    let (_broker, sidecar) = sidecar();
    let silent: Vec<UnixStream> = (0..1000).map(|_| connect(&sidecar)).collect();
    for _ in 0..3 {
        assert_serves(&sidecar, "1,000 silent connections");
    }
    // The same with a beginning of a head, and of a body.
    drop(silent);
    let begun: Vec<UnixStream> = (0..1000)
        .map(|n| {
            let mut stream = connect(&sidecar);
            // Some have been sent away by now.
            let _ = match n % 3 {
                0 => stream.write_all(b"GET /v1/hea"),
                1 => stream.write_all(b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx"),
                _ => stream.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nx"),
            };
            stream
        })
        .collect();
    let begun_at = Instant::now();
    while begun_at.elapsed() < Duration::from_secs(3) {
        let answer = sidecar.request("GET", "/v1/health", "", b"").unwrap();
        assert!([200, 503].contains(&answer.code), "{answer:?}");
    }
    assert_serves(&sidecar, "1,000 half requests");
    assert_small(&sidecar);
    drop(begun);
    let status = sidecar.status();
    assert!(status["api"]["sent_away"].as_u64().unwrap() > 500, "{status:#}");
    assert!(sidecar.descriptors() < 600);
}

#[test]
fn clients_that_have_us_wait_never_keep_others_out() {
    // Nobody listens there.
    let mut home = Home::new(["mqtt://127.0.0.1:9".to_owned()]);
    home.tables += "[app]\nconfig = true\n";
    let sidecar = Sidecar::start(home);
    let heads = ["GET /v1/config?wait=40s", "GET /v1/config/k?wait=40s", "PUT /v1/config/k/reported"];
    let waiting: Vec<UnixStream> = heads
        .iter()
        .cycle()
        .take(400)
        .map(|head| {
            let mut stream = connect(&sidecar);
            // Some have been sent away by now.
            let body = if head.starts_with("PUT") { "content-length: 9\r\n" } else { "" };
            let _ = write!(stream, "{head} HTTP/1.1\r\nhost: x\r\n{body}\r\n");
            stream
        })
        .collect();
    let answer = sidecar.request("GET", "/v1/health", "", b"").unwrap();
    assert!([200, 503].contains(&answer.code), "{answer:?}");
    assert_serves(&sidecar, "400 clients that wait");
    drop(waiting);
}

#[test]
fn a_byte_a_second_never_holds_up_anybody() {
    let (_broker, sidecar) = sidecar();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..140 {
            let mut stream = connect(&sidecar);
            let stop = &stop;
            scope.spawn(move || {
                let head = "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n";
                let kind = ["", "content-type: application/x-ndjson\r\n"][n % 2];
                let mut sent = write!(stream, "{head}{kind}\r\n").is_ok();
                while sent && !stop.load(Ordering::Relaxed) {
                    sent = stream.write_all(b"1\r\n1\r\n").is_ok();
                    std::thread::sleep(Duration::from_secs(1));
                }
            });
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            assert_serves(&sidecar, "140 clients that send a byte a second");
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_small(&sidecar);
}

#[test]
fn a_gibibyte_never_fills_the_memory_nor_holds_up_anybody() {
    let (_broker, sidecar) = sidecar();
    let (ndjson, plain) = ("application/x-ndjson", "text/plain");
    std::thread::scope(|scope| {
        // Without lines, with lines that are none, with one record that does not end, announced and not.
        for (kind, length, piece) in [
            (ndjson, "content-length: 1073741824", " ".repeat(65_536)),
            (ndjson, "transfer-encoding: chunked", format!("10000\r\n{}\r\n", "x".repeat(65_536))),
            (plain, "content-length: 1073741824", "x".repeat(65_536)),
            (plain, "transfer-encoding: chunked", format!("10000\r\n{}\r\n", "\n".repeat(65_536))),
        ] {
            let mut stream = connect(&sidecar);
            scope.spawn(move || {
                write!(
                    stream,
                    "POST /v1/publish?topic=bad HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n{length}\r\n\r\n"
                )
                .unwrap();
                let sent = (0..16_384).take_while(|_| stream.write_all(piece.as_bytes()).is_ok()).count();
                assert!(sent < 1024, "it read {sent} pieces of 64 KiB");
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
            });
        }
        // Good lines, of which there are many.
        let lines = "{\"n\":1}\n".repeat(8192);
        let mut stream = connect(&sidecar);
        scope.spawn(move || {
            let head = "POST /v1/publish?topic=many HTTP/1.1\r\nhost: x\r\nconnection: close";
            write!(stream, "{head}\r\ncontent-type: {ndjson}\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            for _ in 0..40 {
                write!(stream, "{:x}\r\n{lines}\r\n", lines.len()).unwrap();
            }
            stream.write_all(b"0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.contains(r#"{"accepted":327680,"#), "{answer}");
        });
        for _ in 0..20 {
            assert_serves(&sidecar, "clients that send a gibibyte");
        }
    });
    assert_small(&sidecar);
    let telemetry = sidecar.expect_drained("telemetry");
    assert_eq!(telemetry["delivered"], 40 * 8192, "{telemetry}");
    assert_eq!(telemetry["refused"], 4, "{telemetry}");
}

#[test]
fn garbage_never_brings_it_down() {
    let (_broker, sidecar) = sidecar();
    let mut random = fastrand::Rng::with_seed(crate::common::seed());
    for _ in 0..300 {
        let mut stream = connect(&sidecar);
        let beginnings: [&[u8]; 5] = [
            b"",
            b"GET /v1/",
            b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\n",
            b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            b"POST /v1/devices/%ff/command HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n",
        ];
        let garbage: Vec<u8> = (0..random.usize(..2000)).map(|_| random.u8(..)).collect();
        let beginning = beginnings[random.usize(..5)];
        // It may hang up in the middle.
        let _ = stream.write_all(beginning).and_then(|()| stream.write_all(&garbage));
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_serves(&sidecar, "garbage");
    assert_small(&sidecar);
}

#[test]
fn a_long_upload_never_loses_a_record() {
    let (broker, sidecar) = sidecar();
    let body: String = (0..100_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(110))).collect();
    let target = format!("/v1/publish?topic=t&stream={STREAM}");
    let answer = sidecar.request("POST", &target, "application/x-ndjson", body.as_bytes()).unwrap();
    assert_eq!((answer.code, answer.json["accepted"].as_u64()), (200, Some(100_000)), "{answer:?}");
    broker.expect("every record", LONG, |account| account.distinct(STREAM) == 100_000);
    assert_eq!(sidecar.expect_drained(STREAM)["delivered"], 100_000);
    assert_small(&sidecar);
}

#[test]
fn whoever_is_not_on_the_list_never_gets_an_answer() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can be several users");
        return;
    }
    let broker = FakeBroker::start(Script::POLITE, 0);
    let mut home = Home::new([broker.url()]);
    home.tables += "[api]\nallow_users = [4711, \"nobody-of-that-name\"]\nallow_groups = [4712]\n";
    let sidecar = Sidecar::start(home);
    sidecar.expect_log("api.allow_users: nobody is called \"nobody-of-that-name\"");
    // What the mode lets in is not what is tested here.
    let socket = sidecar.home.socket();
    for path in socket.ancestors().take_while(|path| *path != std::env::temp_dir()) {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let binary = sidecar.home.path("pillion");
    fs::copy(PILLION, &binary).unwrap();
    let ask = |user: u32, group: u32| {
        let mut command = Command::new(&binary);
        command.args(["publish", "--topic", "t", "--stream", STREAM, "--socket", socket.to_str().unwrap()]);
        let mut child = command.uid(user).gid(group).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"1\n").unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(ask(0, 0).0 && ask(4711, 1).0 && ask(5, 4712).0);
    let (accepted, why) = ask(4713, 4713);
    assert!(!accepted && why.contains("user 4713 may not use this socket; api.allow_users"), "{why}");
    let status = sidecar.status();
    assert_eq!((&status["api"]["forbidden"], &status["streams"][STREAM]["accepted"]), (&1.into(), &3.into()));
    assert_eq!((&status["api"]["users"]["4711"], &status["api"]["users"]["4713"]), (&1.into(), &1.into()));
    let metrics = sidecar.request("GET", "/metrics", "", b"").unwrap().text;
    assert!(metrics.contains("\npillion_api_forbidden_total 1\n"), "{metrics}");
    let sample = "pillion_api_requests_total{route=\"POST /v1/publish\",class=\"4xx\"} 1\n";
    assert!(metrics.contains(sample), "{metrics}");
}

#[test]
fn a_socket_of_systemd_never_ends_with_us() {
    let broker = FakeBroker::start(Script::POLITE, 0);
    let home = Home::new([broker.url()]);
    let config = home.configure();
    let socket = home.socket();
    let systemds = UnixListener::bind(&socket).unwrap();
    for _ in 0..2 {
        // Whoever connects before it is there, waits.
        let waiting = UnixStream::connect(&socket).unwrap();
        (&waiting).write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let line = "exec 3<&0 < /dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" run --config \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", line, PILLION, config.to_str().unwrap()]).env_clear();
        command.stdin(OwnedFd::from(systemds.try_clone().unwrap())).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut answer = String::new();
        waiting.set_read_timeout(Some(SOON)).unwrap();
        (&waiting).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
        assert_eq!(http::request(&socket, "GET", "/v1/status", "", b"").unwrap().code, 200);
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(socket.exists(), "the socket went with it");
    }
}
