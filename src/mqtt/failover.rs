//! Which of the servers is next, and when: fail-over, back-off, and the way back to a better one. Pure: the caller
//! brings randomness and clock, dials, and waits.
//!
//! A *round* is a try of every server. What begins one, and in which order it goes:
//!
//! ```text
//! start, or a pause is over ──> the home server, then the others in order
//! a healthy connection lost ──> a moment (0 s to 1 s, random), the next in order, …, and the lost one last
//! a move to a better one    ──> that one, then the one that was left, then the next in order, …
//! ```
//!
//! Within a round there is no pause. When all of it failed there is one, of the back-off: its step doubles, and the
//! pause is random between half and the whole of it. A connection that ends before it was of any use counts as a failed
//! try; so a broker that accepts and hangs up is not hammered. The moment after a loss is for the fleet's sake:
//! hundreds of gateways lose a broker at one instant, and must not come to the next one, or back, at one instant.

use crate::backoff::Backoff;
use std::collections::VecDeque;
use std::time::Duration;

/// Steps of the pauses between rounds.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// The longest moment between the loss of a healthy connection and the next try: a tenth of the time that it lasted, up
/// to this.
const SPREAD: Duration = Duration::from_secs(1);
/// A connection that lasted this long was healthy, whether or not there was anything to acknowledge.
const HEALTHY: Duration = Duration::from_secs(30);
/// The home server is trusted again when a connection to it has lasted this long.
const TRUSTED: Duration = Duration::from_secs(600);
/// Doublings of the time between looks at better servers, if these come to nothing: 5 minutes grow to 40.
const MOST_DOUBLINGS: u32 = 3;
/// Redirections in one round that are obeyed, or until a connection is healthy: brokers may send a client round in circles.
const MOST_REDIRECTIONS: u8 = 3;
/// Pauses that a change of the network may cut short at a time, and how often there is one more: a link that flaps must
/// not have brokers hammered.
const HASTE: (u8, Duration) = (3, Duration::from_secs(10));

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Wait so long.
    Pause(Duration),
    /// Try this one.
    Dial(Place),
}

/// Which server is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// By its place in the list.
    Listed(usize),
    /// One that is not in the list: a broker has sent us there.
    Elsewhere,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// On the way: to be tried next is what `ahead` says.
    Away,
    /// Waiting is due before the next try.
    Waiting(Duration),
    /// This one is tried.
    Dialling(Place),
    /// Connected to this one. `useful`: it has acknowledged something.
    Connected { to: Place, useful: bool },
}

/// The choice among `mqtt.servers` for one of the connections.
#[derive(Debug, Clone)]
pub struct Failover {
    servers: usize,
    state: State,
    /// What is left of the round, in order.
    ahead: VecDeque<Place>,
    backoff: Backoff,
    /// Where a round starts, and where one would like to be.
    home: usize,
    /// Moves that have not proved good yet.
    doubtful: u32,
    /// Looks at better servers that were in vain, since it is connected.
    in_vain: u32,
    redirections: u8,
    /// For brokers that send us to each other, and acknowledge something now and then.
    circles: Backoff,
    hasty: Haste,
}

impl Failover {
    /// For a list of this many servers, at least one.
    pub fn new(servers: usize) -> Self {
        let servers = servers.max(1);
        let mut new = Failover {
            servers,
            state: State::Away,
            ahead: VecDeque::new(),
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            home: 0,
            doubtful: 0,
            in_vain: 0,
            redirections: 0,
            circles: Backoff::new(BACKOFF.0, BACKOFF.1),
            hasty: Haste { left: HASTE.0, since_ms: 0 },
        };
        new.begin_round();
        new
    }

    /// The next step, when there is no connection. `random` is uniform in 0.0..=1.0.
    pub fn next(&mut self, random: f64) -> Step {
        if let State::Waiting(pause) = self.state {
            self.state = State::Away;
            return Step::Pause(pause);
        }
        if let Some(place) = self.ahead.pop_front() {
            self.state = State::Dialling(place);
            return Step::Dial(place);
        }
        self.begin_round();
        self.state = State::Away;
        Step::Pause(self.backoff.next(random))
    }

    /// The one that is tried has accepted us.
    pub fn connected(&mut self) {
        if let State::Dialling(to) = self.state {
            self.state = State::Connected { to, useful: false };
            self.in_vain = 0;
        }
    }

    /// The broker has acknowledged something.
    pub fn proved(&mut self) {
        if let State::Connected { useful, .. } = &mut self.state {
            *useful = true;
        }
    }

    /// The connection is gone, after this time. `random` is uniform in 0.0..=1.0.
    pub fn lost(&mut self, lasted: Duration, random: f64) {
        let State::Connected { to, useful } = self.state else { return };
        self.state = State::Away;
        if to == Place::Listed(self.home) && lasted >= TRUSTED {
            self.doubtful = 0;
        }
        if lasted >= HEALTHY {
            self.redirections = 0;
            self.circles.reset();
        }
        if useful || lasted >= HEALTHY {
            self.backoff.reset();
            let spread = (lasted / 10).clamp(BACKOFF.0, SPREAD);
            self.state = State::Waiting(spread.mul_f64(random.clamp(0.0, 1.0)));
            self.ahead.clear();
            self.extend_behind(to);
        }
    }

    /// The connection was ended after this time, and the same server has to be connected to again: after a pause.
    pub fn again(&mut self, lasted: Duration, random: f64) {
        let State::Connected { to, .. } = self.state else { return };
        if lasted >= HEALTHY {
            self.backoff.reset();
        }
        self.state = State::Waiting(self.backoff.next(random));
        self.ahead.push_front(to);
    }

    /// The connection was left for a better server.
    pub fn moved(&mut self, to: usize) {
        let State::Connected { to: left, .. } = self.state else { return };
        self.state = State::Away;
        self.doubtful = self.doubtful.saturating_add(1);
        self.ahead = VecDeque::from([Place::Listed(to), left]);
        self.extend_behind(left);
    }

    /// A broker has sent us to a server that is not in the list: it is tried next, once, after the moment that is due when
    /// a connection was lost to that. Returns false if that happened too often in a row. `random` is uniform in 0.0..=1.0.
    pub fn redirected(&mut self, random: f64) -> bool {
        let was_connected = matches!(self.state, State::Waiting(_));
        if self.redirections >= MOST_REDIRECTIONS {
            if was_connected {
                self.state = State::Waiting(self.circles.next(random));
                self.redirections = 0;
            }
            return false;
        }
        self.redirections += 1;
        if !was_connected {
            self.state = State::Away;
        }
        self.ahead.retain(|place| *place != Place::Elsewhere);
        self.ahead.push_front(Place::Elsewhere);
        true
    }

    /// Whether a pause is to be cut short, since the network has changed at this time, in milliseconds of any clock.
    /// Then pauses start from the shortest again.
    pub fn hurry(&mut self, now_ms: u64) -> bool {
        let hurries = self.hasty.take(now_ms);
        if hurries {
            self.backoff.reset();
        }
        hurries
    }

    /// Makes this server the home. Returns whether that is news.
    pub fn settle(&mut self, home: usize) -> bool {
        let is_news = home < self.servers && home != self.home;
        if is_news {
            self.home = home;
            self.doubtful = 0;
        }
        is_news
    }

    /// A look at the better ones has found none that is well.
    pub fn looked_in_vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// The better ones than the one that we are connected to, best first. None after a redirection: the broker knows
    /// better.
    pub fn better(&self) -> Vec<usize> {
        match self.state {
            State::Connected { to: Place::Listed(to), .. } if to != self.home && self.home > 0 => vec![self.home],
            State::Connected { to: Place::Listed(to), .. } => (0..to).collect(),
            _ => Vec::new(),
        }
    }

    /// How long to wait for the next look at the better ones. `every` is what is configured; it doubles with each look
    /// in vain and each move that has not proved good. `random` is uniform in 0.0..=1.0 and makes a quarter of it more
    /// or less.
    pub fn patience(&self, every: Duration, random: f64) -> Duration {
        let doublings = self.doubtful.saturating_add(self.in_vain).min(MOST_DOUBLINGS);
        every.saturating_mul(1 << doublings).mul_f64(0.75 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The place in the list of the one that is tried or connected.
    pub fn listed(&self) -> Option<usize> {
        match self.state {
            State::Dialling(Place::Listed(index)) | State::Connected { to: Place::Listed(index), .. } => Some(index),
            _ => None,
        }
    }

    fn begin_round(&mut self) {
        self.redirections = 0;
        let others = (0..self.servers).filter(|index| *index != self.home);
        self.ahead = std::iter::once(self.home).chain(others).map(Place::Listed).collect();
    }

    /// Adds the rest of a round that goes on behind this one, and comes to it at last.
    fn extend_behind(&mut self, place: Place) {
        let from = match place {
            Place::Listed(index) => index + 1,
            Place::Elsewhere => 0,
        };
        for index in (from..from + self.servers).map(|index| Place::Listed(index % self.servers)) {
            if !self.ahead.contains(&index) {
                self.ahead.push_back(index);
            }
        }
    }
}

/// Pauses that may be cut short.
#[derive(Debug, Clone)]
struct Haste {
    left: u8,
    since_ms: u64,
}

impl Haste {
    fn take(&mut self, now_ms: u64) -> bool {
        let every_ms = u64::try_from(HASTE.1.as_millis()).unwrap_or(u64::MAX);
        let more = now_ms.saturating_sub(self.since_ms) / every_ms;
        if more > 0 {
            self.left = self.left.saturating_add(u8::try_from(more).unwrap_or(u8::MAX)).min(HASTE.0);
            self.since_ms = self.since_ms.saturating_add(more * every_ms);
        }
        let there = self.left > 0;
        self.left = self.left.saturating_sub(1);
        there
    }
}

#[cfg(test)]
mod tests;
