//! The publisher as a Sparkplug edge node: what [`crate::sparkplug`] decides is sent here.
//!
//! The number of the connection (`bdSeq`) is in `runtime_dir` and one more for each CONNECT, over restarts; with each boot it
//! begins anywhere, so that flash is not written for it. Beside it is what the metrics' types were, written before the data of a
//! new one: after a kill the same records go out as they did before.

use super::queue::Taken;
use super::{Lost, Publisher};
use crate::config::Convention;
use crate::disk::{Disk, read_all, replace};
use crate::inflight::Sent;
use crate::mqtt::{About, Connection, Message};
use crate::record::{Record, StreamId};
use crate::sparkplug::{MAX_TYPES_FILE, Outgoing, Session, TooLarge};
use crate::spool::Reason;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// The file's name in `runtime_dir`.
pub const FILE_NAME: &str = "sparkplug-bdseq";
/// That of the types, beside it.
const TYPES_FILE_NAME: &str = "sparkplug-types";
/// No number of ours is longer.
const MAX_FILE: usize = 16;

/// The edge node, and who may ask for its births.
#[derive(Debug)]
pub struct Sparkplug {
    session: Session,
    /// Changes with each request.
    rebirths: watch::Receiver<u64>,
    path: PathBuf,
    bd_seq: u8,
}

impl Sparkplug {
    /// `path` is where the number of the connection is kept.
    pub fn open(mut session: Session, rebirths: watch::Receiver<u64>, path: PathBuf) -> Self {
        let content = read_all(&Disk, &path, MAX_FILE).ok();
        if let Ok(types) = read_all(&Disk, &path.with_file_name(TYPES_FILE_NAME), MAX_TYPES_FILE) {
            session.remember(&types);
        }
        let kept = content.and_then(|content| String::from_utf8(content).ok()?.trim().parse().ok());
        Sparkplug { session, rebirths, path, bd_seq: kept.unwrap_or_else(|| fastrand::u8(..)) }
    }

    /// The Last Will of the next connection.
    pub(super) fn will(&mut self) -> Message {
        self.bd_seq = self.bd_seq.wrapping_add(1);
        keep(&self.path, format!("{}\n", self.bd_seq).as_bytes());
        message(self.session.connecting(self.bd_seq))
    }

    /// Writes down what types there are now, if that is news.
    fn keep_types(&mut self) {
        if let Some(types) = self.session.types() {
            keep(&self.path.with_file_name(TYPES_FILE_NAME), &types);
        }
    }

    /// The longest topic of what a record becomes.
    pub(super) fn topic(&self, record: &Record) -> String {
        self.session.topic(record)
    }

    /// The last words of this connection.
    pub(super) fn death(&self) -> Message {
        message(self.session.death())
    }
}

fn keep(path: &Path, content: &[u8]) {
    if let Err(error) = replace(&Disk, path, content) {
        tracing::debug!("{}: {error}", path.display());
    }
}

fn message(Outgoing { topic, payload }: Outgoing) -> Message {
    Message { topic, payload, retain: false, about: About::default() }
}

/// Returns when somebody wants everything to be born again. Cancel-safe.
pub(super) async fn rebirth(sparkplug: &mut Option<Sparkplug>) {
    if let Some(sparkplug) = sparkplug
        && sparkplug.rebirths.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

impl Publisher {
    /// A connection begins: NBIRTH, and the devices that are online.
    pub(super) fn bear(&mut self, connection: &Connection) {
        let now_ms = (self.wiring.clock)().wall_ms;
        if let Some(sparkplug) = &mut self.wiring.sparkplug {
            sparkplug.rebirths.borrow_and_update();
            let limit = connection.payload_limit(&sparkplug.session.longest_topic(), &About::default());
            let messages = sparkplug.session.connected(now_ms, limit.min(self.mqtt.max_payload));
            self.outbox.extend(messages.into_iter().map(|outgoing| (message(outgoing), Sent::Retained)));
        }
        self.look_at_devices();
    }

    /// The same for whoever has asked.
    pub(super) fn bear_again(&mut self) {
        let now_ms = (self.wiring.clock)().wall_ms;
        if let Some(sparkplug) = &mut self.wiring.sparkplug {
            let messages = sparkplug.session.rebirth(now_ms);
            self.outbox.extend(messages.into_iter().map(|outgoing| (message(outgoing), Sent::Retained)));
        }
    }

    /// Devices that have come.
    pub(super) fn look_at_devices(&mut self) {
        let now_ms = (self.wiring.clock)().wall_ms;
        if let Some(sparkplug) = &mut self.wiring.sparkplug {
            let retained = self.wiring.retained.borrow();
            let devices = retained.iter().filter_map(|retained| retained.device.as_ref());
            let messages = sparkplug.session.presence(devices.map(|(name, online)| (name.as_str(), *online)), now_ms);
            self.outbox.extend(messages.into_iter().map(|outgoing| (message(outgoing), Sent::Retained)));
        }
    }

    /// Devices that have gone, when nothing of them waits. Returns whether there is something to be sent.
    pub(super) fn settle_devices(&mut self) -> bool {
        let Some(sparkplug) = &mut self.wiring.sparkplug else { return false };
        // In the middle of a backlog the queue is empty now and then, until the next batch.
        let may_follow = sparkplug.session.is_draining() && self.window.in_flight() > 0;
        if !self.queue.is_empty() || !self.outbox.is_empty() || may_follow {
            return false;
        }
        let messages = sparkplug.session.settle((self.wiring.clock)().wall_ms);
        self.outbox.extend(messages.into_iter().map(|outgoing| (message(outgoing), Sent::Retained)));
        !self.outbox.is_empty()
    }

    /// Whether a stream's records go this way.
    pub(super) fn is_sparkplug(&self, stream: StreamId) -> bool {
        self.wiring.sparkplug.is_some()
            && self.streams.get(stream.index()).is_some_and(|stream| stream.convention == Convention::Sparkplug)
    }

    /// Puts the first record of a stream, and the births that must come before it, into the outbox. `limit` is what the broker
    /// takes of payload with the topic of that record.
    pub(super) async fn send_as_metrics(&mut self, stream: StreamId, limit: usize) -> Result<(), Lost> {
        let now_ms = (self.wiring.clock)().wall_ms;
        let (Some(sparkplug), Some(first)) = (&mut self.wiring.sparkplug, self.queue.run(stream).next()) else {
            return Ok(());
        };
        let most = self.mqtt.max_payload.min(limit);
        let made = sparkplug.session.record(&first.record, now_ms, most);
        sparkplug.keep_types();
        let Taken { first, last, cost } = self.queue.take(stream, 1);
        self.spent += cost;
        match made {
            Ok(mut messages) => {
                let bytes: usize = messages.iter().map(|message| message.topic.len() + message.payload.len()).sum();
                self.note_sent(stream, first, bytes);
                let data = messages.pop().map(message);
                let births = messages.into_iter().map(|outgoing| (message(outgoing), Sent::Retained));
                self.outbox.extend(births);
                self.outbox.extend(data.map(|data| (data, Sent::Records { stream, first, last })));
                Ok(())
            }
            Err(TooLarge(bytes)) => {
                let detail = format!("{bytes} bytes as metrics, and {most} is the most that a message may have");
                Ok(self.wiring.spool.discard(stream, first, Reason::Oversize, detail).await?)
            }
        }
    }

    fn note_sent(&mut self, stream: StreamId, seq: u64, bytes: usize) {
        let highest = self.highest.get_mut(stream.index());
        let is_repeated = highest.is_some_and(|highest| {
            let is_repeated = seq <= *highest;
            *highest = seq.max(*highest);
            is_repeated
        });
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.count(|status| {
            status.repeated += u64::from(is_repeated);
            status.sent_messages += 1;
            status.sent_records += 1;
            status.sent_bytes += bytes;
            status.plain_bytes += bytes;
        });
    }
}
