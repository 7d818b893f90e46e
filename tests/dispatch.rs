//! The dispatch flow with a real journal in a real folder, and this test in the place of broker, device and spool.
#![cfg(test)]

use pillion::command::{Order, Origin, Progress, Reply, Request, Stage};
use pillion::config::Commands;
use pillion::disk::Disk;
use pillion::dispatch::{self, Wiring, journal};
use pillion::host;
use pillion::pulse::Heart;
use pillion::record::{Encoding, Submission};
use pillion::roster::{Member, Roster};
use pillion::stats::{CommandCounts, DeviceStatus};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

/// One run of the flow, with a device called `meter` that has room for this many orders.
struct Flow {
    requests: Option<mpsc::Sender<Request>>,
    orders: mpsc::Receiver<Order>,
    records: mpsc::Receiver<Submission>,
    replies: VecDeque<Reply>,
    counts: watch::Receiver<CommandCounts>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    known: watch::Sender<Roster>,
    _heart: Heart,
}

impl Flow {
    fn start(state_dir: &Path, room: usize) -> Self {
        let commands = Commands { allow: vec![], rate: 1000, ttl: Duration::from_secs(60), reply: None };
        let (requests, from_test) = mpsc::channel(64);
        let (to_device, orders) = mpsc::channel(room);
        let (submissions, records) = mpsc::channel(1024);
        let (status, counts) = watch::channel(CommandCounts::default());
        let (stop, stopped) = watch::channel(false);
        let heart = Heart::default();
        let shown = watch::channel(DeviceStatus::closed("serial", 0)).1;
        let (name, commands) = ("meter".to_owned(), Some(commands));
        let meter = Member { name, status: shown, commands, orders: Some(to_device), traces: None };
        let (known, roster) = watch::channel(Roster::from([meter]));
        let wiring = Wiring {
            requests: from_test,
            roster,
            submissions,
            status,
            clock: host::now,
            pulse: heart.pulse("dispatch"),
            stop: stopped,
        };
        let task = tokio::spawn(dispatch::run(Arc::new(Disk), journal::folder(state_dir), wiring));
        let (requests, replies) = (Some(requests), VecDeque::new());
        Flow { requests, orders, records, replies, counts, stop, task, known, _heart: heart }
    }

    /// As the broker brings it. What comes back tells when it need not come again.
    async fn send(&self, payload: &str, packet: u16, redelivered: bool) -> oneshot::Receiver<()> {
        let (noted, answer) = oneshot::channel();
        let waited = Some(Duration::ZERO);
        let origin = Origin::Broker { retained: false, packet: Some(packet), redelivered, waited, noted };
        let request = Request { device: "meter".to_owned(), payload: payload.as_bytes().to_vec(), origin };
        self.requests.as_ref().unwrap().send(request).await.unwrap();
        answer
    }

    async fn order(&mut self) -> Order {
        timeout(DEADLINE, self.orders.recv()).await.expect("an order in time").expect("the flow runs")
    }

    async fn reply(&mut self) -> Reply {
        while self.replies.is_empty() {
            let submission = timeout(DEADLINE, self.records.recv()).await.expect("a reply in time").unwrap();
            let replies = submission.records.iter().filter(|record| record.topic == "device/meter/reply");
            self.replies.extend(replies.map(|record| serde_json::from_slice::<Reply>(&record.data).unwrap()));
        }
        self.replies.pop_front().unwrap()
    }

    async fn last_reply(&mut self) -> Reply {
        loop {
            let reply = self.reply().await;
            if reply.is_final {
                return reply;
            }
        }
    }

    /// As `kill -9` does: nothing more is done.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn text(order: &Order) -> String {
    String::from_utf8(order.data.clone().into_bytes()).unwrap()
}

fn report(order: &Order, progress: Progress) {
    order.progress.try_send(progress).unwrap();
}

#[tokio::test]
async fn a_redelivery_without_an_id_is_never_carried_out_again_even_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 4);
    flow.send("open", 7, false).await.await.unwrap();
    let order = flow.order().await;
    report(&order, Progress::Done);
    let reply = flow.last_reply().await;
    assert!(reply.id.starts_with("auto-") && reply.stage == Stage::Written, "{reply:?}");
    flow.send("open", 7, true).await.await.unwrap();
    assert_eq!(flow.reply().await, Reply { repeated: true, ..reply.clone() });
    flow.kill().await;
    let mut flow = Flow::start(dir.path(), 4);
    flow.send("open", 7, true).await.await.unwrap();
    assert_eq!(flow.reply().await, Reply { repeated: true, ..reply });
    // The packet id is free for something new then.
    flow.send("open", 7, false).await.await.unwrap();
    assert_eq!(text(&flow.order().await), "open");
}

#[tokio::test]
async fn a_kill_while_it_is_carried_out_never_leaves_the_sender_without_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 4);
    let noted = flow.send(r#"{"id":"c-1","data":"open"}"#, 1, false).await;
    let order = flow.order().await;
    noted.await.unwrap();
    assert_eq!(flow.reply().await.stage, Stage::Received);
    flow.kill().await;
    drop(order);
    for _ in 0..2 {
        let mut flow = Flow::start(dir.path(), 4);
        flow.send(r#"{"id":"c-1","data":"open"}"#, 2, false).await.await.unwrap();
        let reply = flow.last_reply().await;
        assert_eq!((reply.id.as_str(), reply.stage), ("c-1", Stage::Failed));
        assert!(reply.reason.as_ref().unwrap().contains("nobody knows whether it was done"), "{reply:?}");
        assert_eq!(flow.counts.borrow().begun, 0);
        flow.kill().await;
    }
}

#[tokio::test]
async fn commands_never_overtake_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 64);
    let mut settled = Vec::new();
    for number in 0..50 {
        settled.push(flow.send(&number.to_string(), number, false).await);
    }
    for number in 0..50 {
        let order = flow.order().await;
        assert_eq!(text(&order), number.to_string());
        report(&order, Progress::Replied { data: b"ok".to_vec(), encoding: Encoding::Text });
    }
    for noted in settled {
        noted.await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_device_never_gathers_more_than_its_queue() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 2);
    for number in 0..3 {
        flow.send(&format!(r#"{{"id":"c-{number}","data":1}}"#), number, false).await.await.unwrap();
    }
    let refused = flow.last_reply().await;
    assert_eq!((refused.id.as_str(), refused.stage), ("c-2", Stage::Refused));
    report(&flow.order().await, Progress::Done);
    assert_eq!(flow.last_reply().await.id, "c-0");
    // It was not begun, so it is not known either.
    flow.send(r#"{"id":"c-2","data":1}"#, 9, false).await.await.unwrap();
    assert_eq!(flow.reply().await.stage, Stage::Received);
}

#[tokio::test]
async fn a_stop_never_loses_what_is_under_way_nor_takes_in_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 4);
    flow.send(r#"{"id":"c-1","data":1}"#, 1, false).await.await.unwrap();
    let order = flow.order().await;
    flow.stop.send_replace(true);
    let closed = flow.requests.take().unwrap();
    timeout(DEADLINE, closed.closed()).await.expect("no more is taken in");
    assert!(!flow.task.is_finished());
    // The device gives it up, as when it is stopped.
    drop(order);
    let reply = flow.last_reply().await;
    assert_eq!((reply.id.as_str(), reply.stage), ("c-1", Stage::Failed));
    timeout(DEADLINE, flow.task).await.expect("an end in time").unwrap();
}

#[tokio::test]
async fn a_damaged_journal_never_costs_more_than_what_is_damaged_nor_goes_unannounced() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 4);
    for number in 0..3 {
        flow.send(&format!(r#"{{"id":"c-{number}","data":1}}"#), number, false).await.await.unwrap();
        report(&flow.order().await, Progress::Done);
        assert_eq!(flow.last_reply().await.stage, Stage::Written);
    }
    flow.kill().await;
    let path = dir.path().join("commands/ids");
    let mut bytes = std::fs::read(&path).unwrap();
    let place = bytes.windows(3).position(|window| window == b"c-1").unwrap();
    bytes[place] ^= 0x55;
    std::fs::write(&path, bytes).unwrap();
    let mut flow = Flow::start(dir.path(), 4);
    let event = timeout(DEADLINE, flow.records.recv()).await.expect("an event in time").unwrap();
    let event: serde_json::Value = serde_json::from_slice(&event.records[0].data).unwrap();
    assert_eq!(event["type"], "command-journal", "{event}");
    for number in [0, 2] {
        flow.send(&format!(r#"{{"id":"c-{number}","data":1}}"#), number, false).await.await.unwrap();
        assert!(flow.last_reply().await.repeated, "c-{number}");
    }
    assert_eq!(flow.counts.borrow().begun, 0);
}

#[tokio::test]
async fn a_device_that_comes_or_goes_never_costs_the_others_their_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut flow = Flow::start(dir.path(), 4);
    let payload = r#"{"id":"c-1","data":"open"}"#;
    flow.send(payload, 1, false).await.await.unwrap();
    report(&flow.order().await, Progress::Done);
    let reply = flow.last_reply().await;
    let roster = flow.known.send_replace(Roster::from([]));
    flow.send(r#"{"id":"c-2","data":"open"}"#, 2, false).await.await.unwrap();
    let refused = flow.last_reply().await;
    assert_eq!((refused.stage, refused.reason.unwrap()), (Stage::Refused, "there is no device \"meter\"".to_owned()));
    flow.known.send_replace(roster);
    flow.send(payload, 3, true).await.await.unwrap();
    assert_eq!(flow.reply().await, Reply { repeated: true, ..reply });
}
