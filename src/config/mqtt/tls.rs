//! The keys of `[mqtt]` for servers that are spoken to over TLS.

use super::secret;
use super::servers::{Server, is_host};
use crate::config::effective::{Toml, quoted};
use crate::config::reader::{Report, Section};
use crate::config::sections::Context;
use crate::config::tree::{Node, Value};
use crate::config::values;
use std::path::PathBuf;

const MOST_PROTOCOLS: usize = 8;

/// The keys of `[mqtt]` for servers with `mqtts://`. Files are read again for each connection when they have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Whom to trust, in PEM. `None`: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Who we are: the certificate, its chain behind it, and the key, in PEM. `None`: the broker does not ask.
    pub identity: Option<Identity>,
    /// The name that the broker's certificate must have. `None`: the host of its address.
    pub server_name: Option<String>,
    /// Protocols to offer (ALPN, RFC 7301), for brokers that share a port with others.
    pub alpn: Vec<String>,
}

/// `cert_file` and `key_file`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and its chain behind it.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// What TLS needs, and whether any server speaks it.
pub(super) fn read(section: &Section<'_>, report: &mut Report<'_>, context: &Context<'_>, servers: &[Server]) -> Tls {
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

impl Tls {
    /// Its keys as TOML.
    pub(super) fn toml(&self, out: &mut Toml) {
        let Tls { ca_file, identity, server_name, alpn } = self;
        if let Some(file) = ca_file {
            out.path("ca_file", file);
        }
        if let Some(Identity { cert_file, key_file }) = identity {
            out.path("cert_file", cert_file);
            out.path("key_file", key_file);
        }
        if let Some(name) = server_name {
            out.text("server_name", name);
        }
        if !alpn.is_empty() {
            let protocols: Vec<String> = alpn.iter().map(|protocol| quoted(protocol)).collect();
            out.plain("alpn", format!("[{}]", protocols.join(", ")));
        }
    }
}
