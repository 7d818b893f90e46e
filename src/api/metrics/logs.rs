//! The numbers of the application's log.

use super::family::{Family, Value, counter, flag, gauge_if_known, moment};
use super::text::Text;
use crate::stats::{LogsState, LogsStatus};

const LOGS: &[Family<LogsStatus>] = &[
    gauge_if_known("pillion_logs_up", "Whether the application's journal is followed.", |logs| {
        (logs.state != LogsState::Off).then(|| Value::Flag(logs.state == LogsState::Following))
    }),
    moment("pillion_logs_since_timestamp_seconds", "When reading the log came into its state.", |logs| logs.since_ms),
    counter("pillion_logs_read", "Lines read from the journal.", |logs| logs.read),
    counter("pillion_logs_posted", "Lines that came through the local API.", |logs| logs.posted),
    counter("pillion_logs_shipped", "Lines on their way to the broker.", |logs| logs.shipped),
    counter("pillion_logs_below_level", "Lines less severe than log_level.", |logs| logs.below_level),
    counter("pillion_logs_suppressed", "Lines beyond log_rate.", |logs| logs.suppressed),
    counter("pillion_logs_recorder", "Lines of the flight recorder shipped after an error.", |logs| logs.recorder),
    counter("pillion_logs_records", "Records made of lines.", |logs| logs.records),
    counter("pillion_logs_truncated", "Lines that were too long.", |logs| logs.truncated),
    counter("pillion_logs_rubbish", "What came from journalctl and was no line.", |logs| logs.rubbish),
    counter("pillion_logs_failures", "Times that the journal could not be read.", |logs| logs.failures),
    counter("pillion_logs_gaps", "Times that the journal had lost what was to be read next.", |logs| logs.gaps),
    gauge_if_known("pillion_logs_last_timestamp_seconds", "When the line that was read last was logged.", |logs| {
        logs.last_ms.map(Value::Millis)
    }),
    gauge_if_known("pillion_logs_saved_timestamp_seconds", "When the position was written to flash.", |logs| {
        logs.saved_ms.map(Value::Millis)
    }),
    flag("pillion_logs_note_error", "Whether the position can't be noted.", |logs| logs.note_error.is_some()),
];

pub(super) fn write(text: &mut Text, logs: Option<&LogsStatus>) {
    text.families(LOGS, || logs.map(|logs| (vec![], logs)));
}
