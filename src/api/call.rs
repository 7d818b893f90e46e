//! What a handler is given: the request, and the ways into the rest of pillion.

use super::Api;
use super::answer::Error;
use super::counts::Counts;
use super::lines::MAX_STREAMS;
use super::phase::Phases;
use crate::record::Refusal;
use crate::stats::Status;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

/// How long a flow may take to answer. An fdatasync on a worn SD card takes seconds.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Large bodies in memory at once; with their limit of 1 MiB (or `max_payload`) this bounds what clients can make us hold.
const LARGE_BODIES: usize = 2;

/// Of those, so many are records at a time on their way into the spool, which takes twice as much memory as the body.
const LARGE_SUBMISSIONS: usize = 1;

/// Bodies at a time that are taken in while they come: each makes us hold two submissions (see `upload`) and a line.
const UPLOADS: usize = 8;

/// Fewer where records may be large: what all of them may hold beside 64 KiB each, in bytes, but for one of them that may always go on.
const UPLOAD_MEMORY: usize = 8 << 20;

/// How many uploads there may be at a time.
fn uploads(max_payload: usize) -> usize {
    // A line, and a record of that size in each of two submissions.
    let each = max_payload.saturating_mul(3).max(1);
    (UPLOAD_MEMORY / each).clamp(1, UPLOADS)
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) api: Api,
    pub(super) large_bodies: Semaphore,
    pub(super) large_submissions: Semaphore,
    pub(super) uploads: Semaphore,
    /// Places for answers without an end.
    pub(super) streams: Arc<Semaphore>,
    pub(super) counts: Counts,
    /// True when pillion stops.
    pub(super) stop: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn new(api: Api, stop: watch::Receiver<bool>) -> Self {
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let (large_bodies, uploads) = (Semaphore::new(LARGE_BODIES), Semaphore::new(uploads(api.max_payload)));
        let large_submissions = Semaphore::new(LARGE_SUBMISSIONS);
        let counts = Counts::new(api.counts.clone());
        Shared { api, counts, large_bodies, large_submissions, uploads, streams, stop }
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Peer {
    /// Its user's number.
    pub(super) user: u32,
    /// The number of its main group.
    pub(super) group: u32,
    /// Its process, where that is known.
    pub(super) process: Option<i32>,
}

/// A request on its way to its handler.
pub(super) struct Call {
    pub(super) head: Parts,
    pub(super) body: Incoming,
    /// What stands in the path where the route has `{…}`, percent-decoded and not empty; empty where it has none. It is a
    /// client's word: it may hold anything, a slash (as `%2F`) too.
    pub(super) name: String,
    /// How long the connection may go on.
    pub(super) phases: Phases,
}

pub(super) async fn ask_status(api: &Api) -> Result<Status, Error> {
    ask(&api.status, |reply| reply).await
}

/// Sends a question that carries its own way back, and waits for the answer, each within the time allowed.
pub(super) async fn ask<Q, A>(
    flow: &mpsc::Sender<Q>,
    question: impl FnOnce(oneshot::Sender<A>) -> Q,
) -> Result<A, Error> {
    let exchange = async {
        let (reply, answer) = oneshot::channel();
        flow.send(question(reply)).await.ok()?;
        answer.await.ok()
    };
    match timeout(ANSWER_TIME, exchange).await {
        Ok(Some(answer)) => Ok(answer),
        // The flow has ended, or ended with the question in its hands.
        Ok(None) => Err(Error::Refused(Refusal::Stopping)),
        Err(_) => Err(Error::NoAnswer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_never_hold_more_than_their_memory_nor_are_forbidden() {
        for (max_payload, places) in [(1 << 10, 8), (256 << 10, 8), (1 << 20, 2), (2 << 20, 1), (8 << 20, 1), (0, 8)] {
            assert_eq!(uploads(max_payload), places, "{max_payload}");
        }
    }
}
