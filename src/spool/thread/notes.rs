//! The notes of submissions: written when their records survive a kill, and told of when these survive a power cut.

use super::super::Spool;
use super::super::fs::{FileSystem, replace_volatile};
use crate::record::{Note, StreamId};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Those who wait until their records are safe. Records that are not are few, for memory holds them.
pub(super) struct Notes {
    fs: Arc<dyn FileSystem>,
    waiting: Vec<(StreamId, u64, oneshot::Sender<()>)>,
}

impl Notes {
    pub(super) fn new(fs: Arc<dyn FileSystem>) -> Self {
        Notes { fs, waiting: Vec::new() }
    }

    /// Writes the note of records up to this one, which have just become durable.
    pub(super) fn write(&mut self, note: Note, stream: StreamId, last: u64) {
        let Note { file, content, failed, safe } = note;
        if let Err(error) = replace_volatile(self.fs.as_ref(), &file, &content) {
            // Who does not want to know has dropped the receiver.
            let _ = failed.send(format!("{}: {error}", file.display()));
        }
        self.waiting.push((stream, last, safe));
    }

    /// Tells when all that is in this stream by now is safe.
    pub(super) fn wait(&mut self, spool: &Spool, stream: StreamId, safe: oneshot::Sender<()>) {
        self.waiting.push((stream, spool.last(stream), safe));
    }

    /// Tells those whose records are safe by now, and forgets those who have stopped asking.
    pub(super) fn tell(&mut self, spool: &Spool) {
        if self.waiting.is_empty() {
            return;
        }
        for (stream, last, safe) in std::mem::take(&mut self.waiting) {
            if spool.is_safe(stream, last) {
                let _ = safe.send(());
            } else if !safe.is_closed() {
                self.waiting.push((stream, last, safe));
            }
        }
    }
}
