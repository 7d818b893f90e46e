//! pillion itself: the release binary as a child process, its folders, its configuration, its local API.

use super::Result;
use super::process::Process;
use super::scratch::Scratch;
use super::serial_line::SerialLine;
use pillion::stats::{LinkState, Status};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Every topic begins with it, the rivals' too, so that all messages are of the same length.
pub const PREFIX: &str = "bench";
/// Unacknowledged messages on the wire, pillion's and bare rumqttc's.
pub const WINDOW: u16 = 128;
/// The serial device's name.
pub const DEVICE: &str = "line";
/// How long a start, an answer or a change of state may take.
const SOON: Duration = Duration::from_secs(20);
/// A port at which nobody listens (tcpmux): for a pillion without a broker.
const NOBODY: u16 = 1;

/// The binary: `PILLION` as `benches/run` sets it, else the one that cargo built along with this.
pub fn binary() -> PathBuf {
    std::env::var_os("PILLION").map_or_else(|| env!("CARGO_BIN_EXE_pillion").into(), PathBuf::from)
}

/// What is different from one start to the next.
pub struct Setup<'s> {
    /// Where it keeps its spool.
    pub state: &'s Path,
    /// The broker's port on the loopback device; none: it is not reachable.
    pub broker: Option<u16>,
    /// Serial devices.
    pub serial: &'s [&'s SerialLine],
    /// More lines of `[mqtt]`; a line `servers` takes the place of the broker's port.
    pub mqtt: &'s str,
    /// More configuration, in TOML.
    pub more: &'s str,
}

/// A sidecar that runs.
pub struct Sidecar {
    process: Process,
    socket: PathBuf,
}

impl Sidecar {
    /// Starts it. It is not ready yet.
    pub fn start(setup: &Setup<'_>, scratch: &Scratch) -> Result<Sidecar> {
        let config = scratch.path("bench.toml");
        fs::write(&config, configuration(setup, scratch.short()))?;
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(&config).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::start("pillion", &mut command, scratch)?;
        Ok(Sidecar { process, socket: scratch.short().join("pillion.sock") })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until its local API answers.
    pub fn ready(&mut self) -> Result<()> {
        self.wait_until("an answer on its socket", |_| true)
    }

    /// Waits until its ledger says that so many records wait, or one of its own more.
    pub fn waits(&mut self, records: u64) -> Result<()> {
        self.wait_until("a backlog", |status| (records..=records + 1).contains(&status.streams["telemetry"].waiting))
    }

    /// Waits until it is connected to the broker and all of its devices are open.
    pub fn online(&mut self) -> Result<()> {
        self.wait_until("a broker and a device", |status| {
            let open = |device: &pillion::stats::DeviceStatus| device.state == pillion::stats::DeviceState::Online;
            status.link.state == LinkState::Connected && status.devices.values().all(open)
        })
    }

    /// Waits until its ledger says that everything was delivered, each record once. Its own health document may be among
    /// them.
    pub fn delivered(&mut self, records: u64) -> Result<()> {
        self.wait_until("an empty spool", |status| status.streams.values().all(|stream| stream.waiting == 0))?;
        let status = self.status()?;
        let ledger = &status.streams["telemetry"];
        if ledger.delivered < records
            || ledger.delivered != ledger.accepted
            || status.link.repeated != 0
            || status.link.connects != 1
        {
            return Err(format!("not a clean drain of {records} records: {ledger:?}, {:?}", status.link).into());
        }
        Ok(())
    }

    /// Publishes these lines, a JSON value each, below `app/`.
    pub fn publish(&self, topic: &str, lines: &[u8]) -> Result<()> {
        let target = format!("POST /v1/publish?topic={topic}");
        self.request(&target, lines).map(drop)
    }

    /// Publishes a file of lines, a JSON value each, in one request by curl; returns the answer.
    pub fn upload(&self, topic: &str, file: &Path, scratch: &Scratch) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--request", "POST", "--upload-file"]).arg(file);
        command.args(["--header", "Content-Type: application/x-ndjson", "--unix-socket"]).arg(&self.socket);
        command.arg(format!("http://localhost/v1/publish?topic={topic}"));
        let mut curl = Process::start("curl", command.stdin(Stdio::null()).stdout(Stdio::piped()), scratch)?;
        let mut answer = String::new();
        curl.stdout().ok_or("curl has no output")?.read_to_string(&mut answer)?;
        curl.finish()?;
        Ok(answer)
    }

    fn status(&self) -> Result<Status> {
        Ok(serde_json::from_str(&self.request("GET /v1/status", b"")?)?)
    }

    /// Stops it as systemd would; it must end well.
    pub fn stop(self) -> Result<()> {
        self.process.terminate(true)
    }

    fn wait_until(&mut self, what: &str, right: impl Fn(&Status) -> bool) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            self.process.still_runs()?;
            let status = self.status();
            match &status {
                Ok(status) if right(status) => return Ok(()),
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                _ => return Err(format!("waited {} s for {what}: {status:?}", SOON.as_secs()).into()),
            }
        }
    }

    /// One request to the local API; an answer other than 200 is an error.
    fn request(&self, target: &str, body: &[u8]) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(SOON))?;
        let length = body.len();
        let head = format!(
            "{target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\
             Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
            _ => Err(format!("{target}: {answer}").into()),
        }
    }
}

/// Nothing but what the bench needs: defaults are what people run.
fn configuration(setup: &Setup<'_>, runtime: &Path) -> String {
    let port = setup.broker.unwrap_or(NOBODY);
    let servers = match setup.mqtt.starts_with("servers") {
        true => String::new(),
        false => format!("servers = [\"mqtt://127.0.0.1:{port}\"]\n"),
    };
    let devices: String = setup.serial.iter().map(|line| line.section()).collect();
    format!(
        "state_dir = {:?}\nruntime_dir = {runtime:?}\n\
         [mqtt]\n{servers}topic_prefix = \"{PREFIX}\"\ninflight = {WINDOW}\n{}\
         [spool]\nsync = \"1s\"\n{devices}{}",
        setup.state, setup.mqtt, setup.more
    )
}
