//! Which streams have to wait although the broker is there: in their quiet hours, or because the budget is used up for them. Pure.
//!
//! What waits stays in the spool, under its rules: the publisher tells the spool to hand over nothing of it.

use crate::budget::Budget;
use crate::config::{self, QuietHours, Stream};
use crate::record::{ClockQuality, StreamId, Timestamp, rfc3339};
use crate::stats::BudgetStatus;
use std::collections::BTreeMap;

/// Bytes that a message costs besides topic and payload: fixed header, length of the topic, packet id, and its PUBACK (MQTT
/// 3.1.1 sections 3.3 and 3.4). What TCP and TLS add is not known here.
const OVERHEAD: usize = 12;

/// What may be sent.
#[derive(Debug)]
pub(super) struct Gate {
    budget: Option<Budget>,
    limit: Option<config::Budget>,
    streams: Vec<Held>,
    /// In how many milliseconds another look is worth it.
    wait_ms: Option<u64>,
}

#[derive(Debug)]
struct Held {
    name: String,
    /// Place of its priority among all that there are.
    rank: usize,
    quiet_hours: Option<QuietHours>,
    /// Why it waits, in words.
    why: Option<String>,
}

impl Gate {
    /// `file` is what the file of the budget holds.
    pub(super) fn new(limit: Option<config::Budget>, streams: &[Stream], file: Option<&str>, now: Timestamp) -> Self {
        let mut priorities: Vec<u8> = streams.iter().map(|stream| stream.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let held = |stream: &Stream| Held {
            name: stream.name.clone(),
            rank: priorities.binary_search(&stream.priority).unwrap_or(0),
            quiet_hours: stream.quiet_hours,
            why: None,
        };
        Gate {
            budget: limit.map(|limit| Budget::new(limit, priorities.len(), file, now)),
            limit,
            streams: streams.iter().map(held).collect(),
            wait_ms: None,
        }
    }

    /// Goes on where the gate of an earlier configuration has stopped.
    pub(super) fn follow(&mut self, before: &Gate) {
        if let (Some(budget), Some(before)) = (&mut self.budget, &before.budget) {
            budget.follow(before);
        }
    }

    /// Looks who has to wait now. Returns whether that has changed.
    pub(super) fn review(&mut self, now: Timestamp) -> bool {
        self.wait_ms = None;
        if let Some(budget) = &mut self.budget {
            budget.turn(now);
        }
        let mut changed = false;
        for stream in &mut self.streams {
            let is_trusted = now.quality == ClockQuality::Trusted;
            let quiet = stream.quiet_hours.filter(|_| is_trusted).and_then(|hours| hours.left_ms(now.wall_ms));
            let waits = stream.why.is_some();
            let poor = || self.budget.as_ref().and_then(|budget| budget.wait_ms(stream.rank, waits, now));
            let (wait_ms, why) = match quiet {
                Some(left_ms) => {
                    (Some(left_ms), format!("quiet hours until {}", rfc3339(now.wall_ms.saturating_add(left_ms))))
                }
                None => (poor(), "mqtt.budget leaves nothing for it now".to_owned()),
            };
            let why = wait_ms.map(|_| why);
            changed |= why.is_some() != waits;
            stream.why = why;
            self.wait_ms = [self.wait_ms, wait_ms].into_iter().flatten().min();
        }
        changed
    }

    /// In how many milliseconds from the last review another one is worth it.
    pub(super) fn wait_ms(&self) -> Option<u64> {
        self.wait_ms
    }

    /// Whether this stream may go on: [`Gate::review`] says for how long not.
    pub(super) fn lets_pass(&self, stream: StreamId, now: Timestamp) -> bool {
        let Some(Held { rank, why, quiet_hours, .. }) = self.streams.get(stream.index()) else { return true };
        let is_trusted = now.quality == ClockQuality::Trusted;
        let is_quiet = is_trusted && quiet_hours.is_some_and(|hours| hours.left_ms(now.wall_ms).is_some());
        let is_poor = || self.budget.as_ref().is_some_and(|budget| budget.wait_ms(*rank, false, now).is_some());
        why.is_none() && !is_quiet && !is_poor()
    }

    /// Whether this stream waited when it was last looked at.
    pub(super) fn holds(&self, stream: StreamId) -> bool {
        self.streams.get(stream.index()).is_some_and(|stream| stream.why.is_some())
    }

    /// The streams that wait, a bit for each id.
    pub(super) fn held(&self) -> u64 {
        let all = self.streams.iter().zip((0..).map(StreamId));
        all.filter(|(stream, _)| stream.why.is_some()).fold(0, |held, (_, stream)| held | stream.bit())
    }

    /// A message was sent: bytes of its topic and payload.
    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(budget) = &mut self.budget {
            budget.spend(bytes + OVERHEAD);
        }
    }

    /// What the file of the budget has to hold from now on, if that has changed.
    pub(super) fn note(&mut self) -> Option<String> {
        self.budget.as_mut()?.note()
    }

    /// What it has to hold when the process ends.
    pub(super) fn last_note(&mut self) -> Option<String> {
        self.budget.as_mut()?.last_note()
    }

    /// Why streams wait, by name.
    pub(super) fn reasons(&self) -> BTreeMap<String, String> {
        let reasons = self.streams.iter().filter_map(|stream| Some((stream.name.clone(), stream.why.clone()?)));
        reasons.collect()
    }

    /// How the budget stands.
    pub(super) fn status(&self, now: Timestamp) -> Option<BudgetStatus> {
        let budget = self.budget.as_ref()?;
        let (bytes, used) = budget.used();
        let limit = self.limit?.text();
        Some(BudgetStatus { limit, bytes, used, ends_ms: budget.ends_ms(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Period, WhenFull};

    /// 2026-11-25 00:00:00 UTC.
    const MIDNIGHT_MS: u64 = 1_795_564_800_000;
    const HOUR_MS: u64 = 3_600_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp { wall_ms: MIDNIGHT_MS + ms, mono_ms: ms, quality: ClockQuality::Trusted }
    }

    fn gate(limit: Option<config::Budget>, quiet_hours: Option<QuietHours>) -> Gate {
        let stream = |name: &str, priority, quiet_hours| Stream {
            name: name.to_owned(),
            max_bytes: 0,
            max_age: None,
            when_full: WhenFull::DropOldest,
            priority,
            batch: None,
            convention: Default::default(),
            quiet_hours,
        };
        let streams = [stream("event", 0, None), stream("telemetry", 1, None), stream("log", 2, quiet_hours)];
        Gate::new(limit, &streams, None, at(0))
    }

    #[test]
    fn quiet_hours_never_hold_another_stream_or_end_late() {
        let mut gate = gate(None, Some(QuietHours { from: 60, until: 120 }));
        assert!(!gate.review(at(0)) && gate.held() == 0 && gate.wait_ms().is_none());
        assert!(gate.lets_pass(StreamId::LOG, at(HOUR_MS - 1)) && !gate.lets_pass(StreamId::LOG, at(HOUR_MS)));
        assert!(gate.review(at(HOUR_MS)));
        assert_eq!((gate.held(), gate.wait_ms()), (0b100, Some(HOUR_MS)));
        assert!(!gate.lets_pass(StreamId::LOG, at(HOUR_MS)) && gate.lets_pass(StreamId::EVENT, at(HOUR_MS)));
        assert_eq!(gate.reasons()["log"], "quiet hours until 2026-11-25T02:00:00.000Z");
        assert!(!gate.review(at(2 * HOUR_MS - 1)));
        assert!(gate.review(at(2 * HOUR_MS)) && gate.held() == 0);
        // Nobody knows what time it is.
        let unsynced = Timestamp { quality: ClockQuality::Unsynced, ..at(HOUR_MS) };
        assert!(!gate.review(unsynced) && gate.lets_pass(StreamId::LOG, unsynced));
    }

    #[test]
    fn a_budget_never_stops_the_urgent_before_the_others() {
        let mut gate = gate(Some(config::Budget { bytes: 30_000, period: Period::Hour }), None);
        assert!(!gate.review(at(0)) && gate.note().as_deref() == Some("498768 7500\n"));
        for (stream, held) in [(StreamId::LOG, 0b100), (StreamId::TELEMETRY, 0b110), (StreamId::EVENT, 0b111)] {
            assert!(gate.lets_pass(stream, at(0)));
            gate.spend(10_000 - OVERHEAD);
            assert!(!gate.lets_pass(stream, at(0)));
            assert!(gate.review(at(0)));
            assert_eq!(gate.held(), held);
        }
        let status = gate.status(at(0)).unwrap();
        assert_eq!((status.limit.as_str(), status.bytes, status.used), ("30000B/hour", 30_000, 30_000));
        assert_eq!(status.ends_ms, Some(MIDNIGHT_MS + HOUR_MS));
        assert!(gate.review(at(HOUR_MS)) && gate.held() == 0);
    }
}
