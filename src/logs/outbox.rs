//! Handing records over: what becomes of a parcel, and holding one that the stream has no room for.
//!
//! Constraint: one parcel is on its way at a time, so batches are accepted in the order of their numbers.
//!
//! A parcel is *on its way*, then *accepted* (it survives a kill), *in doubt* (in memory alone: no disk took it), *held* (the stream is
//! full; it is handed over again, with growing pauses), or *refused* (pillion stops).

use super::TOPIC;
use super::bookmark::Bookmark;
use crate::app::journal::Cursor;
use crate::backoff::Backoff;
use crate::logline::PostedCounts;
use crate::record::{Durability, Encoding, Note, Record, Refusal, StreamId, Submission, Timestamp};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Between tries to hand over what the stream has refused, since it is full.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// After this long without a read the journal may have lost what journalctl held for us.
const STALE: Duration = Duration::from_secs(5);

/// Where the answer to a post goes, and what it is if all goes well.
pub type Poster = (oneshot::Sender<Result<PostedCounts, Refusal>>, PostedCounts);

/// Records of one batch, and what holds when they are accepted.
pub struct Parcel {
    /// In order; not empty.
    pub records: Vec<Record>,
    /// The number of the batch.
    pub batch: u64,
    /// The last line of the journal that has been read, if any has since the batch before.
    pub cursor: Option<Cursor>,
    /// Who waits for the answer.
    pub posters: Vec<Poster>,
    /// When it was handed over first.
    pub since: Instant,
}

/// What became of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It has so many records, and survives a kill. `late`: that took so long that the journal has to be read anew.
    Accepted { records: u64, late: bool },
    /// It has so many records, in memory alone.
    InDoubt { records: u64 },
    /// There is no room for it yet.
    Held,
    /// The lines stay in the journal.
    Refused,
}

struct Held {
    parcel: Parcel,
    retry_at: Instant,
}

/// The way to the spool.
pub struct Outbox {
    submissions: mpsc::Sender<Submission>,
    held: Option<Held>,
    retry: Backoff,
}

impl Outbox {
    /// Into the ingest flow.
    pub fn new(submissions: mpsc::Sender<Submission>) -> Self {
        Outbox { submissions, held: None, retry: Backoff::new(REFUSED.0, REFUSED.1) }
    }

    /// Whether another parcel may be sent.
    pub fn is_free(&self) -> bool {
        self.held.is_none()
    }

    /// When the parcel that is held is to be handed over again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.retry_at)
    }

    /// Hands over again what is held, if that is due.
    pub async fn retry(&mut self, bookmark: &mut Bookmark) -> Option<Sent> {
        let held = self.held.take_if(|held| held.retry_at <= Instant::now())?;
        Some(self.send(held.parcel, bookmark).await)
    }

    /// Hands a parcel over and waits until it survives a kill.
    pub async fn send(&mut self, parcel: Parcel, bookmark: &mut Bookmark) -> Sent {
        let (ahead, note) = bookmark.ahead(parcel.batch, parcel.cursor.clone()).unzip();
        let count = u64::try_from(parcel.records.len()).unwrap_or(u64::MAX);
        match self.submit(StreamId::LOG, parcel.records.clone(), note).await {
            Ok(()) => {
                ahead.into_iter().for_each(|ahead| bookmark.move_to(ahead));
                answer_all(parcel.posters, &Ok(()));
                self.retry.reset();
                Sent::Accepted { records: count, late: parcel.since.elapsed() >= STALE }
            }
            // It goes to the disk when that takes it, and may be delivered: again it would come twice.
            Err(refusal @ Refusal::NotDurable(_)) => {
                ahead.into_iter().for_each(|ahead| bookmark.doubt(ahead));
                answer_all(parcel.posters, &Err(refusal));
                Sent::InDoubt { records: count }
            }
            Err(Refusal::Full) => {
                let retry_at = Instant::now() + self.retry.next(fastrand::f64());
                self.held = Some(Held { parcel, retry_at });
                Sent::Held
            }
            Err(refusal @ Refusal::Stopping) => {
                answer_all(parcel.posters, &Err(refusal));
                Sent::Refused
            }
        }
    }

    /// Puts a document on the event stream. A refusal is counted in that stream's ledger.
    pub async fn tell(&self, document: &serde_json::Value, time: Timestamp) {
        let record = Record {
            topic: "event".to_owned(),
            time,
            encoding: Encoding::Json,
            data: document.to_string().into_bytes(),
        };
        let _ = self.submit(StreamId::EVENT, vec![record], None).await;
    }

    async fn submit(&self, stream: StreamId, records: Vec<Record>, note: Option<Note>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let submission = Submission { stream, records, durability: Durability::Process, note, reply: Some(reply) };
        self.submissions.send(submission).await.map_err(|_| Refusal::Stopping)?;
        answer.await.unwrap_or(Err(Refusal::Stopping)).map(|_| ())
    }
}

/// A record of lines.
pub fn record(data: Vec<u8>, time: Timestamp) -> Record {
    Record { topic: TOPIC.to_owned(), time, encoding: Encoding::Json, data }
}

/// Answers those who have posted lines.
pub fn answer_all(posters: Vec<Poster>, outcome: &Result<(), Refusal>) {
    for (reply, counts) in posters {
        // Who asked may have gone.
        let _ = reply.send(outcome.clone().map(|()| counts));
    }
}
