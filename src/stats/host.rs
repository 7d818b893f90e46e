//! The machine in the status document: what it is (`Facts`, of `GET /v1/environment` only) and how it is doing
//! (`HostStatus`, of the status and the health document as well).
//!
//! Constraint: everything that a kernel may not tell is optional or a map; what is unknown is absent, never 0.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// A decimal number with two places, such as a load, a percentage or a temperature: exact, and comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Hundredths(pub i64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, size) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        match (size / 100, size % 100) {
            (whole, 0) => write!(f, "{sign}{whole}"),
            (whole, part) if part % 10 == 0 => write!(f, "{sign}{whole}.{}", part / 10),
            (whole, part) => write!(f, "{sign}{whole}.{part:02}"),
        }
    }
}

impl Serialize for Hundredths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 100 {
            0 => serializer.serialize_i64(self.0 / 100),
            // The nearest double of the decimal, which is printed as that decimal.
            _ => serializer.serialize_f64(self.to_string().parse().unwrap_or_default()),
        }
    }
}

impl<'de> Deserialize<'de> for Hundredths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        // A float that is too large saturates, and one that is none is 0 (the Reference, "Numeric cast").
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        Ok(Hundredths((number * 100.0).round() as i64))
    }
}

/// How the machine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostStatus {
    /// Host name.
    pub name: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Resident memory of the sidecar itself in bytes.
    pub rss_bytes: u64,
    /// Seconds since the machine booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    /// Whether the clock is set by a time server.
    #[serde(default)]
    pub clock: ClockSync,
    /// What sets it, as far as its traces show: `systemd-timesyncd`, `chrony`, `ntpd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_service: Option<String>,
    /// Processes that run or want to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Memory of the whole machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Stalls for want of `cpu`, `memory` or `io`, if the kernel counts them (PSI).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pressure: BTreeMap<String, Pressure>,
    /// The file system of `state_dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskSpace>,
    /// Sensors by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub temperatures: BTreeMap<String, Temperature>,
    /// The power supply, if the firmware watches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
    /// eMMC chips by the name of their block device.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flash: BTreeMap<String, FlashWear>,
    /// Network interfaces that are hardware or have an address, without the loopback.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub network: BTreeMap<String, Interface>,
}

/// Whether the clock is set by a time server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockSync {
    /// The time service says so.
    Synced,
    /// The time service says that it has not been set since boot, or it shows a time before this program was made.
    Unsynced,
    /// Nothing tells.
    #[default]
    Unknown,
}

/// Load averages (proc(5), `/proc/loadavg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Over one minute.
    pub avg1: Hundredths,
    /// Over five minutes.
    pub avg5: Hundredths,
    /// Over fifteen minutes.
    pub avg15: Hundredths,
}

/// Memory in bytes (proc(5), `/proc/meminfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// All that the kernel has.
    pub total_bytes: u64,
    /// What programs can get without swapping, as the kernel estimates.
    pub available_bytes: u64,
    /// All swap space; 0: there is none.
    pub swap_total_bytes: u64,
    /// Swap space that is free.
    pub swap_free_bytes: u64,
}

/// Stalls for want of one thing (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks that had something to do waited; not of `cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<Stall>,
}

/// Per cent of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stall {
    /// Over ten seconds.
    pub avg10: Hundredths,
    /// Over one minute.
    pub avg60: Hundredths,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskSpace {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// What an unprivileged process can still write.
    pub free_bytes: u64,
    /// Files that it can have, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// Files that can still be made, if there is a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes_free: Option<u64>,
}

/// A temperature sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Temperature {
    /// Degrees Celsius.
    pub celsius: Hundredths,
    /// Where the kernel shuts the machine down or the chip's maker draws the line, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical_celsius: Option<Hundredths>,
}

/// The power supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Power {
    /// The voltage is too low now.
    pub undervoltage: bool,
    /// The processor is slowed down now, for its voltage or temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<bool>,
    /// The voltage was too low at some time since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undervoltage_since_boot: Option<bool>,
    /// The processor was slowed down at some time since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_since_boot: Option<bool>,
}

/// How worn an eMMC chip is (JESD84-B50, EXT_CSD 267 to 269).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlashWear {
    /// Per cent of its life that are used up, in steps of ten, of its worse part; more than 100: it has outlived it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_used_percent: Option<u64>,
    /// What is left of its spare blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_blocks: Option<SpareBlocks>,
}

/// `PRE_EOL_INFO` of an eMMC chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpareBlocks {
    /// Less than 80 % are used.
    Normal,
    /// 80 % are used.
    Warning,
    /// 90 % are used.
    Urgent,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// RFC 2863: `up`, `down`, `dormant` and so on; `unknown` is normal for tunnels and modems.
    pub state: String,
    /// Its addresses, without IPv6 ones of the link alone.
    pub addresses: Vec<IpAddr>,
}

/// What the machine is: this does not change while pillion runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// The board or computer, from the device tree or DMI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its serial number, where the device tree has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The operating system, as os-release(5) says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<Os>,
    /// Release of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Architecture of the kernel, as uname(1) says.
    pub architecture: String,
    /// Processors that are online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    /// What pillion is contained in: `docker`, `podman`, `systemd-nspawn` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Os {
    /// `PRETTY_NAME`
    pub name: String,
    /// `ID`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `VERSION_ID`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_older_sidecars_host_is_never_refused() {
        let host: HostStatus = serde_json::from_str(r#"{"name":"a","boot_id":"b","rss_bytes":1}"#).unwrap();
        assert_eq!(host, HostStatus { name: "a".into(), boot_id: "b".into(), rss_bytes: 1, ..HostStatus::default() });
        let text = serde_json::to_string(&host).unwrap();
        assert_eq!(text, r#"{"name":"a","boot_id":"b","rss_bytes":1,"clock":"unknown"}"#);
    }

    #[test]
    fn numbers_never_show_more_places_than_they_have() {
        for (hundredths, text) in [(0, "0"), (1, "0.01"), (-5, "-0.05"), (4850, "48.5"), (-2000, "-20"), (123, "1.23")]
        {
            assert_eq!(Hundredths(hundredths).to_string(), text);
            assert_eq!(serde_json::to_string(&Hundredths(hundredths)).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn a_number_never_changes_on_its_way(hundredths in -1_000_000_000_000_i64..1_000_000_000_000) {
            let text = serde_json::to_string(&Hundredths(hundredths)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Hundredths>(&text).unwrap(), Hundredths(hundredths));
        }
    }
}
