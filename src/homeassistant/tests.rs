use super::*;
use crate::config::{Source, Surroundings, parse};
use serde_json::Map;
use std::collections::BTreeSet;
use std::path::Path;

/// One of each kind.
const EVERYTHING: &str = r#"
instance = "gateway"
[mqtt]
topic_prefix = "plant 1/gw"
[homeassistant]
enable = true
prefix = "ha"
[[homeassistant.sensor]]
device = "meter"
field = "phase1.power"
name = "Power"
unit_of_measurement = "W"
device_class = "power"
state_class = "measurement"
[[homeassistant.sensor]]
device = "inverter"
field = "energy"
unit_of_measurement = "kWh"
device_class = "energy"
state_class = "total_increasing"
[[homeassistant.sensor]]
device = "inverter"
field = "setpoint"
unit_of_measurement = "°C"
state_class = "measurement"
[[serial]]
name = "meter"
path = "/dev/a"
[[serial]]
name = "scale"
path = "/dev/b"
[[serial]]
name = "bytes"
path = "/dev/c"
payload = "raw"
[[modbus]]
name = "bus"
path = "/dev/d"
[[modbus.unit]]
name = "inverter"
unit = 7
commands = {}
[[modbus.unit.poll]]
name = "energy"
table = "input"
address = 0
type = "u32"
[[modbus.unit.poll]]
name = "running"
table = "discrete"
address = 0
[[modbus.unit.poll]]
name = "pump"
table = "coil"
address = 0
write = true
[[modbus.unit.poll]]
name = "setpoint"
table = "holding"
address = 10
type = "i16"
scale = 0.1
write = true
[[modbus.unit.poll]]
name = "label"
table = "holding"
address = 20
type = "string"
words = 8
write = true
[[modbus.unit.poll]]
name = "model"
table = "holding"
address = 30
type = "string"
words = 8
[[gpio]]
name = "door"
chip = "gpiochip0"
line = 1
direction = "input"
[[gpio]]
name = "button"
chip = "gpiochip0"
line = 2
direction = "input"
edge = "rising"
[[gpio]]
name = "water"
chip = "gpiochip0"
line = 3
direction = "input"
counter = { interval = "10s" }
[[gpio]]
name = "relay"
chip = "gpiochip0"
line = 4
direction = "output"
commands = { allow = ["true", "false"] }
[[gpio]]
name = "lamp"
chip = "gpiochip0"
line = 5
direction = "output"
"#;

fn config(text: &str) -> Config {
    let surroundings = Surroundings { host: "pi".to_owned(), ..Surroundings::default() };
    parse(&[Source::new("gateway.toml", text)], &surroundings, Path::new("/etc/pillion"), &|_| false).unwrap().config
}

/// Topics and documents, each without what they all have.
fn shown(text: &str) -> Vec<(String, Map<String, Value>)> {
    let short = |Announcement { topic, payload }| {
        let mut document: Map<String, Value> = serde_json::from_str(&payload).unwrap();
        document.retain(|key, _| !matches!(key.as_str(), "device" | "origin" | "availability" | "availability_mode"));
        (topic, document)
    };
    documents(&config(text), "pi").into_iter().map(short).collect()
}

fn of(device: &str) -> Vec<Map<String, Value>> {
    let node = format!("plant_1_gw_a675eff6_{device}");
    let all = shown(EVERYTHING).into_iter();
    all.filter(|(topic, _)| topic.split('/').nth(2) == Some(&node)).map(|(_, document)| document).collect()
}

#[test]
fn nobody_is_ever_told_unasked() {
    assert_eq!(documents(&config("[[serial]]\nname = \"a\"\npath = \"/dev/a\""), "pi"), []);
}

/// What Home Assistant and its users have built upon.
#[test]
fn a_document_never_changes_its_shape() {
    let lines: Vec<String> = documents(&config(EVERYTHING), "pi")
        .into_iter()
        .map(|Announcement { topic, payload }| {
            // The version is another one in each release.
            let payload = payload.replace(env!("CARGO_PKG_VERSION"), "VERSION");
            format!("{topic} {payload}\n")
        })
        .collect();
    let fixture = include_str!("../../tests/fixtures/homeassistant.txt");
    assert_eq!(lines.concat(), fixture, "this is what Home Assistant has built upon");
}

#[test]
fn two_values_never_share_a_topic_or_an_id() {
    let shown = shown(EVERYTHING);
    assert_eq!(shown.len(), 5 + 3 + 6 + 5);
    let topics: BTreeSet<_> = shown.iter().map(|(topic, _)| topic).collect();
    let ids: BTreeSet<_> = shown.iter().map(|(_, document)| document["unique_id"].to_string()).collect();
    assert_eq!((topics.len(), ids.len()), (shown.len(), shown.len()));
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
    assert!(topics.iter().all(|topic| topic.chars().all(is_allowed)), "{topics:?}");
    // Prefixes that look alike in a topic.
    let alike = |prefix: &str| {
        let text = format!("[mqtt]\ntopic_prefix = \"{prefix}\"\n[homeassistant]\nenable = true");
        documents(&config(&text), "pi").remove(0).topic
    };
    assert_ne!(alike("a/b"), alike("a_b"));
}

#[test]
fn a_switch_never_says_what_is_not_allowed() {
    let relay = of("relay").remove(0);
    assert_eq!((&relay["payload_on"], &relay["payload_off"]), (&json!("true"), &json!("false")));
    assert_eq!(relay["command_topic"], "plant 1/gw/device/relay/set");
    assert!(!of("lamp")[0].contains_key("command_topic"));
    let none = EVERYTHING.replace("commands = {}", "commands = { allow = [\"x\"] }");
    let commanded: Vec<_> =
        shown(&none).into_iter().filter(|(_, document)| document.contains_key("command_topic")).collect();
    assert_eq!(commanded.len(), 1, "{commanded:?}");
}

#[test]
fn a_number_never_leaves_what_its_registers_hold() {
    let of = |kind: &str, more: &str| {
        let text = format!(
            "[homeassistant]\nenable = true\n[[modbus]]\nname = \"b\"\npath = \"/dev/a\"\n[[modbus.unit]]\nname = \"u\"\nunit = 1\n\
             commands = {{}}\n[[modbus.unit.poll]]\nname = \"v\"\ntable = \"holding\"\naddress = 0\nwrite = true\ntype = \"{kind}\"\n{more}"
        );
        let document = shown(&text).pop().unwrap().1;
        [&document["min"], &document["max"], &document["step"]].map(ToString::to_string)
    };
    assert_eq!(of("u16", ""), ["0", "65535", "1"]);
    assert_eq!(of("i16", "scale = 0.1"), ["-3276.8", "3276.7", "0.1"]);
    assert_eq!(of("u16", "scale = -0.0001\noffset = 5"), ["-1.5535", "5", "0.001"]);
    assert_eq!(of("u64", ""), ["0", "9007199254740992", "1"]);
    assert_eq!(of("f32", "scale = 1000000000"), ["-9007199254740992", "9007199254740992", "1000000000"]);
}
