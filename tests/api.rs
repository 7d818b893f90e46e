//! The local API over a real socket, and the commands that use it as real processes, with fake flows behind it.

// clippy.toml allows these in tests, but does not see that the functions between them belong to tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use pillion::api::{self, Api, socket};
use pillion::pulse::Heart;
use pillion::record::{Accepted, ClockQuality, Durability, Encoding, Refusal, StreamId, Submission, Timestamp};
use pillion::stats::{Health, HealthState, HostStatus, LinkStatus, Status};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// Whatever is waited for comes sooner than this, or the test fails.
const DEADLINE: Duration = Duration::from_secs(20);
const MAX_PAYLOAD: usize = 4096;

/// What the fake ingest flow does with its next submission; it accepts when nothing is planned.
enum Plan {
    Refuse(Refusal),
    /// Never answers, and never lets go of it.
    Keep,
    /// The flow ends with it in its hands.
    Drop,
    /// The test answers.
    Hand(std_mpsc::Sender<Submission>),
}

type Plans = Arc<Mutex<VecDeque<Plan>>>;

/// A server with fake flows on a thread of its own, stopped when dropped.
struct Sidecar {
    path: PathBuf,
    plans: Plans,
    accepted: Arc<Mutex<Vec<Submission>>>,
    health: Arc<Mutex<HealthState>>,
    heart: Heart,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Sidecar {
    fn start(runtime_dir: &Path) -> Sidecar {
        let plans = Plans::default();
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let health = Arc::new(Mutex::new(HealthState::Healthy));
        let (stop, stopped) = watch::channel(false);
        let heart = Heart::default();
        let pulse = heart.pulse("api");
        let (submissions, from_api) = mpsc::channel(4);
        let (status, questions) = mpsc::channel(4);
        let api = Api {
            roster: watch::channel(pillion::roster::Roster::from([])).1,
            reload: mpsc::channel(1).0,
            access: Default::default(),
            counts: watch::channel(Default::default()).0,
            environment: Default::default(),
            inbox: None,
            settings: None,
            neighbours: None,
            submissions,
            refused: mpsc::channel(16).0,
            status,
            commands: mpsc::channel(1).0,
            logs: mpsc::channel(1).0,
            beats: watch::channel(None).0,
            streams: ["event", "telemetry", "log"].map(str::to_owned).to_vec(),
            max_payload: MAX_PAYLOAD,
            max_topic: 100,
            clock: || Timestamp { wall_ms: 1_800_000_000_000, mono_ms: 7, quality: ClockQuality::Trusted },
        };
        let (ready, is_ready) = std_mpsc::channel();
        let dir = runtime_dir.to_owned();
        let flows = (Arc::clone(&plans), Arc::clone(&accepted), Arc::clone(&health));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let socket = socket::bind(&dir).await.unwrap();
                ready.send(socket.path().to_owned()).unwrap();
                tokio::spawn(ingest(from_api, flows.0, flows.1));
                tokio::spawn(answer_status(questions, flows.2));
                // On a task of its own, as the daemon runs it.
                tokio::spawn(api::serve(socket, api, pulse, stopped)).await.unwrap();
            });
        });
        let path = is_ready.recv_timeout(DEADLINE).unwrap();
        Sidecar { path, plans, accepted, health, heart, stop, thread: Some(thread) }
    }

    fn plan(&self, plan: Plan) {
        self.plans.lock().unwrap().push_back(plan);
    }

    fn accepted(&self) -> Vec<(String, String)> {
        let accepted = self.accepted.lock().unwrap();
        let records = accepted.iter().flat_map(|submission| &submission.records);
        records.map(|record| (record.topic.clone(), String::from_utf8_lossy(&record.data).into_owned())).collect()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends the bytes and returns all that comes back until the server hangs up.
    fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(bytes);
        rest_of(stream)
    }

    fn get(&self, path: &str) -> Reply {
        Reply::of(&self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()))
    }

    fn post(&self, query: &str, headers: &str, body: &[u8]) -> Reply {
        let length = body.len();
        let head = format!(
            "POST /v1/publish?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        Reply::of(&self.send(&[head.as_bytes(), body].concat()))
    }

    fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn ingest(mut submissions: mpsc::Receiver<Submission>, plans: Plans, accepted: Arc<Mutex<Vec<Submission>>>) {
    let mut seq = 0;
    let mut kept = Vec::new();
    while let Some(mut submission) = submissions.recv().await {
        assert!(!submission.records.is_empty());
        let plan = plans.lock().unwrap().pop_front();
        match plan {
            None => {
                let first = seq + 1;
                seq += u64::try_from(submission.records.len()).unwrap();
                let reply = submission.reply.take().unwrap();
                accepted.lock().unwrap().push(submission);
                // Nobody may be waiting any more.
                let _ = reply.send(Ok(Accepted { first, last: seq }));
            }
            Some(Plan::Refuse(refusal)) => submission.reply.unwrap().send(Err(refusal)).unwrap(),
            Some(Plan::Keep) => kept.push(submission),
            Some(Plan::Drop) => return,
            Some(Plan::Hand(to)) => to.send(submission).unwrap(),
        }
    }
}

async fn answer_status(mut questions: mpsc::Receiver<pillion::stats::StatusRequest>, health: Arc<Mutex<HealthState>>) {
    while let Some(reply) = questions.recv().await {
        let state = *health.lock().unwrap();
        let reasons = if state == HealthState::Healthy { vec![] } else { vec!["the meter is gone".to_owned()] };
        let status = Status {
            version: "0.1.0".into(),
            instance: "gateway".into(),
            uptime_s: 61,
            health: Health { state, reasons },
            configuration: None,
            link: LinkStatus::default(),
            streams: BTreeMap::new(),
            devices: BTreeMap::new(),
            inbox: None,
            config: None,
            commands: None,
            app: None,
            logs: None,
            api: None,
            host: HostStatus::default(),
        };
        let _ = reply.send(status);
    }
}

/// All that still comes. A connection that the server cut off is as good as one that it closed.
fn rest_of(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server did not hang up in time"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[derive(Debug)]
struct Reply {
    code: u16,
    head: String,
    body: String,
}

impl Reply {
    fn of(text: &str) -> Reply {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { code, head: head.to_lowercase(), body: body.trim_end().to_owned() }
    }

    fn error(&self) -> String {
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 1, "{self:?}");
        value["error"].as_str().unwrap().to_owned()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn sidecar() -> (TempDir, Sidecar) {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(dir.path());
    (dir, sidecar)
}

const NDJSON: &str = "content-type: application/x-ndjson\r\n";

// ---- The server

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
fn a_published_record_never_changes() {
    let (_dir, sidecar) = sidecar();
    let reply = sidecar.post("topic=room/2", "", b" {\"a\":\n1}\n");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":1,"first":1,"last":1}"#));
    let reply = sidecar.post("topic=caf%C3%A9&stream=log&sync=true", "", b"a\0b");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":1,"first":2,"last":2}"#));
    let reply = sidecar.post("topic=t", "content-type: text/plain\r\n", "grün".as_bytes());
    assert_eq!(reply.code, 200);
    let accepted = sidecar.accepted.lock().unwrap();
    let seen = |n: usize| {
        let Submission { stream, records, durability, .. } = &accepted[n];
        assert_eq!((records.len(), records[0].time.mono_ms), (1, 7));
        (*stream, records[0].topic.as_str(), records[0].encoding, records[0].data.as_slice(), *durability)
    };
    let json = b" {\"a\":\n1}\n".as_slice();
    assert_eq!(seen(0), (StreamId::TELEMETRY, "app/room/2", Encoding::Json, json, Durability::Process));
    assert_eq!(seen(1), (StreamId::LOG, "app/café", Encoding::Base64, b"a\0b".as_slice(), Durability::Power));
    assert_eq!(seen(2), (StreamId::TELEMETRY, "app/t", Encoding::Text, "grün".as_bytes(), Durability::Process));
}

#[test]
fn lines_are_never_accepted_in_part() {
    let (_dir, sidecar) = sidecar();
    let reply = sidecar.post("topic=t", NDJSON, b"{\"n\":1}\r\n\n\"two\"\n3");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":3,"first":1,"last":3}"#));
    assert_eq!(sidecar.accepted.lock().unwrap().len(), 1, "one submission");
    let large = "x".repeat(MAX_PAYLOAD);
    for (body, code, why) in [
        ("1\n2\noops\n4\n", 400, "line 3 is not JSON"),
        ("\n \n", 400, "no record"),
        ("", 400, "no record"),
        (&format!("1\n\"{large}\"\n"), 413, "line 2: the record would be"),
    ] {
        let reply = sidecar.post("topic=t", NDJSON, body.as_bytes());
        assert_eq!(reply.code, code, "{reply:?}");
        assert!(reply.error().contains(why), "{reply:?}");
    }
    assert_eq!(sidecar.accepted().len(), 3);
}

/// A chunk of a chunked body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The head of an upload in chunks; the last chunk is `0\r\n\r\n`.
const UPLOAD: &[u8] = b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
    content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";

fn numbers(upto: usize) -> String {
    (1..=upto).map(|n| format!("{n}\n")).collect()
}

#[test]
fn a_body_of_lines_never_needs_to_fit() {
    let (_dir, sidecar) = sidecar();
    let numbers = numbers(250_000);
    let lengthy = sidecar.post("topic=t&sync=true", NDJSON, numbers.as_bytes());
    assert_eq!((lengthy.code, lengthy.body.as_str()), (200, r#"{"accepted":250000,"first":1,"last":250000}"#));
    // Without an announced end, cut anywhere, and the last line without its end.
    let pieces = numbers.trim_end().as_bytes().chunks(70_001).flat_map(chunk).collect::<Vec<u8>>();
    let chunked = Reply::of(&sidecar.send(&[UPLOAD, &pieces, b"0\r\n\r\n"].concat()));
    assert_eq!((chunked.code, chunked.body.as_str()), (200, r#"{"accepted":250000,"first":250001,"last":500000}"#));
    // Few bytes and many records.
    let many = sidecar.post("topic=t", NDJSON, "1\n".repeat(10_001).as_bytes());
    assert_eq!((many.code, many.body.as_str()), (200, r#"{"accepted":10001,"first":500001,"last":510001}"#));
    let accepted = sidecar.accepted();
    let right = |(n, (_, data)): (usize, &(String, String))| data.parse() == Ok(n % 250_000 + 1);
    assert!(accepted[..500_000].iter().enumerate().all(right));
    let mut seen = 0;
    for submission in sidecar.accepted.lock().unwrap().iter() {
        let bytes: usize = submission.records.iter().map(|record| record.data.len()).sum();
        assert!(submission.records.len() <= 1000 && bytes < 65 * 1024);
        let durability = if seen < 250_000 { Durability::Power } else { Durability::Process };
        assert_eq!(submission.durability, durability);
        seen += submission.records.len();
    }
}

#[test]
fn a_wrong_line_never_costs_what_stood_before_it() {
    let (_dir, sidecar) = sidecar();
    let mut lines = numbers(15_000) + "oops\n";
    lines += &numbers(900_000);
    let reply = sidecar.post("topic=t", NDJSON, lines.as_bytes());
    assert_eq!(reply.code, 400, "{reply:?}");
    let told: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((&told["accepted"], &told["first"], &told["last"]), (&15_000.into(), &1.into(), &15_000.into()));
    let error = told["error"].as_str().unwrap();
    assert!(error.contains("line 15001 is not JSON") && error.ends_with("15000 records were accepted before that"));
    assert_eq!(sidecar.accepted().len(), 15_000);
    // A line without an end.
    let reply = sidecar.post("topic=t", NDJSON, &vec![b' '; 2 * 1024 * 1024]);
    assert_eq!(reply.code, 413, "{reply:?}");
    assert!(reply.body.contains("line 1 is longer than 4096 bytes") && reply.body.contains(r#","accepted":0}"#));
}

#[test]
fn a_refusal_in_the_middle_never_leaves_a_hole() {
    for (refusal, code) in [(Refusal::Full, 429), (Refusal::NotDurable("No space left".into()), 507)] {
        let (_dir, sidecar) = sidecar();
        // A submission of its own for the first lines, which waits for the test.
        let (to, from) = std_mpsc::channel();
        sidecar.plan(Plan::Hand(to));
        sidecar.plan(Plan::Refuse(refusal));
        let body = numbers(300_000);
        std::thread::scope(|scope| {
            let reply = scope.spawn(|| sidecar.post("topic=t", NDJSON, body.as_bytes()));
            let first = from.recv_timeout(DEADLINE).unwrap();
            let count = u64::try_from(first.records.len()).unwrap();
            first.reply.unwrap().send(Ok(Accepted { first: 7, last: 6 + count })).unwrap();
            let reply = reply.join().unwrap();
            assert_eq!(reply.code, code, "{reply:?}");
            assert!(reply.body.ends_with(&format!(r#","accepted":{count},"first":7,"last":{}}}"#, 6 + count)));
        });
        assert!(sidecar.accepted().is_empty(), "something behind the refused ones was taken");
    }
}

#[test]
fn a_live_line_never_waits_for_the_end_of_its_body() {
    let (_dir, mut sidecar) = sidecar();
    let mut stream = sidecar.connect();
    stream.write_all(UPLOAD).unwrap();
    for n in 1..=3 {
        stream.write_all(&chunk(format!("{n}\n").as_bytes())).unwrap();
        until("the line is accepted", || sidecar.accepted().len() == n);
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let reply = Reply::of(&rest_of(stream));
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":3,"first":1,"last":3}"#));
    // Whoever leaves in the middle of a line, or is told to.
    let mut leaves = sidecar.connect();
    leaves.write_all(&[UPLOAD, &chunk(b"4\n5")].concat()).unwrap();
    until("the line is accepted", || sidecar.accepted().len() == 4);
    drop(leaves);
    let mut stays = sidecar.connect();
    stays.write_all(&[UPLOAD, &chunk(b"5\n6")].concat()).unwrap();
    until("the line is accepted", || sidecar.accepted().len() == 5);
    sidecar.stop.send_replace(true);
    let reply = Reply::of(&rest_of(stays));
    assert_eq!(reply.code, 503, "{reply:?}");
    assert!(reply.body.ends_with(r#","accepted":1,"first":5,"last":5}"#), "{reply:?}");
    sidecar.stop();
    assert_eq!(sidecar.accepted().len(), 5, "half a line was taken");
}

#[test]
fn a_slow_spool_never_makes_us_hold_a_long_body() {
    let (_dir, sidecar) = sidecar();
    let (to, from) = std_mpsc::channel();
    sidecar.plan(Plan::Hand(to));
    let mut stream = sidecar.connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(UPLOAD).unwrap();
    let piece = chunk(numbers(1000).as_bytes());
    let mut sent = 0;
    while sent < 64 * 1024 * 1024 && stream.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    // What a body may have before it counts as long, one submission, and what the kernel holds.
    assert!(sent < 3 * 1024 * 1024, "it took {sent} bytes, and the spool nothing");
    drop(from.recv_timeout(DEADLINE).unwrap());
}

#[test]
fn a_client_that_asks_first_is_never_led_astray() {
    let (_dir, sidecar) = sidecar();
    let head = |query: &str, length: usize| {
        format!(
            "POST /v1/publish?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n{NDJSON}\r\n"
        )
    };
    let reply = sidecar.send(head("topic=a%23", 3_000_000).as_bytes());
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    let body = numbers(300_000);
    let mut stream = sidecar.connect();
    stream.write_all(head("topic=a", body.len()).as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).unwrap();
    assert!(rest_of(stream).ends_with("{\"accepted\":300000,\"first\":1,\"last\":300000}\n"));
}

#[test]
fn a_bad_publish_never_gets_through() {
    let (_dir, sidecar) = sidecar();
    for (query, body, why) in [
        ("topic=t", "", "body is empty"),
        ("", "x", "topic is missing"),
        ("topic=", "x", "empty"),
        ("topic=a/%2B/b", "x", "wildcards"),
        ("topic=a%00", "x", "control character"),
        ("topic=t&stream=nope", "x", "there are event, telemetry, log"),
        ("topic=t&sync=maybe", "x", "true or false"),
    ] {
        let reply = sidecar.post(query, "", body.as_bytes());
        assert_eq!(reply.code, 400, "{query}: {reply:?}");
        assert!(reply.error().contains(why), "{query}: {reply:?}");
    }
    assert!(sidecar.accepted().is_empty());
}

#[test]
fn a_large_body_never_gets_in_nor_leaves_its_client_in_the_dark() {
    let (_dir, sidecar) = sidecar();
    // One record beyond max_payload, and one body beyond a mebibyte, both sent to their end.
    for size in [MAX_PAYLOAD, 1024 * 1024 + 1, 5 * 1024 * 1024] {
        let reply = sidecar.post("topic=t", "", &vec![b'x'; size]);
        assert_eq!(reply.code, 413, "{reply:?}");
        assert!(reply.error().contains("max_payload"), "{reply:?}");
    }
    // Chunks without an announced end.
    let mut stream = sidecar.connect();
    stream.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 20 * 1024 * 1024 && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 10 * 1024 * 1024, "it read {sent} bytes and more");
    assert_eq!(Reply::of(&rest_of(stream)).code, 413);
    // Announced only: nobody waits for a body that will be refused.
    let huge = "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    assert_eq!(Reply::of(&sidecar.send(huge.as_bytes())).code, 413);
    let asks =
        "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2000000\r\n\r\n";
    assert_eq!(Reply::of(&sidecar.send(asks.as_bytes())).code, 413);
    assert!(sidecar.accepted().is_empty());
    assert_eq!(sidecar.post("topic=t", "", b"x").code, 200);
}

#[test]
fn large_bodies_never_starve_each_other() {
    let (_dir, sidecar) = sidecar();
    let body = format!("\"{}\"\n", "x".repeat(3900)).repeat(200);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(sidecar.post("topic=t", NDJSON, body.as_bytes()).code, 200));
        }
    });
    assert_eq!(sidecar.accepted().len(), 4000);
}

#[test]
fn a_refusal_never_looks_like_success() {
    let (_dir, sidecar) = sidecar();
    for (plan, code, why) in [
        (Plan::Refuse(Refusal::Full), 429, "full"),
        (Plan::Refuse(Refusal::NotDurable("No space left".into())), 507, "No space left"),
        (Plan::Refuse(Refusal::Stopping), 503, "stopping"),
        (Plan::Drop, 503, "stopping"),
    ] {
        sidecar.plan(plan);
        let reply = sidecar.post("topic=t", "", b"x");
        assert_eq!(reply.code, code, "{reply:?}");
        assert!(reply.error().contains(why), "{reply:?}");
        assert_eq!(reply.head.contains("retry-after: "), code != 507, "{reply:?}");
    }
    assert_eq!(sidecar.post("topic=t", "", b"x").code, 503, "the flow has ended");
    assert_eq!(sidecar.get("/v1/health").code, 200, "the other one has not");
}

#[test]
fn a_stuck_flow_never_keeps_a_client_for_ever() {
    let (_dir, sidecar) = sidecar();
    sidecar.plan(Plan::Keep);
    let reply = sidecar.post("topic=t", "", b"x");
    assert_eq!(reply.code, 503);
    assert!(reply.error().contains("may have been kept or not"), "{reply:?}");
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
    let (to, from) = std_mpsc::channel();
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

// ---- The commands

fn pillion(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(arguments).env_remove("PILLION_SOCKET").stdin(Stdio::null());
    command
}

fn ends(arguments: &[&str]) -> (i32, String, String) {
    told(&pillion(arguments).output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().unwrap(), out, err)
}

/// `pillion publish` with this input.
fn publish(socket: &Path, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = pillion(&["publish", "--socket", socket.to_str().unwrap()]);
    if !arguments.contains(&"--topic") {
        command.args(["--topic", "t"]);
    }
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    told(&child.wait_with_output().unwrap())
}

#[test]
fn exit_codes_never_change() {
    let (dir, sidecar) = sidecar();
    let socket = sidecar.path.to_str().unwrap();
    let nowhere = dir.path().join("nowhere.sock");
    let status = |extra: &[&str]| ends(&[&["status", "--socket", socket], extra].concat());
    let (code, out, err) = status(&[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("gateway   pillion 0.1.0   up 1m 1s"), "{out}");
    let (code, out, _) = status(&["--json"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("{\n  \"version\": \"0.1.0\",\n"), "{out}");
    *sidecar.health.lock().unwrap() = HealthState::Degraded;
    assert_eq!((status(&[]).0, status(&["--json"]).0), (1, 1));
    assert!(status(&[]).1.contains("  ! the meter is gone\n"));
    let (code, out, err) = ends(&["status", "--socket", nowhere.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains("nowhere.sock") && err.contains("systemctl status"), "{err}");
    let by_variable = pillion(&["status"]).env("PILLION_SOCKET", socket).output().unwrap();
    assert_eq!(told(&by_variable).0, 1);

    for wrong in [
        [].as_slice(),
        &["nonsense"],
        &["status", "--what"],
        &["status", "--instance", "../x"],
        &["status", "--instance", "x", "--socket", "y"],
        &["publish"],
        &["run"],
    ] {
        assert_eq!(ends(wrong).0, 64, "{wrong:?}");
    }
    for (asked, answer) in [("--version", "pillion 0.1.0\n"), ("--help", "Examples:")] {
        let (code, out, err) = ends(&[asked]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains(answer), "{out}");
    }
}

#[test]
fn publish_never_loses_or_changes_a_line() {
    let (_dir, sidecar) = sidecar();
    let input = b"{\"a\":1}\r\nplain \"text\"\n\n\xff\xfe\nwith\0nul\n22.5\nlast";
    let (code, out, err) = publish(&sidecar.path, &["--stream", "log", "--sync"], input);
    let summary = "accepted 6 records: log:1 to log:6; skipped 1 empty line\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, summary, ""));
    let data: Vec<_> = sidecar.accepted().into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["{\"a\":1}", "\"plain \\\"text\\\"\"", "\u{fffd}\u{fffd}", "with\0nul", "22.5", "\"last\""]);
    for submission in sidecar.accepted.lock().unwrap().iter() {
        assert_eq!((submission.stream, submission.durability), (StreamId::LOG, Durability::Power));
    }
    assert_eq!(publish(&sidecar.path, &["--topic", "50 %/grün&sync=x?"], b"1").0, 0);
    assert_eq!(sidecar.accepted().last().unwrap().0, "app/50 %/grün&sync=x?");
    let (code, out, _) = publish(&sidecar.path, &[], b"");
    assert_eq!((code, out.as_str()), (0, "accepted 0 records\n"));
}

#[test]
fn publish_never_reorders_a_long_input() {
    let (_dir, sidecar) = sidecar();
    let input: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let (code, out, err) = publish(&sidecar.path, &[], input.as_bytes());
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "accepted 20000 records: telemetry:1 to telemetry:20000\n");
    let numbers: Vec<usize> = sidecar.accepted().iter().map(|(_, data)| data.parse().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..20_000));
}

#[test]
fn publish_never_says_all_when_it_was_less() {
    let (dir, sidecar) = sidecar();
    let (code, out, err) = publish(&dir.path().join("nowhere"), &[], b"1\n");
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains("not accepted") && err.contains("accepted 0 records"), "{err}");

    let (code, _, err) = publish(&sidecar.path, &["--stream", "nope"], b"1\n");
    assert_eq!(code, 65);
    assert!(err.contains("there are event, telemetry, log"), "{err}");

    let huge = format!("1\n2\n\"{}\"\n", "x".repeat(2 * 1024 * 1024));
    let (code, _, err) = publish(&sidecar.path, &[], huge.as_bytes());
    assert_eq!(code, 65);
    assert!(err.contains("line 3 is longer than 1048576 bytes"), "{err}");
    assert!(err.contains("accepted 2 records: telemetry:1 to telemetry:2"), "{err}");

    sidecar.plan(Plan::Refuse(Refusal::NotDurable("No space left".into())));
    let (code, _, err) = publish(&sidecar.path, &[], b"1\n2\n");
    assert_eq!(code, 1);
    assert!(err.contains("input lines 1 to 2") && err.contains("No space left"), "{err}");

    sidecar.plan(Plan::Refuse(Refusal::Full));
    let (code, out, err) = publish(&sidecar.path, &[], b"1\n");
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("telemetry is full; trying again"), "{err}");
    assert_eq!(out, "accepted 1 record: telemetry:3\n");

    sidecar.plan(Plan::Refuse(Refusal::Stopping));
    assert_eq!(publish(&sidecar.path, &[], b"1\n").0, 69);
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_line_never_waits_for_the_next() {
    let (_dir, sidecar) = sidecar();
    let mut command = pillion(&["publish", "--topic", "t", "--socket", sidecar.path.to_str().unwrap()]);
    let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut stdin = child.0.stdin.take().unwrap();
    for n in 1..=3 {
        writeln!(stdin, "{n}").unwrap();
        stdin.flush().unwrap();
        until("the line is accepted", || sidecar.accepted().len() == n);
    }
    drop(stdin);
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn watching_never_ends_with_the_sidecar() {
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(dir.path());
    let mut command = pillion(&["status", "--watch", "--socket", sidecar.path.to_str().unwrap()]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut sees = |what: &str| {
        let found = lines.by_ref().take(200).any(|line| line.unwrap().contains(what));
        assert!(found, "never saw {what}");
    };
    sees("healthy");
    sidecar.stop();
    sees("can't reach the sidecar");
    let _successor = Sidecar::start(dir.path());
    sees("healthy");
}

#[test]
fn a_reader_that_goes_away_never_makes_a_mess() {
    let (_dir, sidecar) = sidecar();
    let mut command = pillion(&["status", "--watch", "--socket", sidecar.path.to_str().unwrap()]);
    let mut child = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    drop(child.0.stdout.take());
    until("it ends", || child.0.try_wait().unwrap().is_some());
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
