//! What becomes of a message that the broker does not take.

use super::exchange::{Leaving, REPORT_EVERY};
use super::queue::Taken;
use super::refused::{Pause, Verdict};
use super::{Leave, Link, Lost, Publisher};
use crate::inflight::Sent;
use crate::mqtt::LinkError;
use crate::mqtt::reason::{Fate, Refusal};
use crate::record::StreamId;
use crate::spool::Reason;
use std::time::Duration;
use tokio::time::Instant;

impl Publisher {
    /// The broker does not take a message.
    pub(super) async fn refuse(&mut self, id: u16, refusal: &Refusal) -> Result<(), Lost> {
        let (stream, first, last) = match self.window.stands_for(id) {
            Some(Sent::Records { stream, first, last }) => (stream, first, last),
            Some(Sent::Retained) => {
                self.poison.answered(None);
                self.window.refuse(id);
                self.refuse_retained(refusal.name(), &refusal.to_string());
                self.retained_settled();
                return Ok(());
            }
            None => {
                self.settle(id);
                return Ok(());
            }
        };
        self.count(|status| *status.refusals.entry(refusal.name().to_owned()).or_default() += 1);
        self.poison.answered(self.window.topic(id).map(|topic| ((stream, first), topic)));
        let give_up = match refusal.fate() {
            Fate::Never | Fate::Later if first < last && refusal.may_be_one_records_fault() => {
                self.refused.split(stream, last, refusal, self.now_ms());
                false
            }
            Fate::Never => true,
            Fate::Later => self.refused.refused((stream, first), refusal, self.now_ms()) == Verdict::GiveUp,
            Fate::Reconnect => {
                // Not the message's own fault.
                return Err(LinkError::Protocol(refusal.to_string()).into());
            }
        };
        if give_up {
            // Before they count as delivered.
            for seq in first..=last {
                self.wiring.spool.discard(stream, seq, Reason::Refused, refusal.to_string()).await?;
            }
            self.settle(id);
            let report = Instant::now() + REPORT_EVERY;
            self.timers.report = self.timers.report.min(report);
        } else {
            tracing::debug!(stream = stream.0, first, "{refusal}; it is tried again");
            self.window.refuse(id);
            self.pause(stream);
        }
        Ok(())
    }

    /// A retained message is not taken: it comes again when it changes, or on the next connection.
    pub(super) fn refuse_retained(&self, name: &str, why: &str) {
        tracing::warn!("a retained message is not taken: {why}");
        self.count(|status| *status.refusals.entry(name.to_owned()).or_default() += 1);
    }

    /// Nothing more of this stream is sent for now: what of it is here, or on its way here, comes again.
    fn pause(&mut self, stream: StreamId) {
        self.epoch += 1;
        if let Some(epoch) = self.epochs.get_mut(stream.index()) {
            *epoch = self.epoch;
        }
        self.window.forget(stream);
        self.spent += self.queue.forget(stream);
        self.outbox.retain(|(_, sent)| sent.message().is_none_or(|(of, _)| of != stream));
    }

    /// When the first stream that pauses is tried again, of those of which nothing is under way any more.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        let paused = self.refused.pausing().filter(|(stream, _)| self.window.in_flight_of(*stream) == 0);
        let until_ms = paused.map(|(_, pause)| pause.until_ms).min()?;
        Some(Instant::now() + Duration::from_millis(until_ms.saturating_sub(self.now_ms())))
    }

    /// Has what is not acknowledged of streams whose pause is over read again, of which a message at a time is sent.
    pub(super) async fn probe(&mut self) -> Result<(), Lost> {
        self.report().await?;
        let now_ms = self.now_ms();
        let is_over =
            |(stream, pause): &(StreamId, &Pause)| pause.until_ms <= now_ms && self.window.in_flight_of(*stream) == 0;
        let over: Vec<StreamId> = self.refused.pausing().filter(is_over).map(|(stream, _)| stream).collect();
        for stream in over {
            self.refused.probe(stream);
            let epoch = self.epochs.get(stream.index()).copied().unwrap_or_default();
            self.wiring.spool.read_again(stream, epoch).await?;
            if self.is_sparkplug(stream) {
                // What was refused had numbers, which a host misses.
                self.bear_again();
            }
        }
        Ok(())
    }

    /// The streams of which nothing is sent before what is under way is answered, a bit for each id.
    pub(super) fn busy(&self) -> u64 {
        let waits = |stream: &StreamId| self.window.in_flight_of(*stream) > 0;
        self.refused.probing().filter(waits).fold(0, |busy, stream| busy | stream.bit())
    }

    /// The connection is over. If it is always the same message that ends it, that is given up; if it is what is on one topic,
    /// that is barred.
    pub(super) async fn suspect(&mut self, ended: &Result<Leaving, Lost>) -> Result<(), Lost> {
        let error = match ended {
            Err(Lost::Link(error)) if error.may_be_a_messages_fault() => error,
            // It is not over, and the answers to its pings are yet to come.
            Ok(Leaving::Told(Leave::Renew(_, Link::Keep))) => return Ok(()),
            _ => {
                self.poison.forget_connection();
                return Ok(());
            }
        };
        let oldest = match self.window.oldest() {
            Some((Sent::Records { stream, first, last }, topic)) => Some((stream, first, last, topic)),
            _ => None,
        };
        let message = oldest.map(|(stream, first, _, topic)| ((stream, first), topic));
        let verdict = self.poison.ended(message, self.now_ms());
        if verdict.barred {
            self.show_bars();
        }
        if let (Some(times), Some((stream, first, last, _))) = (verdict.give_up, oldest) {
            let times = if times == 1 { "1 connection".to_owned() } else { format!("{times} connections") };
            let detail = format!("sent alone on {times}, it ended each of them: {error}");
            for seq in first..=last {
                self.wiring.spool.discard(stream, seq, Reason::Refused, detail.clone()).await?;
            }
            self.count(|status| *status.refusals.entry("connection-ended".to_owned()).or_default() += 1);
            // That is how it goes on.
            self.dialer.proved();
        }
        Ok(())
    }

    /// Sets aside the run at the front of this stream, whose topic is barred.
    pub(super) async fn set_aside(&mut self, stream: StreamId, why: String) -> Result<(), Lost> {
        let numbers: Vec<u64> = self.queue.run(stream).map(|record| record.seq).collect();
        let Taken { cost, .. } = self.queue.take(stream, numbers.len());
        self.spent += cost;
        self.count(|status| *status.refusals.entry("topic-barred".to_owned()).or_default() += 1);
        for seq in numbers {
            self.wiring.spool.discard(stream, seq, Reason::Refused, why.clone()).await?;
        }
        Ok(())
    }
}
