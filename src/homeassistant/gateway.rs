//! What Home Assistant shows of pillion itself, from `P/status` and `P/health`.

use super::{Entity, Gateway};
use crate::record::Announcement;
use serde_json::{Value, json};

/// The document on `P/health` has no sensors where the machine has none: nothing comes out then, and is ignored.
const TEMPERATURE: &str = "{% set sensors = value_json.data.host.temperatures | default({}) %}\
    {{ sensors.values() | map(attribute='celsius') | max if sensors }}";
const DISK: &str = "{% set disk = value_json.data.host.disk | default({}) %}\
    {{ (100 - 100 * disk.free_bytes / disk.total_bytes) | round(1) if disk }}";

impl Gateway<'_> {
    /// Its documents.
    pub(super) fn own(&self, host: &str) -> Vec<Announcement> {
        let prefix = &self.config.mqtt.topic_prefix;
        let device = json!({
            "identifiers": [prefix],
            "name": format!("{} on {host}", self.config.instance),
            "manufacturer": "pillion",
            "model": "Edge sidecar",
            "sw_version": env!("CARGO_PKG_VERSION"),
        });
        let status = self.topic("status");
        let availability = json!([{ "topic": status, "value_template": "{{ value_json.state }}" }]);
        let connection = json!({
            "name": "Connection",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": status,
            "value_template": "{{ 'ON' if value_json.state == 'online' else 'OFF' }}",
        });
        let of = |entity: Entity, availability: Option<&Value>| {
            let unique = format!("{prefix}/{}", entity.object);
            self.document(&self.id, &unique, entity, &device, availability)
        };
        let mut documents = vec![of(Entity::new("binary_sensor", "connection", connection), None)];
        documents.extend(self.sensors().into_iter().map(|entity| of(entity, Some(&availability))));
        documents
    }

    fn sensors(&self) -> Vec<Entity> {
        let health = self.topic("health");
        let sensor = |object: &str, name: &str, template: &str, more: Value| {
            let mut config = json!({
                "name": name,
                "entity_category": "diagnostic",
                "state_topic": health,
                "value_template": template,
            });
            if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
                config.extend(more);
            }
            Entity::new("sensor", object, config)
        };
        vec![
            sensor(
                "health",
                "Health",
                "{{ value_json.data.health.state }}",
                json!({
                    "device_class": "enum",
                    "options": ["healthy", "degraded", "failed"],
                    "json_attributes_topic": health,
                    "json_attributes_template": "{{ {'reasons': value_json.data.health.reasons} | tojson }}",
                }),
            ),
            sensor(
                "waiting",
                "Records waiting",
                "{{ value_json.data.streams.values() | sum(attribute='waiting') }}",
                json!({ "state_class": "measurement" }),
            ),
            sensor(
                "temperature",
                "Temperature",
                TEMPERATURE,
                json!({ "device_class": "temperature", "unit_of_measurement": "°C", "state_class": "measurement" }),
            ),
            sensor("disk", "Disk used", DISK, json!({ "unit_of_measurement": "%", "state_class": "measurement" })),
        ]
    }
}
