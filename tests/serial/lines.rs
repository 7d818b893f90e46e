//! Lines on their way to records: none lost, none changed, none in the way of another.

use crate::rig::{Bridge, DEADLINE, Pty, config, data, link_in};
use pillion::config::{Framing, MAX_FRAME, Serial};
use pillion::host;
use pillion::record::{Durability, Encoding, StreamId};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

#[tokio::test]
async fn a_line_is_never_lost_or_changed_on_its_way_to_a_record() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    bridge.online().await;

    let before = host::now();
    pty.say(b"22.5\r\nhello\n");
    let first = bridge.submission().await;
    assert_eq!((first.stream, first.durability), (StreamId::TELEMETRY, Durability::Window));
    assert!(first.reply.is_none());
    assert!(first.records.iter().all(|record| record.topic == "device/meter/data"));
    assert!(first.records.iter().all(|record| record.time.mono_ms >= before.mono_ms));
    let mut records = first.records;
    if records.len() < 2 {
        records.extend(bridge.take(1).await);
    }
    assert_eq!(data(&records), [&b"22.5"[..], b"hello"]);
    assert_eq!((records[0].encoding, records[1].encoding), (Encoding::Json, Encoding::Text));

    let numbers: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    let wire = numbers.join("\n") + "\n";
    let writer = std::thread::spawn(move || {
        pty.say(wire.as_bytes());
        pty
    });
    let mut seen = Vec::new();
    while seen.len() < numbers.len() {
        let records = bridge.submission().await.records;
        assert!((1..=256).contains(&records.len()));
        seen.extend(records);
    }
    assert_eq!(data(&seen), numbers.iter().map(|n| n.as_bytes()).collect::<Vec<_>>());
    let status = bridge.counted(|status| status.frames == 5002).await;
    assert_eq!((status.opens, status.oversize, status.empty, status.not_text), (1, 0, 0, 0));
    let _pty = writer.join().unwrap();
    bridge.stop().await;
}

#[tokio::test]
async fn bad_input_never_disturbs_the_lines_around_it() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let config = Serial { framing: Framing::lines(16), ..config(&link_in(&dir)) };
    let mut bridge = Bridge::start(config, 8);
    bridge.online().await;
    pty.say(b"before\n\n\r\nthis line is much too long\r\nexactly 16 bytes\r\nnul \0\n\xff\xfe\n\x04\x03\x11\nafter\n");
    let records = bridge.take(6).await;
    let expected = [&b"before"[..], b"exactly 16 bytes", b"nul \0", b"\xff\xfe", b"\x04\x03\x11", b"after"];
    assert_eq!(data(&records), expected);
    let base64 = records.iter().filter(|record| record.encoding == Encoding::Base64).count();
    let status = bridge.counted(|status| status.frames == 6).await;
    assert_eq!((base64, status.not_text), (2, 2));
    assert_eq!((status.oversize, status.empty, status.incomplete), (1, 2, 0));
    bridge.stop().await;
}

#[tokio::test]
async fn the_longest_frame_never_fails_to_arrive() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let config = Serial { framing: Framing::lines(MAX_FRAME), ..config(&link_in(&dir)) };
    let mut bridge = Bridge::start(config, 8);
    bridge.online().await;
    let line = vec![b'x'; MAX_FRAME];
    let wire = [line.as_slice(), b"\r\n", &line, b"x\r\n", &line, b"\n"].concat();
    let writer = std::thread::spawn(move || {
        pty.say(&wire);
        pty
    });
    assert_eq!(data(&bridge.take(2).await), [&line[..], &line]);
    assert_eq!(bridge.counted(|status| status.frames == 2).await.oversize, 1);
    let _pty = writer.join().unwrap();
    bridge.stop().await;
}

#[tokio::test]
async fn a_full_channel_never_costs_a_line() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(config(&link_in(&dir)), 1);
    bridge.online().await;
    let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
    let wire = lines.join("\n") + "\n";
    let length = wire.len() as u64;
    let writer = std::thread::spawn(move || {
        pty.say(wire.as_bytes());
        pty
    });
    // Nobody takes records: reading stops when the channel is full, which shows in the pulse.
    bridge.counted(|status| status.bytes > 0).await;
    let stuck = async {
        while bridge.heart.stuck().is_empty() {
            bridge.heart.ask();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, stuck).await.expect("blocked in time");
    assert!(bridge.status.borrow().bytes < length, "the rest waits in the kernel");
    let records = bridge.take(lines.len()).await;
    assert_eq!(data(&records), lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>());
    let _pty = writer.join().unwrap();
    bridge.stop().await;
}
