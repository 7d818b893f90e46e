//! `POST /v1/publish` with more lines than fit into memory, or into the present.

use crate::sidecar::{DEADLINE, NDJSON, Plan, Reply, rest_of, sidecar, until};
use pillion::record::{Accepted, Durability, Refusal};
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

/// A chunk of a chunked body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The head of an upload in chunks; the last chunk is `0\r\n\r\n`.
const UPLOAD: &[u8] = b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
    content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";

fn numbers(upto: usize) -> String {
    (1..=upto).map(|n| format!("{n}\n")).collect()
}

#[test]
fn a_body_of_lines_never_needs_to_fit() {
    let (_dir, sidecar) = sidecar();
    let numbers = numbers(250_000);
    let lengthy = sidecar.post("topic=t&sync=true", NDJSON, numbers.as_bytes());
    assert_eq!((lengthy.code, lengthy.body.as_str()), (200, r#"{"accepted":250000,"first":1,"last":250000}"#));
    // Without an announced end, cut anywhere, and the last line without its end.
    let pieces = numbers.trim_end().as_bytes().chunks(70_001).flat_map(chunk).collect::<Vec<u8>>();
    let chunked = Reply::of(&sidecar.send(&[UPLOAD, &pieces, b"0\r\n\r\n"].concat()));
    assert_eq!((chunked.code, chunked.body.as_str()), (200, r#"{"accepted":250000,"first":250001,"last":500000}"#));
    // Few bytes and many records.
    let many = sidecar.post("topic=t", NDJSON, "1\n".repeat(10_001).as_bytes());
    assert_eq!((many.code, many.body.as_str()), (200, r#"{"accepted":10001,"first":500001,"last":510001}"#));
    let accepted = sidecar.accepted();
    let right = |(n, (_, data)): (usize, &(String, String))| data.parse() == Ok(n % 250_000 + 1);
    assert!(accepted[..500_000].iter().enumerate().all(right));
    let mut seen = 0;
    for submission in sidecar.accepted.lock().unwrap().iter() {
        let bytes: usize = submission.records.iter().map(|record| record.data.len()).sum();
        assert!(submission.records.len() <= 1000 && bytes < 65 * 1024);
        let durability = if seen < 250_000 { Durability::Power } else { Durability::Process };
        assert_eq!(submission.durability, durability);
        seen += submission.records.len();
    }
}

#[test]
fn a_wrong_line_never_costs_what_stood_before_it() {
    let (_dir, sidecar) = sidecar();
    let mut lines = numbers(15_000) + "oops\n";
    lines += &numbers(900_000);
    let reply = sidecar.post("topic=t", NDJSON, lines.as_bytes());
    assert_eq!(reply.code, 400, "{reply:?}");
    let told: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((&told["accepted"], &told["first"], &told["last"]), (&15_000.into(), &1.into(), &15_000.into()));
    let error = told["error"].as_str().unwrap();
    assert!(error.contains("line 15001 is not JSON") && error.ends_with("15000 records were accepted before that"));
    assert_eq!(sidecar.accepted().len(), 15_000);
    // A line without an end.
    let reply = sidecar.post("topic=t", NDJSON, &vec![b' '; 2 * 1024 * 1024]);
    assert_eq!(reply.code, 413, "{reply:?}");
    assert!(reply.body.contains("line 1 is longer than 4096 bytes") && reply.body.contains(r#","accepted":0}"#));
}

#[test]
fn a_refusal_in_the_middle_never_leaves_a_hole() {
    for (refusal, code) in [(Refusal::Full, 429), (Refusal::NotDurable("No space left".into()), 507)] {
        let (_dir, sidecar) = sidecar();
        // A submission of its own for the first lines, which waits for the test.
        let (to, from) = mpsc::channel();
        sidecar.plan(Plan::Hand(to));
        sidecar.plan(Plan::Refuse(refusal));
        let body = numbers(300_000);
        std::thread::scope(|scope| {
            let reply = scope.spawn(|| sidecar.post("topic=t", NDJSON, body.as_bytes()));
            let first = from.recv_timeout(DEADLINE).unwrap();
            let count = u64::try_from(first.records.len()).unwrap();
            first.reply.unwrap().send(Ok(Accepted { first: 7, last: 6 + count })).unwrap();
            let reply = reply.join().unwrap();
            assert_eq!(reply.code, code, "{reply:?}");
            assert!(reply.body.ends_with(&format!(r#","accepted":{count},"first":7,"last":{}}}"#, 6 + count)));
        });
        assert!(sidecar.accepted().is_empty(), "something behind the refused ones was taken");
    }
}

#[test]
fn a_live_line_never_waits_for_the_end_of_its_body() {
    let (_dir, mut sidecar) = sidecar();
    let mut stream = sidecar.connect();
    stream.write_all(UPLOAD).unwrap();
    for n in 1..=3 {
        stream.write_all(&chunk(format!("{n}\n").as_bytes())).unwrap();
        until("the line is accepted", || sidecar.accepted().len() == n);
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let reply = Reply::of(&rest_of(stream));
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":3,"first":1,"last":3}"#));
    // Whoever leaves in the middle of a line, or is told to.
    let mut leaves = sidecar.connect();
    leaves.write_all(&[UPLOAD, &chunk(b"4\n5")].concat()).unwrap();
    until("the line is accepted", || sidecar.accepted().len() == 4);
    drop(leaves);
    let mut stays = sidecar.connect();
    stays.write_all(&[UPLOAD, &chunk(b"5\n6")].concat()).unwrap();
    until("the line is accepted", || sidecar.accepted().len() == 5);
    sidecar.stop.send_replace(true);
    let reply = Reply::of(&rest_of(stays));
    assert_eq!(reply.code, 503, "{reply:?}");
    assert!(reply.body.ends_with(r#","accepted":1,"first":5,"last":5}"#), "{reply:?}");
    sidecar.stop();
    assert_eq!(sidecar.accepted().len(), 5, "half a line was taken");
}

#[test]
fn a_slow_spool_never_makes_us_hold_a_long_body() {
    let (_dir, sidecar) = sidecar();
    let (to, from) = mpsc::channel();
    sidecar.plan(Plan::Hand(to));
    let mut stream = sidecar.connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(UPLOAD).unwrap();
    let piece = chunk(numbers(1000).as_bytes());
    let mut sent = 0;
    while sent < 64 * 1024 * 1024 && stream.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    // What a body may have before it counts as long, one submission, and what the kernel holds.
    assert!(sent < 3 * 1024 * 1024, "it took {sent} bytes, and the spool nothing");
    drop(from.recv_timeout(DEADLINE).unwrap());
}

#[test]
fn a_client_that_asks_first_is_never_led_astray() {
    let (_dir, sidecar) = sidecar();
    let head = |query: &str, length: usize| {
        format!(
            "POST /v1/publish?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n{NDJSON}\r\n"
        )
    };
    let reply = sidecar.send(head("topic=a%23", 3_000_000).as_bytes());
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    let body = numbers(300_000);
    let mut stream = sidecar.connect();
    stream.write_all(head("topic=a", body.len()).as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).unwrap();
    assert!(rest_of(stream).ends_with("{\"accepted\":300000,\"first\":1,\"last\":300000}\n"));
}

#[test]
fn large_bodies_never_starve_each_other() {
    let (_dir, sidecar) = sidecar();
    let body = format!("\"{}\"\n", "x".repeat(3900)).repeat(200);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(sidecar.post("topic=t", NDJSON, body.as_bytes()).code, 200));
        }
    });
    assert_eq!(sidecar.accepted().len(), 4000);
}

#[test]
fn an_upload_that_goes_on_never_keeps_the_place_of_a_large_body() {
    let (_dir, sidecar) = sidecar();
    let begun = [UPLOAD, &chunk(numbers(20_000).as_bytes())].concat();
    let _going_on = [(); 2].map(|()| {
        let mut stream = sidecar.connect();
        stream.write_all(&begun).unwrap();
        stream
    });
    until("how they begin is accepted", || sidecar.accepted().len() == 40_000);
    let large = sidecar.post("topic=t", NDJSON, numbers(20_000).as_bytes());
    assert_eq!(large.code, 200, "{large:?}");
}

#[test]
fn the_records_of_two_large_bodies_are_never_held_at_once() {
    let (_dir, sidecar) = sidecar();
    let body = format!("\"{}\"\n", "x".repeat(3900)).repeat(200);
    let (to, from) = mpsc::channel();
    sidecar.plan(Plan::Hand(to));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| sidecar.post("topic=t", NDJSON, body.as_bytes()));
        let held = from.recv_timeout(DEADLINE).unwrap();
        let mut second = sidecar.connect();
        let length = body.len();
        let head = format!(
            "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{NDJSON}content-length: {length}\r\n\r\n"
        );
        second.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        assert_eq!(sidecar.post("topic=t", NDJSON, b"1\n").code, 200, "a small one needs no turn");
        assert_eq!(sidecar.accepted().len(), 1);
        held.reply.unwrap().send(Ok(Accepted { first: 1, last: 200 })).unwrap();
        assert_eq!((first.join().unwrap().code, Reply::of(&rest_of(second)).code), (200, 200));
        assert_eq!(sidecar.accepted().len(), 201);
    });
}
