//! The real broker, as a child process on a port of its own.

use super::{SOON, own_address, watched::Watched};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// What mosquitto has said so far.
#[derive(Debug, Default)]
struct Said {
    text: String,
    running: bool,
    ended: bool,
}

/// A mosquitto that can be stopped and started again at the same address.
#[derive(Debug)]
pub struct Mosquitto {
    address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// Starts one. It keeps nothing over a restart and has no limit on what it queues for a subscriber.
    pub fn start() -> Self {
        Mosquitto::start_with(|_| String::new())
    }

    /// The same with more lines in its configuration, which may be of a second listener at another port of its address.
    pub fn start_with(more: impl FnOnce(SocketAddr) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind((own_address(), 0)).and_then(|probe| probe.local_addr()).unwrap();
        let lines = [
            format!("listener {} {}", address.port(), address.ip()),
            "allow_anonymous true".to_owned(),
            "persistence false".to_owned(),
            "max_queued_messages 0".to_owned(),
            "max_inflight_messages 0".to_owned(),
            "set_tcp_nodelay true".to_owned(),
            "log_dest stderr".to_owned(),
            more(address),
        ];
        fs::write(folder.path().join("mosquitto.conf"), lines.join("\n")).unwrap();
        let mut broker = Mosquitto { address, folder, child: None };
        broker.start_again();
        broker
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it at the address that it had; returns once it accepts connections.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "mosquitto runs already");
        let mut child = Command::new(program())
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("mosquitto does not start ({error}); apt-get install mosquitto"));
        let stderr = child.stderr.take().unwrap();
        self.child = Some(child);
        let said = Arc::new(Watched::new(Said::default()));
        let listener = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                listener.update(|said| {
                    said.running |= line.ends_with(" running");
                    said.text.push_str(&line);
                    said.text.push('\n');
                });
            }
            listener.update(|said| said.ended = true);
        });
        let running = said.wait_for(SOON, |said| (said.running || said.ended).then_some(said.running));
        let text = said.read(|said| said.text.clone());
        assert_eq!(running, Some(true), "mosquitto does not start at {}; it says:\n{text}", self.address);
    }

    /// Kills it, as a power cut would.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("mosquitto runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}

/// Debian puts it where only root's search path looks.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    if debian.exists() { debian } else { PathBuf::from("mosquitto") }
}
