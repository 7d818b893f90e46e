//! The exit report: one event that says why the application ended, and what led to it. Pure.
//!
//! Format, on `P/event` (fields that are not known are left out):
//!
//! ```text
//! {"type":"app-exit","unit":"gateway.service","invocation":"854b7d…","cause":"exit-code","code":3,
//!  "text":"gateway.service exited with code 3 after 2h 5m","started":"2026-…Z","ended":"2026-…Z","runtime_ms":7500123,
//!  "restarts":0,"will_restart":true,
//!  "late":true                            pillion was not there, and found out afterwards
//!  "use":{"cpu_ns":…,"memory_bytes":…},   as seen last, and the processor time of the whole run
//!  "heartbeat":{…},"devices":{"meter":{"state":"online","frames":17,"last":"2026-…Z"}},
//!  "lines":[{"ts":…,"priority":7,"message":…},…],"lines_left_out":12}
//! ```
//!
//! `cause` is `exited`, `exit-code`, `signal`, `core-dump`, `oom-kill`, `watchdog`, `timeout`, `start-limit-hit`, `stopped` (by
//! hand), `shutdown`, `unknown`, or another word of systemd's. What somebody wanted has neither devices nor lines.
//!
//! Constraint: it fits into `mqtt.max_payload`. The oldest lines go first, then the devices.

use crate::app::exit::{Exit, signal_name};
use crate::logline::{LogLine, shorten};
use crate::record::{ClockQuality, Timestamp, rfc3339};
use crate::stats::{AppUsage, DeviceStatus, HeartbeatState, HeartbeatStatus};
use serde_json::{Map, Value, json};

/// Lines in a report at the most.
pub(super) const LINES: usize = 64;
/// Bytes that they have at the most.
const LINES_BYTES: usize = 32 * 1024;
/// What the envelope of a record takes, with room to spare.
const ENVELOPE: usize = 160;

/// What there is to say.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) unit: &'a str,
    pub(super) exit: &'a Exit,
    /// Whether it was found out afterwards.
    pub(super) is_late: bool,
    pub(super) now: Timestamp,
    /// The same on the exit's clock.
    pub(super) now_us: u64,
    pub(super) usage: AppUsage,
    pub(super) heartbeat: HeartbeatStatus,
    pub(super) devices: &'a [(String, DeviceStatus)],
    /// Oldest first.
    pub(super) lines: Vec<LogLine>,
}

impl Facts<'_> {
    /// The wall clock of a time of the exit's, in milliseconds since 1970, where the clock can be believed.
    pub(super) fn wall_ms(&self, us: u64) -> Option<u64> {
        let ago_ms = self.now_us.checked_sub(us)? / 1000;
        (self.now.quality == ClockQuality::Trusted).then(|| self.now.wall_ms.checked_sub(ago_ms))?
    }

    fn runtime_ms(&self) -> Option<u64> {
        Some(self.exit.ended_us?.checked_sub(self.exit.started_us?)? / 1000)
    }

    /// One sentence.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}", self.unit, self.exit);
        if let Some(runtime_ms) = self.runtime_ms() {
            let runtime = std::time::Duration::from_millis(if runtime_ms < 10_000 {
                runtime_ms
            } else {
                runtime_ms / 1000 * 1000
            });
            text += &format!(" after {}", humantime::format_duration(runtime));
        }
        if self.exit.will_restart == Some(true) {
            text += "; systemd starts it again";
        }
        text
    }

    /// The report, in `limit` bytes with its envelope.
    pub(super) fn document(mut self, limit: usize) -> Vec<u8> {
        let limit = limit.saturating_sub(ENVELOPE);
        let mut report = self.head();
        if !self.exit.cause.is_wanted() {
            let frame = "\"lines\":[],\"lines_left_out\":18446744073709551615,".len();
            let mut size = json_size(&Value::Object(report.clone())) + frame;
            let devices: Map<String, Value> =
                self.devices.iter().map(|(name, device)| (name.clone(), activity(device))).collect();
            let devices = Value::Object(devices);
            let more = json_size(&devices) + "\"devices\":,".len();
            if !self.devices.is_empty() && size + more <= limit {
                size += more;
                report.insert("devices".to_owned(), devices);
            }
            let room = limit.saturating_sub(size);
            let lines = std::mem::take(&mut self.lines);
            let (lines, left_out) = last_lines(lines, room.min(LINES_BYTES));
            report.insert("lines".to_owned(), Value::Array(lines));
            if left_out > 0 {
                report.insert("lines_left_out".to_owned(), json!(left_out));
            }
        }
        Value::Object(report).to_string().into_bytes()
    }

    /// All but devices and lines.
    fn head(&self) -> Map<String, Value> {
        let Exit { invocation, cause, code, signal, started_us, ended_us, restarts, will_restart, cpu_ns } = self.exit;
        let wall = |us: &Option<u64>| us.and_then(|us| self.wall_ms(us)).map(rfc3339);
        let usage = AppUsage { cpu_ns: cpu_ns.or(self.usage.cpu_ns), ..self.usage };
        let has_usage = usage != AppUsage::default();
        let members = [
            ("type", Some(json!("app-exit"))),
            ("unit", Some(json!(self.unit))),
            ("invocation", Some(json!(invocation))),
            ("cause", Some(json!(cause.as_str()))),
            ("code", code.map(Value::from)),
            ("signal", signal.map(|number| json!(signal_name(number)))),
            ("text", Some(json!(self.text()))),
            ("started", wall(started_us).map(Value::from)),
            ("ended", wall(ended_us).map(Value::from)),
            ("runtime_ms", self.runtime_ms().map(Value::from)),
            ("restarts", restarts.map(Value::from)),
            ("will_restart", will_restart.map(Value::from)),
            ("late", self.is_late.then_some(Value::Bool(true))),
            ("use", has_usage.then(|| json!(usage))),
            ("heartbeat", (self.heartbeat.state != HeartbeatState::Off).then(|| json!(self.heartbeat))),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// What a device did last.
fn activity(device: &DeviceStatus) -> Value {
    let mut members = Map::new();
    members.insert("state".to_owned(), json!(device.state));
    if let Some(reason) = &device.reason {
        members.insert("reason".to_owned(), json!(reason));
    }
    members.insert("since".to_owned(), json!(rfc3339(device.since_ms)));
    members.insert("frames".to_owned(), json!(device.frames));
    members.insert("bytes".to_owned(), json!(device.bytes));
    if let Some(last_ms) = device.last_ms {
        members.insert("last".to_owned(), json!(rfc3339(last_ms)));
    }
    Value::Object(members)
}

/// The last lines that have room, and how many older ones have not. The last one is cut if it alone has none.
fn last_lines(lines: Vec<LogLine>, room: usize) -> (Vec<Value>, usize) {
    let all = lines.len();
    let mut kept = Vec::new();
    let mut left = room;
    for mut line in lines.into_iter().rev().take(LINES) {
        let mut shown = json!(line);
        if json_size(&shown) >= left && kept.is_empty() {
            line.fields.clear();
            let bare = json_size(&json!(LogLine { message: String::new(), ..line.clone() }));
            // A byte may take six in JSON: \u0000.
            let length = left.saturating_sub(bare + "\"truncated\":true,".len()) / 6;
            shorten(&mut line.message, length);
            line.truncated = true;
            shown = json!(line);
        }
        let size = json_size(&shown) + 1;
        if size > left {
            break;
        }
        left -= size;
        kept.push(shown);
    }
    kept.reverse();
    let left_out = all - kept.len();
    (kept, left_out)
}

fn json_size(value: &Value) -> usize {
    value.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::exit::Cause;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };

    fn exit() -> Exit {
        Exit {
            cause: Cause::ExitCode,
            code: Some(3),
            started_us: Some(1_000_000),
            ended_us: Some(7_501_000_000),
            restarts: Some(2),
            will_restart: Some(true),
            cpu_ns: Some(5),
            ..Exit::unknown("854b".to_owned())
        }
    }

    fn facts<'a>(exit: &'a Exit, devices: &'a [(String, DeviceStatus)], lines: Vec<LogLine>) -> Facts<'a> {
        Facts {
            unit: "gw.service",
            exit,
            is_late: false,
            now: NOW,
            now_us: 7_502_000_000,
            usage: AppUsage { cpu_ns: Some(4), memory_bytes: Some(9), ..AppUsage::default() },
            heartbeat: HeartbeatStatus::default(),
            devices,
            lines,
        }
    }

    fn line(message: &str) -> LogLine {
        LogLine::plain("2026-11-23T02:41:07.123456Z".into(), 7, message.into())
    }

    #[test]
    fn a_report_never_changes_its_shape() {
        let mut device = DeviceStatus::closed("serial", NOW.wall_ms);
        device.last_ms = Some(NOW.wall_ms);
        let exit = exit();
        let devices = [("meter".to_owned(), device)];
        let report = facts(&exit, &devices, vec![line("x")]).document(100_000);
        let right = json!({
            "type": "app-exit", "unit": "gw.service", "invocation": "854b", "cause": "exit-code", "code": 3,
            "text": "gw.service exited with code 3 after 2h 5m; systemd starts it again",
            "started": "2026-11-23T00:36:06.123Z", "ended": "2026-11-23T02:41:06.123Z", "runtime_ms": 7_500_000,
            "restarts": 2, "will_restart": true, "use": { "cpu_ns": 5, "memory_bytes": 9 },
            "devices": { "meter": { "state": "offline", "reason": "not opened yet", "since": "2026-11-23T02:41:07.123Z",
                "frames": 0, "bytes": 0, "last": "2026-11-23T02:41:07.123Z" } },
            "lines": [{ "ts": "2026-11-23T02:41:07.123456Z", "priority": 7, "message": "x" }],
        });
        assert_eq!(serde_json::from_slice::<Value>(&report).unwrap(), right);
        let stopped = Exit { cause: Cause::Stopped, ..Exit::unknown("854b".into()) };
        let unsynced = Facts {
            now: Timestamp { quality: ClockQuality::Unsynced, ..NOW },
            ..facts(&stopped, &devices, vec![line("x")])
        };
        let right = json!({ "type": "app-exit", "unit": "gw.service", "invocation": "854b", "cause": "stopped",
            "text": "gw.service was stopped by hand", "use": { "cpu_ns": 4, "memory_bytes": 9 } });
        assert_eq!(serde_json::from_slice::<Value>(&unsynced.document(100_000)).unwrap(), right);
    }

    #[test]
    fn the_last_lines_are_never_left_out_for_older_ones() {
        let exit = exit();
        let lines = (0..1000).map(|number| line(&format!("line {number}"))).collect();
        let report: Value = serde_json::from_slice(&facts(&exit, &[], lines).document(4096)).unwrap();
        let kept = report["lines"].as_array().unwrap();
        assert!(kept.len() >= 20, "{report}");
        assert_eq!(kept.last().unwrap()["message"], "line 999");
        assert_eq!(report["lines_left_out"], 1000 - kept.len());
        let huge = vec![line("old"), line(&"\u{1}ü".repeat(50_000))];
        let report: Value = serde_json::from_slice(&facts(&exit, &[], huge).document(4096)).unwrap();
        let last = report["lines"].as_array().unwrap().last().unwrap();
        assert!(last["message"].as_str().unwrap().len() > 300, "{report}");
        assert_eq!(last["truncated"], true);
    }

    #[test]
    fn devices_never_take_the_room_of_what_is_said_about_lines() {
        let devices: Vec<_> = (0..7).map(|n| (format!("d{n}"), DeviceStatus::closed("gpio", 0))).collect();
        let exit = exit();
        for limit in 1100..1400 {
            let report = facts(&exit, &devices, vec![line("")]).document(limit);
            assert!(report.len() + ENVELOPE <= limit, "{} of {limit}", report.len());
        }
    }

    proptest! {
        #[test]
        fn no_report_is_ever_larger_than_a_message(
            messages in prop::collection::vec("(?s).{0,400}", 0..100),
            devices in 0..40usize,
            limit in 1024..40_000usize,
        ) {
            let exit = exit();
            let devices: Vec<_> = (0..devices).map(|n| (format!("d{n}"), DeviceStatus::closed("gpio", 0))).collect();
            let lines = messages.iter().map(|message| line(message)).collect();
            let report = facts(&exit, &devices, lines).document(limit);
            prop_assert!(report.len() + ENVELOPE <= limit, "{} of {}", report.len(), limit);
            prop_assert!(serde_json::from_slice::<Value>(&report).is_ok());
        }
    }
}
