//! What a client sends, as records: where they go, and whether they can be taken at all.
//!
//! Constraints: pure, but for the clock; what is refused here is refused with a reason and has touched nothing.

use super::Api;
use super::answer::Error;
use super::query::Query;
use crate::record::{Encoding, PayloadRule, Record, Sequenced, StreamId, Timestamp};
use hyper::body::Bytes;
use serde::de::IgnoredAny;

/// Where a request's records go.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) topic: String,
    pub(super) stream: StreamId,
    stream_name: String,
    /// Whether they must survive a power cut before they count as accepted.
    pub(super) sync: bool,
}

impl Target {
    pub(super) fn of(query: Option<&str>, api: &Api) -> Result<Target, Error> {
        let query = Query::read(query, &["topic", "stream", "sync"])?;
        let topic = query.get("topic");
        let topic = topic.ok_or_else(|| bad("the parameter topic is missing: POST /v1/publish?topic=T".to_owned()))?;
        check_topic(topic, api.max_topic).map_err(|why| bad(format!("topic: {why}")))?;
        let stream_name = query.get("stream").unwrap_or("telemetry").to_owned();
        let stream = stream_of(&stream_name, &api.rules.borrow().streams)?;
        let sync = query.flag("sync")?;
        Ok(Target { topic: format!("app/{topic}"), stream, stream_name, sync })
    }
}

fn bad(why: String) -> Error {
    Error::Bad(why)
}

fn stream_of(name: &str, streams: &[(String, StreamId)]) -> Result<StreamId, Error> {
    let found = streams.iter().find(|(stream, _)| stream == name).map(|(_, id)| *id);
    let names = || streams.iter().map(|(stream, _)| stream.as_str()).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| bad(format!("there is no stream {name:?}; there are {}", names())))
}

/// What MQTT (3.1.1, section 4.7) and its brokers take as the end of a topic, and consumers can live with.
pub(super) fn check_topic(topic: &str, max: usize) -> Result<(), String> {
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

/// A body as one record, as it came.
pub(super) fn of_body(body: &[u8], target: &Target, api: &Api) -> Result<Record, Error> {
    if body.is_empty() {
        return Err(bad("the body is empty; it is the record".to_owned()));
    }
    record(body, PayloadRule::Auto.encoding_of(body), target, api, (api.clock)()).map_err(Error::TooLarge)
}

/// A line, the `number`th of its body, as one record: a JSON value. None if it is empty.
pub(super) fn of_line(
    line: &[u8],
    number: u64,
    target: &Target,
    api: &Api,
    time: Timestamp,
) -> Result<Option<Record>, Error> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    check_json(line).map_err(|why| bad(format!("line {number} is not JSON: {why}")))?;
    let record = record(line, Encoding::Json, target, api, time);
    record.map(Some).map_err(|why| Error::TooLarge(format!("line {number}: {why}")))
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
fn record(data: &[u8], encoding: Encoding, target: &Target, api: &Api, time: Timestamp) -> Result<Record, String> {
    let record = Record { topic: target.topic.clone(), time, encoding, data: data.to_vec() };
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

/// Bytes into lines, of which one may begin in one piece of a body and end in another.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// What came last and was not looked at yet.
    input: Bytes,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// The number of the line that is given out next, less 1.
    given: u64,
}

impl Lines {
    /// Takes in the next piece. There is room for one piece when [`Lines::next`] has returned nothing.
    pub(super) fn feed(&mut self, piece: Bytes) {
        self.input = piece;
    }

    /// The next whole line with its number, from 1, without its LF.
    ///
    /// # Errors
    /// [`Error::TooLarge`]: it has more than `max` bytes, whether its end has come or not.
    pub(super) fn next(&mut self, max: usize) -> Result<Option<(u64, Bytes)>, Error> {
        let number = self.given.saturating_add(1);
        let end = self.input.iter().position(|byte| *byte == b'\n');
        let length = end.unwrap_or(self.input.len());
        if self.partial.len().saturating_add(length) > max {
            let why = format!("line {number} is longer than {max} bytes, which is mqtt.max_payload");
            return Err(Error::TooLarge(why));
        }
        let rest = self.input.split_to(length);
        if end.is_none() {
            self.partial.extend_from_slice(&rest);
            return Ok(None);
        }
        let _ = self.input.split_to(1);
        self.given = number;
        if self.partial.is_empty() {
            return Ok(Some((number, rest)));
        }
        let mut line = std::mem::take(&mut self.partial);
        line.extend_from_slice(&rest);
        Ok(Some((number, line.into())))
    }

    /// The last line of a body that has ended without an LF, with its number.
    pub(super) fn finish(&mut self) -> Option<(u64, Bytes)> {
        let line = std::mem::take(&mut self.partial);
        (!line.is_empty()).then(|| {
            self.given = self.given.saturating_add(1);
            (self.given, line.into())
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::Rules;
    use crate::record::ClockQuality;
    use tokio::sync::mpsc;

    pub(in crate::api) fn api() -> Api {
        Api {
            roster: tokio::sync::watch::channel(crate::roster::Roster::from([])).1,
            reload: mpsc::channel(1).0,
            refused: mpsc::channel(1).0,
            submissions: mpsc::channel(1).0,
            commands: mpsc::channel(1).0,
            logs: mpsc::channel(1).0,
            beats: tokio::sync::watch::channel(None).0,
            status: mpsc::channel(1).0,
            max_payload: 1000,
            max_topic: 20,
            clock: || Timestamp { wall_ms: 1, mono_ms: 1, quality: ClockQuality::Unsynced },
            rules: tokio::sync::watch::channel(Rules {
                streams: ["event", "telemetry", "log", "mine"]
                    .map(str::to_owned)
                    .into_iter()
                    .zip((0..).map(StreamId))
                    .collect(),
                access: Default::default(),
            })
            .1,
            counts: tokio::sync::watch::channel(Default::default()).0,
            environment: Default::default(),
            inbox: None,
            settings: None,
            neighbours: None,
        }
    }

    fn target(query: &str) -> Result<Target, String> {
        Target::of(Some(query), &api()).map_err(|error| error.to_string())
    }

    fn line(bytes: &[u8]) -> Result<bool, String> {
        let taken = of_line(bytes, 3, &target("topic=a").unwrap(), &api(), Timestamp::UNKNOWN);
        taken.map(|record| record.is_some()).map_err(|error| error.to_string())
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
    fn a_line_that_is_not_json_never_passes_as_a_record() {
        for good in [b"1".as_slice(), b"{\"a\":2}\r", b" \"x\" "] {
            assert_eq!(line(good), Ok(true));
        }
        for empty in [b"".as_slice(), b"\r", b" \t\r"] {
            assert_eq!(line(empty), Ok(false));
        }
        assert_eq!(line(b"{\"a\":tru}"), Err("line 3 is not JSON: expected ident at column 9".to_owned()));
        assert!(line(b"\"\xff\"").unwrap_err().contains("line 3 is not JSON: not UTF-8"));
        assert!(line(b"1\0").unwrap_err().contains("line 3"));
        assert!(line(b"1 2").unwrap_err().contains("trailing characters at column 3"));
    }

    #[test]
    fn a_record_that_the_broker_cant_take_is_never_accepted() {
        let target = target("topic=a").unwrap();
        let size = |data: &[u8]| of_body(data, &target, &api()).map(|record| record.data.len()).is_ok();
        // Without data: {"id":"telemetry:18446744073709551615","ts":"1970-01-01T00:00:00.001Z","clock":"unsynced","data":}
        assert!(size(&[b'1'; 1000 - 98]) && !size(&[b'1'; 1001 - 98]));
        assert!(size(&[0; 660]) && !size(&[0; 661]), "base64 takes four bytes for three, and a mark");
        assert!(size(&[27; 150]) && !size(&[27; 151]), "escapes take six bytes for one");
        assert!(line(format!("\"{}\"", "x".repeat(1000)).as_bytes()).unwrap_err().contains("line 3: the record"));
    }

    #[test]
    fn the_unmeasured_record_never_exceeds_the_estimate() {
        let time = Timestamp { wall_ms: u64::MAX, mono_ms: 0, quality: ClockQuality::Unsynced };
        for encoding in [Encoding::Text, Encoding::Base64] {
            let record = Record { topic: String::new(), time, encoding, data: vec![1; 50] };
            assert!(Sequenced { seq: u64::MAX, record }.payload(&"x".repeat(32)).len() <= 50 * 6 + 200);
        }
    }

    /// All lines of a body that comes in pieces of this size.
    fn lines(body: &[u8], size: usize) -> Vec<(u64, String)> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in body.chunks(size) {
            lines.feed(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next(100).unwrap() {
                all.push(line);
            }
        }
        all.extend(lines.finish());
        all.into_iter().map(|(number, line)| (number, String::from_utf8_lossy(&line).into_owned())).collect()
    }

    #[test]
    fn a_line_never_depends_on_where_its_body_was_cut() {
        for body in ["", "\n", "one", "one\n", "one\n\nthree", "one\ntwo\n\n\nfive\n"] {
            let wanted: Vec<_> = (1..).zip(body.lines().map(str::to_owned)).collect();
            for size in 1..10 {
                assert_eq!(lines(body.as_bytes(), size), wanted, "{body:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_line_without_an_end_never_fills_the_memory() {
        let mut lines = Lines::default();
        lines.feed(Bytes::from_static(b"0123456789\n0123456789a\n"));
        assert_eq!(lines.next(10).unwrap().unwrap().0, 1);
        assert!(lines.next(10).unwrap_err().to_string().contains("line 2 is longer than 10 bytes"));
        let mut lines = Lines::default();
        lines.feed(Bytes::from_static(b"0123456789"));
        assert_eq!(lines.next(10).unwrap(), None);
        lines.feed(Bytes::from_static(b"0"));
        assert!(lines.next(10).is_err() && lines.partial.len() == 10);
    }
}
