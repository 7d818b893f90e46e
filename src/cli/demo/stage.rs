//! What the demo builds and takes down again: a folder, the network, a sensor on a pseudo terminal, the real sidecar.
//!
//! Constraint: whatever happens, [`Stage::clear`] leaves no process and no file behind; so does dropping the stage, less
//! politely.

use super::Stop;
use super::network::{Link, start_broker};
use crate::cli::client;
use crate::stats::Status;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Uri};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_serial::{SerialPort as _, SerialStream};

/// Between two lines of the sensor: 50 a second.
const PERIOD: Duration = Duration::from_millis(20);
/// How long the sidecar may take to answer a question.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the sidecar may take to stop: longer than its own deadlines together.
const STOPPING: Duration = Duration::from_secs(25);

/// Everything that is there.
pub(super) struct Stage {
    folder: TempDir,
    pub(super) broker: SocketAddr,
    pub(super) link: Link,
    pub(super) sensor: Sensor,
    sidecar: Option<Child>,
}

impl Stage {
    /// Builds everything; only the sidecar and the sensor don't run yet.
    ///
    /// # Errors
    /// The system has no room for a folder, a port, a pseudo terminal.
    pub(super) fn build() -> Result<Self, Stop> {
        let folder = tempfile::Builder::new().prefix("pillion-demo-").tempdir().map_err(no("temporary folder"))?;
        let broker = start_broker().map_err(no("broker"))?;
        let mut link = Link::to(broker).map_err(no("link to the broker"))?;
        link.restore().map_err(no("link to the broker"))?;
        let sensor = Sensor::new().map_err(no("pseudo terminal for the sensor"))?;
        let stage = Stage { folder, broker, link, sensor, sidecar: None };
        fs::write(stage.path("demo.toml"), stage.configuration()).map_err(no("configuration"))?;
        Ok(stage)
    }

    /// Where everything is that has a file name.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration that the sidecar gets.
    pub(super) fn configuration(&self) -> String {
        format!(
            r#"state_dir = {:?}
runtime_dir = {:?}

[mqtt]
servers = ["mqtt://{}"]
topic_prefix = "demo"

[[serial]]
name = "sensor"
path = {:?}
baud = 115200
"#,
            self.path("state"),
            self.path("run"),
            self.link.address,
            self.sensor.path
        )
    }

    /// Starts the sidecar as systemd would, but with its log in a file.
    pub(super) fn start_sidecar(&mut self) -> Result<(), Stop> {
        self.sidecar = Some(self.spawn().map_err(no("child process"))?);
        Ok(())
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = File::create(self.path("log"))?;
        Command::new(std::env::current_exe()?)
            .arg("run")
            .arg("--config")
            .arg(self.path("demo.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Whatever started the demo, the sidecar is the demo's: its log and its signs of life go nowhere else.
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .kill_on_drop(true)
            .spawn()
    }

    /// What `GET /v1/status` says; None if nobody answers (yet).
    ///
    /// # Errors
    /// The sidecar has ended.
    pub(super) async fn status(&mut self) -> Result<Option<Status>, Stop> {
        if let Some(Ok(Some(status))) = self.sidecar.as_mut().map(Child::try_wait) {
            return Err(Stop::Failed(format!("the sidecar has ended by itself: {status}")));
        }
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = Uri::from_static("/v1/status");
        let socket = self.path("run").join("pillion.sock");
        let answer = timeout(ANSWER, client::request(&socket, request)).await;
        Ok(answer.ok().and_then(Result::ok).and_then(|answer| serde_json::from_slice(&answer.body).ok()))
    }

    /// Tells the sidecar to stop, by SIGTERM, and waits for it; kills it if it doesn't.
    pub(super) async fn stop_sidecar(&mut self) -> Result<Option<ExitStatus>, Stop> {
        let Some(sidecar) = self.sidecar.as_mut() else { return Ok(None) };
        let pid = sidecar.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let stopped = match timeout(STOPPING, sidecar.wait()).await {
            Ok(status) => status.map(Some).map_err(no("end of the sidecar")),
            Err(_) => {
                let _ = sidecar.kill().await;
                Err(Stop::Failed(format!("the sidecar did not stop within {} s", STOPPING.as_secs())))
            }
        };
        self.sidecar = None;
        stopped
    }

    /// What the sidecar has logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Stops what runs and removes what is left.
    pub(super) async fn clear(mut self) -> Result<(), Stop> {
        let stopped = self.stop_sidecar().await;
        let path = self.folder.path().to_owned();
        self.folder.close().map_err(|error| Stop::Failed(format!("can't remove {}: {error}", path.display())))?;
        stopped.map(|_| ())
    }
}

/// A thermometer with a serial interface.
pub(super) struct Sensor {
    /// Where the sidecar finds it.
    path: String,
    /// The sensor's end of the line, until it starts.
    port: Option<SerialStream>,
    /// Held so that the line exists before the sidecar opens it.
    _line: SerialStream,
    sent: Arc<AtomicU32>,
    task: Option<JoinHandle<()>>,
}

impl Sensor {
    fn new() -> io::Result<Self> {
        let (port, line) = SerialStream::pair()?;
        let path = line.name().unwrap_or_default();
        Ok(Sensor { path, port: Some(port), _line: line, sent: Arc::default(), task: None })
    }

    /// Starts measuring.
    pub(super) fn start(&mut self) {
        if let Some(port) = self.port.take() {
            self.task = Some(tokio::spawn(measure(port, Arc::clone(&self.sent))));
        }
    }

    /// Stops after a whole line: the only place where it waits, unless the line is blocked.
    pub(super) async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Whole lines that it has written.
    pub(super) fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }
}

async fn measure(mut port: SerialStream, sent: Arc<AtomicU32>) {
    let mut period = interval(PERIOD);
    for n in 1.. {
        period.tick().await;
        let celsius = 21.5 + 2.0 * (f64::from(n) / 100.0).sin();
        let line = format!("{{\"n\":{n},\"celsius\":{celsius:.2}}}\r\n");
        if port.write_all(line.as_bytes()).await.is_err() {
            return;
        }
        sent.store(n, Ordering::Relaxed);
    }
}

fn no(what: &str) -> impl FnOnce(io::Error) -> Stop {
    move |error| Stop::Failed(format!("the demo gets no {what}: {error}"))
}
