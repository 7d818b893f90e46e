//! Streams that the configuration has no more, that still hold records, and that can't be opened to drain: too many, or under a name that
//! no stream has.
//!
//! Constraint: they are told and left as they are, neither read nor removed, so that their records go out when the stream is
//! configured again.

use super::Options;
use super::fs::FileSystem as _;
use super::open::segments_of;
use super::segment::HEADER_LEN;
use crate::disk::Disk;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// An event for each of them, which is logged as well.
pub(super) fn look(options: &Options) -> Vec<Value> {
    let dirs = std::iter::once(&options.dir).chain(&options.runtime_dir);
    dirs.flat_map(|dir| below(dir, options)).collect()
}

fn below(dir: &Path, options: &Options) -> Vec<Value> {
    // What can't be looked into is complained of by whoever opens it.
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_unknown = |name: &String| options.streams.iter().all(|stream| stream.name != *name);
    let mut unknown: Vec<String> = names.filter(is_unknown).collect();
    unknown.sort();
    unknown.iter().filter_map(|name| tell(name, &dir.join(name))).collect()
}

fn tell(name: &str, dir: &Path) -> Option<Value> {
    let segments = segments_of(&Disk.list(dir).ok()?);
    let empty = u64::try_from(HEADER_LEN).unwrap_or(u64::MAX);
    let bytes: u64 = segments.iter().map(|segment| segment.bytes.saturating_sub(empty)).sum();
    if bytes == 0 {
        return None;
    }
    let detail = format!(
        "stream {name} is not configured any more, and {bytes} bytes of its records are in {}; give [stream.{name}] back to \
         have them delivered, or remove that folder",
        dir.display()
    );
    tracing::warn!(stream = name, "{detail}");
    Some(json!({ "type": "stream-unconfigured", "stream": name, "bytes": bytes, "detail": detail }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::left::tests::options_in;

    #[test]
    fn records_that_no_stream_can_drain_are_never_left_in_silence_nor_others_told() {
        let folder = tempfile::tempdir().unwrap();
        let options = options_in(folder.path());
        for (path, bytes) in [
            ("state/known/00000000000000000001.seg", HEADER_LEN + 9),
            ("state/a copy/00000000000000000001.seg", HEADER_LEN + 5),
            ("state/a copy/00000000000000000007.seg", HEADER_LEN + 6),
            ("state/without records/00000000000000000001.seg", HEADER_LEN),
            ("state/notes/mine.txt", 1000),
            ("run/known/00000000000000000002.seg", HEADER_LEN + 9),
            ("run/known.old/00000000000000000002.seg", HEADER_LEN + 7),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; bytes]).unwrap();
        }
        let told = look(&options);
        let told: Vec<_> = told.iter().map(|event| (event["stream"].as_str(), event["bytes"].as_u64())).collect();
        assert_eq!(told, [(Some("a copy"), Some(11)), (Some("known.old"), Some(7))]);
    }
}
