//! The listen flow, which begins anew when a reload changes the broker or whether anybody wants anything from it.

use super::STOP;
use super::flows::ended;
use crate::command::Request;
use crate::config::Mqtt;
use crate::host;
use crate::listen::{self, Listener, Outlets, alive};
use crate::network::Network;
use crate::pulse::Heart;
use crate::record::Submission;
use crate::stats::{LinkStatus, SessionStatus};
use std::path::PathBuf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What every run of it stands on.
pub(super) struct Ground {
    /// All but that of the devices.
    pub(super) outlets: Outlets,
    /// That of the devices, for as long as one takes commands.
    pub(super) commands: mpsc::Sender<Request>,
    pub(super) submissions: mpsc::Sender<Submission>,
    pub(super) status: watch::Sender<SessionStatus>,
    pub(super) link: watch::Receiver<LinkStatus>,
    pub(super) network: Network,
    pub(super) runtime_dir: PathBuf,
    pub(super) heart: Heart,
}

/// The flow, or none.
pub(super) struct Listening {
    ground: Ground,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Listening {
    /// Nothing runs yet.
    pub(super) fn new(ground: Ground) -> Self {
        Listening { ground, running: None }
    }

    /// Whether anybody wants anything.
    pub(super) fn is_needed(&self, takes_commands: bool) -> bool {
        takes_commands || self.ground.outlets.are_needed()
    }

    /// Starts it, if it is needed. `password` is what `mqtt.password_file` holds.
    pub(super) fn start(&mut self, mqtt: &Mqtt, password: Option<&String>, takes_commands: bool) {
        let Ground { commands, submissions, status, link, network, runtime_dir, heart, .. } = &self.ground;
        let outlets = Outlets { devices: takes_commands.then(|| commands.clone()), ..self.ground.outlets.clone() };
        if !outlets.are_needed() {
            status.send_replace(SessionStatus::default());
            return;
        }
        let (stop, stopped) = watch::channel(false);
        let alive = alive::Alive::open(runtime_dir.join(alive::FILE_NAME), host::boot_id());
        let wiring = listen::Wiring {
            outlets,
            submissions: submissions.clone(),
            status: status.clone(),
            link: link.clone(),
            network: network.clone(),
            clock: host::now,
            pulse: heart.pulse("listen"),
            stop: stopped,
        };
        let listener = Listener::new(mqtt.clone(), password.cloned(), alive, wiring);
        self.running = Some((stop, tokio::spawn(listener.run())));
    }

    /// Tells it to stop.
    pub(super) fn begin_stop(&self) {
        self.running.iter().for_each(|(stop, _)| _ = stop.send_replace(true));
    }

    /// Stops it. What it has not acknowledged comes again. Cancel-safe.
    pub(super) async fn stop(&mut self) {
        self.begin_stop();
        if let Some((_, task)) = &mut self.running {
            let end = timeout(STOP, &mut *task).await.ok();
            if end.is_none() {
                task.abort();
            }
            self.running = None;
            ended("listen", end);
        }
    }

    /// Returns when it has ended and nobody has told it to. Cancel-safe.
    pub(super) async fn broken(&mut self) {
        match &mut self.running {
            Some((_, task)) => _ = task.await,
            None => std::future::pending().await,
        }
    }
}
