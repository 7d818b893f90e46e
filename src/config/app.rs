//! `[app]`: the application, and what of its log goes out.

use super::effective::Toml;
use super::reader::{Report, Section};
use super::units::{duration_text, size_text};
use super::{keys, values};
use std::time::Duration;

/// `[app]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// The application's systemd unit.
    pub unit: Option<String>,
    /// How long the application may go without a heartbeat, 1 s to 1 day. `None`: none is waited for.
    pub heartbeat_timeout: Option<Duration>,
    /// Whether messages on `P/app/set/#` are kept for the application (default: yes, if it has a unit).
    pub commands: bool,
    /// Whether the keys of `P/config/#` are kept for the application (default: yes, if it has a unit).
    pub config: bool,
    /// Whether the unit's journal is followed (default yes if there is a unit).
    pub logs: bool,
    /// The least severe priority of lines that are shipped, 0 (emerg) to 7 (debug) as in syslog(3) (default 6, info).
    pub log_level: u8,
    /// Lines per second that are shipped, bursts apart, 0 to 100,000 (default 500); 0 for no limit.
    pub log_rate: u32,
    /// Size of the flight recorder in bytes, 0 to 1 MiB (default 64 KiB).
    pub recorder: usize,
}

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
        out.choice("log_level", &LEVELS, self.log_level);
        out.plain("log_rate", self.log_rate);
        out.text("recorder", &size_text(u64::try_from(self.recorder).unwrap_or(u64::MAX)));
    }
}
