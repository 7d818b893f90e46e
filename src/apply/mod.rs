//! `pillion apply`: writes the managed files, in a process of its own with the rights that the sidecar has not.
//!
//! The sidecar keeps what is wanted (see `settings`) and says that there is something new; systemd starts this. What is
//! wanted comes from the sidecar's folder, which its user can write to: it is read as an enemy's word, and only as far as
//! the configuration names it, which is root's. What became of it is in `apply_dir`, which only root can write to.
//!
//! Constraints: whatever is cut off at whatever step, the file is the old or the new version, whole; a version that failed
//! is not tried again until the key changes; the state is on disk before what it says is done. States of a file:
//!
//! ```text
//!        checked, old one kept          in its place                 goes on
//! Idle ───────────────────────> Replacing ─────────> Probation ─────────────> Idle: applied
//!  │ check failed                                        │ does not
//!  └──> Idle: rejected                                   └──> RollingBack ──> Idle: rolled back
//! ```
//!
//! After a power cut: Replacing goes on to Probation if the new version is in its place, and else begins anew; Probation has
//! the unit restarted once more; RollingBack is done once more.

mod place;
mod unit;

use crate::config::{Action, Config, ManagedFile};
use crate::inbound::MAX_VALUE;
use crate::outcome::{Ledger, MAX_LEDGER, Outcome, Result as Became, State, name_of};
use crate::settings::store::{self, Print};
use place::Access;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a check may take.
const CHECK_TIME: Duration = Duration::from_secs(30);
/// The largest old version that can be kept.
const MAX_OLD: usize = 1024 * 1024;
/// What is wanted may change while we are at work; then we look again, so often.
const ROUNDS: u32 = 16;
/// Characters of a reason.
const REASON: usize = 1000;

/// What happened, for whoever started this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The key of the file.
    pub key: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Applies what is wanted. `told` hears of each file.
///
/// # Errors
/// `apply_dir` can't be used, another process is at work, or the state of a file can't be kept or its old version not put back;
/// then the other files are brought up to date all the same. What goes wrong with one file is its outcome.
pub fn run(config: &Config, mut told: impl FnMut(&Done)) -> io::Result<()> {
    if config.managed_files.is_empty() {
        return Ok(());
    }
    let unusable = |error: io::Error| told_of(&config.apply_dir.display(), &error);
    DirBuilder::new().recursive(true).mode(0o755).create(&config.apply_dir).map_err(unusable)?;
    let dir = place::safe_folder(&config.apply_dir.join("x")).map_err(unusable)?;
    let lock = File::create(dir.join("lock")).map_err(unusable)?;
    let locked = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|_| io::Error::other("another `pillion apply` is at work"))?;
    let mut stuck = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut busy = false;
        for file in &config.managed_files {
            // Another try would have the unit restarted again.
            if stuck.contains_key(&file.key) {
                continue;
            }
            match Work::new(config, file, &dir).bring_up_to_date() {
                Ok(Some(outcome)) => {
                    told(&Done { key: file.key.clone(), outcome });
                    busy = true;
                }
                Ok(None) => {}
                Err(error) => _ = stuck.insert(&file.key, told_of(&file.key, &error)),
            }
        }
        if !busy {
            break;
        }
    }
    match stuck.is_empty() {
        true => Ok(()),
        false => {
            Err(io::Error::other(stuck.into_values().map(|error| error.to_string()).collect::<Vec<_>>().join("; ")))
        }
    }
}

fn told_of(what: &dyn std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// One file's affairs.
struct Work<'c> {
    file: &'c ManagedFile,
    unit: Option<&'c str>,
    socket: PathBuf,
    wanted_in: PathBuf,
    dir: &'c Path,
    name: String,
    ledger: Ledger,
}

impl<'c> Work<'c> {
    fn new(config: &'c Config, file: &'c ManagedFile, dir: &'c Path) -> Work<'c> {
        let name = name_of(&file.key);
        let read = place::read(&dir.join(format!("{name}.json")), MAX_LEDGER).ok().flatten();
        let known = read.and_then(|bytes| serde_json::from_slice::<Ledger>(&bytes).ok());
        let known = known.filter(|ledger| ledger.key == file.key);
        Work {
            file,
            unit: config.app.unit.as_deref(),
            socket: config.runtime_dir.join("pillion.sock"),
            wanted_in: store::folder(&config.state_dir),
            dir,
            name,
            ledger: known.unwrap_or_else(|| Ledger { key: file.key.clone(), ..Ledger::default() }),
        }
    }

    /// Goes through the states until nothing is under way. `None`: there was nothing to do.
    fn bring_up_to_date(&mut self) -> io::Result<Option<Outcome>> {
        let mut done = None;
        loop {
            let next = match self.ledger.state.clone() {
                // What is wanted is new, or nothing is to be done.
                State::Idle => match self.wanted() {
                    Some((etag, value)) if self.ledger.last.as_ref().is_none_or(|last| last.etag != etag) => {
                        match self.prepare(&value) {
                            Ok(true) => self.end(&mut done, &etag, Became::Applied, None),
                            Ok(false) => State::Replacing { etag },
                            Err(reason) => self.end(&mut done, &etag, Became::Rejected, Some(reason)),
                        }
                    }
                    _ => return Ok(done),
                },
                // The old version is kept: the new one takes its place.
                State::Replacing { etag } => match self.put_in_place(&etag) {
                    Ok(true) => State::Probation { etag },
                    // It is wanted no longer, and the old one is still there.
                    Ok(false) => State::Idle,
                    Err(error) => State::RollingBack { etag, reason: format!("it could not be put in place: {error}") },
                },
                // The new version is there: the application has to go on with it.
                State::Probation { etag } => match self.act() {
                    Ok(()) => self.end(&mut done, &etag, Became::Applied, None),
                    Err(reason) => State::RollingBack { etag, reason },
                },
                // The old version comes back, and the application with it.
                State::RollingBack { etag, reason } => {
                    self.put_back()?;
                    let reason = match self.act() {
                        Ok(()) => reason,
                        Err(again) => format!("{reason}; and with the old version: {again}"),
                    };
                    self.end(&mut done, &etag, Became::RolledBack, Some(reason))
                }
            };
            self.ledger.state = next;
            self.save()?;
        }
    }

    fn end(&mut self, done: &mut Option<Outcome>, etag: &str, result: Became, reason: Option<String>) -> State {
        let reason = reason.map(|reason| reason.chars().take(REASON).collect());
        let outcome = Outcome { etag: etag.to_owned(), result, reason };
        self.ledger.last = Some(outcome.clone());
        *done = Some(outcome);
        State::Idle
    }

    /// The value that the key has in the store, if it is there and whole.
    fn wanted(&self) -> Option<(String, Vec<u8>)> {
        let entry =
            store::find(&self.wanted_in, &self.file.key, |path, limit| place::read(path, limit).ok().flatten())?;
        (entry.value.len() <= MAX_VALUE).then(|| (Print::of(&entry.value).etag(), entry.value))
    }

    /// Checks the value, and keeps the old version. `Ok(true)`: the file has this value already. `Err`: it can't be used.
    fn prepare(&mut self, value: &[u8]) -> Result<bool, String> {
        let failed = |what: &'static str| {
            let path = self.file.path.display().to_string();
            move |error: io::Error| format!("{what} {path}: {error}")
        };
        place::safe_folder(&self.file.path).map_err(failed("can't write"))?;
        let old = place::read(&self.file.path, MAX_OLD).map_err(failed("can't read"))?;
        if old.as_deref() == Some(value) {
            return Ok(true);
        }
        self.check(value)?;
        let kept = match &old {
            Some(old) => {
                let access = Access::of(&self.file.path).map_err(failed("can't read"))?;
                place::replace(self.dir, &self.old_name(), old, access)
            }
            None => place::remove(self.dir, &self.old_name()),
        };
        kept.map_err(failed("can't keep the old version of"))?;
        self.ledger.had_old = old.is_some();
        Ok(false)
    }

    /// Runs the check command on a copy that nobody else can touch.
    fn check(&self, value: &[u8]) -> Result<(), String> {
        let Some((program, arguments)) = self.file.check.split_first() else { return Ok(()) };
        let name = format!("{}.candidate", self.name);
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let access = Access { mode: 0o644, owner: us };
        place::replace(self.dir, &name, value, access).map_err(|error| format!("can't write a copy: {error}"))?;
        let copy = self.dir.join(&name).display().to_string();
        let arguments: Vec<String> = arguments.iter().map(|word| word.replace("{file}", &copy)).collect();
        let checked = unit::run(program, &arguments, CHECK_TIME);
        let _ = place::remove(self.dir, &name);
        checked.map(|_| ()).map_err(|why| format!("check failed: {}", why.replace(&copy, "FILE")))
    }

    /// `Ok(false)`: the value is not wanted any more.
    fn put_in_place(&self, etag: &str) -> io::Result<bool> {
        let there = place::read(&self.file.path, MAX_OLD)?;
        if there.is_some_and(|there| Print::of(&there).etag() == etag) {
            return Ok(true);
        }
        let Some((_, value)) = self.wanted().filter(|(wanted, _)| wanted == etag) else { return Ok(false) };
        let owner = match &self.file.owner {
            Some(owner) => place::owner(owner)?,
            None if self.ledger.had_old => Access::of(&self.dir.join(self.old_name()))?.owner,
            None => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        };
        let (folder, name) = self.target()?;
        place::replace(&folder, &name, &value, Access { mode: self.file.mode, owner })?;
        Ok(true)
    }

    fn put_back(&self) -> io::Result<()> {
        let (folder, name) = self.target()?;
        if !self.ledger.had_old {
            return place::remove(&folder, &name);
        }
        let kept = self.dir.join(self.old_name());
        let Some(old) = place::read(&kept, MAX_OLD)? else { return Ok(()) };
        place::replace(&folder, &name, &old, Access::of(&kept)?)
    }

    fn target(&self) -> io::Result<(PathBuf, String)> {
        let folder = place::safe_folder(&self.file.path)?;
        let name = self.file.path.file_name().and_then(|name| name.to_str());
        Ok((folder, name.ok_or_else(|| io::Error::other("its name is not UTF-8"))?.to_owned()))
    }

    /// Tells the unit, and looks whether it goes on.
    fn act(&self) -> Result<(), String> {
        let verb = match self.file.action {
            Action::Restart => "restart",
            Action::Reload => "reload",
            Action::None => return Ok(()),
        };
        let Some(unit) = self.unit else { return Ok(()) };
        unit::act(verb, unit, self.file.healthy_within, &self.socket)
    }

    fn save(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.ledger)?;
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // The sidecar reads it.
        place::replace(self.dir, &format!("{}.json", self.name), &text, Access { mode: 0o644, owner: us })
    }

    fn old_name(&self) -> String {
        format!("{}.old", self.name)
    }
}
