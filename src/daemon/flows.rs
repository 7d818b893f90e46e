//! The flows that run: watched over, and stopped in the order of the data's way.

use super::adjust::Adjustable;
use super::devices::Devices;
use super::listening::Listening;
use super::reload::Reloads;
use super::{CLOSE, DRAIN, DaemonError, STOP};
use crate::accompany;
use crate::logs::Unsaved;
use crate::publish::{Leave, Publisher};
use crate::spool::thread;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

/// Each flow with what stops it.
pub(super) struct Flows {
    /// What comes from the broker; stopped with the dispatch flow, before the devices are.
    pub(super) listening: Listening,
    pub(super) dispatch: JoinHandle<()>,
    pub(super) stop_commands: watch::Sender<bool>,
    pub(super) devices: Devices,
    /// Local API, inbox, configuration store: with the devices they take in.
    pub(super) sources: JoinSet<&'static str>,
    pub(super) stop_sources: watch::Sender<bool>,
    /// Watches the application.
    pub(super) companion: JoinHandle<()>,
    pub(super) stop_companion: watch::Sender<bool>,
    /// The application's log: stopped when nobody asks for its last lines any more.
    pub(super) logs: JoinHandle<Option<Unsaved>>,
    pub(super) stop_logs: watch::Sender<bool>,
    pub(super) health: JoinHandle<()>,
    pub(super) end_health: watch::Sender<bool>,
    /// What a reload may change in flows that go on.
    pub(super) adjustable: Adjustable,
    pub(super) ingest: JoinHandle<()>,
    pub(super) stop_ingest: watch::Sender<bool>,
    /// Returns the publisher when that has left, to begin anew.
    pub(super) publisher: JoinHandle<Option<Publisher>>,
    pub(super) leave: watch::Sender<Option<Leave>>,
    pub(super) spool: thread::Handle,
    pub(super) reloads: Reloads,
}

/// What the operator wants.
pub(super) enum Wish {
    Stop,
    Reload,
}

impl Flows {
    /// Runs until it is wished to stop, then stops everything in order.
    pub(super) async fn run(mut self, mut wish: impl AsyncFnMut() -> Wish) -> Result<(), DaemonError> {
        let broken = loop {
            tokio::select! {
                wish = wish() => match wish {
                    Wish::Stop => break None,
                    Wish::Reload => _ = self.reload().await,
                },
                Some(reply) = self.reloads.requests.recv() => {
                    let reload = self.reload().await;
                    // Whoever asked may have gone.
                    let _ = reply.send(reload);
                }
                ended = self.sources.join_next(), if !self.sources.is_empty() => {
                    break Some(ended.and_then(Result::ok).unwrap_or("local API"));
                }
                () = self.devices.broken() => break Some("device"),
                _ = &mut self.publisher => break Some("publish"),
                _ = &mut self.ingest => break Some("ingest"),
                () = self.listening.broken() => break Some("listen"),
                _ = &mut self.dispatch => break Some("dispatch"),
                _ = &mut self.companion => break Some("accompany"),
                _ = &mut self.logs => break Some("logs"),
                _ = &mut self.health => break Some("health"),
            }
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
        self.listening.begin_stop();
        ended("accompany", timeout(accompany::STOP + STOP, self.companion).await.ok());
        self.listening.stop().await;
        self.stop_sources.send_replace(true);
        let sources = async { while self.sources.join_next().await.is_some() {} };
        if tokio::join!(timeout(STOP, sources), self.devices.stop_all(STOP)).0.is_err() {
            tracing::warn!("a local client did not end in time");
        }
        ended("dispatch", timeout(STOP, self.dispatch).await.ok());
        self.stop_logs.send_replace(true);
        let unsaved = ended("logs", timeout(STOP, self.logs).await.ok()).flatten();
        self.end_health.send_replace(true);
        ended("health", timeout(STOP, self.health).await.ok());
        self.stop_ingest.send_replace(true);
        ended("ingest", timeout(STOP, self.ingest).await.ok());
        self.leave.send_replace(Some(Leave::Stop(Instant::now() + DRAIN)));
        ended("publish", timeout(DRAIN + STOP, self.publisher).await.ok());
        match timeout(CLOSE, self.spool.close()).await {
            Ok(is_whole) => {
                save(unsaved.filter(|_| is_whole == Ok(true))).await;
                tracing::info!("stopped");
            }
            Err(_) => tracing::error!("the disk did not take what is left within {} s", CLOSE.as_secs()),
        }
    }
}

/// Saves how far the application's log has been read: what is in the spool or delivered by now need not be read again.
async fn save(unsaved: Option<Unsaved>) {
    let Some(unsaved) = unsaved else { return };
    match timeout(STOP, tokio::task::spawn_blocking(move || unsaved.save())).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!("the position in the journal could not be saved: {error}"),
        Ok(Err(_)) | Err(_) => tracing::warn!("the position in the journal could not be saved in time"),
    }
}

/// Says so if a flow did not end as it should, and returns what it has left.
pub(super) fn ended<T>(flow: &str, end: Option<Result<T, JoinError>>) -> Option<T> {
    match end {
        Some(Ok(left)) => return Some(left),
        Some(Err(error)) => tracing::error!(flow, "the {flow} flow broke down while stopping: {error}"),
        None => tracing::warn!(flow, "the {flow} flow did not stop in time"),
    }
    None
}
