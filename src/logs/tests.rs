//! The whole flow, with a journalctl of the tests' own (`tests/common/journalctl.py`) and an ingest flow that accepts or
//! refuses, and writes notes as the spool does.

use super::*;
use crate::app::journal::Journal;
use crate::disk::{Disk, replace_volatile};
use crate::logline::{LogLine, PostedCounts};
use crate::pulse::Heart;
use crate::record::{Accepted, ClockQuality, Encoding, Note, Record, Refusal, Sequenced, StreamId, Timestamp};
use crate::stats::LogsState;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(30);

/// The place of a line in the tests' journal.
fn cursor(number: u64) -> String {
    format!("s=0123456789abcdef;i={number:x};b=b;m={number:x};t={number:x};x={number:x}")
}

/// What is done to the next submissions.
type Verdicts = mpsc::UnboundedSender<Option<Refusal>>;

struct Rig {
    folder: TempDir,
    settings: Settings,
    changes: watch::Sender<Settings>,
    next: u64,
    flow: Option<JoinHandle<Option<Unsaved>>>,
    /// What is accepted is not answered.
    silent: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    recent: mpsc::Sender<RecentRequest>,
    posts: mpsc::Sender<Posted>,
    status: watch::Receiver<LogsStatus>,
    records: mpsc::UnboundedReceiver<(StreamId, Record)>,
    refuse: Verdicts,
    /// Records of lines so far.
    seen: Vec<Value>,
    events: Vec<Value>,
    _heart: Heart,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Settings)) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        for name in ["journal", "run", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let program = folder.path().join("journalctl");
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/journalctl.py");
        std::os::unix::fs::symlink(stand_in, &program).unwrap();
        let mut settings = Settings {
            unit: Some("gw.service".into()),
            journal: Some(Journal { program, ..Journal::of("gw.service".into()) }),
            level: 6,
            rate: 0,
            recorder: 64 * 1024,
            max_payload: 256 * 1024,
            runtime_dir: folder.path().join("run"),
            state_dir: folder.path().join("state"),
            boot_id: "this boot".into(),
        };
        change(&mut settings);
        Rig {
            folder,
            changes: watch::channel(settings.clone()).0,
            settings,
            next: 1,
            flow: None,
            silent: Arc::default(),
            stop: watch::channel(false).0,
            recent: mpsc::channel(1).0,
            posts: mpsc::channel(1).0,
            status: watch::channel(LogsStatus::default()).1,
            records: mpsc::unbounded_channel().1,
            refuse: mpsc::unbounded_channel().0,
            seen: Vec::new(),
            events: Vec::new(),
            _heart: Heart::default(),
        }
    }

    /// A line of another unit.
    fn log_other(&mut self) {
        let line = json!({ "__CURSOR": cursor(self.next), "MESSAGE": "other", "_SYSTEMD_UNIT": "other.service" });
        self.next += 1;
        fs::write(self.folder.path().join("journal/001"), format!("{line}\n")).unwrap();
    }

    /// Logs messages with a priority.
    fn log(&mut self, priority: u8, messages: &[&str]) {
        let name = fs::read_dir(self.folder.path().join("journal")).unwrap().count().max(1);
        let path = self.folder.path().join(format!("journal/{name:03}"));
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        let mut text = String::new();
        for message in messages {
            let line = json!({ "__CURSOR": cursor(self.next), "MESSAGE": message, "PRIORITY": priority.to_string(),
                "__REALTIME_TIMESTAMP": (1_795_000_000_000_000 + self.next).to_string() });
            text += &format!("{line}\n");
            self.next += 1;
        }
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rotate(&self) {
        let name = fs::read_dir(self.folder.path().join("journal")).unwrap().count() + 1;
        fs::write(self.folder.path().join(format!("journal/{name:03}")), "").unwrap();
    }

    fn fault(&self, text: &str) {
        fs::write(self.folder.path().join("fault"), text).unwrap();
    }

    /// Starts the flow; `newest` is what waits in the spool.
    fn start(&mut self, newest: Option<&Value>) {
        let (stop, stopped) = watch::channel(false);
        let (recent, asked) = mpsc::channel(REQUESTS);
        let (posts, posted) = mpsc::channel(POSTS);
        let (status, shown) = watch::channel(LogsStatus::default());
        let (submissions, mut submitted) = mpsc::channel::<Submission>(4);
        let (tell, records) = mpsc::unbounded_channel();
        let (refuse, mut refusals) = mpsc::unbounded_channel::<Option<Refusal>>();
        let silent = Arc::clone(&self.silent);
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(Submission { stream, records, note, reply, .. }) = submitted.recv().await {
                let refusal = refusals.try_recv().ok().flatten();
                if let (None, Some(Note { file, content, safe, .. })) = (&refusal, note) {
                    replace_volatile(&Disk, &file, &content).unwrap();
                    let _ = safe.send(());
                }
                if refusal.is_none() {
                    records.into_iter().for_each(|record| tell.send((stream, record)).unwrap_or_default());
                }
                if silent.load(Ordering::SeqCst) {
                    unanswered.push(reply);
                    continue;
                }
                let _ = reply.unwrap().send(refusal.map_or(Ok(Accepted { first: 1, last: 1 }), Err));
            }
        });
        let (answer, newest_of) = oneshot::channel();
        let time = Timestamp { wall_ms: 1, mono_ms: 1, quality: ClockQuality::Trusted };
        let record = |data: &Value| Record {
            topic: TOPIC.into(),
            time,
            encoding: Encoding::Json,
            data: data.to_string().into(),
        };
        let record = newest.map(|data| Sequenced { seq: 1, record: record(data) });
        answer.send(Newest { record, safe: oneshot::channel().1 }).unwrap();
        let heart = Heart::default();
        let wiring = Wiring {
            recent: asked,
            posts: posted,
            submissions,
            newest: newest_of,
            status,
            clock: crate::host::now,
            pulse: heart.pulse("logs"),
            stop: stopped,
        };
        let (changes, settings) = watch::channel(self.settings.clone());
        self.flow = Some(tokio::spawn(run(settings, wiring)));
        self.changes = changes;
        (self.stop, self.recent, self.posts, self.status) = (stop, recent, posts, shown);
        (self.records, self.refuse, self._heart) = (records, refuse, heart);
    }

    /// As the daemon does: what is unsaved is saved when the spool has been closed.
    async fn stop(&mut self) {
        self.stop.send_replace(true);
        let unsaved = timeout(SOON, self.flow.take().unwrap()).await.expect("it stops").unwrap();
        self.take();
        unsaved.map_or(Ok(()), |unsaved| unsaved.save()).unwrap();
    }

    /// As `kill -9` does.
    async fn kill(&mut self) {
        let flow = self.flow.take().unwrap();
        flow.abort();
        let _ = flow.await;
        self.take();
    }

    fn take(&mut self) {
        while let Ok((stream, record)) = self.records.try_recv() {
            let data = serde_json::from_slice(&record.data).unwrap();
            match stream {
                StreamId::EVENT => self.events.push(data),
                _ => self.seen.push(data),
            }
        }
    }

    fn messages_in(&self, kind: &str) -> Vec<String> {
        let lines = self.seen.iter().filter_map(|record| record[kind].as_array()).flatten();
        lines.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until these lines have been shipped, and fails when others have.
    async fn expect(&mut self, kind: &str, expected: &[&str]) {
        let deadline = Instant::now() + SOON;
        loop {
            self.take();
            let messages = self.messages_in(kind);
            if messages.len() >= expected.len() {
                assert_eq!(messages, expected, "{kind}");
                return;
            }
            assert!(Instant::now() < deadline, "{kind}: {messages:?}, {:?}", self.status.borrow());
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn expect_status(&self, right: impl FnMut(&LogsStatus) -> bool) -> LogsStatus {
        let mut right = right;
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status.borrow().clone();
            if right(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn recent(&self) -> Vec<String> {
        let (reply, answer) = oneshot::channel();
        self.recent.send(reply).await.unwrap();
        let lines = timeout(SOON, answer).await.unwrap().unwrap();
        lines.into_iter().map(|line| line.message).collect()
    }

    async fn post(&self, lines: &[(u8, &str)]) -> oneshot::Receiver<Result<PostedCounts, Refusal>> {
        let line = |(priority, message): &(u8, &str)| LogLine::plain("t".into(), *priority, (*message).to_owned());
        let (reply, answer) = oneshot::channel();
        self.posts.send(Posted { lines: lines.iter().map(line).collect(), reply }).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_line_is_never_lost_doubled_or_out_of_order_over_stops_rotations_and_kills() {
    let mut rig = Rig::new(|_| {});
    rig.log(6, &["a", "b"]);
    rig.start(None);
    rig.expect("lines", &["a", "b"]).await;
    rig.log(6, &["c"]);
    rig.rotate();
    rig.log(6, &["d"]);
    rig.stop().await;
    // Of c and d each came, or is still to come.
    rig.log(6, &["e"]);
    rig.rotate();
    rig.log(6, &["f"]);
    rig.start(None);
    rig.expect("lines", &["a", "b", "c", "d", "e", "f"]).await;
    rig.log(6, &["g"]);
    rig.expect("lines", &["a", "b", "c", "d", "e", "f", "g"]).await;
    rig.expect_status(|status| status.state == LogsState::Following).await;
    rig.kill().await;
    rig.log(6, &["h"]);
    rig.start(None);
    rig.expect("lines", &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    let batches: Vec<u64> = rig.seen.iter().map(|record| record["batch"].as_u64().unwrap()).collect();
    assert!(batches.windows(2).all(|pair| pair[0] < pair[1]), "{batches:?}");
    assert!(rig.events.is_empty(), "{:?}", rig.events);
}

#[tokio::test]
async fn a_batch_that_was_accepted_before_a_kill_is_never_shipped_again() {
    let mut rig = Rig::new(|_| {});
    rig.log(6, &["a", "b", "c"]);
    rig.start(None);
    rig.expect("lines", &["a", "b", "c"]).await;
    rig.stop().await;
    // The note of that batch never came to be, and the batch waits in the spool.
    let batch = rig.seen[0].clone();
    let older = json!({ "batch": 0, "cursor": cursor(1), "read": false });
    for folder in ["run", "state"] {
        fs::write(rig.folder.path().join(folder).join("log-position"), older.to_string()).unwrap();
    }
    rig.start(Some(&batch));
    rig.log(6, &["d"]);
    rig.expect("lines", &["a", "b", "c", "d"]).await;
    assert!(rig.seen[1]["batch"].as_u64() > batch["batch"].as_u64());
    // After a power cut that took both, the lines come again, under the same ids.
    rig.kill().await;
    fs::remove_file(rig.folder.path().join("run/log-position")).unwrap();
    fs::write(rig.folder.path().join("state/log-position"), older.to_string()).unwrap();
    rig.seen.clear();
    rig.start(None);
    rig.expect("lines", &["a", "b", "c", "d"]).await;
    assert_eq!(rig.seen[0]["lines"][0]["id"], batch["lines"][0]["id"]);
}

#[tokio::test]
async fn a_batch_that_is_gone_from_the_spool_before_a_kill_is_never_shipped_again() {
    let mut rig = Rig::new(|_| {});
    rig.start(None);
    rig.log(6, &["a"]);
    rig.expect("lines", &["a"]).await;
    // The broker has it, the spool is done with it, and the flow never heard that it was accepted.
    rig.silent.store(true, Ordering::SeqCst);
    rig.log(6, &["b", "c"]);
    rig.expect("lines", &["a", "b", "c"]).await;
    rig.kill().await;
    rig.silent.store(false, Ordering::SeqCst);
    rig.log(6, &["d"]);
    rig.start(None);
    rig.expect("lines", &["a", "b", "c", "d"]).await;
    let batches: Vec<u64> = rig.seen.iter().map(|record| record["batch"].as_u64().unwrap()).collect();
    assert!(batches.windows(2).all(|pair| pair[0] < pair[1]), "{batches:?}");
}

#[tokio::test]
async fn an_error_always_brings_what_came_before_it_and_once_only() {
    let mut rig = Rig::new(|_| {});
    rig.start(None);
    rig.log(7, &["d1", "d2"]);
    rig.log(6, &["info"]);
    rig.log(7, &["d3"]);
    rig.log(3, &["failed"]);
    rig.expect("recorder", &["d1", "d2", "d3"]).await;
    rig.expect("lines", &["info", "failed"]).await;
    rig.log(7, &["d4"]);
    rig.log(2, &["failed again"]);
    rig.expect("lines", &["info", "failed", "failed again"]).await;
    rig.expect("recorder", &["d1", "d2", "d3"]).await;
    assert_eq!(rig.recent().await, ["d1", "d2", "info", "d3", "failed", "d4", "failed again"]);
    let status = rig.status.borrow().clone();
    assert_eq!((status.read, status.shipped, status.below_level, status.recorder), (7, 3, 4, 3));
    // A restart does not bring what was shipped from the recorder once more.
    rig.kill().await;
    rig.start(None);
    rig.log(6, &["on"]);
    rig.expect("lines", &["info", "failed", "failed again", "on"]).await;
    rig.expect("recorder", &["d1", "d2", "d3"]).await;
}

#[tokio::test]
async fn whoever_asks_for_the_last_lines_never_misses_the_very_last_one() {
    let mut rig = Rig::new(|_| {});
    rig.log(7, &["old"]);
    rig.start(None);
    rig.expect_status(|status| status.read == 1).await;
    for round in 0..5 {
        let last = format!("last {round}");
        rig.log(7, &[&last]);
        assert_eq!(rig.recent().await.last(), Some(&last));
    }
    rig.log(6, &["after"]);
    rig.expect("lines", &["after"]).await;
    assert_eq!(rig.recent().await.len(), 7, "and none twice");
    // Without a journal that can be read it is what there is.
    rig.fault("forbidden");
    assert_eq!(rig.recent().await.len(), 7);
}

#[tokio::test]
async fn a_flood_is_never_shipped_and_never_hidden() {
    let mut rig = Rig::new(|settings| settings.rate = 1);
    let flood: Vec<String> = (0..100).map(|number| format!("f{number}")).collect();
    rig.log(6, &flood.iter().map(String::as_str).collect::<Vec<_>>());
    rig.start(None);
    let mut expected: Vec<&str> = flood.iter().take(30).map(String::as_str).collect();
    expected.push("70 lines were not shipped, for there were more than log_rate = 1 per second: 70 info");
    rig.expect("lines", &expected).await;
    let summary = &rig.seen.last().unwrap()["lines"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&summary["priority"], &summary["fields"]), (&json!(4), &json!({ "suppressed": { "info": 70 } })));
    assert_eq!(rig.recent().await.len(), 100, "the flight recorder has them");
    rig.kill().await;
    rig.seen.clear();
    rig.start(None);
    rig.log(6, &["next"]);
    rig.expect("lines", &["next"]).await;
}

#[tokio::test]
async fn a_full_stream_never_costs_a_line() {
    let mut rig = Rig::new(|_| {});
    rig.start(None);
    (0..2).for_each(|_| rig.refuse.send(Some(Refusal::Full)).unwrap());
    rig.log(6, &["a"]);
    sleep(Duration::from_millis(1200)).await;
    rig.log(6, &["b"]);
    rig.expect("lines", &["a", "b"]).await;
    // What may be delivered though the disk refused it is not handed over again.
    rig.refuse.send(Some(Refusal::NotDurable("no space".into()))).unwrap();
    rig.log(6, &["c"]);
    rig.expect_status(|status| status.shipped == 3 && status.read == 3).await;
    sleep(Duration::from_millis(1200)).await;
    rig.log(6, &["d"]);
    rig.expect("lines", &["a", "b", "d"]).await;
}

#[tokio::test]
async fn lines_behind_a_batch_that_no_disk_took_never_hide_it_from_the_next_process() {
    let mut rig = Rig::new(|settings| settings.recorder = 64);
    rig.log(6, &["a"]);
    rig.start(None);
    rig.expect("lines", &["a"]).await;
    rig.refuse.send(Some(Refusal::NotDurable("no space".into()))).unwrap();
    rig.log(6, &["b"]);
    rig.expect_status(|status| status.records == 2).await;
    // These fill the flight recorder many times over.
    rig.log(7, &["debug"; 20]);
    rig.expect_status(|status| status.read == 22).await;
    rig.kill().await;
    rig.start(None);
    rig.expect("lines", &["a", "b"]).await;
}

#[tokio::test]
async fn a_journal_that_forgot_lines_is_always_told_of() {
    let mut rig = Rig::new(|_| {});
    rig.log(6, &["a", "b"]);
    rig.start(None);
    rig.expect("lines", &["a", "b"]).await;
    rig.stop().await;
    rig.log(6, &["lost"]);
    rig.rotate();
    rig.log(6, &["c"]);
    fs::remove_file(rig.folder.path().join("journal/001")).unwrap();
    fs::rename(rig.folder.path().join("journal/002"), rig.folder.path().join("journal/001")).unwrap();
    rig.start(None);
    rig.expect("lines", &["a", "b", "c"]).await;
    let [event] = rig.events.as_slice() else { panic!("{:?}", rig.events) };
    assert_eq!((&event["type"], &event["unit"]), (&json!("logs-gap"), &json!("gw.service")));
    assert_eq!((&event["last"], &event["next"]), (&json!("01234567:2"), &json!("01234567:4")));
    assert_eq!(rig.status.borrow().gaps, 1);
}

#[tokio::test]
async fn a_journalctl_that_fails_is_never_tried_in_a_loop_and_never_costs_a_line() {
    let mut rig = Rig::new(|_| {});
    rig.fault("forbidden");
    rig.log(6, &["a"]);
    rig.start(None);
    let status = rig.expect_status(|status| status.state == LogsState::Failed).await;
    assert!(status.reason.unwrap().contains("group systemd-journal"));
    sleep(Duration::from_secs(1)).await;
    assert!(rig.status.borrow().failures <= 3);
    // It dies after each other line; each death costs a pause of half a second at least.
    rig.fault("die 3");
    rig.log(6, &["b", "c", "d", "e"]);
    rig.expect("lines", &["a", "b", "c", "d", "e"]).await;
    rig.fault("rubbish");
    rig.kill().await;
    rig.start(None);
    rig.log(6, &["f", "g", "h", "i", "j", "k"]);
    rig.expect("lines", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]).await;
    assert!(rig.status.borrow().rubbish >= 1);
}

#[tokio::test]
async fn a_new_installation_never_ships_years_of_logs() {
    let mut rig = Rig::new(|_| {});
    let old: Vec<String> = (0..1500).map(|number| format!("{number}")).collect();
    let old: Vec<&str> = old.iter().map(String::as_str).collect();
    rig.log(6, &old);
    rig.start(None);
    rig.expect("lines", &old[500..]).await;
    assert!(rig.seen.len() <= 3, "{} records", rig.seen.len());
}

#[tokio::test]
async fn a_unit_that_logs_nothing_at_first_never_loses_what_it_logs_later() {
    let mut rig = Rig::new(|_| {});
    rig.log_other();
    rig.start(None);
    let position = rig.folder.path().join("run/log-position");
    while !position.exists() {
        sleep(Duration::from_millis(5)).await;
    }
    rig.stop().await;
    let lines: Vec<String> = (0..1500).map(|number| format!("{number}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    rig.log(6, &lines);
    fs::remove_file(position).unwrap();
    rig.start(None);
    rig.expect("lines", &lines).await;
    assert!(rig.events.is_empty(), "{:?}", rig.events);
}

#[tokio::test]
async fn a_change_of_the_settings_never_costs_nor_doubles_a_line() {
    let mut rig = Rig::new(|_| {});
    let journal = rig.settings.journal.clone();
    // Off at first, as if it had been so for long.
    rig.settings.journal = None;
    rig.log(6, &["a"]);
    rig.start(None);
    assert_eq!(rig.post(&[(6, "posted")]).await.await.unwrap().unwrap().shipped, 1);
    rig.changes.send_modify(|settings| settings.journal.clone_from(&journal));
    rig.log(7, &["b"]);
    rig.expect("lines", &["posted", "a"]).await;
    rig.expect_status(|status| status.below_level == 1).await;
    rig.changes.send_modify(|settings| settings.level = 7);
    rig.log(7, &["c"]);
    rig.expect("lines", &["posted", "a", "c"]).await;
    for round in 0..3 {
        // Of what was logged just now each line came, or comes when it is on again.
        rig.log(6, &[&format!("d{round}")]);
        rig.changes.send_modify(|settings| settings.journal = None);
        rig.expect_status(|status| status.state == LogsState::Off).await;
        rig.log(6, &[&format!("e{round}")]);
        rig.changes.send_modify(|settings| settings.journal.clone_from(&journal));
        rig.expect_status(|status| status.state == LogsState::Following).await;
    }
    rig.expect("lines", &["posted", "a", "c", "d0", "e0", "d1", "e1", "d2", "e2"]).await;
    assert_eq!(rig.recent().await, ["posted", "a", "b", "c", "d0", "e0", "d1", "e1", "d2", "e2"], "none twice");
    rig.changes.send_modify(|settings| settings.recorder = 0);
    rig.stop().await;
    // It is off over a restart, too: what comes meanwhile is not lost.
    rig.settings.journal = None;
    rig.start(None);
    rig.log(6, &["f"]);
    rig.changes.send_modify(|settings| settings.journal.clone_from(&journal));
    rig.expect("lines", &["posted", "a", "c", "d0", "e0", "d1", "e1", "d2", "e2", "f"]).await;
    assert!(rig.events.is_empty(), "{:?}", rig.events);
}

#[tokio::test]
async fn what_is_posted_is_never_confirmed_before_it_is_safe() {
    let mut rig = Rig::new(|settings| settings.journal = None);
    rig.start(None);
    let counts = rig.post(&[(6, "a"), (7, "b"), (4, "c")]).await.await.unwrap().unwrap();
    assert_eq!(counts, PostedCounts { accepted: 3, shipped: 2, below_level: 1, suppressed: 0 });
    rig.take();
    assert_eq!(rig.messages_in("lines"), ["a", "c"]);
    let below = rig.post(&[(7, "d")]).await.await.unwrap().unwrap();
    assert_eq!((below.accepted, below.shipped), (1, 0));
    assert_eq!(rig.recent().await, ["a", "b", "c", "d"]);
    rig.refuse.send(Some(Refusal::NotDurable("no space".into()))).unwrap();
    assert!(rig.post(&[(6, "e")]).await.await.unwrap().is_err());
    // More than a record takes.
    let many = vec![(6, "x".repeat(1000)); 300];
    let many: Vec<(u8, &str)> = many.iter().map(|(priority, text)| (*priority, text.as_str())).collect();
    assert_eq!(rig.post(&many).await.await.unwrap().unwrap().shipped, 300);
    rig.take();
    assert_eq!(rig.messages_in("lines").len(), 302);
    assert!(rig.seen.iter().all(|record| record["lines"].to_string().len() <= 64 * 1024 + 2));
    assert!(rig.seen.iter().all(|record| record.get("cursor").is_none() && record["unit"] == "gw.service"));
    assert_eq!((rig.status.borrow().state, rig.status.borrow().posted), (LogsState::Off, 305));
    rig.stop().await;
}
