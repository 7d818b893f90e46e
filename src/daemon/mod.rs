//! The daemon: opens everything, starts the flows, watches over them, and stops them in the order of the data's way.
//!
//! The only place that sees the whole configuration. One thread for all flows, one for the spool. `open` puts all together;
//! `devices`, `inward` and `listening` start what there may be several or none of; `flows` watches over them and stops them;
//! `reload` changes them to a new configuration while they run, as `plan` says.
//!
//! What keeps it from starting: a configuration that can't be meant (exit 78), and another process that has its spool or its
//! socket. Nothing else does: no broker, no device, no disk.
//!
//! Stopping (SIGTERM, SIGINT): why the application ended, if it did, goes into the spool; no more commands are begun; devices and local API stop taking in, and say of each command that
//! was under way what became of it; what they took goes through ingest into the spool; the publisher delivers what it can
//! within [`DRAIN`] and says good-bye; the spool is closed. All of it takes 19 s at the most.

mod adjust;
mod announcing;
mod devices;
mod flows;
mod inward;
mod listening;
mod plan;
mod reload;
mod sparkplug;
mod streams;

use crate::accompany;
use crate::api::environment::Environment;
use crate::api::{self, Api};
use crate::config::Config;
use crate::disk::Disk;
use crate::dispatch::{self, journal};
use crate::health::{self, Identity};
use crate::host;
use crate::ingest;
use crate::listen::Outlets;
use crate::logs;
use crate::network::{Changes, Network};
use crate::publish::{self, Farewell, Publisher};
use crate::pulse::Heart;
use crate::record::{StreamId, Submission};
use crate::roster::Roster;
use crate::spool::{self, thread};
use crate::stats::{
    ApiStatus, AppStatus, CommandCounts, ConfigurationStatus, HostStatus, LinkStatus, LogsStatus, SessionStatus,
};
use adjust::Adjustable;
use devices::Devices;
use flows::{Flows, Wish};
use listening::Listening;
use plan::Settings;
use reload::Reloads;
pub use reload::Source;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use streams::Streams;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long a stop may deliver what waits. The application's own stop waits for ours, so this is short: the rest is
/// on flash and goes out after the next start.
pub const DRAIN: Duration = Duration::from_secs(3);
/// How long each flow may take to stop.
const STOP: Duration = Duration::from_secs(2);
/// How long closing the spool may take: a slow card syncs for seconds.
const CLOSE: Duration = Duration::from_secs(10);
/// How long a whole stop may take, however many of these times run out, but for the log's position at the very end, which takes
/// [`STOP`]: the unit's TimeoutStopSec is 20 s, and who is killed says neither good-bye nor why.
const LONGEST_STOP: Duration = Duration::from_secs(17);
/// Threads for what may block for long, host names and counters on flash: the unit allows for 32 tasks, children included.
const BLOCKING: usize = 4;
/// Questions that wait for the health flow.
const REQUESTS: usize = 16;
/// Requests for a reload that wait for their turn.
const RELOADS: usize = 4;

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

/// Runs until SIGTERM or SIGINT, or until something breaks that can't be mended. `config` was read from `source`, which is read
/// again on SIGHUP.
pub fn run(config: Config, source: Source) -> Result<(), DaemonError> {
    // While there is one thread only: it also takes its variables out of the environment.
    let inherited = api::socket::inherited();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING).build()?;
    let result = runtime.block_on(start(config, source, inherited));
    // Whatever is still blocked must not keep the process from ending.
    runtime.shutdown_background();
    result
}

async fn start(config: Config, source: Source, inherited: Option<UnixListener>) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let flows = open(config, source, inherited).await?;
    flows
        .run(async || {
            tokio::select! {
                _ = terminate.recv() => Wish::Stop,
                _ = interrupt.recv() => Wish::Stop,
                _ = hang_up.recv() => Wish::Reload,
            }
        })
        .await
}

async fn open(config: Config, source: Source, inherited: Option<UnixListener>) -> Result<Flows, DaemonError> {
    let password = password(&config)?;
    let heart = Heart::default();
    let (stop_sources, sources_stop) = watch::channel(false);
    let (end_health, health_end) = watch::channel(false);
    let (stop_ingest, ingest_stop) = watch::channel(false);
    let (leave, leaves) = watch::channel(None);
    let mut sources = JoinSet::new();

    let mut options = spool::Options {
        dir: spool::folder(&config.state_dir),
        streams: config.streams.clone(),
        runtime_dir: Some(spool::folder(&config.runtime_dir)),
        sync: config.spool.sync,
        segment_bytes: config.spool.segment_bytes,
        boot_id: host::boot_id_bytes(),
        backfill_rate: config.mqtt.backfill_rate,
    };
    // Of those that there is no room for the spool tells.
    let streams = Streams::new(&config.streams, spool::left_behind(&options));
    for name in streams.retired() {
        tracing::warn!(stream = name, "stream {name} is not configured any more; what waits in it goes out");
    }
    options.streams = streams.all();
    let (spool, batches) = thread::start(options, host::now, heart.pulse("spool"))?;
    let (submissions, submitted) = mpsc::channel::<Submission>(ingest::WAITING);
    let (refused, refusals) = mpsc::channel(REQUESTS);
    let (questions, requests) = mpsc::channel(REQUESTS);
    let (commands, commanded) = mpsc::channel(dispatch::WAITING);
    let (posts, posted) = mpsc::channel(logs::POSTS);
    let (stop_commands, commands_stop) = watch::channel(false);
    let (beats, beaten) = watch::channel(None);
    let (stop_companion, companion_stop) = watch::channel(false);

    let (roster, known) = watch::channel(Roster::from([]));
    let (ask_reload, reload_asked) = mpsc::channel(RELOADS);
    let inward = inward::start(
        &config,
        inward::Ground { submissions: &submissions, heart: &heart, stop: &sources_stop, sources: &mut sources },
    );
    let (counts_of_api, api_shown) = watch::channel(ApiStatus::default());
    let socket = match api::socket::open(inherited, &config.runtime_dir).await {
        Ok(socket) => Some(socket),
        Err(error @ api::socket::SocketError::InUse { .. }) => return Err(DaemonError::Socket(error)),
        Err(error) => {
            tracing::error!("there is no local API: {error}");
            None
        }
    };

    let (changes, changed) = watch::channel(Changes::default());
    let network = Network::new(changed, host::is_ours);
    let (pulse, stop) = (heart.pulse("network"), sources_stop.clone());
    sources.spawn(async move {
        host::netlink::watch(changes, pulse, stop).await;
        "network"
    });
    let (link, link_shown) = watch::channel(LinkStatus { since_ms: host::now().wall_ms, ..LinkStatus::default() });
    let (app, app_shown) = watch::channel(AppStatus::default());
    let ground = devices::Ground {
        submissions: submissions.clone(),
        link: link_shown.clone(),
        app: app_shown.clone(),
        runtime_dir: config.runtime_dir.clone(),
        state_dir: config.state_dir.clone(),
        heart: heart.clone(),
    };
    let announcements = announcing::start(&config);
    let mut devices = Devices::new(ground, roster);
    plan::devices(&config).for_each(|device| devices.start(device));
    devices.announce(plan::devices(&config));

    let identity = Identity {
        instance: config.instance.clone(),
        host: HostStatus { name: host::name(), boot_id: host::boot_id(), ..HostStatus::default() },
        sources: host::Sources::of_this_machine(config.state_dir.clone()),
    };
    let birth = identity.birth(host::now());
    let ends = sparkplug::ends(&config, &birth.payload, farewell());
    let (publishing, node) = ends.map_or((None, None), |ends| (Some(ends.publishing), Some(ends.listening)));
    let (retained, retained_shown) = watch::channel(vec![birth]);
    let (session, session_shown) = watch::channel(SessionStatus::default());
    let (counts, counts_shown) = watch::channel(CommandCounts::default());
    let ground = listening::Ground {
        outlets: Outlets { sparkplug: node, ..inward.outlets },
        commands: commands.clone(),
        submissions: submissions.clone(),
        status: session,
        link: link_shown.clone(),
        network: network.clone(),
        runtime_dir: config.runtime_dir.clone(),
        heart: heart.clone(),
    };
    let mut listening = Listening::new(ground);
    listening.start(&config.mqtt, password.as_ref(), plan::takes_commands(&config));
    let running = Settings { config: config.clone(), password: password.clone(), streams };
    let adjustable = Adjustable::new(&running, &listening);
    if let Some(socket) = socket {
        let api = Api {
            submissions: submissions.clone(),
            refused,
            status: questions,
            commands,
            logs: posts,
            beats,
            roster: known.clone(),
            reload: ask_reload,
            inbox: inward.inbox,
            settings: inward.settings,
            neighbours: inward.neighbours,
            max_payload: config.mqtt.max_payload,
            // MQTT 3.1.1 section 1.5.3: a topic has 65,535 bytes at the most.
            max_topic: usize::from(u16::MAX).saturating_sub(config.mqtt.topic_prefix.len() + "/app/".len()),
            clock: host::now,
            rules: adjustable.api.subscribe(),
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

    let (ask_app, app_asked) = mpsc::channel(REQUESTS);
    let options = accompany::Options {
        unit: config.app.unit.clone(),
        memory: config.runtime_dir.join(accompany::memory::FILE_NAME),
        boot_id: host::boot_id(),
        max_payload: config.mqtt.max_payload,
    };
    let (recent, recent_asked) = mpsc::channel(logs::REQUESTS);
    let wiring = accompany::Wiring {
        settings: adjustable.companion.subscribe(),
        beats: beaten,
        requests: app_asked,
        status: app,
        recent,
        roster: known.clone(),
        submissions: submissions.clone(),
        clock: host::now,
        pulse: heart.pulse("accompany"),
        stop: companion_stop,
    };
    let companion = tokio::spawn(accompany::run(options, wiring));
    let (configuration, configuration_shown) = watch::channel(ConfigurationStatus {
        file: source.file.display().to_string(),
        loaded_ms: host::now().wall_ms,
        ..ConfigurationStatus::default()
    });
    let wiring = dispatch::Wiring {
        requests: commanded,
        roster: known.clone(),
        submissions: submissions.clone(),
        status: counts,
        clock: host::now,
        pulse: heart.pulse("dispatch"),
        stop: commands_stop,
    };
    let (stop_logs, stop) = watch::channel(false);
    let (logs_status, logs_shown) = watch::channel(LogsStatus::default());
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
    let logs = tokio::spawn(logs::run(adjustable.logs.subscribe(), wiring_of_logs));
    let dispatch = tokio::spawn(dispatch::run(Arc::new(Disk), journal::folder(&config.state_dir), wiring));
    let publisher = Publisher::new(
        config.mqtt,
        running.streams.all(),
        password,
        farewell(),
        publish::Wiring {
            spool: spool.clone(),
            batches,
            retained: retained_shown,
            reloads: configuration_shown.clone(),
            announcements,
            sparkplug: publishing,
            status: link,
            network,
            state_dir: config.state_dir.clone(),
            clock: host::now,
            pulse: heart.pulse("publish"),
            leave: leaves,
        },
    );
    let publisher = tokio::spawn(async move { Some(publisher.run().await) });
    let pulse = heart.pulse("ingest");
    let ingest = tokio::spawn(ingest::run(submitted, refusals, spool.clone(), pulse, ingest_stop));
    let pulse = heart.pulse("health");
    let health = health::Wiring {
        requests,
        link: link_shown,
        roster: known,
        settings: adjustable.health.subscribe(),
        configuration: configuration_shown,
        api: api_shown,
        session: session_shown,
        counts: counts_shown,
        inbox: inward.inbox_shown,
        config: inward.settings_shown,
        logs: logs_shown,
        app: health::App { shown: app_shown, requests: ask_app },
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
        listening,
        dispatch,
        stop_commands,
        devices,
        sources,
        stop_sources,
        companion,
        stop_companion,
        logs,
        stop_logs,
        health,
        end_health,
        adjustable,
        ingest,
        stop_ingest,
        publisher,
        leave,
        spool,
        reloads: Reloads { source, running, requests: reload_asked, shown: configuration },
    })
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
