//! `mqtt.budget` and `quiet_hours`: how much may be sent, and when.

use super::effective::word;
use super::tree::Value;
use super::units::size_text;
use super::values;

/// `budget`: bytes that may be published in each period of UTC
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// 16 KiB to 1 TiB: payloads and topics, and 12 bytes for each message.
    pub bytes: u64,
    /// How often it begins anew.
    pub period: Period,
}

/// The period of a budget
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Period {
    Hour,
    Day,
    Month,
}

/// `quiet_hours` of a stream: a part of each day, in UTC
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// The minute of the day that is their first one.
    pub from: u16,
    /// The minute of the day that is none of them any more; may be before `from`: they go on over midnight.
    pub until: u16,
}

const PERIODS: [(&str, Period); 3] = [("hour", Period::Hour), ("day", Period::Day), ("month", Period::Month)];
/// What a connection costs by itself must not be all of it.
const LEAST_BUDGET: u64 = 16 << 10;
const MOST_BUDGET: u64 = 1 << 40;
const MINUTES_OF_DAY: u16 = 24 * 60;

/// `"50MiB/day"`
pub(super) fn budget(value: &Value) -> Result<Budget, String> {
    let text = values::text(value)?;
    let wrong = || format!("{} is not a budget; give a size and a period, such as \"50MiB/day\"", values::quoted(text));
    let (size, period) = text.split_once('/').ok_or_else(wrong)?;
    let period = PERIODS.iter().find(|(word, _)| *word == period).map(|(_, period)| *period);
    let period = period.ok_or_else(|| {
        format!(
            "{} has no period that is known; write \"{size}/hour\", \"{size}/day\" or \"{size}/month\"",
            values::show(value)
        )
    })?;
    let bytes = values::size(&Value::Text(size.to_owned()), LEAST_BUDGET..=MOST_BUDGET, "50MiB")?;
    Ok(Budget { bytes, period })
}

/// `"08:00Z-18:00Z"`
pub(super) fn quiet_hours(value: &Value) -> Result<QuietHours, String> {
    let text = values::text(value)?;
    let time = |text: &str| {
        let (hours, minutes) = text.strip_suffix('Z')?.split_once(':')?;
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        let number = |part: &str| digits(part).then(|| part.parse::<u16>().ok()).flatten();
        let minute = number(hours)? * 60 + number(minutes).filter(|minutes| *minutes < 60)?;
        (minute < MINUTES_OF_DAY).then_some(minute)
    };
    let hours = text.split_once('-').and_then(|(from, until)| Some((time(from)?, time(until)?)));
    match hours {
        Some((from, until)) if from != until => Ok(QuietHours { from, until }),
        Some(_) => {
            Err(format!("{} begins when it ends; give two times, such as \"08:00Z-18:00Z\"", values::quoted(text)))
        }
        None => Err(format!(
            "{} is not a time of day; give when it begins and ends in UTC, with the Z, such as \"08:00Z-18:00Z\"",
            values::quoted(text)
        )),
    }
}

impl Budget {
    /// As the configuration has it.
    pub fn text(&self) -> String {
        format!("{}/{}", size_text(self.bytes), word(&PERIODS, self.period))
    }
}

impl QuietHours {
    /// As the configuration has it.
    pub fn text(&self) -> String {
        let time = |minute: u16| format!("{:02}:{:02}Z", minute / 60, minute % 60);
        format!("{}-{}", time(self.from), time(self.until))
    }

    /// How much longer they last at this time of day, in milliseconds since 1970; `None`: it is none of them.
    pub fn left_ms(&self, wall_ms: u64) -> Option<u64> {
        const DAY_MS: u64 = 86_400_000;
        let now = wall_ms % DAY_MS;
        let [from, until] = [self.from, self.until].map(|minute| u64::from(minute) * 60_000);
        let (since, length) = ((now + DAY_MS - from) % DAY_MS, (until + DAY_MS - from) % DAY_MS);
        length.checked_sub(since).filter(|left| *left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_hours_never_begin_or_end_a_minute_off() {
        let hours = |text: &str| quiet_hours(&Value::Text(text.to_owned())).unwrap();
        let at = |hour: u64, minute: u64| (20_000 * 24 * 60 + hour * 60 + minute) * 60_000;
        let day = hours("08:00Z-18:00Z");
        assert_eq!((day.left_ms(at(8, 0) - 1), day.left_ms(at(8, 0))), (None, Some(10 * 3_600_000)));
        assert_eq!((day.left_ms(at(18, 0) - 1), day.left_ms(at(18, 0))), (Some(1), None));
        let night = hours("22:30Z-06:15Z");
        assert_eq!(night.left_ms(at(22, 29)), None);
        assert_eq!(night.left_ms(at(22, 30)), Some((7 * 60 + 45) * 60_000));
        assert_eq!(night.left_ms(at(0, 0)), Some((6 * 60 + 15) * 60_000));
        assert_eq!(night.left_ms(at(6, 15)), None);
        for text in ["08:00Z-18:00Z", "22:30Z-06:15Z", "00:00Z-23:59Z"] {
            assert_eq!(hours(text).text(), text);
        }
    }
}
