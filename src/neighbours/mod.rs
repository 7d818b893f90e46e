//! The neighbours flow: other gateways of the site, by what they say of themselves on `…/status`: births and Last Wills.
//!
//! Constraints: in memory only, for the broker keeps these messages and sends them with each connection; bounded, by [`MOST`]
//! gateways and by what is kept of each. What they say is a stranger's word: it is shown, and nothing is done for it. While
//! there is no broker the table is as it was last.

use crate::inbound::{Delivered, Neighbour};
use crate::pulse::Pulse;
use crate::record::{Clock, rfc3339};
use serde::Deserialize;
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};

/// Messages that wait for this flow before the listen flow waits.
pub const WAITING: usize = 32;
/// Gateways that are known at a time.
pub const MOST: usize = 256;
/// The largest status that is read, in bytes; a birth has about 250.
const MAX_STATUS: usize = 4096;
/// Characters of a text that are kept.
const TEXT: usize = 128;

/// What the flow is connected to.
pub struct Wiring {
    /// From the broker.
    pub messages: mpsc::Receiver<Delivered>,
    /// Those that are known, by their topic prefix.
    pub table: watch::Sender<BTreeMap<String, Neighbour>>,
    /// Our own prefix, which is no neighbour's.
    pub own: String,
    /// Time stamps.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: return.
    pub stop: watch::Receiver<bool>,
}

/// What is read of a status.
#[derive(Deserialize)]
struct Said {
    state: String,
    reason: Option<String>,
    version: Option<String>,
    instance: Option<String>,
    host: Option<String>,
}

/// Runs until `stop` is set.
pub async fn run(mut wiring: Wiring) {
    loop {
        tokio::select! {
            message = wiring.messages.recv() => {
                let Some(Delivered { topic, payload, noted, .. }) = message else { break };
                let now = rfc3339((wiring.clock)().wall_ms);
                let own = wiring.own.as_str();
                wiring.table.send_if_modified(|table| topic_heard(table, own, &topic, &payload, now));
                let _: Result<(), ()> = noted.send(());
            }
            () = wiring.pulse.answer() => {}
            _ = wiring.stop.wait_for(|stop| *stop) => return,
        }
    }
    // Without the listen flow nothing comes any more.
    while !*wiring.stop.borrow() {
        tokio::select! {
            () = wiring.pulse.answer() => {}
            stopped = wiring.stop.changed() => if stopped.is_err() { return },
        }
    }
}

/// Takes note of a status; whether the table has changed.
fn topic_heard(table: &mut BTreeMap<String, Neighbour>, own: &str, topic: &str, payload: &[u8], now: String) -> bool {
    let Some(prefix) = topic.strip_suffix("/status").filter(|prefix| *prefix != own && prefix.len() <= 1024) else {
        return false;
    };
    if payload.is_empty() {
        return table.remove(prefix).is_some();
    }
    let said = payload.get(..payload.len()).filter(|payload| payload.len() <= MAX_STATUS);
    let Some(said) = said.and_then(|payload| serde_json::from_slice::<Said>(payload).ok()) else { return false };
    let text = |text: String| text.chars().take(TEXT).collect::<String>();
    let known = table.get(prefix);
    // A Last Will says less than the birth before it.
    let or_before =
        |new: Option<String>, before: Option<&Option<String>>| new.map(text).or_else(|| before.cloned().flatten());
    let neighbour = Neighbour {
        state: text(said.state),
        reason: said.reason.map(text),
        version: or_before(said.version, known.map(|known| &known.version)),
        instance: or_before(said.instance, known.map(|known| &known.instance)),
        host: or_before(said.host, known.map(|known| &known.host)),
        heard: now,
    };
    if known.is_none() && table.len() >= MOST {
        // One that is gone makes room, the one longest unheard of first.
        let gone = table
            .iter()
            .filter(|(_, known)| known.state != "online")
            .min_by(|one, other| one.1.heard.cmp(&other.1.heard));
        let Some(gone) = gone.map(|(prefix, _)| prefix.clone()) else {
            tracing::debug!("no room for the neighbour {prefix}");
            return false;
        };
        table.remove(&gone);
    }
    table.insert(prefix.to_owned(), neighbour);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(table: &mut BTreeMap<String, Neighbour>, topic: &str, payload: &str, second: u32) -> bool {
        topic_heard(table, "site/us", topic, payload.as_bytes(), format!("{second:04}"))
    }

    #[test]
    fn a_neighbour_that_is_gone_never_looks_online_or_loses_its_name() {
        let mut table = BTreeMap::new();
        assert!(heard(
            &mut table,
            "site/a/status",
            r#"{"state":"online","version":"1","instance":"gw","host":"pi"}"#,
            1
        ));
        assert!(heard(&mut table, "site/a/status", r#"{"state":"offline","reason":"connection-lost"}"#, 2));
        let a = &table["site/a"];
        assert_eq!(
            (a.state.as_str(), a.reason.as_deref(), a.host.as_deref()),
            ("offline", Some("connection-lost"), Some("pi"))
        );
        assert!(heard(&mut table, "site/a/status", "", 3));
        assert!(table.is_empty());
        for payload in ["", "no JSON", "[]", r#"{"host":"x"}"#, &format!(r#"{{"state":"{}"}}"#, "x".repeat(5000))] {
            assert!(!heard(&mut table, "site/b/status", payload, 4), "{payload}");
        }
        assert!(!heard(&mut table, "site/us/status", r#"{"state":"online"}"#, 5), "that is us");
    }

    #[test]
    fn no_number_of_neighbours_ever_makes_it_grow() {
        let mut table = BTreeMap::new();
        for number in 0..MOST {
            let state = if number == 7 { "offline" } else { "online" };
            assert!(heard(&mut table, &format!("n/{number}/status"), &format!(r#"{{"state":"{state}"}}"#), 1));
        }
        assert!(heard(&mut table, "n/new/status", r#"{"state":"online"}"#, 2));
        assert!(!table.contains_key("n/7"), "it was gone");
        assert!(!heard(&mut table, "n/newer/status", r#"{"state":"online"}"#, 3));
        assert_eq!(table.len(), MOST);
        let long = format!(r#"{{"state":"{}"}}"#, "ä".repeat(500));
        assert!(heard(&mut table, "n/new/status", &long, 4));
        assert_eq!(table["n/new"].state.chars().count(), TEXT);
    }

    proptest! {
        #[test]
        fn no_strangers_word_ever_takes_more_room_than_it_may(
            words in prop::collection::vec((0..4u8, status()), 0..40),
        ) {
            let mut table = BTreeMap::new();
            for (number, payload) in words {
                topic_heard(&mut table, "site/us", &format!("site/{number}/status"), &payload, String::new());
                for (prefix, neighbour) in &table {
                    prop_assert!(prefix.starts_with("site/") && prefix != "site/us");
                    let Neighbour { state, reason, version, instance, host, .. } = neighbour;
                    let texts = [Some(state), reason.as_ref(), version.as_ref(), instance.as_ref(), host.as_ref()];
                    prop_assert!(texts.into_iter().flatten().all(|text| text.chars().count() <= TEXT));
                }
            }
            prop_assert!(table.len() <= 4);
        }
    }

    /// Something like a status, or anything.
    fn status() -> impl Strategy<Value = Vec<u8>> {
        let members = prop::collection::btree_map("state|reason|version|instance|host|else", ".{0,300}", 0..6);
        let document = members.prop_map(|members| serde_json::to_vec(&members).unwrap());
        prop_oneof![3 => document, 1 => prop::collection::vec(any::<u8>(), 0..60)]
    }
}
