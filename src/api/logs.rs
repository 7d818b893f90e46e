//! `POST /v1/logs`: takes in lines of the log of an application that has no journal.
//!
//! A line of the body is one line of the log: with the content type `text/plain` as it stands, else in JSON: a string, or
//!
//! ```text
//! {"message":"door open","level":"warning","ts":"2026-11-25T10:10:41.274Z","identifier":"doors","pid":7,"door":3}
//! ```
//!
//! Only `message` must be there. Instead of `level` it may be `priority`, 0 to 7; whatever else there is is kept in `fields`.
//!
//! Constraints: a request is taken in as a whole or not at all. Lines cost more memory than their bytes, so only few requests
//! with many lines are looked at at once. What is too long is cut and marked, not refused.

use super::answer::{Answer, Error, json};
use super::call::{Call, Shared, ask};
use super::phase::Phase;
use super::publish::{BODY_TIME, place_for, whole};
use crate::logline::{LogLine, Posted, rfc3339_us, shorten};
use crate::record::Timestamp;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderMap};
use serde_json::{Map, Value};
use std::time::UNIX_EPOCH;
use tokio::time::timeout;

/// Lines in a request. Each takes some 250 bytes of memory besides its text.
const LINES: usize = 4000;
/// A request with more lines than this must wait for one of the few places for large ones.
const FEW: usize = 100;
/// Fields of a line besides those that have names of their own.
const FIELDS: usize = 32;
/// Bytes of such a field, in JSON.
const FIELD: usize = 1024;
/// Bytes of a name.
const NAME: usize = 64;
/// syslog(3): a line without a priority is `info`.
const INFO: u8 = 6;

/// What the levels are called, by syslog and by those who write logs.
const LEVELS: [(&str, u8); 18] = [
    ("emerg", 0),
    ("emergency", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("critical", 2),
    ("fatal", 2),
    ("err", 3),
    ("error", 3),
    ("warning", 4),
    ("warn", 4),
    ("notice", 5),
    ("info", 6),
    ("information", 6),
    ("informational", 6),
    ("debug", 7),
    ("trace", 7),
    ("verbose", 7),
];

pub(super) async fn post(shared: &Shared, call: Call) -> Result<Answer, Error> {
    call.phases.enter(Phase::Body);
    let reading = whole(shared, call.body, call.head.headers.contains_key(EXPECT));
    // The places are held until the answer is known: so long the lines are in memory.
    let (body, mut place) = timeout(BODY_TIME, reading).await.map_err(|_| Error::TooSlow)??;
    call.phases.enter(Phase::Request);
    if place.is_none() && body.split(|byte| *byte == b'\n').nth(FEW).is_some() {
        place = Some(place_for(&shared.large_bodies).await?);
    }
    let lines = lines_of(&body, is_plain(&call.head.headers), (shared.api.clock)())?;
    drop(body);
    let counts = ask(&shared.api.logs, |reply| Posted { lines, reply }).await??;
    drop(place);
    Ok(json(StatusCode::OK, &counts))
}

fn is_plain(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain")
}

pub(super) fn lines_of(body: &[u8], is_plain: bool, now: Timestamp) -> Result<Vec<LogLine>, Error> {
    let now = rfc3339_us(now.wall_ms.saturating_mul(1000));
    let mut lines = Vec::new();
    for (text, number) in body.split(|byte| *byte == b'\n').zip(1_u64..) {
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.trim_ascii().is_empty() {
            continue;
        }
        if lines.len() == LINES {
            return Err(Error::TooLarge(format!("more than {LINES} lines; send them in several requests")));
        }
        let line = match is_plain {
            true => Ok(LogLine::plain(now.clone(), INFO, String::from_utf8_lossy(text).into_owned())),
            false => line_of(text, &now),
        };
        lines.push(line.map_err(|why| Error::Bad(format!("line {number}: {why}; nothing was accepted")))?);
    }
    if lines.is_empty() {
        let why =
            "the body holds no line; it should hold one JSON value per line, or text with the content type text/plain";
        return Err(Error::Bad(why.to_owned()));
    }
    Ok(lines)
}

fn line_of(text: &[u8], now: &str) -> Result<LogLine, String> {
    let value = serde_json::from_slice(text).map_err(|error| {
        let why = error.to_string();
        format!("not JSON: {} at column {}", why.split(" at line ").next().unwrap_or_default(), error.column())
    })?;
    let members = match value {
        Value::String(message) => return Ok(LogLine::plain(now.to_owned(), INFO, message)),
        Value::Object(members) => members,
        _ => return Err("it is neither a string nor an object with a message".to_owned()),
    };
    let mut line = LogLine::plain(now.to_owned(), INFO, String::new());
    let (mut message, mut priority) = (None, None);
    for (name, value) in members {
        match (name.as_str(), value) {
            ("message", Value::String(text)) => message = Some(text),
            ("message", _) => return Err("its message is no string".to_owned()),
            ("priority" | "level", value) => {
                if priority.replace(level_of(&value)?).is_some() {
                    return Err("it has both a level and a priority; give one".to_owned());
                }
            }
            ("ts", Value::String(text)) => line.ts = time_of(&text)?,
            ("ts", _) => return Err("its ts is no string".to_owned()),
            ("identifier", Value::String(mut text)) => {
                line.truncated |= shorten(&mut text, FIELD);
                line.identifier = Some(text);
            }
            ("pid", Value::Number(number)) if number.as_u64().is_some_and(|pid| u32::try_from(pid).is_ok()) => {
                line.pid = number.as_u64().and_then(|pid| u32::try_from(pid).ok());
            }
            (_, value) => line.truncated |= !keep(&mut line.fields, name, value),
        }
    }
    line.message = message.ok_or("it has no message")?;
    line.priority = priority.unwrap_or(INFO);
    Ok(line)
}

/// Keeps a field if there is room for it.
fn keep(fields: &mut Map<String, Value>, name: String, value: Value) -> bool {
    let fits = fields.len() < FIELDS && name.len() <= NAME && value.to_string().len() <= FIELD;
    if fits {
        fields.insert(name, value);
    }
    fits
}

fn level_of(value: &Value) -> Result<u8, String> {
    let known = match value {
        Value::Number(number) => {
            number.as_u64().and_then(|number| u8::try_from(number).ok()).filter(|level| *level <= 7)
        }
        Value::String(name) => {
            LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
        }
        _ => None,
    };
    known.ok_or_else(|| {
        "its level is not known; give emerg, alert, crit, err, warning, notice, info or debug, or 0 to 7".to_owned()
    })
}

fn time_of(text: &str) -> Result<String, String> {
    let time = humantime::parse_rfc3339(text).ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let time = time.ok_or("its ts is no time; give UTC as RFC 3339 has it, such as 2026-11-25T10:10:41.274Z")?;
    Ok(rfc3339_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ClockQuality;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp { wall_ms: 1_795_601_441_274, mono_ms: 0, quality: ClockQuality::Trusted };

    fn lines(body: &[u8]) -> Result<Vec<LogLine>, String> {
        lines_of(body, false, NOW).map_err(|error| error.to_string())
    }

    fn one(line: &Value) -> Result<Value, String> {
        lines(line.to_string().as_bytes()).map(|lines| serde_json::to_value(&lines[0]).unwrap())
    }

    #[test]
    fn a_line_never_changes_its_meaning() {
        let whole = json!({ "message": "door\nopen", "level": "WARN", "ts": "2026-11-25T10:10:41Z", "identifier": "doors", "pid": 7,
            "door": 3, "tags": ["a"] });
        let expected = json!({ "ts": "2026-11-25T10:10:41.000000Z", "priority": 4, "message": "door\nopen", "identifier": "doors",
            "pid": 7, "fields": { "door": 3, "tags": ["a"] } });
        assert_eq!(one(&whole), Ok(expected));
        let plain = json!({ "ts": "2026-11-25T10:10:41.274000Z", "priority": 6, "message": "just text" });
        assert_eq!(one(&json!("just text")), Ok(plain.clone()));
        assert_eq!(one(&json!({ "message": "just text" })), Ok(plain));
        assert_eq!(
            one(&json!({ "message": "m", "priority": 0, "pid": "x" })).unwrap()["fields"],
            json!({ "pid": "x" })
        );
        let text = lines_of(b"{not json\r\n\n  two\n\xff\n", true, NOW).unwrap();
        assert_eq!(
            text.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(),
            ["{not json", "  two", "\u{fffd}"]
        );
    }

    #[test]
    fn a_wrong_line_never_gets_the_others_in() {
        for (line, why) in [
            ("{\"message\":1}", "line 2: its message is no string"),
            ("{\"level\":\"info\"}", "it has no message"),
            ("{\"message\":\"m\",\"level\":\"loud\"}", "its level is not known"),
            ("{\"message\":\"m\",\"priority\":8}", "its level is not known"),
            ("{\"message\":\"m\",\"priority\":1,\"level\":\"info\"}", "both"),
            ("{\"message\":\"m\",\"ts\":\"yesterday\"}", "no time"),
            ("{\"message\":\"m\",\"ts\":5}", "its ts is no string"),
            ("5", "neither a string nor an object"),
            ("{\"message\":tru}", "not JSON: expected ident at column 15"),
            ("\"\u{1}\"", "not JSON"),
        ] {
            let error = lines(format!("\"first\"\n{line}\n").as_bytes()).unwrap_err();
            assert!(error.contains(why) && error.ends_with("nothing was accepted"), "{line}: {error}");
        }
        assert!(lines(b"\n \r\n").unwrap_err().contains("no line"));
        assert_eq!(lines(&b"\"a\"\n".repeat(LINES)).unwrap().len(), LINES);
        assert!(lines(&b"\"a\"\n".repeat(LINES + 1)).unwrap_err().contains("more than 4000 lines"));
    }

    #[test]
    fn what_is_too_long_is_marked_and_never_refused() {
        let line = one(&json!({ "message": "m", "long": "x".repeat(2000), "identifier": "ü".repeat(2000) })).unwrap();
        assert_eq!((&line["truncated"], line.get("fields")), (&json!(true), None));
        assert!(line["identifier"].as_str().unwrap().len() <= FIELD);
        let many: Map<String, Value> = (0..100).map(|number| (format!("f{number}"), json!(1))).collect();
        let mut many = Value::Object(many);
        many["message"] = json!("m");
        assert_eq!(one(&many).unwrap()["fields"].as_object().unwrap().len(), FIELDS);
    }

    proptest! {
        #[test]
        fn no_body_ever_panics(body in prop::collection::vec(any::<u8>(), 0..200), plain: bool) {
            let _ = lines_of(&body, plain, NOW);
        }
    }
}
