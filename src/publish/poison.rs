//! Finds what ends the connection whenever it is sent: one message, or all that is sent on a topic. Pure.
//!
//! A broker of MQTT 3.1.1 has two answers to a message that it does not want: it acknowledges it and drops it, of which we never
//! hear, or it ends the connection; so does one of MQTT 5 that takes it for an error of protocol. Some do both, with either
//! version: mosquitto 2.0.11 where it has no limit on queued messages. Such messages would be sent, and end the connection, for
//! ever. So each topic is in one of these states, and all others flow meanwhile:
//!
//! ```text
//!         3 connections ended with the same message unanswered,      the broker ended 8 connections on which a message of
//!         or right behind the answer to a message on this topic      the topic was alone, 3 different ones, none survived
//! Trusted ─────────────────────────────────────────────────────> Watched ───────────────────────────────────────> Barred
//!    ^                                                           │ ^   ^                                            │
//!    └────────────────────────── its messages survive ───────────┘ │   └────────────── the time is over ────────────┘
//!                     one that was never answered is given up: ────┘       (then 2 connections bar it again)
//!                     it has ended 5 connections alone, or 3 where
//!                     another was given up before it
//! ```
//!
//! A message on a watched topic goes *alone*: with one record in it, when nothing else is under way, and followed by a ping. A
//! broker handles packets in their order, so the message has *survived* when it and the ping were answered; a connection that
//! the broker ends before that was ended by nothing else. So a link that breaks now and then costs no record: it would have to
//! break eight times in a row in the instants that one message is on its way, five of them with nothing else.
//!
//! What is on a barred topic is set aside unsent: for a minute, then twice as long each time, up to an hour, for whoever runs
//! the broker may mend its access control. A message that survives then frees the topic. A bar is not about one of
//! `mqtt.servers`: those that share records share access control as a rule, and the end of a connection leads to the next one.
//! It ends with the process.

use crate::inflight::Topic;
use crate::record::StreamId;
use std::collections::{BTreeMap, VecDeque};

/// Connections that must point at a topic before it is watched.
const SUSPICION: u32 = 3;
/// Connections that a message must end alone before it is given up, and on a topic where another one was before.
const PROOF: (u32, u32) = (5, 3);
/// Connections in a row that messages of a topic must end alone, and how many different messages, before it is barred.
const BAR: (u32, u32) = (8, 3);
/// The same connections, when it was barred before.
const BAR_AGAIN: u32 = 2;
/// The shortest and the longest time for which a topic is barred, in minutes.
const MINUTES: (u64, u64) = (1, 60);
/// What is told of a barred topic begins so.
const CAUSE: &str = "the broker ends the connection on what is sent on";
/// Messages that must survive on a topic where one was given up before it is trusted: there may be more of them.
const CARE: u32 = 256;
/// Topics that are watched or barred at the most, and that connections may point at.
const TOPICS: usize = 64;

/// A message, by the stream and the number of its first record.
pub(super) type Message = (StreamId, u64);

/// How a message may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way<'p> {
    /// With others.
    Free,
    /// See [`Poison::sent_alone`].
    Alone,
    /// Not at all: its records are set aside, with these words.
    Barred(&'p str),
}

/// What follows from the end of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The message that was not answered is to be given up: it has ended so many connections.
    pub(super) give_up: Option<u32>,
    /// A topic was barred.
    pub(super) barred: bool,
}

/// What is known of messages that end connections.
#[derive(Debug, Default)]
pub(super) struct Poison {
    /// The oldest message without an answer when the latest connections ended, and how many these were.
    suspect: Option<(Message, u32)>,
    /// Topics of messages that connections have ended right behind the answer to, how many these were.
    behind: VecDeque<(Topic, u32)>,
    /// Where the latest answer was.
    latest: Option<Topic>,
    lone: Option<Lone>,
    /// Pings without an answer.
    pings: u32,
    /// The latest last.
    watched: VecDeque<Watched>,
}

/// The message that is on its way alone.
#[derive(Debug)]
struct Lone {
    message: Message,
    topic: Topic,
    name: String,
    is_answered: bool,
}

/// A topic that is watched or barred.
#[derive(Debug)]
struct Watched {
    topic: Topic,
    /// Messages that must survive before it is trusted.
    care: u32,
    /// A message was given up here.
    is_known: bool,
    /// Connections that a message of it has ended alone, with no survivor in between; how many messages that were; the latest
    /// of them, and how many of the connections it has ended.
    ended: u32,
    messages: u32,
    latest: Option<Message>,
    alone: u32,
    bar: Option<Bar>,
}

#[derive(Debug)]
struct Bar {
    name: String,
    until_ms: u64,
    minutes: u64,
    words: String,
}

impl Poison {
    /// How a message on this topic may go out now.
    pub(super) fn way(&self, topic: Topic, now_ms: u64) -> Way<'_> {
        match self.watched.iter().find(|watched| watched.topic == topic) {
            None => Way::Free,
            Some(Watched { bar: Some(bar), .. }) if now_ms < bar.until_ms => Way::Barred(&bar.words),
            Some(_) => Way::Alone,
        }
    }

    /// A message goes out alone: the caller sends a ping behind it, and nothing else while [`Poison::is_proving`].
    pub(super) fn sent_alone(&mut self, message: Message, topic: Topic, name: &str) {
        self.lone = Some(Lone { message, topic, name: name.to_owned(), is_answered: false });
    }

    /// Whether a message is on its way that nothing may follow.
    pub(super) fn is_proving(&self) -> bool {
        self.lone.is_some()
    }

    /// A ping was sent.
    pub(super) fn pinged(&mut self) {
        self.pings = self.pings.saturating_add(1);
    }

    /// A ping was answered. Returns whether a topic is barred no more.
    pub(super) fn ponged(&mut self) -> bool {
        self.pings = self.pings.saturating_sub(1);
        // An earlier ping says nothing of what was sent behind it.
        let survivor = self.lone.take_if(|lone| lone.is_answered && self.pings == 0);
        survivor.is_some_and(|lone| self.survived(lone.topic))
    }

    /// The message that is alone was answered, and no ping is on its way behind that. The caller sends one: a broker that answers
    /// to pings before messages has told nothing yet.
    pub(super) fn wants_ping(&self) -> bool {
        self.pings == 0 && self.lone.as_ref().is_some_and(|lone| lone.is_answered)
    }

    /// The broker has answered to a message, with records or (`None`) without.
    pub(super) fn answered(&mut self, answer: Option<(Message, Topic)>) {
        // Behind what was answered before, the connection has not ended.
        if let Some(before) = self.latest.take() {
            self.behind.retain(|(topic, _)| *topic != before);
        }
        let Some((message, topic)) = answer else { return };
        self.latest = Some(topic);
        self.suspect.take_if(|(suspect, _)| *suspect == message);
        if let Some(lone) = self.lone.as_mut().filter(|lone| lone.message == message) {
            lone.is_answered = true;
        }
    }

    /// The broker has ended the connection, when this message was the oldest one with records that it had not answered to.
    pub(super) fn ended(&mut self, oldest: Option<(Message, Topic)>, now_ms: u64) -> Verdict {
        let (lone, latest) = (self.lone.take(), self.latest.take());
        self.pings = 0;
        match lone {
            Some(lone) => self.proved(lone, now_ms),
            None => {
                self.point_at(oldest, latest);
                Verdict::default()
            }
        }
    }

    /// The connection is over, and no message is to blame.
    pub(super) fn forget_connection(&mut self) {
        (self.lone, self.latest, self.pings) = (None, None, 0);
    }

    /// Somebody may have mended it: the next message on a barred topic goes out.
    pub(super) fn lift(&mut self) {
        for bar in self.watched.iter_mut().filter_map(|watched| watched.bar.as_mut()) {
            (bar.until_ms, bar.minutes) = (0, 0);
            bar.words = format!("{CAUSE} {}: the next record is tried again", bar.name);
        }
    }

    /// Barred topics with what becomes of their records, in words.
    pub(super) fn bars(&self) -> BTreeMap<String, String> {
        let bars = self.watched.iter().filter_map(|watched| watched.bar.as_ref());
        bars.map(|bar| (bar.name.clone(), bar.words.clone())).collect()
    }

    /// A message of this topic has survived. Returns whether that lifts a bar.
    fn survived(&mut self, topic: Topic) -> bool {
        let Some(place) = self.watched.iter().position(|watched| watched.topic == topic) else { return false };
        let Some(watched) = self.watched.get_mut(place) else { return false };
        (watched.ended, watched.messages, watched.latest, watched.alone) = (0, 0, None, 0);
        watched.care = watched.care.saturating_sub(1);
        let was_barred = watched.bar.is_some();
        if was_barred || watched.care == 0 {
            self.watched.remove(place);
        }
        was_barred
    }

    /// A connection has ended with other messages under way, or none: who might it be?
    fn point_at(&mut self, oldest: Option<(Message, Topic)>, latest: Option<Topic>) {
        if let Some((message, topic)) = oldest {
            let times = self.suspect.filter(|(suspect, _)| *suspect == message).map_or(0, |(_, times)| times) + 1;
            self.suspect = Some((message, times));
            if times >= SUSPICION {
                // It comes behind others that were in the same message, which survive.
                self.watch(topic, CARE);
            }
        }
        if let Some(topic) = latest {
            let known = self.behind.iter().position(|(known, _)| *known == topic);
            let before = known.and_then(|place| self.behind.remove(place)).map_or(0, |(_, times)| times);
            self.behind.push_back((topic, before + 1));
            if self.behind.len() > TOPICS {
                self.behind.pop_front();
            }
            if before + 1 >= SUSPICION {
                self.watch(topic, 1);
            }
        }
    }

    fn watch(&mut self, topic: Topic, care: u32) {
        if let Some(watched) = self.watched.iter_mut().find(|watched| watched.topic == topic) {
            watched.care = watched.care.max(care);
            return;
        }
        if self.watched.len() >= TOPICS {
            let place = self.watched.iter().position(|watched| watched.bar.is_none()).unwrap_or(0);
            self.watched.remove(place);
        }
        let (is_known, ended, messages, latest, alone, bar) = (false, 0, 0, None, 0, None);
        self.watched.push_back(Watched { topic, care, is_known, ended, messages, latest, alone, bar });
    }

    /// It was alone.
    fn proved(&mut self, lone: Lone, now_ms: u64) -> Verdict {
        let Lone { message, topic, name, is_answered } = lone;
        let Some(watched) = self.watched.iter_mut().find(|watched| watched.topic == topic) else {
            return Verdict::default();
        };
        if watched.latest != Some(message) {
            (watched.latest, watched.alone) = (Some(message), 0);
            watched.messages += 1;
        }
        watched.ended += 1;
        watched.alone += 1;
        let is_topic = match &watched.bar {
            Some(_) => watched.ended >= BAR_AGAIN,
            None => watched.ended >= BAR.0 && watched.messages >= BAR.1,
        };
        let needed = if watched.is_known { PROOF.1 } else { PROOF.0 };
        let give_up = (!is_answered && (is_topic || watched.alone >= needed)).then_some(watched.alone);
        if give_up.is_some() {
            (watched.is_known, watched.care) = (true, CARE);
        }
        if is_topic {
            let doubled = watched.bar.as_ref().map_or(0, |bar| bar.minutes * 2);
            let minutes = doubled.clamp(MINUTES.0, MINUTES.1);
            let until_ms = now_ms.saturating_add(minutes * 60_000);
            let words =
                format!("{CAUSE} {name}: its records are set aside unsent for {minutes} min, then one is tried again");
            watched.bar = Some(Bar { name, until_ms, minutes, words });
            (watched.ended, watched.messages, watched.latest, watched.alone) = (0, 0, None, 0);
        }
        Verdict { give_up, barred: is_topic }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn message(seq: u64) -> Message {
        (StreamId::TELEMETRY, seq)
    }

    fn topic(name: &str) -> Topic {
        Topic::of(name)
    }

    /// A broker that ends the connection on one topic; before that it answers, or does not.
    struct Rude {
        poison: Poison,
        answers: bool,
        now_ms: u64,
        connections: u32,
    }

    impl Rude {
        fn new(answers: bool) -> Self {
            Rude { poison: Poison::default(), answers, now_ms: 0, connections: 0 }
        }

        /// Sends what is to be sent on the bad topic, until it is done with. Returns how many connections it cost, and whether it
        /// was set aside unsent.
        fn send(&mut self, seq: u64) -> (u32, bool) {
            let (message, bad) = (message(seq), topic("bad"));
            for ended in 0.. {
                let mut good = 0;
                match self.poison.way(bad, self.now_ms) {
                    Way::Barred(_) => return (ended, true),
                    Way::Alone => self.poison.sent_alone(message, bad, "bad"),
                    Way::Free => {
                        self.poison.answered(Some(((StreamId::LOG, seq), topic("good"))));
                        good = 1;
                    }
                }
                self.poison.pinged();
                if self.answers {
                    self.poison.answered(Some((message, bad)));
                }
                self.connections += 1;
                let oldest = match (self.answers, good) {
                    (false, _) => Some((message, bad)),
                    (true, 0) => None,
                    (true, _) => Some(((StreamId::LOG, seq + 1), topic("good"))),
                };
                let verdict = self.poison.ended(oldest, self.now_ms);
                if self.answers || verdict.give_up.is_some() {
                    return (ended + 1, false);
                }
            }
            unreachable!()
        }
    }

    fn survive(poison: &mut Poison, seq: u64, name: &str) -> bool {
        poison.sent_alone(message(seq), topic(name), name);
        poison.pinged();
        poison.answered(Some((message(seq), topic(name))));
        assert!(poison.is_proving());
        let lifted = poison.ponged();
        assert!(!poison.is_proving());
        lifted
    }

    #[test]
    fn a_topic_never_costs_a_connection_for_each_record() {
        for answers in [false, true] {
            let mut rude = Rude::new(answers);
            let barred: Vec<bool> = (0..500).map(|seq| rude.send(seq).1).collect();
            assert!(rude.connections <= 12, "{} connections", rude.connections);
            assert!(barred[11..].iter().all(|barred| *barred), "{barred:?}");
            let bars = rude.poison.bars();
            assert!(bars["bad"].contains("set aside unsent for 1 min"), "{bars:?}");
        }
    }

    #[test]
    fn a_bar_never_lasts_longer_than_an_hour_nor_costs_more_than_two_connections() {
        for answers in [false, true] {
            let mut rude = Rude::new(answers);
            let mut seq = 0;
            let mut bar = |rude: &mut Rude| {
                let before = rude.connections;
                while !rude.send(seq).1 {
                    seq += 1;
                }
                rude.connections - before
            };
            bar(&mut rude);
            for minutes in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
                rude.now_ms += minutes * MINUTE_MS - 1;
                assert_eq!(bar(&mut rude), 0);
                rude.now_ms += 1;
                assert_eq!(bar(&mut rude), 2, "after {minutes} min");
            }
        }
    }

    #[test]
    fn a_topic_that_was_mended_is_never_barred_any_longer() {
        let mut rude = Rude::new(false);
        for seq in 0..100 {
            rude.send(seq);
        }
        rude.now_ms += MINUTE_MS;
        assert_eq!(rude.poison.way(topic("bad"), rude.now_ms), Way::Alone);
        assert!(survive(&mut rude.poison, 100, "bad"));
        assert_eq!(rude.poison.way(topic("bad"), rude.now_ms), Way::Free);
        assert!(rude.poison.bars().is_empty());
    }

    #[test]
    fn who_says_that_it_was_mended_never_waits_for_the_bar() {
        let mut rude = Rude::new(false);
        for seq in 0..100 {
            rude.send(seq);
        }
        rude.poison.lift();
        assert_eq!(rude.send(100), (2, false), "it was not");
        assert_eq!(rude.send(101), (0, true));
        assert!(rude.poison.bars()["bad"].contains("for 1 min"));
    }

    #[test]
    fn a_message_is_never_given_up_before_it_was_alone_five_times() {
        let (mut poison, bad) = (Poison::default(), topic("p/bad"));
        for _ in 0..3 {
            assert_eq!(poison.way(bad, 0), Way::Free);
            assert_eq!(poison.ended(Some((message(7), bad)), 0), Verdict::default());
        }
        assert_eq!((poison.way(bad, 0), poison.way(topic("p/good"), 0)), (Way::Alone, Way::Free));
        assert_eq!(poison.ended(Some((message(7), bad)), 0), Verdict::default(), "not alone");
        for (seq, times) in [(7, 5), (9, 3)] {
            for time in 1..=times {
                poison.sent_alone(message(seq), bad, "p/bad");
                let give_up = (time == times).then_some(times);
                assert_eq!(poison.ended(Some((message(seq), bad)), 0), Verdict { give_up, barred: false });
            }
            survive(&mut poison, seq + 1, "p/bad");
        }
        assert_eq!(poison.way(bad, 0), Way::Alone, "there may be more of them");
        for seq in 0..u64::from(CARE) {
            survive(&mut poison, seq, "p/bad");
        }
        assert_eq!(poison.way(bad, 0), Way::Free);
    }

    #[test]
    fn a_bad_link_never_costs_a_message_nor_bars_a_topic() {
        let (mut poison, only) = (Poison::default(), topic("p/only"));
        // The oldest one is another each time, and answers were followed by answers.
        for seq in 0..1000 {
            poison.answered(Some((message(seq), only)));
            poison.answered(Some((message(seq + 1), only)));
            assert_eq!(poison.ended(Some((message(seq + 2), only)), 0), Verdict::default());
            assert_eq!(poison.way(only, 0), Way::Free);
        }
        // A link that ends behind each single answer has the topic watched, until one survives.
        for seq in 0..3 {
            poison.answered(Some((message(seq), only)));
            poison.ended(None, 0);
        }
        assert_eq!(poison.way(only, 0), Way::Alone);
        survive(&mut poison, 3, "p/only");
        assert_eq!(poison.way(only, 0), Way::Free);
        // Alone seven times in a row, then one survives.
        for _ in 0..3 {
            poison.ended(Some((message(7), only)), 0);
        }
        for _ in 0..100 {
            for _ in 0..4 {
                poison.sent_alone(message(7), only, "p/only");
                assert_eq!(poison.ended(Some((message(7), only)), 0), Verdict::default());
            }
            survive(&mut poison, 7, "p/only");
        }
    }

    #[test]
    fn an_end_that_is_no_brokers_doing_never_counts() {
        let (mut poison, bad) = (Poison::default(), topic("p/bad"));
        for _ in 0..3 {
            poison.ended(Some((message(7), bad)), 0);
        }
        for _ in 0..100 {
            poison.sent_alone(message(7), bad, "p/bad");
            poison.forget_connection();
            assert!(!poison.is_proving());
        }
        poison.sent_alone(message(7), bad, "p/bad");
        assert_eq!(poison.ended(Some((message(7), bad)), 0), Verdict::default());
    }

    #[test]
    fn an_earlier_ping_never_clears_a_message() {
        let (mut poison, bad) = (Poison::default(), topic("p/bad"));
        poison.watch(bad, 1);
        poison.pinged();
        poison.sent_alone(message(1), bad, "p/bad");
        poison.pinged();
        poison.answered(Some((message(1), bad)));
        assert!(!poison.ponged() && poison.is_proving());
        poison.ponged();
        assert!(!poison.is_proving() && poison.way(bad, 0) == Way::Free);
    }

    #[test]
    fn a_ping_that_is_answered_first_never_leaves_a_message_alone_for_good() {
        let (mut poison, bad) = (Poison::default(), topic("p/bad"));
        poison.watch(bad, 1);
        poison.sent_alone(message(1), bad, "p/bad");
        poison.pinged();
        assert!(!poison.wants_ping(), "one is on its way");
        assert!(!poison.ponged() && poison.is_proving());
        assert!(!poison.wants_ping(), "the message is not answered");
        poison.answered(Some((message(1), bad)));
        assert!(poison.wants_ping() && poison.is_proving());
        poison.pinged();
        assert!(!poison.wants_ping(), "once");
        poison.ponged();
        assert!(!poison.is_proving() && !poison.wants_ping());
    }

    #[test]
    fn what_is_watched_never_grows_without_end_nor_forgets_a_bar_first() {
        let mut rude = Rude::new(true);
        for seq in 0..100 {
            rude.send(seq);
        }
        for number in 0..1000 {
            for _ in 0..3 {
                rude.poison.answered(Some((message(number), topic(&number.to_string()))));
                rude.poison.ended(None, 0);
            }
        }
        assert_eq!((rude.poison.watched.len(), rude.poison.behind.len()), (TOPICS, TOPICS));
        assert!(matches!(rude.poison.way(topic("bad"), 0), Way::Barred(_)));
    }
}
