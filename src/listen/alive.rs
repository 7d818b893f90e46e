//! Since when each broker may have kept commands for us, over restarts of the process.
//!
//! Constraint: the file is in `runtime_dir` and counts in the boot that wrote it only. Without it nobody knows how long
//! a command has waited, and that is what is said; so nothing here is an error.
//!
//! Format: the boot id in the first line, then for each broker milliseconds since boot, a blank, and its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Bytes of a file that are looked at.
const MAX_FILE: usize = 64 * 1024;
/// At least so many milliseconds between two writes while a connection lives.
const WRITE_EVERY_MS: u64 = 1000;

/// The file's name in `runtime_dir`.
pub const FILE_NAME: &str = "commands-alive";

/// When each broker had nothing for us that we did not have, at the latest.
#[derive(Debug)]
pub struct Alive {
    path: PathBuf,
    boot_id: String,
    last_ms: BTreeMap<String, u64>,
    written_ms: Option<u64>,
}

impl Alive {
    /// As the last process of this boot left it.
    pub fn open(path: PathBuf, boot_id: String) -> Alive {
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(..MAX_FILE.min(text.len())).unwrap_or_default()).into_owned();
        let last_ms = parse(&text, &boot_id);
        Alive { path, boot_id, last_ms, written_ms: None }
    }

    /// Since when this broker may have kept something; `None`: nobody knows.
    pub fn since(&self, server: &str) -> Option<u64> {
        self.last_ms.get(server).copied()
    }

    /// At `last_ms` this broker had nothing for us that we did not have. Written to the file now and then.
    pub fn saw(&mut self, server: &str, last_ms: u64, now_ms: u64) {
        match self.last_ms.get_mut(server) {
            Some(last) => *last = last_ms,
            None => _ = self.last_ms.insert(server.to_owned(), last_ms),
        }
        if self.written_ms.is_none_or(|written_ms| now_ms >= written_ms.saturating_add(WRITE_EVERY_MS)) {
            self.save(now_ms);
        }
    }

    /// Writes the file.
    pub fn save(&mut self, now_ms: u64) {
        self.written_ms = Some(now_ms);
        let mut text = format!("{}\n", self.boot_id);
        for (server, last_ms) in &self.last_ms {
            text += &format!("{last_ms} {server}\n");
        }
        let temporary = self.path.with_extension("tmp");
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            tracing::debug!("can't write {}: {error}", self.path.display());
        }
    }
}

fn parse(text: &str, boot_id: &str) -> BTreeMap<String, u64> {
    let mut lines = text.lines();
    if boot_id.is_empty() || lines.next() != Some(boot_id) {
        return BTreeMap::new();
    }
    let of_line = |line: &str| {
        let (last_ms, server) = line.split_once(' ')?;
        Some((server.to_owned(), last_ms.parse().ok()?))
    };
    lines.filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_or_a_broken_file_never_makes_a_command_look_fresh() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let open = |boot: &str| Alive::open(path.clone(), boot.to_owned());
        assert_eq!(open("b-1").since("mqtt://a:1"), None);
        let mut alive = open("b-1");
        alive.saw("mqtt://a:1", 5_000, 5_000);
        alive.saw("mqtt://b:1", 4_000, 5_500);
        alive.saw("mqtt://a:1", 5_900, 5_900);
        assert_eq!(open("b-1").since("mqtt://a:1"), Some(5_000), "the older one, which is the safe one");
        alive.save(6_000);
        let again = open("b-1");
        assert_eq!((again.since("mqtt://a:1"), again.since("mqtt://b:1")), (Some(5_900), Some(4_000)));
        assert_eq!(open("b-2").since("mqtt://a:1"), None);
        fs::write(&path, "\n5000 mqtt://a:1\n").unwrap();
        assert_eq!(open("").since("mqtt://a:1"), None);
        fs::write(&path, b"b-1\n\xff\n x\n-7 mqtt://a:1\nmqtt://a:1\n").unwrap();
        assert_eq!(open("b-1").since("mqtt://a:1"), None);
    }
}
