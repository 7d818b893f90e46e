//! `[app]`: the application, and what of its log goes out.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::units::{duration_text, size_text};
use super::{App, keys, values};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// syslog(3): the most severe first.
const LEVELS: [(&str, u8); 8] =
    [("emerg", 0), ("alert", 1), ("crit", 2), ("err", 3), ("warning", 4), ("notice", 5), ("info", 6), ("debug", 7)];

pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>) -> App {
    let section = root.section(report, &keys::APP, "app", "[app] and its keys below");
    section.refuse_unknown(report);
    let unit = section.read(report, "unit", |value| values::unit(values::text(value)?).map(str::to_owned));
    let heartbeat_timeout =
        section.read(report, "heartbeat_timeout", |value| values::duration(value, Duration::from_secs(1)..=DAY, "30s"));
    let commands = section.read(report, "commands", values::boolean);
    let config = section.read(report, "config", values::boolean);
    let logs = section.read(report, "logs", values::boolean);
    if logs == Some(true) && unit.is_none() && !section.has("unit") {
        let message = "needs a unit whose journal is followed; give unit = \"gateway.service\" too, or remove this";
        report.problem(section.place("logs"), "app.logs".to_owned(), message.to_owned());
    }
    let log_level = section.read(report, "log_level", |value| values::choice(value, &LEVELS));
    let log_rate = section
        .read(report, "log_rate", |value| values::number(value, 0..=100_000, "give lines per second, 0 to 100000"));
    let recorder = section.read(report, "recorder", |value| values::size(value, 0..=MIB, "64KiB"));
    let recorder = recorder.unwrap_or(64 * 1024);
    App {
        commands: commands.unwrap_or(unit.is_some()),
        config: config.unwrap_or(unit.is_some()),
        logs: logs.unwrap_or(unit.is_some()),
        unit,
        heartbeat_timeout,
        log_level: log_level.unwrap_or(6),
        log_rate: log_rate.unwrap_or(500),
        recorder: usize::try_from(recorder).unwrap_or(usize::MAX),
    }
}

impl App {
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[app]");
        if let Some(unit) = &self.unit {
            out.text("unit", unit);
        }
        if let Some(timeout) = self.heartbeat_timeout {
            out.text("heartbeat_timeout", &duration_text(timeout));
        }
        out.plain("commands", self.commands);
        out.plain("config", self.config);
        out.plain("logs", self.logs);
        let level = LEVELS.iter().find(|(_, level)| *level == self.log_level);
        out.text("log_level", level.map_or("info", |(name, _)| name));
        out.plain("log_rate", self.log_rate);
        out.text("recorder", &size_text(u64::try_from(self.recorder).unwrap_or(u64::MAX)));
    }
}
