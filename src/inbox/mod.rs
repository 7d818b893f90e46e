//! The inbox flow: messages on `P/app/set/#`, kept for the application until it has read them, and a while longer.
//!
//! Constraints: a message is on the medium before the broker is told that it need not come again, and before any client
//! sees it; so what a client has seen once keeps its number. The flow waits for the disk, in turns of `BATCH` messages with
//! one fdatasync each, and for nothing else. What can't be written is not acknowledged, and comes again.
//!
//! [`kept`] holds the messages and decides which are new; this file does what comes of it.

pub mod kept;

use crate::disk::FileSystem;
use crate::disk::journal::{Found, Journal};
use crate::inbound::{Delivered, MAX_TOPIC, MAX_VALUE, MessagesRequest};
use crate::pulse::Pulse;
use crate::record::{Clock, Submission};
use crate::stats::InboxStatus;
use kept::{Arrival, Dropped, Entry, Messages};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// Messages that wait for this flow before the listen flow waits.
pub const WAITING: usize = 32;
/// Messages that are written together.
const BATCH: usize = 16;
/// Losses are announced together, once in this time.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);

/// What the flow is connected to.
pub struct Wiring {
    /// From the broker.
    pub messages: mpsc::Receiver<Delivered>,
    /// From local clients.
    pub requests: mpsc::Receiver<MessagesRequest>,
    /// The number of the latest message, for local clients to wait for.
    pub latest: watch::Sender<u64>,
    /// For events.
    pub submissions: mpsc::Sender<Submission>,
    /// Where the flow shows its counters. Receivers are woken by a change of `error` only.
    pub status: watch::Sender<InboxStatus>,
    /// Time stamps.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: return.
    pub stop: watch::Receiver<bool>,
}

/// The folder of the inbox.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("inbox")
}

/// Runs until `stop` is set.
pub async fn run(fs: Arc<dyn FileSystem>, dir: PathBuf, wiring: Wiring) {
    let mut flow =
        Inbox { messages: Messages::default(), journal: None, losses: None, refusals: None, announced: None, wiring };
    flow.open(fs, dir).await;
    flow.run().await;
}

struct Inbox {
    messages: Messages,
    /// `None` while it is being written to.
    journal: Option<Journal<Entry>>,
    /// What is not announced yet: messages that had to go unread, and how many were refused, with the latest reason.
    losses: Option<Dropped>,
    refusals: Option<(u64, String)>,
    announced: Option<Instant>,
    wiring: Wiring,
}

impl Inbox {
    async fn open(&mut self, fs: Arc<dyn FileSystem>, dir: PathBuf) {
        let opening = spawn_blocking(move || Journal::open(fs, dir));
        let Ok((journal, found)) = self.wiring.pulse.during(opening).await else { return };
        self.journal = Some(journal);
        let Found { entries, damaged, torn, error } = found;
        let trouble = error.or_else(|| (damaged > 0).then(|| format!("damaged in {damaged} places")));
        if let Some(trouble) = &trouble {
            let detail = format!("{trouble}; messages that were kept for the application may be lost");
            tracing::warn!("the inbox: {detail}");
            self.submit(json!({ "type": "inbox-damaged", "detail": detail })).await;
        }
        if torn > 0 {
            tracing::info!("cut {torn} bytes of an unfinished message off the inbox");
        }
        self.messages = Messages::restore(entries, trouble.is_some());
        self.show(|_| {});
        self.wiring.latest.send_replace(self.messages.latest());
    }

    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let (mut from_broker, mut from_clients) = (true, true);
        loop {
            let due = || self.announced.map_or_else(Instant::now, |at| at + ANNOUNCE_EVERY);
            let announce = (self.losses.is_some() || self.refusals.is_some()).then(due);
            tokio::select! {
                count = self.wiring.messages.recv_many(&mut batch, BATCH), if from_broker => {
                    from_broker = count > 0;
                    self.take(&mut batch).await;
                }
                request = self.wiring.requests.recv(), if from_clients => match request {
                    Some(MessagesRequest { after, reply }) => _ = reply.send(self.messages.after(after)),
                    None => from_clients = false,
                },
                () = sleep_until(announce.unwrap_or_else(Instant::now)), if announce.is_some() => self.announce().await,
                () = self.wiring.pulse.answer() => {}
                // What waits in the channel is let go: the broker sends it again.
                () = stopped(&mut self.wiring.stop) => return,
            }
        }
    }

    /// Writes and keeps what is new, and tells the broker.
    async fn take(&mut self, batch: &mut Vec<Delivered>) {
        let time = (self.wiring.clock)();
        let (mut entries, mut told): (Vec<Entry>, Vec<oneshot::Sender<()>>) = (Vec::new(), Vec::new());
        for delivered in batch.drain(..) {
            let Delivered { topic, payload, retained, packet, redelivered, noted } = delivered;
            told.push(noted);
            if let Err(reason) = check(&topic, &payload) {
                let count = self.refusals.take().map_or(0, |(count, _)| count) + 1;
                self.refusals = Some((count, reason));
                self.show(|status| status.refused += 1);
                continue;
            }
            let arrival = Arrival { topic, data: payload, retained, packet, redelivered };
            match self.messages.entry(arrival, &entries, time) {
                Some(entry) => entries.push(entry),
                None => self.show(|status| status.repeated += 1),
            }
        }
        if !entries.is_empty() && self.write(entries).await.is_err() {
            // Not even a repetition is acknowledged, for it may be one of what was not written.
            return;
        }
        for noted in told {
            let _: Result<(), ()> = noted.send(());
        }
    }

    async fn write(&mut self, entries: Vec<Entry>) -> Result<(), ()> {
        let Some(mut journal) = self.journal.take() else { return Err(()) };
        let all = journal.wants_rewrite().then(|| [self.messages.entries(), entries.clone()].concat());
        let writing = spawn_blocking(move || {
            let written = match all {
                // The old file may still be good where there is no room for a second one.
                Some(all) => journal.rewrite(&all).or_else(|error| journal.append(&entries, true).map_err(|_| error)),
                None => journal.append(&entries, true),
            };
            (journal, written.map(|()| entries))
        });
        let (journal, written) = self.wiring.pulse.during(writing).await.map_err(|_| ())?;
        self.journal = Some(journal);
        match written {
            Ok(entries) => {
                let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                entries.into_iter().for_each(|entry| self.messages.add(entry));
                let dropped = self.messages.drop_surplus();
                self.note_losses(dropped);
                self.show(|status| {
                    status.received += count;
                    status.dropped += dropped.map_or(0, |dropped| dropped.count);
                    status.error = None;
                });
                self.wiring.latest.send_replace(self.messages.latest());
                Ok(())
            }
            Err(error) => {
                let error = error.to_string();
                if self.wiring.status.borrow().error.is_none() {
                    tracing::error!("messages for the application can't be kept, and have to come again: {error}");
                }
                self.show(|status| status.error = Some(error));
                Err(())
            }
        }
    }

    fn note_losses(&mut self, dropped: Option<Dropped>) {
        let Some(dropped) = dropped else { return };
        let Dropped { first, count, .. } = self.losses.unwrap_or(Dropped { count: 0, ..dropped });
        self.losses = Some(Dropped { first, last: dropped.last, count: count + dropped.count });
    }

    async fn announce(&mut self) {
        self.announced = Some(Instant::now());
        if let Some((count, reason)) = self.refusals.take() {
            let detail =
                format!("{count} messages for the application were thrown away, such as one of which {reason}");
            tracing::warn!("{detail}");
            self.submit(json!({ "type": "messages-refused", "count": count, "detail": detail })).await;
        }
        if let Some(Dropped { first, last, count }) = self.losses.take() {
            let detail = format!(
                "{count} messages for the application (ids {first} to {last}) had to go before any client of \
                 GET /v1/commands had read them: {} messages or {} KiB are kept",
                kept::MOST,
                kept::BYTES / 1024
            );
            tracing::warn!("{detail}");
            let document =
                json!({ "type": "messages-dropped", "count": count, "first": first, "last": last, "detail": detail });
            self.submit(document).await;
        }
    }

    async fn submit(&mut self, document: serde_json::Value) {
        let submission = Submission::event(&document, (self.wiring.clock)());
        // Nobody takes records any more when pillion is at its end.
        let _ = self.wiring.pulse.during(self.wiring.submissions.send(submission)).await;
    }

    fn show(&self, change: impl FnOnce(&mut InboxStatus)) {
        let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let (kept, bytes) = self.messages.size();
        self.wiring.status.send_if_modified(|status| {
            let before = status.error.is_some();
            change(status);
            (status.kept, status.bytes, status.latest) = (number(kept), number(bytes), self.messages.latest());
            status.error.is_some() != before
        });
    }
}

/// Returns when the flow shall end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have stopped us.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn check(topic: &str, payload: &[u8]) -> Result<(), String> {
    let shown: String = topic.chars().take(64).collect();
    match (topic.len(), payload.len()) {
        (length, _) if length > MAX_TOPIC => Err(format!("the topic ({shown:?}…) has more than {MAX_TOPIC} bytes")),
        (_, length) if length > MAX_VALUE => {
            Err(format!("the payload (on {shown:?}) has {length} of {MAX_VALUE} bytes"))
        }
        _ => Ok(()),
    }
}
