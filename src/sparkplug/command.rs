//! Commands: what a host application sends, and the command of ours that it becomes.
//!
//! ```text
//! NCMD   Node Control/Rebirth = true     everything is born again, whatever else is in it
//! DCMD   value = 21.5                    {"ts":"2026-11-23T02:41:07.123Z","data":21.5}
//! DCMD   setpoint = 21.5, pump = true    {"ts":...,"data":{"setpoint":21.5,"pump":true}}
//! ```
//!
//! So a Modbus unit can't be told a value that is called `value` and nothing else; give it another name.
//!
//! `ts` is the payload's time stamp: a command that waited somewhere is not carried out late. From there on it is a command as any
//! other, with the device's allow-list, rate and replies. As any other, it is not larger than [`MAX_COMMAND`]: two bytes on the wire
//! may become a metric of a hundred in memory.

use super::metric::LONGEST_NAME;
use super::protobuf::{Field, Metric, Payload};
use crate::command::MAX_COMMAND;
use crate::record::rfc3339;
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

/// Metrics in a command.
const MOST: usize = 256;

/// Whether this NCMD asks for everything to be born again.
pub fn asks_for_rebirth(payload: &[u8]) -> bool {
    let is_rebirth = |metric: &Metric| {
        metric.name.as_deref() == Some("Node Control/Rebirth") && metric.value == Some(Field::Boolean(true))
    };
    read(payload).is_some_and(|payload| payload.metrics.iter().any(is_rebirth))
}

/// `None`: it is no payload of Sparkplug B, or too large for a command.
fn read(payload: &[u8]) -> Option<Payload> {
    (payload.len() <= MAX_COMMAND).then(|| Payload::decode(payload).ok())?
}

/// What this DCMD says, as a command's payload on `P/device/NAME/set`. `None`: it is no payload of Sparkplug B, or says nothing that
/// a device takes.
pub fn command(payload: &[u8]) -> Option<Vec<u8>> {
    let Payload { timestamp, metrics, .. } = read(payload)?;
    if metrics.is_empty() || metrics.len() > MOST {
        return None;
    }
    let mut values = Map::new();
    for metric in metrics {
        // Names alone tell what is meant: our births give no aliases.
        let name = metric.name.clone().filter(|name| (1..=LONGEST_NAME).contains(&name.len()))?;
        insert(&mut values, &name, value(metric)?);
    }
    let data = match values.len() == 1 {
        true => values.remove("value").unwrap_or(Json::Object(values)),
        false => Json::Object(values),
    };
    let command = match timestamp {
        Some(ms) => json!({ "ts": rfc3339(ms), "data": data }),
        None => json!({ "data": data }),
    };
    Some(command.to_string().into_bytes())
}

/// Names are as births have them, with the keys on the way joined by `/`. Not deep: names have a limit.
fn insert(values: &mut Map<String, Json>, name: &str, value: Json) {
    match name.split_once('/') {
        Some((first, rest)) => {
            let inner = values.entry(first).or_insert_with(|| Json::Object(Map::new()));
            match inner.as_object_mut() {
                Some(inner) => insert(inner, rest, value),
                // Two names contradict each other: the later one counts, as with a key that comes twice.
                None => *inner = json!({ rest: value }),
            }
        }
        None => _ = values.insert(name.to_owned(), value),
    }
}

/// `None`: it is of a type that no device takes.
fn value(metric: Metric) -> Option<Json> {
    // The type may be left out, and then it is that of the birth, where whole numbers are Int64.
    let is_signed = matches!(metric.datatype, None | Some(1..=4));
    Some(match metric.value {
        None if metric.is_null == Some(true) => Json::Null,
        None => return None,
        Some(Field::Boolean(flag)) => flag.into(),
        // Int8 to Int32 are in the lower bits, as two's complement; what the sign is extended to differs among senders.
        Some(Field::Int(bits)) => match metric.datatype {
            Some(1) => i64::from(bits.to_le_bytes().map(u8::cast_signed)[0]).into(),
            Some(2) => i64::from(i16::from_le_bytes(bits.to_le_bytes().first_chunk().copied()?)).into(),
            Some(3) => bits.cast_signed().into(),
            _ => bits.into(),
        },
        Some(Field::Long(bits)) if is_signed => bits.cast_signed().into(),
        Some(Field::Long(bits)) => bits.into(),
        // Its shortest text: 0.1, and not 0.10000000149011612.
        Some(Field::Float(number)) => number.to_string().parse::<f64>().ok()?.into(),
        Some(Field::Double(number)) => number.into(),
        Some(Field::Text(text)) => text.into(),
        Some(Field::Bytes(_)) => return None,
    })
}
