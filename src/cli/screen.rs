//! A status as a screen that a person likes to read.
//!
//! Pure: a status, a style and the time go in, text comes out. Constraints: 80 columns suffice unless a single name is
//! longer; nothing but ASCII of our own, because gateways have strange consoles; names and reasons come from outside
//! and can't send control characters to the terminal; a colour never carries anything that the words don't say.

mod app;

use super::quantity::{bytes, duration, number, number_in};
use crate::stats::{
    BudgetStatus, ClockSync, CommandsStatus, DeviceState, DeviceStatus, HealthState, HostStatus, Interface, LinkState,
    LinkStatus, LogsState, LogsStatus, Outcomes, ReloadOutcome, ServerState, ServerStatus, Status, StreamStatus,
};
use std::fmt::Write as _;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether to use colours (ECMA-48 SGR).
    pub colour: bool,
}

/// SGR parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colour {
    Good = 32,
    Uncertain = 33,
    Bad = 31,
    Title = 1,
}

/// A cell of a table.
enum Cell {
    Number(u64),
    Text(String),
}

impl Cell {
    /// At the right of its column, with at least one space before it.
    fn right(self, width: usize) -> String {
        let text = match self {
            Cell::Number(n) => number_in(n, width.saturating_sub(1)),
            Cell::Text(text) => text,
        };
        format!("{text:>width$}")
    }
}

/// Where the values of a list begin, and where the numbers of a table may begin.
const MARGIN: usize = 10;

/// The heads of the table of streams and the width of each column.
const STREAM_COLUMNS: [(&str, usize); 7] =
    [("accepted", 12), ("delivered", 12), ("waiting", 10), ("lost", 9), ("refused", 9), ("on disk", 10), ("oldest", 8)];

/// The same for the table of devices.
const DEVICE_COLUMNS: [(&str, usize); 7] =
    [("state", 8), ("for", 9), ("frames", 14), ("received", 11), ("opens", 8), ("skipped", 10), ("not text", 10)];

/// The screen for `status`. `now_ms` is in milliseconds since 1970.
pub fn render(status: &Status, style: Style, now_ms: u64) -> String {
    let mut screen = Screen { out: String::new(), style, now_ms, uptime_s: status.uptime_s };
    screen.header(status);
    screen.link(&status.link);
    screen.streams(status);
    screen.devices(status);
    screen.rest(status);
    screen.out
}

struct Screen {
    out: String,
    style: Style,
    now_ms: u64,
    uptime_s: u64,
}

impl Screen {
    fn header(&mut self, status: &Status) {
        let (word, colour) = match status.health.state {
            HealthState::Healthy => ("healthy", Colour::Good),
            HealthState::Degraded => ("DEGRADED", Colour::Uncertain),
            HealthState::Failed => ("FAILED", Colour::Bad),
        };
        let up = duration(status.uptime_s);
        let title = format!("{}   pillion {}   up {up}", clean(&status.instance), clean(&status.version));
        let gap = self.style.width.saturating_sub(title.chars().count() + word.len()).max(1);
        let line = format!("{title}{:gap$}{}", "", self.paint(word, colour));
        self.line(&line);
        for reason in &status.health.reasons {
            self.item("  ! ", reason);
        }
    }

    fn link(&mut self, link: &LinkStatus) {
        self.line("");
        let (words, colour) = match link.state {
            LinkState::Connected => ("connected to", Colour::Good),
            LinkState::Connecting => ("connecting to", Colour::Uncertain),
            LinkState::Draining => ("finishing with", Colour::Uncertain),
            LinkState::Disconnected => ("disconnected from", Colour::Bad),
        };
        let server = clean(link.server.as_deref().unwrap_or("any server"));
        let words = self.paint(words, colour);
        let line = format!("{:MARGIN$}{words} {server} for {}", "link", self.since(link.since_ms));
        self.line(&line);
        let margin = " ".repeat(MARGIN);
        if let Some(reason) = &link.reason {
            self.item(&margin, reason);
        }
        let mut counts = format!(
            "{} in flight, {} acknowledged, {} repeated, {}",
            number(link.in_flight),
            number(link.acknowledged),
            number(link.repeated),
            plural(link.connects, "connect")
        );
        for (count, what) in [(link.ack_timeouts, "ack timeout"), (link.unsolicited_acks, "unsolicited ack")] {
            if count > 0 {
                let _ = write!(counts, ", {}", plural(count, what));
            }
        }
        for (reason, count) in &link.refusals {
            let _ = write!(counts, ", {} refused ({})", number(*count), clean(reason));
        }
        self.item(&margin, &counts);
        if link.sent_records > link.sent_messages || link.plain_bytes > link.sent_bytes {
            let mut travelled =
                format!("{} records in {}", number(link.sent_records), plural(link.sent_messages, "message"));
            if link.plain_bytes > link.sent_bytes {
                let _ = write!(travelled, ", {} compressed to {}", bytes(link.plain_bytes), bytes(link.sent_bytes));
            }
            self.item(&margin, &travelled);
        }
        if let Some(BudgetStatus { limit, used, bytes: whole, .. }) = &link.budget {
            let percent = used.saturating_mul(100) / whole.max(&1);
            self.item(&margin, &format!("{} of the budget of {} used ({percent} %)", bytes(*used), clean(limit)));
        }
        for notice in link.notices.iter().chain(link.barred.values()) {
            self.item(&margin, notice);
        }
        if link.servers.len() > 1 {
            for server in &link.servers {
                let line = self.server(server);
                self.item(&format!("{margin}- "), &line);
            }
        }
        for warning in link.servers.iter().filter_map(|server| server.warning.as_ref()) {
            self.note("warning: ", warning, Colour::Uncertain);
        }
    }

    fn server(&self, server: &ServerStatus) -> String {
        let name = clean(&server.server);
        let since = self.since(server.since_ms);
        let state = match server.state {
            ServerState::Untried => return format!("{name} not tried yet"),
            ServerState::Connecting => format!("connecting for {since}"),
            ServerState::Connected => format!("connected for {since}"),
            ServerState::Failed => format!("failed {since} ago"),
            ServerState::Left => format!("left {since} ago, it was well"),
        };
        let counts = format!("{}, {}", plural(server.connects, "connect"), plural(server.failures, "failure"));
        match &server.last_error {
            Some(error) if server.state != ServerState::Connected => format!("{name} {state}, {counts}: {error}"),
            _ => format!("{name} {state}, {counts}"),
        }
    }

    fn streams(&mut self, status: &Status) {
        self.table_head("stream", &STREAM_COLUMNS);
        for (name, stream) in &status.streams {
            self.row_name(name);
            self.stream_row(stream);
            if let Some(why) = status.link.held.get(name) {
                self.note("waits: ", why, Colour::Uncertain);
            }
        }
    }

    fn stream_row(&mut self, stream: &StreamStatus) {
        let lost = stream.evicted.saturating_add(stream.expired).saturating_add(stream.quarantined);
        let oldest = stream.oldest_s.map_or_else(|| "-".to_owned(), duration);
        let counts = [stream.accepted, stream.delivered, stream.waiting, lost, stream.refused];
        let counts = counts.into_iter().map(Cell::Number);
        let cells = counts.chain([Cell::Text(bytes(stream.bytes)), Cell::Text(oldest)]);
        let line: String = cells.zip(STREAM_COLUMNS).map(|(cell, (_, width))| cell.right(width)).collect();
        self.line(&line);
        if lost > 0 {
            let parts = counted(&[
                (stream.evicted, "because the stream was full"),
                (stream.expired, "too old"),
                (stream.quarantined, "damaged or not deliverable"),
            ]);
            self.note("lost: ", &parts, Colour::Bad);
        }
        if let Some(error) = &stream.disk_error {
            self.note("in memory only: ", error, Colour::Bad);
        }
        if let Some(error) = &stream.runtime_error {
            self.note("not safe from a kill: ", error, Colour::Bad);
        }
    }

    fn devices(&mut self, status: &Status) {
        if status.devices.is_empty() {
            return;
        }
        self.table_head("device", &DEVICE_COLUMNS);
        for (name, device) in &status.devices {
            self.row_name(name);
            self.device_row(device);
        }
    }

    fn device_row(&mut self, device: &DeviceStatus) {
        let (word, colour) = match device.state {
            DeviceState::Online => (" online", Colour::Good),
            DeviceState::Offline => ("offline", Colour::Bad),
        };
        let reasons = [
            (device.oversize, "too long"),
            (device.empty, "empty"),
            (device.incomplete, "cut off"),
            (device.damaged, "damaged"),
        ];
        let skipped = reasons.iter().fold(0_u64, |sum, (count, _)| sum.saturating_add(*count));
        let cells = [
            Cell::Text(self.since(device.since_ms)),
            Cell::Number(device.frames),
            Cell::Text(bytes(device.bytes)),
            Cell::Number(device.opens),
            Cell::Number(skipped),
            Cell::Number(device.not_text),
        ];
        let widths = DEVICE_COLUMNS.into_iter().skip(1);
        let line: String = cells.into_iter().zip(widths).map(|(cell, (_, width))| cell.right(width)).collect();
        let line = format!(" {}{line}", self.paint(word, colour));
        self.line(&line);
        if let Some(reason) = &device.reason {
            self.note("", reason, Colour::Bad);
        }
        if skipped > 0 {
            self.note("skipped: ", &counted(&reasons), Colour::Uncertain);
        }
    }

    fn rest(&mut self, status: &Status) {
        self.line("");
        if let Some(reload) = status.configuration.as_ref().and_then(|configuration| configuration.last_reload.as_ref())
        {
            let outcome = match reload.outcome {
                ReloadOutcome::Applied => "applied",
                ReloadOutcome::Unchanged => "nothing had changed",
                ReloadOutcome::NeedsRestart => "refused, needs a restart",
                ReloadOutcome::Wrong => "refused, the configuration is wrong",
            };
            self.line(&format!("{:MARGIN$}{outcome}, {} ago", "reload", self.since(reload.at_ms)));
        }
        if let Some(CommandsStatus { counts, .. }) = &status.commands {
            let told = [
                (counts.done, "done"),
                (counts.failed, "failed"),
                (counts.expired, "too late"),
                (counts.refused, "refused"),
                (counts.repeated, "repeated"),
            ];
            let told = counted(&told);
            self.line(&format!("{:MARGIN$}{}", "commands", if told.is_empty() { "none so far" } else { &told }));
        }
        if let Some(api) = &status.api {
            let sum = |count: fn(&Outcomes) -> u64| api.requests.values().map(count).fold(0, u64::saturating_add);
            // Who asks for this screen is one of them.
            let told = counted(&[
                (api.open, "open"),
                (sum(|outcomes| outcomes.ok), "requests answered"),
                (sum(|outcomes| outcomes.client_errors), "wrong"),
                (sum(|outcomes| outcomes.server_errors), "failed"),
                (api.sent_away, "sent away"),
                (api.forbidden, "forbidden"),
            ]);
            self.line(&format!("{:MARGIN$}{}", "clients", if told.is_empty() { "none so far" } else { &told }));
        }
        if let Some(inbox) = &status.inbox {
            let told = [
                (inbox.kept, "messages kept"),
                (inbox.received, "received"),
                (inbox.dropped, "dropped unread"),
                (inbox.refused, "refused"),
            ];
            let told = counted(&told);
            self.line(&format!("{:MARGIN$}{}", "inbox", if told.is_empty() { "nothing so far" } else { &told }));
        }
        if let Some(config) = &status.config {
            let state = if config.synced { "synced" } else { "not synced" };
            let told = [
                (config.keys, "keys"),
                (config.refused, "refused"),
                (config.damaged, "damaged"),
                (config.unconfirmed, "unconfirmed"),
            ];
            let told = [state.to_owned(), counted(&told)].into_iter().filter(|part| !part.is_empty());
            self.line(&format!("{:MARGIN$}{}", "config", told.collect::<Vec<_>>().join(", ")));
        }
        if let Some(app) = &status.app {
            self.app(app);
        }
        if let Some(logs) = &status.logs {
            self.logs(logs);
        }
        let host = &status.host;
        let boot: String = clean(&host.boot_id).chars().take(8).collect();
        let rss = bytes(host.rss_bytes);
        self.line(&format!("{:MARGIN$}{}, boot {boot}, pillion uses {rss}", "host", clean(&host.name)));
        for words in [machine(host), network(host)].into_iter().filter(|words| !words.is_empty()) {
            self.item(&" ".repeat(MARGIN), &words.join(", "));
        }
    }

    fn logs(&mut self, logs: &LogsStatus) {
        let state = match logs.state {
            LogsState::Off => "by the local API only",
            LogsState::Starting => "starting",
            LogsState::Following => "followed",
            LogsState::Failed => "can't be read",
        };
        let told = [
            (logs.shipped, "lines shipped"),
            (logs.below_level, "below the level"),
            (logs.suppressed, "beyond the rate"),
            (logs.truncated, "cut"),
            (logs.rubbish, "not understood"),
            (logs.gaps, "gaps"),
        ];
        let told = counted(&told);
        let comma = if told.is_empty() { "" } else { ", " };
        self.item(&format!("{:MARGIN$}", "logs"), &format!("{state}{comma}{told}"));
        for error in [&logs.reason, &logs.note_error].into_iter().flatten() {
            self.note("", error, Colour::Bad);
        }
    }

    fn table_head(&mut self, name: &str, columns: &[(&str, usize)]) {
        self.line("");
        let mut head = format!("{name:MARGIN$}");
        for (title, width) in columns {
            let _ = write!(head, "{title:>width$}");
        }
        let head = self.paint(&head, Colour::Title);
        self.line(&head);
    }

    /// The name in front of a row; one that would touch the numbers gets a line of its own.
    fn row_name(&mut self, name: &str) {
        let name = clean(name);
        let _ = write!(self.out, "{name:MARGIN$}");
        if name.chars().count() >= MARGIN {
            let _ = write!(self.out, "\n{:MARGIN$}", "");
        }
    }

    /// A remark below a row.
    fn note(&mut self, label: &str, text: &str, colour: Colour) {
        let margin = " ".repeat(MARGIN);
        for line in wrap(&format!("{label}{text}"), self.style.width.saturating_sub(MARGIN)) {
            let line = format!("{margin}{}", self.paint(&line, colour));
            self.line(&line);
        }
    }

    /// A text behind a mark, with its further lines below the first.
    fn item(&mut self, mark: &str, text: &str) {
        let mut lead = mark.to_owned();
        for line in wrap(text, self.style.width.saturating_sub(mark.len())) {
            self.line(&format!("{lead}{line}"));
            lead = " ".repeat(mark.len());
        }
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn paint(&self, text: &str, colour: Colour) -> String {
        match self.style.colour {
            true => format!("\x1b[{}m{text}\x1b[0m", colour as u8),
            false => text.to_owned(),
        }
    }

    /// How long ago, by the wall clock; but nothing is older than the sidecar, whatever the clock did since.
    fn since(&self, ms: u64) -> String {
        duration((self.now_ms.saturating_sub(ms) / 1000).min(self.uptime_s))
    }
}

/// How the machine is doing, as far as it tells.
fn machine(host: &HostStatus) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(host.uptime_s.map(|uptime| format!("up {}", duration(uptime))));
    words.extend(host.load.map(|load| format!("load {}", load.avg5)));
    words.extend(
        host.memory.map(|memory| {
            format!("memory {} of {} available", bytes(memory.available_bytes), bytes(memory.total_bytes))
        }),
    );
    words.extend(host.disk.map(|disk| format!("disk {} of {} free", bytes(disk.free_bytes), bytes(disk.total_bytes))));
    let hottest = host.temperatures.values().map(|sensor| sensor.celsius).max();
    words.extend(hottest.map(|celsius| format!("{celsius} C")));
    match host.clock {
        ClockSync::Synced => words.push("clock synced".to_owned()),
        ClockSync::Unsynced => words.push("CLOCK NOT SYNCED".to_owned()),
        ClockSync::Unknown => {}
    }
    if let Some(power) = host.power {
        let told = [
            (power.undervoltage, "UNDERVOLTAGE"),
            (power.undervoltage_since_boot == Some(true) && !power.undervoltage, "undervoltage since boot"),
            (power.throttled == Some(true), "THROTTLED"),
        ];
        words.extend(told.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word.to_owned()));
    }
    for (name, wear) in &host.flash {
        words.extend(wear.life_used_percent.map(|used| format!("{name} {used}% worn")));
    }
    words
}

/// Interfaces with their addresses, or their state if they have none.
fn network(host: &HostStatus) -> Vec<String> {
    let shown = |(name, interface): (&String, &Interface)| match interface.addresses.as_slice() {
        [] => format!("{name} {}", interface.state),
        addresses => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{name} {}", addresses.join(" "))
        }
    };
    host.network.iter().map(shown).collect()
}

/// The counts that aren't 0, with what they count.
fn counted(parts: &[(u64, &str)]) -> String {
    let there = parts.iter().filter(|(count, _)| *count > 0);
    there.map(|(count, what)| format!("{} {what}", number(*count))).collect::<Vec<_>>().join(", ")
}

fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", number(count), if count == 1 { "" } else { "s" })
}

/// Without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Words in lines of at most `width` characters; a longer word stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace().map(clean) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{
        ApiStatus, AppState, AppStatus, AppUsage, DiskSpace, FlashWear, Health, HeartbeatState, Hundredths,
        InboxStatus, LastExit, Load, Memory, Power, Temperature,
    };
    use std::collections::BTreeMap;

    const NOW_MS: u64 = 1_800_000_000_000;
    const PLAIN: Style = Style { width: 80, colour: false };

    fn healthy() -> Status {
        let telemetry = StreamStatus {
            accepted: 1_234_567,
            delivered: 1_234_000,
            waiting: 567,
            bytes: 1_300_000,
            oldest_s: Some(12),
            ..StreamStatus::default()
        };
        let event = StreamStatus { accepted: 1012, delivered: 1012, bytes: 65_536, ..StreamStatus::default() };
        let meter = DeviceStatus {
            state: DeviceState::Online,
            reason: None,
            opens: 1,
            bytes: 12_345_678,
            frames: 123_456,
            ..DeviceStatus::closed("serial", NOW_MS - 7_500_000)
        };
        Status {
            version: "0.1.0".into(),
            instance: "gateway".into(),
            uptime_s: 273_600,
            health: Health { state: HealthState::Healthy, reasons: vec![] },
            configuration: None,
            link: LinkStatus {
                state: LinkState::Connected,
                server: Some("mqtt://broker.example:1883".into()),
                since_ms: NOW_MS - 200_000_000,
                connects: 1,
                in_flight: 12,
                acknowledged: 1_235_012,
                repeated: 3,
                ..LinkStatus::default()
            },
            streams: BTreeMap::from([
                ("telemetry".into(), telemetry),
                ("event".into(), event),
                ("log".into(), StreamStatus::default()),
            ]),
            devices: BTreeMap::from([("meter".into(), meter)]),
            commands: None,
            inbox: None,
            config: None,
            api: None,
            app: Some(AppStatus {
                unit: Some("gateway.service".into()),
                state: AppState::Running,
                pid: Some(812),
                since_ms: NOW_MS - 200_000_000,
                usage: AppUsage {
                    cpu_ns: Some(93_000_000_000),
                    memory_bytes: Some(24_400_000),
                    memory_limit: Some(1 << 27),
                    tasks: Some(5),
                    ..AppUsage::default()
                },
                ..AppStatus::default()
            }),
            logs: None,
            host: HostStatus {
                name: "cm4".into(),
                boot_id: "1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809".into(),
                rss_bytes: 4_404_019,
                ..HostStatus::default()
            },
        }
    }

    fn degraded() -> Status {
        let mut status = healthy();
        status.uptime_s = 59;
        status.health = Health {
            state: HealthState::Degraded,
            reasons: vec![
                "no connection to mqtt://broker.example:1883: connection refused; is the broker running, and may this \
                 host reach it?"
                    .into(),
                "device a-name-of-a-device-of-32-letters: no such file".into(),
            ],
        };
        status.link = LinkStatus {
            server: Some("mqtt://broker.example:1883".into()),
            reason: Some("connection refused; is the broker running, and may this host reach it?".into()),
            since_ms: NOW_MS + 5_000,
            connects: 2,
            ack_timeouts: 1,
            unsolicited_acks: 2,
            ..LinkStatus::default()
        };
        let log = status.streams.get_mut("log").unwrap();
        (log.accepted, log.evicted, log.expired, log.quarantined, log.refused) = (20, 10, 5, 5, 3);
        log.disk_error = Some("No space left on device (os error 28); free some, writing goes on by itself".into());
        status.devices.clear();
        let mut gone = DeviceStatus::closed("serial", 0);
        gone.reason = Some("/dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K3C8J-if00-port0: No such file".into());
        (gone.frames, gone.oversize, gone.incomplete, gone.not_text) = (2345, 1, 2, 4);
        status.devices.insert("a-name-of-a-device-of-32-letters".into(), gone);
        status.app = None;
        status
    }

    #[test]
    fn a_healthy_screen_never_changes_by_accident() {
        let expected = "\
gateway   pillion 0.1.0   up 3d 4h                                       healthy

link      connected to mqtt://broker.example:1883 for 2d 7h
          12 in flight, 1,235,012 acknowledged, 3 repeated, 1 connect

stream        accepted   delivered   waiting     lost  refused   on disk  oldest
event            1,012       1,012         0        0        0  64.0 KiB       -
log                  0           0         0        0        0       0 B       -
telemetry    1,234,567   1,234,000       567        0        0   1.2 MiB     12s

device       state      for        frames   received   opens   skipped  not text
meter       online    2h 5m       123,456   11.7 MiB       1         0         0

app       gateway.service runs for 2d 7h, pid 812
          23.2 MiB of 128 MiB memory, 1m 33s of processor time, 5 tasks
host      cm4, boot 1a2b3c4d, pillion uses 4.1 MiB
";
        assert_eq!(render(&healthy(), PLAIN, NOW_MS), expected);
    }

    #[test]
    fn a_degraded_screen_never_hides_a_loss_or_a_reason() {
        let expected = "\
gateway   pillion 0.1.0   up 59s                                        DEGRADED
  ! no connection to mqtt://broker.example:1883: connection refused; is the
    broker running, and may this host reach it?
  ! device a-name-of-a-device-of-32-letters: no such file

link      disconnected from mqtt://broker.example:1883 for 0s
          connection refused; is the broker running, and may this host reach it?
          0 in flight, 0 acknowledged, 0 repeated, 2 connects, 1 ack timeout, 2
          unsolicited acks

stream        accepted   delivered   waiting     lost  refused   on disk  oldest
event            1,012       1,012         0        0        0  64.0 KiB       -
log                 20           0         0       20        3       0 B       -
          lost: 10 because the stream was full, 5 too old, 5 damaged or not
          deliverable
          in memory only: No space left on device (os error 28); free some,
          writing goes on by itself
telemetry    1,234,567   1,234,000       567        0        0   1.2 MiB     12s

device       state      for        frames   received   opens   skipped  not text
a-name-of-a-device-of-32-letters
           offline      59s         2,345        0 B       0         3         4
          /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A10K3C8J-if00-port0: No
          such file
          skipped: 1 too long, 2 cut off

host      cm4, boot 1a2b3c4d, pillion uses 4.1 MiB
";
        assert_eq!(render(&degraded(), PLAIN, NOW_MS), expected);
    }

    #[test]
    fn a_server_that_failed_never_hides_behind_the_one_that_is_connected() {
        let mut status = healthy();
        let server = |server: &str, state, connects, failures| ServerStatus {
            server: server.into(),
            state,
            since_ms: NOW_MS - 300_000,
            connects,
            failures,
            ..ServerStatus::default()
        };
        status.link.servers = vec![
            ServerStatus {
                last_error: Some("connection refused (os error 111)".into()),
                ..server("mqtts://first.example:8883", ServerState::Failed, 1, 3)
            },
            ServerStatus {
                warning: Some("plain MQTT to a remote host".into()),
                ..server("mqtt://broker.example:1883", ServerState::Connected, 1, 0)
            },
            server("mqtts://third.example:8883", ServerState::Untried, 0, 0),
        ];
        let expected = "\
link      connected to mqtt://broker.example:1883 for 2d 7h
          12 in flight, 1,235,012 acknowledged, 3 repeated, 1 connect
          - mqtts://first.example:8883 failed 5m 0s ago, 1 connect, 3 failures:
            connection refused (os error 111)
          - mqtt://broker.example:1883 connected for 5m 0s, 1 connect, 0
            failures
          - mqtts://third.example:8883 not tried yet
          warning: plain MQTT to a remote host

stream";
        let screen = render(&status, PLAIN, NOW_MS);
        assert!(screen.contains(expected), "{screen}");
    }

    #[test]
    fn the_screen_never_needs_more_than_80_columns() {
        let mut status = degraded();
        let most = StreamStatus {
            accepted: u64::MAX,
            delivered: u64::MAX,
            waiting: 999_999_999,
            evicted: 999_999,
            expired: 0,
            quarantined: 0,
            refused: u64::MAX,
            bytes: u64::MAX / 1_000_000,
            oldest_s: Some(86_399),
            disk_error: None,
            runtime_error: None,
        };
        status.streams.insert("0123456789".into(), most);
        for line in render(&status, PLAIN, u64::MAX).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn what_became_of_commands_is_never_left_out() {
        let mut status = healthy();
        status.commands = Some(CommandsStatus::default());
        assert!(render(&status, PLAIN, NOW_MS).contains("\ncommands  none so far\n"));
        status.commands.iter_mut().for_each(|of| (of.counts.done, of.counts.expired) = (1200, 3));
        let screen = render(&status, PLAIN, NOW_MS);
        assert!(screen.contains("\ncommands  1,200 done, 3 too late\n"), "{screen}");
    }

    #[test]
    fn what_matters_of_the_machine_is_never_left_out() {
        let mut status = healthy();
        let lan =
            Interface { state: "up".into(), addresses: vec![[192, 0, 2, 2].into(), "2001:db8::2".parse().unwrap()] };
        let cpu = Temperature { celsius: Hundredths(4820), critical_celsius: None };
        status.host = HostStatus {
            uptime_s: Some(8_640_000),
            clock: ClockSync::Unsynced,
            load: Some(Load { avg5: Hundredths(52), ..Load::default() }),
            memory: Some(Memory { total_bytes: 4 << 30, available_bytes: 3 << 30, ..Memory::default() }),
            disk: Some(DiskSpace { total_bytes: 29 << 30, free_bytes: 5 << 30, ..DiskSpace::default() }),
            temperatures: [("air".to_owned(), Temperature::default()), ("cpu".to_owned(), cpu)].into(),
            power: Some(Power { undervoltage_since_boot: Some(true), throttled: Some(true), ..Power::default() }),
            flash: [("mmcblk0".to_owned(), FlashWear { life_used_percent: Some(30), spare_blocks: None })].into(),
            network: [
                ("eth0".to_owned(), lan),
                ("wwan0".to_owned(), Interface { state: "down".into(), addresses: vec![] }),
            ]
            .into(),
            ..status.host
        };
        let expected = "
host      cm4, boot 1a2b3c4d, pillion uses 4.1 MiB
          up 100d 0h, load 0.52, memory 3.0 GiB of 4.0 GiB available, disk 5.0
          GiB of 29.0 GiB free, 48.2 C, CLOCK NOT SYNCED, undervoltage since
          boot, THROTTLED, mmcblk0 30% worn
          eth0 192.0.2.2 2001:db8::2, wwan0 down
";
        let screen = render(&status, PLAIN, NOW_MS);
        assert!(screen.ends_with(expected), "{screen}");
    }

    #[test]
    fn what_became_of_messages_is_never_left_out() {
        let mut status = healthy();
        status.api = Some(ApiStatus::default());
        assert!(render(&status, PLAIN, NOW_MS).contains("\nclients   none so far\n"));
        let of = |ok, server_errors| Outcomes { ok, client_errors: 0, server_errors };
        status.api.iter_mut().for_each(|api| {
            (api.open, api.forbidden) = (1, 2);
            api.requests = [("GET /v1/health".to_owned(), of(7, 1)), ("other".to_owned(), of(1, 0))].into();
        });
        let text = render(&status, PLAIN, NOW_MS);
        assert!(text.contains("\nclients   1 open, 8 requests answered, 1 failed, 2 forbidden\n"), "{text}");
        status.inbox = Some(InboxStatus::default());
        assert!(render(&status, PLAIN, NOW_MS).contains("\ninbox     nothing so far\n"));
        status.inbox.iter_mut().for_each(|inbox| (inbox.kept, inbox.dropped) = (256, 3));
        assert!(render(&status, PLAIN, NOW_MS).contains("\ninbox     256 messages kept, 3 dropped unread\n"));
    }

    #[test]
    fn a_lost_application_is_never_left_out() {
        let mut status = healthy();
        status.health = Health { state: HealthState::Failed, reasons: vec!["it is down".into()] };
        let app = status.app.as_mut().unwrap();
        (app.state, app.pid, app.restarts) = (AppState::Restarting, None, Some(3));
        (app.heartbeat.state, app.heartbeat.age_ms) = (HeartbeatState::Lost, Some(61_000));
        app.last_exit = Some(LastExit { text: "exited with code 3".into(), ..LastExit::default() });
        let screen = render(&status, PLAIN, NOW_MS);
        assert!(screen.lines().next().unwrap().ends_with(" FAILED"), "{screen}");
        let told = "\
app       gateway.service waits to be started again for 2d 7h, restarted 3 times
          23.2 MiB of 128 MiB memory, 1m 33s of processor time, 5 tasks
          no heartbeat for 1m 1s
          last time, it exited with code 3
";
        assert!(screen.contains(told), "{screen}");
    }

    #[test]
    fn colours_never_add_or_move_a_word() {
        let strip = |text: &str| {
            text.split('\x1b')
                .map(|part| part.strip_prefix('[').map_or(part, |part| &part[part.find('m').unwrap() + 1..]))
                .collect::<String>()
        };
        for status in [healthy(), degraded()] {
            let coloured = render(&status, Style { colour: true, ..PLAIN }, NOW_MS);
            assert!(coloured.contains("\x1b["));
            assert_eq!(strip(&coloured), render(&status, PLAIN, NOW_MS));
        }
        assert!(render(&healthy(), Style { colour: true, ..PLAIN }, NOW_MS).contains("\x1b[32mhealthy\x1b[0m"));
        assert!(render(&degraded(), Style { colour: true, ..PLAIN }, NOW_MS).contains("\x1b[31moffline\x1b[0m"));
    }

    #[test]
    fn an_enemys_reason_never_reaches_the_terminal() {
        let mut status = degraded();
        status.health.reasons = vec!["\x1b]0;pwned\x07 \u{9b}2J".into()];
        status.devices.insert("\x1b[2J".into(), DeviceStatus::closed("serial", 0));
        status.host.name = "a\nb".into();
        let text = render(&status, PLAIN, NOW_MS);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("a?b"));
    }
}
