//! Finds the message that ends the connection whenever it is sent. Pure.
//!
//! A broker of MQTT 3.1.1 has two answers to a message that it does not want: it acknowledges it and drops it, of which we never
//! hear, or it ends the connection; so does one of MQTT 5 that takes it for an error of protocol. Such a message would be sent
//! on every connection, and end it, for ever. From one connection to the next:
//!
//! ```text
//!          the broker ended 3 in a row, and the same          the broker ended 5 that had answered to all
//!          message was the oldest one without an answer       but this message, alone on its way
//! Trusting ─────────────────────────────────────────> Careful ─────────────────────────────────────────> it is given up
//!     ^          messages go one at a time               │                                                    │
//!     └──────────────────────────────────────────────────┴────────────────────────────────────────────────────┘
//!                                    256 messages were answered in a row
//! ```
//!
//! So a link that breaks now and then costs no record: it would have to break eight times in a row in the instants that one
//! message is on its way, five of them with nothing else. A topic that one message was given up on needs three of the latter.

use crate::record::StreamId;
use std::collections::VecDeque;

/// Connections in a row that must end with the same message before one message is sent at a time.
const SUSPICION: u32 = 3;
/// Connections that a message must end alone before it is given up, and on a topic that is known for it.
const PROOF: (u32, u32) = (5, 3);
/// Messages that must be answered before more than one is sent at a time again.
const CAREFUL: u32 = 256;
/// Topics that are remembered.
const TOPICS: usize = 32;

/// A message, by the stream and the number of its first record.
pub(super) type Message = (StreamId, u64);

#[derive(Debug)]
struct Suspect {
    message: Message,
    /// Connections that ended with it, and those of them that it was alone on.
    times: u32,
    alone: u32,
}

/// What is suspected.
#[derive(Debug, Default)]
pub(super) struct Poison {
    suspect: Option<Suspect>,
    /// Messages that are still to be sent one at a time.
    careful: u32,
    /// Where messages were given up, the latest last.
    topics: VecDeque<String>,
}

impl Poison {
    /// Whether one message is to be sent at a time, with one record in it.
    pub(super) fn is_careful(&self) -> bool {
        self.careful > 0
    }

    /// The broker has answered to this message. Returns whether that ends the time of care.
    pub(super) fn answered(&mut self, message: Message) -> bool {
        if self.suspect.as_ref().is_some_and(|suspect| suspect.message == message) {
            self.suspect = None;
        }
        let was_careful = self.is_careful();
        self.careful = self.careful.saturating_sub(1);
        was_careful && !self.is_careful()
    }

    /// The broker has ended the connection when this message was the oldest that it had not answered to. `alone`: the only one, and
    /// nothing else was left to answer to; then `topic` is its topic. Returns how often that has happened if it is to be given up.
    pub(super) fn ended(&mut self, oldest: Message, alone: bool, topic: &str) -> Option<u32> {
        let suspect = self.suspect.take().filter(|suspect| suspect.message == oldest);
        let mut suspect = suspect.unwrap_or(Suspect { message: oldest, times: 0, alone: 0 });
        suspect.times += 1;
        suspect.alone += u32::from(alone);
        let is_known = self.topics.iter().any(|known| known == topic);
        if alone && suspect.alone >= if is_known { PROOF.1 } else { PROOF.0 } {
            if !is_known {
                self.topics.push_back(topic.to_owned());
                if self.topics.len() > TOPICS {
                    self.topics.pop_front();
                }
            }
            self.careful = CAREFUL;
            return Some(suspect.alone);
        }
        if suspect.times >= SUSPICION {
            self.careful = CAREFUL;
        }
        self.suspect = Some(suspect);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Message = (StreamId::TELEMETRY, 7);
    const GOOD: Message = (StreamId::TELEMETRY, 6);

    #[test]
    fn a_message_is_never_given_up_before_it_was_alone_five_times() {
        let mut poison = Poison::default();
        for _ in 0..2 {
            assert_eq!(poison.ended(BAD, false, ""), None);
            assert!(!poison.is_careful());
        }
        assert_eq!(poison.ended(BAD, false, ""), None);
        assert!(poison.is_careful());
        assert_eq!(poison.ended(BAD, false, ""), None, "not alone");
        for _ in 0..4 {
            assert_eq!(poison.ended(BAD, true, "p/bad"), None);
        }
        assert_eq!(poison.ended(BAD, true, "p/bad"), Some(5));
        assert!(poison.is_careful(), "there may be more of them");
        assert_eq!(poison.ended((StreamId::LOG, 1), true, "p/bad"), None);
        assert_eq!(poison.ended((StreamId::LOG, 1), true, "p/bad"), None);
        assert_eq!(poison.ended((StreamId::LOG, 1), true, "p/bad"), Some(3), "the topic is known");
    }

    #[test]
    fn a_bad_link_never_costs_a_message() {
        let mut poison = Poison::default();
        for round in 0..1000 {
            // The oldest one is another each time.
            assert_eq!(poison.ended((StreamId::LOG, round), true, "p/x"), None);
        }
        assert!(!poison.is_careful());
        for _ in 0..1000 {
            for _ in 0..4 {
                assert_eq!(poison.ended(BAD, true, "p/x"), None);
            }
            poison.answered(BAD);
        }
        for _ in 0..1000 {
            assert_eq!(poison.ended(BAD, false, ""), None, "it was never alone");
        }
    }

    #[test]
    fn care_never_lasts_for_ever() {
        let mut poison = Poison::default();
        for _ in 0..3 {
            poison.ended(BAD, false, "");
        }
        poison.answered(GOOD);
        assert!(poison.suspect.is_some(), "that was another one");
        poison.answered(BAD);
        assert!(poison.suspect.is_none());
        for left in (0..CAREFUL - 2).rev() {
            assert_eq!(poison.answered(GOOD), left == 0);
        }
        assert!(!poison.is_careful() && !poison.answered(GOOD));
    }
}
