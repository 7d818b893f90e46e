//! What all kinds of devices have in common: a list of tables, and names that are unique over all of them.

use super::keys::Schema;
use super::reader::{Report, Section};
use super::tree::{Place, Table, Value};
use super::values;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Devices of one kind.
const MOST_DEVICES: usize = 64;

/// The tables under `[[kind]]`, in the order of the files.
pub(super) fn sections<'t>(
    root: &Section<'t>,
    report: &mut Report<'_>,
    schema: &'static Schema,
    kind: &str,
) -> Vec<Section<'t>> {
    let list = root.read(report, kind, |value| match value {
        Value::List(list) if list.len() > MOST_DEVICES => {
            Err(format!("there are {} devices; give at most {MOST_DEVICES}", list.len()))
        }
        Value::List(list) => Ok(list),
        other => Err(format!("{} is not a list; write [[{kind}]] once for each device", values::show(other))),
    });
    let mut sections = Vec::new();
    for (index, node) in list.into_iter().flatten().enumerate() {
        if let Value::Table(table) = &node.value {
            sections.push(Section::at(schema, dotted_name(kind, table, index), node.place, table));
        } else {
            let message = format!("{} is not a table; write [[{kind}]] and its keys below", values::show(&node.value));
            report.problem(node.place, format!("{kind}[{index}]"), message);
        }
    }
    sections
}

/// `kind.NAME`, or `kind[N]` (from 0) where the name is missing or wrong.
fn dotted_name(kind: &str, table: &Table, index: usize) -> String {
    match table.get("name").map(|entry| &entry.node.value) {
        Some(Value::Text(name)) if values::name(name).is_ok() => format!("{kind}.{name}"),
        _ => format!("{kind}[{index}]"),
    }
}

/// The names of all devices so far.
#[derive(Debug, Default)]
pub(super) struct Names(Taken);

impl Names {
    /// Notes a name that another device has. One that is absent or wrong is empty here, and was reported.
    pub(super) fn claim(&mut self, section: &Section<'_>, report: &mut Report<'_>, name: &str) {
        if !name.is_empty() {
            self.0.claim(section, report, "name", PathBuf::from(name), name);
        }
    }
}

/// What only one device can have, and where it was given first.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeMap<PathBuf, Place>);

impl Taken {
    /// Notes a value of `key` that another device has; `shown` is how the user wrote it.
    pub(super) fn claim(
        &mut self,
        section: &Section<'_>,
        report: &mut Report<'_>,
        key: &str,
        value: PathBuf,
        shown: &str,
    ) {
        let place = section.place(key);
        let Some(first) = self.0.get(&value) else {
            self.0.insert(value, place);
            return;
        };
        let (shown, first) = (values::quoted(shown), report.where_is(*first));
        let message = format!("{shown} is taken by the device at {first}; give each device its own {key}");
        report.problem(place, section.key(key), message);
    }
}
