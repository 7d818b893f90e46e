//! The server of the local API with fake flows behind it, and clients that speak to it byte by byte.

use pillion::api::{self, Api, socket};
use pillion::pulse::Heart;
use pillion::record::{Accepted, ClockQuality, Refusal, StreamId, Submission, Timestamp};
use pillion::stats::{Health, HealthState, HostStatus, LinkStatus, Status, StatusRequest};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

/// Whatever is waited for comes sooner than this, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const MAX_PAYLOAD: usize = 4096;

/// What the fake ingest flow does with its next submission; it accepts when nothing is planned.
pub enum Plan {
    Refuse(Refusal),
    /// Never answers, and never lets go of it.
    Keep,
    /// The flow ends with it in its hands.
    Drop,
    /// The test answers.
    Hand(std_mpsc::Sender<Submission>),
}

pub type Plans = Arc<Mutex<VecDeque<Plan>>>;

/// A server with fake flows on a thread of its own, stopped when dropped.
pub struct Sidecar {
    pub path: PathBuf,
    pub plans: Plans,
    pub accepted: Arc<Mutex<Vec<Submission>>>,
    pub health: Arc<Mutex<HealthState>>,
    pub heart: Heart,
    pub stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Sidecar {
    pub fn start(runtime_dir: &Path) -> Sidecar {
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
            rules: watch::channel(api::Rules {
                streams: ["event", "telemetry", "log"]
                    .map(str::to_owned)
                    .into_iter()
                    .zip((0..).map(StreamId))
                    .collect(),
                access: Default::default(),
            })
            .1,
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

    pub fn plan(&self, plan: Plan) {
        self.plans.lock().unwrap().push_back(plan);
    }

    pub fn accepted(&self) -> Vec<(String, String)> {
        let accepted = self.accepted.lock().unwrap();
        let records = accepted.iter().flat_map(|submission| &submission.records);
        records.map(|record| (record.topic.clone(), String::from_utf8_lossy(&record.data).into_owned())).collect()
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends the bytes and returns all that comes back until the server hangs up.
    pub fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may hang up before it has read everything.
        let _ = stream.write_all(bytes);
        rest_of(stream)
    }

    pub fn get(&self, path: &str) -> Reply {
        Reply::of(&self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()))
    }

    pub fn post(&self, query: &str, headers: &str, body: &[u8]) -> Reply {
        let length = body.len();
        let head = format!(
            "POST /v1/publish?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        Reply::of(&self.send(&[head.as_bytes(), body].concat()))
    }

    pub fn stop(&mut self) {
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

async fn answer_status(mut questions: mpsc::Receiver<StatusRequest>, health: Arc<Mutex<HealthState>>) {
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
pub fn rest_of(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server did not hang up in time"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn of(text: &str) -> Reply {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { code, head: head.to_lowercase(), body: body.trim_end().to_owned() }
    }

    pub fn error(&self) -> String {
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 1, "{self:?}");
        value["error"].as_str().unwrap().to_owned()
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn sidecar() -> (TempDir, Sidecar) {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::start(dir.path());
    (dir, sidecar)
}

pub const NDJSON: &str = "content-type: application/x-ndjson\r\n";
