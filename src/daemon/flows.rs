//! The flows that run: watched over, and stopped in the order of the data's way.

use super::adjust::Adjustable;
use super::devices::Devices;
use super::listening::Listening;
use super::reload::Reloads;
use super::{CLOSE, DRAIN, DaemonError, LONGEST_STOP, STOP};
use crate::accompany;
use crate::logs::Unsaved;
use crate::publish::{Leave, Publisher};
use crate::spool::thread;
use crate::stats::ReloadRequest;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

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
            let reply = tokio::select! {
                wish = wish() => match wish {
                    Wish::Stop => break None,
                    Wish::Reload => None,
                },
                Some(reply) = self.reloads.requests.recv() => Some(reply),
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
            };
            if self.reload_unless_stopped(reply, &mut wish).await {
                break None;
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

    /// Reloads, and once more for a wish that comes meanwhile. Returns whether a stop was wished, which ends it where it is: what it
    /// has not done yet the next start does.
    async fn reload_unless_stopped(
        &mut self,
        mut reply: Option<ReloadRequest>,
        wish: &mut impl AsyncFnMut() -> Wish,
    ) -> bool {
        let mut is_wished = true;
        while std::mem::take(&mut is_wished) {
            let mut reload = pin!(self.reload());
            let status = loop {
                tokio::select! {
                    status = reload.as_mut() => break status,
                    wish = wish() => match wish {
                        Wish::Stop => return true,
                        Wish::Reload => is_wished = true,
                    },
                }
            };
            // Whoever asked may have gone.
            let _ = reply.take().map(|reply| reply.send(status));
        }
        false
    }

    async fn stop(mut self) {
        tracing::info!("stopping");
        let end = Instant::now() + LONGEST_STOP;
        // The disk may hold up one after the other.
        let within = |step: Duration| end.min(Instant::now() + step);
        self.stop_companion.send_replace(true);
        self.stop_commands.send_replace(true);
        self.listening.begin_stop();
        ended("accompany", timeout_at(within(accompany::STOP + STOP), self.companion).await.ok());
        self.listening.stop().await;
        self.stop_sources.send_replace(true);
        let sources = async { while self.sources.join_next().await.is_some() {} };
        if tokio::join!(timeout(STOP, sources), self.devices.stop_all(STOP)).0.is_err() {
            tracing::warn!("a local client did not end in time");
        }
        ended("dispatch", timeout_at(within(STOP), self.dispatch).await.ok());
        self.stop_logs.send_replace(true);
        let unsaved = ended("logs", timeout_at(within(STOP), self.logs).await.ok()).flatten();
        self.end_health.send_replace(true);
        ended("health", timeout_at(within(STOP), self.health).await.ok());
        self.stop_ingest.send_replace(true);
        ended("ingest", timeout_at(within(STOP), self.ingest).await.ok());
        self.leave.send_replace(Some(Leave::Stop(Instant::now() + DRAIN)));
        ended("publish", timeout_at(within(DRAIN + STOP), self.publisher).await.ok());
        match timeout_at(within(CLOSE), self.spool.close()).await {
            Ok(is_whole) => {
                save(unsaved.filter(|_| is_whole == Ok(true))).await;
                tracing::info!("stopped");
            }
            Err(_) => tracing::error!("the disk did not take what is left in time"),
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
