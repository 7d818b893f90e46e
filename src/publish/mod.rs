//! The publish flow: from the spool to the broker, and back comes what may be trimmed.
//!
//! The only place that knows both. The spool pushes batches of waiting records (`queue`); each record, or several that
//! travel together (`parcel`), those of more urgent streams first, gets a packet id in the in-flight window and goes out
//! with QoS 1 (`send`); its PUBACK moves the stream's trim line, which is reported to the spool (`exchange`). When a
//! connection ends, window and queue are forgotten and the spool is rewound: it alone knows what is not acknowledged. So is a
//! single stream of which the broker refuses a message for now (`refused`). A message that it never takes, and one that ends the
//! connection whenever it is sent (`poison`), is discarded in the spool, which counts and tells it (`refuse`).
//!
//! States of the link (see [`LinkState`](crate::stats::LinkState)):
//!
//! ```text
//!            back-off over               CONNACK
//! Disconnected ────────> Connecting ───────────────> Connected ── stop ──> Draining ── all acknowledged,
//!      ^                     │ failed                    │ lost    or move    │          or the deadline
//!      └─────────────────────┴───────────────────────────┴────────────────────┘
//! ```
//!
//! Which server is next, and when, is the business of [`crate::mqtt::failover`]; [`crate::mqtt::dial`] does it. When a
//! better server is well again, nothing more is sent, what is in flight is waited for, and the connection ends without
//! a word on `P/status`: so neither the Last Will nor anything else says "offline", and the birth comes on the next
//! connection.
//!
//! Constraints: no more is held here than the spool's credit; at rest nothing wakes this task but the keep-alive.

mod about;
mod exchange;
mod gate;
mod pacing;
mod parcel;
mod poison;
mod queue;
mod refuse;
mod refused;
mod send;
mod shown;
pub mod sparkplug;
mod timers;

use crate::config::{Mqtt, Server, Stream};
use crate::congestion::Congestion;
use crate::inflight::{Sent, Window};
use crate::mqtt::dial::{Dialer, News};
use crate::mqtt::{About, Connection, LinkError, Message, Purpose, Session};
use crate::network::Network;
use crate::outage::Outage;
use crate::pulse::Pulse;
use crate::record::{Announcement, Clock, Retained};
use crate::spool::Batch;
use crate::spool::thread::{Closed, Handle};
use crate::stats::{ConfigurationStatus, LinkStatus};
use exchange::Leaving;
use gate::Gate;
use parcel::Deflater;
use poison::Poison;
use queue::Queue;
use refused::Refused;
use shown::Failure;
use std::collections::VecDeque;
use std::path::PathBuf;
use timers::Timers;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

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
    /// Of streams with that convention.
    pub sparkplug: Option<sparkplug::Sparkplug>,
    /// Where the link's state is shown. Receivers are woken by a change of state only, not by counters.
    pub status: watch::Sender<LinkStatus>,
    /// Hints that the network has changed.
    pub network: Network,
    /// Where the use of `mqtt.budget` is kept.
    pub state_dir: PathBuf,
    /// Time stamps for the status, and when a period or quiet hours end.
    pub clock: Clock,
    /// Changes when the configuration was read again, whatever came of it: who asks for that may have mended the broker's.
    pub reloads: watch::Receiver<ConfigurationStatus>,
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

/// What becomes of a connection that the flow leaves to begin anew. Of two reloads the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// The next flow goes on with it.
    Keep,
    /// It ends without a word: the next one is with the same broker, which lets us in, and nobody shall see pillion go.
    Replace,
    /// It ends with the good-bye, as on a stop: the next one may be with another broker, or never come.
    Move,
}

impl Leave {
    fn deadline(self) -> Instant {
        match self {
            Leave::Stop(at) | Leave::Renew(at, _) => at,
        }
    }
}

/// Messages for others: sent on each connection, for a broker may have forgotten them. What is cleared need not be
/// cleared twice.
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
    #[error("no answer to a ping within half of mqtt.keep_alive")]
    KeepAlive,
    #[error("what was on the wire was not acknowledged in time when the configuration changed")]
    LeftBehind,
    #[error("the address that it was made from has gone from this machine, and the broker does not answer")]
    Uprooted,
    #[error(transparent)]
    Spool(#[from] Closed),
}

/// The publish flow.
pub struct Publisher {
    mqtt: Mqtt,
    streams: Vec<Stream>,
    session: Session,
    stopped: String,
    wiring: Wiring,
    dialer: Dialer,
    outage: Outage,
    window: Window,
    /// How much of the window the present link bears.
    congestion: Congestion,
    refused: Refused,
    poison: Poison,
    /// What waits for room in the window.
    queue: Queue,
    deflater: Deflater,
    gate: Gate,
    /// The streams that the spool was told to hold, a bit for each id; `None`: it may be any.
    told: Option<u64>,
    /// The file of the budget is being written.
    keeping: Option<JoinHandle<()>>,
    /// Goes before the queue.
    outbox: VecDeque<(Message, Sent)>,
    /// The retained messages as this connection has seen them.
    said: Vec<Message>,
    /// A connection that the flow before this one has left, with nothing on the wire.
    kept: Option<Connection>,
    /// Counts what the spool was asked to read again.
    epoch: u64,
    /// When all was read again for the last time, and for each stream, when that was.
    rewound: u64,
    epochs: Vec<u64>,
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
        let file = mqtt.budget.and_then(|_| pacing::load(&wiring.state_dir));
        let gate = Gate::new(mqtt.budget, &streams, file.as_deref(), (wiring.clock)());
        Publisher {
            window: Window::new(mqtt.inflight, streams.len()),
            congestion: Congestion::new(mqtt.inflight, 0),
            refused: Refused::default(),
            poison: Poison::default(),
            rewound: 0,
            epochs: vec![0; streams.len()],
            highest: vec![0; streams.len()],
            trim: vec![None; streams.len()],
            dialer: Dialer::new(&mqtt, wiring.clock, wiring.network.clone(), None),
            outage: Outage::default(),
            mqtt,
            queue: Queue::new(&streams),
            deflater: Deflater::default(),
            gate,
            told: None,
            keeping: None,
            streams,
            session,
            stopped: farewell.stopped,
            wiring,
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
        let wiring = Wiring { announcements, ..self.wiring };
        let mut fresh = Publisher::new(mqtt, streams, password, farewell, wiring);
        fresh.gate.follow(&self.gate);
        // Batches of earlier epochs may still come, and what was sent once stays sent.
        let Publisher { dialer, kept, said, refused, mut poison, epoch, mut highest, timers, .. } = self;
        poison.lift();
        // There may be more streams now.
        highest.resize(fresh.streams.len(), 0);
        match kept {
            None => Publisher { epoch, highest, ..fresh },
            // Another broker may take what this one does not.
            kept @ Some(_) => Publisher { dialer, kept, said, refused, poison, epoch, highest, timers, ..fresh },
        }
    }

    /// Runs until `leave` says so, or the spool is gone; then the flow may be renewed.
    pub async fn run(mut self) -> Self {
        self.run_on().await;
        self.keep_budget_at_last().await;
        self
    }

    async fn run_on(&mut self) {
        if self.kept.is_none() {
            self.show_servers();
        }
        // A change that is waited for later is one that comes after this look. Who has a connection leaves that as he was told.
        while self.wiring.leave.borrow_and_update().is_none() || self.kept.is_some() {
            let ended = match self.kept.take() {
                Some(connection) => {
                    self.dialer.go_on();
                    self.go_on(connection).await
                }
                None => {
                    // Disconnected and Connecting: one server after the other, with pauses between the rounds.
                    let Wiring { status, clock, pulse, leave, sparkplug, .. } = &mut self.wiring;
                    let (now_ms, outage) = (|| clock().wall_ms, &mut self.outage);
                    let tell = |server: &Server, place, news: News<'_>| match news {
                        News::Trying(session) => {
                            if let Some(sparkplug) = sparkplug {
                                session.purpose = Purpose::Publish { will: sparkplug.will() };
                            }
                            shown::trying(status, server, place, now_ms());
                        }
                        News::Failed(error) => {
                            shown::failed(status, outage, (server, place), &Failure::of_link(error), now_ms());
                        }
                    };
                    let dialled = self.dialer.dial(&mut self.session, pulse, leave, tell).await;
                    let Some(connection) = dialled else { return };
                    self.session(connection).await
                }
            };
            match ended {
                Ok(Leaving::Told(_)) | Err(Lost::Spool(_)) => return,
                Ok(Leaving::Better { to, .. }) => {
                    self.show_left();
                    self.dialer.moved(to);
                }
                Err(lost) => {
                    self.show_lost(&lost);
                    self.dialer.lost();
                    if let Lost::Link(LinkError::Redirected { to: Some(to), .. }) = lost {
                        self.dialer.redirected(to);
                    }
                }
            }
        }
    }
}
