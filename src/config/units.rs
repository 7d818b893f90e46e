//! Durations and sizes as users write them: one whole number and one unit, `"250ms"`, `"64MiB"`.
//!
//! Sizes count in powers of 1024 and say so in their unit; `MB` is refused because it means two things.

use std::time::Duration;

/// Milliseconds in each unit, largest first.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The unit of [`fine_duration`]: microseconds, without a letter that keyboards lack.
const MICROSECONDS: &str = "us";

/// Bytes in each unit, largest first.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration. The error says what to write instead of `text`; `example` is a value that would be right.
pub(super) fn duration(text: &str, example: &str) -> Result<Duration, String> {
    duration_in("ms, s, m, h, d", text, example)
}

/// Reads a duration as [`duration`] does, or one in microseconds, `"250us"`.
pub(super) fn fine_duration(text: &str, example: &str) -> Result<Duration, String> {
    match split(text) {
        (digits, MICROSECONDS) if !digits.is_empty() => {
            Ok(Duration::from_micros(whole_number(digits).unwrap_or(u64::MAX)))
        }
        _ => duration_in("us, ms, s, m, h, d", text, example),
    }
}

/// `units` are those that the error names.
fn duration_in(units: &str, text: &str, example: &str) -> Result<Duration, String> {
    let (digits, unit) = split(text);
    let number = whole_number(digits);
    let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number, factor) {
        (Some(number), Some(factor)) => match number.checked_mul(factor) {
            Some(millis) => Ok(Duration::from_millis(millis)),
            None => Err(format!("is too long; give one such as \"{example}\"")),
        },
        (Some(number), None) if unit.is_empty() => {
            Err(format!("has no unit; write \"{number}s\" for seconds (units: {units})"))
        }
        _ => Err(format!("is not a duration; give one whole number and one unit ({units}), such as \"{example}\"")),
    }
}

/// Reads a size in bytes. The error says what to write instead of `text`; `example` is a value that would be right.
pub(super) fn size(text: &str, example: &str) -> Result<u64, String> {
    let (digits, unit) = split(text);
    let number = whole_number(digits);
    let factor = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    match (number, factor) {
        (Some(number), Some(factor)) => {
            number.checked_mul(factor).ok_or_else(|| format!("is too large; give one such as \"{example}\""))
        }
        (Some(number), None) if unit.is_empty() => {
            Err(format!("has no unit; write \"{}\" for bytes (units: B, KiB, MiB, GiB, TiB)", size_text(number)))
        }
        (Some(number), None) if binary_unit(unit).is_some() => {
            let unit = binary_unit(unit).unwrap_or_default();
            Err(format!("has an ambiguous unit; write \"{number}{unit}\" (1 KiB is 1024 bytes)"))
        }
        _ => Err(format!(
            "is not a size; give one whole number and one unit (B, KiB, MiB, GiB, TiB), such as \"{example}\""
        )),
    }
}

/// The shortest text that [`duration`] reads as `duration`, to the millisecond.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match millis {
        0 => "0s".to_owned(),
        _ => in_largest_unit(millis, &DURATION_UNITS),
    }
}

/// The shortest text that [`fine_duration`] reads as `duration`, to the microsecond.
pub(super) fn fine_duration_text(duration: Duration) -> String {
    match duration.subsec_micros() % 1000 {
        0 => duration_text(duration),
        _ => format!("{}{MICROSECONDS}", duration.as_micros()),
    }
}

/// The shortest text that [`size`] reads as `bytes`.
pub(super) fn size_text(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        _ => in_largest_unit(bytes, &SIZE_UNITS),
    }
}

fn in_largest_unit(number: u64, units: &[(&str, u64)]) -> String {
    let unit = units.iter().find(|(_, factor)| number.is_multiple_of(*factor));
    unit.map_or_else(|| number.to_string(), |(name, factor)| format!("{}{name}", number / factor))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Digits as a number; one that is too large for any of our limits counts as the largest.
fn whole_number(digits: &str) -> Option<u64> {
    match digits.is_empty() {
        true => None,
        false => Some(digits.parse().unwrap_or(u64::MAX)),
    }
}

/// What somebody who wrote `MB`, `M` or `mib` most likely meant.
fn binary_unit(unit: &str) -> Option<&'static str> {
    match unit.to_ascii_lowercase().as_str() {
        "b" => Some("B"),
        "k" | "kb" | "ki" | "kib" => Some("KiB"),
        "m" | "mb" | "mi" | "mib" => Some("MiB"),
        "g" | "gb" | "gi" | "gib" => Some("GiB"),
        "t" | "tb" | "ti" | "tib" => Some("TiB"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_never_read_as_another_length() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text, ""), Ok(Duration::from_millis(millis)));
            assert_eq!(fine_duration(text, ""), Ok(Duration::from_millis(millis)));
        }
        assert_eq!(fine_duration("250us", ""), Ok(Duration::from_micros(250)));
    }

    #[test]
    fn sizes_never_read_as_another_amount() {
        for (text, bytes) in [("512B", 512), ("256KiB", 262_144), ("64MiB", 67_108_864), ("1GiB", 1_073_741_824)] {
            assert_eq!(size(text, ""), Ok(bytes));
        }
    }

    #[test]
    fn a_wrong_unit_never_goes_without_advice() {
        let wrong = |text| duration(text, "30s").unwrap_err();
        assert_eq!(wrong("30"), "has no unit; write \"30s\" for seconds (units: ms, s, m, h, d)");
        for text in ["", "s", "1.5s", "1h30m", "-1s", "30 s", "30S", "½h"] {
            assert!(wrong(text).starts_with("is not a duration;"), "{text}: {}", wrong(text));
        }
        assert_eq!(wrong("99999999999999999999d"), "is too long; give one such as \"30s\"");
        assert!(wrong("250us").ends_with("one unit (ms, s, m, h, d), such as \"30s\""), "{}", wrong("250us"));
        let wrong = |text| fine_duration(text, "20ms").unwrap_err();
        assert_eq!(wrong("30"), "has no unit; write \"30s\" for seconds (units: us, ms, s, m, h, d)");
        assert!(wrong("us").ends_with("one unit (us, ms, s, m, h, d), such as \"20ms\""), "{}", wrong("us"));
        let wrong = |text| size(text, "64MiB").unwrap_err();
        assert_eq!(wrong("65536"), "has no unit; write \"64KiB\" for bytes (units: B, KiB, MiB, GiB, TiB)");
        assert_eq!(wrong("64MB"), "has an ambiguous unit; write \"64MiB\" (1 KiB is 1024 bytes)");
        assert_eq!(wrong("1k"), "has an ambiguous unit; write \"1KiB\" (1 KiB is 1024 bytes)");
        for text in ["", "KiB", "1.5MiB", "64 MiB", "-1B", "64QiB"] {
            assert!(wrong(text).starts_with("is not a size;"), "{text}: {}", wrong(text));
        }
        assert_eq!(wrong("99999999999GiB"), "is too large; give one such as \"64MiB\"");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_never_read_differently(number in any::<u64>()) {
            prop_assert_eq!(size(&size_text(number), ""), Ok(number));
            let long = Duration::from_millis(number);
            prop_assert_eq!(duration(&duration_text(long), ""), Ok(long));
            let fine = Duration::from_micros(number);
            prop_assert_eq!(fine_duration(&fine_duration_text(fine), ""), Ok(fine));
        }

        #[test]
        fn no_text_ever_panics(text in ".*") {
            let _ = (duration(&text, ""), fine_duration(&text, ""), size(&text, ""));
        }
    }
}
