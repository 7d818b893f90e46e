//! `pillion spool verify | dump | repair`: the tools for a spool that no process has open.
//!
//! Constraints: the spool that they are given is only read; memory does not grow with it; standard output has results
//! alone, and for `dump` records alone.

mod dump;
mod repair;
mod verify;

use super::exit::{Failure, UNAVAILABLE, USAGE};
use super::quantity::{bytes, number};
use crate::spool::closed::{ClosedSpool, OpenError};
use crate::spool::inspect::{Finding, Kind, Missing};
use clap::Subcommand;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const VERIFY_HELP: &str = "\
Tells for each stream what is there, what still waits, and each damaged place.
Writes nothing. DIR is the state_dir, the spool folder in it, or the folder of
one stream. The sidecar must be stopped, and its socket unit, which starts it.

What a kill or a power cut leaves is told and is no damage: an unfinished
record at the end of the newest segment. Other files are told, too.

Exit codes: 0 whole, 65 damaged, 64 no spool there, 69 in use.

Examples:
  systemctl stop pillion@gateway
  pillion spool verify /var/lib/pillion/gateway
  pillion spool verify --json /var/lib/pillion/gateway | jq .streams.telemetry";

const DUMP_HELP: &str = "\
Prints each whole record that still waits as one line of JSON, the oldest of
each stream first. Writes nothing. DIR is the state_dir, the spool folder in
it, or the folder of one stream. The sidecar must be stopped, and its socket
unit, which starts it.

The line: stream, seq, topic (below mqtt.topic_prefix), ts, \"clock\" when it was
not to be trusted, encoding, data. By encoding, data is: json, the value; text,
a string; base64 and raw, the bytes in base64.

Exit codes: 0 all of it, 65 all but what is damaged (told on standard error),
64 no spool there, 69 in use.

Examples:
  pillion spool dump /var/lib/pillion/gateway > waiting.ndjson
  pillion spool dump --all /var/lib/pillion/gateway/spool/telemetry | jq .data";

const REPAIR_HELP: &str = "\
Saves each whole record that still waits into a clean spool at NEWDIR, under the
number that it had, and counts what is lost as quarantined. DIR is only read. It
is the state_dir, the spool folder in it, or the folder of one stream, and
NEWDIR becomes the same. The sidecar must be stopped, and its socket unit,
which starts it.

A sidecar starts with a damaged spool, too, and passes over what is damaged;
this is for taking the records elsewhere, and for a disk that fails.

Exit codes: 0 NEWDIR is whole, whatever was lost; 64 no spool there, or NEWDIR
is not empty; 69 in use; 70 NEWDIR can't be written.

Examples:
  pillion spool repair /var/lib/pillion/gateway/spool --to /mnt/usb/spool
  chown -R --reference=/var/lib/pillion/gateway /mnt/usb/spool";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell what is there and what is damaged
    #[command(after_help = VERIFY_HELP)]
    Verify(verify::Arguments),
    /// Print the records that wait as lines of JSON
    #[command(after_help = DUMP_HELP)]
    Dump(dump::Arguments),
    /// Save what can be read into a clean spool
    #[command(after_help = REPAIR_HELP)]
    Repair(repair::Arguments),
}

/// The folder of every command.
#[derive(Debug, clap::Args)]
struct Folder {
    /// The state_dir, the spool folder in it, or one stream's folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Folder {
    fn open(&self) -> Result<ClosedSpool, Failure> {
        ClosedSpool::open(&self.dir).map_err(|error| {
            let code = match error {
                OpenError::InUse(_) | OpenError::Unreadable(..) => UNAVAILABLE,
                OpenError::Absent(_) | OpenError::NoSpool(_) => USAGE,
            };
            Failure::new(code, error.to_string())
        })
    }
}

pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Verify(arguments) => verify::run(arguments),
        Command::Dump(arguments) => dump::run(arguments),
        Command::Repair(arguments) => repair::run(arguments),
    }
}

/// What was found, in words.
fn in_words(finding: &Finding) -> String {
    let place = finding.file.as_deref().unwrap_or("the stream");
    let (size, offset) = (finding.bytes, finding.offset);
    let detail = finding.detail.as_deref().unwrap_or("no reason is known");
    let what = match finding.kind {
        Kind::Damaged => format!("{size} bytes at {offset} are no records"),
        Kind::HeaderDamaged => format!("{detail}; the records behind it can be read"),
        Kind::Missing => "segments are gone".to_owned(),
        Kind::Unreadable => format!("can't be read: {detail}"),
        Kind::CheckpointDamaged => format!("{detail}; the segments have to tell what waits"),
        Kind::Newer | Kind::Foreign => detail.to_owned(),
        Kind::Misnamed => format!("{detail}; give it that name to have it read"),
        Kind::TornTail => {
            format!("{size} bytes at {offset} are an unfinished record, as a kill or a power cut leaves it")
        }
        Kind::DoneWith => {
            format!("{size} bytes at {offset} are damaged, and all records of this segment are done with")
        }
        Kind::OtherFile => format!("{} that have nothing to do with the spool", bytes(size)),
    };
    let missing = finding.missing.map(|missing| format!("; {}", lost(&missing))).unwrap_or_default();
    format!("{place}: {what}{missing}")
}

fn lost(missing: &Missing) -> String {
    let &Missing { first, last, waited } = missing;
    let count = last.saturating_sub(first).saturating_add(1);
    let range = if count == 1 { format!("number {first}") } else { format!("numbers {first} to {last}") };
    let missing = counted(count, "record");
    match waited {
        0 => format!("missing: {missing}, {range}, of which none waited"),
        _ if waited == count => format!("missing: {missing} that waited, {range}"),
        _ => format!("missing: {missing}, {range}, of which {} waited", number(waited)),
    }
}

/// `count` things, as a person says it.
fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{} {thing}s", number(count)) }
}

/// How to name a folder in a command that someone may copy.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-@+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
