//! The local API: HTTP/1.1 on a Unix socket, for the application beside us, for `pillion status`, for curl.
//!
//! Constraints: nobody outside of the socket's owner and group gets in (mode 0660); every request is bounded in size
//! and time, whatever the client does; no client disturbs another; the flows behind are only reached through
//! bounded channels. Every error is JSON, `{"error":"…"}`.
//!
//! ```text
//! GET  /v1/health    200 healthy, 503 not: {"state":…,"reasons":[…]}
//! GET  /v1/status    200: the status document (see `stats`)
//! GET  /metrics      200: the numbers of that document as OpenMetrics text
//! GET  /v1/environment   200: the sidecar's place and its machine (see `environment`)
//! POST /v1/publish?topic=T[&stream=S][&sync=true]
//!                    body: one record, or application/x-ndjson: one JSON value per line, empty lines skipped, as many as you like
//!                    200 {"accepted":n,"first":seq,"last":seq} once all of it would survive a kill of the process
//!                        (with sync=true: a power cut); goes to the topic app/T below the prefix
//!                    400 wrong topic, stream, parameter or body   408 the body took too long   413 too large
//!                    429 the stream is full   507 the disk did not take it   503 stopping or stuck, with Retry-After
//! GET  /v1/openapi.json   200: the description of all this for programs
//! POST /v1/reload    the configuration is read again and what has changed is applied (see `reload`)
//!                    200 done, or nothing has changed   409 it needs a restart   422 it is wrong; the old one stays
//! POST /v1/heartbeat 204: the application is alive; see app.heartbeat_timeout
//! POST /v1/logs      body: lines of the application's log, 4000 at the most, as JSON or with text/plain as text (see `logs`)
//!                    200 {"accepted":n,"shipped":n,"below_level":n,"suppressed":n} once what is shipped would survive a kill
//! GET  /v1/services  200: the broker, devices, streams, the application, and other gateways of the site (see `services`)
//! GET  /v1/devices   200: every device by name, as in the status document
//! GET  /v1/devices/{name}/trace   200: the last bytes that passed its port
//! POST /v1/devices/{name}/command[?wait=30s]
//!                    body: a command (see `command`), 16 KiB at the most; the answer is a reply, the last one if it comes
//!                        within `wait` (10ms to 40s)
//!                    200 done   202 still under way   404 no such device   410 too late   422 refused   502 failed
//! GET  /v1/commands[?after=ID]
//!                    200, and a line for each message on app/set/# below the prefix (see `messages`), as they come; with
//!                        `after` also those that are kept and came after that one (0: all)   404 they are not kept
//! GET  /v1/config[?wait=10s|?watch=true]
//! GET  /v1/config/{key}[?wait=10s]
//!                    200: all keys of the configuration or one, with their values (see `settings`); with `wait` (up to 40s)
//!                        when the broker has sent what is new; with `watch` lines of what changes   404 they are not kept
//! PUT  /v1/config/{key}/reported
//!                    body: what the application has made of it, 16 KiB at the most; goes to config-reported/KEY below the
//!                        prefix, where the broker keeps it   200 as for a record
//! ```
//!
//! A request is accepted as a whole or not at all, but for lines of more than 1 MiB or 10,000 records, or that come in chunks for
//! longer than a second: these are taken in while they come, and every answer to them, whatever its status, also says how many
//! were accepted: `{"error":"…","accepted":n,"first":seq,"last":seq}`, which are the first n of the body. Only after a 503 that
//! says so is the fate of the ones behind unknown.
//!
//! [`socket`] is the file, [`access`] who may use it, `server` the connections, `crowd` how many, `phase` how long they may last,
//! `counts` what is counted, `routes` the table above, `call` what a
//! handler is given, `query` its parameters, `answer` what goes back, `lines` an answer without an end. The handlers:
//!
//! - `publish` takes records in; `records` says which are good, `upload` takes bodies of any length
//! - `logs` takes in lines of the application's log
//! - `command` has something done
//! - `reload` has the configuration read again
//! - `heartbeat` takes note that the application is alive
//! - `messages` hands on what the broker has for the application
//! - `settings` is the application's configuration
//! - `services` says who is there
//! - `views` only look, with `metrics` as the status in numbers
//! - `environment` is the machine

pub mod access;
mod answer;
mod call;
mod command;
mod counts;
mod crowd;
pub mod environment;
#[doc(hidden)]
pub mod fuzz;
mod heartbeat;
mod lines;
mod logs;
mod messages;
mod metrics;
mod phase;
mod publish;
mod query;
mod records;
mod reload;
mod routes;
mod server;
mod services;
mod settings;
pub mod socket;
mod upload;
mod views;

pub use server::serve;

use crate::command::Request;
use crate::inbound::{Inbox, Neighbour, SettingsStore};
use crate::logline::Posted;
use crate::record::{Clock, StreamId, Submission};
use crate::roster::Roster;
use crate::stats::{ApiStatus, ReloadRequest, StatusRequest};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What a reload may change.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The streams that take records in.
    pub streams: Vec<(String, StreamId)>,
    /// Who may use the socket.
    pub access: access::Access,
}

/// What the server needs of the rest.
#[derive(Debug, Clone)]
pub struct Api {
    /// Into the ingest flow.
    pub submissions: mpsc::Sender<Submission>,
    /// Records that were refused here, for the ledger: the stream and how many.
    pub refused: mpsc::Sender<(StreamId, u64)>,
    /// Into the health flow.
    pub status: mpsc::Sender<StatusRequest>,
    /// Into the flow that accompanies the application: when the latest heartbeat came.
    pub beats: watch::Sender<Option<Instant>>,
    /// Into the dispatch flow.
    pub commands: mpsc::Sender<Request>,
    /// Into the logs flow.
    pub logs: mpsc::Sender<Posted>,
    /// The devices that there are.
    pub roster: watch::Receiver<Roster>,
    /// Has the configuration read again.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// Messages for the application; `None`: they are not kept.
    pub inbox: Option<Inbox>,
    /// The application's configuration; `None`: it is not kept.
    pub settings: Option<SettingsStore>,
    /// Other gateways; `None`: they are not looked for.
    pub neighbours: Option<watch::Receiver<BTreeMap<String, Neighbour>>>,
    /// The largest message in bytes, envelope included (`mqtt.max_payload`).
    pub max_payload: usize,
    /// The longest `topic` of a publish request in bytes, without prefix and `app/`.
    pub max_topic: usize,
    /// Where time stamps come from.
    pub clock: Clock,
    /// What a reload may change.
    pub rules: watch::Receiver<Rules>,
    /// Where it is shown what was asked.
    pub counts: watch::Sender<ApiStatus>,
    /// Where we are.
    pub environment: environment::Environment,
}
