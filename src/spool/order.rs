//! In which order the streams are read: by priority, in turn among equals, and live records of one before the backlog of another.
//!
//! Constraints: a stream that is held is passed over; a backlog keeps its pace, see `backfill`.

use super::Spool;
use crate::config::Stream;
use crate::record::{Sequenced, StreamId, Timestamp};

/// What goes first on the link; the least is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency(u16);

impl Urgency {
    /// Records in the turn of their stream, which has this priority.
    pub fn of(priority: u8) -> Self {
        Urgency(2 * u16::from(priority) + 1)
    }

    /// Live records before the backlog of a stream of this priority.
    pub fn before(priority: u8) -> Self {
        Urgency(2 * u16::from(priority))
    }
}

/// The ids of streams by priority.
pub(super) fn turns(streams: &[Stream]) -> Vec<StreamId> {
    let mut turns: Vec<(StreamId, u8)> =
        (0..).map(StreamId).zip(streams.iter().map(|stream| stream.priority)).collect();
    turns.sort_by_key(|(_, priority)| *priority);
    turns.into_iter().map(|(id, _)| id).collect()
}

impl Spool {
    /// The next records to be published: of the most urgent stream that has any, in turn among equals. A backlog that
    /// has to keep its pace is passed over, and live records of less urgent streams may go before a backlog.
    pub fn read(&mut self, limit: usize, now: Timestamp) -> Option<(StreamId, Vec<Sequenced>, Urgency)> {
        let found = self.overtake(limit, now).or_else(|| self.read_in_turn(limit, now));
        self.announce(now);
        found
    }

    fn read_in_turn(&mut self, limit: usize, now: Timestamp) -> Option<(StreamId, Vec<Sequenced>, Urgency)> {
        for place in 0..self.turns.len() {
            let &stream = self.turns.get(place)?;
            if self.is_held(stream) {
                continue;
            }
            let records = self.read_from(stream, limit, now);
            if !records.is_empty() {
                self.end_turn(place);
                return Some((stream, records, Urgency::of(self.priority(stream))));
            }
        }
        None
    }

    /// Live records that would have to wait for the backlog of another stream, which comes before theirs.
    fn overtake(&mut self, limit: usize, now: Timestamp) -> Option<(StreamId, Vec<Sequenced>, Urgency)> {
        let limit = self.backfill.overtaking().min(limit);
        if limit == 0 {
            return None;
        }
        let mut backlog = None;
        for place in 0..self.turns.len() {
            let &stream = self.turns.get(place)?;
            if self.is_held(stream) {
                continue;
            }
            let Some(log) = self.logs.get_mut(stream.index()) else { continue };
            let Some(next) = log.next_to_read() else { continue };
            match backlog {
                _ if self.backfill.is_backlog(stream, next) => {
                    backlog.get_or_insert(log.rules.stream.priority);
                }
                // What is live and most urgent goes in its turn.
                None => return None,
                Some(priority) => {
                    let records = log.read(limit, usize::MAX, now);
                    if !records.is_empty() {
                        self.backfill.overtake(&records);
                        self.end_turn(place);
                        return Some((stream, records, Urgency::before(priority)));
                    }
                }
            }
        }
        None
    }

    /// The next records of this stream, as many as may go out now.
    fn read_from(&mut self, stream: StreamId, limit: usize, now: Timestamp) -> Vec<Sequenced> {
        let Some(log) = self.logs.get_mut(stream.index()) else { return Vec::new() };
        let Some(next) = log.next_to_read() else { return Vec::new() };
        let count = self.backfill.allowance(stream, next, now.mono_ms);
        let records = log.read(limit, count, now);
        self.backfill.spend(stream, &records);
        records
    }

    /// Puts the stream behind the others of its priority.
    fn end_turn(&mut self, place: usize) {
        let priority = |id: &StreamId| self.priority(*id);
        let Some(mine) = self.turns.get(place).map(priority) else { return };
        let end = self.turns.iter().rposition(|id| priority(id) == mine).unwrap_or(place);
        if let Some(equals) = self.turns.get_mut(place..=end) {
            equals.rotate_left(1);
        }
    }

    fn priority(&self, stream: StreamId) -> u8 {
        self.logs.get(stream.index()).map_or(u8::MAX, |log| log.rules.stream.priority)
    }

    fn is_held(&self, stream: StreamId) -> bool {
        self.held & stream.bit() != 0
    }
}
