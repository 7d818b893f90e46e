//! `mqtt.servers`: addresses of brokers.

use crate::config::reader::{Report, Section};
use crate::config::tree::{Node, Value};
use crate::config::values;
use std::net::{IpAddr, Ipv6Addr};

const MOST_SERVERS: usize = 64;

/// One element of `mqtt.servers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Whether it is spoken to over TLS: `mqtts://`, `wss://`.
    pub tls: bool,
    /// The path of a WebSocket (RFC 6455), with its query if it has one: `ws://`, `wss://`.
    pub websocket: Option<String>,
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// TCP port (default 1883, with TLS 8883; for WebSockets 80 and 443).
    pub port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match (self.tls, self.websocket.is_some()) {
            (false, false) => "mqtt",
            (true, false) => "mqtts",
            (false, true) => "ws",
            (true, true) => "wss",
        };
        let path = self.websocket.as_deref().unwrap_or_default();
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}{path}", self.host, self.port),
        }
    }
}

/// Reads the list; without one, or where all of it is wrong, the local broker stands in.
pub(super) fn read(section: &Section<'_>, report: &mut Report<'_>) -> Vec<Server> {
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
            // Twice in a list it would be one series of metrics with two values.
            Ok(server) if servers.contains(&server) => {
                report.warning(*place, key, "is in the list already; it is used once".to_owned());
            }
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

/// A DNS name or an address: letters, digits, `-`, `_` and `.` (RFC 1123, and the underscore that LANs use).
pub(super) fn is_host(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = (1..=253).contains(&host.len()) && host.chars().all(fits) && !host.starts_with(['-', '.']);
    is_name || host.parse::<Ipv6Addr>().is_ok()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
