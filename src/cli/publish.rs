//! `pillion publish`: each line of standard input becomes one record.
//!
//! Constraints: what is there is sent at once and in order, one request after the other; what counts as accepted is what
//! the sidecar has confirmed; when it ends early, it says which lines are in and which are not.

use super::batch::{Batch, Batcher, MAX_LINE};
use super::client::{self, ClientError};
use super::exit::{DATA, DEGRADED, Failure, INTERNAL, UNAVAILABLE, print};
use super::find::{RUN_DIR, Whom};
use crate::backoff::Backoff;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How much is read at once, in bytes.
const READ_SIZE: usize = 256 * 1024;

/// How long a stream may stay full.
const PATIENCE: Duration = Duration::from_secs(30);

/// What has a meaning in a query, and what can't stand in one.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The topic, as in room/2
    #[arg(long, value_name = "T")]
    topic: String,
    /// The stream that keeps the records
    #[arg(long, value_name = "S", default_value = "telemetry")]
    stream: String,
    /// Return only when the records would survive a power cut
    #[arg(long)]
    sync: bool,
    /// Report each request on standard error
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    whom: Whom,
}

/// The sidecar's confirmation.
#[derive(Debug, Deserialize)]
struct Confirmation {
    accepted: u64,
    first: u64,
    last: u64,
}

/// What was confirmed so far.
#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    first: Option<u64>,
    last: u64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let socket = arguments.whom.socket(std::env::var_os("PILLION_SOCKET"), RUN_DIR.as_ref())?;
    let stdin = io::stdin().lock();
    if stdin.is_terminal() {
        complain("reading lines from the terminal; ^D ends");
    }
    let mut publisher = Publisher::new(arguments, socket)?;
    let empty = publisher.publish_all(stdin)?;
    print(&publisher.tally.summary(&arguments.stream, empty))?;
    Ok(ExitCode::SUCCESS)
}

fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "pillion publish: {what}");
}

struct Publisher {
    socket: PathBuf,
    target: String,
    stream: String,
    verbose: bool,
    runtime: Runtime,
    tally: Tally,
}

impl Publisher {
    fn new(arguments: &Arguments, socket: PathBuf) -> Result<Self, Failure> {
        let encoded = |text| utf8_percent_encode(text, QUERY);
        let (topic, stream) = (encoded(&arguments.topic), encoded(&arguments.stream));
        let target = format!("/v1/publish?topic={topic}&stream={stream}&sync={}", arguments.sync);
        let (stream, verbose) = (arguments.stream.clone(), arguments.verbose);
        Ok(Publisher { socket, target, stream, verbose, runtime: client::runtime()?, tally: Tally::default() })
    }

    /// Publishes all of the input; returns how many of its lines were empty.
    fn publish_all(&mut self, mut input: impl Read) -> Result<u64, Failure> {
        let mut batcher = Batcher::default();
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let length = match input.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.stopped(DATA, &format!("can't read the input: {error}"))),
            };
            let bytes = buffer.get(..length).unwrap_or_default();
            let batches = if bytes.is_empty() { batcher.finish() } else { batcher.read(bytes) };
            for batch in batches {
                self.publish(&batch)?;
            }
            if let Some(line) = batcher.too_long {
                return Err(self.stopped(DATA, &format!("line {line} is longer than {MAX_LINE} bytes")));
            }
            if bytes.is_empty() {
                return Ok(batcher.empty);
            }
        }
    }

    /// One batch, again and again while its stream is full.
    fn publish(&mut self, batch: &Batch) -> Result<(), Failure> {
        let since = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(4));
        let mut waiting = false;
        loop {
            let answer = self.send(batch).map_err(|error| self.lost(batch, &error))?;
            if answer.status == StatusCode::OK {
                return self.confirm(batch, &answer.body);
            }
            let pause = backoff.next(fastrand::f64());
            let again = answer.status == StatusCode::TOO_MANY_REQUESTS && since.elapsed() + pause < PATIENCE;
            if !again {
                return Err(self.refused(batch, &answer));
            }
            if !waiting {
                complain(&format!("the stream {} is full; trying again for {} s", self.stream, PATIENCE.as_secs()));
                waiting = true;
            }
            std::thread::sleep(pause);
        }
    }

    fn send(&self, batch: &Batch) -> Result<client::Answer, ClientError> {
        let request = Request::post(&self.target).header(CONTENT_TYPE, batch.content.media_type());
        let body = Full::new(Bytes::from(batch.body.clone()));
        match request.body(body) {
            Ok(request) => self.runtime.block_on(client::request(&self.socket, request)),
            Err(error) => Err(ClientError::BrokenOff { path: self.socket.clone(), why: error.to_string() }),
        }
    }

    fn confirm(&mut self, batch: &Batch, body: &[u8]) -> Result<(), Failure> {
        let confirmation: Confirmation = serde_json::from_slice(body).map_err(|error| {
            self.stopped(INTERNAL, &format!("can't understand the answer for {}: {error}", place(batch)))
        })?;
        self.tally.add(&confirmation);
        if self.verbose {
            let (stream, first, last) = (&self.stream, confirmation.first, confirmation.last);
            complain(&format!("{}: accepted as {stream}:{first} to {stream}:{last}", place(batch)));
        }
        Ok(())
    }

    fn refused(&self, batch: &Batch, answer: &client::Answer) -> Failure {
        let code = match answer.status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => DATA,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => DEGRADED,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => UNAVAILABLE,
            _ => INTERNAL,
        };
        self.stopped(code, &format!("not accepted: {}: {}", place(batch), answer.error()))
    }

    fn lost(&self, batch: &Batch, error: &ClientError) -> Failure {
        let fate = match error {
            ClientError::NotReachable { .. } => "not accepted",
            ClientError::BrokenOff { .. } => "accepted or not, that is unknown",
        };
        self.stopped(UNAVAILABLE, &format!("{}: {fate}: {error}", place(batch)))
    }

    /// A failure that also says what was accepted before.
    fn stopped(&self, code: u8, why: &str) -> Failure {
        Failure::new(code, format!("{why}\nBefore that: {}", self.tally.summary(&self.stream, 0).trim_end()))
    }
}

fn place(batch: &Batch) -> String {
    match batch.first_line == batch.last_line {
        true => format!("input line {}", batch.first_line),
        false => format!("input lines {} to {}", batch.first_line, batch.last_line),
    }
}

impl Tally {
    fn add(&mut self, confirmation: &Confirmation) {
        self.accepted = self.accepted.saturating_add(confirmation.accepted);
        self.first.get_or_insert(confirmation.first);
        self.last = confirmation.last;
    }

    fn summary(&self, stream: &str, empty: u64) -> String {
        let mut text = match (self.accepted, self.first) {
            (1, Some(first)) => format!("accepted 1 record: {stream}:{first}"),
            (n, Some(first)) => format!("accepted {n} records: {stream}:{first} to {stream}:{}", self.last),
            (_, None) => "accepted 0 records".to_owned(),
        };
        match empty {
            0 => {}
            1 => text.push_str("; skipped 1 empty line"),
            n => text.push_str(&format!("; skipped {n} empty lines")),
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_never_misleads() {
        let mut tally = Tally::default();
        assert_eq!(tally.summary("t", 0), "accepted 0 records\n");
        tally.add(&Confirmation { accepted: 1, first: 17, last: 17 });
        assert_eq!(tally.summary("t", 1), "accepted 1 record: t:17; skipped 1 empty line\n");
        tally.add(&Confirmation { accepted: 2, first: 20, last: 21 });
        assert_eq!(tally.summary("t", 2), "accepted 3 records: t:17 to t:21; skipped 2 empty lines\n");
    }
}
