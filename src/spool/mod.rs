//! The spool: an append-only log of segments for each stream, and the only truth about what has been delivered.
//!
//! Constraints: plain synchronous code behind the [`fs::FileSystem`] trait, run on a thread of its own ([`thread`]), so its
//! tests need no runtime and can cut the power anywhere. Opening never fails for what is on disk. Memory does not grow with
//! the backlog.
//!
//! # On disk
//!
//! ```text
//! STATE_DIR/spool/lock                          held by the process that has the spool open (flock)
//! STATE_DIR/spool/STREAM/checkpoint             how far the stream is done with, and its ledger; replaced as a whole
//! STATE_DIR/spool/STREAM/00000000000000000042.seg   a segment, named after its first sequence number
//! STATE_DIR/spool/STREAM/quarantine/            copies of damaged parts, and files that are no segments of ours
//!
//! segment    = common base_wall_ms u64  base_mono_ms u64  crc u32  (the same once more: a second copy)  entry*
//! common     = "pillseg\n"  version u16  0 u16  first u64  done u64  created_ms u64  boot_id [16]  crc u32
//! entry      = length u24  mark u8  crc u32  body[length]
//! body       = flags u8  seq N  wall N  mono N  topic B  data (the rest)
//!
//!              version 1, which is still read, differs in this:
//! segment    = common entry*
//! body       = seq N  topic B  wall_ms N  mono_ms N  quality N  encoding N  data B
//!
//! checkpoint = "pillchk\n"  version u16  crc u32  body
//! body       = done N  next N  clean [1]
//!              delivered N  evicted N  expired N  quarantined N  refused N  holes N  (first N  last N)*
//!
//! RUNTIME_DIR/spool/…                           the same for the runtime tier, see `runtime`
//! ```
//!
//! Numbers of fixed length (u8, u16, u24, u32, u64) are little endian. Segments are of version 2, checkpoints of version 1.
//! Nothing is padded: `common` takes 56 bytes, a copy of the header of version 2 takes 76, and entries begin at byte 152; in
//! version 1 at byte 56. Bodies are in postcard's wire format, which comes to this:
//!
//! - `N` is a number of up to 64 bits in LEB128: seven bits in each byte, the lowest first; the top bit says that another byte
//!   follows. `B` is a length in bytes (`N`) and as many bytes; a topic is UTF-8. `clean` is a byte, 0 or 1.
//! - `quality` of the wall clock: 0 trusted, 1 not set yet. `encoding` of the data: 0 JSON, 1 text (UTF-8), 2 to be shown as
//!   base64, 3 to be sent as it is; the data itself is always the bytes as they came.
//! - `flags`: `encoding` in bits 0 and 1, `quality` in bit 2, the form of the topic in bits 3 and 4, and 0 in the others; what
//!   has another bit set is no entry. Form 0: the topic stands there as it is; form 1: NAME of `device/NAME/data`; form 2: T of
//!   `app/T`. There is no form 3.
//! - `wall` and `mono` count from the base in the header, the times of the first record. A `z` in LEB128 means `z / 2` if it is
//!   even and `-(z + 1) / 2` if it is odd. With `d` what `wall` means, `wall_ms = base_wall_ms + d`; with `e` what `mono` means,
//!   `mono_ms = base_mono_ms + d + e`; all of it modulo 2^64. So with clocks that run alike `mono` is 0, or close to it.
//! - `holes` is how many pairs of numbers follow.
//!
//! `mark` tells the version of an entry where the header can't: 2 in version 2, and 0 in version 1.
//!
//! CRCs are CRC-32C (polynomial 0x1EDC6F41, bits reflected, start and final XOR 0xFFFFFFFF; of "123456789" it is 0xE3069283). That
//! of `common` covers the 52 bytes before it, and says of any version that the version is whole. That of a copy of the header
//! covers the 72 bytes before it, an entry's its length, its mark and its body, a checkpoint's its body.
//!
//! One whole copy of the header is enough. If both are damaged, entries are read all the same, with their numbers and their
//! data. Only their times are not known: they are shown as `wall_ms` 0, `mono_ms` 0, and a clock that is not set yet, and no
//! time is corrected from that.
//!
//! The entries of a segment have consecutive numbers, the first one that of the file's name. A process never appends to a
//! segment of an earlier one. In the header, `done`: every record up to this number was done with when the segment was made;
//! `created_ms`: wall clock of the first record in milliseconds since 1970, 0 if it was not to be trusted; `boot_id`: the
//! kernel's, or zeros. In a record, `wall_ms` is since 1970 and `mono_ms` since boot, both in milliseconds.
//!
//! In the checkpoint, every number up to `done` is done with, no record has number `next` yet or a higher one, and no number in
//! a hole (`first` to `last`) waits for anything; the others from `done` to `next` wait, as far as segments have them. `clean`: the
//! spool was closed, and all that wait are in segments. Then the ledger: records that the broker acknowledged, were dropped
//! because the stream was full or for their age, are damaged or too large, and were never taken in.
//!
//! # Two tiers
//!
//! New records are in memory, and at once in the *runtime tier*: files on a tmpfs, which a kill of the process leaves and a
//! power cut takes. Those that the broker has not acknowledged within `spool.sync` are committed to *flash*, in `state_dir`, as a
//! group with one fdatasync; then the runtime tier lets go of them. While the broker is faster, flash is not written: numbers
//! are reserved there by the million, and acknowledgements are noted in the runtime tier.
//!
//! Flash is written in order, and a record is removed from the runtime tier only when an fdatasync has covered it or it is
//! done with. So when a process dies, at any instant, the records of one stream that wait are: those on flash, then those in the
//! runtime tier with higher numbers than the last whole one on flash. The next process of the same boot puts them together that
//! way. If the runtime tier can't be written, the spool goes on without it and says so; with `sync = "always"` there is none. If it
//! can't be read at the start, what it holds is taken over when it can, under new numbers (`take_over`); if flash can't be, the
//! runtime tier's checkpoint says no more than before, but for numbers that are reserved (`runtime`).
//!
//! # What a power cut or a kill leaves
//!
//! - A torn tail: bytes behind the last whole entry of the newest segment. They are cut off. (After a clean stop no tail is
//!   torn: then it is damage.)
//! - A checkpoint that is behind: records are delivered again, under the same ids.
//! - After a power cut records that flash did not have are gone (with `sync = DURATION` accepted ones among them, but for those
//!   that were delivered); after a kill those that neither tier had, which were not accepted yet. Their numbers are not given
//!   again: the checkpoint reserves a range ahead (a *lease*), and the next run starts behind it. Without a checkpoint, and where
//!   none can be written, the next number is taken from the clock.
//!
//! Anything else is damage: copied to `quarantine/`, counted, announced on `P/event`, and reading goes on behind it. An
//! announcement is itself a record, and no more durable than any other.

mod announce;
mod backfill;
mod checkpoint;
pub mod closed;
mod commit;
#[doc(hidden)]
pub mod fuzz;
mod gaps;
pub mod inspect;
mod ledger;
mod left;
mod log;
mod newest;
mod notice;
mod open;
mod order;
mod read;
mod reader;
mod runtime;
pub mod salvage;
mod segment;
mod take_over;
#[cfg(test)]
mod tests;
pub mod thread;
mod unconfigured;
mod upkeep;

use crate::config::{Stream, Sync};
pub use crate::disk as fs;
#[cfg(test)]
pub(crate) use crate::disk::sim;
use crate::record::{Accepted, Durability, Record, Refusal, Sequenced, StreamId, Timestamp};
use crate::stats::StreamStatus;
use backfill::Backfill;
use fs::FileSystem;
pub use left::left_behind;
use log::{Log, Rules};
pub use newest::Newest;
use notice::Finding;
pub use notice::{Gap, Reason};
pub use order::Urgency;
use order::turns;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the spool needs to know of the configuration and the machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder: `STATE_DIR/spool`.
    pub dir: PathBuf,
    /// The folder of the runtime tier, on a tmpfs: `RUNTIME_DIR/spool`. `None`: there is none, so a kill costs what is in
    /// memory alone.
    pub runtime_dir: Option<PathBuf>,
    /// Every stream; the index is the `StreamId`.
    pub streams: Vec<Stream>,
    /// When records reach flash.
    pub sync: Sync,
    /// Size of a segment in bytes.
    pub segment_bytes: u64,
    /// The kernel's boot id, or zeros.
    pub boot_id: [u8; 16],
    /// Records per second that are handed out of what was there before the latest rewind; 0: no limit.
    pub backfill_rate: u32,
}

/// All streams.
pub struct Spool {
    fs: Arc<dyn FileSystem>,
    /// As it was opened. Streams and pace may have changed since.
    options: Options,
    logs: Vec<Log>,
    /// Stream ids by priority, and the place in each priority's turn.
    turns: Vec<StreamId>,
    backfill: Backfill,
    /// Streams that are not read, a bit for each id.
    held: u64,
    /// No gaps are announced before this time, so that they can grow together.
    quiet_until_ms: u64,
}

/// What a publisher gets at a time.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Their stream.
    pub stream: StreamId,
    /// In order, not empty.
    pub records: Vec<Sequenced>,
    /// How they stand to what else waits to be sent.
    pub urgency: Urgency,
    /// The rewind that they come after.
    pub epoch: u64,
}

/// Eviction drops whole segments, and not the one that is written to.
fn segment_bytes(configured: u64, stream: &Stream) -> u64 {
    configured.min(stream.max_bytes / 2)
}

impl Spool {
    /// Opens every stream. What was found that should not be is logged, and told on the event stream.
    pub fn open(fs: &Arc<dyn FileSystem>, options: &Options, now: Timestamp) -> Spool {
        if options.runtime_dir.is_some() && options.boot_id == [0; 16] {
            tracing::warn!(
                "the kernel's boot id can't be read, so a kill costs what is not on flash; is /proc mounted?"
            );
        }
        let mut spool = Spool {
            fs: Arc::clone(fs),
            options: options.clone(),
            logs: Vec::new(),
            turns: Vec::new(),
            backfill: Backfill::new(options.backfill_rate, now.mono_ms),
            held: 0,
            quiet_until_ms: 0,
        };
        spool.configure(&options.streams, options.backfill_rate, now);
        spool
    }

    /// Goes on with these streams: those that there are, in the same order and by these rules, then new ones, which are opened. What
    /// is too much by the rules goes at once, but for streams that reject: these take nothing more until it is delivered.
    pub fn configure(&mut self, streams: &[Stream], backfill_rate: u32, now: Timestamp) {
        for (log, stream) in self.logs.iter_mut().zip(streams) {
            debug_assert_eq!(log.rules.stream.name, stream.name);
            log.rules.segment_bytes = segment_bytes(self.options.segment_bytes, stream);
            log.rules.stream = stream.clone();
            log.enforce_quota(now);
        }
        let mut events = Vec::new();
        for (stream, id) in streams.iter().zip(0..).skip(self.logs.len()) {
            events.extend(self.open_stream(StreamId(id), stream, now));
        }
        self.turns = turns(streams);
        self.backfill.set_rate(backfill_rate, now.mono_ms);
        for event in events {
            self.tell(&event, now);
        }
        self.announce(now);
    }

    /// Returns what is to be told of what was found.
    fn open_stream(&mut self, id: StreamId, stream: &Stream, now: Timestamp) -> Vec<serde_json::Value> {
        let options = &self.options;
        let window_ms = match options.sync {
            Sync::Always => None,
            Sync::After(window) => Some(u64::try_from(window.as_millis()).unwrap_or(u64::MAX)),
        };
        // Nobody could tell a runtime tier of this boot from a stale one.
        let runtime_dir = options.runtime_dir.as_ref().filter(|_| options.boot_id != [0; 16]);
        let rules = Rules {
            id,
            segment_bytes: segment_bytes(options.segment_bytes, stream),
            window_ms,
            boot_id: options.boot_id,
            runtime_dir: runtime_dir.map(|dir| dir.join(&stream.name)),
            stream: stream.clone(),
        };
        let (log, findings) = Log::open(Arc::clone(&self.fs), options.dir.join(&stream.name), rules, now);
        self.logs.push(log);
        let mut events = Vec::new();
        for finding in findings {
            let text = finding.text();
            tracing::warn!(stream = %stream.name, finding = finding.kind(), "stream {}: {text}", stream.name);
            events.push(json!({ "type": finding.kind(), "stream": stream.name, "detail": text }));
        }
        events
    }

    /// Takes records in: all of them or none.
    pub fn append(&mut self, stream: StreamId, records: Vec<Record>, now: Timestamp) -> Result<Accepted, Refusal> {
        let accepted = self.log(stream).map_or(Err(Refusal::Stopping), |log| log.append(records, now));
        self.announce(now);
        accepted
    }

    /// Makes what was appended to this stream survive what `durability` says, and with `sync = "always"` a power cut. After an
    /// error the records are still kept in memory, and written when the disk takes them: whoever sends them again doubles them.
    pub fn harden(&mut self, stream: StreamId, durability: Durability, now: Timestamp) -> Result<(), Refusal> {
        let Some(log) = self.log(stream) else { return Ok(()) };
        let done = match durability.max(log.rules.durability()) {
            Durability::Window => {
                // What it can't take stays in memory.
                log.stage(now);
                Ok(())
            }
            Durability::Process if log.stage(now) => Ok(()),
            Durability::Process => log.write(now),
            Durability::Power => log.commit(now),
        };
        self.announce(now);
        done.map_err(|error| Refusal::NotDurable(error.to_string()))
    }

    /// The broker has acknowledged everything up to this number.
    pub fn acknowledge(&mut self, stream: StreamId, last: u64, now: Timestamp) {
        if let Some(log) = self.log(stream) {
            log.acknowledge(last, now);
        }
    }

    /// The broker can't take this record.
    pub fn discard(&mut self, stream: StreamId, seq: u64, reason: Reason, detail: String, now: Timestamp) {
        if let Some(log) = self.log(stream) {
            log.discard(seq, reason, detail, now);
        }
        self.announce(now);
    }

    /// All streams are read again from their oldest waiting record on. What is there by now is their backlog.
    pub fn rewind(&mut self) {
        self.logs.iter_mut().for_each(Log::rewind);
        self.backfill.rewind(self.logs.iter().map(|log| log.ledger.next()));
    }

    /// This stream is read again from its oldest waiting record on.
    pub fn read_again(&mut self, stream: StreamId) {
        if let Some(log) = self.log(stream) {
            log.rewind();
        }
    }

    /// These streams, a bit for each id, are not read; all others are. What a stream has when it is read again is its backlog.
    pub fn hold(&mut self, streams: u64) {
        let before = std::mem::replace(&mut self.held, streams);
        let all = self.logs.iter().zip((0..).map(StreamId));
        for (log, stream) in all.filter(|(_, stream)| before & !streams & stream.bit() != 0) {
            self.backfill.release(stream, log.ledger.next());
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Timestamp) {
        self.logs.iter_mut().for_each(|log| log.tick(now));
        self.backfill.tick(now.mono_ms);
        self.announce(now);
        for log in &mut self.logs {
            // Its error is shown in the status.
            log.stage(now);
        }
    }

    /// When `tick` has to be called next, in milliseconds of the monotonic clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        let gaps = self.logs.iter().filter_map(|log| log.gaps.due_ms()).min().filter(|_| self.can_announce());
        let announcement = gaps.map(|due| due.max(self.quiet_until_ms));
        let backfill = self.backfill.deadline_ms();
        self.logs.iter().filter_map(Log::deadline_ms).chain(announcement).chain(backfill).min()
    }

    /// Whether anything waits to be read.
    pub fn has_more(&self) -> bool {
        self.logs.iter().any(Log::has_more)
    }

    /// Counts records that were refused before they came here.
    pub fn refuse(&mut self, stream: StreamId, count: u64) {
        if let Some(log) = self.log(stream) {
            log.refuse(count);
        }
    }

    /// Every stream's ledger, in the order of the configuration.
    pub fn status(&self, now: Timestamp) -> Vec<StreamStatus> {
        self.logs.iter().map(|log| log.status(now)).collect()
    }

    /// The number of the latest record of this stream.
    pub fn last(&self, stream: StreamId) -> u64 {
        self.logs.get(stream.index()).map_or(0, |log| log.ledger.next().saturating_sub(1))
    }

    /// Whether a power cut can't cost a record of this stream up to this number: flash has them, or they are done with.
    pub fn is_safe(&self, stream: StreamId, last: u64) -> bool {
        self.logs.get(stream.index()).is_none_or(|log| log.first_pending().is_none_or(|first| first > last))
    }

    /// Commits everything. What a failing disk did not take is lost with the process, and logged. Returns whether it took all.
    pub fn close(&mut self, now: Timestamp) -> bool {
        for log in &mut self.logs {
            // An error comes again when the log is closed.
            let _ = log.flush(now);
        }
        if self.can_announce() {
            let gaps = self.logs.iter_mut().flat_map(|log| log.gaps.take_all()).collect();
            self.announce_all(gaps, now);
        }
        let mut is_whole = true;
        for log in &mut self.logs {
            if let Err(error) = log.close(now) {
                is_whole = false;
                let waiting = log.status(now).waiting;
                let name = &log.rules.stream.name;
                tracing::error!(stream = %name, "stream {name} can't be closed: {error}; {waiting} records wait");
            }
        }
        is_whole
    }

    fn log(&mut self, stream: StreamId) -> Option<&mut Log> {
        self.logs.get_mut(stream.index())
    }
}

/// `STATE_DIR/spool` or `RUNTIME_DIR/spool`.
pub fn folder(dir: &Path) -> PathBuf {
    dir.join("spool")
}
