//! What the spool has to tell: records that are lost and why, and what it found when it opened.

use crate::record::StreamId;
use std::fmt;
use std::path::PathBuf;

/// Why records were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// The stream was full.
    Full,
    /// They were older than `max_age`.
    Age,
    /// Their bytes on disk are damaged.
    Damaged,
    /// The disk could not read them.
    Unreadable,
    /// Their file is gone.
    Missing,
    /// They are larger than the broker takes.
    Oversize,
    /// The broker does not take them, for another reason than their size.
    Refused,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Full => "the stream was full",
            Reason::Age => "they were older than max_age",
            Reason::Damaged => "damaged on disk",
            Reason::Unreadable => "the disk can't read them",
            Reason::Missing => "their file is gone",
            Reason::Oversize => "larger than the broker takes",
            Reason::Refused => "the broker does not take them",
        })
    }
}

/// Records that will not be delivered: announced on `P/event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Whose records.
    pub stream: StreamId,
    /// First sequence number.
    pub first: u64,
    /// Last sequence number.
    pub last: u64,
    /// How many of those still waited.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// Wall clock of the first one, milliseconds since 1970, if known.
    pub from_ms: Option<u64>,
    /// No later than this, if known.
    pub to_ms: Option<u64>,
    /// What else helps to find out.
    pub detail: Option<String>,
}

/// What opening found that should not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The folder can't be used.
    Unusable(String),
    /// The checkpoint can't be read.
    Checkpoint(String),
    /// The newest segment ended in the middle of an entry.
    TornTail { file: PathBuf, offset: u64, bytes: usize },
    /// A file that is no segment for us.
    SetAside { file: PathBuf, why: String },
    /// The runtime tier can't be looked into.
    Runtime(String),
    /// The last run did not close the spool; this many records were in the runtime tier alone.
    UncleanStop { taken_over: u64 },
}

impl Finding {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Finding::Unusable(_) => "spool-unusable",
            Finding::Checkpoint(_) => "checkpoint-damaged",
            Finding::TornTail { .. } => "torn-tail",
            Finding::SetAside { .. } => "set-aside",
            Finding::Runtime(_) => "runtime-unusable",
            Finding::UncleanStop { .. } => "unclean-stop",
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Finding::Unusable(error) => format!("the folder can't be used, records are held in memory: {error}"),
            Finding::Checkpoint(error) => {
                format!("{error}; going on from what the segments say, so records may be delivered again")
            }
            Finding::TornTail { file, offset, bytes } => {
                format!("cut {bytes} bytes of an unfinished entry off {} at {offset}", file.display())
            }
            Finding::SetAside { file, why } => format!("set aside as {}: {why}", file.display()),
            Finding::Runtime(error) => format!("{error}; what an earlier process may have left there is taken over as soon as it can be read"),
            Finding::UncleanStop { taken_over } if *taken_over > 0 => format!(
                "the last run ended without a clean stop; {taken_over} records that were not on flash yet were taken over \
                 from runtime_dir, and sequence numbers skip ahead"
            ),
            Finding::UncleanStop { .. } => {
                "the last run ended without a clean stop; what it had neither on flash nor in runtime_dir and not delivered \
                 is lost (after a power cut records younger than spool.sync), and sequence numbers skip ahead"
                    .to_owned()
            }
        }
    }
}
