//! Which streams there are, by their ids. Pure.
//!
//! A stream keeps its id as long as pillion runs, whatever comes and goes beside it: records on their way carry it. One that the
//! configuration does not name any more is *retired*: it takes nothing in, and what waits in it goes out, by rules that drop
//! nothing. So it is over a restart as well, where the spool tells which ones were left with records. Its id is not given to another
//! stream; one of the same name gets it again, and goes on with its numbers.

use crate::config::{Convention, Stream, WhenFull};
use crate::record::StreamId;

/// Ids that there can be: as many as streams in a configuration.
const MOST: usize = 64;
/// A quota that nothing reaches which takes nothing in, in bytes: the largest one that a configuration may give.
const ALL: u64 = 1 << 40;

/// A stream in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    stream: Stream,
    is_retired: bool,
}

/// All streams; the place of each is its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Streams {
    places: Vec<Place>,
}

impl Streams {
    /// Those of a configuration, and those that it does not name and in which an earlier one has left records.
    pub(super) fn new(configured: &[Stream], left: impl IntoIterator<Item = String>) -> Self {
        let configured = configured.iter().map(|stream| Place { stream: stream.clone(), is_retired: false });
        Streams { places: configured.chain(left.into_iter().map(|name| retired(&name))).take(MOST).collect() }
    }

    /// Those of the configuration that comes after this one. Fails, with their names, where there are no ids for new ones.
    pub(super) fn next(&self, configured: &[Stream]) -> Result<Self, Vec<String>> {
        let of = |name: &str| configured.iter().find(|stream| stream.name == name);
        let is_new = |stream: &&Stream| self.places.iter().all(|place| place.stream.name != stream.name);
        let known = self.places.iter().map(|place| match of(&place.stream.name) {
            Some(stream) => Place { stream: stream.clone(), is_retired: false },
            None => retired(&place.stream.name),
        });
        let new = configured.iter().filter(is_new).map(|stream| Place { stream: stream.clone(), is_retired: false });
        let places: Vec<Place> = known.chain(new).collect();
        match places.get(MOST..) {
            None | Some([]) => Ok(Streams { places }),
            Some(more) => Err(more.iter().map(|place| place.stream.name.clone()).collect()),
        }
    }

    /// What spool and publisher go by.
    pub(super) fn all(&self) -> Vec<Stream> {
        self.places.iter().map(|place| place.stream.clone()).collect()
    }

    /// Names, and whether each is retired.
    pub(super) fn names(&self) -> Vec<(String, bool)> {
        self.places.iter().map(|place| (place.stream.name.clone(), place.is_retired)).collect()
    }

    /// Those that take records in.
    pub(super) fn open(&self) -> Vec<(String, StreamId)> {
        let places = self.places.iter().zip(0..).filter(|(place, _)| !place.is_retired);
        places.map(|(place, id)| (place.stream.name.clone(), StreamId(id))).collect()
    }

    /// Whether this one takes records in.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.places.iter().any(|place| place.stream.name == name && !place.is_retired)
    }

    /// Those that take nothing in any more.
    pub(super) fn retired(&self) -> impl Iterator<Item = &str> {
        self.places.iter().filter(|place| place.is_retired).map(|place| place.stream.name.as_str())
    }

    /// Those whose records are Sparkplug's.
    pub(super) fn of_sparkplug(&self) -> impl Iterator<Item = &str> {
        let places = self.places.iter().filter(|place| place.stream.convention == Convention::Sparkplug);
        places.map(|place| place.stream.name.as_str())
    }
}

/// Whatever its rules were: nobody knows them after a restart.
fn retired(name: &str) -> Place {
    let stream = Stream {
        name: name.to_owned(),
        max_bytes: ALL,
        max_age: None,
        when_full: WhenFull::Reject,
        priority: 1,
        batch: None,
        quiet_hours: None,
        convention: Convention::Pillion,
    };
    Place { stream, is_retired: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(names: &[&str]) -> Vec<Stream> {
        let stream = |name: &&str| Stream { max_bytes: 1 << 20, ..retired(name).stream };
        names.iter().map(stream).collect()
    }

    fn ids(streams: &Streams) -> Vec<(String, u8)> {
        streams.open().into_iter().map(|(name, id)| (name, id.0)).collect()
    }

    #[test]
    fn a_stream_never_gets_the_id_of_another_one() {
        let pairs = |pairs: &[(&str, u8)]| pairs.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect::<Vec<_>>();
        let first = Streams::new(&configured(&["event", "b", "d"]), ["left".to_owned()]);
        assert_eq!(ids(&first), pairs(&[("event", 0), ("b", 1), ("d", 2)]));
        assert_eq!(first.next(&configured(&["event", "b", "d"])), Ok(first.clone()));
        // In name order they come from the file: the new ones go behind.
        let second = first.next(&configured(&["event", "a", "c", "d"])).unwrap();
        assert_eq!(ids(&second), pairs(&[("event", 0), ("d", 2), ("a", 4), ("c", 5)]));
        assert_eq!(second.retired().collect::<Vec<_>>(), ["b", "left"]);
        assert_eq!(second.all()[1], retired("b").stream, "as after a restart");
        let third = second.next(&configured(&["event", "b", "left"])).unwrap();
        assert_eq!(ids(&third), pairs(&[("event", 0), ("b", 1), ("left", 3)]));
        assert_eq!(third.all()[1], configured(&["b"])[0]);
    }

    #[test]
    fn more_streams_than_ids_are_never_taken() {
        let names: Vec<String> = (0..MOST).map(|number| format!("s{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let full = Streams::new(&configured(&names), ["left".to_owned()]);
        assert_eq!((full.all().len(), full.retired().count()), (MOST, 0));
        assert_eq!(full.next(&configured(&["s1", "x", "y"])), Err(vec!["x".to_owned(), "y".to_owned()]));
        assert!(full.next(&configured(&["s1"])).is_ok());
    }
}
