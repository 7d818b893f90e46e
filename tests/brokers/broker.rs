//! A broker as a child process: its folder, its configuration, its doors.
//!
//! Constraints: it runs in a process group of its own, which is killed with it; whatever it writes is in its folder. It
//! counts as started when it answers a CONNECT, whatever it says of itself.

use crate::common::authority::{Authority, Identity, NOW};
use crate::common::wire::Wire;
use crate::common::{LONG, own_address};
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where and as whom the sidecar connects.
#[derive(Debug, Clone)]
pub struct Door {
    /// `mqtt` or `mqtts`.
    pub scheme: &'static str,
    /// The listener.
    pub address: SocketAddr,
    /// Lines of `[mqtt]`.
    pub mqtt: String,
}

/// What a broker still has after it was restarted, of what it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// All of it, also when it was killed.
    All,
    /// All of it when it was told to stop (SIGTERM).
    WhenTold,
    /// Nothing: its sessions, queues and retained messages are in memory.
    Nothing,
}

/// How to run one.
#[derive(Debug, Default)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// All of its environment, but for PATH.
    pub environment: Vec<(&'static str, String)>,
}

/// A broker that can be stopped and started again at the same addresses.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    program: Program,
    /// A listener for anyone, without TLS: consumers and operators come here.
    pub address: SocketAddr,
    /// Where the sidecar goes.
    pub door: Door,
    /// The address of the relay before that door: certificates are made out to it.
    pub link: Ipv4Addr,
    /// Whose certificates are shown there, if any.
    pub authority: Option<Authority>,
    /// What it keeps.
    pub keeps: Keeps,
    child: Option<Child>,
}

impl Broker {
    /// One with a free plain listener, not configured and not started yet.
    pub fn new(keeps: Keeps) -> Self {
        let address = free(own_address().into());
        let door = Door { scheme: "mqtt", address, mqtt: String::new() };
        let folder = tempfile::tempdir().unwrap();
        let (link, program) = (own_address(), Program::default());
        Broker { folder, program, address, door, link, authority: None, keeps, child: None }
    }

    /// A file or folder of this name in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file in its folder, and returns where it is.
    pub fn write(&self, name: &str, lines: &[String]) -> String {
        fs::write(self.path(name), lines.join("\n") + "\n").unwrap();
        self.file(name)
    }

    /// Another port at its address.
    pub fn port(&self) -> SocketAddr {
        free(self.address.ip())
    }

    /// The sidecar comes by TLS, to another port. Returns the broker's certificate.
    pub fn by_tls(&mut self) -> Identity {
        let authority = Authority::new();
        let identity = authority.issue(&self.link.to_string(), NOW);
        self.door = Door { scheme: "mqtts", address: self.port(), mqtt: format!("ca_file = {:?}\n", authority.own) };
        self.authority = Some(authority);
        identity
    }

    /// The sidecar speaks MQTT 5.
    pub fn by_mqtt5(&mut self) {
        self.door.mqtt += "version = \"5\"\n";
    }

    /// Configured: starts it with this program, and waits until it answers.
    pub fn run(mut self, program: Program) -> Self {
        self.program = program;
        self.start();
        self
    }

    /// The same, without the wait: others have to be started before it answers.
    pub fn launched(mut self, program: Program) -> Self {
        self.program = program;
        self.launch();
        self
    }

    /// Starts its process and waits until it answers.
    pub fn start(&mut self) {
        self.launch();
        self.expect_answer();
    }

    /// Starts its process and waits for nothing.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let Program { path, arguments, environment } = &self.program;
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(path);
        command.args(arguments).current_dir(self.folder.path()).process_group(0);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{}: {error}; see tests/run", path.display())));
    }

    /// Waits until it accepts an MQTT client. Nothing that all of them say tells of that, so this asks again and again.
    pub fn expect_answer(&mut self) {
        let deadline = Instant::now() + LONG;
        while !answers(self.address) {
            let ended = self.child.as_mut().expect("it runs").try_wait().unwrap();
            assert!(ended.is_none(), "{:?} has ended ({ended:?}); it says:\n{}", self.program.path, self.log());
            assert!(Instant::now() < deadline, "{:?} does not answer; it says:\n{}", self.program.path, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it in the way in which it keeps most.
    pub fn stop(&mut self) {
        let child = self.child.as_mut().expect("it runs");
        if self.keeps == Keeps::WhenTold {
            kill_process(Pid::from_child(child), Signal::TERM).unwrap();
            assert!(child.wait().unwrap().success(), "it says:\n{}", self.log());
        }
        self.kill();
    }

    /// Ends it, and whatever it has started, as `kill -9` does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        // It may be gone already.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        child.wait().unwrap();
    }

    /// What it has written to its standard output and error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(30)..];
            eprintln!("---- what {} said at last ----\n{}\n----", self.program.path.display(), last.join("\n"));
        }
    }
}

/// A port that nobody has there.
pub fn free(address: IpAddr) -> SocketAddr {
    TcpListener::bind((address, 0)).and_then(|probe| probe.local_addr()).unwrap()
}

fn answers(address: SocketAddr) -> bool {
    let hello = Packet::Connect(Connect::new(format!("probe-{}", fastrand::u64(..))));
    let answer = TcpStream::connect(address).and_then(Wire::new).and_then(|mut wire| {
        wire.patience(Some(Duration::from_secs(2)))?;
        wire.write(&hello)?;
        let answer = wire.read()?;
        wire.write(&Packet::Disconnect)?;
        Ok(answer)
    });
    matches!(answer, Ok(Some(Packet::ConnAck(ack))) if ack.code == ConnectReturnCode::Success)
}
