//! An output: what it is to be, why, and until when. Pure: the caller brings the clock and drives the line.
//!
//! ```text
//!            order                    order, of any kind
//!   Steady <────────────> Pulse ── time over ──> Steady
//!     └──────── safe is due, or a stop ────────┘  with the safe value
//! ```
//!
//! The safe value is due when something vital was missing without a break for `safe_after`. It is applied once: an order that
//! comes then (through the local API) proves that somebody is in charge, so it is carried out and the time starts over.

use crate::command::Data;
use crate::config;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// What an order may be.
const POSSIBLE: &str = "true, false, 1, 0, \"on\", \"off\", \"toggle\", {\"value\":true}, {\"pulse\":\"500ms\"} for true and then \
                        false, and {\"pulse\":\"500ms\",\"value\":false} for the opposite";
const LONGEST_PULSE: Duration = Duration::from_secs(3600);

/// Why an output has its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The line was taken.
    Start,
    /// Somebody wanted it.
    Command,
    /// A pulse is over.
    PulseEnd,
    /// Something vital is missing, or pillion stops.
    Safe,
}

/// What is to be done with the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The value.
    pub value: bool,
    /// For how long; then comes the opposite.
    pub pulse_ms: Option<u64>,
    /// Why.
    pub cause: Cause,
}

/// One output. Times are in milliseconds of one clock that the caller has.
#[derive(Debug)]
pub struct Output {
    initial: Option<bool>,
    safe: Option<config::Safe>,
    hold: bool,
    value: bool,
    pulse_until_ms: Option<u64>,
    missing_since_ms: Option<u64>,
    /// Safe was applied since then.
    is_safe: bool,
}

impl Output {
    /// An output whose line is not taken yet.
    pub fn new(config: &config::Output) -> Self {
        let config::Output { initial, safe, hold, .. } = *config;
        Output { initial, safe, hold, value: false, pulse_until_ms: None, missing_since_ms: None, is_safe: false }
    }

    /// Something vital is missing, or nothing any more.
    pub fn vital(&mut self, is_missing: bool, now_ms: u64) {
        match (is_missing, self.missing_since_ms) {
            (true, None) => self.missing_since_ms = Some(now_ms),
            (false, Some(_)) => (self.missing_since_ms, self.is_safe) = (None, false),
            _ => {}
        }
    }

    /// The value to take the line with; `None`: the one that it has.
    pub fn opening(&self, now_ms: u64) -> Option<bool> {
        match self.safe {
            Some(safe) if self.is_safe || self.safe_due_ms().is_some_and(|due| due <= now_ms) => Some(safe.value),
            _ => self.initial,
        }
    }

    /// The line is ours and has this value.
    pub fn opened(&mut self, value: bool, now_ms: u64) -> Step {
        let is_safe = self.is_safe || self.safe_due_ms().is_some_and(|due| due <= now_ms);
        self.is_safe = is_safe;
        (self.value, self.pulse_until_ms) = (value, None);
        Step { value, pulse_ms: None, cause: if is_safe { Cause::Safe } else { Cause::Start } }
    }

    /// What an order asks for, or what it could have asked for.
    pub fn order(&self, data: Data) -> Result<Step, String> {
        let value = data.into_value();
        let (value, pulse_ms) = match &value {
            Value::Object(fields) => {
                let unknown = fields.keys().find(|key| !matches!(key.as_str(), "value" | "pulse"));
                if let Some(key) = unknown {
                    return Err(format!("\"{}\" is not known; possible are {POSSIBLE}", key.escape_debug()));
                }
                let pulse_ms = fields.get("pulse").map(pulse_ms).transpose()?;
                match (fields.get("value"), pulse_ms) {
                    (Some(value), pulse_ms) => (self.level(value)?, pulse_ms),
                    (None, Some(pulse_ms)) => (true, Some(pulse_ms)),
                    (None, None) => return Err(format!("an empty object says nothing; possible are {POSSIBLE}")),
                }
            }
            other => (self.level(other)?, None),
        };
        Ok(Step { value, pulse_ms, cause: Cause::Command })
    }

    fn level(&self, value: &Value) -> Result<bool, String> {
        let level = match value {
            Value::Bool(level) => Some(*level),
            Value::Number(number) => match number.as_u64() {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
            Value::String(word) => match word.trim().to_ascii_lowercase().as_str() {
                "on" | "true" | "1" => Some(true),
                "off" | "false" | "0" => Some(false),
                "toggle" => Some(!self.value),
                _ => None,
            },
            _ => None,
        };
        level.ok_or_else(|| {
            let shown: String = value.to_string().chars().take(64).collect();
            format!("{shown} is no value of a line; possible are {POSSIBLE}")
        })
    }

    fn safe_due_ms(&self) -> Option<u64> {
        let after = u64::try_from(self.safe?.after.as_millis()).unwrap_or(u64::MAX);
        match self.is_safe {
            true => None,
            false => Some(self.missing_since_ms?.saturating_add(after)),
        }
    }

    /// When [`Output::due`] has something to say.
    pub fn due_ms(&self) -> Option<u64> {
        self.safe_due_ms().into_iter().chain(self.pulse_until_ms).min()
    }

    /// What is to be done by now. Safe comes before the end of a pulse, and ends it.
    pub fn due(&self, now_ms: u64) -> Option<Step> {
        let is_due = |due: Option<u64>| due.is_some_and(|due| due <= now_ms);
        match self.safe {
            Some(safe) if is_due(self.safe_due_ms()) => Some(steady(safe.value, Cause::Safe)),
            _ if is_due(self.pulse_until_ms) => Some(steady(!self.value, Cause::PulseEnd)),
            _ => None,
        }
    }

    /// What is to be done before the line is let go on a stop. A pulse is never left in the middle.
    pub fn stop(&self) -> Option<Step> {
        match self.safe {
            Some(safe) if !self.hold => Some(steady(safe.value, Cause::Safe)),
            _ => self.pulse_until_ms.map(|_| steady(!self.value, Cause::PulseEnd)),
        }
    }

    /// The kernel has carried out this step. Whether the value is another one now.
    pub fn driven(&mut self, step: Step, now_ms: u64) -> bool {
        let is_change = self.value != step.value;
        self.value = step.value;
        self.pulse_until_ms = step.pulse_ms.map(|pulse_ms| now_ms.saturating_add(pulse_ms));
        match step.cause {
            Cause::Safe => self.is_safe = self.missing_since_ms.is_some(),
            Cause::Command if self.missing_since_ms.is_some() => {
                (self.missing_since_ms, self.is_safe) = (Some(now_ms), false);
            }
            Cause::Start | Cause::Command | Cause::PulseEnd => {}
        }
        is_change
    }
}

fn steady(value: bool, cause: Cause) -> Step {
    Step { value, pulse_ms: None, cause }
}

fn pulse_ms(value: &Value) -> Result<u64, String> {
    let wrong = || "a pulse lasts \"1ms\" to \"1h\"; give text such as \"500ms\"".to_owned();
    let text = value.as_str().ok_or_else(wrong)?;
    let pulse = humantime::parse_duration(text).map_err(|_| wrong())?;
    match (Duration::from_millis(1)..=LONGEST_PULSE).contains(&pulse) {
        true => u64::try_from(pulse.as_millis()).map_err(|_| wrong()),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn output(initial: Option<bool>, safe: Option<bool>, hold: bool) -> Output {
        let safe = safe.map(|value| config::Safe { value, after: Duration::from_secs(30) });
        Output::new(&config::Output { initial, safe, hold, commands: None })
    }

    fn said(text: &str) -> Data {
        Data::Bytes(text.as_bytes().to_vec())
    }

    fn command(value: bool, pulse_ms: Option<u64>) -> Step {
        Step { value, pulse_ms, cause: Cause::Command }
    }

    #[test]
    fn an_order_is_never_read_as_another_one() {
        let mut line = output(None, None, false);
        line.opened(true, 0);
        for text in
            ["true", "1", "on", "\"on\"", "ON", " on\n", "{\"value\":true}", "{\"value\":\"on\"}", "{\"value\":1}"]
        {
            assert_eq!(line.order(said(text)), Ok(command(true, None)), "{text}");
        }
        for text in ["false", "0", "off", "\"off\"", "toggle", "{\"value\":false}", "{\"value\":\"toggle\"}"] {
            assert_eq!(line.order(said(text)), Ok(command(false, None)), "{text}");
        }
        assert_eq!(line.order(Data::Json(Value::Bool(true))), Ok(command(true, None)));
        assert_eq!(line.order(said("{\"pulse\":\"500ms\"}")), Ok(command(true, Some(500))));
        assert_eq!(line.order(said("{\"pulse\":\"2s\",\"value\":false}")), Ok(command(false, Some(2000))));
    }

    #[test]
    fn a_refusal_never_hides_what_is_possible() {
        let line = output(None, None, false);
        for text in ["", "2", "-1", "1.5", "open", "null", "[true]", "{}", "{\"on\":true}", "\u{1b}[2J"] {
            let told = line.order(said(text)).unwrap_err();
            assert!(told.ends_with(POSSIBLE), "{text}: {told}");
            assert!(told.len() < 500 && !told.contains('\u{1b}'), "{told}");
        }
        for text in ["{\"pulse\":500}", "{\"pulse\":\"0s\"}", "{\"pulse\":\"2h\"}", "{\"pulse\":\"soon\"}"] {
            let told = line.order(said(text)).unwrap_err();
            assert_eq!(told, "a pulse lasts \"1ms\" to \"1h\"; give text such as \"500ms\"", "{text}");
        }
    }

    #[test]
    fn a_pulse_never_outlives_a_newer_order() {
        let mut line = output(Some(false), None, false);
        line.opened(false, 0);
        assert!(line.driven(command(true, Some(500)), 1_000));
        assert_eq!((line.due_ms(), line.due(1_499)), (Some(1_500), None));
        let end = steady(false, Cause::PulseEnd);
        assert_eq!(line.due(1_500), Some(end));
        // A longer one in its middle, then a steady value.
        assert!(!line.driven(command(true, Some(1_000)), 1_400));
        assert_eq!((line.due_ms(), line.due(1_500)), (Some(2_400), None));
        assert!(!line.driven(command(true, None), 2_000));
        assert_eq!((line.due_ms(), line.stop()), (None, None));
        assert!(line.driven(command(false, Some(100)), 3_000));
        assert_eq!(line.due(3_100), Some(steady(true, Cause::PulseEnd)));
    }

    #[test]
    fn the_safe_value_never_comes_too_early_or_twice() {
        let mut line = output(None, Some(false), false);
        line.opened(true, 0);
        line.vital(true, 1_000);
        line.vital(true, 9_000);
        assert_eq!((line.due_ms(), line.due(30_999)), (Some(31_000), None));
        line.vital(false, 30_999);
        assert_eq!((line.due_ms(), line.due(99_000)), (None, None), "the link was back in time");
        line.vital(true, 100_000);
        line.driven(command(true, Some(3_600_000)), 100_001);
        let safe = steady(false, Cause::Safe);
        assert_eq!(line.due(130_001), Some(safe), "the order has started the time over, and a pulse does not matter");
        assert!(line.driven(safe, 130_001));
        assert_eq!((line.due_ms(), line.due(u64::MAX)), (None, None), "once");
        line.driven(command(true, None), 200_000);
        assert_eq!(line.due_ms(), Some(230_000), "somebody was in charge, and may vanish again");
        line.vital(false, 210_000);
        line.vital(true, 220_000);
        assert_eq!(line.due_ms(), Some(250_000));
    }

    #[test]
    fn a_line_that_comes_back_never_forgets_that_the_link_is_lost() {
        let mut line = output(Some(true), Some(false), false);
        assert_eq!(line.opening(0), Some(true));
        line.vital(true, 0);
        assert_eq!((line.opening(29_999), line.opening(30_000)), (Some(true), Some(false)));
        assert_eq!(line.opened(false, 30_000).cause, Cause::Safe);
        assert_eq!(line.due(99_000), None);
        assert_eq!(line.opening(99_000), Some(false), "gone and back once more");
        line.vital(false, 99_000);
        assert_eq!(line.opening(99_000), Some(true));
        assert_eq!(output(None, None, false).opening(0), None);
    }

    #[test]
    fn a_stop_never_leaves_a_pulse_in_the_middle() {
        let pulse = command(true, Some(500));
        for (safe, hold, expected) in [
            (None, false, Some(steady(false, Cause::PulseEnd))),
            (None, true, Some(steady(false, Cause::PulseEnd))),
            (Some(true), true, Some(steady(false, Cause::PulseEnd))),
            (Some(true), false, Some(steady(true, Cause::Safe))),
        ] {
            let mut line = output(None, safe, hold);
            line.opened(false, 0);
            assert_eq!(line.stop().is_some(), safe.is_some() && !hold, "steady: {safe:?} {hold}");
            line.driven(pulse, 0);
            assert_eq!(line.stop(), expected, "{safe:?} {hold}");
        }
    }

    proptest! {
        #[test]
        fn no_order_ever_panics(text in ".*", fields in "\\{\"(value|pulse)\":.{0,12}\\}") {
            let line = output(None, None, false);
            let _ = (line.order(said(&text)), line.order(said(&fields)));
        }
    }
}
