//! The flow that accompanies the application: its life, its heartbeat, and why it ended.
//!
//! ```text
//! kernel: the main process is gone ──┐                    ┌─> status (snapshots), answers with what it uses now
//! systemd, when asked ───────────────┼─> life ─> steps ───┤
//! POST /v1/heartbeat ────────────────┴─> heartbeat ───────┴─> P/event
//! ```
//!
//! While the application runs, nobody is asked: the kernel tells when its main process is gone (pidfd_open(2)). In every other
//! state systemd is asked again, after ever longer pauses up to [`RELAX`].
//!
//! Each end of the application is reported once (`report` has the format): when it is seen, or when pillion is stopped with
//! it (BindsTo= stops pillion at once), or when pillion is there again. [`memory`] remembers which run was under watch; what
//! nobody saw, systemd may still know, or the journal does.
//!
//! Constraint: whatever systemd and the journal do, this flow answers its pulse, and its stop takes [`STOP`] at the most. An
//! ordinary stop asks systemd one question.

mod ending;
mod heartbeat;
mod life;
pub mod memory;
mod report;

use crate::app::unit::{self, Phase, UnitState};
use crate::app::usage::{self, Places};
use crate::backoff::Backoff;
use crate::logline::RecentRequest;
use crate::pulse::Pulse;
use crate::record::{Accepted, Clock, Durability, Encoding, Record, Refusal, StreamId, Submission};
use crate::roster::Roster;
use crate::stats::{AppRequest, AppState, AppStatus, AppUsage, HeartbeatState, HeartbeatStatus, LastExit};
use heartbeat::{Change, Heartbeat};
use life::{Life, Step};
use memory::Memory;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// The first pause before systemd is asked again: it notices an end a little later than we do.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest one.
pub const RELAX: Duration = Duration::from_secs(15);
/// How long ingest may take to take in an event.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a stop takes at the most, but for the disk.
pub const STOP: Duration = Duration::from_secs(2);

/// What does not change while pillion runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The application's unit.
    pub unit: Option<String>,
    /// Where the run under watch is remembered: [`memory::FILE_NAME`] in `runtime_dir`.
    pub memory: PathBuf,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// `mqtt.max_payload`
    pub max_payload: usize,
}

/// What a reload may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `app.heartbeat_timeout`
    pub heartbeat_timeout: Option<Duration>,
    /// Whether its log may be read for its last lines (`app.logs`).
    pub logs: bool,
}

/// What the flow listens and speaks to.
#[derive(Debug)]
pub struct Wiring {
    /// What it goes by from now on.
    pub settings: watch::Receiver<Settings>,
    /// When the latest heartbeat came.
    pub beats: watch::Receiver<Option<Instant>>,
    /// Questions for the status.
    pub requests: mpsc::Receiver<AppRequest>,
    /// The status after each change.
    pub status: watch::Sender<AppStatus>,
    /// Questions for the application's last lines.
    pub recent: mpsc::Sender<RecentRequest>,
    /// The devices that there are.
    pub roster: watch::Receiver<Roster>,
    /// Where events go.
    pub submissions: mpsc::Sender<Submission>,
    /// Where time stamps come from.
    pub clock: Clock,
    /// The flow's pulse.
    pub pulse: Pulse,
    /// Set when the stop begins.
    pub stop: watch::Receiver<bool>,
}

/// Where the answer to a submission goes.
type Reply = oneshot::Sender<Result<Accepted, Refusal>>;

struct Companion {
    options: Options,
    settings: Settings,
    wiring: Wiring,
    life: Life,
    memory: Memory,
    heartbeat: Heartbeat,
    /// systemd's latest answer, or why there is none.
    unit: Result<UnitState, String>,
    /// Tells when the main process is gone.
    main_process: Option<AsyncFd<OwnedFd>>,
    ask_at: Option<Instant>,
    pauses: Backoff,
    since_ms: u64,
    usage: AppUsage,
    /// As it was when the application was last known to run.
    last_heartbeat: HeartbeatStatus,
    places: Places,
    last_exit: Option<LastExit>,
    /// Whether this process has seen the present run under way.
    is_seen: bool,
    /// When the stop has to be over, once it has begun.
    deadline: Option<Instant>,
}

/// Runs until `stop` is set.
pub async fn run(options: Options, mut wiring: Wiring) {
    let settings = *wiring.settings.borrow_and_update();
    let mut heartbeat = Heartbeat::new(settings.heartbeat_timeout);
    let ask_at = options.unit.is_some().then(Instant::now);
    if ask_at.is_none() {
        heartbeat.begin(Instant::now());
    }
    let memory = Memory::new(options.memory.clone(), options.boot_id.clone());
    let companion = Companion {
        life: Life::new(memory.recall()),
        memory,
        heartbeat,
        unit: Err("systemd has not been asked yet".to_owned()),
        main_process: None,
        ask_at,
        pauses: Backoff::new(PAUSE, RELAX),
        since_ms: (wiring.clock)().wall_ms,
        usage: AppUsage::default(),
        last_heartbeat: HeartbeatStatus::default(),
        places: Places::default(),
        last_exit: None,
        is_seen: false,
        deadline: None,
        settings,
        options,
        wiring,
    };
    companion.run().await;
}

impl Companion {
    async fn run(mut self) {
        self.show();
        loop {
            tokio::select! {
                () = stopped(&mut self.wiring.stop) => return self.stop().await,
                () = self.wiring.pulse.answer() => {}
                Ok(()) = self.wiring.settings.changed() => self.change(),
                Some(reply) = self.wiring.requests.recv() => {
                    // Whoever asks behind a reload hears of what holds since.
                    self.change();
                    self.look();
                    let _ = reply.send(self.status());
                }
                Ok(()) = self.wiring.beats.changed() => {
                    let at = *self.wiring.beats.borrow_and_update();
                    let change = at.and_then(|at| self.heartbeat.beat(at));
                    self.heartbeat_changed(change).await;
                }
                () = at(self.heartbeat.deadline()) => {
                    let change = self.heartbeat.look(Instant::now());
                    self.heartbeat_changed(change).await;
                }
                () = gone(self.main_process.as_ref()) => {
                    self.main_process = None;
                    self.pauses = Backoff::new(PAUSE, RELAX);
                    self.ask().await;
                }
                () = at(self.ask_at) => self.ask().await,
            }
        }
    }

    /// Goes on by other settings, if there are any.
    fn change(&mut self) {
        let settings = *self.wiring.settings.borrow_and_update();
        let before = std::mem::replace(&mut self.settings, settings);
        if settings.heartbeat_timeout == before.heartbeat_timeout {
            return;
        }
        let now = Instant::now();
        self.heartbeat.change(settings.heartbeat_timeout, now);
        // Where it is not known whether it runs, it may.
        let may_run = matches!(self.life.phase(), None | Some(Phase::Running));
        if may_run && settings.heartbeat_timeout.is_some() && self.heartbeat.status(now).state == HeartbeatState::Off {
            self.heartbeat.begin(now);
        }
        self.show();
    }

    /// Asks systemd, and does what follows from the answer.
    async fn ask(&mut self) {
        let Some(name) = self.options.unit.clone() else { return };
        let answer = patiently(&mut self.wiring.pulse, unit::ask(&name, unit::DEADLINE)).await;
        let before = self.life.phase();
        if before == Some(Phase::Running) {
            self.last_heartbeat = self.heartbeat.status(Instant::now());
        }
        let steps = match &answer {
            Ok(unit) => self.life.observe(unit),
            Err(error) => {
                tracing::debug!("{name} can't be watched: {error}");
                self.life.unreachable();
                Vec::new()
            }
        };
        self.unit = answer.map_err(|error| error.to_string());
        let phase = self.life.phase();
        if phase != before {
            self.since_ms = (self.wiring.clock)().wall_ms;
            self.pauses = Backoff::new(PAUSE, RELAX);
        }
        match phase {
            // Whether it runs is not known, and so is what it owes.
            None if self.heartbeat.status(Instant::now()).state == HeartbeatState::Off => {
                self.heartbeat.begin(Instant::now());
            }
            None => {}
            Some(Phase::Running) if before != phase || steps.iter().any(|step| matches!(step, Step::Began { .. })) => {
                self.heartbeat.begin(Instant::now());
            }
            Some(Phase::Running) => {}
            Some(_) => self.heartbeat.end(),
        }
        self.watch_main_process();
        self.follow(steps).await;
        if let Some(phase) = self.life.phase() {
            self.is_seen = matches!(phase, Phase::Starting | Phase::Running | Phase::Stopping);
        }
        self.look();
        self.show();
    }

    /// Has the kernel tell when the main process is gone, or sets when systemd is to be asked again.
    fn watch_main_process(&mut self) {
        let running = self.unit.as_ref().ok().filter(|unit| unit.phase == Phase::Running);
        let pid = running.and_then(|unit| Pid::from_raw(unit.pid?));
        let opened = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        // Deprecated for types whose descriptor may change under it, which this one's can't; its successor is unsafe, and this
        // crate forbids that.
        #[allow(deprecated)]
        let watched = opened.and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE).ok());
        self.main_process = watched;
        self.ask_at = match self.main_process {
            Some(_) => None,
            None => Some(Instant::now() + self.pauses.next(fastrand::f64())),
        };
    }

    async fn heartbeat_changed(&mut self, change: Option<Change>) {
        let (word, silence, text) = match change {
            None => return,
            Some(Change::Lost(silence)) => ("app-unresponsive", silence, "has sent no heartbeat for"),
            Some(Change::Back(silence)) => ("app-responsive", silence, "sends heartbeats again, after a silence of"),
        };
        self.show();
        let text = format!("{} {text} {:.1} s", self.name(), silence.as_secs_f64());
        let silent_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = self.heartbeat.status(Instant::now()).timeout_ms;
        let event = json!({ "type": word, "unit": self.options.unit, "silent_ms": silent_ms, "timeout_ms": timeout_ms,
            "text": text });
        self.tell(event).await;
    }

    fn name(&self) -> &str {
        self.options.unit.as_deref().unwrap_or("the application")
    }

    /// Looks what the application uses now.
    fn look(&mut self) {
        let Ok(unit) = &self.unit else { return };
        if unit.control_group.is_some() {
            self.usage = usage::look(&self.places, unit.control_group.as_deref(), unit.pid);
        }
    }

    fn status(&self) -> AppStatus {
        let unit = self.unit.as_ref().ok();
        let state = self.life.state();
        let reason = match &self.unit {
            _ if self.options.unit.is_none() => None,
            Err(error) => Some(error.clone()),
            Ok(unit) if unit.phase == Phase::Missing => {
                Some("systemd knows no such unit; is app.unit right?".to_owned())
            }
            Ok(_) => None,
        };
        AppStatus {
            unit: self.options.unit.clone(),
            state,
            sub: unit.map(|unit| unit.sub.clone()),
            reason,
            pid: unit.and_then(|unit| u32::try_from(unit.pid?).ok()),
            invocation: unit.and_then(|unit| unit.invocation.clone()),
            since_ms: self.since_ms,
            restarts: unit.and_then(|unit| unit.restarts),
            usage: if matches!(state, AppState::Running | AppState::Starting) {
                self.usage
            } else {
                AppUsage::default()
            },
            heartbeat: self.heartbeat.status(Instant::now()),
            last_exit: self.last_exit.clone(),
        }
    }

    fn show(&self) {
        self.wiring.status.send_replace(self.status());
    }

    fn submission(&self, data: Vec<u8>, durability: Durability, reply: Option<Reply>) -> Submission {
        let time = (self.wiring.clock)();
        let record = Record { topic: "event".to_owned(), time, encoding: Encoding::Json, data };
        Submission { stream: StreamId::EVENT, records: vec![record], durability, note: None, reply }
    }

    /// Makes an event.
    async fn tell(&mut self, event: Value) {
        let of = |key| event.get(key).and_then(Value::as_str);
        match (of("type"), of("text")) {
            (Some("app-restarted" | "app-responsive"), Some(text)) => tracing::info!("{text}"),
            (_, Some(text)) => tracing::warn!("{text}"),
            (_, None) => {}
        }
        let submission = self.submission(event.to_string().into_bytes(), Durability::Window, None);
        let sent = timeout(PATIENCE, self.wiring.submissions.send(submission));
        if !matches!(patiently(&mut self.wiring.pulse, sent).await, Ok(Ok(()))) {
            tracing::warn!("there was no room for an event: {event}");
        }
    }
}

/// Waits for something without missing a pulse.
async fn patiently<T>(pulse: &mut Pulse, what: impl Future<Output = T>) -> T {
    let mut what = std::pin::pin!(what);
    loop {
        tokio::select! {
            outcome = what.as_mut() => return outcome,
            () = pulse.answer() => {}
        }
    }
}

/// Waits for the word to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that its sender is gone, and that is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until then, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until the process is gone; for ever without one.
async fn gone(process: Option<&AsyncFd<OwnedFd>>) {
    match process {
        Some(process) => _ = process.readable().await,
        None => std::future::pending().await,
    }
}
