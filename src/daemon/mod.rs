//! The daemon: opens everything, starts the flows, watches over them, and stops them in the order of the data's way.
//!
//! The only place that sees the whole configuration; `devices` starts the devices' tasks. One thread for all flows, one for the spool.
//!
//! What keeps it from starting: a configuration that can't be meant (exit 78), and another process that has its spool or its
//! socket. Nothing else does: no broker, no device, no disk.
//!
//! Stopping (SIGTERM, SIGINT): why the application ended, if it did, goes into the spool; no more commands are begun; devices and local API stop taking in, and say of each command that
//! was under way what became of it; what they took goes through ingest into the spool; the publisher delivers what it can
//! within [`DRAIN`] and says good-bye; the spool is closed.

mod announcing;
mod devices;
mod inward;

use crate::accompany;
use crate::api::access::Access;
use crate::api::environment::Environment;
use crate::api::{self, Api};
use crate::app::journal::Journal;
use crate::config::Config;
use crate::disk::Disk;
use crate::dispatch::{self, journal};
use crate::health::{self, Identity};
use crate::host;
use crate::ingest;
use crate::listen::{self, Listener, alive};
use crate::logs;
use crate::publish::{self, Farewell, Publisher};
use crate::pulse::Heart;
use crate::record::{StreamId, Submission};
use crate::spool::{self, thread};
use crate::stats::{ApiStatus, AppStatus, CommandCounts, HostStatus, LinkStatus, LogsStatus, SessionStatus};
use devices::Devices;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

/// How long a stop may deliver what waits. The application's own stop waits for ours, so this is short: the rest is
/// on flash and goes out after the next start.
pub const DRAIN: Duration = Duration::from_secs(3);
/// How long each flow may take to stop.
const STOP: Duration = Duration::from_secs(2);
/// How long closing the spool may take: a slow card syncs for seconds.
const CLOSE: Duration = Duration::from_secs(10);
/// Threads for what may block for long, host names and counters on flash: the unit allows for 32 tasks, children included.
const BLOCKING: usize = 4;
/// Questions that wait for the health flow.
const REQUESTS: usize = 16;

/// Why the daemon did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// `mqtt.password_file` can't be read.
    #[error("mqtt.password_file: {}: {source}; put the password there, in one line, readable by this user", path.display())]
    Password {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the spool, or there is no thread for it.
    #[error(transparent)]
    Spool(#[from] thread::StartError),
    /// Another process answers on the socket.
    #[error(transparent)]
    Socket(api::socket::SocketError),
    /// The runtime or the signals can't be had.
    #[error("the system gives no event loop or no signals: {0}")]
    System(#[from] io::Error),
    /// A flow ended though nobody told it to.
    #[error("the {0} flow has ended unexpectedly; this is a bug in pillion")]
    Flow(&'static str),
}

/// Runs until SIGTERM or SIGINT, or until something breaks that can't be mended.
pub fn run(config: Config) -> Result<(), DaemonError> {
    // While there is one thread only: it also takes its variables out of the environment.
    let inherited = api::socket::inherited();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING).build()?;
    let result = runtime.block_on(start(config, inherited));
    // Whatever is still blocked must not keep the process from ending.
    runtime.shutdown_background();
    result
}

/// The flows that run, each with what stops it.
struct Flows {
    /// What comes from the broker for the devices; stopped with the dispatch flow, before the devices are.
    listener: JoinHandle<()>,
    dispatch: JoinHandle<()>,
    stop_commands: watch::Sender<bool>,
    /// Devices and local API: they take in.
    sources: JoinSet<&'static str>,
    stop_sources: watch::Sender<bool>,
    /// Watches the application.
    companion: JoinHandle<()>,
    stop_companion: watch::Sender<bool>,
    /// The application's log: stopped when nobody asks for its last lines any more.
    logs: JoinHandle<()>,
    stop_logs: watch::Sender<bool>,
    health: JoinHandle<()>,
    end_health: watch::Sender<bool>,
    ingest: JoinHandle<()>,
    stop_ingest: watch::Sender<bool>,
    publisher: JoinHandle<()>,
    stop_publisher: watch::Sender<Option<Instant>>,
    spool: thread::Handle,
}

async fn start(config: Config, inherited: Option<std::os::unix::net::UnixListener>) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let flows = open(config, inherited).await?;
    flows
        .run_until(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
}

async fn open(config: Config, inherited: Option<std::os::unix::net::UnixListener>) -> Result<Flows, DaemonError> {
    let password = password(&config)?;
    let mut heart = Heart::default();
    let stream_names: Vec<String> = config.streams.iter().map(|stream| stream.name.clone()).collect();
    let (stop_sources, sources_stop) = watch::channel(false);
    let (end_health, health_end) = watch::channel(false);
    let (stop_ingest, ingest_stop) = watch::channel(false);
    let (stop_publisher, publisher_stop) = watch::channel(None);
    let mut sources = JoinSet::new();

    let options = spool::Options {
        dir: spool::folder(&config.state_dir),
        streams: config.streams.clone(),
        runtime_dir: Some(spool::folder(&config.runtime_dir)),
        sync: config.spool.sync,
        segment_bytes: config.spool.segment_bytes,
        boot_id: host::boot_id_bytes(),
        backfill_rate: config.mqtt.backfill_rate,
    };
    let (spool, batches) = thread::start(options, host::now, heart.pulse("spool"))?;
    let (submissions, submitted) = mpsc::channel::<Submission>(ingest::WAITING);
    let (refused, refusals) = mpsc::channel(REQUESTS);
    let (questions, requests) = mpsc::channel(REQUESTS);
    let (commands, commanded) = mpsc::channel(dispatch::WAITING);
    let (posts, posted) = mpsc::channel(logs::POSTS);
    let (stop_commands, commands_stop) = watch::channel(false);
    let (beats, beaten) = watch::channel(None);
    let (stop_companion, companion_stop) = watch::channel(false);

    let (mut traces, mut asked) = (BTreeMap::new(), BTreeMap::new());
    for serial in &config.serial {
        let (ask, questions) = mpsc::channel(1);
        traces.insert(serial.name.clone(), ask);
        asked.insert(serial.name.clone(), questions);
    }
    let inward = inward::start(
        &config,
        inward::Ground { submissions: &submissions, heart: &mut heart, stop: &sources_stop, sources: &mut sources },
    );
    let (access, unknown) = Access::of_this_machine(&config.api);
    for name in unknown {
        tracing::warn!("{name}");
    }
    let (counts_of_api, api_shown) = watch::channel(ApiStatus::default());
    match api::socket::open(inherited, &config.runtime_dir).await {
        Ok(socket) => {
            let api = Api {
                submissions: submissions.clone(),
                refused,
                status: questions,
                commands: commands.clone(),
                logs: posts,
                beats,
                traces,
                inbox: inward.inbox,
                settings: inward.settings,
                neighbours: inward.neighbours,
                streams: stream_names.clone(),
                max_payload: config.mqtt.max_payload,
                // MQTT 3.1.1 section 1.5.3: a topic has 65,535 bytes at the most.
                max_topic: usize::from(u16::MAX).saturating_sub(config.mqtt.topic_prefix.len() + "/app/".len()),
                clock: host::now,
                access,
                counts: counts_of_api,
                environment: Environment {
                    topic_prefix: config.mqtt.topic_prefix.clone(),
                    state_dir: config.state_dir.clone(),
                    runtime_dir: config.runtime_dir.clone(),
                    machine: host::facts(Path::new("/")),
                },
            };
            let (pulse, stop) = (heart.pulse("local API"), sources_stop.clone());
            sources.spawn(async move {
                api::serve(socket, api, pulse, stop).await;
                "local API"
            });
        }
        Err(error @ api::socket::SocketError::InUse { .. }) => return Err(DaemonError::Socket(error)),
        Err(error) => tracing::error!("there is no local API: {error}"),
    }

    let (link, link_shown) = watch::channel(LinkStatus { since_ms: host::now().wall_ms, ..LinkStatus::default() });
    let (app, app_shown) = watch::channel(AppStatus::default());
    let ground = devices::Ground {
        submissions: &submissions,
        asked,
        link: link_shown.clone(),
        app: app_shown.clone(),
        runtime_dir: &config.runtime_dir,
        state_dir: &config.state_dir,
        heart: &mut heart,
        stop: &sources_stop,
        sources: &mut sources,
    };
    let announcements = announcing::start(&config);
    let configured = devices::Configured { serial: config.serial, modbus: config.modbus, gpio: config.gpio };
    let Devices { shown: devices, rules, orders_to } = devices::start(configured, ground);

    let identity = Identity {
        instance: config.instance.clone(),
        streams: stream_names.clone(),
        interval: config.health.interval,
        host: HostStatus { name: host::name(), boot_id: host::boot_id(), ..HostStatus::default() },
        sources: host::Sources::of_this_machine(config.state_dir.clone()),
        limits: config.health.limits,
    };
    let is_watched = config.app.unit.is_some() || config.app.heartbeat_timeout.is_some();
    let (ask_app, app_asked) = mpsc::channel(REQUESTS);
    let options = accompany::Options {
        unit: config.app.unit.clone(),
        heartbeat_timeout: config.app.heartbeat_timeout,
        logs: config.app.logs,
        memory: config.runtime_dir.join(accompany::memory::FILE_NAME),
        boot_id: host::boot_id(),
        max_payload: config.mqtt.max_payload,
    };
    let (recent, recent_asked) = mpsc::channel(logs::REQUESTS);
    let wiring = accompany::Wiring {
        beats: beaten,
        requests: app_asked,
        status: app,
        recent,
        devices: devices.clone(),
        submissions: submissions.clone(),
        clock: host::now,
        pulse: heart.pulse("accompany"),
        stop: companion_stop,
    };
    let companion = tokio::spawn(accompany::run(options, wiring));
    let (retained, retained_shown) = watch::channel(vec![identity.birth(host::now())]);
    let takes_commands = !orders_to.is_empty();
    let (session, session_shown) = watch::channel(SessionStatus::default());
    let (counts, counts_shown) = watch::channel(CommandCounts::default());
    let outlets = listen::Outlets { devices: takes_commands.then(|| commands.clone()), ..inward.outlets };
    let listens = outlets.are_needed();
    let listener = listens.then(|| {
        let alive = alive::Alive::open(config.runtime_dir.join(alive::FILE_NAME), host::boot_id());
        let wiring = listen::Wiring {
            outlets,
            submissions: submissions.clone(),
            status: session,
            clock: host::now,
            pulse: heart.pulse("listen"),
            stop: commands_stop.clone(),
        };
        Listener::new(config.mqtt.clone(), password.clone(), alive, wiring)
    });
    drop(commands);
    let listener = {
        let mut stop = commands_stop.clone();
        tokio::spawn(async move {
            match listener {
                Some(listener) => listener.run().await,
                // Nobody wants anything, so the broker is not asked for it.
                None => _ = stop.wait_for(|stop| *stop).await,
            }
        })
    };
    let wiring = dispatch::Wiring {
        requests: commanded,
        orders: orders_to,
        submissions: submissions.clone(),
        status: counts,
        clock: host::now,
        pulse: heart.pulse("dispatch"),
        stop: commands_stop,
    };
    let (stop_logs, stop) = watch::channel(false);
    let (logs_status, logs_shown) = watch::channel(LogsStatus::default());
    let settings = logs::Settings {
        journal: config.app.unit.clone().filter(|_| config.app.logs).map(Journal::of),
        unit: config.app.unit.clone(),
        level: config.app.log_level,
        rate: config.app.log_rate,
        recorder: config.app.recorder,
        max_payload: config.mqtt.max_payload,
        runtime_dir: config.runtime_dir.clone(),
        state_dir: config.state_dir.clone(),
    };
    let wiring_of_logs = logs::Wiring {
        recent: recent_asked,
        posts: posted,
        submissions: submissions.clone(),
        // Asked for before the publisher can have anything acknowledged.
        newest: spool.newest(StreamId::LOG, logs::TOPIC).await,
        status: logs_status,
        clock: host::now,
        pulse: heart.pulse("logs"),
        stop,
    };
    let logs = tokio::spawn(logs::run(settings, wiring_of_logs));
    let dispatch = tokio::spawn(dispatch::run(rules, Arc::new(Disk), journal::folder(&config.state_dir), wiring));
    let publisher = Publisher::new(
        config.mqtt,
        config.streams,
        password,
        farewell(),
        publish::Wiring {
            spool: spool.clone(),
            batches,
            retained: retained_shown,
            announcements,
            status: link,
            clock: host::now,
            pulse: heart.pulse("publish"),
            stop: publisher_stop,
        },
    );
    let publisher = tokio::spawn(publisher.run());
    let pulse = heart.pulse("ingest");
    let ingest = tokio::spawn(ingest::run(submitted, refusals, spool.clone(), pulse, ingest_stop));
    let pulse = heart.pulse("health");
    let health = health::Wiring {
        requests,
        link: link_shown,
        devices,
        api: api_shown,
        commands: listens.then_some((session_shown, counts_shown)),
        inbox: inward.inbox_shown,
        config: inward.settings_shown,
        logs: logs_shown,
        app: is_watched.then_some(health::App { shown: app_shown, requests: ask_app }),
        spool: spool.clone(),
        submissions,
        retained,
        heart,
        pulse,
        stop: sources_stop,
        end: health_end,
    };
    let health = tokio::spawn(health::run(identity, health));
    tracing::info!(instance = config.instance, "pillion {} is up as {}", env!("CARGO_PKG_VERSION"), config.instance);
    Ok(Flows {
        listener,
        dispatch,
        stop_commands,
        sources,
        stop_sources,
        companion,
        stop_companion,
        logs,
        stop_logs,
        health,
        end_health,
        ingest,
        stop_ingest,
        publisher,
        stop_publisher,
        spool,
    })
}

impl Flows {
    /// Runs until `stop` comes, then stops everything in order.
    async fn run_until(mut self, stop: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let broken = tokio::select! {
            () = stop => None,
            ended = self.sources.join_next(), if !self.sources.is_empty() => {
                Some(ended.and_then(Result::ok).unwrap_or("device or local API"))
            }
            _ = &mut self.publisher => Some("publish"),
            _ = &mut self.ingest => Some("ingest"),
            _ = &mut self.listener => Some("listen"),
            _ = &mut self.dispatch => Some("dispatch"),
            _ = &mut self.companion => Some("accompany"),
            _ = &mut self.logs => Some("logs"),
            _ = &mut self.health => Some("health"),
        };
        match broken {
            None => {
                self.stop().await;
                Ok(())
            }
            Some(flow) => {
                let _ = timeout(CLOSE, self.spool.close()).await;
                Err(DaemonError::Flow(flow))
            }
        }
    }

    async fn stop(mut self) {
        tracing::info!("stopping");
        self.stop_companion.send_replace(true);
        self.stop_commands.send_replace(true);
        ended("accompany", timeout(accompany::STOP + STOP, self.companion).await.ok());
        ended("listen", timeout(STOP, self.listener).await.ok());
        self.stop_sources.send_replace(true);
        let sources = async { while self.sources.join_next().await.is_some() {} };
        if timeout(STOP, sources).await.is_err() {
            tracing::warn!("a device or a local client did not end in time");
        }
        ended("dispatch", timeout(STOP, self.dispatch).await.ok());
        self.stop_logs.send_replace(true);
        ended("logs", timeout(STOP, self.logs).await.ok());
        self.end_health.send_replace(true);
        ended("health", timeout(STOP, self.health).await.ok());
        self.stop_ingest.send_replace(true);
        ended("ingest", timeout(STOP, self.ingest).await.ok());
        self.stop_publisher.send_replace(Some(Instant::now() + DRAIN));
        ended("publish", timeout(DRAIN + STOP, self.publisher).await.ok());
        match timeout(CLOSE, self.spool.close()).await {
            Ok(_) => tracing::info!("stopped"),
            Err(_) => tracing::error!("the disk did not take what is left within {} s", CLOSE.as_secs()),
        }
    }
}

fn ended(flow: &str, end: Option<Result<(), JoinError>>) {
    match end {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::error!(flow, "the {flow} flow broke down while stopping: {error}"),
        None => tracing::warn!(flow, "the {flow} flow did not stop in time"),
    }
}

/// The first line of `mqtt.password_file`.
fn password(config: &Config) -> Result<Option<String>, DaemonError> {
    let Some(path) = &config.mqtt.password_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|source| DaemonError::Password { path: path.clone(), source })?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

/// What is said on `P/status` when the link is lost, and on a clean stop.
fn farewell() -> Farewell {
    Farewell {
        will: r#"{"state":"offline","reason":"connection-lost"}"#.to_owned(),
        stopped: r#"{"state":"offline","reason":"stopped"}"#.to_owned(),
    }
}
