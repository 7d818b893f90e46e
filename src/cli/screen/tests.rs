//! Looks at whole screens, word by word, and at what they must never do to a terminal.

use super::*;
use crate::stats::{
    ApiStatus, AppState, AppStatus, AppUsage, ClockSync, CommandsStatus, DeviceState, DeviceStatus, DiskSpace,
    FlashWear, Health, HeartbeatState, HostStatus, Hundredths, InboxStatus, Interface, LastExit, LinkState, LinkStatus,
    Load, Memory, Outcomes, Power, ServerState, ServerStatus, StreamStatus, Temperature,
};
use std::collections::BTreeMap;

const NOW_MS: u64 = 1_800_000_000_000;
const PLAIN: Style = Style { width: 80, colour: false };

fn healthy() -> Status {
    let telemetry = StreamStatus {
        accepted: 1_234_567,
        delivered: 1_234_000,
        waiting: 567,
        bytes: 1_300_000,
        oldest_s: Some(12),
        ..StreamStatus::default()
    };
    let event = StreamStatus { accepted: 1012, delivered: 1012, bytes: 65_536, ..StreamStatus::default() };
    let meter = DeviceStatus {
        state: DeviceState::Online,
        reason: None,
        opens: 1,
        bytes: 12_345_678,
        frames: 123_456,
        ..DeviceStatus::closed("serial", NOW_MS - 7_500_000)
    };
    Status {
        version: "0.1.0".into(),
        instance: "gateway".into(),
        uptime_s: 273_600,
        health: Health { state: HealthState::Healthy, reasons: vec![] },
        configuration: None,
        link: LinkStatus {
            state: LinkState::Connected,
            server: Some("mqtt://broker.example:1883".into()),
            since_ms: NOW_MS - 200_000_000,
            connects: 1,
            in_flight: 12,
            acknowledged: 1_235_012,
            repeated: 3,
            ..LinkStatus::default()
        },
        streams: BTreeMap::from([
            ("telemetry".into(), telemetry),
            ("event".into(), event),
            ("log".into(), StreamStatus::default()),
        ]),
        devices: BTreeMap::from([("meter".into(), meter)]),
        commands: None,
        inbox: None,
        config: None,
        api: None,
        app: Some(AppStatus {
            unit: Some("gateway.service".into()),
            state: AppState::Running,
            pid: Some(812),
            since_ms: NOW_MS - 200_000_000,
            usage: AppUsage {
                cpu_ns: Some(93_000_000_000),
                memory_bytes: Some(24_400_000),
                memory_limit: Some(1 << 27),
                tasks: Some(5),
                ..AppUsage::default()
            },
            ..AppStatus::default()
        }),
        logs: None,
        host: HostStatus {
            name: "cm4".into(),
            boot_id: "1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809".into(),
            rss_bytes: 4_404_019,
            ..HostStatus::default()
        },
    }
}

fn degraded() -> Status {
    let mut status = healthy();
    status.uptime_s = 59;
    status.health = Health {
        state: HealthState::Degraded,
        reasons: vec![
            "no connection to mqtt://broker.example:1883: connection refused; is the broker running, and may this \
                 host reach it?"
                .into(),
            "device a-name-of-a-device-of-32-letters: no such file".into(),
        ],
    };
    status.link = LinkStatus {
        server: Some("mqtt://broker.example:1883".into()),
        reason: Some("connection refused; is the broker running, and may this host reach it?".into()),
        since_ms: NOW_MS + 5_000,
        connects: 2,
        ack_timeouts: 1,
        unsolicited_acks: 2,
        ..LinkStatus::default()
    };
    let log = status.streams.get_mut("log").unwrap();
    (log.accepted, log.evicted, log.expired, log.quarantined, log.refused) = (20, 10, 5, 5, 3);
    log.disk_error = Some("No space left on device (os error 28); free some, writing goes on by itself".into());
    status.devices.clear();
    let mut gone = DeviceStatus::closed("serial", 0);
    gone.reason = Some("/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K3C8J-if00-port0: No such file".into());
    (gone.frames, gone.oversize, gone.incomplete, gone.not_text) = (2345, 1, 2, 4);
    status.devices.insert("a-name-of-a-device-of-32-letters".into(), gone);
    status.app = None;
    status
}

#[test]
fn a_healthy_screen_never_changes_by_accident() {
    let expected = "\
gateway   pillion 0.1.0   up 3d 4h                                       healthy

link      connected to mqtt://broker.example:1883 for 2d 7h
          12 in flight, 1,235,012 acknowledged, 3 repeated, 1 connect

stream        accepted   delivered   waiting     lost  refused   on disk  oldest
event            1,012       1,012         0        0        0  64.0 KiB       -
log                  0           0         0        0        0       0 B       -
telemetry    1,234,567   1,234,000       567        0        0   1.2 MiB     12s

device       state      for        frames   received   opens   skipped  not text
meter       online    2h 5m       123,456   11.7 MiB       1         0         0

app       gateway.service runs for 2d 7h, pid 812
          23.2 MiB of 128 MiB memory, 1m 33s of processor time, 5 tasks
host      cm4, boot 1a2b3c4d, pillion uses 4.1 MiB
";
    assert_eq!(render(&healthy(), PLAIN, NOW_MS), expected);
}

#[test]
fn a_degraded_screen_never_hides_a_loss_or_a_reason() {
    let expected = "\
gateway   pillion 0.1.0   up 59s                                        DEGRADED
  ! no connection to mqtt://broker.example:1883: connection refused; is the
    broker running, and may this host reach it?
  ! device a-name-of-a-device-of-32-letters: no such file

link      disconnected from mqtt://broker.example:1883 for 0s
          connection refused; is the broker running, and may this host reach it?
          0 in flight, 0 acknowledged, 0 repeated, 2 connects, 1 ack timeout, 2
          unsolicited acks

stream        accepted   delivered   waiting     lost  refused   on disk  oldest
event            1,012       1,012         0        0        0  64.0 KiB       -
log                 20           0         0       20        3       0 B       -
          lost: 10 because the stream was full, 5 too old, 5 damaged or not
          deliverable
          in memory only: No space left on device (os error 28); free some,
          writing goes on by itself
telemetry    1,234,567   1,234,000       567        0        0   1.2 MiB     12s

device       state      for        frames   received   opens   skipped  not text
a-name-of-a-device-of-32-letters
           offline      59s         2,345        0 B       0         3         4
          /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K3C8J-if00-port0: No
          such file
          skipped: 1 too long, 2 cut off

host      cm4, boot 1a2b3c4d, pillion uses 4.1 MiB
";
    assert_eq!(render(&degraded(), PLAIN, NOW_MS), expected);
}

#[test]
fn a_server_that_failed_never_hides_behind_the_one_that_is_connected() {
    let mut status = healthy();
    let server = |server: &str, state, connects, failures| ServerStatus {
        server: server.into(),
        state,
        since_ms: NOW_MS - 300_000,
        connects,
        failures,
        ..ServerStatus::default()
    };
    status.link.servers = vec![
        ServerStatus {
            last_error: Some("connection refused (os error 111)".into()),
            ..server("mqtts://first.example:8883", ServerState::Failed, 1, 3)
        },
        ServerStatus {
            warning: Some("plain MQTT to a remote host".into()),
            ..server("mqtt://broker.example:1883", ServerState::Connected, 1, 0)
        },
        server("mqtts://third.example:8883", ServerState::Untried, 0, 0),
    ];
    let expected = "\
link      connected to mqtt://broker.example:1883 for 2d 7h
          12 in flight, 1,235,012 acknowledged, 3 repeated, 1 connect
          - mqtts://first.example:8883 failed 5m 0s ago, 1 connect, 3 failures:
            connection refused (os error 111)
          - mqtt://broker.example:1883 connected for 5m 0s, 1 connect, 0
            failures
          - mqtts://third.example:8883 not tried yet
          warning: plain MQTT to a remote host

stream";
    let screen = render(&status, PLAIN, NOW_MS);
    assert!(screen.contains(expected), "{screen}");
}

#[test]
fn the_screen_never_needs_more_than_80_columns() {
    let mut status = degraded();
    let most = StreamStatus {
        accepted: u64::MAX,
        delivered: u64::MAX,
        waiting: 999_999_999,
        evicted: 999_999,
        expired: 0,
        quarantined: 0,
        refused: u64::MAX,
        bytes: u64::MAX / 1_000_000,
        oldest_s: Some(86_399),
        disk_error: None,
        runtime_error: None,
        retired: true,
    };
    status.streams.insert("0123456789".into(), most);
    for line in render(&status, PLAIN, u64::MAX).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn what_became_of_commands_is_never_left_out() {
    let mut status = healthy();
    status.commands = Some(CommandsStatus::default());
    assert!(render(&status, PLAIN, NOW_MS).contains("\ncommands  none so far\n"));
    status.commands.iter_mut().for_each(|of| (of.counts.done, of.counts.expired) = (1200, 3));
    let screen = render(&status, PLAIN, NOW_MS);
    assert!(screen.contains("\ncommands  1,200 done, 3 too late\n"), "{screen}");
}

#[test]
fn what_matters_of_the_machine_is_never_left_out() {
    let mut status = healthy();
    let lan = Interface { state: "up".into(), addresses: vec![[192, 0, 2, 2].into(), "2001:db8::2".parse().unwrap()] };
    let cpu = Temperature { celsius: Hundredths(4820), critical_celsius: None };
    status.host = HostStatus {
        uptime_s: Some(8_640_000),
        clock: ClockSync::Unsynced,
        load: Some(Load { avg5: Hundredths(52), ..Load::default() }),
        memory: Some(Memory { total_bytes: 4 << 30, available_bytes: 3 << 30, ..Memory::default() }),
        disk: Some(DiskSpace { total_bytes: 29 << 30, free_bytes: 5 << 30, ..DiskSpace::default() }),
        temperatures: [("air".to_owned(), Temperature::default()), ("cpu".to_owned(), cpu)].into(),
        power: Some(Power { undervoltage_since_boot: Some(true), throttled: Some(true), ..Power::default() }),
        flash: [("mmcblk0".to_owned(), FlashWear { life_used_percent: Some(30), spare_blocks: None })].into(),
        network: [
            ("eth0".to_owned(), lan),
            ("wwan0".to_owned(), Interface { state: "down".into(), addresses: vec![] }),
        ]
        .into(),
        ..status.host
    };
    let expected = "
host      cm4, boot 1a2b3c4d, pillion uses 4.1 MiB
          up 100d 0h, load 0.52, memory 3.0 GiB of 4.0 GiB available, disk 5.0
          GiB of 29.0 GiB free, 48.2 C, CLOCK NOT SYNCED, undervoltage since
          boot, THROTTLED, mmcblk0 30% worn
          eth0 192.0.2.2 2001:db8::2, wwan0 down
";
    let screen = render(&status, PLAIN, NOW_MS);
    assert!(screen.ends_with(expected), "{screen}");
}

#[test]
fn what_became_of_messages_is_never_left_out() {
    let mut status = healthy();
    status.api = Some(ApiStatus::default());
    assert!(render(&status, PLAIN, NOW_MS).contains("\nclients   none so far\n"));
    let of = |ok, server_errors| Outcomes { ok, client_errors: 0, server_errors };
    status.api.iter_mut().for_each(|api| {
        (api.open, api.forbidden) = (1, 2);
        api.requests = [("GET /v1/health".to_owned(), of(7, 1)), ("other".to_owned(), of(1, 0))].into();
    });
    let text = render(&status, PLAIN, NOW_MS);
    assert!(text.contains("\nclients   1 open, 8 requests answered, 1 failed, 2 forbidden\n"), "{text}");
    status.inbox = Some(InboxStatus::default());
    assert!(render(&status, PLAIN, NOW_MS).contains("\ninbox     nothing so far\n"));
    status.inbox.iter_mut().for_each(|inbox| (inbox.kept, inbox.dropped) = (256, 3));
    assert!(render(&status, PLAIN, NOW_MS).contains("\ninbox     256 messages kept, 3 dropped unread\n"));
}

#[test]
fn a_lost_application_is_never_left_out() {
    let mut status = healthy();
    status.health = Health { state: HealthState::Failed, reasons: vec!["it is down".into()] };
    let app = status.app.as_mut().unwrap();
    (app.state, app.pid, app.restarts) = (AppState::Restarting, None, Some(3));
    (app.heartbeat.state, app.heartbeat.age_ms) = (HeartbeatState::Lost, Some(61_000));
    app.last_exit = Some(LastExit { text: "exited with code 3".into(), ..LastExit::default() });
    let screen = render(&status, PLAIN, NOW_MS);
    assert!(screen.lines().next().unwrap().ends_with(" FAILED"), "{screen}");
    let told = "\
app       gateway.service waits to be started again for 2d 7h, restarted 3 times
          23.2 MiB of 128 MiB memory, 1m 33s of processor time, 5 tasks
          no heartbeat for 1m 1s
          last time, it exited with code 3
";
    assert!(screen.contains(told), "{screen}");
    status.app.iter_mut().for_each(|app| app.restarts = Some(1));
    let screen = render(&status, PLAIN, NOW_MS);
    assert!(screen.contains(" for 2d 7h, restarted 1 time\n"), "{screen}");
}

#[test]
fn colours_never_add_or_move_a_word() {
    let strip = |text: &str| {
        text.split('\x1b')
            .map(|part| part.strip_prefix('[').map_or(part, |part| &part[part.find('m').unwrap() + 1..]))
            .collect::<String>()
    };
    for status in [healthy(), degraded()] {
        let coloured = render(&status, Style { colour: true, ..PLAIN }, NOW_MS);
        assert!(coloured.contains("\x1b["));
        assert_eq!(strip(&coloured), render(&status, PLAIN, NOW_MS));
    }
    assert!(render(&healthy(), Style { colour: true, ..PLAIN }, NOW_MS).contains("\x1b[32mhealthy\x1b[0m"));
    assert!(render(&degraded(), Style { colour: true, ..PLAIN }, NOW_MS).contains("\x1b[31moffline\x1b[0m"));
}

#[test]
fn an_enemys_reason_never_reaches_the_terminal() {
    let mut status = degraded();
    status.health.reasons = vec!["\x1b]0;pwned\x07 \u{9b}2J".into()];
    status.devices.insert("\x1b[2J".into(), DeviceStatus::closed("serial", 0));
    status.host.name = "a\nb".into();
    let text = render(&status, PLAIN, NOW_MS);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.contains("a?b"));
}
