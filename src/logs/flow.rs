//! The flow itself: judges lines, fills batches, hands them over and notes how far it came.

use super::batch::{self, Batch, Numbered};
use super::limit::{Limit, Suppressed, Verdict};
use super::position::{Marks, Position};
use super::recorder::Recorder;
use super::tail::{News, Tail};
use super::{Settings, TOPIC, Wiring};
use crate::app::journal::{Cursor, Entry};
use crate::backoff::Backoff;
use crate::logline::{LogLine, Posted, PostedCounts, RecentRequest, rfc3339_us};
use crate::record::{Durability, Encoding, Record, Refusal, StreamId, Submission, rfc3339};
use crate::stats::{LogsState, LogsStatus};
use serde_json::{Map, json};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// Lines of this priority and more severe ones bring out the flight recorder: syslog(3) `err`.
const ERROR: u8 = 3;
/// At most this often.
const RECORDER_EVERY: Duration = Duration::from_secs(30);
/// A post waits this long for others: somebody waits for the answer.
const POST_WINDOW: Duration = Duration::from_millis(100);
/// How long whoever asks for the latest lines waits for them. systemd's stop waits with him.
const CATCH_UP: Duration = Duration::from_millis(1500);
/// What an application has said before its end is in the journal after this long.
const SETTLE: Duration = Duration::from_millis(100);
/// Flash gets the position at most this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// How long that may take; if it takes longer, it is done later.
const SAVE_TIME: Duration = Duration::from_secs(1);
/// Between tries to hand over what the stream has refused, since it is full.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After this long without a read journalctl is started again: the journal may have lost meanwhile what it held for us.
const STALE: Duration = Duration::from_secs(5);

/// Where the answer to a post goes, and what it is if all goes well.
type Poster = (oneshot::Sender<Result<PostedCounts, Refusal>>, PostedCounts);

/// Records on their way, and what holds when they are accepted.
struct Parcel {
    records: Vec<Record>,
    batch: u64,
    cursor: Option<Cursor>,
    posters: Vec<Poster>,
}

/// A parcel that the stream has refused.
struct Held {
    parcel: Parcel,
    since: Instant,
    retry_at: Instant,
}

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
    held: Option<Held>,
    retry: Backoff,
    position: Option<Position>,
    batches: u64,
    marks: Marks,
    saved: Option<Position>,
    saved_at: Instant,
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
            batch: Batch::new(room),
            due: None,
            upto: None,
            suppressed: Suppressed::default(),
            posters: Vec::new(),
            error: false,
            recorder_at: None,
            held: None,
            retry: Backoff::new(REFUSED.0, REFUSED.1),
            position: None,
            batches: 0,
            marks: Marks::new(settings.recorder),
            saved: None,
            saved_at: Instant::now(),
            shown: LogsStatus::default(),
            settings,
            changes,
            wiring,
        }
    }

    pub async fn run(mut self) {
        self.take_up().await;
        loop {
            let is_open = self.held.is_none();
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

    /// Finds out where the last process stood.
    async fn take_up(&mut self) {
        if self.settings.journal.is_none() {
            return;
        }
        // The spool answers when it is up; its thread has a pulse of its own.
        let newest = (&mut self.wiring.newest).await.ok().flatten();
        let waiting = newest.and_then(|newest| Position::decode(&newest.record.data));
        let runtime = Position::load(&self.settings.runtime_dir);
        let flash = Position::load(&self.settings.state_dir);
        self.saved.clone_from(&flash);
        self.position = Position::latest(runtime, flash, waiting);
        self.batches = self.position.as_ref().map_or(0, |position| position.batch);
        self.tail = Tail::new(self.settings.journal.clone(), self.position.as_ref());
        self.is_taken_up = true;
        self.turn(LogsState::Starting, None);
        self.show();
    }

    /// Goes on by other settings. What came under the old ones goes out by them, unless the stream has no room for it.
    async fn change(&mut self) {
        if self.held.is_none() {
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
            self.marks = Marks::new(*recorder);
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
        let held = self.held.as_ref().map(|held| held.retry_at);
        let save = (self.saved != self.position).then(|| self.saved_at + SAVE_EVERY);
        [self.due.filter(|_| held.is_none()), held, save].into_iter().flatten().min()
    }

    async fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if self.held.as_ref().is_some_and(|held| held.retry_at <= now)
            && let Some(Held { parcel, since, .. }) = self.held.take()
        {
            self.send(parcel, since).await;
        }
        let ready = self.batch.is_full() || self.error || self.due.is_some_and(|due| due <= now);
        if self.held.is_none() && ready {
            self.flush().await;
        }
        if self.saved != self.position && now >= self.saved_at + SAVE_EVERY {
            self.save().await;
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
            News::Place(cursor) => {
                self.position = Some(Position { batch: self.batches, cursor, read: false });
                self.note();
            }
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
        if self.position.is_none() {
            // So that a process that is killed now does not make the next one begin elsewhere.
            self.position = Some(Position { batch: 0, cursor: cursor.clone(), read: false });
            self.note();
        }
        let verdict = self.limits.0.judge(line.priority, wall_us);
        let bytes = self.judge(line, verdict);
        if verdict == Verdict::BelowLevel && !self.error {
            if self.upto.is_none()
                && let Some(cursor) = self.marks.pass(&cursor, bytes)
            {
                self.position = Some(Position { batch: self.batches, cursor, read: true });
                self.note();
            }
        } else {
            self.upto = Some(cursor);
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
            self.judge(line, verdict);
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
    fn judge(&mut self, line: LogLine, verdict: Verdict) -> usize {
        let priority = line.priority;
        let was_cut = line.truncated;
        let (json, cut) = batch::encode(line, self.room);
        self.shown.truncated += u64::from(cut || was_cut);
        match verdict {
            Verdict::Ship => {
                self.shown.shipped += 1;
                self.batch.push(&json);
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

    /// Hands the batch over, with what was suppressed, and the flight recorder after an error.
    async fn flush(&mut self) {
        self.due = None;
        if self.suppressed.total() > 0 {
            let (json, _) = batch::encode(self.summary(), self.room);
            self.batch.push(&json);
            self.suppressed = Suppressed::default();
        }
        let mut recorder = Batch::new(self.room);
        if std::mem::take(&mut self.error) {
            let lines = self.recorder.ship();
            self.shown.recorder += u64::try_from(lines.len()).unwrap_or(0);
            lines.into_iter().for_each(|line| recorder.push(line));
            self.recorder_at = Some(Instant::now());
        }
        let batch = self.batches + 1;
        let cursor = self.upto.take();
        let reached = cursor.clone().map(|cursor| Position { batch, cursor, read: true });
        let position = reached.as_ref().or(self.position.as_ref().filter(|position| position.read));
        let place = Numbered { batch, position };
        let unit = self.settings.unit.as_deref();
        let mut data = self.batch.take("lines", unit, &place);
        data.extend(recorder.take("recorder", unit, &place));
        let posters = std::mem::take(&mut self.posters);
        if data.is_empty() {
            answer_all(posters, &Ok(()));
            return;
        }
        let time = (self.wiring.clock)();
        let record = |data| Record { topic: TOPIC.to_owned(), time, encoding: Encoding::Json, data };
        let records = data.into_iter().map(record).collect();
        self.batches = batch;
        self.send(Parcel { records, batch, cursor, posters }, Instant::now()).await;
    }

    /// Hands a parcel over and waits until it would survive a kill. One that the stream has no room for is held.
    async fn send(&mut self, parcel: Parcel, since: Instant) {
        let records = parcel.records.clone();
        let answer = self.submit(StreamId::LOG, records).await;
        let count = u64::try_from(parcel.records.len()).unwrap_or(0);
        match answer {
            Ok(()) => {
                self.shown.records += count;
                self.accepted(parcel.batch, parcel.cursor);
                answer_all(parcel.posters, &Ok(()));
                if self.retry_was_needed(since) {
                    self.tail.restart();
                }
            }
            // It is in memory, and goes to the disk when that takes it: again it would come twice. No note says that it is safe.
            Err(refusal @ Refusal::NotDurable(_)) => {
                self.shown.records += count;
                answer_all(parcel.posters, &Err(refusal));
            }
            Err(Refusal::Full) => {
                let retry_at = Instant::now() + self.retry.next(fastrand::f64());
                self.held = Some(Held { parcel, since, retry_at });
            }
            // The lines stay in the journal.
            Err(refusal @ Refusal::Stopping) => answer_all(parcel.posters, &Err(refusal)),
        }
    }

    /// Whether nothing was read for so long that the journal may have lost what journalctl holds for us.
    fn retry_was_needed(&mut self, since: Instant) -> bool {
        self.retry.reset();
        since.elapsed() >= STALE
    }

    async fn submit(&self, stream: StreamId, records: Vec<Record>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let submission = Submission { stream, records, durability: Durability::Process, reply: Some(reply) };
        self.wiring.submissions.send(submission).await.map_err(|_| Refusal::Stopping)?;
        answer.await.unwrap_or(Err(Refusal::Stopping)).map(|_| ())
    }

    fn accepted(&mut self, batch: u64, cursor: Option<Cursor>) {
        match (cursor, &mut self.position) {
            (Some(cursor), position) => *position = Some(Position { batch, cursor, read: true }),
            (None, Some(position)) => position.batch = batch,
            (None, None) => return,
        }
        self.marks.clear();
        self.note();
    }

    /// Notes the position where a kill leaves it.
    fn note(&mut self) {
        let Some(position) = &self.position else { return };
        self.shown.note_error = position
            .note(&self.settings.runtime_dir)
            .err()
            .map(|error| format!("{}: {error}", self.settings.runtime_dir.join(super::position::FILE_NAME).display()));
    }

    /// Notes the position where a power cut leaves it.
    async fn save(&mut self) {
        self.saved_at = Instant::now();
        let Some(position) = self.position.clone() else { return };
        let (copy, folder) = (position.clone(), self.settings.state_dir.clone());
        let saving = tokio::task::spawn_blocking(move || copy.save(&folder));
        match timeout(SAVE_TIME, saving).await {
            Ok(Ok(Ok(()))) => {
                self.saved = Some(position);
                self.shown.saved_ms = Some((self.wiring.clock)().wall_ms);
            }
            Ok(Ok(Err(error))) => {
                let path = self.settings.state_dir.join(super::position::FILE_NAME);
                self.shown.note_error = Some(format!("{}: {error}", path.display()));
            }
            Ok(Err(_)) | Err(_) => tracing::warn!("the position in the journal could not be saved in time"),
        }
    }

    /// Reads what the application has logged until now, and hands out the flight recorder.
    async fn answer(&mut self, reply: RecentRequest) {
        if self.tail.is_on() && self.held.is_none() {
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
                        if self.held.is_some() || Instant::now() >= deadline {
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
    async fn finish(mut self) {
        if self.held.is_none() {
            self.flush().await;
        }
        if self.saved != self.position {
            self.save().await;
        }
        self.show();
    }

    /// A line of our own that says how many of the application's are missing.
    fn summary(&self) -> LogLine {
        let by_name: Vec<_> = self.suppressed.by_name().collect();
        let list: Vec<String> = by_name.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let message = format!(
            "{} lines were not shipped, for there were more than log_rate = {} per second: {}",
            self.suppressed.total(),
            self.settings.rate,
            list.join(", ")
        );
        let now_us = (self.wiring.clock)().wall_ms.saturating_mul(1000);
        let mut line = LogLine::plain(rfc3339_us(now_us), 4, message);
        line.identifier = Some("pillion".to_owned());
        let counts: Map<_, _> = by_name.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect();
        line.fields.insert("suppressed".to_owned(), counts.into());
        line
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
        let data = event.to_string().into_bytes();
        let time = (self.wiring.clock)();
        let record = Record { topic: "event".to_owned(), time, encoding: Encoding::Json, data };
        // A refusal is counted in that stream's ledger.
        let _ = self.submit(StreamId::EVENT, vec![record]).await;
    }

    fn turn(&mut self, state: LogsState, reason: Option<String>) {
        if self.shown.state != state || self.shown.reason != reason {
            self.shown.since_ms = (self.wiring.clock)().wall_ms;
            (self.shown.state, self.shown.reason) = (state, reason);
        }
    }

    /// Counters are there to be looked at; only a change of state wakes those who watch.
    fn show(&self) {
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

fn answer_all(posters: Vec<Poster>, outcome: &Result<(), Refusal>) {
    for (reply, counts) in posters {
        // Who asked may have gone.
        let _ = reply.send(outcome.clone().map(|()| counts));
    }
}

/// Waits for an instant, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
