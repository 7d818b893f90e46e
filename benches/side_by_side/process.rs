//! Child processes that never outlive the bench: not its errors, not its panics, not Ctrl-C.

use super::{Result, scratch};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process may take to end when it was asked to.
const END: Duration = Duration::from_secs(20);
/// Of what a process said, so many lines are shown when it fails.
const LAST_WORDS: usize = 12;

/// Every child that has not been reaped: a process id in here is still ours.
static LIVING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn living() -> MutexGuard<'static, Vec<Pid>> {
    LIVING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Kills all children and removes all folders when SIGINT or SIGTERM comes, then ends the bench.
pub fn clean_up_when_interrupted() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        let living = living();
        for child in living.iter() {
            let _ = kill_process(*child, Signal::KILL);
            let _ = waitpid(Some(*child), WaitOptions::empty());
        }
        scratch::remove_all();
        std::process::exit(130);
    });
    Ok(())
}

/// A child that runs. Dropping it kills it.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says on its standard error goes into a file, for the case that it fails.
    pub fn start(name: &'static str, command: &mut Command, scratch: &scratch::Scratch) -> Result<Process> {
        let log = scratch.path(&format!("{name}.log"));
        command.stderr(File::create(&log)?);
        let mut living = living();
        let child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
        living.push(Pid::from_child(&child));
        Ok(Process { name, child, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The writing end of its standard input, once, if that is a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The reading end of its standard output, once, if that is a pipe.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Fails if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.reap()? {
            None => Ok(()),
            Some(status) => Err(self.complaint(&format!("ended ({status})")).into()),
        }
    }

    /// Asks it to end and waits until it has. Its exit status counts only if `must_succeed`.
    pub fn terminate(mut self, must_succeed: bool) -> Result<()> {
        self.still_runs()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.ended(must_succeed)
    }

    /// Waits until it ends by itself, successfully.
    pub fn finish(mut self) -> Result<()> {
        self.ended(true)
    }

    fn ended(&mut self, must_succeed: bool) -> Result<()> {
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            match self.reap()? {
                Some(status) if must_succeed && !status.success() => {
                    return Err(self.complaint(&format!("failed ({status})")).into());
                }
                Some(_) => return Ok(()),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Err(self.complaint(&format!("did not end within {} s", END.as_secs())).into())
    }

    fn reap(&mut self) -> Result<Option<ExitStatus>> {
        let mut living = living();
        let pid = Pid::from_child(&self.child);
        let status = self.child.try_wait()?;
        if status.is_some() {
            living.retain(|child| *child != pid);
        }
        Ok(status)
    }

    fn complaint(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
        format!("{} {what}; its last words:\n{}", self.name, last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut living = living();
        let pid = Pid::from_child(&self.child);
        // Both do nothing to a child that has been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
        living.retain(|child| *child != pid);
    }
}
