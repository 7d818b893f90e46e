//! `[[managed_file]]`: files that are written from keys of the configuration store, by `pillion apply`.

use super::effective::{Toml, quoted};
use super::keys;
use super::reader::{Report, Section};
use super::tree::{Node, Value};
use super::units::duration_text;
use super::values;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// `[[managed_file]]`: see `apply`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedFile {
    /// Below `P/config/`.
    pub key: String,
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// A command that fails if the file can't be used, `{file}` standing for it; empty: none.
    pub check: Vec<String>,
    /// What the application's unit is told.
    pub action: Action,
    /// How long the application must go on after that, 1 s to 10 min (default 60 s).
    pub healthy_within: Duration,
    /// Of the file (default 0640).
    pub mode: u32,
    /// `USER:GROUP` of the file. `None`: those of the old one, or root.
    pub owner: Option<String>,
}

/// `action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The unit is restarted (default).
    Restart,
    /// It is told to read its files again.
    Reload,
    /// Nothing.
    None,
}

const MOST: usize = 16;
const DEFAULT_HEALTHY_WITHIN: Duration = Duration::from_secs(60);
const DEFAULT_MODE: u32 = 0o640;
const CHECK_EXAMPLE: &str = "check = [\"/usr/bin/gateway\", \"--check\", \"{file}\"]";

pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>, unit: Option<&str>) -> Vec<ManagedFile> {
    let list = root.read(report, "managed_file", |value| match value {
        Value::List(list) if list.len() > MOST => Err(format!("there are {} files; give at most {MOST}", list.len())),
        Value::List(list) => Ok(list),
        other => Err(format!("{} is not a list; write [[managed_file]] once for each file", values::show(other))),
    });
    let mut files: Vec<ManagedFile> = Vec::new();
    for (index, Node { place, value }) in list.into_iter().flatten().enumerate() {
        let path = format!("managed_file[{index}]");
        let Value::Table(table) = value else {
            let message = "is not a table; write [[managed_file]] and its keys below".to_owned();
            report.problem(*place, path, message);
            continue;
        };
        let section = Section::at(&keys::MANAGED_FILE, path, *place, table);
        let file = one(&section, report, unit);
        for (key, taken) in [
            ("key", files.iter().any(|other| other.key == file.key)),
            ("path", files.iter().any(|other| other.path == file.path)),
        ] {
            if taken && section.has(key) {
                let message = format!("is that of another managed file; give each its own {key}");
                report.problem(section.place(key), section.key(key), message);
            }
        }
        files.push(file);
    }
    files
}

fn one(section: &Section<'_>, report: &mut Report<'_>, unit: Option<&str>) -> ManagedFile {
    section.refuse_unknown(report);
    let key = section.required(report, "key", "\"app.toml\"", |value| key(values::text(value)?));
    let path = section.required(report, "path", "\"/etc/gateway/app.toml\"", |value| path(values::text(value)?));
    let actions = [("restart", Action::Restart), ("reload", Action::Reload), ("none", Action::None)];
    let default = if unit.is_some() { Action::Restart } else { Action::None };
    let action = section.choice(report, "action", &actions).unwrap_or(default);
    if action != Action::None && unit.is_none() {
        let message = "needs a unit; give unit = \"gateway.service\" in [app], or action = \"none\"".to_owned();
        report.problem(section.place("action"), section.key("action"), message);
    }
    let healthy_within = section.read(report, "healthy_within", |value| {
        values::duration(value, Duration::from_secs(1)..=Duration::from_secs(600), "60s")
    });
    ManagedFile {
        key: key.unwrap_or_default().to_owned(),
        path: path.unwrap_or_default(),
        check: check(section, report),
        action,
        healthy_within: healthy_within.unwrap_or(DEFAULT_HEALTHY_WITHIN),
        mode: section.read(report, "mode", |value| mode(values::text(value)?)).unwrap_or(DEFAULT_MODE),
        owner: section.read(report, "owner", |value| owner(values::text(value)?)),
    }
}

fn key(text: &str) -> Result<&str, String> {
    let text = values::mqtt_text(text, crate::inbound::MAX_TOPIC)?;
    match text.contains(['+', '#']) {
        true => Err(format!("{} holds a wildcard; remove + and #", values::quoted(text))),
        false => Ok(text),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = values::absolute_path(text, "/etc/gateway/app.toml")?;
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let has_name = path.file_name().is_some() && !text.ends_with('/') && path.parent() != Some(Path::new("/"));
    match is_plain && has_name && !text.split('/').any(|part| part == ".") {
        true => Ok(path),
        false => {
            Err(format!("{} is no plain path of a file in a folder; write it without . and ..", values::quoted(text)))
        }
    }
}

fn check(section: &Section<'_>, report: &mut Report<'_>) -> Vec<String> {
    let read = section.read(report, "check", |value| {
        let Value::List(list) = value else { return Err(format!("is not a list; write {CHECK_EXAMPLE}")) };
        if list.len() > 32 {
            return Err(format!("has {} elements; give at most 32", list.len()));
        }
        let words = list.iter().map(|Node { value, .. }| values::text(value).map(str::to_owned));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        match words.first() {
            None => Err(format!("is empty; write {CHECK_EXAMPLE}, or remove it")),
            Some(program) if !program.starts_with('/') => {
                Err(format!("{} is no path from the root; write {CHECK_EXAMPLE}", values::quoted(program)))
            }
            Some(_) if !words.iter().any(|word| word.contains("{file}")) => {
                Err(format!("does not say where the file goes; write {{file}}, as in {CHECK_EXAMPLE}"))
            }
            Some(_) => Ok(words),
        }
    });
    read.unwrap_or_default()
}

fn mode(text: &str) -> Result<u32, String> {
    let octal = u32::from_str_radix(text, 8).ok().filter(|mode| (0o400..=0o777).contains(mode));
    match octal {
        Some(mode) if mode & 0o002 == 0 => Ok(mode),
        Some(_) => Err(format!("{} lets everybody write the file; give \"0644\" or less", values::quoted(text))),
        None => Err(format!("{} is not a file's mode; give one such as \"0640\"", values::quoted(text))),
    }
}

fn owner(text: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    match text.split_once(':') {
        Some((user, group)) if is_name(user) && is_name(group) => Ok(text.to_owned()),
        _ => Err(format!("{} is not a user and a group; give both, such as \"root:gateway\"", values::quoted(text))),
    }
}

impl ManagedFile {
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[[managed_file]]");
        out.text("key", &self.key);
        out.path("path", &self.path);
        if !self.check.is_empty() {
            let words: Vec<String> = self.check.iter().map(|word| quoted(word)).collect();
            out.plain("check", format!("[{}]", words.join(", ")));
        }
        let action = match self.action {
            Action::Restart => "restart",
            Action::Reload => "reload",
            Action::None => "none",
        };
        out.text("action", action);
        out.text("healthy_within", &duration_text(self.healthy_within));
        out.text("mode", &format!("{:04o}", self.mode));
        if let Some(owner) = &self.owner {
            out.text("owner", owner);
        }
    }
}
