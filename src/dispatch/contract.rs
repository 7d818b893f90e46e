//! What becomes of a command: every rule that stands between a sender and a device. Pure.
//!
//! In this order: is there such a device, and does it take commands; can it be read; did it come before; was it kept by the
//! broker; is it too late; is it allowed; does it come too fast. Only the last of these depends on how much else there is.
//!
//! How old a command is: by its `ts`, where it has one and our clock is right; else by the longest time that it may
//! have waited at the broker. Where neither is known it counts as too old. A time in the future counts as now, up to
//! `AHEAD_MS`; what is farther ahead is refused, for it could be carried out for ever.

use super::memory::{Memory, noted_ms};
use crate::command::{Command, Data, MAX_COMMAND, Reply, Stage};
use crate::config::Commands;
use crate::pace::Pace;
use crate::record::{ClockQuality, Timestamp};
use crc::{CRC_64_XZ, Crc, Table};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

const CRC64: Crc<u64, Table<1>> = Crc::<u64, Table<1>>::new(&CRC_64_XZ);

/// By how much a sender's clock may be ahead of ours, in milliseconds.
const AHEAD_MS: u64 = 5 * 60_000;

/// Replies per second to commands that are not carried out, over all devices: refusals must not fill the store.
const REFUSALS: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

/// How a command came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The broker had kept it.
    pub retained: bool,
    /// Its packet id, where it has one.
    pub packet: Option<u16>,
    /// The broker may have sent it before, under the same packet id.
    pub redelivered: bool,
    /// It may have waited for this long; `None`: nobody knows.
    pub waited: Option<Duration>,
}

impl Arrival {
    /// From a client that is connected now.
    pub const LOCAL: Arrival =
        Arrival { retained: false, packet: None, redelivered: false, waited: Some(Duration::ZERO) };
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing but to say this.
    Answer(Reply),
    /// It is to be noted, and then carried out. The contract counts it as under way.
    Begin(Begin),
}

/// A command that may be carried out.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// Its id, or the one it was given.
    pub id: String,
    /// For the device.
    pub data: Data,
    /// Not to be begun then or later, in milliseconds since boot.
    pub expires_ms: u64,
    /// For the journal.
    pub packet: Option<u16>,
    /// For the journal: CRC-64 of the payload.
    pub sum: u64,
}

/// Every device, and which commands it takes.
pub type Devices = BTreeMap<String, Option<Commands>>;

/// The rules, with what they remember.
#[derive(Debug)]
pub struct Contract {
    /// Every device; `None`: it takes no commands.
    devices: BTreeMap<String, Option<Terms>>,
    /// What was begun.
    pub memory: Memory,
    refusals: Pace,
}

#[derive(Debug)]
struct Terms {
    commands: Commands,
    pace: Pace,
}

impl Contract {
    /// For these devices.
    pub fn new(devices: Devices, memory: Memory, now: Timestamp) -> Contract {
        let refusals = Pace::with_bursts(REFUSALS, now.mono_ms);
        let mut contract = Contract { devices: BTreeMap::new(), memory, refusals };
        contract.meet(devices, now);
        contract
    }

    /// From now on for these devices. Those whose terms are the same keep their pace, and what is remembered stays.
    pub fn meet(&mut self, devices: Devices, now: Timestamp) {
        let mut before = std::mem::take(&mut self.devices);
        let mut terms = |name: &str, commands: Commands| match before.remove(name).flatten() {
            Some(terms) if terms.commands == commands => terms,
            _ => {
                let rate = NonZeroU32::new(commands.rate).unwrap_or(NonZeroU32::MIN);
                Terms { commands, pace: Pace::with_bursts(rate, now.mono_ms) }
            }
        };
        let meet = |(name, commands): (String, Option<Commands>)| {
            let terms = commands.map(|commands| terms(&name, commands));
            (name, terms)
        };
        self.devices = devices.into_iter().map(meet).collect();
    }

    /// Decides. `fresh_id` names a command that has no id.
    pub fn judge(
        &mut self,
        device: &str,
        payload: &[u8],
        arrival: Arrival,
        now: Timestamp,
        fresh_id: impl FnOnce() -> String,
    ) -> Verdict {
        let refused = |id, reason: String| Verdict::Answer(Reply::because(id, Stage::Refused, reason));
        let command = Command::parse(payload);
        let id = match &command {
            Ok(command) => command.id.clone(),
            Err(malformed) => malformed.id.clone(),
        };
        let has_id = id.is_some();
        let mut id = id.unwrap_or_else(fresh_id);
        let Some(terms) = self.devices.get_mut(device) else {
            return refused(&id, format!("there is no device {}", shown(device)));
        };
        let Some(Terms { commands, pace }) = terms else {
            let advice = "give it a line commands = { … } in the configuration";
            return refused(&id, format!("the device {device} takes no commands; {advice}"));
        };
        let command = match command {
            Ok(command) => command,
            Err(malformed) => return refused(&id, malformed.reason),
        };
        debug_assert!(payload.len() <= MAX_COMMAND);
        let sum = CRC64.checksum(payload);
        if !has_id
            && arrival.redelivered
            && let Some(known) = arrival.packet.and_then(|packet| self.memory.redelivered(device, packet, sum))
        {
            id = known.to_owned();
        }
        if let Some(reply) = self.memory.recall(device, &id) {
            return Verdict::Answer(reply);
        }
        if arrival.retained {
            let advice = "send commands without the retain flag, and remove this one by an empty retained message";
            return refused(&id, format!("the broker has kept it; {advice}"));
        }
        let ttl_ms = milliseconds(command.ttl.unwrap_or(commands.ttl));
        let expires_ms = match age_ms(command.sent_ms, arrival.waited, now) {
            Ok(Some(age_ms)) if age_ms < ttl_ms => now.mono_ms.saturating_add(ttl_ms - age_ms),
            Ok(Some(age_ms)) => {
                let reason =
                    format!("it is up to {} old, and may be {}; nothing was done", seconds(age_ms), seconds(ttl_ms));
                return Verdict::Answer(Reply::because(&id, Stage::Expired, reason));
            }
            Ok(None) => {
                let reason = "it may have waited at the broker, and nobody knows how long; nothing was done; send a ts";
                return Verdict::Answer(Reply::because(&id, Stage::Expired, reason));
            }
            Err(reason) => return refused(&id, reason),
        };
        if !commands.allow.is_empty() {
            let text = command.data.clone().into_bytes();
            if !commands.allows(&text) {
                return refused(&id, format!("it is not among what commands.allow of device {device} allows"));
            }
        }
        if pace.available(now.mono_ms) == 0 {
            let reason = format!("device {device} takes {} commands a second; send it again later", commands.rate);
            return refused(&id, reason);
        }
        pace.take(1);
        self.memory.begin(device, &id, noted_ms(now), arrival.packet, sum);
        Verdict::Begin(Begin { id, data: command.data, expires_ms, packet: arrival.packet, sum })
    }

    /// Whether one more reply to a command that is not carried out may be published.
    pub fn may_answer(&mut self, now: Timestamp) -> bool {
        let may = self.refusals.available(now.mono_ms) > 0;
        self.refusals.take(u64::from(may));
        may
    }

    /// Whether there is such a device.
    pub fn knows(&self, device: &str) -> bool {
        self.devices.contains_key(device)
    }

    /// Whether any device takes commands.
    pub fn is_needed(&self) -> bool {
        self.devices.values().any(Option::is_some)
    }
}

/// How long ago it was sent, at the most. `None`: nobody knows.
fn age_ms(sent_ms: Option<u64>, waited: Option<Duration>, now: Timestamp) -> Result<Option<u64>, String> {
    match sent_ms {
        Some(sent_ms) if now.quality == ClockQuality::Trusted => {
            if sent_ms > now.wall_ms.saturating_add(AHEAD_MS) {
                let ahead = seconds(sent_ms - now.wall_ms);
                return Err(format!(
                    "its ts is {ahead} in the future; set the clock of the sender, or that of the gateway"
                ));
            }
            Ok(Some(now.wall_ms.saturating_sub(sent_ms)))
        }
        _ => Ok(waited.map(milliseconds)),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} s", ms / 1000),
    }
}

/// A name as it can stand in an answer: the sender may have made it as long and strange as it likes.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(40).collect();
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::super::memory::ending_of;
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp { wall_ms: 1_800_000_000_000, mono_ms: 50_000, quality: ClockQuality::Trusted };
    const FRESH: Arrival =
        Arrival { retained: false, packet: Some(1), redelivered: false, waited: Some(Duration::ZERO) };

    fn contract(allow: &[&str], rate: u32) -> Contract {
        let allow = allow.iter().map(ToString::to_string).collect();
        let commands = Commands { allow, rate, ttl: Duration::from_secs(60), reply: None };
        let devices = [("meter".to_owned(), Some(commands)), ("mute".to_owned(), None)].into();
        Contract::new(devices, Memory::default(), NOW)
    }

    fn judge(contract: &mut Contract, payload: &str, arrival: Arrival, now: Timestamp) -> Verdict {
        contract.judge("meter", payload.as_bytes(), arrival, now, || "auto-1".to_owned())
    }

    fn begun(verdict: Verdict) -> Begin {
        match verdict {
            Verdict::Begin(begin) => begin,
            Verdict::Answer(reply) => panic!("{reply:?}"),
        }
    }

    fn answer(verdict: Verdict) -> (Stage, String) {
        match verdict {
            Verdict::Begin(begin) => panic!("{begin:?}"),
            Verdict::Answer(reply) => (reply.stage, reply.reason.unwrap_or_default()),
        }
    }

    fn later(ms: u64) -> Timestamp {
        Timestamp { wall_ms: NOW.wall_ms + ms, mono_ms: NOW.mono_ms + ms, ..NOW }
    }

    #[test]
    fn nothing_is_ever_begun_twice() {
        let mut contract = contract(&[], 10);
        let payload = r#"{"id":"c-1","data":"on"}"#;
        assert_eq!(begun(judge(&mut contract, payload, FRESH, NOW)).id, "c-1");
        assert_eq!(answer(judge(&mut contract, payload, FRESH, NOW)).0, Stage::Received);
        contract.memory.end("meter", "c-1", ending_of(&Reply::last("c-1", Stage::Written)));
        assert_eq!(answer(judge(&mut contract, r#"{"id":"c-1","data":"off"}"#, Arrival::LOCAL, NOW)).0, Stage::Written);
        let kept = Arrival { retained: true, ..FRESH };
        assert_eq!(answer(judge(&mut contract, payload, kept, NOW)).0, Stage::Written, "it was done when it was sent");
        let late = r#"{"id":"c-1","ts":"2000-01-01T00:00:00Z","data":"on"}"#;
        assert_eq!(answer(judge(&mut contract, late, FRESH, NOW)).0, Stage::Written, "the old answer, not expired");
    }

    #[test]
    fn a_redelivery_without_an_id_is_never_taken_for_a_new_command() {
        let mut contract = contract(&[], 10);
        let redelivery = Arrival { redelivered: true, ..FRESH };
        assert_eq!(begun(judge(&mut contract, "on", redelivery, NOW)).id, "auto-1", "it never came before");
        assert_eq!(answer(judge(&mut contract, "on", redelivery, later(1))).0, Stage::Received);
        let fresh = |id: &'static str| move || id.to_owned();
        let again = contract.judge("meter", b"on", FRESH, later(2), fresh("auto-2"));
        assert_eq!(begun(again).id, "auto-2", "a new packet under the same number");
        let other = contract.judge("meter", b"off", redelivery, later(3), fresh("auto-3"));
        assert_eq!(begun(other).id, "auto-3", "another payload");
    }

    #[test]
    fn what_is_late_is_never_begun() {
        let mut contract = contract(&[], 1000);
        let waited = |seconds| Arrival { waited: Some(Duration::from_secs(seconds)), ..FRESH };
        let unknown = Arrival { waited: None, ..FRESH };
        let begin = begun(judge(&mut contract, r#"{"id":"1","data":1}"#, waited(59), NOW));
        assert_eq!(begin.expires_ms, NOW.mono_ms + 1000);
        assert_eq!(answer(judge(&mut contract, r#"{"id":"2","data":1}"#, waited(60), NOW)).0, Stage::Expired);
        let (stage, reason) = answer(judge(&mut contract, r#"{"id":"3","data":1}"#, unknown, NOW));
        assert!(stage == Stage::Expired && reason.contains("send a ts"), "{reason}");
        // The wall clock shows 2027-01-15T08:00:00Z.
        let with_ts = r#"{"id":"4","ts":"2027-01-15T07:59:30Z","ttl":"31s","data":1}"#;
        assert_eq!(begun(judge(&mut contract, with_ts, unknown, NOW)).expires_ms, NOW.mono_ms + 1000);
        let late = r#"{"id":"5","ts":"2027-01-15T07:59:30Z","ttl":"30s","data":1}"#;
        assert_eq!(answer(judge(&mut contract, late, FRESH, NOW)).0, Stage::Expired);
        let ahead = r#"{"id":"6","ts":"2027-01-15T08:04:59Z","ttl":"30s","data":1}"#;
        assert_eq!(begun(judge(&mut contract, ahead, FRESH, NOW)).expires_ms, NOW.mono_ms + 30_000);
        let far = r#"{"id":"7","ts":"2027-01-15T08:05:01Z","data":1}"#;
        assert_eq!(answer(judge(&mut contract, far, FRESH, NOW)).0, Stage::Refused);
        let no_clock = Timestamp { quality: ClockQuality::Unsynced, wall_ms: 5, ..NOW };
        let with_ts = r#"{"id":"8","ts":"2027-01-15T08:00:00Z","data":1}"#;
        assert_eq!(answer(judge(&mut contract, with_ts, unknown, no_clock)).0, Stage::Expired);
        assert_eq!(begun(judge(&mut contract, with_ts, waited(1), no_clock)).expires_ms, NOW.mono_ms + 59_000);
    }

    #[test]
    fn what_may_not_be_is_never_begun() {
        let mut contract = contract(&["STATUS", "SET *"], 10);
        let retained = Arrival { retained: true, ..FRESH };
        for (device, payload, arrival, part) in [
            ("nobody", "STATUS", FRESH, "no device \"nobody\""),
            ("mute", "STATUS", FRESH, "takes no commands"),
            ("meter", "STATUS", retained, "without the retain flag"),
            ("meter", "", FRESH, "empty"),
            ("meter", "REBOOT", FRESH, "commands.allow"),
            ("meter", "STATUS ", FRESH, "commands.allow"),
            ("meter", "\u{0}", FRESH, "commands.allow"),
            ("meter", r#"{"data":{"SET":1}}"#, FRESH, "commands.allow"),
            ("meter", r#"{"data":"REBOOT"}"#, FRESH, "commands.allow"),
            ("meter", r#"{"encoding":"base64","data":"UkVCT09U"}"#, FRESH, "commands.allow"),
        ] {
            let verdict = contract.judge(device, payload.as_bytes(), arrival, NOW, || "auto".to_owned());
            let (stage, reason) = answer(verdict);
            assert!(stage == Stage::Refused && reason.contains(part), "{device} {payload}: {reason}");
        }
        assert_eq!(contract.memory.count(), 0, "what was not begun is not remembered");
        begun(judge(&mut contract, r#"{"data":"SET 1"}"#, FRESH, NOW));
        let huge = "x".repeat(MAX_COMMAND + 1);
        assert!(answer(judge(&mut contract, &huge, FRESH, NOW)).1.contains("too large"));
        let name = "\u{1}".repeat(60_000);
        let verdict = contract.judge(&name, b"x", FRESH, NOW, String::new);
        assert!(answer(verdict).1.len() < 400, "a name never blows up an answer");
    }

    #[test]
    fn a_flood_never_gets_more_than_the_rate() {
        let mut contract = contract(&[], 5);
        let mut begun = 0;
        for number in 0..10_000_u64 {
            let payload = format!(r#"{{"id":"{number}","data":1}}"#);
            let verdict = judge(&mut contract, &payload, FRESH, later(number));
            begun += u64::from(matches!(verdict, Verdict::Begin(_)));
        }
        assert!((50..=60).contains(&begun), "{begun} in 10 s");
        let answered = (0..10_000).filter(|ms| contract.may_answer(later(*ms))).count();
        assert!((200..=240).contains(&answered), "{answered} answers in 10 s");
    }

    proptest! {
        #[test]
        fn no_history_ever_begins_an_id_twice(
            steps in prop::collection::vec((0..6u8, 0..4u64, any::<bool>(), any::<bool>(), 0..2000u64), 1..80),
        ) {
            let mut contract = contract(&[], 1000);
            let (mut now, mut begun, mut open) = (NOW, Vec::new(), Vec::new());
            for (id, waited, ends, restarts, passed) in steps {
                now = Timestamp { wall_ms: now.wall_ms + passed, mono_ms: now.mono_ms + passed, ..now };
                let payload = format!(r#"{{"id":"{id}","ttl":"3s","data":1}}"#);
                let arrival = Arrival { waited: Some(Duration::from_secs(waited)), ..FRESH };
                if let Verdict::Begin(begin) = judge(&mut contract, &payload, arrival, now) {
                    prop_assert!(waited < 3 && begin.expires_ms > now.mono_ms);
                    open.push(begin.id.clone());
                    begun.push(begin.id);
                }
                if ends && let Some(id) = open.pop() {
                    contract.memory.end("meter", &id, ending_of(&Reply::last(&id, Stage::Written)));
                }
                if restarts {
                    let (memory, orphans) = Memory::restore(contract.memory.entries());
                    prop_assert_eq!(orphans.len(), open.len());
                    open.clear();
                    contract.memory = memory;
                }
                contract.memory.forget(now);
            }
            let all = begun.len();
            begun.sort();
            begun.dedup();
            prop_assert_eq!(all, begun.len());
        }
    }
}
