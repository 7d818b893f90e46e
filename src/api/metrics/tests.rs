//! Looks at whole texts: their shape, what may stand in a label, and that no number is missing.

use super::family::Value;
use super::render;
use crate::stats::{
    ApiStatus, AppStatus, AppUsage, BudgetStatus, CommandsStatus, ConfigurationStatus, DeviceStatus, DiskSpace,
    FlashWear, GpioStatus, Health, HealthState, HeartbeatStatus, HostStatus, Hundredths, InboxStatus, Interface,
    LastExit, LinkState, LinkStatus, Load, LogsStatus, Memory, ModbusStatus, Outcomes, Power, Pressure, ReloadOutcome,
    ReloadStatus, ServerStatus, SettingsStatus, SpareBlocks, Stall, Status, StreamStatus, Temperature,
};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

fn small() -> Status {
    let telemetry = StreamStatus {
        accepted: 10,
        delivered: 4,
        waiting: 3,
        evicted: 2,
        expired: 1,
        bytes: 4096,
        oldest_s: Some(7),
        ..StreamStatus::default()
    };
    Status {
        version: "0.1.0".into(),
        instance: "gateway".into(),
        uptime_s: 61,
        health: Health { state: HealthState::Degraded, reasons: vec!["the meter is gone".into()] },
        configuration: None,
        link: LinkStatus {
            state: LinkState::Connected,
            server: Some("mqtt://b:1883".into()),
            since_ms: 1_795_401_667_023,
            acknowledged: 4,
            ..LinkStatus::default()
        },
        streams: [("event".to_owned(), StreamStatus::default()), ("telemetry".to_owned(), telemetry)].into(),
        devices: [("meter".to_owned(), DeviceStatus::closed("serial", 5))].into(),
        commands: None,
        inbox: None,
        config: None,
        api: None,
        app: None,
        logs: None,
        host: HostStatus { name: "gw".into(), boot_id: "b-1".into(), rss_bytes: 5_000_000, ..HostStatus::default() },
    }
}

#[test]
fn the_text_never_changes_its_shape() {
    let text = render(&small());
    let families: Vec<&str> = text.split("# TYPE ").skip(1).collect();
    let of = |name: &str| {
        let found = families.iter().find(|family| family.split(' ').next() == Some(name));
        found.map_or_else(|| panic!("no {name} in {text}"), |family| format!("# TYPE {family}"))
    };
    assert_eq!(
        of("pillion_build"),
        "# TYPE pillion_build info\n# HELP pillion_build The version that runs.\npillion_build_info{version=\"0.1.0\"} 1\n"
    );
    assert!(
        of("pillion_target").ends_with("\npillion_target_info{sidecar=\"gateway\",host=\"gw\",boot_id=\"b-1\"} 1\n")
    );
    assert_eq!(
        of("pillion_uptime_seconds"),
        "# TYPE pillion_uptime_seconds gauge\n# UNIT pillion_uptime_seconds seconds\n\
         # HELP pillion_uptime_seconds Time since the sidecar started.\npillion_uptime_seconds 61\n"
    );
    assert!(of("pillion_healthy").ends_with("\npillion_healthy 0\n"));
    assert!(of("pillion_health_reasons").ends_with("\npillion_health_reasons 1\n"));
    assert!(of("pillion_link").ends_with("\npillion_link_info{server=\"mqtt://b:1883\"} 1\n"));
    assert_eq!(
        of("pillion_link_state"),
        "# TYPE pillion_link_state stateset\n# HELP pillion_link_state Where the connection to the broker stands.\n\
         pillion_link_state{pillion_link_state=\"disconnected\"} 0\n\
         pillion_link_state{pillion_link_state=\"connecting\"} 0\n\
         pillion_link_state{pillion_link_state=\"connected\"} 1\n\
         pillion_link_state{pillion_link_state=\"draining\"} 0\n"
    );
    assert!(of("pillion_link_up").ends_with("\npillion_link_up 1\n"));
    assert!(of("pillion_link_since_timestamp_seconds").ends_with(" 1795401667.023\n"));
    assert_eq!(
        of("pillion_stream_evicted"),
        "# TYPE pillion_stream_evicted counter\n\
         # HELP pillion_stream_evicted Records lost because the stream was full.\n\
         pillion_stream_evicted_total{stream=\"event\"} 0\npillion_stream_evicted_total{stream=\"telemetry\"} 2\n"
    );
    assert!(
        of("pillion_stream_oldest_seconds")
            .ends_with("waits.\npillion_stream_oldest_seconds{stream=\"telemetry\"} 7\n")
    );
    assert_eq!(
        of("pillion_device_not_text"),
        "# TYPE pillion_device_not_text counter\n\
         # HELP pillion_device_not_text Frames that are no text and travel as base64.\n\
         pillion_device_not_text_total{device=\"meter\",kind=\"serial\"} 0\n# EOF\n"
    );
    assert!(of("pillion_device_bytes").contains("# UNIT pillion_device_bytes bytes\n"));
    assert_eq!(families.len(), 45, "families");
}

#[test]
fn a_hostile_value_never_breaks_out_of_its_label() {
    let mut status = small();
    let evil = "a\"} 1\n# EOF\n\\\r\0\u{7f}ü";
    let escaped = "a\\\"} 1\\n# EOF\\n\\\\\u{fffd}\u{fffd}\u{fffd}ü";
    status.version = evil.into();
    status.instance = evil.into();
    status.link.server = Some(evil.into());
    status.streams = [(evil.to_owned(), status.streams["telemetry"].clone())].into();
    status.devices = [(evil.to_owned(), DeviceStatus::closed(evil, 0))].into();
    let lines = render(&small()).lines().filter(|line| !line.contains("{stream=\"event\"}")).count();
    let text = render(&status);
    assert_eq!(text.lines().count(), lines, "{text}");
    assert_eq!(text.matches("# EOF\n").count(), 1);
    assert!(text.ends_with("\n# EOF\n"));
    assert!(text.contains(&format!("pillion_build_info{{version=\"{escaped}\"}} 1\n")), "{text}");
    assert!(text.contains(&format!("pillion_device_up{{device=\"{escaped}\",kind=\"{escaped}\"}} 0\n")), "{text}");
}

#[test]
fn a_spool_that_does_not_answer_never_breaks_the_text() {
    let mut status = small();
    status.streams.clear();
    status.devices.clear();
    status.link.server = None;
    let text = render(&status);
    assert!(!text.contains("pillion_stream") && !text.contains("pillion_device") && !text.contains("server="));
    assert!(text.ends_with("\n# EOF\n"));
}

/// A machine that tells all there is.
fn telling_host() -> HostStatus {
    let zero = Some(Hundredths(0));
    let pressure = Pressure { full: Some(Stall::default()), ..Pressure::default() };
    let hot = Temperature { critical_celsius: zero, ..Temperature::default() };
    let worn = FlashWear { life_used_percent: Some(0), spare_blocks: Some(SpareBlocks::Urgent) };
    HostStatus {
        uptime_s: Some(0),
        load: Some(Load::default()),
        memory: Some(Memory::default()),
        disk: Some(DiskSpace { inodes: Some(0), inodes_free: Some(0), ..DiskSpace::default() }),
        pressure: [("io".to_owned(), pressure)].into(),
        temperatures: [("cpu".to_owned(), hot)].into(),
        power: Some(Power { throttled: Some(true), undervoltage_since_boot: Some(true), ..Power::default() }),
        flash: [("mmcblk0".to_owned(), worn)].into(),
        network: [("eth0".to_owned(), Interface { state: "up".into(), addresses: vec![[192, 0, 2, 1].into()] })].into(),
        ..HostStatus::default()
    }
}

#[test]
fn what_the_machine_does_not_tell_is_never_a_number() {
    assert!(!render(&small()).contains("pillion_host"));
    let mut status = small();
    status.host = telling_host();
    status.host.temperatures.values_mut().for_each(|sensor| sensor.celsius = Hundredths(-1250));
    let text = render(&status);
    for sample in [
        "pillion_host_temperature_celsius{sensor=\"cpu\"} -12.5",
        "pillion_host_pressure_avg60{resource=\"io\",kind=\"full\"} 0",
        "pillion_host_undervoltage 0",
        "pillion_host_undervoltage_since_boot 1",
        "pillion_host_flash_spare_blocks_low{chip=\"mmcblk0\"} 1",
        "pillion_host_network_up{interface=\"eth0\"} 1",
        "pillion_host_network_addresses{interface=\"eth0\"} 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "no {sample} in {text}");
    }
    assert!(!text.contains("pillion_host_clock_synced") && !text.contains("throttled_since_boot"));
}

/// A status in which every number is another one.
fn distinct() -> (Status, BTreeSet<String>) {
    let mut status = small();
    status.streams = [("t".to_owned(), StreamStatus { oldest_s: Some(0), ..StreamStatus::default() })].into();
    let bus = DeviceStatus {
        last_ms: Some(0),
        modbus: Some(ModbusStatus::default()),
        gpio: Some(GpioStatus { count: Some(0), ..GpioStatus::default() }),
        ..DeviceStatus::closed("modbus", 0)
    };
    status.devices = [("bus".to_owned(), bus)].into();
    status.link = LinkStatus {
        servers: vec![ServerStatus { last_error_ms: Some(0), ..ServerStatus::default() }],
        budget: Some(BudgetStatus { ends_ms: Some(0), ..BudgetStatus::default() }),
        tls_failures: [("expired".to_owned(), 0)].into(),
        refusals: [("quota".to_owned(), 0)].into(),
        ..LinkStatus::default()
    };
    status.logs = Some(LogsStatus { last_ms: Some(0), saved_ms: Some(0), ..LogsStatus::default() });
    status.commands = Some(CommandsStatus::default());
    status.api = Some(ApiStatus {
        requests: [("GET /v1/health".to_owned(), Outcomes::default())].into(),
        users: [("1000".to_owned(), 0)].into(),
        ..ApiStatus::default()
    });
    status.host = telling_host();
    status.inbox = Some(InboxStatus::default());
    status.config = Some(SettingsStatus::default());
    let reload =
        ReloadStatus { at_ms: 0, outcome: ReloadOutcome::Unchanged, keys: vec![], problems: vec![], more_problems: 0 };
    status.configuration = Some(ConfigurationStatus { last_reload: Some(reload), ..ConfigurationStatus::default() });
    let count = Some(0);
    status.app = Some(AppStatus {
        pid: Some(0),
        restarts: count,
        usage: AppUsage {
            cpu_ns: count,
            memory_bytes: count,
            memory_peak: count,
            memory_limit: count,
            tasks: count,
            descriptors: count,
        },
        heartbeat: HeartbeatStatus { age_ms: count, timeout_ms: count, ..HeartbeatStatus::default() },
        last_exit: Some(LastExit { code: Some(0), at_ms: count, ..LastExit::default() }),
        ..AppStatus::default()
    });
    let mut document = serde_json::to_value(&status).unwrap();
    let mut numbers = BTreeSet::new();
    number("", &mut document, &mut numbers);
    (serde_json::from_value(document).unwrap(), numbers)
}

fn number(key: &str, place: &mut Json, numbers: &mut BTreeSet<String>) {
    match place {
        Json::Object(fields) => fields.iter_mut().for_each(|(key, field)| number(key, field, numbers)),
        Json::Number(_) => {
            let new = 1001 + u64::try_from(numbers.len()).unwrap();
            let shown = match key {
                key if key.ends_with("_ms") => Value::Millis(new),
                key if key.ends_with("_ns") => Value::Nanos(new),
                _ => Value::Count(new),
            };
            numbers.insert(shown.to_string());
            *place = json!(new);
        }
        _ => {}
    }
}

#[test]
fn no_number_of_the_status_is_ever_left_out() {
    let (status, numbers) = distinct();
    assert!(numbers.len() > 25, "{numbers:?}");
    let text = render(&status);
    let shown: BTreeSet<&str> = text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.1)).collect();
    let missing: Vec<&String> = numbers.iter().filter(|number| !shown.contains(number.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} of {status:?} in {text}");
}
