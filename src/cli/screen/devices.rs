//! The table of devices: each with its state, what came from it, and what of it was skipped.

use super::page::{Cell, Colour, Page, counted, in_columns};
use crate::cli::quantity::bytes;
use crate::stats::{DeviceState, DeviceStatus, Status};

/// The heads of the table, and the width of each column.
const COLUMNS: [(&str, usize); 7] =
    [("state", 8), ("for", 9), ("frames", 14), ("received", 11), ("opens", 8), ("skipped", 10), ("not text", 10)];

pub(super) fn draw(page: &mut Page, status: &Status) {
    if status.devices.is_empty() {
        return;
    }
    page.table_head("device", &COLUMNS);
    for (name, device) in &status.devices {
        page.row_name(name);
        row(page, device);
    }
}

fn row(page: &mut Page, device: &DeviceStatus) {
    let (word, colour) = match device.state {
        DeviceState::Online => (" online", Colour::Good),
        DeviceState::Offline => ("offline", Colour::Bad),
    };
    let reasons = [
        (device.oversize, "too long"),
        (device.empty, "empty"),
        (device.incomplete, "cut off"),
        (device.damaged, "damaged"),
    ];
    let skipped = reasons.iter().fold(0_u64, |sum, (count, _)| sum.saturating_add(*count));
    let cells = [
        Cell::Text(page.since(device.since_ms)),
        Cell::Number(device.frames),
        Cell::Text(bytes(device.bytes)),
        Cell::Number(device.opens),
        Cell::Number(skipped),
        Cell::Number(device.not_text),
    ];
    let [_state, numbers @ ..] = &COLUMNS;
    let line = format!(" {}{}", page.paint(word, colour), in_columns(cells, numbers));
    page.line(&line);
    if let Some(reason) = &device.reason {
        page.note("", reason, Colour::Bad);
    }
    if skipped > 0 {
        page.note("skipped: ", &counted(&reasons), Colour::Uncertain);
    }
}
