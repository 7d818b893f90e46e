//! The connection to the broker: where it stands, what went over it, and each server if there are several.

use super::page::{Colour, MARGIN, Page, clean, plural};
use crate::cli::quantity::{bytes, number};
use crate::stats::{BudgetStatus, LinkState, LinkStatus, ServerState, ServerStatus};
use std::fmt::Write as _;

pub(super) fn draw(page: &mut Page, link: &LinkStatus) {
    page.line("");
    let (words, colour) = match link.state {
        LinkState::Connected => ("connected to", Colour::Good),
        LinkState::Connecting => ("connecting to", Colour::Uncertain),
        LinkState::Draining => ("finishing with", Colour::Uncertain),
        LinkState::Disconnected => ("disconnected from", Colour::Bad),
    };
    let name = clean(link.server.as_deref().unwrap_or("any server"));
    let words = page.paint(words, colour);
    let line = format!("{:MARGIN$}{words} {name} for {}", "link", page.since(link.since_ms));
    page.line(&line);
    if let Some(reason) = &link.reason {
        page.more(reason);
    }
    page.more(&counts(link));
    if link.sent_records > link.sent_messages || link.plain_bytes > link.sent_bytes {
        page.more(&sent(link));
    }
    if let Some(BudgetStatus { limit, used, bytes: whole, .. }) = &link.budget {
        let percent = used.saturating_mul(100) / whole.max(&1);
        page.more(&format!("{} of the budget of {} used ({percent} %)", bytes(*used), clean(limit)));
    }
    for notice in link.notices.iter().chain(link.barred.values()) {
        page.more(notice);
    }
    if link.servers.len() > 1 {
        for one in &link.servers {
            page.item(&format!("{:MARGIN$}- ", ""), &server(page, one));
        }
    }
    for warning in link.servers.iter().filter_map(|server| server.warning.as_ref()) {
        page.note("warning: ", warning, Colour::Uncertain);
    }
}

/// What went over it so far.
fn counts(link: &LinkStatus) -> String {
    let mut counts = format!(
        "{} in flight, {} acknowledged, {} repeated, {}",
        number(link.in_flight),
        number(link.acknowledged),
        number(link.repeated),
        plural(link.connects, "connect")
    );
    for (count, what) in [(link.ack_timeouts, "ack timeout"), (link.unsolicited_acks, "unsolicited ack")] {
        if count > 0 {
            let _ = write!(counts, ", {}", plural(count, what));
        }
    }
    for (reason, count) in &link.refusals {
        let _ = write!(counts, ", {} refused ({})", number(*count), clean(reason));
    }
    counts
}

/// What batches and their compression saved.
fn sent(link: &LinkStatus) -> String {
    let sent = format!("{} records in {}", number(link.sent_records), plural(link.sent_messages, "message"));
    match link.plain_bytes > link.sent_bytes {
        true => format!("{sent}, {} compressed to {}", bytes(link.plain_bytes), bytes(link.sent_bytes)),
        false => sent,
    }
}

fn server(page: &Page, server: &ServerStatus) -> String {
    let name = clean(&server.server);
    let since = page.since(server.since_ms);
    let state = match server.state {
        ServerState::Untried => return format!("{name} not tried yet"),
        ServerState::Connecting => format!("connecting for {since}"),
        ServerState::Connected => format!("connected for {since}"),
        ServerState::Failed => format!("failed {since} ago"),
        ServerState::Left => format!("left {since} ago, it was well"),
    };
    let counts = format!("{}, {}", plural(server.connects, "connect"), plural(server.failures, "failure"));
    match &server.last_error {
        Some(error) if server.state != ServerState::Connected => format!("{name} {state}, {counts}: {error}"),
        _ => format!("{name} {state}, {counts}"),
    }
}
