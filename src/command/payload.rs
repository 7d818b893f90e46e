//! A command's payload: from bytes to a [`Command`]. What it may look like is said at the head of `command`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

/// The longest id in bytes.
pub const MAX_ID: usize = 64;
/// The largest payload of a command in bytes, envelope included.
pub const MAX_COMMAND: usize = 16 * 1024;
/// The longest time to live: what the configuration allows, too.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 86_400);

/// A command as it came in, for one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// What the sender calls it: `[ -~]{1,64}`. Without one it can't be told from another of the same content.
    pub id: Option<String>,
    /// How long after it was sent it may still be carried out. `None`: what the device's configuration says.
    pub ttl: Option<Duration>,
    /// When it was sent, in milliseconds since 1970, if the sender says so.
    pub sent_ms: Option<u64>,
    /// What the device is to do.
    pub data: Data,
}

/// Why a payload is no command. The text says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// The id, if that much could be read: for the reply.
    pub id: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// An envelope's keys. `data` is any value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    ttl: Option<Value>,
    #[serde(default)]
    ts: Option<String>,
    #[serde(default)]
    encoding: Option<String>,
    data: Value,
}

impl Command {
    /// What a payload says.
    ///
    /// # Errors
    /// It is empty or larger than [`MAX_COMMAND`], begins with `{` and is no JSON, or is an envelope with something
    /// wrong in it.
    pub fn parse(payload: &[u8]) -> Result<Command, Malformed> {
        let wrong = |reason: String| Malformed { id: None, reason };
        if payload.is_empty() {
            return Err(wrong("the command is empty".to_owned()));
        }
        if payload.len() > MAX_COMMAND {
            let reason = format!("the command is too large; it may have {MAX_COMMAND} bytes at the most");
            return Err(wrong(reason));
        }
        if !payload.trim_ascii_start().starts_with(b"{") {
            return Ok(Command::plain(payload));
        }
        // The parser gives up at 128 levels, long before the stack does.
        let no_json = |error| wrong(format!("the command begins as a JSON object and is none: {error}"));
        let object: serde_json::Map<String, Value> = serde_json::from_slice(payload).map_err(no_json)?;
        if !object.contains_key("data") {
            return Ok(Command::plain(payload));
        }
        let id = object.get("id").and_then(Value::as_str).filter(|id| is_id(id)).map(str::to_owned);
        Command::enveloped(payload).map_err(|reason| Malformed { id, reason })
    }

    fn plain(payload: &[u8]) -> Command {
        Command { id: None, ttl: None, sent_ms: None, data: Data::Bytes(payload.to_vec()) }
    }

    fn enveloped(payload: &[u8]) -> Result<Command, String> {
        // From the text and not from the map, which hides keys that are given twice.
        let envelope: Envelope = serde_json::from_slice(payload)
            .map_err(|error| format!("wrong envelope: {error}; there are id, ttl, ts, encoding and data"))?;
        let id = match envelope.id {
            Some(id) if !is_id(&id) => {
                return Err(format!("the id must have 1 to {MAX_ID} printable ASCII characters"));
            }
            id => id,
        };
        let data = match (envelope.encoding.as_deref(), envelope.data) {
            (None, data) => Data::Json(data),
            (Some("base64"), Value::String(text)) => Data::Bytes(
                BASE64.decode(text).map_err(|error| format!("encoding is base64, but data is not: {error}"))?,
            ),
            (Some("base64"), _) => return Err("encoding is base64, but data is no string".to_owned()),
            (Some(_), _) => return Err("the only encoding is base64; leave it out for JSON".to_owned()),
        };
        let ttl = envelope.ttl.as_ref().map(time_to_live).transpose()?;
        let sent_ms = envelope.ts.as_deref().map(time_sent).transpose()?;
        Ok(Command { id, ttl, sent_ms, data })
    }
}

fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn time_to_live(value: &Value) -> Result<Duration, String> {
    let ttl = match value {
        Value::String(text) => humantime::parse_duration(text).ok(),
        Value::Number(seconds) => seconds.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        _ => None,
    };
    match ttl {
        Some(ttl) if ttl >= Duration::from_millis(1) && ttl <= MAX_TTL => Ok(ttl),
        Some(_) => Err("ttl must be between 1ms and 7d".to_owned()),
        None => Err("ttl must be a duration such as \"30s\", or a number of seconds".to_owned()),
    }
}

/// Milliseconds since 1970 of a time in RFC 3339, with `Z` or an offset at its end.
fn time_sent(text: &str) -> Result<u64, String> {
    let ms = offset(text).and_then(|(local, offset_min)| {
        let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
        let local_ms = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
        u64::try_from(local_ms.checked_sub(offset_min.checked_mul(60_000)?)?).ok()
    });
    ms.ok_or_else(|| "ts must be a time in RFC 3339, such as 2026-11-23T02:41:07Z".to_owned())
}

/// The time without its zone, and that zone's distance from UTC in minutes.
fn offset(text: &str) -> Option<(&str, i64)> {
    if let Some(utc) = text.strip_suffix('Z') {
        return Some((utc, 0));
    }
    let (local, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, zone) = zone.split_at_checked(1)?;
    let (hours, minutes) = zone.split_once(':')?;
    let number = |text: &str, below: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i64>().ok()).flatten().filter(|number| *number < below)
    };
    let minutes = number(hours, 24)? * 60 + number(minutes, 60)?;
    match sign {
        "+" => Some((local, minutes)),
        "-" => Some((local, -minutes)),
        _ => None,
    }
}

/// What a device is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// From an envelope without `encoding`.
    Json(Value),
    /// From an envelope with `"encoding":"base64"`, or a plain payload.
    Bytes(Vec<u8>),
}

impl Data {
    /// For devices that take bytes: a JSON string stands for its text, any other value for itself.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Data::Bytes(bytes) => bytes,
            Data::Json(Value::String(text)) => text.into_bytes(),
            Data::Json(value) => value.to_string().into_bytes(),
        }
    }

    /// For devices that take values: bytes that are no JSON stand for a string.
    pub fn into_value(self) -> Value {
        match self {
            Data::Json(value) => value,
            Data::Bytes(bytes) => serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason(payload: &str) -> String {
        Command::parse(payload.as_bytes()).unwrap_err().reason
    }

    #[test]
    fn what_is_no_envelope_never_loses_a_byte() {
        for plain in ["on", "22.5", " [1,2]", "\"x\"", r#"{"id":"a","value":1}"#, "\u{0}", "[".repeat(5000).as_str()] {
            let command = Command::parse(plain.as_bytes()).unwrap();
            assert_eq!((command.id, command.data), (None, Data::Bytes(plain.as_bytes().to_vec())), "{plain}");
        }
        assert_eq!(Command::parse(&[0xff, b'{']).unwrap().data, Data::Bytes(vec![0xff, b'{']));
    }

    #[test]
    fn an_envelope_is_never_taken_for_data() {
        let whole = r#" {"id":"c-17","ttl":"30s","ts":"2026-11-23T04:41:07.123+02:00","data":{"a":[1]}}"#;
        let command = Command::parse(whole.as_bytes()).unwrap();
        assert_eq!(command.id.as_deref(), Some("c-17"));
        assert_eq!((command.ttl, command.sent_ms), (Some(Duration::from_secs(30)), Some(1_795_401_667_123)));
        assert_eq!(command.data, Data::Json(serde_json::json!({"a": [1]})));
        let bytes = Command::parse(br#"{"encoding":"base64","data":"AP8=","ttl":0.5}"#).unwrap();
        assert_eq!((bytes.data, bytes.ttl), (Data::Bytes(vec![0, 255]), Some(Duration::from_millis(500))));
        assert_eq!(Command::parse(br#"{"data":null}"#).unwrap().data, Data::Json(Value::Null));
        for mutilated in [r#"{"id":"c-17","data":"on""#, "{", r#"{"id":"c","data":1} x"#, "{data: 1}"] {
            assert!(reason(mutilated).contains("begins as a JSON object"), "{mutilated}");
        }
        let deep = format!("{{\"data\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        assert!(reason(&deep).contains("recursion"), "{}", reason(&deep));
    }

    #[test]
    fn a_wrong_envelope_never_gets_by() {
        for (payload, part) in [
            (r#"{"data":1,"TTL":"1s"}"#, "unknown field `TTL`"),
            (r#"{"data":1,"data":2}"#, "duplicate field"),
            (r#"{"id":"a","id":"b","data":2}"#, "duplicate field"),
            (r#"{"id":"","data":1}"#, "printable ASCII"),
            (r#"{"id":"\u0000","data":1}"#, "printable ASCII"),
            (r#"{"id":"ä","data":1}"#, "printable ASCII"),
            (r#"{"id":7,"data":1}"#, "expected a string"),
            (r#"{"ttl":"soon","data":1}"#, "ttl must be a duration"),
            (r#"{"ttl":0,"data":1}"#, "between 1ms and 7d"),
            (r#"{"ttl":-1,"data":1}"#, "ttl must be a duration"),
            (r#"{"ttl":1e300,"data":1}"#, "ttl must be a duration"),
            (r#"{"ttl":"8d","data":1}"#, "between 1ms and 7d"),
            (r#"{"ts":"yesterday","data":1}"#, "RFC 3339"),
            (r#"{"ts":"1969-12-31T00:00:00Z","data":1}"#, "RFC 3339"),
            (r#"{"ts":"2026-11-23T04:41:07+2:00","data":1}"#, "RFC 3339"),
            (r#"{"ts":"2026-11-23T04:41:07é00","data":1}"#, "RFC 3339"),
            (r#"{"encoding":"base64","data":1}"#, "no string"),
            (r#"{"encoding":"base64","data":"?"}"#, "data is not"),
            (r#"{"encoding":"hex","data":"00"}"#, "only encoding"),
            ("", "empty"),
            (" ".repeat(MAX_COMMAND + 1).as_str(), "too large"),
        ] {
            assert!(reason(payload).contains(part), "{payload}: {}", reason(payload));
        }
        let id = format!(r#"{{"id":"{}","data":1}}"#, "x".repeat(MAX_ID + 1));
        assert!(reason(&id).contains("printable ASCII"));
        let named = Command::parse(br#"{"id":"c-1","data":1,"x":1}"#).unwrap_err();
        assert_eq!(named.id.as_deref(), Some("c-1"), "whoever sent it gets an answer");
    }

    proptest! {
        #[test]
        fn no_payload_ever_panics(payload in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            let _ = Command::parse(&payload);
            let _ = Command::parse(format!("{{\"data\":{text:?},\"ts\":{text:?},\"ttl\":{text:?}}}").as_bytes());
            let _ = offset(&text);
        }
    }
}
