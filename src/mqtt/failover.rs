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
/// Redirections in one round that are obeyed: brokers may send a client round in circles.
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
        if useful || lasted >= HEALTHY {
            self.backoff.reset();
            self.redirections = 0;
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

    /// A broker has sent us to a server that is not in the list: it is tried next, once. Returns false if that happened
    /// too often in a row.
    pub fn redirected(&mut self) -> bool {
        if self.redirections >= MOST_REDIRECTIONS {
            return false;
        }
        self.redirections += 1;
        self.state = State::Away;
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
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The servers of a round that fails, up to the pause behind it.
    fn round(failover: &mut Failover) -> (Vec<Place>, Duration) {
        let mut tried = Vec::new();
        loop {
            match failover.next(1.0) {
                Step::Dial(place) => tried.push(place),
                Step::Pause(pause) => return (tried, pause),
            }
        }
    }

    fn listed<const N: usize>(indices: [usize; N]) -> Vec<Place> {
        indices.map(Place::Listed).to_vec()
    }

    /// Connects to this one, of which all before it fail.
    fn connect(failover: &mut Failover, wanted: usize) {
        for _ in 0..100 {
            if failover.next(0.0) == Step::Dial(Place::Listed(wanted)) {
                return failover.connected();
            }
        }
        panic!("server {wanted} is never tried");
    }

    #[test]
    fn a_round_never_has_a_pause_in_it_and_never_ends_without_one() {
        let mut failover = Failover::new(3);
        let pauses = [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000].map(Duration::from_millis);
        for pause in pauses {
            assert_eq!(round(&mut failover), (listed([0, 1, 2]), pause));
        }
    }

    #[test]
    fn a_lost_server_is_never_tried_before_the_others() {
        let mut failover = Failover::new(3);
        connect(&mut failover, 1);
        failover.proved();
        failover.lost(60 * SECOND, 0.5);
        assert_eq!(failover.next(0.0), Step::Pause(SECOND / 2), "a moment for the fleet's sake");
        assert_eq!(round(&mut failover), (listed([2, 0, 1]), BACKOFF.0), "then in order");
        assert_eq!(round(&mut failover).0, listed([0, 1, 2]), "after a pause from the first one");
    }

    #[test]
    fn a_broker_that_accepts_and_hangs_up_is_never_hammered() {
        let mut failover = Failover::new(2);
        let mut pauses = Vec::new();
        while pauses.len() < 9 {
            match failover.next(1.0) {
                Step::Pause(pause) => pauses.push(pause),
                Step::Dial(_) => {
                    failover.connected();
                    failover.lost(SECOND, 0.0);
                }
            }
        }
        assert_eq!((pauses[0], pauses[8]), BACKOFF);
        // One that was idle for a while and is lost then did nothing wrong.
        connect(&mut failover, 0);
        failover.lost(HEALTHY, 0.0);
        assert_eq!(failover.next(1.0), Step::Pause(Duration::ZERO));
        assert_eq!(round(&mut failover), (listed([1, 0]), BACKOFF.0));
    }

    #[test]
    fn a_move_that_fails_never_costs_more_than_the_way_back() {
        let mut failover = Failover::new(3);
        connect(&mut failover, 2);
        failover.proved();
        assert_eq!(failover.better(), [0, 1]);
        failover.moved(0);
        assert_eq!(round(&mut failover).0, listed([0, 2, 1]));
    }

    #[test]
    fn a_server_that_has_to_repeat_itself_is_never_left_nor_hammered() {
        let mut failover = Failover::new(2);
        connect(&mut failover, 1);
        let mut pauses = Vec::new();
        for _ in 0..3 {
            failover.proved();
            failover.again(SECOND, 1.0);
            let Step::Pause(pause) = failover.next(1.0) else { panic!("no pause") };
            pauses.push(pause.as_millis());
            assert_eq!(failover.next(1.0), Step::Dial(Place::Listed(1)));
            failover.connected();
        }
        assert_eq!(pauses, [250, 500, 1000]);
    }

    #[test]
    fn a_first_server_that_does_not_hold_is_never_gone_back_to_as_often() {
        let mut failover = Failover::new(2);
        let every = 300 * SECOND;
        assert!(failover.better().is_empty(), "not connected");
        let mut waits = Vec::new();
        for _ in 0..7 {
            connect(&mut failover, 1);
            failover.proved();
            waits.push(failover.patience(every, 0.5).as_secs());
            failover.moved(0);
            connect(&mut failover, 0);
            assert!(failover.better().is_empty(), "this is the best");
            failover.proved();
            failover.lost(60 * SECOND, 0.0);
        }
        assert_eq!(waits, [300, 600, 1200, 2400, 2400, 2400, 2400]);
        assert_eq!(failover.patience(every, 0.0), 1800 * SECOND);
        assert_eq!(failover.patience(every, 1.0), 3000 * SECOND);
        connect(&mut failover, 0);
        failover.lost(TRUSTED, 0.0);
        assert_eq!(failover.patience(every, 0.5), every, "it has held");
        connect(&mut failover, 1);
        failover.looked_in_vain();
        assert_eq!(failover.patience(every, 0.5), 2 * every);
    }

    #[test]
    fn a_redirection_is_never_followed_in_circles_nor_left_for_the_list() {
        let mut failover = Failover::new(2);
        assert_eq!(failover.next(0.0), Step::Dial(Place::Listed(0)));
        for _ in 0..MOST_REDIRECTIONS {
            assert!(failover.redirected());
            assert_eq!(failover.next(0.0), Step::Dial(Place::Elsewhere));
        }
        assert!(!failover.redirected());
        assert_eq!(round(&mut failover).0, listed([1]), "and on with the round");
        assert_eq!(failover.next(0.0), Step::Dial(Place::Listed(0)));
        failover.connected();
        assert!(failover.redirected());
        assert_eq!(failover.next(0.0), Step::Dial(Place::Elsewhere));
        failover.connected();
        failover.proved();
        assert!(failover.better().is_empty());
        failover.lost(SECOND, 0.0);
        assert_eq!(failover.next(0.0), Step::Pause(Duration::ZERO));
        assert_eq!(round(&mut failover).0, listed([0, 1]));
    }

    #[test]
    fn a_flapping_link_never_has_a_broker_hammered() {
        let mut failover = Failover::new(1);
        // Ten minutes of a link that comes back every second.
        let hasty = (0..600).filter(|second| failover.hurry(second * 1000)).count();
        assert!((60..=63).contains(&hasty), "{hasty}");
        assert!(failover.hurry(3_600_000));
        assert!(
            !Failover { hasty: Haste { left: 0, since_ms: 5000 }, ..failover }.hurry(4000),
            "a clock that jumps back"
        );
    }

    #[test]
    fn followers_never_stay_where_the_leader_is_not() {
        let mut failover = Failover::new(3);
        assert!(failover.settle(2) && !failover.settle(2));
        assert!(!failover.settle(7), "there is none");
        assert_eq!(round(&mut failover).0, listed([0, 1, 2]), "a round that has begun is ended");
        assert_eq!(round(&mut failover).0, listed([2, 0, 1]));
        connect(&mut failover, 1);
        assert_eq!(failover.better(), [2]);
        failover.moved(2);
        assert_eq!(round(&mut failover).0, listed([2, 1, 0]));
    }

    /// Hundreds of gateways lose their only broker at one instant and find it again after `outage`: how many of them
    /// come in the busiest tenth of a second.
    fn busiest(outage: Duration, gateways: usize) -> usize {
        let mut random = fastrand::Rng::with_seed(7);
        let mut slots = std::collections::BTreeMap::<u128, usize>::new();
        for _ in 0..gateways {
            let mut failover = Failover::new(1);
            connect(&mut failover, 0);
            failover.proved();
            failover.lost(3600 * SECOND, random.f64());
            let mut now = Duration::ZERO;
            loop {
                match failover.next(random.f64()) {
                    Step::Pause(pause) => now += pause,
                    Step::Dial(_) if now >= outage => break,
                    Step::Dial(_) => {}
                }
            }
            *slots.entry((now - outage).as_millis() / 100).or_default() += 1;
        }
        slots.into_values().max().unwrap_or(0)
    }

    #[test]
    fn a_fleet_never_comes_back_in_lock_step() {
        for (outage, most) in [(0, 80), (1, 160), (10, 50), (60, 30), (600, 30)] {
            let busiest = busiest(outage * SECOND, 500);
            assert!(busiest <= most, "{busiest} of 500 in a tenth of a second, after {outage} s without a broker");
        }
    }
}
