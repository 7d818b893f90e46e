//! What the machine is: model, operating system, kernel. None of it changes while pillion runs.

use super::read;
use crate::stats::{Facts, Os};
use std::path::Path;

/// What vendors leave in DMI when they have not filled it in.
const PLACEHOLDERS: [&str; 6] =
    ["To be filled by O.E.M.", "Default string", "System Product Name", "System manufacturer", "Not Specified", "None"];

/// Everything that the machine says of itself below `root`.
pub fn facts(root: &Path) -> Facts {
    let kernel = root.join("proc/sys/kernel");
    Facts {
        model: model(root),
        serial: read::line(&root.join("proc/device-tree/serial-number")),
        os: os(root),
        kernel: read::line(&kernel.join("osrelease")),
        // Since Linux 6.1; before it, what pillion was built for is the best guess.
        architecture: read::line(&kernel.join("arch")).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cpus: read::line(&root.join("sys/devices/system/cpu/online")).and_then(|list| count(&list)),
        container: container(root),
    }
}

fn model(root: &Path) -> Option<String> {
    let dmi = |name: &str| {
        let text = read::line(&root.join("sys/class/dmi/id").join(name))?;
        (!PLACEHOLDERS.iter().any(|placeholder| placeholder.eq_ignore_ascii_case(&text))).then_some(text)
    };
    // With its maker, unless it says that by itself.
    let made = |vendor: &str, name: &str| {
        let name = dmi(name)?;
        let vendor = dmi(vendor).filter(|vendor| !name.starts_with(vendor.as_str()));
        Some(vendor.map_or_else(|| name.clone(), |vendor| format!("{vendor} {name}")))
    };
    let from_tree = read::line(&root.join("proc/device-tree/model"));
    from_tree.or_else(|| made("sys_vendor", "product_name")).or_else(|| made("board_vendor", "board_name"))
}

/// os-release(5)
fn os(root: &Path) -> Option<Os> {
    let file = |path: &str| read::content(&root.join(path));
    let text = file("etc/os-release").or_else(|| file("usr/lib/os-release"))?;
    let value = |key: &str| {
        let raw = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?.trim();
        let bare = ['"', '\''].iter().find_map(|quote| raw.strip_prefix(*quote)?.strip_suffix(*quote));
        read::text(bare.unwrap_or(raw))
    };
    let name = value("PRETTY_NAME").or_else(|| value("NAME"))?;
    Some(Os { name, id: value("ID"), version: value("VERSION_ID") })
}

/// How many numbers a list such as `0-3,5` has.
fn count(list: &str) -> Option<u64> {
    list.split(',').try_fold(0_u64, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The traces that container engines leave (systemd.io/CONTAINER_INTERFACE; podman and docker their own).
fn container(root: &Path) -> Option<String> {
    let engine = |path: &str, name: &str| root.join(path).exists().then(|| name.to_owned());
    let systemd = read::line(&root.join("run/systemd/container"));
    systemd.or_else(|| engine("run/.containerenv", "podman")).or_else(|| engine(".dockerenv", "docker"))
}
