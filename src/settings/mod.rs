//! The settings flow: retained keys of `P/config/#`, kept on the gateway and given to the application, also offline.
//!
//! Constraints: a value is on the medium before the broker is told that it need not come again, and before any client sees
//! it; values are read from disk when somebody asks for them. The flow waits for the disk and for nothing else. What can't
//! be written is not acknowledged, and comes again.
//!
//! The store is *synced* when, since the connection was made, the broker has sent all keys that it has (see `listen` for how
//! that is known), all of them are on disk, and those that it no longer has are gone. States of a round:
//!
//! ```text
//!             Round            Complete, and everything was written
//! Offline ───────────> Asked ───────────────────────────────────────> Synced
//!    ^                   │ lost                                          │ lost
//!    └───────────────────┴───────────────────────────────────────────────┘
//! ```
//!
//! [`store`] is the disk, [`known`] what there is and what changed, [`managed`] hands some of it on to `pillion apply`, and
//! `outcomes` tells what became of that.

pub mod known;
pub mod managed;
mod outcomes;
pub mod store;
#[cfg(test)]
mod tests;

use crate::disk::{FileSystem, is_passing};
use crate::inbound::{Delivered, MAX_TOPIC, MAX_VALUE, Setting, Settings, SettingsNews, SettingsRequest, Unreadable};
use crate::pulse::Pulse;
use crate::record::{Clock, Submission};
use crate::stats::SettingsStatus;
use known::{Key, Known};
use managed::Managed;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::{Entry, Found, Print, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// Keys that wait for this flow before the listen flow waits.
pub const WAITING: usize = 16;
/// Values in one answer, and the bytes after which it gets no more.
const PAGE: usize = 16;
const PAGE_BYTES: usize = 64 * 1024;
/// Refusals are announced together, once in this time.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);

/// What the flow is connected to.
pub struct Wiring {
    /// From the broker.
    pub settings: mpsc::Receiver<Settings>,
    /// From local clients.
    pub requests: mpsc::Receiver<SettingsRequest>,
    /// The latest change, for local clients to wait for.
    pub news: watch::Sender<SettingsNews>,
    /// Files that are written from keys.
    pub managed: Managed,
    /// For events.
    pub submissions: mpsc::Sender<Submission>,
    /// Where the flow shows its counters. Receivers are woken by a change of `error` only.
    pub status: watch::Sender<SettingsStatus>,
    /// Time stamps.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: return.
    pub stop: watch::Receiver<bool>,
}

/// See the module's head.
enum State {
    /// No broker, or one that was not asked.
    Offline,
    /// Keys are on their way. `whole`: all that came so far is on disk.
    Asked { server: String, remembered: bool, whole: bool },
    /// What is here is what the broker has.
    Synced { server: String },
}

/// Runs until `stop` is set.
pub async fn run(fs: Arc<dyn FileSystem>, dir: PathBuf, wiring: Wiring) {
    let store = Store::new(fs, dir);
    let mut flow = Flow {
        known: Known::default(),
        store,
        state: State::Offline,
        refusals: None,
        announced: None,
        asked: BTreeMap::new(),
        look: None,
        looked: 0,
        wiring,
    };
    flow.open().await;
    flow.run().await;
}

struct Flow {
    known: Known,
    store: Store,
    state: State,
    /// How many keys were refused and not announced yet, and why the latest was.
    refusals: Option<(u64, String)>,
    announced: Option<Instant>,
    /// ETags that `pillion apply` was asked for.
    asked: BTreeMap<String, String>,
    /// When to look what became of that, and how often it was looked since it was asked.
    look: Option<Instant>,
    looked: u128,
    wiring: Wiring,
}

impl Flow {
    async fn open(&mut self) {
        let store = self.store.clone();
        let Ok(Found { keys, damaged, next_file }) =
            self.wiring.pulse.during(spawn_blocking(move || store.load())).await
        else {
            return;
        };
        self.known = Known::restore(keys, next_file);
        if let Some(first) = damaged.first() {
            let count = damaged.len();
            let detail = format!("{count} keys of the configuration store can't be read, such as {first}");
            tracing::warn!("{detail}");
            self.submit(json!({ "type": "config-damaged", "count": count, "detail": detail })).await;
            self.show(|status| status.damaged += u64::try_from(count).unwrap_or(u64::MAX));
        }
        self.tell();
        if !self.wiring.managed.keys.is_empty() {
            self.look().await;
        }
    }

    async fn run(mut self) {
        let (mut from_broker, mut from_clients) = (true, true);
        loop {
            let due = self.announced.map_or_else(Instant::now, |at| at + ANNOUNCE_EVERY);
            tokio::select! {
                settings = self.wiring.settings.recv(), if from_broker => match settings {
                    Some(settings) => self.take(settings).await,
                    None => from_broker = false,
                },
                request = self.wiring.requests.recv(), if from_clients => match request {
                    Some(request) => self.answer(request).await,
                    None => from_clients = false,
                },
                () = sleep_until(self.look.unwrap_or_else(Instant::now)), if self.look.is_some() => self.look().await,
                () = sleep_until(due), if self.refusals.is_some() => self.announce().await,
                () = self.wiring.pulse.answer() => {}
                // What waits in the channel is let go: the broker sends it again.
                () = stopped(&mut self.wiring.stop) => return,
            }
        }
    }

    async fn take(&mut self, settings: Settings) {
        match settings {
            Settings::Round { server, remembered } => {
                self.known.begin();
                self.state = State::Asked { server, remembered, whole: true };
            }
            Settings::Message(delivered) => self.key(delivered).await,
            Settings::Complete => self.complete().await,
            Settings::Lost => self.state = State::Offline,
        }
        self.tell();
        if !self.wiring.managed.keys.is_empty() && self.wiring.managed.wanted(&self.known) != self.asked {
            self.look().await;
        }
    }

    /// A key and its value have come.
    async fn key(&mut self, delivered: Delivered) {
        let Delivered { topic: key, payload: value, noted, .. } = delivered;
        match self.keep(key, value).await {
            Ok(()) => _ = oneshot::Sender::<()>::send(noted, ()),
            Err(error) => {
                if let State::Asked { whole, .. } = &mut self.state {
                    *whole = false;
                }
                self.failed(error);
            }
        }
    }

    /// Writes what is new. `Err`: it has to come again.
    async fn keep(&mut self, key: String, value: Vec<u8>) -> Result<(), String> {
        let server = match &self.state {
            State::Offline => String::new(),
            State::Asked { server, .. } | State::Synced { server } => server.clone(),
        };
        if value.is_empty() {
            return self.remove(&key).await;
        }
        let (print, length) = (Print::of(&value), value.len());
        if !self.known.came(&key, print, &server) {
            return Ok(());
        }
        let usable = check(&key, length).and_then(|()| self.known.place(&key, length).map_err(|full| full.to_string()));
        let file = match usable {
            Ok(file) => file,
            Err(reason) => {
                self.refuse(&key, &reason);
                return Ok(());
            }
        };
        let entry = Entry { key: key.clone(), time: (self.wiring.clock)(), server: server.clone(), value };
        let time = entry.time;
        self.on_disk(move |store| store.write(file, &entry)).await?;
        self.known.set(&key, file, print, time, &server);
        self.show(|status| {
            status.updates += 1;
            status.error = None;
        });
        Ok(())
    }

    async fn remove(&mut self, key: &str) -> Result<(), String> {
        let Some(file) = self.known.get(key).map(|key| key.file) else { return Ok(()) };
        self.on_disk(move |store| store.remove(file)).await?;
        self.known.remove(key);
        self.show(|status| {
            status.deletions += 1;
            status.error = None;
        });
        Ok(())
    }

    /// The broker has sent all that it has.
    async fn complete(&mut self) {
        let State::Asked { server, remembered, whole: true } = &self.state else { return };
        let server = server.clone();
        for key in self.known.complete(&server, *remembered) {
            tracing::info!(
                "the key {key:?} of the configuration was deleted at the broker while pillion was not connected"
            );
            if let Err(error) = self.remove(&key).await {
                return self.failed(error);
            }
        }
        self.state = State::Synced { server };
    }

    fn failed(&self, error: String) {
        if self.wiring.status.borrow().error.is_none() {
            tracing::error!("keys of the configuration can't be kept, and have to come again: {error}");
        }
        self.show(|status| status.error = Some(error));
    }

    fn refuse(&mut self, key: &str, reason: &str) {
        let shown: String = key.chars().take(64).collect();
        let count = self.refusals.take().map_or(0, |(count, _)| count) + 1;
        self.refusals = Some((count, format!("{shown:?}: {reason}")));
        self.show(|status| status.refused += 1);
    }

    async fn announce(&mut self) {
        let Some((count, reason)) = self.refusals.take() else { return };
        self.announced = Some(Instant::now());
        let detail =
            format!("{count} values of the configuration were not taken, and older ones stay; such as of {reason}");
        tracing::warn!("{detail}");
        self.submit(json!({ "type": "config-refused", "count": count, "detail": detail })).await;
    }

    async fn answer(&mut self, request: SettingsRequest) {
        match request {
            SettingsRequest::Changes { after, all, reply } => {
                let changes = match self.known.changes(after, all) {
                    Some(changes) => self.page(changes).await.map(Some),
                    None => Ok(None),
                };
                let _ = reply.send(changes);
            }
            SettingsRequest::Value { key, reply } => {
                let known = self.known.get(&key).cloned().map(|known| (known.revision, key, Some(known)));
                let setting = self.page(known.into_iter().collect()).await.map(|mut page| page.pop());
                let _ = reply.send(setting);
            }
        }
    }

    /// The first of these keys with their values; all those before the first one that can't be read now.
    async fn page(&mut self, changes: Vec<(u64, String, Option<Key>)>) -> Result<Vec<Setting>, Unreadable> {
        let store = self.store.clone();
        let reading = spawn_blocking(move || {
            let (mut page, mut bytes, mut unread) = (Vec::new(), 0, Vec::new());
            for (revision, key, known) in changes {
                if page.len() >= PAGE || bytes >= PAGE_BYTES {
                    break;
                }
                let Some(known) = known else {
                    page.push(Setting { key, revision, kept: None });
                    continue;
                };
                match store.read(known.file) {
                    Ok(entry) if entry.key == key => {
                        bytes += entry.value.len();
                        page.push(Setting { key, revision, kept: Some((known.print.etag(), entry.time, entry.value)) });
                    }
                    // That says nothing of the key, so nobody may think that it was deleted.
                    Err(error) if is_of_us_all(&error) && page.is_empty() => {
                        return Err(Unreadable { key, reason: error.to_string() });
                    }
                    Err(error) if is_of_us_all(&error) => break,
                    // Damaged since the start, or taken away by somebody: it must not cost the others.
                    Ok(_) | Err(_) => {
                        unread.push(key.clone());
                        page.push(Setting { key, revision, kept: None });
                    }
                }
            }
            Ok((page, unread))
        });
        let (page, unread) = self.wiring.pulse.during(reading).await.unwrap_or_else(|_| Ok(Default::default()))?;
        for key in unread {
            // It comes again with the next connection.
            tracing::warn!("the key {key:?} of the configuration can't be read any more");
            self.known.remove(&key);
            self.show(|status| status.damaged += 1);
            self.tell();
        }
        Ok(page)
    }

    async fn on_disk(
        &mut self,
        work: impl FnOnce(&Store) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), String> {
        let store = self.store.clone();
        let working = spawn_blocking(move || work(&store));
        let done = self.wiring.pulse.during(working).await.map_err(|_| "pillion is stopping".to_owned())?;
        done.map_err(|error| error.to_string())
    }

    async fn submit(&mut self, document: serde_json::Value) {
        let submission = Submission::event(&document, (self.wiring.clock)());
        // Nobody takes records any more when pillion is at its end.
        let _ = self.wiring.pulse.during(self.wiring.submissions.send(submission)).await;
    }

    /// Tells clients and the status of what changed.
    fn tell(&self) {
        let news = SettingsNews { revision: self.known.revision(), synced: matches!(self.state, State::Synced { .. }) };
        self.wiring.news.send_if_modified(|before| std::mem::replace(before, news) != news);
        self.show(|_| {});
    }

    fn show(&self, change: impl FnOnce(&mut SettingsStatus)) {
        let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        self.wiring.status.send_if_modified(|status| {
            let before = status.error.is_some();
            change(status);
            status.synced = matches!(self.state, State::Synced { .. });
            (status.keys, status.bytes) = (number(self.known.count()), number(self.known.bytes()));
            status.unconfirmed = self.known.unconfirmed();
            status.error.is_some() != before
        });
    }
}

/// Whether it is for want of descriptors or memory, which the other keys want as well, and not of one file and its rights.
fn is_of_us_all(error: &std::io::Error) -> bool {
    is_passing(error) && error.kind() != std::io::ErrorKind::PermissionDenied
}

/// Returns when the flow shall end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have stopped us.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn check(key: &str, length: usize) -> Result<(), String> {
    match key.len() {
        0 => Err("the key is empty".to_owned()),
        bytes if bytes > MAX_TOPIC => Err(format!("the key has {bytes} bytes; at most {MAX_TOPIC} are taken")),
        _ if key.chars().any(char::is_control) => Err("the key holds a control character".to_owned()),
        _ if length > MAX_VALUE => Err(format!("the value has {length} bytes; at most {MAX_VALUE} are taken")),
        _ => Ok(()),
    }
}
