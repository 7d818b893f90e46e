//! What goes back to a client: JSON, but for the metrics; an error names the reason and what would be right.

use super::lines::Stream;
use super::phase::{Phase, Phases};
use crate::inbound::Unreadable;
use crate::record::{Accepted, Refusal};
use http_body_util::Full;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// An answer to a request.
pub(super) type Answer = Response<Body>;

/// What is in it.
#[derive(Debug)]
pub(super) struct Body {
    content: Content,
    /// Told when the last byte has been handed over.
    phases: Option<Phases>,
}

#[derive(Debug)]
enum Content {
    /// All of it, known at once.
    Whole(Full<Bytes>),
    /// Lines that come when they come.
    Lines(Stream),
}

impl Body {
    fn whole(bytes: Vec<u8>) -> Body {
        Body { content: Content::Whole(Bytes::from(bytes).into()), phases: None }
    }

    pub(super) fn of_lines(stream: Stream) -> Body {
        Body { content: Content::Lines(stream), phases: None }
    }

    /// Has the connection wait for the next request when this has been handed over.
    pub(super) fn then_idle(&mut self, phases: Phases) {
        self.phases = Some(phases);
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(phases) = &self.phases {
            phases.enter(Phase::Idle);
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().content {
            Content::Whole(body) => Pin::new(body).poll_frame(context),
            Content::Lines(stream) => stream.poll_line(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(body) => body.is_end_stream(),
            Content::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(body) => body.size_hint(),
            Content::Lines(_) => SizeHint::new(),
        }
    }
}

/// Why a request gets no 200.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Bad(String),
    #[error("the body ended before its announced end")]
    CutOff,
    #[error("user {0} may not use this socket; api.allow_users and api.allow_groups in the configuration say who may")]
    Forbidden(u32),
    /// With what there is instead.
    #[error("no such path; there are {0}")]
    NotFound(String),
    #[error("there is no device {0:?}; ask GET /v1/devices")]
    NoDevice(String),
    #[error("there is no serial device {0:?}, and only those keep their last bytes; ask GET /v1/devices")]
    NoTrace(String),
    #[error("{0} are not kept for an application; write {1} = true into [app] of the configuration")]
    Off(&'static str, &'static str),
    #[error("there is no key {0:?}; ask GET /v1/config; a slash in a key is written %2F here")]
    NoKey(String),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("this path takes {0} only")]
    Method(String),
    #[error("the body did not arrive within 30 s")]
    TooSlow,
    #[error("no whole line came within {} s", .0.as_secs())]
    Idle(Duration),
    #[error("{0}")]
    TooLarge(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many large requests at once; nothing of this one was kept")]
    Busy,
    /// Of a body that is taken in while it comes.
    #[error("{error}; {} accepted before that", .published.in_words())]
    Partial { error: Box<Error>, published: Published },
    #[error("too many reloads wait already; send it again when they are through")]
    Reloads,
    #[error("too many clients read a stream already; nothing more can be told until one of them hangs up")]
    Streams,
    #[error("no answer from inside pillion within 10 s; if this was a publish, its records may have been kept or not")]
    NoAnswer,
}

/// What was accepted of a publish request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Published {
    /// Records.
    pub(super) accepted: u64,
    /// Sequence number of the first of them. Other clients' records may lie between it and the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<u64>,
    /// Sequence number of the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<u64>,
}

impl Published {
    fn in_words(&self) -> String {
        match self.accepted {
            0 => "nothing was".to_owned(),
            1 => "1 record was".to_owned(),
            n => format!("{n} records were"),
        }
    }

    /// Adds a submission of so many records that was accepted.
    pub(super) fn add(&mut self, count: usize, accepted: Accepted) {
        self.accepted = self.accepted.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.first.get_or_insert(accepted.first);
        self.last = Some(accepted.last);
    }
}

impl Error {
    /// Whether the client sent what is no record.
    pub(super) fn is_of_a_record(&self) -> bool {
        match self {
            Error::Bad(_) | Error::TooLarge(_) => true,
            Error::Partial { error, .. } => error.is_of_a_record(),
            _ => false,
        }
    }

    /// The same, where it means that nothing of the request was kept.
    pub(super) fn of_the_whole(self) -> Error {
        match self {
            Error::Bad(why) => Error::Bad(format!("{why}; nothing was accepted")),
            Error::TooLarge(why) => Error::TooLarge(format!("{why}; nothing was accepted")),
            other => other,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Error::Bad(_) | Error::CutOff => StatusCode::BAD_REQUEST,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) | Error::NoDevice(_) | Error::NoTrace(_) | Error::Off(..) | Error::NoKey(_) => {
                StatusCode::NOT_FOUND
            }
            Error::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Error::TooSlow | Error::Idle(_) => StatusCode::REQUEST_TIMEOUT,
            Error::Partial { error, .. } => error.status(),
            Error::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Refused(Refusal::Full) => StatusCode::TOO_MANY_REQUESTS,
            Error::Refused(Refusal::NotDurable(_)) => StatusCode::INSUFFICIENT_STORAGE,
            Error::Refused(Refusal::Stopping)
            | Error::Busy
            | Error::Reloads
            | Error::Streams
            | Error::NoAnswer
            | Error::Unreadable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The error as an answer.
    pub(super) fn answer(&self) -> Answer {
        #[derive(Serialize)]
        struct Body {
            error: String,
            #[serde(flatten)]
            published: Option<Published>,
        }
        let status = self.status();
        let published = if let Error::Partial { published, .. } = self { Some(*published) } else { None };
        let mut answer = json(status, &Body { error: self.to_string(), published });
        if let Error::Method(allowed) = self {
            // Names of methods, which are always fit for a header.
            let allowed = HeaderValue::from_str(allowed).unwrap_or(HeaderValue::from_static(""));
            answer.headers_mut().insert(ALLOW, allowed);
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

/// It was taken note of, and there is nothing to say.
pub(super) fn nothing() -> Answer {
    let mut answer = Response::new(Body::whole(Vec::new()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Text that is JSON already.
pub(super) fn json_text(status: StatusCode, text: String) -> Answer {
    whole(status, "application/json", text.into_bytes())
}

/// A text with status 200.
pub(super) fn text(content_type: &'static str, body: String) -> Answer {
    whole(StatusCode::OK, content_type, body.into_bytes())
}

fn whole(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Body::whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
