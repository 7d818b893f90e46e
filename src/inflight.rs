//! The in-flight window: which packet id stands for which record, and what may be trimmed. Pure.
//!
//! MQTT 3.1.1 section 4.6 lets a broker acknowledge in another order than we sent, and a bad one acknowledges late, twice or
//! never. A stream is trimmed up to the last record before which nothing is missing, so an acknowledgement out of turn is
//! kept until the older ones have come. Freed ids are used again in the order in which they were freed: the longest way
//! to a mix-up with an acknowledgement that comes twice.

use crate::record::StreamId;
use std::collections::VecDeque;

/// Records per stream that may be sent ahead of one whose acknowledgement is missing, in windows: what bounds memory
/// when a broker acknowledges everything but one record.
const SPAN: usize = 4;

/// What a packet id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// A record of the spool.
    Record {
        /// Its stream.
        stream: StreamId,
        /// Its sequence number.
        seq: u64,
    },
    /// A retained message, which the spool knows nothing of.
    Retained,
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
    /// A record, but an older one is still missing.
    OutOfTurn,
    /// A retained message.
    Retained,
    /// Nothing was waiting for it.
    Unsolicited,
}

/// The window of one connection.
#[derive(Debug)]
pub struct Window {
    /// The element at `id - 1` is what packet id `id` stands for, and since when in milliseconds.
    slots: Vec<Option<(Sent, u64)>>,
    free: VecDeque<u16>,
    /// For each stream what has been sent and can't be trimmed yet: number, and whether it is done with.
    order: Vec<VecDeque<(u64, bool)>>,
}

impl Window {
    /// A window of `size` packet ids (at least one) for this many streams.
    pub fn new(size: u16, streams: usize) -> Self {
        let size = size.max(1);
        let slots = vec![None; usize::from(size)];
        Window { slots, free: (1..=size).collect(), order: vec![VecDeque::new(); streams] }
    }

    /// Forgets everything: the connection is gone, and with it what its packet ids meant.
    pub fn clear(&mut self) {
        self.slots.fill(None);
        self.free = (1..).take(self.slots.len()).collect();
        self.order.iter_mut().for_each(VecDeque::clear);
    }

    /// Whether something may be sent.
    pub fn has_room(&self) -> bool {
        let span = self.order.iter().map(VecDeque::len).sum::<usize>();
        !self.free.is_empty() && span < self.slots.len() * SPAN
    }

    /// Packet ids that wait for an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A packet id for what is about to be sent, if the window has room.
    pub fn send(&mut self, sent: Sent, now_ms: u64) -> Option<u16> {
        if !self.has_room() {
            return None;
        }
        let id = self.free.pop_front()?;
        *self.slots.get_mut(usize::from(id).checked_sub(1)?)? = Some((sent, now_ms));
        if let Sent::Record { stream, seq } = sent
            && let Some(order) = self.order.get_mut(stream.index())
        {
            order.push_back((seq, false));
        }
        Some(id)
    }

    /// A PUBACK for this packet id.
    pub fn acknowledge(&mut self, id: u16) -> Acknowledged {
        let slot = usize::from(id).checked_sub(1).and_then(|index| self.slots.get_mut(index));
        let Some((sent, _)) = slot.and_then(Option::take) else { return Acknowledged::Unsolicited };
        self.free.push_back(id);
        match sent {
            Sent::Retained => Acknowledged::Retained,
            Sent::Record { stream, seq } => self.settle(stream, seq),
        }
    }

    fn settle(&mut self, stream: StreamId, seq: u64) -> Acknowledged {
        let Some(order) = self.order.get_mut(stream.index()) else { return Acknowledged::Unsolicited };
        // Numbers ascend, because a stream is read in order.
        if let Ok(place) = order.binary_search_by_key(&seq, |(seq, _)| *seq)
            && let Some((_, done)) = order.get_mut(place)
        {
            *done = true;
        }
        let mut upto = None;
        while let Some(&(seq, true)) = order.front() {
            upto = Some(seq);
            order.pop_front();
        }
        upto.map_or(Acknowledged::OutOfTurn, |upto| Acknowledged::Trim { stream, upto })
    }

    /// When the one that waits longest was sent, in milliseconds.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.slots.iter().flatten().map(|(_, since)| *since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: StreamId = StreamId::TELEMETRY;

    fn record(seq: u64) -> Sent {
        Sent::Record { stream: STREAM, seq }
    }

    #[test]
    fn a_record_is_never_trimmed_before_an_older_one() {
        let mut window = Window::new(3, 3);
        let ids: Vec<u16> = (1..=3).map(|seq| window.send(record(seq), 0).unwrap()).collect();
        assert!(!window.has_room());
        assert_eq!(window.send(record(4), 0), None);
        assert_eq!(window.acknowledge(ids[2]), Acknowledged::OutOfTurn);
        assert_eq!(window.acknowledge(ids[1]), Acknowledged::OutOfTurn);
        assert_eq!(window.acknowledge(ids[0]), Acknowledged::Trim { stream: STREAM, upto: 3 });
        assert_eq!(window.in_flight(), 0);
    }

    #[test]
    fn wrong_acknowledgements_never_trim_anything() {
        let mut window = Window::new(2, 3);
        let id = window.send(record(1), 0).unwrap();
        for wrong in [0, 2, 3, u16::MAX] {
            assert_eq!(window.acknowledge(wrong), Acknowledged::Unsolicited);
        }
        assert_eq!(window.acknowledge(id), Acknowledged::Trim { stream: STREAM, upto: 1 });
        assert_eq!(window.acknowledge(id), Acknowledged::Unsolicited, "twice");
    }

    #[test]
    fn one_missing_acknowledgement_never_lets_memory_grow() {
        let mut window = Window::new(8, 3);
        let _missing = window.send(record(0), 5).unwrap();
        let mut seq = 0;
        while window.has_room() {
            seq += 1;
            let id = window.send(record(seq), 9).unwrap();
            assert_eq!(window.acknowledge(id), Acknowledged::OutOfTurn);
        }
        assert_eq!(seq, 31);
        assert_eq!(window.oldest_ms(), Some(5));
    }

    #[test]
    fn retained_messages_never_move_the_trim() {
        let mut window = Window::new(4, 3);
        let retained = window.send(Sent::Retained, 0).unwrap();
        let id = window.send(record(7), 0).unwrap();
        assert_eq!(window.acknowledge(id), Acknowledged::Trim { stream: STREAM, upto: 7 });
        assert_eq!(window.acknowledge(retained), Acknowledged::Retained);
    }

    proptest! {
        /// Whatever the order of acknowledgements, what is trimmed is the longest run of acknowledged records.
        #[test]
        fn trim_never_passes_a_gap(order in Just((0..40u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut window = Window::new(40, 3);
            let ids: Vec<u16> = (0..40).map(|seq| window.send(record(seq), 0).unwrap()).collect();
            let mut acked = [false; 40];
            for seq in order {
                let seq = usize::try_from(seq).unwrap();
                acked[seq] = true;
                let run = acked.iter().take_while(|acked| **acked).count();
                match window.acknowledge(ids[seq]) {
                    Acknowledged::Trim { upto, .. } => prop_assert_eq!(upto + 1, run as u64),
                    other => prop_assert_eq!(other, Acknowledged::OutOfTurn),
                }
            }
            prop_assert_eq!(window.in_flight(), 0);
        }
    }
}
