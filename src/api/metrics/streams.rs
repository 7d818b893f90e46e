//! The ledgers as numbers, stream by stream.

use super::family::{Family, Value, counter, flag, gauge, gauge_if_known};
use super::text::Text;
use crate::stats::{Status, StreamStatus};

const STREAMS: &[Family<StreamStatus>] = &[
    counter("pillion_stream_accepted", "Records taken in.", |stream| stream.accepted),
    counter("pillion_stream_delivered", "Records that the broker acknowledged.", |stream| stream.delivered),
    gauge("pillion_stream_waiting", "Records that wait for an acknowledgement.", |stream| stream.waiting),
    counter("pillion_stream_evicted", "Records lost because the stream was full.", |stream| stream.evicted),
    counter("pillion_stream_expired", "Records lost because they were older than max_age.", |stream| stream.expired),
    counter("pillion_stream_quarantined", "Records damaged on disk, or too large for the broker.", |stream| {
        stream.quarantined
    }),
    counter("pillion_stream_refused", "Records never taken in: the stream was full or they were wrong.", |stream| {
        stream.refused
    }),
    gauge("pillion_stream_bytes", "Size on flash.", |stream| stream.bytes),
    gauge_if_known(
        "pillion_stream_oldest_seconds",
        "Age of the oldest record that waits; none if none waits.",
        |stream| stream.oldest_s.map(Value::Count),
    ),
    flag("pillion_stream_disk_error", "Whether records are held in memory because the disk fails.", |stream| {
        stream.disk_error.is_some()
    }),
    flag("pillion_stream_runtime_error", "Whether a kill costs records because runtime_dir fails.", |stream| {
        stream.runtime_error.is_some()
    }),
];

pub(super) fn write(text: &mut Text, status: &Status) {
    text.families(STREAMS, || status.streams.iter().map(|(name, stream)| (vec![("stream", name.as_str())], stream)));
}
