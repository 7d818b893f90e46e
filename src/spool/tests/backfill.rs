//! A backlog that goes out at its pace.

use super::*;
use crate::spool::Urgency;
use crate::spool::thread::cost;

/// What the thread does: reads while it may, and comes back when something is due.
struct Drain {
    rig: Rig,
    read: Vec<(StreamId, u64)>,
}

impl Drain {
    /// Telemetry and log with `backlog` records each, and a new connection.
    fn new(rate: u32, backlog: usize) -> Drain {
        let mut rig = Rig::with(Options { backfill_rate: rate, ..options(Sync::Always) });
        for stream in [T, L] {
            rig.append_to(stream, &vec!["old"; backlog]).unwrap();
            rig.spool.harden(stream, Durability::Power, rig.now).unwrap();
        }
        rig.spool.rewind();
        Drain { rig, read: Vec::new() }
    }

    /// Reads what may go out now. Returns how many that were.
    fn read(&mut self) -> usize {
        let before = self.read.len();
        self.read.extend(self.rig.read_all().into_iter().map(|(stream, record)| (stream, record.seq)));
        self.read.len() - before
    }

    /// Lets time pass, and reads whenever that is due. Returns how often that was.
    fn run(&mut self, ms: u64) -> usize {
        let end = self.rig.now.mono_ms + ms;
        let mut wakes = 0;
        while let Some(due) = self.rig.spool.deadline_ms().filter(|&due| due <= end) {
            self.rig.wait(due.saturating_sub(self.rig.now.mono_ms));
            self.read();
            self.rig.spool.tick(self.rig.now);
            wakes += 1;
            assert!(wakes < 10_000, "it spins");
        }
        self.rig.wait(end - self.rig.now.mono_ms);
        wakes
    }

    fn numbers(&self, stream: StreamId) -> Vec<u64> {
        self.read.iter().filter(|(of, _)| *of == stream).map(|(_, seq)| *seq).collect()
    }
}

#[test]
fn a_backlog_never_goes_out_faster_or_slower_than_its_pace() {
    let mut drain = Drain::new(200, 1500);
    drain.read();
    let wakes = drain.run(5_000);
    assert!((1000..=1040).contains(&drain.read.len()), "{}", drain.read.len());
    assert!(wakes <= 51, "{wakes}");
    drain.run(10_100);
    assert_eq!(drain.numbers(T), (1..=1500).collect::<Vec<_>>());
    assert_eq!(drain.numbers(L), (1..=1500).collect::<Vec<_>>(), "one pace for all");
    assert!(drain.run(60_000) <= 1, "nothing is due any more");
}

#[test]
fn a_live_record_never_waits_for_the_backlog_of_another_stream() {
    let mut drain = Drain::new(10, 100);
    drain.read();
    let before = drain.read.len();
    for stream in [StreamId::EVENT, StreamId::EVENT, T] {
        drain.rig.append_to(stream, &["live"]).unwrap();
    }
    drain.read();
    assert_eq!(drain.read.get(before..), Some(&[(StreamId::EVENT, 1), (StreamId::EVENT, 2)][..]));
    assert_eq!(drain.numbers(T), [1], "and never goes before the backlog of its own");
    drain.run(20_000);
    assert_eq!(drain.numbers(T), (1..=101).collect::<Vec<_>>());
}

/// Reads as a publisher with a slow link does: a few records at a time.
fn next_few(rig: &mut Rig, bytes: usize) -> (StreamId, Vec<u64>, Urgency) {
    let (stream, records, urgency) = rig.spool.read(bytes, rig.now).unwrap();
    (stream, records.iter().map(|record| record.seq).collect(), urgency)
}

#[test]
fn a_live_record_never_waits_for_the_unpaced_backlog_of_a_more_urgent_stream() {
    let mut rig = Drain::new(0, 5000).rig;
    // The log's own backlog is out already.
    rig.spool.acknowledge(L, 5000, rig.now);
    assert_eq!(next_few(&mut rig, 1000).0, T);
    rig.append_to(L, &["live"; 3]).unwrap();
    let live = (L, vec![5001, 5002, 5003], Urgency::before(1));
    assert_eq!(next_few(&mut rig, 1000), live);
    let (stream, _, urgency) = next_few(&mut rig, 1000);
    assert_eq!((stream, urgency), (T, Urgency::of(1)), "and then it goes on");
    rig.append_to(StreamId::EVENT, &["urgent"]).unwrap();
    assert_eq!(next_few(&mut rig, 1000), (StreamId::EVENT, vec![1], Urgency::of(0)));
    rig.spool.rewind();
    assert_eq!(next_few(&mut rig, 1000).0, StreamId::EVENT);
    assert_eq!(next_few(&mut rig, 1000).0, T, "what was live a connection ago is backlog now");
}

#[test]
fn a_flood_of_live_records_never_takes_more_than_a_quarter_from_a_more_urgent_backlog() {
    let mut rig = Drain::new(0, 20_000).rig;
    rig.spool.acknowledge(L, 20_000, rig.now);
    let mut bytes = [0; 3];
    while rig.status(T).waiting > 100 {
        rig.append_to(L, &["a flood of logs"; 20]).unwrap();
        let (stream, records, _) = rig.spool.read(1500, rig.now).unwrap();
        bytes[stream.index()] += records.iter().map(|record| cost(&record.record)).sum::<usize>();
        rig.spool.acknowledge(stream, records.last().unwrap().seq, rig.now);
    }
    let share = bytes[L.index()] as f64 / (bytes[L.index()] + bytes[T.index()]) as f64;
    assert!((0.2..0.27).contains(&share), "{share}");
    // Nothing is held back when the backlog is out.
    rig.spool.acknowledge(T, 20_000, rig.now);
    let waiting = rig.status(L).waiting;
    assert_eq!(rig.numbers(L).len() as u64, waiting);
}

#[test]
fn live_records_never_pay_for_the_backlog() {
    let mut drain = Drain::new(10, 20);
    drain.read();
    drain.rig.append_to(T, &["live"; 500]).unwrap();
    drain.rig.append_to(L, &["live"; 500]).unwrap();
    drain.run(1_500);
    assert_eq!(drain.read.len(), 16, "their own backlog goes first");
    drain.run(1_000);
    assert_eq!((drain.numbers(T).len(), drain.numbers(L).len()), (520, 6), "and then they go at once");
    drain.run(2_000);
    assert_eq!(drain.read.len(), 1040);
    drain.rig.append_to(L, &["live"; 500]).unwrap();
    assert_eq!(drain.read(), 500);
}

#[test]
fn no_rate_never_means_a_pace() {
    let mut drain = Drain::new(0, 3000);
    assert_eq!(drain.read(), 6000);
}

#[test]
fn reconnecting_never_makes_it_faster() {
    let mut drain = Drain::new(10, 200);
    for _ in 0..100 {
        drain.read();
        drain.rig.wait(50);
        drain.rig.spool.rewind();
    }
    assert!(drain.read.len() <= 51, "{}", drain.read.len());
    // What was live a connection ago is backlog now.
    drain.rig.append_to(StreamId::EVENT, &["e"; 10]).unwrap();
    drain.rig.spool.rewind();
    assert!(drain.read() <= 2);
}

#[test]
fn a_publisher_without_credit_never_keeps_the_thread_awake() {
    let mut drain = Drain::new(200, 1000);
    drain.read();
    drain.rig.wait(100);
    assert!(drain.rig.spool.deadline_ms().is_some_and(|due| due <= drain.rig.now.mono_ms));
    // Nobody reads.
    drain.rig.spool.tick(drain.rig.now);
    assert!(drain.rig.spool.deadline_ms().is_none_or(|due| due > drain.rig.now.mono_ms));
    assert!(drain.read() > 0, "until there is credit again");
}
