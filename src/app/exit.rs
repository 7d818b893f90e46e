//! Why the application ended: one run of it, from systemd's words or the journal's.

use std::fmt;

/// The end of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The id of the run; systemd gives a new one to each start.
    pub invocation: String,
    /// Why.
    pub cause: Cause,
    /// The main process's exit code, where it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended the main process, where one did.
    pub signal: Option<i32>,
    /// When the main process started, in microseconds of CLOCK_MONOTONIC.
    pub started_us: Option<u64>,
    /// When it ended, on the same clock.
    pub ended_us: Option<u64>,
    /// Times that systemd had started it again by itself before this run ended.
    pub restarts: Option<u64>,
    /// Whether systemd was about to start it again.
    pub will_restart: Option<bool>,
    /// Processor time of the whole run in nanoseconds.
    pub cpu_ns: Option<u64>,
}

/// Why a run ended. Most words are systemd's (systemd.service(5), `$SERVICE_RESULT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It exited by itself, and that counts as success.
    Exited,
    /// It exited with a code that means failure.
    ExitCode,
    /// A signal ended it.
    Signal,
    /// A signal ended it, and it left a core dump.
    CoreDump,
    /// The kernel killed a process of it for want of memory.
    OomKill,
    /// It did not answer systemd's watchdog.
    Watchdog,
    /// It took too long to start or to stop.
    Timeout,
    /// It was started too often in too short a time.
    StartLimit,
    /// Somebody had it stopped or restarted.
    Stopped,
    /// The whole system goes down.
    Shutdown,
    /// Another word of systemd's.
    Other(String),
    /// Nobody knows.
    Unknown,
}

impl Exit {
    /// Of a run of which nobody knows more than that it has ended.
    pub fn unknown(invocation: String) -> Exit {
        Exit {
            invocation,
            cause: Cause::Unknown,
            code: None,
            signal: None,
            started_us: None,
            ended_us: None,
            restarts: None,
            will_restart: None,
            cpu_ns: None,
        }
    }
}

impl Cause {
    /// From `Result` of `systemctl show`, or `UNIT_RESULT` in the journal. `signal`: what ended the main process.
    pub fn of_result(result: &str, signal: Option<i32>) -> Cause {
        match result {
            // SIGTERM and its like count as success when systemd sends them, or nobody else had reason to.
            "success" if signal.is_some() => Cause::Stopped,
            "success" => Cause::Exited,
            "exit-code" => Cause::ExitCode,
            "signal" => Cause::Signal,
            "core-dump" => Cause::CoreDump,
            "oom-kill" => Cause::OomKill,
            "watchdog" => Cause::Watchdog,
            "timeout" => Cause::Timeout,
            "start-limit-hit" => Cause::StartLimit,
            "" => Cause::Unknown,
            other => Cause::Other(other.to_owned()),
        }
    }

    /// The word in reports.
    pub fn as_str(&self) -> &str {
        match self {
            Cause::Exited => "exited",
            Cause::ExitCode => "exit-code",
            Cause::Signal => "signal",
            Cause::CoreDump => "core-dump",
            Cause::OomKill => "oom-kill",
            Cause::Watchdog => "watchdog",
            Cause::Timeout => "timeout",
            Cause::StartLimit => "start-limit-hit",
            Cause::Stopped => "stopped",
            Cause::Shutdown => "shutdown",
            Cause::Other(word) => word,
            Cause::Unknown => "unknown",
        }
    }

    /// Whether somebody wanted it: nothing to look into.
    pub fn is_wanted(&self) -> bool {
        matches!(self, Cause::Stopped | Cause::Shutdown)
    }
}

/// What became of it, as the end of a sentence that begins with its name.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = self.signal.map(|number| format!("signal {number} ({})", signal_name(number)));
        let by = signal.as_deref().unwrap_or("a signal");
        match (&self.cause, self.code) {
            (Cause::Exited | Cause::ExitCode, Some(code)) => write!(f, "exited with code {code}"),
            (Cause::Exited, None) => write!(f, "ended by itself"),
            (Cause::ExitCode, None) => write!(f, "exited with a code that means failure"),
            (Cause::Signal, _) => write!(f, "was killed by {by}"),
            (Cause::CoreDump, _) => write!(f, "was killed by {by} and dumped core"),
            (Cause::OomKill, _) => write!(f, "was killed by the kernel, which had no memory left for it"),
            (Cause::Watchdog, _) => write!(f, "did not answer systemd's watchdog and was killed by {by}"),
            (Cause::Timeout, _) => write!(f, "took too long to start or to stop"),
            (Cause::StartLimit, _) => write!(f, "was started too often in too short a time; systemd has given it up"),
            (Cause::Stopped, _) => write!(f, "was stopped by hand"),
            (Cause::Shutdown, _) => write!(f, "was stopped with the whole system"),
            (Cause::Other(word), _) => write!(f, "ended; systemd calls that {word:?}"),
            (Cause::Unknown, _) => write!(f, "ended, and nobody knows why"),
        }
    }
}

/// The clock of these times now.
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1000)
}

/// A signal's name (signal(7)), as on ARM and x86; `SIG` and the number for those without one.
pub fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(number - 1).ok().and_then(|index| NAMES.get(index));
    name.map_or_else(|| format!("SIG{number}"), |name| format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_systemds_never_changes_on_its_way() {
        for word in
            ["exit-code", "signal", "core-dump", "oom-kill", "watchdog", "timeout", "start-limit-hit", "resources"]
        {
            assert_eq!(Cause::of_result(word, Some(9)).as_str(), word);
        }
        assert_eq!(Cause::of_result("success", None), Cause::Exited);
        assert_eq!(Cause::of_result("success", Some(15)), Cause::Stopped);
        assert_eq!(Cause::of_result("", None), Cause::Unknown);
    }

    #[test]
    fn a_signal_never_has_the_name_of_another() {
        let names: Vec<String> = [1, 6, 9, 11, 15, 31, 34, 0, -1].into_iter().map(signal_name).collect();
        let right = ["SIGHUP", "SIGABRT", "SIGKILL", "SIGSEGV", "SIGTERM", "SIGSYS", "SIG34", "SIG0", "SIG-1"];
        assert_eq!(names, right);
    }
}
