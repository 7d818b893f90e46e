//! The status as OpenMetrics text, for Prometheus and its like: `GET /metrics`.
//!
//! Constraints: pure, from the same snapshot as `/v1/status`, and every number of that is here. Names follow the status
//! document: `streams.NAME.evicted` is `pillion_stream_evicted_total{stream="NAME"}`. What the status says in words
//! (reasons, errors) is no label, or each new sentence would be a new time series; there is a 0 or 1 for it. No label is
//! called `instance` or `job`: these belong to whoever scrapes.
//!
//! The format, line by line (<https://prometheus.io/docs/specs/om/open_metrics_spec/>):
//!
//! ```text
//! # TYPE pillion_device_bytes counter            a family, its type
//! # UNIT pillion_device_bytes bytes              its unit, which is also the end of its name
//! # HELP pillion_device_bytes Bytes received.
//! pillion_device_bytes_total{device="meter",kind="serial"} 42       one line for each device
//! # EOF                                          the end; without it the text was cut off
//! ```
//!
//! `family` says what a family is, `text` writes it; each part of the status has its families, and their rows, in a file.

mod app;
mod clients;
mod commands;
mod configuration;
mod devices;
mod family;
mod general;
mod host;
mod inbound;
mod link;
mod logs;
mod streams;
#[cfg(test)]
mod tests;
mod text;

use crate::stats::Status;
use text::Text;

/// The content type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole status as OpenMetrics text.
pub(super) fn render(status: &Status) -> String {
    let mut text = Text::new();
    general::write(&mut text, status);
    configuration::write(&mut text, status.configuration.as_ref());
    link::write(&mut text, &status.link);
    streams::write(&mut text, status);
    devices::write(&mut text, status);
    commands::write(&mut text, status.commands.as_ref());
    app::write(&mut text, status.app.as_ref());
    logs::write(&mut text, status.logs.as_ref());
    host::write(&mut text, &status.host);
    inbound::write(&mut text, status);
    clients::write(&mut text, status.api.as_ref());
    text.end()
}
