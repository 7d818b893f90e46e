//! pillion on an ARM machine: Debian's kernel for arm64 with its real GPIO character device, real USB, a real disk that loses
//! its power, all emulated by QEMU; and the package
//! that `cross/deb` makes of the binary that `cross/build` has made.
//!
//! All tests share one machine, one after the other (`machine`), and what a user would have installed on it (`gateway`); the
//! broker is on this side:
//!
//! ```text
//! test ── command ──> agent ┐
//!      ── QMP ──> power button, power cut      ┌ in the machine ┐
//!      ── socket ──> USB adapter ──> ttyUSB0 ──>    pillion     ──> 10.0.2.2 ── Relay ── Mosquitto ── Subscriber
//!      <── trace ── pl061 <──────── gpiochip0 <─┘               └
//! ```
//!
//! `image` makes the machine's disk, and `tests/run` calls it; without it these tests say that they were skipped and pass:
//!
//! ```text
//! cross/build && PILLION_MACHINE=$(tests/machine/image) cargo test --test machine
//! ```
#![cfg(test)]
// This needs but a part of the rig.
#![allow(dead_code)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/deb.rs"]
mod deb;

mod disk;
mod footprint;
mod gateway;
mod gpio;
mod machine;
mod memory;
mod package;
mod power;
mod serial;
