//! How far the journal has been read, so that no line is lost or comes twice.
//!
//! Every record of lines carries the cursor of the last line that is in it or before it, and the number of its batch, one higher than
//! that of the one before. When a batch is accepted, both are noted in `runtime_dir`, which costs no flash; on a clean stop,
//! and now and then when they have changed, in `state_dir`. At a start the highest number counts, of the three that
//! can be known: noted in `runtime_dir`, noted in `state_dir`, and that of the newest record which still waits in the spool.
//!
//! The spool takes a batch in, writes the note, and only then hands the batch out: see [`Note`](crate::record::Note). So
//!
//! - a kill before acceptance leaves neither, nobody has got the batch, and the lines are read again;
//! - a kill within acceptance leaves some or all records of the batch in the spool, where they wait, for nobody has got them. Each
//!   says how far they go;
//! - a kill after that leaves the note, whatever the broker has acknowledged and the spool has forgotten;
//! - a power cut takes the note, and batches that the broker did not have and flash neither. The position in `state_dir` is never
//!   ahead of those, so their lines are read again. But some that were delivered are read again as well, those since the latest
//!   save: consumers know them by their `id`. None is lost, as far as the journal has them. A note of another boot is not believed:
//!   `runtime_dir` may be on a disk.
//!
//! Where `runtime_dir` takes no note, which the status tells, or no disk takes the batch, a kill may bring its lines again.
//!
//! Lines that are not shipped move the position, too, but no further than to where the flight recorder begins that would be
//! lost with the process: so it is filled again.
//!
//! Format of both files, `log-position`: JSON, `{"batch":12,"cursor":"s=…","read":true}`. `read`: whether the line at the
//! cursor has itself been read. The one in `runtime_dir` has `"boot"` as well, the kernel's boot id.

use crate::app::journal::{Begin, Cursor};
use crate::disk::{self, Disk};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The file's name in both folders.
pub const FILE_NAME: &str = "log-position";
/// Bytes of a file that are looked at.
const MAX_FILE: usize = 4096;

/// A place in the journal, and the number of the batch that came so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The number of the latest batch.
    pub batch: u64,
    /// The line.
    pub cursor: Cursor,
    /// Whether that line has been read.
    pub read: bool,
}

/// As files and records have it; records don't say `read`.
#[derive(Serialize, Deserialize)]
struct Noted {
    batch: u64,
    cursor: String,
    #[serde(default = "yes")]
    read: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
}

fn yes() -> bool {
    true
}

impl Position {
    /// The position in a file, or in a record of lines. `None` where there is none.
    pub fn decode(json: &[u8]) -> Option<Position> {
        Some(Position::decode_noted(json)?.0)
    }

    fn decode_noted(json: &[u8]) -> Option<(Position, Option<String>)> {
        let Noted { batch, cursor, read, boot } = serde_json::from_slice(json).ok()?;
        Some((Position { batch, cursor: Cursor::parse(&cursor)?, read }, boot))
    }

    /// The content of a file; with the boot id, of the one in `runtime_dir`.
    pub fn encode(&self, boot_id: Option<&str>) -> Vec<u8> {
        let (cursor, boot) = (self.cursor.as_str().to_owned(), boot_id.map(str::to_owned));
        let noted = Noted { batch: self.batch, cursor, read: self.read, boot };
        serde_json::to_vec(&noted).unwrap_or_default()
    }

    /// The one to go on from.
    pub fn latest(runtime: Option<Position>, flash: Option<Position>, waiting: Option<Position>) -> Option<Position> {
        // Of equals the last one counts: a note may be further than its batch.
        [waiting, flash, runtime].into_iter().flatten().max_by_key(|position| position.batch)
    }

    /// Where reading goes on.
    pub fn begin(&self) -> Begin {
        match self.read {
            true => Begin::Behind(self.cursor.clone()),
            false => Begin::With(self.cursor.clone()),
        }
    }

    /// As the file in `runtime_dir` has it, if it is of this boot. One that does not say is of an earlier version, and believed.
    pub fn noted(runtime_dir: &Path, boot_id: &str) -> Option<Position> {
        let (position, boot) = load(runtime_dir)?;
        boot.is_none_or(|boot| boot == boot_id).then_some(position)
    }

    /// As the file in `state_dir` has it.
    pub fn saved(state_dir: &Path) -> Option<Position> {
        Some(load(state_dir)?.0)
    }

    /// Writes the file so that it survives a kill: into `runtime_dir`.
    pub fn note(&self, runtime_dir: &Path, boot_id: &str) -> io::Result<()> {
        disk::replace_volatile(&Disk, &runtime_dir.join(FILE_NAME), &self.encode(Some(boot_id)))
    }

    /// Writes the file so that it survives a power cut: into `state_dir`. Blocks as long as the disk takes.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        disk::replace(&Disk, &state_dir.join(FILE_NAME), &self.encode(None))
    }
}

fn load(folder: &Path) -> Option<(Position, Option<String>)> {
    let path = folder.join(FILE_NAME);
    match disk::read_all(&Disk, &path, MAX_FILE) {
        Ok(content) => {
            let noted = Position::decode_noted(&content);
            if noted.is_none() {
                tracing::warn!("{} is damaged; it is not used", path.display());
            }
            noted
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("{} can't be read: {error}; it is not used", path.display());
            None
        }
    }
}

/// Where the position may be moved to by lines that are not shipped.
#[derive(Debug)]
pub struct Marks {
    /// What the flight recorder holds, in bytes.
    span: usize,
    bytes: usize,
    newer: Option<Cursor>,
    older: Option<Cursor>,
}

impl Marks {
    /// For a flight recorder of this size.
    pub fn new(span: usize) -> Self {
        Marks { span, bytes: 0, newer: None, older: None }
    }

    /// A line was read that is not shipped. Returns what the position moves to, if it does: all that has been read behind it fills
    /// the flight recorder.
    pub fn pass(&mut self, cursor: &Cursor, bytes: usize) -> Option<Cursor> {
        self.bytes += bytes;
        if self.newer.is_some() && self.bytes <= self.span {
            return None;
        }
        self.bytes = 0;
        self.older = self.newer.replace(cursor.clone());
        self.older.clone()
    }

    /// The position is further than all marks.
    pub fn clear(&mut self) {
        (self.bytes, self.newer, self.older) = (0, None, None);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    pub(in crate::logs) fn cursor(number: u64) -> Cursor {
        Cursor::parse(&format!("s=a;i={number:x}")).unwrap()
    }

    pub(in crate::logs) fn at(batch: u64, number: u64) -> Position {
        Position { batch, cursor: cursor(number), read: true }
    }

    #[test]
    fn whatever_is_left_the_latest_position_counts() {
        let latest = Position::latest;
        assert_eq!(latest(None, None, None), None);
        assert_eq!(latest(Some(at(7, 70)), Some(at(3, 30)), None), Some(at(7, 70)), "killed");
        assert_eq!(
            latest(Some(at(7, 70)), Some(at(3, 30)), Some(at(8, 80))),
            Some(at(8, 80)),
            "killed before the note"
        );
        assert_eq!(
            latest(Some(at(8, 85)), Some(at(8, 80)), Some(at(8, 80))),
            Some(at(8, 85)),
            "moved on without a batch"
        );
        assert_eq!(latest(None, Some(at(3, 30)), Some(at(5, 50))), Some(at(5, 50)), "power cut with a backlog");
        assert_eq!(latest(None, Some(at(3, 35)), Some(at(3, 30))), Some(at(3, 35)), "clean stop with a backlog");
    }

    #[test]
    fn a_position_is_never_read_wrongly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        assert_eq!(Position::saved(dir.path()), None);
        let fresh = Position { read: false, ..at(0, 1) };
        fresh.save(dir.path()).unwrap();
        assert_eq!((Position::saved(dir.path()), fresh.begin()), (Some(fresh.clone()), Begin::With(cursor(1))));
        at(9, 2).save(dir.path()).unwrap();
        assert_eq!(Position::saved(dir.path()), Some(at(9, 2)));
        assert_eq!(at(9, 2).begin(), Begin::Behind(cursor(2)));
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, r#"{"batch":9,"cursor":"s=a;i=2","read":true}"#, "later versions read it");
        let record = br#"{"unit":"u","batch":3,"lines":[{"cursor":"x"}],"cursor":"s=a;i=7"}"#;
        assert_eq!(Position::decode(record), Some(at(3, 7)));
        for damaged in
            ["", "{", "{\"batch\":1}", r#"{"batch":-1,"cursor":"s=a;i=2"}"#, r#"{"batch":1,"cursor":"--file=x"}"#]
        {
            fs::write(&path, damaged).unwrap();
            assert_eq!(Position::saved(dir.path()), None, "{damaged}");
            assert_eq!(Position::noted(dir.path(), "b1"), None, "{damaged}");
        }
    }

    #[test]
    fn a_note_of_another_boot_is_never_believed() {
        let dir = tempfile::tempdir().unwrap();
        at(9, 2).note(dir.path(), "b1").unwrap();
        assert_eq!(Position::noted(dir.path(), "b1"), Some(at(9, 2)), "killed");
        assert_eq!(Position::noted(dir.path(), "b2"), None, "the power went");
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(text, r#"{"batch":9,"cursor":"s=a;i=2","read":true,"boot":"b1"}"#, "later versions read it");
        at(8, 2).save(dir.path()).unwrap();
        assert_eq!(Position::noted(dir.path(), "b1"), Some(at(8, 2)), "of a version that did not note the boot");
    }

    proptest! {
        #[test]
        fn the_position_never_passes_what_the_recorder_holds(
            span in 0..1000usize,
            lines in prop::collection::vec(1..300usize, 1..100),
        ) {
            let nth = |number: usize| cursor(u64::try_from(number).unwrap());
            let mut marks = Marks::new(span);
            let mut moved = 0;
            for (number, bytes) in lines.iter().enumerate() {
                if let Some(to) = marks.pass(&nth(number), *bytes) {
                    let at = (0..lines.len()).find(|at| nth(*at) == to).unwrap();
                    prop_assert!(at >= moved);
                    moved = at;
                    // What comes behind it fills the recorder.
                    prop_assert!(lines[at + 1..=number].iter().sum::<usize>() > span);
                }
            }
            // And it moves: what is read again is two recorders full at the most.
            let behind: usize = lines[moved + 1..].iter().sum();
            prop_assert!(behind <= 2 * (span + 300), "{}", behind);
        }
    }
}
