//! The dispatch flow: from a command, wherever it came from, to the device's task, and back come the replies.
//!
//! Constraints: a command is noted in the journal, on the medium, before its device hears of it, so that none is
//! carried out twice, whatever dies and when. What is decided is decided by [`contract`], with nothing but what
//! [`memory`] holds; this file does what comes of it. Commands reach each device in the order in which they came. The
//! flow waits for the disk, in turns of `BATCH` commands with one fdatasync each, and for nothing else.
//!
//! States of a command:
//!
//! ```text
//! Received ── noted ──> Written ── the device has answered ──> Replied
//!     │                    └────── nobody knows ─────────────> Failed
//!     └── too late ──> Expired; against the rules ──> Refused
//! ```
//!
//! Every state is a reply: a record on `device/NAME/reply` in the stream of events, which drains first; a local client
//! gets them as well. What is not carried out is answered too, but not more often than twenty times a second.
//!
//! [`journal`] is the file, `carry` one command on its way through its device.

mod carry;
pub mod contract;
pub mod journal;
pub mod memory;

use crate::command::{Order, Origin, PROGRESS, Reply, Request, Stage};
use crate::disk::FileSystem;
use crate::pulse::Pulse;
use crate::record::{Clock, Submission};
use crate::roster::{Member, Roster};
use crate::stats::CommandCounts;
use carry::{Carried, Voice, event, reply_record};
use contract::{Arrival, Begin, Contract, Devices, Verdict};
use journal::{Entry, Found, Journal, What};
use memory::{Memory, ending_of, noted_ms};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};

/// Commands that wait for this flow before whoever brings them waits.
pub const WAITING: usize = 32;
/// Commands that are noted together.
const BATCH: usize = 16;
/// Commands under way: what all devices' queues hold, or more.
const UNDER_WAY: usize = 2048;
/// The memory is looked through for what can be forgotten after so many commands.
const FORGET_EVERY: u32 = 64;

/// What the flow is connected to.
pub struct Wiring {
    /// From the broker and from local clients.
    pub requests: mpsc::Receiver<Request>,
    /// The devices that there are.
    pub roster: watch::Receiver<Roster>,
    /// Where replies go.
    pub submissions: mpsc::Sender<Submission>,
    /// Where the flow shows its counters.
    pub status: watch::Sender<CommandCounts>,
    /// Time stamps.
    pub clock: Clock,
    /// Proof of progress.
    pub pulse: Pulse,
    /// When set: take no more commands, and return when those under way have ended.
    pub stop: watch::Receiver<bool>,
}

/// Runs until `stop` is set and nothing is under way any more. The journal is in `dir`, and there only if a device
/// takes commands, or has done so.
pub async fn run(fs: Arc<dyn FileSystem>, dir: PathBuf, wiring: Wiring) {
    let contract = Contract::new(Devices::new(), Memory::default(), (wiring.clock)());
    let place = Some((fs, dir));
    let mut flow = Dispatch {
        contract,
        orders: BTreeMap::new(),
        place,
        journal: None,
        under_way: JoinSet::new(),
        begun: 0,
        wiring,
    };
    flow.meet().await;
    flow.run().await;
}

struct Dispatch {
    contract: Contract,
    /// To the devices that take commands, by name.
    orders: BTreeMap<String, mpsc::Sender<Order>>,
    /// Where the journal is, until it is opened.
    place: Option<(Arc<dyn FileSystem>, PathBuf)>,
    /// `None` while it is being written to.
    journal: Option<Journal>,
    under_way: JoinSet<Carried>,
    begun: u32,
    wiring: Wiring,
}

/// What a request comes to, in the order of the requests.
enum Step {
    Answer { device: String, reply: Reply, origin: Origin },
    Begin { device: String, begin: Begin, origin: Origin, place: mpsc::OwnedPermit<Order> },
}

impl Dispatch {
    /// Takes the devices that there are now.
    async fn meet(&mut self) {
        let roster = Arc::clone(&self.wiring.roster.borrow_and_update());
        let takes = |member: &Member| Some((member.name.clone(), member.orders.clone()?));
        self.orders = roster.iter().filter_map(takes).collect();
        let devices = roster.iter().map(|member| (member.name.clone(), member.commands.clone())).collect();
        self.contract.meet(devices, (self.wiring.clock)());
        if self.contract.is_needed()
            && let Some((fs, dir)) = self.place.take()
        {
            self.open(fs, dir).await;
        }
    }

    /// Reads the journal, and says what became of what was under way when the last process ended.
    async fn open(&mut self, fs: Arc<dyn FileSystem>, dir: PathBuf) {
        let opening = spawn_blocking(move || Journal::open(fs, dir));
        let Some((journal, found)) = self.wait_for(opening).await else { return };
        self.journal = Some(journal);
        let Found { entries, damaged, torn, error } = found;
        if torn > 0 {
            tracing::info!("cut {torn} bytes of an unfinished entry off the journal of commands");
        }
        let trouble = error.or_else(|| (damaged > 0).then(|| format!("damaged in {damaged} places")));
        if let Some(trouble) = trouble {
            let detail = format!("{trouble}; a command that is sent again may be carried out again");
            tracing::warn!("the journal of commands: {detail}");
            self.submit(event("command-journal", &detail, (self.wiring.clock)())).await;
        }
        let is_empty = entries.is_empty() && damaged == 0 && torn == 0;
        let (memory, orphans) = Memory::restore(entries);
        self.contract.memory = memory;
        if !is_empty {
            let _ = self.write(Vec::new(), true).await;
        }
        for (device, id) in orphans {
            if let Some(reply) = self.contract.memory.recall(&device, &id) {
                self.publish(&device, &Reply { repeated: false, ..reply }).await;
            }
        }
    }

    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        // Without a broker and without a local API nobody sends anything.
        let (mut open, mut stopping) = (true, false);
        let mut may_change = true;
        while !stopping || !self.under_way.is_empty() {
            tokio::select! {
                count = self.wiring.requests.recv_many(&mut batch, BATCH), if open && self.under_way.len() < UNDER_WAY => {
                    open = count > 0;
                    self.take(&mut batch).await;
                }
                Some(Ok(carried)) = self.under_way.join_next() => self.ended(carried).await,
                changed = self.wiring.roster.changed(), if may_change => {
                    may_change = changed.is_ok();
                    self.meet().await;
                }
                () = self.wiring.pulse.answer() => {}
                // What waits in the channel is let go: a local client learns of it, and the broker sends it again.
                () = stopped(&mut self.wiring.stop), if !stopping => {
                    (open, stopping) = (false, true);
                    self.wiring.requests.close();
                    while self.wiring.requests.try_recv().is_ok() {}
                }
            }
        }
    }

    /// Judges, notes, and begins what came.
    async fn take(&mut self, batch: &mut Vec<Request>) {
        // What came behind a change is judged by the devices that there are since.
        if self.wiring.roster.has_changed().unwrap_or(false) {
            self.meet().await;
        }
        let now = (self.wiring.clock)();
        let steps: Vec<Step> = batch.drain(..).map(|request| self.step(request)).collect();
        let notes: Vec<Entry> = steps.iter().filter_map(|step| note(step, noted_ms(now))).collect();
        let noted = match notes.is_empty() {
            true => Ok(()),
            false => self.write(notes, true).await,
        };
        for step in steps {
            match step {
                Step::Answer { device, reply, origin } => {
                    self.answer(device, reply, origin, noted.as_ref().err()).await
                }
                Step::Begin { device, begin, origin, place } => match &noted {
                    Ok(()) => self.begin(device, begin, origin, place).await,
                    Err(error) => {
                        self.contract.memory.withdraw(&device, &begin.id);
                        let reply = Reply::because(&begin.id, Stage::Refused, not_noted(error));
                        self.answer(device, reply, origin, None).await;
                    }
                },
            }
        }
        if self.begun >= FORGET_EVERY {
            self.begun = 0;
            self.contract.memory.forget(now);
        }
    }

    fn step(&mut self, request: Request) -> Step {
        let Request { device, payload, origin } = request;
        let arrival = match &origin {
            Origin::Broker { retained, packet, redelivered, waited, .. } => {
                Arrival { retained: *retained, packet: *packet, redelivered: *redelivered, waited: *waited }
            }
            Origin::Local { .. } => Arrival::LOCAL,
        };
        let now = (self.wiring.clock)();
        match self.contract.judge(&device, &payload, arrival, now, fresh_id) {
            Verdict::Answer(reply) => Step::Answer { device, reply, origin },
            Verdict::Begin(begin) => {
                let place = self.orders.get(&device).cloned().map(mpsc::Sender::try_reserve_owned);
                let reason = match place {
                    Some(Ok(place)) => return Step::Begin { device, begin, origin, place },
                    Some(Err(mpsc::error::TrySendError::Full(_))) => {
                        "too many commands wait for it; send it again later"
                    }
                    Some(Err(mpsc::error::TrySendError::Closed(_))) | None => "it is being stopped; send it again",
                };
                self.contract.memory.withdraw(&device, &begin.id);
                Step::Answer { device, reply: Reply::because(&begin.id, Stage::Refused, reason), origin }
            }
        }
    }

    /// A command that is noted.
    async fn begin(&mut self, device: String, begin: Begin, origin: Origin, place: mpsc::OwnedPermit<Order>) {
        let Begin { id, data, expires_ms, .. } = begin;
        let local = settled(origin);
        self.begun += 1;
        self.count(|counts| counts.begun += 1);
        let received = Reply::interim(&id, Stage::Received);
        tell(local.as_ref(), &received);
        self.publish(&device, &received).await;
        let (progress, reports) = mpsc::channel(PROGRESS);
        place.send(Order { data, expires_ms, progress });
        let voice = Voice { submissions: self.wiring.submissions.clone(), clock: self.wiring.clock, local };
        self.under_way.spawn(carry::carry(device, id, reports, voice));
    }

    /// A command that is not carried out, or not again. `error`: what came with it could not be noted.
    async fn answer(&mut self, device: String, mut reply: Reply, origin: Origin, error: Option<&String>) {
        if let Some(error) = error
            && reply.stage == Stage::Received
            && self.contract.memory.recall(&device, &reply.id).is_none()
        {
            reply = Reply::because(&reply.id, Stage::Refused, not_noted(error));
        }
        self.count(|counts| match reply.stage {
            _ if reply.repeated => counts.repeated += 1,
            Stage::Expired => counts.expired += 1,
            _ => counts.refused += 1,
        });
        tracing::debug!(device, id = reply.id, stage = ?reply.stage, reason = reply.reason, "a command was not begun");
        let is_local = matches!(origin, Origin::Local { .. });
        let local = settled(origin);
        if is_local {
            return tell(local.as_ref(), &reply);
        }
        let is_name = |name: &str| {
            (1..=32).contains(&name.len())
                && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
        };
        if is_name(&device) && self.contract.may_answer((self.wiring.clock)()) {
            self.publish(&device, &reply).await;
        } else {
            self.count(|counts| counts.unanswered += 1);
        }
    }

    /// A command has come to its end.
    async fn ended(&mut self, carried: Carried) {
        let Carried { device, reply, local } = carried;
        let ending = ending_of(&reply);
        self.contract.memory.end(&device, &reply.id, ending.clone());
        // Before anybody hears of it: what was said once is what a repetition is told, also after a kill.
        let entry = Entry { device: device.clone(), id: reply.id.clone(), what: What::Ended(ending) };
        let _ = self.write(vec![entry], false).await;
        self.count(|counts| match reply.stage {
            Stage::Received | Stage::Written | Stage::Replied => counts.done += 1,
            Stage::Expired => counts.expired += 1,
            Stage::Refused => counts.refused += 1,
            Stage::Failed => counts.failed += 1,
        });
        tell(local.as_ref(), &reply);
        self.publish(&device, &reply).await;
    }

    /// Has the journal written, on a thread for that.
    async fn write(&mut self, entries: Vec<Entry>, sync: bool) -> Result<(), String> {
        let Some(mut journal) = self.journal.take() else {
            return Err("the journal of commands is not open".to_owned());
        };
        let all = journal.wants_rewrite().then(|| self.contract.memory.entries());
        let writing = spawn_blocking(move || {
            let written = match all {
                // The old file may still be good where there is no room for a second one.
                Some(all) => journal.rewrite(&all).or_else(|error| journal.append(&entries, sync).map_err(|_| error)),
                None => journal.append(&entries, sync),
            };
            (journal, written.map_err(|error| error.to_string()))
        });
        let (journal, written) = self.wait_for(writing).await.ok_or("pillion is stopping")?;
        self.journal = Some(journal);
        let error = written.as_ref().err().cloned();
        self.wiring.status.send_if_modified(|counts| {
            let changed = counts.journal_error != error;
            if let Some(error) = error.as_ref().filter(|_| changed) {
                tracing::error!("the journal of commands can't be written, so none is carried out: {error}");
            }
            counts.journal_error = error;
            changed
        });
        written
    }

    /// Waits for work on another thread, answering the pulse meanwhile. `None`: the runtime is going away.
    async fn wait_for<T>(&mut self, mut work: tokio::task::JoinHandle<T>) -> Option<T> {
        loop {
            tokio::select! {
                done = &mut work => return done.ok(),
                () = self.wiring.pulse.answer() => {}
            }
        }
    }

    async fn publish(&mut self, device: &str, reply: &Reply) {
        self.submit(reply_record(device, reply, (self.wiring.clock)())).await;
    }

    async fn submit(&mut self, submission: Submission) {
        let submissions = self.wiring.submissions.clone();
        let mut sending = std::pin::pin!(submissions.send(submission));
        loop {
            tokio::select! {
                // Nobody takes records any more: pillion is at its end.
                _ = &mut sending => return,
                () = self.wiring.pulse.answer() => {}
            }
        }
    }

    fn count(&self, change: impl FnOnce(&mut CommandCounts)) {
        self.wiring.status.send_if_modified(|counts| {
            change(counts);
            false
        });
    }
}

fn note(step: &Step, at_ms: u64) -> Option<Entry> {
    let Step::Begin { device, begin, .. } = step else { return None };
    let what = What::Noted { at_ms, packet: begin.packet, sum: begin.sum };
    Some(Entry { device: device.clone(), id: begin.id.clone(), what })
}

fn not_noted(error: &str) -> String {
    format!("it can't be noted, and so would be carried out again if it came again: {error}; nothing was done")
}

/// A name that no sender has thought of.
fn fresh_id() -> String {
    format!("auto-{:016x}", fastrand::u64(..))
}

/// Tells the broker that it need not send it again. Who else is to be told?
fn settled(origin: Origin) -> Option<mpsc::Sender<Reply>> {
    match origin {
        Origin::Broker { noted, .. } => {
            let _: Result<(), ()> = oneshot::Sender::send(noted, ());
            None
        }
        Origin::Local { replies } => Some(replies),
    }
}

/// A client that does not read, or has gone, misses it.
fn tell(local: Option<&mpsc::Sender<Reply>>, reply: &Reply) {
    if let Some(local) = local {
        let _ = local.try_send(reply.clone());
    }
}

/// Returns when the flow shall end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have stopped us.
    let _ = stop.wait_for(|stop| *stop).await;
}
