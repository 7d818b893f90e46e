//! How the machine is doing: load, memory, pressure, disk, clock. `sensors` has what is measured, `network` the interfaces.

use super::{network, read, sensors};
use crate::record::ClockQuality;
use crate::stats::{ClockSync, DiskSpace, HostStatus, Hundredths, Load, Memory, Pressure, Stall};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What sets the clock, and the files that show that it runs.
const TIME_SERVICES: [(&str, &[&str]); 3] = [
    ("systemd-timesyncd", &["run/systemd/timesync"]),
    ("chrony", &["run/chrony/chronyd.pid", "run/chronyd.pid", "run/chrony"]),
    ("ntpd", &["run/ntpd.pid", "run/ntpsec", "run/ntp.pid"]),
];

/// Where the facts are.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The folder that `proc`, `sys`, `etc` and `run` are in: `/`, but in tests.
    pub root: PathBuf,
    /// The folder whose file system is looked at.
    pub state_dir: PathBuf,
    /// What the kernel says of addresses.
    pub addresses: network::Addresses,
}

impl Sources {
    /// This machine.
    pub fn of_this_machine(state_dir: PathBuf) -> Self {
        Sources { root: PathBuf::from("/"), state_dir, addresses: network::addresses }
    }

    /// Everything as it is now. Name, boot id and our own memory are left out: they aren't below `root`.
    ///
    /// It may take long: some sensors measure when they are asked, and a broken disk answers late or never.
    pub fn state(&self) -> HostStatus {
        let root = &self.root;
        let (clock, time_service) = clock(root);
        HostStatus {
            uptime_s: uptime(root),
            clock,
            time_service,
            load: load(root),
            memory: memory(root),
            pressure: pressure(root),
            disk: disk(&self.state_dir),
            temperatures: sensors::temperatures(root),
            power: sensors::power(root),
            flash: sensors::flash(root),
            network: network::interfaces(root, &(self.addresses)()),
            ..HostStatus::default()
        }
    }
}

fn uptime(root: &Path) -> Option<u64> {
    read::line(&root.join("proc/uptime"))?.split(['.', ' ']).next()?.parse().ok()
}

/// The file is systemd-timesyncd.service(8)'s promise. Others keep what they know to themselves, and adjtimex(2), which has
/// the kernel's opinion, is forbidden by `ProtectClock=` even for asking: then it is unknown.
fn clock(root: &Path) -> (ClockSync, Option<String>) {
    let runs = |(_, traces): &&(&str, &[&str])| traces.iter().any(|trace| root.join(trace).exists());
    let service = TIME_SERVICES.iter().find(runs).map(|(name, _)| *name);
    let set = root.join("run/systemd/timesync/synchronized").exists();
    let state = match service {
        _ if super::now().quality == ClockQuality::Unsynced => ClockSync::Unsynced,
        _ if set => ClockSync::Synced,
        Some("systemd-timesyncd") => ClockSync::Unsynced,
        _ => ClockSync::Unknown,
    };
    (state, service.map(str::to_owned))
}

fn load(root: &Path) -> Option<Load> {
    let line = read::line(&root.join("proc/loadavg"))?;
    let mut averages = line.split(' ').map(|number| read::hundredths(number).map(Hundredths));
    let mut next = || averages.next().flatten();
    Some(Load { avg1: next()?, avg5: next()?, avg15: next()? })
}

fn memory(root: &Path) -> Option<Memory> {
    let text = read::content(&root.join("proc/meminfo"))?;
    let bytes = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory {
        total_bytes: bytes("MemTotal")?,
        available_bytes: bytes("MemAvailable")?,
        swap_total_bytes: bytes("SwapTotal").unwrap_or(0),
        swap_free_bytes: bytes("SwapFree").unwrap_or(0),
    })
}

fn pressure(root: &Path) -> BTreeMap<String, Pressure> {
    let of = |name: &str| {
        let text = read::content(&root.join("proc/pressure").join(name))?;
        let stall = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
            let average = |key: &str| {
                let number = line.split(' ').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))?;
                read::hundredths(number).map(Hundredths)
            };
            Some(Stall { avg10: average("avg10")?, avg60: average("avg60")? })
        };
        // For the processor of a whole machine `full` is not defined; newer kernels say 0.
        let full = if name == "cpu" { None } else { stall("full") };
        Some((name.to_owned(), Pressure { some: stall("some")?, full }))
    };
    ["cpu", "memory", "io"].into_iter().filter_map(of).collect()
}

fn disk(folder: &Path) -> Option<DiskSpace> {
    let answer = rustix::fs::statvfs(folder).ok()?;
    // btrfs and others have no limit and say 0.
    let inodes = (answer.f_files > 0).then_some(answer.f_files);
    Some(DiskSpace {
        total_bytes: answer.f_blocks.saturating_mul(answer.f_frsize),
        free_bytes: answer.f_bavail.saturating_mul(answer.f_frsize),
        inodes,
        inodes_free: inodes.map(|_| answer.f_favail),
    })
}
