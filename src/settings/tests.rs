//! The flow with its store on a disk that fails.

use super::*;
use crate::disk::sim::{Call, SimFs};
use crate::pulse::Heart;
use crate::record::{ClockQuality, Timestamp};
use rustix::io::Errno;
use tokio::task::JoinHandle;

const NOW: Timestamp = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };

/// A flow, and what it is connected to.
struct Rig {
    fs: SimFs,
    settings: mpsc::Sender<Settings>,
    requests: mpsc::Sender<SettingsRequest>,
    status: watch::Receiver<SettingsStatus>,
    stop: watch::Sender<bool>,
    flow: JoinHandle<()>,
    _heart: Heart,
    _submissions: mpsc::Receiver<Submission>,
}

impl Rig {
    /// These keys have come from the broker.
    async fn new(keys: &[(&str, &str)]) -> Rig {
        let fs = SimFs::default();
        let (settings, from_broker) = mpsc::channel(WAITING);
        let (requests, from_clients) = mpsc::channel(WAITING);
        let (submissions, _submissions) = mpsc::channel(WAITING);
        let (stop, stopped) = watch::channel(false);
        let (status, shown) = watch::channel(SettingsStatus::default());
        let heart = Heart::default();
        let wiring = Wiring {
            settings: from_broker,
            requests: from_clients,
            news: watch::channel(SettingsNews::default()).0,
            managed: Managed::default(),
            submissions,
            status,
            clock: || NOW,
            pulse: heart.pulse("config"),
            stop: stopped,
        };
        let flow = tokio::spawn(run(fs.shared(), "/state/config".into(), wiring));
        let rig = Rig { fs, settings, requests, status: shown, stop, flow, _heart: heart, _submissions };
        for (key, value) in keys {
            let (noted, was_noted) = oneshot::channel();
            let (topic, payload) = ((*key).to_owned(), value.as_bytes().to_vec());
            let delivered = Delivered { topic, payload, retained: true, packet: None, redelivered: false, noted };
            rig.settings.send(Settings::Message(delivered)).await.unwrap();
            was_noted.await.unwrap();
        }
        rig
    }

    async fn changes(&self) -> Result<Option<Vec<Setting>>, Unreadable> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(SettingsRequest::Changes { after: 0, all: true, reply }).await.unwrap();
        answer.await.unwrap()
    }

    async fn value(&self, key: &str) -> Result<Option<Setting>, Unreadable> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(SettingsRequest::Value { key: key.to_owned(), reply }).await.unwrap();
        answer.await.unwrap()
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.flow.await.unwrap();
    }
}

fn names(page: &[Setting]) -> Vec<(&str, bool)> {
    page.iter().map(|setting| (setting.key.as_str(), setting.kept.is_some())).collect()
}

#[tokio::test]
async fn a_key_that_can_t_be_read_for_a_while_is_never_told_as_deleted() {
    let rig = Rig::new(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    rig.fs.fail(Call::Open, "00000002.key", 2, Errno::MFILE);
    assert_eq!(names(&rig.changes().await.unwrap().unwrap()), [("a", true)], "those before it");
    let unreadable = rig.value("b").await.unwrap_err();
    let says = "the key \"b\" can't be read now: Too many open files (os error 24); ask again";
    assert_eq!(unreadable.to_string(), says);
    assert_eq!(names(&rig.changes().await.unwrap().unwrap()), [("a", true), ("b", true), ("c", true)]);
    assert_eq!((rig.status.borrow().keys, rig.status.borrow().damaged), (3, 0));
    rig.end().await;
}

#[tokio::test]
async fn a_key_whose_file_can_t_be_had_never_costs_another() {
    for errno in [Errno::IO, Errno::ACCESS] {
        let rig = Rig::new(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
        rig.fs.fail(Call::Open, "00000002.key", 1, errno);
        let page = rig.changes().await.unwrap().unwrap();
        assert_eq!(names(&page), [("a", true), ("b", false), ("c", true)]);
        assert!(rig.value("b").await.unwrap().is_none(), "until the broker sends it again");
        assert_eq!((rig.status.borrow().keys, rig.status.borrow().damaged), (2, 1));
        rig.end().await;
    }
}
