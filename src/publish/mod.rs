//! The publish flow: from the spool to the broker, and back comes what may be trimmed.
//!
//! The only place that knows both. The spool pushes batches of waiting records (`queue`); each record, or several that travel
//! together (`parcel`), those of more urgent streams first, gets a packet id in the in-flight window and goes out with QoS 1;
//! its PUBACK moves the stream's trim line, which is reported to the spool. When a connection ends, window and queue are forgotten and the spool is rewound: it alone knows
//! what is not acknowledged.
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

mod about;
mod exchange;
mod parcel;
mod poison;
mod queue;
mod refuse;
mod refused;
mod timers;

use crate::backoff::Backoff;
use crate::config::{Mqtt, Stream};
use crate::inflight::Window;
use crate::mqtt::tls::Setup;
use crate::mqtt::{About, Connection, LinkError, Message, Purpose, Session};
use crate::pulse::Pulse;
use crate::record::{Announcement, Clock, Retained};
use crate::spool::Batch;
use crate::spool::thread::{Closed, Handle};
use crate::stats::{LinkState, LinkStatus};
use parcel::Deflater;
use poison::Poison;
use queue::Queue;
use refused::Refused;
use std::collections::VecDeque;
use std::time::Duration;
use timers::Timers;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

/// Delays between tries, once every server has been tried.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// What the publisher is connected to inside pillion.
pub struct Wiring {
    /// Where acknowledgements go.
    pub spool: Handle,
    /// Where records come from.
    pub batches: mpsc::Receiver<Batch>,
    /// Messages that the broker keeps; the first of them is the birth.
    pub retained: watch::Receiver<Vec<Retained>>,
    /// What others shall find at the broker.
    pub announcements: Announcements,
    /// Where the link's state is shown. Receivers are woken by a change of state only, not by counters.
    pub status: watch::Sender<LinkStatus>,
    /// Time stamps for the status.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: return, in this way.
    pub leave: watch::Receiver<Option<Leave>>,
}

/// How the flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// pillion stops: what waits is delivered, until this instant at the latest; then the good-bye.
    Stop(Instant),
    /// The flow begins anew with another configuration, see [`Publisher::renewed`]: nothing more is sent, and what is on the
    /// wire is acknowledged, until this instant at the latest.
    Renew(Instant, Link),
}

/// What becomes of a connection that the flow leaves to begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The next flow goes on with it.
    Keep,
    /// It ends without a word: the next one is with the same broker, and nobody shall see pillion go.
    Replace,
    /// It ends with the good-bye, as on a stop: the next one may be with another broker.
    Move,
}

impl Leave {
    fn deadline(self) -> Instant {
        match self {
            Leave::Stop(at) | Leave::Renew(at, _) => at,
        }
    }
}

/// Messages for others: sent on each connection, for a broker may have forgotten them. What is cleared need not be cleared
/// twice.
#[derive(Debug, Default)]
pub struct Announcements {
    /// In this order, after the retained messages.
    pub messages: Vec<Announcement>,
    /// Told when a broker has acknowledged all of them.
    pub delivered: Option<oneshot::Sender<()>>,
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
    #[error("what was on the wire was not acknowledged in time when the configuration changed")]
    LeftBehind,
    #[error(transparent)]
    Spool(#[from] Closed),
}

/// The publish flow.
pub struct Publisher {
    mqtt: Mqtt,
    streams: Vec<Stream>,
    session: Session,
    tls: Setup,
    stopped: String,
    wiring: Wiring,
    backoff: Backoff,
    /// Index into `mqtt.servers` of the next one to be tried.
    server: usize,
    window: Window,
    /// What of the window the present broker allows.
    most_in_flight: u16,
    /// What the present broker has allowed or asked for.
    keep_alive: Duration,
    refused: Refused,
    poison: Poison,
    /// The topic of the message that was sent last, while one is sent at a time.
    latest_topic: String,
    /// What waits for room in the window.
    queue: Queue,
    deflater: Deflater,
    outbox: VecDeque<Message>,
    /// The retained messages as this connection has seen them.
    said: Vec<Message>,
    /// A connection that the flow before this one has left, with nothing on the wire.
    kept: Option<Connection>,
    epoch: u64,
    /// For each stream: the highest number that was ever sent, and the trim line that the spool doesn't know yet.
    highest: Vec<u64>,
    trim: Vec<Option<u64>>,
    /// Cost of the records let go of since the last grant, in bytes.
    spent: usize,
    timers: Timers,
}

impl Publisher {
    /// `streams` are in the order of their ids; `password` is what `mqtt.password_file` holds.
    pub fn new(mqtt: Mqtt, streams: Vec<Stream>, password: Option<String>, farewell: Farewell, wiring: Wiring) -> Self {
        let topic = format!("{}/{STATUS_TOPIC}", mqtt.topic_prefix);
        let will = Message { topic, payload: farewell.will.into_bytes(), retain: true, about: About::json() };
        let session = Session {
            version: mqtt.version,
            client_id: mqtt.client_id.clone(),
            credentials: mqtt.username.clone().map(|name| (name, password.unwrap_or_default())),
            keep_alive: mqtt.keep_alive,
            max_payload: mqtt.max_payload,
            purpose: Purpose::Publish { will },
        };
        Publisher {
            window: Window::new(mqtt.inflight, streams.len()),
            most_in_flight: mqtt.inflight,
            keep_alive: mqtt.keep_alive,
            refused: Refused::new(),
            poison: Poison::default(),
            latest_topic: String::new(),
            highest: vec![0; streams.len()],
            trim: vec![None; streams.len()],
            tls: Setup::new(mqtt.tls.clone(), wiring.clock),
            mqtt,
            queue: Queue::new(&streams),
            deflater: Deflater::default(),
            streams,
            session,
            stopped: farewell.stopped,
            wiring,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            server: 0,
            outbox: VecDeque::new(),
            said: Vec::new(),
            kept: None,
            epoch: 0,
            spent: 0,
            timers: Timers::new(),
        }
    }

    /// The flow that goes on behind this one, which has returned, with another configuration.
    pub fn renewed(
        self,
        mqtt: Mqtt,
        streams: Vec<Stream>,
        password: Option<String>,
        farewell: Farewell,
        announcements: Announcements,
    ) -> Self {
        let server = if self.kept.is_some() { self.server } else { 0 };
        let wiring = Wiring { announcements, ..self.wiring };
        let fresh = Publisher::new(mqtt, streams, password, farewell, wiring);
        // Batches of earlier epochs may still come, and what was sent once stays sent.
        let Publisher { kept, said, refused, epoch, highest, .. } = self;
        Publisher { server, kept, said, refused, epoch, highest, ..fresh }
    }

    /// Runs until `leave` says so, or the spool is gone; then the flow may be renewed.
    pub async fn run(mut self) -> Self {
        // A change that is waited for later is one that comes after this look.
        while self.wiring.leave.borrow_and_update().is_none() {
            let lost = match self.kept.take() {
                Some(connection) => self.go_on(connection).await,
                None => {
                    // Connecting: one server after the other, without a pause until all have been tried.
                    let Some(opened) = self.connect().await else { return self };
                    match opened {
                        Ok(connection) => self.session(connection).await,
                        Err(error) => Err(Lost::Link(error)),
                    }
                }
            };
            let lost = match lost {
                Ok(()) | Err(Lost::Spool(_)) => return self,
                Err(lost) => lost,
            };
            // Disconnected: wait, unless there is another server to try in this round.
            self.disconnected(&lost);
            if self.server == 0 && !self.pause().await {
                return self;
            }
        }
        self
    }

    fn disconnected(&mut self, lost: &Lost) {
        let server = self.mqtt.servers.get(self.server).map(ToString::to_string);
        let reason = lost.to_string();
        let since_ms = (self.wiring.clock)().wall_ms;
        let tls = match lost {
            Lost::Link(LinkError::Tls(error)) => Some(error.kind()),
            _ => None,
        };
        let timed_out = u64::from(matches!(lost, Lost::AckTimeout));
        self.wiring.status.send_if_modified(|status| {
            let lost = status.state == LinkState::Connected;
            let changed = lost || status.reason.as_ref() != Some(&reason);
            if changed {
                let name = server.as_deref().unwrap_or("a broker");
                tracing::warn!(server, reason, "not connected to {name}: {reason}");
            }
            if lost {
                status.since_ms = since_ms;
            }
            status.state = LinkState::Disconnected;
            status.server = server;
            status.reason = Some(reason);
            status.in_flight = 0;
            status.ack_timeouts += timed_out;
            if let Some(kind) = tls {
                *status.tls_failures.entry(kind.to_owned()).or_default() += 1;
            }
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
                _ = self.wiring.leave.changed() => return false,
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
        let mut connect = Box::pin(Connection::open(server, &self.session, &mut self.tls));
        loop {
            tokio::select! {
                opened = &mut connect => return Some(opened),
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.leave.changed() => return None,
            }
        }
    }
}
