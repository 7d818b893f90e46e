//! A TOML document as a tree of owned values that know where they stand, and how several become one.
//!
//! Merging: tables key by key, the later file wins; entries of lists of tables (`[[serial]]`, `[[modbus.unit]]`, …) are appended,
//! except one that an earlier file has under the same name, which overrides that entry key by key. Other lists, such as `mqtt.servers`,
//! are values like any other. Every value keeps the place where it was written.

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

/// Lists of tables, and the keys that name an entry. The lists have names that nothing else has which is a list.
const NAMED: [(&str, &[&str]); 7] = [
    ("serial", &["name"]),
    ("modbus", &["name"]),
    ("unit", &["name"]),
    ("poll", &["name"]),
    ("gpio", &["name"]),
    ("sensor", &["device", "field"]),
    ("managed_file", &["key"]),
];

/// Merges `later` into `base`. A list of tables that is none stays or comes, so that it is reported.
pub(super) fn merge(base: &mut Table, later: Table) {
    for (key, entry) in later {
        let named = NAMED.iter().find(|(list, _)| *list == key).map(|(_, by)| *by);
        match (base.get_mut(&key).map(|entry| &mut entry.node.value), entry, named) {
            (Some(Value::Table(known)), Entry { node: Node { value: Value::Table(more), .. }, .. }, _) => {
                merge(known, more)
            }
            (Some(Value::List(known)), Entry { node: Node { value: Value::List(more), .. }, .. }, Some(by)) => {
                merge_entries(known, more, by)
            }
            // Of a list of other things it is the later file that is wrong, or means a key of the same name.
            (Some(_), Entry { node: Node { value: Value::List(list), .. }, .. }, Some(_))
                if list.iter().any(|node| matches!(node.value, Value::Table(_))) => {}
            (_, entry, _) => {
                base.insert(key, entry);
            }
        }
    }
}

/// Only entries of earlier files can be overridden: a name that comes twice in one file is a mistake to report.
fn merge_entries(known: &mut Vec<Node>, later: Vec<Node>, by: &[&str]) {
    let mut added = Vec::new();
    for entry in later {
        let name = name_of(&entry, by);
        let same = known.iter().position(|node| name.is_some() && name_of(node, by) == name);
        match (same.and_then(|place| known.get_mut(place)), entry) {
            (Some(Node { value: Value::Table(base), .. }), Node { value: Value::Table(more), .. }) => {
                merge(base, more);
            }
            (_, entry) => added.push(entry),
        }
    }
    known.extend(added);
}

/// What names an entry: the texts under these keys, of which the first is there.
fn name_of<'n>(entry: &'n Node, by: &[&str]) -> Option<Vec<Option<&'n str>>> {
    let Value::Table(table) = &entry.value else { return None };
    let text = |key: &&str| match &table.get(*key)?.node.value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    };
    let name: Vec<_> = by.iter().map(text).collect();
    name.first()?.is_some().then_some(name)
}
