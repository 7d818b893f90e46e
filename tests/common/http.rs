//! A client for the local API: one request over a Unix socket.

use super::{SOON, watched::Watched};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
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

/// An answer without an end: lines of JSON, as they come. Dropping it hangs up.
#[derive(Debug)]
pub struct Lines {
    stream: UnixStream,
    seen: Arc<Watched<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    /// Sends the request and waits for the head of its answer, which must be 200.
    pub fn of(socket: &Path, target: &str) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{target}: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/x-ndjson"), "{target}: {head}");
        let seen = Arc::new(Watched::new(Vec::new()));
        let lines = Arc::clone(&seen);
        // Each line has a chunk of its own: its size, and a blank line behind it.
        let reader = std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
                lines.update(|lines| lines.push(serde_json::from_str(&line).unwrap()));
            }
        });
        Lines { stream, seen, reader: Some(reader) }
    }

    /// Waits until the lines so far satisfy `enough`, and returns them.
    pub fn expect(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let lines = self.seen.wait_for(SOON, |lines| enough(lines).then(|| lines.clone()));
        lines.unwrap_or_else(|| panic!("waited {SOON:?} for {what}; {:#?}", self.so_far()))
    }

    /// The lines so far.
    pub fn so_far(&self) -> Vec<Value> {
        self.seen.read(Vec::clone)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // The other end may have been faster.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}
