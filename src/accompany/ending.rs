//! The end of the application: told apart, and reported.

use super::life::{Run, Step};
use super::report::{self, Facts};
use super::{Companion, STOP, patiently};
use crate::app::exit::{Cause, Exit, monotonic_us, signal_name};
use crate::app::past::{self, Past};
use crate::app::unit::{self, Phase};
use crate::logline::LogLine;
use crate::record::{Durability, Refusal};
use crate::stats::{AppUsage, DeviceStatus, HeartbeatStatus, LastExit};
use serde_json::json;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// How long the disk may take to hold a report for good; a slow card syncs for seconds.
const DURABLE: Duration = Duration::from_secs(5);
/// How long the application's last lines may take: the journal has to be read up to now.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How long systemd may take to answer when pillion stops.
const LAST_QUESTION: Duration = Duration::from_millis(1000);
/// Ends that are reported with their lines when pillion finds out about many at once; older ones have none.
const WITH_LINES: usize = 10;
/// journald notes an end a little later than systemd tells it: so often the journal is asked again, and with this pause.
const TRIES: u32 = 3;
const PAUSE_FOR_JOURNAL: Duration = Duration::from_millis(200);

impl Companion {
    /// pillion stops. If it does so because the application has gone, or is about to, that is reported first.
    pub(super) async fn stop(mut self) {
        let deadline = Instant::now() + STOP;
        self.deadline = Some(deadline);
        if self.life.phase() == Some(Phase::Running) {
            self.last_heartbeat = self.heartbeat.status(Instant::now());
        }
        let Some(name) = self.options.unit.clone() else { return };
        self.look();
        let answer = patiently(&mut self.wiring.pulse, unit::ask(&name, LAST_QUESTION)).await;
        let unit = match answer {
            Ok(unit) => unit,
            Err(error) => {
                tracing::warn!("whether {name} has ended is not known, the next start looks again: {error}");
                return;
            }
        };
        let unreported = self.life.run().filter(|run| !run.is_reported).cloned();
        let mut steps = self.life.observe(&unit);
        let is_ordered = unit.has_job && matches!(unit.phase, Phase::Running | Phase::Stopping);
        self.unit = Ok(unit.clone());
        if let (true, Some(invocation)) = (is_ordered, unit.invocation) {
            // systemd stops us first, and then the application.
            let is_stopping = unit::system_is_stopping(LAST_QUESTION / 2);
            let cause = match patiently(&mut self.wiring.pulse, is_stopping).await {
                Ok(true) => Cause::Shutdown,
                _ => Cause::Stopped,
            };
            let is_new = unreported.is_none_or(|run| run.invocation != invocation);
            let exit = Exit {
                cause,
                started_us: unit.started_us,
                ended_us: Some(monotonic_us()),
                restarts: unit.restarts,
                ..Exit::unknown(invocation)
            };
            if !is_new || self.life.run().is_some_and(|run| !run.is_reported) {
                steps.push(Step::Ended(exit));
            }
        }
        self.follow(steps).await;
        self.show();
    }

    /// Does what follows from an answer of systemd's.
    pub(super) async fn follow(&mut self, steps: Vec<Step>) {
        let mut all_told = true;
        for step in steps {
            match step {
                Step::Ended(exit) => {
                    let is_late = !self.is_seen && self.deadline.is_none();
                    let lines = match is_late {
                        true => self.lines_of(&exit).await,
                        false => self.recent_lines(&exit).await,
                    };
                    match self.report(&exit, lines, is_late).await {
                        true => self.life.reported(),
                        false => all_told = false,
                    }
                }
                Step::LookBack { since, until, guess } => all_told &= self.look_back(since, until, guess).await,
                Step::Began { again: false } => {}
                Step::Began { again: true } => self.tell_of_restart().await,
            }
        }
        // Else the next process begins where this one did.
        if all_told {
            self.memory.keep(self.life.run());
        }
    }

    /// Reports the ends that nobody saw, from the journal. Whether all of them are held.
    async fn look_back(&mut self, since: Run, until: Option<String>, guess: Option<Exit>) -> bool {
        let is_guessed = guess.is_some();
        let exits = match (self.deadline, guess) {
            // Nobody had it stopped: then systemd would have stopped pillion before.
            (Some(_), Some(exit)) => vec![exit],
            (deadline, guess) => {
                let patience = if deadline.is_some() { STOP / 3 } else { past::DEADLINE };
                match self.past(&since, until.as_deref(), patience).await {
                    None if deadline.is_some() => return false,
                    told => with_guess(told.unwrap_or_default(), &since, guess),
                }
            }
        };
        // What happened just now, and the journal was asked for details only, is not late.
        let is_late = !(is_guessed && self.is_seen && exits.len() == 1);
        let older = exits.len().saturating_sub(WITH_LINES);
        let mut all_told = true;
        for (number, exit) in exits.iter().enumerate() {
            let lines = match (number < older, is_late) {
                (true, _) => Vec::new(),
                (false, true) => self.lines_of(exit).await,
                (false, false) => self.recent_lines(exit).await,
            };
            all_told &= self.report(exit, lines, is_late).await;
        }
        if until.is_none() && all_told {
            self.life.reported();
        }
        all_told
    }

    /// The ends of the runs from `since` on up to `until`, as the journal tells them; none if it can't be read.
    async fn past(&mut self, since: &Run, until: Option<&str>, patience: Duration) -> Option<Vec<Exit>> {
        let name = self.options.unit.clone()?;
        let mut exits = Vec::new();
        for attempt in 1..=TRIES {
            exits = match patiently(&mut self.wiring.pulse, past::ends(&name, patience)).await {
                Ok(past) => between(past, since, until),
                Err(error) => {
                    tracing::warn!("the journal does not tell how {name} ended: {error}");
                    return None;
                }
            };
            let is_told = exits.iter().any(|exit| exit.invocation == since.invocation);
            if since.is_reported || is_told || attempt == TRIES {
                break;
            }
            patiently(&mut self.wiring.pulse, sleep(PAUSE_FOR_JOURNAL)).await;
        }
        Some(exits)
    }

    /// The application's last lines up to now.
    async fn recent_lines(&mut self, exit: &Exit) -> Vec<LogLine> {
        if exit.cause.is_wanted() {
            return Vec::new();
        }
        let recent = self.wiring.recent.clone();
        let asked = async {
            let (reply, answer) = oneshot::channel();
            recent.send(reply).await.ok()?;
            answer.await.ok()
        };
        // What is left of a stop has to do for the report as well.
        let left = self.deadline.map_or(LAST_LINES, |deadline| {
            deadline.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_millis(200))
        });
        patiently(&mut self.wiring.pulse, timeout(left.min(LAST_LINES), asked)).await.ok().flatten().unwrap_or_default()
    }

    /// The last lines of a run that nobody saw end, from the journal.
    async fn lines_of(&mut self, exit: &Exit) -> Vec<LogLine> {
        if exit.cause.is_wanted() || !self.settings.logs {
            return Vec::new();
        }
        let count = u32::try_from(report::LINES).unwrap_or(u32::MAX);
        let patience = if self.deadline.is_some() { STOP / 4 } else { LAST_LINES };
        let lines = patiently(&mut self.wiring.pulse, past::last_lines(&exit.invocation, count, patience)).await;
        lines.unwrap_or_default()
    }

    /// Reports an end. Whether it is held for good, or at least taken in.
    async fn report(&mut self, exit: &Exit, lines: Vec<LogLine>, is_late: bool) -> bool {
        let name = self.name().to_owned();
        let roster = self.wiring.roster.borrow().clone();
        let devices: Vec<(String, DeviceStatus)> =
            roster.iter().map(|member| (member.name.clone(), member.status.borrow().clone())).collect();
        let facts = Facts {
            unit: &name,
            exit,
            is_late,
            now: (self.wiring.clock)(),
            now_us: monotonic_us(),
            usage: if is_late { AppUsage::default() } else { self.usage },
            heartbeat: if is_late { HeartbeatStatus::default() } else { self.last_heartbeat },
            devices: if is_late { &[] } else { &devices },
            lines,
        };
        match exit.cause.is_wanted() {
            true => tracing::info!("{}", facts.text()),
            false => tracing::warn!("{}", facts.text()),
        }
        self.last_exit = Some(LastExit {
            cause: exit.cause.as_str().to_owned(),
            code: exit.code,
            signal: exit.signal.map(signal_name),
            text: exit.to_string(),
            at_ms: exit.ended_us.and_then(|ended_us| facts.wall_ms(ended_us)),
        });
        let data = facts.document(self.options.max_payload);
        let (reply, accepted) = oneshot::channel();
        let submission = self.submission(data, Durability::Power, Some(reply));
        let submissions = self.wiring.submissions.clone();
        let held = async {
            submissions.send(submission).await.ok()?;
            accepted.await.ok()
        };
        match patiently(&mut self.wiring.pulse, timeout(DURABLE, held)).await {
            // It is in memory, and may be lost with it; a second one would not fare better.
            Ok(Some(Ok(_) | Err(Refusal::NotDurable(_)))) => true,
            outcome => {
                tracing::error!("the exit report of {name} was not taken in ({outcome:?}); the next start reports it");
                false
            }
        }
    }

    async fn tell_of_restart(&mut self) {
        let invocation = self.life.run().map(|run| run.invocation.clone());
        let restarts = self.unit.as_ref().ok().and_then(|unit| unit.restarts);
        let text = format!("{} has started again", self.name());
        let event = json!({ "type": "app-restarted", "unit": self.options.unit, "invocation": invocation,
            "restarts": restarts, "text": text });
        self.tell(event).await;
    }
}

/// The ends from `since` on, without it if it is reported, up to `until`.
fn between(past: Past, since: &Run, until: Option<&str>) -> Vec<Exit> {
    let first = match past.ends.iter().position(|exit| exit.invocation == since.invocation) {
        Some(first) => first,
        // It is so long ago that what was read begins behind it.
        None if past.goes_on => 0,
        // The journal does not know it, so what it knows is of other times.
        None => past.ends.len(),
    };
    let behind = past.ends.into_iter().skip(first);
    let wanted = |exit: &Exit| Some(exit.invocation.as_str()) != until;
    behind.filter(wanted).filter(|exit| !since.is_reported || exit.invocation != since.invocation).collect()
}

/// The same, with the best that is known of `since` where the journal does not tell of it.
fn with_guess(mut exits: Vec<Exit>, since: &Run, guess: Option<Exit>) -> Vec<Exit> {
    if !since.is_reported && exits.iter().all(|exit| exit.invocation != since.invocation) {
        exits.insert(0, guess.unwrap_or_else(|| Exit::unknown(since.invocation.clone())));
    }
    exits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(runs: &[&str], goes_on: bool, since: &str, is_reported: bool, until: Option<&str>) -> Vec<String> {
        let ends = runs.iter().map(|run| Exit::unknown((*run).to_owned())).collect();
        let since = Run { invocation: since.to_owned(), is_reported };
        let exits = with_guess(between(Past { ends, goes_on }, &since, until), &since, None);
        exits.into_iter().map(|exit| exit.invocation).collect()
    }

    #[test]
    fn no_run_of_another_time_is_ever_told_and_none_is_left_out() {
        let runs = ["a", "b", "c", "d"];
        assert_eq!(told(&runs, false, "b", false, None), ["b", "c", "d"]);
        assert_eq!(told(&runs, false, "b", true, None), ["c", "d"]);
        assert_eq!(told(&runs, false, "b", true, Some("d")), ["c"]);
        assert_eq!(told(&runs, false, "d", true, None), [""; 0]);
        // Of a run that the journal does not know nothing can be told but that it has ended.
        assert_eq!(told(&runs, false, "x", false, None), ["x"]);
        assert_eq!(told(&runs, false, "x", true, None), [""; 0]);
        assert_eq!(told(&[], false, "x", false, None), ["x"]);
        // It is longer ago than what was read.
        assert_eq!(told(&runs, true, "x", false, Some("d")), ["x", "a", "b", "c"]);
    }
}
