//! The journal of the application's unit, read by journalctl as a child process: what the unit printed, and what systemd says of
//! it.
//!
//! Constraints: what the child holds back for us is in its pipe, and it waits when that is full; so whoever doesn't read stops
//! it. A line that is too long is cut (`bounded`), one that is none is told as such. The child is killed when it is let go.
//!
//! Where reading begins: with `--cursor`, at the line that was read last, and that line is passed over here. `--after-cursor`
//! would do that itself, but where the line is there no more (vacuumed), or is one of another unit, it passes over the first line
//! that is new (systemd 252). So the first line that comes tells whether lines are missing: see `Reading`.
//! `--follow` with `--lines` has the same fault where the journal has no line of the unit yet, so they are never used together.

mod bounded;
mod entry;
#[doc(hidden)]
pub mod fuzz;

pub use bounded::LINE;
pub use entry::{Cursor, Entry};

use bounded::{Bounded, Lines};
use bytes::{Buf as _, BytesMut};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// Bytes that are read at a time.
const CHUNK: usize = 16 * 1024;
/// Bytes of journalctl's complaints that are kept.
const COMPLAINT: usize = 512;

/// Where reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Behind this line, which was read.
    Behind(Cursor),
    /// With this line, which was not read yet.
    With(Cursor),
    /// With the first line of the present boot.
    Boot,
    /// With the last so many lines of the present boot.
    Last(u32),
    /// With the newest line of all, whatever unit it is of.
    Newest,
}

/// Where reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With what is there now.
    Now,
    /// Never: what comes is read when it comes.
    Never,
}

/// A unit's journal.
#[derive(Debug, Clone)]
pub struct Journal {
    /// The unit.
    pub unit: String,
    /// What is run: `journalctl`, from $PATH.
    pub program: PathBuf,
}

impl Journal {
    /// The journal of this unit.
    pub fn of(unit: String) -> Self {
        Journal { unit, program: PathBuf::from("journalctl") }
    }

    /// Starts reading.
    pub fn read(&self, begin: &Begin, end: End) -> Result<Reading, Broken> {
        let mut command = Command::new(&self.program);
        command.args(["--output=json", "--all", "--no-pager"]);
        if *begin != Begin::Newest {
            command.arg(format!("--unit={}", self.unit));
        }
        match begin {
            Begin::Behind(cursor) | Begin::With(cursor) => {
                command.arg(format!("--cursor={}", cursor.as_str()));
            }
            Begin::Boot => {
                command.arg("--boot");
            }
            Begin::Last(count) => {
                command.arg("--boot").arg(format!("--lines={count}"));
            }
            Begin::Newest => {
                command.args(["--boot", "--lines=1"]);
            }
        }
        if end == End::Never {
            command.args(["--follow", "--no-tail"]);
        }
        // It must not speak to systemd in our name.
        command.env("LC_ALL", "C").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| self.no_start(error))?;
        let taken = child.stdout.take().zip(child.stderr.take());
        let (stdout, stderr) = taken.ok_or_else(|| self.no_start(io::Error::other("it has no pipes")))?;
        let behind = match begin {
            Begin::Behind(cursor) => Some(cursor.clone()),
            Begin::With(_) | Begin::Boot | Begin::Last(_) | Begin::Newest => None,
        };
        Ok(Reading {
            child,
            stdout: Some(stdout),
            stderr: Some(stderr),
            chunk: BytesMut::new(),
            lines: Lines::default(),
            complaint: Vec::new(),
            behind,
        })
    }

    fn no_start(&self, error: io::Error) -> Broken {
        Broken::Start { program: self.program.clone(), error }
    }
}

/// What comes of a journal.
#[derive(Debug)]
pub enum Step {
    /// A line.
    Entry(Box<Entry>),
    /// A line that is not there any more was the last one that had been read: lines between it and this one may be lost.
    Gap(Cursor, Box<Entry>),
    /// What came is no line of a journal; it is passed over.
    Rubbish(String),
    /// All that was there has been read.
    End,
}

/// Why a journal can't be read, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// There is no journalctl.
    #[error("{} can't be started: {error}; it comes with systemd", program.display())]
    Start {
        /// What was started.
        program: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The user has no right to see the system's journal.
    #[error("journalctl does not show us the system's journal; put our user into the group systemd-journal")]
    Forbidden,
    /// It ended though it should not have.
    #[error("journalctl ended ({0}){1}")]
    Ended(ExitStatus, String),
    /// Its output can't be read.
    #[error("journalctl's output can't be read: {0}")]
    Pipe(#[from] io::Error),
}

/// A child that reads a journal for us.
#[derive(Debug)]
pub struct Reading {
    child: Child,
    /// `None`: it has ended.
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// What was read and not looked at yet.
    chunk: BytesMut,
    lines: Lines,
    complaint: Vec<u8>,
    /// The line that was read last, until the first one has come.
    behind: Option<Cursor>,
}

impl Reading {
    /// The next step. Cancel-safe. After [`Step::End`] and after an error there is nothing more.
    pub async fn next(&mut self) -> Result<Step, Broken> {
        loop {
            if let Some(step) = self.decode() {
                return Ok(step);
            }
            self.chunk.reserve(CHUNK);
            let mut said = BytesMut::with_capacity(COMPLAINT);
            tokio::select! {
                biased;
                count = read(&mut self.stderr, &mut said) => {
                    count?;
                    self.complain(&said)?;
                }
                count = read(&mut self.stdout, &mut self.chunk) => {
                    if count? == 0 {
                        return self.end().await;
                    }
                }
            }
        }
    }

    /// The process id, for tests.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The next step from what was read already.
    fn decode(&mut self) -> Option<Step> {
        loop {
            if self.chunk.is_empty() {
                return None;
            }
            let mut rest = &*self.chunk;
            let before = rest.len();
            let line = self.lines.next(&mut rest).map(|line| match line {
                Ok(Bounded { json: b"", .. }) => None,
                Ok(Bounded { json, cut }) => Some(Entry::decode(json, cut).map_err(|error| {
                    let beginning = String::from_utf8_lossy(json.get(..80).unwrap_or(json)).into_owned();
                    format!("{error}: {beginning:?}")
                })),
                Err(given_up) => Some(Err(given_up.to_string())),
            });
            let used = before - rest.len();
            self.chunk.advance(used);
            match line {
                Some(Some(Ok(entry))) => match self.behind.take() {
                    Some(last) if last.is_same_line(&entry.cursor) => {}
                    Some(last) => return Some(Step::Gap(last, Box::new(entry))),
                    None => return Some(Step::Entry(Box::new(entry))),
                },
                Some(Some(Err(rubbish))) => return Some(Step::Rubbish(rubbish)),
                Some(None) | None => {}
            }
        }
    }

    fn complain(&mut self, said: &[u8]) -> Result<(), Broken> {
        if said.is_empty() {
            self.stderr = None;
            return Ok(());
        }
        let room = COMPLAINT.saturating_sub(self.complaint.len());
        self.complaint.extend(said.iter().take(room));
        // A hint while it reads what is ours, and the end where nothing is.
        let text = String::from_utf8_lossy(&self.complaint);
        let forbidden = ["not seeing messages from other users", "insufficient permissions"];
        if forbidden.iter().any(|hint| text.contains(hint)) { Err(Broken::Forbidden) } else { Ok(()) }
    }

    async fn end(&mut self) -> Result<Step, Broken> {
        // What it complained of comes first: it has closed both.
        while self.stderr.is_some() {
            let mut said = BytesMut::with_capacity(COMPLAINT);
            read(&mut self.stderr, &mut said).await?;
            self.complain(&said)?;
        }
        let status = self.child.wait().await?;
        if status.success() {
            return Ok(Step::End);
        }
        let complaint = String::from_utf8_lossy(&self.complaint);
        let complaint = complaint.trim().lines().last().map(|line| format!(": {line}")).unwrap_or_default();
        Err(Broken::Ended(status, complaint))
    }
}

/// Waits for ever on what has ended.
async fn read(from: &mut Option<impl AsyncRead + Unpin>, into: &mut BytesMut) -> io::Result<usize> {
    match from {
        Some(from) => from.read_buf(into).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
