//! A status as a screen that a person likes to read.
//!
//! Pure: a status, a style and the time go in, text comes out. Constraints: 80 columns suffice unless a single name is
//! longer; nothing but ASCII of our own, because gateways have strange consoles; names and reasons come from outside
//! and can't send control characters to the terminal; a colour never carries anything that the words don't say.
//!
//! `page` is what all sections are drawn with; each section is a file, and `sections` those of a line or two.

mod app;
mod devices;
mod host;
mod link;
mod page;
mod sections;
mod streams;
#[cfg(test)]
mod tests;

use super::quantity::duration;
use crate::stats::{HealthState, Status};
use page::{Colour, Page};

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether to use colours (ECMA-48 SGR).
    pub colour: bool,
}

/// The screen for `status`. `now_ms` is in milliseconds since 1970.
pub fn render(status: &Status, style: Style, now_ms: u64) -> String {
    let mut page = Page::new(style, now_ms, status.uptime_s);
    header(&mut page, status);
    link::draw(&mut page, &status.link);
    streams::draw(&mut page, status);
    devices::draw(&mut page, status);
    page.line("");
    sections::reload(&mut page, status.configuration.as_ref());
    sections::commands(&mut page, status.commands.as_ref());
    sections::clients(&mut page, status.api.as_ref());
    sections::inbox(&mut page, status.inbox.as_ref());
    sections::config(&mut page, status.config.as_ref());
    app::draw(&mut page, status.app.as_ref());
    sections::logs(&mut page, status.logs.as_ref());
    host::draw(&mut page, &status.host);
    page.end()
}

/// Who speaks, the verdict at the right, and what is wrong below.
fn header(page: &mut Page, status: &Status) {
    let (word, colour) = match status.health.state {
        HealthState::Healthy => ("healthy", Colour::Good),
        HealthState::Degraded => ("DEGRADED", Colour::Uncertain),
        HealthState::Failed => ("FAILED", Colour::Bad),
    };
    let up = duration(status.uptime_s);
    let title = format!("{}   pillion {}   up {up}", page::clean(&status.instance), page::clean(&status.version));
    let gap = page.width().saturating_sub(title.chars().count() + word.len()).max(1);
    let line = format!("{title}{:gap$}{}", "", page.paint(word, colour));
    page.line(&line);
    for reason in &status.health.reasons {
        page.item("  ! ", reason);
    }
}
