//! How far the journal has been read, so that no line is lost or comes twice.
//!
//! Every record of lines carries the cursor of the last line that had been read then, and the number of its batch, one higher than
//! that of the one before. When a batch is accepted, both are noted in `runtime_dir`, which costs no flash; on a clean stop,
//! and now and then when they have changed, in `state_dir`. At a start the highest number counts, of the three that
//! can be known: noted in `runtime_dir`, noted in `state_dir`, and that of the newest batch which still waits in the spool. So
//!
//! - a kill between acceptance and note leaves a batch in the spool whose number is higher than the noted one. (Unless the
//!   broker has acknowledged it already, and the spool has noted that. The note is made as soon as this task runs after acceptance,
//!   which on a busy machine may be late enough: then the batch comes again, under the same ids of its lines.);
//! - a kill before acceptance leaves neither, and the lines are read again;
//! - after a power cut some lines were delivered that are read again, those since the latest note in `state_dir`: consumers know
//!   them by their `id`. None is lost, as far as the journal has them.
//!
//! Lines that are not shipped move the position, too, but no further than to where the flight recorder begins that would be
//! lost with the process: so it is filled again.
//!
//! Format of both files, `log-position`: JSON, `{"batch":12,"cursor":"s=…","read":true}`. `read`: whether the line at the
//! cursor has itself been read.

use crate::app::journal::{Begin, Cursor};
use crate::disk::{self, Disk};
use serde::{Deserialize, Serialize};
use std::fs;
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
}

fn yes() -> bool {
    true
}

impl Position {
    /// The position in a file, or in a record of lines. `None` where there is none.
    pub fn decode(json: &[u8]) -> Option<Position> {
        let Noted { batch, cursor, read } = serde_json::from_slice(json).ok()?;
        Some(Position { batch, cursor: Cursor::parse(&cursor)?, read })
    }

    fn encode(&self) -> Vec<u8> {
        let noted = Noted { batch: self.batch, cursor: self.cursor.as_str().to_owned(), read: self.read };
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

    /// As the file in this folder has it.
    pub fn load(folder: &Path) -> Option<Position> {
        let path = folder.join(FILE_NAME);
        match disk::read_all(&Disk, &path, MAX_FILE) {
            Ok(content) => {
                let position = Position::decode(&content);
                if position.is_none() {
                    tracing::warn!("{} is damaged; it is not used", path.display());
                }
                position
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("{} can't be read: {error}; it is not used", path.display());
                None
            }
        }
    }

    /// Writes the file so that it survives a kill: into `runtime_dir`.
    pub fn note(&self, folder: &Path) -> io::Result<()> {
        let (path, temporary) = (folder.join(FILE_NAME), folder.join(format!("{FILE_NAME}.tmp")));
        fs::write(&temporary, self.encode())?;
        fs::rename(&temporary, &path)
    }

    /// Writes the file so that it survives a power cut: into `state_dir`. Blocks as long as the disk takes.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        disk::replace(&Disk, &folder.join(FILE_NAME), &self.encode())
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(number: u64) -> Cursor {
        Cursor::parse(&format!("s=a;i={number:x}")).unwrap()
    }

    fn at(batch: u64, number: u64) -> Position {
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
        assert_eq!(Position::load(dir.path()), None);
        let fresh = Position { read: false, ..at(0, 1) };
        fresh.note(dir.path()).unwrap();
        assert_eq!((Position::load(dir.path()), fresh.begin()), (Some(fresh.clone()), Begin::With(cursor(1))));
        at(9, 2).save(dir.path()).unwrap();
        assert_eq!(Position::load(dir.path()), Some(at(9, 2)));
        assert_eq!(at(9, 2).begin(), Begin::Behind(cursor(2)));
        let text = fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(text, r#"{"batch":9,"cursor":"s=a;i=2","read":true}"#, "later versions read it");
        let record = br#"{"unit":"u","batch":3,"lines":[{"cursor":"x"}],"cursor":"s=a;i=7"}"#;
        assert_eq!(Position::decode(record), Some(at(3, 7)));
        for damaged in
            ["", "{", "{\"batch\":1}", r#"{"batch":-1,"cursor":"s=a;i=2"}"#, r#"{"batch":1,"cursor":"--file=x"}"#]
        {
            fs::write(dir.path().join(FILE_NAME), damaged).unwrap();
            assert_eq!(Position::load(dir.path()), None, "{damaged}");
        }
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
