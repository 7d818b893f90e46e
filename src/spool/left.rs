//! Streams that an earlier configuration had and that have left records: folders with segments that nobody names any more.

use super::Options;
use super::open::numbered;
use crate::config::Stream;
use std::collections::BTreeSet;
use std::fs::read_dir;
use std::path::Path;

/// Their names, in order. What can't be read holds nothing that could be sent.
pub fn left_behind(options: &Options) -> BTreeSet<String> {
    let is_named = |name: &String| options.streams.iter().any(|stream| stream.name == *name);
    let folders = std::iter::once(&options.dir).chain(&options.runtime_dir);
    folders.flat_map(|dir| with_segments(dir)).filter(|name| !is_named(name)).collect()
}

fn with_segments(dir: &Path) -> Vec<String> {
    let entries = read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| has_segments(&entry.path()));
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    // A copy that somebody made of one has another name, as long as he sees to it.
    names.filter(|name| Stream::may_be_called(name)).collect()
}

fn has_segments(dir: &Path) -> bool {
    let mut entries = read_dir(dir).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_str().and_then(numbered).is_some())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Sync;
    use std::fs;

    /// With one stream, `known`, in `state` and `run` of this folder.
    pub(in crate::spool) fn options_in(folder: &Path) -> Options {
        let known = Stream {
            name: "known".to_owned(),
            max_bytes: 1 << 20,
            max_age: None,
            when_full: Default::default(),
            priority: 1,
            batch: None,
            quiet_hours: None,
            convention: Default::default(),
        };
        Options {
            dir: folder.join("state"),
            runtime_dir: Some(folder.join("run")),
            streams: vec![known],
            sync: Sync::Always,
            segment_bytes: 1 << 16,
            boot_id: [0; 16],
            backfill_rate: 0,
        }
    }

    #[test]
    fn a_stream_with_records_is_never_left_behind_nor_anything_else_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let segment = "00000000000000000042.seg";
        for path in
            ["state/known/", "state/b/", "state/empty/", "state/a copy/", "state/quarantine.old/", "run/a/", "run/b/"]
        {
            fs::create_dir_all(folder.path().join(path)).unwrap();
            fs::write(folder.path().join(path).join("checkpoint"), "").unwrap();
            if path != "state/empty/" {
                fs::write(folder.path().join(path).join(segment), "").unwrap();
            }
        }
        fs::write(folder.path().join("state").join(segment), "").unwrap();
        let mut options = options_in(folder.path());
        assert_eq!(left_behind(&options).iter().collect::<Vec<_>>(), ["a", "b"]);
        options.runtime_dir = None;
        assert_eq!(left_behind(&options).iter().collect::<Vec<_>>(), ["b"]);
        options.dir = folder.path().join("nowhere");
        assert!(left_behind(&options).is_empty());
    }
}
