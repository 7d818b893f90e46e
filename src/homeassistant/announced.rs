//! What Home Assistant was told, over restarts: so that what is no longer configured can be taken back.
//!
//! Constraints: flash is written when something has changed, and not otherwise. What is in the file was announced, or may have
//! been; it stays there until the broker has acknowledged its deletion. A file that can't be read costs its knowledge, and is
//! replaced.
//!
//! Format: one topic a line, in order.

use crate::record::Announcement;
use std::collections::BTreeSet;

/// The file's name in `state_dir`.
pub const FILE_NAME: &str = "homeassistant.topics";
/// No file of ours is larger: 64 units with 128 values each on 16 buses.
pub const MAX_FILE: usize = 64 << 20;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is published: the documents, and an empty message for each that is gone.
    pub messages: Vec<Announcement>,
    /// The file before that, if it must change.
    pub before: Option<Vec<u8>>,
    /// The file when all of that is acknowledged, if it must change.
    pub after: Option<Vec<u8>>,
}

/// From what the file holds (empty: there is none) and what is to be said now.
pub fn plan(remembered: &[u8], documents: Vec<Announcement>) -> Plan {
    let text = String::from_utf8_lossy(remembered);
    // A topic of ours, and no more: whatever else is in the file must not become a message.
    let known: BTreeSet<&str> = text.lines().filter(|line| is_ours(line)).collect();
    let now: BTreeSet<&str> = documents.iter().map(|document| document.topic.as_str()).collect();
    let all: BTreeSet<&str> = known.union(&now).copied().collect();
    let gone = known.difference(&now).map(|topic| Announcement { topic: (*topic).to_owned(), payload: String::new() });
    let gone: Vec<Announcement> = gone.collect();
    let (before, after) = (lines(&all), lines(&now));
    Plan {
        after: (!gone.is_empty()).then_some(after),
        before: (before != remembered).then_some(before),
        messages: gone.into_iter().chain(documents).collect(),
    }
}

fn is_ours(line: &str) -> bool {
    line.len() <= usize::from(u16::MAX)
        && line.ends_with("/config")
        && line.split('/').count() >= 5
        && !line.contains(['+', '#'])
        && !line.chars().any(char::is_control)
}

fn lines(topics: &BTreeSet<&str>) -> Vec<u8> {
    topics.iter().flat_map(|topic| topic.bytes().chain([b'\n'])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "homeassistant/sensor/gw_meter/data/config";
    const OTHER: &str = "homeassistant/switch/gw_relay/value/config";

    fn document(topic: &str) -> Announcement {
        Announcement { topic: topic.to_owned(), payload: "{}".to_owned() }
    }

    fn file(topics: &[&str]) -> Vec<u8> {
        lines(&topics.iter().copied().collect())
    }

    #[test]
    fn what_is_gone_is_never_forgotten_before_it_is_deleted() {
        let plan = plan(&file(&[ONE]), vec![document(OTHER)]);
        let gone = Announcement { topic: ONE.to_owned(), payload: String::new() };
        assert_eq!(plan.messages, [gone, document(OTHER)]);
        assert_eq!(plan.before, Some(file(&[ONE, OTHER])));
        assert_eq!(plan.after, Some(file(&[OTHER])));
    }

    #[test]
    fn nothing_new_never_costs_a_write() {
        let plan = plan(&file(&[ONE, OTHER]), vec![document(OTHER), document(ONE)]);
        assert_eq!((plan.before, plan.after, plan.messages.len()), (None, None, 2));
        assert_eq!(super::plan(b"", Vec::new()), Plan { messages: Vec::new(), before: None, after: None });
    }

    #[test]
    fn a_damaged_file_never_becomes_a_message() {
        let plan = plan(b"p/status\nhomeassistant/+/a/b/config\n\xff\nhomeassistant/sensor/a/b/config", Vec::new());
        let topics: Vec<_> = plan.messages.iter().map(|message| message.topic.as_str()).collect();
        assert_eq!(topics, ["homeassistant/sensor/a/b/config"]);
        assert_eq!(plan.after, Some(Vec::new()));
    }

    proptest! {
        #[test]
        fn no_file_ever_panics(remembered in prop::collection::vec(any::<u8>(), 0..200)) {
            let plan = plan(&remembered, vec![document(ONE)]);
            prop_assert!(plan.messages.contains(&document(ONE)));
        }
    }
}
