//! The pillion binary as a child process, with its folders, its service manager and its log.

use super::http::{self, Answer};
use super::{LONG, SOON, watched::Watched};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary under test.
pub const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

/// The stream that tests publish to through the local API: unlike in the built-in ones, nothing else is in it.
pub const STREAM: &str = "work";

/// Clock ticks in a second of /proc/PID/stat: USER_HZ is 100 on all of Linux's architectures (time(7)).
const USER_HZ: u64 = 100;

/// The folders and the configuration of one sidecar. They outlive its processes.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    /// `mqtt.topic_prefix`
    pub prefix: String,
    /// `mqtt.servers`
    pub servers: Vec<String>,
    /// More lines of `[mqtt]`.
    pub mqtt: String,
    /// The lines of `[spool]`.
    pub spool: String,
    /// More tables.
    pub tables: String,
    /// More environment.
    pub environment: BTreeMap<String, String>,
}

impl Home {
    /// With these brokers. The topic prefix is `p`, the instance is `test`.
    pub fn new<S: ToString>(servers: impl IntoIterator<Item = S>) -> Self {
        Home {
            folder: tempfile::tempdir().unwrap(),
            prefix: "p".to_owned(),
            servers: servers.into_iter().map(|server| server.to_string()).collect(),
            mqtt: String::new(),
            spool: "sync = \"1s\"".to_owned(),
            tables: format!("[stream.{STREAM}]\n"),
            environment: BTreeMap::new(),
        }
    }

    /// A file or folder of this name in the sidecar's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a serial device with the default line framing.
    pub fn serial(&mut self, name: &str, path: &Path, more: &str) {
        self.tables += &format!("[[serial]]\nname = \"{name}\"\npath = \"{}\"\n{more}\n", path.display());
    }

    /// Writes the configuration and returns where it is.
    pub fn configure(&self) -> PathBuf {
        let Home { prefix, servers, mqtt, spool, tables, .. } = self;
        // How full the machine's disk is, and how busy it is with other tests, is no business of a test that does not say so.
        let limits = ["disk_free_min", "inodes_free_min", "memory_available_min", "temperature_max"];
        let off: String = limits.iter().map(|limit| format!("{limit} = \"off\"\n")).collect();
        let health = if tables.contains("[health]") { String::new() } else { format!("[health]\n{off}") };
        let (state, run, apply) = (self.path("state"), self.path("run"), self.path("apply"));
        let text = format!(
            "instance = \"test\"\nstate_dir = {state:?}\nruntime_dir = {run:?}\napply_dir = {apply:?}\n\n\
             [mqtt]\nservers = {servers:?}\ntopic_prefix = {prefix:?}\n{mqtt}\n\n[spool]\n{spool}\n\n{tables}\n{health}\n"
        );
        for folder in [&state, &run] {
            fs::create_dir_all(folder).unwrap();
        }
        let path = self.path("test.toml");
        // As a whole: a reload may be reading.
        let new = self.path("test.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// The segments of a stream, oldest first.
    pub fn segments(&self, stream: &str) -> Vec<PathBuf> {
        let folder = self.path("state/spool").join(stream);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).collect();
        segments.sort();
        segments
    }

    /// The local API's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/pillion.sock")
    }

    /// The binary with these arguments and an environment that holds nothing of ours.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PILLION);
        command.args(arguments).env_clear().current_dir(self.folder.path());
        command.envs(&self.environment).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the binary with this input until it ends, which must be soon.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let id = Pid::from_child(&child);
        // It may end before it has read all.
        let _ = child.stdin.take().unwrap().write_all(input);
        let (tell, told) = mpsc::channel();
        let waiter = std::thread::spawn(move || tell.send(child.wait_with_output().unwrap()));
        let output = told.recv_timeout(SOON);
        if output.is_err() {
            kill_process(id, Signal::KILL).unwrap();
        }
        let _ = waiter.join();
        output.unwrap_or_else(|_| panic!("pillion {arguments:?} has not ended after {SOON:?}"))
    }
}

/// What the sidecar has said.
#[derive(Debug, Default)]
struct Said {
    log: String,
    /// Messages to the service manager since the latest start.
    notes: Vec<String>,
    /// Processes whose standard error has ended.
    ended: u64,
}

/// A sidecar that runs, or ran and will run again.
#[derive(Debug)]
pub struct Sidecar {
    /// Its folders and configuration.
    pub home: Home,
    child: Option<Child>,
    starts: u64,
    said: Arc<Watched<Said>>,
    notify: Option<JoinHandle<()>>,
}

impl Sidecar {
    /// Starts it and waits until it reports to be ready.
    pub fn start(home: Home) -> Self {
        let mut sidecar = Sidecar::new(home);
        sidecar.start_again();
        sidecar
    }

    /// With its service manager, not started yet.
    pub fn new(mut home: Home) -> Self {
        let path = home.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        home.environment.insert("NOTIFY_SOCKET".to_owned(), path.display().to_string());
        let said = Arc::new(Watched::new(Said::default()));
        let ears = Arc::clone(&said);
        let notify = std::thread::spawn(move || listen(&socket, &ears));
        Sidecar { home, child: None, starts: 0, said, notify: Some(notify) }
    }

    /// Starts it again with the configuration as it now is; waits until it reports to be ready.
    pub fn start_again(&mut self) {
        self.launch();
        let ready = |said: &Said| said.notes.iter().any(|note| note == "READY=1");
        let starts = self.starts;
        let outcome = self.said.wait_for(SOON, |said| (ready(said) || said.ended == starts).then(|| ready(said)));
        assert_eq!(outcome, Some(true), "the sidecar did not become ready");
    }

    /// Starts its process and waits for nothing.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let config = self.home.configure();
        self.forget_notes();
        let mut command = self.home.command(&["run", "--config", config.to_str().unwrap()]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let said = Arc::clone(&self.said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                said.update(|said| said.log += &format!("{line}\n"));
            }
            said.update(|said| said.ended += 1);
        });
        self.starts += 1;
        self.child = Some(child);
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.as_mut().expect("it runs").kill().unwrap();
        self.reap();
    }

    /// Its process.
    pub fn id(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        kill_process(self.id(), Signal::HUP).unwrap();
    }

    /// Sends SIGTERM.
    pub fn begin_stop(&self) {
        kill_process(self.id(), Signal::TERM).unwrap();
    }

    /// Sends SIGTERM and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.begin_stop();
        self.wait()
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let starts = self.starts;
        let ended = self.said.wait_for(SOON, |said| (said.ended == starts).then_some(()));
        assert!(ended.is_some(), "the sidecar did not end");
        self.reap()
    }

    /// Waits until the sidecar tells its service manager something that satisfies `right`, and returns it.
    pub fn expect_note(&self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let found = |said: &Said| said.notes.iter().find(|note| right(note)).cloned();
        self.said
            .wait_for(SOON, found)
            .unwrap_or_else(|| panic!("waited {SOON:?} for {what}; notes: {:?}", self.notes()))
    }

    /// Waits until it has told its service manager `note` this many times since the latest start.
    pub fn expect_notes(&self, note: &str, count: usize) {
        let enough = |said: &Said| (said.notes.iter().filter(|said| *said == note).count() >= count).then_some(());
        assert!(self.said.wait_for(SOON, enough).is_some(), "waited {SOON:?} for {count} {note}; {:?}", self.notes());
    }

    /// What it told its service manager since the latest start.
    pub fn notes(&self) -> Vec<String> {
        self.said.read(|said| said.notes.clone())
    }

    /// Waits until its standard error holds `text`.
    pub fn expect_log(&self, text: &str) {
        self.expect_log_times(text, 1);
    }

    /// Waits until its standard error, over all starts, holds `text` this many times.
    pub fn expect_log_times(&self, text: &str, count: usize) {
        let there = |said: &Said| (said.log.matches(text).count() >= count).then_some(());
        let came = self.said.wait_for(SOON, there).is_some();
        assert!(came, "waited {SOON:?} for {count} times {text:?}; log:\n{}", self.log());
    }

    /// Its standard error so far.
    pub fn log(&self) -> String {
        self.said.read(|said| said.log.clone())
    }

    /// A request to its local API.
    pub fn request(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> io::Result<Answer> {
        http::request(&self.home.socket(), method, target, kind, body)
    }

    /// Publishes one record to `STREAM` through the local API; fails when it is not accepted.
    pub fn publish(&self, topic: &str, text: &str) {
        let target = format!("/v1/publish?topic={topic}&stream={STREAM}");
        let answer = self.request("POST", &target, "text/plain", text.as_bytes()).unwrap();
        assert_eq!((answer.code, &answer.json["accepted"]), (200, &Value::from(1)), "{text:?}: {answer:?}");
    }

    /// Publishes one record of text for each line to `STREAM`; fails when they are not accepted.
    pub fn publish_lines(&self, topic: &str, lines: &[String]) {
        let target = format!("/v1/publish?topic={topic}&stream={STREAM}");
        let body: String = lines.iter().map(|line| format!("{}\n", Value::from(line.as_str()))).collect();
        let answer = self.request("POST", &target, "application/x-ndjson", body.as_bytes()).unwrap();
        assert_eq!((answer.code, &answer.json["accepted"]), (200, &Value::from(lines.len())), "{answer:?}");
    }

    /// The status document.
    pub fn status(&self) -> Value {
        let answer = self.request("GET", "/v1/status", "", b"").unwrap();
        assert_eq!(answer.code, 200, "{answer:?}");
        answer.json
    }

    /// Waits until the status satisfies `right`, and returns it. No event tells of a change of the status, so this asks
    /// again and again.
    pub fn expect_status(&self, what: &str, right: impl Fn(&Value) -> bool) -> Value {
        self.expect_status_within(SOON, what, right)
    }

    fn expect_status_within(&self, limit: Duration, what: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status();
            if right(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited {limit:?} for {what}; {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until this stream has nothing waiting, and returns its ledger, which must balance.
    pub fn expect_drained(&self, stream: &str) -> Value {
        let waiting = |status: &Value| status["streams"][stream]["waiting"].as_u64();
        let status = self.expect_status_within(LONG, "an empty spool", |status| waiting(status) == Some(0));
        let ledger = status["streams"][stream].clone();
        assert_balanced(&ledger);
        ledger
    }

    /// Open files and sockets.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.as_ref().expect("it runs").id())).unwrap().count()
    }

    /// The most memory that it has had at a time, in KiB, without the pages of its file: a debug build has many more of these
    /// than what is shipped, where they are 4 MiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let status = self.proc("status");
        let of = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim_end_matches(" kB").trim().parse().unwrap()
        };
        of("VmHWM:").saturating_sub(of("RssFile:"))
    }

    /// Processor time that it has used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        // proc(5): the fields behind the name, which stands in brackets, start with the third.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[14 - 3].parse::<u64>().unwrap() + fields[15 - 3].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / USER_HZ)
    }

    /// Bytes of file pages that it has made the kernel write to disks so far (proc(5)): whole pages of 4 KiB, and once
    /// more if a page was written out in between. Neither a tmpfs nor a file system's own journal and tables count.
    pub fn bytes_to_disk(&self) -> u64 {
        let io = self.proc("io");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.unwrap().parse().unwrap()
    }

    /// Empties the list of notes, also of those that a former process has sent and nobody has read yet.
    fn forget_notes(&self) {
        let marker = format!("RIG={}", self.starts);
        self.tell(marker.as_bytes()).unwrap();
        self.expect_note("our own marker", |note| note == marker);
        self.said.update(|said| said.notes.clear());
    }

    /// Sends a datagram to our own service manager.
    fn tell(&self, text: &[u8]) -> io::Result<usize> {
        UnixDatagram::unbound()?.send_to(text, self.home.path("notify.sock"))
    }

    fn proc(&self, file: &str) -> String {
        let id = self.child.as_ref().expect("it runs").id();
        fs::read_to_string(format!("/proc/{id}/{file}")).unwrap()
    }

    fn reap(&mut self) -> ExitStatus {
        self.child.take().expect("it runs").wait().unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        // An empty datagram ends the listener.
        if self.tell(b"").is_ok() {
            let _ = self.notify.take().map(JoinHandle::join);
        }
        if std::thread::panicking() {
            eprintln!("---- what the sidecar said ----\n{}----", self.log());
        }
    }
}

/// Fails unless `accepted = delivered + waiting + evicted + expired + quarantined`.
pub fn assert_balanced(ledger: &Value) {
    let of = |name: &str| ledger[name].as_u64().unwrap_or_else(|| panic!("no {name} in {ledger}"));
    let places = ["delivered", "waiting", "evicted", "expired", "quarantined"];
    assert_eq!(of("accepted"), places.into_iter().map(of).sum::<u64>(), "the ledger does not balance: {ledger}");
}

fn listen(socket: &UnixDatagram, said: &Watched<Said>) {
    let mut buffer = [0; 4096];
    while let Ok(count) = socket.recv(&mut buffer) {
        if count == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        said.update(|said| said.notes.extend(text.lines().map(str::to_owned)));
    }
}
