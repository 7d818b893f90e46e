//! What is read, where the reading has more than one way to go wrong.

use super::{parsed, parsed_in, problems, surroundings};
use crate::config::{Amount, GpioLine, Limits, Source, Surroundings, TemperatureLimit, parse};
use crate::stats::Hundredths;
use std::path::Path;

#[test]
fn directories_of_the_unit_never_beat_those_of_the_file() {
    let surroundings = Surroundings {
        state_directory: Some("/state".into()),
        runtime_directory: Some("/runtime".into()),
        ..surroundings()
    };
    let config = parsed_in(&surroundings, "runtime_dir = \"/tmp/x\"").unwrap().config;
    assert_eq!((config.state_dir.as_path(), config.runtime_dir.as_path()), (Path::new("/state"), Path::new("/tmp/x")));
    let relative = Surroundings { state_directory: Some("state".into()), ..surroundings };
    assert_eq!(
        parsed_in(&relative, "").unwrap_err().to_string(),
        "gateway.toml: state_dir: \"state\" is not an absolute path; write all of it, such as \
         \"/var/lib/pillion/gateway\" (it comes from $STATE_DIRECTORY)"
    );
}

#[test]
fn built_in_streams_never_leave_their_places() {
    use crate::record::StreamId;
    let config = parsed("[stream.alarm]\n[stream.zeta]\npriority = 9\n[stream.log]\npriority = 7").unwrap().config;
    let streams: Vec<_> = config.streams.iter().map(|stream| (stream.name.as_str(), stream.priority)).collect();
    assert_eq!(streams, [("event", 0), ("telemetry", 1), ("log", 7), ("alarm", 1), ("zeta", 9)]);
    for (id, name) in [(StreamId::EVENT, "event"), (StreamId::TELEMETRY, "telemetry"), (StreamId::LOG, "log")] {
        assert_eq!(config.streams[id.index()].name, name);
    }
}

#[test]
fn the_limits_on_streams_and_devices_are_never_off_by_one() {
    let streams = |count: usize| (0..count).map(|n| format!("[stream.s{n:02}]\n")).collect::<String>();
    assert_eq!(parsed(&streams(61)).unwrap().config.streams.len(), 64);
    assert_eq!(
        problems(&streams(62)),
        "gateway.toml:62:9: stream.s61: is one too many; there can be 64 streams, three of them built in"
    );
    let device = |n| format!("[[serial]]\nname = \"d{n}\"\npath = \"/dev/d{n}\"\n");
    let devices = |count: usize| (0..count).map(device).collect::<String>();
    assert_eq!(parsed(&devices(64)).unwrap().config.serial.len(), 64);
    assert!(problems(&devices(65)).contains(" serial: there are 65 devices; give at most 64"));
}

#[test]
fn a_rate_of_backfill_is_never_misread() {
    let rate = |text: &str| parsed(&format!("mqtt.backfill_rate = {text}")).unwrap().config.mqtt.backfill_rate;
    assert_eq!((parsed("").unwrap().config.mqtt.backfill_rate, rate("0"), rate("1_000_000")), (0, 0, 1_000_000));
    for wrong in ["-1", "1000001", "1.5", "\"200\"", "99999999999"] {
        let told = problems(&format!("mqtt.backfill_rate = {wrong}"));
        assert!(told.starts_with("gateway.toml:1:22: mqtt.backfill_rate: "), "{told}");
    }
    assert!(problems("mqtt.backfill_rate = -1").ends_with("give records per second, 1 to 1000000, or 0 for no limit"));
}

#[test]
fn a_socket_path_is_never_too_long_for_the_kernel() {
    let folder = |length: usize| format!("runtime_dir = \"/{}\"", "r".repeat(length - 1));
    let socket = parsed(&folder(94)).unwrap().config.runtime_dir.join("pillion.sock");
    assert!(std::os::unix::net::SocketAddr::from_pathname(socket).is_ok());
    assert_eq!(
        problems(&folder(95)),
        "gateway.toml:1:15: runtime_dir: has 95 bytes, too many for the path of a socket in it; give one of at most 94"
    );
}

#[test]
fn a_drop_in_never_doubles_a_line_that_it_changes() {
    let line = "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n";
    let more =
        "[[gpio]]\nname = \"a\"\nline = 7\n[[gpio]]\nname = \"b\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n";
    let sources = [Source::new("gateway.toml", line), Source::new("b.toml", more)];
    let config = parse(&sources, &surroundings(), Path::new("/"), &|_| false).unwrap().config;
    let lines: Vec<_> = config.gpio.iter().map(|gpio| (gpio.name.as_str(), gpio.line.clone())).collect();
    assert_eq!(lines, [("a", GpioLine::Offset(7)), ("b", GpioLine::Offset(1))]);
}

#[test]
fn the_limits_of_the_machine_are_never_read_as_others() {
    let health = |text: &str| parsed(&format!("[health]\n{text}")).unwrap().config.health;
    let five = Some(Amount::Percent(5));
    let default = Limits {
        disk_free_min: five,
        inodes_free_min: five,
        memory_available_min: five,
        temperature_max: Some(TemperatureLimit::Critical),
        load_max: None,
        pressure_max: None,
    };
    assert_eq!(health("").limits, default);
    let given = "disk_free_min = \"200MiB\"\ninodes_free_min = 1000\nmemory_available_min = \"50%\"\ntemperature_max = 85\n\
                 load_max = 4.05\npressure_max = \"60%\"";
    let expected = Limits {
        disk_free_min: Some(Amount::Absolute(200 << 20)),
        inodes_free_min: Some(Amount::Absolute(1000)),
        memory_available_min: Some(Amount::Percent(50)),
        temperature_max: Some(TemperatureLimit::Celsius(85)),
        load_max: Some(Hundredths(405)),
        pressure_max: Some(60),
    };
    assert_eq!(health(given).limits, expected);
    let keys = "disk_free_min inodes_free_min memory_available_min temperature_max load_max pressure_max";
    let off: String = keys.split(' ').map(|key| format!("{key} = \"off\"\n")).collect();
    let limits = health(&off).limits;
    assert_eq!((limits.disk_free_min, limits.inodes_free_min, limits.memory_available_min), (None, None, None));
    assert_eq!((limits.temperature_max, limits.load_max, limits.pressure_max), (None, None, None));
    for text in [given, &off] {
        let config = parsed(&format!("[health]\n{text}")).unwrap().config;
        assert_eq!(parsed(&config.to_toml()).unwrap().config, config, "{}", config.to_toml());
    }
}
