//! The publisher while it is connected: what it waits for, until the connection or pillion ends; and what comes back,
//! acknowledgements above all. What goes out is in `send`, and what becomes of a message that is not taken in `refuse`.

use super::timers::NEVER;
use super::{Leave, Link, Lost, Publisher, STATUS_TOPIC, sparkplug};
use crate::congestion::Congestion;
use crate::inflight::{Acknowledged, Sent, Topic};
use crate::mqtt::dial::{MOVE, Sight, UPROOTED};
use crate::mqtt::keep_alive::Due;
use crate::mqtt::{About, Connection, LinkError, Message, Received, Terms, Verdict};
use crate::record::StreamId;
use crate::spool::thread::Closed;
use crate::stats::{ConfigurationStatus, LinkState, LinkStatus};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Acknowledgements are reported to the spool together, this late at the latest.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How long a clean stop waits for the acknowledgement of its last message, and a move for its good-bye to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a connection is ended that is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// We were told to.
    Told(Leave),
    /// The server at this place is better. What is on the wire is acknowledged, until this instant at the latest; what is
    /// not is sent again there.
    Better { to: usize, until: Instant },
}

impl Leaving {
    fn deadline(self) -> Instant {
        match self {
            Leaving::Told(leave) => leave.deadline(),
            Leaving::Better { until, .. } => until,
        }
    }

    fn sends_no_more(self) -> bool {
        !matches!(self, Leaving::Told(Leave::Stop(_)))
    }
}

/// Returns when the configuration was read again. Cancel-safe.
async fn reload(reloads: &mut watch::Receiver<ConfigurationStatus>) {
    if reloads.changed().await.is_err() {
        std::future::pending().await
    }
}

impl Publisher {
    /// Connected, then Draining: returns `Ok` when everything is done and it is time to leave.
    pub(super) async fn session(&mut self, connection: Connection) -> Result<Leaving, Lost> {
        self.said.clear();
        self.timers.restart(connection.terms().keep_alive);
        self.begin(connection.terms()).await?;
        self.bear(&connection);
        self.show_connected(connection.terms().notices.clone());
        self.talk(connection).await
    }

    /// The same on a connection that another configuration has left.
    pub(super) async fn go_on(&mut self, connection: Connection) -> Result<Leaving, Lost> {
        self.timers.go_on();
        self.begin(connection.terms()).await?;
        self.bear_again();
        // Who has come or gone meanwhile is no news any more.
        self.look_at_devices();
        self.talk(connection).await
    }

    async fn talk(&mut self, mut connection: Connection) -> Result<Leaving, Lost> {
        let ended = self.exchange(&mut connection).await;
        self.suspect(&ended).await?;
        // What was acknowledged is reported in any case; the rest comes again after the rewind.
        self.report().await?;
        self.forget();
        let unsaid = std::mem::take(&mut self.outbox);
        self.said.retain(|said| unsaid.iter().all(|(message, _)| message != said));
        let leaving = ended?;
        match leaving {
            Leaving::Told(Leave::Renew(_, Link::Keep)) => self.kept = Some(connection),
            // Without a word on `P/status`: subscribers of a cluster see us online throughout.
            // An edge node of Sparkplug, though, must not go without its death.
            Leaving::Told(Leave::Renew(_, Link::Replace)) | Leaving::Better { .. }
                if self.wiring.sparkplug.is_none() =>
            {
                self.hang_up(connection).await;
            }
            Leaving::Told(Leave::Renew(_, Link::Replace)) | Leaving::Better { .. } => {
                self.say_goodbye(connection).await;
            }
            Leaving::Told(Leave::Renew(_, Link::Move) | Leave::Stop(_)) => self.say_goodbye(connection).await,
        }
        Ok(leaving)
    }

    /// Nothing is under way any more, and nothing waits for it: what is not acknowledged comes again.
    pub(super) fn forget(&mut self) {
        self.window.clear();
        self.queue.clear();
        self.outbox.retain(|(_, sent)| *sent == Sent::Retained);
    }

    /// Has the spool begin with what is not acknowledged.
    pub(super) async fn rewind(&mut self) -> Result<(), Lost> {
        self.epoch += 1;
        self.rewound = self.epoch;
        self.epochs.fill(self.epoch);
        self.spent = 0;
        Ok(self.wiring.spool.rewind(self.epoch).await?)
    }

    async fn begin(&mut self, terms: &Terms) -> Result<(), Lost> {
        self.refused.reset();
        self.review().await?;
        self.rewind().await?;
        self.congestion = Congestion::new(self.mqtt.inflight.min(terms.receive_maximum), self.now_ms());
        self.widen();
        self.outbox.clear();
        self.refresh_retained();
        self.announce();
        Ok(())
    }

    /// Sends and receives until it is time to leave and all is done that belongs to that, or the deadline has come.
    async fn exchange(&mut self, connection: &mut Connection) -> Result<Leaving, Lost> {
        let mut leave = self.wiring.leave.borrow_and_update().map(Leaving::Told);
        let address = connection.local_address();
        let mut pulse = self.wiring.pulse.clone();
        // While draining: the spool was asked whether anything waits, and something did.
        let mut more_to_come = false;
        // The health flow, which keeps the retained messages, ends before this one.
        let mut kept_up = true;
        loop {
            let patience = self.mqtt.ack_timeout;
            match leave {
                Some(leave) if leave.sends_no_more() && self.window.in_flight() == 0 => return Ok(leave),
                // A batch that is due stays in the spool as well, and whoever may go again.
                Some(leave) if leave.sends_no_more() => self.timers.wait_for_nobody(),
                leave => {
                    // A broker that reads slowly, or not at all, holds this up and not us.
                    let filled = timeout(patience, self.fill(connection, leave.is_none()));
                    pulse.during(filled).await.map_err(|_| LinkError::Stalled)??;
                    if self.settle_devices() {
                        continue;
                    }
                }
            }
            let all_sent = self.queue.is_empty();
            if let Some(leave @ Leaving::Told(Leave::Stop(_))) = leave
                && all_sent
                && self.window.in_flight() == 0
                && !more_to_come
            {
                self.report().await?;
                let ledgers = self.wiring.spool.report().await?;
                let ours = (0..).map(StreamId).zip(&ledgers).filter(|(stream, _)| !self.gate.holds(*stream));
                let waiting: u64 = ours.map(|(_, ledger)| ledger.waiting).sum();
                if waiting == 0 {
                    return Ok(leave);
                }
                more_to_come = true;
            }
            let resume = self.resume_at();
            self.timers.arm();
            let until = leave.map(Leaving::deadline);
            tokio::select! {
                received = connection.receive() => self.receive_all(received, connection).await?,
                batch = self.wiring.batches.recv() => {
                    self.enqueue(batch.ok_or(Closed)?);
                    more_to_come = false;
                }
                () = &mut self.timers.alarm => self.alarm(connection).await?,
                changed = self.wiring.retained.changed(), if kept_up => {
                    kept_up = changed.is_ok();
                    self.refresh_retained();
                    self.look_at_devices();
                }
                // One after the other, so that no host can ask faster than the broker takes them.
                () = sparkplug::rebirth(&mut self.wiring.sparkplug), if self.outbox.is_empty() => self.bear_again(),
                () = sleep_until(resume.unwrap_or_else(Instant::now)), if resume.is_some() && leave.is_none_or(|leave| !leave.sends_no_more()) => self.probe().await?,
                () = reload(&mut self.wiring.reloads) => {
                    self.poison.lift();
                    self.show_bars();
                }
                () = pulse.answer() => {}
                sight = self.dialer.look_around(address), if leave.is_none() => match sight {
                    Sight::Better(to) => {
                        leave = Some(Leaving::Better { to, until: Instant::now() + patience.min(MOVE) });
                        self.show_moving(to);
                    }
                    Sight::Uprooted => {
                        self.timers.uprooted(UPROOTED);
                        self.ping_now(connection).await?;
                    }
                },
                // A stop is the last word.
                _ = self.wiring.leave.changed(), if !matches!(leave, Some(Leaving::Told(Leave::Stop(_)))) => {
                    let told = *self.wiring.leave.borrow_and_update();
                    match told {
                        Some(Leave::Stop(_)) => {
                            // The devices have stopped by now, and subscribers shall know.
                            self.refresh_retained();
                            self.look_at_devices();
                            self.show_state(LinkState::Draining);
                        }
                        _ => self.show_state(LinkState::Connected),
                    }
                    leave = told.map(Leaving::Told);
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    // On a connection that goes on, a late acknowledgement would be taken for that of another record.
                    let leave = leave.filter(|leave| !matches!(leave, Leaving::Told(Leave::Renew(_, Link::Keep))));
                    return leave.ok_or(Lost::LeftBehind);
                }
            }
        }
    }

    /// Handles a packet, and all that are here already.
    async fn receive_all(
        &mut self,
        first: Result<Received, LinkError>,
        connection: &mut Connection,
    ) -> Result<(), Lost> {
        self.timers.heard();
        let mut next = Some(first);
        let mut acknowledged = 0;
        // What came before the end counts, also for the back-off.
        let mut ended = Ok(());
        while let Some(received) = next {
            match received {
                Ok(Received::Acknowledged { id, verdict: Verdict::Taken }) => {
                    acknowledged += u64::from(self.acknowledge(id));
                }
                Ok(Received::Acknowledged { id, verdict: Verdict::Refused(refusal) }) => {
                    self.refuse(id, &refusal).await?;
                }
                Ok(Received::Pong) if self.poison.ponged() => self.show_bars(),
                Ok(_) => {}
                Err(error) => {
                    ended = Err(error.into());
                    break;
                }
            }
            next = connection.receive_ready().await;
        }
        if ended.is_ok() && self.poison.wants_ping() {
            self.ping_now(connection).await?;
        }
        if acknowledged > 0 {
            self.dialer.proved();
            let report = Instant::now() + REPORT_EVERY;
            self.timers.report = self.timers.report.min(report);
        }
        if self.window.in_flight() == 0 {
            // Nobody is woken to look after nothing.
            self.timers.ack_check = Instant::now() + NEVER;
        }
        let in_flight = u64::try_from(self.window.in_flight()).unwrap_or(u64::MAX);
        let window = u64::from(self.congestion.size());
        self.count(|status| {
            status.acknowledged += acknowledged;
            status.in_flight = in_flight;
            status.window = window;
        });
        ended
    }

    /// Returns whether it was for a record.
    pub(super) fn acknowledge(&mut self, id: u16) -> bool {
        let now_ms = self.now_ms();
        if let Some(sent_ms) = self.window.sent_ms(id)
            && self.congestion.acknowledged(sent_ms, now_ms)
        {
            self.widen();
        }
        let message = self.window.stands_for(id).and_then(Sent::message);
        self.poison.answered(message.zip(self.window.topic(id)));
        if let Some(message) = message {
            self.refused.taken(message);
        }
        self.settle(id)
    }

    /// Nothing waits for this message any more. Returns whether it was of records.
    pub(super) fn settle(&mut self, id: u16) -> bool {
        match self.window.acknowledge(id) {
            Acknowledged::Trim { stream, upto } => {
                if let Some(trim) = self.trim.get_mut(stream.index()) {
                    *trim = Some(upto);
                }
                true
            }
            Acknowledged::OutOfTurn => true,
            Acknowledged::Retained => {
                self.retained_settled();
                false
            }
            Acknowledged::Unsolicited => {
                self.count(|status| status.unsolicited_acks += 1);
                false
            }
        }
    }

    /// Makes the window as wide as it may be now.
    pub(super) fn widen(&mut self) {
        self.window.resize(self.congestion.size());
    }

    /// If the broker has answered to all retained messages, says so.
    pub(super) fn retained_settled(&mut self) {
        if self.outbox.is_empty()
            && !self.window.awaits_retained()
            && let Some(delivered) = self.wiring.announcements.delivered.take()
        {
            self.wiring.announcements.messages.retain(|message| !message.payload.is_empty());
            let _ = delivered.send(());
        }
    }

    /// Tells the spool what may be trimmed and how much credit it has again.
    pub(super) async fn report(&mut self) -> Result<(), Lost> {
        self.timers.report = Instant::now() + NEVER;
        let streams = (0..).map(StreamId);
        let upto: Vec<_> = streams.zip(&mut self.trim).filter_map(|(id, trim)| Some((id, trim.take()?))).collect();
        if !upto.is_empty() {
            self.wiring.spool.acknowledge(upto).await?;
        }
        if self.spent > 0 {
            self.wiring.spool.grant(std::mem::take(&mut self.spent)).await?;
        }
        Ok(())
    }

    /// Some timer is due.
    async fn alarm(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        let now = Instant::now();
        if now >= self.timers.report {
            self.report().await?;
        }
        if now >= self.timers.ack_check {
            let waited = |since_ms| Duration::from_millis(self.now_ms().saturating_sub(since_ms));
            match self.window.oldest_ms().map(waited) {
                Some(waited) if waited >= self.mqtt.ack_timeout => return Err(Lost::AckTimeout),
                Some(waited) => self.timers.ack_check = now + (self.mqtt.ack_timeout - waited),
                None => self.timers.ack_check = now + NEVER,
            }
        }
        match self.timers.keep_alive.look(now) {
            None => Ok(()),
            Some(Due::End) if self.timers.is_uprooted() => Err(Lost::Uprooted),
            Some(Due::End) => Err(Lost::KeepAlive),
            Some(Due::Ping) => self.ping_now(connection).await,
        }
    }

    /// Asks the broker to answer, and takes no longer than for messages until that is on the wire.
    async fn ping_now(&mut self, connection: &mut Connection) -> Result<(), Lost> {
        self.ping(connection).await?;
        let flushed = timeout(self.mqtt.ack_timeout, connection.flush());
        Ok(self.wiring.pulse.during(flushed).await.map_err(|_| LinkError::Stalled)??)
    }

    /// Ends a connection that another one takes the place of: the Last Will is not said.
    async fn hang_up(&mut self, connection: Connection) {
        if !matches!(timeout(GOODBYE, connection.disconnect()).await, Ok(Ok(()))) {
            tracing::debug!("the old connection did not end in order");
        }
    }

    /// The last words of a clean stop. What goes wrong here is what the Last Will is for.
    async fn say_goodbye(&mut self, mut connection: Connection) {
        let message = match &self.wiring.sparkplug {
            Some(sparkplug) => sparkplug.death(),
            None => {
                let topic = format!("{}/{STATUS_TOPIC}", self.mqtt.topic_prefix);
                Message { topic, payload: self.stopped.clone().into_bytes(), retain: true, about: About::json() }
            }
        };
        let words = async {
            let id = self.window.send(Sent::Retained, Topic::of(&message.topic), 0).unwrap_or(1);
            connection.publish(message, id).await?;
            connection.flush().await?;
            while !matches!(connection.receive().await?, Received::Acknowledged { id: of, .. } if of == id) {}
            connection.disconnect().await
        };
        match timeout_at(Instant::now() + GOODBYE, words).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("could not say good-bye to the broker: {error}"),
            Err(_) => tracing::warn!("the broker did not acknowledge the good-bye"),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut LinkStatus)) {
        self.wiring.status.send_if_modified(|status| {
            change(status);
            false
        });
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.wiring.clock)().mono_ms
    }
}
