//! A client for the local API: one request over a Unix socket.

use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The body as JSON; `Null` where it is none.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

/// Sends a request and waits for the whole answer, but no longer than half a minute.
pub fn request(socket: &Path, method: &str, target: &str, kind: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    // A server that refuses by the length alone answers and closes before the body is through: its answer counts.
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut bytes = Vec::new();
    let received = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        sent.and(received)?;
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let body = &bytes[end + 4..];
    if length.is_some_and(|length| body.len() < length) {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let code = code.ok_or(ErrorKind::InvalidData)?;
    let text = String::from_utf8_lossy(body).into_owned();
    Ok(Answer { code, json: serde_json::from_slice(body).unwrap_or(Value::Null), text })
}
