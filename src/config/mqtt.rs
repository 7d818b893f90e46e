//! `[mqtt]`: what the broker is told, and the names that end up in topics; whom to connect to is in `servers`, and with what
//! keys in `tls`.

mod servers;
mod tls;

pub use servers::Server;
pub use tls::{Identity, Tls};

use super::effective::{Toml, quoted};
use super::reader::{Report, Section};
use super::sections::Context;
use super::tree::Value;
use super::units::{self, duration_text, size_text};
use super::{Budget, keys, pacing, values};
use std::path::PathBuf;
use std::time::Duration;

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// The protocol's version (default 3.1.1).
    pub version: MqttVersion,
    /// Tried in order, then round again. Not empty.
    pub servers: Vec<Server>,
    /// Expanded.
    pub client_id: String,
    /// Expanded, without a slash at the end; called P in the documentation.
    pub topic_prefix: String,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// The file that holds the password, resolved to where it is looked for.
    pub password_file: Option<PathBuf>,
    /// For servers with `mqtts://`.
    pub tls: Tls,
    /// Whole seconds, 1 s to 65,535 s (default 30 s): MQTT 3.1.1 section 3.1.2.10.
    pub keep_alive: Duration,
    /// Unacknowledged records on the wire, 1 to 65,535 (default 128).
    pub inflight: u16,
    /// The connection is given up when an acknowledgement takes longer (default 20 s).
    pub ack_timeout: Duration,
    /// How often a better server than the present one is looked at, 1 s to a day; `None`: never (default 5 min).
    pub fall_back: Option<Duration>,
    /// The largest message in bytes, envelope included, topic and header not (default 256 KiB).
    pub max_payload: usize,
    /// Records per second of what was accepted before the present connection, 0 to 1,000,000; 0, the default, for no
    /// limit.
    pub backfill_rate: u32,
    /// What may be sent in an hour, day or month. `None`: no limit.
    pub budget: Option<Budget>,
}

/// `mqtt.version`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MqttVersion {
    /// 3.1.1
    #[default]
    V3_1_1,
    /// 5
    V5,
}

impl MqttVersion {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            MqttVersion::V3_1_1 => "3.1.1",
            MqttVersion::V5 => "5",
        }
    }
}

/// What MQTT allows any text to have: its length field has two bytes (MQTT 3.1.1 section 1.5.3).
const LONGEST_TEXT: usize = 65_535;
/// Topic names share that limit; this leaves room for what comes below the prefix.
const LONGEST_PREFIX: usize = 1024;
const HOUR: Duration = Duration::from_secs(3600);
const FALL_BACK: Duration = Duration::from_secs(300);

/// Reads the section. `instance` is already checked.
pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, context: &Context<'_>, instance: &str) -> Mqtt {
    let section = root.section(report, &keys::MQTT, "mqtt", "[mqtt] and its keys below");
    section.refuse_unknown(report);
    let versions = [MqttVersion::V3_1_1, MqttVersion::V5].map(|version| (version.name(), version));
    let host = topic_safe(&context.surroundings.host);
    let name = |report: &mut Report<'_>, key, default, check: fn(&str) -> Result<(), String>| {
        let given = section.read(report, key, |value| {
            let expanded = expand(values::text(value)?, &host, instance)?;
            check(&expanded).map(|()| expanded)
        });
        given.unwrap_or_else(|| expand(default, &host, instance).unwrap_or_default())
    };
    let client_id = name(report, "client_id", "{host}-{instance}", client_id);
    let topic_prefix = name(report, "topic_prefix", "pillion/{host}/{instance}", prefix);
    warn_of_host(&section, report, &context.surroundings.host, &host);
    let seconds = |least, most| Duration::from_secs(least)..=Duration::from_secs(most);
    let servers = servers::read(&section, report);
    let mqtt = Mqtt {
        version: section.choice(report, "version", &versions).unwrap_or_default(),
        tls: tls::read(&section, report, context, &servers),
        servers,
        client_id,
        topic_prefix,
        username: section
            .read(report, "username", |value| values::mqtt_text(values::text(value)?, LONGEST_TEXT).map(str::to_owned)),
        password_file: section.read(report, "password_file", |value| secret(value, context)),
        keep_alive: section.read(report, "keep_alive", keep_alive).unwrap_or(Duration::from_secs(30)),
        inflight: section
            .read(report, "inflight", |value| values::number(value, 1..=65_535, "give 1 to 65535, such as 128"))
            .unwrap_or(128),
        ack_timeout: section
            .read(report, "ack_timeout", |value| values::duration(value, seconds(1, HOUR.as_secs()), "20s"))
            .unwrap_or(Duration::from_secs(20)),
        fall_back: section.read(report, "fall_back", fall_back).unwrap_or(Some(FALL_BACK)),
        max_payload: section.read(report, "max_payload", max_payload).unwrap_or(256 << 10),
        backfill_rate: section
            .read(report, "backfill_rate", |value| {
                values::number(value, 0..=1_000_000, "give records per second, 1 to 1000000, or 0 for no limit")
            })
            .unwrap_or(0),
        budget: section.read(report, "budget", pacing::budget),
    };
    if section.has("password_file") && !section.has("username") {
        let message = "a password without a user name is not possible in MQTT 3.1.1; give username too".to_owned();
        report.conclusion(section.place("password_file"), section.key("password_file"), message);
    }
    mqtt
}

fn keep_alive(value: &Value) -> Result<Duration, String> {
    let most = Duration::from_secs(65_535);
    match values::duration(value, Duration::from_secs(1)..=most, "30s")? {
        fraction if fraction.subsec_nanos() != 0 => {
            let whole = units::duration_text(Duration::from_secs(fraction.as_secs()));
            Err(format!(
                "{} is not in whole seconds, which is all that MQTT knows; write \"{whole}\"",
                values::show(value)
            ))
        }
        whole => Ok(whole),
    }
}

fn fall_back(value: &Value) -> Result<Option<Duration>, String> {
    if values::text(value).is_ok_and(|text| text == "off") {
        return Ok(None);
    }
    values::duration(value, Duration::from_secs(1)..=24 * HOUR, "5m")
        .map(Some)
        .map_err(|problem| format!("{problem}, or \"off\""))
}

fn max_payload(value: &Value) -> Result<usize, String> {
    let bytes = values::size(value, 1 << 10..=8 << 20, "256KiB")?;
    usize::try_from(bytes).map_err(|_| format!("{} is out of range", values::show(value)))
}

/// A relative path is looked for among the credentials of the unit, then beside the configuration.
fn secret(value: &Value, context: &Context<'_>) -> Result<PathBuf, String> {
    let path = values::any_path(values::text(value)?)?;
    let credential = context.surroundings.credentials_directory.as_ref().map(|folder| folder.join(path));
    let found = credential.filter(|path| (context.is_file)(path));
    Ok(found.unwrap_or_else(|| context.folder.join(path)))
}

/// Puts the host and the instance where `{host}` and `{instance}` stand.
pub(super) fn expand(template: &str, host: &str, instance: &str) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = template;
    while let Some((before, braces)) = rest.find(['{', '}']).and_then(|start| rest.split_at_checked(start)) {
        expanded.push_str(before);
        rest = if let Some(after) = braces.strip_prefix("{host}") {
            expanded.push_str(host);
            after
        } else if let Some(after) = braces.strip_prefix("{instance}") {
            expanded.push_str(instance);
            after
        } else {
            let found = braces.split_inclusive('}').next().unwrap_or_default();
            let found = if found.starts_with('{') { found } else { "}" };
            return Err(format!(
                "{} stands for nothing; {{host}} and {{instance}} are all that braces are for",
                values::quoted(found)
            ));
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Says so when `{host}` is not the host's name as it is.
fn warn_of_host(section: &Section<'_>, report: &mut Report<'_>, host: &str, safe: &str) {
    for key in ["client_id", "topic_prefix"] {
        let given = section.read(report, key, values::text);
        if host != safe && given.is_none_or(|template| template.contains("{host}")) {
            let (host, safe) = (values::quoted(host), values::quoted(safe));
            let message = format!("the host name {host} does not fit into a topic; {{host}} stands for {safe}");
            report.warning(section.place(key), section.key(key), message);
        }
    }
}

/// A host name is set by whoever administers or rents the machine: in a topic it must be one level and no wildcard.
pub(super) fn topic_safe(host: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let safe: String = host.chars().take(64).map(|c| if fits(c) { c } else { '-' }).collect();
    if safe.is_empty() { "localhost".to_owned() } else { safe }
}

fn client_id(client_id: &str) -> Result<(), String> {
    values::mqtt_text(client_id, LONGEST_TEXT).map(|_| ())
}

/// What stands before every topic: one that messages can be published to (MQTT 3.1.1 section 4.7), with no empty level.
fn prefix(prefix: &str) -> Result<(), String> {
    values::mqtt_text(prefix, LONGEST_PREFIX)?;
    let shown = values::quoted(prefix);
    match prefix {
        _ if prefix.contains(['+', '#']) => Err(format!("{shown} holds a wildcard; remove + and #")),
        _ if prefix.starts_with('$') => Err(format!("{shown} begins with $, which is the broker's own; remove it")),
        _ if prefix.split('/').any(str::is_empty) => {
            Err(format!("{shown} has an empty level; write no / at the start, at the end or next to another"))
        }
        _ => Ok(()),
    }
}

impl Mqtt {
    /// The section as TOML.
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[mqtt]");
        let servers: Vec<String> = self.servers.iter().map(|server| quoted(&server.to_string())).collect();
        out.plain("servers", format!("[{}]", servers.join(", ")));
        out.text("version", self.version.name());
        out.text("client_id", &self.client_id);
        out.text("topic_prefix", &self.topic_prefix);
        if let Some(username) = &self.username {
            out.text("username", username);
        }
        if let Some(file) = &self.password_file {
            out.path("password_file", file);
        }
        self.tls.toml(out);
        out.text("keep_alive", &duration_text(self.keep_alive));
        out.plain("inflight", self.inflight);
        out.text("ack_timeout", &duration_text(self.ack_timeout));
        out.text("fall_back", &self.fall_back.map_or_else(|| "off".to_owned(), duration_text));
        out.text("max_payload", &size_text(u64::try_from(self.max_payload).unwrap_or(u64::MAX)));
        out.plain("backfill_rate", self.backfill_rate);
        if let Some(budget) = &self.budget {
            out.text("budget", &budget.text());
        }
    }
}
