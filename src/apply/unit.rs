//! The application's unit, through systemctl; the check command; and what the sidecar says.
//!
//! Constraints: no shell; every command has a deadline, after which it is killed; what it says is cut off.

use crate::stats::{Health, HealthState};
use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between looks at a command or a unit.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_AT_UNIT: Duration = Duration::from_millis(500);
/// How long systemctl may take to restart or reload a unit. Systemd has limits of its own for that, of 90 s for a stop and as much
/// for a start where the unit says nothing else; this one is for a systemd that hangs.
const ACT_TIME: Duration = Duration::from_secs(15 * 60);
/// How long it may take to show a unit, and the sidecar to answer.
const SHOW_TIME: Duration = Duration::from_secs(10);
/// Bytes of a command's words that are kept.
const WORDS: usize = 512;
/// Bytes of the sidecar's answer.
const ANSWER: u64 = 64 * 1024;

/// Runs a command. `Err`: why it counts as failed, in words.
pub(super) fn run(program: &str, arguments: &[String], limit: Duration) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let deadline = Instant::now() + limit;
    let streams = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || words(streams.0));
    let err = std::thread::spawn(move || words(streams.1));
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < deadline => sleep(LOOK_EVERY),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let Some(status) = ended else { return Err(format!("{program} took longer than {} s", limit.as_secs())) };
    // What it has left behind may hold its output open; then there are no words.
    let said = |reader: std::thread::JoinHandle<String>| {
        while !reader.is_finished() && Instant::now() < deadline {
            sleep(Duration::from_millis(10));
        }
        if reader.is_finished() { reader.join().unwrap_or_default() } else { String::new() }
    };
    let (out, err) = (said(out), said(err));
    match status.success() {
        true => Ok(out),
        false => Err(format!("{status}; {}", if err.trim().is_empty() { out.trim() } else { err.trim() })),
    }
}

fn words(stream: Option<impl Read>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut kept, mut chunk) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        kept.extend(chunk.iter().take(count.min(WORDS.saturating_sub(kept.len()))));
    }
    String::from_utf8_lossy(&kept).chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// What systemd says of a unit.
struct Shown {
    active: String,
    result: String,
    restarts: u64,
}

fn show(unit: &str) -> Result<Shown, String> {
    let properties = ["show", "--property=ActiveState,Result,NRestarts", "--", unit].map(str::to_owned);
    let text = run("systemctl", &properties, SHOW_TIME)?;
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
    Ok(Shown {
        active: of("ActiveState").to_owned(),
        result: of("Result").to_owned(),
        restarts: of("NRestarts").parse().unwrap_or(0),
    })
}

/// Has the unit restarted or reloaded, and looks on for as long as `within` from then on. `Err`: it does not go on, and why.
pub(super) fn act(verb: &str, unit: &str, within: Duration, socket: &Path) -> Result<(), String> {
    run("systemctl", &[verb, "--", unit].map(str::to_owned), ACT_TIME)
        .map_err(|why| format!("systemctl {verb}: {why}"))?;
    let deadline = Instant::now() + within;
    let begun = show(unit)?.restarts;
    loop {
        let Shown { active, result, restarts } = show(unit)?;
        let is_over = Instant::now() >= deadline;
        match active.as_str() {
            "failed" | "inactive" | "deactivating" => return Err(format!("{unit} is {active} ({result})")),
            _ if restarts > begun => return Err(format!("{unit} had to be restarted ({result})")),
            "active" | "reloading" | "" if is_over => break,
            other if is_over => return Err(format!("{unit} is still {other} after {} s", within.as_secs())),
            _ => sleep(LOOK_AT_UNIT.min(deadline.saturating_duration_since(Instant::now()))),
        }
    }
    match sidecar_says(socket) {
        Some((true, reasons)) => Err(format!("pillion says: {reasons}")),
        _ => Ok(()),
    }
}

/// Whether the sidecar says that the application is lost, and why it says what it says; `None`: it does not answer, which is not the application's fault.
fn sidecar_says(socket: &Path) -> Option<(bool, String)> {
    let answer = ask(socket).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let health: Health = serde_json::from_str(body).ok()?;
    Some((health.state == HealthState::Failed, health.reasons.join("; ")))
}

fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SHOW_TIME))?;
    stream.set_write_timeout(Some(SHOW_TIME))?;
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
