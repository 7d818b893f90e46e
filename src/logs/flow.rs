//! The flow itself: judges lines, fills batches, and sends them off.
//!
//! What becomes of a batch is in `outbox`, how far the flow has come in `bookmark`.

use super::batch::{self, Batch};
use super::bookmark::{Bookmark, Unsaved};
use super::limit::{Limit, Suppressed, Verdict};
use super::outbox::{Outbox, Parcel, Poster, Sent, answer_all, record};
use super::recorder::Recorder;
use super::tail::{News, Tail};
use super::{Settings, Wiring};
use crate::app::journal::{Cursor, Entry};
use crate::logline::{LogLine, Posted, PostedCounts, RecentRequest};
use crate::record::rfc3339;
use crate::stats::{LogsState, LogsStatus};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Lines of this priority and more severe ones bring out the flight recorder: syslog(3) `err`.
const ERROR: u8 = 3;
/// At most this often.
const RECORDER_EVERY: Duration = Duration::from_secs(30);
/// A post waits this long for others: somebody waits for the answer.
const POST_WINDOW: Duration = Duration::from_millis(100);
/// How long whoever asks for the latest lines waits for them. systemd's stop waits with him. The tests' journalctl
/// takes seconds to start on a machine that runs all of them.
const CATCH_UP: Duration = Duration::from_millis(if cfg!(test) { 20_000 } else { 1500 });
/// What an application has said before its end is in the journal after this long.
const SETTLE: Duration = Duration::from_millis(100);

pub struct Flow {
    settings: Settings,
    changes: watch::Receiver<Settings>,
    wiring: Wiring,
    shown: LogsStatus,
    tail: Tail,
    /// Whether it is known where the last process stood.
    is_taken_up: bool,
    recorder: Recorder,
    /// By the clock of the journal, and by ours for what is posted.
    limits: (Limit, Limit),
    room: usize,
    batch: Batch,
    /// When the batch goes, if there is one.
    due: Option<Instant>,
    /// The last line of the journal that the batch is about.
    upto: Option<Cursor>,
    suppressed: Suppressed,
    posters: Vec<Poster>,
    /// The flight recorder goes with the batch.
    error: bool,
    recorder_at: Option<Instant>,
    outbox: Outbox,
    bookmark: Bookmark,
}

impl Flow {
    pub fn new(mut changes: watch::Receiver<Settings>, wiring: Wiring) -> Self {
        let settings = changes.borrow_and_update().clone();
        let room = batch::room(settings.max_payload, settings.unit.as_deref());
        Flow {
            tail: Tail::new(None, None),
            is_taken_up: false,
            recorder: Recorder::new(settings.recorder),
            limits: limits(&settings),
            room,
            batch: Batch::new("lines", room),
            due: None,
            upto: None,
            suppressed: Suppressed::default(),
            posters: Vec::new(),
            error: false,
            recorder_at: None,
            outbox: Outbox::new(wiring.submissions.clone()),
            bookmark: Bookmark::new(&settings),
            shown: LogsStatus::default(),
            settings,
            changes,
            wiring,
        }
    }

    /// Runs until it has to stop. Returns what is to be saved when the spool has been closed.
    pub async fn run(mut self) -> Option<Unsaved> {
        self.take_up().await;
        loop {
            let is_open = self.outbox.is_free();
            let due = self.next_due();
            tokio::select! {
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return self.finish().await,
                Ok(()) = self.changes.changed() => self.change().await,
                Some(reply) = self.wiring.recent.recv() => self.answer(reply).await,
                Some(posted) = self.wiring.posts.recv(), if is_open => self.take_posted(posted),
                news = self.tail.next(), if is_open => self.take(news).await,
                () = at(due) => {}
            }
            self.do_what_is_due().await;
            self.show();
        }
    }

    /// Goes on where the last process stood.
    async fn take_up(&mut self) {
        if self.settings.journal.is_none() {
            return;
        }
        // The spool answers when it is up; its thread has a pulse of its own.
        let left = (&mut self.wiring.newest).await.ok();
        self.bookmark.take_up(left);
        self.tail = Tail::new(self.settings.journal.clone(), self.bookmark.position());
        self.is_taken_up = true;
        self.turn(LogsState::Starting, None);
        self.show();
    }

    /// Goes on by other settings. What came under the old ones goes out by them, unless the stream has no room for it.
    async fn change(&mut self) {
        if self.outbox.is_free() {
            self.flush().await;
        }
        let settings = self.changes.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.settings, settings);
        let Settings { level, rate, recorder, journal, .. } = &self.settings;
        if (before.level, before.rate) != (*level, *rate) {
            self.limits = limits(&self.settings);
        }
        if before.recorder != *recorder {
            self.recorder.resize(*recorder);
            self.bookmark.resize(*recorder);
        }
        match (before.journal.is_some(), journal.is_some()) {
            (false, true) if !self.is_taken_up => self.take_up().await,
            (false, true) => {
                self.tail.follow(journal.clone());
                self.turn(LogsState::Starting, None);
            }
            (true, false) => {
                self.tail.follow(None);
                self.turn(LogsState::Off, None);
            }
            _ => {}
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let due = self.due.filter(|_| self.outbox.is_free());
        [due, self.outbox.retry_at(), self.bookmark.save_at()].into_iter().flatten().min()
    }

    async fn do_what_is_due(&mut self) {
        if let Some(sent) = self.outbox.retry(&mut self.bookmark).await {
            self.count(sent);
        }
        let ready = self.batch.is_full() || self.error || self.due.is_some_and(|due| due <= Instant::now());
        if self.outbox.is_free() && ready {
            self.flush().await;
        }
        if self.bookmark.save().await {
            self.shown.saved_ms = Some((self.wiring.clock)().wall_ms);
        }
    }

    async fn take(&mut self, news: News) {
        match news {
            News::Started => {
                if self.shown.state == LogsState::Off {
                    self.turn(LogsState::Starting, None);
                }
            }
            News::Works => self.turn(LogsState::Following, None),
            News::Place(cursor) => self.bookmark.begin_with(cursor),
            News::Entry(entry) => self.take_entry(*entry),
            News::Gap(last, entry) => {
                self.tell_gap(&last, &entry).await;
                self.take_entry(*entry);
            }
            News::Rubbish(what) => {
                self.shown.rubbish += 1;
                tracing::debug!("passed over what journalctl has written: {what}");
            }
            News::Broken(why) => {
                self.shown.failures += 1;
                if self.shown.reason.as_ref() != Some(&why) {
                    tracing::warn!("the application's log can't be read: {why}");
                }
                self.turn(LogsState::Failed, Some(why));
            }
        }
    }

    fn take_entry(&mut self, Entry { cursor, wall_us, line }: Entry) {
        self.shown.read += 1;
        self.shown.last_ms = cursor.wall_us().map(|us| us / 1000);
        self.turn(LogsState::Following, None);
        if self.bookmark.position().is_none() {
            // So that a process that is killed now does not make the next one begin elsewhere.
            self.bookmark.begin_with(cursor.clone());
        }
        let verdict = self.limits.0.judge(line.priority, wall_us);
        let bytes = self.judge(line, verdict, Some(&cursor));
        if verdict != Verdict::BelowLevel || self.error {
            self.upto = Some(cursor);
        } else if self.upto.is_none() {
            self.bookmark.pass(&cursor, bytes);
        }
    }

    fn take_posted(&mut self, Posted { lines, reply }: Posted) {
        let now_us = (self.wiring.clock)().wall_ms.saturating_mul(1000);
        let mut counts = PostedCounts::default();
        for line in lines {
            self.shown.posted += 1;
            counts.accepted += 1;
            let verdict = self.limits.1.judge(line.priority, now_us);
            match verdict {
                Verdict::Ship => counts.shipped += 1,
                Verdict::BelowLevel => counts.below_level += 1,
                Verdict::Suppress => counts.suppressed += 1,
            }
            self.judge(line, verdict, None);
        }
        if counts.accepted == counts.below_level && !self.error {
            // Who asked may have gone.
            let _ = reply.send(Ok(counts));
            return;
        }
        self.posters.push((reply, counts));
        let soon = Instant::now() + POST_WINDOW;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Puts a line where it belongs. Returns its size as JSON.
    fn judge(&mut self, line: LogLine, verdict: Verdict, cursor: Option<&Cursor>) -> usize {
        let priority = line.priority;
        let was_cut = line.truncated;
        let (json, cut) = batch::encode(line, self.room);
        self.shown.truncated += u64::from(cut || was_cut);
        match verdict {
            Verdict::Ship => {
                self.shown.shipped += 1;
                self.batch.push(&json, cursor);
            }
            Verdict::BelowLevel => self.shown.below_level += 1,
            Verdict::Suppress => {
                self.shown.suppressed += 1;
                self.suppressed.count(priority);
            }
        }
        if verdict != Verdict::BelowLevel {
            self.due.get_or_insert_with(|| Instant::now() + batch::WINDOW);
        }
        self.recorder.push(&json, verdict == Verdict::Ship);
        let rested = self.recorder_at.is_none_or(|at| at.elapsed() >= RECORDER_EVERY);
        self.error |= priority <= ERROR && rested;
        json.len()
    }

    /// Sends the batch off: after an error the flight recorder, then the lines, then how many were suppressed.
    async fn flush(&mut self) {
        self.due = None;
        let mut parts = Vec::new();
        if std::mem::take(&mut self.error) {
            let mut recorder = Batch::new("recorder", self.room);
            let lines = self.recorder.ship();
            self.shown.recorder += u64::try_from(lines.len()).unwrap_or(0);
            lines.into_iter().for_each(|line| recorder.push(line, None));
            self.recorder_at = Some(Instant::now());
            parts = recorder.take();
        }
        if self.suppressed.total() > 0 {
            let now_us = (self.wiring.clock)().wall_ms.saturating_mul(1000);
            let (json, _) = batch::encode(self.suppressed.summary(self.settings.rate, now_us), self.room);
            self.batch.push(&json, None);
            self.suppressed = Suppressed::default();
        }
        parts.extend(self.batch.take());
        let posters = std::mem::take(&mut self.posters);
        if parts.is_empty() {
            // An error that is not shipped, and no flight recorder.
            if let Some(cursor) = self.upto.take() {
                self.bookmark.pass(&cursor, 0);
            }
            return answer_all(posters, &Ok(()));
        }
        let (number, cursor) = (self.bookmark.next_batch(), self.upto.take());
        let unit = self.settings.unit.as_deref();
        let data = batch::encode_all(parts, unit, number, self.bookmark.cursor(), cursor.as_ref());
        let time = (self.wiring.clock)();
        let records = data.into_iter().map(|data| record(data, time)).collect();
        let parcel = Parcel { records, batch: number, cursor, posters, since: Instant::now() };
        let sent = self.outbox.send(parcel, &mut self.bookmark).await;
        self.count(sent);
    }

    fn count(&mut self, sent: Sent) {
        match sent {
            Sent::Accepted { records, late } => {
                self.shown.records += records;
                if late {
                    self.tail.restart();
                }
            }
            Sent::InDoubt { records } => self.shown.records += records,
            Sent::Held | Sent::Refused => {}
        }
    }

    /// Reads what the application has logged until now, and hands out the flight recorder.
    async fn answer(&mut self, reply: RecentRequest) {
        if self.tail.is_on() && self.outbox.is_free() {
            let deadline = Instant::now() + CATCH_UP;
            sleep(SETTLE).await;
            // The follower goes first: what it holds is read again.
            self.tail.restart();
            let Some(reading) = self.tail.catch_up() else { return };
            match reading {
                Ok(mut reading) => {
                    // A step is never given up half-way, only the wait for one.
                    while let Ok(Ok(step)) = timeout_at(deadline, reading.next()).await
                        && let Some(news) = self.tail.caught(step)
                    {
                        self.take(news).await;
                        self.do_what_is_due().await;
                        if !self.outbox.is_free() || Instant::now() >= deadline {
                            break;
                        }
                    }
                }
                Err(error) => tracing::warn!("the application's last lines can't be read: {error}"),
            }
        }
        let _ = reply.send(self.recorder.lines());
    }

    /// What is not read by now is read by the next process; what is in the batch goes out.
    async fn finish(mut self) -> Option<Unsaved> {
        if self.outbox.is_free() {
            self.flush().await;
        }
        self.show();
        self.bookmark.close()
    }

    /// Tells that the journal has forgotten where we were.
    async fn tell_gap(&mut self, last: &Cursor, next: &Entry) {
        self.shown.gaps += 1;
        let from = last.wall_us().map(|us| rfc3339(us / 1000));
        let detail = format!(
            "the journal does not have the line any more that was read last ({}); lines of the unit before {}, if there were \
             any, are lost",
            last.id(),
            next.line.ts
        );
        tracing::warn!("{detail}");
        let event = json!({
            "type": "logs-gap", "unit": self.settings.unit, "from": from, "to": next.line.ts,
            "last": last.id(), "next": next.line.id, "detail": detail,
        });
        self.outbox.tell(&event, (self.wiring.clock)()).await;
    }

    fn turn(&mut self, state: LogsState, reason: Option<String>) {
        if self.shown.state != state || self.shown.reason != reason {
            self.shown.since_ms = (self.wiring.clock)().wall_ms;
            (self.shown.state, self.shown.reason) = (state, reason);
        }
    }

    /// Counters are there to be looked at; only a change of state wakes those who watch.
    fn show(&mut self) {
        self.shown.note_error = self.bookmark.error().cloned();
        self.wiring.status.send_if_modified(|shown| {
            let essence = |status: &LogsStatus| (status.state, status.reason.clone(), status.note_error.clone());
            let changed = essence(shown) != essence(&self.shown);
            shown.clone_from(&self.shown);
            changed
        });
    }
}

/// For the journal's lines, and for those that are posted.
fn limits(settings: &Settings) -> (Limit, Limit) {
    let limit = || Limit::new(settings.level, settings.rate);
    (limit(), limit())
}

/// Waits for an instant, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
