//! The state of the application's unit: `systemctl show` is asked, its answer is read.
//!
//! The format (systemctl(1), and the D-Bus interface org.freedesktop.systemd1): one `Name=value` in a line, in any order.
//! What an older systemd does not know is missing; a number that it does not keep is `[not set]` or `infinity`, or the
//! largest one.

use super::child::{self, AskError};
use super::exit::{Cause, Exit};
use std::time::Duration;

/// How long systemd may take to answer.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read. It has some 700.
const MAX_ANSWER: u64 = 16 * 1024;
/// What systemd is asked for.
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,MainPID,NRestarts,\
InvocationID,Job,ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic,ActiveEnterTimestampMonotonic,ControlGroup,\
CPUUsageNSec";
/// waitid(2): `si_code` of a process that exited by itself, was killed, was killed and has dumped core.
const CLD_EXITED: i32 = 1;
const CLD_DUMPED: i32 = 3;

/// What a unit does, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is no such unit, or it can't be loaded.
    Missing,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped, or what is left of it is.
    Stopping,
    /// It has ended, and systemd is going to start it again.
    Restarting,
    /// It does not run, and nothing is wrong with that.
    Stopped,
    /// It has ended in a way that counts as a failure, and stays so.
    Failed,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// What it does.
    pub phase: Phase,
    /// What it does, in systemd's own word.
    pub sub: String,
    /// The main process, while there is one.
    pub pid: Option<i32>,
    /// The id of this run; systemd gives a new one to each start. None while nobody remembers one.
    pub invocation: Option<String>,
    /// Whether something has been asked of it that is not done yet: a start, a stop.
    pub has_job: bool,
    /// Times that systemd has started it again by itself.
    pub restarts: Option<u64>,
    /// When its main process started, in microseconds of CLOCK_MONOTONIC.
    pub started_us: Option<u64>,
    /// When it became active, on the same clock.
    pub active_us: Option<u64>,
    /// Its control group, from the root of that hierarchy.
    pub control_group: Option<String>,
    /// When its main process ended, on the same clock.
    ended_us: Option<u64>,
    result: String,
    code: i32,
    status: i32,
    cpu_ns: Option<u64>,
}

/// Asks systemd for the state of a unit.
pub async fn ask(unit: &str, deadline: Duration) -> Result<UnitState, AskError> {
    // What follows `--` is a name, whatever it begins with.
    let answer = child::ask("systemctl", &["show", PROPERTIES, "--", unit], MAX_ANSWER, deadline).await?;
    Ok(UnitState::parse(&answer))
}

/// Asks systemd whether the whole system is going down.
pub async fn system_is_stopping(deadline: Duration) -> Result<bool, AskError> {
    let answer = child::ask("systemctl", &["show", "--property=SystemState"], MAX_ANSWER, deadline).await?;
    Ok(answer.trim_end() == "SystemState=stopping")
}

impl UnitState {
    /// Reads an answer. Whatever is missing or strange in it is not known.
    pub fn parse(answer: &str) -> UnitState {
        let value = |name: &str| {
            let of_line = |line: &str| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
            answer.lines().find_map(of_line).unwrap_or_default()
        };
        // systemd says u64::MAX where it has no number.
        let number = |name: &str| value(name).parse::<u64>().ok().filter(|number| *number != u64::MAX);
        let time = |name: &str| number(name).filter(|time| *time != 0);
        let id = |name: &str| Some(value(name)).filter(|text| !text.is_empty());
        let sub = value("SubState");
        let phase = match (value("LoadState").as_str(), value("ActiveState").as_str(), sub.as_str()) {
            (_, "active" | "reloading" | "refreshing", _) => Phase::Running,
            (_, "activating", "auto-restart" | "auto-restart-queued") => Phase::Restarting,
            (_, "activating", _) => Phase::Starting,
            (_, "deactivating", _) => Phase::Stopping,
            (_, "failed", _) => Phase::Failed,
            ("loaded" | "masked", ..) => Phase::Stopped,
            _ => Phase::Missing,
        };
        UnitState {
            phase,
            sub,
            pid: value("MainPID").parse().ok().filter(|pid| *pid > 0),
            invocation: id("InvocationID"),
            has_job: id("Job").is_some_and(|job| job != "0"),
            restarts: number("NRestarts"),
            started_us: time("ExecMainStartTimestampMonotonic"),
            active_us: time("ActiveEnterTimestampMonotonic"),
            control_group: id("ControlGroup"),
            ended_us: time("ExecMainExitTimestampMonotonic"),
            result: value("Result"),
            code: value("ExecMainCode").parse().unwrap_or(0),
            status: value("ExecMainStatus").parse().unwrap_or(0),
            cpu_ns: number("CPUUsageNSec"),
        }
    }

    /// How this run ended, once it has.
    pub fn exit(&self) -> Option<Exit> {
        if !matches!(self.phase, Phase::Restarting | Phase::Stopped | Phase::Failed) {
            return None;
        }
        let code = (self.code == CLD_EXITED).then_some(self.status);
        let signal = (self.code > CLD_EXITED && self.code <= CLD_DUMPED).then_some(self.status);
        Some(Exit {
            invocation: self.invocation.clone()?,
            cause: Cause::of_result(&self.result, signal),
            code,
            signal,
            started_us: self.started_us,
            ended_us: self.ended_us,
            restarts: self.restarts,
            will_restart: Some(self.phase == Phase::Restarting),
            cpu_ns: self.cpu_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from systemd 252 on Debian 12: the states of units that did what their names say.
    const SHOWN: &str = include_str!("../../tests/fixtures/systemctl/show-252.txt");

    fn shown(name: &str) -> UnitState {
        let head = format!("--- {name}\n");
        let block = SHOWN.split_once(&head).unwrap_or_else(|| panic!("no {name}")).1;
        UnitState::parse(block.split("--- ").next().unwrap())
    }

    fn phase(name: &str) -> (Phase, bool) {
        let state = shown(name);
        (state.phase, state.pid.is_some())
    }

    #[test]
    fn a_state_of_a_unit_is_never_taken_for_another() {
        assert_eq!(phase("not-found"), (Phase::Missing, false));
        assert_eq!(phase("running"), (Phase::Running, true));
        assert_eq!(phase("stopped"), (Phase::Stopped, false));
        assert_eq!(phase("starting"), (Phase::Starting, true));
        assert_eq!(phase("auto-restart"), (Phase::Restarting, false));
        assert_eq!(phase("exit-3"), (Phase::Failed, false));
        assert!(shown("starting").has_job && !shown("running").has_job);
        let running = shown("running");
        assert_eq!(running.invocation.as_deref(), Some("854b7d02914b43ebb071ca795b492f56"));
        assert_eq!(running.control_group.as_deref(), Some("/system.slice/run.service"));
        assert_eq!((running.pid, running.started_us), (Some(54), Some(1_426_733_217)));
        assert_eq!((running.exit(), shown("starting").exit(), shown("stopped").exit()), (None, None, None));
    }

    #[test]
    fn a_cause_is_never_taken_for_another() {
        let cause = |name: &str| {
            let exit = shown(name).exit().unwrap_or_else(|| panic!("{name} has ended"));
            (exit.cause.as_str().to_owned(), exit.code, exit.signal, exit.will_restart.unwrap())
        };
        let of = |cause: &str, code, signal, restart| (cause.to_owned(), code, signal, restart);
        assert_eq!(cause("exit-3"), of("exit-code", Some(3), None, false));
        assert_eq!(cause("exit-203"), of("exit-code", Some(203), None, false));
        assert_eq!(cause("signal-9"), of("signal", None, Some(9), false));
        assert_eq!(cause("watchdog"), of("watchdog", None, Some(6), false));
        assert_eq!(cause("start-timeout"), of("timeout", None, Some(15), false));
        assert_eq!(cause("auto-restart"), of("exit-code", Some(3), None, true));
        assert_eq!(cause("exit-0-bound"), of("exited", Some(0), None, false));
        assert_eq!(cause("oom-kill"), of("oom-kill", None, Some(9), false));
        assert_eq!(shown("auto-restart-4").restarts, Some(4));
        let exit = shown("exit-3").exit().unwrap();
        assert_eq!((exit.started_us, exit.ended_us), (Some(1_427_009_145), Some(1_427_316_848)));
        assert_eq!(exit.cpu_ns, Some(2_827_000));
    }

    #[test]
    fn a_strange_answer_never_becomes_a_fact() {
        for answer in ["", "\n\n", "ActiveState", "ActiveState=\nMainPID=-1", "=\u{0}", "LoadState=bad-setting"] {
            let state = UnitState::parse(answer);
            assert_eq!((state.phase, state.pid, state.exit()), (Phase::Missing, None, None), "{answer:?}");
        }
        let state = UnitState::parse(
            "LoadState=loaded\nActiveState=active\nMainPID=99999999999\nNRestarts=x\nCPUUsageNSec=18446744073709551615\nJob=0",
        );
        assert_eq!((state.phase, state.pid, state.restarts, state.cpu_ns), (Phase::Running, None, None, None));
        assert!(!state.has_job);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_ever_breaks_the_reader(answer in "(?s).{0,300}") {
            let _ = UnitState::parse(&answer).exit();
        }
    }
}
