//! How a backlog is handed to the publisher: what a stream took in before the latest rewind, which is before the present
//! connection. Everything after that is *live*.
//!
//! - It goes out at a steady pace if the configuration gives one (`mqtt.backfill_rate`). The pace is one for all streams
//!   together, and only their backlogs pay for it; a stream whose backlog has to wait keeps its order and holds up no other
//!   stream; when nothing may go out nobody is woken before its time.
//! - It lets live records of less urgent streams go first, as long as these take no more than a quarter of the link: an hour
//!   of backlog holds up no stream's present, and a flood of logs can't hold up the backlog.

use super::log::cost;
use crate::pace::Pace;
use crate::record::{Sequenced, StreamId};
use std::num::NonZeroU32;

/// Bytes of backlog that pay for one byte of a less urgent stream's live records.
const PRICE: usize = 3;
/// Bytes of live records that may go first before a backlog pays for them.
const LOAN: usize = 16 * 1024;

/// The pace, and where the backlogs end.
pub(super) struct Backfill {
    /// `None`: no limit.
    pace: Option<Pace>,
    /// For each stream: from this number on its records are live.
    live_from: Vec<u64>,
    /// A backlog was held back until then, in milliseconds of the monotonic clock.
    held_until_ms: Option<u64>,
    /// Bytes of backlog that have to pay for live records which went first.
    owed: usize,
}

impl Backfill {
    /// `rate` records per second, 0 for no limit. Before the first rewind nobody is connected and nothing is held back.
    pub(super) fn new(rate: u32, now_ms: u64) -> Self {
        let mut backfill = Backfill { pace: None, live_from: Vec::new(), held_until_ms: None, owed: 0 };
        backfill.set_rate(rate, now_ms);
        backfill
    }

    /// From now on at this rate. Where the backlogs end stays.
    pub(super) fn set_rate(&mut self, rate: u32, now_ms: u64) {
        self.pace = NonZeroU32::new(rate).map(|rate| Pace::new(rate, now_ms));
        self.held_until_ms = None;
    }

    /// A new connection: every stream's records below these numbers are its backlog.
    pub(super) fn rewind(&mut self, live_from: impl Iterator<Item = u64>) {
        self.live_from = live_from.collect();
    }

    /// This stream was held: its records below this number are its backlog.
    pub(super) fn release(&mut self, stream: StreamId, live_from: u64) {
        if let Some(first) = self.live_from.get_mut(stream.index()) {
            *first = live_from;
        }
    }

    /// How many records of the stream may be read, the first of them being `next`.
    pub(super) fn allowance(&mut self, stream: StreamId, next: u64, now_ms: u64) -> usize {
        let is_backlog = self.is_backlog(stream, next);
        let Some(pace) = self.pace.as_mut().filter(|_| is_backlog) else { return usize::MAX };
        let available = pace.available(now_ms);
        if available == 0 {
            self.held_until_ms = Some(pace.due_ms());
        }
        usize::try_from(available).unwrap_or(usize::MAX)
    }

    /// Bytes of live records that may go before the backlog of a more urgent stream; 0: none.
    pub(super) fn overtaking(&self) -> usize {
        LOAN.saturating_sub(self.owed / PRICE)
    }

    /// These records were read in their stream's turn.
    pub(super) fn spend(&mut self, stream: StreamId, records: &[Sequenced]) {
        let live_from = self.live_from(stream);
        let backlog = || records.iter().filter(|record| record.seq < live_from);
        if let Some(pace) = &mut self.pace {
            pace.take(u64::try_from(backlog().count()).unwrap_or(u64::MAX));
        }
        let paid: usize = backlog().map(|record| cost(&record.record)).sum();
        self.owed = self.owed.saturating_sub(paid);
    }

    /// These live records were read before the backlog of a more urgent stream.
    pub(super) fn overtake(&mut self, records: &[Sequenced]) {
        let bytes: usize = records.iter().map(|record| cost(&record.record)).sum();
        self.owed = self.owed.saturating_add(bytes.saturating_mul(PRICE));
    }

    /// When reading is worth another try.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.held_until_ms
    }

    /// The wait is over; whoever reads next tries again.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.held_until_ms = self.held_until_ms.filter(|&due| now_ms < due);
    }

    /// Whether this record of the stream was taken in before the latest rewind.
    pub(super) fn is_backlog(&self, stream: StreamId, seq: u64) -> bool {
        seq < self.live_from(stream)
    }

    fn live_from(&self, stream: StreamId) -> u64 {
        self.live_from.get(stream.index()).copied().unwrap_or(0)
    }
}
