//! The real binary writes a spool; `pillion spool` and a decoder in Python that knows only the description of the format read
//! it, whole and damaged.
#![cfg(test)]
// This needs the sidecar of the rig alone.
#![allow(dead_code)]

#[path = "common/mod.rs"]
mod common;

use common::own_address;
use common::sidecar::{Home, STREAM, Sidecar};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Bodies of requests, with the encoding that they get and their `data` in a dump.
fn bodies() -> Vec<(Vec<u8>, &'static str, Value)> {
    let long = "x".repeat(70_000);
    vec![
        (b"22.5".to_vec(), "json", json!(22.5)),
        (b"{\"a\":\n [1, \"two\"]}".to_vec(), "json", json!({ "a": [1, "two"] })),
        (b"\"\"".to_vec(), "json", json!("")),
        (b"  ".to_vec(), "text", json!("  ")),
        ("Grüße, 東京 \"quoted\"\nnext line".into(), "text", json!("Grüße, 東京 \"quoted\"\nnext line")),
        (vec![0, 255, 10, 13, 128], "base64", json!("AP8KDYA=")),
        (b"\0".to_vec(), "base64", json!("AA==")),
        (long.clone().into_bytes(), "text", json!(long)),
    ]
}

/// A sidecar whose broker is not there, in segments of 64 KiB. Every record is on flash at once.
fn sidecar() -> Sidecar {
    let nobody = TcpListener::bind((own_address(), 0)).unwrap().local_addr().unwrap();
    let mut home = Home::new([format!("mqtt://{nobody}")]);
    home.spool = "sync = \"always\"\nsegment_bytes = \"64KiB\"".to_owned();
    Sidecar::start(home)
}

/// A spool with these numbered records, closed or killed.
fn spool_of(count: usize, close: bool) -> Sidecar {
    let mut sidecar = sidecar();
    let lines: Vec<_> = (1..=count).map(|number| format!("{number} {}", "x".repeat(1000))).collect();
    sidecar.publish_lines("orders", &lines);
    match close {
        true => assert_eq!(sidecar.terminate().code(), Some(0)),
        false => sidecar.kill(),
    }
    sidecar
}

fn spool(home: &Home, arguments: &[&str]) -> Output {
    home.run(&[&["spool"], arguments].concat(), b"")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn numbers(output: &Output) -> Vec<u64> {
    lines(output).iter().filter(|line| line["stream"] == STREAM).map(|line| line["seq"].as_u64().unwrap()).collect()
}

/// Every file below a folder with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => drop(all.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    all
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn python() -> Option<PathBuf> {
    let found = Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then(|| PathBuf::from("python3"))
}

#[test]
fn what_was_published_never_differs_from_what_is_on_disk() {
    let mut sidecar = sidecar();
    for (body, ..) in bodies() {
        let target = format!("/v1/publish?topic=orders/1&stream={STREAM}");
        let answer = sidecar.request("POST", &target, "application/octet-stream", &body).unwrap();
        assert_eq!(answer.code, 200, "{answer:?}");
    }
    let socket = sidecar.home.socket();
    let publish = ["publish", "--socket", text_of(&socket), "--topic", "orders/1", "--stream", STREAM];
    let published = sidecar.home.run(&publish, "from a pipe ü\n\n{\"n\":1}\n".as_bytes());
    assert_eq!(code(&published), 0, "{published:?}");
    assert_eq!(sidecar.terminate().code(), Some(0));
    let mut expected: Vec<(Vec<u8>, &str, Value)> = bodies();
    expected.push(("\"from a pipe ü\"".into(), "json", json!("from a pipe ü")));
    expected.push((b"{\"n\":1}".to_vec(), "json", json!({ "n": 1 })));

    let state = sidecar.home.path("state");
    let before = files(&state);
    let dumped = spool(&sidecar.home, &["dump", "--all", text_of(&state)]);
    assert_eq!((code(&dumped), dumped.stderr.as_slice()), (0, b"".as_slice()));
    let dumped: Vec<_> = lines(&dumped).into_iter().filter(|line| line["stream"] == STREAM).collect();
    assert_eq!(dumped.len(), expected.len());
    for ((line, (_, encoding, data)), seq) in dumped.iter().zip(&expected).zip(1..) {
        assert_eq!((&line["seq"], &line["topic"]), (&json!(seq), &json!("app/orders/1")), "{line}");
        assert_eq!((&line["encoding"], &line["data"]), (&json!(encoding), data));
    }
    let verified = spool(&sidecar.home, &["verify", text_of(&state)]);
    assert_eq!(code(&verified), 0, "{verified:?}");
    assert_eq!(files(&state), before, "nothing was written");

    let Some(python) = python() else {
        println!("SKIPPED: there is no python3 (apt-get install python3-minimal)");
        return;
    };
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spool_reader.py");
    let read = Command::new(python).arg("-B").arg(reader).arg(state.join("spool")).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let read = std::str::from_utf8(&read.stdout).unwrap();
    let of = |what: &str| -> Vec<BTreeMap<&str, &str>> {
        let start = format!("{STREAM} {what} ");
        let lines = read.lines().filter_map(|line| line.strip_prefix(&start));
        lines.map(|line| line.split(' ').filter_map(|field| field.split_once('=')).collect()).collect()
    };
    let (checkpoint, records) = (of("checkpoint").remove(0), of("record"));
    assert_eq!((checkpoint["clean"], checkpoint["done"], checkpoint["holes"]), ("1", "0", ""));
    assert_eq!(checkpoint["next"], (expected.len() + 1).to_string());
    assert_eq!(records.len(), expected.len());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for ((record, line), (body, encoding, _)) in records.iter().zip(&dumped).zip(&expected) {
        assert_eq!((record["data"], &record["encoding"]), (hex(body).as_str(), encoding));
        assert_eq!(record["topic"], hex(line["topic"].as_str().unwrap().as_bytes()));
        assert_eq!(record["seq"], line["seq"].to_string());
        let ts = pillion::record::rfc3339(record["wall_ms"].parse().unwrap());
        assert_eq!((&line["ts"], record["quality"]), (&json!(ts), "trusted"));
    }
}

#[test]
fn a_decoder_of_the_description_alone_never_reads_a_pinned_segment_otherwise() {
    let Some(python) = python() else {
        println!("SKIPPED: there is no python3 (apt-get install python3-minimal)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (tests, mut read) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), Vec::new());
    for version in ["v1", "v2"] {
        let text = fs::read_to_string(tests.join(format!("fixtures/spool/segment-{version}.hex"))).unwrap();
        let digits = text.trim().as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let stream = dir.path().join("spool/work");
        fs::create_dir_all(&stream).unwrap();
        fs::write(stream.join("00000000000000000007.seg"), digits.map(byte).collect::<Vec<_>>()).unwrap();
        let reader = tests.join("spool_reader.py");
        let output = Command::new(&python).arg("-B").arg(reader).arg(dir.path().join("spool")).output().unwrap();
        assert!(output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stderr));
        read.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!((read[0].lines().count(), &read[0]), (2, &read[1]));
    assert!(read[0].contains(" seq=7 ") && read[0].contains(" wall_ms=1795401667123 mono_ms=77 "), "{}", read[0]);
}

#[test]
fn damage_never_goes_untold_and_never_costs_another_record() {
    let sidecar = spool_of(200, true);
    let home = &sidecar.home;
    let (state, stream) = (home.path("state"), home.path("state/spool").join(STREAM));
    let segments = home.segments(STREAM);
    assert!(segments.len() >= 4);
    let whole = spool(home, &["verify", text_of(&state)]);
    assert_eq!(code(&whole), 0, "{whole:?}");

    flip(&segments[0], 3000);
    flip(segments.last().unwrap(), 200);
    fs::remove_file(&segments[1]).unwrap();
    fs::write(stream.join("notes.txt"), "mine").unwrap();
    let before = files(&state);
    let verified = spool(home, &["verify", text_of(&state)]);
    let told = String::from_utf8(verified.stdout.clone()).unwrap();
    assert_eq!(code(&verified), 65, "{told}");
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(told.contains(&name(&segments[0])) && told.contains(&name(segments.last().unwrap())), "{told}");
    assert!(told.contains("segments are gone") && told.contains("notes.txt"), "{told}");
    assert!(told.contains("pillion spool repair"), "{told}");

    let document = spool(home, &["verify", "--json", text_of(&stream)]);
    assert_eq!(code(&document), 65);
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    let report = &document["streams"][STREAM];
    let kinds: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["kind"]).collect();
    assert_eq!(kinds, ["other-file", "damaged", "missing", "damaged"]);
    let lost = report["lost"].as_u64().unwrap();
    assert_eq!(report["waiting"].as_u64().unwrap() + lost, 200, "{report:#}");

    let dumped = spool(home, &["dump", text_of(&state)]);
    assert_eq!(code(&dumped), 65);
    assert!(String::from_utf8_lossy(&dumped.stderr).contains("are no records"));
    let left = numbers(&dumped);
    assert_eq!(left.len() as u64, 200 - lost);

    let new = home.path("new");
    let repaired = spool(home, &["repair", text_of(&state), "--to", text_of(&new)]);
    let told = String::from_utf8_lossy(&repaired.stdout);
    assert_eq!(code(&repaired), 0, "{repaired:?}");
    assert!(
        told.contains(&format!("work: saved {} records", left.len())) && told.contains(&format!("lost {lost}")),
        "{told}"
    );
    assert_eq!(files(&state), before, "the damaged one is as it was");
    let verified = spool(home, &["verify", text_of(&new)]);
    assert_eq!(code(&verified), 0, "{}", String::from_utf8_lossy(&verified.stdout));
    assert_eq!(numbers(&spool(home, &["dump", text_of(&new)])), left);

    // A sidecar takes it up as it is.
    let mut sidecar = sidecar;
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&new, &state).unwrap();
    sidecar.start_again();
    let ledger = sidecar.status()["streams"][STREAM].clone();
    assert_eq!((&ledger["waiting"], &ledger["quarantined"]), (&json!(left.len()), &json!(lost)), "{ledger}");
    assert_eq!((&ledger["accepted"], &ledger["evicted"]), (&json!(200), &json!(0)), "{ledger}");
    assert_eq!(sidecar.terminate().code(), Some(0));
}

#[test]
fn a_torn_tail_is_told_and_never_called_damage() {
    let sidecar = spool_of(100, false);
    let home = &sidecar.home;
    let stream = home.path("state/spool").join(STREAM);
    let newest = home.segments(STREAM).pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() - 5]).unwrap();
    let verified = spool(home, &["verify", text_of(&stream)]);
    let told = String::from_utf8_lossy(&verified.stdout);
    assert_eq!(code(&verified), 0, "{told}");
    assert!(told.contains("note") && told.contains("unfinished record"), "{told}");
    let dumped = spool(home, &["dump", text_of(&stream)]);
    assert_eq!((code(&dumped), numbers(&dumped)), (0, (1..=99).collect()));
    fs::remove_file(stream.join("checkpoint")).unwrap();
    assert_eq!(code(&spool(home, &["verify", text_of(&stream)])), 65);
    assert_eq!(numbers(&spool(home, &["dump", text_of(&stream)])).len(), 99);
}

#[test]
fn a_spool_that_is_in_use_is_never_touched() {
    let mut sidecar = sidecar();
    sidecar.publish("orders", "kept");
    let (state, new) = (sidecar.home.path("state"), sidecar.home.path("new"));
    let stream = state.join("spool").join(STREAM);
    for arguments in [
        &["verify", text_of(&state)][..],
        &["verify", text_of(&stream)],
        &["dump", text_of(&state)],
        &["repair", text_of(&state), "--to", text_of(&new)],
    ] {
        let refused = spool(&sidecar.home, arguments);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(code(&refused), 69, "{refused:?}");
        assert!(told.contains("in use") && told.contains("stop it first"), "{told}");
    }
    assert!(!new.exists());
    assert_eq!(sidecar.terminate().code(), Some(0));
    assert_eq!(code(&spool(&sidecar.home, &["verify", text_of(&state)])), 0);
}

#[test]
fn wrong_arguments_never_write_anything() {
    let sidecar = spool_of(1, true);
    let home = &sidecar.home;
    let (state, nothing, full) = (home.path("state"), home.path("nothing"), home.path("full"));
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "mine").unwrap();
    let inside = state.join("new");
    for arguments in [
        &[][..],
        &["verify"],
        &["verify", text_of(&nothing)],
        &["verify", text_of(&full)],
        &["dump", text_of(&full.join("file"))],
        &["repair", text_of(&state)],
        &["repair", text_of(&state), "--to", text_of(&full)],
        &["repair", text_of(&state), "--to", text_of(&full.join("file"))],
        &["repair", text_of(&state), "--to", text_of(&inside)],
    ] {
        let refused = spool(home, arguments);
        assert_eq!(code(&refused), 64, "{refused:?}");
        assert!(!refused.stderr.is_empty());
    }
    assert!(!nothing.exists() && !inside.exists());
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
}

#[test]
fn a_reader_that_goes_away_never_makes_it_fail() {
    let sidecar = spool_of(400, true);
    let state = sidecar.home.path("state");
    let mut child = sidecar.home.command(&["spool", "dump", text_of(&state)]).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.read_line(&mut line).unwrap() > 0);
    drop(out);
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((child.wait().unwrap().code(), told.as_str()), (Some(0), ""));
}
