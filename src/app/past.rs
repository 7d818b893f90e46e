//! What the journal tells of the application's ends that nobody saw: systemd writes into it what becomes of each run.
//!
//! The messages, by their ids (systemd 252, `sd-messages.h`), each with `INVOCATION_ID`, in the order in which they come:
//!
//! ```text
//! 7d4958e842da4a758f6c1cdc7b36dcc5   starting
//! 39f53479d3a045ac8e11786248231fbf   started
//! de5b426a63be47a7b6ac3eaac82e2f6f   somebody has it stopped or restarted
//! fe6faa94e7774663a0da52717891d8ef   the kernel has killed a process of it for want of memory
//! 98e322203f7a4ed290d09fe03c09fe15   a process exited: COMMAND (ExecStart: the main one), EXIT_CODE, EXIT_STATUS
//! 7ad2d189f7e94e70a38c781354912448   it has ended, and that is success
//! d9b373ed55a64feb8242e02dbe79a49c   it has ended, and that is failure: UNIT_RESULT
//! 5eb03494b6584870a536b337290809b3   it will be started again: N_RESTARTS, this time included
//! ```
//!
//! Constraint: the journal is read from its end, and no more of it than [`LINES`] messages; of a longer past the older part is
//! not known. It is not asked for the present boot, because in a container the kernel's name for that may be another one than
//! the journal's; runs have ids.

use super::child::{self, AskError};
use super::exit::{Cause, Exit};
use super::journal::Entry;
use crate::logline::LogLine;
use serde::Deserialize;
use std::time::Duration;

/// How long the journal may take to answer.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Messages that are read: some hundred runs.
pub const LINES: u32 = 500;
/// Bytes of an answer that are read: of a message, journalctl writes some 600 with the fields that are asked for.
const MAX_ANSWER: u64 = 2 << 20;

const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const OUT_OF_MEMORY: &str = "fe6faa94e7774663a0da52717891d8ef";
const EXITED: &str = "98e322203f7a4ed290d09fe03c09fe15";
const SUCCESS: &str = "7ad2d189f7e94e70a38c781354912448";
const FAILURE: &str = "d9b373ed55a64feb8242e02dbe79a49c";
const RESTART: &str = "5eb03494b6584870a536b337290809b3";

/// A message of systemd's.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "MESSAGE_ID")]
    id: String,
    #[serde(rename = "INVOCATION_ID")]
    invocation: String,
    #[serde(rename = "__MONOTONIC_TIMESTAMP")]
    at_us: String,
    #[serde(rename = "COMMAND")]
    command: Option<String>,
    #[serde(rename = "EXIT_CODE")]
    code: Option<String>,
    #[serde(rename = "EXIT_STATUS")]
    status: Option<String>,
    #[serde(rename = "UNIT_RESULT")]
    result: Option<String>,
    #[serde(rename = "N_RESTARTS")]
    restarts: Option<String>,
}

/// What the journal tells.
#[derive(Debug)]
pub struct Past {
    /// The ends of a unit's runs, oldest first.
    pub ends: Vec<Exit>,
    /// Whether there is more of it than was read, which is older.
    pub goes_on: bool,
}

/// Asks the journal for the ends of a unit's runs.
pub async fn ends(unit: &str, deadline: Duration) -> Result<Past, AskError> {
    let unit = format!("UNIT={unit}");
    let lines = format!("--lines={LINES}");
    let ids = [STARTING, STARTED, STOPPING, OUT_OF_MEMORY, EXITED, SUCCESS, FAILURE, RESTART];
    let ids: Vec<String> = ids.iter().map(|id| format!("MESSAGE_ID={id}")).collect();
    let mut arguments = vec![
        "--output=json",
        "--output-fields=MESSAGE_ID,INVOCATION_ID,COMMAND,EXIT_CODE,EXIT_STATUS,UNIT_RESULT,N_RESTARTS",
        "--reverse",
        "--no-pager",
        "--quiet",
        &lines,
        "_PID=1",
        &unit,
    ];
    arguments.extend(ids.iter().map(String::as_str));
    let answer = child::ask("journalctl", &arguments, MAX_ANSWER, deadline).await?;
    let goes_on = u32::try_from(answer.lines().count()).is_ok_and(|lines| lines >= LINES);
    Ok(Past { ends: read(&answer), goes_on })
}

/// Asks the journal for the last lines that a run has logged, oldest first.
pub async fn last_lines(invocation: &str, count: u32, deadline: Duration) -> Result<Vec<LogLine>, AskError> {
    let (run, lines) = (format!("_SYSTEMD_INVOCATION_ID={invocation}"), format!("--lines={count}"));
    let arguments = ["--output=json", "--reverse", "--no-pager", "--quiet", &lines, &run];
    let answer = child::ask("journalctl", &arguments, MAX_ANSWER, deadline).await?;
    // What is cut off or strange is no line.
    let decoded = answer.lines().rev().filter_map(|line| Entry::decode(line.as_bytes(), false).ok());
    Ok(decoded.map(|entry| entry.line).collect())
}

/// The ends in an answer, whose newest message comes first. Runs of which no end is told are left out.
fn read(answer: &str) -> Vec<Exit> {
    let mut runs: Vec<Run> = Vec::new();
    // What is cut off or strange is no message.
    for message in answer.lines().rev().filter_map(|line| serde_json::from_str::<Message>(line).ok()) {
        let known = runs.iter().rposition(|run| run.exit.invocation == message.invocation);
        let index = known.unwrap_or_else(|| {
            runs.push(Run::new(message.invocation.clone()));
            runs.len() - 1
        });
        if let Some(run) = runs.get_mut(index) {
            run.take(&message);
        }
    }
    runs.into_iter().filter_map(Run::end).collect()
}

/// A run, as far as it is told.
struct Run {
    exit: Exit,
    result: Option<String>,
    is_stopped: bool,
    is_out_of_memory: bool,
}

impl Run {
    fn new(invocation: String) -> Run {
        let exit = Exit { will_restart: Some(false), ..Exit::unknown(invocation) };
        Run { exit, result: None, is_stopped: false, is_out_of_memory: false }
    }

    fn take(&mut self, message: &Message) {
        let at_us = message.at_us.parse().ok();
        let exit = &mut self.exit;
        match message.id.as_str() {
            STARTING | STARTED => exit.started_us = exit.started_us.or(at_us),
            STOPPING => self.is_stopped = true,
            OUT_OF_MEMORY => self.is_out_of_memory = true,
            // Other commands of the unit (ExecStop= and the like) are not its main process.
            EXITED if message.command.as_deref().is_none_or(|command| command == "ExecStart") => {
                let status = message.status.as_deref().and_then(|status| status.parse().ok());
                match message.code.as_deref() {
                    Some("exited") => exit.code = exit.code.or(status),
                    _ => exit.signal = exit.signal.or(status),
                }
                exit.ended_us = exit.ended_us.or(at_us);
            }
            // Once more where systemd gives up to start it again; the first one is the end.
            SUCCESS | FAILURE if self.result.is_none() => {
                self.result = Some(message.result.clone().unwrap_or_else(|| "success".to_owned()));
                exit.ended_us = exit.ended_us.or(at_us);
            }
            RESTART => {
                let again = message.restarts.as_deref().and_then(|restarts| restarts.parse::<u64>().ok());
                exit.restarts = again.and_then(|again| again.checked_sub(1));
                exit.will_restart = Some(true);
            }
            _ => {}
        }
    }

    fn end(self) -> Option<Exit> {
        let Run { mut exit, result, is_stopped, is_out_of_memory } = self;
        let has_ended = result.is_some() || exit.code.is_some() || exit.signal.is_some();
        exit.cause = match result.as_deref() {
            _ if is_out_of_memory => Cause::OomKill,
            None | Some("success") if is_stopped => Cause::Stopped,
            // Success has no message about its process.
            Some("success") if exit.signal.is_none() => Cause::Exited,
            Some(result) => Cause::of_result(result, exit.signal),
            None if exit.signal.is_some() => Cause::Signal,
            None => Cause::ExitCode,
        };
        has_ended.then_some(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from systemd 252 on Debian 12: the messages of units that did what their names say, newest first.
    const TOLD: &str = include_str!("../../tests/fixtures/systemctl/journal-252.txt");

    fn ends_of(name: &str) -> Vec<Exit> {
        let block = TOLD.split_once(&format!("--- {name}\n")).unwrap_or_else(|| panic!("no {name}")).1;
        read(block.split("--- ").next().unwrap())
    }

    fn causes(name: &str) -> Vec<(String, Option<i32>, Option<i32>)> {
        ends_of(name).into_iter().map(|exit| (exit.cause.as_str().to_owned(), exit.code, exit.signal)).collect()
    }

    #[test]
    fn a_cause_is_never_read_as_another() {
        let one = |cause: &str, code, signal| vec![(cause.to_owned(), code, signal)];
        assert_eq!(causes("three"), one("exit-code", Some(3), None));
        assert_eq!(causes("zero"), one("exited", None, None));
        assert_eq!(causes("nine"), one("signal", None, Some(9)));
        assert_eq!(causes("dog"), one("watchdog", None, Some(6)));
        assert_eq!(causes("noexec"), one("exit-code", Some(203), None));
        assert_eq!(causes("timeo"), one("timeout", None, None));
        assert_eq!(causes("run"), one("stopped", None, None));
    }

    #[test]
    fn no_restart_is_ever_left_out() {
        let ends = ends_of("quick");
        assert_eq!(ends.len(), 5);
        assert!(ends.iter().all(|exit| (exit.cause.as_str(), exit.code) == ("exit-code", Some(3))));
        let restarts: Vec<_> = ends.iter().map(|exit| (exit.restarts, exit.will_restart)).collect();
        let right: Vec<_> = (0..5).map(|count| (Some(count), Some(true))).collect();
        // The last one was to be started again, too, and then was given up.
        assert_eq!(restarts, right);
        let times: Vec<_> = ends.iter().map(|exit| exit.started_us.zip(exit.ended_us).unwrap()).collect();
        assert!(times.windows(2).all(|pair| pair[0].0 <= pair[0].1 && pair[0].1 <= pair[1].0), "{times:?}");
    }

    #[test]
    fn what_is_cut_off_or_strange_never_becomes_an_end() {
        let block = TOLD.split_once("--- three\n").unwrap().1.split("--- ").next().unwrap();
        let whole = read(block);
        for length in 0..block.len() {
            let ends = read(block.get(..length).unwrap_or_default());
            assert!(ends.len() <= 1 && ends.iter().all(|exit| exit.invocation == whole[0].invocation));
        }
        assert_eq!(read("{}\n[]\nnull\n\n{\"MESSAGE_ID\":[1]}\n"), []);
        // A run that goes on has no end.
        let begun = format!(r#"{{"MESSAGE_ID":"{STARTED}","INVOCATION_ID":"a","__MONOTONIC_TIMESTAMP":"5"}}"#);
        assert_eq!(read(&begun), []);
    }

    #[test]
    fn the_kernels_kill_for_want_of_memory_is_never_taken_for_a_signal() {
        let message = |id: &str, more: &str| {
            format!(r#"{{"MESSAGE_ID":"{id}","INVOCATION_ID":"a","__MONOTONIC_TIMESTAMP":"5"{more}}}"#)
        };
        let killed = message(EXITED, r#","COMMAND":"ExecStart","EXIT_CODE":"killed","EXIT_STATUS":"9""#);
        let failed = message(FAILURE, r#","UNIT_RESULT":"oom-kill""#);
        let ends = read(&[failed, killed.clone(), message(OUT_OF_MEMORY, "")].join("\n"));
        assert_eq!((ends[0].cause.clone(), ends[0].signal), (Cause::OomKill, Some(9)));
        // Another command of the unit is not its main process.
        let other = killed.replace("ExecStart", "ExecStop");
        assert_eq!(read(&other), []);
    }
}
