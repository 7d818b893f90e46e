//! The status as OpenMetrics text, for Prometheus and its like: `GET /metrics`.
//!
//! Constraints: pure, from the same snapshot as `/v1/status`, and every number of that is here. Names follow the status
//! document: `streams.NAME.evicted` is `pillion_stream_evicted_total{stream="NAME"}`. What the status says in words
//! (reasons, errors) is no label, or each new sentence would be a new time series; there is a 0 or 1 for it. No label is
//! called `instance` or `job`: these belong to whoever scrapes.
//!
//! The format, line by line (<https://prometheus.io/docs/specs/om/open_metrics_spec/>):
//!
//! ```text
//! # TYPE pillion_device_bytes counter            a family, its type
//! # UNIT pillion_device_bytes bytes              its unit, which is also the end of its name
//! # HELP pillion_device_bytes Bytes received.
//! pillion_device_bytes_total{device="meter",kind="serial"} 42       one line for each device
//! # EOF                                          the end; without it the text was cut off
//! ```

mod app;
mod configuration;
mod host;
mod logs;

use crate::stats::{
    ApiStatus, AppStatus, CommandsStatus, DeviceState, DeviceStatus, HealthState, Hundredths, InboxStatus, LinkState,
    LinkStatus, Outcomes, ServerState, ServerStatus, SettingsStatus, Status, StreamStatus,
};
use std::fmt;

/// The content type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A family: one number of every `T` there is.
struct Family<T> {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Only grows, but for a restart.
    Counter,
    /// What is so now.
    Gauge,
    /// Always 1; the labels are what it says.
    Info,
    /// A sample for each state, 1 for the one that it is in.
    StateSet,
}

/// The value of a sample.
enum Value {
    Count(u64),
    /// Milliseconds, shown in seconds.
    Millis(u64),
    /// Nanoseconds, shown in seconds.
    Nanos(u64),
    Flag(bool),
    Hundredths(Hundredths),
}

/// A label's name and value.
type Label<'a> = (&'a str, &'a str);

const GENERAL: [Family<Status>; 4] = [
    gauge("pillion_healthy", "Whether everything that is configured works.", |status| {
        Some(Value::Flag(status.health.state == HealthState::Healthy))
    }),
    gauge("pillion_health_reasons", "Things that are wrong now; /v1/health names them.", |status| {
        Some(Value::Count(u64::try_from(status.health.reasons.len()).unwrap_or(u64::MAX)))
    }),
    gauge("pillion_uptime_seconds", "Time since the sidecar started.", |status| Some(Value::Count(status.uptime_s))),
    gauge("pillion_resident_memory_bytes", "Resident memory of the sidecar.", |status| {
        Some(Value::Count(status.host.rss_bytes))
    }),
];

const LINK: [Family<LinkStatus>; 17] = [
    gauge("pillion_link_up", "Whether the broker is connected.", |link| {
        Some(Value::Flag(matches!(link.state, LinkState::Connected | LinkState::Draining)))
    }),
    gauge("pillion_link_since_timestamp_seconds", "When the link came into its state.", |link| {
        Some(Value::Millis(link.since_ms))
    }),
    counter("pillion_link_connects", "Connections that the broker accepted.", |link| Some(Value::Count(link.connects))),
    gauge("pillion_link_in_flight", "Messages sent and not acknowledged yet.", |link| {
        Some(Value::Count(link.in_flight))
    }),
    gauge("pillion_link_window", "Messages that may be under way on the present link.", |link| {
        Some(Value::Count(link.window))
    }),
    counter("pillion_link_acknowledged", "Acknowledgements of messages with records.", |link| {
        Some(Value::Count(link.acknowledged))
    }),
    counter("pillion_link_repeated", "Records sent again after a lost connection.", |link| {
        Some(Value::Count(link.repeated))
    }),
    counter("pillion_link_sent_messages", "Messages with records that were sent.", |link| {
        Some(Value::Count(link.sent_messages))
    }),
    counter("pillion_link_sent_records", "Records in these messages.", |link| Some(Value::Count(link.sent_records))),
    counter("pillion_link_sent_bytes", "Bytes of these messages, topics and payloads.", |link| {
        Some(Value::Count(link.sent_bytes))
    }),
    counter("pillion_link_sent_plain_bytes", "The same before compression.", |link| {
        Some(Value::Count(link.plain_bytes))
    }),
    gauge("pillion_link_budget_bytes", "What may be sent in each period of mqtt.budget; none without one.", |link| {
        link.budget.as_ref().map(|budget| Value::Count(budget.bytes))
    }),
    gauge("pillion_link_budget_used_bytes", "What of mqtt.budget is used in this period.", |link| {
        link.budget.as_ref().map(|budget| Value::Count(budget.used))
    }),
    gauge("pillion_link_held_streams", "Streams that wait for mqtt.budget or the end of their quiet hours.", |link| {
        Some(Value::Count(u64::try_from(link.held.len()).unwrap_or(u64::MAX)))
    }),
    gauge("pillion_link_barred_topics", "Topics on which messages have ended the connection time and again.", |link| {
        Some(Value::Count(u64::try_from(link.barred.len()).unwrap_or(u64::MAX)))
    }),
    counter("pillion_link_unsolicited_acks", "Acknowledgements that nothing was waiting for.", |link| {
        Some(Value::Count(link.unsolicited_acks))
    }),
    counter("pillion_link_ack_timeouts", "Connections given up for want of an acknowledgement.", |link| {
        Some(Value::Count(link.ack_timeouts))
    }),
];

const SERVERS: [Family<ServerStatus>; 6] = [
    gauge("pillion_server_up", "Whether this server is the one that is connected.", |server| {
        Some(Value::Flag(server.state == ServerState::Connected))
    }),
    gauge("pillion_server_since_timestamp_seconds", "When this server came into its state.", |server| {
        Some(Value::Millis(server.since_ms))
    }),
    counter("pillion_server_connects", "Connections that this server accepted.", |server| {
        Some(Value::Count(server.connects))
    }),
    counter("pillion_server_failures", "Tries that came to nothing, and connections that were lost.", |server| {
        Some(Value::Count(server.failures))
    }),
    gauge("pillion_server_last_failure_timestamp_seconds", "When the latest of them was.", |server| {
        server.last_error_ms.map(Value::Millis)
    }),
    gauge("pillion_server_exposed", "Whether this server is remote and spoken to without TLS.", |server| {
        Some(Value::Flag(server.warning.is_some()))
    }),
];

const TLS: Family<u64> = counter("pillion_link_tls_failures", "Connections that TLS did not come about on.", |count| {
    Some(Value::Count(*count))
});

const REFUSALS: Family<u64> =
    counter("pillion_link_refusals", "Messages that the broker did not take.", |count| Some(Value::Count(*count)));

const STREAMS: [Family<StreamStatus>; 11] = [
    counter("pillion_stream_accepted", "Records taken in.", |stream| Some(Value::Count(stream.accepted))),
    counter("pillion_stream_delivered", "Records that the broker acknowledged.", |stream| {
        Some(Value::Count(stream.delivered))
    }),
    gauge("pillion_stream_waiting", "Records that wait for an acknowledgement.", |stream| {
        Some(Value::Count(stream.waiting))
    }),
    counter("pillion_stream_evicted", "Records lost because the stream was full.", |stream| {
        Some(Value::Count(stream.evicted))
    }),
    counter("pillion_stream_expired", "Records lost because they were older than max_age.", |stream| {
        Some(Value::Count(stream.expired))
    }),
    counter("pillion_stream_quarantined", "Records damaged on disk, or too large for the broker.", |stream| {
        Some(Value::Count(stream.quarantined))
    }),
    counter("pillion_stream_refused", "Records never taken in: the stream was full or they were wrong.", |stream| {
        Some(Value::Count(stream.refused))
    }),
    gauge("pillion_stream_bytes", "Size on flash.", |stream| Some(Value::Count(stream.bytes))),
    gauge("pillion_stream_oldest_seconds", "Age of the oldest record that waits; none if none waits.", |stream| {
        stream.oldest_s.map(Value::Count)
    }),
    gauge("pillion_stream_disk_error", "Whether records are held in memory because the disk fails.", |stream| {
        Some(Value::Flag(stream.disk_error.is_some()))
    }),
    gauge("pillion_stream_runtime_error", "Whether a kill costs records because runtime_dir fails.", |stream| {
        Some(Value::Flag(stream.runtime_error.is_some()))
    }),
];

const DEVICES: [Family<DeviceStatus>; 12] = [
    gauge("pillion_device_up", "Whether the device can be talked to.", |device| {
        Some(Value::Flag(device.state == DeviceState::Online))
    }),
    gauge("pillion_device_since_timestamp_seconds", "When the device came into its state.", |device| {
        Some(Value::Millis(device.since_ms))
    }),
    gauge("pillion_device_last_timestamp_seconds", "When the device was last heard of.", |device| {
        device.last_ms.map(Value::Millis)
    }),
    counter("pillion_device_opens", "Times that the device was opened.", |device| Some(Value::Count(device.opens))),
    counter("pillion_device_bytes", "Bytes received.", |device| Some(Value::Count(device.bytes))),
    counter("pillion_device_frames", "Whole frames received.", |device| Some(Value::Count(device.frames))),
    counter("pillion_device_oversize", "Frames longer than framing.max, skipped.", |device| {
        Some(Value::Count(device.oversize))
    }),
    counter("pillion_device_empty", "Empty frames, skipped.", |device| Some(Value::Count(device.empty))),
    counter("pillion_device_incomplete", "Frames cut off because the device vanished or fell silent.", |device| {
        Some(Value::Count(device.incomplete))
    }),
    counter("pillion_device_damaged", "Frames with a wrong CRC, escape or length, skipped.", |device| {
        Some(Value::Count(device.damaged))
    }),
    counter("pillion_device_resyncs", "Times that the next frame was found by its CRC alone.", |device| {
        Some(Value::Count(device.resyncs))
    }),
    counter("pillion_device_not_text", "Frames that are no text and travel as base64.", |device| {
        Some(Value::Count(device.not_text))
    }),
];

const CONFIG: [Family<SettingsStatus>; 9] = [
    gauge("pillion_config_synced", "Whether all keys that the broker has are here.", |config| {
        Some(Value::Flag(config.synced))
    }),
    gauge("pillion_config_keys", "Keys of the application's configuration.", |config| Some(Value::Count(config.keys))),
    gauge("pillion_config_bytes", "Bytes of their values and names.", |config| Some(Value::Count(config.bytes))),
    counter("pillion_config_updates", "Values that were new.", |config| Some(Value::Count(config.updates))),
    counter("pillion_config_deletions", "Keys that were deleted.", |config| Some(Value::Count(config.deletions))),
    counter("pillion_config_refused", "Values that were too large or too many.", |config| {
        Some(Value::Count(config.refused))
    }),
    counter("pillion_config_damaged", "Keys whose files were damaged.", |config| Some(Value::Count(config.damaged))),
    gauge("pillion_config_unconfirmed", "Keys that the broker did not send when asked for all.", |config| {
        Some(Value::Count(config.unconfirmed))
    }),
    gauge("pillion_config_error", "Whether values can't be kept because the disk fails.", |config| {
        Some(Value::Flag(config.error.is_some()))
    }),
];

const INBOX: [Family<InboxStatus>; 8] = [
    gauge("pillion_inbox_kept", "Messages that are kept for the application.", |inbox| Some(Value::Count(inbox.kept))),
    gauge("pillion_inbox_bytes", "Their bytes, topics included.", |inbox| Some(Value::Count(inbox.bytes))),
    gauge("pillion_inbox_latest", "The number of the latest message.", |inbox| Some(Value::Count(inbox.latest))),
    counter("pillion_inbox_received", "Messages taken in.", |inbox| Some(Value::Count(inbox.received))),
    counter("pillion_inbox_repeated", "Messages that came again, and were not taken in again.", |inbox| {
        Some(Value::Count(inbox.repeated))
    }),
    counter("pillion_inbox_dropped", "Messages that went before any client had read them.", |inbox| {
        Some(Value::Count(inbox.dropped))
    }),
    counter("pillion_inbox_refused", "Messages that were too large.", |inbox| Some(Value::Count(inbox.refused))),
    gauge("pillion_inbox_error", "Whether messages can't be kept because the disk fails.", |inbox| {
        Some(Value::Flag(inbox.error.is_some()))
    }),
];

const COMMANDS: [Family<CommandsStatus>; 14] = [
    gauge("pillion_commands_up", "Whether commands can come from the broker.", |commands| {
        Some(Value::Flag(commands.session.state == LinkState::Connected))
    }),
    gauge("pillion_commands_since_timestamp_seconds", "When their session came into its state.", |commands| {
        Some(Value::Millis(commands.session.since_ms))
    }),
    counter("pillion_commands_connects", "Subscriptions that the broker confirmed.", |commands| {
        Some(Value::Count(commands.session.connects))
    }),
    counter("pillion_commands_received", "Messages from the broker.", |commands| {
        Some(Value::Count(commands.session.received))
    }),
    counter("pillion_commands_resets", "Sessions given up with all commands in them.", |commands| {
        Some(Value::Count(commands.session.resets))
    }),
    gauge("pillion_commands_denied", "Topic filters that are not subscribed to, denied or set aside.", |commands| {
        let session = &commands.session;
        Some(Value::Count(u64::try_from(session.denied.len() + session.set_aside.len()).unwrap_or(u64::MAX)))
    }),
    counter("pillion_commands_begun", "Commands handed to their device.", |commands| {
        Some(Value::Count(commands.counts.begun))
    }),
    counter("pillion_commands_done", "Commands that were done.", |commands| Some(Value::Count(commands.counts.done))),
    counter("pillion_commands_failed", "Commands that did not work, or nobody knows.", |commands| {
        Some(Value::Count(commands.counts.failed))
    }),
    counter("pillion_commands_expired", "Commands that were too late.", |commands| {
        Some(Value::Count(commands.counts.expired))
    }),
    counter("pillion_commands_refused", "Commands that were not allowed, malformed or too many.", |commands| {
        Some(Value::Count(commands.counts.refused))
    }),
    counter("pillion_commands_repeated", "Commands that came again, and were not carried out again.", |commands| {
        Some(Value::Count(commands.counts.repeated))
    }),
    counter("pillion_commands_unanswered", "Refusals and repetitions that got no reply.", |commands| {
        Some(Value::Count(commands.counts.unanswered))
    }),
    gauge("pillion_commands_journal_error", "Whether commands are refused because the disk fails.", |commands| {
        Some(Value::Flag(commands.counts.journal_error.is_some()))
    }),
];

const API: [Family<ApiStatus>; 4] = [
    gauge("pillion_api_open", "Connections to the local socket that are open now.", |api| Some(Value::Count(api.open))),
    counter("pillion_api_connections", "Connections to the local socket.", |api| Some(Value::Count(api.connections))),
    counter("pillion_api_sent_away", "Idle or slow connections ended to make room for new ones.", |api| {
        Some(Value::Count(api.sent_away))
    }),
    counter("pillion_api_forbidden", "Requests of users who may not use the local socket.", |api| {
        Some(Value::Count(api.forbidden))
    }),
];

const REQUESTS: Family<u64> =
    counter("pillion_api_requests", "Requests by route and class of the answer.", |count| Some(Value::Count(*count)));
const USERS: Family<u64> =
    counter("pillion_api_user_requests", "Requests by the number of their user.", |count| Some(Value::Count(*count)));

const BUILD: Family<()> = info("pillion_build", "The version that runs.");
const TARGET: Family<()> = info("pillion_target", "Which sidecar this is, of which application, on which machine.");
const SERVER: Family<()> = info("pillion_link", "The server that is connected or was tried last.");
const STATE: Family<LinkState> = Family {
    kind: Kind::StateSet,
    name: "pillion_link_state",
    help: "Where the connection to the broker stands.",
    value: |_| None,
};

/// The words are those of `/v1/status`.
const LINK_STATES: [(LinkState, &str); 4] = [
    (LinkState::Disconnected, "disconnected"),
    (LinkState::Connecting, "connecting"),
    (LinkState::Connected, "connected"),
    (LinkState::Draining, "draining"),
];

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> Option<Value>) -> Family<T> {
    Family { kind: Kind::Counter, name, help, value }
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> Option<Value>) -> Family<T> {
    Family { kind: Kind::Gauge, name, help, value }
}

const fn info(name: &'static str, help: &'static str) -> Family<()> {
    Family { kind: Kind::Info, name, help, value: |()| Some(Value::Count(1)) }
}

/// The whole status as OpenMetrics text.
pub(super) fn render(status: &Status) -> String {
    let mut out = Text(String::with_capacity(8 * 1024));
    out.family(&BUILD, [(vec![("version", status.version.as_str())], &())]);
    let mut target = vec![("sidecar", status.instance.as_str())];
    target.extend(status.app.as_ref().and_then(|app| Some(("unit", app.unit.as_deref()?))));
    target.extend([("host", status.host.name.as_str()), ("boot_id", status.host.boot_id.as_str())]);
    out.family(&TARGET, [(target, &())]);
    out.families(&GENERAL, || [(vec![], status)]);
    let configuration = || status.configuration.iter().map(|configuration| (vec![], configuration));
    out.families(&configuration::CONFIGURATION, configuration);
    let server = status.link.server.as_deref();
    out.family(&SERVER, server.map(|server| (vec![("server", server)], &())));
    out.link_state(status.link.state);
    out.families(&LINK, || [(vec![], &status.link)]);
    out.families(&SERVERS, || {
        status.link.servers.iter().map(|server| (vec![("server", server.server.as_str())], server))
    });
    let failures = &status.link.tls_failures;
    out.family(&TLS, failures.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], count)));
    let refusals = &status.link.refusals;
    out.family(&REFUSALS, refusals.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], count)));
    out.families(&STREAMS, || status.streams.iter().map(|(name, stream)| (vec![("stream", name.as_str())], stream)));
    out.families(&DEVICES, || status.devices.iter().map(|(name, device)| (device_labels(name, device), device)));
    out.families(&COMMANDS, || status.commands.iter().map(|commands| (vec![], commands)));
    out.families(&app::APP, || status.app.iter().map(|app| (vec![], app)));
    out.families(&app::LAST_EXIT, || status.app.iter().map(|app| (exit_labels(app), app)));
    out.logs(status.logs.as_ref());
    out.host(&status.host);
    out.families(&INBOX, || status.inbox.iter().map(|inbox| (vec![], inbox)));
    out.families(&CONFIG, || status.config.iter().map(|config| (vec![], config)));
    out.families(&API, || status.api.iter().map(|api| (vec![], api)));
    out.family(&REQUESTS, status.api.iter().flat_map(|api| &api.requests).flat_map(outcome_rows));
    let users = status.api.iter().flat_map(|api| &api.users);
    out.family(&USERS, users.map(|(user, count)| (vec![("uid", user.as_str())], count)));
    out.0.push_str("# EOF\n");
    out.0
}

fn device_labels<'a>(name: &'a str, device: &'a DeviceStatus) -> Vec<Label<'a>> {
    vec![("device", name), ("kind", &device.kind)]
}

fn exit_labels(app: &AppStatus) -> Vec<Label<'_>> {
    app.last_exit.iter().map(|exit| ("cause", exit.cause.as_str())).collect()
}

fn outcome_rows<'a>((route, outcomes): (&'a String, &'a Outcomes)) -> [(Vec<Label<'a>>, &'a u64); 3] {
    let row = |class, count| (vec![("route", route.as_str()), ("class", class)], count);
    [row("ok", &outcomes.ok), row("4xx", &outcomes.client_errors), row("5xx", &outcomes.server_errors)]
}

/// The text so far.
struct Text(String);

impl Text {
    /// Families that have the same rows.
    fn families<'a, T: 'a, R>(&mut self, families: &[Family<T>], rows: impl Fn() -> R)
    where
        R: IntoIterator<Item = (Vec<Label<'a>>, &'a T)>,
    {
        families.iter().for_each(|family| self.family(family, rows()));
    }

    /// A family with a sample for each row that has a value; nothing at all if none has.
    fn family<'a, T: 'a>(&mut self, family: &Family<T>, rows: impl IntoIterator<Item = (Vec<Label<'a>>, &'a T)>) {
        let samples = rows.into_iter().filter_map(|(labels, row)| Some((labels, (family.value)(row)?)));
        for (number, (labels, value)) in samples.enumerate() {
            if number == 0 {
                self.head(family);
            }
            self.sample(family, &labels, &value);
        }
    }

    fn link_state(&mut self, now: LinkState) {
        self.head(&STATE);
        for (state, word) in LINK_STATES {
            self.sample(&STATE, &[(STATE.name, word)], &Value::Flag(state == now));
        }
    }

    fn head<T>(&mut self, family: &Family<T>) {
        let Family { kind, name, help, .. } = family;
        self.0 += &format!("# TYPE {name} {kind}\n");
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}"))) {
            self.0 += &format!("# UNIT {name} {unit}\n");
        }
        self.0 += &format!("# HELP {name} {help}\n");
    }

    fn sample<T>(&mut self, family: &Family<T>, labels: &[Label<'_>], value: &Value) {
        self.0.push_str(family.name);
        self.0.push_str(match family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::StateSet => "",
        });
        for (number, (name, value)) in labels.iter().enumerate() {
            self.0.push(if number == 0 { '{' } else { ',' });
            self.0 += &format!("{name}=\"{}\"", Escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0 += &format!(" {value}\n");
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "info",
            Kind::StateSet => "stateset",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Count(count) => write!(f, "{count}"),
            Value::Millis(millis) => write!(f, "{}.{:03}", millis / 1000, millis % 1000),
            Value::Nanos(nanos) => write!(f, "{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000),
            Value::Hundredths(number) => write!(f, "{number}"),
            Value::Flag(flag) => write!(f, "{}", u8::from(*flag)),
        }
    }
}

/// A label's value between its quotes. The format has escapes for three characters only; it allows other control
/// characters as they are, but some readers take a NUL for the end, so they are shown as U+FFFD.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c if c.is_control() => f.write_char(char::REPLACEMENT_CHARACTER),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{
        AppUsage, ConfigurationStatus, DiskSpace, FlashWear, Health, HeartbeatStatus, HostStatus, Interface, LastExit,
        Load, Memory, Power, Pressure, ReloadOutcome, ReloadStatus, SpareBlocks, Stall, Temperature,
    };
    use serde_json::{Value as Json, json};
    use std::collections::BTreeSet;

    fn small() -> Status {
        let telemetry = StreamStatus {
            accepted: 10,
            delivered: 4,
            waiting: 3,
            evicted: 2,
            expired: 1,
            bytes: 4096,
            oldest_s: Some(7),
            ..StreamStatus::default()
        };
        Status {
            version: "0.1.0".into(),
            instance: "gateway".into(),
            uptime_s: 61,
            health: Health { state: HealthState::Degraded, reasons: vec!["the meter is gone".into()] },
            configuration: None,
            link: LinkStatus {
                state: LinkState::Connected,
                server: Some("mqtt://b:1883".into()),
                since_ms: 1_795_401_667_023,
                acknowledged: 4,
                ..LinkStatus::default()
            },
            streams: [("event".to_owned(), StreamStatus::default()), ("telemetry".to_owned(), telemetry)].into(),
            devices: [("meter".to_owned(), DeviceStatus::closed("serial", 5))].into(),
            commands: None,
            inbox: None,
            config: None,
            api: None,
            app: None,
            logs: None,
            host: HostStatus {
                name: "gw".into(),
                boot_id: "b-1".into(),
                rss_bytes: 5_000_000,
                ..HostStatus::default()
            },
        }
    }

    #[test]
    fn the_text_never_changes_its_shape() {
        let text = render(&small());
        let families: Vec<&str> = text.split("# TYPE ").skip(1).collect();
        let of = |name: &str| {
            let found = families.iter().find(|family| family.split(' ').next() == Some(name));
            found.map_or_else(|| panic!("no {name} in {text}"), |family| format!("# TYPE {family}"))
        };
        assert_eq!(
            of("pillion_build"),
            "# TYPE pillion_build info\n# HELP pillion_build The version that runs.\npillion_build_info{version=\"0.1.0\"} 1\n"
        );
        assert!(
            of("pillion_target")
                .ends_with("\npillion_target_info{sidecar=\"gateway\",host=\"gw\",boot_id=\"b-1\"} 1\n")
        );
        assert_eq!(
            of("pillion_uptime_seconds"),
            "# TYPE pillion_uptime_seconds gauge\n# UNIT pillion_uptime_seconds seconds\n\
             # HELP pillion_uptime_seconds Time since the sidecar started.\npillion_uptime_seconds 61\n"
        );
        assert!(of("pillion_healthy").ends_with("\npillion_healthy 0\n"));
        assert!(of("pillion_health_reasons").ends_with("\npillion_health_reasons 1\n"));
        assert!(of("pillion_link").ends_with("\npillion_link_info{server=\"mqtt://b:1883\"} 1\n"));
        assert_eq!(
            of("pillion_link_state"),
            "# TYPE pillion_link_state stateset\n# HELP pillion_link_state Where the connection to the broker stands.\n\
             pillion_link_state{pillion_link_state=\"disconnected\"} 0\n\
             pillion_link_state{pillion_link_state=\"connecting\"} 0\n\
             pillion_link_state{pillion_link_state=\"connected\"} 1\n\
             pillion_link_state{pillion_link_state=\"draining\"} 0\n"
        );
        assert!(of("pillion_link_up").ends_with("\npillion_link_up 1\n"));
        assert!(of("pillion_link_since_timestamp_seconds").ends_with(" 1795401667.023\n"));
        assert_eq!(
            of("pillion_stream_evicted"),
            "# TYPE pillion_stream_evicted counter\n\
             # HELP pillion_stream_evicted Records lost because the stream was full.\n\
             pillion_stream_evicted_total{stream=\"event\"} 0\npillion_stream_evicted_total{stream=\"telemetry\"} 2\n"
        );
        assert!(
            of("pillion_stream_oldest_seconds")
                .ends_with("waits.\npillion_stream_oldest_seconds{stream=\"telemetry\"} 7\n")
        );
        assert_eq!(
            of("pillion_device_not_text"),
            "# TYPE pillion_device_not_text counter\n\
             # HELP pillion_device_not_text Frames that are no text and travel as base64.\n\
             pillion_device_not_text_total{device=\"meter\",kind=\"serial\"} 0\n# EOF\n"
        );
        assert!(of("pillion_device_bytes").contains("# UNIT pillion_device_bytes bytes\n"));
        assert_eq!(families.len(), 44, "families");
    }

    #[test]
    fn a_hostile_value_never_breaks_out_of_its_label() {
        let mut status = small();
        let evil = "a\"} 1\n# EOF\n\\\r\0\u{7f}ü";
        let escaped = "a\\\"} 1\\n# EOF\\n\\\\\u{fffd}\u{fffd}\u{fffd}ü";
        status.version = evil.into();
        status.instance = evil.into();
        status.link.server = Some(evil.into());
        status.streams = [(evil.to_owned(), status.streams["telemetry"].clone())].into();
        status.devices = [(evil.to_owned(), DeviceStatus::closed(evil, 0))].into();
        let lines = render(&small()).lines().filter(|line| !line.contains("{stream=\"event\"}")).count();
        let text = render(&status);
        assert_eq!(text.lines().count(), lines, "{text}");
        assert_eq!(text.matches("# EOF\n").count(), 1);
        assert!(text.ends_with("\n# EOF\n"));
        assert!(text.contains(&format!("pillion_build_info{{version=\"{escaped}\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("pillion_device_up{{device=\"{escaped}\",kind=\"{escaped}\"}} 0\n")), "{text}");
    }

    #[test]
    fn a_spool_that_does_not_answer_never_breaks_the_text() {
        let mut status = small();
        status.streams.clear();
        status.devices.clear();
        status.link.server = None;
        let text = render(&status);
        assert!(!text.contains("pillion_stream") && !text.contains("pillion_device") && !text.contains("server="));
        assert!(text.ends_with("\n# EOF\n"));
    }

    /// A machine that tells all there is.
    fn telling_host() -> HostStatus {
        let zero = Some(Hundredths(0));
        let pressure = Pressure { full: Some(Stall::default()), ..Pressure::default() };
        let hot = Temperature { critical_celsius: zero, ..Temperature::default() };
        let worn = FlashWear { life_used_percent: Some(0), spare_blocks: Some(SpareBlocks::Urgent) };
        HostStatus {
            uptime_s: Some(0),
            load: Some(Load::default()),
            memory: Some(Memory::default()),
            disk: Some(DiskSpace { inodes: Some(0), inodes_free: Some(0), ..DiskSpace::default() }),
            pressure: [("io".to_owned(), pressure)].into(),
            temperatures: [("cpu".to_owned(), hot)].into(),
            power: Some(Power { throttled: Some(true), undervoltage_since_boot: Some(true), ..Power::default() }),
            flash: [("mmcblk0".to_owned(), worn)].into(),
            network: [("eth0".to_owned(), Interface { state: "up".into(), addresses: vec![[192, 0, 2, 1].into()] })]
                .into(),
            ..HostStatus::default()
        }
    }

    #[test]
    fn what_the_machine_does_not_tell_is_never_a_number() {
        assert!(!render(&small()).contains("pillion_host"));
        let mut status = small();
        status.host = telling_host();
        status.host.temperatures.values_mut().for_each(|sensor| sensor.celsius = Hundredths(-1250));
        let text = render(&status);
        for sample in [
            "pillion_host_temperature_celsius{sensor=\"cpu\"} -12.5",
            "pillion_host_pressure_avg60{resource=\"io\",kind=\"full\"} 0",
            "pillion_host_undervoltage 0",
            "pillion_host_undervoltage_since_boot 1",
            "pillion_host_flash_spare_blocks_low{chip=\"mmcblk0\"} 1",
            "pillion_host_network_up{interface=\"eth0\"} 1",
            "pillion_host_network_addresses{interface=\"eth0\"} 1",
        ] {
            assert!(text.lines().any(|line| line == sample), "no {sample} in {text}");
        }
        assert!(!text.contains("pillion_host_clock_synced") && !text.contains("throttled_since_boot"));
    }

    /// A status in which every number is another one.
    fn distinct() -> (Status, BTreeSet<String>) {
        let mut status = small();
        status.streams = [("t".to_owned(), StreamStatus { oldest_s: Some(0), ..StreamStatus::default() })].into();
        status.commands = Some(CommandsStatus::default());
        status.api = Some(ApiStatus {
            requests: [("GET /v1/health".to_owned(), Outcomes::default())].into(),
            users: [("1000".to_owned(), 0)].into(),
            ..ApiStatus::default()
        });
        status.host = telling_host();
        status.inbox = Some(InboxStatus::default());
        status.config = Some(SettingsStatus::default());
        let reload = ReloadStatus {
            at_ms: 0,
            outcome: ReloadOutcome::Unchanged,
            keys: vec![],
            problems: vec![],
            more_problems: 0,
        };
        status.configuration =
            Some(ConfigurationStatus { last_reload: Some(reload), ..ConfigurationStatus::default() });
        let count = Some(0);
        status.app = Some(AppStatus {
            pid: Some(0),
            restarts: count,
            usage: AppUsage {
                cpu_ns: count,
                memory_bytes: count,
                memory_peak: count,
                memory_limit: count,
                tasks: count,
                descriptors: count,
            },
            heartbeat: HeartbeatStatus { age_ms: count, timeout_ms: count, ..HeartbeatStatus::default() },
            last_exit: Some(LastExit { code: Some(0), at_ms: count, ..LastExit::default() }),
            ..AppStatus::default()
        });
        let mut document = serde_json::to_value(&status).unwrap();
        let mut numbers = BTreeSet::new();
        number("", &mut document, &mut numbers);
        (serde_json::from_value(document).unwrap(), numbers)
    }

    fn number(key: &str, place: &mut Json, numbers: &mut BTreeSet<String>) {
        match place {
            Json::Object(fields) => fields.iter_mut().for_each(|(key, field)| number(key, field, numbers)),
            Json::Number(_) => {
                let new = 1001 + u64::try_from(numbers.len()).unwrap();
                let shown = match key {
                    key if key.ends_with("_ms") => Value::Millis(new),
                    key if key.ends_with("_ns") => Value::Nanos(new),
                    _ => Value::Count(new),
                };
                numbers.insert(shown.to_string());
                *place = json!(new);
            }
            _ => {}
        }
    }

    #[test]
    fn no_number_of_the_status_is_ever_left_out() {
        let (status, numbers) = distinct();
        assert!(numbers.len() > 25, "{numbers:?}");
        let text = render(&status);
        let shown: BTreeSet<&str> = text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.1)).collect();
        let missing: Vec<&String> = numbers.iter().filter(|number| !shown.contains(number.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?} of {status:?} in {text}");
    }

    #[test]
    fn states_are_never_called_otherwise_than_in_the_status() {
        for (state, word) in LINK_STATES {
            assert_eq!(serde_json::to_value(state).unwrap(), word);
        }
    }
}
