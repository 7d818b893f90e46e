//! The publish flow: from the spool to the broker, and back comes what may be trimmed.
//!
//! The only place that knows both. The spool pushes batches of waiting records; each record gets a packet id in the
//! in-flight window and goes out with QoS 1; its PUBACK moves the stream's trim line, which is reported to the spool. When a
//! connection ends, window and queue are forgotten and the spool is rewound: it alone knows what is not acknowledged.
//!
//! States of the link (see [`LinkState`]):
//!
//! ```text
//!            back-off over               CONNACK
//! Disconnected ────────> Connecting ───────────────> Connected ── stop ──> Draining ── all acknowledged,
//!      ^                     │ failed                    │ lost               │          or the deadline
//!      └─────────────────────┴───────────────────────────┴────────────────────┘
//! ```
//!
//! Constraints: no more is held here than the spool's credit; at rest nothing wakes this task but the keep-alive.

use crate::backoff::Backoff;
use crate::config::Mqtt;
use crate::inflight::{Acknowledged, Sent, Window};
use crate::mqtt::{Connection, LinkError, Message, Received, Session};
use crate::pulse::Pulse;
use crate::record::{Clock, Retained, Sequenced, StreamId};
use crate::spool::Batch;
use crate::spool::thread::{CREDIT, Closed, Handle, cost};
use crate::stats::{LinkState, LinkStatus};
use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout, timeout_at};

/// Delays between tries, once every server has been tried.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Acknowledgements are reported to the spool together, this late at the latest.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How long a clean stop waits for the acknowledgement of its last message.
const GOODBYE: Duration = Duration::from_secs(1);
/// "Not armed": a time that no timer reaches.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the publisher is connected to inside pillion.
pub struct Wiring {
    /// Where acknowledgements go.
    pub spool: Handle,
    /// Where records come from.
    pub batches: mpsc::Receiver<Batch>,
    /// Messages that the broker keeps; the first of them is the birth.
    pub retained: watch::Receiver<Vec<Retained>>,
    /// Where the link's state is shown. Receivers are woken by a change of state only, not by counters.
    pub status: watch::Sender<LinkStatus>,
    /// Time stamps for the status.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: finish what waits, until this instant at the latest, then say good-bye and return.
    pub stop: watch::Receiver<Option<Instant>>,
}

/// What the publisher says of itself on `P/status`.
#[derive(Debug, Clone)]
pub struct Farewell {
    /// The Last Will.
    pub will: String,
    /// On a clean stop.
    pub stopped: String,
}

/// The topic of birth, Last Will and good-bye, below the prefix.
pub const STATUS_TOPIC: &str = "status";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no acknowledgement within mqtt.ack_timeout")]
    AckTimeout,
    #[error("no answer to a ping within mqtt.keep_alive")]
    KeepAlive,
    #[error(transparent)]
    Spool(#[from] Closed),
}

/// The publish flow.
pub struct Publisher {
    mqtt: Mqtt,
    streams: Vec<String>,
    session: Session,
    stopped: String,
    wiring: Wiring,
    backoff: Backoff,
    /// Index into `mqtt.servers` of the next one to be tried.
    server: usize,
    window: Window,
    queue: VecDeque<(StreamId, Sequenced)>,
    outbox: VecDeque<Message>,
    /// The retained messages as this connection has seen them.
    said: Vec<Message>,
    epoch: u64,
    /// For each stream: the highest number that was ever sent, and the trim line that the spool doesn't know yet.
    highest: Vec<u64>,
    trim: Vec<Option<u64>>,
    /// Cost of the records let go of since the last grant, in bytes.
    spent: usize,
    timers: Timers,
}

/// When something is due. Checked lazily: one timer is armed for the earliest and never moved to a later time.
struct Timers {
    alarm: Pin<Box<Sleep>>,
    keep_alive: Instant,
    ack_check: Instant,
    report: Instant,
    heard: bool,
}

impl Timers {
    fn new() -> Self {
        let far = Instant::now() + NEVER;
        Timers { alarm: Box::pin(sleep(NEVER)), keep_alive: far, ack_check: far, report: far, heard: false }
    }

    /// For a new connection.
    fn restart(&mut self, keep_alive: Duration) {
        let now = Instant::now();
        self.keep_alive = now + keep_alive;
        self.ack_check = now + NEVER;
        self.report = now + NEVER;
        self.heard = true;
        self.alarm.as_mut().reset(self.keep_alive);
    }

    fn arm(&mut self) {
        let earliest = self.keep_alive.min(self.ack_check).min(self.report);
        if earliest < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(earliest);
        }
    }
}

impl Publisher {
    /// `streams` are the names in the order of their ids; `password` is what `mqtt.password_file` holds.
    pub fn new(mqtt: Mqtt, streams: Vec<String>, password: Option<String>, farewell: Farewell, wiring: Wiring) -> Self {
        let topic = format!("{}/{STATUS_TOPIC}", mqtt.topic_prefix);
        let session = Session {
            client_id: mqtt.client_id.clone(),
            credentials: mqtt.username.clone().map(|name| (name, password.unwrap_or_default())),
            keep_alive: mqtt.keep_alive,
            max_payload: mqtt.max_payload,
            will: Message { topic, payload: farewell.will.into_bytes(), retain: true },
        };
        Publisher {
            window: Window::new(mqtt.inflight, streams.len()),
            highest: vec![0; streams.len()],
            trim: vec![None; streams.len()],
            mqtt,
            streams,
            session,
            stopped: farewell.stopped,
            wiring,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            server: 0,
            queue: VecDeque::new(),
            outbox: VecDeque::new(),
            said: Vec::new(),
            epoch: 0,
            spent: 0,
            timers: Timers::new(),
        }
    }

    /// Runs until `stop` says so, or the spool is gone.
    pub async fn run(mut self) {
        while self.wiring.stop.borrow().is_none() {
            // Connecting: one server after the other, without a pause until all have been tried.
            let Some(opened) = self.connect().await else { return };
            let lost = match opened {
                Ok(connection) => match self.session(connection).await {
                    Ok(()) => return,
                    Err(Lost::Spool(_)) => return,
                    Err(lost) => lost,
                },
                Err(error) => Lost::Link(error),
            };
            // Disconnected: wait, unless there is another server to try in this round.
            self.disconnected(&lost);
            if self.server == 0 && !self.pause().await {
                return;
            }
        }
    }

    fn disconnected(&mut self, lost: &Lost) {
        let server = self.mqtt.servers.get(self.server).map(ToString::to_string);
        let reason = lost.to_string();
        let since_ms = (self.wiring.clock)().wall_ms;
        let timed_out = u64::from(matches!(lost, Lost::AckTimeout));
        self.wiring.status.send_if_modified(|status| {
            let lost = status.state == LinkState::Connected;
            let changed = lost || status.reason.as_ref() != Some(&reason);
            if changed {
                tracing::warn!(server, reason, "not connected to the broker");
            }
            if lost {
                status.since_ms = since_ms;
            }
            status.state = LinkState::Disconnected;
            status.server = server;
            status.reason = Some(reason);
            status.in_flight = 0;
            status.ack_timeouts += timed_out;
            changed
        });
        self.server = (self.server + 1) % self.mqtt.servers.len().max(1);
    }

    /// Waits out the back-off. Returns false if it is time to stop.
    async fn pause(&mut self) -> bool {
        let mut pause = Box::pin(sleep(self.backoff.next(fastrand::f64())));
        loop {
            tokio::select! {
                () = &mut pause => return true,
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return false,
            }
        }
    }

    /// Tries the next server. `None`: it is time to stop.
    async fn connect(&mut self) -> Option<Result<Connection, LinkError>> {
        let server = self.mqtt.servers.get(self.server)?;
        self.wiring.status.send_if_modified(|status| {
            status.state = LinkState::Connecting;
            status.server = Some(server.to_string());
            false
        });
        let mut connect = Box::pin(Connection::open(server, &self.session));
        loop {
            tokio::select! {
                opened = &mut connect => return Some(opened),
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return None,
            }
        }
    }

    /// Connected, then Draining: returns `Ok` when everything is done and it is time to stop.
    async fn session(&mut self, mut connection: Connection) -> Result<(), Lost> {
        self.connected().await?;
        let ended = self.exchange(&mut connection).await;
        // What was acknowledged is reported in any case; the rest comes again after the rewind.
        self.report().await?;
        self.window.clear();
        self.queue.clear();
        self.outbox.clear();
        ended?;
        self.say_goodbye(connection).await;
        Ok(())
    }

    async fn connected(&mut self) -> Result<(), Lost> {
        self.epoch += 1;
        self.spent = 0;
        self.wiring.spool.rewind(self.epoch).await?;
        self.timers.restart(self.mqtt.keep_alive);
        self.outbox.clear();
        self.said.clear();
        self.refresh_retained();
        let since_ms = (self.wiring.clock)().wall_ms;
        self.wiring.status.send_modify(|status| {
            status.state = LinkState::Connected;
            status.reason = None;
            status.since_ms = since_ms;
            status.connects += 1;
            tracing::info!(server = status.server, "connected to the broker");
        });
        Ok(())
    }

    fn retained(&mut self) -> Vec<Message> {
        let prefix = &self.mqtt.topic_prefix;
        let message = |retained: &Retained| Message {
            topic: format!("{prefix}/{}", retained.topic),
            payload: retained.payload.clone().into_bytes(),
            retain: true,
        };
        self.wiring.retained.borrow_and_update().iter().map(message).collect()
    }

    /// Sends and receives until everything is delivered and `stop` is set, or its deadline has come.
    async fn exchange(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let mut deadline = *self.wiring.stop.borrow_and_update();
        // While draining: the spool was asked whether anything waits, and something did.
        let mut more_to_come = false;
        // The health flow, which keeps the retained messages, ends before this one.
        let mut kept_up = true;
        loop {
            let patience = self.mqtt.ack_timeout;
            timeout(patience, self.fill(connection)).await.map_err(|_| LinkError::Stalled)??;
            if deadline.is_some() && self.queue.is_empty() && self.window.in_flight() == 0 && !more_to_come {
                self.report().await?;
                let waiting: u64 = self.wiring.spool.report().await?.iter().map(|stream| stream.waiting).sum();
                if waiting == 0 {
                    return Ok(());
                }
                more_to_come = true;
            }
            self.timers.arm();
            let until = deadline.unwrap_or(self.timers.keep_alive + NEVER);
            tokio::select! {
                received = connection.receive() => self.receive_all(received, connection).await?,
                batch = self.wiring.batches.recv() => {
                    self.enqueue(batch.ok_or(Closed)?);
                    more_to_come = false;
                }
                () = &mut self.timers.alarm => self.alarm(connection).await?,
                changed = self.wiring.retained.changed(), if kept_up => {
                    kept_up = changed.is_ok();
                    self.refresh_retained();
                }
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed(), if deadline.is_none() => {
                    deadline = *self.wiring.stop.borrow_and_update();
                    // The devices have stopped by now, and subscribers shall know.
                    self.refresh_retained();
                    self.wiring.status.send_modify(|status| status.state = LinkState::Draining);
                }
                () = sleep_until(until), if deadline.is_some() => return Ok(()),
            }
        }
    }

    fn enqueue(&mut self, batch: Batch) {
        // Records of an earlier epoch will come again, or have come already.
        if batch.epoch == self.epoch {
            self.queue.extend(batch.records.into_iter().map(|record| (batch.stream, record)));
        }
    }

    /// Sends the retained messages that this connection has not seen yet.
    fn refresh_retained(&mut self) {
        let messages = self.retained();
        self.outbox.extend(messages.iter().filter(|message| !self.said.contains(message)).cloned());
        self.said = messages;
    }

    /// Sends what the window has room for, retained messages first.
    async fn fill(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let mut sent = false;
        let now_ms = self.now_ms();
        while self.window.has_room() {
            if let Some(message) = self.outbox.pop_front() {
                let Some(id) = self.window.send(Sent::Retained, now_ms) else { break };
                connection.publish(message, id).await?;
            } else if let Some((stream, record)) = self.queue.pop_front() {
                self.spent += cost(&record.record);
                self.send(connection, stream, record, now_ms).await?;
            } else {
                break;
            }
            sent = true;
        }
        if sent {
            connection.flush().await?;
            let check = Instant::now() + self.mqtt.ack_timeout;
            self.timers.ack_check = self.timers.ack_check.min(check);
        }
        if self.spent >= CREDIT / 2 {
            self.report().await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        connection: &mut Connection,
        stream: StreamId,
        record: Sequenced,
        now_ms: u64,
    ) -> Result<(), Lost> {
        let name = self.streams.get(stream.index()).map_or("", String::as_str);
        let payload = record.payload(name);
        if payload.len() > self.mqtt.max_payload {
            let detail = format!("{} bytes, mqtt.max_payload is {}", payload.len(), self.mqtt.max_payload);
            return Ok(self.wiring.spool.discard(stream, record.seq, detail).await?);
        }
        let Some(id) = self.window.send(Sent::Record { stream, seq: record.seq }, now_ms) else { return Ok(()) };
        if let Some(highest) = self.highest.get_mut(stream.index()) {
            if record.seq <= *highest {
                self.count(|status| status.repeated += 1);
            } else {
                *highest = record.seq;
            }
        }
        let topic = format!("{}/{}", self.mqtt.topic_prefix, record.record.topic);
        Ok(connection.publish(Message { topic, payload, retain: false }, id).await?)
    }

    /// Handles a packet, and all that are here already.
    async fn receive_all(
        &mut self,
        first: Result<Received, LinkError>,
        connection: &mut Connection,
    ) -> Result<(), Lost> {
        self.timers.heard = true;
        let mut next = Some(first);
        let mut acknowledged = 0;
        while let Some(received) = next {
            if let Received::Acknowledged(id) = received? {
                acknowledged += u64::from(self.acknowledge(id));
            }
            next = connection.receive_ready().await;
        }
        if acknowledged > 0 {
            self.backoff.reset();
            let report = Instant::now() + REPORT_EVERY;
            self.timers.report = self.timers.report.min(report);
        }
        let in_flight = u64::try_from(self.window.in_flight()).unwrap_or(u64::MAX);
        self.count(|status| {
            status.acknowledged += acknowledged;
            status.in_flight = in_flight;
        });
        Ok(())
    }

    /// Returns whether it was for a record.
    fn acknowledge(&mut self, id: u16) -> bool {
        match self.window.acknowledge(id) {
            Acknowledged::Trim { stream, upto } => {
                if let Some(trim) = self.trim.get_mut(stream.index()) {
                    *trim = Some(upto);
                }
                true
            }
            Acknowledged::OutOfTurn => true,
            Acknowledged::Retained => false,
            Acknowledged::Unsolicited => {
                self.count(|status| status.unsolicited_acks += 1);
                false
            }
        }
    }

    /// Tells the spool what may be trimmed and how much credit it has again.
    async fn report(&mut self) -> Result<(), Lost> {
        self.timers.report = Instant::now() + NEVER;
        let streams = (0..).map(StreamId);
        let upto: Vec<_> = streams.zip(&mut self.trim).filter_map(|(id, trim)| Some((id, trim.take()?))).collect();
        if !upto.is_empty() {
            self.wiring.spool.acknowledge(upto).await?;
        }
        if self.spent > 0 {
            self.wiring.spool.grant(std::mem::take(&mut self.spent)).await?;
        }
        Ok(())
    }

    /// Some timer is due.
    async fn alarm(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let now = Instant::now();
        if now >= self.timers.report {
            self.report().await?;
        }
        if now >= self.timers.ack_check {
            let waited = |since_ms| Duration::from_millis(self.now_ms().saturating_sub(since_ms));
            match self.window.oldest_ms().map(waited) {
                Some(waited) if waited >= self.mqtt.ack_timeout => return Err(Lost::AckTimeout),
                Some(waited) => self.timers.ack_check = now + (self.mqtt.ack_timeout - waited),
                None => self.timers.ack_check = now + NEVER,
            }
        }
        if now >= self.timers.keep_alive {
            if !std::mem::take(&mut self.timers.heard) {
                return Err(Lost::KeepAlive);
            }
            connection.ping().await?;
            connection.flush().await?;
            self.timers.keep_alive = now + self.mqtt.keep_alive;
        }
        Ok(())
    }

    /// The last words of a clean stop. What goes wrong here is what the Last Will is for.
    async fn say_goodbye(&mut self, mut connection: Connection) {
        let topic = format!("{}/{STATUS_TOPIC}", self.mqtt.topic_prefix);
        let message = Message { topic, payload: self.stopped.clone().into_bytes(), retain: true };
        let words = async {
            let id = self.window.send(Sent::Retained, 0).unwrap_or(1);
            connection.publish(message, id).await?;
            connection.flush().await?;
            while connection.receive().await? != Received::Acknowledged(id) {}
            connection.disconnect().await
        };
        match timeout_at(Instant::now() + GOODBYE, words).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not say good-bye to the broker"),
            Err(_) => tracing::warn!("the broker did not acknowledge the good-bye"),
        }
    }

    fn count(&self, change: impl FnOnce(&mut LinkStatus)) {
        self.wiring.status.send_if_modified(|status| {
            change(status);
            false
        });
    }

    fn now_ms(&self) -> u64 {
        (self.wiring.clock)().mono_ms
    }
}
