//! Which commands were begun, and how they ended. Pure.
//!
//! Constraints: bounded, by [`PER_DEVICE`] and [`ALL`] commands and by the [`KEPT`] bytes of an answer; the oldest is
//! forgotten first. What is under way is never forgotten: its number is bounded by the devices' queues.

use super::journal::{Ending, Entry, What};
use crate::command::{MAX_TTL, Reply, Stage};
use crate::record::{ClockQuality, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// Commands that are remembered for one device.
pub const PER_DEVICE: usize = 1024;
/// Commands that are remembered in all: with a short answer each, 4 MiB.
pub const ALL: usize = 8192;
/// Bytes of an answer, or of a reason, that are kept.
pub const KEPT: usize = 512;
/// Nobody asks for what is older: a week, and the longest time to live.
const OLDEST_MS: u64 = 7 * 86_400_000 + MAX_TTL.as_secs() * 1000;

/// When a command is noted as begun: 0 while the clock is not trusted, for else what it says then would count as long ago as soon
/// as it is set.
pub fn noted_ms(now: Timestamp) -> u64 {
    if now.quality == ClockQuality::Trusted { now.wall_ms } else { 0 }
}

/// What is known of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    /// See [`noted_ms`].
    at_ms: u64,
    packet: Option<u16>,
    sum: u64,
    /// `None` while it is under way.
    ending: Option<Ending>,
}

/// The memory. See the module's head.
#[derive(Debug, Default)]
pub struct Memory {
    devices: BTreeMap<String, BTreeMap<String, Known>>,
    /// Device and id, the oldest first.
    order: VecDeque<(String, String)>,
}

/// A command whose process was killed: device and id.
pub type Orphan = (String, String);

impl Memory {
    /// From what a journal holds. Whatever has no ending was under way when its process ended: it gets one, and is
    /// named.
    pub fn restore(entries: Vec<Entry>) -> (Memory, Vec<Orphan>) {
        let mut memory = Memory::default();
        for Entry { device, id, what } in entries {
            match what {
                What::Noted { at_ms, packet, sum } => memory.begin(&device, &id, at_ms, packet, sum),
                What::Ended(ending) => memory.end(&device, &id, ending),
            }
        }
        let mut orphans = Vec::new();
        for (device, known) in &mut memory.devices {
            for (id, known) in known.iter_mut().filter(|(_, known)| known.ending.is_none()) {
                known.ending = Some(Ending::Failed(KILLED.to_owned()));
                orphans.push((device.clone(), id.clone()));
            }
        }
        memory.forget_surplus();
        (memory, orphans)
    }

    /// It is about to be begun.
    pub fn begin(&mut self, device: &str, id: &str, at_ms: u64, packet: Option<u16>, sum: u64) {
        let known = Known { at_ms, packet, sum, ending: None };
        if self.devices.entry(device.to_owned()).or_default().insert(id.to_owned(), known).is_none() {
            self.order.push_back((device.to_owned(), id.to_owned()));
        }
    }

    /// It was not begun after all.
    pub fn withdraw(&mut self, device: &str, id: &str) {
        self.devices.get_mut(device).map(|known| known.remove(id));
        self.order.retain(|(of, it)| of != device || it != id);
    }

    /// How it ended.
    pub fn end(&mut self, device: &str, id: &str, ending: Ending) {
        if let Some(known) = self.devices.get_mut(device).and_then(|known| known.get_mut(id)) {
            known.ending = Some(ending);
        }
    }

    /// The answer to a command that came before.
    pub fn recall(&self, device: &str, id: &str) -> Option<Reply> {
        let known = self.devices.get(device)?.get(id)?;
        let reply = match &known.ending {
            None => Reply::interim(id, Stage::Received),
            Some(ending) => reply_of(id, ending),
        };
        Some(Reply { repeated: true, ..reply })
    }

    /// The id of the latest command that came with this packet id, if it had this payload.
    pub fn redelivered(&self, device: &str, packet: u16, sum: u64) -> Option<&str> {
        let known = self.devices.get(device)?;
        // By their order and not by their time: the clock may have been set back.
        let mut ids = self.order.iter().rev().filter(|(of, _)| of == device).map(|(_, id)| id);
        let id = ids.find(|id| known.get(*id).is_some_and(|known| known.packet == Some(packet)))?;
        known.get(id).is_some_and(|latest| latest.sum == sum).then_some(id.as_str())
    }

    /// Forgets what is too old, and the oldest where there is too much.
    pub fn forget(&mut self, now: Timestamp) {
        let trusted = now.quality == ClockQuality::Trusted;
        let too_old =
            |known: &Known| trusted && known.at_ms != 0 && known.at_ms.saturating_add(OLDEST_MS) < now.wall_ms;
        for known in self.devices.values_mut() {
            known.retain(|_, known| known.ending.is_none() || !too_old(known));
        }
        let devices = &self.devices;
        self.order.retain(|(device, id)| devices.get(device).is_some_and(|known| known.contains_key(id)));
        self.forget_surplus();
    }

    fn forget_surplus(&mut self) {
        let devices = &mut self.devices;
        let mut all = self.order.len();
        // The loop looks at the oldest first, so it forgets the oldest of each device.
        if all <= ALL && devices.values().all(|known| known.len() <= PER_DEVICE) {
            return;
        }
        self.order.retain(|(device, id)| {
            let Some(known) = devices.get_mut(device) else { return false };
            let surplus = all > ALL || known.len() > PER_DEVICE;
            let goes = surplus && known.get(id).is_none_or(|known| known.ending.is_some());
            if goes {
                known.remove(id);
                all -= 1;
            }
            !goes
        });
    }

    /// All of it, for the journal.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (device, id) in &self.order {
            let Some(known) = self.devices.get(device).and_then(|known| known.get(id)) else { continue };
            let entry = |what| Entry { device: device.clone(), id: id.clone(), what };
            let Known { at_ms, packet, sum, .. } = *known;
            entries.push(entry(What::Noted { at_ms, packet, sum }));
            entries.extend(known.ending.clone().map(|ending| entry(What::Ended(ending))));
        }
        entries
    }

    /// How many commands are remembered.
    pub fn count(&self) -> usize {
        self.order.len()
    }
}

const KILLED: &str = "pillion was killed while it was carried out; nobody knows whether it was done";

/// What is kept of a final reply.
pub fn ending_of(reply: &Reply) -> Ending {
    let reason = || shortened(reply.reason.as_deref().unwrap_or_default());
    match reply.stage {
        Stage::Received | Stage::Written => Ending::Done,
        Stage::Replied => {
            let data = reply.data.as_ref().map(ToString::to_string).unwrap_or_default();
            let kept = if data.len() <= KEPT { data } else { String::new() };
            Ending::Replied(kept, reply.encoding.is_some())
        }
        Stage::Expired => Ending::Expired(reason()),
        Stage::Refused => Ending::Refused(reason()),
        Stage::Failed => Ending::Failed(reason()),
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=KEPT.min(text.len())).rfind(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

/// The final reply that an ending stands for.
fn reply_of(id: &str, ending: &Ending) -> Reply {
    let because = |stage, reason: &String| Reply::because(id, stage, reason.clone());
    match ending {
        Ending::Done => Reply::last(id, Stage::Written),
        Ending::Replied(data, base64) => {
            let reply = Reply::last(id, Stage::Replied);
            match serde_json::from_str(data) {
                Ok(data) => Reply { data: Some(data), encoding: base64.then(|| "base64".to_owned()), ..reply },
                Err(_) => Reply { reason: Some("the answer was too long to be kept".to_owned()), ..reply },
            }
        }
        Ending::Expired(reason) => because(Stage::Expired, reason),
        Ending::Refused(reason) => because(Stage::Refused, reason),
        Ending::Failed(reason) => because(Stage::Failed, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp { wall_ms: 2 * OLDEST_MS, mono_ms: 1, quality: ClockQuality::Trusted };

    fn filled(device: &str, count: usize) -> Memory {
        let mut memory = Memory::default();
        for number in 0..count {
            let id = format!("c-{number}");
            memory.begin(device, &id, NOW.wall_ms, None, 0);
            memory.end(device, &id, Ending::Done);
        }
        memory
    }

    #[test]
    fn what_is_under_way_is_never_forgotten() {
        let mut memory = Memory::default();
        memory.begin("a", "first", 0, None, 0);
        for number in 0..3 * PER_DEVICE {
            let id = number.to_string();
            memory.begin("a", &id, NOW.wall_ms, None, 0);
            memory.end("a", &id, Ending::Done);
            memory.forget(NOW);
        }
        assert_eq!(memory.count(), PER_DEVICE);
        assert_eq!(memory.recall("a", "first").unwrap().stage, Stage::Received);
        assert!(memory.recall("a", "0").is_none());
        assert!(memory.recall("a", &(3 * PER_DEVICE - 1).to_string()).is_some());
    }

    #[test]
    fn no_number_of_devices_ever_makes_it_grow() {
        let mut memory = Memory::default();
        for device in 0..20 {
            for number in 0..600 {
                let (device, id) = (format!("d{device}"), number.to_string());
                memory.begin(&device, &id, NOW.wall_ms, None, 0);
                memory.end(&device, &id, Ending::Done);
            }
        }
        memory.forget(NOW);
        assert_eq!(memory.count(), ALL);
        assert!(memory.recall("d19", "599").is_some() && memory.recall("d0", "0").is_none());
    }

    #[test]
    fn what_is_old_is_never_kept_nor_forgotten_by_a_wrong_clock() {
        let mut memory = filled("a", 3);
        let later = Timestamp { wall_ms: NOW.wall_ms + OLDEST_MS + 1, ..NOW };
        memory.forget(Timestamp { quality: ClockQuality::Unsynced, ..later });
        assert_eq!(memory.count(), 3);
        memory.forget(later);
        assert_eq!((memory.count(), memory.entries().len()), (0, 0));
    }

    #[test]
    fn a_clock_that_is_set_never_has_a_command_carried_out_twice() {
        let mut memory = Memory::default();
        let unsynced = Timestamp { wall_ms: 60_000, mono_ms: 1, quality: ClockQuality::Unsynced };
        memory.begin("a", "c-17", noted_ms(unsynced), None, 0);
        memory.end("a", "c-17", Ending::Done);
        memory.forget(NOW);
        assert!(memory.recall("a", "c-17").is_some());
        // Set back between two commands with one packet id.
        for (id, at_ms, sum) in [("before", NOW.wall_ms, 1), ("after", NOW.wall_ms - 1000, 2)] {
            memory.begin("a", id, at_ms, Some(9), sum);
            memory.end("a", id, Ending::Done);
        }
        let (restored, _) = Memory::restore(memory.entries());
        for memory in [memory, restored] {
            assert_eq!((memory.redelivered("a", 9, 2), memory.redelivered("a", 9, 1)), (Some("after"), None));
        }
    }

    #[test]
    fn a_restart_never_changes_an_answer() {
        let mut memory = filled("a", 2);
        let long = Reply { data: Some(json!("x".repeat(KEPT))), ..Reply::last("long", Stage::Replied) };
        let bytes =
            Reply { data: Some(json!("AP8=")), encoding: Some("base64".into()), ..Reply::last("b", Stage::Replied) };
        let failed = Reply::because("f", Stage::Failed, "ä".repeat(KEPT));
        for reply in [&long, &bytes, &failed] {
            memory.begin("a", &reply.id, 5, None, 0);
            memory.end("a", &reply.id, ending_of(reply));
        }
        memory.begin("a", "open", 6, Some(9), 77);
        let (restored, orphans) = Memory::restore(memory.entries());
        assert_eq!(orphans, [("a".to_owned(), "open".to_owned())]);
        for id in ["c-0", "c-1", "long", "b", "f"] {
            assert_eq!(restored.recall("a", id), memory.recall("a", id), "{id}");
        }
        assert_eq!(restored.recall("a", "b").unwrap(), Reply { repeated: true, ..bytes });
        assert!(restored.recall("a", "f").unwrap().reason.is_some_and(|reason| reason.len() <= KEPT));
        let open = restored.recall("a", "open").unwrap();
        assert_eq!((open.stage, open.is_final, open.reason.as_deref()), (Stage::Failed, true, Some(KILLED)));
        assert_eq!(restored.redelivered("a", 9, 77), Some("open"));
        assert_eq!((restored.redelivered("a", 9, 78), restored.redelivered("b", 9, 77)), (None, None));
    }

    #[test]
    fn what_was_withdrawn_is_never_a_repetition() {
        let mut memory = filled("a", 1);
        memory.withdraw("a", "c-0");
        assert!(memory.recall("a", "c-0").is_none());
        assert_eq!((memory.count(), memory.entries().len()), (0, 0));
        memory.withdraw("b", "c-0");
    }
}
