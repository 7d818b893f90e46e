//! The listen flow: commands from the broker, in a session of their own that the broker keeps while we are away.
//!
//! Constraints: a command is acknowledged only when the dispatch flow says that it need not come again, in the order in
//! which they came (MQTT 3.1.1 section 4.6). Nothing is read while the dispatch flow is full: what waits then waits at
//! the broker. At rest nothing wakes this task but the keep-alive.
//!
//! States, as in the publish flow, with the subscription in the place of the records; `Connected` is when the broker
//! has confirmed it:
//!
//! ```text
//!            back-off over               SUBACK
//! Disconnected ────────> Connecting ──────────────> Connected
//!      ^                     │ failed                   │ lost, or stop
//!      └─────────────────────┴──────────────────────────┘
//! ```
//!
//! A message that can't be taken off the wire (too large, or no MQTT) ends the connection, and the broker would send it
//! again on the next one, for ever. So when that happens twice in a row, the session is given up with everything in it,
//! which is counted and announced.
//!
//! [`waiting`] knows how old a command may be, [`alive`] remembers what that takes over a restart.

pub mod alive;
pub mod waiting;

use crate::backoff::Backoff;
use crate::command::{MAX_COMMAND, Origin, Request};
use crate::config::Mqtt;
use crate::mqtt::{Connection, Delivery, LinkError, Purpose, Received, Session};
use crate::pulse::Pulse;
use crate::record::{Clock, Durability, Encoding, Record, StreamId, Submission};
use crate::stats::{LinkState, SessionStatus};
use alive::Alive;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use waiting::Waiting;

/// Delays between tries, once every server has been tried.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Packet id of our only SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;
/// How long the broker may take to read what we send.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// How long saying good-bye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Connections in a row that end in something unreadable before the session is given up.
const PATIENCE: u32 = 2;

/// What the flow is connected to.
pub struct Wiring {
    /// To the dispatch flow.
    pub requests: mpsc::Sender<Request>,
    /// For events.
    pub submissions: mpsc::Sender<Submission>,
    /// Where the session's state is shown. Receivers are woken by a change of state only.
    pub status: watch::Sender<SessionStatus>,
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
    #[error("the broker does not allow to subscribe to {0}; allow it in the broker's access control")]
    Denied(String),
    #[error("no answer to a ping within mqtt.keep_alive")]
    KeepAlive,
    #[error("pillion is stopping")]
    Stop,
}

/// The listen flow.
pub struct Listener {
    mqtt: Mqtt,
    session: Session,
    filter: String,
    alive: Alive,
    wiring: Wiring,
    backoff: Backoff,
    /// Index into `mqtt.servers` of the next one to be tried.
    server: usize,
    /// Connections in a row that ended in something unreadable.
    unreadable: u32,
}

impl Listener {
    /// `password` is what `mqtt.password_file` holds.
    pub fn new(mqtt: Mqtt, password: Option<String>, alive: Alive, wiring: Wiring) -> Self {
        let session = Session {
            client_id: format!("{}-commands", mqtt.client_id),
            credentials: mqtt.username.clone().map(|name| (name, password.unwrap_or_default())),
            keep_alive: mqtt.keep_alive,
            max_payload: mqtt.max_payload,
            purpose: Purpose::Commands { clean: false },
        };
        let filter = format!("{}/device/+/set", mqtt.topic_prefix);
        let backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        Listener { mqtt, session, filter, alive, wiring, backoff, server: 0, unreadable: 0 }
    }

    /// Runs until `stop` is set.
    pub async fn run(mut self) {
        while !*self.wiring.stop.borrow() {
            let clean = self.unreadable >= PATIENCE;
            let Some(opened) = self.connect(clean).await else { return };
            let lost = match opened {
                Ok(connection) if clean => match self.give_up_session(connection).await {
                    Ok(()) => continue,
                    Err(lost) => lost,
                },
                Ok(connection) => self.listen(connection).await,
                Err(error) => error.into(),
            };
            if matches!(lost, Lost::Stop) {
                return;
            }
            self.disconnected(&lost);
            if self.server == 0 && !self.pause().await {
                return;
            }
        }
    }

    /// Tries the next server. `None`: it is time to stop.
    async fn connect(&mut self, clean: bool) -> Option<Result<Connection, LinkError>> {
        let server = self.mqtt.servers.get(self.server)?;
        self.wiring.status.send_if_modified(|status| {
            status.state = LinkState::Connecting;
            status.server = Some(server.to_string());
            false
        });
        self.session.purpose = Purpose::Commands { clean };
        let mut connect = Box::pin(Connection::open(server, &self.session));
        loop {
            tokio::select! {
                opened = &mut connect => return Some(opened),
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return None,
            }
        }
    }

    /// This connection was made with a clean session: the old one is gone, and with it what could not be read.
    async fn give_up_session(&mut self, connection: Connection) -> Result<(), Lost> {
        timeout(GOODBYE, connection.disconnect()).await.map_err(|_| LinkError::Stalled)??;
        self.unreadable = 0;
        self.wiring.status.send_modify(|status| status.resets += 1);
        let detail = "the broker sent a command that is too large or no MQTT, and would have sent it again and again; it was \
                      thrown away, and with it whatever commands had waited at the broker";
        tracing::warn!("{detail}");
        let document = serde_json::json!({ "type": "commands-lost", "detail": detail });
        let time = (self.wiring.clock)();
        let data = document.to_string().into_bytes();
        let records = vec![Record { topic: "event".to_owned(), time, encoding: Encoding::Json, data }];
        let submission = Submission { stream: StreamId::EVENT, records, durability: Durability::Window, reply: None };
        let mut sending = std::pin::pin!(self.wiring.submissions.send(submission));
        loop {
            tokio::select! {
                _ = &mut sending => return Ok(()),
                () = self.wiring.pulse.answer() => {}
            }
        }
    }

    fn disconnected(&mut self, lost: &Lost) {
        let server = self.mqtt.servers.get(self.server).map(ToString::to_string);
        let reason = lost.to_string();
        let since_ms = (self.wiring.clock)().wall_ms;
        self.wiring.status.send_if_modified(|status| {
            let lost = status.connects > 0 && status.reason.is_none();
            let changed = lost || status.reason.as_ref() != Some(&reason);
            if changed {
                let name = server.as_deref().unwrap_or("a broker");
                tracing::warn!(server, reason, "not connected to {name} for commands: {reason}");
                status.since_ms = since_ms;
            }
            status.state = LinkState::Disconnected;
            status.server = server;
            status.reason = Some(reason);
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

    /// From CONNACK to the end of the connection, which it returns the reason of.
    async fn listen(&mut self, mut connection: Connection) -> Lost {
        let now_ms = self.now_ms();
        let server = self.mqtt.servers.get(self.server).map(ToString::to_string).unwrap_or_default();
        let waiting = Waiting::connected(connection.session_present(), self.alive.since(&server), now_ms);
        let mut talk =
            Talk { server, waiting, unsettled: VecDeque::new(), stalled: None, heard: true, subscribed: false };
        let lost = match self.exchange(&mut connection, &mut talk).await {
            Ok(()) => Lost::Stop,
            Err(lost) => lost,
        };
        let now_ms = self.now_ms();
        if talk.subscribed {
            self.alive.save(now_ms);
        }
        match &lost {
            Lost::Link(LinkError::Protocol(_)) => self.unreadable += 1,
            _ => self.unreadable = 0,
        }
        if matches!(lost, Lost::Stop) {
            let _ = timeout(GOODBYE, connection.disconnect()).await;
        }
        lost
    }

    /// Returns `Ok` when it is time to stop.
    async fn exchange(&mut self, connection: &mut Connection, talk: &mut Talk) -> Result<(), Lost> {
        connection.subscribe(self.filter.clone(), SUBSCRIBE_ID).await?;
        flush(connection).await?;
        let mut keep_alive = Instant::now() + self.mqtt.keep_alive;
        let requests = self.wiring.requests.clone();
        loop {
            if talk.unsettled.is_empty() && talk.stalled.is_none() {
                match connection.receive_ready().await {
                    Some(received) => {
                        self.receive(received?, talk)?;
                        continue;
                    }
                    None => talk.waiting.caught_up(self.now_ms()),
                }
            }
            let probe = talk.waiting.probe_ms().filter(|_| talk.subscribed);
            let probe = probe.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms())));
            let alarm = probe.map_or(keep_alive, |probe| keep_alive.min(Instant::now() + probe));
            tokio::select! {
                received = connection.receive(), if talk.stalled.is_none() => self.receive(received?, talk)?,
                place = requests.reserve(), if talk.stalled.is_some() => {
                    // The dispatch flow ends when pillion stops; then nothing is acknowledged any more.
                    let Ok(place) = place else { return Ok(()) };
                    if let Some(request) = talk.stalled.take() {
                        place.send(request);
                    }
                }
                settled = front(&mut talk.unsettled), if !talk.unsettled.is_empty() => {
                    settle(connection, &mut talk.unsettled, settled).await?;
                }
                () = sleep_until(alarm) => {
                    if Instant::now() >= keep_alive {
                        // What we don't read we can't hear.
                        if !std::mem::take(&mut talk.heard) && talk.stalled.is_none() {
                            return Err(Lost::KeepAlive);
                        }
                        keep_alive = Instant::now() + self.mqtt.keep_alive;
                    }
                    connection.ping().await?;
                    flush(connection).await?;
                    talk.waiting.pinged();
                }
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return Ok(()),
            }
        }
    }

    fn receive(&mut self, received: Received, talk: &mut Talk) -> Result<(), Lost> {
        talk.heard = true;
        let now_ms = self.now_ms();
        match received {
            Received::Delivered(delivery) => self.deliver(delivery, talk, now_ms),
            Received::Subscribed(true) => self.subscribed(talk),
            Received::Subscribed(false) => return Err(Lost::Denied(self.filter.clone())),
            Received::Pong => talk.waiting.ponged(now_ms),
            Received::Acknowledged(_) | Received::Other => {}
        }
        if talk.subscribed
            && let Some(last_ms) = talk.waiting.away_since_ms(now_ms)
        {
            self.alive.saw(&talk.server, last_ms, now_ms);
        }
        Ok(())
    }

    fn subscribed(&mut self, talk: &mut Talk) {
        talk.subscribed = true;
        self.backoff.reset();
        let since_ms = (self.wiring.clock)().wall_ms;
        self.wiring.status.send_modify(|status| {
            status.state = LinkState::Connected;
            status.reason = None;
            status.since_ms = since_ms;
            status.connects += 1;
            let server = status.server.as_deref().unwrap_or_default();
            tracing::info!(server, "listening for commands at {server}");
        });
    }

    /// Hands a command over, or keeps it until there is room.
    fn deliver(&mut self, delivery: Delivery, talk: &mut Talk, now_ms: u64) {
        self.wiring.status.send_if_modified(|status| {
            status.received += 1;
            false
        });
        let Delivery { topic, payload, packet, retained, redelivered } = delivery;
        let waited = talk.waiting.delivered(now_ms).map(Duration::from_millis);
        let (noted, answer) = oneshot::channel();
        if let Some(packet) = packet {
            talk.unsettled.push_back((packet, answer));
        }
        let Some(device) = device_of(&topic, &self.mqtt.topic_prefix) else {
            tracing::debug!(topic, "a message on a topic that was not asked for");
            let _: Result<(), ()> = noted.send(());
            return;
        };
        let payload = payload.get(..(MAX_COMMAND + 1).min(payload.len())).unwrap_or_default().to_vec();
        let origin = Origin::Broker { retained, packet, redelivered, waited, noted };
        let request = Request { device: device.to_owned(), payload, origin };
        talk.stalled = match self.wiring.requests.try_send(request) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(request) | mpsc::error::TrySendError::Closed(request)) => Some(request),
        };
    }

    fn now_ms(&self) -> u64 {
        (self.wiring.clock)().mono_ms
    }
}

/// One connection's affairs.
struct Talk {
    server: String,
    waiting: Waiting,
    /// Packets that are not acknowledged, in the order in which they came. Bounded by the dispatch flow's channel and
    /// what it works on.
    unsettled: VecDeque<(u16, oneshot::Receiver<()>)>,
    /// A command that the dispatch flow has no room for. Nothing is read meanwhile.
    stalled: Option<Request>,
    heard: bool,
    subscribed: bool,
}

/// Waits for the word on the oldest packet. Cancel-safe. Don't call it with none.
async fn front(unsettled: &mut VecDeque<(u16, oneshot::Receiver<()>)>) -> bool {
    match unsettled.front_mut() {
        Some((_, answer)) => answer.await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Acknowledges the oldest packet, if it need not come again, and those behind it of which the same is known.
async fn settle(
    connection: &mut Connection,
    unsettled: &mut VecDeque<(u16, oneshot::Receiver<()>)>,
    mut settled: bool,
) -> Result<(), LinkError> {
    while let Some((packet, _)) = unsettled.pop_front() {
        if settled {
            connection.acknowledge(packet).await?;
        }
        settled = match unsettled.front_mut().map(|(_, answer)| answer.try_recv()) {
            Some(Ok(())) => true,
            Some(Err(oneshot::error::TryRecvError::Closed)) => false,
            Some(Err(oneshot::error::TryRecvError::Empty)) | None => break,
        };
    }
    flush(connection).await
}

async fn flush(connection: &mut Connection) -> Result<(), LinkError> {
    timeout(WRITE_TIME, connection.flush()).await.map_err(|_| LinkError::Stalled)?
}

/// NAME of `PREFIX/device/NAME/set`.
fn device_of<'a>(topic: &'a str, prefix: &str) -> Option<&'a str> {
    let name = topic.strip_prefix(prefix)?.strip_prefix("/device/")?.strip_suffix("/set")?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_topic_ever_reaches_a_device_that_it_does_not_name() {
        assert_eq!(device_of("p/x/device/meter/set", "p/x"), Some("meter"));
        for topic in [
            "p/x/device//set",
            "p/x/device/set",
            "p/x/device/a/b/set",
            "p/x/device/meter/get",
            "p/xdevice/meter/set",
            "q/p/x/device/meter/set",
            "p/x/device/meter/set/",
            "",
        ] {
            assert_eq!(device_of(topic, "p/x"), None, "{topic}");
        }
    }
}
