//! The numbers of the application's log.

use super::{Family, Text, Value, counter, gauge};
use crate::stats::{LogsState, LogsStatus};

const LOGS: [Family<LogsStatus>; 16] = [
    gauge("pillion_logs_up", "Whether the application's journal is followed.", |logs| {
        (logs.state != LogsState::Off).then(|| Value::Flag(logs.state == LogsState::Following))
    }),
    gauge("pillion_logs_since_timestamp_seconds", "When reading the log came into its state.", |logs| {
        Some(Value::Millis(logs.since_ms))
    }),
    counter("pillion_logs_read", "Lines read from the journal.", |logs| Some(Value::Count(logs.read))),
    counter("pillion_logs_posted", "Lines that came through the local API.", |logs| Some(Value::Count(logs.posted))),
    counter("pillion_logs_shipped", "Lines on their way to the broker.", |logs| Some(Value::Count(logs.shipped))),
    counter("pillion_logs_below_level", "Lines less severe than log_level.", |logs| {
        Some(Value::Count(logs.below_level))
    }),
    counter("pillion_logs_suppressed", "Lines beyond log_rate.", |logs| Some(Value::Count(logs.suppressed))),
    counter("pillion_logs_recorder", "Lines of the flight recorder shipped after an error.", |logs| {
        Some(Value::Count(logs.recorder))
    }),
    counter("pillion_logs_records", "Records made of lines.", |logs| Some(Value::Count(logs.records))),
    counter("pillion_logs_truncated", "Lines that were too long.", |logs| Some(Value::Count(logs.truncated))),
    counter("pillion_logs_rubbish", "What came from journalctl and was no line.", |logs| {
        Some(Value::Count(logs.rubbish))
    }),
    counter("pillion_logs_failures", "Times that the journal could not be read.", |logs| {
        Some(Value::Count(logs.failures))
    }),
    counter("pillion_logs_gaps", "Times that the journal had lost what was to be read next.", |logs| {
        Some(Value::Count(logs.gaps))
    }),
    gauge("pillion_logs_last_timestamp_seconds", "When the line that was read last was logged.", |logs| {
        logs.last_ms.map(Value::Millis)
    }),
    gauge("pillion_logs_saved_timestamp_seconds", "When the position was written to flash.", |logs| {
        logs.saved_ms.map(Value::Millis)
    }),
    gauge("pillion_logs_note_error", "Whether the position can't be noted.", |logs| {
        Some(Value::Flag(logs.note_error.is_some()))
    }),
];

impl Text {
    pub(super) fn logs(&mut self, logs: Option<&LogsStatus>) {
        self.families(&LOGS, || logs.map(|logs| (vec![], logs)));
    }
}
