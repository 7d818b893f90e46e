//! Metrics: what a record's data is in Sparkplug's terms.
//!
//! An object is one metric for each value in it, with the keys on the way joined by `/`; a list is the text of its JSON. A
//! metric's type is that of its first value, and only ever becomes wider, `Int64` to `Double` and any to `String`, so that a
//! device that says `22`, `22.5` and `"n/a"` in turn is born again twice and not with every record.

use super::protobuf::{self, Field};
use crate::record::{Encoding, Record};
use serde_json::Value as Json;

/// Metrics of one record; one with more is the text of its JSON.
pub(super) const MOST: usize = 512;
/// The longest name in bytes; a record with a longer one is the text of its JSON.
pub(super) const LONGEST_NAME: usize = 256;
/// The name of what is not an object.
const VALUE: &str = "value";

/// `DataType`, as far as it is used (section 6.4.16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Int64
    Int64,
    /// Double
    Double,
    /// Boolean
    Boolean,
    /// String
    String,
    /// Bytes
    Bytes,
}

impl Kind {
    /// Its number on the wire.
    pub(super) fn number(self) -> u32 {
        match self {
            Kind::Int64 => 4,
            Kind::Double => 10,
            Kind::Boolean => 11,
            Kind::String => 12,
            Kind::Bytes => 17,
        }
    }

    /// The one with this number.
    pub(super) fn numbered(number: u32) -> Option<Kind> {
        let all = [Kind::Int64, Kind::Double, Kind::Boolean, Kind::String, Kind::Bytes];
        all.into_iter().find(|kind| kind.number() == number)
    }

    /// The type that has room for both.
    pub(super) fn or(self, other: Kind) -> Kind {
        match (self, other) {
            (one, other) if one == other => one,
            (Kind::Int64 | Kind::Double, Kind::Int64 | Kind::Double) => Kind::Double,
            _ => Kind::String,
        }
    }
}

/// A metric's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// There is none.
    Null,
    /// A whole number that fits.
    Int64(i64),
    /// Any other number.
    Double(f64),
    /// `true` or `false`
    Boolean(bool),
    /// Text.
    String(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    fn of(json: Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Boolean(flag),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Value::Int64(whole),
                None => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(text),
            other => Value::String(other.to_string()),
        }
    }

    /// `None`: any.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Value::Null => None,
            Value::Int64(_) => Some(Kind::Int64),
            Value::Double(_) => Some(Kind::Double),
            Value::Boolean(_) => Some(Kind::Boolean),
            Value::String(_) => Some(Kind::String),
            Value::Bytes(_) => Some(Kind::Bytes),
        }
    }

    /// As a wider type.
    fn field(&self, kind: Kind) -> Option<Field> {
        Some(match (kind, self) {
            (_, Value::Null) => return None,
            (Kind::String, Value::String(text)) => Field::Text(text.clone()),
            (Kind::String, Value::Bytes(bytes)) => Field::Text(String::from_utf8_lossy(bytes).into_owned()),
            (Kind::String, value) => Field::Text(value.text()),
            #[expect(clippy::cast_precision_loss, reason = "it is asked for as a double")]
            (Kind::Double, Value::Int64(whole)) => Field::Double(*whole as f64),
            (_, Value::Int64(whole)) => Field::Long(whole.cast_unsigned()),
            (_, Value::Double(number)) => Field::Double(*number),
            (_, Value::Boolean(flag)) => Field::Boolean(*flag),
            (_, Value::String(text)) => Field::Text(text.clone()),
            (_, Value::Bytes(bytes)) => Field::Bytes(bytes.clone()),
        })
    }

    fn text(&self) -> String {
        match self {
            Value::Int64(whole) => whole.to_string(),
            Value::Double(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            Value::Null | Value::String(_) | Value::Bytes(_) => String::new(),
        }
    }

    /// How long it is, in bytes.
    pub(super) fn length(&self) -> usize {
        match self {
            Value::String(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Null | Value::Int64(_) | Value::Double(_) | Value::Boolean(_) => 8,
        }
    }
}

/// On the wire.
pub(super) fn wire(
    name: &str,
    value: &Value,
    kind: Kind,
    time_ms: Option<u64>,
    is_historical: bool,
) -> protobuf::Metric {
    let value = value.field(kind);
    protobuf::Metric {
        name: Some(name.to_owned()),
        timestamp: time_ms,
        datatype: Some(kind.number()),
        is_historical: is_historical.then_some(true),
        is_null: value.is_none().then_some(true),
        value,
    }
}

/// The metrics of a record, at least one; `prefix` stands before their names.
pub(super) fn metrics(record: &Record, prefix: &str) -> Vec<(String, Value)> {
    let whole = || if prefix.is_empty() { VALUE.to_owned() } else { prefix.to_owned() };
    let text = || String::from_utf8_lossy(&record.data).into_owned();
    match record.encoding {
        Encoding::Base64 | Encoding::Raw => vec![(whole(), Value::Bytes(record.data.clone()))],
        Encoding::Text => vec![(whole(), Value::String(text()))],
        Encoding::Json => {
            let mut metrics = Vec::new();
            let json = serde_json::from_slice(&record.data).unwrap_or(Json::Null);
            match flatten(json, prefix.to_owned(), &mut metrics) {
                Ok(()) if !metrics.is_empty() => metrics,
                // Too many, too deep or none.
                Ok(()) | Err(TooMuch) => vec![(whole(), Value::String(text()))],
            }
        }
    }
}

struct TooMuch;

/// The parser has refused what is nested more than 127 levels deep.
fn flatten(json: Json, name: String, metrics: &mut Vec<(String, Value)>) -> Result<(), TooMuch> {
    if metrics.len() >= MOST || name.len() > LONGEST_NAME {
        return Err(TooMuch);
    }
    match json {
        Json::Object(fields) => {
            for (key, value) in fields {
                let name = if name.is_empty() { key } else { format!("{name}/{key}") };
                flatten(value, name, metrics)?;
            }
        }
        value => {
            let name = if name.is_empty() { VALUE.to_owned() } else { name };
            metrics.push((name, Value::of(value)));
        }
    }
    Ok(())
}
