//! How many messages may be under way on a link whose width nobody knows: enough to fill it, few enough that an event doesn't
//! wait behind a window full of others. Pure: the caller brings the clock.
//!
//! A delay-based control, in the manner of TCP Vegas and LEDBAT (RFC 6817): what a round trip takes longer than the shortest one
//! of late is time that a message spends in a queue. While that is short the window grows, by doubling, up to the configured
//! one; when it is longer than `QUEUE_MS`, or than the way itself, the window shrinks to what makes half of that.
//!
//! - It never stays small by mistake: the shortest round trip counts for twenty seconds at the most, so a route that has become
//!   longer is not taken for a queue; and while the window is not the whole one, it is narrowed for one round every ten seconds, to see
//!   how long the way is without a queue.
//! - A link that is wide enough sees nothing of it: the whole window is used from the first few round trips on.

/// The window of a new connection, in messages.
const FIRST: u16 = 16;
/// The smallest one: one message is on its way while another one is acknowledged.
const LEAST: u16 = 2;
/// Time in the queue that is tolerated anywhere, in milliseconds: brokers take their time, too.
const QUEUE_MS: u64 = 200;
/// The shortest round trip is that of this epoch and the one before, each so many milliseconds long.
const EPOCH_MS: u64 = 10_000;

/// The window of one connection.
#[derive(Debug, Clone)]
pub struct Congestion {
    most: u16,
    size: u16,
    /// While the window is narrowed to see how long the way is: its size before that.
    narrowed_from: Option<u16>,
    /// When the epoch began, its shortest round trip, and that of the one before, in milliseconds.
    epoch_ms: u64,
    shortest: Option<u64>,
    shortest_before: Option<u64>,
    /// The round: only messages sent since then count, so many still have to, and the shortest round trip of its second half.
    round_ms: u64,
    missing: u16,
    least: u64,
}

impl Congestion {
    /// For a new connection with at most `most` messages under way.
    pub fn new(most: u16, now_ms: u64) -> Self {
        let most = most.max(1);
        let size = FIRST.min(most);
        Congestion {
            most,
            size,
            narrowed_from: None,
            epoch_ms: now_ms,
            shortest: None,
            shortest_before: None,
            round_ms: now_ms,
            missing: size,
            least: u64::MAX,
        }
    }

    /// Messages that may be under way now.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// A message that was sent at `sent_ms` was acknowledged. Returns whether the window has changed.
    pub fn acknowledged(&mut self, sent_ms: u64, now_ms: u64) -> bool {
        let round_trip = now_ms.saturating_sub(sent_ms).max(1);
        self.shortest = Some(self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip)));
        if sent_ms < self.round_ms {
            return false;
        }
        self.missing = self.missing.saturating_sub(1);
        // What a burst brings upon itself shows in its second half.
        if self.missing <= self.size / 2 {
            self.least = self.least.min(round_trip);
        }
        if self.missing > 0 {
            return false;
        }
        let before = self.size;
        self.end_round(now_ms);
        (self.round_ms, self.missing, self.least) = (now_ms, self.size, u64::MAX);
        self.size != before
    }

    fn end_round(&mut self, now_ms: u64) {
        if let Some(size) = self.narrowed_from.take() {
            self.size = size.min(self.most);
            return;
        }
        let way = [self.shortest, self.shortest_before].into_iter().flatten().min().unwrap_or(self.least);
        let (queue, tolerated) = (self.least.saturating_sub(way), QUEUE_MS.max(way));
        if queue > tolerated {
            let wanted = u64::from(self.size).saturating_mul(way + tolerated / 2) / self.least.max(1);
            self.size = u16::try_from(wanted).unwrap_or(self.most);
        } else if queue <= tolerated / 4 {
            self.size = self.size.saturating_mul(2);
        } else if queue <= tolerated / 2 {
            self.size = self.size.saturating_add(1);
        }
        self.size = self.size.max(LEAST).min(self.most);
        if now_ms.saturating_sub(self.epoch_ms) >= EPOCH_MS {
            self.epoch_ms = now_ms;
            self.shortest_before = self.shortest.take();
            if queue > tolerated / 4 || self.size < self.most {
                self.narrowed_from = Some(self.size);
                self.size = LEAST.min(self.most);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A link of so many bytes in a millisecond.
    #[derive(Debug, Clone, Copy)]
    struct Link {
        width: f64,
        round_trip_ms: u64,
        /// Each round trip takes up to so much longer.
        jitter_ms: u64,
    }

    const MESSAGE: f64 = 200.0;
    const WINDOW: u16 = 128;
    const WIDE: Link = Link { width: 10_000.0, round_trip_ms: 100, jitter_ms: 0 };
    /// 20 kbit/s.
    const THIN: Link = Link { width: 2.5, round_trip_ms: 100, jitter_ms: 0 };

    /// A backlog without end over one link after the other.
    struct Drain {
        control: Option<Congestion>,
        now_ms: u64,
        free_at: f64,
        under_way: VecDeque<(u64, u64)>,
        rng: fastrand::Rng,
    }

    impl Drain {
        fn new(adapts: bool) -> Self {
            let control = adapts.then(|| Congestion::new(WINDOW, 0));
            let rng = fastrand::Rng::with_seed(7);
            Drain { control, now_ms: 0, free_at: 0.0, under_way: VecDeque::new(), rng }
        }

        fn window(&self) -> usize {
            usize::from(self.control.as_ref().map_or(WINDOW, Congestion::size))
        }

        /// For so many seconds. Returns messages in a second, and what an event would have waited at most, in milliseconds.
        fn over(&mut self, link: Link, seconds: u32) -> (f64, f64) {
            let (mut delivered, mut longest) = (0.0_f64, 0.0_f64);
            for _ in 0..seconds * 1000 {
                self.now_ms += 1;
                while let Some((sent_ms, _)) = self.under_way.pop_front_if(|(_, back_ms)| *back_ms <= self.now_ms) {
                    delivered += 1.0;
                    self.control.as_mut().map(|control| control.acknowledged(sent_ms, self.now_ms));
                }
                #[allow(clippy::cast_precision_loss)]
                let now = self.now_ms as f64;
                while self.under_way.len() < self.window() {
                    self.free_at = self.free_at.max(now) + MESSAGE / link.width;
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let through_ms = self.free_at as u64;
                    let back_ms = through_ms + link.round_trip_ms + self.rng.u64(0..=link.jitter_ms);
                    // In order, as TCP has it.
                    let last = self.under_way.back().map_or(0, |(_, back_ms)| *back_ms);
                    self.under_way.push_back((self.now_ms, back_ms.max(last)));
                }
                longest = longest.max(self.free_at - now);
            }
            (delivered / f64::from(seconds), longest)
        }
    }

    #[test]
    fn a_wide_link_never_loses_a_tenth_of_its_window() {
        for jitter_ms in [0, 30, 100] {
            let link = Link { jitter_ms, ..WIDE };
            let (fixed, _) = Drain::new(false).over(link, 60);
            let (rate, _) = Drain::new(true).over(link, 60);
            assert!(rate >= 0.9 * fixed, "{rate} of {fixed}");
        }
    }

    #[test]
    fn an_event_never_waits_for_a_whole_window_on_a_thin_link() {
        let (_, fixed_wait) = Drain::new(false).over(THIN, 60);
        let mut drain = Drain::new(true);
        let (_, first_wait) = drain.over(THIN, 10);
        let (rate, wait) = drain.over(THIN, 60);
        println!("an event waits {wait} ms at most, {first_wait} ms at first, {fixed_wait} ms with a fixed window");
        assert!(fixed_wait > 9000.0 && first_wait < 2000.0 && wait < 800.0);
        let all = THIN.width * 1000.0 / MESSAGE;
        assert!(rate >= 0.9 * all, "{rate} of {all}: the link is never idle");
    }

    #[test]
    fn the_window_never_stays_small() {
        // From a thin link to a wide one, and from a short way to a long one.
        for (before, after) in [(THIN, WIDE), (Link { round_trip_ms: 20, ..WIDE }, Link { round_trip_ms: 600, ..WIDE })]
        {
            let mut drain = Drain::new(true);
            drain.over(before, 60);
            drain.over(after, 30);
            let (rate, _) = drain.over(after, 30);
            #[allow(clippy::cast_precision_loss)]
            let all = f64::from(WINDOW) * 1000.0 / after.round_trip_ms as f64;
            assert!(rate >= 0.9 * all, "{rate} of {all} after {after:?}");
        }
    }

    #[test]
    fn no_clock_and_no_limit_ever_breaks_it() {
        for most in [0, 1, 2, u16::MAX] {
            let mut control = Congestion::new(most, 1000);
            for step in 0..10_000 {
                let (sent_ms, now_ms) = (step * 7919 % 50_000, step * 104_729 % 100_000);
                control.acknowledged(sent_ms, now_ms);
                assert!((1..=most.max(1)).contains(&control.size()));
            }
            control.acknowledged(0, u64::MAX);
        }
    }
}
