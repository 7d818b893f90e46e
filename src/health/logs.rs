//! What is wrong with the application's log.

use super::Complaint;
use crate::stats::{LogsState, LogsStatus};

pub(super) fn complaints(logs: &LogsStatus) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut complain = |what: &str, text: String| complaints.push(Complaint::of(what, text));
    if logs.state == LogsState::Failed {
        let reason = logs.reason.as_deref().unwrap_or("no reason known");
        complain("logs", format!("the application's log can't be read: {reason}"));
    }
    if let Some(error) = &logs.note_error {
        complain(
            "position in the log",
            format!("lines of the log may come twice after a restart, for their place can't be noted: {error}"),
        );
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cant_be_read_never_goes_without_a_complaint() {
        let what = |logs: &LogsStatus| complaints(logs).into_iter().map(|c| c.what).collect::<Vec<_>>();
        let mut logs = LogsStatus { state: LogsState::Following, ..LogsStatus::default() };
        assert!(what(&logs).is_empty() && what(&LogsStatus::default()).is_empty());
        logs.state = LogsState::Failed;
        logs.reason = Some("no journalctl".into());
        logs.note_error = Some("full".into());
        assert_eq!(what(&logs), ["logs", "position in the log"]);
        assert_eq!(complaints(&logs)[0].text, "the application's log can't be read: no journalctl");
    }
}
