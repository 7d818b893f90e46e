//! What is known of one connection while it lasts: what waits on either side, and when to look again.

use super::Outlets;
use super::parcel::Parcel;
use super::waiting::Waiting;
use crate::mqtt::keep_alive::KeepAlive;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// One connection's affairs.
pub(super) struct Talk {
    pub(super) server: String,
    pub(super) remembered: bool,
    pub(super) waiting: Waiting,
    /// Packets that are not acknowledged, in the order in which they came. Bounded by the channels of the flows and
    /// what they work on.
    pub(super) unsettled: VecDeque<(u16, oneshot::Receiver<()>)>,
    /// What the flow that it is for has no room for. Nothing is read meanwhile.
    pub(super) stalled: VecDeque<Parcel>,
    /// The question for all keys, while it is not answered.
    pub(super) round: Option<Round>,
    pub(super) rounds: u32,
    /// When the broker must have answered all subscriptions, at the latest.
    pub(super) answer_by: Option<Instant>,
    /// When the connection is to be ended, for something has to come again.
    pub(super) come_again: Option<Instant>,
    pub(super) keep_alive: KeepAlive,
    /// The address of this end has gone, and the broker was asked whether it is still there.
    pub(super) uprooted: bool,
    /// The server that is moved to, and until when acknowledgements are waited for.
    pub(super) moving: Option<(usize, Instant)>,
    pub(super) subscribed: bool,
    /// What the broker has said of the connection.
    pub(super) notices: Vec<String>,
}

/// All keys are on their way.
pub(super) struct Round {
    /// Since the SUBACK.
    pub(super) waiting: Option<Waiting>,
    /// Messages that are no retained keys.
    pub(super) foreign: u32,
}

impl Talk {
    /// Hands over what there is room for, the oldest first.
    pub(super) fn hand_over(&mut self, outlets: &Outlets) {
        while let Some(parcel) = self.stalled.pop_front() {
            if let Err(parcel) = outlets.hand_over(parcel) {
                self.stalled.push_front(parcel);
                return;
            }
        }
    }

    pub(super) fn pass_on(&mut self, parcel: Parcel, outlets: &Outlets) {
        self.stalled.push_back(parcel);
        self.hand_over(outlets);
    }

    /// The broker has spoken.
    pub(super) fn heard(&mut self) {
        self.keep_alive.heard();
        self.uprooted = false;
    }

    pub(super) fn caught_up(&mut self, now_ms: u64) {
        self.waiting.caught_up(now_ms);
        if let Some(waiting) = self.waiting_of_round() {
            waiting.caught_up(now_ms);
        }
    }

    pub(super) fn pinged(&mut self) {
        self.waiting.pinged();
        if let Some(waiting) = self.waiting_of_round() {
            waiting.pinged();
        }
    }

    pub(super) fn ponged(&mut self, now_ms: u64) {
        self.waiting.ponged(now_ms);
        if let Some(waiting) = self.waiting_of_round() {
            waiting.ponged(now_ms);
        }
    }

    fn waiting_of_round(&mut self) -> Option<&mut Waiting> {
        self.round.as_mut()?.waiting.as_mut()
    }

    /// When to look again, if nothing comes before; `now_ms` is this instant on the clock of [`Waiting`].
    pub(super) fn alarm(&self, now_ms: u64) -> Instant {
        // Nothing else counts any more.
        if let Some((_, until)) = self.moving {
            return self.come_again.map_or(until, |at| at.min(until));
        }
        let probe = self.probe_ms().map(|at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms)));
        let others = [probe.map(|probe| Instant::now() + probe), self.come_again, self.answer_by];
        others.into_iter().flatten().fold(self.keep_alive.due(), Instant::min)
    }

    /// When the next ping is due to find out whether something is left.
    fn probe_ms(&self) -> Option<u64> {
        let of_commands = self.waiting.probe_ms().filter(|_| self.subscribed);
        let of_round = self.round.as_ref().and_then(|round| round.waiting.as_ref()?.probe_ms());
        of_commands.into_iter().chain(of_round).min()
    }
}
