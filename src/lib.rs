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
//! | 1 | [`frame`] · [`inflight`] · [`backoff`] · [`budget`] · [`congestion`] · [`pace`] · [`outage`] · [`threshold`] · [`homeassistant`] · [`sparkplug`] · [`disk`] | pure state machines: no I/O, no clock of their own; and the file system as a trait |
//! | 0 | [`record`] · [`command`] · [`inbound`] · [`network`] · [`outcome`] · [`stats`] · [`pulse`] · [`logline`] · [`config`] · [`roster`] | the vocabulary |
//!
//! What is held in memory at the most, whatever the backlog (each number stands where its buffer is):
//!
//! | buffer | limit |
//! |---|---|
//! | for each serial port: bytes, a frame, what was written last | 4 + 4 + 4 KiB ([`device`], [`frame`]) |
//! | the application's log: a line of the journal, a batch | 512 + 64 KiB ([`app`], [`logs`]) |
//! | local clients: 128 connections; 2 large bodies; the records of one of those; 8 longer ones that are taken in while they come | 25 KiB each; 1 MiB each; 10,000 records, 3 MiB; 128 KiB each, and 8 MiB in all (or one of them) where their lines are longer ([`api`]) |
//! | for each stream: records that are not on flash yet, entries on their way to flash and to the runtime tier, a segment that is read | 256 (or one submission) + 128 + 16 + 32 KiB ([`spool`]) |
//! | for each stream, in the kernel: cache of the file that is written and of the one that is read; the runtime tier's files, on a tmpfs | 128 + 128 KiB and what is not on flash yet; 576 KiB ([`spool`]) |
//! | records with the publisher, of all streams | 256 KiB ([`spool::thread::CREDIT`]) |
//! | for each connection to a broker: packets out and in; for batches the compressor | 64 + 8 KiB, or a message ([`mqtt`]); 320 KiB ([`publish`]) |
//! | commands that are remembered; messages for the application | 4 MiB of 8,192 commands ([`dispatch`]); 256 KiB ([`inbox`]) |
//!
//! With three streams and four ports all of that at once would be 5 MiB, 4 MiB more for who gives thousands of commands, and 9 MiB
//! more when local clients take all of their places. Seen were 0.7 MiB at rest and 1.4 MiB while a backlog is drained, beside
//! the 4 MiB of the program and 1.5 MiB of libraries that other processes have as well (`benches/README.md`).
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
pub mod outage;
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
