//! The rig: real parts around the real binary, for the end-to-end tests.
//!
//! ```text
//! Device (PTY) ──> Sidecar (the pillion binary) ──> Relay ──> Mosquitto ──> Subscriber
//!                                              └──> FakeBroker
//! ```
//!
//! Constraints: every part owns its processes, threads and files and takes them along when it is dropped, also in a
//! failing test. Ports are the kernel's choice on loopback addresses of our own, so that tests run beside others.
//! Whoever waits, waits for an event and with a limit; what was seen so far is in the message of the failure.

pub mod authority;
pub mod device;
pub mod disk;
pub mod fake_broker;
pub mod http;
pub mod listener;
pub mod mosquitto;
pub mod mqtt5;
pub mod netns;
pub mod operator;
pub mod relay;
pub mod sidecar;
pub mod subscriber;
pub mod systemd;
pub mod watched;
pub mod wire;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How long anything that takes no work may take, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(60);

/// How long the long way of many thousand records may take there.
pub const LONG: Duration = Duration::from_secs(300);

/// A loopback address that no other process and no other part of this test uses. A port that was free on it stays
/// free: the local ports of clients are on 127.0.0.1.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    // The second byte is never 0, and the third and fourth make the part: process ids repeat after 16,384 at the least.
    let id = std::process::id();
    let part = NEXT.fetch_add(1, Ordering::Relaxed);
    let [low, high] = [id & 0xff, (id >> 8 & 0x3f) | 0x40].map(|byte| u8::try_from(byte).unwrap());
    Ipv4Addr::new(127, high, low, part.clamp(1, 254))
}

/// The seed of a random test: from PILLION_TEST_SEED to repeat a run, else a new one. It is printed, and so shown when
/// the test fails.
pub fn seed() -> u64 {
    let given = std::env::var("PILLION_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("repeat with PILLION_TEST_SEED={seed}");
    seed
}
