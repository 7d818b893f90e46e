//! MQTT 5: topic aliases, so that a topic travels once for a connection and two bytes stand for it afterwards. Pure.
//!
//! A topic gets an alias when it is used, if that can save anything; when all are given away, the one that was used longest ago is
//! given to the new topic. In a table that is too small for all topics an alias costs three bytes and saves none, so a topic
//! takes another one's place only when it comes for the second time in a row of as many topics without an alias as there are
//! places.

use std::collections::VecDeque;

/// A property with an alias has three bytes; a shorter topic is no longer than that.
const WORTHWHILE: usize = 4;
/// Aliases that are used, whatever the broker allows: each keeps its topic in memory.
const MOST: u16 = 64;

/// How a topic is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    /// As it is.
    Whole,
    /// As it is, with the alias that stands for it from now on.
    Introduced(u16),
    /// The alias alone.
    Aliased(u16),
}

/// The aliases of one connection, ours towards the broker.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    most: u16,
    /// The one that was used last is the last one.
    given: VecDeque<(String, u16)>,
    /// Topics without an alias, the latest last.
    others: VecDeque<String>,
}

impl Aliases {
    /// The broker takes this many.
    pub(super) fn new(most: u16) -> Self {
        Aliases { most: most.min(MOST), given: VecDeque::new(), others: VecDeque::new() }
    }

    /// A message on this topic is written now.
    pub(super) fn write(&mut self, topic: &str) -> Written {
        if self.most == 0 || topic.len() < WORTHWHILE {
            return Written::Whole;
        }
        if let Some(place) = self.given.iter().rposition(|(of, _)| of == topic)
            && let Some((topic, alias)) = self.given.remove(place)
        {
            self.given.push_back((topic, alias));
            return Written::Aliased(alias);
        }
        let places = usize::from(self.most);
        let alias = match u16::try_from(self.given.len()) {
            Ok(given) if given < self.most => given + 1,
            _ => {
                let Some(place) = self.others.iter().position(|of| of == topic) else {
                    self.others.push_back(topic.to_owned());
                    if self.others.len() > places {
                        self.others.pop_front();
                    }
                    return Written::Whole;
                };
                self.others.remove(place);
                let Some((_, alias)) = self.given.pop_front() else { return Written::Whole };
                alias
            }
        };
        self.given.push_back((topic.to_owned(), alias));
        Written::Introduced(alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_topic_never_travels_twice_while_there_is_room() {
        let mut aliases = Aliases::new(2);
        assert_eq!(aliases.write("p/a/b"), Written::Introduced(1));
        assert_eq!(aliases.write("p/a/c"), Written::Introduced(2));
        assert_eq!(aliases.write("p/a/b"), Written::Aliased(1));
        assert_eq!(aliases.write("a/b"), Written::Whole, "nothing to save");
        assert_eq!(aliases.write("p/a/d"), Written::Whole, "no room, and nobody knows whether it comes again");
        assert_eq!(aliases.write("p/a/d"), Written::Introduced(2), "in the place of the one that was used longest ago");
        assert_eq!(aliases.write("p/a/b"), Written::Aliased(1));
        assert_eq!(aliases.write("p/a/c"), Written::Whole);
    }

    #[test]
    fn a_broker_that_takes_none_never_gets_one() {
        let mut aliases = Aliases::new(0);
        assert_eq!((aliases.write("p/long/topic"), aliases.write("p/long/topic")), (Written::Whole, Written::Whole));
    }

    proptest! {
        /// What the broker makes of the aliases is the topic that was meant, always.
        #[test]
        fn an_alias_never_stands_for_another_topic(
            most in 0..6u16,
            topics in proptest::collection::vec(0..12u8, 0..200),
        ) {
            let mut aliases = Aliases::new(most);
            let mut broker: HashMap<u16, String> = HashMap::new();
            for topic in topics.into_iter().map(|number| format!("topic/{number}")) {
                match aliases.write(&topic) {
                    Written::Whole => {}
                    Written::Introduced(alias) => {
                        prop_assert!((1..=most).contains(&alias));
                        broker.insert(alias, topic);
                    }
                    Written::Aliased(alias) => prop_assert_eq!(broker.get(&alias), Some(&topic)),
                }
            }
        }
    }
}
