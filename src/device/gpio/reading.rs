//! The task of an input: edges become records, or are counted.

use super::chip::{Chips, EdgeEvent, Held, Trouble};
use super::counter::{Counter, Keep, line};
use super::input::{Change, Input};
use super::{Device, State, stopped, until};
use crate::config;
use crate::pace::Pace;
use crate::record::Record;
use serde::Serialize;
use std::num::NonZeroU32;
use std::path::PathBuf;
use tokio::task::JoinHandle;

/// Edges that are read in a second, so that a line that oscillates fills neither the disk nor the processor.
const EDGES_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);
/// Edges that are read at once, and records for one submission.
const BATCH: usize = 64;

/// The data of a record.
#[derive(Serialize)]
struct Level {
    value: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
}

impl Level {
    fn reading(value: bool, lost: Option<u64>) -> Self {
        Level { value, edge: None, lost }
    }

    fn edge(value: bool) -> Self {
        Level { value, edge: Some(if value { "rising" } else { "falling" }), lost: None }
    }
}

/// A counter with its files.
struct Meter {
    counter: Counter,
    runtime: PathBuf,
    state: PathBuf,
    replace: fn(&std::path::Path, &[u8]) -> std::io::Result<()>,
    /// Flash is written on a thread of its own, since it may take long.
    saving: Option<JoinHandle<()>>,
    /// The tmpfs has refused the last total, and that was said.
    complained: bool,
}

pub(super) async fn run<C: Chips>(device: Device<C>, config: &config::Input, keep: &Keep) {
    let meter = config.counter.map(|interval| Meter::load(&device, interval, keep));
    let mut task = Reading { input: Input::new(config), meter, device };
    let mut state = State::Closed;
    loop {
        let next = match state {
            State::Closed => task.open().await,
            State::Open(held) => task.watch(held).await,
            State::Backoff => task.wait().await,
        };
        match next {
            Some(next) => state = next,
            None => break,
        }
    }
    task.stop().await;
}

struct Reading<C> {
    device: Device<C>,
    input: Input,
    meter: Option<Meter>,
}

/// What comes after something happened to an open line.
enum Next {
    Stay,
    Lost(Trouble),
    /// Nobody takes records any more.
    End,
}

impl<C: Chips> Reading<C> {
    /// State Closed: `Open`, or `Backoff` if that did not work.
    async fn open(&mut self) -> Option<State<C::Held>> {
        let taken = self.device.take(self.input.role()).or_else(|trouble| match trouble {
            Trouble::Settings { .. } if self.input.refused() => self.device.take(self.input.role()),
            trouble => Err(trouble),
        });
        match taken.and_then(|held| Ok((held.value()?, held))) {
            Ok((level, held)) => {
                self.input.taken(level);
                let debouncer = self.input.debouncer();
                self.device.note(|gpio| {
                    gpio.value = Some(level);
                    gpio.debounce = debouncer.map(str::to_owned);
                });
                self.device.online();
                if self.meter.is_none() {
                    let record = self.device.record(self.device.now().time, &Level::reading(level, None));
                    self.device.send(vec![record]).await?;
                }
                Some(State::Open(held))
            }
            Err(trouble) => {
                if self.input.debouncer() == Some("software") {
                    // The other way did not work either: the next attempt begins with the kernel's own debouncing.
                    self.input.start_over();
                }
                self.device.offline(&trouble);
                Some(State::Backoff)
            }
        }
    }

    /// State Open: `Backoff` when the line is lost, `None` when the task shall end.
    async fn watch(&mut self, mut held: C::Held) -> Option<State<C::Held>> {
        let mut pace = Pace::new(EDGES_PER_SECOND, self.device.now_ms());
        loop {
            let now = self.device.now();
            let now_ms = now.time.mono_ms;
            let room = usize::try_from(pace.available(now_ms)).unwrap_or(BATCH).min(BATCH);
            let settle_ms = self.input.due_ns().map(|due| {
                let wait_ns = due.saturating_sub(now.ns);
                now_ms.saturating_add(wait_ns.div_ceil(1_000_000))
            });
            let publish_ms = self.meter.as_ref().map(|meter| meter.counter.due_ms());
            let pace_ms = (room == 0).then(|| pace.due_ms());
            let due_ms = settle_ms.into_iter().chain(publish_ms).chain(pace_ms).min();
            let next = tokio::select! {
                biased;
                () = stopped(&mut self.device.wiring.stop) => return None,
                // Kernels before 6.7 wake nobody when a chip goes, so it is asked for, too.
                () = self.device.wiring.pulse.answer() => match held.value() {
                    Ok(_) => Next::Stay,
                    Err(trouble) => Next::Lost(trouble),
                },
                () = until(due_ms, now_ms) => self.due(&held).await,
                ready = held.ready(), if room > 0 => {
                    let mut events = Vec::new();
                    match ready.and_then(|()| held.edges(&mut events, room)) {
                        Ok(()) => {
                            pace.take(u64::try_from(events.len()).unwrap_or(u64::MAX));
                            self.take_in(&held, events).await
                        }
                        Err(trouble) => Next::Lost(trouble),
                    }
                }
            };
            match next {
                Next::Stay => {}
                Next::End => return None,
                Next::Lost(trouble) => {
                    drop(held);
                    self.publish_rest().await?;
                    self.device.offline(&trouble);
                    return Some(State::Backoff);
                }
            }
        }
    }

    /// State Backoff: `Closed` when the delay is over, `None` when the task shall end.
    async fn wait(&mut self) -> Option<State<C::Held>> {
        let delay = tokio::time::sleep(self.device.backoff.next(fastrand::f64()));
        tokio::pin!(delay);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.device.wiring.stop) => return None,
                () = self.device.wiring.pulse.answer() => {}
                () = &mut delay => return Some(State::Closed),
            }
        }
    }

    /// Edges have come.
    async fn take_in(&mut self, held: &C::Held, events: Vec<EdgeEvent>) -> Next {
        let now = self.device.now();
        let mut changes = Vec::new();
        let mut lost = 0_u64;
        for event in &events {
            lost = lost.saturating_add(u64::from(self.input.edge(*event, &mut changes)));
        }
        self.device.note(|gpio| {
            gpio.edges = gpio.edges.saturating_add(u64::try_from(events.len()).unwrap_or(u64::MAX));
            gpio.lost = gpio.lost.saturating_add(lost);
        });
        let records = self.count_or_show(&changes, lost, now);
        if self.device.send(records).await.is_none() {
            return Next::End;
        }
        if lost == 0 {
            return Next::Stay;
        }
        self.look(held, lost).await
    }

    /// Something is due: a level has lasted, or the count is to be published.
    async fn due(&mut self, held: &C::Held) -> Next {
        let now = self.device.now();
        let mut changes = Vec::new();
        self.input.settle(now.ns, &mut changes);
        let mut records = self.count_or_show(&changes, 0, now);
        if self.meter.as_ref().is_some_and(|meter| meter.counter.due_ms() <= now.time.mono_ms) {
            // The level of a counter is of interest to the status only.
            match held.value() {
                Ok(level) => self.device.note(|gpio| gpio.value = Some(level)),
                Err(trouble) => return Next::Lost(trouble),
            }
            records.extend(self.publish());
        }
        if self.device.send(records).await.is_none() { Next::End } else { Next::Stay }
    }

    /// Edges were lost, so the level may be another one than the last edge said.
    async fn look(&mut self, held: &C::Held, lost: u64) -> Next {
        let level = match held.value() {
            Ok(level) => level,
            Err(trouble) => return Next::Lost(trouble),
        };
        self.input.reading(level);
        self.device.note(|gpio| gpio.value = Some(level));
        if self.meter.is_some() {
            return Next::Stay;
        }
        let record = self.device.record(self.device.now().time, &Level::reading(level, Some(lost)));
        if self.device.send(vec![record]).await.is_none() { Next::End } else { Next::Stay }
    }

    /// Counts changes, or makes records of them.
    fn count_or_show(&mut self, changes: &[Change], lost: u64, now: super::input::Instant) -> Vec<Record> {
        if let Some(last) = changes.last() {
            self.device.note(|gpio| gpio.value = Some(last.value));
        }
        let Some(meter) = &mut self.meter else {
            let record = |change: &Change| self.device.record(now.of_edge(change.at_ns), &Level::edge(change.value));
            return changes.iter().map(record).collect();
        };
        // The kernel numbers only edges of the kind that is counted, unless we debounce.
        let unseen = if self.input.debouncer() == Some("software") { 0 } else { lost };
        meter.counter.add(u64::try_from(changes.len()).unwrap_or(u64::MAX).saturating_add(unseen));
        let total = meter.counter.total();
        self.device.note(|gpio| gpio.count = Some(total));
        Vec::new()
    }

    /// The record of the count, which is kept first: a total that was published must not come back smaller.
    fn publish(&mut self) -> Option<Record> {
        let now = self.device.now().time;
        let meter = self.meter.as_mut()?;
        meter.keep(&self.device.config.name, now.mono_ms);
        let count = meter.counter.publish(now.mono_ms);
        Some(self.device.record(now, &count))
    }

    /// Publishes what was counted since the last time, if anything was. `None` if nobody takes records any more.
    async fn publish_rest(&mut self) -> Option<()> {
        if !self.meter.as_ref().is_some_and(|meter| meter.counter.is_news()) {
            return Some(());
        }
        let record = self.publish();
        self.device.send(record.into_iter().collect()).await
    }

    /// The task ends.
    async fn stop(mut self) {
        let _ = self.publish_rest().await;
        if let Some(meter) = &mut self.meter {
            meter.save(self.device.now_ms(), true).await;
        }
        self.device.stopped();
    }
}

impl Meter {
    fn load<C: Chips>(device: &Device<C>, interval: std::time::Duration, keep: &Keep) -> Self {
        let name = device.config.name.as_str();
        let (total, wrong) = keep.load(name);
        let notice = (!wrong.is_empty()).then(|| format!("counting on from {total}: {}", wrong.join("; ")));
        if let Some(notice) = &notice {
            tracing::error!(device = name, "device {name} is {notice}");
        }
        device.note(|gpio| {
            gpio.count = Some(total);
            gpio.notice = notice;
        });
        Meter {
            counter: Counter::new(interval, total, device.now_ms()),
            runtime: keep.runtime(name),
            state: keep.state(name),
            replace: keep.replace,
            saving: None,
            complained: false,
        }
    }

    /// Keeps the total on the tmpfs, and begins to keep it on flash if it is time.
    fn keep(&mut self, device: &str, now_ms: u64) {
        if self.counter.is_news() {
            match (self.replace)(&self.runtime, &line(self.counter.total())) {
                Ok(()) => self.complained = false,
                Err(error) if !self.complained => {
                    self.complained = true;
                    let path = self.runtime.display();
                    tracing::error!(device, "the count of {device} would not survive a kill: {path}: {error}");
                }
                Err(_) => {}
            }
        }
        if self.saving.as_ref().is_none_or(JoinHandle::is_finished) {
            self.begin_to_save(now_ms, false);
        }
    }

    fn begin_to_save(&mut self, now_ms: u64, stopping: bool) {
        let Some(total) = self.counter.flash(now_ms, stopping) else { return };
        let (path, replace) = (self.state.clone(), self.replace);
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = replace(&path, &line(total)) {
                tracing::error!("a count would not survive a power cut: {}: {error}", path.display());
            }
        }));
    }

    /// Keeps the total on flash and waits for it.
    async fn save(&mut self, now_ms: u64, stopping: bool) {
        for first in [true, false] {
            if let Some(saving) = self.saving.take() {
                let _ = saving.await;
            }
            if first {
                self.begin_to_save(now_ms, stopping);
            }
        }
    }
}
