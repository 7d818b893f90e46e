//! Finding the newest record on a topic that waits: how the logs flow learns what it had handed over before a kill.
//!
//! Constraint: it changes nothing, and never fails; what can't be read is passed over.

use super::log::Log;
use super::reader::{Next, SegmentReader};
use super::{Spool, StreamId};
use crate::record::Sequenced;
use std::io;
use tokio::sync::oneshot;

/// What the last process left for whoever asks.
#[derive(Debug)]
pub struct Newest {
    /// The newest record on the topic that waits.
    pub record: Option<Sequenced>,
    /// Told when a power cut can't cost any record that was there when it was asked for: flash has them, or they are done with.
    pub safe: oneshot::Receiver<()>,
}

impl Spool {
    /// The newest record on this topic that waits in this stream. Reads whole segments, the newest first, until it is found.
    pub fn newest(&self, stream: StreamId, topic: &str) -> Option<Sequenced> {
        self.logs.get(stream.index())?.newest(topic)
    }
}

impl Log {
    fn newest(&self, topic: &str) -> Option<Sequenced> {
        let is_it = |record: &Sequenced| record.record.topic == topic && self.waits(record.seq);
        let pending = self.pending.iter().rev().map(|pending| &pending.record).find(|record| is_it(record));
        if let Some(record) = pending {
            return Some(record.clone());
        }
        let active = self.active.as_ref().map(|active| active.segment.first);
        let segments = active.into_iter().chain(self.segments.iter().rev().map(|segment| segment.first));
        for first in segments {
            match self.newest_in(first, is_it) {
                Ok(Some(record)) => return Some(record),
                Ok(None) => {}
                Err(error) => {
                    let file = self.path_of(first);
                    tracing::warn!("{} can't be searched for log lines: {error}", file.display());
                }
            }
            // What is in older ones is done with.
            if first <= self.ledger.done() {
                break;
            }
        }
        None
    }

    fn newest_in(&self, first: u64, is_it: impl Fn(&Sequenced) -> bool) -> io::Result<Option<Sequenced>> {
        let mut reader = SegmentReader::new(self.fs.open(&self.path_of(first))?, first)?;
        let mut newest = None;
        loop {
            match reader.next()? {
                Next::Entry(record) if is_it(&record) => newest = Some(record),
                Next::Entry(_) | Next::Damage(_) => {}
                Next::End(_) => return Ok(newest),
            }
        }
    }

    fn waits(&self, seq: u64) -> bool {
        seq > self.ledger.done() && seq < self.ledger.next() && self.ledger.skip_holes(seq) == seq
    }
}
