//! The configuration as a whole, from texts. The messages are the product: the table below is to be read.

use super::*;
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

fn surroundings() -> Surroundings {
    Surroundings { host: "pi".to_owned(), ..Surroundings::default() }
}

fn parsed_in(surroundings: &Surroundings, text: &str) -> Result<Loaded, Problems> {
    parse(&[Source::new("gateway.toml", text)], surroundings, Path::new("/etc/pillion"), &|_| false)
}

fn parsed(text: &str) -> Result<Loaded, Problems> {
    parsed_in(&surroundings(), text)
}

fn problems(text: &str) -> String {
    match parsed(text) {
        Err(problems) => problems.to_string(),
        Ok(_) => panic!("{text:?} is accepted"),
    }
}

fn warnings(text: &str) -> Vec<String> {
    parsed(text).unwrap().warnings.iter().map(ToString::to_string).collect()
}

/// Text, and what is said about it without `gateway.toml:`.
const WRONG: &[(&str, &str)] = &[
    // Single values.
    (
        "[[serial]]\nname = \"meter\"\npath = \"/dev/ttyUSB0\"\nbaud = \"fast\"",
        "4:8: serial.meter.baud: \"fast\" is not a number; give the bits per second, such as 9600",
    ),
    (
        "[[serial]]\nname = \"meter\"\npath = \"/dev/ttyUSB0\"\nbaud = \"9600\"",
        "4:8: serial.meter.baud: \"9600\" is text; remove the quotes; give the bits per second, such as 9600",
    ),
    (
        "[[serial]]\nname = \"meter\"\npath = \"/dev/ttyUSB0\"\nbaud = 99999999999999999999",
        "4:8: serial.meter.baud: 99999999999999999999 is out of range; give the bits per second, such as 9600",
    ),
    (
        "[[serial]]\nname = \"meter\"\npath = \"ttyUSB0\"\nstop_bits = 1.5",
        "3:8: serial.meter.path: \"ttyUSB0\" is not an absolute path; write all of it, such as \"/dev/serial/by-id/usb-…\"\n\
         4:13: serial.meter.stop_bits: 1.5 is not a whole number; give 1 or 2",
    ),
    (
        "[[serial]]\nname = \"Meter 1\"\npath = \"/dev/a\"\nparity = \"mark\"\nflow = \"rtscts\"",
        "2:8: serial[0].name: \"Meter 1\" is not a name; use 1 to 32 of a-z, 0-9, _ and -\n\
         4:10: serial[0].parity: \"mark\" is not known; write \"none\", \"even\" or \"odd\"\n\
         5:8: serial[0].flow: \"rtscts\" is not known; write \"none\", \"software\" or \"hardware\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = \"lines\"",
        "4:11: serial.a.framing: \"lines\" is not a table; write framing = { kind = \"lines\", max = 1024 }",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"lines\", max = 5000, min = 1 }",
        "4:35: serial.a.framing.max: 5000 is out of range; give 1 to 4096 bytes, such as 1024\n\
         4:41: serial.a.framing.min: unknown key; known here are kind, max",
    ),
    ("[app]\nunit = \"gateway\"", "2:8: app.unit: \"gateway\" is not a unit; did you mean \"gateway.service\"?"),
    (
        "[app]\nunit = \"gateway@.service\"",
        "2:8: app.unit: \"gateway@.service\" is a template; name an instance of it, such as \"gateway@1.service\"",
    ),
    (
        "[app]\nunit = \"my gateway\"",
        "2:8: app.unit: \"my gateway\" is not a unit; give a systemd unit, such as \"gateway.service\"",
    ),
    ("[app]\nunit = true", "2:8: app.unit: true is not text; put it in quotes"),
    (
        "[spool]\nsync = \"never\"\nsegment_bytes = \"1MB\"",
        "2:8: spool.sync: \"never\" is not known; write \"always\" or a duration such as \"1s\"\n\
         3:17: spool.segment_bytes: \"1MB\" has an ambiguous unit; write \"1MiB\" (1 KiB is 1024 bytes)",
    ),
    (
        "[spool]\nsync = \"5ms\"\nsegment_bytes = 1048576",
        "2:8: spool.sync: \"5ms\" is out of range; give \"10ms\" to \"1h\"\n\
         3:17: spool.segment_bytes: 1048576 has no unit; write \"1MiB\" for bytes (units: B, KiB, MiB, GiB, TiB)",
    ),
    ("[health]\ninterval = \"500ms\"", "2:12: health.interval: \"500ms\" is out of range; give \"1s\" to \"1d\""),
    ("[health]\ninterval = -5", "2:12: health.interval: -5 is not a duration; write one in quotes, such as \"60s\""),
    (
        "[stream.telemetry]\nwhen_full = \"drop-newest\"\npriority = 300\nmax_age = \"forever\"",
        "2:13: stream.telemetry.when_full: \"drop-newest\" is not known; write \"drop-oldest\" or \"reject\"\n\
         3:12: stream.telemetry.priority: 300 is out of range; give 0 (drains first) to 255\n\
         4:11: stream.telemetry.max_age: \"forever\" is not a duration; give one whole number and one unit \
         (ms, s, m, h, d), such as \"30d\"",
    ),
    ("stream.telemetry = 5", "1:20: stream.telemetry: 5 is not a table; write [stream.NAME] and its keys below"),
    ("[stream.\"Big Data\"]", "1:9: stream.\"Big Data\": \"Big Data\" is not a name; use 1 to 32 of a-z, 0-9, _ and -"),
    ("mqtt = \"broker\"", "1:8: mqtt: \"broker\" is not a table; write [mqtt] and its keys below"),
    ("[[mqtt]]\n", "1:1: mqtt: a list is not a table; write [mqtt] and its keys below"),
    ("serial = [7]", "1:11: serial[0]: 7 is not a table; write [[serial]] and its keys below"),
    // Directories and the instance.
    (
        "instance = \"../x\"",
        "1:12: instance: \"../x\" is not an instance's name; use 1 to 64 of A-Z, a-z, 0-9, _, ., @ and -",
    ),
    (
        "state_dir = \"spool\"",
        "1:13: state_dir: \"spool\" is not an absolute path; write all of it, such as \"/var/lib/pillion/gateway\"",
    ),
    (
        "state_dir = \"/run/x\"\nruntime_dir = \"/run//x/\"",
        "2:15: runtime_dir: is the same as state_dir; give two, for one survives power cuts and the other does not",
    ),
    ("runtime_dir = \"\"", "1:15: runtime_dir: is empty; give a path or remove the line"),
    // MQTT.
    (
        "[mqtt]\nservers = \"mqtt://broker\"",
        "2:11: mqtt.servers: is not a list; write servers = [\"mqtt://broker.example:1883\"]",
    ),
    (
        "[mqtt]\nservers = []",
        "2:11: mqtt.servers: is empty; give at least one, such as servers = [\"mqtt://broker.example:1883\"]",
    ),
    (
        "[mqtt]\nservers = [\"mqtts://broker\", \"tcp://broker\", \"broker:1883\", \"mqtt://gw:secret@broker\"]",
        "2:12: mqtt.servers[0]: mqtts:// is not supported by this version of pillion yet; use mqtt:// on a network that \
         you trust, or through a VPN\n\
         2:30: mqtt.servers[1]: \"tcp://\" is not supported; write mqtt://HOST:PORT, which is MQTT over plain TCP\n\
         2:46: mqtt.servers[2]: \"broker:1883\" has no scheme; write \"mqtt://broker:1883\"\n\
         2:61: mqtt.servers[3]: a user name or password has no place in the address, which is shown to everyone; write \
         mqtt://HOST:PORT and give username and password_file",
    ),
    (
        "[mqtt]\nservers = [\"mqtt://\", \"mqtt://::1\", \"mqtt://[::1\", \"mqtt://b:0\", \"mqtt://b/x\", \"mqtt://b:+1\", 5, \"?\"]",
        "2:12: mqtt.servers[0]: \"mqtt://\" has no valid host name; write mqtt://HOST:PORT\n\
         2:23: mqtt.servers[1]: \"mqtt://::1\" has an IPv6 address without brackets; write it as in mqtt://[::1]:1883\n\
         2:37: mqtt.servers[2]: \"mqtt://[::1\" is not an IPv6 address in brackets; write one such as mqtt://[::1]:1883\n\
         2:52: mqtt.servers[3]: \"mqtt://b:0\" has no valid port; give 1 to 65535, or none for 1883\n\
         2:66: mqtt.servers[4]: \"mqtt://b/x\" has a path; write mqtt://HOST:PORT and nothing behind it\n\
         2:80: mqtt.servers[5]: \"mqtt://b:+1\" has no valid port; give 1 to 65535, or none for 1883\n\
         2:95: mqtt.servers[6]: 5 is not text; put it in quotes\n\
         2:98: mqtt.servers[7]: \"?\" is not a broker's address; write one such as \"mqtt://broker.example:1883\"",
    ),
    (
        "[mqtt]\ntopic_prefix = \"plant/+/{host}\"",
        "2:16: mqtt.topic_prefix: \"plant/+/pi\" holds a wildcard; remove + and #",
    ),
    (
        "[mqtt]\ntopic_prefix = \"plant/\"",
        "2:16: mqtt.topic_prefix: \"plant/\" has an empty level; write no / at the start, at the end or next to another",
    ),
    (
        "[mqtt]\ntopic_prefix = \"$SYS/x\"",
        "2:16: mqtt.topic_prefix: \"$SYS/x\" begins with $, which is the broker's own; remove it",
    ),
    (
        "[mqtt]\ntopic_prefix = \"{hostname}/x\"\nclient_id = \"a}\"",
        "2:16: mqtt.topic_prefix: \"{hostname}\" stands for nothing; {host} and {instance} are all that braces are for\n\
         3:13: mqtt.client_id: \"}\" stands for nothing; {host} and {instance} are all that braces are for",
    ),
    (
        "[mqtt]\ntopic_prefix = \"\"\nclient_id = \"a\\u0000b\"\nusername = \"\"",
        "2:16: mqtt.topic_prefix: is empty; give some text or remove the line\n\
         3:13: mqtt.client_id: \"a\\0b\" holds a control character; remove it\n\
         4:12: mqtt.username: is empty; give some text or remove the line",
    ),
    (
        "[mqtt]\npassword_file = \"pw\"",
        "2:17: mqtt.password_file: a password without a user name is not possible in MQTT 3.1.1; give username too",
    ),
    (
        "[mqtt]\npassword = \"hunter2\"",
        "2:1: mqtt.password: passwords do not belong here; write it into a file that only pillion can read and give \
         password_file",
    ),
    (
        "[mqtt]\nkeep_alive = \"1500ms\"\nack_timeout = \"100ms\"\ninflight = 70000\nmax_payload = \"16MiB\"",
        "2:14: mqtt.keep_alive: \"1500ms\" is not in whole seconds, which is all that MQTT knows; write \"1s\"\n\
         3:15: mqtt.ack_timeout: \"100ms\" is out of range; give \"1s\" to \"1h\"\n\
         4:12: mqtt.inflight: 70000 is out of range; give 1 to 65535, such as 128\n\
         5:15: mqtt.max_payload: \"16MiB\" is out of range; give \"1KiB\" to \"8MiB\"",
    ),
    // Values that don't go together.
    (
        "[spool]\nsegment_bytes = \"1MiB\"\n[stream.log]\nmax_bytes = \"1MiB\"",
        "4:13: stream.log.max_bytes: \"1MiB\" is less than two segments of \"1MiB\" (spool.segment_bytes); give at least \
         \"2MiB\", or make the segments smaller",
    ),
    (
        "[spool]\nsegment_bytes = \"64MiB\"\n[stream.log]\nmax_bytes = \"1GiB\"",
        "2:17: spool.segment_bytes: two segments of \"64MiB\" are more than \"64MiB\", the default max_bytes of event, \
         telemetry; give at most \"32MiB\", or raise max_bytes to \"128MiB\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/x\"\n[[serial]]\nname = \"b\"\npath = \"/dev//x\"",
        "6:8: serial.b.path: \"/dev//x\" is taken by the device at gateway.toml:3; give each device its own path",
    ),
    (
        "[mqtt]\nmax_payload = \"1KiB\"\n[[serial]]\nname = \"a\"\npath = \"/dev/x\"",
        "3:1: serial.a.framing.max: frames of 1024 bytes make messages of up to 1488, more than mqtt.max_payload (1KiB); \
         make max smaller or max_payload larger",
    ),
    // GPIO lines.
    (
        "[[gpio]]\nline = 3",
        "1:1: gpio[0].chip: is missing; give one, such as chip = \"gpiochip0\"\n\
         1:1: gpio[0].direction: is missing; give one, such as direction = \"input\"\n\
         1:1: gpio[0].name: is missing; give one, such as name = \"door\"",
    ),
    (
        "[[gpio]]\nname = \"a\"\nchip = \"0\"\nline = \"3\"\ndirection = \"in\"\nbias = \"up\"\nactive_low = \"yes\"",
        "3:8: gpio.a.chip: \"0\" is not a chip; did you mean \"gpiochip0\"?\n\
         4:8: gpio.a.line: \"3\" is text; remove the quotes; give the line's number on its chip, from 0, or its name in \
         quotes\n\
         5:13: gpio.a.direction: \"in\" is not known; write \"input\" or \"output\"\n\
         6:8: gpio.a.bias: \"up\" is not known; write \"as-is\", \"pull-up\", \"pull-down\" or \"disabled\"\n\
         7:14: gpio.a.active_low: \"yes\" is neither true nor false; write one of them, without quotes",
    ),
    (
        "[[gpio]]\nname = \"a\"\nchip = \"dev/gpiochip0\"\nline = -1\ndirection = \"input\"\nedge = \"up\"\ndebounce = \"1m\"",
        "3:8: gpio.a.chip: \"dev/gpiochip0\" is not an absolute path; write all of it, such as \"/dev/gpiochip0\"\n\
         4:8: gpio.a.line: -1 is out of range; give the line's number on its chip, from 0, or its name in quotes\n\
         6:8: gpio.a.edge: \"up\" is not known; write \"both\", \"rising\", \"falling\" or \"none\"\n\
         7:12: gpio.a.debounce: \"1m\" is out of range; give \"1ms\" to \"10s\"",
    ),
    (
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = \"A_NAME_THAT_IS_LONGER_THAN_THE_KERNELS\"\ndirection = \"input\"\n\
         counter = \"10s\"",
        "4:8: gpio.a.line: has 38 bytes; the kernel's names have 31 at the most (see gpioinfo)\n\
         6:11: gpio.a.counter: \"10s\" is not a table; write counter = { interval = \"10s\" }",
    ),
    (
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\ninitial = true\nsafe = false\n\
         commands = {}\ncounter = { interval = \"10ms\", every = 1 }",
        "6:11: gpio.a.initial: only an output has this; remove it, or write direction = \"output\"\n\
         7:8: gpio.a.safe: only an output has this; remove it, or write direction = \"output\"\n\
         8:12: gpio.a.commands: only an output has this; remove it, or write direction = \"output\"\n\
         9:24: gpio.a.counter.interval: \"10ms\" is out of range; give \"100ms\" to \"1d\"\n\
         9:32: gpio.a.counter.every: unknown key; known here are interval",
    ),
    (
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"output\"\nedge = \"both\"\ndebounce = \"5ms\"\n\
         initial = \"on\"\nhold = 1\nsafe_after = \"2d\"\ncommands = { reply = \"1s\" }",
        "6:8: gpio.a.edge: only an input has this; remove it, or write direction = \"input\"\n\
         7:12: gpio.a.debounce: only an input has this; remove it, or write direction = \"input\"\n\
         8:11: gpio.a.initial: \"on\" is not known; write true, false or \"keep\"\n\
         9:8: gpio.a.hold: 1 is neither true nor false; write one of them, without quotes\n\
         10:14: gpio.a.safe_after: \"2d\" is out of range; give \"0s\" to \"1d\"\n\
         10:14: gpio.a.safe_after: there is no safe value to be applied; give one, such as safe = false, or remove this\n\
         11:12: gpio.a.commands: a line has no answer to wait for; remove reply",
    ),
    (
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\nedge = \"none\"\ncounter = {}",
        "7:11: gpio.a.counter: has nothing to do with edge = \"none\"; remove it, or write \"both\", \"rising\" or \
         \"falling\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\n[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n\
         [[gpio]]\nname = \"b\"\nchip = \"c\"\nline = 1\ndirection = \"input\"",
        "5:8: gpio.a.name: \"a\" is taken by the device at gateway.toml:2; give each device its own name\n\
         12:8: gpio.b.line: \"1 of c\" is taken by the device at gateway.toml:7; give each device its own line",
    ),
    ("gpio = 5", "1:8: gpio: 5 is not a list; write [[gpio]] once for each device"),
    // Keys.
    (
        "[[serial]]\nbaud = 300",
        "1:1: serial[0].name: is missing; give one, such as name = \"meter\"\n\
         1:1: serial[0].path: is missing; give one, such as path = \"/dev/serial/by-id/usb-…\"",
    ),
    ("[mqtt]\nkeepalive = \"30s\"", "2:1: mqtt.keepalive: unknown key; did you mean `keep_alive`?"),
    (
        "[app]\nstate_dir = \"/x\"",
        "2:1: app.state_dir: unknown key; it belongs at the top of the file, before the first [table]",
    ),
    ("topic_prefix = \"x\"", "1:1: topic_prefix: unknown key; it belongs in [mqtt]"),
    (
        "\"\\u001b[31m\" = 1",
        "1:1: \"\\u{1b}[31m\": unknown key; there are instance, state_dir, runtime_dir, app, mqtt, spool, stream, serial, \
         gpio, health",
    ),
    // The design's, not built yet.
    (
        "[app]\nlogs = true\n[mqtt]\nversion = \"5\"\nca_file = \"x\"",
        "2:1: app.logs: is not supported by this version of pillion yet; remove it\n\
         4:11: mqtt.version: \"5\" is not supported by this version of pillion yet; use \"3.1.1\"\n\
         5:1: mqtt.ca_file: is not supported by this version of pillion yet; remove it",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/x\"\nframing = { kind = \"fixed\", size = 12 }",
        "4:20: serial.a.framing.kind: \"fixed\" is not supported by this version of pillion yet; use \"lines\"",
    ),
    // Syntax.
    (
        "[spool]\nsync = 1s\nsegment_bytes = \n[mqtt\ninflight = 3",
        "2:8: not valid TOML: a value is missing or has no quotes; text stands in straight ones, as in key = \"text\"\n\
         3:17: not valid TOML: a value is missing or has no quotes; text stands in straight ones, as in key = \"text\"\n\
         4:6: not valid TOML: unclosed table, expected `]`",
    ),
    (
        "[mqtt]\npassword = hunter2\n",
        "2:1: mqtt.password: passwords do not belong here; write it into a file that only pillion can read and give \
         password_file\n\
         2:12: not valid TOML: a value is missing or has no quotes; text stands in straight ones, as in key = \"text\"",
    ),
    (
        "[health]\ninterval = 5\n[health]\n[[serial]]\nname = \"a\"",
        "2:12: health.interval: 5 has no unit; write \"5s\" for seconds (units: ms, s, m, h, d)\n\
         3:2: not valid TOML: this key or table is here for the second time; make one of the two",
    ),
];

#[test]
fn no_message_leaves_a_tired_engineer_guessing() {
    let mut differences = String::new();
    for (text, expected) in WRONG {
        let told = problems(text)
            .replace("gateway.toml:", "\u{0}")
            .replace("at \u{0}", "at gateway.toml:")
            .replace('\u{0}', "");
        if told != *expected {
            differences += &format!("{text}\n  told:\n{told}\n  expected:\n{expected}\n\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[test]
fn a_secret_never_shows_in_a_message() {
    for text in [
        "[mqtt]\npassword = \"hunter2\"",
        "[mqtt]\npassword = hunter2",
        "[mqtt]\npassword = hunter2 hunter2",
        "[mqtt]\nservers = [\"mqtt://gw:hunter2@broker\"]",
        "[mqtt]\nservers = \"mqtt://gw:hunter2@broker\"",
        "[mqtt]\nservers = [\"gw:hunter2@broker\"]",
        "[mqtt]\nservers = [\"mqtts://gw:hunter2@broker\"]",
    ] {
        assert!(!problems(text).contains("hunter2"), "{}", problems(text));
    }
}

#[test]
fn plain_mqtt_over_a_network_never_goes_without_a_warning() {
    let told = warnings(
        "[mqtt]\nservers = [\"mqtt://localhost\", \"mqtt://127.0.0.9\", \"mqtt://[::1]:1\", \"mqtt://127.evil.example\"]",
    );
    assert_eq!(
        told,
        [
            "gateway.toml:2:70: mqtt.servers[3]: plain MQTT to a remote host: all that goes to 127.evil.example and comes \
          back, the password too, can be read and changed on the way; use it only on a network that you trust, or \
          through a VPN"
        ]
    );
}

#[test]
fn a_host_name_never_smuggles_a_level_or_a_wildcard_into_a_topic() {
    let surroundings = Surroundings { host: "a/b+#{host}\0".to_owned(), ..surroundings() };
    let Loaded { config, warnings } = parsed_in(&surroundings, "[mqtt]\nclient_id = \"fixed\"").unwrap();
    assert_eq!(config.mqtt.topic_prefix, "pillion/a-b---host--/gateway");
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "gateway.toml:1:2: mqtt.topic_prefix: the host name \"a/b+#{host}\\0\" does not fit into a topic; {host} stands \
          for \"a-b---host--\""
        ]
    );
}

#[test]
fn the_option_for_the_instance_never_beats_the_file() {
    let surroundings = Surroundings { instance: Some("option".to_owned()), ..surroundings() };
    assert_eq!(parsed_in(&surroundings, "").unwrap().config.instance, "option");
    let Loaded { config, warnings } = parsed_in(&surroundings, "instance = \"file\"").unwrap();
    assert_eq!(config.instance, "file");
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["gateway.toml:1:12: instance: is used, and --instance \"option\" is not; make them the same"]
    );
}

#[test]
fn a_name_that_is_no_instance_never_becomes_a_folder() {
    let parsed = parse(&[Source::new("/etc/my gateway.toml", "")], &surroundings(), Path::new("/etc"), &|_| false);
    assert_eq!(
        parsed.unwrap_err().to_string(),
        "/etc/my gateway.toml: instance: \"my gateway\" is not an instance's name; use 1 to 64 of A-Z, a-z, 0-9, _, ., @ \
         and - (it comes from the name of the file); give another with instance = \"…\""
    );
}

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
fn a_file_full_of_mistakes_never_fills_the_memory() {
    let text: String = (0..50_000).map(|n| format!("k{n} = 1\n")).collect();
    let problems = parsed(&text).unwrap_err();
    assert_eq!((problems.list.len(), problems.count()), (Problems::LIMIT, 50_000));
    assert!(problems.to_string().ends_with("\nand 49900 more"));
    assert_eq!(parsed(&"= ".repeat(500_000)).unwrap_err().count(), 1, "one for each line");
    assert_eq!(parsed(&"=\n".repeat(500_000)).unwrap_err().count(), 10, "and no more than a screen holds");
}

#[test]
fn deep_nesting_never_overflows_the_stack() {
    let keys = "a.".repeat(79) + "a";
    for text in [
        "a.".repeat(500_000) + "a = 1",
        format!("[{}a]", "a.".repeat(500_000)),
        "a = ".to_owned() + &"[".repeat(1_000_000),
        "a = ".to_owned() + &"{ a = ".repeat(150_000),
        format!("[{keys}]\n{keys} = {}1{}", format!("{{ {keys} = ").repeat(78), "}".repeat(78)),
        "[[serial]]\nframing = ".to_owned() + &"[".repeat(70) + &"]".repeat(70),
    ] {
        problems(&text);
    }
}

#[test]
fn the_example_never_fails_the_check_and_never_shows_another_default() {
    let example = include_str!("../../systemd/gateway.toml");
    let as_it_is = parsed(example).unwrap();
    assert_eq!(as_it_is.warnings, []);
    // Lines such as `#key = value` are the defaults, or examples of what has none.
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let all: String = example.lines().map(|line| uncommented(line) + "\n").collect();
    let all = parsed(&all).unwrap_or_else(|problems| panic!("{problems}")).config;
    let default = parsed("").unwrap().config;
    assert_eq!(
        (&all.instance, &all.state_dir, &all.runtime_dir),
        (&default.instance, &default.state_dir, &default.runtime_dir)
    );
    assert_eq!((&all.spool, &all.health), (&default.spool, &default.health));
    let mqtt = Mqtt { username: None, password_file: None, ..all.mqtt };
    assert_eq!(mqtt, default.mqtt);
    assert_eq!(all.streams[1], Stream { max_age: all.streams[1].max_age, ..default.streams[1].clone() });
    let minimal = parsed("[[serial]]\nname = \"meter\"\npath = \"/dev/ttyUSB0\"").unwrap().config;
    let (path, commands) = (all.serial[0].path.clone(), all.serial[0].commands.clone());
    let Some(Commands { rate: 10, ttl, .. }) = commands else { panic!("{commands:?}") };
    assert_eq!(ttl, Duration::from_secs(60));
    assert_eq!(all.serial[0], Serial { path, commands, ..minimal.serial[0].clone() });
    // What an example shows without a default is given here: debounce, safe, commands.
    let minimal = |more: &str| {
        let text = format!("[[gpio]]\nname = \"x\"\nchip = \"gpiochip0\"\nline = 0\n{more}");
        parsed(&text).unwrap_or_else(|problems| panic!("{problems}")).config.gpio[0].clone()
    };
    let named = |index: usize, line: Gpio| Gpio {
        name: all.gpio[index].name.clone(),
        line: all.gpio[index].line.clone(),
        ..line
    };
    assert_eq!(all.gpio[0], named(0, minimal("direction = \"input\"\ndebounce = \"10ms\"")));
    assert_eq!(all.gpio[1], named(1, minimal("direction = \"input\"\ncounter = {}")));
    assert_eq!(all.gpio[2], named(2, minimal("direction = \"output\"\nsafe = false\ncommands = {}")));
}

#[test]
fn the_defaults_of_a_line_are_never_others_than_documented() {
    let lines = parsed(
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n\
         [[gpio]]\nname = \"b\"\nchip = \"c\"\nline = 2\ndirection = \"input\"\ncounter = {}\n\
         [[gpio]]\nname = \"c\"\nchip = \"c\"\nline = \"L\"\ndirection = \"output\"\nsafe = true\n",
    );
    let lines = lines.unwrap().config.gpio;
    assert_eq!((lines[0].bias, lines[0].active_low, &lines[2].line), (Bias::AsIs, false, &Line::Name("L".into())));
    let ten = Duration::from_secs(10);
    assert_eq!(lines[0].direction, Direction::Input(Input { edge: Edge::Both, debounce: None, counter: None }));
    assert_eq!(lines[1].direction, Direction::Input(Input { edge: Edge::Rising, debounce: None, counter: Some(ten) }));
    let safe = Some(Safe { value: true, after: Duration::from_secs(30) });
    assert_eq!(lines[2].direction, Direction::Output(Output { initial: None, safe, hold: false, commands: None }));
}

#[test]
fn a_drop_in_never_doubles_a_line_that_it_changes() {
    let line = "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n";
    let more =
        "[[gpio]]\nname = \"a\"\nline = 7\n[[gpio]]\nname = \"b\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n";
    let sources = [Source::new("gateway.toml", line), Source::new("b.toml", more)];
    let config = parse(&sources, &surroundings(), Path::new("/"), &|_| false).unwrap().config;
    let lines: Vec<_> = config.gpio.iter().map(|gpio| (gpio.name.as_str(), gpio.line.clone())).collect();
    assert_eq!(lines, [("a", Line::Offset(7)), ("b", Line::Offset(1))]);
}

// What is printed.

fn check_round_trip(text: &str) {
    let first = parsed(text).unwrap_or_else(|problems| panic!("{text}\n{problems}")).config;
    let printed = first.to_toml();
    let second = parsed(&printed).unwrap_or_else(|problems| panic!("{printed}\n{problems}")).config;
    assert_eq!(first, second, "{printed}");
    assert_eq!(printed, second.to_toml());
}

#[test]
fn the_effective_configuration_never_reads_differently() {
    check_round_trip("");
    check_round_trip(include_str!("../../systemd/gateway.toml"));
    check_round_trip(
        "instance = \"a@b.c\"\n[mqtt]\nservers = [\"mqtt://[fe80::1]:1\", \"mqtt://b\"]\nusername = 'q\"\\ü'\n\
         password_file = \"../pw\"\nversion = \"3.1.1\"\n[app]\nunit = 'a\\x2d.service'\n[spool]\nsync = \"always\"",
    );
}

/// A valid document of random values.
fn valid() -> impl Strategy<Value = String> {
    let prefix = "[a-z]{1,9}(/[a-zA-Z0-9 ]{1,9}){0,3}";
    let mqtt = (1..65_536u32, 1..=65_535u32, 1000..3_600_000u64, 2..8192u64, 0..=1_000_000u32, prefix).prop_map(
        |(inflight, keep_alive, ack, payload, rate, prefix)| {
            format!(
                "[mqtt]\nservers = [\"mqtt://h{inflight}:{inflight}\"]\ninflight = {inflight}\nkeep_alive = \
                 \"{keep_alive}s\"\nack_timeout = \"{ack}ms\"\nmax_payload = \"{payload}KiB\"\nbackfill_rate = \
                 {rate}\ntopic_prefix = \"{prefix}/{{host}}\"\nusername = \"\\\"{prefix}\\\\\"\n"
            )
        },
    );
    let spool =
        (prop_oneof![Just("always".to_owned()), (10..3_600_000u64).prop_map(|n| format!("{n}ms"))], 64..32_768u64)
            .prop_map(|(sync, segment)| format!("[spool]\nsync = \"{sync}\"\nsegment_bytes = \"{segment}KiB\"\n"));
    let stream = ("[a-z0-9_-]{1,32}", 65_536..1_000_000u64, 1..1000u32, any::<u8>(), any::<bool>()).prop_map(
        |(name, bytes, age, priority, reject)| {
            let when_full = if reject { "reject" } else { "drop-oldest" };
            let body = format!(
                "max_bytes = \"{bytes}KiB\"\nmax_age = \"{age}h\"\npriority = {priority}\nwhen_full = \"{when_full}\"\n"
            );
            (name, body)
        },
    );
    let streams = prop::collection::btree_map("[a-z0-9_-]{1,32}", stream, 0..4).prop_map(|streams| {
        streams.into_iter().map(|(name, (_, body))| format!("[stream.{name}]\n{body}")).collect::<String>()
    });
    let word = |words: &'static [&'static str]| prop::sample::select(words);
    let serial = (
        1..u32::MAX,
        5..=8u8,
        word(&["none", "even", "odd"]),
        1..=2u8,
        word(&["none", "software", "hardware"]),
        1..=1400u32,
        word(&["auto", "text", "base64", "raw"]),
    );
    let serials = prop::collection::btree_map("[a-z0-9_-]{1,32}", serial, 0..4).prop_map(|devices| {
        let one = |(name, (baud, data, parity, stop, flow, max, payload))| {
            format!(
                "[[serial]]\nname = \"{name}\"\npath = \"/dev/{name}\"\nbaud = {baud}\ndata_bits = {data}\nparity = \
                 \"{parity}\"\nstop_bits = {stop}\nflow = \"{flow}\"\nframing.max = {max}\npayload = \"{payload}\"\n"
            )
        };
        devices.into_iter().map(one).collect::<String>()
    });
    let input =
        (word(&["both", "rising", "falling"]), prop::option::of(1..10_000u32), prop::option::of(100..86_400_000u32))
            .prop_map(|(edge, debounce, counter)| {
                let debounce = debounce.map(|ms| format!("debounce = \"{ms}ms\"\n")).unwrap_or_default();
                let counter = counter.map(|ms| format!("counter.interval = \"{ms}ms\"\n")).unwrap_or_default();
                format!("direction = \"input\"\nedge = \"{edge}\"\n{debounce}{counter}")
            });
    let output = (
        word(&["true", "false", "\"keep\""]),
        prop::option::of((any::<bool>(), 0..86_400u32)),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(initial, safe, hold, commands)| {
            let safe = safe.map(|(safe, after)| format!("safe = {safe}\nsafe_after = \"{after}s\"\n"));
            let commands = if commands { "commands = { allow = [\"o*\"] }\n" } else { "" };
            format!(
                "direction = \"output\"\ninitial = {initial}\n{}hold = {hold}\n{commands}",
                safe.unwrap_or_default()
            )
        });
    let bias = word(&["as-is", "pull-up", "pull-down", "disabled"]);
    let chip = word(&["gpiochip0", "/dev/gpiochip1", "a \\\"label\\\""]);
    let gpio = (prop_oneof![input, output], bias, chip, prop::option::of("[A-Z][A-Z0-9 ]{0,29}"), any::<bool>());
    let gpios = prop::collection::vec(gpio, 0..3).prop_map(|lines| {
        let one = |(index, (body, bias, chip, line, low)): (usize, (String, &str, &str, Option<String>, bool))| {
            let line = line.map_or_else(|| index.to_string(), |name| format!("\"{name}{index}\""));
            format!(
                "[[gpio]]\nname = \"number-{index}-of-the-gpio-lines\"\nchip = \"{chip}\"\nline = {line}\nactive_low = \
                 {low}\nbias = \"{bias}\"\n{body}"
            )
        };
        lines.into_iter().enumerate().map(one).collect::<String>()
    });
    (mqtt, spool, streams, serials, gpios)
        .prop_map(|(mqtt, spool, streams, serials, gpios)| mqtt + &spool + &streams + &serials + &gpios)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_valid_configuration_ever_reads_differently_when_printed(text in valid()) {
        check_round_trip(&text);
    }

    #[test]
    fn no_text_ever_panics(text in ".*", more in "[a-z=\\[\\]{}\"'#.,\\n ]*") {
        let sources = [Source::new("a.toml", &text), Source::new("b.toml", &more)];
        let _ = parse(&sources, &surroundings(), Path::new("/"), &|_| false);
    }

    #[test]
    fn no_damage_to_a_valid_file_ever_panics(
        text in valid(),
        at in any::<prop::sample::Index>(),
        length in 0..20usize,
        with in "[a-z0-9=\\[\\]{}\"'#.,\\n\\\\ é]{0,6}",
    ) {
        let mut chars: Vec<char> = text.chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        chars.splice(start..end, with.chars());
        let damaged: String = chars.into_iter().collect();
        match parsed(&damaged) {
            Ok(_) => check_round_trip(&damaged),
            Err(problems) => {
                prop_assert!(problems.count() > 0);
                for problem in &problems.list {
                    prop_assert!(!problem.message.is_empty() && problem.to_string().len() < 1000);
                    prop_assert!(problem.line <= damaged.lines().count() + 1);
                }
            }
        }
    }

    #[test]
    fn no_strange_host_or_instance_ever_breaks_a_topic(host in ".*", instance in ".*") {
        let surroundings = Surroundings { host, instance: Some(instance), ..Surroundings::default() };
        if let Ok(Loaded { config, .. }) = parsed_in(&surroundings, "") {
            prop_assert_eq!(config.mqtt.topic_prefix.split('/').count(), 3);
            prop_assert!(!config.mqtt.topic_prefix.contains(['+', '#', '\0']));
        }
    }
}
