//! What goes back to a client: JSON, but for the metrics; an error names the reason and what would be right.

use crate::record::Refusal;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// A whole answer.
pub(super) type Answer = Response<http_body_util::Full<Bytes>>;

/// Why a request gets no 200.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Bad(String),
    #[error("the body ended before its announced end")]
    CutOff,
    #[error(
        "no such path; there are GET /v1/health, GET /v1/status, GET /v1/devices, GET /metrics, POST /v1/publish, \
             GET /v1/devices/NAME/trace and POST /v1/devices/NAME/command"
    )]
    NotFound,
    #[error("there is no device {0:?}; ask GET /v1/devices")]
    NoDevice(String),
    #[error("there is no serial device {0:?}, and only those keep their last bytes; ask GET /v1/devices")]
    NoTrace(String),
    #[error("this path takes {0} only")]
    Method(&'static str),
    #[error("the body did not arrive within 30 s")]
    TooSlow,
    #[error("{0}")]
    TooLarge(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many large requests at once; nothing of this one was kept")]
    Busy,
    #[error("no answer from inside pillion within 10 s; if this was a publish, its records may have been kept or not")]
    NoAnswer,
}

impl Error {
    fn status(&self) -> StatusCode {
        match self {
            Error::Bad(_) | Error::CutOff => StatusCode::BAD_REQUEST,
            Error::NotFound | Error::NoDevice(_) | Error::NoTrace(_) => StatusCode::NOT_FOUND,
            Error::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Error::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Refused(Refusal::Full) => StatusCode::TOO_MANY_REQUESTS,
            Error::Refused(Refusal::NotDurable(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Error::Refused(Refusal::Stopping) | Error::Busy | Error::NoAnswer => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The error as an answer.
    pub(super) fn answer(&self) -> Answer {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        let status = self.status();
        let mut answer = json(status, &Body { error: self.to_string() });
        if let Error::Method(allowed) = self {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            // Seconds: a restart takes about that long, and a stream that is full drains at that scale.
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}

/// A document with its status, as one line of JSON.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    // The documents are plain structs with string keys, which always serialise; an empty body would be the substitute.
    let mut body = serde_json::to_vec(document).unwrap_or_default();
    body.push(b'\n');
    whole(status, "application/json", body)
}

/// A text with status 200.
pub(super) fn text(content_type: &'static str, body: String) -> Answer {
    whole(StatusCode::OK, content_type, body.into_bytes())
}

fn whole(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Bytes::from(body).into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
