//! `[stream.NAME]`: the built-in streams and those that the user adds.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::units::{duration_text, size_text};
use super::{Batching, QuietHours, Sync, batch, keys, pacing, values};
use std::time::Duration;

/// `[stream.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// `[a-z0-9_-]{1,32}`
    pub name: String,
    /// Quota on flash in bytes (default 64 MiB); at least two segments.
    pub max_bytes: u64,
    /// Records older than this are dropped.
    pub max_age: Option<Duration>,
    /// What happens when the quota is reached.
    pub when_full: WhenFull,
    /// Lower drains first (default event 0, telemetry 1, log 2, others 1).
    pub priority: u8,
    /// How its records travel together. `None`: each in a message of its own.
    pub batch: Option<Batching>,
    /// When nothing of it is sent. `None`: it is at any time.
    pub quiet_hours: Option<QuietHours>,
    /// How its records look on the wire.
    pub convention: Convention,
}

/// `when_full`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest segment goes; the loss is counted and announced.
    #[default]
    DropOldest,
    /// New records are refused.
    Reject,
}

/// `convention`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Convention {
    /// The envelope in JSON, on `P/…` (see `record`).
    #[default]
    Pillion,
    /// Sparkplug B (see `sparkplug`).
    Sparkplug,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// 100 years: longer is no limit at all.
const LONGEST_AGE: Duration = Duration::from_secs(36_500 * 86_400);
const DEFAULT_MAX_BYTES: u64 = 64 * MIB;
/// Built in, in the order of their `StreamId`s, with their priorities.
const BUILT_IN: [(&str, u8); 3] = [("event", 0), ("telemetry", 1), ("log", 2)];
const WHEN_FULL: [(&str, WhenFull); 2] = [("drop-oldest", WhenFull::DropOldest), ("reject", WhenFull::Reject)];
const CONVENTIONS: [(&str, Convention); 2] = [("pillion", Convention::Pillion), ("sparkplug", Convention::Sparkplug)];
/// A limit that nobody meets and that keeps every table by stream small.
const MOST_STREAMS: usize = 64;

/// Reads all streams: the built-in ones at their fixed places, then the user's in name order.
pub(super) fn read(
    root: &Section<'_>,
    report: &mut Report<'_>,
    spool: &Section<'_>,
    segment_bytes: u64,
    sync: Sync,
) -> Vec<Stream> {
    let example = "[stream.NAME] and its keys below";
    let tables = root.section(report, &keys::STREAM, "stream", example);
    let is_built_in = |name: &str| BUILT_IN.iter().any(|(known, _)| *known == name);
    let mut names: Vec<(&str, u8)> = BUILT_IN.to_vec();
    for (name, entry) in tables.entries().filter(|(name, _)| !is_built_in(name)) {
        if let Err(message) = values::name(name) {
            report.problem(entry.key, tables.key(name), message);
        } else if names.len() >= MOST_STREAMS {
            let message = format!("is one too many; there can be {MOST_STREAMS} streams, three of them built in");
            report.problem(entry.key, tables.key(name), message);
        } else {
            names.push((name, 1));
        }
    }
    let mut quotas = Quotas { segment_bytes, too_small: Vec::new() };
    let mut streams = Vec::new();
    for (name, priority) in names {
        let section = tables.section(report, &keys::STREAM, name, example);
        let stream = stream(&section, report, name, priority);
        quotas.check(&section, report, &stream);
        batch::warn_of_flash(&section, report, &stream, sync);
        streams.push(stream);
    }
    quotas.finish(spool, report);
    streams
}

fn stream(section: &Section<'_>, report: &mut Report<'_>, name: &str, priority: u8) -> Stream {
    section.refuse_unknown(report);
    Stream {
        name: name.to_owned(),
        max_bytes: section
            .read(report, "max_bytes", |value| values::size(value, 128 * KIB..=TIB, "64MiB"))
            .unwrap_or(DEFAULT_MAX_BYTES),
        max_age: section
            .read(report, "max_age", |value| values::duration(value, Duration::from_secs(1)..=LONGEST_AGE, "30d")),
        when_full: section.choice(report, "when_full", &WHEN_FULL).unwrap_or_default(),
        priority: section
            .read(report, "priority", |value| values::number(value, 0..=255, "give 0 (drains first) to 255"))
            .unwrap_or(priority),
        batch: batch::read(section, report),
        quiet_hours: section.read(report, "quiet_hours", pacing::quiet_hours),
        convention: section.choice(report, "convention", &CONVENTIONS).unwrap_or_default(),
    }
}

/// Eviction drops whole segments and never the one that is being written, so a quota must hold two of them.
struct Quotas {
    segment_bytes: u64,
    /// Streams whose default is too small: one mistake in `segment_bytes`, not one in each of them.
    too_small: Vec<String>,
}

impl Quotas {
    fn check(&mut self, section: &Section<'_>, report: &mut Report<'_>, stream: &Stream) {
        if stream.max_bytes >= self.least() {
            return;
        }
        if !section.has("max_bytes") {
            self.too_small.push(stream.name.clone());
            return;
        }
        let (given, segment) = (size_text(stream.max_bytes), size_text(self.segment_bytes));
        let message = format!(
            "\"{given}\" is less than two segments of \"{segment}\" (spool.segment_bytes); give at least \"{}\", or make \
             the segments smaller",
            size_text(self.least())
        );
        report.conclusion(section.place("max_bytes"), section.key("max_bytes"), message);
    }

    fn finish(self, spool: &Section<'_>, report: &mut Report<'_>) {
        if self.too_small.is_empty() {
            return;
        }
        let message = format!(
            "two segments of \"{}\" are more than \"{}\", the default max_bytes of {}; give at most \"{}\", or raise \
             max_bytes to \"{}\"",
            size_text(self.segment_bytes),
            size_text(DEFAULT_MAX_BYTES),
            self.too_small.join(", "),
            size_text(DEFAULT_MAX_BYTES / 2),
            size_text(self.least())
        );
        report.conclusion(spool.place("segment_bytes"), spool.key("segment_bytes"), message);
    }

    fn least(&self) -> u64 {
        self.segment_bytes.saturating_mul(2)
    }
}

impl Stream {
    /// Whether a stream may have this name.
    pub fn may_be_called(name: &str) -> bool {
        values::name(name).is_ok()
    }

    pub(super) fn toml(&self, out: &mut Toml) {
        out.table(&format!("[stream.{}]", self.name));
        out.text("max_bytes", &size_text(self.max_bytes));
        if let Some(age) = self.max_age {
            out.text("max_age", &duration_text(age));
        }
        out.choice("when_full", &WHEN_FULL, self.when_full);
        out.plain("priority", self.priority);
        if let Some(batch) = &self.batch {
            out.plain("batch", batch.toml());
        }
        if let Some(hours) = &self.quiet_hours {
            out.text("quiet_hours", &hours.text());
        }
        out.choice("convention", &CONVENTIONS, self.convention);
    }
}
