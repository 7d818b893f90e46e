//! What the spool has to tell, on the event stream: gaps, and what was found at the start.
//!
//! Constraint: an announcement costs no older record. While the event stream's disk fails and its memory is full, gaps wait, and
//! grow together.

use super::{Gap, Reason, Spool};
use crate::record::{Encoding, Record, StreamId, Timestamp, rfc3339};
use serde_json::json;

/// Gaps are announced at most this often, in milliseconds: a stream that overflows loses record by record.
const ANNOUNCE_EVERY_MS: u64 = 1_000;
/// What an announcement takes in memory at most, in bytes.
const ANNOUNCEMENT: usize = 1024;

impl Spool {
    /// Whether the event stream takes an announcement without losing an older one for it.
    pub(super) fn can_announce(&self) -> bool {
        let events = self.logs.get(StreamId::EVENT.index());
        events.is_some_and(|log| log.trouble.is_none() || log.has_memory_for(ANNOUNCEMENT))
    }

    /// Puts the gaps that have arisen on the event stream. While its disk fails and its memory is full they wait and grow.
    pub(super) fn announce(&mut self, now: Timestamp) {
        if now.mono_ms < self.quiet_until_ms || !self.can_announce() {
            return;
        }
        let gaps: Vec<Gap> = self.logs.iter_mut().flat_map(|log| log.gaps.take_due(now.mono_ms)).collect();
        if !gaps.is_empty() {
            self.quiet_until_ms = now.mono_ms.saturating_add(ANNOUNCE_EVERY_MS);
            self.announce_all(gaps, now);
        }
    }

    pub(super) fn announce_all(&mut self, gaps: Vec<Gap>, now: Timestamp) {
        for gap in gaps {
            let stream = self.logs.get(gap.stream.index()).map(|log| log.rules.stream.name.clone()).unwrap_or_default();
            tracing::warn!(
                stream, gap.first, gap.last, gap.count, reason = ?gap.reason,
                "{} records of stream {stream} are lost, {} to {}: {}{}", gap.count, gap.first, gap.last, gap.reason,
                gap.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default(),
            );
            // A broker that takes no events would get one for each that it refuses.
            if gap.stream == StreamId::EVENT && gap.reason == Reason::Refused {
                continue;
            }
            let mut event = json!({
                "type": "gap", "stream": stream, "first": gap.first, "last": gap.last, "count": gap.count,
                "reason": gap.reason,
            });
            if let Some(fields) = event.as_object_mut() {
                let times = [("from", gap.from_ms), ("to", gap.to_ms)];
                fields.extend(times.iter().filter_map(|(key, at)| Some(((*key).to_owned(), rfc3339((*at)?).into()))));
                fields.extend(gap.detail.map(|detail| ("detail".to_owned(), detail.into())));
            }
            self.tell(&event, now);
        }
    }

    pub(super) fn tell(&mut self, event: &serde_json::Value, now: Timestamp) {
        let data = event.to_string().into_bytes();
        let record = Record { topic: "event".to_owned(), time: now, encoding: Encoding::Json, data };
        if let Some(log) = self.log(StreamId::EVENT) {
            // A refusal is counted in the event stream's own ledger.
            let _ = log.append(vec![record], now);
        }
    }
}
