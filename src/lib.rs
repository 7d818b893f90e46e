//! pillion: an edge sidecar for IoT gateways. This page is the map of the code.
//!
//! The way of the data:
//!
//! ```text
//! device ─ bytes ─> frame ─> record ─┐
//! application (HTTP, its log) ───────┼─> ingest ─> spool ─> publish ─> mqtt ─> broker
//! health, events ────────────────────┘                ^                 │
//!                                                     └──── trim <── PUBACK
//! broker ─> mqtt ─> listen ──┬─> inbox, settings ─> application (HTTP)
//! local client (HTTP) ───────┴─> dispatch ─> device ─> reply ─> ingest
//! ```
//!
//! Floors: a file imports strictly lower floors only, on floor 0 also what stands above it in the list below
//! (`tests/floors.rs` holds it to that).
//!
//! | floor | module | role |
//! |---|---|---|
//! | 5 | `main`, [`cli`] | arguments, exit codes, the client side of the socket, the demo |
//! | 4 | [`daemon`] | opens all, spawns, supervises, drains; the only one that sees the whole configuration |
//! | 4 | [`apply`] | another process: writes the managed files, as root |
//! | 3 | [`ingest`] · [`publish`] · [`listen`] · [`dispatch`] · [`inbox`] · [`settings`] · [`neighbours`] · [`logs`] · [`accompany`] · [`health`] | the flows; they never import each other and meet in bounded channels of floor-0 types |
//! | 2 | [`device`] · [`spool`] · [`mqtt`] · [`app`] · [`host`] · [`api`] | one room per thing in the world: devices, disk, broker, application, machine, local clients |
//! | 1 | [`frame`] · [`inflight`] · [`backoff`] · [`budget`] · [`congestion`] · [`pace`] · [`threshold`] · [`homeassistant`] · [`sparkplug`] · [`disk`] | pure state machines: no I/O, no clock of their own; and the file system as a trait |
//! | 0 | [`record`] · [`command`] · [`inbound`] · [`network`] · [`outcome`] · [`stats`] · [`pulse`] · [`logline`] · [`config`] · [`roster`] | the vocabulary |
//!
//! Where to go for a change: a new framing is a file in [`frame`]; a new kind of device a file in [`device`]; what is on
//! disk is described at the head of [`spool`]; what goes to the broker, and how a PUBACK finds its record, at the head of
//! [`publish`]; who may have which command carried out is in [`dispatch::contract`]; a new configuration key starts in [`config`]; a new field of the status in [`stats`].

// Floor 0
pub mod pulse;
pub mod record;
// Lines are refused as records are.
pub mod logline;
// A command's answer is encoded as a record is.
pub mod command;
pub mod inbound;
pub mod network;
pub mod outcome;
pub mod stats;
// The configuration speaks of payloads, which are explained in `record`.
pub mod config;
// A device's commands are as they are configured.
pub mod roster;
// Floor 1
pub mod backoff;
pub mod budget;
pub mod congestion;
pub mod disk;
pub mod frame;
pub mod homeassistant;
pub mod inflight;
pub mod pace;
pub mod sparkplug;
pub mod threshold;
// Floor 2
pub mod api;
pub mod app;
pub mod device;
pub mod host;
pub mod mqtt;
pub mod spool;
// Floor 3
pub mod accompany;
pub mod dispatch;
pub mod health;
pub mod inbox;
pub mod ingest;
pub mod listen;
pub mod logs;
pub mod neighbours;
pub mod publish;
pub mod settings;
// Floor 4
pub mod apply;
pub mod daemon;
// Floor 5
pub mod cli;
