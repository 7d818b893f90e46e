//! A configuration as TOML again: every key with the value that counts. Reading it gives the same configuration. How a section
//! is written stands with how it is read.
//!
//! Constraint: no secrets; a password is only ever the name of its file. Paths that are not UTF-8 can't be written
//! in TOML; their odd bytes come out as U+FFFD.

use super::Config;
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
        self.mqtt.toml(&mut out);
        self.spool.toml(&mut out);
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

    /// The word for `value` among those that may stand there.
    pub(super) fn choice<T: PartialEq>(&mut self, key: &str, words: &[(&'static str, T)], value: T) {
        self.text(key, word(words, value));
    }

    pub(super) fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.to_string_lossy());
    }
}

/// The word that stands for `value` (see `values::choice` for the other way).
pub(super) fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
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
