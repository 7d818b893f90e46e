//! What registers mean: values out of them, and values into them.
//!
//! Pure. Numbers are exact decimals as far as 38 digits go, and floats beyond that. The same conversion in both directions: what a
//! poll shows, a command can write.

use super::decimal::Decimal;
use crate::config::modbus::{Kind, Poll, Publish, WordOrder};
use serde_json::Value as Json;

/// A reading.
#[derive(Debug, Clone)]
pub enum Value {
    /// Of a bit.
    Bool(bool),
    /// Of a number.
    Number(Decimal),
    /// Of a number that has too many digits, or is none (NaN, infinity).
    Float(f64),
    /// Of a string.
    Text(String),
}

impl Value {
    /// As JSON, which has no NaN and no infinity: these are null.
    pub fn json(&self) -> String {
        match self {
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Float(number) => Json::from(*number).to_string(),
            Value::Text(text) => Json::from(text.as_str()).to_string(),
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(number.float()),
            Value::Float(number) => Some(*number),
            Value::Bool(_) | Value::Text(_) => None,
        }
    }
}

/// Whether a reading is to be published, after this one was.
pub fn is_news(poll: &Poll, last: Option<&Value>, value: &Value) -> bool {
    let (Publish::Change(deadband), Some(last)) = (poll.publish, last) else { return true };
    match (last.float(), value.float()) {
        (Some(one), Some(other)) if one.is_finite() && other.is_finite() && deadband > 0.0 => {
            (one - other).abs() >= deadband
        }
        _ => last.json() != value.json(),
    }
}

/// What these registers hold. `None` if they are not as many as the poll takes.
pub fn decode(poll: &Poll, words: &[u16]) -> Option<Value> {
    if words.len() != usize::from(poll.count()) {
        return None;
    }
    if let Kind::Text { .. } = poll.kind {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        return Some(Value::Text(String::from_utf8_lossy(text).trim_end().to_owned()));
    }
    let bits = in_order(poll, words).iter().fold(0, |bits: u64, word| bits << 16 | u64::from(*word));
    let high = bits.to_be_bytes();
    let [.., a, b, c, d] = high;
    let low = [a, b, c, d];
    Some(match poll.kind {
        Kind::Bool => Value::Bool(bits != 0),
        Kind::U16 | Kind::U32 | Kind::U64 => scaled(poll, i128::from(bits)),
        Kind::I16 => scaled(poll, i128::from(i16::from_be_bytes([c, d]))),
        Kind::I32 => scaled(poll, i128::from(i32::from_be_bytes(low))),
        Kind::I64 => scaled(poll, i128::from(i64::from_be_bytes(high))),
        // Its shortest text: 0.1, and not 0.10000000149011612.
        Kind::F32 => float(poll, f64::from(f32::from_be_bytes(low)), &f32::from_be_bytes(low).to_string()),
        Kind::F64 => float(poll, f64::from_be_bytes(high), &f64::from_be_bytes(high).to_string()),
        Kind::Text { .. } => return None,
    })
}

/// The registers for a value that a command gives.
///
/// # Errors
/// The value can't be written there; the text says what can.
pub fn encode(poll: &Poll, value: &Json) -> Result<Vec<u16>, String> {
    let wrong = |what: &str| Err(format!("{} can't be {}; give {what}", poll.name, shortened(value)));
    let bits = match poll.kind {
        Kind::Bool => return value.as_bool().map_or_else(|| wrong("true or false"), |on| Ok(vec![u16::from(on)])),
        Kind::Text { words } => return text(value, words).map_or_else(|| wrong(&text_rule(words)), Ok),
        Kind::F32 | Kind::F64 => match value.as_f64().and_then(|number| float_bits(poll, number)) {
            Some(bits) => bits,
            None => return wrong("a number that fits into its type"),
        },
        _ => {
            let (least, most) = range(poll.kind);
            match value.as_number().and_then(|number| raw(poll, number)).filter(|raw| (least..=most).contains(raw)) {
                Some(raw) => low_bits(raw),
                None => {
                    let ends = [least, most].map(|raw| scaled(poll, raw).json());
                    let [one, other] = if poll.scale < 0.0 { [&ends[1], &ends[0]] } else { [&ends[0], &ends[1]] };
                    return wrong(&format!("a number from {one} to {other}"));
                }
            }
        }
    };
    let unused = 4_usize.saturating_sub(poll.count().into());
    let words: Vec<u16> = (0..4).rev().map(|place| word_at(bits, place)).skip(unused).collect();
    Ok(in_order(poll, &words))
}

/// From the order of the unit to the most significant register first, or back.
fn in_order(poll: &Poll, words: &[u16]) -> Vec<u16> {
    let mut words = words.to_vec();
    if poll.word_order == WordOrder::Little {
        words.reverse();
    }
    words
}

fn scaled(poll: &Poll, raw: i128) -> Value {
    match scale(poll, Decimal::whole(raw)) {
        Some(number) => Value::Number(number),
        None => Value::Float(raw as f64 * poll.scale + poll.offset),
    }
}

fn float(poll: &Poll, number: f64, shortest: &str) -> Value {
    match Decimal::parse(shortest).and_then(|number| scale(poll, number)) {
        Some(number) => Value::Number(number),
        None => Value::Float(number * poll.scale + poll.offset),
    }
}

fn scale(poll: &Poll, number: Decimal) -> Option<Decimal> {
    number.times(Decimal::of(poll.scale)?)?.plus(Decimal::of(poll.offset)?)
}

/// What the registers must hold for this value: the next whole number.
fn raw(poll: &Poll, number: &serde_json::Number) -> Option<i128> {
    let number = Decimal::parse(&number.to_string())?;
    number.minus(Decimal::of(poll.offset)?)?.quotient(Decimal::of(poll.scale)?)
}

/// The bits of a float; `None` if the value is too large for its type.
fn float_bits(poll: &Poll, number: f64) -> Option<u64> {
    let number = if poll.scale == 1.0 && poll.offset == 0.0 { number } else { (number - poll.offset) / poll.scale };
    match poll.kind {
        // By its text, which rounds to the nearest.
        Kind::F32 => {
            let number: f32 = number.to_string().parse().ok()?;
            number.is_finite().then(|| u64::from(number.to_bits()))
        }
        _ => number.is_finite().then(|| number.to_bits()),
    }
}

fn range(kind: Kind) -> (i128, i128) {
    match kind {
        Kind::I16 => (i16::MIN.into(), i16::MAX.into()),
        Kind::U32 => (0, u32::MAX.into()),
        Kind::I32 => (i32::MIN.into(), i32::MAX.into()),
        Kind::U64 => (0, u64::MAX.into()),
        Kind::I64 => (i64::MIN.into(), i64::MAX.into()),
        _ => (0, u16::MAX.into()),
    }
}

/// The lower half, which is where all types have their bits.
fn low_bits(raw: i128) -> u64 {
    let [_, _, _, _, _, _, _, _, low @ ..] = raw.to_be_bytes();
    u64::from_be_bytes(low)
}

/// The register at this place, from the least significant one.
fn word_at(bits: u64, place: u32) -> u16 {
    let [.., high, low] = (bits >> (16 * place)).to_be_bytes();
    u16::from_be_bytes([high, low])
}

fn text(value: &Json, words: u16) -> Option<Vec<u16>> {
    let bytes = value.as_str()?.as_bytes();
    let room = usize::from(words) * 2;
    if bytes.len() > room || bytes.contains(&0) {
        return None;
    }
    let mut padded = bytes.to_vec();
    padded.resize(room, 0);
    Some(padded.chunks_exact(2).map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u16::from(*byte))).collect())
}

fn text_rule(words: u16) -> String {
    format!("a string of at most {} bytes without NUL", u32::from(words) * 2)
}

/// A value for a message.
fn shortened(value: &Json) -> String {
    const LONGEST: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::modbus::Table;
    use proptest::prelude::*;
    use std::time::Duration;

    fn poll(kind: Kind) -> Poll {
        Poll {
            name: "x".to_owned(),
            table: Table::Holding,
            address: 0,
            kind,
            word_order: WordOrder::Big,
            scale: 1.0,
            offset: 0.0,
            interval: Duration::from_secs(5),
            publish: Publish::Always,
            write: true,
            verify: false,
        }
    }

    fn json(poll: &Poll, words: &[u16]) -> String {
        decode(poll, words).unwrap().json()
    }

    #[test]
    fn registers_never_mean_something_else() {
        let little = |kind| Poll { word_order: WordOrder::Little, ..poll(kind) };
        for (poll, words, expected) in [
            (poll(Kind::U16), &[65_535][..], "65535"),
            (poll(Kind::I16), &[65_535], "-1"),
            (poll(Kind::U32), &[1, 2], "65538"),
            (little(Kind::U32), &[2, 1], "65538"),
            (poll(Kind::I32), &[0xFFFF, 0xFFFE], "-2"),
            (poll(Kind::U64), &[0xFFFF; 4], "18446744073709551615"),
            (little(Kind::I64), &[0, 0, 0, 0x8000], "-9223372036854775808"),
            (poll(Kind::F32), &[0x3DCC, 0xCCCD], "0.1"),
            (little(Kind::F32), &[0xCCCD, 0x3DCC], "0.1"),
            (poll(Kind::F32), &[0x7FC0, 0], "null"),
            (poll(Kind::F64), &[0x4035, 0x8000, 0, 0], "21.5"),
            (poll(Kind::Text { words: 3 }), &[0x4142, 0x4320, 0], "\"ABC\""),
            (Poll { scale: 0.1, ..poll(Kind::U16) }, &[3], "0.3"),
            (Poll { scale: 0.1, offset: -40.0, ..poll(Kind::I16) }, &[615], "21.5"),
            (Poll { scale: 1000.0, ..poll(Kind::U16) }, &[12], "12000"),
        ] {
            assert_eq!(json(&poll, words), expected);
        }
        assert!(decode(&poll(Kind::U32), &[1]).is_none());
    }

    #[test]
    fn a_value_that_does_not_fit_is_never_written() {
        let setpoint = Poll { name: "setpoint".to_owned(), scale: 0.1, ..poll(Kind::I16) };
        assert_eq!(encode(&setpoint, &21.5.into()), Ok(vec![215]));
        assert_eq!(encode(&setpoint, &(-0.3).into()), Ok(vec![65_533]));
        let refused = |poll: &Poll, value: Json| encode(poll, &value).unwrap_err();
        let told = "setpoint can't be 3276.8; give a number from -3276.8 to 3276.7";
        assert_eq!(refused(&setpoint, 3276.8.into()), told);
        let told = "setpoint can't be \"warm\"; give a number from -3276.8 to 3276.7";
        assert_eq!(refused(&setpoint, "warm".into()), told);
        let turned = Poll { scale: -1.0, ..poll(Kind::U16) };
        assert_eq!(refused(&turned, 1.into()), "x can't be 1; give a number from -65535 to 0");
        assert_eq!(refused(&poll(Kind::Bool), 1.into()), "x can't be 1; give true or false");
        assert_eq!(refused(&poll(Kind::F32), 1e39.into()), "x can't be 1e+39; give a number that fits into its type");
        let told = "x can't be \"ABCDE\"; give a string of at most 4 bytes without NUL";
        assert_eq!(refused(&poll(Kind::Text { words: 2 }), "ABCDE".into()), told);
        assert!(encode(&poll(Kind::U64), &1e30.into()).is_err() && encode(&poll(Kind::U64), &Json::Null).is_err());
    }

    #[test]
    fn a_change_within_the_deadband_is_never_news() {
        let poll = Poll { publish: Publish::Change(5.0), ..poll(Kind::F32) };
        let news = |one: f64, other: f64| is_news(&poll, Some(&Value::Float(one)), &Value::Float(other));
        assert!(!news(100.0, 104.9) && news(100.0, 105.0) && news(100.0, 95.0) && !news(100.0, 100.0));
        assert!(news(100.0, f64::NAN) && !news(f64::NAN, f64::NAN) && news(f64::INFINITY, 1.0));
        assert!(is_news(&poll, None, &Value::Float(0.0)));
        let poll = Poll { publish: Publish::Change(0.0), ..poll };
        assert!(is_news(&poll, Some(&Value::Bool(true)), &Value::Bool(false)));
        assert!(!is_news(&poll, Some(&Value::Text("a".to_owned())), &Value::Text("a".to_owned())));
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        use Kind::*;
        prop::sample::select(vec![U16, I16, U32, I32, U64, I64, F32, F64])
    }

    proptest! {
        #[test]
        fn what_is_read_is_never_written_back_differently(kind in kinds(), words in any::<[u16; 4]>(), little in any::<bool>()) {
            let word_order = if little { WordOrder::Little } else { WordOrder::Big };
            let poll = Poll { word_order, ..poll(kind) };
            let words = &words[..usize::from(poll.count())];
            let shown: Json = serde_json::from_str(&json(&poll, words)).unwrap();
            if !shown.is_null() && shown != 0 && shown != -0.0 {
                prop_assert_eq!(encode(&poll, &shown).unwrap(), words, "{}", shown);
            }
        }

        #[test]
        fn a_scaled_value_is_never_written_back_differently(word in any::<[u16; 2]>(), scale in prop::sample::select(vec![0.1, 0.01, 0.001, 10.0, -0.5, 0.125, 3.6]), offset in -500..500i32) {
            let poll = Poll { scale, offset: f64::from(offset) / 10.0, ..poll(Kind::I32) };
            let shown: Json = serde_json::from_str(&json(&poll, &word)).unwrap();
            prop_assert_eq!(encode(&poll, &shown).unwrap(), word, "{}", shown);
        }

        #[test]
        fn no_string_ever_changes_on_its_way(text in "[!-~äöü]{1,12}( [!-~]{1,4})?") {
            let poll = poll(Kind::Text { words: 20 });
            let words = encode(&poll, &text.as_str().into()).unwrap();
            prop_assert_eq!(json(&poll, &words), Json::from(text).to_string());
        }

        #[test]
        fn no_registers_and_no_command_ever_panic(kind in kinds(), words in any::<[u16; 4]>(), scale in any::<f64>(), number in any::<f64>()) {
            let poll = Poll { scale, offset: number, ..poll(kind) };
            let _ = (json(&poll, &words[..usize::from(poll.count())]), encode(&poll, &number.into()));
        }
    }
}
