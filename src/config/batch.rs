//! `batch = { … }` of a stream: whether its records travel alone or together, and how.

use super::effective::word;
use super::reader::{Report, Section};
use super::units::{duration_text, size_text};
use super::{Stream, Sync, keys, values};
use crate::record::StreamId;
use std::time::Duration;

/// `batch = { … }` of a stream
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Records in one message at the most, 1 to 1000 (default 100).
    pub records: u16,
    /// Bytes of one message at the most, before it is compressed, 1 KiB to 64 KiB (default 64 KiB). A record that is larger
    /// travels alone.
    pub bytes: usize,
    /// How long a record waits for others at the most, 0 to 1 hour (default 5 s).
    pub delay: Duration,
    /// How they stand in their message.
    pub format: BatchFormat,
    /// Whether messages are compressed, where that makes them smaller (default no).
    pub deflate: bool,
}

/// `format` of a batch
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchFormat {
    /// An envelope on each line (default).
    #[default]
    Ndjson,
    /// A JSON array of envelopes.
    Array,
}

/// What to write where something else stands.
const EXAMPLE: &str = "batch = { records = 100, delay = \"5s\" }";
const DEFAULT_RECORDS: u16 = 100;
const KIB: u64 = 1 << 10;
/// Deflate looks back 32 KiB, so larger messages gain nothing; and what waits for a batch to fill takes memory.
const MOST_BYTES: u64 = 64 * KIB;
const DEFAULT_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(3600);
const FORMATS: [(&str, BatchFormat); 2] = [("ndjson", BatchFormat::Ndjson), ("array", BatchFormat::Array)];
const COMPRESSIONS: [(&str, bool); 2] = [("none", false), ("deflate", true)];

/// Reads the table of this stream; without one its records travel alone.
pub(super) fn read(stream: &Section<'_>, report: &mut Report<'_>) -> Option<Batching> {
    if !stream.has("batch") {
        return None;
    }
    let section = stream.section(report, &keys::BATCH, "batch", EXAMPLE);
    section.refuse_unknown(report);
    let records = |value: &_| values::number(value, 1..=1000, "give records in one message, 1 to 1000");
    let bytes = |value| values::size(value, KIB..=MOST_BYTES, "64KiB");
    let delay = |value| values::duration(value, Duration::ZERO..=LONGEST_DELAY, "5s");
    Some(Batching {
        records: section.read(report, "records", records).unwrap_or(DEFAULT_RECORDS),
        bytes: section.read(report, "bytes", bytes).unwrap_or(MOST_BYTES).try_into().unwrap_or(usize::MAX),
        delay: section.read(report, "delay", delay).unwrap_or(DEFAULT_DELAY),
        format: section.choice(report, "format", &FORMATS).unwrap_or_default(),
        deflate: section.choice(report, "compress", &COMPRESSIONS).unwrap_or_default(),
    })
}

/// A record that waits for its batch longer than `spool.sync` is written to flash, which the same record alone is not.
pub(super) fn warn_of_flash(section: &Section<'_>, report: &mut Report<'_>, stream: &Stream, sync: Sync) {
    let (Some(Batching { delay, .. }), Sync::After(window)) = (stream.batch, sync) else { return };
    if delay < window {
        return;
    }
    let (delay, window) = (duration_text(delay), duration_text(window));
    let message = format!(
        "records wait up to \"{delay}\" for their batch, and what has waited for spool.sync (\"{window}\") is written to \
         flash; make delay shorter or spool.sync longer, if flash shall be spared"
    );
    report.warning(section.place("batch"), section.key("batch"), message);
}

/// Home Assistant reads the devices' records, and knows single ones only.
pub(super) fn refuse_for_homeassistant(root: &Section<'_>, report: &mut Report<'_>, streams: &[Stream]) {
    if streams.get(StreamId::TELEMETRY.index()).is_some_and(|stream| stream.batch.is_some()) {
        let message =
            "Home Assistant can't read batches of the devices' records; remove this batch, or [homeassistant]";
        report.conclusion(root.place("stream"), "stream.telemetry.batch".to_owned(), message.to_owned());
    }
}

impl Batching {
    /// As the effective configuration shows it.
    pub(super) fn toml(&self) -> String {
        format!(
            "{{ records = {}, bytes = \"{}\", delay = \"{}\", format = \"{}\", compress = \"{}\" }}",
            self.records,
            size_text(u64::try_from(self.bytes).unwrap_or(u64::MAX)),
            duration_text(self.delay),
            word(&FORMATS, self.format),
            word(&COMPRESSIONS, self.deflate),
        )
    }
}
