//! Whether the other side is still there: a ping in every interval, and an answer within half of one. Pure.
//!
//! So an idle link that dies without a word is given up after one and a half intervals at the latest, which is when a
//! broker gives up its clients too (MQTT 3.1.1 section 3.1.2.10). Whatever comes from the broker counts as the answer:
//! on a link that is full, a PINGRESP may be late.

use std::time::Duration;
use tokio::time::Instant;

/// No answer is expected faster: links over satellites take more than half a second.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A PINGREQ.
    Ping,
    /// To give the connection up.
    End,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The broker has spoken since the latest ping.
    Quiet,
    /// It has not, and must until then.
    Asked { until: Instant },
}

/// One connection's.
#[derive(Debug, Clone)]
pub struct KeepAlive {
    every: Duration,
    state: State,
    /// When the next ping is due.
    next: Instant,
}

impl KeepAlive {
    /// For a connection that is made now. `every` is the keep-alive that was agreed.
    pub fn new(every: Duration, now: Instant) -> Self {
        KeepAlive { every, state: State::Quiet, next: now + every }
    }

    /// The broker has spoken. Returns whether [`KeepAlive::due`] has changed.
    pub fn heard(&mut self) -> bool {
        let was_asked = self.state != State::Quiet;
        self.state = State::Quiet;
        was_asked
    }

    /// When to look again.
    pub fn due(&self) -> Instant {
        match self.state {
            State::Quiet => self.next,
            State::Asked { until } => until.min(self.next),
        }
    }

    /// What is due now.
    pub fn look(&mut self, now: Instant) -> Option<Due> {
        match self.state {
            State::Asked { until } if now >= until => Some(Due::End),
            _ if now < self.next => None,
            State::Asked { .. } => {
                self.next = now + self.every;
                Some(Due::Ping)
            }
            State::Quiet => {
                self.next = now + self.every;
                self.state = State::Asked { until: now + (self.every / 2).max(LEAST_PATIENCE) };
                Some(Due::Ping)
            }
        }
    }

    /// Something is amiss: a ping is sent by the caller now, and must be answered within this time.
    pub fn test(&mut self, now: Instant, within: Duration) {
        let until = now + within;
        self.state = match self.state {
            State::Asked { until: earlier } if earlier < until => self.state,
            _ => State::Asked { until },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(30);

    /// Runs it from `from` on with nobody who answers. Returns when it ended and how many pings there were.
    fn silence(keep_alive: &mut KeepAlive) -> (Instant, u32) {
        let mut pings = 0;
        loop {
            let now = keep_alive.due();
            match keep_alive.look(now) {
                Some(Due::Ping) => pings += 1,
                Some(Due::End) => return (now, pings),
                None => panic!("woken for nothing"),
            }
        }
    }

    #[test]
    fn a_silent_broker_is_never_believed_in_for_longer_than_one_and_a_half_intervals() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(EVERY, start);
        assert_eq!(keep_alive.look(start), None);
        assert_eq!(keep_alive.due(), start + EVERY);
        assert_eq!(keep_alive.look(start + EVERY), Some(Due::Ping));
        assert!(keep_alive.heard(), "the answer, and then the link dies");
        assert!(!keep_alive.heard());
        assert_eq!(silence(&mut keep_alive), (start + EVERY * 5 / 2, 1));
        let mut short = KeepAlive::new(Duration::from_secs(1), start);
        assert_eq!(silence(&mut short), (start + Duration::from_secs(2), 1), "with time for an answer");
    }

    #[test]
    fn a_test_never_takes_longer_than_it_may() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut keep_alive = KeepAlive::new(EVERY, start);
        keep_alive.test(start, 3 * second);
        keep_alive.test(start + second, 3 * second);
        assert_eq!(silence(&mut keep_alive.clone()), (start + 3 * second, 0), "the first one counts");
        assert!(keep_alive.heard());
        assert_eq!(keep_alive.due(), start + EVERY);
    }
}
