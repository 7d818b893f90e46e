//! From one connection to the next: dials the servers in their order until one accepts us, waits where
//! [`super::failover`] says so, and looks, while we are connected, whether a better one is well again. For both
//! connections, records' and commands'.
//!
//! A server is looked at by a connection that ends before CONNECT (TCP, and the TLS handshake): with a CONNECT a
//! cluster would take our session away from the server that we are at.
//!
//! The connection for commands follows the one for records: its home is the server where that is. Brokers need not be a
//! cluster, and an answer must come out where the question went in.
//!
//! While it waits or dials, a change of the network begins the try again; see [`crate::network`].

use super::failover::{Failover, Place, Step};
use super::tls::Setup;
use super::transport::is_well;
use super::{Connection, LinkError, Session};
use crate::config::{Mqtt, Server};
use crate::network::Network;
use crate::pulse::Pulse;
use crate::record::Clock;
use crate::stats::{LinkStatus, ServerState};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};

/// A change of the network seldom comes alone: an address is followed by its route. So long one waits for the rest, and
/// half as long again at random.
const SETTLE: Duration = Duration::from_millis(200);
/// A try that has just begun has the new network already.
const JUST_BEGUN: Duration = Duration::from_millis(500);
/// How long a look at a better server may take.
const LOOK: Duration = Duration::from_secs(10);

/// How long a move to a better server waits for what is not acknowledged yet.
pub const MOVE: Duration = Duration::from_secs(10);
/// How soon a broker must answer when the address of this end has gone.
pub const UPROOTED: Duration = Duration::from_secs(3);

/// What happens on the way.
#[derive(Debug)]
pub enum News<'n> {
    /// This server is tried, as this client, of which something may be changed before.
    Trying(&'n mut Session),
    /// It came to nothing.
    Failed(&'n LinkError),
}

/// What is seen while one is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The server at this place in the list is better than ours, and well.
    Better(usize),
    /// The address that we are connected from is none of this machine's any more.
    Uprooted,
}

/// How a try ended.
enum Tried {
    Connected(Box<Connection>),
    Failed(LinkError),
    /// The network has changed.
    Again,
    Stop,
}

/// The look at better servers.
enum Look {
    /// There is none, or nobody wants to know.
    Off,
    Later(Pin<Box<Sleep>>),
    Now(Pin<Box<dyn Future<Output = Option<usize>> + Send>>),
}

/// What came of it so far.
enum Seen {
    Due,
    Better(usize),
    Nothing,
}

impl Look {
    /// Cancel-safe.
    async fn next(&mut self) -> Seen {
        match self {
            Look::Off => std::future::pending().await,
            Look::Later(sleep) => {
                sleep.await;
                Seen::Due
            }
            Look::Now(looking) => looking.await.map_or(Seen::Nothing, Seen::Better),
        }
    }
}

/// What dials for one of the connections.
pub struct Dialer {
    servers: Vec<Server>,
    fall_back: Option<Duration>,
    tls: Setup,
    clock: Clock,
    network: Network,
    /// Whom to follow.
    leader: Option<watch::Receiver<LinkStatus>>,
    failover: Failover,
    /// The server that is tried or connected.
    at: Option<Server>,
    /// Since when it is connected.
    since: Instant,
    look: Look,
}

impl Dialer {
    /// `leader` is where the connection for records is shown, for the one for commands.
    pub fn new(mqtt: &Mqtt, clock: Clock, network: Network, leader: Option<watch::Receiver<LinkStatus>>) -> Self {
        Dialer {
            failover: Failover::new(mqtt.servers.len()),
            servers: mqtt.servers.clone(),
            fall_back: mqtt.fall_back,
            tls: Setup::new(mqtt.tls.clone(), clock),
            clock,
            network,
            leader,
            at: None,
            since: Instant::now(),
            look: Look::Off,
        }
    }

    /// The server that is tried or connected, and its place in the list.
    pub fn at(&self) -> (Option<&Server>, Option<usize>) {
        (self.at.as_ref(), self.failover.listed())
    }

    /// Tries until one accepts us. `tell` hears of each step, while [`Dialer::at`] would tell of which server. `None`:
    /// `stop` has changed.
    pub async fn dial<T>(
        &mut self,
        session: &mut Session,
        pulse: &mut Pulse,
        stop: &mut watch::Receiver<T>,
        mut tell: impl FnMut(&Server, Option<usize>, News<'_>),
    ) -> Option<Connection> {
        loop {
            if let Some(leader) = &mut self.leader
                && let Some(home) = place_of(&leader.borrow_and_update())
            {
                self.failover.settle(home);
            }
            let place = match self.failover.next(fastrand::f64()) {
                Step::Pause(pause) => match self.pause(pause, pulse, stop).await {
                    true => continue,
                    false => return None,
                },
                Step::Dial(place) => place,
            };
            if let Place::Listed(index) = place {
                self.at = Some(self.servers.get(index)?.clone());
            }
            let server = self.at.clone()?;
            tell(&server, self.failover.listed(), News::Trying(session));
            let mut tried = self.dial_one(&server, session, pulse, stop).await;
            while let Tried::Again = tried {
                tried = self.dial_one(&server, session, pulse, stop).await;
            }
            match tried {
                Tried::Connected(connection) => {
                    self.connected();
                    return Some(*connection);
                }
                Tried::Failed(error) => {
                    tell(&server, self.failover.listed(), News::Failed(&error));
                    if let LinkError::Redirected { to: Some(to), .. } = error {
                        self.redirected(to);
                    }
                }
                Tried::Again | Tried::Stop => return None,
            }
        }
    }

    /// Waits. Returns false if it is time to stop.
    async fn pause<T>(&mut self, pause: Duration, pulse: &mut Pulse, stop: &mut watch::Receiver<T>) -> bool {
        let mut over = std::pin::pin!(sleep(pause));
        self.network.forget();
        loop {
            tokio::select! {
                () = &mut over => return true,
                () = self.network.gained() => {
                    let soon = Instant::now() + SETTLE.mul_f64(1.0 + fastrand::f64() / 2.0);
                    if soon < over.deadline() && self.failover.hurry((self.clock)().mono_ms) {
                        over.as_mut().reset(soon);
                    }
                }
                () = pulse.answer() => {}
                _ = stop.changed() => return false,
            }
        }
    }

    async fn dial_one<T>(
        &mut self,
        server: &Server,
        session: &Session,
        pulse: &mut Pulse,
        stop: &mut watch::Receiver<T>,
    ) -> Tried {
        let began = Instant::now();
        let mut connect = Box::pin(Connection::open(server, session, &mut self.tls));
        let mut again = None;
        loop {
            tokio::select! {
                opened = &mut connect => return match opened {
                    Ok(connection) => Tried::Connected(Box::new(connection)),
                    Err(error) => Tried::Failed(error),
                },
                () = self.network.gained() => {
                    if began.elapsed() >= JUST_BEGUN && again.is_none() && self.failover.hurry((self.clock)().mono_ms) {
                        again = Some(Instant::now() + SETTLE);
                    }
                }
                () = sleep_until(again.unwrap_or(began)), if again.is_some() => return Tried::Again,
                () = pulse.answer() => {}
                _ = stop.changed() => return Tried::Stop,
            }
        }
    }

    fn connected(&mut self) {
        self.failover.connected();
        self.since = Instant::now();
        self.network.forget();
        self.look_later();
    }

    /// The connection goes on, after a while in which nobody looked around.
    pub fn go_on(&mut self) {
        self.look_later();
    }

    /// The broker has acknowledged something.
    pub fn proved(&mut self) {
        self.failover.proved();
    }

    /// The connection is gone.
    pub fn lost(&mut self) {
        self.failover.lost(self.since.elapsed(), fastrand::f64());
    }

    /// The connection was ended for a better server's sake.
    pub fn moved(&mut self, to: usize) {
        self.failover.moved(to);
    }

    /// The broker has sent us to this server, which is tried next, once. Returns false if that happened too often in a
    /// row.
    pub fn redirected(&mut self, to: Server) -> bool {
        let obeyed = self.failover.redirected(fastrand::f64());
        if obeyed {
            self.at = Some(to);
        }
        obeyed
    }

    /// The connection was ended for its own sake: the same server is next, after a pause.
    pub fn again(&mut self) {
        self.failover.again(self.since.elapsed(), fastrand::f64());
    }

    /// While connected from this address: returns when there is a reason to leave or to doubt. Cancel-safe: what is
    /// under way goes on with the next call.
    pub async fn look_around(&mut self, from: Option<IpAddr>) -> Sight {
        loop {
            tokio::select! {
                home = follow(&mut self.leader) => {
                    if self.failover.settle(home) {
                        self.look_later();
                        if self.failover.better().contains(&home) {
                            return Sight::Better(home);
                        }
                    }
                }
                seen = self.look.next() => match seen {
                    Seen::Due => self.look_now(),
                    Seen::Better(index) => {
                        self.look = Look::Off;
                        return Sight::Better(index);
                    }
                    Seen::Nothing => {
                        self.failover.looked_in_vain();
                        self.look_later();
                    }
                },
                () = gone(&mut self.network, from) => return Sight::Uprooted,
            }
        }
    }

    fn look_later(&mut self) {
        self.look = match self.fall_back {
            Some(every) if !self.failover.better().is_empty() => {
                Look::Later(Box::pin(sleep(self.failover.patience(every, fastrand::f64()))))
            }
            _ => Look::Off,
        };
    }

    fn look_now(&mut self) {
        let better = self.failover.better();
        if let Some(leader) = &self.leader {
            // It is well if it is good enough for the leader.
            let there = place_of(&leader.borrow()).filter(|place| better.contains(place));
            self.look = Look::Now(Box::pin(std::future::ready(there)));
            return;
        }
        let mut servers = Vec::new();
        for index in better {
            let Some(server) = self.servers.get(index).cloned() else { continue };
            let config = if server.tls { self.tls.config().map(Some) } else { Ok(None) };
            // What is wrong with our own files is told when it is connected to.
            servers.extend(config.ok().map(|config| (index, server, config)));
        }
        self.look = Look::Now(Box::pin(async move {
            for (index, server, config) in servers {
                let deadline = Instant::now() + LOOK;
                if timeout_at(deadline, is_well(&server, config, deadline)).await.unwrap_or(false) {
                    return Some(index);
                }
            }
            None
        }));
    }
}

async fn gone(network: &mut Network, from: Option<IpAddr>) {
    match from {
        Some(address) => network.gone(address).await,
        None => std::future::pending().await,
    }
}

/// The next place where the leader is connected. Cancel-safe.
async fn follow(leader: &mut Option<watch::Receiver<LinkStatus>>) -> usize {
    let Some(leader) = leader else { return std::future::pending().await };
    loop {
        if leader.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(place) = place_of(&leader.borrow()) {
            return place;
        }
    }
}

fn place_of(link: &LinkStatus) -> Option<usize> {
    link.servers.iter().position(|server| server.state == ServerState::Connected)
}
