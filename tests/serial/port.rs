//! The port: absent, coming and going, busy, forbidden, no port at all; its settings; the end.

use crate::rig::{Bridge, DEADLINE, Pty, config, data, link_in};
use pillion::config::{DataBits, Flow, Line, Parity, Serial, StopBits};
use pillion::stats::DeviceState;
use serialport::SerialPort;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

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
