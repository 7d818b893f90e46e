//! `POST /v1/publish`: what comes out of a record, and who is refused why.

use crate::sidecar::{MAX_PAYLOAD, NDJSON, Plan, Reply, rest_of, sidecar};
use pillion::record::{Durability, Encoding, Refusal, StreamId, Submission};
use std::io::Write;

#[test]
fn a_published_record_never_changes() {
    let (_dir, sidecar) = sidecar();
    let reply = sidecar.post("topic=room/2", "", b" {\"a\":\n1}\n");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":1,"first":1,"last":1}"#));
    let reply = sidecar.post("topic=caf%C3%A9&stream=log&sync=true", "", b"a\0b");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":1,"first":2,"last":2}"#));
    let reply = sidecar.post("topic=t", "content-type: text/plain\r\n", "grün".as_bytes());
    assert_eq!(reply.code, 200);
    let accepted = sidecar.accepted.lock().unwrap();
    let seen = |n: usize| {
        let Submission { stream, records, durability, .. } = &accepted[n];
        assert_eq!((records.len(), records[0].time.mono_ms), (1, 7));
        (*stream, records[0].topic.as_str(), records[0].encoding, records[0].data.as_slice(), *durability)
    };
    let json = b" {\"a\":\n1}\n".as_slice();
    assert_eq!(seen(0), (StreamId::TELEMETRY, "app/room/2", Encoding::Json, json, Durability::Process));
    assert_eq!(seen(1), (StreamId::LOG, "app/café", Encoding::Base64, b"a\0b".as_slice(), Durability::Power));
    assert_eq!(seen(2), (StreamId::TELEMETRY, "app/t", Encoding::Text, "grün".as_bytes(), Durability::Process));
}

#[test]
fn lines_are_never_accepted_in_part() {
    let (_dir, sidecar) = sidecar();
    let reply = sidecar.post("topic=t", NDJSON, b"{\"n\":1}\r\n\n\"two\"\n3");
    assert_eq!((reply.code, reply.body.as_str()), (200, r#"{"accepted":3,"first":1,"last":3}"#));
    assert_eq!(sidecar.accepted.lock().unwrap().len(), 1, "one submission");
    let large = "x".repeat(MAX_PAYLOAD);
    for (body, code, why) in [
        ("1\n2\noops\n4\n", 400, "line 3 is not JSON"),
        ("\n \n", 400, "no record"),
        ("", 400, "no record"),
        (&format!("1\n\"{large}\"\n"), 413, "line 2: the record would be"),
    ] {
        let reply = sidecar.post("topic=t", NDJSON, body.as_bytes());
        assert_eq!(reply.code, code, "{reply:?}");
        assert!(reply.error().contains(why), "{reply:?}");
    }
    assert_eq!(sidecar.accepted().len(), 3);
}

#[test]
fn a_bad_publish_never_gets_through() {
    let (_dir, sidecar) = sidecar();
    for (query, body, why) in [
        ("topic=t", "", "body is empty"),
        ("", "x", "topic is missing"),
        ("topic=", "x", "empty"),
        ("topic=a/%2B/b", "x", "wildcards"),
        ("topic=a%00", "x", "control character"),
        ("topic=t&stream=nope", "x", "there are event, telemetry, log"),
        ("topic=t&sync=maybe", "x", "true or false"),
    ] {
        let reply = sidecar.post(query, "", body.as_bytes());
        assert_eq!(reply.code, 400, "{query}: {reply:?}");
        assert!(reply.error().contains(why), "{query}: {reply:?}");
    }
    assert!(sidecar.accepted().is_empty());
}

#[test]
fn a_large_body_never_gets_in_nor_leaves_its_client_in_the_dark() {
    let (_dir, sidecar) = sidecar();
    // One record beyond max_payload, and one body beyond a mebibyte, both sent to their end.
    for size in [MAX_PAYLOAD, 1024 * 1024 + 1, 5 * 1024 * 1024] {
        let reply = sidecar.post("topic=t", "", &vec![b'x'; size]);
        assert_eq!(reply.code, 413, "{reply:?}");
        assert!(reply.error().contains("max_payload"), "{reply:?}");
    }
    // Chunks without an announced end.
    let mut stream = sidecar.connect();
    stream.write_all(b"POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 20 * 1024 * 1024 && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 10 * 1024 * 1024, "it read {sent} bytes and more");
    assert_eq!(Reply::of(&rest_of(stream)).code, 413);
    // Announced only: nobody waits for a body that will be refused.
    let huge = "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    assert_eq!(Reply::of(&sidecar.send(huge.as_bytes())).code, 413);
    let asks =
        "POST /v1/publish?topic=t HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2000000\r\n\r\n";
    assert_eq!(Reply::of(&sidecar.send(asks.as_bytes())).code, 413);
    assert!(sidecar.accepted().is_empty());
    assert_eq!(sidecar.post("topic=t", "", b"x").code, 200);
}

#[test]
fn a_refusal_never_looks_like_success() {
    let (_dir, sidecar) = sidecar();
    for (plan, code, why) in [
        (Plan::Refuse(Refusal::Full), 429, "full"),
        (Plan::Refuse(Refusal::NotDurable("No space left".into())), 507, "No space left"),
        (Plan::Refuse(Refusal::Stopping), 503, "stopping"),
        (Plan::Drop, 503, "stopping"),
    ] {
        sidecar.plan(plan);
        let reply = sidecar.post("topic=t", "", b"x");
        assert_eq!(reply.code, code, "{reply:?}");
        assert!(reply.error().contains(why), "{reply:?}");
        assert_eq!(reply.head.contains("retry-after: "), code != 507, "{reply:?}");
    }
    assert_eq!(sidecar.post("topic=t", "", b"x").code, 503, "the flow has ended");
    assert_eq!(sidecar.get("/v1/health").code, 200, "the other one has not");
}

#[test]
fn a_stuck_flow_never_keeps_a_client_for_ever() {
    let (_dir, sidecar) = sidecar();
    sidecar.plan(Plan::Keep);
    let reply = sidecar.post("topic=t", "", b"x");
    assert_eq!(reply.code, 503);
    assert!(reply.error().contains("may have been kept or not"), "{reply:?}");
}
