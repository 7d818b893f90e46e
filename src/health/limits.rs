//! The limits of `[health]`: what of the machine is compared with what, and what is said when it is passed.
//!
//! Pure: a reading and the time go in, complaints come out. `checks` is the list of all limits; `threshold` keeps one that is
//! just passed, or just not, from coming and going.

use super::Complaint;
use crate::config::{Amount, Limits, TemperatureLimit};
use crate::stats::{HostStatus, SpareBlocks, Stall, Temperature};
use crate::threshold::{Bound, Rule, Threshold};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long memory must be short, or a sensor hot, to be a complaint: programs start, fans take a while.
const HOLD: Duration = Duration::from_secs(30);
/// Below a sensor's critical temperature, where the kernel shuts down, by this much: hundredths of a degree Celsius.
const CRITICAL_DISTANCE: i64 = 500;
/// What a temperature must fall below its limit to be well again, in hundredths of a degree Celsius.
const TEMPERATURE_MARGIN: i64 = 500;

/// Where every limit stands.
#[derive(Default)]
pub(super) struct Watch(BTreeMap<String, Threshold>);

impl Watch {
    /// Takes a reading; `now` is on a clock that only goes forward.
    pub(super) fn judge(&mut self, host: &HostStatus, limits: &Limits, now: Duration) -> Vec<Complaint> {
        let checks = checks(host, limits);
        self.0.retain(|what, _| checks.iter().any(|check| check.what == *what));
        let mut exceeded = |check: &Check| {
            let threshold = self.0.entry(check.what.clone()).or_default();
            threshold.observe(Some(check.value), &check.rule, now)
        };
        let wrong = checks.into_iter().filter(|check| exceeded(check));
        wrong.map(|Check { what, text, .. }| Complaint::of(what, text)).collect()
    }
}

/// A number with a limit.
struct Check {
    what: String,
    value: i64,
    rule: Rule,
    /// What is said if it is exceeded.
    text: String,
}

impl Check {
    fn new(what: impl Into<String>, value: i64, rule: Rule, text: String) -> Self {
        Check { what: what.into(), value, rule, text }
    }
}

/// Everything that is known and has a limit.
fn checks(host: &HostStatus, limits: &Limits) -> Vec<Check> {
    let mut checks = of_disk(host, limits);
    checks.extend(of_memory(host, limits));
    checks.extend(of_work(host, limits));
    checks.extend(of_temperatures(host, limits));
    checks.extend(of_hardware(host));
    checks
}

fn of_disk(host: &HostStatus, limits: &Limits) -> Vec<Check> {
    let Some(disk) = host.disk else { return Vec::new() };
    let space = limits.disk_free_min.map(|limit| {
        let (free, total) = (mib(disk.free_bytes), mib(disk.total_bytes));
        let text = format!(
            "the disk of state_dir has {free} of {total} free, less than health.disk_free_min ({}); remove something, or \
             lower max_bytes of the streams",
            bytes_text(limit)
        );
        Check::new("disk space", signed(disk.free_bytes), at_least(limit, disk.total_bytes, Duration::ZERO), text)
    });
    let counts = disk.inodes.zip(disk.inodes_free).zip(limits.inodes_free_min);
    let inodes = counts.map(|((total, free), limit)| {
        let text = format!(
            "the disk of state_dir takes {free} more files of {total}, less than health.inodes_free_min ({limit}); remove \
             some, whatever their size"
        );
        Check::new("inodes", signed(free), at_least(limit, total, Duration::ZERO), text)
    });
    space.into_iter().chain(inodes).collect()
}

fn of_memory(host: &HostStatus, limits: &Limits) -> Option<Check> {
    let (memory, limit) = host.memory.zip(limits.memory_available_min)?;
    let text = format!(
        "{} of {} of memory are available, less than health.memory_available_min ({}); see `top` for what takes it",
        mib(memory.available_bytes),
        mib(memory.total_bytes),
        bytes_text(limit)
    );
    Some(Check::new("memory", signed(memory.available_bytes), at_least(limit, memory.total_bytes, HOLD), text))
}

/// Both are averages already, so they need not last.
fn of_work(host: &HostStatus, limits: &Limits) -> Vec<Check> {
    let load = host.load.zip(limits.load_max).map(|(load, limit)| {
        let text = format!(
            "the load is {} over five minutes, more than health.load_max ({limit}); see `top` for what it comes from",
            load.avg5
        );
        Check::new("load", load.avg5.0, at_most(limit.0, limit.0 / 10, Duration::ZERO), text)
    });
    let pressure = host.pressure.iter().filter_map(|(name, pressure)| {
        let limit = limits.pressure_max?;
        // For the processor there is no such thing as all.
        let (tasks, Stall { avg60, .. }) = match pressure.full {
            Some(full) => ("all tasks", full),
            None => ("some tasks", pressure.some),
        };
        let text = format!(
            "{tasks} waited for {name} {avg60} % of a minute, more than health.pressure_max ({limit}%); see \
             /proc/pressure/{name}, and `top` for what it comes from"
        );
        let limit = i64::from(limit) * 100;
        Some(Check::new(format!("pressure {name}"), avg60.0, at_most(limit, limit / 10, Duration::ZERO), text))
    });
    load.into_iter().chain(pressure).collect()
}

fn of_temperatures(host: &HostStatus, limits: &Limits) -> Vec<Check> {
    let check = |(name, sensor): (&String, &Temperature)| {
        let (limit, said) = match limits.temperature_max? {
            TemperatureLimit::Celsius(limit) => (limit * 100, format!("more than health.temperature_max ({limit})")),
            TemperatureLimit::Critical => {
                let critical = sensor.critical_celsius?;
                (critical.0.saturating_sub(CRITICAL_DISTANCE), format!("close to its critical {critical}"))
            }
        };
        let celsius = sensor.celsius;
        let text = format!("{name} has {celsius} degrees Celsius, {said}; give it air or shade, or less to do");
        let rule = at_most(limit, TEMPERATURE_MARGIN, HOLD);
        Some(Check::new(format!("temperature {name}"), celsius.0, rule, text))
    };
    host.temperatures.iter().filter_map(check).collect()
}

/// What the kernel itself calls wrong.
fn of_hardware(host: &HostStatus) -> Vec<Check> {
    let never = at_most(0, 0, Duration::ZERO);
    let voltage = host.power.map(|power| {
        let text = "the supply voltage is too low; use a stronger power supply, or a shorter cable".to_owned();
        Check::new("supply voltage", i64::from(power.undervoltage), never, text)
    });
    let chips = host.flash.iter().map(|(name, wear)| {
        let text =
            format!("the flash chip {name} has used up nine tenths of its spare blocks; replace it before it fails");
        let is_worn = wear.spare_blocks == Some(SpareBlocks::Urgent);
        Check::new(format!("flash {name}"), i64::from(is_worn), never, text)
    });
    voltage.into_iter().chain(chips).collect()
}

/// At least so much of `total`; and for the way back a fifth more, but no more than half of what there is beyond the limit.
fn at_least(limit: Amount, total: u64, hold: Duration) -> Rule {
    let limit = match limit {
        Amount::Percent(percent) => (total / 100).saturating_mul(u64::from(percent)),
        Amount::Absolute(amount) => amount,
    };
    let margin = (limit / 5).min(total.saturating_sub(limit) / 2);
    Rule { bound: Bound::AtLeast, limit: signed(limit), margin: signed(margin), hold }
}

fn at_most(limit: i64, margin: i64, hold: Duration) -> Rule {
    Rule { bound: Bound::AtMost, limit, margin, hold }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// In MiB, with one decimal where that is not much.
fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes / MIB {
        whole @ 0..10 => format!("{whole}.{} MiB", bytes % MIB * 10 / MIB),
        whole => format!("{whole} MiB"),
    }
}

fn bytes_text(limit: Amount) -> String {
    match limit {
        Amount::Percent(_) => limit.to_string(),
        Amount::Absolute(bytes) => mib(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DiskSpace, FlashWear, Hundredths, Load, Memory, Power, Pressure};

    const MIB: u64 = 1 << 20;

    fn well() -> HostStatus {
        let stall = Stall { avg10: Hundredths(9000), avg60: Hundredths(100) };
        HostStatus {
            load: Some(Load { avg1: Hundredths(900), avg5: Hundredths(50), avg15: Hundredths(40) }),
            memory: Some(Memory { total_bytes: 1000 * MIB, available_bytes: 500 * MIB, ..Memory::default() }),
            pressure: [("io".to_owned(), Pressure { some: stall, full: Some(stall) })].into(),
            disk: Some(DiskSpace {
                total_bytes: 1000 * MIB,
                free_bytes: 50 * MIB,
                inodes: Some(1000),
                inodes_free: Some(50),
            }),
            temperatures: [
                ("cpu".to_owned(), Temperature { celsius: Hundredths(8000), critical_celsius: Some(Hundredths(9000)) }),
                ("air".to_owned(), Temperature { celsius: Hundredths(20_000), critical_celsius: None }),
            ]
            .into(),
            power: Some(Power { throttled: Some(true), undervoltage_since_boot: Some(true), ..Power::default() }),
            flash: [(
                "mmcblk0".to_owned(),
                FlashWear { spare_blocks: Some(SpareBlocks::Warning), ..FlashWear::default() },
            )]
            .into(),
            ..HostStatus::default()
        }
    }

    /// What is wrong after this reading, taken twice with a minute between.
    fn wrong(host: &HostStatus, limits: &Limits) -> Vec<String> {
        let mut watch = Watch::default();
        watch.judge(host, limits, Duration::ZERO);
        watch.judge(host, limits, Duration::from_secs(60)).into_iter().map(|complaint| complaint.text).collect()
    }

    #[test]
    fn a_well_machine_and_one_that_tells_nothing_never_get_a_complaint() {
        assert_eq!(wrong(&well(), &Limits::default()), Vec::<String>::new());
        assert_eq!(wrong(&HostStatus::default(), &Limits::default()), Vec::<String>::new());
        assert_eq!(
            wrong(&HostStatus { disk: Some(DiskSpace::default()), ..HostStatus::default() }, &Limits::default()),
            { Vec::<String>::new() }
        );
    }

    #[test]
    fn what_is_wrong_never_goes_without_what_to_do() {
        let mut host = well();
        let disk = host.disk.as_mut().unwrap();
        (disk.free_bytes, disk.inodes_free) = (5 * MIB, Some(7));
        host.memory.as_mut().unwrap().available_bytes = 49 * MIB;
        host.temperatures.get_mut("cpu").unwrap().celsius = Hundredths(8512);
        host.power.as_mut().unwrap().undervoltage = true;
        host.flash.get_mut("mmcblk0").unwrap().spare_blocks = Some(SpareBlocks::Urgent);
        let expected = [
            "the disk of state_dir has 5.0 MiB of 1000 MiB free, less than health.disk_free_min (5%); remove something, or \
             lower max_bytes of the streams",
            "the disk of state_dir takes 7 more files of 1000, less than health.inodes_free_min (5%); remove some, whatever \
             their size",
            "49 MiB of 1000 MiB of memory are available, less than health.memory_available_min (5%); see `top` for what \
             takes it",
            "cpu has 85.12 degrees Celsius, close to its critical 90; give it air or shade, or less to do",
            "the supply voltage is too low; use a stronger power supply, or a shorter cable",
            "the flash chip mmcblk0 has used up nine tenths of its spare blocks; replace it before it fails",
        ];
        assert_eq!(wrong(&host, &Limits::default()), expected);
    }

    #[test]
    fn a_limit_that_the_user_gives_never_counts_for_less() {
        let limits = Limits {
            disk_free_min: Some(Amount::Absolute(60 * MIB)),
            inodes_free_min: Some(Amount::Absolute(51)),
            memory_available_min: Some(Amount::Percent(50)),
            temperature_max: Some(TemperatureLimit::Celsius(85)),
            load_max: Some(Hundredths(49)),
            pressure_max: Some(1),
        };
        let mut host = well();
        host.pressure.get_mut("io").unwrap().full.as_mut().unwrap().avg60 = Hundredths(101);
        let texts = wrong(&host, &limits);
        let starts = [
            "the disk of state_dir has 50 MiB of 1000 MiB free, less than health.disk_free_min (60 MiB)",
            "the disk of state_dir takes 50 more",
            "the load is 0.5 over five minutes, more than health.load_max (0.49)",
            "all tasks waited for io 1.01 % of a minute, more than health.pressure_max (1%)",
            "air has 200 degrees Celsius, more than health.temperature_max (85)",
        ];
        assert_eq!(texts.len(), starts.len(), "{texts:?}");
        for (text, start) in texts.iter().zip(starts) {
            assert!(text.starts_with(start), "{text}");
        }
        let off = Limits {
            disk_free_min: None,
            inodes_free_min: None,
            memory_available_min: None,
            temperature_max: None,
            load_max: None,
            pressure_max: None,
        };
        host.disk = Some(DiskSpace { total_bytes: MIB, free_bytes: 0, inodes: Some(1), inodes_free: Some(0) });
        assert_eq!(wrong(&host, &off), Vec::<String>::new());
    }

    #[test]
    fn a_limit_near_the_whole_never_makes_a_complaint_for_ever() {
        let rule = at_least(Amount::Absolute(90 * MIB), 100 * MIB, Duration::ZERO);
        assert_eq!((rule.limit, rule.margin), (signed(90 * MIB), signed(5 * MIB)));
        let beyond_all = at_least(Amount::Absolute(200 * MIB), 100 * MIB, Duration::ZERO);
        assert_eq!(beyond_all.margin, 0);
    }
}
