//! The health flow: one verdict from what every other flow shows, for systemd, the broker, and whoever asks.
//!
//! - `GET /v1/status` and `GET /v1/health` are answered here, from snapshots; the spool is asked for its ledger.
//! - `P/health` gets the document every `health.interval`, and when what is wrong changes.
//! - The machine is read on request and every `health.interval` (`machine`), and held against the limits of `[health]` (`limits`).
//! - The retained messages (birth, `P/device/NAME/state`) are kept up to date for the publisher (`retained`).
//! - What is wrong is said in complaints (`complaint`, and `app`, `logs` and `limits` for theirs); from them comes the verdict.
//! - systemd gets READY, a STATUS line for people, and WATCHDOG pings as long as every flow answers its pulse (`notify`).
//!
//! Constraint: this flow waits for nobody without a deadline, or one stuck flow would hide itself.

mod app;
mod complaint;
mod limits;
mod logs;
mod machine;
mod notify;
mod retained;

pub use app::App;
pub use notify::{reloaded, reloading};

use crate::config::Limits;
use crate::host;
use crate::pulse::{Heart, Pulse};
use crate::record::{Durability, Encoding, Record, Retained, StreamId, Submission};
use crate::roster::{Member, Roster};
use crate::spool::thread::Handle;
use crate::stats::{
    ApiStatus, CommandCounts, CommandsStatus, ConfigurationStatus, DeviceStatus, Health, HostStatus, InboxStatus,
    LinkStatus, LogsState, LogsStatus, SessionStatus, SettingsStatus, Status, StatusRequest, StreamStatus,
};
use complaint::Complaint;
use machine::Machine;
use notify::Systemd;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, interval_at, timeout};

/// How long the spool may take to tell its ledger.
const SPOOL_PATIENCE: Duration = Duration::from_secs(2);

/// Devices that were removed while pillion runs and are remembered: as many as there can be of one kind.
const MOST_GONE: usize = 64;

/// What the health flow looks at and speaks to.
pub struct Wiring {
    /// Questions from the local API.
    pub requests: mpsc::Receiver<StatusRequest>,
    /// The connection to the broker.
    pub link: watch::Receiver<LinkStatus>,
    /// The devices that there are.
    pub roster: watch::Receiver<Roster>,
    /// What a reload may change.
    pub settings: watch::Receiver<Settings>,
    /// The configuration that runs.
    pub configuration: watch::Receiver<ConfigurationStatus>,
    /// The session in which commands come.
    pub session: watch::Receiver<SessionStatus>,
    /// What became of them.
    pub counts: watch::Receiver<CommandCounts>,
    /// The application.
    pub app: App,
    /// Messages for the application, if they are kept for it.
    pub inbox: Option<watch::Receiver<InboxStatus>>,
    /// The application's configuration, if it is kept for it.
    pub config: Option<watch::Receiver<SettingsStatus>>,
    /// The application's log.
    pub logs: watch::Receiver<LogsStatus>,
    /// What is asked of the local API.
    pub api: watch::Receiver<ApiStatus>,
    /// The ledger.
    pub spool: Handle,
    /// Where health documents go.
    pub submissions: mpsc::Sender<Submission>,
    /// The messages that the broker keeps.
    pub retained: watch::Sender<Vec<Retained>>,
    /// Asks every flow whether it lives.
    pub heart: Heart,
    /// The health flow's own pulse.
    pub pulse: Pulse,
    /// Set when the stop begins.
    pub stop: watch::Receiver<bool>,
    /// Set when the devices have stopped: the last look at them is due, and then the end.
    pub end: watch::Receiver<bool>,
}

/// What a reload may change.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Names of the streams in the order of their ids, and whether each is retired: no more configured, and shown while it drains.
    pub streams: Vec<(String, bool)>,
    /// How often the health document is published.
    pub interval: Duration,
    /// From where on the machine is unwell.
    pub limits: Limits,
    /// Whether anything is wanted from the broker.
    pub listens: bool,
    /// Whether the application is watched: its unit, its heartbeat, or both.
    pub accompanies: bool,
}

/// What does not change while pillion runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the instance.
    pub instance: String,
    /// Host name and boot id.
    pub host: HostStatus,
    /// Where the machine's state is read.
    pub sources: host::Sources,
}

struct HealthFlow {
    identity: Identity,
    wiring: Wiring,
    started: Instant,
    systemd: Systemd,
    machine: Machine,
    birth: Retained,
    /// Told when anything has changed that is looked at without a question.
    changed: Arc<Notify>,
    /// The devices whose changes are told already.
    watched: Roster,
    /// Devices that are there no more, and of which the broker may still keep the state.
    gone: BTreeSet<String>,
    /// What was wrong when the document was published last.
    published: Vec<String>,
}

/// Runs until `end` is set. Call it when everything is up: it tells systemd READY.
pub async fn run(identity: Identity, wiring: Wiring) {
    let birth = identity.birth(host::now());
    let systemd = Systemd::from_env();
    let machine = Machine::new(&identity);
    let flow = HealthFlow {
        identity,
        wiring,
        started: Instant::now(),
        systemd,
        machine,
        birth,
        changed: Arc::default(),
        watched: Roster::from([]),
        gone: BTreeSet::new(),
        published: Vec::new(),
    };
    flow.run().await;
}

impl HealthFlow {
    async fn run(mut self) {
        let changed = Arc::clone(&self.changed);
        self.watch();
        self.meet();
        let mut interval = self.wiring.settings.borrow_and_update().interval;
        let mut report = interval_at(Instant::now() + interval, interval);
        let mut beat = self.systemd.watchdog_interval();
        self.retain();
        self.systemd.ready();
        // What isn't connected in the first instant is no news yet.
        self.look_at_machine().await;
        self.published = self.look().await.1;
        let mut stopping = false;
        loop {
            tokio::select! {
                Some(reply) = self.wiring.requests.recv() => {
                    self.look_at_machine().await;
                    let _ = reply.send(self.update(false).await);
                }
                link = self.wiring.link.changed() => {
                    if link.is_err() {
                        return;
                    }
                    self.update(false).await;
                }
                () = changed.notified() => {
                    self.retain();
                    self.update(false).await;
                }
                Ok(()) = self.wiring.roster.changed() => {
                    self.meet();
                    self.retain();
                    self.update(false).await;
                }
                Ok(()) = self.wiring.settings.changed() => {
                    let before = std::mem::replace(&mut interval, self.wiring.settings.borrow_and_update().interval);
                    if interval != before {
                        report = interval_at(Instant::now() + interval, interval);
                    }
                    self.update(false).await;
                }
                Ok(()) = self.wiring.configuration.changed() => {
                    self.update(false).await;
                }
                _ = report.tick() => {
                    self.look_at_machine().await;
                    self.update(true).await;
                }
                () = next(&mut beat) => {
                    let stuck = self.wiring.heart.stuck();
                    self.systemd.watchdog(&stuck);
                    self.wiring.heart.ask();
                    self.wiring.spool.beat();
                }
                () = self.wiring.pulse.answer() => {}
                _ = self.wiring.stop.changed(), if !stopping => {
                    stopping = true;
                    self.systemd.stopping();
                }
                _ = self.wiring.end.changed() => return self.retain(),
            }
        }
    }

    /// Has a change of the application, or of what has to do with commands, told.
    fn watch(&self) {
        self.tell(self.wiring.session.clone());
        self.tell(self.wiring.counts.clone());
        self.tell(self.wiring.logs.clone());
        self.tell(self.wiring.app.shown.clone());
        if let Some(config) = &self.wiring.config {
            self.tell(config.clone());
        }
        if let Some(inbox) = &self.wiring.inbox {
            self.tell(inbox.clone());
        }
    }

    /// Takes the devices that there are now: a change of any of them is told.
    fn meet(&mut self) {
        let roster = Arc::clone(&self.wiring.roster.borrow_and_update());
        let known = |member: &&Member| self.watched.iter().any(|known| known.status.same_channel(&member.status));
        roster.iter().filter(|member| !known(member)).for_each(|member| self.tell(member.status.clone()));
        self.gone.extend(self.watched.iter().map(|member| member.name.clone()));
        self.gone.retain(|name| roster.iter().all(|member| member.name != *name));
        while self.gone.len() > MOST_GONE {
            self.gone.pop_first();
        }
        self.watched = roster;
    }

    /// Has every change of this told, as long as somebody can change it.
    fn tell<T: Send + Sync + 'static>(&self, mut shown: watch::Receiver<T>) {
        let changed = Arc::clone(&self.changed);
        tokio::spawn(async move {
            while shown.changed().await.is_ok() {
                changed.notify_one();
            }
        });
    }

    /// Brings the retained messages up to date.
    fn retain(&self) {
        let messages = retained::messages(&self.birth, &self.watched, &self.gone);
        self.wiring.retained.send_if_modified(|retained| {
            let changed = *retained != messages;
            *retained = messages;
            changed
        });
    }

    async fn look_at_machine(&mut self) {
        let limits = self.wiring.settings.borrow().limits;
        self.machine.look(&limits).await;
    }

    /// Looks at everything; tells systemd, and the broker if it is time or if what is wrong has changed.
    async fn update(&mut self, due: bool) -> Status {
        let (status, wrong) = self.look().await;
        if due || self.published != wrong {
            self.published = wrong;
            self.publish(&status);
        }
        status
    }

    /// Looks at everything and tells systemd. Returns the names of what is wrong, too.
    async fn look(&mut self) -> (Status, Vec<String>) {
        // Whoever asks behind a reload hears of what there is since.
        if self.wiring.roster.has_changed().unwrap_or(false) {
            self.meet();
            self.retain();
        }
        let (status, complaints) = self.status().await;
        if !*self.wiring.stop.borrow() {
            self.systemd.status(&notify::headline(&status));
        }
        (status, complaints.into_iter().map(|complaint| complaint.what).collect())
    }

    /// Publishes the health document, on the stream of logs: the ledgers of the others count what is the user's. With a
    /// full channel it is left out: the next one says more.
    fn publish(&self, status: &Status) {
        let Ok(data) = serde_json::to_vec(status) else { return };
        let record = Record { topic: "health".to_owned(), time: host::now(), encoding: Encoding::Json, data };
        let submission = Submission {
            stream: StreamId::LOG,
            records: vec![record],
            durability: Durability::Window,
            note: None,
            reply: None,
        };
        if self.wiring.submissions.try_send(submission).is_err() {
            tracing::debug!("no room for a health document");
        }
    }

    async fn status(&self) -> (Status, Vec<Complaint>) {
        let ledger = timeout(SPOOL_PATIENCE, self.wiring.spool.report()).await.ok().and_then(Result::ok);
        let silent = ledger.is_none();
        let streams = streams(&self.wiring.settings.borrow().streams, ledger.unwrap_or_default());
        let devices: BTreeMap<String, DeviceStatus> =
            self.watched.iter().map(|member| (member.name.clone(), member.status.borrow().clone())).collect();
        let link = self.wiring.link.borrow().clone();
        let commands = self.wiring.settings.borrow().listens.then(|| CommandsStatus {
            session: self.wiring.session.borrow().clone(),
            counts: self.wiring.counts.borrow().clone(),
        });
        let configuration = self.wiring.configuration.borrow().clone();
        let accompanies = self.wiring.settings.borrow().accompanies;
        let app = if accompanies { Some(self.wiring.app.status().await) } else { None };
        let logs = self.wiring.logs.borrow().clone();
        let inbox = self.wiring.inbox.as_ref().map(|inbox| inbox.borrow().clone());
        let config = self.wiring.config.as_ref().map(|config| config.borrow().clone());
        let mut complaints: Vec<Complaint> = app.iter().flat_map(app::complaints).collect();
        complaints.extend(complaint::of_link(&link));
        complaints.extend(complaint::of_devices(&devices));
        complaints.extend(complaint::of_streams(&streams));
        complaints.extend(commands.iter().flat_map(|commands| complaint::of_commands(commands, link.state)));
        complaints.extend(logs::complaints(&logs));
        complaints.extend(self.machine.complaints());
        complaints.extend(inbox.as_ref().and_then(complaint::of_inbox));
        complaints.extend(config.as_ref().and_then(complaint::of_config));
        complaints.extend(configuration.complaint().map(|text| Complaint::of("configuration", text)));
        complaints.extend(silent.then(|| Complaint::of("spool", "the spool does not answer")));
        let state = complaint::verdict(&complaints);
        let reasons = complaints.iter().map(|complaint| complaint.text.clone()).collect();
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.identity.instance.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            health: Health { state, reasons },
            configuration: Some(configuration),
            link,
            streams,
            devices,
            commands,
            inbox,
            config,
            api: Some(self.wiring.api.borrow().clone()),
            app,
            logs: (logs.state != LogsState::Off || logs.posted > 0).then_some(logs),
            host: self.machine.status(),
        };
        (status, complaints)
    }
}

/// The ledgers by name. One of a retired stream goes when nothing waits in it any more.
fn streams(names: &[(String, bool)], ledger: Vec<StreamStatus>) -> BTreeMap<String, StreamStatus> {
    let named = names.iter().zip(ledger).filter(|((_, is_retired), stream)| !is_retired || stream.waiting > 0);
    named.map(|((name, is_retired), stream)| (name.clone(), StreamStatus { retired: *is_retired, ..stream })).collect()
}

/// The next beat, or never without a watchdog.
async fn next(beat: &mut Option<tokio::time::Interval>) {
    match beat {
        Some(beat) => {
            beat.tick().await;
        }
        None => std::future::pending().await,
    }
}
