//! Quantities as people read them, in columns of limited width.

/// All digits with commas if they fit into `room` characters, else four digits and a unit.
pub fn number_in(n: u64, room: usize) -> String {
    let digits = n.to_string();
    let mut exact = String::new();
    for (place, digit) in (0..digits.len()).rev().zip(digits.chars()) {
        exact.push(digit);
        if place % 3 == 0 && place > 0 {
            exact.push(',');
        }
    }
    if exact.len() <= room { exact } else { rounded(n) }
}

/// In running text: exact below ten thousand millions.
pub fn number(n: u64) -> String {
    number_in(n, 13)
}

fn rounded(n: u64) -> String {
    let units = [(1_000_000, 'M'), (1_000_000_000, 'G'), (1_000_000_000_000, 'T'), (1_000_000_000_000_000, 'P')];
    let (unit, letter) = units.into_iter().rfind(|(unit, _)| n >= *unit).unwrap_or((1_000_000, 'M'));
    let (whole, thousandths) = (n / unit, n % unit / (unit / 1000));
    match whole {
        0..10 => format!("{whole}.{thousandths:03}{letter}"),
        10..100 => format!("{whole}.{:02}{letter}", thousandths / 10),
        _ => format!("{whole}.{}{letter}", thousandths / 100),
    }
}

/// With a binary unit and at most four digits: at most eight characters.
pub fn bytes(n: u64) -> String {
    let units = [(1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"), (1_u64 << 40, "TiB")];
    match units.into_iter().rfind(|(unit, _)| n >= *unit) {
        None => format!("{n} B"),
        Some((unit, name)) if n / unit >= 100 => format!("{} {name}", n / unit),
        Some((unit, name)) => format!("{}.{} {name}", n / unit, n % unit * 10 / unit),
    }
}

/// The two largest units of a duration in seconds.
pub fn duration(s: u64) -> String {
    let (minutes, hours, days) = (s / 60, s / 3600, s / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{minutes}m {}s", s % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_never_grow_beyond_their_columns() {
        let shown = [0, 999, 1000, 1_000_000, 9_999_999, 10_000_000].map(|n| number_in(n, 9));
        assert_eq!(shown, ["0", "999", "1,000", "1,000,000", "9,999,999", "10.00M"]);
        let shown = [999_999, 1_000_000, 999_999_999, 1_000_000_000, u64::MAX].map(|n| number_in(n, 8));
        assert_eq!(shown, ["999,999", "1.000M", "999.9M", "1.000G", "18446.7P"]);
        let shown = [0, 1023, 1024, 102_399, 102_400, 5 << 20, 3 << 30, 1 << 50].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "99.9 KiB", "100 KiB", "5.0 MiB", "3.0 GiB", "1024 TiB"]);
        let shown = [0, 59, 60, 3599, 3600, 86_399, 86_400, 8_640_000].map(duration);
        assert_eq!(shown, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "100d 0h"]);
    }
}
