//! One request to the local API and its answer, bounded in size and time.

use super::exit::{Failure, INTERNAL, UNAVAILABLE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// The largest answer in bytes: a status document with some thousand devices.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// How long a request may take as a whole: somewhat more than the server allows itself.
const REQUEST_TIME: Duration = Duration::from_secs(50);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The reason that the server gave for a status that isn't 200.
    pub fn error(&self) -> String {
        #[derive(Deserialize)]
        struct Body {
            error: String,
        }
        match serde_json::from_slice::<Body>(&self.body) {
            Ok(body) => body.error,
            Err(_) => format!("it answered {}", self.status),
        }
    }
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request never got there.
    #[error("can't reach the sidecar at {}: {source}\n{}", path.display(), advice(source))]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off; what became of the request is unknown.
    #[error("the sidecar at {} did not answer to the end: {why}", path.display())]
    BrokenOff {
        /// The socket.
        path: PathBuf,
        /// What happened.
        why: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "It is for root and the group of the service alone: use sudo, or join that group (usermod -aG pillion USER)."
        }
        _ => "Is it running? Ask: systemctl status pillion@INSTANCE, and: journalctl -u pillion@INSTANCE",
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Failure::new(UNAVAILABLE, error.to_string())
    }
}

/// The runtime that a client command needs.
pub fn runtime() -> Result<Runtime, Failure> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| Failure::new(INTERNAL, format!("can't start: {error}")))
}

/// Sends one request over a connection of its own.
///
/// # Errors
/// The socket can't be connected, or the answer doesn't come to its end within 50 s or 4 MiB.
pub async fn request(socket: &Path, mut request: Request<Full<Bytes>>) -> Result<Answer, ClientError> {
    let path = || socket.to_owned();
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| ClientError::NotReachable { path: path(), source })?;
    // HTTP/1.1 wants a host; behind a Unix socket there is only one.
    request.headers_mut().insert(HOST, hyper::header::HeaderValue::from_static("localhost"));
    let exchange = timeout(REQUEST_TIME, exchange(stream, request)).await;
    let answer = exchange.unwrap_or_else(|_| Err(format!("nothing came within {} s", REQUEST_TIME.as_secs())));
    answer.map_err(|why| ClientError::BrokenOff { path: path(), why })
}

async fn exchange(stream: UnixStream, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let broken = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| error.to_string())?;
        Ok(Answer { status: head.status, body: body.to_bytes() })
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = answer.as_mut() => answer,
        // The connection may end before its answer has been picked up; the error, if any, comes out there.
        _ = connection => answer.await,
    }
}
