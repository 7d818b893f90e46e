//! Walking the tree: a section hands out its keys by name, converted, and every problem is noted with its place.
//!
//! Constraint: a wrong value never stops the walk. It is noted once, and the caller goes on with a default, so that
//! one run tells everything.

use super::keys::{self, Schema};
use super::problem::{Problem, Problems};
use super::tree::{Entry, Place, Table, Value};
use super::values;
use std::path::PathBuf;

/// The text of one file, already read.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// A text and the name that problems give it.
    pub fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Source { path: path.into(), text: text.to_owned() }
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte offset, both from 1, the column in characters.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let is_first_of_character = |byte: &&u8| **byte & 0xC0 != 0x80;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').filter(is_first_of_character).count() + 1;
        (line, column)
    }
}

/// Everything that was noted so far.
#[derive(Debug)]
pub(super) struct Report<'s> {
    sources: &'s [Source],
    /// Where each file's TOML stops being sound: what follows may have been misunderstood.
    broken: Vec<Option<usize>>,
    /// A file is missing or broken: what seems to be absent may be there.
    incomplete: bool,
    problems: Vec<Problem>,
    omitted: usize,
    warnings: Vec<Problem>,
}

impl<'s> Report<'s> {
    /// An empty one; `unread` says which files could not be read.
    pub(super) fn new(sources: &'s [Source], unread: Vec<Problem>) -> Self {
        Report {
            sources,
            broken: vec![None; sources.len()],
            incomplete: !unread.is_empty(),
            problems: unread,
            omitted: 0,
            warnings: Vec::new(),
        }
    }

    /// Notes that the TOML of a file is wrong here. Call it in the order of the text.
    pub(super) fn syntax(&mut self, place: Place, message: String) {
        self.push(place, String::new(), message);
        self.incomplete = true;
        if let Some(broken) = self.broken.get_mut(place.file) {
            *broken = broken.or(place.offset);
        }
    }

    /// Notes a wrong key or value, unless a slip in the syntax before it may have caused it.
    pub(super) fn problem(&mut self, place: Place, key: String, message: String) {
        let broken = self.broken.get(place.file).copied().flatten();
        let doubtful = matches!((broken, place.offset), (Some(broken), Some(offset)) if offset >= broken);
        if !doubtful {
            self.push(place, key, message);
        }
    }

    /// Notes something that follows from several values or from an absent one: only worth saying when all was read.
    pub(super) fn conclusion(&mut self, place: Place, key: String, message: String) {
        if !self.incomplete {
            self.push(place, key, message);
        }
    }

    /// Notes something that works and is not wise.
    pub(super) fn warning(&mut self, place: Place, key: String, message: String) {
        if self.warnings.len() < Problems::LIMIT {
            let warning = self.located(place, key, message);
            self.warnings.push(warning);
        }
    }

    /// `file:line` of a place, for messages that point at a second one.
    pub(super) fn where_is(&self, place: Place) -> String {
        let Problem { file, line, .. } = self.located(place, String::new(), String::new());
        format!("{}:{line}", file.display())
    }

    /// The verdict: the warnings, or the problems, sorted.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Problems> {
        self.warnings.sort();
        self.problems.sort();
        self.problems.dedup();
        match self.problems.is_empty() {
            true => Ok(self.warnings),
            false => Err(Problems { list: self.problems, omitted: self.omitted }),
        }
    }

    fn is_full(&self) -> bool {
        self.problems.len() >= Problems::LIMIT
    }

    fn push(&mut self, place: Place, key: String, message: String) {
        if self.is_full() {
            self.omitted += 1;
        } else {
            let problem = self.located(place, key, message);
            self.problems.push(problem);
        }
    }

    fn located(&self, place: Place, key: String, message: String) -> Problem {
        let source = self.sources.get(place.file);
        let (line, column) = match (source, place.offset) {
            (Some(source), Some(offset)) => source.position(offset),
            _ => (0, 0),
        };
        let file = source.map(|source| source.path.clone()).unwrap_or_default();
        Problem { file, line, column, key, message }
    }
}

/// One table of the configuration; one that is absent has no keys.
#[derive(Debug)]
pub(super) struct Section<'t> {
    schema: &'static Schema,
    path: String,
    place: Place,
    table: Option<&'t Table>,
}

impl<'t> Section<'t> {
    /// The whole document.
    pub(super) fn root(table: &'t Table) -> Self {
        Section { schema: &keys::ROOT, path: String::new(), place: Place::MAIN, table: Some(table) }
    }

    /// A table that was found elsewhere, under the dotted name `path`.
    pub(super) fn at(schema: &'static Schema, path: String, place: Place, table: &'t Table) -> Self {
        Section { schema, path, place, table: Some(table) }
    }

    /// The table under `key`. `example` is what to write where something else than a table stands.
    pub(super) fn section(
        &self,
        report: &mut Report<'_>,
        schema: &'static Schema,
        key: &str,
        example: &str,
    ) -> Section<'t> {
        let path = self.key(key);
        match self.entry(key) {
            None => Section { schema, path, place: self.place, table: None },
            Some(Entry { key: place, node }) => {
                let table = match &node.value {
                    Value::Table(table) => Some(table),
                    other => {
                        let message = format!("{} is not a table; write {example}", values::show(other));
                        report.problem(node.place, path.clone(), message);
                        None
                    }
                };
                Section { schema, path, place: *place, table }
            }
        }
    }

    /// The same table, of which more is known now: the keys of `schema` are all that it may have.
    pub(super) fn narrowed(self, schema: &'static Schema) -> Self {
        Section { schema, ..self }
    }

    /// The value under `key`, converted. None when it is absent or wrong; then the problem is noted.
    pub(super) fn read<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        convert: impl FnOnce(&'t Value) -> Result<T, String>,
    ) -> Option<T> {
        debug_assert!(self.schema.has(key), "`{key}` is not in the schema");
        let node = &self.entry(key)?.node;
        let noted = |message| report.problem(node.place, self.key(key), message);
        convert(&node.value).map_err(noted).ok()
    }

    /// Like [`Section::read`] for one of a few words.
    pub(super) fn choice<T: Copy>(&self, report: &mut Report<'_>, key: &str, options: &[(&str, T)]) -> Option<T> {
        self.read(report, key, |value| values::choice(value, options))
    }

    /// Like [`Section::read`] for a key that must be there; `example` is what to write.
    pub(super) fn required<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        example: &str,
        convert: impl FnOnce(&'t Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            report.conclusion(self.place, self.key(key), format!("is missing; give one, such as {key} = {example}"));
        }
        self.read(report, key, convert)
    }

    /// Whether the key is given, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Where the value of `key` stands, or else its table.
    pub(super) fn place(&self, key: &str) -> Place {
        self.entry(key).map_or(self.place, |entry| entry.node.place)
    }

    /// The dotted name of `key`.
    pub(super) fn key(&self, key: &str) -> String {
        let key = values::key_text(key);
        match self.path.is_empty() {
            true => key,
            false => format!("{}.{key}", self.path),
        }
    }

    /// Every key and its entry, in name order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'t String, &'t Entry)> + use<'t> {
        self.table.into_iter().flatten()
    }

    /// Notes the keys that this table has not.
    pub(super) fn refuse_unknown(&self, report: &mut Report<'_>) {
        for (key, entry) in self.entries().filter(|(key, _)| !self.schema.has(key)) {
            let advice = if report.is_full() { String::new() } else { self.schema.advice(key) };
            report.problem(entry.key, self.key(key), advice);
        }
    }

    fn entry(&self, key: &str) -> Option<&'t Entry> {
        self.table?.get(key)
    }
}
