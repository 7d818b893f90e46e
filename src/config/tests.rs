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
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nusb = \"0403:6001\"\nrs485 = true\nlow_latency = 1",
        "4:7: serial.a.usb: stands beside path; remove one of them: path is a place, usb an adapter wherever it is\n\
         5:9: serial.a.rs485: true is not a table; write rs485 = { rts_on_send = true }\n\
         6:15: serial.a.low_latency: 1 is neither true nor false; write one of them, without quotes",
    ),
    (
        "[[serial]]\nname = \"a\"\nusb = \"403:6001\"\nrs485 = { delay_after_send = \"1s\", rts = 1 }",
        "3:7: serial.a.usb: \"403:6001\" is not a USB adapter; write \"0403:6001\" or, with its serial number, \
         \"0403:6001:A1000000\"\n\
         4:30: serial.a.rs485.delay_after_send: \"1s\" is out of range; give \"0s\" to \"100ms\"\n\
         4:36: serial.a.rs485.rts: unknown key; it belongs in [[serial]]",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = \"lines\"",
        "4:11: serial.a.framing: \"lines\" is not a table; write framing = { kind = \"lines\", max = 1024 }",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"lines\", max = 5000, min = 1 }",
        "4:35: serial.a.framing.max: 5000 is out of range; give 1 to 4096 bytes, such as 1024\n\
         4:41: serial.a.framing.min: unknown key; known here are kind, max, delimiter, crc",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"modbus\", anything = 1 }",
        "4:20: serial.a.framing.kind: \"modbus\" is not known; write \"lines\", \"cobs\", \"slip\", \"length-prefixed\", \
         \"fixed\" or \"idle-gap\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"cobs\", size = 12, gap = \"20ms\", crc = \"xor\" }",
        "4:28: serial.a.framing.size: does not belong in a framing with kind = \"cobs\"; known there are kind, max, crc\n\
         4:39: serial.a.framing.gap: does not belong in a framing with kind = \"cobs\"; known there are kind, max, crc\n\
         4:59: serial.a.framing.crc: \"xor\" is not known; write \"crc16-modbus\", \"crc16-ccitt\" or \"crc32\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"fixed\", crc = \"crc32\", max = 9 }",
        "4:1: serial.a.framing.size: is missing; give one, such as size = 12\n\
         4:44: serial.a.framing.max: does not belong in a framing with kind = \"fixed\"; known there are kind, size, idle, crc",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"fixed\", crc = \"crc32\", size = 4, idle = \"1m\" }",
        "4:51: serial.a.framing.size: 4 is out of range; give 5 to 4096 bytes, such as 12\n\
         4:61: serial.a.framing.idle: \"1m\" is out of range; give \"100us\" to \"10s\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { kind = \"idle-gap\", gap = 20, gab = 1 }",
        "4:38: serial.a.framing.gap: 20 has no unit; write \"20s\" for seconds (units: us, ms, s, m, h, d)\n\
         4:42: serial.a.framing.gab: unknown key; did you mean `gap`?",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\n[serial.framing]\nkind = \"length-prefixed\"\nlength_bytes = 3\n\
         endian = \"network\"\nincludes_header = 1\nidle = \"99us\"",
        "6:16: serial.a.framing.length_bytes: 3 is not a width that a length can have; give 1, 2 or 4\n\
         7:10: serial.a.framing.endian: \"network\" is not known; write \"big\" or \"little\"\n\
         8:19: serial.a.framing.includes_header: 1 is not known; write true or false\n\
         9:8: serial.a.framing.idle: \"99us\" is out of range; give \"100us\" to \"10s\"",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\n[serial.framing]\nkind = \"length-prefixed\"\nlength_bytes = 1\n\
         crc = \"crc16-modbus\"\nincludes_header = true\nmax = 255",
        "9:7: serial.a.framing.max: 255 is out of range; give 1 to 252 bytes, such as 252",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = { delimiter = \"END\", crc = \"crc32\" }",
        "4:25: serial.a.framing.delimiter: \"END\" holds a hexadecimal digit, as the CRC before it does; give a delimiter \
         without",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing.delimiter = \"\"\n\
         [[serial]]\nname = \"b\"\npath = \"/dev/b\"\nframing.delimiter = \"123456789\"\n\
         [[serial]]\nname = \"c\"\npath = \"/dev/c\"\nframing.delimiter = \"\\u00FF\"",
        "4:21: serial.a.framing.delimiter: \"\" has 0 bytes; give 1 to 8, such as \"\\n\"\n\
         8:21: serial.b.framing.delimiter: \"123456789\" has 9 bytes; give 1 to 8, such as \"\\n\"\n\
         12:21: serial.c.framing.delimiter: \"ÿ\" holds a character that is more than one byte; give ASCII, \\u0000 to \
         \\u007F",
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
    (
        "[[managed_file]]\nkey = \"a\"\npath = \"/etc/gw/../a\"\naction = \"none\"",
        "3:8: managed_file[0].path: \"/etc/gw/../a\" is no plain path of a file in a folder; write it without . and ..",
    ),
    (
        "[[managed_file]]\nkey = \"a\"\npath = \"/etc/gw/a\"\naction = \"reload\"",
        "4:10: managed_file[0].action: needs a unit; give unit = \"gateway.service\" in [app], or action = \"none\"",
    ),
    (
        "[[managed_file]]\nkey = \"a\"\npath = \"/etc/gw/a\"\ncheck = [\"/bin/true\"]",
        "4:9: managed_file[0].check: does not say where the file goes; write {file}, as in check = [\"/usr/bin/gateway\", \
         \"--check\", \"{file}\"]",
    ),
    (
        "[[managed_file]]\nkey = \"a\"\npath = \"/etc/gw/a\"\nmode = \"0666\"",
        "4:8: managed_file[0].mode: \"0666\" lets everybody write the file; give \"0644\" or less",
    ),
    (
        "[[managed_file]]\nkey = \"a\"\npath = \"/etc/gw/a\"\nowner = \"gateway\"",
        "4:9: managed_file[0].owner: \"gateway\" is not a user and a group; give both, such as \"root:gateway\"",
    ),
    (
        "[discovery]\nfilter = \"pillion/#\"",
        "2:10: discovery.filter: \"pillion/#\" is no filter of statuses; end it with /status, with + for any level before, as in \
         \"pillion/+/+/status\"",
    ),
    (
        "[homeassistant]\nenable = \"yes\"\nprefix = \"ha/#\"\nsensor = 1",
        "2:10: homeassistant.enable: \"yes\" is neither true nor false; write one of them, without quotes\n\
         3:10: homeassistant.prefix: \"ha/#\" is no topic that others can stand below; give Home Assistant's discovery prefix, \
         such as \"homeassistant\"\n\
         4:10: homeassistant.sensor: 1 is not a list; write [[homeassistant.sensor]] once for each",
    ),
    (
        "[[serial]]\nname = \"a\"\npath = \"/dev/a\"\n[[homeassistant.sensor]]\ndevice = \"b\"\nfield = \"x\"\n\
         [[homeassistant.sensor]]\ndevice = \"a\"\nfield = \"a[0]\"\nstate_class = \"rising\"",
        "5:10: homeassistant.sensor[0].device: there is no device \"b\"; give the name of one\n\
         9:9: homeassistant.sensor[1].field: \"a[0]\" is not a value's name of at most 64 bytes; write one such as \"kWh\", or \
         \"phase1.power\" for {\"phase1\":{\"power\":…}}\n\
         10:15: homeassistant.sensor[1].state_class: \"rising\" is not known; write \"measurement\", \"total\" or \
         \"total_increasing\"",
    ),
    (
        "[[modbus]]\nname = \"b\"\npath = \"/dev/a\"\n[[modbus.unit]]\nname = \"u\"\nunit = 1\n[[modbus.unit.poll]]\n\
         name = \"power\"\ntable = \"input\"\naddress = 0\n[[homeassistant.sensor]]\ndevice = \"u\"\nfield = \"volt\"",
        "13:9: homeassistant.sensor[0].field: \"volt\" is none of what is read there: power",
    ),
    (
        "[stream.telemetry]\nconvention = \"ha\"\n[sparkplug]\ngroup = \"a/b\"",
        "2:14: stream.telemetry.convention: \"ha\" is not known; write \"pillion\" or \"sparkplug\"\n\
         4:9: sparkplug.group: \"a/b\" can't be a part of a topic; leave out /, + and #",
    ),
    (
        "[stream.telemetry]\nconvention = \"sparkplug\"\nbatch = {}\n[homeassistant]\nenable = true",
        "1:2: sparkplug.group: is missing, and stream telemetry has convention = \"sparkplug\"; give one, such as group = \
         \"site-1\"\n\
         1:2: stream.telemetry.batch: Home Assistant can't read batches of the devices' records; remove this batch, or \
         [homeassistant]\n\
         1:2: stream.telemetry.batch: a message of Sparkplug has one record; remove this batch, or the stream's convention\n\
         4:1: homeassistant.enable: is not possible with convention = \"sparkplug\" of stream telemetry, which Home Assistant \
         can't read; remove one of them",
    ),
    ("[app]\nconfig = 1", "2:10: app.config: 1 is neither true nor false; write one of them, without quotes"),
    (
        "[api]\nallow_users = \"app\"\nallow_groups = [\"a:b\"]",
        "2:15: api.allow_users: is not a list; write allow_users = [\"app\"]\n\
         3:16: api.allow_groups: \"a:b\" is no name of a user or group, and no number",
    ),
    (
        "[api]\nallow_users = [\"app\", 1.5]\nallow_groups = [-1]",
        "2:15: api.allow_users: 1.5 is not text; put it in quotes\n\
         3:16: api.allow_groups: -1 is out of range; give a name or a number",
    ),
    ("[app]\ncommands = 1", "2:12: app.commands: 1 is neither true nor false; write one of them, without quotes"),
    ("[app]\nunit = true", "2:8: app.unit: true is not text; put it in quotes"),
    (
        "[app]\nheartbeat_timeout = \"100ms\"",
        "2:21: app.heartbeat_timeout: \"100ms\" is out of range; give \"1s\" to \"1d\"",
    ),
    (
        "[app]\nheartbeat_timeout = 30",
        "2:21: app.heartbeat_timeout: 30 has no unit; write \"30s\" for seconds (units: ms, s, m, h, d)",
    ),
    (
        "[app]\nlogs = true\nlog_level = \"warn\"\nlog_rate = 100001\nrecorder = \"2MiB\"",
        "2:8: app.logs: needs a unit whose journal is followed; give unit = \"gateway.service\" too, or remove this\n\
         3:13: app.log_level: \"warn\" is not known; write \"emerg\", \"alert\", \"crit\", \"err\", \"warning\", \"notice\", \
         \"info\" or \"debug\"\n\
         4:12: app.log_rate: 100001 is out of range; give lines per second, 0 to 100000\n\
         5:12: app.recorder: \"2MiB\" is out of range; give \"0B\" to \"1MiB\"",
    ),
    (
        "[app]\nlogs = \"yes\"\nlog_level = 6\nlog_rate = -1\nrecorder = 65536",
        "2:8: app.logs: \"yes\" is neither true nor false; write one of them, without quotes\n\
         3:13: app.log_level: 6 is not known; write \"emerg\", \"alert\", \"crit\", \"err\", \"warning\", \"notice\", \
         \"info\" or \"debug\"\n\
         4:12: app.log_rate: -1 is out of range; give lines per second, 0 to 100000\n\
         5:12: app.recorder: 65536 has no unit; write \"64KiB\" for bytes (units: B, KiB, MiB, GiB, TiB)",
    ),
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
    (
        "[health]\ndisk_free_min = \"5\"\ninodes_free_min = \"51%\"\nmemory_available_min = 0.1\ntemperature_max = \"85C\"\n\
         load_max = \"4\"\npressure_max = 50",
        "2:17: health.disk_free_min: \"5\" has no unit; write \"5B\" for bytes (units: B, KiB, MiB, GiB, TiB)\n\
         3:19: health.inodes_free_min: \"51%\" is out of range; give \"1%\" to \"50%\"\n\
         4:24: health.memory_available_min: 0.1 is no amount; write a part such as \"5%\", a size such as \"200MiB\", or \
         \"off\"\n\
         5:19: health.temperature_max: \"85C\" is no limit; give 1 to 200 (degrees Celsius), \"critical\" or \"off\"\n\
         6:12: health.load_max: \"4\" is no load; give a number from 0.1 to 1000, or \"off\"\n\
         7:16: health.pressure_max: 50 is no part; write one such as \"50%\", or \"off\"",
    ),
    (
        "[health]\ndisk_free_min = true\ninodes_free_min = \"off!\"\nmemory_available_min = \"-5%\"\ntemperature_max = 0\n\
         load_max = nan\npressure_max = \"100%\"",
        "2:17: health.disk_free_min: true is no amount; write a part such as \"5%\", a size such as \"200MiB\", or \"off\"\n\
         3:19: health.inodes_free_min: \"off!\" is no amount; write a part such as \"5%\", a number such as 1000, or \"off\"\n\
         4:24: health.memory_available_min: \"-5%\" is out of range; give \"1%\" to \"50%\"\n\
         5:19: health.temperature_max: 0 is no limit; give 1 to 200 (degrees Celsius), \"critical\" or \"off\"\n\
         6:12: health.load_max: nan is no load; give a number from 0.1 to 1000, or \"off\"\n\
         7:16: health.pressure_max: \"100%\" is out of range; give \"1%\" to \"99%\"",
    ),
    ("[health]\ninterval = -5", "2:12: health.interval: -5 is not a duration; write one in quotes, such as \"60s\""),
    (
        "[stream.telemetry]\nwhen_full = \"drop-newest\"\npriority = 300\nmax_age = \"forever\"",
        "2:13: stream.telemetry.when_full: \"drop-newest\" is not known; write \"drop-oldest\" or \"reject\"\n\
         3:12: stream.telemetry.priority: 300 is out of range; give 0 (drains first) to 255\n\
         4:11: stream.telemetry.max_age: \"forever\" is not a duration; give one whole number and one unit \
         (ms, s, m, h, d), such as \"30d\"",
    ),
    (
        "[stream.log]\nbatch = { records = 0, bytes = \"1MiB\", delay = 5, format = \"csv\", compress = \"zstd\", size = 1 }",
        "2:21: stream.log.batch.records: 0 is out of range; give records in one message, 1 to 1000\n\
         2:32: stream.log.batch.bytes: \"1MiB\" is out of range; give \"1KiB\" to \"64KiB\"\n\
         2:48: stream.log.batch.delay: 5 has no unit; write \"5s\" for seconds (units: ms, s, m, h, d)\n\
         2:60: stream.log.batch.format: \"csv\" is not known; write \"ndjson\" or \"array\"\n\
         2:78: stream.log.batch.compress: \"zstd\" is not known; write \"none\" or \"deflate\"\n\
         2:86: stream.log.batch.size: unknown key; it belongs in the framing of a [[serial]]",
    ),
    (
        "[mqtt]\nbudget = 50\n[stream.log]\nquiet_hours = \"08:00-18:00\"\n[stream.event]\nquiet_hours = \"08:00Z-08:00Z\"",
        "2:10: mqtt.budget: 50 is not text; put it in quotes\n\
         4:15: stream.log.quiet_hours: \"08:00-18:00\" is not a time of day; give when it begins and ends in UTC, with the Z, \
         such as \"08:00Z-18:00Z\"\n\
         6:15: stream.event.quiet_hours: \"08:00Z-08:00Z\" begins when it ends; give two times, such as \"08:00Z-18:00Z\"",
    ),
    (
        "[mqtt]\nbudget = \"50MiB\"",
        "2:10: mqtt.budget: \"50MiB\" is not a budget; give a size and a period, such as \"50MiB/day\"",
    ),
    (
        "[mqtt]\nbudget = \"50MiB/week\"",
        "2:10: mqtt.budget: \"50MiB/week\" has no period that is known; write \"50MiB/hour\", \"50MiB/day\" or \"50MiB/month\"",
    ),
    ("[mqtt]\nbudget = \"1KiB/day\"", "2:10: mqtt.budget: \"1KiB\" is out of range; give \"16KiB\" to \"1TiB\""),
    (
        "[mqtt]\nbudget = \"50/day\"",
        "2:10: mqtt.budget: \"50\" has no unit; write \"50B\" for bytes (units: B, KiB, MiB, GiB, TiB)",
    ),
    (
        "[homeassistant]\nenable = true\n[stream]\ntelemetry.batch = {}",
        "3:1: stream.telemetry.batch: Home Assistant can't read batches of the devices' records; remove this batch, or \
         [homeassistant]",
    ),
    (
        "[stream.log]\nbatch = true",
        "2:9: stream.log.batch: true is not a table; write batch = { records = 100, delay = \"5s\" }",
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
        "[mqtt]\nservers = [\"wss://broker#\", \"tcp://broker\", \"broker:1883\", \"mqtt://gw:secret@broker\"]",
        "2:12: mqtt.servers[0]: \"wss://broker#\" has no valid path; write wss://HOST:PORT/PATH, in ASCII and without #\n\
         2:29: mqtt.servers[1]: \"tcp://\" is not supported; write mqtts://HOST:PORT for MQTT over TLS, mqtt://HOST:PORT, \
         or wss://HOST:PORT/PATH for a WebSocket\n\
         2:45: mqtt.servers[2]: \"broker:1883\" has no scheme; write \"mqtt://broker:1883\"\n\
         2:60: mqtt.servers[3]: a user name or password has no place in the address, which is shown to everyone; write \
         mqtts://HOST:PORT and give username and password_file",
    ),
    (
        "[mqtt]\nservers = [\"mqtts://b:0\", \"mqtts://[::1\"]\nserver_name = \"a b\"\nalpn = \"mqtt\"\ncert_file = \"c\"",
        "2:12: mqtt.servers[0]: \"mqtts://b:0\" has no valid port; give 1 to 65535, or none for 8883\n\
         2:27: mqtt.servers[1]: \"mqtts://[::1\" is not an IPv6 address in brackets; write one such as mqtts://[::1]:8883\n\
         3:15: mqtt.server_name: \"a b\" is not a host name; give the name in the broker's certificate\n\
         4:8: mqtt.alpn: is not a list; write alpn = [\"mqtt\"]\n\
         5:13: mqtt.cert_file: is of no use without key_file; give both, or neither",
    ),
    (
        "[mqtt]\nkey_file = \"k\"\nalpn = [\"\", 7]\nca_file = \"\"",
        "2:12: mqtt.key_file: is of no use without cert_file; give both, or neither\n\
         3:8: mqtt.alpn: \"\" is not a protocol's name of 1 to 255 bytes\n\
         4:11: mqtt.ca_file: is empty; give a path or remove the line",
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
        "[mqtt]\nkeep_alive = \"1500ms\"\nack_timeout = \"100ms\"\ninflight = 70000\nmax_payload = \"16MiB\"\n\
         fall_back = \"never\"",
        "2:14: mqtt.keep_alive: \"1500ms\" is not in whole seconds, which is all that MQTT knows; write \"1s\"\n\
         3:15: mqtt.ack_timeout: \"100ms\" is out of range; give \"1s\" to \"1h\"\n\
         4:12: mqtt.inflight: 70000 is out of range; give 1 to 65535, such as 128\n\
         5:15: mqtt.max_payload: \"16MiB\" is out of range; give \"1KiB\" to \"8MiB\"\n\
         6:13: mqtt.fall_back: \"never\" is not a duration; give one whole number and one unit (ms, s, m, h, d), such as \
         \"5m\", or \"off\"",
    ),
    (
        "[mqtt]\nfall_back = \"500ms\"",
        "2:13: mqtt.fall_back: \"500ms\" is out of range; give \"1s\" to \"1d\", or \"off\"",
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
    (
        "[mqtt]\nmax_payload = \"1KiB\"\n[[serial]]\nname = \"a\"\npath = \"/dev/x\"\n\
         framing = { kind = \"fixed\", size = 1026, crc = \"crc16-ccitt\" }",
        "6:36: serial.a.framing.size: frames of 1024 bytes make messages of up to 1488, more than mqtt.max_payload (1KiB); \
         make size smaller or max_payload larger",
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
         modbus, gpio, managed_file, apply_dir, discovery, homeassistant, sparkplug, health, api",
    ),
    ("[mqtt]\nversion = \"5.0\"", "2:11: mqtt.version: \"5.0\" is not known; write \"3.1.1\" or \"5\""),
    // Modbus.
    (
        "[[modbus]]\nname = \"bus\"\npath = \"/dev/a\"\ngap = \"1ms\"\ndata_bits = 7",
        "1:1: modbus.bus.unit: is missing; write [[modbus.unit]] once for each unit on this bus\n\
         4:7: modbus.bus.gap: is shorter than the standard's 3.5 characters, 2005 µs; give more or remove the line\n\
         5:1: modbus.bus.data_bits: unknown key; it belongs in [[serial]]",
    ),
    (
        "modbus = [{ name = \"a\", path = \"/dev/a\", unit = [{ name = \"a\", unit = 248 }, 5, { name = \"u\", unit = 1, poll = 5 }] }]",
        "1:50: modbus.a.unit.a.poll: is missing; write [[modbus.unit.poll]] once for each value of this unit\n\
         1:59: modbus.a.unit.a.name: \"a\" is taken by the device at gateway.toml:1; give each device its own name\n\
         1:71: modbus.a.unit.a.unit: 248 is out of range; give the unit's address, 1 to 247\n\
         1:78: modbus.a.unit[1]: 5 is not a table; write [[modbus.unit]] and its keys below\n\
         1:112: modbus.a.unit.u.poll: 5 is not a list; write [[modbus.unit.poll]] once for each",
    ),
    (
        "[[modbus]]\nname = \"bus\"\npath = \"/dev/a\"\n[[modbus.unit]]\nname = \"u\"\nunit = 1\ncommands = { reply = \"1s\" }\n\
         [[modbus.unit.poll]]\nname = \"a\"\ntable = \"input\"\naddress = 65535\ntype = \"u32\"\nwrite = true\n\
         [[modbus.unit.poll]]\nname = \"a\"\ntable = \"coil\"\naddress = 65536\nscale = 2\npublish = \"change\"\ndeadband = 1\n\
         [[modbus.unit.poll]]\nname = \"s\"\ntable = \"holding\"\naddress = 1\ntype = \"string\"\nverify = true\n\
         [[modbus.unit.poll]]\nname = \"n\"\ntable = \"holding\"\naddress = 2\nscale = 0\nwords = 2\ndeadband = 1\ntype = \"bool\"",
        "7:12: modbus.bus.unit.u.commands.reply: a unit's answer is awaited anyway, for the timeout of its bus; remove it\n\
         11:11: modbus.bus.unit.u.poll.a.address: 65535 and the 1 behind it go beyond 65535, the last address; give at \
         most 65534\n\
         13:9: modbus.bus.unit.u.poll.a.write: table \"input\" can only be read; remove it, or give another table\n\
         15:8: modbus.bus.unit.u.poll.a.name: \"a\" is the name of the poll at gateway.toml:9; give each poll of a unit \
         its own\n\
         17:11: modbus.bus.unit.u.poll.a.address: 65536 is out of range; give the address as the protocol counts, 0 to \
         65535 (register 40001 of a manual is often holding 0)\n\
         18:9: modbus.bus.unit.u.poll.a.scale: is for numbers only; remove it\n\
         20:12: modbus.bus.unit.u.poll.a.deadband: is for numbers only; remove it\n\
         21:1: modbus.bus.unit.u.poll.s.words: is missing; give one, such as words = 8\n\
         26:10: modbus.bus.unit.u.poll.s.verify: is about what is written; give write = true too, or remove it\n\
         31:9: modbus.bus.unit.u.poll.n.scale: 0 is out of range; give a number from 1e-9 to 1e9, or a negative one, such \
         as 0.1\n\
         32:9: modbus.bus.unit.u.poll.n.words: is the length of a string; remove it, every other type has its own\n\
         33:12: modbus.bus.unit.u.poll.n.deadband: is for publish = \"change\" only; give that too, or remove it\n\
         34:8: modbus.bus.unit.u.poll.n.type: \"bool\" is for coils and discrete inputs, not for table \"holding\"; give \
         \"u16\"",
    ),
    (
        "[[modbus]]\nname = \"bus\"\npath = \"/dev/a\"\n[[modbus.unit]]\nname = \"u\"\nunit = 1\n\
         poll = [{ name = \"a\", table = \"holding\", address = 1, write = true }]\n\
         [[modbus.unit]]\nname = \"v\"\nunit = 1\ncommands = {}\npoll = [{ name = \"a\", table = \"holding\", address = 1 }]",
        "4:1: modbus.bus.unit.u.commands: is missing, and a poll has write = true; write commands = {} to take commands for \
         it\n\
         10:8: modbus.bus.unit.v.unit: 1 is the address of the unit at gateway.toml:6; give each unit of a bus its own, or \
         give all polls to one unit\n\
         11:12: modbus.bus.unit.v.commands: none of its polls may be written; give write = true to those that may, or \
         remove it",
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
          back, the password too, can be read and changed on the way; write mqtts:// for TLS, or use it only on a \
          network that you trust"
        ]
    );
}

#[test]
fn a_batch_that_costs_flash_never_goes_without_a_warning() {
    let said = "gateway.toml:2:9: stream.log.batch: records wait up to \"5s\" for their batch, and what has waited for \
                spool.sync (\"1s\") is written to flash; make delay shorter or spool.sync longer, if flash shall be spared";
    assert_eq!(warnings("[stream.log]\nbatch = {}"), [said]);
    for quiet in [
        "[stream.log]\nbatch = { delay = \"999ms\" }",
        "[stream.log]\nbatch = {}\n[spool]\nsync = \"always\"",
        "[stream.log]\nbatch = {}\n[spool]\nsync = \"6s\"",
    ] {
        assert_eq!(warnings(quiet), [""; 0]);
    }
}

#[test]
fn keys_for_tls_never_stand_unused_without_a_warning() {
    let told = warnings("[mqtt]\nca_file = \"ca.pem\"\nservers = [\"mqtt://localhost\"]");
    assert_eq!(
        told,
        ["gateway.toml:2:11: mqtt.ca_file: is not used: no server has mqtts:// or wss://, so nothing is encrypted"]
    );
    let none: [String; 0] = [];
    assert_eq!(warnings("[mqtt]\nca_file = \"ca.pem\"\nservers = [\"mqtts://broker.example\"]"), none);
}

#[test]
fn a_framing_that_one_lost_byte_breaks_never_goes_without_a_warning() {
    let told = |framing: &str| {
        warnings(&format!("[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = {{ kind = {framing} }}")).join("\n")
    };
    let warning = "gateway.toml:4:20: serial.a.framing.kind: after one lost byte every frame is wrong until the port is \
                   opened again; give crc if the device sends one, or idle if it pauses between frames";
    for framing in ["\"length-prefixed\"", "\"fixed\", size = 9"] {
        assert_eq!(told(framing), warning);
        assert_eq!(told(&format!("{framing}, idle = \"1s\"")), "");
        assert_eq!(told(&format!("{framing}, crc = \"crc32\"")), "");
    }
}

#[test]
fn a_framing_is_never_printed_without_one_of_its_keys() {
    let shown = |framing: &str| {
        let text = format!("[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = {framing}");
        let toml = parsed(&text).unwrap_or_else(|problems| panic!("{problems}")).config.to_toml();
        let line = toml.lines().find_map(|line| line.strip_prefix("framing = ")).unwrap().to_owned();
        check_round_trip(&text);
        line
    };
    assert_eq!(shown("{}"), r#"{ kind = "lines", max = 1024, delimiter = "\n" }"#);
    assert_eq!(shown(r#"{ kind = "cobs" }"#), r#"{ kind = "cobs", max = 1024 }"#);
    assert_eq!(
        shown(r#"{ kind = "length-prefixed", crc = "crc32" }"#),
        r#"{ kind = "length-prefixed", max = 1024, length_bytes = 2, endian = "big", includes_header = false, crc = "crc32" }"#
    );
    assert_eq!(shown(r#"{ kind = "idle-gap" }"#), r#"{ kind = "idle-gap", max = 1024, gap = "20ms" }"#);
    for whole in [
        r#"{ kind = "lines", max = 7, delimiter = "\r\u0000\t \"\\\u007F", crc = "crc16-ccitt" }"#,
        r#"{ kind = "slip", max = 4096, crc = "crc16-modbus" }"#,
        r#"{ kind = "length-prefixed", max = 251, length_bytes = 1, endian = "little", includes_header = true, idle = "1s" }"#,
        r#"{ kind = "fixed", size = 4096, idle = "10s", crc = "crc32" }"#,
        r#"{ kind = "idle-gap", max = 256, gap = "250us", crc = "crc16-modbus" }"#,
    ] {
        assert_eq!(shown(whole), whole);
    }
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
    let mqtt = Mqtt { username: None, password_file: None, tls: Tls::default(), budget: None, ..all.mqtt };
    assert_eq!(mqtt, default.mqtt);
    let (Stream { max_age, batch, quiet_hours, .. }, of_default) = (all.streams[1].clone(), default.streams[1].clone());
    assert_eq!(all.streams[1], Stream { max_age, batch, quiet_hours, ..of_default });
    let batching = parsed("[stream.telemetry]\nbatch = {}").unwrap().config.streams[1].batch;
    assert_eq!(batch, batching.map(|batching| Batching { delay: Duration::from_millis(500), ..batching }));
    let minimal = parsed("[[serial]]\nname = \"meter\"\npath = \"/dev/ttyUSB0\"").unwrap().config;
    let Serial { path, commands, rs485, dtr, rts, .. } = all.serial[0].clone();
    let plain = Rs485 {
        rts_on_send: true,
        delay_before_send: Duration::ZERO,
        delay_after_send: Duration::ZERO,
        rx_during_tx: false,
    };
    assert_eq!(rs485, Some(plain));
    let Some(Commands { rate: 10, ttl, .. }) = &commands else { panic!("{commands:?}") };
    assert_eq!(*ttl, Duration::from_secs(60));
    assert_eq!(all.serial[0], Serial { path, commands, rs485, dtr, rts, ..minimal.serial[0].clone() });
    let minimal = "modbus = [{ name = \"bus1\", path = \"/dev/a\", unit = [{ name = \"inverter1\", unit = 1, poll = [{ name = \
                   \"power\", table = \"input\", address = 100 }] }] }]";
    let (shown, minimal) = (&all.modbus[0], &parsed(minimal).unwrap().config.modbus[0]);
    let line = Line { path: shown.line.path.clone(), ..minimal.line.clone() };
    assert_eq!((&shown.line, shown.timeout), (&line, minimal.timeout));
    let (unit, default) = (&shown.units[0], &minimal.units[0]);
    assert_eq!((unit.backoff, unit.max_backoff), (default.backoff, default.max_backoff));
    let (poll, default) = (&unit.polls[0], &default.polls[0]);
    assert_eq!((poll.interval, poll.word_order, poll.offset), (default.interval, default.word_order, default.offset));
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
fn the_framings_of_the_example_never_fail_the_check() {
    let example = include_str!("../../systemd/gateway.toml");
    let table = |line: &'static str| Some(&line[line.find("{ kind")?..line.find(" }")? + 2]);
    let framings: Vec<&str> = example.lines().filter_map(table).collect();
    assert_eq!(framings.len(), 8, "{framings:?}");
    for framing in framings {
        let text = format!("[[serial]]\nname = \"a\"\npath = \"/dev/a\"\nframing = {framing}");
        parsed(&text).unwrap_or_else(|problems| panic!("{framing}: {problems}"));
    }
}

#[test]
fn the_defaults_of_a_line_are_never_others_than_documented() {
    let lines = parsed(
        "[[gpio]]\nname = \"a\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n\
         [[gpio]]\nname = \"b\"\nchip = \"c\"\nline = 2\ndirection = \"input\"\ncounter = {}\n\
         [[gpio]]\nname = \"c\"\nchip = \"c\"\nline = \"L\"\ndirection = \"output\"\nsafe = true\n",
    );
    let lines = lines.unwrap().config.gpio;
    assert_eq!((lines[0].bias, lines[0].active_low, &lines[2].line), (Bias::AsIs, false, &GpioLine::Name("L".into())));
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
    assert_eq!(lines, [("a", GpioLine::Offset(7)), ("b", GpioLine::Offset(1))]);
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
        "[[modbus]]\nname = \"bus\"\nusb = \"0403:6001\"\nrs485 = {}\nlow_latency = true\ngap = \"9ms\"\n\
         [[modbus.unit]]\nname = \"u\"\nunit = 7\ncommands = {}\n\
         [[modbus.unit.poll]]\nname = \"a\"\ntable = \"holding\"\naddress = 9\ntype = \"f32\"\nword_order = \"little\"\n\
         scale = -0.25\noffset = 1e3\ninterval = \"90ms\"\npublish = \"change\"\ndeadband = 0.5\nwrite = true\nverify = true\n\
         [[modbus.unit.poll]]\nname = \"s\"\ntable = \"input\"\naddress = 0\ntype = \"string\"\nwords = 3\n\
         [[modbus.unit.poll]]\nname = \"c\"\ntable = \"coil\"\naddress = 65535",
    );
    check_round_trip(
        "[[serial]]\nname = \"a\"\nusb = \"0403:6001:A 1\"\ndtr = false\nrts = true\nlow_latency = true\n\
         rs485 = { rts_on_send = false, delay_before_send = \"2ms\", rx_during_tx = true }\n\
         commands = { allow = [\"a*\"], rate = 3, ttl = \"5s\", reply = \"1s\" }",
    );
    check_round_trip(
        "[mqtt]\nservers = [\"mqtts://b\", \"mqtts://[::1]:1\"]\nca_file = \"ca\"\ncert_file = \"/c\"\nkey_file = \"k\"\n\
         server_name = \"b.example\"\nalpn = [\"mqtt\", \"x\"]",
    );
    check_round_trip(
        "instance = \"a@b.c\"\n[mqtt]\nservers = [\"mqtt://[fe80::1]:1\", \"mqtt://b\"]\nusername = 'q\"\\ü'\n\
         password_file = \"../pw\"\nversion = \"3.1.1\"\n[app]\nunit = 'a\\x2d.service'\nheartbeat_timeout = \"90s\"\nlogs = false\n\
         log_level = \"debug\"\nlog_rate = 0\nrecorder = \"1KiB\"\n[spool]\nsync = \"always\"",
    );
}

const FRAMINGS: &[&str] = &[
    "{ max = MAX }",
    "{ kind = \"lines\", max = MAX, delimiter = \"\\u0003\\\\;\", crc = \"crc32\" }",
    "{ kind = \"cobs\", max = MAX, crc = \"crc16-ccitt\" }",
    "{ kind = \"slip\", max = MAX }",
    "{ kind = \"length-prefixed\", max = MAX, length_bytes = 4, endian = \"little\", includes_header = true, idle = \"MAXms\" }",
    "{ kind = \"fixed\", size = MAX, idle = \"MAXms\" }",
    "{ kind = \"idle-gap\", max = MAX, gap = \"MAXms\", crc = \"crc16-modbus\" }",
];

/// A valid document of random values.
fn valid() -> impl Strategy<Value = String> {
    let prefix = "[a-z]{1,9}(/[a-zA-Z0-9 ]{1,9}){0,3}";
    let mqtt = (1..65_536u32, 1..=65_535u32, 1000..3_600_000u64, 2..8192u64, 0..=1_000_000u32, prefix).prop_map(
        |(inflight, keep_alive, ack, payload, rate, prefix)| {
            format!(
                "[mqtt]\nservers = [\"mqtt://h{inflight}:{inflight}\"]\ninflight = {inflight}\nkeep_alive = \
                 \"{keep_alive}s\"\nack_timeout = \"{ack}ms\"\nfall_back = \"{ack}ms\"\nmax_payload = \
                 \"{payload}KiB\"\nbackfill_rate = \
                 {rate}\ntopic_prefix = \"{prefix}/{{host}}\"\nusername = \"\\\"{prefix}\\\\\"\n"
            )
        },
    );
    let spool =
        (prop_oneof![Just("always".to_owned()), (10..3_600_000u64).prop_map(|n| format!("{n}ms"))], 64..32_768u64)
            .prop_map(|(sync, segment)| format!("[spool]\nsync = \"{sync}\"\nsegment_bytes = \"{segment}KiB\"\n"));
    let batch = (1..=1000u16, 1..=64u8, 0..=3_600_000u32, any::<(bool, bool)>()).prop_map(
        |(records, size, delay, (array, deflate))| {
            let format = if array { "array" } else { "ndjson" };
            let compress = if deflate { "deflate" } else { "none" };
            format!(
                "batch = {{ records = {records}, bytes = \"{size}KiB\", delay = \"{delay}ms\", format = \"{format}\", \
                 compress = \"{compress}\" }}\n"
            )
        },
    );
    let hours = (0..24u8, 0..60u8, 1..23u8).prop_map(|(hour, minute, length)| {
        format!("quiet_hours = \"{hour:02}:{minute:02}Z-{:02}:{minute:02}Z\"\n", (hour + length) % 24)
    });
    let batch = (prop::option::of(batch), prop::option::of(hours))
        .prop_map(|(batch, hours)| batch.unwrap_or_default() + &hours.unwrap_or_default());
    let stream = ("[a-z0-9_-]{1,32}", 65_536..1_000_000u64, 1..1000u32, any::<u8>(), any::<bool>(), batch).prop_map(
        |(name, bytes, age, priority, reject, batch)| {
            let when_full = if reject { "reject" } else { "drop-oldest" };
            let body = format!(
                "max_bytes = \"{bytes}KiB\"\nmax_age = \"{age}h\"\npriority = {priority}\nwhen_full = \"{when_full}\"\n\
                 {batch}"
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
        (1..=1400u32, word(FRAMINGS)),
        word(&["auto", "text", "base64", "raw"]),
    );
    let serials = prop::collection::btree_map("[a-z0-9_-]{1,32}", serial, 0..4).prop_map(|devices| {
        let one = |(name, (baud, data, parity, stop, flow, (max, framing), payload))| {
            let framing = str::replace(framing, "MAX", &u32::to_string(&max));
            format!(
                "[[serial]]\nname = \"{name}\"\npath = \"/dev/{name}\"\nbaud = {baud}\ndata_bits = {data}\nparity = \
                 \"{parity}\"\nstop_bits = {stop}\nflow = \"{flow}\"\nframing = {framing}\npayload = \"{payload}\"\n"
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
