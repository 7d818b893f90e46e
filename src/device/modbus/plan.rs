//! What to ask a unit for: polls become cycles, and neighbours within a cycle become one read.
//!
//! Pure. A cycle is all that a unit is asked for at the same interval; it makes one record. A read is one request: polls
//! of one table that touch, or nearly, within the protocol's limits. Where the unit has nothing in a gap between two polls it
//! refuses the whole read; then that read is split into its polls, so that one wrong address costs no other value.

use super::rtu::Request;
use crate::config::modbus::{Poll, Table};
use std::time::Duration;

/// Registers, or 16 bits each, that may lie between two polls of one read: fewer than what a second request and answer
/// have in bytes around their data.
const HOLE: u16 = 6;

/// What a unit is asked for together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// How often.
    pub interval: Duration,
    /// In the order of tables and addresses; not empty.
    pub reads: Vec<Read>,
}

/// One request and the polls that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Where.
    pub table: Table,
    /// The first one.
    pub address: u16,
    /// How many.
    pub count: u16,
    /// Indices of polls, in the order of their addresses; not empty.
    pub polls: Vec<usize>,
}

impl Read {
    fn of(index: usize, poll: &Poll) -> Self {
        Read { table: poll.table, address: poll.address, count: poll.count(), polls: vec![index] }
    }

    /// As a request.
    pub fn request(&self) -> Request {
        Request::Read { table: self.table, address: self.address, count: self.count }
    }

    /// The part of an answer that a poll is about.
    pub fn part<'a, T>(&self, poll: &Poll, answer: &'a [T]) -> Option<&'a [T]> {
        let start = usize::from(poll.address.checked_sub(self.address)?);
        answer.get(start..start + usize::from(poll.count()))
    }

    /// Takes in one more poll, which begins no earlier, if one request can do for both.
    fn take(&mut self, index: usize, poll: &Poll) -> bool {
        let hole = if poll.table.is_bits() { HOLE * 16 } else { HOLE };
        let (start, end) = (u32::from(self.address), u32::from(self.address) + u32::from(self.count));
        let count = end.max(u32::from(poll.address) + u32::from(poll.count())) - start;
        let fits = poll.table == self.table
            && u32::from(poll.address) <= end + u32::from(hole)
            && count <= u32::from(self.table.most());
        if fits {
            self.count = u16::try_from(count).unwrap_or(self.count);
            self.polls.push(index);
        }
        fits
    }
}

/// The cycles of a unit, in the order in which their intervals come up.
pub fn cycles(polls: &[Poll]) -> Vec<Cycle> {
    let mut cycles: Vec<Cycle> = Vec::new();
    let mut sorted: Vec<(usize, &Poll)> = polls.iter().enumerate().collect();
    sorted.sort_by_key(|(_, poll)| (poll.table.word(), poll.address));
    for poll in polls {
        if cycles.iter().all(|cycle| cycle.interval != poll.interval) {
            cycles.push(Cycle { interval: poll.interval, reads: Vec::new() });
        }
    }
    for (index, poll) in sorted {
        let Some(cycle) = cycles.iter_mut().find(|cycle| cycle.interval == poll.interval) else { continue };
        if !cycle.reads.last_mut().is_some_and(|read| read.take(index, poll)) {
            cycle.reads.push(Read::of(index, poll));
        }
    }
    cycles
}

impl Cycle {
    /// Replaces a read by one for each of its polls. Says whether that makes a difference.
    pub fn split(&mut self, read: usize, polls: &[Poll]) -> bool {
        let Some(whole) = self.reads.get(read).filter(|read| read.polls.len() > 1) else { return false };
        let single = |index: &usize| polls.get(*index).map(|poll| Read::of(*index, poll));
        let parts: Vec<Read> = whole.polls.iter().filter_map(single).collect();
        self.reads.splice(read..=read, parts);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::modbus::{Kind, Publish, WordOrder};
    use proptest::prelude::*;

    fn poll((table, address, kind, seconds): (Table, u16, Kind, u64)) -> Poll {
        Poll {
            name: format!("p{address}"),
            table,
            address,
            kind,
            word_order: WordOrder::Big,
            scale: 1.0,
            offset: 0.0,
            interval: Duration::from_secs(seconds),
            publish: Publish::Always,
            write: false,
            verify: false,
        }
    }

    /// The reads of a cycle: address, count, and the polls in them.
    fn shape(cycle: &Cycle) -> Vec<(u16, u16, &[usize])> {
        cycle.reads.iter().map(|read| (read.address, read.count, read.polls.as_slice())).collect()
    }

    #[test]
    fn neighbours_are_never_asked_for_one_by_one() {
        use Table::{Coil, Holding, Input};
        let polls = [
            (Holding, 102, Kind::U32, 5),
            (Holding, 100, Kind::F32, 5),
            (Holding, 110, Kind::U16, 5),
            (Holding, 118, Kind::U16, 5),
            (Holding, 104, Kind::U16, 60),
            (Input, 105, Kind::U16, 5),
            (Coil, 0, Kind::Bool, 5),
            (Coil, 1990, Kind::Bool, 5),
            (Coil, 97, Kind::Bool, 5),
        ]
        .map(poll);
        let cycles = cycles(&polls);
        // 118 lies behind a hole of 7 registers, coil 1990 behind one of 1892 bits; 104 has an interval of its own.
        assert_eq!(cycles.iter().map(|cycle| cycle.interval.as_secs()).collect::<Vec<_>>(), [5, 60]);
        let first = [(0, 98, &[6, 8][..]), (1990, 1, &[7]), (100, 11, &[1, 0, 2]), (118, 1, &[3]), (105, 1, &[5])];
        assert_eq!(shape(&cycles[0]), first);
        assert_eq!(shape(&cycles[1]), [(104, 1, &[4][..])]);
        let mut cycle = cycles[0].clone();
        assert!(cycle.split(2, &polls) && !cycle.split(1, &polls));
        let split: Vec<_> = cycle.reads[2..5].iter().map(|read| (read.address, read.count)).collect();
        assert_eq!(split, [(100, 2), (102, 2), (110, 1)]);
        let words: Vec<u16> = (100..111).collect();
        assert_eq!(cycles[0].reads[2].part(&polls[0], &words), Some(&[102, 103][..]));
        assert_eq!(cycles[0].reads[2].part(&polls[3], &words), None);
    }

    proptest! {
        #[test]
        fn no_poll_is_ever_left_out_or_asked_for_beyond_the_limits(
            polls in prop::collection::vec(
                (prop::sample::select(vec![Table::Coil, Table::Holding, Table::Input]), 0..4000u16,
                 prop::sample::select(vec![Kind::U16, Kind::F64, Kind::Text { words: 123 }]), 1..3u64), 1..100)
        ) {
            let bits = |(table, address, kind, interval): (Table, u16, Kind, u64)|
                (table, address, if table.is_bits() { Kind::Bool } else { kind }, interval);
            let polls: Vec<Poll> = polls.into_iter().map(bits).map(poll).collect();
            let mut seen = vec![0; polls.len()];
            for cycle in cycles(&polls) {
                for read in &cycle.reads {
                    prop_assert!(read.count <= read.table.most());
                    let words = vec![0_u16; read.count.into()];
                    for index in &read.polls {
                        seen[*index] += 1;
                        let poll = &polls[*index];
                        prop_assert!(poll.interval == cycle.interval && poll.table == read.table);
                        prop_assert_eq!(read.part(poll, &words).unwrap().len(), usize::from(poll.count()));
                    }
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }
}
