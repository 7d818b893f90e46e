//! The flow and its managed files: has `pillion apply` asked for what is wanted, and tells the broker what became of it.
//!
//! Constraint: what was told is noted behind it, so a kill between the two tells it twice, and never not at all.

use super::Flow;
use super::managed::{LOOK_EVERY, Look, Managed};
use crate::outcome::{Outcome, Result as Became};
use crate::record::{Durability, Encoding, REPORTED, Record, StreamId, Submission};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

impl Flow {
    /// Looks what became of managed files, tells it, and asks for what is wanted and has no outcome yet.
    pub(super) async fn look(&mut self) {
        let wanted = self.wiring.managed.wanted(&self.known);
        let is_new = self.asked != wanted;
        let ask = is_new || self.looked >= Managed::patience();
        let (managed, etags) = (self.wiring.managed.clone(), wanted.clone());
        let looking = spawn_blocking(move || {
            let look = managed.look(&etags);
            let asked = if look.pending && ask { managed.ask(&etags) } else { Ok(()) };
            (look, asked)
        });
        let Ok((Look { news, pending }, asked)) = self.wiring.pulse.during(looking).await else { return };
        if let Err(error) = asked {
            tracing::warn!("can't ask for the managed files to be written: {error}");
        }
        self.looked = if ask { 0 } else { self.looked + 1 };
        self.asked = wanted;
        self.look = pending.then(|| Instant::now() + LOOK_EVERY);
        if news.is_empty() {
            return;
        }
        for (key, outcome) in &news {
            self.tell_outcome(key, outcome).await;
        }
        let managed = self.wiring.managed.clone();
        let noting = spawn_blocking(move || managed.note(&news));
        if let Ok(Err(error)) = self.wiring.pulse.during(noting).await {
            tracing::warn!("can't note what became of managed files; a restart tells it again: {error}");
        }
    }

    async fn tell_outcome(&mut self, key: &str, outcome: &Outcome) {
        let detail = match (outcome.result, &outcome.reason) {
            (Became::Applied, _) => format!("the file of key {key:?} has the new version"),
            (Became::Rejected, why) => format!("the new version of key {key:?} was rejected: {}", text(why)),
            (Became::RolledBack, why) => format!("the new version of key {key:?} was taken back: {}", text(why)),
        };
        tracing::info!("{detail}");
        let event = json!({
            "type": "managed-file", "key": key, "result": outcome.result, "etag": outcome.etag, "detail": detail
        });
        self.submit(event).await;
        let data = outcome.report().to_string().into_bytes();
        let topic = format!("{REPORTED}{key}");
        let record = Record { topic, time: (self.wiring.clock)(), encoding: Encoding::Raw, data };
        let (stream, durability) = (StreamId::EVENT, Durability::Window);
        let submission = Submission { stream, records: vec![record], durability, note: None, reply: None };
        let _ = self.wiring.pulse.during(self.wiring.submissions.send(submission)).await;
    }
}

fn text(reason: &Option<String>) -> &str {
    reason.as_deref().unwrap_or("nobody knows why")
}
