//! What the spool has pushed and the window had no room for yet. Pure.
//!
//! The most urgent records go first: on a slow link an event doesn't wait for the credit's worth of a backlog. A stream keeps
//! its order whatever its records' urgency: what it has in a less urgent place comes along with a more urgent record of it.

use crate::record::{Sequenced, StreamId};
use crate::spool::Urgency;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// The records that wait, in the order in which they go. No more of them than the spool's credit.
#[derive(Debug, Default)]
pub(super) struct Queue {
    places: BTreeMap<Urgency, VecDeque<(StreamId, Sequenced)>>,
}

impl Queue {
    /// Takes in records of a stream, in order.
    pub(super) fn enqueue(&mut self, stream: StreamId, records: Vec<Sequenced>, urgency: Urgency) {
        let mut moved = VecDeque::new();
        for (_, less_urgent) in self.places.range_mut((Bound::Excluded(urgency), Bound::Unbounded)) {
            let (ours, others): (VecDeque<_>, _) =
                std::mem::take(less_urgent).into_iter().partition(|(of, _)| *of == stream);
            *less_urgent = others;
            moved.extend(ours);
        }
        let place = self.places.entry(urgency).or_default();
        place.append(&mut moved);
        place.extend(records.into_iter().map(|record| (stream, record)));
    }

    /// The oldest of the most urgent records.
    pub(super) fn next(&mut self) -> Option<(StreamId, Sequenced)> {
        self.places.values_mut().find_map(VecDeque::pop_front)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.places.values().all(VecDeque::is_empty)
    }

    /// Forgets everything: it comes again.
    pub(super) fn clear(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Encoding, Record, Timestamp};
    use proptest::prelude::*;

    const EVENT: StreamId = StreamId::EVENT;
    const TELEMETRY: StreamId = StreamId::TELEMETRY;
    const LOG: StreamId = StreamId::LOG;

    fn record(seq: u64) -> Sequenced {
        let record = Record { topic: "t".to_owned(), time: Timestamp::UNKNOWN, encoding: Encoding::Json, data: vec![] };
        Sequenced { seq, record }
    }

    fn put(queue: &mut Queue, stream: StreamId, seqs: std::ops::Range<u64>, urgency: Urgency) {
        queue.enqueue(stream, seqs.map(record).collect(), urgency);
    }

    fn all(queue: &mut Queue) -> Vec<(StreamId, u64)> {
        std::iter::from_fn(|| queue.next()).map(|(stream, record)| (stream, record.seq)).collect()
    }

    #[test]
    fn an_event_never_waits_for_what_came_before_it() {
        let mut queue = Queue::default();
        put(&mut queue, LOG, 1..3, Urgency::of(2));
        put(&mut queue, TELEMETRY, 1..3, Urgency::of(1));
        put(&mut queue, EVENT, 1..2, Urgency::of(0));
        assert_eq!(all(&mut queue), [(EVENT, 1), (TELEMETRY, 1), (TELEMETRY, 2), (LOG, 1), (LOG, 2)]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_record_that_overtakes_never_leaves_its_elders_behind() {
        let mut queue = Queue::default();
        put(&mut queue, TELEMETRY, 1..2, Urgency::of(1));
        put(&mut queue, LOG, 1..3, Urgency::of(2));
        put(&mut queue, LOG, 3..4, Urgency::before(1));
        assert_eq!(all(&mut queue), [(LOG, 1), (LOG, 2), (LOG, 3), (TELEMETRY, 1)]);
    }

    proptest! {
        #[test]
        fn a_stream_never_loses_its_order(steps in prop::collection::vec((0..3u8, 0..4u8, 0..4u64, 0..4usize), 0..60)) {
            let mut queue = Queue::default();
            let (mut next, mut came) = ([1; 3], [0; 3]);
            let mut take = |queue: &mut Queue, count| -> Result<(), TestCaseError> {
                for (stream, record) in std::iter::from_fn(|| queue.next()).take(count) {
                    let came = &mut came[stream.index()];
                    prop_assert_eq!(record.seq, *came + 1);
                    *came = record.seq;
                }
                Ok(())
            };
            for (stream, priority, count, taken) in steps {
                let first = &mut next[usize::from(stream)];
                let urgency = if priority % 2 == 0 { Urgency::of(priority) } else { Urgency::before(priority) };
                put(&mut queue, StreamId(stream), *first..*first + count, urgency);
                *first += count;
                take(&mut queue, taken)?;
            }
            take(&mut queue, usize::MAX)?;
            prop_assert!(queue.is_empty());
            prop_assert_eq!(came.map(|came| came + 1), next);
        }
    }
}
