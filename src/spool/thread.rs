//! The spool's thread, and the handle that the flows hold.
//!
//! One thread owns the spool. It sleeps until a request comes or something is due, answers all requests that have come in
//! with one commit (group commit), and pushes waiting records to the publisher as far as the publisher's credit goes, so
//! that a live record needs no question first. Before it sleeps, the runtime tier has all that came in.
//!
//! A live record may be with the broker before a disk has it; who waits for the answer to its submission has none by then. A
//! submission with a [`Note`](crate::record::Note) is another thing: its records and then its note are written before anything of
//! it is pushed. So after a kill either its records wait, or the note tells of them, or nobody has ever got them.
//!
//! Credit is counted in bytes: the publisher starts with [`CREDIT`], each pushed record uses up its cost in memory, and
//! the publisher grants it back when it has let go of the record.

use super::fs::{Disk, FileSystem};
use super::{Batch, Newest, Options, Reason, Spool, unconfigured};
use crate::config::Stream;
use crate::pulse::Pulse;
use crate::record::{Accepted, Clock, Durability, Record, Refusal, StreamId, Submission};
use crate::stats::StreamStatus;
use flume::RecvTimeoutError;
use notes::Notes;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Bytes of records that the publisher holds at the most, but for one record more.
pub const CREDIT: usize = 256 * 1024;
/// Bytes of records in one push.
const BATCH: usize = 32 * 1024;
/// Requests that wait for the thread before senders wait themselves.
const REQUESTS: usize = 64;
/// A process that is killed while it starts a child may leave that with our locks, until it has become the child's program: on a
/// busy machine that takes some hundred milliseconds. Another pillion does not go away meanwhile.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How often the lock is tried until then.
const LOCK_EVERY: Duration = Duration::from_millis(20);
/// Pushes under way at the most.
const BATCHES: usize = CREDIT / super::log::LEAST_COST + 2;

/// What the flows ask of the thread.
enum Request {
    Append(Submission),
    Refuse { stream: StreamId, count: u64 },
    Acknowledge(Vec<(StreamId, u64)>),
    Discard { stream: StreamId, seq: u64, reason: Reason, detail: String },
    Grant(usize),
    Rewind { epoch: u64 },
    ReadAgain { stream: StreamId, epoch: u64 },
    Hold(u64),
    Newest { stream: StreamId, topic: &'static str, reply: oneshot::Sender<Newest> },
    Report(oneshot::Sender<Vec<StreamStatus>>),
    Configure { streams: Vec<Stream>, backfill_rate: u32 },
    Beat,
    Close(oneshot::Sender<bool>),
}

/// The spool as the flows see it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: flume::Sender<Request>,
}

/// The thread is gone: it only ends when the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the spool is closed")]
pub struct Closed;

/// Why the spool can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process has it.
    #[error(
        "{0} is in use by another process; stop that one first, or give this instance folders of its own (state_dir, runtime_dir)"
    )]
    InUse(PathBuf),
    /// No thread could be made.
    #[error("the spool's thread can't be started: {0}")]
    Thread(io::Error),
}

/// Opens the spool on the real disk and starts its thread. Batches for the publisher come out of the receiver.
pub fn start(options: Options, clock: Clock, pulse: Pulse) -> Result<(Handle, mpsc::Receiver<Batch>), StartError> {
    start_on(Arc::new(Disk), options, clock, pulse)
}

/// [`start`] on another file system, but for the lock.
fn start_on(
    fs: Arc<dyn FileSystem>,
    options: Options,
    clock: Clock,
    pulse: Pulse,
) -> Result<(Handle, mpsc::Receiver<Batch>), StartError> {
    let locks = lock(&options)?;
    let (requests, inbox) = flume::bounded(REQUESTS);
    let (push, batches) = mpsc::channel(BATCHES);
    let mut spool = Spool::open(&fs, &options, clock());
    for event in unconfigured::look(&options) {
        spool.tell(&event, clock());
    }
    let epochs = vec![0; options.streams.len()];
    let server = Server {
        spool,
        notes: Notes::new(fs),
        clock,
        pulse,
        inbox,
        push,
        lent: 0,
        epochs,
        waiting: Vec::new(),
        reports: Vec::new(),
        _locks: locks,
    };
    std::thread::Builder::new()
        .name("spool".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || server.run())
        .map_err(StartError::Thread)?;
    Ok((Handle { requests }, batches))
}

/// Takes the folders for this process.
fn lock(options: &Options) -> Result<Vec<File>, StartError> {
    let dirs = std::iter::once(&options.dir).chain(&options.runtime_dir);
    let locks: Result<Vec<Option<File>>, StartError> = dirs.map(|dir| lock_one(dir)).collect();
    Ok(locks?.into_iter().flatten().collect())
}

/// A folder that can't be written is no reason not to start.
fn lock_one(dir: &Path) -> Result<Option<File>, StartError> {
    let path = dir.join("lock");
    let open = || {
        Disk.create_dir_all(dir)?;
        File::options().write(true).create(true).truncate(false).open(&path)
    };
    match open() {
        Ok(file) => {
            let deadline = Instant::now() + LOCK_WAIT;
            loop {
                match file.try_lock() {
                    Ok(()) => return Ok(Some(file)),
                    Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_EVERY),
                    Err(TryLockError::WouldBlock) => return Err(StartError::InUse(dir.to_owned())),
                    Err(TryLockError::Error(_)) => return Ok(None),
                }
            }
        }
        Err(error) => {
            let dir = dir.display();
            tracing::error!(%dir,
                "the spool's folder {dir} can't be used: {error}; give this user a folder to write to (state_dir, runtime_dir)");
            Ok(None)
        }
    }
}

impl Handle {
    async fn send(&self, request: Request) -> Result<(), Closed> {
        self.requests.send_async(request).await.map_err(|_| Closed)
    }

    /// Takes records in; the submission's own reply channel gets the answer.
    pub async fn append(&self, submission: Submission) -> Result<(), Closed> {
        self.send(Request::Append(submission)).await
    }

    /// Counts records that were refused before they came here.
    pub async fn refuse(&self, stream: StreamId, count: u64) -> Result<(), Closed> {
        self.send(Request::Refuse { stream, count }).await
    }

    /// The broker has acknowledged everything up to these numbers.
    pub async fn acknowledge(&self, upto: Vec<(StreamId, u64)>) -> Result<(), Closed> {
        self.send(Request::Acknowledge(upto)).await
    }

    /// The broker can't take this record.
    pub async fn discard(&self, stream: StreamId, seq: u64, reason: Reason, detail: String) -> Result<(), Closed> {
        self.send(Request::Discard { stream, seq, reason, detail }).await
    }

    /// The publisher has let go of records that cost this many bytes.
    pub async fn grant(&self, bytes: usize) -> Result<(), Closed> {
        self.send(Request::Grant(bytes)).await
    }

    /// Everything that is not acknowledged comes again, in batches of this epoch; the credit is whole again.
    pub async fn rewind(&self, epoch: u64) -> Result<(), Closed> {
        self.send(Request::Rewind { epoch }).await
    }

    /// What is not acknowledged of this stream comes again, in batches of this epoch. What was pushed of it before is granted by
    /// the publisher as all else.
    pub async fn read_again(&self, stream: StreamId, epoch: u64) -> Result<(), Closed> {
        self.send(Request::ReadAgain { stream, epoch }).await
    }

    /// Records of these streams, a bit for each id, are not pushed until another call says so.
    pub async fn hold(&self, streams: u64) -> Result<(), Closed> {
        self.send(Request::Hold(streams)).await
    }

    /// Asks for the newest record on this topic that waits in this stream. What is acknowledged after this call still counts as
    /// waiting.
    pub async fn newest(&self, stream: StreamId, topic: &'static str) -> oneshot::Receiver<Newest> {
        let (reply, answer) = oneshot::channel();
        // A closed spool drops the reply, and the receiver tells.
        let _ = self.send(Request::Newest { stream, topic, reply }).await;
        answer
    }

    /// Every stream's ledger, in the order of the configuration.
    pub async fn report(&self) -> Result<Vec<StreamStatus>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Report(reply)).await?;
        answer.await.map_err(|_| Closed)
    }

    /// From now on there are these streams, see [`Spool::configure`], with [`Options::backfill_rate`]. What is too much by their
    /// rules is dropped, and announced.
    pub async fn configure(&self, streams: Vec<Stream>, backfill_rate: u32) -> Result<(), Closed> {
        self.send(Request::Configure { streams, backfill_rate }).await
    }

    /// Asks the thread to answer its pulse. A queue that is full needs no asking: the thread answers between requests.
    pub fn beat(&self) {
        let _ = self.requests.try_send(Request::Beat);
    }

    /// Commits everything and ends the thread. Returns whether the disk took it all.
    pub async fn close(&self) -> Result<bool, Closed> {
        let (reply, done) = oneshot::channel();
        self.send(Request::Close(reply)).await?;
        done.await.map_err(|_| Closed)
    }
}

/// The cost of a record against the credit, in bytes.
pub fn cost(record: &Record) -> usize {
    super::log::cost(record)
}

type Reply = oneshot::Sender<Result<Accepted, Refusal>>;

/// A submission that is in, and whose submitter waits until it is durable.
struct Waiting {
    stream: StreamId,
    durability: Durability,
    accepted: Accepted,
    reply: Reply,
}

struct Server {
    spool: Spool,
    notes: Notes,
    clock: Clock,
    pulse: Pulse,
    inbox: flume::Receiver<Request>,
    push: mpsc::Sender<Batch>,
    /// What the publisher holds, in bytes.
    lent: usize,
    /// Of the batches that are pushed, by stream.
    epochs: Vec<u64>,
    waiting: Vec<Waiting>,
    reports: Vec<oneshot::Sender<Vec<StreamStatus>>>,
    _locks: Vec<File>,
}

impl Server {
    fn run(mut self) {
        // What the last run left.
        self.push();
        loop {
            let received = match self.spool.deadline_ms() {
                Some(due) => {
                    let wait = due.saturating_sub((self.clock)().mono_ms);
                    self.inbox.recv_timeout(Duration::from_millis(wait))
                }
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match received {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.spool.close((self.clock)());
                    return;
                }
            };
            let mut handled = 0;
            while let Some(request) = next {
                if let Some(done) = self.handle(request) {
                    self.harden();
                    self.report();
                    let is_whole = self.spool.close((self.clock)());
                    let inbox = self.inbox.clone();
                    // Whoever waits for the end may open the spool again: the lock goes first.
                    drop(self);
                    let _ = done.send(is_whole);
                    return turn_away(&inbox);
                }
                handled += 1;
                next = if handled < REQUESTS { self.inbox.try_recv().ok() } else { None };
            }
            self.push();
            self.harden();
            self.spool.tick((self.clock)());
            self.notes.tell(&self.spool);
            self.report();
            self.pulse.answer_now();
        }
    }

    /// Performs a request. Returns the closer's reply channel if it was the last one.
    fn handle(&mut self, request: Request) -> Option<oneshot::Sender<bool>> {
        let now = (self.clock)();
        match request {
            Request::Append(submission) => self.append(submission),
            Request::Refuse { stream, count } => self.spool.refuse(stream, count),
            Request::Acknowledge(upto) => {
                upto.into_iter().for_each(|(stream, last)| self.spool.acknowledge(stream, last, now));
            }
            Request::Discard { stream, seq, reason, detail } => self.spool.discard(stream, seq, reason, detail, now),
            Request::Grant(bytes) => self.lent = self.lent.saturating_sub(bytes),
            Request::Rewind { epoch } => {
                self.spool.rewind();
                self.epochs.fill(epoch);
                self.lent = 0;
            }
            Request::ReadAgain { stream, epoch } => {
                self.spool.read_again(stream);
                if let Some(of) = self.epochs.get_mut(stream.index()) {
                    *of = epoch;
                }
            }
            Request::Hold(streams) => self.spool.hold(streams),
            Request::Newest { stream, topic, reply } => {
                let (tell, safe) = oneshot::channel();
                self.notes.wait(&self.spool, stream, tell);
                let _ = reply.send(Newest { record: self.spool.newest(stream, topic), safe });
            }
            Request::Report(reply) => self.reports.push(reply),
            Request::Configure { streams, backfill_rate } => {
                self.spool.configure(&streams, backfill_rate, now);
                // Whoever knows the new ones begins with a rewind.
                self.epochs.resize(streams.len(), 0);
            }
            Request::Beat => {}
            Request::Close(done) => return Some(done),
        }
        None
    }

    fn append(&mut self, submission: Submission) {
        let Submission { stream, records, durability, note, reply } = submission;
        let answer = match (self.spool.append(stream, records, (self.clock)()), note) {
            (Ok(accepted), Some(note)) => {
                let hardened = self.spool.harden(stream, durability, (self.clock)());
                hardened.map(|()| {
                    self.notes.write(note, stream, accepted.last);
                    accepted
                })
            }
            (Ok(accepted), None) => {
                self.waiting.extend(reply.map(|reply| Waiting { stream, durability, accepted, reply }));
                return;
            }
            (Err(refusal), _) => Err(refusal),
        };
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }

    /// Tells the ledgers: what they call accepted survives a kill by now.
    fn report(&mut self) {
        for reply in std::mem::take(&mut self.reports) {
            let _ = reply.send(self.spool.status((self.clock)()));
        }
    }

    /// One commit for all submissions that wait.
    fn harden(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let Waiting { stream, durability, accepted, reply } = waiting;
            // For the second one of a group nothing is left to do: this is where a commit is shared.
            let done = self.spool.harden(stream, durability, (self.clock)());
            let _ = reply.send(done.map(|()| accepted));
        }
    }

    /// Hands waiting records to the publisher while it has credit.
    fn push(&mut self) {
        while self.lent < CREDIT {
            let Ok(place) = self.push.try_reserve() else { return };
            let limit = BATCH.min(CREDIT - self.lent);
            let Some((stream, records, urgency)) = self.spool.read(limit, (self.clock)()) else { return };
            let cost: usize = records.iter().map(|sequenced| cost(&sequenced.record)).sum();
            self.lent = self.lent.saturating_add(cost);
            let epoch = self.epochs.get(stream.index()).copied().unwrap_or_default();
            place.send(Batch { stream, records, urgency, epoch });
        }
    }
}

/// Answers those who come too late, until the last handle is gone. What stayed in the queue would keep its sender waiting.
fn turn_away(inbox: &flume::Receiver<Request>) {
    for request in inbox {
        if let Request::Append(Submission { reply: Some(reply), .. }) = request {
            let _ = reply.send(Err(Refusal::Stopping));
        }
    }
}

mod notes;
#[cfg(test)]
mod tests;
