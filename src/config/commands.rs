//! `commands = { … }` of a device: whether it takes commands at all, and which.

use super::effective::quoted;
use super::reader::{Report, Section};
use super::tree::{Node, Value};
use super::units::duration_text;
use super::{keys, values};
use std::time::Duration;

/// `commands = { … }` of a device
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// A command's data, as text, must match one of these patterns, in which `*` stands for any characters; empty:
    /// everything is allowed (default).
    pub allow: Vec<String>,
    /// Commands per second at the most, 1 to 1,000 (default 10).
    pub rate: u32,
    /// How long after it was sent a command that does not say so itself may be carried out, 100 ms to 7 days (default 60 s).
    pub ttl: Duration,
    /// Serial devices: how long the device may take to answer, 1 ms to 60 s; its next frame is the answer. `None`: none is
    /// awaited.
    pub reply: Option<Duration>,
}

/// What to write where something else stands.
const EXAMPLE: &str = "commands = { allow = [\"on\", \"off\"], ttl = \"30s\" }";
const DEFAULT_TTL: Duration = Duration::from_secs(60);
const LONGEST_TTL: Duration = Duration::from_secs(7 * 86_400);
const DEFAULT_RATE: u32 = 10;
/// Patterns for one device, and bytes in one.
const MOST_PATTERNS: usize = 64;
const LONGEST_PATTERN: usize = 256;

/// Reads the table of this device; without one it takes no commands.
pub(super) fn read(device: &Section<'_>, report: &mut Report<'_>) -> Option<Commands> {
    if !device.has("commands") {
        return None;
    }
    let section = device.section(report, &keys::COMMANDS, "commands", EXAMPLE);
    section.refuse_unknown(report);
    let ttl = |value| values::duration(value, Duration::from_millis(100)..=LONGEST_TTL, "30s");
    let rate = |value: &_| values::number(value, 1..=1000, "give commands per second, 1 to 1000");
    let reply = |value| values::duration(value, Duration::from_millis(1)..=Duration::from_secs(60), "500ms");
    Some(Commands {
        allow: patterns(&section, report),
        rate: section.read(report, "rate", rate).unwrap_or(DEFAULT_RATE),
        ttl: section.read(report, "ttl", ttl).unwrap_or(DEFAULT_TTL),
        reply: section.read(report, "reply", reply),
    })
}

fn patterns(section: &Section<'_>, report: &mut Report<'_>) -> Vec<String> {
    const EXAMPLE: &str = "allow = [\"STATUS\", \"SET *\"]";
    let given = section.read(report, "allow", |value| match value {
        Value::List(list) if list.is_empty() => {
            Err(format!("is empty; give patterns, such as {EXAMPLE}, or remove it to allow every command"))
        }
        Value::List(list) if list.len() > MOST_PATTERNS => {
            Err(format!("has {} elements; give at most {MOST_PATTERNS}", list.len()))
        }
        Value::List(list) => Ok(list),
        _ => Err(format!("is not a list; write {EXAMPLE}")),
    });
    let mut patterns = Vec::new();
    for (index, Node { place, value }) in given.into_iter().flatten().enumerate() {
        let pattern = values::text(value).and_then(|text| match text.len() {
            1..=LONGEST_PATTERN => Ok(text.to_owned()),
            bytes => Err(format!("has {bytes} bytes; a pattern has 1 to {LONGEST_PATTERN}")),
        });
        match pattern {
            Ok(pattern) => patterns.push(pattern),
            Err(message) => report.problem(*place, format!("{}[{index}]", section.key("allow")), message),
        }
    }
    patterns
}

impl Commands {
    /// Whether a command whose data is this text is allowed.
    pub fn allows(&self, text: &[u8]) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|pattern| matches(pattern.as_bytes(), text))
    }

    /// As the effective configuration shows it.
    pub(super) fn toml(&self) -> String {
        let allow: Vec<String> = self.allow.iter().map(|pattern| quoted(pattern)).collect();
        let allow = if allow.is_empty() { String::new() } else { format!("allow = [{}], ", allow.join(", ")) };
        let reply = self.reply.map(|reply| format!(", reply = \"{}\"", duration_text(reply))).unwrap_or_default();
        format!("{{ {allow}rate = {}, ttl = \"{}\"{reply} }}", self.rate, duration_text(self.ttl))
    }
}

/// Whether `*` in the pattern can stand for something that makes it the text. Takes the product of their lengths at the
/// most.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the latest star, and where in the text what it stands for ends.
    let mut star = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(same) if same == byte => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((behind, end)) = star else { return false };
                star = Some((behind, end + 1));
                (p, t) = (behind, end + 1);
            }
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the pattern says, word for word.
    fn matches_slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, text) => text.is_none(),
            (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| matches_slowly(rest, &text[skip..])),
            (Some((one, rest)), Some((other, text))) => one == other && matches_slowly(rest, text),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_never_matches_what_it_does_not_say(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), matches_slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
