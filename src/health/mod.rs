//! The health flow: one verdict from what every other flow shows, for systemd, the broker, and whoever asks.
//!
//! - `GET /v1/status` and `GET /v1/health` are answered here, from snapshots; the spool is asked for its ledger.
//! - `P/health` gets the document every `health.interval`, and when what is wrong changes.
//! - The machine is read on request and every `health.interval`, and held against the limits of `[health]` (`machine`).
//! - The retained messages (birth, `P/device/NAME/state`) are kept up to date for the publisher.
//! - systemd gets READY, a STATUS line for people, and WATCHDOG pings as long as every flow answers its pulse.
//!
//! Constraint: this flow waits for nobody without a deadline, or one stuck flow would hide itself.

mod app;
mod logs;
mod machine;
mod notify;

pub use app::App;
pub use notify::{reloaded, reloading};

use crate::config::Limits;
use crate::host;
use crate::pulse::{Heart, Pulse};
use crate::record::{ClockQuality, Durability, Encoding, Record, Retained, StreamId, Submission, Timestamp, rfc3339};
use crate::roster::{Member, Roster};
use crate::spool::thread::Handle;
use crate::stats::{
    ApiStatus, BudgetStatus, CommandCounts, CommandsStatus, ConfigurationStatus, DeviceState, DeviceStatus, Health,
    HealthState, HostStatus, InboxStatus, LinkState, LinkStatus, LogsState, LogsStatus, SessionStatus, SettingsStatus,
    Status, StatusRequest, StreamStatus,
};
use machine::Machine;
use notify::Systemd;
use serde::Serialize;
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
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
    /// Stream names in the order of their ids.
    pub streams: Vec<String>,
    /// Host name and boot id.
    pub host: HostStatus,
    /// Where the machine's state is read.
    pub sources: host::Sources,
}

impl Identity {
    /// The retained message that says that pillion is there.
    pub fn birth(&self, now: Timestamp) -> Retained {
        let birth = Birth {
            state: DeviceState::Online,
            version: env!("CARGO_PKG_VERSION"),
            instance: &self.instance,
            host: &self.host.name,
            boot_id: &self.host.boot_id,
            since: rfc3339(now.wall_ms),
            clock: (now.quality == ClockQuality::Unsynced).then_some("unsynced"),
        };
        Retained { topic: "status".to_owned(), payload: json(&birth), device: None }
    }
}

/// The payload of the birth on `P/status`.
#[derive(Serialize)]
struct Birth<'a> {
    state: DeviceState,
    version: &'a str,
    instance: &'a str,
    host: &'a str,
    boot_id: &'a str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'a str>,
}

/// The payload of `P/device/NAME/state`.
#[derive(Serialize)]
struct Presence<'a> {
    state: DeviceState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    since: String,
}

/// These documents hold nothing that JSON can't say.
fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default()
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

/// Something that is wrong: what, for telling whether it changed, and the sentence for people.
#[derive(Debug, Clone)]
struct Complaint {
    what: String,
    text: String,
    /// Whether it is the application that is lost.
    is_lost: bool,
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
        let mut settings = *self.wiring.settings.borrow_and_update();
        let mut report = interval_at(Instant::now() + settings.interval, settings.interval);
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
                    let interval = settings.interval;
                    settings = *self.wiring.settings.borrow_and_update();
                    if settings.interval != interval {
                        report = interval_at(Instant::now() + settings.interval, settings.interval);
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

    /// Brings the retained messages up to date. The birth comes first.
    fn retain(&self) {
        let mut messages = vec![self.birth.clone()];
        let topic = |name: &str| format!("device/{name}/state");
        for member in self.watched.iter() {
            let device = member.status.borrow();
            let presence =
                Presence { state: device.state, reason: device.reason.as_deref(), since: rfc3339(device.since_ms) };
            let is_online = device.state == DeviceState::Online;
            messages.push(Retained {
                topic: topic(&member.name),
                payload: json(&presence),
                device: Some((member.name.clone(), is_online)),
            });
        }
        // An empty one is what removes it at the broker (MQTT 3.1.1 section 3.3.1.3).
        messages.extend(self.gone.iter().map(|name| Retained {
            topic: topic(name),
            payload: String::new(),
            device: Some((name.clone(), false)),
        }));
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
            self.systemd.status(&headline(&status));
        }
        (status, complaints.into_iter().map(|complaint| complaint.what).collect())
    }

    /// Publishes the health document, on the stream of logs: the ledgers of the others count what is the user's. With a
    /// full channel it is left out: the next one says more.
    fn publish(&self, status: &Status) {
        let Ok(data) = serde_json::to_vec(status) else { return };
        let record = Record { topic: "health".to_owned(), time: host::now(), encoding: Encoding::Json, data };
        let submission =
            Submission { stream: StreamId::LOG, records: vec![record], durability: Durability::Window, reply: None };
        if self.wiring.submissions.try_send(submission).is_err() {
            tracing::debug!("no room for a health document");
        }
    }

    async fn status(&self) -> (Status, Vec<Complaint>) {
        let ledger = timeout(SPOOL_PATIENCE, self.wiring.spool.report()).await.ok().and_then(Result::ok);
        let silent = ledger.is_none();
        let streams: BTreeMap<String, StreamStatus> =
            self.identity.streams.iter().cloned().zip(ledger.unwrap_or_default()).collect();
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
        let mut complaints: Vec<Complaint> = app.iter().flat_map(app::complaints).collect();
        complaints.extend(self::complaints(&link, &streams, &devices));
        complaints.extend(commands.iter().flat_map(complaints_of_commands));
        let logs = self.wiring.logs.borrow().clone();
        complaints.extend(logs::complaints(&logs));
        complaints.extend(self.machine.complaints());
        let inbox = self.wiring.inbox.as_ref().map(|inbox| inbox.borrow().clone());
        if let Some(error) = inbox.as_ref().and_then(|inbox| inbox.error.as_ref()) {
            let text = format!("messages for the application can't be kept, and have to come again: {error}");
            complaints.push(Complaint::of("inbox", text));
        }
        let config = self.wiring.config.as_ref().map(|config| config.borrow().clone());
        if let Some(error) = config.as_ref().and_then(|config| config.error.as_ref()) {
            let text = format!("the application's configuration can't be kept, and has to come again: {error}");
            complaints.push(Complaint::of("config", text));
        }
        if let Some(text) = configuration.complaint() {
            complaints.push(Complaint::of("configuration", text));
        }
        if silent {
            complaints.push(Complaint::of("spool", "the spool does not answer"));
        }
        let state = verdict(&complaints);
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

/// The next beat, or never without a watchdog.
async fn next(beat: &mut Option<tokio::time::Interval>) {
    match beat {
        Some(beat) => {
            beat.tick().await;
        }
        None => std::future::pending().await,
    }
}

impl Complaint {
    /// About anything but the application.
    fn of(what: impl Into<String>, text: impl Into<String>) -> Self {
        Complaint { what: what.into(), text: text.into(), is_lost: false }
    }
}

fn verdict(complaints: &[Complaint]) -> HealthState {
    match complaints {
        [] => HealthState::Healthy,
        complaints if complaints.iter().any(|complaint| complaint.is_lost) => HealthState::Failed,
        _ => HealthState::Degraded,
    }
}

fn complaints(
    link: &LinkStatus,
    streams: &BTreeMap<String, StreamStatus>,
    devices: &BTreeMap<String, DeviceStatus>,
) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut complain = |what: String, text: String| complaints.push(Complaint::of(what, text));
    if !matches!(link.state, LinkState::Connected | LinkState::Draining) {
        let server = link.server.as_deref().unwrap_or("a broker");
        let reason = link.reason.as_deref().unwrap_or("not tried yet");
        complain("link".to_owned(), format!("not connected to {server}: {reason}"));
    }
    if let Some(BudgetStatus { limit, ends_ms, .. }) = link.budget.as_ref().filter(|budget| budget.used >= budget.bytes)
    {
        let until = ends_ms.map_or_else(|| "its next period".to_owned(), rfc3339);
        complain(
            "budget".to_owned(),
            format!("all of mqtt.budget ({limit}) is used up: nothing is sent until {until}"),
        );
    }
    for (name, device) in devices {
        if device.state == DeviceState::Offline {
            let reason = device.reason.as_deref().unwrap_or("no reason known");
            complain(format!("device {name}"), format!("{} device {name} is offline: {reason}", device.kind));
        }
    }
    for (name, stream) in streams {
        if let Some(error) = &stream.disk_error {
            complain(format!("disk {name}"), format!("stream {name} is held in memory, the disk fails: {error}"));
        }
        if let Some(error) = &stream.runtime_error {
            let text = format!("a kill would cost stream {name} what is not on flash, runtime_dir fails: {error}");
            complain(format!("runtime_dir {name}"), text);
        }
    }
    complaints
}

fn complaints_of_commands(commands: &CommandsStatus) -> Vec<Complaint> {
    let CommandsStatus { session, counts } = commands;
    let mut complaints = Vec::new();
    if session.state != LinkState::Connected {
        let server = session.server.as_deref().unwrap_or("a broker");
        let reason = session.reason.as_deref().unwrap_or("not tried yet");
        let text = format!("not connected to {server} for commands: {reason}");
        complaints.push(Complaint::of("commands", text));
    }
    for filter in &session.denied {
        let text = format!("the broker does not allow to subscribe to {filter}; allow that in its access control");
        complaints.push(Complaint::of(format!("subscription {filter}"), text));
    }
    for filter in &session.set_aside {
        let text = format!(
            "{filter} is not subscribed to, since the broker seems to keep a message there that is too large or no MQTT; \
             remove that, then restart pillion or wait for a day"
        );
        complaints.push(Complaint::of(format!("subscription {filter}"), text));
    }
    if let Some(error) = &counts.journal_error {
        let text = format!("commands are refused, for they can't be noted: {error}");
        complaints.push(Complaint::of("journal of commands", text));
    }
    complaints
}

/// One line for `systemctl status`.
fn headline(status: &Status) -> String {
    let waiting: u64 = status.streams.values().map(|stream| stream.waiting).sum();
    let online = status.devices.values().filter(|device| device.state == DeviceState::Online).count();
    let verdict = if status.health.state == HealthState::Failed { "Failed" } else { "Degraded" };
    let mut line = match status.health.reasons.as_slice() {
        [] => format!("Healthy: connected to {}", status.link.server.as_deref().unwrap_or("the broker")),
        [reason] => format!("{verdict}: {reason}"),
        [reason, rest @ ..] => format!("{verdict}: {reason} (and {} more)", rest.len()),
    };
    if !status.devices.is_empty() {
        line += &format!("; {online} of {} devices online", status.devices.len());
    }
    line + &format!("; {waiting} waiting")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reasons: &[&str]) -> Status {
        let state = if reasons.is_empty() { HealthState::Healthy } else { HealthState::Degraded };
        let stream = StreamStatus { waiting: 3, ..StreamStatus::default() };
        Status {
            version: "0".into(),
            instance: "gw".into(),
            uptime_s: 0,
            health: Health { state, reasons: reasons.iter().map(ToString::to_string).collect() },
            configuration: None,
            link: LinkStatus { server: Some("mqtt://b:1883".into()), ..LinkStatus::default() },
            streams: [("telemetry".to_owned(), stream)].into(),
            devices: [("meter".to_owned(), DeviceStatus::closed("serial", 0))].into(),
            commands: None,
            inbox: None,
            config: None,
            api: None,
            app: None,
            logs: None,
            host: HostStatus::default(),
        }
    }

    #[test]
    fn the_status_line_never_hides_what_is_wrong() {
        assert_eq!(headline(&status(&[])), "Healthy: connected to mqtt://b:1883; 0 of 1 devices online; 3 waiting");
        assert!(headline(&status(&["a is off", "b is off"])).starts_with("Degraded: a is off (and 1 more); "));
    }

    #[test]
    fn what_fails_never_goes_without_a_complaint() {
        let mut status = status(&[]);
        let wrong = |status: &Status| -> Vec<String> {
            complaints(&status.link, &status.streams, &status.devices).into_iter().map(|c| c.what).collect()
        };
        assert_eq!(wrong(&status), ["link", "device meter"]);
        status.link.state = LinkState::Connected;
        let used_up = BudgetStatus { limit: "1MiB/day".into(), bytes: 1 << 20, used: 1 << 20, ends_ms: Some(0) };
        status.link.budget = Some(BudgetStatus { used: 1, ..used_up.clone() });
        assert_eq!(wrong(&status), ["device meter"]);
        status.link.budget = Some(used_up);
        assert_eq!(wrong(&status), ["budget", "device meter"]);
        status.link.budget = None;
        status.devices.clear();
        assert!(wrong(&status).is_empty());
        status.streams.values_mut().for_each(|stream| stream.disk_error = Some("full".into()));
        assert_eq!(wrong(&status), ["disk telemetry"]);
        status.streams.values_mut().for_each(|stream| stream.runtime_error = Some("full".into()));
        assert_eq!(wrong(&status), ["disk telemetry", "runtime_dir telemetry"]);
        let mut commands = CommandsStatus::default();
        commands.counts.journal_error = Some("full".into());
        let wrong = |commands: &CommandsStatus| -> Vec<String> {
            complaints_of_commands(commands).into_iter().map(|complaint| complaint.what).collect()
        };
        assert_eq!(wrong(&commands), ["commands", "journal of commands"]);
        commands.session.state = LinkState::Connected;
        commands.counts.journal_error = None;
        assert!(wrong(&commands).is_empty());
    }
}
