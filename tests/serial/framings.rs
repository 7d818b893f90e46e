//! The other framings over a real port.

use crate::rig::{Bridge, Pty, config, data, link_in};
use pillion::config::{Crc, Delimiter, Endian, Framing, FramingKind, LengthBytes, MAX_FRAME, Serial};
use pillion::frame::encode;
use pillion::stats::DeviceStatus;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;

/// A framing, and bytes on its wire that are no frame and are noticed as such even without a CRC.
fn framings() -> Vec<(FramingKind, &'static [u8])> {
    let idle = Some(Duration::from_millis(50));
    let (length_bytes, endian) = (LengthBytes::Two, Endian::Little);
    vec![
        (FramingKind::Lines { delimiter: Delimiter::line_feed() }, b"much too long for a line of this device\r\n"),
        (
            FramingKind::Lines { delimiter: Delimiter::new(b";\x03").unwrap() },
            b"much too long for a line of this device;\x03",
        ),
        (FramingKind::Cobs, b"\x09abc\0"),
        (FramingKind::Slip, b"\xC0abc\xDBdef\xC0"),
        (FramingKind::LengthPrefixed { length_bytes, endian, includes_header: true, idle }, b"\x01\0"),
        (FramingKind::LengthPrefixed { length_bytes, endian, includes_header: false, idle }, b"\x0A\0cut off"),
        (FramingKind::Fixed { size: 20, idle }, b"cut off"),
        (FramingKind::IdleGap { gap: Duration::from_millis(20) }, b"much too long for a frame of this device"),
    ]
}

/// Frames that were counted and not given out.
fn refused(status: &DeviceStatus) -> u64 {
    status.oversize + status.empty + status.incomplete + status.damaged
}

#[tokio::test]
async fn no_framing_ever_loses_a_good_frame_invents_one_or_passes_a_bad_one_over() {
    let dir = TempDir::new().unwrap();
    for crc in [None, Some(Crc::Crc16Modbus), Some(Crc::Crc16Ccitt), Some(Crc::Crc32)] {
        for (mut kind, noise) in framings() {
            if let FramingKind::Fixed { size, .. } = &mut kind {
                *size += crc.map_or(0, Crc::bytes);
            }
            let framing = Framing { kind, max: 20, crc };
            let mut pty = Pty::plug_in(&link_in(&dir));
            let mut bridge = Bridge::start(Serial { framing: framing.clone(), ..config(&link_in(&dir)) }, 8);
            bridge.online().await;
            let mut bad = 0;
            for round in 1..=3 {
                let payload = format!("20 bytes of payload{round}");
                let mut wire = Vec::new();
                encode(&framing, payload.as_bytes(), &mut wire).unwrap();
                let mut damaged = wire.clone();
                damaged[wire.len() / 2] ^= 1;
                // One at a time: only so does idle-gap know them apart, and each bad one stands between good ones.
                for bytes in [Some(noise), crc.map(|_| damaged.as_slice())].into_iter().flatten() {
                    pty.say(bytes);
                    bad += 1;
                    bridge.counted(|status| refused(status) == bad).await;
                    if let FramingKind::IdleGap { gap } = framing.kind {
                        // What is too long is counted before it ends. The device pauses, as it has to.
                        tokio::time::sleep(3 * gap).await;
                    }
                    pty.say(&wire);
                    assert_eq!(data(&bridge.take(1).await), [payload.as_bytes()], "{framing:?}");
                }
            }
            let status = bridge.status.borrow().clone();
            assert_eq!((status.frames, refused(&status)), (bad, bad), "{framing:?}: {status:?}");
            assert!(bridge.records.try_recv().is_err(), "{framing:?}");
            bridge.stop().await;
        }
    }
}

#[tokio::test]
async fn a_frame_that_takes_many_reads_is_never_cut_between_them() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    // Longer than any wait for our turn on this machine.
    let kind = FramingKind::IdleGap { gap: Duration::from_secs(1) };
    let framing = Framing { kind, max: MAX_FRAME, crc: Some(Crc::Crc32) };
    let mut bridge = Bridge::start(Serial { framing: framing.clone(), ..config(&link_in(&dir)) }, 8);
    bridge.online().await;
    let payload = vec![b'x'; MAX_FRAME];
    let mut wire = Vec::new();
    encode(&framing, &payload, &mut wire).unwrap();
    for part in wire.chunks(1000) {
        let bytes = bridge.status.borrow().bytes;
        pty.say(part);
        bridge.counted(|status| status.bytes > bytes).await;
    }
    assert_eq!(data(&bridge.take(1).await), [payload]);
    assert_eq!(refused(&bridge.status.borrow()), 0);
    bridge.stop().await;
}

#[tokio::test]
async fn good_frames_behind_a_wrong_length_are_never_lost_with_the_device() {
    let dir = TempDir::new().unwrap();
    let (length_bytes, endian) = (LengthBytes::One, Endian::Big);
    let kind = FramingKind::LengthPrefixed { length_bytes, endian, includes_header: false, idle: None };
    let framing = Framing { kind, max: 200, crc: Some(Crc::Crc32) };
    let mut wire = vec![200];
    encode(&framing, b"good", &mut wire).unwrap();
    let bytes = wire.len() as u64;
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(Serial { framing, ..config(&link_in(&dir)) }, 8);
    // When it vanishes,
    bridge.online().await;
    pty.say(&wire);
    bridge.counted(|status| status.bytes == bytes).await;
    assert_eq!(bridge.status.borrow().frames, 0, "it waits for 200 bytes");
    drop(pty);
    assert_eq!(data(&bridge.take(1).await), [b"good"]);
    let status = bridge.offline("waiting").await;
    assert_eq!((status.frames, status.incomplete, status.resyncs), (1, 1, 1));
    // and when the task is stopped.
    let mut pty = Pty::plug_in(&link_in(&dir));
    bridge.online().await;
    pty.say(&wire);
    bridge.counted(|status| status.bytes == 2 * bytes).await;
    let mut records = std::mem::replace(&mut bridge.records, mpsc::channel(1).1);
    bridge.stop().await;
    assert_eq!(data(&records.recv().await.unwrap().records), [b"good"]);
}
