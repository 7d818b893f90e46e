//! A configuration as TOML again: every key with the value that counts. Reading it gives the same configuration.
//!
//! Constraint: no secrets; a password is only ever the name of its file. Paths that are not UTF-8 can't be written
//! in TOML; their odd bytes come out as U+FFFD.

use super::units::{duration_text, size_text};
use super::{
    Config, Convention, DataBits, Flow, Identity, Line, Parity, Rs485, Serial, StopBits, Stream, Sync, Tls, WhenFull,
};
use crate::record::PayloadRule;
use std::fmt::{Display, Write as _};
use std::path::Path;

impl Config {
    /// The configuration as TOML, with the defaults filled in and `{host}` and `{instance}` expanded.
    pub fn to_toml(&self) -> String {
        let mut out = Toml(String::new());
        out.text("instance", &self.instance);
        out.path("state_dir", &self.state_dir);
        out.path("runtime_dir", &self.runtime_dir);
        out.path("apply_dir", &self.apply_dir);
        self.app.toml(&mut out);
        self.mqtt_toml(&mut out);
        out.table("[spool]");
        match self.spool.sync {
            Sync::Always => out.text("sync", "always"),
            Sync::After(window) => out.text("sync", &duration_text(window)),
        }
        out.text("segment_bytes", &size_text(self.spool.segment_bytes));
        for stream in &self.streams {
            stream.toml(&mut out);
        }
        for device in &self.serial {
            device.toml(&mut out);
        }
        for bus in &self.modbus {
            bus.toml(&mut out);
        }
        for line in &self.gpio {
            line.toml(&mut out);
        }
        if let Some(filter) = &self.discovery {
            out.table("[discovery]");
            out.text("filter", filter);
        }
        self.homeassistant.toml(&mut out);
        if let Some(node) = &self.sparkplug {
            node.toml(&mut out);
        }
        for file in &self.managed_files {
            file.toml(&mut out);
        }
        self.health.toml(&mut out);
        self.api.toml(&mut out);
        out.0
    }

    fn mqtt_toml(&self, out: &mut Toml) {
        let mqtt = &self.mqtt;
        out.table("[mqtt]");
        let servers: Vec<String> = mqtt.servers.iter().map(|server| quoted(&server.to_string())).collect();
        out.plain("servers", format!("[{}]", servers.join(", ")));
        out.text("version", mqtt.version.name());
        out.text("client_id", &mqtt.client_id);
        out.text("topic_prefix", &mqtt.topic_prefix);
        if let Some(username) = &mqtt.username {
            out.text("username", username);
        }
        if let Some(file) = &mqtt.password_file {
            out.path("password_file", file);
        }
        let Tls { ca_file, identity, server_name, alpn } = &mqtt.tls;
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
        out.text("keep_alive", &duration_text(mqtt.keep_alive));
        out.plain("inflight", mqtt.inflight);
        out.text("ack_timeout", &duration_text(mqtt.ack_timeout));
        out.text("fall_back", &mqtt.fall_back.map_or_else(|| "off".to_owned(), duration_text));
        out.text("max_payload", &size_text(u64::try_from(mqtt.max_payload).unwrap_or(u64::MAX)));
        out.plain("backfill_rate", mqtt.backfill_rate);
        if let Some(budget) = &mqtt.budget {
            out.text("budget", &budget.text());
        }
    }
}

impl Stream {
    fn toml(&self, out: &mut Toml) {
        out.table(&format!("[stream.{}]", self.name));
        out.text("max_bytes", &size_text(self.max_bytes));
        if let Some(age) = self.max_age {
            out.text("max_age", &duration_text(age));
        }
        out.text(
            "when_full",
            match self.when_full {
                WhenFull::DropOldest => "drop-oldest",
                WhenFull::Reject => "reject",
            },
        );
        out.plain("priority", self.priority);
        if let Some(batch) = &self.batch {
            out.plain("batch", batch.toml());
        }
        if let Some(hours) = &self.quiet_hours {
            out.text("quiet_hours", &hours.text());
        }
        let convention = match self.convention {
            Convention::Pillion => "pillion",
            Convention::Sparkplug => "sparkplug",
        };
        out.text("convention", convention);
    }
}

impl Line {
    /// Where the port is.
    pub(super) fn place(&self, out: &mut Toml) {
        match &self.usb {
            None => out.path("path", &self.path),
            Some(adapter) => out.text("usb", &adapter.to_string()),
        }
    }

    /// What termios does not have.
    pub(super) fn specials(&self, out: &mut Toml) {
        if let Some(rs485) = &self.rs485 {
            let Rs485 { rts_on_send, delay_before_send, delay_after_send, rx_during_tx } = rs485;
            let (before, after) = (duration_text(*delay_before_send), duration_text(*delay_after_send));
            out.plain(
                "rs485",
                format!(
                    "{{ rts_on_send = {rts_on_send}, delay_before_send = \"{before}\", delay_after_send = \"{after}\", \
                     rx_during_tx = {rx_during_tx} }}"
                ),
            );
        }
        out.plain("low_latency", self.low_latency);
    }
}

impl Serial {
    fn toml(&self, out: &mut Toml) {
        out.table("[[serial]]");
        out.text("name", &self.name);
        let line = &self.line;
        line.place(out);
        out.plain("baud", line.baud);
        let data_bits = match line.data_bits {
            DataBits::Five => 5,
            DataBits::Six => 6,
            DataBits::Seven => 7,
            DataBits::Eight => 8,
        };
        out.plain("data_bits", data_bits);
        out.text("parity", line.parity.word());
        out.plain("stop_bits", line.stop_bits.number());
        let flow = match line.flow {
            Flow::None => "none",
            Flow::Software => "software",
            Flow::Hardware => "hardware",
        };
        out.text("flow", flow);
        line.specials(out);
        for (key, level) in [("dtr", line.dtr), ("rts", line.rts)] {
            if let Some(level) = level {
                out.plain(key, level);
            }
        }
        out.plain("framing", self.framing.to_toml());
        let payload = match self.payload {
            PayloadRule::Auto => "auto",
            PayloadRule::Text => "text",
            PayloadRule::Base64 => "base64",
            PayloadRule::Raw => "raw",
        };
        out.text("payload", payload);
        if let Some(commands) = &self.commands {
            out.plain("commands", commands.toml());
        }
    }
}

impl Parity {
    pub(super) fn word(self) -> &'static str {
        match self {
            Parity::None => "none",
            Parity::Even => "even",
            Parity::Odd => "odd",
        }
    }
}

impl StopBits {
    pub(super) fn number(self) -> u8 {
        match self {
            StopBits::One => 1,
            StopBits::Two => 2,
        }
    }
}

/// The text so far.
pub(super) struct Toml(String);

impl Toml {
    pub(super) fn table(&mut self, header: &str) {
        self.0.push('\n');
        self.0.push_str(header);
        self.0.push('\n');
    }

    pub(super) fn plain(&mut self, key: &str, value: impl Display) {
        // Writing to a String can't fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.plain(key, quoted(text));
    }

    pub(super) fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.to_string_lossy());
    }
}

/// A basic string of TOML.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
