//! The life of the application, as far as it is known: pure, from one answer of systemd to the next.
//!
//! A *run* is what systemd calls an invocation: from one start to the end. Each run that was under watch is reported once;
//! what this says is to be done, the flow does. Between two answers whole runs may come and go; the journal knows of these.

use crate::app::exit::Exit;
use crate::app::unit::{Phase, UnitState};
use crate::stats::AppState;

/// A run, and whether its end has been reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) invocation: String,
    pub(super) is_reported: bool,
}

/// What follows from an answer, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The run under watch has ended, and this says why.
    Ended(Exit),
    /// The journal is to be asked for the ends of all runs from this one on (without it, if it is reported), up to the
    /// present one.
    LookBack {
        since: Run,
        until: Option<String>,
        /// What systemd says of the end of the first one, if the journal doesn't.
        guess: Option<Exit>,
    },
    /// A run has begun. Whether there was one before it.
    Began { again: bool },
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct Life {
    run: Option<Run>,
    /// `None`: systemd has not answered.
    phase: Option<Phase>,
    restarts: Option<u64>,
}

impl Life {
    /// `remembered`: the run that was under watch when pillion ended.
    pub(super) fn new(remembered: Option<Run>) -> Self {
        Life { run: remembered, phase: None, restarts: None }
    }

    /// The run under watch.
    pub(super) fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// What the unit does, if systemd has said so.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// The same for the status.
    pub(super) fn state(&self) -> AppState {
        match self.phase {
            None | Some(Phase::Missing) => AppState::Unknown,
            Some(Phase::Starting) => AppState::Starting,
            Some(Phase::Running) => AppState::Running,
            Some(Phase::Stopping) => AppState::Stopping,
            Some(Phase::Restarting) => AppState::Restarting,
            Some(Phase::Stopped) => AppState::Stopped,
            Some(Phase::Failed) => AppState::Failed,
        }
    }

    /// The end of the run under watch is reported.
    pub(super) fn reported(&mut self) {
        if let Some(run) = &mut self.run {
            run.is_reported = true;
        }
    }

    /// systemd does not answer.
    pub(super) fn unreachable(&mut self) {
        self.phase = None;
    }

    /// systemd has answered.
    pub(super) fn observe(&mut self, unit: &UnitState) -> Vec<Step> {
        let is_first = self.phase.is_none() && self.run.is_none();
        self.phase = Some(unit.phase);
        let exit = unit.exit();
        let mut steps = Vec::new();
        match (self.run.take(), unit.invocation.clone()) {
            // Nobody is under watch.
            (None, None) => {}
            // It ended before anybody watched it.
            (None, Some(invocation)) if exit.is_some() => self.run = Some(Run { invocation, is_reported: true }),
            (None, Some(invocation)) => {
                self.run = Some(Run { invocation, is_reported: false });
                steps.push(Step::Began { again: !is_first });
            }
            // The same one still.
            (Some(run), Some(invocation)) if run.invocation == invocation => {
                match exit.filter(|_| !run.is_reported) {
                    // Whoever had it stopped did so while it ran, and systemd does not remember that; the journal does.
                    Some(exit) if unit.phase == Phase::Stopped => {
                        steps.push(Step::LookBack { since: run.clone(), until: None, guess: Some(exit) });
                    }
                    Some(exit) => steps.push(Step::Ended(exit)),
                    None => {}
                }
                self.run = Some(run);
            }
            // Another one. Was it the next?
            (Some(run), Some(invocation)) => {
                let is_next =
                    run.is_reported && self.restarts.is_some_and(|restarts| unit.restarts == restarts.checked_add(1));
                if !is_next {
                    steps.push(Step::LookBack { since: run, until: Some(invocation.clone()), guess: None });
                }
                self.run = Some(Run { invocation, is_reported: false });
                steps.push(Step::Began { again: true });
                steps.extend(exit.map(Step::Ended));
            }
            // systemd has forgotten it, as it does with what nobody needs.
            (Some(run), None) if !run.is_reported => {
                steps.push(Step::LookBack { since: run, until: None, guess: None });
            }
            (Some(_), None) => {}
        }
        self.restarts = unit.restarts;
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::exit::Cause;

    fn unit(invocation: &str, active: &str, sub: &str, more: &str) -> UnitState {
        UnitState::parse(&format!(
            "LoadState=loaded\nActiveState={active}\nSubState={sub}\nInvocationID={invocation}\nNRestarts=0\n{more}"
        ))
    }

    fn running(invocation: &str) -> UnitState {
        unit(invocation, "active", "running", "Result=success\nMainPID=7")
    }

    fn failed(invocation: &str) -> UnitState {
        unit(invocation, "failed", "failed", "Result=exit-code\nExecMainCode=1\nExecMainStatus=3")
    }

    fn run(invocation: &str, is_reported: bool) -> Run {
        Run { invocation: invocation.to_owned(), is_reported }
    }

    #[test]
    fn an_end_is_never_reported_twice() {
        let mut life = Life::new(None);
        assert_eq!(life.observe(&running("a")), [Step::Began { again: false }]);
        assert_eq!(life.observe(&running("a")), []);
        let steps = life.observe(&failed("a"));
        assert!(matches!(steps.as_slice(), [Step::Ended(exit)] if exit.cause == Cause::ExitCode), "{steps:?}");
        life.reported();
        assert_eq!(life.observe(&failed("a")), []);
        assert_eq!(life.state(), AppState::Failed);
        // pillion is killed, and comes back with what it has remembered.
        let mut life = Life::new(life.run().cloned());
        assert_eq!(life.observe(&failed("a")), []);
    }

    #[test]
    fn an_end_while_nobody_looked_is_never_missed() {
        // It still shows.
        let mut life = Life::new(Some(run("a", false)));
        assert!(matches!(life.observe(&failed("a")).as_slice(), [Step::Ended(_)]));
        // It runs again.
        let mut life = Life::new(Some(run("a", false)));
        let steps = life.observe(&running("d"));
        let back = |is_reported, until: Option<&str>| Step::LookBack {
            since: run("a", is_reported),
            until: until.map(str::to_owned),
            guess: None,
        };
        assert_eq!(steps, [back(false, Some("d")), Step::Began { again: true }]);
        assert_eq!(life.run(), Some(&run("d", false)));
        // It runs again, but there may have been runs in between.
        let mut life = Life::new(Some(run("a", true)));
        assert_eq!(life.observe(&running("d")), [back(true, Some("d")), Step::Began { again: true }]);
        // It ran again, and that has failed, too.
        let mut life = Life::new(Some(run("a", false)));
        let steps = life.observe(&failed("d"));
        assert!(matches!(steps.as_slice(), [Step::LookBack { .. }, Step::Began { .. }, Step::Ended(_)]), "{steps:?}");
        // systemd has forgotten it.
        let mut life = Life::new(Some(run("a", false)));
        assert_eq!(life.observe(&unit("", "inactive", "dead", "")), [back(false, None)]);
        assert_eq!((life.run(), life.state()), (None, AppState::Stopped));
    }

    #[test]
    fn a_restart_in_plain_sight_never_takes_the_journal() {
        let mut life = Life::new(None);
        life.observe(&running("a"));
        let waiting = unit("a", "activating", "auto-restart", "Result=signal\nExecMainCode=2\nExecMainStatus=9");
        let steps = life.observe(&waiting);
        assert!(matches!(steps.as_slice(), [Step::Ended(exit)] if exit.will_restart == Some(true)), "{steps:?}");
        life.reported();
        let mut again = running("b");
        again.restarts = Some(1);
        assert_eq!(life.observe(&again), [Step::Began { again: true }]);
    }

    #[test]
    fn a_stop_by_hand_is_never_guessed_where_the_journal_knows() {
        let mut life = Life::new(None);
        life.observe(&running("a"));
        let stopped = unit("a", "inactive", "dead", "Result=success\nExecMainCode=1\nExecMainStatus=0");
        let steps = life.observe(&stopped);
        let [Step::LookBack { since, until: None, guess: Some(guess) }] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!((since, &guess.cause), (&run("a", false), &Cause::Exited));
    }

    #[test]
    fn what_ended_before_our_time_is_never_reported_as_news() {
        let mut life = Life::new(None);
        assert_eq!(life.observe(&failed("a")), []);
        assert_eq!(life.run(), Some(&run("a", true)));
        life.unreachable();
        assert_eq!(life.state(), AppState::Unknown);
        assert!(matches!(life.observe(&running("b")).as_slice(), [Step::LookBack { .. }, Step::Began { again: true }]));
    }
}
