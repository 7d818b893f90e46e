//! The child is a shell script in journalctl's place, which says what it was asked for and plays a given output.

use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

/// A journalctl that runs this script.
fn journal(script: &str) -> (TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("journalctl");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (dir, Journal { program, ..Journal::of("gw.service".to_owned()) })
}

fn cursor(number: u32) -> Cursor {
    Cursor::parse(&format!("s=a;i={number};b=b;m={number};t=1;x={number}")).unwrap()
}

/// A shell command that writes the lines with these numbers.
fn echo(numbers: &[u32]) -> String {
    let line = |number: &u32| {
        format!("echo '{{\"__CURSOR\":\"{}\",\"MESSAGE\":\"line {number}\"}}'\n", cursor(*number).as_str())
    };
    numbers.iter().map(line).collect()
}

/// A script may not be started while another thread's child still holds it open for writing: then it is started again.
fn start(journal: &Journal, begin: &Begin, end: End) -> Reading {
    for _ in 0..200 {
        match journal.read(begin, end) {
            Err(Broken::Start { error, .. }) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            reading => return reading.unwrap(),
        }
    }
    panic!("the script stays busy");
}

/// Everything that comes: numbers of lines, and words for the rest.
async fn all(reading: &mut Reading) -> Vec<String> {
    let mut steps = Vec::new();
    loop {
        let step = match timeout(SOON, reading.next()).await.expect("journalctl's end") {
            Ok(Step::Entry(entry)) => entry.line.message,
            Ok(Step::Gap(last, entry)) => format!("gap after {}, {}", last.id(), entry.line.message),
            Ok(Step::Rubbish(why)) => format!("rubbish: {why}"),
            Ok(Step::End) => "end".to_owned(),
            Err(error) => error.to_string(),
        };
        steps.push(step.clone());
        if steps.len() > 50 || step == "end" || step.starts_with("journalctl") {
            return steps;
        }
    }
}

#[tokio::test]
async fn journalctl_is_never_asked_in_a_way_that_skips_a_line() {
    let (_dir, journal) = journal("asked=\"$*\"; echo \"asked ${asked#--output=json --all --no-pager }\"");
    let newest = all(&mut start(&journal, &Begin::Newest, End::Now)).await;
    assert!(newest[0].contains("asked --boot --lines=1\""), "of any unit: {newest:?}");
    let begins = [
        (Begin::Behind(cursor(1)), End::Never, "--cursor=s=a;i=1;b=b;m=1;t=1;x=1 --follow --no-tail"),
        (Begin::With(cursor(1)), End::Now, "--cursor=s=a;i=1;b=b;m=1;t=1;x=1"),
        (Begin::Boot, End::Never, "--boot --follow --no-tail"),
        (Begin::Last(1000), End::Now, "--boot --lines=1000"),
    ];
    for (begin, end, expected) in begins {
        let steps = all(&mut start(&journal, &begin, end)).await;
        let expected = format!("asked --unit=gw.service {expected}\"");
        assert!(steps[0].contains(&expected), "{steps:?}");
    }
}

#[tokio::test]
async fn the_line_at_the_cursor_never_comes_twice_and_a_missing_one_never_goes_untold() {
    let (_dir, journal) = journal(&echo(&[3, 4, 5]));
    let read = async |begin| all(&mut start(&journal, &begin, End::Now)).await;
    assert_eq!(read(Begin::Behind(cursor(3))).await, ["line 4", "line 5", "end"]);
    assert_eq!(read(Begin::With(cursor(3))).await, ["line 3", "line 4", "line 5", "end"]);
    assert_eq!(read(Begin::Behind(cursor(1))).await, ["gap after a:1, line 3", "line 4", "line 5", "end"]);
}

#[tokio::test]
async fn rubbish_never_costs_the_lines_around_it() {
    let script = format!(
        "{}echo '-- No entries --'\necho\nhead -c 600000 /dev/zero | tr '\\0' x\necho\n{}printf '{{\"half'",
        echo(&[1]),
        echo(&[2])
    );
    let (_dir, journal) = journal(&script);
    let steps = all(&mut start(&journal, &Begin::Boot, End::Now)).await;
    assert_eq!((steps.len(), &*steps[0], &*steps[3], &*steps[4]), (5, "line 1", "line 2", "end"), "{steps:?}");
    assert!(steps[1].contains("No entries") && steps[2].contains("more than 524288 bytes"), "{steps:?}");
}

#[tokio::test]
async fn whoever_cant_read_the_journal_is_never_left_without_a_reason() {
    let missing = Journal { program: "/nowhere/journalctl".into(), ..Journal::of("gw.service".to_owned()) };
    let error = missing.read(&Begin::Boot, End::Never).unwrap_err().to_string();
    assert!(error.contains("/nowhere/journalctl can't be started: No such file"), "{error}");
    let scripts = [
        ("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", "group systemd-journal"),
        (
            "echo 'Hint: You are currently not seeing messages from other users and the system.' >&2; sleep 60",
            "group systemd-journal",
        ),
        (
            "echo 'Failed to seek to cursor: Invalid argument' >&2; exit 1",
            "journalctl ended (exit status: 1): Failed to seek",
        ),
        ("kill -9 $$", "journalctl ended (signal: 9"),
    ];
    for (script, expected) in scripts {
        let (_dir, journal) = journal(script);
        let steps = all(&mut start(&journal, &Begin::Boot, End::Never)).await;
        assert!(steps.len() == 1 && steps[0].contains(expected), "{steps:?}");
    }
}

#[tokio::test]
async fn a_child_never_outlives_its_reader() {
    let (_dir, journal) = journal(&format!("{}exec sleep 600", echo(&[1])));
    let mut reading = start(&journal, &Begin::Boot, End::Never);
    assert!(matches!(reading.next().await, Ok(Step::Entry(_))));
    let proc = PathBuf::from(format!("/proc/{}", reading.id().unwrap()));
    assert!(proc.exists());
    drop(reading);
    let gone = async {
        while proc.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, gone).await.expect("it is killed and reaped");
}
