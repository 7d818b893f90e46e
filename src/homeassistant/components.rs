//! What Home Assistant shows of a device's values.

use super::{Entity, Gateway};
use crate::config::modbus::{Kind, Poll, Unit};
use crate::config::{Commands, Direction, Edge, Gpio, Input, Output, Sensor, Serial};
use crate::record::PayloadRule;
use serde_json::{Map, Value, json};

/// Home Assistant shows no longer state.
const LONGEST_STATE: usize = 255;
/// Beyond this its numbers, which are doubles, have gaps.
const LARGEST_NUMBER: f64 = 9_007_199_254_740_992.0;
/// It takes no finer step.
const SMALLEST_STEP: f64 = 0.001;
/// What a switch may be told, in the order of preference.
const WORDS: [(&str, &str); 4] = [("on", "off"), ("true", "false"), ("1", "0"), ("ON", "OFF")];

impl Gateway<'_> {
    fn data(&self, device: &str) -> String {
        self.topic(&format!("device/{device}/data"))
    }

    fn set(&self, device: &str) -> String {
        self.topic(&format!("device/{device}/set"))
    }

    fn sensors_of(&self, device: &str) -> impl Iterator<Item = &Sensor> {
        self.config.homeassistant.sensors.iter().filter(move |sensor| sensor.device == device)
    }

    /// A serial device: its named values, or its data as a whole.
    pub(super) fn serial(&self, device: &Serial) -> Vec<Entity> {
        let topic = self.data(&device.name);
        let named = |sensor: &Sensor| {
            let is_number = sensor.unit_of_measurement.is_some() || sensor.state_class.is_some();
            let config =
                json!({ "name": sensor.field, "state_topic": topic, "value_template": pick(&sensor.field, is_number) });
            Entity::new("sensor", &sensor.field, refined(config, Some(sensor)))
        };
        let named: Vec<Entity> = self.sensors_of(&device.name).map(named).collect();
        if !named.is_empty() {
            return named;
        }
        let config = match device.payload {
            PayloadRule::Raw => {
                json!({ "state_topic": topic, "value_template": format!("{{{{ value[:{LONGEST_STATE}] }}}}") })
            }
            PayloadRule::Auto | PayloadRule::Text | PayloadRule::Base64 => json!({
                "state_topic": topic,
                "value_template": format!(
                    "{{% set data = value_json.data %}}{{{{ value_json.ts if data is mapping else (data | string)[:{LONGEST_STATE}] }}}}"
                ),
                "json_attributes_topic": topic,
                "json_attributes_template": "{{ (value_json.data if value_json.data is mapping else {}) | tojson }}",
            }),
        };
        vec![Entity::new("sensor", "data", unnamed(config))]
    }

    /// A GPIO line.
    pub(super) fn line(&self, line: &Gpio) -> Vec<Entity> {
        let (component, object, config) = match &line.direction {
            Direction::Input(input) => self.input(&line.name, input),
            Direction::Output(output) => self.output(&line.name, output),
        };
        vec![Entity::new(component, object, unnamed(config))]
    }

    fn input(&self, name: &str, input: &Input) -> (&'static str, &'static str, Value) {
        let topic = self.data(name);
        let template = |on: &str, off: &str| format!("{{{{ '{on}' if value_json.data.value else '{off}' }}}}");
        match (input.counter, input.edge) {
            (Some(_), _) => {
                let config = json!({
                    "state_topic": topic,
                    "value_template": "{{ value_json.data.count }}",
                    "state_class": "total_increasing",
                });
                ("sensor", "count", config)
            }
            // Only one of its two levels is ever told.
            (None, Edge::Rising | Edge::Falling) => {
                let config = json!({
                    "state_topic": topic,
                    "event_types": [if input.edge == Edge::Rising { "rising" } else { "falling" }],
                    "value_template": "{{ {'event_type': value_json.data.edge} | tojson if value_json.data.edge is defined }}",
                });
                ("event", "edge", config)
            }
            (None, Edge::Both | Edge::None) => {
                ("binary_sensor", "value", json!({ "state_topic": topic, "value_template": template("ON", "OFF") }))
            }
        }
    }

    fn output(&self, name: &str, output: &Output) -> (&'static str, &'static str, Value) {
        let topic = self.data(name);
        let words = output.commands.as_ref().and_then(|commands| {
            WORDS.into_iter().find(|(on, off)| commands.allows(on.as_bytes()) && commands.allows(off.as_bytes()))
        });
        let Some((on, off)) = words else {
            let template = "{{ 'ON' if value_json.data.value else 'OFF' }}";
            return ("binary_sensor", "value", json!({ "state_topic": topic, "value_template": template }));
        };
        let config = json!({
            "state_topic": topic,
            "value_template": format!("{{{{ '{on}' if value_json.data.value else '{off}' }}}}"),
            "command_topic": self.set(name),
            "payload_on": on,
            "payload_off": off,
            "qos": 1,
        });
        ("switch", "value", config)
    }

    /// A Modbus unit: an entity for each of its values.
    pub(super) fn unit(&self, unit: &Unit) -> Vec<Entity> {
        unit.polls.iter().map(|poll| self.poll(unit, poll)).collect()
    }

    fn poll(&self, unit: &Unit, poll: &Poll) -> Entity {
        let name = poll.name.as_str();
        let more = self.sensors_of(&unit.name).find(|sensor| sensor.field == name);
        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
        set("name", name.into());
        set("state_topic", self.data(&unit.name).into());
        let command = |value: &str| format!("{{\"{name}\": {value}}}");
        let allows = |text: &str| unit.commands.as_ref().is_some_and(|commands| commands.allows(text.as_bytes()));
        // What a number or a text will be is not known here.
        let allows_all = unit.commands.as_ref().is_some_and(|commands: &Commands| commands.allow.is_empty());
        let component = match poll.kind {
            Kind::Bool => {
                let (on, off) = (command("true"), command("false"));
                let switches = poll.write && allows(&on) && allows(&off);
                set("value_template", levels(name, if switches { [&on, &off] } else { ["ON", "OFF"] }).into());
                if switches {
                    set("payload_on", on.into());
                    set("payload_off", off.into());
                }
                if switches { "switch" } else { "binary_sensor" }
            }
            Kind::Text { words } if poll.write && allows_all => {
                set("value_template", pick(name, false).into());
                set("command_template", command("{{ value | tojson }}").into());
                set("max", LONGEST_STATE.min(usize::from(words) * 2).into());
                "text"
            }
            Kind::Text { .. } => {
                set("value_template", pick(name, false).into());
                "sensor"
            }
            _ if poll.write && allows_all => {
                let [least, most] = range(poll);
                set("value_template", pick(name, true).into());
                set("command_template", command("{{ value }}").into());
                set("min", number(least));
                set("max", number(most));
                set("step", number(poll.scale.abs().max(SMALLEST_STEP)));
                set("mode", "box".into());
                "number"
            }
            _ => {
                set("value_template", pick(name, true).into());
                set("state_class", "measurement".into());
                "sensor"
            }
        };
        if !matches!(component, "sensor" | "binary_sensor") {
            set("command_topic", self.set(&unit.name).into());
            set("qos", 1.into());
        }
        let mut config = refined(Value::Object(config), more);
        // Only sensors have one.
        if component != "sensor"
            && let Some(config) = config.as_object_mut()
        {
            config.remove("state_class");
        }
        Entity::new(component, name, config)
    }
}

/// The device's only entity: Home Assistant gives it the device's name.
fn unnamed(mut config: Value) -> Value {
    if let Some(config) = config.as_object_mut() {
        config.insert("name".to_owned(), Value::Null);
    }
    config
}

/// With what the user says.
fn refined(mut config: Value, sensor: Option<&Sensor>) -> Value {
    if let (Some(config), Some(sensor)) = (config.as_object_mut(), sensor) {
        for (key, word) in [
            ("name", sensor.name.as_deref()),
            ("unit_of_measurement", sensor.unit_of_measurement.as_deref()),
            ("device_class", sensor.device_class.as_deref()),
            ("state_class", sensor.state_class),
        ] {
            if let Some(word) = word {
                config.insert(key.to_owned(), word.into());
            }
        }
    }
    config
}

/// The value at the end of a path, or nothing for a number, which is ignored, or else what it was.
fn pick(path: &str, is_number: bool) -> String {
    let (outer, last) = path.rsplit_once('.').unwrap_or(("", path));
    let outer = outer.split('.').filter(|key| !key.is_empty());
    let owner = outer.fold("value_json.data".to_owned(), |owner, key| format!("({owner}['{key}'] | default({{}}))"));
    let kept = if is_number { "" } else { " else this.state" };
    format!("{{{{ {owner}['{last}'] if {owner}['{last}'] is defined{kept} }}}}")
}

/// The words for `true` and `false`, or nothing, which is ignored.
fn levels(name: &str, [on, off]: [&str; 2]) -> String {
    format!(
        "{{% if value_json.data['{name}'] is defined %}}{{{{ '{on}' if value_json.data['{name}'] else '{off}' }}}}{{% endif %}}"
    )
}

/// The least and the largest value that a poll's registers can stand for, as far as doubles have no gaps.
fn range(poll: &Poll) -> [f64; 2] {
    let (least, most) = match poll.kind {
        Kind::I16 => (f64::from(i16::MIN), f64::from(i16::MAX)),
        Kind::U32 => (0.0, f64::from(u32::MAX)),
        Kind::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        Kind::U64 => (0.0, LARGEST_NUMBER),
        Kind::I64 | Kind::F32 | Kind::F64 => (-LARGEST_NUMBER, LARGEST_NUMBER),
        Kind::Bool | Kind::U16 | Kind::Text { .. } => (0.0, f64::from(u16::MAX)),
    };
    let mut ends = [least, most].map(|raw| {
        let shown = raw * poll.scale + poll.offset;
        // Without what the multiplication of doubles leaves behind; that would be one step too far.
        let rounded = (shown * 1e6).round() / 1e6;
        if rounded.is_finite() { rounded.clamp(-LARGEST_NUMBER, LARGEST_NUMBER) } else { shown }
    });
    ends.sort_by(f64::total_cmp);
    ends
}

/// Whole numbers without a point.
fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "it is in the range of doubles without gaps")]
    match value.fract() == 0.0 && value.abs() <= LARGEST_NUMBER {
        true => (value as i64).into(),
        false => value.into(),
    }
}
