//! What the application uses of the machine: from its control group and from /proc.
//!
//! Constraints: a look costs a few small reads and nothing is kept. What is not there is not known: control groups of
//! version 1, controllers that are off, kernels without `memory.peak` (before 5.19), descriptors of a process of another
//! user (before 6.2, and in a unit with `ProtectProc=`).

use crate::stats::AppUsage;
use std::fs;
use std::path::{Path, PathBuf};

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// The root of the control groups of version 2.
    pub groups: PathBuf,
    /// proc(5)
    pub proc: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        // systemd mounts it here, and there where version 1 is in use as well.
        let hybrid = Path::new("/sys/fs/cgroup/unified");
        let groups = if hybrid.is_dir() { hybrid } else { Path::new("/sys/fs/cgroup") };
        Places { groups: groups.to_owned(), proc: "/proc".into() }
    }
}

/// Looks at a control group and its main process.
pub fn look(places: &Places, control_group: Option<&str>, pid: Option<i32>) -> AppUsage {
    let group = control_group.map(|group| places.groups.join(group.trim_start_matches('/')));
    let number = |file: &str| read(group.as_deref()?.join(file)).trim().parse::<u64>().ok();
    let cpu_us = || {
        let stat = read(group.as_deref()?.join("cpu.stat"));
        stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse::<u64>().ok()
    };
    AppUsage {
        cpu_ns: cpu_us().and_then(|cpu| cpu.checked_mul(1000)),
        memory_bytes: number("memory.current"),
        memory_peak: number("memory.peak"),
        // `max` where there is none.
        memory_limit: number("memory.max"),
        tasks: number("pids.current"),
        descriptors: pid.and_then(|pid| descriptors(&places.proc.join(format!("{pid}/fd")))),
    }
}

/// The kernel tells how many there are to everyone (6.2 and later), and which to those who may trace the process.
fn descriptors(folder: &Path) -> Option<u64> {
    let told = fs::metadata(folder).ok()?.len();
    if told > 0 {
        return Some(told);
    }
    u64::try_from(fs::read_dir(folder).ok()?.count()).ok()
}

/// A small file of the kernel's; empty where it can't be read.
fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { groups: dir.path().join("cgroup"), proc: dir.path().join("proc") };
        let group = places.groups.join("system.slice/gw.service");
        fs::create_dir_all(&group).unwrap();
        assert_eq!(look(&places, Some("/system.slice/gw.service"), Some(7)), AppUsage::default());
        fs::write(group.join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\n").unwrap();
        fs::write(group.join("memory.current"), "4096\n").unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(group.join("pids.current"), "").unwrap();
        let usage = look(&places, Some("/system.slice/gw.service"), None);
        let right = AppUsage { cpu_ns: Some(1_500_000), memory_bytes: Some(4096), ..AppUsage::default() };
        assert_eq!(usage, right);
        assert_eq!(look(&places, None, None), AppUsage::default());
    }

    #[test]
    fn the_descriptors_of_a_real_process_are_never_miscounted() {
        let id = i32::try_from(std::process::id()).unwrap();
        let before = look(&Places::default(), None, Some(id)).descriptors.unwrap();
        // Other tests open files meanwhile: far more than they do.
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = look(&Places::default(), None, Some(id)).descriptors.unwrap();
        assert!(after >= before.saturating_sub(50) + 200, "{before}, {after}, {}", files.len());
    }
}
