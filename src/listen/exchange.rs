//! The listen flow while it is connected: subscriptions out, messages in, acknowledgements out.
//!
//! When all that the configuration store needs has come (a *round*): retained messages come with the subscription, but
//! how many of them nobody says. So a ping is sent when everything that came is acknowledged, two seconds after the
//! SUBACK or later; if it comes back without a message in between, nothing is left (see [`super::waiting`]). A broker
//! that had much else to send may have dropped some of it for want of room in its queue: then it is asked for all keys
//! once more.

use super::filters::Receiver;
use super::parcel::Parcel;
use super::talk::{Round, Talk};
use super::waiting::Waiting;
use super::{GOODBYE, Listener, Lost, SOUND};
use crate::command::{MAX_COMMAND, Origin, Request};
use crate::inbound::{Delivered, Settings};
use crate::mqtt::dial::{MOVE, Sight, UPROOTED};
use crate::mqtt::keep_alive::{Due, KeepAlive};
use crate::mqtt::{Connection, Delivery, LinkError, Message, Received};
use crate::sparkplug;
use crate::stats::LinkState;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

/// How long the broker may take to read what we send.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// A broker sends what is not acknowledged again on the next connection only. That long after the first such message it
/// is made.
const COME_AGAIN: Duration = Duration::from_secs(30);
/// Messages in a round that are no retained keys. No broker's queue is so short that it drops something for them:
/// mosquitto's has 1,000 places.
const FOREIGN: u32 = 100;
/// Rounds on one connection.
const ROUNDS: u32 = 3;

/// The packet id of birth and good-bye; filters have the first ones. Their acknowledgements tell nothing.
const STATUS_ID: u16 = u16::MAX;

impl Listener {
    /// From CONNACK to the end of the connection, which it returns the reason of.
    pub(super) async fn listen(&mut self, mut connection: Connection) -> Lost {
        let (began, now_ms) = (Instant::now(), self.now_ms());
        let server = self.dialer.at().0.map(ToString::to_string).unwrap_or_default();
        let waiting = Waiting::connected(connection.session_present(), self.alive.since(&server), now_ms);
        let mut talk = Talk {
            server,
            remembered: connection.session_present(),
            waiting,
            unsettled: VecDeque::new(),
            stalled: VecDeque::new(),
            round: None,
            rounds: 0,
            answer_by: None,
            come_again: None,
            keep_alive: KeepAlive::new(connection.terms().keep_alive, began),
            uprooted: false,
            moving: None,
            subscribed: false,
            notices: connection.terms().notices.clone(),
        };
        let lost = match self.exchange(&mut connection, &mut talk).await {
            Ok(()) => Lost::Stop,
            Err(Lost::Link(error)) if error.is_hang_up() => match self.filters.unanswered() {
                Some(filter) => LinkError::unsubscribed(&filter).into(),
                None => error.into(),
            },
            Err(lost) => lost,
        };
        let now_ms = self.now_ms();
        if talk.subscribed {
            self.alive.save(now_ms);
        }
        match &lost {
            Lost::Link(LinkError::Protocol(_)) => self.unreadable += 1,
            _ => self.unreadable = 0,
        }
        if began.elapsed() >= SOUND {
            self.given_up = 0;
        }
        if matches!(lost, Lost::Stop | Lost::Move { .. }) {
            let sparkplug = self.wiring.outlets.sparkplug.as_ref().filter(|_| matches!(lost, Lost::Stop));
            let stopped = sparkplug.map(|sparkplug| sparkplug.presence.stopped.clone());
            let _ = timeout(GOODBYE, leave(connection, stopped)).await;
        }
        if !matches!(lost, Lost::Stop) {
            // Messages are not acknowledged any more, and come again.
            talk.stalled.clear();
            self.tell_lost(&mut talk).await;
        }
        lost
    }

    /// The configuration store hears of the end of the connection in any case.
    async fn tell_lost(&mut self, talk: &mut Talk) {
        talk.pass_on(Parcel::Settings(Settings::Lost), &self.wiring.outlets);
        while !talk.stalled.is_empty() {
            tokio::select! {
                open = self.wiring.outlets.room(talk.stalled.front()) => match open {
                    true => talk.hand_over(&self.wiring.outlets),
                    false => return,
                },
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return,
            }
        }
    }

    /// Returns `Ok` when it is time to stop.
    async fn exchange(&mut self, connection: &mut Connection, talk: &mut Talk) -> Result<(), Lost> {
        if self.try_again.is_some_and(|at| Instant::now() >= at) {
            self.try_again = None;
            self.filters.try_all_again();
        }
        if let Some(sparkplug) = &self.wiring.outlets.sparkplug {
            connection.publish(sparkplug.presence.birth.clone(), STATUS_ID).await?;
        }
        self.filters.reset();
        for receiver in self.filters.unasked() {
            self.subscribe(receiver, connection, talk).await?;
        }
        flush(connection).await?;
        let address = connection.local_address();
        loop {
            if let Some((to, until)) = talk.moving
                && ((talk.unsettled.is_empty() && talk.stalled.is_empty()) || Instant::now() >= until)
            {
                return Err(Lost::Move { to });
            }
            if talk.unsettled.is_empty() && talk.stalled.is_empty() {
                match connection.receive_ready().await {
                    Some(received) => {
                        self.receive(received?, talk)?;
                        continue;
                    }
                    None => talk.caught_up(self.now_ms()),
                }
            }
            if self.is_round_over(talk) {
                self.subscribe(Receiver::Settings, connection, talk).await?;
                flush(connection).await?;
            }
            let alarm = talk.alarm(self.now_ms());
            let reads = talk.stalled.is_empty() && talk.moving.is_none();
            tokio::select! {
                received = connection.receive(), if reads => self.receive(received?, talk)?,
                open = self.wiring.outlets.room(talk.stalled.front()), if !talk.stalled.is_empty() => {
                    // The other flows end when pillion stops; then nothing is acknowledged any more.
                    if !open {
                        return Ok(());
                    }
                    talk.hand_over(&self.wiring.outlets);
                }
                settled = front(&mut talk.unsettled), if !talk.unsettled.is_empty() => {
                    settle(connection, talk, settled).await?;
                }
                () = sleep_until(alarm) => {
                    if talk.come_again.is_some_and(|at| Instant::now() >= at) {
                        return Err(Lost::ComeAgain);
                    }
                    if talk.moving.is_some() {
                        continue;
                    }
                    let now = Instant::now();
                    // What we don't read we can't hear.
                    if !reads {
                        talk.heard();
                        talk.answer_by = talk.answer_by.map(|_| now + self.ack_timeout);
                    }
                    if talk.answer_by.is_some_and(|at| now >= at) {
                        return Err(Lost::Unanswered);
                    }
                    match talk.keep_alive.look(now) {
                        Some(Due::End) if talk.uprooted => return Err(Lost::Uprooted),
                        Some(Due::End) => return Err(Lost::KeepAlive),
                        Some(Due::Ping) | None => {}
                    }
                    self.ping(connection, talk).await?;
                }
                sight = self.dialer.look_around(address), if talk.moving.is_none() => match sight {
                    Sight::Better(to) => talk.moving = Some((to, Instant::now() + MOVE)),
                    Sight::Uprooted => {
                        talk.uprooted = true;
                        talk.keep_alive.test(Instant::now(), UPROOTED);
                        self.ping(connection, talk).await?;
                    }
                },
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed() => return Ok(()),
            }
        }
    }

    async fn ping(&mut self, connection: &mut Connection, talk: &mut Talk) -> Result<(), Lost> {
        connection.ping().await?;
        flush(connection).await?;
        talk.pinged();
        Ok(())
    }

    /// Asks for one filter. What comes from now on may be an answer to it.
    async fn subscribe(
        &mut self,
        receiver: Receiver,
        connection: &mut Connection,
        talk: &mut Talk,
    ) -> Result<(), Lost> {
        if receiver == Receiver::Settings {
            talk.round = Some(Round { waiting: None, foreign: 0 });
            talk.rounds += 1;
            let round = Settings::Round { server: talk.server.clone(), remembered: talk.remembered };
            talk.pass_on(Parcel::Settings(round), &self.wiring.outlets);
        }
        talk.answer_by.get_or_insert(Instant::now() + self.ack_timeout);
        let (filter, id) = self.filters.ask(receiver);
        Ok(connection.subscribe(filter, receiver != Receiver::Neighbour, id).await?)
    }

    /// If the round has come to its end, says so; returns whether there must be another one.
    fn is_round_over(&self, talk: &mut Talk) -> bool {
        match talk.round.take_if(|round| round.waiting.as_ref().is_some_and(Waiting::is_live)) {
            Some(round) if round.foreign > FOREIGN && talk.rounds < ROUNDS => true,
            Some(_) => {
                talk.pass_on(Parcel::Settings(Settings::Complete), &self.wiring.outlets);
                false
            }
            None => false,
        }
    }

    fn receive(&mut self, received: Received, talk: &mut Talk) -> Result<(), Lost> {
        talk.heard();
        let now_ms = self.now_ms();
        match received {
            Received::Delivered(delivery) => self.deliver(delivery, talk, now_ms),
            Received::Subscribed { id, granted } => self.answered(id, granted, talk)?,
            Received::Pong => talk.ponged(now_ms),
            Received::Acknowledged { .. } | Received::Other => {}
        }
        if talk.subscribed
            && let Some(last_ms) = talk.waiting.away_since_ms(now_ms)
        {
            self.alive.saw(&talk.server, last_ms, now_ms);
        }
        Ok(())
    }

    /// The broker has answered a SUBSCRIBE.
    fn answered(&mut self, id: u16, granted: bool, talk: &mut Talk) -> Result<(), Lost> {
        if self.filters.answered(id, granted) == Some(Receiver::Settings) {
            let waiting = granted.then(|| talk.waiting.beside(self.now_ms()));
            talk.round = waiting.map(|waiting| Round { waiting: Some(waiting), foreign: 0 });
        }
        if !self.filters.all_answered() {
            return Ok(());
        }
        talk.answer_by = None;
        if talk.subscribed {
            return Ok(());
        }
        let denied = self.filters.denied();
        if !self.filters.any_granted() {
            return Err(Lost::Denied(denied.join(" and ")));
        }
        talk.subscribed = true;
        self.dialer.proved();
        let since_ms = (self.wiring.clock)().wall_ms;
        let set_aside = self.filters.set_aside();
        let notices = std::mem::take(&mut talk.notices);
        self.wiring.status.send_modify(|status| {
            status.state = LinkState::Connected;
            status.reason = None;
            status.since_ms = since_ms;
            status.connects += 1;
            let server = status.server.as_deref().unwrap_or_default();
            tracing::info!(server, "listening for commands at {server}");
            for filter in denied.iter().filter(|filter| !status.denied.contains(filter)) {
                tracing::warn!("the broker does not allow to subscribe to {filter}");
            }
            status.denied = denied;
            status.set_aside = set_aside;
            for notice in notices.iter().filter(|notice| !status.notices.contains(notice)) {
                tracing::warn!("{notice}");
            }
            status.notices = notices;
        });
        Ok(())
    }

    /// Hands a message over, or keeps it until there is room.
    fn deliver(&mut self, delivery: Delivery, talk: &mut Talk, now_ms: u64) {
        self.wiring.status.send_if_modified(|status| {
            status.received += 1;
            false
        });
        let Delivery { topic, payload, packet, retained, redelivered } = delivery;
        let waited = talk.waiting.delivered(now_ms).map(Duration::from_millis);
        let (noted, answer) = oneshot::channel();
        if let Some(packet) = packet {
            talk.unsettled.push_back((packet, answer));
        }
        let route = self.filters.route(&topic);
        if let Some(round) = &mut talk.round {
            if let Some(waiting) = &mut round.waiting {
                waiting.delivered(now_ms);
            }
            // Neighbours have QoS 0, and so no place in a queue.
            let is_key = retained && matches!(route, Some((Receiver::Settings, _)));
            round.foreign += u32::from(!is_key && packet.is_some());
        }
        let Some((receiver, rest)) = route else {
            tracing::debug!(topic, "a message on a topic that was not asked for");
            let _: Result<(), ()> = noted.send(());
            return;
        };
        // For commands: one byte more than the largest one tells that it is too large.
        let limited = |payload: &[u8]| payload.get(..(MAX_COMMAND + 1).min(payload.len())).unwrap_or_default().to_vec();
        let message = |noted| {
            let (topic, payload) = (rest.to_owned(), payload.to_vec());
            Delivered { topic, payload, retained, packet, redelivered, noted }
        };
        let parcel = match receiver {
            Receiver::Device => {
                let origin = Origin::Broker { retained, packet, redelivered, waited, noted };
                Parcel::Command(Request { device: rest.to_owned(), payload: limited(&payload), origin })
            }
            Receiver::NodeDevice => {
                // What says nothing is refused as an empty command is: the bytes themselves must not reach the device.
                let command = sparkplug::command(&payload);
                let origin = Origin::Broker { retained, packet, redelivered, waited, noted };
                let payload = limited(&command.unwrap_or_default());
                Parcel::Command(Request { device: rest.to_owned(), payload, origin })
            }
            Receiver::Node => {
                let rebirth = sparkplug::asks_for_rebirth(&payload);
                if let (Some(sparkplug), true, false) = (&self.wiring.outlets.sparkplug, rebirth, retained) {
                    sparkplug.rebirths.send_modify(|requests| *requests = requests.wrapping_add(1));
                }
                let _: Result<(), ()> = noted.send(());
                return;
            }
            Receiver::Application => Parcel::Message(message(noted)),
            Receiver::Settings => Parcel::Settings(Settings::Message(message(noted))),
            Receiver::Neighbour => Parcel::Neighbour(message(noted)),
        };
        talk.pass_on(parcel, &self.wiring.outlets);
    }

    fn now_ms(&self) -> u64 {
        (self.wiring.clock)().mono_ms
    }
}

/// Waits for the word on the oldest packet. Cancel-safe. Don't call it with none.
async fn front(unsettled: &mut VecDeque<(u16, oneshot::Receiver<()>)>) -> bool {
    match unsettled.front_mut() {
        Some((_, answer)) => answer.await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Acknowledges the oldest packet, if it need not come again, and those behind it of which the same is known.
async fn settle(connection: &mut Connection, talk: &mut Talk, mut settled: bool) -> Result<(), LinkError> {
    while let Some((packet, _)) = talk.unsettled.pop_front() {
        if settled {
            connection.acknowledge(packet).await?;
        } else {
            talk.come_again.get_or_insert_with(|| Instant::now() + COME_AGAIN);
        }
        settled = match talk.unsettled.front_mut().map(|(_, answer)| answer.try_recv()) {
            Some(Ok(())) => true,
            Some(Err(oneshot::error::TryRecvError::Closed)) => false,
            Some(Err(oneshot::error::TryRecvError::Empty)) | None => break,
        };
    }
    flush(connection).await
}

/// Says good-bye, with some last words if there are any.
async fn leave(mut connection: Connection, words: Option<Message>) -> Result<(), LinkError> {
    if let Some(words) = words {
        connection.publish(words, STATUS_ID).await?;
    }
    connection.disconnect().await
}

async fn flush(connection: &mut Connection) -> Result<(), LinkError> {
    timeout(WRITE_TIME, connection.flush()).await.map_err(|_| LinkError::Stalled)?
}
