//! Every key that exists, and what to say about others.

/// The keys of one kind of table.
#[derive(Debug)]
pub(super) struct Schema {
    /// Dotted, without the names that the user gives.
    name: &'static str,
    /// Where it is, in the user's words.
    title: &'static str,
    keys: &'static [&'static str],
}

pub(super) const ROOT: Schema = Schema {
    name: "",
    title: "at the top of the file, before the first [table]",
    keys: &[
        "instance",
        "state_dir",
        "runtime_dir",
        "app",
        "mqtt",
        "spool",
        "stream",
        "serial",
        "modbus",
        "gpio",
        "managed_file",
        "apply_dir",
        "discovery",
        "homeassistant",
        "sparkplug",
        "health",
        "api",
    ],
};
pub(super) const APP: Schema = Schema {
    name: "app",
    title: "in [app]",
    keys: &["unit", "heartbeat_timeout", "commands", "config", "logs", "log_level", "log_rate", "recorder"],
};
pub(super) const API: Schema = Schema { name: "api", title: "in [api]", keys: &["allow_users", "allow_groups"] };
pub(super) const MQTT: Schema = Schema {
    name: "mqtt",
    title: "in [mqtt]",
    keys: &[
        "servers",
        "version",
        "client_id",
        "topic_prefix",
        "username",
        "password_file",
        "ca_file",
        "cert_file",
        "key_file",
        "server_name",
        "alpn",
        "keep_alive",
        "inflight",
        "ack_timeout",
        "fall_back",
        "max_payload",
        "backfill_rate",
        "budget",
    ],
};
pub(super) const SPOOL: Schema = Schema { name: "spool", title: "in [spool]", keys: &["sync", "segment_bytes"] };
pub(super) const STREAM: Schema = Schema {
    name: "stream",
    title: "in [stream.NAME]",
    keys: &["max_bytes", "max_age", "when_full", "priority", "convention", "batch", "quiet_hours"],
};
pub(super) const BATCH: Schema = Schema {
    name: "stream.batch",
    title: "in the batch of a [stream.NAME]",
    keys: &["records", "bytes", "delay", "format", "compress"],
};
pub(super) const SERIAL: Schema = Schema {
    name: "serial",
    title: "in [[serial]]",
    keys: &[
        "name",
        "path",
        "usb",
        "baud",
        "data_bits",
        "parity",
        "stop_bits",
        "flow",
        "rs485",
        "low_latency",
        "dtr",
        "rts",
        "framing",
        "payload",
        "commands",
    ],
};
/// Of all kinds of framing; each kind has some of them.
pub(super) const FRAMING: Schema = Schema {
    name: "serial.framing",
    title: "in the framing of a [[serial]]",
    keys: &["kind", "max", "delimiter", "length_bytes", "endian", "includes_header", "size", "gap", "idle", "crc"],
};
pub(super) const LINES: Schema = Schema {
    name: "serial.framing.lines",
    title: "in a framing with kind = \"lines\"",
    keys: &["kind", "max", "delimiter", "crc"],
};
pub(super) const COBS: Schema =
    Schema { name: "serial.framing.cobs", title: "in a framing with kind = \"cobs\"", keys: &["kind", "max", "crc"] };
pub(super) const SLIP: Schema =
    Schema { name: "serial.framing.slip", title: "in a framing with kind = \"slip\"", keys: &["kind", "max", "crc"] };
pub(super) const LENGTH_PREFIXED: Schema = Schema {
    name: "serial.framing.length-prefixed",
    title: "in a framing with kind = \"length-prefixed\"",
    keys: &["kind", "max", "length_bytes", "endian", "includes_header", "idle", "crc"],
};
pub(super) const FIXED: Schema = Schema {
    name: "serial.framing.fixed",
    title: "in a framing with kind = \"fixed\"",
    keys: &["kind", "size", "idle", "crc"],
};
pub(super) const IDLE_GAP: Schema = Schema {
    name: "serial.framing.idle-gap",
    title: "in a framing with kind = \"idle-gap\"",
    keys: &["kind", "max", "gap", "crc"],
};
pub(super) const RS485: Schema = Schema {
    name: "serial.rs485",
    title: "in the rs485 of a [[serial]]",
    keys: &["rts_on_send", "delay_before_send", "delay_after_send", "rx_during_tx"],
};
pub(super) const COMMANDS: Schema =
    Schema { name: "serial.commands", title: "in the commands of a device", keys: &["allow", "rate", "ttl", "reply"] };
pub(super) const MODBUS: Schema = Schema {
    name: "modbus",
    title: "in [[modbus]]",
    keys: &["name", "path", "usb", "baud", "parity", "stop_bits", "rs485", "low_latency", "timeout", "gap", "unit"],
};
pub(super) const MODBUS_UNIT: Schema = Schema {
    name: "modbus.unit",
    title: "in [[modbus.unit]]",
    keys: &["name", "unit", "backoff", "max_backoff", "commands", "poll"],
};
pub(super) const MODBUS_POLL: Schema = Schema {
    name: "modbus.unit.poll",
    title: "in [[modbus.unit.poll]]",
    keys: &[
        "name",
        "table",
        "address",
        "type",
        "words",
        "word_order",
        "scale",
        "offset",
        "interval",
        "publish",
        "deadband",
        "write",
        "verify",
    ],
};
pub(super) const DISCOVERY: Schema = Schema { name: "discovery", title: "in [discovery]", keys: &["filter"] };
pub(super) const HOMEASSISTANT: Schema =
    Schema { name: "homeassistant", title: "in [homeassistant]", keys: &["enable", "prefix", "sensor"] };
pub(super) const HOMEASSISTANT_SENSOR: Schema = Schema {
    name: "homeassistant.sensor",
    title: "in [[homeassistant.sensor]]",
    keys: &["device", "field", "name", "unit_of_measurement", "device_class", "state_class"],
};
pub(super) const SPARKPLUG: Schema = Schema { name: "sparkplug", title: "in [sparkplug]", keys: &["group", "node"] };
pub(super) const MANAGED_FILE: Schema = Schema {
    name: "managed_file",
    title: "in [[managed_file]]",
    keys: &["key", "path", "check", "action", "healthy_within", "mode", "owner"],
};
pub(super) const GPIO: Schema = Schema {
    name: "gpio",
    title: "in [[gpio]]",
    keys: &[
        "name",
        "chip",
        "line",
        "direction",
        "bias",
        "active_low",
        "edge",
        "debounce",
        "counter",
        "initial",
        "safe",
        "safe_after",
        "hold",
        "commands",
    ],
};
pub(super) const COUNTER: Schema =
    Schema { name: "gpio.counter", title: "in the counter of a [[gpio]]", keys: &["interval"] };
pub(super) const HEALTH: Schema = Schema {
    name: "health",
    title: "in [health]",
    keys: &[
        "interval",
        "disk_free_min",
        "inodes_free_min",
        "memory_available_min",
        "temperature_max",
        "load_max",
        "pressure_max",
    ],
};

const ALL: [&Schema; 22] = [
    &API,
    &DISCOVERY,
    &SPARKPLUG,
    &HOMEASSISTANT,
    &HOMEASSISTANT_SENSOR,
    &MANAGED_FILE,
    &ROOT,
    &APP,
    &MQTT,
    &SPOOL,
    &STREAM,
    &BATCH,
    &SERIAL,
    &RS485,
    &FRAMING,
    &COMMANDS,
    &MODBUS,
    &MODBUS_UNIT,
    &MODBUS_POLL,
    &GPIO,
    &COUNTER,
    &HEALTH,
];

impl Schema {
    /// Whether this table has this key now.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains(&key)
    }

    /// Whether this is one kind of framing.
    fn is_framing(&self) -> bool {
        self.name.starts_with(FRAMING.name)
    }

    /// What to say about a key that this table has not.
    pub(super) fn advice(&self, key: &str) -> String {
        if self.name == "mqtt" && key == "password" {
            return "passwords do not belong here; write it into a file that only pillion can read and give \
                    password_file"
                .to_owned();
        }
        if self.is_framing() && FRAMING.has(key) {
            return format!("does not belong {}; known there are {}", self.title, self.keys.join(", "));
        }
        if let Some(near) = self.nearest(key) {
            return format!("unknown key; did you mean `{near}`?");
        }
        if let Some(owner) = ALL.iter().find(|schema| schema.has(key)) {
            return format!("unknown key; it belongs {}", owner.title);
        }
        let place = if self.name.is_empty() { "there are" } else { "known here are" };
        format!("unknown key; {place} {}", self.keys.join(", "))
    }

    /// The key that was probably meant: the same but for case, `_` and `-`; one that is the start of the other;
    /// or one within two slips of the finger.
    fn nearest(&self, key: &str) -> Option<&'static str> {
        if key.len() > 32 {
            return None;
        }
        let wanted = plain(key);
        let same = self.keys.iter().find(|known| plain(known) == wanted);
        let close = || {
            let slips = self.keys.iter().map(|known| (slips(&plain(known), &wanted), *known));
            let close = slips.filter(|(slips, known)| *slips <= 2 && slips * 3 <= known.len());
            close.min_by_key(|(slips, _)| *slips).map(|(_, known)| known)
        };
        let start = || {
            let starts = |known: &str| known.len() > 3 && wanted.starts_with(known);
            let begins = |known: &str| wanted.len() > 3 && known.starts_with(&wanted);
            self.keys.iter().find(|known| starts(&plain(known)) || begins(&plain(known))).copied()
        };
        same.copied().or_else(close).or_else(start)
    }
}

fn plain(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// How far apart two words are; letters in the wrong order are one slip.
fn slips(one: &str, other: &str) -> usize {
    let sorted = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let distance = distance(one, other);
    if distance > 0 && sorted(one) == sorted(other) { 1 } else { distance }
}

/// Levenshtein distance in characters.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, b) in row.iter_mut().skip(1).zip(other.chars()) {
            let best = (diagonal + usize::from(a != b)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_slip_of_the_finger_never_goes_without_a_guess() {
        for (key, meant) in [
            ("keepalive", "keep_alive"),
            ("KeepAlive", "keep_alive"),
            ("client-id", "client_id"),
            ("server", "servers"),
            ("topic_prfix", "topic_prefix"),
            ("topic", "topic_prefix"),
            ("in_flight", "inflight"),
        ] {
            assert_eq!(MQTT.nearest(key), Some(meant), "{key}");
        }
        assert_eq!(SERIAL.nearest("baudrate"), Some("baud"));
        assert_eq!(SERIAL.nearest("paht"), Some("path"));
        assert_eq!(ROOT.nearest("streams"), Some("stream"));
        assert_eq!(MQTT.nearest("port"), None);
        assert_eq!(MQTT.nearest("x"), None);
        assert_eq!(MQTT.nearest(""), None);
    }

    /// What the example has of each kind of table, by its dotted name; inline tables are with the one that they are in.
    fn parts(example: &str) -> BTreeMap<String, String> {
        let mut parts = BTreeMap::new();
        let mut table = String::new();
        for line in example.lines() {
            let line = line.strip_prefix('#').unwrap_or(line);
            if let Some(heading) = line.strip_prefix('[') {
                let heading = heading.trim_matches(['[', ']']);
                table = heading.strip_suffix(".telemetry").unwrap_or(heading).to_owned();
            }
            let part: &mut String = parts.entry(table.clone()).or_default();
            part.extend([line, "\n"]);
        }
        parts
    }

    #[test]
    fn no_key_is_ever_missing_from_the_example() {
        // Those of one framing each are within those of all.
        let of_kinds = [LINES, COBS, SLIP, LENGTH_PREFIXED, FIXED, IDLE_GAP].len();
        let schemas = include_str!("keys.rs").lines().filter(|line| line.starts_with("pub(super) const "));
        assert_eq!(schemas.count(), ALL.len() + of_kinds, "one is not in ALL");
        let parts = parts(include_str!("../../systemd/gateway.toml"));
        for schema in ALL {
            let table = match parts.contains_key(schema.name) {
                true => schema.name,
                false => schema.name.rsplit_once('.').unwrap().0,
            };
            let part = &parts[table];
            let like_serial = part.lines().find(|line| line.ends_with("as for a serial device.")).unwrap_or_default();
            for key in schema.keys {
                let shown = ["\n", "{ ", ", ", ": "].iter().any(|before| part.contains(&format!("{before}{key} = ")));
                let below = [schema.name, key].join(".");
                let is_table = parts.contains_key(below.trim_start_matches('.'));
                assert!(shown || is_table || like_serial.contains(key), "{key} {}", schema.title);
            }
        }
    }

    #[test]
    fn distances_are_never_wrong() {
        for (one, other, slips) in [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("äb", "b", 1)]
        {
            assert_eq!(distance(one, other), slips, "{one} {other}");
        }
    }
}
