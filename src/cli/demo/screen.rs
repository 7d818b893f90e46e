//! What the demo shows: lines that stay, and on a terminal one status line that is drawn in place.
//!
//! Constraints: ASCII and 80 columns, because consoles differ; what arrives from the broker can't send control characters to the
//! terminal; without a terminal everything is a plain line, once a second.

use super::Stop;
use super::audience::Message;
use crate::cli::exit::{Reader, print};
use crate::stats::LinkState;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Columns that suffice.
const WIDTH: usize = 80;
/// Characters of the bar, and waiting records that each stands for.
const BAR: (usize, u64) = (20, 25);

/// One look at everything.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// Of the sidecar to the broker, as the sidecar tells; None if it doesn't answer.
    pub(super) link: Option<LinkState>,
    /// Whether the sidecar has opened the sensor.
    pub(super) device: bool,
    /// Lines that the sensor has written.
    pub(super) sent: u32,
    /// Records that the sidecar has taken in.
    pub(super) accepted: u64,
    /// Those of them that the broker has acknowledged.
    pub(super) delivered: u64,
    /// Those of them that are in the spool.
    pub(super) waiting: u64,
    /// Different measurements that the subscriber has.
    pub(super) received: usize,
}

/// Standard output.
pub(super) struct Screen {
    in_place: bool,
    colour: bool,
    /// Whether the last row is a status line, to be drawn over.
    status_is_last: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        let unset = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let in_place = std::io::stdout().is_terminal() && !dumb;
        Screen { in_place, colour: in_place && unset("NO_COLOR"), status_is_last: false }
    }

    /// How often to look.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(if self.in_place { 250 } else { 1_000 })
    }

    /// Lines that stay.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Stop> {
        let over = if std::mem::take(&mut self.status_is_last) { "\r\x1b[K" } else { "" };
        show(&format!("{over}{text}\n"))
    }

    /// The head of a phase. The last status of the phase before stays.
    pub(super) fn title(&mut self, text: &str) -> Result<(), Stop> {
        self.keep_status()?;
        let text = self.paint(text, "1");
        self.say(&format!("\n{text}"))
    }

    /// What is said from now on doesn't go over the status line.
    pub(super) fn keep_status(&mut self) -> Result<(), Stop> {
        if std::mem::take(&mut self.status_is_last) { show("\n") } else { Ok(()) }
    }

    /// A message as it arrived, as far as it fits into some rows.
    pub(super) fn message(&mut self, message: &Message, rows: usize) -> Result<(), Stop> {
        self.say(&fold(&format!("  {}  {}", message.topic, message.payload), rows))
    }

    /// Where everything stands.
    pub(super) fn status(&mut self, look: &Look) -> Result<(), Stop> {
        let line = self.status_line(look);
        if !self.in_place {
            return self.say(&line);
        }
        self.status_is_last = true;
        // DECAWM off meanwhile: a narrow terminal must not wrap what is drawn over.
        show(&format!("\r\x1b[K\x1b[?7l{line}\x1b[?7h"))
    }

    fn status_line(&self, look: &Look) -> String {
        let (word, colour) = match look.link {
            Some(LinkState::Connected) => ("connected", "32"),
            Some(LinkState::Connecting) => ("connecting", "33"),
            Some(LinkState::Draining) => ("draining", "33"),
            Some(LinkState::Disconnected) => ("disconnected", "31"),
            None => ("no answer", "31"),
        };
        let word = self.paint(&format!("{word:12}"), colour);
        let Look { sent, waiting, received, .. } = look;
        let line = format!("  {word} sent {sent:<6} waiting {waiting:<6} received {received:<6} {}", bar(*waiting));
        line.trim_end().to_owned()
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn show(text: &str) -> Result<(), Stop> {
    match print(text)? {
        Reader::Reads => Ok(()),
        Reader::Gone => Err(Stop::NobodyLooks),
    }
}

fn bar(waiting: u64) -> String {
    let (width, each) = BAR;
    "#".repeat(usize::try_from(waiting / each).map_or(width, |length| length.min(width)))
}

/// Folds behind commas; what doesn't fit is left out.
fn fold(text: &str, rows: usize) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let mut rest: String = text.chars().map(clean).collect();
    let mut out = String::new();
    for _ in 1..rows {
        let Some((end, _)) = rest.char_indices().nth(WIDTH) else { break };
        let Some(row) = rest.get(..end).and_then(|fits| fits.get(..=fits.rfind(',')?)) else { break };
        out = out + row + "\n";
        rest = format!("      {}", rest.get(row.len()..).unwrap_or_default());
    }
    if rest.chars().count() > WIDTH {
        rest = rest.chars().take(WIDTH - 3).chain("...".chars()).collect();
    }
    out + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_ever_needs_more_than_80_columns() {
        let screen = Screen { in_place: true, colour: false, status_is_last: false };
        let look = Look { sent: 99_999, received: 99_999, waiting: 99_999, ..Look::default() };
        let line = screen.status_line(&look);
        assert!(line.chars().count() <= WIDTH, "{line}");
        assert!(line.ends_with("received 99999  ####################"), "{line}");
        assert_eq!(fold(&"ä".repeat(80), 1), "ä".repeat(80));
        assert_eq!(fold(&"ä".repeat(81), 1), format!("{}...", "ä".repeat(77)));
        assert_eq!(fold(&"ä".repeat(81), 2), format!("{}...", "ä".repeat(77)));
        let (a, b) = ("ä".repeat(50), "b".repeat(40));
        assert_eq!(fold(&format!("{a},{b}"), 2), format!("{a},\n      {b}"));
        assert_eq!(fold(&format!("{a},{b},{b}"), 2), format!("{a},\n      {b},{}...", "b".repeat(30)));
    }

    #[test]
    fn the_bar_never_outgrows_its_place() {
        assert_eq!((bar(24), bar(25), bar(75)), (String::new(), "#".to_owned(), "###".to_owned()));
        assert_eq!(bar(u64::MAX).len(), 20);
    }

    #[test]
    fn an_enemys_message_never_reaches_the_terminal() {
        assert_eq!(fold("\x1b[2J\n\u{9b}2J", 1), "?[2J??2J");
    }
}
