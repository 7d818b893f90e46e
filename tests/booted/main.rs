//! pillion as a service beside an application, on a booted system with a real systemd: units, sandbox, journal, life and death.
//!
//! Each test boots a container of its own (`container`) and installs pillion there as README says (`gateway`). Where none can
//! be booted they say so and pass; `tests/run` names what was skipped.
#![cfg(test)]
// This needs but a part of the rig.
#![allow(dead_code)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/deb.rs"]
mod deb;

mod access;
mod companion;
mod container;
mod credentials;
mod gateway;
mod heartbeat;
mod logs;
mod managed;
mod package;
mod readme;
mod reload;
mod reports;
mod sandbox;
mod socket;
