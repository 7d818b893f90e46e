//! `pillion status` and `pillion publish` as real processes.

use crate::sidecar::{Plan, Sidecar, sidecar, until};
use pillion::record::{Durability, Refusal, StreamId};
use pillion::stats::HealthState;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn pillion(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(arguments).env_remove("PILLION_SOCKET").stdin(Stdio::null());
    command
}

fn ends(arguments: &[&str]) -> (i32, String, String) {
    told(&pillion(arguments).output().unwrap())
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!err.contains("panicked"), "{err}");
    (output.status.code().unwrap(), out, err)
}

/// `pillion publish` with this input.
fn publish(socket: &Path, arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = pillion(&["publish", "--socket", socket.to_str().unwrap()]);
    if !arguments.contains(&"--topic") {
        command.args(["--topic", "t"]);
    }
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended before it has read everything.
    let _ = stdin.write_all(input);
    drop(stdin);
    told(&child.wait_with_output().unwrap())
}

#[test]
fn exit_codes_never_change() {
    let (dir, sidecar) = sidecar();
    let socket = sidecar.path.to_str().unwrap();
    let nowhere = dir.path().join("nowhere.sock");
    let status = |extra: &[&str]| ends(&[&["status", "--socket", socket], extra].concat());
    let (code, out, err) = status(&[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("gateway   pillion 0.1.0   up 1m 1s"), "{out}");
    let (code, out, _) = status(&["--json"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("{\n  \"version\": \"0.1.0\",\n"), "{out}");
    *sidecar.health.lock().unwrap() = HealthState::Degraded;
    assert_eq!((status(&[]).0, status(&["--json"]).0), (1, 1));
    assert!(status(&[]).1.contains("  ! the meter is gone\n"));
    let (code, out, err) = ends(&["status", "--socket", nowhere.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains("nowhere.sock") && err.contains("systemctl status"), "{err}");
    let by_variable = pillion(&["status"]).env("PILLION_SOCKET", socket).output().unwrap();
    assert_eq!(told(&by_variable).0, 1);

    for wrong in [
        [].as_slice(),
        &["nonsense"],
        &["status", "--what"],
        &["status", "--instance", "../x"],
        &["status", "--instance", "x", "--socket", "y"],
        &["publish"],
        &["run"],
    ] {
        assert_eq!(ends(wrong).0, 64, "{wrong:?}");
    }
    for (asked, answer) in [("--version", "pillion 0.1.0\n"), ("--help", "Examples:")] {
        let (code, out, err) = ends(&[asked]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains(answer), "{out}");
    }
}

#[test]
fn publish_never_loses_or_changes_a_line() {
    let (_dir, sidecar) = sidecar();
    let input = b"{\"a\":1}\r\nplain \"text\"\n\n\xff\xfe\nwith\0nul\n22.5\nlast";
    let (code, out, err) = publish(&sidecar.path, &["--stream", "log", "--sync"], input);
    let summary = "accepted 6 records: log:1 to log:6; skipped 1 empty line\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, summary, ""));
    let data: Vec<_> = sidecar.accepted().into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["{\"a\":1}", "\"plain \\\"text\\\"\"", "\u{fffd}\u{fffd}", "with\0nul", "22.5", "\"last\""]);
    for submission in sidecar.accepted.lock().unwrap().iter() {
        assert_eq!((submission.stream, submission.durability), (StreamId::LOG, Durability::Power));
    }
    assert_eq!(publish(&sidecar.path, &["--topic", "50 %/grün&sync=x?"], b"1").0, 0);
    assert_eq!(sidecar.accepted().last().unwrap().0, "app/50 %/grün&sync=x?");
    let (code, out, _) = publish(&sidecar.path, &[], b"");
    assert_eq!((code, out.as_str()), (0, "accepted 0 records\n"));
}

#[test]
fn publish_never_reorders_a_long_input() {
    let (_dir, sidecar) = sidecar();
    let input: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let (code, out, err) = publish(&sidecar.path, &[], input.as_bytes());
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "accepted 20000 records: telemetry:1 to telemetry:20000\n");
    let numbers: Vec<usize> = sidecar.accepted().iter().map(|(_, data)| data.parse().unwrap()).collect();
    assert!(numbers.into_iter().eq(0..20_000));
}

#[test]
fn publish_never_says_all_when_it_was_less() {
    let (dir, sidecar) = sidecar();
    let (code, out, err) = publish(&dir.path().join("nowhere"), &[], b"1\n");
    assert_eq!((code, out.as_str()), (69, ""));
    assert!(err.contains("not accepted") && err.contains("accepted 0 records"), "{err}");

    let (code, _, err) = publish(&sidecar.path, &["--stream", "nope"], b"1\n");
    assert_eq!(code, 65);
    assert!(err.contains("there are event, telemetry, log"), "{err}");

    let huge = format!("1\n2\n\"{}\"\n", "x".repeat(2 * 1024 * 1024));
    let (code, _, err) = publish(&sidecar.path, &[], huge.as_bytes());
    assert_eq!(code, 65);
    assert!(err.contains("line 3 is longer than 1048576 bytes"), "{err}");
    assert!(err.contains("accepted 2 records: telemetry:1 to telemetry:2"), "{err}");

    sidecar.plan(Plan::Refuse(Refusal::NotDurable("No space left".into())));
    let (code, _, err) = publish(&sidecar.path, &[], b"1\n2\n");
    assert_eq!(code, 1);
    assert!(err.contains("input lines 1 to 2") && err.contains("No space left"), "{err}");

    sidecar.plan(Plan::Refuse(Refusal::Full));
    let (code, out, err) = publish(&sidecar.path, &[], b"1\n");
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("telemetry is full; trying again"), "{err}");
    assert_eq!(out, "accepted 1 record: telemetry:3\n");

    sidecar.plan(Plan::Refuse(Refusal::Stopping));
    assert_eq!(publish(&sidecar.path, &[], b"1\n").0, 69);
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_line_never_waits_for_the_next() {
    let (_dir, sidecar) = sidecar();
    let mut command = pillion(&["publish", "--topic", "t", "--socket", sidecar.path.to_str().unwrap()]);
    let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut stdin = child.0.stdin.take().unwrap();
    for n in 1..=3 {
        writeln!(stdin, "{n}").unwrap();
        stdin.flush().unwrap();
        until("the line is accepted", || sidecar.accepted().len() == n);
    }
    drop(stdin);
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn watching_never_ends_with_the_sidecar() {
    let dir = tempfile::tempdir().unwrap();
    let mut sidecar = Sidecar::start(dir.path());
    let mut command = pillion(&["status", "--watch", "--socket", sidecar.path.to_str().unwrap()]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut sees = |what: &str| {
        let found = lines.by_ref().take(200).any(|line| line.unwrap().contains(what));
        assert!(found, "never saw {what}");
    };
    sees("healthy");
    sidecar.stop();
    sees("can't reach the sidecar");
    let _successor = Sidecar::start(dir.path());
    sees("healthy");
}

#[test]
fn a_reader_that_goes_away_never_makes_a_mess() {
    let (_dir, sidecar) = sidecar();
    let mut command = pillion(&["status", "--watch", "--socket", sidecar.path.to_str().unwrap()]);
    let mut child = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    drop(child.0.stdout.take());
    until("it ends", || child.0.try_wait().unwrap().is_some());
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}
