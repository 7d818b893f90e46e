//! The machine: its name, its boot, its clock, what we cost it; what it is and how it is doing.
//!
//! Constraint: everything here may be missing (a container, a strange kernel); then there is a plain substitute or nothing, and
//! no error.
//!
//! `facts` has what doesn't change, `state` what does, with `sensors` and `network`; they find all of it below a root folder that
//! is theirs in the tests, and read through `read`, which bounds everything.

mod facts;
pub mod netlink;
mod network;
mod read;
mod sensors;
mod state;
#[cfg(test)]
mod tests;

pub use facts::facts;
pub use network::{Addresses, is_ours};
pub use state::Sources;

use crate::record::{ClockQuality, Timestamp};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// 2026-01-01 UTC in milliseconds: no gateway that runs this program lives before it, so an earlier clock is wrong.
const EARLIEST_TRUE_MS: u64 = 1_767_225_600_000;

/// The host's name (proc(5), `/proc/sys/kernel/hostname`), or `localhost`.
pub fn name() -> String {
    line_of("/proc/sys/kernel/hostname").unwrap_or_else(|| "localhost".to_owned())
}

/// The kernel's id of this boot (random(4), `/proc/sys/kernel/random/boot_id`), or an empty string.
pub fn boot_id() -> String {
    line_of("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// The boot id as bytes, or zeros.
pub fn boot_id_bytes() -> [u8; 16] {
    let digits: Vec<u8> = boot_id().chars().filter_map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | digit);
    }
    id
}

/// Resident memory of this process in bytes (proc(5), `VmRSS` of `/proc/self/status`), or 0.
pub fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The time now.
pub fn now() -> Timestamp {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let mono_ms = seconds.saturating_mul(1000).saturating_add(u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000);
    let quality = if wall_ms < EARLIEST_TRUE_MS { ClockQuality::Unsynced } else { ClockQuality::Trusted };
    Timestamp { wall_ms, mono_ms, quality }
}

fn line_of(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
