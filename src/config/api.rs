//! `[api]`: who may use the local socket.

use super::effective::{Toml, quoted};
use super::reader::{Report, Section};
use super::tree::{Node, Value};
use super::{keys, values};

/// `[api]`: users and groups by name or number. Both empty: everybody whom the socket's mode lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Api {
    /// Users who may use the socket.
    pub allow_users: Vec<String>,
    /// Groups whose members may.
    pub allow_groups: Vec<String>,
}

/// Elements of a list.
const MOST: usize = 64;

pub(super) fn read(root: &Section<'_>, report: &mut Report<'_>) -> Api {
    let section = root.section(report, &keys::API, "api", "[api] and its keys below");
    section.refuse_unknown(report);
    let allow_users = section.read(report, "allow_users", |value| names(value, "allow_users = [\"app\"]"));
    let allow_groups = section.read(report, "allow_groups", |value| names(value, "allow_groups = [\"app\"]"));
    Api { allow_users: allow_users.unwrap_or_default(), allow_groups: allow_groups.unwrap_or_default() }
}

/// Names or numbers.
fn names(value: &Value, example: &str) -> Result<Vec<String>, String> {
    let Value::List(list) = value else { return Err(format!("is not a list; write {example}")) };
    if list.len() > MOST {
        return Err(format!("has {} elements; give at most {MOST}", list.len()));
    }
    list.iter().map(name).collect()
}

/// As useradd(8) has them, with some room: no colon, no comma, nothing that does not show.
fn name(node: &Node) -> Result<String, String> {
    if matches!(node.value, Value::Integer(..)) {
        return values::number::<u32>(&node.value, 0..=i64::from(u32::MAX), "give a name or a number")
            .map(|n| n.to_string());
    }
    let text = values::text(&node.value)?;
    let fits = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | ',' | '/' | '"' | '\\');
    match (1..=32).contains(&text.len()) && text.chars().all(fits) {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is no name of a user or group, and no number", values::quoted(text))),
    }
}

impl Api {
    /// The section as TOML.
    pub(super) fn toml(&self, out: &mut Toml) {
        let list = |names: &[String]| names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        out.table("[api]");
        out.plain("allow_users", format!("[{}]", list(&self.allow_users)));
        out.plain("allow_groups", format!("[{}]", list(&self.allow_groups)));
    }
}
