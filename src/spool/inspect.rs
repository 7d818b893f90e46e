//! Looks at a stream that no process has open: what is there, what waits, what is damaged.
//!
//! Constraints: it never writes; memory does not grow with the backlog (one damaged place at the most is held, and lists
//! are cut off); the numbers are accounted for as opening and reading do it (`open`, `read`), so that what is said here is
//! what a daemon would make of the same folder.
//!
//! What counts as damage: everything but what a kill or a power cut leaves (see the head of [`crate::spool`]), what stands in
//! segments that are done with and only wait for their removal, and files that have nothing to do with the spool.

mod report;

pub use report::{Finding, Item, Kind, Missing, Report};

use super::checkpoint::Checkpoint;
use super::fs::FileSystem;
use super::ledger::{Fate, Ledger};
use super::log::Segment;
use super::open::{load_checkpoint, segments_of, unknown_next};
use super::reader::{Next, Region, SegmentReader};
use super::segment::{HEADER_LEN, Header, HeaderError};
use crate::record::{Sequenced, Timestamp};
use std::io;
use std::path::Path;

/// Reads the stream in `dir` from front to back and shows everything to `visit`. Returns what there is, and the checkpoint of a
/// folder that has only what is whole: what is lost is counted in it. It says "closed" only if the last run closed the spool.
///
/// # Errors
/// Those of `visit` alone: what can't be read is a finding.
pub fn inspect<E>(
    fs: &dyn FileSystem,
    dir: &Path,
    now: Timestamp,
    visit: impl FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(Report, Checkpoint), E> {
    let report = Report::default();
    let mut inspection = Inspection {
        fs,
        dir,
        visit,
        report,
        ledger: Ledger::default(),
        clean: false,
        closed_at: 0,
        holes: Vec::new(),
        at: 1,
        last_seen: None,
    };
    let checkpoint = inspection.run(now)?;
    inspection.report.ledger = inspection.ledger.status();
    inspection.report.ledger.bytes = inspection.report.bytes;
    Ok((inspection.report, checkpoint))
}

/// A segment that can be read, and what a first look at it showed.
struct Usable {
    first: u64,
    bytes: u64,
    header: Result<Header, HeaderError>,
    header_is_whole: bool,
    has_entries: bool,
    /// Nobody knows when its records were made: that needs the header.
    is_timeless: bool,
    /// The first number of the next one.
    end: Option<u64>,
    /// Nothing but unfinished entries may stand behind its last whole one.
    may_be_torn: bool,
}

impl Usable {
    /// A file that was to become the newest segment: with neither record nor header it tells nothing of what was before it.
    fn says_nothing(&self) -> bool {
        self.may_be_torn && !self.has_entries && self.header.is_err()
    }
}

struct Inspection<'a, F> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    visit: F,
    report: Report,
    ledger: Ledger,
    /// The spool was closed by the last run.
    clean: bool,
    /// The number after the last one that was on disk then; 0 if the last run did not close the spool.
    closed_at: u64,
    /// The holes that the checkpoint tells of.
    holes: Vec<(u64, u64)>,
    /// The number after the last one that is accounted for.
    at: u64,
    last_seen: Option<u64>,
}

impl<E, F: FnMut(Item<'_>) -> Result<(), E>> Inspection<'_, F> {
    fn run(&mut self, now: Timestamp) -> Result<Checkpoint, E> {
        let files = match self.fs.list(self.dir) {
            Ok(files) => files,
            Err(error) => {
                self.tell(Finding::new(Kind::Unreadable, None).saying(error))?;
                return Ok(Checkpoint { clean: false, ..self.ledger.to_checkpoint(0) });
            }
        };
        let segments = segments_of(&files);
        self.tell_of_other_files(&files)?;
        let checkpoint = self.checkpoint(!segments.is_empty())?;
        self.clean = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.clean);
        let (usable, unseen) = self.sort_out(&segments)?;
        self.start_ledger(checkpoint.as_ref(), &usable)?;
        for segment in &usable {
            self.read(segment)?;
        }
        let end = self.end_ledger(checkpoint.as_ref(), unseen, now)?;
        let has_one = files.iter().any(|(name, _)| name == "checkpoint");
        self.report.checkpoint = checkpoint.filter(|_| has_one);
        Ok(end)
    }

    fn tell(&mut self, finding: Finding) -> Result<(), E> {
        (self.visit)(Item::Finding(&finding))?;
        self.report.note_finding(finding);
        Ok(())
    }

    fn tell_of_other_files(&mut self, files: &[(String, u64)]) -> Result<(), E> {
        let is_ours = |file: &(String, u64)| {
            // The temporary one is what an interrupted save leaves.
            matches!(file.0.as_str(), "checkpoint" | "checkpoint.tmp")
                || !segments_of(std::slice::from_ref(file)).is_empty()
        };
        let mut others: Vec<_> = files.iter().filter(|file| !is_ours(file)).collect();
        others.sort();
        for (name, bytes) in others {
            self.tell(Finding { bytes: *bytes, ..Finding::new(Kind::OtherFile, Some(name.clone())) })?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, has_segments: bool) -> Result<Option<Checkpoint>, E> {
        let problem = match load_checkpoint(self.fs, self.dir, has_segments) {
            Ok(Ok(checkpoint)) => return Ok(Some(checkpoint)),
            Ok(Err(problem)) => problem,
            Err(error) => error.to_string(),
        };
        self.tell(Finding::new(Kind::CheckpointDamaged, Some("checkpoint".to_owned())).saying(problem))?;
        Ok(None)
    }

    /// Tells segments from files that only have such names. Returns the highest number that one of those is named after, too.
    fn sort_out(&mut self, segments: &[Segment]) -> Result<(Vec<Usable>, Option<u64>), E> {
        let mut usable: Vec<Usable> = Vec::new();
        let mut unseen = None;
        for segment in segments {
            match self.look(segment) {
                Ok(found) => {
                    if let Some(before) = usable.last_mut() {
                        before.end = Some(found.first);
                    }
                    usable.push(found);
                }
                Err(finding) => {
                    unseen = Some(segment.first);
                    self.tell(finding)?;
                }
            }
        }
        // The newest may be torn, and the one before it too where the newest has neither record nor header.
        let mut says_nothing = false;
        for newest in usable.iter_mut().rev().filter(|_| !self.clean) {
            newest.may_be_torn = true;
            if says_nothing {
                newest.end = None;
            }
            says_nothing = newest.says_nothing();
            if !says_nothing {
                break;
            }
        }
        Ok((usable, unseen))
    }

    fn look(&self, segment: &Segment) -> Result<Usable, Finding> {
        let Segment { first, bytes, .. } = *segment;
        let finding = |kind| Finding { bytes, ..Finding::new(kind, Some(name_of(first))) };
        let unreadable = |error: io::Error| finding(Kind::Unreadable).saying(error);
        let mut reader = self.open(first).map_err(unreadable)?;
        let (header, header_is_whole) = (reader.header().clone(), reader.header_is_whole());
        match &header {
            Ok(header) if header.first != first => {
                let detail = format!("its header names {} as its first record", header.first);
                return Err(finding(Kind::Misnamed).saying(detail));
            }
            Err(newer @ HeaderError::Newer(_)) => return Err(finding(Kind::Newer).saying(newer)),
            _ => {}
        }
        let found = loop {
            match advance(&mut reader, bytes).map_err(unreadable)? {
                Next::Entry(record) => break Some(record.record.time),
                Next::Damage(_) => {}
                Next::End(_) => break None,
            }
        };
        let has_entries = found.is_some();
        let is_timeless = header.is_err() && found == Some(Timestamp::UNKNOWN);
        match &header {
            Err(foreign @ HeaderError::Foreign) if !has_entries => Err(finding(Kind::Foreign).saying(foreign)),
            _ => Ok(Usable {
                first,
                bytes,
                header,
                header_is_whole,
                has_entries,
                is_timeless,
                end: None,
                may_be_torn: false,
            }),
        }
    }

    fn open(&self, first: u64) -> io::Result<SegmentReader> {
        SegmentReader::new(self.fs.open(&self.dir.join(name_of(first)))?, first)
    }

    /// What is known before the first record is read.
    fn start_ledger(&mut self, checkpoint: Option<&Checkpoint>, usable: &[Usable]) -> Result<(), E> {
        let saved = checkpoint.cloned().unwrap_or_default();
        self.closed_at = if self.clean { saved.next } else { 0 };
        self.holes.clone_from(&saved.holes);
        self.ledger = Ledger::from_checkpoint(&Checkpoint { next: saved.done.saturating_add(1), ..saved });
        let oldest = usable.first().filter(|segment| !segment.says_nothing()).map(|segment| segment.first);
        let headers = usable.iter().filter_map(|segment| Some(segment.header.as_ref().ok()?.done));
        // Segments are removed when they are done with; without a checkpoint that is all that is known.
        let removed = oldest.filter(|_| checkpoint.is_none()).map(|oldest| oldest.saturating_sub(1));
        if let Some(done) = headers.chain(removed).max() {
            self.reach(done);
            self.ledger.settle(done, Fate::Delivered);
        }
        self.report.done = self.ledger.done();
        self.at = self.report.done.saturating_add(1);
        if let Some(oldest) = oldest {
            self.lose_until(oldest.saturating_sub(1), None)?;
            self.at = oldest;
        }
        Ok(())
    }

    /// What was given and is in no segment, and from where on numbers can be given again.
    fn end_ledger(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        unseen: Option<u64>,
        now: Timestamp,
    ) -> Result<Checkpoint, E> {
        self.lose_until(self.closed_at.saturating_sub(1), None)?;
        let read = self.ledger.to_checkpoint(0);
        self.ledger.skip_to(checkpoint.map_or(0, |checkpoint| checkpoint.next));
        let unseen = unseen.filter(|&first| first >= self.ledger.next());
        if checkpoint.is_none() || unseen.is_some() {
            self.ledger.skip_to(unknown_next(self.ledger.next().max(unseen.unwrap_or(0)), now));
        }
        let skipped = self.ledger.to_checkpoint(0);
        // After a kill the runtime tier may hold records with the numbers that are skipped: they are not done with.
        Ok(if self.clean { skipped } else { Checkpoint { clean: false, next: skipped.next, ..read } })
    }

    /// Reads a segment.
    fn read(&mut self, segment: &Usable) -> Result<(), E> {
        self.report.segments += 1;
        self.report.bytes += segment.bytes;
        if !segment.says_nothing() {
            self.at = self.at.max(segment.first);
        }
        let finished = self.is_finished(segment);
        let boot_id = segment.header.as_ref().map_or([0; 16], |header| header.boot_id);
        (self.visit)(Item::Segment { boot_id, done: self.report.done })?;
        if !segment.header_is_whole && (segment.has_entries || !segment.may_be_torn) {
            let kind = if finished { Kind::DoneWith } else { Kind::HeaderDamaged };
            let bytes = segment.bytes.min(u64::try_from(HEADER_LEN).unwrap_or(0));
            let finding = Finding { bytes, ..Finding::new(kind, Some(name_of(segment.first))) };
            self.tell(match &segment.header {
                Ok(_) => finding.saying("one of the two copies of the header is damaged"),
                Err(_) if segment.is_timeless => finding.saying(
                    "both copies of the header are damaged; nobody knows the times of the records in this file",
                ),
                Err(error) => finding.saying(error),
            })?;
        }
        match self.read_entries(segment)? {
            Ok(tail) => self.end_of(segment, tail),
            Err(error) => {
                let finding = Finding::new(Kind::Unreadable, Some(name_of(segment.first))).saying(error);
                self.lose_until(self.last_of(segment), Some(finding))
            }
        }
    }

    /// Reads the records of a segment. Returns what stands behind the last one: no entries.
    fn read_entries(&mut self, segment: &Usable) -> Result<io::Result<Option<Place>>, E> {
        let mut reader = match self.open(segment.first) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let mut place: Option<Place> = None;
        loop {
            match advance(&mut reader, segment.bytes) {
                Ok(Next::Entry(record)) if segment.end.is_some_and(|end| record.seq >= end) => return Ok(Ok(place)),
                Ok(Next::Entry(record)) => {
                    self.pass(segment, record.seq, place.take())?;
                    self.record(record)?;
                }
                Ok(Next::Damage(region)) => place = Some(Place::join(place, &region)),
                Ok(Next::End(tail)) => {
                    let place = tail.map(|tail| Place::join(place, &tail)).or(place);
                    // A file that was to become a segment.
                    let stub = (!segment.has_entries && segment.may_be_torn).then_some((0, segment.bytes));
                    return Ok(Ok(stub.map(|(offset, bytes)| Place { offset, bytes }).or(place)));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Accounts for what lies between the last record and number `seq` of the same segment.
    fn pass(&mut self, segment: &Usable, seq: u64, place: Option<Place>) -> Result<(), E> {
        let Some(place) = place else { return Ok(()) };
        let (first, last) = (self.at, seq.saturating_sub(1));
        let waited = self.lose(first, last);
        let missing = (first <= last).then_some(Missing { first, last, waited });
        let kind = if self.is_finished(segment) { Kind::DoneWith } else { Kind::Damaged };
        self.tell(Finding { missing, ..place.finding(kind, segment.first) })
    }

    /// Accounts for what lies between the last record of a segment and the next one.
    fn end_of(&mut self, segment: &Usable, tail: Option<Place>) -> Result<(), E> {
        match tail {
            Some(place) if segment.may_be_torn => self.tell(place.finding(Kind::TornTail, segment.first)),
            Some(place) if self.is_finished(segment) => self.tell(place.finding(Kind::DoneWith, segment.first)),
            _ => {
                let finding = tail.map(|place| place.finding(Kind::Damaged, segment.first));
                self.lose_until(self.last_of(segment), finding)
            }
        }
    }

    fn record(&mut self, record: Sequenced) -> Result<(), E> {
        let seq = record.seq;
        self.reach(seq);
        self.at = seq.saturating_add(1);
        let waits = self.ledger.skip_holes(seq) == seq;
        let follows = self.last_seen.replace(seq).is_some_and(|last| last.checked_add(1) == Some(seq));
        self.report.note_record(&record, follows, waits);
        (self.visit)(Item::Record { record, waits })
    }

    /// The last number that the segment had, as far as that is known.
    fn last_of(&self, segment: &Usable) -> u64 {
        segment.end.unwrap_or_else(|| self.at.max(self.closed_at)).saturating_sub(1)
    }

    /// Whether every record of the segment is done with, so that it only waits for its removal.
    fn is_finished(&self, segment: &Usable) -> bool {
        segment.end.is_some_and(|end| end.saturating_sub(1) <= self.report.done)
    }

    /// Counts what waits up to number `last` as lost, and tells it with what was found there, or as missing.
    fn lose_until(&mut self, last: u64, found: Option<Finding>) -> Result<(), E> {
        let first = self.ledger.skip_holes(self.at);
        let waited = self.lose(first, last);
        self.at = self.at.max(last.saturating_add(1));
        // Numbers that were never given stand in no message.
        let hole = self.holes.iter().find(|(from, to)| (*from..=*to).contains(&last));
        let last = hole.map_or(last, |(from, _)| from.saturating_sub(1));
        let missing = (waited > 0).then_some(Missing { first, last, waited });
        match found.or_else(|| missing.map(|_| Finding::new(Kind::Missing, None))) {
            Some(finding) => self.tell(Finding { missing, ..finding }),
            None => Ok(()),
        }
    }

    fn lose(&mut self, first: u64, last: u64) -> u64 {
        self.reach(last);
        self.ledger.settle_range(first, last, Fate::Quarantined)
    }

    /// This number was given.
    fn reach(&mut self, seq: u64) {
        let given = seq.saturating_add(1).saturating_sub(self.ledger.next());
        self.ledger.accept(given);
    }
}

/// Where bytes are that are no entries.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: u64,
}

impl Place {
    fn join(before: Option<Place>, region: &Region) -> Place {
        let offset = before.map_or(region.offset, |before| before.offset);
        let end = region.offset.saturating_add(length_of(region));
        Place { offset, bytes: end.saturating_sub(offset) }
    }

    fn finding(self, kind: Kind, first: u64) -> Finding {
        Finding { offset: self.offset, bytes: self.bytes, ..Finding::new(kind, Some(name_of(first))) }
    }
}

/// Goes one step. The reader gives up where no entry is in sight for 9 MiB; here a file is read to its end. Behind so much
/// damage whole records may still be passed over, until there are as many bytes as their numbers ask for.
fn advance(reader: &mut SegmentReader, bytes: u64) -> io::Result<Next> {
    match reader.next()? {
        Next::End(Some(region)) if region.offset.saturating_add(length_of(&region)) < bytes => Ok(Next::Damage(region)),
        next => Ok(next),
    }
}

fn length_of(region: &Region) -> u64 {
    u64::try_from(region.bytes.len()).unwrap_or(u64::MAX)
}

fn name_of(first: u64) -> String {
    format!("{first:020}.seg")
}
