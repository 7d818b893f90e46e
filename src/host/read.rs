//! Reading the kernel's small files: everything may be absent, huge, or no text at all.
//!
//! Constraint: at most [`LIMIT`] bytes of a file and [`ENTRIES`] entries of a folder are read, and what comes from them goes
//! into documents and onto terminals, so it is kept short and without control characters.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More than any file has that is read here; `/proc/meminfo` has some 1,500 bytes.
const LIMIT: u64 = 16 * 1024;
/// More than any folder has that is listed here.
const ENTRIES: usize = 512;
/// Longest text in characters.
const TEXT: usize = 64;

/// The beginning of a file; bytes that are no text come out as U+FFFD.
pub(super) fn content(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the first line says, up to a NUL; `None` if that is nothing.
pub(super) fn line(path: &Path) -> Option<String> {
    let content = content(path)?;
    text(content.split(['\n', '\0']).next()?)
}

/// Short, without space around it and without control characters; `None` if nothing is left.
pub(super) fn text(raw: &str) -> Option<String> {
    let text: String = raw.trim().chars().filter(|c| !c.is_control()).take(TEXT).collect();
    (!text.is_empty()).then_some(text)
}

/// A whole number in decimal.
pub(super) fn number(path: &Path) -> Option<i64> {
    line(path)?.parse().ok()
}

/// The names in a folder, in order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.take(ENTRIES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| !name.contains(char::is_control)).collect();
    names.sort();
    names
}

/// A decimal such as `0.52` in hundredths; further places are cut off.
pub(super) fn hundredths(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let mut places = part.chars().map(|c| c.to_digit(10));
    let mut place = || places.next().unwrap_or(Some(0)).map(i64::from);
    let part = place()? * 10 + place()?;
    let is_number = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(part)).flatten()
}
