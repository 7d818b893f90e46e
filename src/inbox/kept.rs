//! The messages that are kept, and which of them have been read. Pure.
//!
//! Constraints: bounded, by [`MOST`] messages and [`BYTES`] bytes; the oldest goes first. Numbers only ever grow; after damage
//! they skip ahead, so that none is given twice.
//!
//! What came before is not taken in again: a redelivery by its packet id and its content, and a retained message, which comes
//! again with every connection, by being the same as the latest on its topic.
//!
//! Format of `STATE_DIR/inbox/messages`: a [`crate::disk::journal`] with the magic "pillion inbox 1\n". Variants of [`Entry`]
//! may be added at its end; anything else needs a new magic. Messages that went for want of room may still be in the file:
//! reading it drops them again.

use crate::disk::journal;
use crate::inbound::{MAX_TOPIC, MAX_VALUE, Message};
use crate::record::Timestamp;
use crc::{CRC_64_XZ, Crc, Table};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Messages that are kept.
pub const MOST: usize = 256;
/// Bytes that are kept, topics included.
pub const BYTES: usize = 256 * 1024;
/// Messages in one answer.
const PAGE: usize = 16;
/// By so much numbers skip ahead after damage: more than a journal ever holds.
const SKIP: u64 = 1_000_000;

const CRC64: Crc<u64, Table<1>> = Crc::<u64, Table<1>>::new(&CRC_64_XZ);

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A message came.
    Came {
        /// Its number.
        id: u64,
        /// Below `P/app/set/`.
        topic: String,
        /// When.
        time: Timestamp,
        /// The broker had kept it.
        retained: bool,
        /// Its packet id.
        packet: Option<u16>,
        /// The payload.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// Up to this number all messages had been read then.
        read: u64,
    },
}

impl journal::Entry for Entry {
    const TITLE: &'static str = "the inbox";
    const FILE: &'static str = "messages";
    const MAGIC: &'static [u8] = b"pillion inbox 1\n";
    const MAX: usize = MAX_VALUE + MAX_TOPIC + 64;
    const GROWTH: u64 = 256 * 1024;
}

/// A message as it came from the broker.
#[derive(Debug)]
pub struct Arrival {
    /// Below `P/app/set/`.
    pub topic: String,
    /// The payload.
    pub data: Vec<u8>,
    /// The broker had kept it.
    pub retained: bool,
    /// Its packet id.
    pub packet: Option<u16>,
    /// The broker may have sent it before.
    pub redelivered: bool,
}

struct Kept {
    message: Arc<Message>,
    packet: Option<u16>,
    /// CRC-64 of topic and payload.
    sum: u64,
}

impl Kept {
    fn size(&self) -> usize {
        self.message.topic.len() + self.message.data.len()
    }
}

/// The messages. See the module's head.
#[derive(Default)]
pub struct Messages {
    kept: VecDeque<Kept>,
    bytes: usize,
    latest: u64,
    read: u64,
}

/// Messages that went before anybody had read them: the first and last number of them, and how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// The oldest.
    pub first: u64,
    /// The newest.
    pub last: u64,
    /// How many.
    pub count: u64,
}

impl Messages {
    /// From what a journal holds.
    pub fn restore(entries: Vec<Entry>, damaged: bool) -> Messages {
        let mut messages = Messages::default();
        for entry in entries {
            messages.add(entry);
            // What went then was counted then.
            messages.drop_surplus();
        }
        if damaged {
            messages.latest = messages.latest.saturating_add(SKIP);
        }
        messages
    }

    /// The entry for a new message, which is to be written before it is [added](Messages::add). `ahead`: how many
    /// others are being written. `None`: it came before.
    pub fn entry(&self, arrival: Arrival, ahead: &[Entry], time: Timestamp) -> Option<Entry> {
        if self.came_before(&arrival, ahead) {
            return None;
        }
        let number = u64::try_from(ahead.len()).unwrap_or(u64::MAX);
        let Arrival { topic, data, retained, packet, .. } = arrival;
        let id = self.latest.saturating_add(number).saturating_add(1);
        Some(Entry::Came { id, topic, time, retained, packet, data, read: self.read })
    }

    fn came_before(&self, arrival: &Arrival, ahead: &[Entry]) -> bool {
        let sum = sum_of(&arrival.topic, &arrival.data);
        let ahead = ahead.iter().rev().map(|Entry::Came { topic, packet, data, .. }| {
            let same = sum_of(topic, data) == sum;
            (topic.as_str(), *packet, same)
        });
        let kept = self.kept.iter().rev();
        let kept = kept.map(|kept| (kept.message.topic.as_str(), kept.packet, kept.sum == sum));
        let mut latest_first = ahead.chain(kept);
        if arrival.retained {
            return latest_first.find(|(topic, ..)| *topic == arrival.topic).is_some_and(|(.., same)| same);
        }
        arrival.redelivered
            && arrival.packet.is_some()
            && latest_first.find(|(_, packet, _)| *packet == arrival.packet).is_some_and(|(.., same)| same)
    }

    /// A message whose entry is on the medium.
    pub fn add(&mut self, entry: Entry) {
        let Entry::Came { id, topic, time, retained, packet, data, read } = entry;
        self.latest = self.latest.max(id);
        self.read = self.read.max(read);
        let sum = sum_of(&topic, &data);
        let kept = Kept { message: Arc::new(Message { id, topic, time, retained, data }), packet, sum };
        self.bytes += kept.size();
        self.kept.push_back(kept);
    }

    /// Drops the oldest where there are too many. Returns those that nobody had read.
    pub fn drop_surplus(&mut self) -> Option<Dropped> {
        let mut dropped: Option<Dropped> = None;
        while self.kept.len() > MOST || self.bytes > BYTES {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.size());
            let id = oldest.message.id;
            if id > self.read {
                let Dropped { first, count, .. } = dropped.unwrap_or(Dropped { first: id, last: id, count: 0 });
                dropped = Some(Dropped { first, last: id, count: count + 1 });
            }
        }
        dropped
    }

    /// The oldest messages after this one, which count as read now.
    pub fn after(&mut self, after: u64) -> Vec<Arc<Message>> {
        // A number that was never given comes from another inbox: from before its file was lost.
        let after = if after > self.latest { 0 } else { after };
        let start = self.kept.partition_point(|kept| kept.message.id <= after);
        let page: Vec<_> = self.kept.range(start..).take(PAGE).map(|kept| Arc::clone(&kept.message)).collect();
        self.read = page.last().map_or(self.read, |last| self.read.max(last.id));
        page
    }

    /// All of it, for the journal.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |kept: &Kept| {
            let Message { id, topic, time, retained, data } = kept.message.as_ref().clone();
            Entry::Came { id, topic, time, retained, packet: kept.packet, data, read: self.read }
        };
        self.kept.iter().map(entry).collect()
    }

    /// The number of the latest one.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// How many there are, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }
}

fn sum_of(topic: &str, data: &[u8]) -> u64 {
    let mut digest = CRC64.digest();
    digest.update(topic.as_bytes());
    digest.update(&[0]);
    digest.update(data);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClockQuality;

    const NOW: Timestamp = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };

    fn arrival(topic: &str, data: &str, packet: u16) -> Arrival {
        let (topic, data) = (topic.to_owned(), data.as_bytes().to_vec());
        Arrival { topic, data, retained: false, packet: Some(packet), redelivered: false }
    }

    fn take(messages: &mut Messages, arrival: Arrival) -> bool {
        let entry = messages.entry(arrival, &[], NOW);
        entry.map(|entry| messages.add(entry)).is_some()
    }

    fn ids(messages: &mut Messages, after: u64) -> Vec<u64> {
        messages.after(after).iter().map(|message| message.id).collect()
    }

    #[test]
    fn a_redelivery_never_comes_twice_and_a_repetition_never_gets_lost() {
        let mut messages = Messages::default();
        assert!(take(&mut messages, arrival("a", "on", 1)));
        assert!(take(&mut messages, arrival("a", "on", 1)), "the sender means it");
        assert!(!take(&mut messages, Arrival { redelivered: true, ..arrival("a", "on", 1) }));
        assert!(take(&mut messages, Arrival { redelivered: true, ..arrival("a", "on", 2) }), "never seen");
        assert!(take(&mut messages, Arrival { redelivered: true, ..arrival("a", "off", 2) }), "the id is used again");
        assert!(take(&mut messages, Arrival { redelivered: true, ..arrival("b", "off", 2) }));
        let mut messages = Messages::restore(messages.entries(), false);
        assert!(!take(&mut messages, Arrival { redelivered: true, ..arrival("b", "off", 2) }), "after a restart");
        assert_eq!(ids(&mut messages, 0), [1, 2, 3, 4, 5]);
        let first = messages.entry(arrival("c", "x", 9), &[], NOW).unwrap();
        let again = Arrival { redelivered: true, ..arrival("c", "x", 9) };
        assert!(messages.entry(again, std::slice::from_ref(&first), NOW).is_none(), "in the same turn");
    }

    #[test]
    fn what_the_broker_keeps_never_comes_with_every_connection() {
        let mut messages = Messages::default();
        let kept = |data| Arrival { retained: true, ..arrival("mode", data, 1) };
        assert!(take(&mut messages, kept("eco")));
        assert!(!take(&mut messages, kept("eco")));
        assert!(take(&mut messages, arrival("mode", "full", 2)));
        assert!(!take(&mut messages, kept("full")), "it came when it was sent");
        assert!(take(&mut messages, kept("eco")), "it was changed back while we were away");
    }

    #[test]
    fn it_never_grows_and_never_hides_what_nobody_has_read() {
        let mut messages = Messages::default();
        for number in 0..MOST {
            assert!(take(&mut messages, arrival("a", &number.to_string(), 1)));
            assert_eq!(messages.drop_surplus(), None);
        }
        assert_eq!(ids(&mut messages, 0).last(), Some(&16));
        for number in 0..20 {
            take(&mut messages, arrival("b", &number.to_string(), 1));
        }
        assert_eq!(messages.drop_surplus(), Some(Dropped { first: 17, last: 20, count: 4 }));
        assert_eq!(ids(&mut messages, 3)[0], 21);
        (0..9).for_each(|_| _ = take(&mut messages, arrival("c", &"x".repeat(MAX_VALUE), 1)));
        messages.drop_surplus();
        assert_eq!(messages.size(), (3, 3 * (MAX_VALUE + 1)));
    }

    #[test]
    fn a_number_is_never_given_twice() {
        let mut messages = Messages::default();
        (0..3).for_each(|number| _ = take(&mut messages, arrival("a", &number.to_string(), 1)));
        assert_eq!(messages.after(1).len(), 2);
        let mut again = Messages::restore(messages.entries(), false);
        assert_eq!((again.latest(), ids(&mut again, 2)), (3, vec![3]));
        assert_eq!(ids(&mut again, 77), [1, 2, 3], "from another life");
        let mut damaged = Messages::restore(messages.entries().into_iter().take(2).collect(), true);
        take(&mut damaged, arrival("a", "new", 1));
        assert!(ids(&mut damaged, 3)[0] > 3);
    }

    #[test]
    fn the_format_never_changes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/inbox-v1.messages");
        let entry = |id, retained, packet, data: &[u8]| Entry::Came {
            id,
            topic: "mode/now".into(),
            time: NOW,
            retained,
            packet,
            data: data.to_vec(),
            read: id / 2,
        };
        let entries = vec![entry(1, false, Some(7), b"on"), entry(300, true, None, &[0, 255])];
        let fs = crate::disk::sim::SimFs::default();
        let file = std::path::Path::new("/state/inbox/messages");
        let fixture = std::fs::read(path).unwrap();
        fs.put(file, &fixture);
        let (mut journal, found) = journal::Journal::<Entry>::open(fs.shared(), "/state/inbox".into());
        assert_eq!(found.entries, entries);
        journal.rewrite(&entries).unwrap();
        assert_eq!(fs.content(file), fixture);
    }
}
