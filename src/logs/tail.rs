//! Following the unit's journal: what is started when, and what happens when that fails.
//!
//! Constraint: what fails at once is not tried at once again. Only a new line shows that it works.

use super::position::Position;
use crate::app::journal::{Begin, Broken, Cursor, End, Entry, Journal, Reading, Step};
use crate::backoff::Backoff;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Between tries when the journal can't be read: at first, and at the most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// A journalctl that lives for so long reads, though there may be no line.
const PROOF: Duration = Duration::from_secs(3);
/// A new installation begins with this many lines of the present boot: the application was there first, and there may be years.
const FIRST: u32 = 1000;

/// Where it stands.
enum State {
    /// There is no journal to read.
    Off,
    /// It can't be read; tried again then.
    Resting(Instant),
    /// journalctl runs.
    Reading {
        reading: Box<Reading>,
        end: End,
        /// When it counts as working, if nothing has come by then.
        proof: Option<Instant>,
    },
}

/// What is new.
#[derive(Debug)]
pub enum News {
    /// journalctl was started, or started again.
    Started,
    /// It works.
    Works,
    /// The unit has logged nothing yet; what it logs comes behind this line.
    Place(Cursor),
    /// A line.
    Entry(Box<Entry>),
    /// This line was the last one that had been read, and it is not there any more; the next one is that.
    Gap(Cursor, Box<Entry>),
    /// Something that is no line.
    Rubbish(String),
    /// It does not work, and why.
    Broken(String),
}

/// The journal, followed.
pub struct Tail {
    journal: Option<Journal>,
    state: State,
    backoff: Backoff,
    /// Where reading goes on: behind what was read last. `None`: nothing has ever been read.
    begin: Option<Begin>,
    fresh: Fresh,
}

/// How a new installation finds its place.
#[derive(Clone, PartialEq, Eq)]
enum Fresh {
    /// It looks for the newest line of any unit; this is it.
    Place(Option<Cursor>),
    /// It reads the last lines of our unit; if there are none, it begins behind that newest one.
    Lines(Option<Cursor>),
    /// It has looked, and the whole journal was empty.
    Nothing,
}

impl Tail {
    /// Goes on from this position.
    pub fn new(journal: Option<Journal>, position: Option<&Position>) -> Self {
        let state = if journal.is_some() { State::Resting(Instant::now()) } else { State::Off };
        let begin = position.map(Position::begin);
        Tail { journal, state, backoff: Backoff::new(BACKOFF.0, BACKOFF.1), begin, fresh: Fresh::Place(None) }
    }

    /// Follows this journal from now on, or none. Where reading goes on stays known; what journalctl holds is read again then.
    pub fn follow(&mut self, journal: Option<Journal>) {
        self.state = if journal.is_some() { State::Resting(Instant::now()) } else { State::Off };
        self.journal = journal;
        self.backoff.reset();
    }

    /// Whether there is a journal at all.
    pub fn is_on(&self) -> bool {
        self.journal.is_some()
    }

    /// Waits for news. Cancel-safe.
    pub async fn next(&mut self) -> News {
        loop {
            match &mut self.state {
                State::Off => std::future::pending().await,
                State::Resting(until) => {
                    sleep_until(*until).await;
                    return self.start();
                }
                State::Reading { reading, end, proof } => {
                    let step = match *proof {
                        None => reading.next().await,
                        Some(at) => tokio::select! {
                            biased;
                            step = reading.next() => step,
                            () = sleep_until(at) => {
                                *proof = None;
                                return News::Works;
                            }
                        },
                    };
                    let end = *end;
                    if let Some(news) = self.news(step, end) {
                        return news;
                    }
                }
            }
        }
    }

    fn news(&mut self, step: Result<Step, Broken>, end: End) -> Option<News> {
        Some(match step {
            Ok(Step::Entry(entry)) if self.begin.is_none() && matches!(self.fresh, Fresh::Place(_)) => {
                self.fresh = Fresh::Place(Some(entry.cursor));
                return None;
            }
            Ok(Step::Entry(entry)) => {
                self.passed(&entry.cursor);
                News::Entry(entry)
            }
            Ok(Step::Gap(last, entry)) => {
                self.passed(&entry.cursor);
                News::Gap(last, entry)
            }
            Ok(Step::Rubbish(what)) => News::Rubbish(what),
            Ok(Step::End) if end == End::Now => return self.settle(),
            Ok(Step::End) => self.rest("journalctl ended".to_owned()),
            Err(error) => self.rest(error.to_string()),
        })
    }

    /// A new installation has read what is there already.
    fn settle(&mut self) -> Option<News> {
        let mut place = None;
        self.fresh = match std::mem::replace(&mut self.fresh, Fresh::Nothing) {
            Fresh::Place(newest) => Fresh::Lines(newest),
            Fresh::Lines(newest) => {
                place = newest.filter(|_| self.begin.is_none());
                Fresh::Nothing
            }
            Fresh::Nothing => Fresh::Nothing,
        };
        if let Some(place) = &place {
            self.begin = Some(Begin::With(place.clone()));
        }
        match self.start() {
            News::Started => place.map(News::Place),
            news => Some(news),
        }
    }

    fn passed(&mut self, cursor: &Cursor) {
        self.begin = Some(Begin::Behind(cursor.clone()));
        self.backoff.reset();
        if let State::Reading { proof, .. } = &mut self.state {
            *proof = proof.map(|_| Instant::now());
        }
    }

    /// Starts journalctl.
    fn start(&mut self) -> News {
        let (begin, end) = match (&self.begin, &self.fresh) {
            (Some(begin), _) => (begin.clone(), End::Never),
            (None, Fresh::Place(_)) => (Begin::Newest, End::Now),
            (None, Fresh::Lines(_)) => (Begin::Last(FIRST), End::Now),
            (None, Fresh::Nothing) => (Begin::Boot, End::Never),
        };
        let Some(journal) = &self.journal else { return News::Started };
        match journal.read(&begin, end) {
            Ok(reading) => {
                let proof = Some(Instant::now() + PROOF);
                self.state = State::Reading { reading: Box::new(reading), end, proof };
                News::Started
            }
            Err(error) => self.rest(error.to_string()),
        }
    }

    fn rest(&mut self, why: String) -> News {
        // The child is killed, if it is there still.
        self.state = State::Resting(Instant::now() + self.backoff.next(fastrand::f64()));
        News::Broken(why)
    }

    /// Lets go of journalctl, and of what it holds: that is read again. The next one is started at once.
    pub fn restart(&mut self) {
        if self.is_on() {
            self.state = State::Resting(Instant::now());
        }
    }

    /// Reads what is there by now, instead of following; the next `restart` follows again.
    pub fn catch_up(&self) -> Option<Result<Reading, Broken>> {
        let begin = self.begin.clone().unwrap_or(Begin::Last(FIRST));
        Some(self.journal.as_ref()?.read(&begin, End::Now))
    }

    /// A step of the reading that `catch_up` has begun.
    pub fn caught(&mut self, step: Step) -> Option<News> {
        match step {
            Step::Entry(entry) => {
                self.passed(&entry.cursor);
                Some(News::Entry(entry))
            }
            Step::Gap(last, entry) => {
                self.passed(&entry.cursor);
                Some(News::Gap(last, entry))
            }
            Step::Rubbish(what) => Some(News::Rubbish(what)),
            Step::End => None,
        }
    }
}
