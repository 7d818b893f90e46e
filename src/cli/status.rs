//! `pillion status`: asks the running sidecar how it is doing.

use super::client;
use super::exit::{DATA, DEGRADED, Failure, Reader, UNAVAILABLE, USAGE, print};
use super::find::{RUN_DIR, Whom};
use super::pretty::pretty;
use super::screen::{Style, render};
use crate::host;
use crate::record::rfc3339;
use crate::stats::{Direction, HealthState, Status, TraceEntry};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// The width of a screen in columns.
const WIDTH: usize = 80;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// Print the document as received, for programs
    #[arg(long)]
    json: bool,
    /// Show it again each second until ^C
    #[arg(long)]
    watch: bool,
    /// Show the last bytes on a serial device's line
    #[arg(long, value_name = "DEVICE", conflicts_with = "watch")]
    trace: Option<String>,
}

/// What there is to show, and the exit code that goes with it.
struct View {
    text: String,
    code: u8,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = client::runtime()?;
    let on_terminal = std::io::stdout().is_terminal();
    let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let style = Style { width: WIDTH, colour: on_terminal && unset("NO_COLOR") && !dumb };
    if !arguments.watch {
        let view = look(arguments, &runtime, style)?;
        print(&view.text)?;
        return Ok(view.code.into());
    }
    let in_place = on_terminal && !dumb && !arguments.json;
    let mut complaint = String::new();
    loop {
        let view = match look(arguments, &runtime, style) {
            Ok(view) => view,
            // Which of several instances is meant will not become clear by waiting.
            Err(failure) if failure.code == USAGE => return Err(failure),
            // A document must be one: the complaint goes elsewhere, and comes once.
            Err(failure) if arguments.json => {
                if failure.message != complaint {
                    let _ = writeln!(std::io::stderr(), "pillion status: {}", failure.message);
                    complaint = failure.message;
                }
                View { text: String::new(), code: failure.code }
            }
            Err(failure) => View { text: format!("{}\n", failure.message), code: failure.code },
        };
        let text = match (in_place, arguments.json) {
            (true, _) => over_the_last(&view.text),
            (false, true) => view.text,
            (false, false) => view.text + "\n",
        };
        if print(&text)? == Reader::Gone {
            return Ok(view.code.into());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Draws from the top left corner over what is there, without the flicker of clearing first (ECMA-48: CUP, EL, ED).
fn over_the_last(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn look(arguments: &Arguments, runtime: &Runtime, style: Style) -> Result<View, Failure> {
    let socket = arguments.whom.socket(std::env::var_os("PILLION_SOCKET"), RUN_DIR.as_ref())?;
    if let Some(device) = &arguments.trace {
        let body = runtime.block_on(fetch(&socket, &format!("/v1/devices/{device}/trace")))?;
        return trace(&body, &socket, arguments.json);
    }
    let body = runtime.block_on(fetch(&socket, "/v1/status"))?;
    if arguments.json { document(&body, &socket) } else { screen(&body, &socket, style) }
}

async fn fetch(socket: &Path, path: &str) -> Result<Bytes, Failure> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.uri_mut() = path.parse().map_err(|_| Failure::new(USAGE, format!("{path:?} holds no device's name")))?;
    let answer = client::request(socket, request).await?;
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        StatusCode::NOT_FOUND => Err(Failure::new(DATA, answer.error())),
        _ => Err(Failure::new(UNAVAILABLE, format!("the sidecar at {}: {}", socket.display(), answer.error()))),
    }
}

/// A line for each read and write: when, which way, the bytes in hexadecimal and as text.
fn trace(body: &[u8], socket: &Path, json: bool) -> Result<View, Failure> {
    let text = String::from_utf8_lossy(body);
    let entries: Vec<TraceEntry> = serde_json::from_str(&text).map_err(|error| strange(socket, &error))?;
    let text = match (json, entries.is_empty()) {
        (true, _) => pretty(&text),
        (false, true) => "nothing has passed yet\n".to_owned(),
        (false, false) => entries.iter().map(trace_lines).collect(),
    };
    Ok(View { text, code: 0 })
}

fn trace_lines(entry: &TraceEntry) -> String {
    /// Bytes in a line.
    const BYTES: usize = 16;
    let arrow = match entry.direction {
        Direction::Sent => "->",
        Direction::Received => "<-",
    };
    let bytes: Vec<u8> = (0..entry.hex.len() / 2)
        .filter_map(|index| u8::from_str_radix(entry.hex.get(2 * index..2 * index + 2)?, 16).ok())
        .collect();
    let mut head = format!("{} {arrow}", rfc3339(entry.at_ms));
    let mut lines = String::new();
    for part in bytes.chunks(BYTES) {
        let hex: String = part.iter().map(|byte| format!(" {byte:02x}")).collect();
        let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        let text: String = part.iter().map(shown).collect();
        lines.push_str(&format!("{head:27}{hex:49}  {text}\n"));
        head.clear();
    }
    lines
}

fn screen(body: &[u8], socket: &Path, style: Style) -> Result<View, Failure> {
    let status: Status = serde_json::from_slice(body).map_err(|error| strange(socket, &error))?;
    let code = code_of(status.health.state == HealthState::Healthy);
    Ok(View { text: render(&status, style, host::now().wall_ms), code })
}

fn document(body: &[u8], socket: &Path) -> Result<View, Failure> {
    /// Of a document that may be of another version, only what the exit code needs.
    #[derive(Deserialize)]
    struct Verdict {
        health: Health,
    }
    #[derive(Deserialize)]
    struct Health {
        state: String,
    }
    let text = String::from_utf8_lossy(body);
    let verdict: Verdict = serde_json::from_str(&text).map_err(|error| strange(socket, &error))?;
    Ok(View { text: pretty(&text), code: code_of(verdict.health.state == "healthy") })
}

fn code_of(healthy: bool) -> u8 {
    if healthy { 0 } else { DEGRADED }
}

fn strange(socket: &Path, error: &serde_json::Error) -> Failure {
    let message = format!(
        "can't understand what answers at {}: {error}; is it a newer pillion? --json shows the document as it is",
        socket.display()
    );
    Failure::new(UNAVAILABLE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redrawing_never_leaves_rests_of_the_last_screen() {
        assert_eq!(over_the_last("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }

    #[test]
    fn a_newer_document_never_loses_its_fields() {
        let view = document(br#"{"new":{"x":1},"health":{"state":"odd","why":"?"}}"#, Path::new("s")).unwrap();
        assert!(view.text.contains("\"new\": {\n    \"x\": 1"), "{}", view.text);
        assert_eq!(view.code, 1);
        assert!(document(b"<html>", Path::new("s")).is_err());
    }
}
