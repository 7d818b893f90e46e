//! What the hardware measures: temperatures, the power supply, the wear of eMMC chips.
//!
//! Sources: Documentation/driver-api/thermal/sysfs-api.rst, Documentation/hwmon/sysfs-interface.rst (both in thousandths of a
//! degree), Documentation/driver-api/mmc/mmc-dev-attrs.rst, and `get_throttled` of the Raspberry Pi's firmware.

use super::read;
use crate::stats::{FlashWear, Hundredths, Power, SpareBlocks, Temperature};
use std::collections::BTreeMap;
use std::path::Path;

/// Sensors that are shown; an industrial PC has some ten.
const MOST: usize = 16;
/// Trip points of a zone, and temperatures of a chip, that are looked at.
const POINTS: usize = 12;
/// What no sensor of a gateway measures, in thousandths of a degree: some say -273 °C or more when nothing is connected.
const BELIEVABLE: std::ops::RangeInclusive<i64> = -100_000..=250_000;

/// Bits of the Raspberry Pi's `get_throttled`.
const UNDERVOLTAGE: u32 = 1;
const CAPPED_OR_THROTTLED: u32 = 1 << 1 | 1 << 2 | 1 << 3;
/// The same, at some time since boot.
const SINCE_BOOT: u32 = 16;

/// Thermal zones by their type, and what chips have beyond them by chip and label.
pub(super) fn temperatures(root: &Path) -> BTreeMap<String, Temperature> {
    let mut found = BTreeMap::new();
    zones(root, &mut found);
    let zones: Vec<String> = found.keys().map(|name| plain(name)).collect();
    chips(root, &zones, &mut found);
    found
}

fn zones(root: &Path, found: &mut BTreeMap<String, Temperature>) {
    let folder = root.join("sys/class/thermal");
    for zone in read::names(&folder).into_iter().filter(|name| name.starts_with("thermal_zone")) {
        let zone = folder.join(zone);
        let Some(celsius) = degrees(&zone.join("temp")) else { continue };
        let is_critical =
            |point: &usize| read::line(&zone.join(format!("trip_point_{point}_type"))).as_deref() == Some("critical");
        let critical = (0..POINTS).find(is_critical).map(|point| zone.join(format!("trip_point_{point}_temp")));
        let critical_celsius = critical.and_then(|path| critical_degrees(&path));
        let name = read::line(&zone.join("type")).unwrap_or_else(|| "zone".to_owned());
        add(found, name, Temperature { celsius, critical_celsius });
    }
}

/// Chips that repeat a thermal zone are left out.
fn chips(root: &Path, zones: &[String], found: &mut BTreeMap<String, Temperature>) {
    let folder = root.join("sys/class/hwmon");
    for chip in read::names(&folder) {
        let chip = folder.join(chip);
        let Some(name) = read::line(&chip.join("name")) else { continue };
        if zones.contains(&plain(&name)) {
            continue;
        }
        for point in 1..=POINTS {
            let file = |what: &str| chip.join(format!("temp{point}_{what}"));
            let Some(celsius) = degrees(&file("input")) else { continue };
            let critical_celsius = critical_degrees(&file("crit"));
            let label = read::line(&file("label")).map_or_else(|| name.clone(), |label| format!("{name} {label}"));
            add(found, label, Temperature { celsius, critical_celsius });
        }
    }
}

/// Under this name, with a number if it is taken.
fn add(found: &mut BTreeMap<String, Temperature>, name: String, temperature: Temperature) {
    if found.len() >= MOST {
        return;
    }
    let mut names = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name} {number}")));
    if let Some(free) = names.find(|name| !found.contains_key(name)) {
        found.insert(free, temperature);
    }
}

/// The kernel makes a chip of each zone, and in its name `_` of `-`.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn degrees(path: &Path) -> Option<Hundredths> {
    let thousandths = read::number(path)?;
    BELIEVABLE.contains(&thousandths).then_some(Hundredths(thousandths / 10))
}

/// A limit of 0 °C or less is one that nobody has set.
fn critical_degrees(path: &Path) -> Option<Hundredths> {
    degrees(path).filter(|limit| limit.0 > 0)
}

/// The Raspberry Pi's firmware tells most; its hwmon chip the voltage alone.
pub(super) fn power(root: &Path) -> Option<Power> {
    let bits = read::line(&root.join("sys/devices/platform/soc/soc:firmware/get_throttled"));
    if let Some(bits) = bits.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()) {
        let then = bits >> SINCE_BOOT;
        return Some(Power {
            undervoltage: bits & UNDERVOLTAGE != 0,
            throttled: Some(bits & CAPPED_OR_THROTTLED != 0),
            undervoltage_since_boot: Some(then & UNDERVOLTAGE != 0),
            throttled_since_boot: Some(then & CAPPED_OR_THROTTLED != 0),
        });
    }
    let folder = root.join("sys/class/hwmon");
    let is_it = |chip: &String| read::line(&folder.join(chip).join("name")).as_deref() == Some("rpi_volt");
    let chip = read::names(&folder).into_iter().find(is_it)?;
    let alarm = read::number(&folder.join(chip).join("in0_lcrit_alarm"))?;
    Some(Power { undervoltage: alarm != 0, ..Power::default() })
}

/// SD cards don't tell.
pub(super) fn flash(root: &Path) -> BTreeMap<String, FlashWear> {
    let folder = root.join("sys/block");
    let is_chip = |name: &String| {
        let number = name.strip_prefix("mmcblk").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let wear = |name: String| {
        let device = folder.join(&name).join("device");
        let lives = read::line(&device.join("life_time")).unwrap_or_default();
        let used = lives.split_whitespace().filter_map(|life| hexadecimal(life).and_then(used_percent)).max();
        let spare_blocks = read::line(&device.join("pre_eol_info")).and_then(|text| match hexadecimal(&text)? {
            1 => Some(SpareBlocks::Normal),
            2 => Some(SpareBlocks::Warning),
            3 => Some(SpareBlocks::Urgent),
            _ => None,
        });
        (used.is_some() || spare_blocks.is_some())
            .then_some((name, FlashWear { life_used_percent: used, spare_blocks }))
    };
    read::names(&folder).into_iter().filter(is_chip).filter_map(wear).take(MOST).collect()
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// 1 means up to 10 %, 10 up to 100 %, 11 more than that; 0 that the chip doesn't tell.
fn used_percent(estimate: u64) -> Option<u64> {
    (1..=11).contains(&estimate).then_some(estimate * 10)
}
