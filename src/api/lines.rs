//! An answer that has no end: lines of JSON, each sent when there is one (`application/x-ndjson`, in chunks).
//!
//! Constraints: there are at most [`MAX_STREAMS`] at a time, so that other requests always find a place. A line waits in
//! a bounded channel; a client that doesn't take it within [`STALL_TIME`] loses its connection, and one that hangs up or
//! a stop of pillion ends the writer at its next `await`. So a writer is plain code:
//!
//! ```text
//! lines::answer(shared, &call, |out| async move {
//!     while let Some(message) = messages.recv().await {
//!         if out.send(&message).await.is_err() { return }
//!     }
//! })
//! ```
//!
//! A client that has its answer's head but no line yet, reads nothing and hangs up, is noticed at once (see `server`).

use super::answer::{Answer, Body, Error};
use super::call::{Call, Shared};
use super::phase::{Phase, Phases};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Streams at a time, of all clients together.
pub(super) const MAX_STREAMS: usize = 8;

/// Lines between writer and connection. A line may be as large as a message (`mqtt.max_payload`), so they are few.
const WAITING: usize = 2;

/// How long a line may wait for its client.
const STALL_TIME: Duration = Duration::from_secs(30);

/// The client reads no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client reads no more")]
pub(super) struct Gone;

/// Where a writer's lines go.
#[derive(Debug)]
pub(super) struct Lines {
    sender: mpsc::Sender<Bytes>,
    phases: Phases,
}

impl Lines {
    /// Sends a document as a line, and waits while the client is slower than we are.
    ///
    /// # Errors
    /// [`Gone`]: the client did not take it in time. The writer should return.
    pub(super) async fn send(&self, document: &impl Serialize) -> Result<(), Gone> {
        // As in `answer::json`.
        let mut line = serde_json::to_vec(document).unwrap_or_default();
        line.push(b'\n');
        match timeout(STALL_TIME, self.sender.send(line.into())).await {
            Ok(sent) => sent.map_err(|_| Gone),
            Err(_) => {
                self.phases.enter(Phase::Cut);
                Err(Gone)
            }
        }
    }
}

/// Answers 200 and the lines that `write` sends, until it returns, the client hangs up, or pillion stops.
///
/// # Errors
/// [`Error::Streams`] if there are [`MAX_STREAMS`] already.
pub(super) fn answer<W>(shared: &Shared, call: &Call, write: impl FnOnce(Lines) -> W) -> Result<Answer, Error>
where
    W: Future<Output = ()> + Send + 'static,
{
    let place = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| Error::Streams)?;
    let (sender, lines) = mpsc::channel(WAITING);
    let writing = write(Lines { sender, phases: call.phases.clone() });
    let mut stop = shared.stop.clone();
    let writer = tokio::spawn(async move {
        tokio::select! {
            () = writing => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    });
    call.phases.enter(Phase::Stream);
    let stream = Stream { lines, writer, _place: place };
    let mut answer = Answer::new(Body::of_lines(stream));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(answer)
}

/// The body.
#[derive(Debug)]
pub(super) struct Stream {
    lines: mpsc::Receiver<Bytes>,
    writer: JoinHandle<()>,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    /// As a body's: the next line.
    pub(super) fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let line = ready!(Pin::new(&mut self.lines).poll_recv(context));
        Poll::Ready(line.map(|line| Ok(Frame::data(line))))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.writer.abort();
    }
}
