//! The publisher and its gate: who has to wait is told to the spool, and what the budget has seen is kept in a file.

use super::{Lost, Publisher};
use crate::disk::{self, Disk};
use crate::record::StreamId;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// The file of the budget, in `state_dir`.
pub(super) const FILE_NAME: &str = "budget";
/// Bytes of it that are looked at.
const MAX_FILE: usize = 256;
/// How long the end waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the file of the budget holds, if it can be read.
pub(super) fn load(state_dir: &Path) -> Option<String> {
    let content = disk::read_all(&Disk, &state_dir.join(FILE_NAME), MAX_FILE).ok()?;
    String::from_utf8(content).ok()
}

impl Publisher {
    /// Looks who has to wait now, and tells the spool of changes.
    pub(super) async fn review(&mut self) -> Result<(), Lost> {
        let now = (self.wiring.clock)();
        self.gate.review(now);
        let held = self.refused.pausing().fold(self.gate.held(), |held, (stream, _)| held | stream.bit());
        let changed = self.told != Some(held);
        self.keep_budget();
        let is_used_up =
            |budget: &Option<crate::stats::BudgetStatus>| budget.as_ref().is_some_and(|b| b.used >= b.bytes);
        let (budget, reasons) = (self.gate.status(now), changed.then(|| self.reasons()));
        if budget.is_some() || changed {
            self.wiring.status.send_if_modified(|status| {
                // Health tells of it.
                let tells = is_used_up(&status.budget) != is_used_up(&budget);
                status.budget = budget;
                status.held = reasons.unwrap_or_else(|| std::mem::take(&mut status.held));
                tells
            });
        }
        if changed {
            for stream in (0..).map(StreamId).take(self.streams.len()) {
                self.spent += self.queue.hold(stream, held & stream.bit() != 0);
            }
            self.wiring.spool.hold(held).await?;
            self.told = Some(held);
            self.report().await?;
        }
        Ok(())
    }

    /// Why streams wait, by name.
    fn reasons(&self) -> BTreeMap<String, String> {
        let mut reasons = self.gate.reasons();
        for (stream, pause) in self.refused.pausing() {
            let name = self.streams.get(stream.index()).map(|stream| stream.name.clone()).unwrap_or_default();
            reasons.entry(name).or_insert_with(|| pause.why.clone());
        }
        reasons
    }

    /// Has the file written if it is time, and waits for nobody: a disk that hangs stops no record.
    fn keep_budget(&mut self) {
        if self.keeping.as_ref().is_some_and(|keeping| !keeping.is_finished()) {
            return;
        }
        let Some(note) = self.gate.note() else { return };
        self.keeping = Some(self.write(note));
    }

    /// Has the file written for the last time.
    pub(super) async fn keep_budget_at_last(&mut self) {
        if let Some(note) = self.gate.last_note() {
            let writing = self.write(note);
            // What is on the disk by then counts too much at worst.
            let _ = timeout(PATIENCE, writing).await;
        }
    }

    fn write(&self, note: String) -> tokio::task::JoinHandle<()> {
        let path = self.wiring.state_dir.join(FILE_NAME);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = disk::replace(&Disk, &path, note.as_bytes()) {
                let path = path.display();
                tracing::warn!("{path} can't be written: {error}; a restart forgets what of mqtt.budget is used");
            }
        })
    }
}
