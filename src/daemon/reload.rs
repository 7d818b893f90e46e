//! Reading the configuration again while pillion runs: on SIGHUP, or when a local client asks for it.
//!
//! Constraints: a wrong configuration changes nothing; no record is lost, and no device and no connection disturbed that is
//! configured as before ([`plan`] says what is to be done). Devices have [`STOP`] to let go of their ports, the broker has [`SETTLE`]
//! to acknowledge what is on the wire; files and the spool's thread take as long as the disk does. Meanwhile nothing else is begun,
//! but a stop ends it at whatever it waits for: so everything here that waits can be given up there.
//!
//! systemd is told RELOADING=1 when it begins and READY=1 when it is over, so the unit may be of `Type=notify` or, from
//! systemd 253 on, `Type=notify-reload`. Neither can tell that a configuration was refused: `pillion reload` does, which is
//! why it is the unit's ExecReload.

use super::flows::Flows;
use super::plan::{self, Action, Device, Plan, Settings};
use super::{DaemonError, STOP, announcing, farewell, password};
use crate::config::{self, Config, Loaded, Surroundings};
use crate::health;
use crate::host;
use crate::publish::{Leave, Link, Publisher};
use crate::stats::{ConfigurationStatus, MOST_PROBLEMS, ReloadOutcome, ReloadRequest, ReloadStatus};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

/// How long the broker has to acknowledge what is on the wire.
const SETTLE: Duration = Duration::from_secs(5);
/// Keys that are told by name.
const MOST_KEYS: usize = 50;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file; its drop-ins are beside it.
    pub file: PathBuf,
    /// As they were at the start: a reload is about files alone.
    pub surroundings: Surroundings,
}

/// What a reload starts from, and whom it is told.
pub(super) struct Reloads {
    pub(super) source: Source,
    pub(super) running: Settings,
    pub(super) requests: mpsc::Receiver<ReloadRequest>,
    pub(super) shown: watch::Sender<ConfigurationStatus>,
}

/// Why nothing was applied.
struct Refused {
    outcome: ReloadOutcome,
    keys: Vec<String>,
    problems: Vec<String>,
}

impl Flows {
    /// Reads the configuration again and does what comes of it.
    pub(super) async fn reload(&mut self) -> ReloadStatus {
        tracing::info!("reading the configuration again");
        health::reloading();
        let done = match self.read_again().await {
            Ok((config, password)) => self.change_to(config, password).await,
            Err(refused) => Err(refused),
        };
        let (outcome, mut keys, mut problems) = match done {
            Ok(keys) if keys.is_empty() => (ReloadOutcome::Unchanged, keys, Vec::new()),
            Ok(keys) => (ReloadOutcome::Applied, keys, Vec::new()),
            Err(Refused { outcome, keys, problems }) => (outcome, keys, problems),
        };
        for problem in &problems {
            tracing::error!("{problem}");
        }
        if keys.len() > MOST_KEYS {
            let rest = format!("{} more", keys.len() - MOST_KEYS);
            keys.truncate(MOST_KEYS);
            keys.push(rest);
        }
        let more_problems = u64::try_from(problems.len().saturating_sub(MOST_PROBLEMS)).unwrap_or(u64::MAX);
        problems.truncate(MOST_PROBLEMS);
        let reload = ReloadStatus { at_ms: host::now().wall_ms, outcome, keys, problems, more_problems };
        match outcome {
            ReloadOutcome::Applied | ReloadOutcome::Unchanged => tracing::info!("{}", reload.text()),
            ReloadOutcome::NeedsRestart => tracing::error!("{}", reload.text()),
            ReloadOutcome::Wrong => tracing::error!("the configuration is wrong, and the old one stays"),
        }
        self.reloads.shown.send_modify(|shown| shown.note(reload.clone()));
        health::reloaded();
        reload
    }

    /// Reads files, on a thread for that, while everything runs on.
    async fn read_again(&self) -> Result<(Config, Option<String>), Refused> {
        let wrong = |problems| Refused { outcome: ReloadOutcome::Wrong, keys: Vec::new(), problems };
        let Source { file, surroundings } = self.reloads.source.clone();
        let reading = spawn_blocking(move || {
            let Loaded { config, warnings } = config::load(&file, &surroundings).map_err(Trouble::Problems)?;
            let password = password(&config).map_err(Trouble::Password)?;
            Ok((config, password, warnings))
        });
        match reading.await {
            Ok(Ok((config, password, warnings))) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                Ok((config, password))
            }
            Ok(Err(Trouble::Problems(problems))) => {
                let omitted = (problems.omitted > 0).then(|| format!("and {} more", problems.omitted));
                Err(wrong(problems.list.iter().map(ToString::to_string).chain(omitted).collect()))
            }
            Ok(Err(Trouble::Password(error))) => Err(wrong(vec![error.to_string()])),
            Err(error) => Err(wrong(vec![format!("it can't be read: {error}")])),
        }
    }

    /// Returns the keys that were changed.
    async fn change_to(&mut self, config: Config, password: Option<String>) -> Result<Vec<String>, Refused> {
        let restart = |keys| Refused { outcome: ReloadOutcome::NeedsRestart, keys, problems: Vec::new() };
        let streams = self.reloads.running.streams.next(&config.streams);
        let no_room = |names: Vec<String>| {
            names.iter().map(|name| format!("stream.{name} (no room beside the former ones)")).collect()
        };
        let streams = streams.map_err(|names| restart(no_room(names)))?;
        let settings = Settings { config, password, streams };
        let (keys, actions) = match plan::plan(&self.reloads.running, &settings) {
            Plan::Nothing => return Ok(Vec::new()),
            Plan::Restart(keys) => return Err(restart(keys)),
            Plan::Apply { keys, actions } => (keys, actions),
        };
        let stops = actions.iter().filter_map(|action| match action {
            Action::StopDevice(name) => Some(name.clone()),
            _ => None,
        });
        // Together: each may take its time.
        self.devices.stop(&stops.collect::<Vec<_>>(), STOP).await;
        for action in &actions {
            match action {
                Action::StopDevice(name) => tracing::info!(device = name, "device {name}: stopped"),
                Action::StartDevice(device) => self.devices.start(Device::clone(device)),
                _ => {}
            }
        }
        // At once: nobody shall take one that is changed for one that is gone.
        self.devices.announce(plan::devices(&settings.config));
        for action in &actions {
            match action {
                Action::StopDevice(_) | Action::StartDevice(_) | Action::Health => {}
                Action::App => self.adjustable.app(&settings),
                Action::Api => self.adjustable.api(&settings),
                Action::Streams => {
                    for name in settings.streams.retired().filter(|name| self.reloads.running.streams.takes(name)) {
                        tracing::info!(stream = name, "stream {name}: takes nothing in any more, and goes out");
                    }
                    // A closed spool ends the publisher, which is noticed.
                    let backfill_rate = settings.config.mqtt.backfill_rate;
                    let _ = self.spool.configure(settings.streams.all(), backfill_rate).await;
                }
                Action::Listen => self.listen_anew(&settings).await,
                Action::Publish(link) => self.publish_anew(&settings, *link).await,
            }
        }
        // In any case: whether anything is wanted from the broker depends on devices, too.
        self.adjustable.health(&settings, &self.listening);
        self.reloads.running = settings;
        Ok(keys)
    }

    async fn listen_anew(&mut self, settings: &Settings) {
        self.listening.stop().await;
        let takes_commands = plan::takes_commands(&settings.config);
        self.listening.start(&settings.config.mqtt, settings.password.as_ref(), takes_commands);
    }

    /// Has the publisher begin anew. While it does, records wait in the spool.
    async fn publish_anew(&mut self, settings: &Settings, link: Link) {
        let config = settings.config.clone();
        // It writes a file. It can't panic, and if it did, others would only miss what is new.
        let announcements = spawn_blocking(move || announcing::start(&config)).await.unwrap_or_default();
        let Settings { config: Config { mqtt, .. }, password, streams } = settings.clone();
        let (hand_over, handed_over) = oneshot::channel::<JoinHandle<Option<Publisher>>>();
        let (tell, told) = oneshot::channel();
        // The connection may be one that a former reload still waits to see ended.
        let link = match *self.leave.borrow() {
            Some(Leave::Renew(_, former)) => link.max(former),
            _ => link,
        };
        let renew = Leave::Renew(Instant::now() + SETTLE, link);
        let leave = self.leave.clone();
        let next = tokio::spawn(async move {
            let former = handed_over.await.ok()?.await.ok()??;
            // Not if pillion has begun to stop meanwhile, or to reload once more: then this one leaves at once.
            leave.send_if_modified(|leave| leave.take_if(|leave| *leave == renew).is_some());
            let _ = tell.send(());
            Some(former.renewed(mqtt, streams.all(), password, farewell(), announcements).run().await)
        });
        // It can't be gone: it waits for this.
        let _ = hand_over.send(std::mem::replace(&mut self.publisher, next));
        self.leave.send_replace(Some(renew));
        if timeout(SETTLE + STOP, told).await.is_err() {
            tracing::warn!("the broker takes nothing at the moment; [mqtt] applies when this connection ends");
        }
    }
}

/// Why it can't be read.
enum Trouble {
    Problems(config::Problems),
    Password(DaemonError),
}
