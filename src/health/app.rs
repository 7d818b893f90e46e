//! What is wrong with the application, in words.

use super::Complaint;
use crate::stats::{AppRequest, AppState, AppStatus, HeartbeatState};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// How long its flow may take to tell what the application uses; what was shown last is the substitute.
const PATIENCE: Duration = Duration::from_secs(1);

/// The flow that accompanies the application, as the health flow sees it.
#[derive(Debug, Clone)]
pub struct App {
    /// After each change.
    pub shown: watch::Receiver<AppStatus>,
    /// For what it uses now.
    pub requests: mpsc::Sender<AppRequest>,
}

impl App {
    /// The application's status now.
    pub(super) async fn status(&self) -> AppStatus {
        let asked = async {
            let (reply, answer) = oneshot::channel();
            self.requests.send(reply).await.ok()?;
            answer.await.ok()
        };
        let answer = timeout(PATIENCE, asked).await.ok().flatten();
        answer.unwrap_or_else(|| self.shown.borrow().clone())
    }
}

/// What is wrong with it.
pub(super) fn complaints(app: &AppStatus) -> Vec<Complaint> {
    let name = app.unit.as_deref().unwrap_or("the application");
    let last = app.last_exit.as_ref();
    let why = last.map_or_else(String::new, |exit| format!("; it {}", exit.text));
    let told = match app.state {
        AppState::Unknown => {
            app.reason.as_ref().map(|reason| (false, "unknown", format!("can't be watched: {reason}")))
        }
        AppState::Starting | AppState::Running => None,
        AppState::Stopping => Some((false, "stopping", "is being stopped".to_owned())),
        AppState::Stopped => Some((false, "stopped", format!("does not run{why}"))),
        AppState::Restarting => Some((true, "down", format!("is down until systemd starts it again{why}"))),
        AppState::Failed => Some((true, "failed", format!("has failed{why}"))),
    };
    let told = told.map(|(is_lost, what, text)| Complaint {
        what: format!("app {what}"),
        text: format!("{name} {text}"),
        is_lost,
    });
    let heartbeat = &app.heartbeat;
    let silent = (heartbeat.state == HeartbeatState::Lost).then(|| Complaint {
        what: "app heartbeat".to_owned(),
        text: format!(
            "{name} does not answer: no heartbeat for {} s, and {} s are allowed (app.heartbeat_timeout)",
            heartbeat.age_ms.unwrap_or(0) / 1000,
            heartbeat.timeout_ms.unwrap_or(0) / 1000,
        ),
        is_lost: true,
    });
    told.into_iter().chain(silent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{HeartbeatStatus, LastExit};

    fn told(app: &AppStatus) -> Vec<(bool, String)> {
        complaints(app).into_iter().map(|complaint| (complaint.is_lost, complaint.text)).collect()
    }

    #[test]
    fn a_lost_application_never_goes_without_its_reason() {
        let mut app = AppStatus { unit: Some("gw.service".into()), state: AppState::Running, ..AppStatus::default() };
        assert_eq!(told(&app), []);
        app.state = AppState::Failed;
        app.last_exit = Some(LastExit { text: "exited with code 3".into(), ..LastExit::default() });
        assert_eq!(told(&app), [(true, "gw.service has failed; it exited with code 3".to_owned())]);
        app.state = AppState::Stopped;
        assert_eq!(told(&app), [(false, "gw.service does not run; it exited with code 3".to_owned())]);
        app.state = AppState::Running;
        app.heartbeat = HeartbeatStatus { state: HeartbeatState::Lost, age_ms: Some(35_999), timeout_ms: Some(30_000) };
        let text = "gw.service does not answer: no heartbeat for 35 s, and 30 s are allowed (app.heartbeat_timeout)";
        assert_eq!(told(&app), [(true, text.to_owned())]);
        let app = AppStatus { unit: Some("gw.service".into()), reason: Some("no bus".into()), ..AppStatus::default() };
        assert_eq!(told(&app), [(false, "gw.service can't be watched: no bus".to_owned())]);
    }
}
