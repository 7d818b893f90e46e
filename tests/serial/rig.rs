//! A device on a pseudo terminal, and the task that reads it.

use pillion::config::{Framing, Line, Serial};
use pillion::device::{Wiring, serial};
use pillion::host;
use pillion::pulse::Heart;
use pillion::record::{PayloadRule, Record, Submission};
use pillion::stats::{DeviceState, DeviceStatus};
use serialport::{SerialPort, TTYPort};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Long enough for a loaded machine; nothing waits for it when all is well.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A device on a pseudo terminal. Dropping it is pulling the plug.
pub struct Pty {
    pub master: TTYPort,
    pub slave: TTYPort,
    link: PathBuf,
}

impl Drop for Pty {
    /// The name goes first: the kernel may give the terminal's number to another test at once.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.link);
    }
}

impl Pty {
    pub fn plug_in(link: &Path) -> Self {
        let (mut master, slave) = TTYPort::pair().unwrap();
        master.set_timeout(DEADLINE).unwrap();
        symlink(slave.name().unwrap(), link).unwrap();
        Pty { master, slave, link: link.to_owned() }
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }
}

/// The task of one device, with this test at the other ends of its wiring.
pub struct Bridge {
    pub records: mpsc::Receiver<Submission>,
    pub status: watch::Receiver<DeviceStatus>,
    pub stop: watch::Sender<bool>,
    pub heart: Heart,
    pub task: JoinHandle<()>,
}

impl Bridge {
    pub fn start(config: Serial, room: usize) -> Self {
        let (submissions, records) = mpsc::channel(room);
        let (status_in, status) = watch::channel(DeviceStatus::closed("serial", 0));
        let (stop, stop_out) = watch::channel(false);
        let heart = Heart::default();
        let pulse = heart.pulse("serial meter");
        let (_, orders) = mpsc::channel(1);
        let (_, traces) = mpsc::channel(1);
        let wiring = Wiring { orders, traces, submissions, status: status_in, clock: host::now, pulse, stop: stop_out };
        let task = tokio::spawn(serial::run(config, wiring));
        Bridge { records, status, stop, heart, task }
    }

    pub async fn online(&mut self) -> DeviceStatus {
        let online = self.status.wait_for(|status| status.state == DeviceState::Online);
        timeout(DEADLINE, online).await.expect("online in time").unwrap().clone()
    }

    pub async fn offline(&mut self, why: &str) -> DeviceStatus {
        let is_why = |status: &DeviceStatus| {
            status.state == DeviceState::Offline && status.reason.as_ref().is_some_and(|reason| reason.contains(why))
        };
        let status = timeout(DEADLINE, self.status.wait_for(is_why)).await.map(|status| status.unwrap().clone());
        status.unwrap_or_else(|_| panic!("never offline because {why:?}: {:?}", self.status.borrow().clone()))
    }

    /// Counters wake nobody, so they are looked at until they are as expected.
    pub async fn counted(&self, expected: impl Fn(&DeviceStatus) -> bool) -> DeviceStatus {
        let look = async {
            while !expected(&self.status.borrow()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.status.borrow().clone()
        };
        timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("counted: {:?}", self.status.borrow().clone()))
    }

    pub async fn submission(&mut self) -> Submission {
        timeout(DEADLINE, self.records.recv()).await.expect("a record in time").expect("the task runs")
    }

    pub async fn take(&mut self, count: usize) -> Vec<Record> {
        let mut records = Vec::new();
        while records.len() < count {
            records.extend(self.submission().await.records);
        }
        assert_eq!(records.len(), count);
        records
    }

    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        timeout(DEADLINE, self.task).await.expect("ends in time").unwrap();
    }
}

pub fn link_in(dir: &TempDir) -> PathBuf {
    dir.path().join("usb-meter-if00")
}

pub fn config(path: &Path) -> Serial {
    Serial {
        name: "meter".into(),
        line: Line::at(path),
        framing: Framing::lines(1024),
        payload: PayloadRule::Auto,
        commands: None,
    }
}

pub fn data(records: &[Record]) -> Vec<&[u8]> {
    records.iter().map(|record| record.data.as_slice()).collect()
}
