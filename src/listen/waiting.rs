//! How long a command may have waited before we read it. Pure.
//!
//! A broker keeps what came while we were away, and sends it after CONNACK, as fast as we acknowledge. Until we know
//! that nothing of that is left, everything that comes may have waited as long as we were away. We know it from a ping
//! that came back without a command in between while nothing was unacknowledged, [`SETTLE_MS`] after CONNACK or later.
//!
//! The same holds when we were slow, for a broker has a limit on what is unacknowledged, too: what comes then may have
//! waited since we last had everything. The time on the wire is not counted.

/// A broker that has kept something has begun to send it by then, in milliseconds after CONNACK.
pub const SETTLE_MS: u64 = 2000;
/// Between tries to find out that nothing is left.
const PROBE_EVERY_MS: u64 = 1000;
/// Being slow for less than this counts for nothing else than what it is.
const SLOW_MS: u64 = 1000;

/// What may still wait at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    state: State,
    /// Since when something is unacknowledged or unread.
    behind_ms: Option<u64>,
    /// Pings that are under way, and whether nothing came since the first of them was sent.
    pings: u32,
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What comes has come just now.
    Live,
    /// What comes may have waited since then; `None`: nobody knows since when.
    Backlog { since_ms: Option<u64>, probe_ms: u64 },
}

impl Waiting {
    /// After CONNACK. `away_since_ms`: since when the broker may have kept something, if that is known.
    pub fn connected(session_present: bool, away_since_ms: Option<u64>, now_ms: u64) -> Waiting {
        let state = match session_present {
            true => State::Backlog { since_ms: away_since_ms, probe_ms: now_ms.saturating_add(SETTLE_MS) },
            false => State::Live,
        };
        Waiting { state, behind_ms: None, pings: 0, quiet: false }
    }

    /// The same for what comes from now on only: an answer to a question that was asked just now.
    pub fn beside(&self, now_ms: u64) -> Waiting {
        let state = State::Backlog { since_ms: None, probe_ms: now_ms.saturating_add(SETTLE_MS) };
        Waiting { state, quiet: false, ..self.clone() }
    }

    /// Whether nothing is left that waited.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// A command came. How long may it have waited, in milliseconds? `None`: nobody knows.
    pub fn delivered(&mut self, now_ms: u64) -> Option<u64> {
        self.quiet = false;
        let behind_ms = *self.behind_ms.get_or_insert(now_ms);
        let since_ms = match self.state {
            State::Live => Some(behind_ms),
            State::Backlog { since_ms, .. } => since_ms,
        };
        since_ms.map(|since_ms| now_ms.saturating_sub(since_ms))
    }

    /// Everything that came is read and acknowledged.
    pub fn caught_up(&mut self, now_ms: u64) {
        if let Some(behind_ms) = self.behind_ms.take()
            && self.state == State::Live
            && now_ms.saturating_sub(behind_ms) > SLOW_MS
        {
            self.state = State::Backlog { since_ms: Some(behind_ms), probe_ms: now_ms };
        }
    }

    /// A ping was sent.
    pub fn pinged(&mut self) {
        self.quiet |= self.pings == 0 && self.behind_ms.is_none();
        self.pings += 1;
    }

    /// A ping came back.
    pub fn ponged(&mut self, now_ms: u64) {
        self.pings = self.pings.saturating_sub(1);
        if let State::Backlog { since_ms, probe_ms } = self.state {
            let is_over = self.quiet && self.pings == 0 && self.behind_ms.is_none() && now_ms >= probe_ms;
            self.state = match is_over {
                true => State::Live,
                false => State::Backlog { since_ms, probe_ms: probe_ms.max(now_ms.saturating_add(PROBE_EVERY_MS)) },
            };
        }
    }

    /// When a ping is due to find out whether something is left.
    pub fn probe_ms(&self) -> Option<u64> {
        match self.state {
            State::Backlog { probe_ms, .. } if self.pings == 0 && self.behind_ms.is_none() => Some(probe_ms),
            _ => None,
        }
    }

    /// Since when the broker may keep something, if it has gone now.
    pub fn away_since_ms(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Live => Some(self.behind_ms.unwrap_or(now_ms)),
            State::Backlog { since_ms, .. } => since_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_while_we_were_away_never_counts_as_fresh() {
        let mut waiting = Waiting::connected(true, Some(1_000), 50_000);
        assert_eq!(waiting.delivered(50_010), Some(49_010));
        waiting.caught_up(50_020);
        // A ping that comes back too soon proves nothing.
        waiting.pinged();
        waiting.ponged(50_030);
        assert_eq!(waiting.delivered(50_040), Some(49_040));
        assert_eq!((waiting.probe_ms(), waiting.away_since_ms(50_040)), (None, Some(1_000)));
        waiting.caught_up(50_050);
        assert_eq!(waiting.probe_ms(), Some(52_000));
        // One with a command in between neither.
        waiting.pinged();
        assert_eq!(waiting.delivered(52_010), Some(51_010));
        waiting.caught_up(52_015);
        waiting.ponged(52_020);
        assert_eq!(waiting.probe_ms(), Some(53_020));
        waiting.pinged();
        waiting.ponged(53_100);
        assert_eq!(waiting.delivered(99_000), Some(0));
        assert_eq!(waiting.away_since_ms(99_000), Some(99_000));
    }

    #[test]
    fn a_restart_without_memory_never_counts_as_fresh() {
        let mut waiting = Waiting::connected(true, None, 0);
        assert_eq!((waiting.delivered(10), waiting.away_since_ms(10)), (None, None));
        let mut fresh = Waiting::connected(false, None, 0);
        assert_eq!(fresh.delivered(10), Some(0), "a broker without a session has kept nothing");
    }

    #[test]
    fn being_slow_never_makes_old_commands_fresh() {
        let mut waiting = Waiting::connected(false, None, 0);
        assert_eq!(waiting.delivered(10_000), Some(0));
        assert_eq!(waiting.delivered(40_000), Some(30_000), "it may have been in the socket all the time");
        assert_eq!(waiting.away_since_ms(40_000), Some(10_000));
        waiting.caught_up(40_001);
        assert_eq!(waiting.delivered(40_002), Some(30_002), "the broker may hold more");
        waiting.caught_up(40_003);
        assert_eq!(waiting.probe_ms(), Some(40_001));
        waiting.pinged();
        waiting.ponged(40_005);
        assert_eq!(waiting.delivered(40_006), Some(0));
    }
}
