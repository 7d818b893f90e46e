//! The local API over a real socket, and the commands that use it as real processes, with fake flows behind it.
#![cfg(test)]
// clippy.toml allows these in tests, but does not see that the functions between them belong to tests.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod commands;
mod publish;
mod server;
mod sidecar;
mod uploads;
