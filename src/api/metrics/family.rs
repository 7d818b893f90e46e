//! What a metric is: a family of samples, and where each of them comes from in the status.

use crate::stats::Hundredths;
use std::fmt;

/// A family: one number of every `T` there is.
pub(super) struct Family<T> {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    reading: Reading<T>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, but for a restart.
    Counter,
    /// What is so now.
    Gauge,
    /// Always 1; the labels are what it says.
    Info,
    /// A sample for each state, 1 for the one that it is in.
    StateSet,
}

/// The value of a sample.
pub(super) enum Value {
    Count(u64),
    /// Milliseconds, shown in seconds.
    Millis(u64),
    /// Nanoseconds, shown in seconds.
    Nanos(u64),
    Flag(bool),
    Hundredths(Hundredths),
}

/// How a family's number is found.
enum Reading<T> {
    Count(fn(&T) -> u64),
    Flag(fn(&T) -> bool),
    /// Milliseconds since 1970.
    Moment(fn(&T) -> u64),
    /// A number that may be unknown: it has no sample then.
    IfKnown(fn(&T) -> Option<Value>),
    /// Always 1.
    One,
    /// Not from here: a sample for each state is written.
    States,
}

impl<T> Family<T> {
    /// The number of this one, if it is known.
    pub(super) fn value(&self, of: &T) -> Option<Value> {
        match self.reading {
            Reading::Count(read) => Some(Value::Count(read(of))),
            Reading::Flag(read) => Some(Value::Flag(read(of))),
            Reading::Moment(read) => Some(Value::Millis(read(of))),
            Reading::IfKnown(read) => read(of),
            Reading::One => Some(Value::Count(1)),
            Reading::States => None,
        }
    }
}

/// What only grows.
pub(super) const fn counter<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Family<T> {
    Family { kind: Kind::Counter, name, help, reading: Reading::Count(read) }
}

/// What only grows, where it is known.
pub(super) const fn counter_if_known<T>(
    name: &'static str,
    help: &'static str,
    read: fn(&T) -> Option<Value>,
) -> Family<T> {
    Family { kind: Kind::Counter, name, help, reading: Reading::IfKnown(read) }
}

/// How much there is now.
pub(super) const fn gauge<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Family<T> {
    Family { kind: Kind::Gauge, name, help, reading: Reading::Count(read) }
}

/// How much there is now, where it is known.
pub(super) const fn gauge_if_known<T>(
    name: &'static str,
    help: &'static str,
    read: fn(&T) -> Option<Value>,
) -> Family<T> {
    Family { kind: Kind::Gauge, name, help, reading: Reading::IfKnown(read) }
}

/// Whether something is so now.
pub(super) const fn flag<T>(name: &'static str, help: &'static str, read: fn(&T) -> bool) -> Family<T> {
    Family { kind: Kind::Gauge, name, help, reading: Reading::Flag(read) }
}

/// When something was: milliseconds since 1970, shown in seconds.
pub(super) const fn moment<T>(name: &'static str, help: &'static str, read: fn(&T) -> u64) -> Family<T> {
    Family { kind: Kind::Gauge, name, help, reading: Reading::Moment(read) }
}

/// What is said in labels.
pub(super) const fn info(name: &'static str, help: &'static str) -> Family<()> {
    Family { kind: Kind::Info, name, help, reading: Reading::One }
}

/// In which of its states something is.
pub(super) const fn states<T>(name: &'static str, help: &'static str) -> Family<T> {
    Family { kind: Kind::StateSet, name, help, reading: Reading::States }
}

/// How many there are of something that is in memory.
pub(super) fn many(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
            Kind::StateSet => "stateset",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => write!(f, "{count}"),
            Value::Millis(millis) => write!(f, "{}.{:03}", millis / 1000, millis % 1000),
            Value::Nanos(nanos) => write!(f, "{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000),
            Value::Hundredths(number) => write!(f, "{number}"),
            Value::Flag(flag) => write!(f, "{}", u8::from(*flag)),
        }
    }
}
