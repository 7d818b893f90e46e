//! The serial source against real pseudo terminals: what arrives, what happens when the device goes, and what is said
//! about it.

// clippy.toml exempts test functions; this exempts what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use pillion::config::{
    Crc, DataBits, Delimiter, Endian, Flow, Framing, FramingKind, LengthBytes, Line, MAX_FRAME, Parity, Serial,
    StopBits,
};
use pillion::device::{Wiring, serial};
use pillion::frame::encode;
use pillion::host;
use pillion::pulse::Heart;
use pillion::record::{Durability, Encoding, PayloadRule, Record, StreamId, Submission};
use pillion::stats::{DeviceState, DeviceStatus};
use serialport::{SerialPort, TTYPort};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Long enough for a loaded machine; nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_secs(20);

/// A device on a pseudo terminal. Dropping it is pulling the plug.
struct Pty {
    master: TTYPort,
    slave: TTYPort,
    link: PathBuf,
}

impl Drop for Pty {
    /// The name goes first: the kernel may give the terminal's number to another test at once.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.link);
    }
}

impl Pty {
    fn plug_in(link: &Path) -> Self {
        let (mut master, slave) = TTYPort::pair().unwrap();
        master.set_timeout(DEADLINE).unwrap();
        symlink(slave.name().unwrap(), link).unwrap();
        Pty { master, slave, link: link.to_owned() }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }
}

/// The task of one device, with this test at the other ends of its wiring.
struct Bridge {
    records: mpsc::Receiver<Submission>,
    status: watch::Receiver<DeviceStatus>,
    stop: watch::Sender<bool>,
    heart: Heart,
    task: JoinHandle<()>,
}

impl Bridge {
    fn start(config: Serial, room: usize) -> Self {
        let (submissions, records) = mpsc::channel(room);
        let (status_in, status) = watch::channel(DeviceStatus::closed("serial", 0));
        let (stop, stop_out) = watch::channel(false);
        let heart = Heart::default();
        let pulse = heart.pulse("serial meter");
        let (_, orders) = mpsc::channel(1);
        let (_, traces) = mpsc::channel(1);
        let wiring = Wiring { orders, traces, submissions, status: status_in, clock: host::now, pulse, stop: stop_out };
        let task = tokio::spawn(serial::run(config, wiring));
        Bridge { records, status, stop, heart, task }
    }

    async fn online(&mut self) -> DeviceStatus {
        let online = self.status.wait_for(|status| status.state == DeviceState::Online);
        timeout(DEADLINE, online).await.expect("online in time").unwrap().clone()
    }

    async fn offline(&mut self, why: &str) -> DeviceStatus {
        let is_why = |status: &DeviceStatus| {
            status.state == DeviceState::Offline && status.reason.as_ref().is_some_and(|reason| reason.contains(why))
        };
        let status = timeout(DEADLINE, self.status.wait_for(is_why)).await.map(|status| status.unwrap().clone());
        status.unwrap_or_else(|_| panic!("never offline because {why:?}: {:?}", self.status.borrow().clone()))
    }

    /// Counters wake nobody, so they are looked at until they are as expected.
    async fn counted(&self, expected: impl Fn(&DeviceStatus) -> bool) -> DeviceStatus {
        let look = async {
            while !expected(&self.status.borrow()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.status.borrow().clone()
        };
        timeout(DEADLINE, look).await.unwrap_or_else(|_| panic!("counted: {:?}", self.status.borrow().clone()))
    }

    async fn submission(&mut self) -> Submission {
        timeout(DEADLINE, self.records.recv()).await.expect("a record in time").expect("the task runs")
    }

    async fn take(&mut self, count: usize) -> Vec<Record> {
        let mut records = Vec::new();
        while records.len() < count {
            records.extend(self.submission().await.records);
        }
        assert_eq!(records.len(), count);
        records
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        timeout(DEADLINE, self.task).await.expect("ends in time").unwrap();
    }
}

fn link_in(dir: &TempDir) -> PathBuf {
    dir.path().join("usb-meter-if00")
}

fn config(path: &Path) -> Serial {
    Serial {
        name: "meter".into(),
        line: Line::at(path),
        framing: Framing::lines(1024),
        payload: PayloadRule::Auto,
        commands: None,
    }
}

fn data(records: &[Record]) -> Vec<&[u8]> {
    records.iter().map(|record| record.data.as_slice()).collect()
}

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
async fn a_device_that_is_absent_at_start_is_never_given_up() {
    let dir = TempDir::new().unwrap();
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    let status = bridge.offline("is not there; waiting").await;
    assert_eq!((status.opens, status.kind.as_str()), (0, "serial"));

    let mut pty = Pty::plug_in(&link_in(&dir));
    let status = bridge.online().await;
    assert_eq!((status.opens, status.reason), (1, None));
    pty.say(b"here\n");
    assert_eq!(data(&bridge.take(1).await), [b"here"]);
    bridge.stop().await;
}

#[tokio::test]
async fn a_device_that_comes_back_is_never_left_alone() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    bridge.online().await;
    for round in 0..3_u64 {
        let line = format!("round {round}");
        pty.say(format!("{line}\ncut of").as_bytes());
        assert_eq!(data(&bridge.take(1).await), [line.as_bytes()]);
        bridge.counted(|status| status.bytes == (round + 1) * 14).await;
        drop(pty);
        // The reason may be "not there" by the time we look: the name is gone with the plug.
        let status = bridge.offline("waiting").await;
        assert_eq!((status.frames, status.incomplete), (round + 1, round + 1));
        pty = Pty::plug_in(&link_in(&dir));
        assert_eq!(bridge.online().await.opens, round + 2, "one open for each return, no more");
    }
    pty.say(b"whole\n");
    assert_eq!(data(&bridge.take(1).await), [b"whole"], "the line that was cut off is not stuck to it");
    bridge.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_plug_that_comes_and_goes_never_spins_the_cpu_nor_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    bridge.online().await;
    for _ in 0..7 {
        drop(pty);
        bridge.offline("hung up").await;
        pty = Pty::plug_in(&link_in(&dir));
        let since = Instant::now();
        bridge.online().await;
        let waited = since.elapsed().as_millis();
        assert!((125..=310).contains(&waited), "{waited} ms");
    }
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

#[tokio::test]
async fn a_busy_port_is_never_reported_as_missing() {
    let dir = TempDir::new().unwrap();
    let pty = Pty::plug_in(&link_in(&dir));
    let path = pty.slave.name().unwrap();
    let other = serialport::new(&path, 9600).open_native().unwrap();
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    assert_eq!(bridge.offline("another process").await.opens, 0);
    drop(other);
    bridge.online().await;

    // And the other way round: it is ours now, until the task ends.
    let refused = serialport::new(&path, 9600).open_native().unwrap_err();
    assert_eq!(refused.kind(), serialport::ErrorKind::NoDevice, "{refused}");
    bridge.stop().await;
    serialport::new(&path, 9600).open_native().expect("the port was let go");
}

#[tokio::test]
async fn a_forbidden_port_is_never_reported_as_missing() {
    let dir = TempDir::new().unwrap();
    let _pty = Pty::plug_in(&link_in(&dir));
    std::fs::set_permissions(link_in(&dir), Permissions::from_mode(0o000)).unwrap();
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    timeout(DEADLINE, bridge.status.changed()).await.expect("opened or not in time").unwrap();
    // Root may open anything, and is online then.
    let status = bridge.status.borrow().clone();
    assert!(status.reason.is_none_or(|reason| reason.contains("no permission")));
    bridge.stop().await;
}

#[tokio::test]
async fn a_path_that_is_no_serial_port_never_hangs_the_task() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "data\n").unwrap();
    for path in [file.as_path(), dir.path(), Path::new("/dev/null")] {
        let mut bridge = Bridge::start(config(path), 8);
        bridge.offline("is not a serial port").await;
        bridge.stop().await;
    }
}

#[tokio::test]
async fn settings_are_never_ignored() {
    let dir = TempDir::new().unwrap();
    let pty = Pty::plug_in(&link_in(&dir));
    let line = Line {
        baud: 12_345,
        data_bits: DataBits::Seven,
        parity: Parity::Even,
        stop_bits: StopBits::Two,
        flow: Flow::Hardware,
        ..Line::at(link_in(&dir))
    };
    let odd = Serial { line, ..config(&link_in(&dir)) };
    let mut bridge = Bridge::start(odd, 8);
    bridge.online().await;
    // Data bits and parity exist on a wire only.
    assert_eq!(pty.slave.baud_rate().unwrap(), 12_345);
    assert_eq!(pty.slave.stop_bits().unwrap(), serialport::StopBits::Two);
    assert_eq!(pty.slave.flow_control().unwrap(), serialport::FlowControl::Hardware);
    bridge.stop().await;
}

#[tokio::test]
async fn a_stop_is_never_overlooked() {
    let dir = TempDir::new().unwrap();
    // In Backoff,
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    bridge.offline("is not there").await;
    bridge.stop().await;
    // in Open, idle in the middle of a line,
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    bridge.online().await;
    pty.say(b"whole\npart");
    bridge.counted(|status| status.bytes == 10).await;
    let (status, mut records) = (bridge.status.clone(), std::mem::replace(&mut bridge.records, mpsc::channel(1).1));
    bridge.stop().await;
    assert_eq!(data(&records.recv().await.unwrap().records), [b"whole"]);
    assert_eq!((status.borrow().state, status.borrow().incomplete), (DeviceState::Offline, 1));
    // and when whoever could stop it is gone.
    let bridge = Bridge::start(config(&link_in(&dir)), 8);
    drop(bridge.stop);
    timeout(DEADLINE, bridge.task).await.expect("ends in time").unwrap();
}

#[tokio::test]
async fn an_idle_device_never_looks_stuck() {
    let dir = TempDir::new().unwrap();
    let _pty = Pty::plug_in(&link_in(&dir));
    let absent = dir.path().join("absent");
    for path in [link_in(&dir), absent] {
        let mut bridge = Bridge::start(config(&path), 8);
        timeout(DEADLINE, bridge.status.changed()).await.expect("opened or not in time").unwrap();
        bridge.heart.ask();
        let answered = async {
            while !bridge.heart.stuck().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, answered).await.expect("answers in time");
        bridge.stop().await;
    }
}

#[tokio::test]
async fn data_never_wakes_those_who_wait_for_a_change_of_state() {
    let dir = TempDir::new().unwrap();
    let mut pty = Pty::plug_in(&link_in(&dir));
    let mut bridge = Bridge::start(config(&link_in(&dir)), 8);
    bridge.online().await;
    for _ in 0..10 {
        pty.say(b"22.5\n");
        bridge.take(1).await;
    }
    bridge.counted(|status| status.frames == 10).await;
    assert!(!bridge.status.has_changed().unwrap());
    drop(pty);
    bridge.offline("waiting").await;
    bridge.stop().await;
}
