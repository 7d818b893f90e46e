//! One value at a time: from what TOML holds to what we mean, or the sentence that says what to write instead.

use super::tree::Value;
use super::units;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a name of a device or stream may be.
const NAME_RULE: &str = "use 1 to 32 of a-z, 0-9, _ and -";

/// A value for a message: quoted if it is text, short, and without anything that disturbs a terminal.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Integer(text, _) | Value::Float(text) => shortened(text),
        Value::Boolean(flag) => flag.to_string(),
        Value::Time => "a date or time".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::TooDeep => "something deeply nested".to_owned(),
    }
}

/// Text in quotes for a message.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// A key for a message, in quotes where TOML wants them.
pub(super) fn key_text(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match (1..=64).contains(&key.len()) && key.chars().all(bare) {
        true => key.to_owned(),
        false => quoted(key),
    }
}

/// Any text.
pub(super) fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("{} is not text; put it in quotes", show(other))),
    }
}

/// Text that MQTT can carry: not empty, at most `longest` bytes, no control characters.
/// (MQTT 3.1.1 section 1.5.3 forbids NUL and lets a receiver close the connection over the others.)
pub(super) fn mqtt_text(text: &str, longest: usize) -> Result<&str, String> {
    match text {
        "" => Err("is empty; give some text or remove the line".to_owned()),
        _ if text.len() > longest => Err(format!("has {} bytes; give at most {longest}", text.len())),
        _ if text.chars().any(char::is_control) => {
            Err(format!("{} holds a control character; remove it", quoted(text)))
        }
        _ => Ok(text),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Boolean(flag) => Ok(*flag),
        other => Err(format!("{} is neither true nor false; write one of them, without quotes", show(other))),
    }
}

/// A whole number in a range; `advice` says what to give.
pub(super) fn number<T: TryFrom<i64>>(value: &Value, range: RangeInclusive<i64>, advice: &str) -> Result<T, String> {
    let problem = match value {
        Value::Integer(_, Some(number)) if range.contains(number) => match T::try_from(*number) {
            Ok(number) => return Ok(number),
            Err(_) => "is out of range",
        },
        Value::Integer(..) => "is out of range",
        Value::Float(_) => "is not a whole number",
        Value::Text(text) if text.parse::<i64>().is_ok() => "is text; remove the quotes",
        _ => "is not a number",
    };
    Err(format!("{} {problem}; {advice}", show(value)))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(value: &Value, options: &[(&str, T)]) -> Result<T, String> {
    if let Value::Text(text) = value
        && let Some((_, option)) = options.iter().find(|(word, _)| word == text)
    {
        return Ok(*option);
    }
    let words: Vec<String> = options.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    match words.as_slice() {
        [only] => Err(format!("{} is not known; write {only}", show(value))),
        [first @ .., last] => Err(format!("{} is not known; write {} or {last}", show(value), first.join(", "))),
        [] => Err(format!("{} is not known", show(value))),
    }
}

/// A duration in a range.
pub(super) fn duration(value: &Value, range: RangeInclusive<Duration>, example: &str) -> Result<Duration, String> {
    duration_as(units::duration, units::duration_text, value, range, example)
}

/// A duration in a range, to the microsecond.
pub(super) fn fine_duration(value: &Value, range: RangeInclusive<Duration>, example: &str) -> Result<Duration, String> {
    duration_as(units::fine_duration, units::fine_duration_text, value, range, example)
}

fn duration_as(
    read: impl Fn(&str, &str) -> Result<Duration, String>,
    print: impl Fn(Duration) -> String,
    value: &Value,
    range: RangeInclusive<Duration>,
    example: &str,
) -> Result<Duration, String> {
    let duration = match value {
        Value::Text(text) => read(text, example),
        Value::Integer(digits, Some(0..)) => read(digits, example),
        _ => Err(format!("is not a duration; write one in quotes, such as \"{example}\"")),
    };
    let duration = duration.map_err(|problem| format!("{} {problem}", show(value)))?;
    match range.contains(&duration) {
        true => Ok(duration),
        false => {
            let (least, most) = (print(*range.start()), print(*range.end()));
            Err(format!("{} is out of range; give \"{least}\" to \"{most}\"", show(value)))
        }
    }
}

/// A size in bytes in a range.
pub(super) fn size(value: &Value, range: RangeInclusive<u64>, example: &str) -> Result<u64, String> {
    let size = match value {
        Value::Text(text) => units::size(text, example),
        Value::Integer(digits, Some(0..)) => units::size(digits, example),
        _ => Err(format!("is not a size; write one in quotes, such as \"{example}\"")),
    };
    let size = size.map_err(|problem| format!("{} {problem}", show(value)))?;
    match range.contains(&size) {
        true => Ok(size),
        false => {
            let (least, most) = (units::size_text(*range.start()), units::size_text(*range.end()));
            Err(format!("{} is out of range; give \"{least}\" to \"{most}\"", show(value)))
        }
    }
}

/// The name of a device or stream: `[a-z0-9_-]{1,32}`, so that it fits topics, file names and metrics as it is.
pub(super) fn name(text: &str) -> Result<&str, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    match (1..=32).contains(&text.len()) && text.chars().all(fits) {
        true => Ok(text),
        false => Err(format!("{} is not a name; {NAME_RULE}", quoted(text))),
    }
}

/// The name of an instance: `[A-Za-z0-9_.@-]{1,64}`, and not a folder's name for itself or its parent.
pub(super) fn instance(text: &str) -> Result<&str, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
    match (1..=64).contains(&text.len()) && text.chars().all(fits) && !matches!(text, "." | "..") {
        true => Ok(text),
        false => {
            Err(format!("{} is not an instance's name; use 1 to 64 of A-Z, a-z, 0-9, _, ., @ and -", quoted(text)))
        }
    }
}

/// The name of a systemd unit (systemd.unit(5)), not of a template.
pub(super) fn unit(text: &str) -> Result<&str, String> {
    const KINDS: [&str; 11] =
        ["service", "scope", "slice", "target", "socket", "timer", "mount", "automount", "path", "device", "swap"];
    let fits = |c: char| c.is_ascii_alphanumeric() || ":_.\\-@".contains(c);
    let fits_all = (1..=255).contains(&text.len()) && text.chars().all(fits);
    match text.rsplit_once('.') {
        Some((stem, kind)) if fits_all && KINDS.contains(&kind) && stem.ends_with('@') => {
            Err(format!("{} is a template; name an instance of it, such as \"{stem}1.{kind}\"", quoted(text)))
        }
        Some((stem, kind)) if fits_all && KINDS.contains(&kind) && !stem.is_empty() => Ok(text),
        _ if fits_all => Err(format!("{} is not a unit; did you mean \"{text}.service\"?", quoted(text))),
        _ => Err(format!("{} is not a unit; give a systemd unit, such as \"gateway.service\"", quoted(text))),
    }
}

/// A path from the root.
pub(super) fn absolute_path(text: &str, example: &str) -> Result<PathBuf, String> {
    let path = any_path(text)?;
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(format!("{} is not an absolute path; write all of it, such as \"{example}\"", quoted(text))),
    }
}

/// A path that can exist.
pub(super) fn any_path(text: &str) -> Result<&Path, String> {
    match text {
        "" => Err("is empty; give a path or remove the line".to_owned()),
        _ if text.chars().any(char::is_control) => {
            Err(format!("{} holds a control character; remove it", quoted(text)))
        }
        _ => Ok(Path::new(text)),
    }
}
