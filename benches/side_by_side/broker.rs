//! A real mosquitto on a free port of the loopback device, with no limits of its own in the way.

use super::Result;
use super::process::Process;
use super::scratch::Scratch;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

/// A broker that runs.
pub struct Broker {
    port: u16,
    secure_port: Option<u16>,
    _process: Process,
}

impl Broker {
    pub fn start(scratch: &Scratch) -> Result<Broker> {
        Broker::listening(scratch, None)
    }

    /// With a second port that speaks TLS, and its certificate, which is its own authority.
    pub fn certified(scratch: &Scratch) -> Result<(Broker, PathBuf)> {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (scratch.path("broker.pem"), scratch.path("broker.key"));
        fs::write(&certificate, cert.pem())?;
        fs::write(&key, signing_key.serialize_pem())?;
        let broker = Broker::listening(scratch, Some([&certificate, &key]))?;
        Ok((broker, certificate))
    }

    fn listening(scratch: &Scratch, tls: Option<[&Path; 2]>) -> Result<Broker> {
        let free = || -> Result<u16> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()) };
        let port = free()?;
        let secure_port = tls.map(|_| free()).transpose()?;
        let secure = tls.zip(secure_port).map(|([certificate, key], port)| {
            let (certificate, key) = (certificate.display(), key.display());
            format!("listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}")
        });
        let path = scratch.path("mosquitto.conf");
        // Unlimited queues: a subscriber that is slower than the publisher must not cost messages.
        let lines = [
            &format!("listener {port} 127.0.0.1"),
            "allow_anonymous true",
            "persistence false",
            "set_tcp_nodelay true",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            // Started by root, it would become somebody who can't read the key.
            "user root",
            secure.as_deref().unwrap_or_default(),
        ];
        fs::write(&path, lines.join("\n"))?;
        let mut command = Command::new(program());
        let mut process = Process::start("mosquitto", command.arg("-c").arg(&path).stdin(Stdio::null()), scratch)?;
        let deadline = Instant::now() + START;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            process.still_runs()?;
            if Instant::now() > deadline {
                return Err(format!("mosquitto does not listen within {} s", START.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Broker { port, secure_port, _process: process })
    }

    /// Where it speaks TLS, if it does.
    pub fn secure_port(&self) -> Option<u16> {
        self.secure_port
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Debian puts it where only root's search path looks.
pub fn program() -> &'static str {
    let debian = "/usr/sbin/mosquitto";
    if Path::new(debian).exists() { debian } else { "mosquitto" }
}
