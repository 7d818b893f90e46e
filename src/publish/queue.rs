//! What the spool has pushed and was not sent yet: because the window has no room, or because it waits for company. Pure.
//!
//! - The most urgent records go first: on a slow link an event doesn't wait for the credit's worth of a backlog. A stream keeps
//!   its order whatever its records' urgency: what it has in a less urgent place comes along with a more urgent record of it.
//! - Records of a stream with `batch` go in runs: as many as follow each other on one topic, up to its limits. A run that may
//!   still grow waits until `delay` after its first record came, unless so much waits that memory is scarce.
//! - A stream that has to wait altogether (see `gate`) is passed over; what of it is here already counts no more against the
//!   credit, so that it holds up nobody.

use super::parcel::likes_company;
use crate::config::{Batching, Stream};
use crate::record::{Sequenced, StreamId};
use crate::spool::Urgency;
use crate::spool::thread::{CREDIT, cost};
use std::collections::VecDeque;

/// Bytes that may wait for company. All else of the credit is for what comes next: an event must find room.
const PATIENCE: usize = CREDIT / 8 * 3;

/// The records that wait. No more of them than the spool's credit.
#[derive(Debug)]
pub(super) struct Queue {
    /// By stream.
    lanes: Vec<Lane>,
    /// Counts pushes: among equals the one that came first goes first.
    pushes: u64,
    /// What waits costs so many bytes of memory.
    cost: usize,
}

/// The records of a stream.
#[derive(Debug)]
struct Lane {
    /// Its name, which is part of the message.
    name: String,
    batching: Option<Batching>,
    /// In order; their urgency never grows from one to the next.
    waiting: VecDeque<Waiting>,
    run: Run,
    is_held: bool,
}

#[derive(Debug)]
struct Waiting {
    record: Sequenced,
    urgency: Urgency,
    push: u64,
    /// When it came, in milliseconds of the monotonic clock.
    since_ms: u64,
    /// Against the spool's credit, in bytes.
    cost: usize,
}

/// What is known of the run at the front of a lane.
#[derive(Debug, Default)]
struct Run {
    count: usize,
    bytes: usize,
    /// Nothing more can join it.
    is_full: bool,
}

/// What may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// The run at the front of this stream.
    Now(StreamId),
    /// Nothing before then, in milliseconds of the monotonic clock.
    At(u64),
    /// Nothing waits.
    Nothing,
}

/// Records that have left the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The number of the first one.
    pub(super) first: u64,
    /// The number of the last one.
    pub(super) last: u64,
    /// Their cost against the spool's credit, in bytes.
    pub(super) cost: usize,
}

impl Queue {
    /// An empty one for these streams, in the order of their ids.
    pub(super) fn new(streams: &[Stream]) -> Self {
        let lane = |stream: &Stream| Lane {
            name: stream.name.clone(),
            batching: stream.batch,
            waiting: VecDeque::new(),
            run: Run::default(),
            is_held: false,
        };
        Queue { lanes: streams.iter().map(lane).collect(), pushes: 0, cost: 0 }
    }

    /// Takes in records of a stream, in order. Returns what they cost, in bytes, if the stream is held: it is to be granted again.
    pub(super) fn enqueue(
        &mut self,
        stream: StreamId,
        records: Vec<Sequenced>,
        urgency: Urgency,
        now_ms: u64,
    ) -> usize {
        self.pushes += 1;
        let push = self.pushes;
        let Some(lane) = self.lanes.get_mut(stream.index()) else { return 0 };
        for waiting in lane.waiting.iter_mut().rev().take_while(|waiting| waiting.urgency > urgency) {
            (waiting.urgency, waiting.push) = (urgency, push);
        }
        let waiting =
            |record: Sequenced| Waiting { cost: cost(&record.record), record, urgency, push, since_ms: now_ms };
        let before = lane.waiting.len();
        lane.waiting.extend(records.into_iter().map(waiting));
        let came: usize = lane.waiting.range(before..).map(|waiting| waiting.cost).sum();
        self.cost += came;
        if lane.is_held { self.let_off(stream) } else { 0 }
    }

    /// Lets this stream go, or makes it wait. Returns what it costs, in bytes, if it has to wait: it is to be granted again.
    pub(super) fn hold(&mut self, stream: StreamId, is_held: bool) -> usize {
        let Some(lane) = self.lanes.get_mut(stream.index()) else { return 0 };
        lane.is_held = is_held;
        if is_held { self.let_off(stream) } else { 0 }
    }

    /// Forgets what waits in this stream: it comes again. Returns what it cost, in bytes, which is to be granted again.
    pub(super) fn forget(&mut self, stream: StreamId) -> usize {
        let cost = self.let_off(stream);
        if let Some(lane) = self.lanes.get_mut(stream.index()) {
            lane.waiting.clear();
            lane.run = Run::default();
        }
        cost
    }

    /// What waits in this stream costs nothing any more. Returns what it did.
    fn let_off(&mut self, stream: StreamId) -> usize {
        let Some(lane) = self.lanes.get_mut(stream.index()) else { return 0 };
        let cost = lane.waiting.iter_mut().map(|waiting| std::mem::take(&mut waiting.cost)).sum();
        self.cost = self.cost.saturating_sub(cost);
        cost
    }

    /// What may be sent now: of the runs that are complete the most urgent, but for streams that are `busy`, a bit for each id.
    /// When not `patient`, no run waits.
    pub(super) fn ready(&mut self, now_ms: u64, patient: bool, busy: u64) -> Ready {
        let patient = patient && self.cost < PATIENCE;
        let (mut best, mut due_ms) = (None, None);
        let may_go = |(lane, stream): &(&mut Lane, StreamId)| !lane.is_held && busy & stream.bit() == 0;
        for (lane, stream) in self.lanes.iter_mut().zip((0..).map(StreamId)).filter(may_go) {
            let Some(front) = lane.waiting.front() else { continue };
            let (place, since_ms) = ((front.urgency, front.push), front.since_ms);
            let wait_ms = if patient { lane.wait_ms() } else { 0 };
            let due = since_ms.saturating_add(wait_ms);
            if now_ms < due {
                due_ms = Some(due_ms.map_or(due, |earliest: u64| earliest.min(due)));
            } else if best.is_none_or(|(first, _)| place < first) {
                best = Some((place, stream));
            }
        }
        match (best, due_ms) {
            (Some((_, stream)), _) => Ready::Now(stream),
            (None, Some(due_ms)) => Ready::At(due_ms),
            (None, None) => Ready::Nothing,
        }
    }

    /// The run at the front of this stream.
    pub(super) fn run(&mut self, stream: StreamId) -> impl Iterator<Item = &Sequenced> {
        let lane = self.lanes.get_mut(stream.index());
        let (waiting, count) = match lane {
            Some(lane) => {
                lane.measure();
                (Some(&lane.waiting), lane.run.count)
            }
            None => (None, 0),
        };
        waiting.into_iter().flatten().map(|waiting| &waiting.record).take(count)
    }

    /// Takes this many records out of the run at the front of this stream.
    pub(super) fn take(&mut self, stream: StreamId, count: usize) -> Taken {
        let Some(lane) = self.lanes.get_mut(stream.index()) else { return Taken::default() };
        lane.run = Run::default();
        let first = lane.waiting.front().map_or(0, |waiting| waiting.record.seq);
        let mut taken = Taken { first, ..Taken::default() };
        for Waiting { record, cost, .. } in lane.waiting.drain(..count.min(lane.waiting.len())) {
            taken.last = record.seq;
            taken.cost += cost;
        }
        self.cost = self.cost.saturating_sub(taken.cost);
        taken
    }

    /// Whether nothing waits, but for what has to.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty() || lane.is_held)
    }

    /// Forgets everything: it comes again.
    pub(super) fn clear(&mut self) {
        self.cost = 0;
        for lane in &mut self.lanes {
            lane.waiting.clear();
            lane.run = Run::default();
        }
    }
}

impl Lane {
    /// How long the run at the front waits for company, in milliseconds from when its first record came.
    fn wait_ms(&mut self) -> u64 {
        self.measure();
        match self.batching {
            Some(batching) if !self.run.is_full => u64::try_from(batching.delay.as_millis()).unwrap_or(u64::MAX),
            _ => 0,
        }
    }

    /// Finds how far the run at the front goes. Each record is looked at once only.
    fn measure(&mut self) {
        while !self.run.is_full
            && let Some(next) = self.waiting.get(self.run.count)
            && let Some(first) = self.waiting.front()
        {
            let run = &mut self.run;
            let bytes = next.record.likely_size(&self.name);
            let limits = self.batching.filter(|_| likes_company(&first.record.record));
            let joins = |limits: Batching| {
                let (first, next) = (&first.record.record, &next.record.record);
                first.topic == next.topic && likes_company(next) && run.bytes + bytes <= limits.bytes
            };
            if run.count > 0 && !limits.is_some_and(joins) {
                run.is_full = true;
                return;
            }
            run.count += 1;
            run.bytes += bytes;
            run.is_full = limits.is_none_or(|limits| run.count >= usize::from(limits.records));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BatchFormat, WhenFull};
    use crate::record::{Encoding, Record, Timestamp};
    use proptest::prelude::*;
    use std::time::Duration;

    const EVENT: StreamId = StreamId::EVENT;
    const TELEMETRY: StreamId = StreamId::TELEMETRY;
    const LOG: StreamId = StreamId::LOG;

    fn queue(batching: Option<Batching>) -> Queue {
        let stream = |name: &str, batch| Stream {
            name: name.to_owned(),
            max_bytes: 0,
            max_age: None,
            when_full: WhenFull::DropOldest,
            priority: 0,
            batch,
            quiet_hours: None,
            convention: Default::default(),
        };
        Queue::new(&[stream("event", None), stream("telemetry", None), stream("log", batching)])
    }

    /// Five at a time, after a second.
    fn batches() -> Queue {
        let (delay, format) = (Duration::from_secs(1), BatchFormat::Ndjson);
        queue(Some(Batching { records: 5, bytes: 10_000, delay, format, deflate: false }))
    }

    fn record(seq: u64) -> Sequenced {
        let record = Record { topic: "t".to_owned(), time: Timestamp::UNKNOWN, encoding: Encoding::Json, data: vec![] };
        Sequenced { seq, record }
    }

    fn put(queue: &mut Queue, stream: StreamId, seqs: std::ops::Range<u64>, urgency: Urgency, now_ms: u64) {
        queue.enqueue(stream, seqs.map(record).collect(), urgency, now_ms);
    }

    /// The next message: its stream, its first record and its last one.
    fn next(queue: &mut Queue, now_ms: u64, patient: bool) -> Result<(StreamId, u64, u64), Ready> {
        match queue.ready(now_ms, patient, 0) {
            Ready::Now(stream) => {
                let count = queue.run(stream).count();
                let Taken { first, last, .. } = queue.take(stream, count);
                Ok((stream, first, last))
            }
            other => Err(other),
        }
    }

    fn all(queue: &mut Queue) -> Vec<(StreamId, u64)> {
        let singles = std::iter::from_fn(|| next(queue, 0, true).ok());
        singles.map(|(stream, first, _)| (stream, first)).collect()
    }

    #[test]
    fn an_event_never_waits_for_what_came_before_it() {
        let mut queue = queue(None);
        put(&mut queue, LOG, 1..3, Urgency::of(2), 0);
        put(&mut queue, TELEMETRY, 1..3, Urgency::of(1), 0);
        put(&mut queue, EVENT, 1..2, Urgency::of(0), 0);
        assert_eq!(all(&mut queue), [(EVENT, 1), (TELEMETRY, 1), (TELEMETRY, 2), (LOG, 1), (LOG, 2)]);
        assert!(queue.is_empty() && queue.cost == 0);
    }

    #[test]
    fn a_record_that_overtakes_never_leaves_its_elders_behind() {
        let mut queue = queue(None);
        put(&mut queue, TELEMETRY, 1..2, Urgency::of(1), 0);
        put(&mut queue, LOG, 1..3, Urgency::of(2), 0);
        put(&mut queue, LOG, 3..4, Urgency::before(1), 0);
        assert_eq!(all(&mut queue), [(LOG, 1), (LOG, 2), (LOG, 3), (TELEMETRY, 1)]);
    }

    #[test]
    fn a_record_never_waits_longer_than_the_delay() {
        let mut queue = batches();
        put(&mut queue, LOG, 1..3, Urgency::of(2), 100);
        put(&mut queue, LOG, 3..4, Urgency::of(2), 900);
        assert_eq!(next(&mut queue, 1099, true), Err(Ready::At(1100)));
        put(&mut queue, TELEMETRY, 1..2, Urgency::of(1), 1099);
        assert_eq!(next(&mut queue, 1099, true), Ok((TELEMETRY, 1, 1)), "others don't wait");
        assert_eq!(next(&mut queue, 1100, true), Ok((LOG, 1, 3)));
        assert_eq!(next(&mut queue, 1100, true), Err(Ready::Nothing));
    }

    #[test]
    fn a_batch_that_can_grow_no_more_never_waits() {
        let mut queue = batches();
        put(&mut queue, LOG, 1..14, Urgency::of(2), 0);
        assert_eq!(next(&mut queue, 0, true), Ok((LOG, 1, 5)));
        assert_eq!(next(&mut queue, 0, true), Ok((LOG, 6, 10)));
        assert_eq!(next(&mut queue, 0, true), Err(Ready::At(1000)), "three of five");
        assert_eq!(next(&mut queue, 0, false), Ok((LOG, 11, 13)), "draining");
        // Another topic, bytes alone, what the broker keeps.
        let [mut topic, mut raw, mut kept] = [20, 21, 22].map(record);
        topic.record.topic = "u".to_owned();
        raw.record.encoding = Encoding::Raw;
        kept.record.topic = "config-reported/a".to_owned();
        queue.enqueue(LOG, vec![record(18), record(19), topic, raw, kept, record(23)], Urgency::of(2), 0);
        for expected in [(LOG, 18, 19), (LOG, 20, 20), (LOG, 21, 21), (LOG, 22, 22)] {
            assert_eq!(next(&mut queue, 0, true), Ok(expected));
        }
        assert_eq!(next(&mut queue, 0, true), Err(Ready::At(1000)));
        // So large that nothing can join it.
        let mut large = record(24);
        large.record.data = vec![0; 10_000];
        queue.enqueue(LOG, vec![large, record(25)], Urgency::of(2), 0);
        assert_eq!(next(&mut queue, 0, true), Ok((LOG, 23, 23)));
        assert_eq!(next(&mut queue, 0, true), Ok((LOG, 24, 24)));
    }

    #[test]
    fn what_was_not_packed_never_loses_its_place() {
        let mut queue = batches();
        put(&mut queue, LOG, 1..6, Urgency::of(2), 0);
        assert_eq!(queue.run(LOG).count(), 5);
        assert_eq!(queue.take(LOG, 2).last, 2);
        assert_eq!(next(&mut queue, 0, true), Err(Ready::At(1000)));
        assert_eq!(next(&mut queue, 1000, true), Ok((LOG, 3, 5)));
    }

    #[test]
    fn a_stream_that_is_held_never_goes_nor_holds_up_others() {
        let mut queue = queue(None);
        put(&mut queue, LOG, 1..3, Urgency::of(0), 0);
        let of_two = queue.cost;
        assert_eq!((queue.hold(LOG, true), queue.cost, queue.is_empty()), (of_two, 0, true));
        assert_eq!(queue.enqueue(LOG, vec![record(3)], Urgency::of(0), 0), of_two / 2, "it was on its way");
        put(&mut queue, TELEMETRY, 1..2, Urgency::of(1), 0);
        assert_eq!(all(&mut queue), [(TELEMETRY, 1)]);
        assert_eq!((queue.hold(LOG, false), queue.is_empty()), (0, false));
        assert_eq!(queue.take(LOG, 1), Taken { first: 1, last: 1, cost: 0 }, "it was granted again");
        assert_eq!(all(&mut queue), [(LOG, 2), (LOG, 3)]);
    }

    #[test]
    fn a_stream_that_is_busy_or_comes_again_never_holds_up_others() {
        let mut queue = queue(None);
        put(&mut queue, LOG, 1..3, Urgency::of(0), 0);
        put(&mut queue, TELEMETRY, 1..2, Urgency::of(1), 0);
        assert_eq!(queue.ready(0, true, LOG.bit()), Ready::Now(TELEMETRY));
        assert_eq!(queue.ready(0, true, LOG.bit() | TELEMETRY.bit()), Ready::Nothing);
        let cost = queue.cost;
        assert_eq!((queue.forget(LOG) + queue.cost, queue.forget(LOG)), (cost, 0));
        assert_eq!(all(&mut queue), [(TELEMETRY, 1)]);
        assert_eq!(queue.cost, 0);
    }

    #[test]
    fn batches_that_wait_never_use_up_the_credit() {
        let mut queue = batches();
        let mut large = record(1);
        large.record.data = vec![0; PATIENCE / 4];
        large.record.topic = "u".to_owned();
        let mut seq = 0;
        while next(&mut queue, 0, true) == Err(Ready::At(1000)) || seq == 0 {
            seq += 1;
            let lane = &mut queue.lanes[LOG.index()];
            lane.batching = lane.batching.map(|batching| Batching { bytes: 1 << 20, ..batching });
            queue.enqueue(LOG, vec![Sequenced { seq, ..large.clone() }], Urgency::of(2), 0);
        }
        assert!(seq < 5, "{seq}");
    }

    proptest! {
        #[test]
        fn a_stream_never_loses_its_order(
            steps in prop::collection::vec((0..3u8, 0..4u8, 0..9u64, 0..4usize, 0..700u64), 0..60),
        ) {
            let mut queue = batches();
            let (mut first, mut came, mut now_ms) = ([1; 3], [0; 3], 0);
            let mut take = |queue: &mut Queue, count, now_ms, patient| -> Result<(), TestCaseError> {
                for (stream, first, last) in std::iter::from_fn(|| next(queue, now_ms, patient).ok()).take(count) {
                    let came = &mut came[stream.index()];
                    prop_assert_eq!(first, *came + 1);
                    let most = if stream == LOG { 5 } else { 1 };
                    prop_assert!((first..first + most).contains(&last));
                    *came = last;
                }
                Ok(())
            };
            for (stream, priority, count, taken, passed_ms) in steps {
                now_ms += passed_ms;
                let next = &mut first[usize::from(stream)];
                let urgency = if priority % 2 == 0 { Urgency::of(priority) } else { Urgency::before(priority) };
                put(&mut queue, StreamId(stream), *next..*next + count, urgency, now_ms);
                *next += count;
                take(&mut queue, taken, now_ms, true)?;
                if let Ready::At(due_ms) = queue.ready(now_ms, true, 0) {
                    prop_assert!((now_ms..=now_ms + 1000).contains(&due_ms));
                }
            }
            take(&mut queue, usize::MAX, now_ms, false)?;
            prop_assert!(queue.is_empty());
            prop_assert_eq!(queue.cost, 0);
            prop_assert_eq!(came.map(|came| came + 1), first);
        }
    }
}
