//! The in-flight window: which packet id stands for which records, and what may be trimmed. Pure.
//!
//! A message carries one record of a stream, or a run of them that follow each other in it; a run is acknowledged as a whole.
//!
//! MQTT 3.1.1 section 4.6 lets a broker acknowledge in another order than we sent, and a bad one acknowledges late, twice or
//! never. A stream is trimmed up to the last record before which nothing is missing, so an acknowledgement out of turn is
//! kept until the older ones have come. Ids go round through all 65,535, however small the window: an acknowledgement
//! that comes twice must not find a later record under its id.

use crate::record::StreamId;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Messages that may be sent ahead of one whose acknowledgement is missing, in windows: what bounds memory
/// when a broker acknowledges everything but one record.
const SPAN: usize = 4;

/// A topic, to be known again without being kept: two have the same number once in 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic(u64);

impl Topic {
    /// The one of this name.
    pub fn of(name: &str) -> Topic {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Topic(hasher.finish())
    }
}

/// What a packet id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Records of the spool that follow each other in their stream.
    Records {
        /// Their stream.
        stream: StreamId,
        /// The sequence number of the first one.
        first: u64,
        /// The sequence number of the last one: the same, if there is one only. Numbers between the two may be missing.
        last: u64,
    },
    /// A retained message, or another one that the spool knows nothing of.
    Retained,
}

impl Sent {
    /// A message with records, by their stream and the number of the first one.
    pub fn message(self) -> Option<(StreamId, u64)> {
        match self {
            Sent::Records { stream, first, .. } => Some((stream, first)),
            Sent::Retained => None,
        }
    }
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The stream may be trimmed up to this record.
    Trim {
        /// The stream.
        stream: StreamId,
        /// Everything up to this number has been acknowledged.
        upto: u64,
    },
    /// Records, but an older one is still missing.
    OutOfTurn,
    /// A retained message.
    Retained,
    /// Nothing was waiting for it.
    Unsolicited,
}

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    /// Packet ids that may wait for an acknowledgement at a time.
    size: usize,
    /// What waits for an acknowledgement, by its packet id.
    slots: HashMap<u16, Slot>,
    /// The id that is used next, if it is free.
    next_id: u16,
    /// For each stream what has been sent and can't be trimmed yet.
    order: Vec<VecDeque<Run>>,
}

/// A message that is under way.
#[derive(Debug, Clone, Copy)]
struct Slot {
    sent: Sent,
    topic: Topic,
    /// In milliseconds.
    since_ms: u64,
}

/// Records that travel together.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    /// The broker has them.
    done: bool,
}

impl Window {
    /// A window of `size` packet ids (at least one) for this many streams.
    pub fn new(size: u16, streams: usize) -> Self {
        let size = usize::from(size.max(1));
        Window { size, slots: HashMap::with_capacity(size), next_id: 1, order: vec![VecDeque::new(); streams] }
    }

    /// Takes another size, of one at least. What is under way stays there.
    pub fn resize(&mut self, size: u16) {
        self.size = usize::from(size.max(1));
    }

    /// When the message with this packet id was sent, in milliseconds.
    pub fn sent_ms(&self, id: u16) -> Option<u64> {
        self.slots.get(&id).map(|slot| slot.since_ms)
    }

    /// What this packet id stands for.
    pub fn stands_for(&self, id: u16) -> Option<Sent> {
        self.slots.get(&id).map(|slot| slot.sent)
    }

    /// The topic of the message with this packet id.
    pub fn topic(&self, id: u16) -> Option<Topic> {
        self.slots.get(&id).map(|slot| slot.topic)
    }

    /// What was sent first of all that waits for an acknowledgement, and on which topic.
    pub fn oldest(&self) -> Option<(Sent, Topic)> {
        // Ids go round: the one that comes soonest from the next one on was given longest ago.
        let (_, slot) = self.slots.iter().min_by_key(|(id, _)| id.wrapping_sub(self.next_id))?;
        Some((slot.sent, slot.topic))
    }

    /// A PUBACK for this packet id that says no: nothing waits for it any more, and no record is trimmed for it.
    pub fn refuse(&mut self, id: u16) {
        self.slots.remove(&id);
    }

    /// Packet ids of this stream's messages that wait for an acknowledgement.
    pub fn in_flight_of(&self, stream: StreamId) -> usize {
        let is_its = |slot: &&Slot| matches!(slot.sent, Sent::Records { stream: of, .. } if of == stream);
        self.slots.values().filter(is_its).count()
    }

    /// What was sent of this stream and is not trimmed will be sent again: what of it is in flight trims nothing any more. Nothing is
    /// sent of it before that is answered.
    pub fn forget(&mut self, stream: StreamId) {
        if let Some(order) = self.order.get_mut(stream.index()) {
            order.clear();
        }
    }

    /// Forgets everything: the connection is gone, and with it what its packet ids meant.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.order.iter_mut().for_each(VecDeque::clear);
    }

    /// Whether something may be sent.
    pub fn has_room(&self) -> bool {
        let span = self.order.iter().map(VecDeque::len).sum::<usize>();
        self.slots.len() < self.size && span < self.size * SPAN
    }

    /// Packet ids that wait for an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Whether a retained message waits for its acknowledgement.
    pub fn awaits_retained(&self) -> bool {
        self.slots.values().any(|slot| slot.sent == Sent::Retained)
    }

    /// A packet id for what is about to be sent, if the window has room.
    pub fn send(&mut self, sent: Sent, topic: Topic, now_ms: u64) -> Option<u16> {
        if !self.has_room() {
            return None;
        }
        let id = self.free_id();
        self.slots.insert(id, Slot { sent, topic, since_ms: now_ms });
        if let Sent::Records { stream, first, last } = sent
            && let Some(order) = self.order.get_mut(stream.index())
        {
            order.push_back(Run { first, last, done: false });
        }
        Some(id)
    }

    /// The next id that stands for nothing. There is one: the caller has seen that the window has room.
    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(1);
            if !self.slots.contains_key(&id) {
                return id;
            }
        }
    }

    /// A PUBACK for this packet id.
    pub fn acknowledge(&mut self, id: u16) -> Acknowledged {
        let Some(Slot { sent, .. }) = self.slots.remove(&id) else { return Acknowledged::Unsolicited };
        match sent {
            Sent::Retained => Acknowledged::Retained,
            Sent::Records { stream, first, .. } => self.settle(stream, first),
        }
    }

    /// The run that begins with this record is done with.
    fn settle(&mut self, stream: StreamId, first: u64) -> Acknowledged {
        let Some(order) = self.order.get_mut(stream.index()) else { return Acknowledged::Unsolicited };
        // Numbers ascend, because a stream is read in order.
        if let Ok(place) = order.binary_search_by_key(&first, |run| run.first)
            && let Some(run) = order.get_mut(place)
        {
            run.done = true;
        }
        let mut upto = None;
        while let Some(&Run { last, done: true, .. }) = order.front() {
            upto = Some(last);
            order.pop_front();
        }
        upto.map_or(Acknowledged::OutOfTurn, |upto| Acknowledged::Trim { stream, upto })
    }

    /// When the one that waits longest was sent, in milliseconds.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.slots.values().map(|slot| slot.since_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: StreamId = StreamId::TELEMETRY;
    const TOPIC: Topic = Topic(7);

    fn record(seq: u64) -> Sent {
        Sent::Records { stream: STREAM, first: seq, last: seq }
    }

    #[test]
    fn a_record_is_never_trimmed_before_an_older_one() {
        let mut window = Window::new(3, 3);
        let ids: Vec<u16> = (1..=3).map(|seq| window.send(record(seq), TOPIC, 0).unwrap()).collect();
        assert!(!window.has_room());
        assert_eq!(window.send(record(4), TOPIC, 0), None);
        assert_eq!(window.acknowledge(ids[2]), Acknowledged::OutOfTurn);
        assert_eq!(window.acknowledge(ids[1]), Acknowledged::OutOfTurn);
        assert_eq!(window.acknowledge(ids[0]), Acknowledged::Trim { stream: STREAM, upto: 3 });
        assert_eq!(window.in_flight(), 0);
    }

    #[test]
    fn wrong_acknowledgements_never_trim_anything() {
        let mut window = Window::new(2, 3);
        let id = window.send(record(1), TOPIC, 0).unwrap();
        for wrong in [0, 2, 3, u16::MAX] {
            assert_eq!(window.acknowledge(wrong), Acknowledged::Unsolicited);
        }
        assert_eq!(window.acknowledge(id), Acknowledged::Trim { stream: STREAM, upto: 1 });
        assert_eq!(window.acknowledge(id), Acknowledged::Unsolicited, "twice");
    }

    #[test]
    fn an_acknowledgement_that_comes_twice_never_trims_the_next_record() {
        let mut window = Window::new(1, 3);
        let mut ids = Vec::new();
        for seq in 1..=u64::from(u16::MAX) {
            let id = window.send(record(seq), TOPIC, 0).unwrap();
            assert_eq!(window.acknowledge(id), Acknowledged::Trim { stream: STREAM, upto: seq });
            ids.push(id);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), usize::from(u16::MAX), "no id comes again before all have been used, and 0 never");
        assert_eq!(window.send(record(70_000), TOPIC, 0), Some(1));
    }

    #[test]
    fn one_missing_acknowledgement_never_lets_memory_grow() {
        let mut window = Window::new(8, 3);
        let _missing = window.send(record(0), TOPIC, 5).unwrap();
        let mut seq = 0;
        while window.has_room() {
            seq += 1;
            let id = window.send(record(seq), TOPIC, 9).unwrap();
            assert_eq!(window.acknowledge(id), Acknowledged::OutOfTurn);
        }
        assert_eq!(seq, 31);
        assert_eq!(window.oldest_ms(), Some(5));
    }

    #[test]
    fn the_oldest_message_is_never_mistaken() {
        let mut window = Window::new(3, 3);
        assert_eq!(window.oldest(), None);
        let mut ids = VecDeque::new();
        for seq in 1..=140_000 {
            ids.push_back(window.send(record(seq), TOPIC, 0).unwrap());
            if ids.len() == 3 {
                assert_eq!(window.oldest(), Some((record(seq - 2), TOPIC)), "{ids:?}");
                window.acknowledge(ids.pop_front().unwrap());
            }
        }
    }

    #[test]
    fn a_refused_message_never_moves_the_trim_nor_takes_up_room() {
        let mut window = Window::new(2, 3);
        let [one, two] = [1, 2].map(|seq| window.send(record(seq), TOPIC, 0).unwrap());
        assert_eq!(window.stands_for(one), Some(record(1)));
        window.refuse(one);
        assert_eq!((window.in_flight(), window.stands_for(one)), (1, None));
        assert_eq!(window.acknowledge(two), Acknowledged::OutOfTurn);
        assert_eq!(window.acknowledge(one), Acknowledged::Unsolicited);
        window.resize(1);
        let three = window.send(record(3), TOPIC, 0).unwrap();
        assert!(!window.has_room());
        assert_eq!(window.acknowledge(three), Acknowledged::OutOfTurn);
    }

    #[test]
    fn a_stream_that_is_sent_again_never_moves_another_ones_trim() {
        let mut window = Window::new(4, 3);
        let other = Sent::Records { stream: StreamId::LOG, first: 5, last: 5 };
        let [one, two, log] = [record(1), record(2), other].map(|sent| window.send(sent, TOPIC, 0).unwrap());
        window.refuse(one);
        window.forget(STREAM);
        assert_eq!((window.in_flight_of(STREAM), window.in_flight_of(StreamId::LOG)), (1, 1));
        assert_eq!(window.acknowledge(two), Acknowledged::OutOfTurn);
        assert_eq!(window.in_flight_of(STREAM), 0);
        let again = window.send(record(1), TOPIC, 0).unwrap();
        assert_eq!(window.acknowledge(log), Acknowledged::Trim { stream: StreamId::LOG, upto: 5 });
        assert_eq!(window.acknowledge(again), Acknowledged::Trim { stream: STREAM, upto: 1 });
    }

    #[test]
    fn retained_messages_never_move_the_trim() {
        let mut window = Window::new(4, 3);
        let retained = window.send(Sent::Retained, TOPIC, 0).unwrap();
        let id = window.send(record(7), TOPIC, 0).unwrap();
        assert_eq!(window.acknowledge(id), Acknowledged::Trim { stream: STREAM, upto: 7 });
        assert!(window.awaits_retained());
        assert_eq!(window.acknowledge(retained), Acknowledged::Retained);
        assert!(!window.awaits_retained());
    }

    #[test]
    fn a_run_is_never_trimmed_in_part() {
        let mut window = Window::new(3, 3);
        let run = |first, last| Sent::Records { stream: STREAM, first, last };
        let [ten, one, five] = [run(1, 10), run(11, 11), run(15, 20)].map(|sent| window.send(sent, TOPIC, 0).unwrap());
        assert_eq!(window.in_flight(), 3, "a message each");
        assert_eq!(window.acknowledge(one), Acknowledged::OutOfTurn);
        assert_eq!(window.acknowledge(ten), Acknowledged::Trim { stream: STREAM, upto: 11 });
        assert_eq!(window.acknowledge(five), Acknowledged::Trim { stream: STREAM, upto: 20 });
    }

    /// What happens to the window.
    #[derive(Debug, Clone)]
    enum Step {
        /// A run of so many records of a stream, so many numbers behind the one before, is sent.
        Send { stream: u8, skip: u64, count: u64 },
        /// A retained message is sent.
        Retain,
        /// One of the messages in flight is acknowledged.
        Acknowledge(prop::sample::Index),
        /// A message that is in flight no more, or never was, is acknowledged.
        Stray(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..3u8, 0..3u64, 1..20u64).prop_map(|(stream, skip, count)| Step::Send { stream, skip, count }),
            1 => Just(Step::Retain),
            5 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
            1 => any::<u16>().prop_map(Step::Stray),
        ]
    }

    proptest! {
        /// The model notes for every record whether the broker has it. What is trimmed is the longest run of those, always.
        #[test]
        fn trim_never_passes_a_gap(size in 1..9u16, steps in prop::collection::vec(step(), 0..200)) {
            let mut window = Window::new(size, 3);
            let mut flying: Vec<(u16, Sent)> = Vec::new();
            // By stream: the numbers that were sent, in order, and whether the broker has them.
            let mut sent: [Vec<(u64, bool)>; 3] = Default::default();
            let mut trimmed = [0; 3];
            for step in steps {
                let message = match step {
                    Step::Send { stream, skip, count } => {
                        let first = sent[usize::from(stream)].last().map_or(1, |(seq, _)| seq + 1) + skip;
                        Sent::Records { stream: StreamId(stream), first, last: first + count - 1 }
                    }
                    Step::Retain => Sent::Retained,
                    Step::Acknowledge(index) if !flying.is_empty() => {
                        let (id, message) = flying.swap_remove(index.index(flying.len()));
                        let got = window.acknowledge(id);
                        let Sent::Records { stream, first, last } = message else {
                            prop_assert_eq!(got, Acknowledged::Retained);
                            continue;
                        };
                        let all = &mut sent[stream.index()];
                        all.iter_mut().filter(|(seq, _)| (first..=last).contains(seq)).for_each(|(_, has)| *has = true);
                        let upto = all.iter().take_while(|(_, has)| *has).last().map_or(0, |(seq, _)| *seq);
                        let expected = match upto > trimmed[stream.index()] {
                            true => Acknowledged::Trim { stream, upto },
                            false => Acknowledged::OutOfTurn,
                        };
                        trimmed[stream.index()] = upto;
                        prop_assert_eq!(got, expected);
                        continue;
                    }
                    Step::Stray(id) if !flying.iter().any(|(flies, _)| *flies == id) => {
                        prop_assert_eq!(window.acknowledge(id), Acknowledged::Unsolicited);
                        continue;
                    }
                    Step::Acknowledge(_) | Step::Stray(_) => continue,
                };
                let room = window.has_room();
                let id = window.send(message, TOPIC, 0);
                prop_assert_eq!(id.is_some(), room);
                let Some(id) = id else { continue };
                prop_assert!(id != 0 && !flying.iter().any(|(flies, _)| *flies == id));
                flying.push((id, message));
                prop_assert!(flying.len() <= usize::from(size));
                if let Sent::Records { stream, first, last } = message {
                    sent[stream.index()].extend((first..=last).map(|seq| (seq, false)));
                }
                prop_assert_eq!(window.in_flight(), flying.len());
            }
        }
    }
}
