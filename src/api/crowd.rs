//! Who is connected, and who has to go for the next one when all places are taken.
//!
//! Constraints: pure; a place is never taken from a request that pillion is working on, nor from an answer without an end
//! (there are few of these); a newcomer gets some time to say what it wants.
//!
//! ```text
//! first    those who wait between two requests, or before their first one, for longer than IDLE_GRACE; the longest wait first
//! then     those whose body is under way, or who have asked us to wait, for longer than BODY_GRACE; of an upload since its last
//!          submission
//! ```

use super::phase::{Phase, Phases};
use std::time::Duration;
use tokio::time::Instant;

/// Connections at once. Each takes some 25 KiB at the most while its client is idle, and two descriptors.
pub(super) const PLACES: usize = 128;

/// So long nobody who says nothing is sent away.
const IDLE_GRACE: Duration = Duration::from_millis(100);

/// So long nobody is sent away whose body is under way.
const BODY_GRACE: Duration = Duration::from_secs(2);

/// The connections, by the id of their task.
#[derive(Debug)]
pub(super) struct Crowd<I>(Vec<(I, Phases)>);

impl<I: Copy + PartialEq> Crowd<I> {
    pub(super) fn new() -> Self {
        Crowd(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn enter(&mut self, id: I, phases: Phases) {
        self.0.push((id, phases));
    }

    pub(super) fn leave(&mut self, id: I) {
        self.0.retain(|(other, _)| *other != id);
    }

    /// Makes room for one more if somebody may be sent away, and says whom.
    pub(super) fn send_away(&mut self, now: Instant) -> Option<I> {
        let class = |phases: &Phases| {
            let (phase, since) = phases.now();
            let (class, grace) = match phase {
                Phase::Idle | Phase::Cut => (0, IDLE_GRACE),
                Phase::Body | Phase::Wait | Phase::Upload => (1, BODY_GRACE),
                Phase::Request | Phase::Stream => return None,
            };
            (now.saturating_duration_since(since) >= grace).then_some((class, since))
        };
        let candidates = self.0.iter().filter_map(|(id, phases)| Some((class(phases)?, *id)));
        let (_, id) = candidates.min_by_key(|(order, _)| *order)?;
        self.leave(id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_sent_away_who_is_being_served() {
        let mut crowd = Crowd::new();
        let mut all = Vec::new();
        for (id, phase) in
            [Phase::Request, Phase::Stream, Phase::Body, Phase::Upload, Phase::Idle, Phase::Idle, Phase::Wait]
                .into_iter()
                .enumerate()
        {
            let phases = Phases::new();
            phases.enter(phase);
            crowd.enter(id, phases.clone());
            all.push(phases);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(crowd.send_away(Instant::now()), None, "everybody has just come");
        tokio::time::advance(IDLE_GRACE).await;
        all[4].enter(Phase::Request);
        all[4].enter(Phase::Idle);
        assert_eq!(crowd.send_away(Instant::now()), Some(5), "the longest idle");
        assert_eq!(crowd.send_away(Instant::now()), None, "the other one has just been served");
        tokio::time::advance(BODY_GRACE).await;
        let gone: Vec<_> = std::iter::from_fn(|| crowd.send_away(Instant::now())).collect();
        assert_eq!((gone, crowd.len()), (vec![4, 2, 3, 6], 2));
    }
}
