//! A program of the system that is asked something: it runs as a child, has a deadline, and may not say too much.

use rustix::process::Signal;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// Bytes of its complaints that are read.
const MAX_COMPLAINT: u64 = 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It could not be started.
    #[error("{program} can't be run: {source}")]
    Run {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended without success.
    #[error("{program} says: {complaint}")]
    Refused {
        /// Its name.
        program: String,
        /// The first line of its standard error, or how it ended.
        complaint: String,
    },
    /// Somebody ended it with SIGTERM.
    #[error("{program} was ended by SIGTERM")]
    Terminated {
        /// Its name.
        program: String,
    },
    /// It took too long.
    #[error("{program} has not answered within {} ms", deadline.as_millis())]
    Late {
        /// Its name.
        program: String,
        /// How long it had.
        deadline: Duration,
    },
}

/// Runs it and returns what it says, cut off at `limit` bytes. When this is dropped, or the deadline passes, it is killed.
///
/// systemd may end all processes of our unit with SIGTERM when it stops us, the child of a moment ago among them; so it is asked
/// once more then.
pub(super) async fn ask(program: &str, arguments: &[&str], limit: u64, deadline: Duration) -> Result<String, AskError> {
    match once(program, arguments, limit, deadline).await {
        Err(AskError::Terminated { .. }) => once(program, arguments, limit, deadline).await,
        outcome => outcome,
    }
}

async fn once(program: &str, arguments: &[&str], limit: u64, deadline: Duration) -> Result<String, AskError> {
    let run = |source| AskError::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(run)?;
    let (said, complaint) = (child.stdout.take(), child.stderr.take());
    let answered = async {
        let (said, complaint) = tokio::join!(text(said, limit), text(complaint, MAX_COMPLAINT));
        // With its pipes closed it has no reason to go on.
        Ok((said, complaint, child.wait().await?))
    };
    let late = |_| AskError::Late { program: program.to_owned(), deadline };
    let (said, complaint, status) = timeout(deadline, answered).await.map_err(late)?.map_err(run)?;
    if status.success() {
        return Ok(said);
    }
    if status.signal() == Some(Signal::TERM.as_raw()) {
        return Err(AskError::Terminated { program: program.to_owned() });
    }
    let complaint = complaint.lines().next().map_or_else(|| status.to_string(), str::to_owned);
    Err(AskError::Refused { program: program.to_owned(), complaint })
}

/// What comes out of a pipe until its end or `limit` bytes.
async fn text(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What came before an error counts.
        let _ = pipe.take(limit).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(script: &str, limit: u64, deadline: Duration) -> Result<String, AskError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ask("/bin/sh", &["-c", script], limit, deadline))
    }

    #[test]
    fn a_program_never_says_too_much_or_holds_us_up() {
        let long = Duration::from_secs(60);
        assert_eq!(asked("echo yes", 100, long).unwrap(), "yes\n");
        assert_eq!(asked("echo yes", 2, long).unwrap(), "ye");
        let endless = asked("while :; do echo yes; done", 10, long).unwrap_err().to_string();
        assert!(endless.contains("/bin/sh says: "), "cut off by a closed pipe: {endless}");
        let complaint = asked("echo no bus >&2; echo more >&2; exit 1", 100, long).unwrap_err();
        assert_eq!(complaint.to_string(), "/bin/sh says: no bus");
        assert_eq!(asked("exit 4", 100, long).unwrap_err().to_string(), "/bin/sh says: exit status: 4");
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("flag");
        let script = format!("[ -e {flag:?} ] && exec echo yes; touch {flag:?}; kill -TERM $$");
        assert_eq!(asked(&script, 100, long).unwrap(), "yes\n", "asked once more");
        assert_eq!(asked("kill -TERM $$", 100, long).unwrap_err().to_string(), "/bin/sh was ended by SIGTERM");
        let late = asked("exec sleep 60", 100, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.to_string(), "/bin/sh has not answered within 50 ms");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let absent = runtime.block_on(ask("no-such-program", &[], 1, long)).unwrap_err().to_string();
        assert!(absent.starts_with("no-such-program can't be run: No such file"), "{absent}");
    }
}
