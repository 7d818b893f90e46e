//! `[homeassistant]`: whether Home Assistant is told of the devices, and what it can't know of their values.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::tree::{Node, Value};
use super::{keys, values};

/// `[homeassistant]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAssistant {
    /// Whether it is told of the devices (default no).
    pub enable: bool,
    /// Its discovery prefix (default `homeassistant`).
    pub prefix: String,
    /// What it can't know of values.
    pub sensors: Vec<Sensor>,
}

/// `[[homeassistant.sensor]]`: a value of a serial device, or more about one of a Modbus unit
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sensor {
    /// A serial device or a Modbus unit.
    pub device: String,
    /// Keys in the record's data, with dots between; unique with the device.
    pub field: String,
    /// What users see (default: the field).
    pub name: Option<String>,
    /// As Home Assistant writes it: `kWh`, `°C`.
    pub unit_of_measurement: Option<String>,
    /// One of Home Assistant's: `energy`, `temperature`.
    pub device_class: Option<String>,
    /// `measurement`, `total` or `total_increasing` (default: a Modbus number is a measurement).
    pub state_class: Option<&'static str>,
}

const MOST_SENSORS: usize = 256;
const LONGEST_PREFIX: usize = 1024;
/// Words of Home Assistant, and names of values.
const LONGEST_WORD: usize = 64;
const STATE_CLASSES: [(&str, &str); 3] =
    [("measurement", "measurement"), ("total", "total"), ("total_increasing", "total_increasing")];

/// What a device has values under.
pub(super) enum Values {
    /// Anything: the device decides.
    Any,
    /// These names only.
    Named(Vec<String>),
    /// None that could be named.
    None,
}

/// Reads the section. `devices` are those of the whole configuration.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, devices: &[(&str, Values)]) -> HomeAssistant {
    let section = root.section(report, &keys::HOMEASSISTANT, "homeassistant", "[homeassistant] and its keys below");
    section.refuse_unknown(report);
    HomeAssistant {
        enable: section.read(report, "enable", values::boolean).unwrap_or(false),
        prefix: section
            .read(report, "prefix", |value| prefix(values::text(value)?))
            .unwrap_or_else(|| "homeassistant".to_owned()),
        sensors: sensors(&section, report, devices),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let text = values::mqtt_text(text, LONGEST_PREFIX)?;
    match text.contains(['+', '#']) || text.starts_with(['/', '$']) || text.ends_with('/') {
        true => Err(format!(
            "{} is no topic that others can stand below; give Home Assistant's discovery prefix, such as \"homeassistant\"",
            values::quoted(text)
        )),
        false => Ok(text.to_owned()),
    }
}

fn sensors(owner: &Section<'_>, report: &mut Report<'_>, devices: &[(&str, Values)]) -> Vec<Sensor> {
    const EXAMPLE: &str = "[[homeassistant.sensor]]";
    let list = owner.read(report, "sensor", |value| match value {
        Value::List(list) if list.len() > MOST_SENSORS => {
            Err(format!("there are {}; give at most {MOST_SENSORS}", list.len()))
        }
        Value::List(list) => Ok(list),
        other => Err(format!("{} is not a list; write {EXAMPLE} once for each", values::show(other))),
    });
    let mut sensors: Vec<Sensor> = Vec::new();
    for (index, Node { place, value }) in list.into_iter().flatten().enumerate() {
        let path = format!("homeassistant.sensor[{index}]");
        let Value::Table(table) = value else {
            report.problem(*place, path, format!("is not a table; write {EXAMPLE} and its keys below"));
            continue;
        };
        let section = Section::at(&keys::HOMEASSISTANT_SENSOR, path, *place, table);
        let sensor = sensor(&section, report, devices);
        if sensors.iter().any(|other| (&other.device, &other.field) == (&sensor.device, &sensor.field)) {
            let message = "another sensor has the same device and field; give each value one sensor".to_owned();
            report.conclusion(section.place("field"), section.key("field"), message);
        }
        sensors.push(sensor);
    }
    sensors
}

fn sensor(section: &Section<'_>, report: &mut Report<'_>, devices: &[(&str, Values)]) -> Sensor {
    section.refuse_unknown(report);
    let of = |name: &str| devices.iter().find(|(known, _)| *known == name).map(|(_, values)| values);
    let device = section.required(report, "device", "\"meter\"", |value| {
        let name = values::text(value)?;
        match of(name) {
            Some(Values::None) => Err(format!("{} is a GPIO line, of which all is known", values::quoted(name))),
            Some(_) => Ok(name.to_owned()),
            None => Err(format!("there is no device {}; give the name of one", values::quoted(name))),
        }
    });
    let device = device.unwrap_or_default();
    let field = section.required(report, "field", "\"kWh\"", |value| {
        let path = field(values::text(value)?)?;
        match of(&device) {
            Some(Values::Named(names)) if !names.contains(&path) => {
                Err(format!("{} is none of what is read there: {}", values::quoted(&path), names.join(", ")))
            }
            _ => Ok(path),
        }
    });
    let mut word = |key| section.read(report, key, |value| values::mqtt_text(values::text(value)?, LONGEST_WORD));
    let (name, unit, device_class) = (word("name"), word("unit_of_measurement"), word("device_class"));
    Sensor {
        device,
        field: field.unwrap_or_default(),
        name: name.map(str::to_owned),
        unit_of_measurement: unit.map(str::to_owned),
        device_class: device_class.map(str::to_owned),
        state_class: section.choice(report, "state_class", &STATE_CLASSES),
    }
}

/// Names of keys, with dots between: they end up in a template, between quotes.
fn field(text: &str) -> Result<String, String> {
    let is_key = |key: &str| {
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ' | ':' | '/' | '%'))
    };
    match text.len() <= LONGEST_WORD && text.split('.').all(is_key) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{} is not a value's name of at most {LONGEST_WORD} bytes; write one such as \"kWh\", or \"phase1.power\" for \
             {{\"phase1\":{{\"power\":…}}}}",
            values::quoted(text)
        )),
    }
}

impl HomeAssistant {
    /// As the effective configuration shows it.
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[homeassistant]");
        out.plain("enable", self.enable);
        out.text("prefix", &self.prefix);
        for sensor in &self.sensors {
            out.table("[[homeassistant.sensor]]");
            out.text("device", &sensor.device);
            out.text("field", &sensor.field);
            for (key, word) in [
                ("name", sensor.name.as_deref()),
                ("unit_of_measurement", sensor.unit_of_measurement.as_deref()),
                ("device_class", sensor.device_class.as_deref()),
                ("state_class", sensor.state_class),
            ] {
                word.iter().for_each(|word| out.text(key, word));
            }
        }
    }
}
