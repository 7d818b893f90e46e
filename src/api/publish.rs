//! `POST /v1/publish`: takes an application's records in.
//!
//! What fits into a mebibyte and 10,000 records, and comes at once, is submitted at once, when all of it is known to be good: it
//! is accepted as a whole or not at all. Lines that are more, or that come in chunks and have not ended within a second, are
//! taken in while they come (`upload`), and the answer says how many were, whatever ended them.
//!
//! Constraints: what requests can make us hold is bounded: the body, the number of records, and how many large bodies
//! there are at a time. A client that asks first (`Expect: 100-continue`) is told to go on only if its request may succeed.

use super::answer::{Answer, Error, Published, json};
use super::call::{Call, Shared, ask};
use super::phase::Phase;
use super::records::{Lines, Target, of_body, of_line};
use super::upload::{self, Source};
use crate::record::{Durability, Record, StreamId, Submission};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderMap};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};

/// A body may be this large in bytes, or as large as a message if that is larger; lines may be more.
const BODY_LIMIT: usize = 1024 * 1024;

/// Of a body that is too large, this much is read and thrown away, so that a client that first sends everything gets to
/// read why it was refused. Bytes.
pub(super) const DISCARD_LIMIT: usize = 8 * 1024 * 1024;

/// Larger bodies, in bytes, must wait for one of the few places for large ones.
const SMALL_BODY: usize = 64 * 1024;

/// From the request's head to the end of its body.
pub(super) const BODY_TIME: Duration = Duration::from_secs(30);

/// Lines without an announced end that take longer than this are taken in while they come: nobody wants a live record to
/// wait for the next ones.
const LIVE_AFTER: Duration = Duration::from_secs(1);

/// How long a large body waits for its place, and its records for their turn: that of others is a matter of the spool's answer.
const PLACE_TIME: Duration = Duration::from_secs(15);

/// Records in one submission: each costs about a hundred bytes of memory beside its data.
const MAX_RECORDS: usize = 10_000;

pub(super) async fn publish(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let target = Target::of(call.head.uri.query(), &shared.api);
    let stream = target.as_ref().map_or(StreamId::TELEMETRY, |target| target.stream);
    let published = take_in(shared, call, target).await;
    if published.as_ref().is_err_and(Error::is_of_a_record) {
        // A full channel costs a count, which is better than a wait that anybody can bring about.
        let _ = shared.api.refused.try_send((stream, 1));
    }
    Ok(json(StatusCode::OK, &published?))
}

async fn take_in(shared: &Shared, call: Call, target: Result<Target, Error>) -> Result<Published, Error> {
    let Call { head, body, phases, .. } = call;
    phases.enter(Phase::Body);
    let asks_first = head.headers.contains_key(EXPECT);
    let target = match target {
        // The body of a wrong request is read: a client that sends everything first gets to read why.
        Err(error) if !asks_first => {
            let _ = timeout(BODY_TIME, whole(shared, body, false)).await;
            return Err(error);
        }
        target => target?,
    };
    if !is_ndjson(&head.headers) {
        // The place is held until the answer is known: so long the record is in memory.
        let reading = whole(shared, body, asks_first);
        let (body, _place) = timeout(BODY_TIME, reading).await.map_err(|_| Error::TooSlow)??;
        phases.enter(Phase::Request);
        let record = of_body(&body, &target, &shared.api)?;
        return submit(shared, &target, vec![record]).await;
    }
    let (source, place) = match timeout(BODY_TIME, lines(shared, body)).await {
        Ok(begun) => begun?,
        Err(_) => return Err(Error::TooSlow),
    };
    phases.enter(Phase::Request);
    if source.body.is_none() {
        // Until the answer is known: so long the records are in memory.
        let _turn = match &place {
            Some(_) => Some(place_for(&shared.large_submissions).await?),
            None => None,
        };
        if let Some(records) = records_of(&source.begun, &target, shared)? {
            drop(source);
            return submit(shared, &target, records).await;
        }
    }
    let _upload = place_for(&shared.uploads).await?;
    phases.enter(Phase::Upload);
    let published = upload::take_in(shared, &target, source, place, &phases).await;
    phases.enter(Phase::Request);
    published
}

async fn submit(shared: &Shared, target: &Target, records: Vec<Record>) -> Result<Published, Error> {
    let count = records.len();
    let durability = if target.sync { Durability::Power } else { Durability::Process };
    let stream = target.stream;
    let submit = |reply| Submission { stream, records, durability, note: None, reply: Some(reply) };
    let accepted = ask(&shared.api.submissions, submit).await??;
    let mut published = Published::default();
    published.add(count, accepted);
    Ok(published)
}

fn announced(body: &Incoming) -> usize {
    usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX)
}

/// The whole body, with its place among the large ones if it is one.
pub(super) async fn whole(
    shared: &Shared,
    mut body: Incoming,
    asks_first: bool,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), Error> {
    let limit = BODY_LIMIT.max(shared.api.max_payload);
    let too_large = || {
        Error::TooLarge(format!(
            "the body is larger than {limit} bytes, and a record is no larger than mqtt.max_payload; several go as lines, \
             with the content type application/x-ndjson"
        ))
    };
    if announced(&body) > DISCARD_LIMIT || (asks_first && announced(&body) > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut place = None;
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|_| Error::CutOff)?.into_data() else { continue };
        total = total.saturating_add(chunk.len());
        if total > DISCARD_LIMIT {
            break;
        }
        if total > limit {
            bytes = Vec::new();
            place = None;
            continue;
        }
        if total > SMALL_BODY && place.is_none() {
            place = Some(place_for(&shared.large_bodies).await?);
        }
        bytes.extend_from_slice(&chunk);
    }
    if total > limit { Err(too_large()) } else { Ok((bytes, place)) }
}

/// Lines: all of them if they fit and come at once, with their place among the large bodies; otherwise how they begin.
async fn lines(shared: &Shared, mut body: Incoming) -> Result<(Source, Option<SemaphorePermit<'_>>), Error> {
    let limit = BODY_LIMIT.max(shared.api.max_payload);
    if announced(&body) > limit {
        return Ok((Source { begun: Bytes::new(), body: Some(body) }, None));
    }
    let has_an_end = body.size_hint().exact().is_some();
    let live_from = Instant::now() + LIVE_AFTER;
    let mut bytes = Vec::new();
    let mut place = None;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sleep_until(live_from), if !has_an_end => break,
        };
        let Some(frame) = frame else { return Ok((Source { begun: bytes.into(), body: None }, place)) };
        let Ok(chunk) = frame.map_err(|_| Error::CutOff)?.into_data() else { continue };
        if bytes.len().saturating_add(chunk.len()) > SMALL_BODY && place.is_none() {
            place = Some(place_for(&shared.large_bodies).await?);
        }
        bytes.extend_from_slice(&chunk);
        if bytes.len() > limit {
            break;
        }
    }
    Ok((Source { begun: bytes.into(), body: Some(body) }, place))
}

pub(super) async fn place_for(places: &Semaphore) -> Result<SemaphorePermit<'_>, Error> {
    match timeout(PLACE_TIME, places.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(Error::Busy),
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/x-ndjson")
}

/// The whole body as one JSON value per line; none if they are too many for one submission.
fn records_of(body: &Bytes, target: &Target, shared: &Shared) -> Result<Option<Vec<Record>>, Error> {
    let api = &shared.api;
    let mut records = Vec::new();
    let mut lines = Lines::default();
    lines.feed(body.clone());
    while let Some((number, line)) = lines.next(usize::MAX)?.or_else(|| lines.finish()) {
        let record = of_line(&line, number, target, api, (api.clock)()).map_err(Error::of_the_whole)?;
        if record.is_some() && records.len() == MAX_RECORDS {
            return Ok(None);
        }
        records.extend(record);
    }
    if records.is_empty() {
        return Err(Error::Bad("the body holds no record; it should hold one JSON value per line".to_owned()));
    }
    Ok(Some(records))
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::api;
    use super::*;

    fn count(body: &[u8]) -> Result<Option<usize>, String> {
        let shared = Shared::new(api(), tokio::sync::watch::channel(false).1);
        let target = Target::of(Some("topic=a"), &shared.api).unwrap();
        let records = records_of(&Bytes::copy_from_slice(body), &target, &shared);
        records.map(|records| records.map(|records| records.len())).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_never_taken_in_part() {
        assert_eq!(count(b"1\n\n \r\n{\"a\":2}\r\n\"x\""), Ok(Some(3)));
        let why = "line 3 is not JSON: expected ident at column 9; nothing was accepted";
        assert_eq!(count(b"1\n\n{\"a\":tru}\n"), Err(why.to_owned()));
        for empty in [b"".as_slice(), b"\n", b"\r\n \n\n"] {
            assert!(count(empty).unwrap_err().contains("no record"));
        }
        let huge = format!("1\n\"{}\"", "x".repeat(1000));
        assert!(count(huge.as_bytes()).unwrap_err().contains("line 2: the record"));
        assert_eq!(count(&b"1\n".repeat(MAX_RECORDS)), Ok(Some(MAX_RECORDS)));
        assert_eq!(count(&b"1\n".repeat(MAX_RECORDS + 1)), Ok(None), "they go in one submission after the other");
    }

    #[test]
    fn a_content_type_is_never_mistaken() {
        let ndjson = |value: &'static str| {
            is_ndjson(&HeaderMap::from_iter([(CONTENT_TYPE, hyper::header::HeaderValue::from_static(value))]))
        };
        assert!(ndjson("application/x-ndjson") && ndjson("Application/X-NDJSON ; charset=utf-8"));
        assert!(!ndjson("application/json") && !ndjson("") && !is_ndjson(&HeaderMap::new()));
    }
}
