//! The listen flow: what the broker sends us, in a session of its own that the broker keeps while we are away: commands
//! for devices, also as Sparkplug has them, messages for the application, its configuration, and what other gateways say of themselves.
//!
//! Constraints: a message is acknowledged only when the flow that it is for says that it need not come again, in the
//! order in which they came (MQTT 3.1.1 section 4.6). Nothing is read while that flow is full: what waits then waits at
//! the broker. At rest nothing wakes this task but the keep-alive.
//!
//! States, as in the publish flow, with the subscriptions in the place of the records; `Connected` is when the broker
//! has answered all of them, and granted one:
//!
//! ```text
//!            back-off over               SUBACK
//! Disconnected ────────> Connecting ──────────────> Connected
//!      ^                     │ failed                   │ lost, or stop
//!      └─────────────────────┴──────────────────────────┘
//! ```
//!
//! It is at the server where the publish flow is, once that is connected, and moves there when that moves: see
//! [`crate::mqtt::dial`].
//!
//! A message that can't be taken off the wire (too large, or no MQTT) ends the connection, and the broker would send it
//! again on the next one, for ever. So when that happens twice in a row, the session is given up with everything in it,
//! which is counted and announced. If it happens again soon, such a message is retained, and comes with the
//! subscription: then one filter after the other is set aside, and tried again a day later.
//!
//! [`filters`] knows what is subscribed to and whom a message is for, [`waiting`] how old a command may be, [`alive`]
//! remembers what that takes over a restart, `exchange` is one connection, `talk` what is known of it.

pub mod alive;
mod exchange;
pub mod filters;
mod parcel;
mod talk;
pub mod waiting;

use crate::command::Request;
use crate::config::{Mqtt, Server};
use crate::inbound::{Delivered, Settings};
use crate::mqtt::dial::{Dialer, News};
use crate::mqtt::{Connection, LinkError, Message, Purpose, Session};
use crate::network::Network;
use crate::outage::Outage;
use crate::pulse::Pulse;
use crate::record::{Clock, Durability, Encoding, Record, StreamId, Submission};
use crate::sparkplug::Node;
use crate::stats::{LinkState, LinkStatus, SessionStatus};
use alive::Alive;
use filters::{Filters, Receiver};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

/// How long saying good-bye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Connections in a row that end in something unreadable before the session is given up.
const PATIENCE: u32 = 2;
/// A connection that lasts this long has brought whatever the broker keeps.
const SOUND: Duration = Duration::from_secs(60);
/// After this long filters that were set aside are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(86_400);

/// Whoever wants messages; nobody else's topics are subscribed to.
#[derive(Debug, Clone, Default)]
pub struct Outlets {
    /// The dispatch flow, if a device takes commands.
    pub devices: Option<mpsc::Sender<Request>>,
    /// The application's inbox.
    pub application: Option<mpsc::Sender<Delivered>>,
    /// The configuration store.
    pub settings: Option<mpsc::Sender<Settings>>,
    /// What other gateways say of themselves, and the filter of that.
    pub neighbours: Option<(String, mpsc::Sender<Delivered>)>,
    /// The node's commands of Sparkplug; those of its devices go to `devices`.
    pub sparkplug: Option<Sparkplug>,
}

/// The edge node in Sparkplug, and what it may be told.
#[derive(Debug, Clone)]
pub struct Sparkplug {
    /// Its topics.
    pub node: Node,
    /// Counts the requests for everything to be born again.
    pub rebirths: watch::Sender<u64>,
    /// What it says of pillion: the publishing connection has another Last Will.
    pub presence: Presence,
}

/// What is said on `P/status` by this connection.
#[derive(Debug, Clone)]
pub struct Presence {
    /// On each connection.
    pub birth: Message,
    /// The Last Will.
    pub will: Message,
    /// On a clean stop.
    pub stopped: Message,
}

impl Outlets {
    fn receivers(&self) -> Vec<Receiver> {
        let mut receivers = Vec::new();
        receivers.extend(self.devices.as_ref().map(|_| Receiver::Device));
        if self.sparkplug.is_some() {
            receivers.push(Receiver::Node);
            receivers.extend(self.devices.as_ref().map(|_| Receiver::NodeDevice));
        }
        receivers.extend(self.application.as_ref().map(|_| Receiver::Application));
        receivers.extend(self.settings.as_ref().map(|_| Receiver::Settings));
        receivers.extend(self.neighbours.as_ref().map(|_| Receiver::Neighbour));
        receivers
    }

    /// Whether anybody wants anything.
    pub fn are_needed(&self) -> bool {
        !self.receivers().is_empty()
    }
}

/// What the flow is connected to.
pub struct Wiring {
    /// To the flows that messages are for.
    pub outlets: Outlets,
    /// For events.
    pub submissions: mpsc::Sender<Submission>,
    /// Where the session's state is shown. Receivers are woken by a change of state only.
    pub status: watch::Sender<SessionStatus>,
    /// Where the connection for records stands: this one follows it to its server.
    pub link: watch::Receiver<LinkStatus>,
    /// Hints that the network has changed.
    pub network: Network,
    /// Time stamps.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: leave, and return.
    pub stop: watch::Receiver<bool>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the broker does not allow to subscribe to {0}; allow that in the broker's access control")]
    Denied(String),
    #[error("no answer to a subscription within mqtt.ack_timeout")]
    Unanswered,
    #[error("no answer to a ping within half of mqtt.keep_alive")]
    KeepAlive,
    #[error("the address that it was made from has gone from this machine, and the broker does not answer")]
    Uprooted,
    #[error("messages could not be kept, and have to come again")]
    ComeAgain,
    #[error("the connection for records is at another server")]
    Move { to: usize },
    #[error("pillion is stopping")]
    Stop,
}

/// The listen flow.
pub struct Listener {
    session: Session,
    /// How soon the broker must answer a subscription.
    ack_timeout: Duration,
    filters: Filters,
    alive: Alive,
    wiring: Wiring,
    dialer: Dialer,
    outage: Outage,
    /// Connections in a row that ended in something unreadable.
    unreadable: u32,
    /// Sessions in a row that were given up, with no sound connection between.
    given_up: u32,
    /// When filters that were set aside are tried again.
    try_again: Option<Instant>,
}

impl Listener {
    /// `password` is what `mqtt.password_file` holds.
    pub fn new(mqtt: Mqtt, password: Option<String>, alive: Alive, wiring: Wiring) -> Self {
        let session = Session {
            version: mqtt.version,
            client_id: format!("{}-commands", mqtt.client_id),
            credentials: mqtt.username.clone().map(|name| (name, password.unwrap_or_default())),
            keep_alive: mqtt.keep_alive,
            max_payload: mqtt.max_payload,
            purpose: Purpose::Commands { clean: false, will: None },
        };
        let neighbours = wiring.outlets.neighbours.as_ref().map_or("", |(filter, _)| filter.as_str());
        let node = wiring.outlets.sparkplug.as_ref().map(|sparkplug| sparkplug.node.clone());
        let filters = Filters::new(&mqtt.topic_prefix, neighbours, &wiring.outlets.receivers()).with_node(node);
        let dialer = Dialer::new(&mqtt, wiring.clock, wiring.network.clone(), Some(wiring.link.clone()));
        let (unreadable, given_up, try_again) = (0, 0, None);
        let (ack_timeout, outage) = (mqtt.ack_timeout, Outage::default());
        Listener { session, ack_timeout, filters, alive, wiring, dialer, outage, unreadable, given_up, try_again }
    }

    /// Runs until `stop` is set.
    pub async fn run(mut self) {
        while !*self.wiring.stop.borrow() {
            let clean = self.unreadable >= PATIENCE;
            let will = self.wiring.outlets.sparkplug.as_ref().map(|sparkplug| sparkplug.presence.will.clone());
            self.session.purpose = Purpose::Commands { clean, will };
            let Wiring { status, clock, pulse, stop, .. } = &mut self.wiring;
            let outage = &mut self.outage;
            let tell = |server: &Server, _, news: News<'_>| match news {
                News::Trying(_) => trying(status, server),
                News::Failed(error) => failed(status, outage, server, error.to_string(), clock().wall_ms),
            };
            let Some(connection) = self.dialer.dial(&mut self.session, pulse, stop, tell).await else { return };
            let lost = match clean {
                true => match self.give_up_session(connection).await {
                    Ok(()) => {
                        self.dialer.again();
                        continue;
                    }
                    Err(lost) => lost,
                },
                false => self.listen(connection).await,
            };
            match lost {
                Lost::Stop => return,
                Lost::Move { to } => {
                    self.dialer.moved(to);
                    continue;
                }
                // The same broker has it, or will send it again.
                Lost::ComeAgain | Lost::Link(LinkError::Protocol(_)) => self.dialer.again(),
                _ => self.dialer.lost(),
            }
            if let Some(server) = self.dialer.at().0 {
                let now_ms = (self.wiring.clock)().wall_ms;
                failed(&self.wiring.status, &mut self.outage, server, lost.to_string(), now_ms);
            }
            if let Lost::Link(LinkError::Redirected { to: Some(to), .. }) = lost {
                self.dialer.redirected(to);
            }
        }
    }

    /// This connection was made with a clean session: the old one is gone, and with it what could not be read.
    async fn give_up_session(&mut self, connection: Connection) -> Result<(), Lost> {
        timeout(GOODBYE, connection.disconnect()).await.map_err(|_| LinkError::Stalled)??;
        self.unreadable = 0;
        self.given_up += 1;
        if self.given_up > 1 {
            self.filters.set_next_aside();
            self.try_again.get_or_insert(Instant::now() + TRY_AGAIN);
        }
        let set_aside = self.filters.set_aside();
        self.wiring.status.send_modify(|status| {
            status.resets += 1;
            status.set_aside = set_aside;
        });
        let detail = "the broker sent a message that is too large or no MQTT, and would have sent it again and again; it was \
                      thrown away, and with it whatever commands and messages had waited at the broker";
        tracing::warn!("{detail}");
        let document = serde_json::json!({ "type": "commands-lost", "detail": detail });
        let time = (self.wiring.clock)();
        let data = document.to_string().into_bytes();
        let records = vec![Record { topic: "event".to_owned(), time, encoding: Encoding::Json, data }];
        let submission =
            Submission { stream: StreamId::EVENT, records, durability: Durability::Window, note: None, reply: None };
        let mut sending = std::pin::pin!(self.wiring.submissions.send(submission));
        loop {
            tokio::select! {
                _ = &mut sending => return Ok(()),
                () = self.wiring.pulse.answer() => {}
            }
        }
    }
}

/// A server is tried.
fn trying(status: &watch::Sender<SessionStatus>, server: &Server) {
    status.send_if_modified(|status| {
        status.state = LinkState::Connecting;
        status.server = Some(server.to_string());
        false
    });
}

/// A server could not be connected to, or not any more.
fn failed(status: &watch::Sender<SessionStatus>, outage: &mut Outage, server: &Server, reason: String, now_ms: u64) {
    status.send_if_modified(|status| {
        let lost = status.connects > 0 && status.reason.is_none();
        let changed = lost || status.reason.as_ref() != Some(&reason);
        let server = server.to_string();
        if outage.is_news(lost, &format!("{server}: {reason}")) {
            tracing::warn!(server, reason, "not connected to {server} for commands: {reason}");
        }
        if changed {
            status.since_ms = now_ms;
        }
        status.state = LinkState::Disconnected;
        status.server = Some(server);
        status.reason = Some(reason);
        changed
    });
}
