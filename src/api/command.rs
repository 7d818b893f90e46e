//! `POST /v1/devices/NAME/command`: has a device do something, and waits for what becomes of it.
//!
//! Constraints: all rules are the dispatch flow's (see there); here is only what HTTP needs: which device, how long to
//! wait, and which status a reply stands for. A client that hangs up changes nothing for its command.

use super::answer::{Answer, Error, json};
use super::call::{Call, Shared, ask_status};
use super::phase::Phase;
use super::query::Query;
use crate::command::{MAX_COMMAND, Origin, Reply, Request as Command, Stage};
use crate::record::Refusal;
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// From the request's head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long the last reply is waited for, unless the client says so, and at the most.
const WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(40);
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// Replies to one command: received, written, replied.
const REPLIES: usize = 4;

pub(super) async fn command(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let Call { head, body, name: device, phases } = call;
    phases.enter(Phase::Body);
    let wait = wait_of(head.uri.query())?;
    let reading = Limited::new(body, MAX_COMMAND).collect();
    let body = timeout(BODY_TIME, reading).await.map_err(|_| Error::TooSlow)?;
    let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
        true => Error::TooLarge(format!("a command may have {MAX_COMMAND} bytes at the most")),
        false => Error::CutOff,
    })?;
    let payload = body.to_bytes().to_vec();
    phases.enter(Phase::Request);
    if !ask_status(&shared.api).await?.devices.contains_key(&device) {
        return Err(Error::NoDevice(device));
    }
    let (replies, mut answers) = mpsc::channel(REPLIES);
    let command = Command { device, payload, origin: Origin::Local { replies } };
    let until = Instant::now() + wait;
    match timeout_at(until, shared.api.commands.send(command)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(Error::Refused(Refusal::Stopping)),
        Err(_) => return Err(Error::NoAnswer),
    }
    let mut latest: Option<Reply> = None;
    while let Ok(Some(reply)) = timeout_at(until, answers.recv()).await {
        let is_final = reply.is_final;
        latest = Some(reply);
        if is_final {
            break;
        }
    }
    match latest {
        Some(reply) => Ok(json(status_of(&reply), &reply)),
        // The flow has ended, or is stuck.
        None if answers.is_closed() => Err(Error::Refused(Refusal::Stopping)),
        None => Err(Error::NoAnswer),
    }
}

fn status_of(reply: &Reply) -> StatusCode {
    match (reply.stage, reply.is_final) {
        (Stage::Received | Stage::Written | Stage::Replied, true) => StatusCode::OK,
        (_, false) => StatusCode::ACCEPTED,
        (Stage::Expired, true) => StatusCode::GONE,
        (Stage::Refused, true) => StatusCode::UNPROCESSABLE_ENTITY,
        (Stage::Failed, true) => StatusCode::BAD_GATEWAY,
    }
}

fn wait_of(query: Option<&str>) -> Result<Duration, Error> {
    let query = Query::read(query, &["wait"])?;
    let Some(value) = query.get("wait") else { return Ok(WAIT) };
    let given = humantime::parse_duration(value).ok();
    let given = given.filter(|wait| (SHORTEST_WAIT..=LONGEST_WAIT).contains(wait));
    given.ok_or_else(|| Error::Bad(format!("wait is {value:?}; give 10ms to 40s, such as 5s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_never_waits_longer_than_allowed() {
        assert_eq!(wait_of(None).unwrap(), WAIT);
        assert_eq!(wait_of(Some("wait=5s&")).unwrap(), Duration::from_secs(5));
        for query in ["wait=41s", "wait=1ms", "wait=", "wait", "wait=5", "wait=1s&wait=1s", "id=x"] {
            assert!(wait_of(Some(query)).is_err(), "{query}");
        }
    }

    #[test]
    fn what_was_not_done_never_looks_like_success() {
        let status = |stage, is_final| status_of(&Reply { is_final, ..Reply::last("x", stage) }).as_u16();
        assert_eq!((status(Stage::Replied, true), status(Stage::Written, true)), (200, 200));
        assert_eq!((status(Stage::Received, false), status(Stage::Written, false)), (202, 202));
        assert_eq!(
            (status(Stage::Expired, true), status(Stage::Refused, true), status(Stage::Failed, true)),
            (410, 422, 502)
        );
    }
}
