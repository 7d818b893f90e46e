//! `POST /v1/publish`: takes an application's records in.
//!
//! Constraints: nothing is submitted before all of the request is known to be good, and all of it is submitted at
//! once, so that a request is accepted as a whole or not at all. What a request can make us hold is bounded: its
//! body, its number of records, and how many large bodies there are at a time.

use super::Api;
use super::answer::{Answer, Error, json};
use super::call::{Call, Shared, ask};
use super::query::Query;
use crate::record::{Durability, Encoding, PayloadRule, Record, Sequenced, StreamId, Submission};
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderMap};
use serde::Serialize;
use serde::de::IgnoredAny;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

/// A body may be this large in bytes, or as large as a message if that is larger.
const BODY_LIMIT: usize = 1024 * 1024;

/// Of a body that is too large, this much is read and thrown away, so that a client that first sends everything gets to
/// read why it was refused. Bytes.
const DISCARD_LIMIT: usize = 8 * 1024 * 1024;

/// Larger bodies, in bytes, must wait for one of the few places for large ones.
const SMALL_BODY: usize = 64 * 1024;

/// From the request's head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// How long a large body waits for its place.
const PLACE_TIME: Duration = Duration::from_secs(5);

/// Records in one request: each costs about a hundred bytes of memory beside its data.
const MAX_RECORDS: usize = 10_000;

/// Where a request's records go.
struct Target {
    topic: String,
    stream: StreamId,
    stream_name: String,
    sync: bool,
}

/// The answer when all is well.
#[derive(Serialize)]
struct Published {
    accepted: usize,
    first: u64,
    last: u64,
}

pub(super) async fn publish(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let Call { head, body, .. } = call;
    // The body is read even if the query is wrong: a client that sends everything first gets to read why.
    let target = Target::of(head.uri.query(), &shared.api);
    let stream = target.as_ref().map_or(StreamId::TELEMETRY, |target| target.stream);
    let answer = take_in(shared, &head.headers, body, target).await;
    if let Err(Error::Bad(_) | Error::TooLarge(_)) = &answer {
        // A full channel costs a count, which is better than a wait that anybody can bring about.
        let _ = shared.api.refused.try_send((stream, 1));
    }
    answer
}

async fn take_in(
    shared: &Shared,
    headers: &HeaderMap,
    body: Incoming,
    target: Result<Target, Error>,
) -> Result<Answer, Error> {
    let api = &shared.api;
    let reading = read(body, BODY_LIMIT.max(api.max_payload), headers.contains_key(EXPECT), shared);
    // The place is held until the answer is known: so long the records are in memory.
    let (body, _place) = timeout(BODY_TIME, reading).await.map_err(|_| Error::TooSlow)??;
    let target = target?;
    let records = match is_ndjson(headers) {
        true => records_of_lines(&body, &target, api)?,
        false => vec![record_of(&body, &target, api)?],
    };
    drop(body);
    let accepted = records.len();
    let durability = if target.sync { Durability::Power } else { Durability::Process };
    let stream = target.stream;
    let submit = |reply| Submission { stream, records, durability, reply: Some(reply) };
    let seqs = ask(&api.submissions, submit).await??;
    Ok(json(StatusCode::OK, &Published { accepted, first: seqs.first, last: seqs.last }))
}

/// The whole body, with its place among the large ones if it is one.
async fn read(
    mut body: Incoming,
    limit: usize,
    asks_first: bool,
    shared: &Shared,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), Error> {
    let too_large = || {
        Error::TooLarge(format!(
            "the body is larger than {limit} bytes; send the records in several requests, or raise mqtt.max_payload"
        ))
    };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > DISCARD_LIMIT || (asks_first && announced > limit) {
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
            place = Some(place_for_large(shared).await?);
        }
        bytes.extend_from_slice(&chunk);
    }
    if total > limit { Err(too_large()) } else { Ok((bytes, place)) }
}

async fn place_for_large(shared: &Shared) -> Result<SemaphorePermit<'_>, Error> {
    match timeout(PLACE_TIME, shared.large_bodies.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(Error::Busy),
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/x-ndjson")
}

impl Target {
    fn of(query: Option<&str>, api: &Api) -> Result<Target, Error> {
        let query = Query::read(query, &["topic", "stream", "sync"])?;
        let topic = query.get("topic");
        let topic = topic.ok_or_else(|| bad("the parameter topic is missing: POST /v1/publish?topic=T".to_owned()))?;
        check_topic(topic, api.max_topic).map_err(|why| bad(format!("topic: {why}")))?;
        let stream_name = query.get("stream").unwrap_or("telemetry").to_owned();
        let stream = stream_of(&stream_name, &api.streams)?;
        let sync = query.flag("sync")?;
        Ok(Target { topic: format!("app/{topic}"), stream, stream_name, sync })
    }
}

fn bad(why: String) -> Error {
    Error::Bad(why)
}

fn stream_of(name: &str, streams: &[String]) -> Result<StreamId, Error> {
    let place = streams.iter().position(|stream| stream == name).and_then(|place| u8::try_from(place).ok());
    place.map(StreamId).ok_or_else(|| bad(format!("there is no stream {name:?}; there are {}", streams.join(", "))))
}

/// What MQTT (3.1.1, section 4.7) and its brokers take as the end of a topic, and consumers can live with.
fn check_topic(topic: &str, max: usize) -> Result<(), String> {
    if topic.is_empty() {
        Err("it is empty".to_owned())
    } else if topic.len() > max {
        Err(format!("it has {} bytes; at most {max} are allowed", topic.len()))
    } else if topic.contains(['+', '#']) {
        Err("+ and # are wildcards, which nobody can publish to".to_owned())
    } else if topic.contains(char::is_control) {
        Err("it holds a control character".to_owned())
    } else if topic.split('/').any(str::is_empty) {
        Err("it must not begin or end with a slash or hold two in a row".to_owned())
    } else {
        Ok(())
    }
}

/// The body as one record, as it came.
fn record_of(body: &[u8], target: &Target, api: &Api) -> Result<Record, Error> {
    if body.is_empty() {
        return Err(bad("the body is empty; it is the record".to_owned()));
    }
    record(body, PayloadRule::Auto.encoding_of(body), target, api).map_err(Error::TooLarge)
}

/// The body as one JSON value per line.
fn records_of_lines(body: &[u8], target: &Target, api: &Api) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    for (line, number) in body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1_usize..) {
        if line.is_empty() {
            continue;
        }
        check_json(line).map_err(|why| bad(format!("line {number} is not JSON: {why}; nothing was accepted")))?;
        if records.len() == MAX_RECORDS {
            return Err(Error::TooLarge(format!("more than {MAX_RECORDS} records; send them in several requests")));
        }
        let too_large = |why| Error::TooLarge(format!("line {number}: {why}; nothing was accepted"));
        records.push(record(line, Encoding::Json, target, api).map_err(too_large)?);
    }
    if records.is_empty() {
        return Err(bad("the body holds no record; it should hold one JSON value per line".to_owned()));
    }
    Ok(records)
}

fn check_json(line: &[u8]) -> Result<(), String> {
    // serde_json does not look at the encoding of strings that it skips.
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let why = error.to_string();
            let why = why.split(" at line ").next().unwrap_or_default();
            Err(format!("{why} at column {}", error.column()))
        }
    }
}

/// One record, if its message would not be larger than the broker may be sent.
fn record(data: &[u8], encoding: Encoding, target: &Target, api: &Api) -> Result<Record, String> {
    let record = Record { topic: target.topic.clone(), time: (api.clock)(), encoding, data: data.to_vec() };
    // At most six bytes come of one (ESC as \u001b), and the rest of the envelope has less than 200: the usual, small record
    // needs no measuring.
    if data.len().saturating_mul(6).saturating_add(200) <= api.max_payload {
        return Ok(record);
    }
    let largest = Sequenced { seq: u64::MAX, record };
    let size = largest.payload(&target.stream_name).len();
    if size > api.max_payload {
        return Err(format!(
            "the record would be a message of {size} bytes, and mqtt.max_payload is {}",
            api.max_payload
        ));
    }
    Ok(largest.record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Timestamp};
    use tokio::sync::mpsc;

    fn api() -> Api {
        Api {
            traces: Default::default(),
            refused: mpsc::channel(1).0,
            submissions: mpsc::channel(1).0,
            commands: mpsc::channel(1).0,
            status: mpsc::channel(1).0,
            inbox: None,
            streams: ["event", "telemetry", "log", "mine"].map(str::to_owned).to_vec(),
            max_payload: 1000,
            max_topic: 20,
            clock: || Timestamp { wall_ms: 1, mono_ms: 1, quality: ClockQuality::Unsynced },
            environment: Default::default(),
        }
    }

    fn target(query: &str) -> Result<Target, String> {
        Target::of(Some(query), &api()).map_err(|error| error.to_string())
    }

    fn lines(body: &[u8]) -> Result<usize, String> {
        let target = target("topic=a").unwrap();
        records_of_lines(body, &target, &api()).map(|records| records.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_query_is_never_misread() {
        let plain = target("topic=a").unwrap();
        assert_eq!((plain.topic.as_str(), plain.stream, plain.sync), ("app/a", StreamId::TELEMETRY, false));
        let full = target("stream=mine&topic=gr%C3%B6%C3%9Fe%2Fx%20y&sync=true&").unwrap();
        assert_eq!((full.topic.as_str(), full.stream, full.sync), ("app/größe/x y", StreamId(3), true));
    }

    #[test]
    fn a_wrong_query_never_gets_a_record_in() {
        for (query, why) in [
            ("", "topic is missing"),
            ("topic", "empty"),
            ("topic=", "empty"),
            ("topic=a%2Bb", "wildcards"),
            ("topic=a+b", "wildcards"),
            ("topic=a/%23", "wildcards"),
            ("topic=a%00b", "control character"),
            ("topic=a%0Ab", "control character"),
            ("topic=%FF", "not UTF-8"),
            ("topic=/a", "slash"),
            ("topic=a/", "slash"),
            ("topic=a//b", "slash"),
            ("topic=123456789012345678901", "21 bytes; at most 20"),
            ("topic=a&topic=b", "twice"),
            ("topic=a&Stream=mine", "unknown parameter \"Stream\""),
            ("topic=a&stream=nope", "there are event, telemetry, log, mine"),
            ("topic=a&stream=", "no stream \"\""),
            ("topic=a&sync=yes", "true or false"),
        ] {
            let error = target(query).err().unwrap_or_else(|| panic!("{query} was taken"));
            assert!(error.contains(why), "{query}: {error}");
        }
    }

    #[test]
    fn lines_that_are_not_json_never_pass_as_records() {
        assert_eq!(lines(b"1\n\n \r\n{\"a\":2}\r\n\"x\""), Ok(3));
        assert_eq!(
            lines(b"1\n\n{\"a\":tru}\n"),
            Err("line 3 is not JSON: expected ident at column 9; nothing was accepted".to_owned())
        );
        assert!(lines(b"1\n\"\xff\"").unwrap_err().contains("line 2 is not JSON: not UTF-8"));
        assert!(lines(b"1\0").unwrap_err().contains("line 1"));
        assert!(lines(b"1 2").unwrap_err().contains("trailing characters at column 3"));
        for empty in [b"".as_slice(), b"\n", b"\r\n \n\n"] {
            assert!(lines(empty).unwrap_err().contains("no record"));
        }
        assert_eq!(lines(&b"1\n".repeat(MAX_RECORDS)), Ok(MAX_RECORDS));
        assert!(lines(&b"1\n".repeat(MAX_RECORDS + 1)).unwrap_err().contains("more than 10000"));
    }

    #[test]
    fn a_record_that_the_broker_cant_take_is_never_accepted() {
        let target = target("topic=a").unwrap();
        let size = |data: &[u8]| record_of(data, &target, &api()).map(|record| record.data.len()).is_ok();
        // Without data: {"id":"telemetry:18446744073709551615","ts":"1970-01-01T00:00:00.001Z","clock":"unsynced","data":}
        assert!(size(&[b'1'; 1000 - 98]) && !size(&[b'1'; 1001 - 98]));
        assert!(size(&[0; 660]) && !size(&[0; 661]), "base64 takes four bytes for three, and a mark");
        assert!(size(&[27; 150]) && !size(&[27; 151]), "escapes take six bytes for one");
        assert!(lines(format!("1\n\"{}\"", "x".repeat(1000)).as_bytes()).unwrap_err().contains("line 2: the record"));
    }

    #[test]
    fn the_unmeasured_record_never_exceeds_the_estimate() {
        let time = Timestamp { wall_ms: u64::MAX, mono_ms: 0, quality: ClockQuality::Unsynced };
        for encoding in [Encoding::Text, Encoding::Base64] {
            let record = Record { topic: String::new(), time, encoding, data: vec![1; 50] };
            assert!(Sequenced { seq: u64::MAX, record }.payload(&"x".repeat(32)).len() <= 50 * 6 + 200);
        }
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
