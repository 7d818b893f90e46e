//! A TOML document as a tree of owned values that know where they stand, and how several become one.
//!
//! Merging: tables key by key, the later file wins; `[[serial]]`, `[[modbus]]` and `[[gpio]]` entries are appended, except one whose
//! `name` an earlier file has, which overrides that entry key by key. Every value keeps the place where it was written.

use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the file: 0 is the main one, drop-ins follow.
    pub(super) file: usize,
    /// Byte offset in its text; none when the file as a whole is meant.
    pub(super) offset: Option<usize>,
}

impl Place {
    /// The main file as a whole: where defaults stand.
    pub(super) const MAIN: Place = Place { file: 0, offset: None };
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value as TOML knows it.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    /// As written, and as a number if it fits.
    Integer(String, Option<i64>),
    Float(String),
    Boolean(bool),
    Time,
    List(Vec<Node>),
    Table(Table),
    /// Tables or lists nested deeper than any key of ours.
    TooDeep,
}

/// A value under its key.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) node: Node,
}

/// Entries by key.
pub(super) type Table = BTreeMap<String, Entry>;

/// No key of ours lies deeper (`serial`, its entry, `framing`, `kind`), and recursion must have an end.
const MAX_DEPTH: usize = 8;

/// The tree of one file.
pub(super) fn from_toml(file: usize, document: DeTable<'_>) -> Table {
    table(file, document, 0)
}

fn table(file: usize, document: DeTable<'_>, depth: usize) -> Table {
    let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
        let start = key.span().start;
        let place = Place { file, offset: Some(start) };
        (String::from(key.into_inner()), Entry { key: place, node: node(file, value, start, depth) })
    };
    document.into_iter().map(entry).collect()
}

/// `owner` is where the key or list of the value begins: the parser's stand-ins for values that it could not read
/// have no place of their own.
fn node(file: usize, spanned: Spanned<DeValue<'_>>, owner: usize, depth: usize) -> Node {
    let span = spanned.span();
    let start = if span.is_empty() { span.start.max(owner) } else { span.start };
    let value = match spanned.into_inner() {
        DeValue::Array(_) | DeValue::Table(_) if depth >= MAX_DEPTH => Value::TooDeep,
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            Value::Integer(number.to_string(), i64::from_str_radix(number.as_str(), number.radix()).ok())
        }
        DeValue::Float(number) => Value::Float(number.to_string()),
        DeValue::Boolean(flag) => Value::Boolean(flag),
        DeValue::Datetime(_) => Value::Time,
        DeValue::Array(items) => {
            Value::List(items.into_iter().map(|item| node(file, item, start, depth + 1)).collect())
        }
        DeValue::Table(entries) => Value::Table(table(file, entries, depth + 1)),
    };
    Node { place: Place { file, offset: Some(start) }, value }
}

/// Lists of devices that have names.
const DEVICES: [&str; 3] = ["serial", "modbus", "gpio"];

/// Merges `later` into `base`. A list of devices that is none stays or comes, so that it is reported.
pub(super) fn merge(base: &mut Table, mut later: Table) {
    let devices = DEVICES.map(|key| (key, later.remove(key)));
    merge_tables(base, later);
    for (key, devices) in devices {
        if let Some(devices) = devices {
            merge_list(base, key, devices);
        }
    }
}

fn merge_list(base: &mut Table, key: &str, devices: Entry) {
    match (base.get_mut(key).map(|entry| &mut entry.node.value), devices) {
        (Some(Value::List(known)), Entry { node: Node { value: Value::List(more), .. }, .. }) => {
            merge_devices(known, more);
        }
        (Some(Value::List(_)) | None, devices) => {
            base.insert(key.to_owned(), devices);
        }
        (Some(_), _) => {}
    }
}

fn merge_tables(base: &mut Table, later: Table) {
    for (key, entry) in later {
        match (base.get_mut(&key), entry) {
            (
                Some(Entry { node: Node { value: Value::Table(known), .. }, .. }),
                Entry { node: Node { value: Value::Table(more), .. }, .. },
            ) => merge_tables(known, more),
            (_, entry) => {
                base.insert(key, entry);
            }
        }
    }
}

/// Only entries of earlier files can be overridden: a name that comes twice in one file is a mistake to report.
fn merge_devices(known: &mut Vec<Node>, later: Vec<Node>) {
    let mut added = Vec::new();
    for device in later {
        let name = device_name(&device).map(str::to_owned);
        let same = known.iter_mut().find(|node| name.is_some() && device_name(node) == name.as_deref());
        match (same, device) {
            (Some(Node { value: Value::Table(base), .. }), Node { value: Value::Table(more), .. }) => {
                merge_tables(base, more);
            }
            (_, device) => added.push(device),
        }
    }
    known.extend(added);
}

fn device_name(device: &Node) -> Option<&str> {
    let Value::Table(table) = &device.value else { return None };
    match &table.get("name")?.node.value {
        Value::Text(name) => Some(name),
        _ => None,
    }
}
