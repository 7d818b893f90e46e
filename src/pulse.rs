//! Proof of progress: how the watchdog knows that no flow is stuck.
//!
//! Once in a watchdog interval the health flow raises the beat; every flow sees that in its own loop and answers. A
//! flow that hangs (or waits for one that hangs) doesn't answer, and then nobody pings systemd. Asking costs one
//! wake-up for each flow and interval; between the beats an idle flow sleeps.
//!
//! Constraint: a flow answers from its main loop only, never from a task of its own, or the answer proves nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;

/// The asking side. All clones are one heart: the health flow asks, and whoever starts a flow gives it a pulse.
#[derive(Debug, Clone)]
pub struct Heart {
    beat: watch::Sender<u64>,
    /// A flow that has ended, for its device is configured no more, is asked no more.
    flows: Arc<Mutex<Vec<Flow>>>,
}

/// What a flow has answered, by its name.
type Flow = (String, Weak<AtomicU64>);

/// The answering side, one for each flow. A clone answers for the same flow, where it has lent out all that it has.
#[derive(Debug, Clone)]
pub struct Pulse {
    beat: watch::Receiver<u64>,
    answered: Arc<AtomicU64>,
}

impl Default for Heart {
    fn default() -> Self {
        Heart { beat: watch::channel(0).0, flows: Arc::default() }
    }
}

impl Heart {
    /// A pulse for the flow of this name. The name is what the operator reads when the flow is stuck.
    pub fn pulse(&self, flow: impl Into<String>) -> Pulse {
        let answered = Arc::new(AtomicU64::new(*self.beat.borrow()));
        let mut flows = self.flows();
        flows.retain(|(_, answered)| answered.strong_count() > 0);
        flows.push((flow.into(), Arc::downgrade(&answered)));
        Pulse { beat: self.beat.subscribe(), answered }
    }

    /// The flows that have not answered the latest beat.
    pub fn stuck(&self) -> Vec<String> {
        let beat = *self.beat.borrow();
        let silent = |flow: &&Flow| flow.1.upgrade().is_some_and(|answered| answered.load(Ordering::Relaxed) != beat);
        self.flows().iter().filter(silent).map(|(name, _)| name.clone()).collect()
    }

    /// Nothing panics while it holds the lock, and what is in there is whole in any case.
    fn flows(&self) -> MutexGuard<'_, Vec<Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks all flows.
    pub fn ask(&self) {
        self.beat.send_modify(|beat| *beat += 1);
    }
}

impl Pulse {
    /// Waits for the next beat and answers it: one arm of the flow's `select!`. Never returns once the heart is gone.
    /// Cancel-safe.
    pub async fn answer(&mut self) {
        if self.beat.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.answer_now();
    }

    /// Waits for `work`, answering meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.answer() => {}
            }
        }
    }

    /// Answers the latest beat, for flows that are no task (the spool's thread).
    pub fn answer_now(&mut self) {
        let beat = *self.beat.borrow_and_update();
        self.answered.store(beat, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_hangs_never_goes_unnoticed() {
        let heart = Heart::default();
        let mut quick = heart.pulse("quick");
        let _hung = heart.pulse("hung");
        assert!(heart.stuck().is_empty(), "nothing was asked yet");
        heart.ask();
        quick.answer_now();
        assert_eq!(heart.stuck(), ["hung"]);
    }

    #[test]
    fn a_flow_that_was_ended_is_never_waited_for_nor_remembered() {
        let heart = Heart::default();
        let mut stays = heart.pulse("stays");
        for _ in 0..100 {
            drop(heart.clone().pulse("comes and goes"));
        }
        heart.ask();
        stays.answer_now();
        assert_eq!(heart.stuck(), Vec::<String>::new());
        assert!(heart.flows().len() <= 2);
    }
}
