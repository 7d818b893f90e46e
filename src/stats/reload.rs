//! The configuration that runs, and what became of the latest attempt to read it again.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// The configuration that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The file; its drop-ins are beside it.
    pub file: String,
    /// When what runs now was read, milliseconds since 1970.
    pub loaded_ms: u64,
    /// Times that a change was applied.
    pub applied: u64,
    /// Times that it was read again for nothing: it said what runs already.
    pub unchanged: u64,
    /// Times that it was wrong, or needed a restart, and the old one stayed.
    pub refused: u64,
    /// The latest reload, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadStatus>,
}

/// What became of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// How it ended.
    pub outcome: ReloadOutcome,
    /// The keys that were changed, or that need a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What is wrong, each with file, line and key: the first [`MOST_PROBLEMS`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_problems: u64,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadOutcome {
    /// What has changed is in force.
    Applied,
    /// Nothing has changed, and nothing was touched.
    Unchanged,
    /// Something has changed that can't be changed while pillion runs. Nothing was applied.
    NeedsRestart,
    /// The configuration is wrong. The old one stays.
    Wrong,
}

/// Problems that the status holds: it also goes over the link, and the journal has all of them.
pub const MOST_PROBLEMS: usize = 10;

/// The question for a reload. It is answered when it is done.
pub type ReloadRequest = oneshot::Sender<ReloadStatus>;

impl ReloadStatus {
    /// Whether what the files say is in force.
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, ReloadOutcome::Applied | ReloadOutcome::Unchanged)
    }

    /// For people: a line, or one for each problem.
    pub fn text(&self) -> String {
        let keys = self.keys.join(", ");
        match self.outcome {
            ReloadOutcome::Applied => format!("the configuration was read again and applied: {keys}"),
            ReloadOutcome::Unchanged => "the configuration was read again and has not changed".to_owned(),
            ReloadOutcome::NeedsRestart => {
                format!("the configuration was not applied: {keys} can't be changed while pillion runs; restart it")
            }
            ReloadOutcome::Wrong => {
                let more =
                    if self.more_problems > 0 { format!("\nand {} more", self.more_problems) } else { String::new() };
                format!("the configuration is wrong, and the old one stays:\n{}{more}", self.problems.join("\n"))
            }
        }
    }
}

impl ConfigurationStatus {
    /// Takes note of a reload.
    pub fn note(&mut self, reload: ReloadStatus) {
        match reload.outcome {
            ReloadOutcome::Applied => {
                self.applied += 1;
                self.loaded_ms = reload.at_ms;
            }
            ReloadOutcome::Unchanged => self.unchanged += 1,
            ReloadOutcome::NeedsRestart | ReloadOutcome::Wrong => self.refused += 1,
        }
        self.last_reload = Some(reload);
    }

    /// The sentence about it where the files say something else than what runs.
    pub fn complaint(&self) -> Option<String> {
        let reload = self.last_reload.as_ref().filter(|reload| !reload.is_done())?;
        let file = &self.file;
        Some(match reload.outcome {
            ReloadOutcome::NeedsRestart => {
                format!("{file} was changed and is not in force: {} need a restart", reload.keys.join(", "))
            }
            _ => {
                let first = reload.problems.first().map(String::as_str).unwrap_or_default();
                format!("{file} is wrong, and pillion would not start with it: {first}")
            }
        })
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
