//! What an inspection shows and says. Plain data.

use crate::record::Sequenced;
use crate::spool::checkpoint::Checkpoint;
use crate::spool::log::made_at;
use crate::stats::StreamStatus;
use serde::Serialize;

/// Findings that a report holds; the visitor gets all of them.
const FINDINGS: usize = 1000;
/// Ranges of numbers that a report holds.
const RANGES: usize = 100;

/// What a visitor is shown, in the order of the numbers.
#[derive(Debug)]
pub enum Item<'a> {
    /// The records of another segment follow.
    Segment {
        /// The boot in which it was written, or zeros where its header is damaged.
        boot_id: [u8; 16],
        /// Every record of the stream up to this number is done with.
        done: u64,
    },
    /// A whole record.
    Record {
        /// The record.
        record: Sequenced,
        /// Whether it is still to be delivered.
        waits: bool,
    },
    /// Something that should not be, or that is worth a word.
    Finding(&'a Finding),
}

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Bytes of a segment are no entries.
    Damaged,
    /// A segment's header is damaged. The records behind it can be read; only with both copies of it their times are lost.
    HeaderDamaged,
    /// No segment has these numbers, and they wait.
    Missing,
    /// The disk, or the process, can't read a file or the folder.
    Unreadable,
    /// The checkpoint is damaged, absent, or of a newer format version.
    CheckpointDamaged,
    /// A segment of a newer format version.
    Newer,
    /// A file that is named like a segment and is none.
    Foreign,
    /// A segment whose header names another first record than its file name.
    Misnamed,
    /// The newest segment ends in the middle of an entry: a kill or a power cut does that.
    TornTail,
    /// A segment is damaged of which every record is done with.
    DoneWith,
    /// A file that has nothing to do with the spool.
    OtherFile,
}

impl Kind {
    /// Whether a stream with this is damaged.
    pub fn is_damage(self) -> bool {
        !matches!(self, Kind::TornTail | Kind::DoneWith | Kind::OtherFile)
    }
}

/// Numbers that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// How many of them still waited: the records that are lost by this.
    pub waited: u64,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The file's name within the stream's folder; without one it is about the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The numbers that are missing because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Finding {
    pub(super) fn new(kind: Kind, file: Option<String>) -> Self {
        Finding { kind, file, offset: 0, bytes: 0, missing: None, detail: None }
    }

    pub(super) fn saying(self, detail: impl ToString) -> Self {
        Finding { detail: Some(detail.to_string()), ..self }
    }
}

/// What there is in a stream's folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Files that hold records.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whole records.
    pub records: u64,
    /// How many of those are still to be delivered.
    pub waiting: u64,
    /// How many waited and can't be read any more.
    pub lost: u64,
    /// The numbers of the whole records, in ranges; the first hundred.
    pub ranges: Vec<(u64, u64)>,
    /// How many ranges more there are.
    pub more_ranges: u64,
    /// The earliest trusted wall clock of the records, milliseconds since 1970.
    pub from_ms: Option<u64>,
    /// The latest one.
    pub to_ms: Option<u64>,
    /// Every record up to this number is done with.
    pub done: u64,
    /// The checkpoint, if there is one that can be read.
    pub checkpoint: Option<Checkpoint>,
    /// The ledger as a daemon would have it after reading all.
    pub ledger: StreamStatus,
    /// Findings that are damage.
    pub damaged: u64,
    /// What was found, the first thousand.
    pub findings: Vec<Finding>,
    /// How many findings more there are.
    pub more_findings: u64,
}

impl Report {
    pub(super) fn note_finding(&mut self, finding: Finding) {
        self.damaged += u64::from(finding.kind.is_damage());
        self.lost += finding.missing.map_or(0, |missing| missing.waited);
        match self.findings.len() < FINDINGS {
            true => self.findings.push(finding),
            false => self.more_findings += 1,
        }
    }

    /// Notes a whole record; `follows`: the one before it had the number before.
    pub(super) fn note_record(&mut self, record: &Sequenced, follows: bool, waits: bool) {
        self.records += 1;
        self.waiting += u64::from(waits);
        if !follows && self.ranges.len() < RANGES {
            self.ranges.push((record.seq, record.seq));
        } else if !follows {
            self.more_ranges += 1;
        } else if let (Some((_, last)), 0) = (self.ranges.last_mut(), self.more_ranges) {
            *last = record.seq;
        }
        if let Some(made) = made_at(&record.record) {
            self.from_ms = Some(self.from_ms.map_or(made, |from| from.min(made)));
            self.to_ms = Some(self.to_ms.map_or(made, |to| to.max(made)));
        }
    }
}
