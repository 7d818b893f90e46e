//! Records out of a body of any length: one JSON value per line, taken in while they come.
//!
//! Constraints: one submission is with the spool at a time, and what comes meanwhile is the next one, up to [`RECORDS`] and
//! [`BYTES`]; while that is full nothing is read. So the spool sets the pace, memory is bounded, a fast disk gets small
//! submissions and a slow one large ones, and what was accepted is always a beginning of the body.
//!
//! ```text
//! body ─ bytes ─> lines ─> next submission ─> spool
//!   ^ not read while that is full                └── accepted n, first, last
//! ```

use super::answer::{Error, Published};
use super::call::{Shared, ask};
use super::phase::{Phase, Phases};
use super::records::{Lines, Target, of_line};
use crate::record::{Accepted, Durability, Record, Refusal, Submission};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

/// Records in a submission.
const RECORDS: usize = 1_000;

/// Bytes of data in a submission, but for one record more.
const BYTES: usize = 64 * 1024;

/// How long it may take from one whole line to the next.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// After an error this much is read and thrown away, and no longer than this: see `publish`.
const DISCARD_LIMIT: usize = super::publish::DISCARD_LIMIT;
const DISCARD_TIME: Duration = Duration::from_millis(500);

/// Where the lines come from.
pub(super) struct Source {
    /// What has been read already.
    pub(super) begun: Bytes,
    /// The rest; none if that was all.
    pub(super) body: Option<Incoming>,
}

/// A submission on its way through the spool.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<Accepted, Error>> + Send + 'a>>;

struct Upload<'a> {
    shared: &'a Shared,
    target: &'a Target,
    phases: &'a Phases,
    lines: Lines,
    next: Vec<Record>,
    next_bytes: usize,
    /// The submission that the spool has, and how many records are in it.
    submitted: Option<(usize, Answer<'a>)>,
    published: Published,
    /// The place among the large bodies, as long as what was read at the beginning is in memory; an upload may take for ever.
    large: Option<SemaphorePermit<'a>>,
}

/// Takes in every line. `large` is the place of what has been read already among the large bodies.
///
/// # Errors
/// [`Error::Partial`], with what was accepted until then.
pub(super) async fn take_in<'a>(
    shared: &'a Shared,
    target: &'a Target,
    mut source: Source,
    large: Option<SemaphorePermit<'a>>,
    phases: &'a Phases,
) -> Result<Published, Error> {
    let mut upload = Upload {
        shared,
        target,
        phases,
        lines: Lines::default(),
        next: Vec::new(),
        next_bytes: 0,
        submitted: None,
        published: Published::default(),
        large,
    };
    upload.lines.feed(std::mem::take(&mut source.begun));
    let mut outcome = upload.read(&mut source.body).await;
    // What stood before the wrong line is good, unless the spool itself said no.
    if !matches!(outcome, Err(Error::Refused(_) | Error::NoAnswer)) {
        let settled = upload.settle().await;
        outcome = outcome.and(settled);
    }
    let published = upload.published;
    match outcome {
        Ok(()) if published.accepted > 0 => Ok(published),
        outcome => {
            let none = || Error::Bad("the body holds no record; it should hold one JSON value per line".to_owned());
            let error = outcome.err().unwrap_or_else(none);
            let is_over = matches!(error, Error::CutOff | Error::Idle(_) | Error::Refused(Refusal::Stopping));
            if let (false, Some(body)) = (is_over, &mut source.body) {
                discard(body).await;
            }
            Err(Error::Partial { error: Box::new(error), published })
        }
    }
}

impl Upload<'_> {
    /// Reads and submits until the body has ended.
    async fn read(&mut self, body: &mut Option<Incoming>) -> Result<(), Error> {
        let mut stop = self.shared.stop.clone();
        let mut last_line = Instant::now();
        let mut ended = false;
        loop {
            let is_full = self.fill(&mut last_line)?;
            if self.submitted.is_none() && !self.next.is_empty() {
                self.submit();
            }
            let reads = !ended && !is_full;
            if !reads && self.submitted.is_none() {
                // Nothing is left: what there was would be on its way.
                return Ok(());
            }
            tokio::select! {
                answer = answered(&mut self.submitted) => self.account(answer)?,
                frame = next_frame(body), if reads => match frame {
                    Some(Ok(frame)) => self.lines.feed(frame.into_data().unwrap_or_default()),
                    Some(Err(_)) => return Err(Error::CutOff),
                    None => {
                        (*body, ended) = (None, true);
                        if let Some((number, line)) = self.lines.finish() {
                            self.take(number, &line)?;
                        }
                    }
                },
                () = sleep_until(last_line + IDLE_TIME), if reads => return Err(Error::Idle(IDLE_TIME)),
                _ = stop.wait_for(|stop| *stop) => return Err(Error::Refused(Refusal::Stopping)),
            }
        }
    }

    /// Takes lines as long as there are whole ones and room. Returns whether there is no room.
    fn fill(&mut self, last_line: &mut Instant) -> Result<bool, Error> {
        while self.next.len() < RECORDS && self.next_bytes < BYTES {
            match self.lines.next(self.shared.api.max_payload)? {
                Some((number, line)) => {
                    *last_line = Instant::now();
                    self.take(number, &line)?;
                }
                None => {
                    self.large = None;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn take(&mut self, number: u64, line: &[u8]) -> Result<(), Error> {
        let api = &self.shared.api;
        if let Some(record) = of_line(line, number, self.target, api, (api.clock)())? {
            self.next_bytes = self.next_bytes.saturating_add(record.data.len());
            self.next.push(record);
        }
        Ok(())
    }

    fn submit(&mut self) {
        let records = std::mem::take(&mut self.next);
        self.next_bytes = 0;
        let count = records.len();
        let durability = if self.target.sync { Durability::Power } else { Durability::Process };
        let (submissions, stream) = (&self.shared.api.submissions, self.target.stream);
        let answer = async move {
            let submit = |reply| Submission { stream, records, durability, note: None, reply: Some(reply) };
            Ok(ask(submissions, submit).await??)
        };
        self.submitted = Some((count, Box::pin(answer)));
    }

    fn account(&mut self, (count, answer): (usize, Result<Accepted, Error>)) -> Result<(), Error> {
        self.published.add(count, answer?);
        // Progress: the connection keeps its place.
        self.phases.enter(Phase::Upload);
        Ok(())
    }

    /// Has everything accepted that was taken.
    async fn settle(&mut self) -> Result<(), Error> {
        loop {
            if self.submitted.is_none() && !self.next.is_empty() {
                self.submit();
            }
            if self.submitted.is_none() {
                return Ok(());
            }
            let answer = answered(&mut self.submitted).await;
            self.account(answer)?;
        }
    }
}

/// The answer to what is submitted; never, if nothing is. Cancel-safe.
async fn answered(submitted: &mut Option<(usize, Answer<'_>)>) -> (usize, Result<Accepted, Error>) {
    let Some((count, answer)) = submitted else { return std::future::pending().await };
    let answered = (*count, answer.await);
    *submitted = None;
    answered
}

async fn next_frame(body: &mut Option<Incoming>) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
    match body {
        Some(body) => body.frame().await,
        None => None,
    }
}

/// Reads some more, so that a client that first sends everything gets to read what was wrong.
async fn discard(body: &mut Incoming) {
    let enough = async {
        let mut total = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            total = total.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if total > DISCARD_LIMIT {
                return;
            }
        }
    };
    tokio::select! {
        () = enough => {}
        () = sleep(DISCARD_TIME) => {}
    }
}
