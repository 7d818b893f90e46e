//! The serial source against real pseudo terminals: what arrives, what happens when the device goes, and what is said
//! about it.
#![cfg(test)]
// clippy.toml exempts test functions; this exempts what they share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod framings;
mod lines;
mod port;
mod rig;
