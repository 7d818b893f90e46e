//! Home Assistant's MQTT discovery: what is said there of every device and its values. Pure: from the configuration alone.
//!
//! A document for each value, `PREFIX/COMPONENT/GATEWAY[_DEVICE]/VALUE/config`, retained, and not one for a whole device (which Home
//! Assistant takes since 2024.11): a value that is gone is deleted by an empty message, without a list of what else there
//! was; the documents are small, whatever the broker and `mqtt.max_payload` allow; and older versions take them too.
//!
//! | what is configured | what Home Assistant shows |
//! |---|---|
//! | serial device | a sensor: the data; or its time where that is an object, with the object as attributes; or what `[[homeassistant.sensor]]` names |
//! | GPIO input | a binary sensor; with `edge = "rising"` or `"falling"` an event |
//! | GPIO counter | a sensor that only grows |
//! | GPIO output | a switch, as far as `commands` allow; else a binary sensor |
//! | value of a Modbus unit | a sensor or binary sensor; with `write`, and `commands` without `allow`, a number, switch or text |
//! | pillion itself | health, records that wait, temperature, disk, connection |
//!
//! A device is there if pillion is (`P/status`) and if it is itself (`P/device/NAME/state`). A record has some of a Modbus unit's
//! values only, so that the template of each gives nothing, which Home Assistant ignores, or what it was (`this`), where its
//! value is not in the record.
//!
//! [`announced`] remembers what was said, so that it can be taken back.

pub mod announced;
mod components;
mod gateway;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::record::Announcement;
use serde_json::{Value, json};

const CRC: crc::Crc<u32, crc::NoTable> = crc::Crc::<u32, crc::NoTable>::new(&crc::CRC_32_ISO_HDLC);

/// One of Home Assistant's entities: its component, its name in topics, and what is special about it.
struct Entity {
    component: &'static str,
    /// `[a-zA-Z0-9_-]`, unique in its device.
    object: String,
    config: Value,
}

impl Entity {
    fn new(component: &'static str, object: &str, config: Value) -> Self {
        let safe = topic_safe(object);
        // What was made alike is told apart by a checksum.
        let object = if safe == object { safe } else { format!("{safe}_{:08x}", CRC.checksum(object.as_bytes())) };
        Entity { component, object, config }
    }
}

/// What all documents of a gateway have in common.
struct Gateway<'c> {
    config: &'c Config,
    /// In topics. With a checksum, for what it was made of may have had other characters.
    id: String,
}

/// Every document; none if Home Assistant is not to be told. `host` is the machine's name.
pub fn documents(config: &Config, host: &str) -> Vec<Announcement> {
    if !config.homeassistant.enable {
        return Vec::new();
    }
    let prefix = &config.mqtt.topic_prefix;
    let id = format!("{}_{:08x}", topic_safe(prefix), CRC.checksum(prefix.as_bytes()));
    let gateway = Gateway { config, id };
    let mut documents = gateway.own(host);
    for device in &config.serial {
        documents.extend(gateway.device(&device.name, "Serial device", gateway.serial(device)));
    }
    for (bus, unit) in config.modbus.iter().flat_map(|bus| bus.units.iter().map(move |unit| (bus, unit))) {
        let model = format!("Modbus unit {} on {}", unit.unit, bus.name);
        documents.extend(gateway.device(&unit.name, &model, gateway.unit(unit)));
    }
    for line in &config.gpio {
        documents.extend(gateway.device(&line.name, "GPIO line", gateway.line(line)));
    }
    documents
}

impl Gateway<'_> {
    fn topic(&self, below: &str) -> String {
        format!("{}/{below}", self.config.mqtt.topic_prefix)
    }

    /// The documents of a device.
    fn device(&self, name: &str, model: &str, entities: Vec<Entity>) -> Vec<Announcement> {
        let prefix = &self.config.mqtt.topic_prefix;
        let device = json!({
            "identifiers": [format!("{prefix}/{name}")],
            "name": name,
            "model": model,
            "sw_version": env!("CARGO_PKG_VERSION"),
            "via_device": prefix,
        });
        let online = "{{ value_json.state }}";
        let availability = json!([
            { "topic": self.topic("status"), "value_template": online },
            { "topic": self.topic(&format!("device/{name}/state")), "value_template": online },
        ]);
        let of = |entity: Entity| {
            let unique = format!("{prefix}/{name}/{}", entity.object);
            self.document(&format!("{}_{name}", self.id), &unique, entity, &device, Some(&availability))
        };
        entities.into_iter().map(of).collect()
    }

    fn document(
        &self,
        node: &str,
        unique_id: &str,
        entity: Entity,
        device: &Value,
        availability: Option<&Value>,
    ) -> Announcement {
        let Entity { component, object, mut config } = entity;
        if let Some(config) = config.as_object_mut() {
            let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
            set("unique_id", unique_id.into());
            set("device", device.clone());
            set("origin", json!({ "name": "pillion", "sw_version": env!("CARGO_PKG_VERSION") }));
            if let Some(availability) = availability {
                set("availability", availability.clone());
                set("availability_mode", "all".into());
            }
        }
        let prefix = &self.config.homeassistant.prefix;
        Announcement { topic: format!("{prefix}/{component}/{node}/{object}/config"), payload: config.to_string() }
    }
}

/// What Home Assistant allows in the parts of a topic.
fn topic_safe(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' }).collect()
}
