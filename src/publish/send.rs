//! What goes out while the publisher is connected: retained messages first, then records as far as the window has room.
//!
//! A record's way: a batch from the spool → `queue` → the run at its stream's front → `parcel` → a packet id in the window → the
//! connection. Three may hold it back: the gate and a refusal its stream (both are told to the spool, see `pacing`), and
//! `poison` its topic.

use super::parcel::{self, Parcel, TooLarge};
use super::poison::{self, Way};
use super::queue::{Ready, Taken};
use super::{Lost, Publisher, STATUS_TOPIC, about};
use crate::config::MqttVersion;
use crate::inflight::{Sent, Topic};
use crate::mqtt::{About, Connection, LinkError, Message};
use crate::record::{Announcement, Retained, StreamId};
use crate::spool::thread::{CREDIT, cost};
use crate::spool::{Batch, Reason};
use std::time::Duration;
use tokio::time::Instant;

/// Whether there may be more to send right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    GoesOn,
    /// The next message is to go alone, and others are under way.
    Waits,
}

impl Publisher {
    /// Takes in what the spool has pushed.
    pub(super) fn enqueue(&mut self, batch: Batch) {
        let Batch { stream, records, urgency, epoch } = batch;
        let now_ms = self.now_ms();
        match self.epochs.get(stream.index()) {
            Some(current) if epoch == *current => self.spent += self.queue.enqueue(stream, records, urgency, now_ms),
            // They come again, with their stream alone: these are still lent.
            Some(_) if epoch >= self.rewound => {
                self.spent += records.iter().map(|record| cost(&record.record)).sum::<usize>();
            }
            // They come again, or have come already, with all others.
            _ => {}
        }
    }

    /// Sends the retained messages that this connection has not seen yet.
    pub(super) fn refresh_retained(&mut self) {
        let messages = self.retained();
        let news = messages.iter().filter(|message| !self.said.contains(message)).cloned();
        self.outbox.extend(news.map(|message| (message, Sent::Retained)));
        self.said = messages;
    }

    fn retained(&mut self) -> Vec<Message> {
        let prefix = &self.mqtt.topic_prefix;
        // With Sparkplug the Last Will here is another one, and whoever has that of the status says the birth, too.
        let is_ours = |retained: &&Retained| self.wiring.sparkplug.is_none() || retained.topic != STATUS_TOPIC;
        let message = |retained: &Retained| Message {
            topic: format!("{prefix}/{}", retained.topic),
            payload: retained.payload.clone().into_bytes(),
            retain: true,
            about: About::json(),
        };
        self.wiring.retained.borrow_and_update().iter().filter(is_ours).map(message).collect()
    }

    /// What others shall find at the broker goes behind that.
    pub(super) fn announce(&mut self) {
        let message = |Announcement { topic, payload }: &Announcement| Message {
            topic: topic.clone(),
            payload: payload.clone().into_bytes(),
            retain: true,
            about: About::json(),
        };
        let messages = self.wiring.announcements.messages.iter().map(message);
        self.outbox.extend(messages.map(|message| (message, Sent::Retained)));
    }

    /// Sends what the window has room for, retained messages first. `patient`: batches may wait until they are full.
    pub(super) async fn fill(&mut self, connection: &mut Connection, patient: bool) -> Result<(), Lost> {
        let mut sent = false;
        self.review().await?;
        self.timers.wait_for_nobody();
        let now_ms = self.now_ms();
        while self.window.has_room() && !self.poison.is_proving() {
            if let Some((message, sent)) = self.outbox.pop_front() {
                let topic = Topic::of(&message.topic);
                // One of Sparkplug is not set aside where its topic is barred: it has a number that hosts count on.
                let alone = sent.message().filter(|_| self.poison.way(topic, now_ms) != Way::Free);
                if alone.is_some() && self.window.in_flight() > 0 {
                    self.outbox.push_front((message, sent));
                    break;
                }
                // What a record becomes was made to fit.
                let may_be_large = sent == Sent::Retained;
                if may_be_large && message.payload.len() > connection.payload_limit(&message.topic, &message.about) {
                    self.refuse_retained("packet-too-large", &format!("{}: too large for the broker", message.topic));
                    self.retained_settled();
                    continue;
                }
                let Some(id) = self.window.send(sent, topic, now_ms) else { break };
                self.gate.spend(message.topic.len() + message.payload.len());
                self.put(connection, message, id, alone.map(|message| (message, topic))).await?;
            } else {
                match self.queue.ready(now_ms, patient, self.busy()) {
                    Ready::Now(stream) if !self.gate.lets_pass(stream, (self.wiring.clock)()) => {
                        self.review().await?;
                        continue;
                    }
                    Ready::Now(stream) => match self.send(connection, stream, now_ms).await? {
                        Sending::GoesOn => {}
                        Sending::Waits => break,
                    },
                    Ready::At(due_ms) => {
                        self.timers.batch = Instant::now() + Duration::from_millis(due_ms.saturating_sub(now_ms));
                        break;
                    }
                    Ready::Nothing => break,
                }
            }
            sent = true;
        }
        if let Some(wait_ms) = self.gate.wait_ms() {
            self.timers.gate = Instant::now() + Duration::from_millis(wait_ms);
        }
        if sent {
            connection.flush().await?;
            let check = Instant::now() + self.mqtt.ack_timeout;
            self.timers.ack_check = self.timers.ack_check.min(check);
        }
        if self.spent >= CREDIT / 2 {
            self.report().await?;
        }
        Ok(())
    }

    /// Sends the run at the front of this stream, or as much of it as fits into one message.
    async fn send(&mut self, connection: &mut Connection, stream: StreamId, now_ms: u64) -> Result<Sending, Lost> {
        let is_sparkplug = self.is_sparkplug(stream);
        let Some(rules) = self.streams.get(stream.index()) else { return Ok(Sending::GoesOn) };
        let Some(first) = self.queue.run(stream).next() else { return Ok(Sending::GoesOn) };
        if is_sparkplug && !first.record.is_retained() {
            let topic = self.wiring.sparkplug.as_ref().map(|sparkplug| sparkplug.topic(&first.record));
            let limit = connection.payload_limit(&topic.unwrap_or_default(), &About::default());
            self.send_as_metrics(stream, limit).await?;
            return Ok(Sending::GoesOn);
        }
        let name = format!("{}/{}", self.mqtt.topic_prefix, first.record.topic);
        let topic = Topic::of(&name);
        let is_alone = match self.poison.way(topic, now_ms) {
            Way::Free => false,
            Way::Alone if self.window.in_flight() > 0 => return Ok(Sending::Waits),
            Way::Alone => true,
            Way::Barred(why) => {
                let why = why.to_owned();
                self.set_aside(stream, why).await?;
                return Ok(Sending::GoesOn);
            }
        };
        let retain = first.record.is_retained();
        let now = (self.wiring.clock)();
        let is_v5 = self.mqtt.version == MqttVersion::V5;
        let about = if is_v5 { about::of(&rules.name, rules.max_age, first, now) } else { About::default() };
        let most = self.mqtt.max_payload.min(connection.payload_limit(&name, &about));
        let is_single = is_alone || self.refused.is_single(stream, first.seq);
        let run = self.queue.run(stream).take(if is_single { 1 } else { usize::MAX });
        let packed = parcel::pack(run, &rules.name, rules.batch.as_ref(), most, &mut self.deflater);
        let Parcel { payload, count, plain } = match packed {
            Ok(parcel) => parcel,
            Err(TooLarge(size)) => {
                let Taken { first, cost, .. } = self.queue.take(stream, 1);
                self.spent += cost;
                let detail = match (self.mqtt.max_payload, connection.terms().max_packet) {
                    (ours, broker) if most < ours => {
                        format!("{size} bytes, with its topic more than the broker takes: {broker}")
                    }
                    (ours, _) => format!("{size} bytes, mqtt.max_payload is {ours}"),
                };
                self.wiring.spool.discard(stream, first, Reason::Oversize, detail).await?;
                return Ok(Sending::GoesOn);
            }
        };
        let about = match rules.batch.as_ref().filter(|_| is_v5) {
            Some(batching) => about::of_several(about, batching.format, count, payload.len() < plain),
            None => about,
        };
        let highest = self.highest.get(stream.index()).copied().unwrap_or(0);
        let repeated = self.queue.run(stream).take(count).filter(|record| record.seq <= highest).count();
        let Taken { first, last, cost } = self.queue.take(stream, count);
        self.spent += cost;
        let sent = Sent::Records { stream, first, last };
        let Some(id) = self.window.send(sent, topic, now_ms) else { return Ok(Sending::GoesOn) };
        if let Some(highest) = self.highest.get_mut(stream.index()) {
            *highest = last.max(*highest);
        }
        self.gate.spend(name.len() + payload.len());
        let as_u64 = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.count(|status| {
            status.repeated += as_u64(repeated);
            status.sent_messages += 1;
            status.sent_records += as_u64(count);
            status.sent_bytes += as_u64(name.len() + payload.len());
            status.plain_bytes += as_u64(name.len() + plain);
        });
        let alone = is_alone.then_some(((stream, first), topic));
        self.put(connection, Message { topic: name, payload, retain, about }, id, alone).await?;
        Ok(Sending::GoesOn)
    }

    /// Puts a message into the send buffer; one that goes `alone`, see [`super::poison`], with a ping behind it.
    async fn put(
        &mut self,
        connection: &mut Connection,
        message: Message,
        id: u16,
        alone: Option<(poison::Message, Topic)>,
    ) -> Result<(), LinkError> {
        let Some((which, topic)) = alone else { return connection.publish(message, id).await };
        self.poison.sent_alone(which, topic, &message.topic);
        connection.publish(message, id).await?;
        self.ping(connection).await
    }

    /// Asks the broker to answer.
    pub(super) async fn ping(&mut self, connection: &mut Connection) -> Result<(), LinkError> {
        self.poison.pinged();
        connection.ping().await
    }
}
