//! The text: families and their samples, line by line.

use super::family::{Family, Kind, Value};
use std::fmt;

/// A label's name and value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// What a sample is of, with its labels.
pub(super) type Row<'a, T> = (Vec<Label<'a>>, &'a T);

/// The text so far.
pub(super) struct Text(String);

impl Text {
    pub(super) fn new() -> Self {
        Text(String::with_capacity(8 * 1024))
    }

    /// The whole text: nothing comes behind its last line.
    pub(super) fn end(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }

    /// Families that have the same rows.
    pub(super) fn families<'a, T: 'a, R>(&mut self, families: &[Family<T>], rows: impl Fn() -> R)
    where
        R: IntoIterator<Item = Row<'a, T>>,
    {
        families.iter().for_each(|family| self.family(family, rows()));
    }

    /// A family with a sample for each row that has a value; nothing at all if none has.
    pub(super) fn family<'a, T: 'a>(&mut self, family: &Family<T>, rows: impl IntoIterator<Item = Row<'a, T>>) {
        let samples = rows.into_iter().filter_map(|(labels, row)| Some((labels, family.value(row)?)));
        for (number, (labels, value)) in samples.enumerate() {
            if number == 0 {
                self.head(family);
            }
            self.sample(family, &labels, &value);
        }
    }

    /// A sample for each state, 1 for the one that is so now.
    pub(super) fn states<T: PartialEq + Copy>(&mut self, family: &Family<T>, states: &[(T, &str)], now: T) {
        self.head(family);
        for (state, word) in states {
            self.sample(family, &[(family.name, word)], &Value::Flag(*state == now));
        }
    }

    fn head<T>(&mut self, family: &Family<T>) {
        let Family { kind, name, help, .. } = family;
        self.0 += &format!("# TYPE {name} {kind}\n");
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}"))) {
            self.0 += &format!("# UNIT {name} {unit}\n");
        }
        self.0 += &format!("# HELP {name} {help}\n");
    }

    fn sample<T>(&mut self, family: &Family<T>, labels: &[Label<'_>], value: &Value) {
        self.0.push_str(family.name);
        self.0.push_str(match family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::StateSet => "",
        });
        for (number, (name, value)) in labels.iter().enumerate() {
            self.0.push(if number == 0 { '{' } else { ',' });
            self.0 += &format!("{name}=\"{}\"", Escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0 += &format!(" {value}\n");
    }
}

/// A label's value between its quotes. The format has escapes for three characters only; it allows other control
/// characters as they are, but some readers take a NUL for the end, so they are shown as U+FFFD.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c if c.is_control() => f.write_char(char::REPLACEMENT_CHARACTER),
            c => f.write_char(c),
        })
    }
}
