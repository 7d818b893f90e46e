//! The readers against made-up trees in the shape of real machines, and against anything at all.

use super::*;
use crate::stats::{
    ClockSync, DiskSpace, Facts, FlashWear, HostStatus, Hundredths, Interface, Load, Memory, Os, Power, Pressure,
    SpareBlocks, Stall, Temperature,
};
use proptest::prelude::*;
use std::net::IpAddr;
use std::path::Path;
use tempfile::TempDir;

const MEMINFO: &str = "\
MemTotal:        3884364 kB
MemFree:         2816700 kB
MemAvailable:    3389400 kB
Buffers:           37112 kB
SwapCached:            0 kB
SwapTotal:        102396 kB
SwapFree:         102000 kB
";
const IO_PRESSURE: &str = "\
some avg10=1.25 avg60=0.40 avg300=0.10 total=1234567
full avg10=1.00 avg60=0.30 avg300=0.08 total=1134567
";
const RASPBIAN: &str = "\
PRETTY_NAME=\"Raspbian GNU/Linux 12 (bookworm)\"
NAME=\"Raspbian GNU/Linux\"
VERSION_ID=\"12\"
ID=raspbian
ID_LIKE=debian
";

/// A Raspberry Pi 4 with Raspberry Pi OS: a device tree, one zone and its twin in hwmon, the firmware's word on the power
/// supply. (A Compute Module has eMMC, too.)
const RASPBERRY_PI: &[(&str, &str)] = &[
    ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
    ("proc/device-tree/serial-number", "10000000a1b2c3d4\0"),
    ("proc/sys/kernel/osrelease", "6.1.21-v8+\n"),
    ("proc/sys/kernel/arch", "aarch64\n"),
    ("proc/uptime", "93784.31 372110.04\n"),
    ("proc/loadavg", "0.52 0.40 1.31 2/171 12345\n"),
    ("proc/meminfo", MEMINFO),
    ("etc/os-release", RASPBIAN),
    ("run/systemd/timesync/synchronized", ""),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n"),
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48199\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "110000\n"),
    ("sys/class/hwmon/hwmon0/name", "cpu_thermal\n"),
    ("sys/class/hwmon/hwmon0/temp1_input", "48199\n"),
    ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
    ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n"),
    ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
    ("sys/block/mmcblk0/device/life_time", "0x02 0x03\n"),
    ("sys/block/mmcblk0/device/pre_eol_info", "0x01\n"),
    ("sys/block/mmcblk0boot0/device/life_time", "0x09 0x09\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/device/uevent", ""),
    ("sys/class/net/wlan0/operstate", "down\n"),
    ("sys/class/net/wlan0/device/uevent", ""),
    ("sys/class/net/lo/operstate", "unknown\n"),
];

/// An industrial PC: DMI with a lazy vendor, cores and board sensors in hwmon, a zone with trip points that are not critical,
/// PSI, a modem, chrony.
const INDUSTRIAL_PC: &[(&str, &str)] = &[
    ("sys/class/dmi/id/sys_vendor", "Default string\n"),
    ("sys/class/dmi/id/product_name", "To be filled by O.E.M.\n"),
    ("sys/class/dmi/id/board_vendor", "AAEON\n"),
    ("sys/class/dmi/id/board_name", "BOXER-6404\n"),
    ("proc/sys/kernel/osrelease", "5.10.0-28-amd64\n"),
    ("proc/loadavg", "12.00 4.05 0.9 2/171 12345\n"),
    (
        "proc/pressure/cpu",
        "some avg10=66.11 avg60=27.57 avg300=24.31 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ),
    ("proc/pressure/io", IO_PRESSURE),
    ("usr/lib/os-release", "NAME=Debian\nID=debian"),
    ("run/chrony/chronyd.pid", "712\n"),
    ("sys/devices/system/cpu/online", "0,2-3\n"),
    ("sys/class/thermal/thermal_zone0/type", "acpitz\n"),
    ("sys/class/thermal/thermal_zone0/temp", "27800\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "95000\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_1_type", "critical\n"),
    ("sys/class/thermal/thermal_zone0/trip_point_1_temp", "119000\n"),
    ("sys/class/thermal/thermal_zone1/type", "iwlwifi_1\n"),
    ("sys/class/hwmon/hwmon0/name", "acpitz\n"),
    ("sys/class/hwmon/hwmon0/temp1_input", "27800\n"),
    ("sys/class/hwmon/hwmon1/name", "coretemp\n"),
    ("sys/class/hwmon/hwmon1/temp1_input", "41000\n"),
    ("sys/class/hwmon/hwmon1/temp1_label", "Package id 0\n"),
    ("sys/class/hwmon/hwmon1/temp1_crit", "105000\n"),
    ("sys/class/hwmon/hwmon2/name", "nct6106\n"),
    ("sys/class/hwmon/hwmon2/temp1_input", "-12500\n"),
    ("sys/class/hwmon/hwmon2/temp2_input", "-273150\n"),
    ("sys/class/hwmon/hwmon3/name", "nct6106\n"),
    ("sys/class/hwmon/hwmon3/temp1_input", "30000\n"),
    ("sys/class/hwmon/hwmon3/temp1_crit", "0\n"),
    ("sys/class/net/ppp0/operstate", "unknown\n"),
    ("sys/class/net/veth1a2b3c/operstate", "up\n"),
];

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        write(root.path(), path, content.as_bytes());
    }
    root
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// What is read of it; the disk is that of the test's folder.
fn state(root: &TempDir, addresses: Addresses) -> HostStatus {
    Sources { root: root.path().into(), state_dir: root.path().into(), addresses }.state()
}

fn no_addresses() -> Vec<(String, IpAddr)> {
    Vec::new()
}

fn temperature(celsius: i64, critical: Option<i64>) -> Temperature {
    Temperature { celsius: Hundredths(celsius), critical_celsius: critical.map(Hundredths) }
}

#[test]
fn nothing_of_a_raspberry_pi_is_ever_misread() {
    let root = tree(RASPBERRY_PI);
    let told = facts(root.path());
    assert_eq!(told.model.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.4"));
    assert_eq!(told.serial.as_deref(), Some("10000000a1b2c3d4"));
    let os =
        Os { name: "Raspbian GNU/Linux 12 (bookworm)".into(), id: Some("raspbian".into()), version: Some("12".into()) };
    assert_eq!((told.os, told.kernel.as_deref(), told.architecture), (Some(os), Some("6.1.21-v8+"), "aarch64".into()));
    assert_eq!((told.cpus, told.container), (Some(4), None));

    fn addresses() -> Vec<(String, IpAddr)> {
        let of = |name: &str, address: &str| (name.to_owned(), address.parse().unwrap());
        vec![
            of("lo", "127.0.0.1"),
            of("eth0", "192.0.2.7"),
            of("lo", "::1"),
            of("eth0", "2001:db8::7"),
            of("eth0", "fe80::1"),
        ]
    }
    let host = state(&root, addresses);
    let expected = HostStatus {
        uptime_s: Some(93_784),
        clock: ClockSync::Synced,
        time_service: Some("systemd-timesyncd".into()),
        load: Some(Load { avg1: Hundredths(52), avg5: Hundredths(40), avg15: Hundredths(131) }),
        memory: Some(Memory {
            total_bytes: 3_884_364 * 1024,
            available_bytes: 3_389_400 * 1024,
            swap_total_bytes: 102_396 * 1024,
            swap_free_bytes: 102_000 * 1024,
        }),
        disk: host.disk,
        temperatures: [("cpu-thermal".to_owned(), temperature(4819, Some(11_000)))].into(),
        power: Some(Power {
            undervoltage: true,
            throttled: Some(true),
            undervoltage_since_boot: Some(true),
            throttled_since_boot: Some(true),
        }),
        flash: [(
            "mmcblk0".to_owned(),
            FlashWear { life_used_percent: Some(30), spare_blocks: Some(SpareBlocks::Normal) },
        )]
        .into(),
        network: [
            (
                "eth0".to_owned(),
                Interface { state: "up".into(), addresses: addresses()[1..4].iter().step_by(2).map(|a| a.1).collect() },
            ),
            ("wlan0".to_owned(), Interface { state: "down".into(), addresses: vec![] }),
        ]
        .into(),
        ..HostStatus::default()
    };
    assert_eq!(host, expected);

    // Its hwmon chip is asked where the firmware says nothing, and the clock where no mark says that it is right.
    std::fs::remove_dir_all(root.path().join("sys/devices/platform")).unwrap();
    std::fs::remove_file(root.path().join("run/systemd/timesync/synchronized")).unwrap();
    write(root.path(), "sys/class/hwmon/hwmon1/in0_lcrit_alarm", b"1\n");
    let host = state(&root, no_addresses);
    assert_eq!(host.power, Some(Power { undervoltage: true, ..Power::default() }));
    assert_eq!(host.clock, ClockSync::Unsynced);
}

#[test]
fn nothing_of_an_industrial_pc_is_ever_misread() {
    let root = tree(INDUSTRIAL_PC);
    let told = facts(root.path());
    assert_eq!(told.model.as_deref(), Some("AAEON BOXER-6404"));
    assert_eq!(told.os, Some(Os { name: "Debian".into(), id: Some("debian".into()), version: None }));
    assert_eq!((told.architecture.as_str(), told.cpus), (std::env::consts::ARCH, Some(3)));

    let host = state(&root, || vec![("ppp0".to_owned(), [10, 64, 64, 64].into())]);
    let load = Load { avg1: Hundredths(1200), avg5: Hundredths(405), avg15: Hundredths(90) };
    assert_eq!((host.load, host.memory, host.uptime_s), (Some(load), None, None));
    assert_eq!((host.clock, host.time_service.as_deref()), (ClockSync::Unknown, Some("chrony")));
    let stall = |avg10, avg60| Stall { avg10: Hundredths(avg10), avg60: Hundredths(avg60) };
    let pressure = [
        ("cpu".to_owned(), Pressure { some: stall(6611, 2757), full: None }),
        ("io".to_owned(), Pressure { some: stall(125, 40), full: Some(stall(100, 30)) }),
    ];
    assert_eq!(host.pressure, pressure.into());
    let temperatures = [
        ("acpitz".to_owned(), temperature(2780, Some(11_900))),
        ("coretemp Package id 0".to_owned(), temperature(4100, Some(10_500))),
        ("nct6106".to_owned(), temperature(-1250, None)),
        ("nct6106 2".to_owned(), temperature(3000, None)),
    ];
    assert_eq!(host.temperatures, temperatures.into());
    let modem = Interface { state: "unknown".into(), addresses: vec![[10, 64, 64, 64].into()] };
    assert_eq!(host.network, [("ppp0".to_owned(), modem)].into());
    assert!(host.power.is_none() && host.flash.is_empty());

    write(root.path(), "sys/class/dmi/id/product_name", b"SIMATIC IPC127E\n");
    assert_eq!(facts(root.path()).model.as_deref(), Some("SIMATIC IPC127E"));
    write(root.path(), "sys/class/dmi/id/sys_vendor", b"SIEMENS\n");
    assert_eq!(facts(root.path()).model.as_deref(), Some("SIEMENS SIMATIC IPC127E"));
}

#[test]
fn a_container_with_nothing_in_it_never_makes_an_error() {
    let root = tree(&[(".dockerenv", "")]);
    let expected =
        Facts { architecture: std::env::consts::ARCH.into(), container: Some("docker".into()), ..Facts::default() };
    assert_eq!(facts(root.path()), expected);
    let host = state(&root, no_addresses);
    assert_eq!(host, HostStatus { disk: host.disk, ..HostStatus::default() });
    let nowhere = Sources { root: root.path().into(), state_dir: root.path().join("none"), addresses: no_addresses };
    assert_eq!(nowhere.state(), HostStatus::default());
    write(root.path(), "run/systemd/container", b"systemd-nspawn\n");
    assert_eq!(facts(root.path()).container.as_deref(), Some("systemd-nspawn"));
}

#[test]
fn a_huge_file_or_folder_never_takes_more_than_its_limit() {
    let root = tree(RASPBERRY_PI);
    for path in ["proc/device-tree/model", "proc/meminfo", "proc/loadavg", "etc/os-release"] {
        write(root.path(), path, &[b'7'; 1_000_000]);
    }
    assert_eq!(read::content(&root.path().join("proc/meminfo")).unwrap().len(), 16 * 1024);
    for number in 0..1000 {
        let zone = format!("sys/class/thermal/thermal_zone{number}");
        write(root.path(), &format!("{zone}/temp"), b"20000");
        write(root.path(), &format!("{zone}/type"), &[b'z'; 500]);
        write(root.path(), &format!("sys/class/net/x{number}/device/uevent"), b"");
    }
    let host = state(&root, no_addresses);
    assert_eq!(facts(root.path()).model.map(|model| model.len()), Some(64));
    assert_eq!((host.temperatures.len(), host.network.len(), host.memory), (16, 16, None));
    assert!(host.temperatures.keys().all(|name| name.len() <= 70), "{host:?}");
}

#[test]
fn facts_never_come_out_empty_on_a_real_machine() {
    assert!(!name().is_empty());
    assert_eq!(boot_id().len(), 36);
    assert_ne!(boot_id_bytes(), [0; 16]);
    assert!(rss_bytes() > 100_000);
    let (one, two) = (now(), now());
    assert!(one.wall_ms > EARLIEST_TRUE_MS && one.mono_ms > 0 && two.mono_ms >= one.mono_ms);
    let host = Sources::of_this_machine(std::env::temp_dir()).state();
    assert!(host.uptime_s.is_some_and(|uptime| uptime > 0) && host.load.is_some(), "{host:?}");
    let DiskSpace { total_bytes, free_bytes, .. } = host.disk.unwrap();
    assert!(total_bytes >= free_bytes && total_bytes > 0);
    assert!(facts(Path::new("/")).kernel.is_some());
}

/// Every file that any of the machines above has.
fn paths() -> Vec<&'static str> {
    RASPBERRY_PI.iter().chain(INDUSTRIAL_PC).map(|(path, _)| *path).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_content_of_these_files_ever_panics_or_grows(
        contents in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                "[-+0-9a-fx.,: %=\n]{0,40}".prop_map(String::into_bytes),
                "(some|full|MemTotal|MemAvailable|PRETTY_NAME|critical)[ :=](avg10=|avg60=)?[-0-9.]{0,30}\n?"
                    .prop_map(String::into_bytes),
            ],
            paths().len(),
        ),
    ) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in paths().into_iter().zip(contents) {
            write(root.path(), path, &content);
        }
        let (told, host) = (facts(root.path()), state(&root, no_addresses));
        let text = serde_json::to_string(&(&told, &host)).unwrap();
        prop_assert!(text.len() < 8 * 1024, "{}", text);
        prop_assert_eq!(serde_json::from_str::<(Facts, HostStatus)>(&text).unwrap(), (told, host));
        prop_assert!(!text.chars().any(char::is_control));
    }
}
