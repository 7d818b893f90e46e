//! End to end: the real binary as a child process, with a real PTY, a real broker and one that misbehaves.
//!
//! The tests under `with_mosquitto` need that broker from the distribution; `tests/run` installs it.
#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod backfill;
mod configurations;
mod environment;
mod frozen_disk;
mod local_clients;
mod metrics;
mod mqtt5;
mod openapi;
mod rig;
mod rude_broker;
mod start;
mod with_mosquitto;
