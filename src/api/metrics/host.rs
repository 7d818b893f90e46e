//! The machine's numbers. What may be unknown has no sample then.

use super::family::{Family, Value, flag, gauge, gauge_if_known, many};
use super::text::Text;
use crate::stats::{ClockSync, FlashWear, HostStatus, Interface, Power, SpareBlocks, Stall, Temperature};

const HOST: &[Family<HostStatus>] = &[
    gauge_if_known("pillion_host_uptime_seconds", "Time since the machine booted.", |host| {
        host.uptime_s.map(Value::Count)
    }),
    gauge_if_known(
        "pillion_host_clock_synced",
        "Whether a time server sets the clock; none if that is unknown.",
        |host| match host.clock {
            ClockSync::Synced => Some(Value::Flag(true)),
            ClockSync::Unsynced => Some(Value::Flag(false)),
            ClockSync::Unknown => None,
        },
    ),
    gauge_if_known("pillion_host_load1", "Load average over one minute.", |host| {
        Some(Value::Hundredths(host.load?.avg1))
    }),
    gauge_if_known("pillion_host_load5", "Load average over five minutes.", |host| {
        Some(Value::Hundredths(host.load?.avg5))
    }),
    gauge_if_known("pillion_host_load15", "Load average over fifteen minutes.", |host| {
        Some(Value::Hundredths(host.load?.avg15))
    }),
    gauge_if_known("pillion_host_memory_total_bytes", "Memory of the machine.", |host| {
        Some(Value::Count(host.memory?.total_bytes))
    }),
    gauge_if_known("pillion_host_memory_available_bytes", "Memory that programs can still get.", |host| {
        Some(Value::Count(host.memory?.available_bytes))
    }),
    gauge_if_known("pillion_host_swap_total_bytes", "Swap space of the machine.", |host| {
        Some(Value::Count(host.memory?.swap_total_bytes))
    }),
    gauge_if_known("pillion_host_swap_free_bytes", "Swap space that is free.", |host| {
        Some(Value::Count(host.memory?.swap_free_bytes))
    }),
    gauge_if_known("pillion_host_disk_total_bytes", "Size of the disk of state_dir.", |host| {
        Some(Value::Count(host.disk?.total_bytes))
    }),
    gauge_if_known("pillion_host_disk_free_bytes", "Free space on the disk of state_dir.", |host| {
        Some(Value::Count(host.disk?.free_bytes))
    }),
    gauge_if_known("pillion_host_inodes", "Files that the disk of state_dir can have.", |host| {
        host.disk?.inodes.map(Value::Count)
    }),
    gauge_if_known("pillion_host_inodes_free", "Files that can still be made there.", |host| {
        host.disk?.inodes_free.map(Value::Count)
    }),
];

const POWER: &[Family<Power>] = &[
    flag("pillion_host_undervoltage", "Whether the supply voltage is too low.", |power| power.undervoltage),
    gauge_if_known("pillion_host_throttled", "Whether the processor is slowed down.", |power| {
        power.throttled.map(Value::Flag)
    }),
    gauge_if_known(
        "pillion_host_undervoltage_since_boot",
        "Whether the supply voltage was too low since boot.",
        |power| power.undervoltage_since_boot.map(Value::Flag),
    ),
    gauge_if_known("pillion_host_throttled_since_boot", "Whether the processor was slowed down since boot.", |power| {
        power.throttled_since_boot.map(Value::Flag)
    }),
];

/// By `kind`: `some` or all (`full`) of the tasks.
const STALLS: &[Family<Stall>] = &[
    gauge_if_known("pillion_host_pressure_avg10", "Per cent of ten seconds in which tasks waited for it.", |stall| {
        Some(Value::Hundredths(stall.avg10))
    }),
    gauge_if_known("pillion_host_pressure_avg60", "Per cent of a minute in which tasks waited for it.", |stall| {
        Some(Value::Hundredths(stall.avg60))
    }),
];

const TEMPERATURES: &[Family<Temperature>] = &[
    gauge_if_known("pillion_host_temperature_celsius", "What the sensor measures.", |sensor| {
        Some(Value::Hundredths(sensor.celsius))
    }),
    gauge_if_known("pillion_host_temperature_critical_celsius", "What the sensor calls critical.", |sensor| {
        sensor.critical_celsius.map(Value::Hundredths)
    }),
];

const FLASH: &[Family<FlashWear>] = &[
    gauge_if_known("pillion_host_flash_life_used_percent", "Life of the eMMC chip that is used up.", |wear| {
        wear.life_used_percent.map(Value::Count)
    }),
    gauge_if_known(
        "pillion_host_flash_spare_blocks_low",
        "Whether four fifths of its spare blocks are used up.",
        |wear| wear.spare_blocks.map(|spare| Value::Flag(spare != SpareBlocks::Normal)),
    ),
];

const NETWORK: &[Family<Interface>] = &[
    gauge_if_known(
        "pillion_host_network_up",
        "Whether the interface is up; tunnels and modems may not tell.",
        |interface| (interface.state != "unknown").then(|| Value::Flag(interface.state == "up")),
    ),
    gauge("pillion_host_network_addresses", "Addresses of the interface.", |interface| many(interface.addresses.len())),
];

pub(super) fn write(text: &mut Text, host: &HostStatus) {
    text.families(HOST, || [(vec![], host)]);
    text.families(POWER, || host.power.iter().map(|power| (vec![], power)));
    text.families(STALLS, || {
        host.pressure.iter().flat_map(|(name, pressure)| {
            let kinds = [("some", Some(&pressure.some)), ("full", pressure.full.as_ref())];
            kinds
                .into_iter()
                .filter_map(move |(kind, stall)| Some((vec![("resource", name.as_str()), ("kind", kind)], stall?)))
        })
    });
    text.families(TEMPERATURES, || {
        host.temperatures.iter().map(|(name, sensor)| (vec![("sensor", name.as_str())], sensor))
    });
    text.families(FLASH, || host.flash.iter().map(|(name, wear)| (vec![("chip", name.as_str())], wear)));
    text.families(NETWORK, || {
        host.network.iter().map(|(name, interface)| (vec![("interface", name.as_str())], interface))
    });
}
