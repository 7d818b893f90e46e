//! `pillion demo`: the whole path with nothing installed, in less than 30 seconds: a sensor, the real sidecar, a broker, an
//! outage, the drain.
//!
//! ```text
//! sensor ── pseudo terminal ──> sidecar ── link ──> broker ──> subscriber
//! stage                         stage      network  network    audience
//! ```
//!
//! This file is the play: what happens when. `screen` shows it. Constraints: everything that is shown is measured, the ledger
//! by `GET /v1/status`, the rest at the two ends; nothing is left behind, also after ^C.

mod audience;
mod network;
mod screen;
mod stage;

use super::client;
use super::exit::{DEGRADED, Failure, INTERNAL};
use crate::stats::{DeviceState, LinkState};
use audience::{Message, Tally};
use screen::{Look, Screen};
use stage::Stage;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};

/// The topic of the sensor's records, with the demo's `topic_prefix`.
const DATA: &str = "demo/device/sensor/data";
/// Records that each phase shows.
const SAMPLES: usize = 2;
/// How long something may take that usually takes a moment.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long everything works at first.
const STEADY: Duration = Duration::from_secs(4);
/// How long the link is cut. The sidecar tries again after pauses that double from 250 ms: longer outages make longer waits.
const OUTAGE: Duration = Duration::from_secs(5);
/// How long it goes on after the drain.
const AFTER: Duration = Duration::from_secs(2);

/// Why the demo ends before its end.
#[derive(Debug)]
enum Stop {
    /// ^C, a closed terminal, SIGTERM.
    Interrupted,
    /// Whoever read our output went away.
    NobodyLooks,
    /// Something doesn't work.
    Failed(String),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure.message)
    }
}

/// Exit code 0 if nothing was lost, 1 if something was, 70 if the demo itself doesn't work, 130 after ^C.
pub fn run() -> ExitCode {
    let ended = client::runtime().map_err(Stop::from).and_then(|runtime| runtime.block_on(perform()));
    match ended {
        Ok(code) => code,
        Err(Stop::NobodyLooks) => ExitCode::SUCCESS,
        // As a shell reports a program that SIGINT has ended.
        Err(Stop::Interrupted) => 130.into(),
        Err(Stop::Failed(why)) => {
            complain(&format!("\npillion demo: {why}"));
            INTERNAL.into()
        }
    }
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

async fn perform() -> Result<ExitCode, Stop> {
    // Before anything is built that would have to be removed.
    let interrupted = interruption()?;
    let mut screen = Screen::new();
    let mut stage = Stage::build()?;
    let played = tokio::select! {
        // First: ^C reaches the sidecar too, and its end is none of its own accord then.
        biased;
        () = interrupted => {
            let _ = screen.title("interrupted: the sidecar is stopped, its files are removed");
            Err(Stop::Interrupted)
        }
        played = play(&mut stage, &mut screen) => played,
    };
    let bad = matches!(played, Ok(Outcome { lost: 1.., .. }) | Err(Stop::Failed(_)));
    if bad && !stage.log().is_empty() {
        complain(&format!("\nThe log of the sidecar:\n{}", stage.log()));
    }
    let cleared = stage.clear().await;
    let Outcome { sent, received, lost, repeated } = played?;
    cleared?;
    screen.say(&format!("\nsent {sent}  received {received}  lost {lost}  repeated {repeated}"))?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { DEGRADED.into() })
}

/// Ends when somebody wants the demo to end. Signals count from the call on, not only from the first poll.
fn interruption() -> Result<impl Future<Output = ()>, Stop> {
    let on = |kind| signal(kind).map_err(|error| Stop::Failed(format!("the system gives no signals: {error}")));
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let mut hangup = on(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// How it came out: numbers of the sensor's measurements, but for `repeated`, which counts messages.
struct Outcome {
    sent: u32,
    received: usize,
    lost: usize,
    repeated: usize,
}

/// The play in progress.
struct Play<'p> {
    stage: &'p mut Stage,
    screen: &'p mut Screen,
    messages: mpsc::Receiver<Message>,
    tally: Tally,
    /// Records that this phase still shows.
    samples: usize,
}

async fn play(stage: &mut Stage, screen: &mut Screen) -> Result<Outcome, Stop> {
    let messages = audience::subscribe(stage.broker).await.map_err(Stop::Failed)?;
    let mut play = Play { stage, screen, messages, tally: Tally::default(), samples: 0 };
    play.introduce()?;
    play.stage.start_sidecar()?;
    if !play.watch(DEADLINE, |look| look.device && look.link == Some(LinkState::Connected)).await? {
        return Err(Stop::Failed("the sidecar did not find its sensor and its broker".to_owned()));
    }

    play.phase("phase 1: everything works")?;
    play.stage.sensor.start();
    play.watch(STEADY, |_| false).await?;

    play.phase("phase 2: the link to the broker is cut: the spool grows")?;
    play.stage.link.cut().await.map_err(link_broken)?;
    play.watch(OUTAGE, |_| false).await?;

    play.phase("phase 3: the link is back: the spool drains")?;
    play.screen.say("  pillion finds out at its next try; each pause is longer than the one before")?;
    play.stage.link.restore().map_err(link_broken)?;
    play.watch(DEADLINE, |look| look.link == Some(LinkState::Connected) && look.waiting < 10).await?;
    play.watch(AFTER, |_| false).await?;

    play.phase("phase 4: the sensor stops, the last records arrive, the sidecar is stopped")?;
    play.stage.sensor.stop().await;
    play.watch(DEADLINE, |look| look.waiting == 0 && u32::try_from(look.received) == Ok(look.sent)).await?;
    play.end().await
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}

fn link_broken(error: io::Error) -> Stop {
    Stop::Failed(format!("the link of the demo can't be cut or restored: {error}"))
}

impl Play<'_> {
    fn introduce(&mut self) -> Result<(), Stop> {
        let program = std::env::current_exe().unwrap_or_else(|_| "pillion".into());
        let socket = self.stage.path("run").join("pillion.sock");
        self.screen.say(&format!(
            "A simulated sensor, the real pillion, an embedded broker, a subscriber:

  sensor --serial line--> pillion --link--> broker --> subscriber

All on this machine; files are in {}
and are removed at the end. pillion's configuration:

{}
See how it is doing, from another terminal, while this runs:

  {} status --watch --socket {}

Below: lines that the sensor has sent; records that wait in pillion's spool (it
strikes off what is acknowledged five times a second); measurements that the
subscriber has received; some of the messages.
",
            self.stage.folder().display(),
            indented(&self.stage.configuration()),
            program.display(),
            socket.display()
        ))
    }

    fn phase(&mut self, title: &str) -> Result<(), Stop> {
        self.samples = SAMPLES;
        self.screen.title(title)
    }

    /// Shows what happens until `enough`. False if that didn't come in time.
    async fn watch(&mut self, at_most: Duration, enough: impl Fn(&Look) -> bool) -> Result<bool, Stop> {
        let deadline = Instant::now() + at_most;
        let period = self.screen.interval();
        let mut looks = interval_at(Instant::now() + period, period);
        loop {
            tokio::select! {
                Some(message) = self.messages.recv() => self.hear(&message)?,
                _ = looks.tick() => {
                    let look = self.look().await?;
                    self.screen.status(&look)?;
                    if enough(&look) {
                        return Ok(true);
                    }
                    if Instant::now() >= deadline {
                        return Ok(false);
                    }
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Look, Stop> {
        let (sent, received) = (self.stage.sensor.sent(), self.tally.received());
        let Some(status) = self.stage.status().await? else { return Ok(Look { sent, received, ..Look::default() }) };
        let ledger = status.streams.get("telemetry").cloned().unwrap_or_default();
        Ok(Look {
            link: Some(status.link.state),
            device: status.devices.values().all(|device| device.state == DeviceState::Online),
            sent,
            accepted: ledger.accepted,
            delivered: ledger.delivered,
            waiting: ledger.waiting,
            received,
        })
    }

    /// Counts a message of the sensor and shows some; shows all others.
    fn hear(&mut self, message: &Message) -> Result<(), Stop> {
        if message.topic != DATA {
            return self.screen.message(message, 1);
        }
        self.tally.count(&message.payload);
        match self.samples.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                self.samples = left;
                self.screen.message(message, 2)
            }
        }
    }

    async fn end(&mut self) -> Result<Outcome, Stop> {
        self.screen.keep_status()?;
        let Look { accepted, delivered, waiting, sent, .. } = self.look().await?;
        self.screen.say(&format!("  its ledger: accepted {accepted}, delivered {delivered}, waiting {waiting}"))?;
        let status = self.stage.stop_sidecar().await?;
        if let Some(status) = status.filter(|status| !status.success()) {
            return Err(Stop::Failed(format!("the sidecar did not end well: {status}")));
        }
        while let Ok(message) = self.messages.try_recv() {
            self.hear(&message)?;
        }
        let outcome = Outcome {
            sent,
            received: self.tally.received(),
            lost: self.tally.lost(sent),
            repeated: self.tally.repeated,
        };
        self.screen.say(
            "
A repeated record is one whose acknowledgement was lost with the link: delivery
is at least once, and consumers recognise a repetition by its id.

Next: README.md tells how to install pillion and how to configure it for your
devices; pillion check --config FILE says whether a configuration is right.",
        )?;
        Ok(outcome)
    }
}
