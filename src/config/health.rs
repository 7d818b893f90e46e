//! `[health]`: how often it is reported, and from where on the machine itself is unwell.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::tree::Value;
use super::units::{self, duration_text, size_text};
use super::{keys, values};
use crate::stats::Hundredths;
use std::time::Duration;

/// `[health]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How often the health document is published, and the machine looked at (default 60 s); at least 1 s.
    pub interval: Duration,
    /// From where on the machine itself is unwell.
    pub limits: Limits,
}

/// The limits of `[health]`; `None`: nobody minds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Least free space on the disk of `state_dir` (default 5 %).
    pub disk_free_min: Option<Amount>,
    /// Least files that can still be made there (default 5 %).
    pub inodes_free_min: Option<Amount>,
    /// Least memory that programs can still get (default 5 %).
    pub memory_available_min: Option<Amount>,
    /// Highest temperature of any sensor (default: close to what the sensor itself calls critical).
    pub temperature_max: Option<TemperatureLimit>,
    /// Highest load average over five minutes (default: none).
    pub load_max: Option<Hundredths>,
    /// Most per cent of the time, over a minute, in which work stands still for want of processor, memory or disk, 1 to 99
    /// (default: none).
    pub pressure_max: Option<u8>,
}

impl Default for Limits {
    fn default() -> Self {
        let five = Some(Amount::Percent(5));
        Limits {
            disk_free_min: five,
            inodes_free_min: five,
            memory_available_min: five,
            temperature_max: Some(TemperatureLimit::Critical),
            load_max: None,
            pressure_max: None,
        }
    }
}

/// So much of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// 1 to 50.
    Percent(u8),
    /// Bytes or pieces.
    Absolute(u64),
}

/// `temperature_max`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TemperatureLimit {
    /// What each sensor calls critical, less 5 °C; a sensor that says nothing of the kind has no limit.
    Critical,
    /// Degrees Celsius, 1 to 200, for every sensor.
    Celsius(i64),
}

const DAY: Duration = Duration::from_secs(86_400);
const OFF: &str = "off";
const CRITICAL: &str = "critical";
/// More than half can't be wanted, and the way back to normal needs room.
const PERCENT: std::ops::RangeInclusive<u8> = 1..=50;
const CELSIUS: std::ops::RangeInclusive<i64> = 1..=200;
const LOAD: std::ops::RangeInclusive<f64> = 0.1..=1000.0;

pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>) -> Health {
    let section = root.section(report, &keys::HEALTH, "health", "[health] and its keys below");
    section.refuse_unknown(report);
    let interval =
        section.read(report, "interval", |value| values::duration(value, Duration::from_secs(1)..=DAY, "60s"));
    let default = Limits::default();
    let mut amount = |key, default| section.read(report, key, size_or_percent).unwrap_or(default);
    let disk_free_min = amount("disk_free_min", default.disk_free_min);
    let memory_available_min = amount("memory_available_min", default.memory_available_min);
    let limits = Limits {
        disk_free_min,
        memory_available_min,
        inodes_free_min: section.read(report, "inodes_free_min", inodes).unwrap_or(default.inodes_free_min),
        temperature_max: section.read(report, "temperature_max", temperature).unwrap_or(default.temperature_max),
        load_max: section.read(report, "load_max", load).unwrap_or(default.load_max),
        pressure_max: section.read(report, "pressure_max", pressure).unwrap_or(default.pressure_max),
    };
    Health { interval: interval.unwrap_or(Duration::from_secs(60)), limits }
}

fn is_off(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text == OFF)
}

/// The number of `"5%"`.
fn percent(value: &Value, range: &std::ops::RangeInclusive<u8>) -> Option<Result<u8, String>> {
    let Value::Text(text) = value else { return None };
    let digits = text.strip_suffix('%')?;
    let number = digits.parse().ok().filter(|number| range.contains(number));
    let (least, most) = range.clone().into_inner();
    Some(number.ok_or_else(|| format!("{} is out of range; give \"{least}%\" to \"{most}%\"", values::show(value))))
}

fn size_or_percent(value: &Value) -> Result<Option<Amount>, String> {
    if is_off(value) {
        return Ok(None);
    }
    if let Some(percent) = percent(value, &PERCENT) {
        return percent.map(|percent| Some(Amount::Percent(percent)));
    }
    match value {
        Value::Text(text) if text.starts_with(|c: char| c.is_ascii_digit()) => units::size(text, "200MiB")
            .map(|bytes| Some(Amount::Absolute(bytes)))
            .map_err(|problem| format!("{} {problem}", values::show(value))),
        _ => Err(format!("{} is no amount; write a part such as \"5%\", a size such as \"200MiB\", or \"off\"", {
            values::show(value)
        })),
    }
}

fn inodes(value: &Value) -> Result<Option<Amount>, String> {
    match value {
        _ if is_off(value) => Ok(None),
        Value::Integer(_, Some(number @ 1..)) => Ok(Some(Amount::Absolute(u64::try_from(*number).unwrap_or(1)))),
        _ => percent(value, &PERCENT).map_or_else(
            || {
                let shown = values::show(value);
                Err(format!("{shown} is no amount; write a part such as \"5%\", a number such as 1000, or \"off\""))
            },
            |percent| percent.map(|percent| Some(Amount::Percent(percent))),
        ),
    }
}

fn temperature(value: &Value) -> Result<Option<TemperatureLimit>, String> {
    match value {
        _ if is_off(value) => Ok(None),
        Value::Text(text) if text == CRITICAL => Ok(Some(TemperatureLimit::Critical)),
        Value::Integer(_, Some(celsius)) if CELSIUS.contains(celsius) => Ok(Some(TemperatureLimit::Celsius(*celsius))),
        _ => {
            let (least, most) = CELSIUS.into_inner();
            Err(format!("{} is no limit; give {least} to {most} (degrees Celsius), \"{CRITICAL}\" or \"{OFF}\"", {
                values::show(value)
            }))
        }
    }
}

fn load(value: &Value) -> Result<Option<Hundredths>, String> {
    if is_off(value) {
        return Ok(None);
    }
    let number = match value {
        Value::Integer(_, Some(number)) => number.to_string().parse::<f64>().ok(),
        Value::Float(text) => text.replace('_', "").parse::<f64>().ok(),
        _ => None,
    };
    // In this range nothing is cut off.
    #[expect(clippy::cast_possible_truncation, reason = "100,000 at the most")]
    match number.filter(|number| LOAD.contains(number)) {
        Some(number) => Ok(Some(Hundredths((number * 100.0).round() as i64))),
        None => Err(format!("{} is no load; give a number from 0.1 to 1000, or \"{OFF}\"", values::show(value))),
    }
}

fn pressure(value: &Value) -> Result<Option<u8>, String> {
    match percent(value, &(1..=99)) {
        _ if is_off(value) => Ok(None),
        Some(percent) => percent.map(Some),
        None => Err(format!("{} is no part; write one such as \"50%\", or \"{OFF}\"", values::show(value))),
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Amount::Percent(percent) => write!(f, "{percent}%"),
            Amount::Absolute(number) => write!(f, "{number}"),
        }
    }
}

impl Health {
    pub(super) fn toml(&self, out: &mut Toml) {
        let Limits { disk_free_min, inodes_free_min, memory_available_min, temperature_max, load_max, pressure_max } =
            self.limits;
        out.table("[health]");
        out.text("interval", &duration_text(self.interval));
        let size = |amount| match amount {
            Some(Amount::Absolute(bytes)) => size_text(bytes),
            Some(percent) => percent.to_string(),
            None => OFF.to_owned(),
        };
        out.text("disk_free_min", &size(disk_free_min));
        match inodes_free_min {
            Some(Amount::Absolute(number)) => out.plain("inodes_free_min", number),
            percent => out.text("inodes_free_min", &size(percent)),
        }
        out.text("memory_available_min", &size(memory_available_min));
        match temperature_max {
            Some(TemperatureLimit::Celsius(celsius)) => out.plain("temperature_max", celsius),
            Some(TemperatureLimit::Critical) => out.text("temperature_max", CRITICAL),
            None => out.text("temperature_max", OFF),
        }
        match load_max {
            Some(load) => out.plain("load_max", load),
            None => out.text("load_max", OFF),
        }
        out.text("pressure_max", &pressure_max.map_or_else(|| OFF.to_owned(), |percent| format!("{percent}%")));
    }
}
