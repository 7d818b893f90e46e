//! `[mqtt]`: addresses of brokers, and the names that end up in topics.

use super::keys;
use super::reader::{Report, Section};
use super::sections::Context;
use super::tree::{Node, Value};
use super::{Identity, Mqtt, MqttVersion, Server, Tls, pacing, units, values};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// What MQTT allows any text to have: its length field has two bytes (MQTT 3.1.1 section 1.5.3).
const LONGEST_TEXT: usize = 65_535;
/// Topic names share that limit; this leaves room for what comes below the prefix.
const LONGEST_PREFIX: usize = 1024;
const MOST_SERVERS: usize = 64;
const MOST_PROTOCOLS: usize = 8;
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
    let servers = servers(&section, report);
    let mqtt = Mqtt {
        version: section.choice(report, "version", &versions).unwrap_or_default(),
        tls: tls(&section, report, context, &servers),
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

fn servers(section: &Section<'_>, report: &mut Report<'_>) -> Vec<Server> {
    const EXAMPLE: &str = "servers = [\"mqtt://broker.example:1883\"]";
    let default = || vec![Server { tls: false, websocket: None, host: "localhost".to_owned(), port: 1883 }];
    let given = section.read(report, "servers", |value| match value {
        Value::List(list) if list.is_empty() => Err(format!("is empty; give at least one, such as {EXAMPLE}")),
        Value::List(list) if list.len() > MOST_SERVERS => {
            Err(format!("has {} elements; give at most {MOST_SERVERS}", list.len()))
        }
        Value::List(list) => Ok(list),
        _ => Err(format!("is not a list; write {EXAMPLE}")),
    });
    let mut servers = Vec::new();
    for (index, Node { place, value }) in given.into_iter().flatten().enumerate() {
        let key = format!("{}[{index}]", section.key("servers"));
        match values::text(value).and_then(server) {
            Ok(server) => {
                if let Some(warning) = server.warning() {
                    report.warning(*place, key, warning);
                }
                servers.push(server);
            }
            Err(message) => report.problem(*place, key, message),
        }
    }
    if servers.is_empty() { default() } else { servers }
}

impl Server {
    /// What is to be said of an address that is not local and has no TLS.
    pub fn warning(&self) -> Option<String> {
        let is_exposed = !self.tls && !is_loopback(&self.host);
        is_exposed.then(|| {
            format!(
                "plain MQTT to a remote host: all that goes to {} and comes back, the password too, can be read and \
                 changed on the way; write mqtts:// for TLS, or use it only on a network that you trust",
                self.host
            )
        })
    }
}

/// How a broker is spoken to.
struct Scheme {
    name: &'static str,
    tls: bool,
    websocket: bool,
    port: u16,
}

const PLAIN: Scheme = Scheme { name: "mqtt", tls: false, websocket: false, port: 1883 };
const SCHEMES: [Scheme; 4] = [
    PLAIN,
    Scheme { name: "mqtts", tls: true, websocket: false, port: 8883 },
    Scheme { name: "ws", tls: false, websocket: true, port: 80 },
    Scheme { name: "wss", tls: true, websocket: true, port: 443 },
];
/// Where most brokers have it.
const WEBSOCKET_PATH: &str = "/mqtt";

/// Reads `mqtt://host[:port]`, `wss://host[:port][/path]`. No message repeats what may be a password.
fn server(text: &str) -> Result<Server, String> {
    if text.contains('@') {
        return Err("a user name or password has no place in the address, which is shown to everyone; write \
                    mqtts://HOST:PORT and give username and password_file"
            .to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match host_and_port(text, &PLAIN) {
            Ok(server) => format!("{} has no scheme; write \"{server}\"", values::quoted(text)),
            Err(_) => not_a_server(text),
        });
    };
    match SCHEMES.iter().find(|known| scheme.eq_ignore_ascii_case(known.name)) {
        Some(scheme) => host_and_port(rest, scheme).map_err(|problem| format!("{} {problem}", values::quoted(text))),
        None => {
            let scheme = values::quoted(&format!("{}://", scheme.to_ascii_lowercase()));
            Err(format!(
                "{scheme} is not supported; write mqtts://HOST:PORT for MQTT over TLS, mqtt://HOST:PORT, or \
                 wss://HOST:PORT/PATH for a WebSocket"
            ))
        }
    }
}

fn not_a_server(text: &str) -> String {
    format!("{} is not a broker's address; write one such as \"mqtt://broker.example:1883\"", values::quoted(text))
}

fn host_and_port(text: &str, scheme: &Scheme) -> Result<Server, String> {
    let Scheme { name: scheme, tls, websocket, port: default } = *scheme;
    let advice = format!("write {scheme}://HOST:PORT");
    let (text, path) = text.split_at_checked(text.find(['/', '?', '#']).unwrap_or(text.len())).unwrap_or((text, ""));
    let websocket = match path {
        "" => websocket.then(|| WEBSOCKET_PATH.to_owned()),
        _ if !websocket => return Err(format!("has a path; {advice} and nothing behind it")),
        path if path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic() && c != '#') => {
            Some(path.to_owned())
        }
        _ => return Err(format!("has no valid path; {advice}/PATH, in ASCII and without #")),
    };
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) if address.parse::<Ipv6Addr>().is_ok() => (address, port),
        Some(_) => {
            return Err(format!("is not an IPv6 address in brackets; write one such as {scheme}://[::1]:{default}"));
        }
        None if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 => {
            return Err(format!("has an IPv6 address without brackets; write it as in {scheme}://[::1]:{default}"));
        }
        None => text.split_at_checked(text.find(':').unwrap_or(text.len())).unwrap_or((text, "")),
    };
    if !is_host(host) {
        return Err(format!("has no valid host name; {advice}"));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => Some(default),
        Some(digits) if digits.chars().all(|c| c.is_ascii_digit()) => digits.parse().ok().filter(|port| *port > 0),
        _ => None,
    };
    match port {
        Some(port) => Ok(Server { tls, websocket, host: host.to_owned(), port }),
        None => Err(format!("has no valid port; give 1 to 65535, or none for {default}")),
    }
}

/// What TLS needs, and whether any server speaks it.
fn tls(section: &Section<'_>, report: &mut Report<'_>, context: &Context<'_>, servers: &[Server]) -> Tls {
    let mut file = |key| section.read(report, key, |value| secret(value, context));
    let (ca_file, cert_file, key_file) = (file("ca_file"), file("cert_file"), file("key_file"));
    let server_name = section.read(report, "server_name", |value| match values::text(value)? {
        name if is_host(name) => Ok(name.to_owned()),
        name => Err(format!("{} is not a host name; give the name in the broker's certificate", values::quoted(name))),
    });
    let alpn = section.read(report, "alpn", alpn).unwrap_or_default();
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(one) && !section.has(other) {
            let message = format!("is of no use without {other}; give both, or neither");
            report.conclusion(section.place(one), section.key(one), message);
        }
    }
    if servers.iter().all(|server| !server.tls) {
        for key in
            ["ca_file", "cert_file", "key_file", "server_name", "alpn"].into_iter().filter(|key| section.has(key))
        {
            let message = "is not used: no server has mqtts:// or wss://, so nothing is encrypted".to_owned();
            report.warning(section.place(key), section.key(key), message);
        }
    }
    let identity = cert_file.zip(key_file).map(|(cert_file, key_file)| Identity { cert_file, key_file });
    Tls { ca_file, identity, server_name, alpn }
}

/// Names of protocols; each may have 1 to 255 bytes (RFC 7301 section 3.1).
fn alpn(value: &Value) -> Result<Vec<String>, String> {
    let Value::List(list) = value else { return Err("is not a list; write alpn = [\"mqtt\"]".to_owned()) };
    if list.len() > MOST_PROTOCOLS {
        return Err(format!("has {} elements; give at most {MOST_PROTOCOLS}", list.len()));
    }
    let protocol = |node: &Node| match values::text(&node.value)? {
        name if (1..=255).contains(&name.len()) => Ok(name.to_owned()),
        name => Err(format!("{} is not a protocol's name of 1 to 255 bytes", values::quoted(name))),
    };
    list.iter().map(protocol).collect()
}

/// A DNS name or an address: letters, digits, `-`, `_` and `.` (RFC 1123, and the underscore that LANs use).
fn is_host(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = (1..=253).contains(&host.len()) && host.chars().all(fits) && !host.starts_with(['-', '.']);
    is_name || host.parse::<Ipv6Addr>().is_ok()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
