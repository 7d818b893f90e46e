//! `pillion command`: has a device do something, and prints what became of it.

use super::client;
use super::exit::{DATA, DEGRADED, Failure, INTERNAL, UNAVAILABLE, print};
use super::find::{RUN_DIR, Whom};
use super::pretty::pretty;
use crate::command::{MAX_COMMAND, MAX_ID, Reply, Stage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use std::io::{self, Read as _};
use std::process::ExitCode;

/// All but what names consist of.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The device's name
    device: String,
    /// What it shall do [default: standard input]
    payload: Option<String>,
    /// Name of this command: sent again under the same name, it is not carried out again
    #[arg(long, value_parser = id)]
    id: Option<String>,
    /// How long it may wait for its turn, as in 30s
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// How long to wait for the device, 10ms to 40s
    #[arg(long, value_name = "TIME", default_value = "30s")]
    wait: String,
    #[command(flatten)]
    whom: Whom,
}

fn id(id: &str) -> Result<String, String> {
    match (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        true => Ok(id.to_owned()),
        false => Err(format!("give 1 to {MAX_ID} printable ASCII characters")),
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let socket = arguments.whom.socket(std::env::var_os("PILLION_SOCKET"), RUN_DIR.as_ref())?;
    let payload = match &arguments.payload {
        Some(payload) => payload.clone().into_bytes(),
        None => read()?,
    };
    let payload = match (&arguments.id, &arguments.ttl) {
        (None, None) => payload,
        (id, ttl) => envelope(&payload, id.as_deref(), ttl.as_deref()),
    };
    // A device's name needs no encoding; what does is no device's name, and the sidecar says so.
    let encoded = |text| utf8_percent_encode(text, NAME);
    let target = format!("/v1/devices/{}/command?wait={}", encoded(&arguments.device), encoded(&arguments.wait));
    let request = Request::post(target).body(Full::new(Bytes::from(payload)));
    let request = request.map_err(|error| Failure::new(DATA, error.to_string()))?;
    let answer = client::runtime()?.block_on(client::request(&socket, request))?;
    let Ok(reply) = serde_json::from_slice::<Reply>(&answer.body) else {
        let code = match answer.status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::PAYLOAD_TOO_LARGE => DATA,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => UNAVAILABLE,
            _ => INTERNAL,
        };
        return Err(Failure::new(code, answer.error()));
    };
    print(&pretty(&String::from_utf8_lossy(&answer.body)))?;
    match code_of(&reply) {
        0 => Ok(ExitCode::SUCCESS),
        code => Err(Failure::new(code, why(&reply))),
    }
}

fn code_of(reply: &Reply) -> u8 {
    match (reply.is_final, reply.stage) {
        (true, Stage::Received | Stage::Written | Stage::Replied) => 0,
        (true, Stage::Expired | Stage::Refused) => DATA,
        (true, Stage::Failed) | (false, _) => DEGRADED,
    }
}

fn why(reply: &Reply) -> String {
    match (&reply.reason, reply.is_final) {
        (Some(reason), _) => reason.clone(),
        (None, false) => format!("it is still under way; ask again with --id {:?}", reply.id),
        (None, true) => "it was not done".to_owned(),
    }
}

/// Standard input without the end of its last line. One byte too much is enough to be refused.
fn read() -> Result<Vec<u8>, Failure> {
    let limit = u64::try_from(MAX_COMMAND + 2).unwrap_or(u64::MAX);
    let mut payload = Vec::new();
    let read = io::stdin().lock().take(limit).read_to_end(&mut payload);
    read.map_err(|error| Failure::new(DATA, format!("can't read the input: {error}")))?;
    if payload.ends_with(b"\n") {
        payload.pop();
    }
    Ok(payload)
}

/// The payload in an envelope; one that has an envelope gets the keys in there.
fn envelope(payload: &[u8], id: Option<&str>, ttl: Option<&str>) -> Vec<u8> {
    let mut envelope = match serde_json::from_slice(payload) {
        Ok(Value::Object(object)) if object.contains_key("data") => object,
        Ok(value) => Map::from_iter([("data".to_owned(), value)]),
        Err(_) => match std::str::from_utf8(payload) {
            Ok(text) => Map::from_iter([("data".to_owned(), text.into())]),
            Err(_) => Map::from_iter([
                ("data".to_owned(), BASE64.encode(payload).into()),
                ("encoding".to_owned(), "base64".into()),
            ]),
        },
    };
    for (key, value) in [("id", id), ("ttl", ttl)] {
        envelope.extend(value.map(|value| (key.to_owned(), value.into())));
    }
    Value::Object(envelope).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Data};

    #[test]
    fn an_envelope_never_changes_what_the_device_gets() {
        for payload in [&b"SET 1"[..], b"{\"a\":1}", b"on", b"\xff\x00", b"22", b"{broken"] {
            let command = Command::parse(&envelope(payload, Some("c-1"), Some("5s"))).unwrap();
            assert_eq!((command.id.as_deref(), command.ttl.map(|ttl| ttl.as_secs())), (Some("c-1"), Some(5)));
            assert_eq!(command.data.into_bytes(), payload);
        }
        let command = Command::parse(&envelope(b"{\"data\":1,\"id\":\"old\"}", Some("new"), None)).unwrap();
        assert_eq!((command.id.as_deref(), command.data), (Some("new"), Data::Json(1.into())));
    }

    #[test]
    fn what_was_not_done_never_exits_with_success() {
        assert_eq!(code_of(&Reply::last("x", Stage::Replied)), 0);
        assert_eq!(code_of(&Reply::interim("x", Stage::Written)), DEGRADED);
        for (stage, code) in [(Stage::Expired, DATA), (Stage::Refused, DATA), (Stage::Failed, DEGRADED)] {
            assert_eq!(code_of(&Reply::last("x", stage)), code);
        }
        assert!(why(&Reply::interim("c-1", Stage::Written)).contains("--id \"c-1\""));
    }
}
