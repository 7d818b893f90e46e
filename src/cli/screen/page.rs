//! What a screen is drawn with: lines within its width, lists with a margin, tables, colours, and how counts are told.

use super::Style;
use crate::cli::quantity::{duration, number, number_in};
use std::fmt::Write as _;

/// SGR parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good = 32,
    Uncertain = 33,
    Bad = 31,
    Title = 1,
}

/// A cell of a table.
pub(super) enum Cell {
    Number(u64),
    Text(String),
}

/// Each cell at the right of its column, with at least one space before a number. A column is its head and its width.
pub(super) fn in_columns(cells: impl IntoIterator<Item = Cell>, columns: &[(&str, usize)]) -> String {
    let column = |(cell, &(_, width)): (Cell, &(&str, usize))| {
        let text = match cell {
            Cell::Number(n) => number_in(n, width.saturating_sub(1)),
            Cell::Text(text) => text,
        };
        format!("{text:>width$}")
    };
    cells.into_iter().zip(columns).map(column).collect()
}

/// Where the values of a list begin, and where the numbers of a table may begin.
pub(super) const MARGIN: usize = 10;

/// The screen so far.
pub(super) struct Page {
    out: String,
    style: Style,
    now_ms: u64,
    uptime_s: u64,
}

impl Page {
    /// An empty one. `now_ms` is in milliseconds since 1970.
    pub(super) fn new(style: Style, now_ms: u64, uptime_s: u64) -> Self {
        Page { out: String::new(), style, now_ms, uptime_s }
    }

    /// The whole screen.
    pub(super) fn end(self) -> String {
        self.out
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.style.width
    }

    /// A line as it is.
    pub(super) fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// The line that a section begins with: its name, and what is so.
    pub(super) fn section(&mut self, name: &str, text: &str) {
        self.line(&format!("{name:MARGIN$}{text}"));
    }

    /// More of a section, below its first line.
    pub(super) fn more(&mut self, text: &str) {
        self.item(&" ".repeat(MARGIN), text);
    }

    /// A text behind a mark, with its further lines below the first.
    pub(super) fn item(&mut self, mark: &str, text: &str) {
        let mut lead = mark.to_owned();
        for line in wrap(text, self.style.width.saturating_sub(mark.len())) {
            self.line(&format!("{lead}{line}"));
            lead = " ".repeat(mark.len());
        }
    }

    /// A remark below a row.
    pub(super) fn note(&mut self, label: &str, text: &str, colour: Colour) {
        let margin = " ".repeat(MARGIN);
        for line in wrap(&format!("{label}{text}"), self.style.width.saturating_sub(MARGIN)) {
            let line = format!("{margin}{}", self.paint(&line, colour));
            self.line(&line);
        }
    }

    /// The heads of a table's columns; `name` stands above the names of the rows.
    pub(super) fn table_head(&mut self, name: &str, columns: &[(&str, usize)]) {
        self.line("");
        let mut head = format!("{name:MARGIN$}");
        for (title, width) in columns {
            let _ = write!(head, "{title:>width$}");
        }
        let head = self.paint(&head, Colour::Title);
        self.line(&head);
    }

    /// The name in front of a row; one that would touch the numbers gets a line of its own.
    pub(super) fn row_name(&mut self, name: &str) {
        let name = clean(name);
        let _ = write!(self.out, "{name:MARGIN$}");
        if name.chars().count() >= MARGIN {
            let _ = write!(self.out, "\n{:MARGIN$}", "");
        }
    }

    /// In this colour, if there are colours.
    pub(super) fn paint(&self, text: &str, colour: Colour) -> String {
        match self.style.colour {
            true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
            false => text.to_owned(),
        }
    }

    /// How long ago, by the wall clock; but nothing is older than the sidecar, whatever the clock did since.
    pub(super) fn since(&self, ms: u64) -> String {
        duration((self.now_ms.saturating_sub(ms) / 1000).min(self.uptime_s))
    }
}

/// The counts that aren't 0, with what they count.
pub(super) fn counted(parts: &[(u64, &str)]) -> String {
    let there = parts.iter().filter(|(count, _)| *count > 0);
    there.map(|(count, what)| format!("{} {what}", number(*count))).collect::<Vec<_>>().join(", ")
}

pub(super) fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", number(count), if count == 1 { "" } else { "s" })
}

/// Without what a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Words in lines of at most `width` characters; a longer word stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace().map(clean) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}
