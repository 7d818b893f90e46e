//! `pillion spool repair`: saves what can be read of a spool into a clean one.

use super::{Folder, counted, in_words, quoted};
use crate::cli::exit::{Failure, INTERNAL, Reader, USAGE, print};
use crate::disk::{Disk, FileSystem as _};
use crate::host;
use crate::spool::closed::{ClosedSpool, Level};
use crate::spool::folder;
use crate::spool::salvage::salvage;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    folder: Folder,
    /// Where the clean spool comes: a new folder, or an empty one
    #[arg(long, value_name = "NEWDIR")]
    to: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let from = arguments.folder.open()?;
    let to = new_place(&arguments.to, &from.dir)?;
    let spool = match from.level {
        Level::State => folder(&to),
        Level::Spool | Level::Stream => to.clone(),
    };
    let failed = |error: io::Error| {
        let message = format!("can't write {}: {error}; what is in it is no use, remove it", to.display());
        Failure::new(INTERNAL, message)
    };
    if from.level != Level::Stream {
        // Tells a spool without streams from an empty folder.
        Disk.create_dir_all(&spool).and_then(|()| Disk.create(&spool.join("lock"))).map_err(failed)?;
    }
    let (mut saved, mut lost) = (0, 0);
    for stream in &from.streams {
        let target = if from.level == Level::Stream { spool.clone() } else { spool.join(&stream.name) };
        let mut printed = Ok(Reader::Reads);
        let (report, kept) = salvage(&Disk, &stream.dir, &target, host::now(), |finding| {
            if printed.is_ok() {
                printed = print(&format!("{}/{}\n", stream.name, in_words(finding)));
            }
        })
        .map_err(failed)?;
        printed?;
        saved += kept.records;
        lost += report.lost;
        let (records, segments) = (counted(kept.records, "record"), counted(kept.segments, "segment"));
        print(&format!("{}: saved {records} in {segments}, lost {}\n", stream.name, report.lost))?;
    }
    print(&farewell(&from, &to, saved, lost))?;
    Ok(ExitCode::SUCCESS)
}

fn farewell(from: &ClosedSpool, to: &Path, saved: u64, lost: u64) -> String {
    let (old, new) = (quoted(&from.dir), quoted(to));
    format!(
        "saved {} that waited, lost {lost}; {old} is as it was\n\
         To deliver them, put {new} in its place, with its owner: chown -R --reference={old} {new}\n",
        counted(saved, "record")
    )
}

/// The absolute path of NEWDIR, which must not be there or be empty, and not lie in the spool that must not change.
fn new_place(to: &Path, from: &Path) -> Result<PathBuf, Failure> {
    let refuse = |why: &str| Failure::new(USAGE, format!("--to {}: {why}", to.display()));
    match fs::read_dir(to).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(refuse("it is not empty; give a folder that is, or one that is not there"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(refuse("it is no folder")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refuse(&error.to_string())),
        Ok(false) | Err(_) => {}
    }
    let to = std::path::absolute(to).map_err(|error| refuse(&error.to_string()))?;
    let there = to.ancestors().find_map(|part| fs::canonicalize(part).ok());
    if there.is_some_and(|there| there.starts_with(from)) {
        return Err(refuse("it lies in the folder that is to be left as it is"));
    }
    Ok(to)
}
