//! The table of streams: each with its ledger, and what was lost or is held back.

use super::page::{Cell, Colour, Page, counted, in_columns};
use crate::cli::quantity::{bytes, duration};
use crate::stats::{Status, StreamStatus};

/// The heads of the table, and the width of each column.
const COLUMNS: [(&str, usize); 7] =
    [("accepted", 12), ("delivered", 12), ("waiting", 10), ("lost", 9), ("refused", 9), ("on disk", 10), ("oldest", 8)];

pub(super) fn draw(page: &mut Page, status: &Status) {
    page.table_head("stream", &COLUMNS);
    for (name, stream) in &status.streams {
        page.row_name(name);
        row(page, stream);
        if let Some(why) = status.link.held.get(name) {
            page.note("waits: ", why, Colour::Uncertain);
        }
    }
}

fn row(page: &mut Page, stream: &StreamStatus) {
    let lost = stream.evicted.saturating_add(stream.expired).saturating_add(stream.quarantined);
    let oldest = stream.oldest_s.map_or_else(|| "-".to_owned(), duration);
    let counts = [stream.accepted, stream.delivered, stream.waiting, lost, stream.refused];
    let counts = counts.into_iter().map(Cell::Number);
    let cells = counts.chain([Cell::Text(bytes(stream.bytes)), Cell::Text(oldest)]);
    page.line(&in_columns(cells, &COLUMNS));
    if lost > 0 {
        let parts = counted(&[
            (stream.evicted, "because the stream was full"),
            (stream.expired, "too old"),
            (stream.quarantined, "damaged or not deliverable"),
        ]);
        page.note("lost: ", &parts, Colour::Bad);
    }
    if stream.retired {
        page.note("goes out: ", "no longer configured, and gone when nothing waits", Colour::Uncertain);
    }
    if let Some(error) = &stream.disk_error {
        page.note("in memory only: ", error, Colour::Bad);
    }
    if let Some(error) = &stream.runtime_error {
        page.note("not safe from a kill: ", error, Colour::Bad);
    }
}
