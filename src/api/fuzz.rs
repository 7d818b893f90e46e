//! The decoders of what a local client sends, for the fuzz targets in `fuzz/`.
//!
//! Constraint: no part of the interface; nothing else calls it.

use super::query::Query;
use super::{logs, records};
use crate::logline::LogLine;
use crate::record::Timestamp;
use hyper::body::Bytes;

/// The topic in a query that could be published to, of at most so many bytes.
pub fn topic(query: &str, max: usize) -> Option<String> {
    let query = Query::read(Some(query), &["topic", "stream", "sync"]).ok()?;
    query.flag("sync").ok()?;
    let topic = query.get("topic")?;
    records::check_topic(topic, max).ok()?;
    Some(topic.to_owned())
}

/// The lines, with their numbers, of a body that came in pieces of so many bytes, and whether one was longer than `max` bytes.
pub fn lines(body: &[u8], piece: usize, max: usize) -> (Vec<(u64, Vec<u8>)>, bool) {
    let (mut lines, mut all) = (records::Lines::default(), Vec::new());
    for piece in body.chunks(piece.max(1)) {
        lines.feed(Bytes::copy_from_slice(piece));
        loop {
            match lines.next(max) {
                Ok(Some((number, line))) => all.push((number, line.to_vec())),
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
    }
    all.extend(lines.finish().map(|(number, line)| (number, line.to_vec())));
    (all, false)
}

/// The lines of a log in a body.
pub fn log(body: &[u8], is_plain: bool, now: Timestamp) -> Option<Vec<LogLine>> {
    logs::lines_of(body, is_plain, now).ok()
}
