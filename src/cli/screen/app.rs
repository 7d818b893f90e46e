//! The accompanied application on the screen.

use super::page::{Page, clean, plural};
use crate::cli::quantity::{bytes, duration, number};
use crate::stats::{AppState, AppStatus, HeartbeatState};

pub(super) fn draw(page: &mut Page, app: Option<&AppStatus>) {
    let Some(app) = app else { return };
    let mut line = clean(app.unit.as_deref().unwrap_or("without a unit"));
    if let Some(word) = word(app.state) {
        line += &format!(" {word} for {}", page.since(app.since_ms));
    }
    line += &app.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
    if let Some(restarts) = app.restarts.filter(|restarts| *restarts > 0) {
        line += &format!(", restarted {}", plural(restarts, "time"));
    }
    page.section("app", &line);
    let used = used(app);
    if !used.is_empty() {
        page.more(&used);
    }
    let silence = app.heartbeat.age_ms.map_or_else(|| "ever".to_owned(), |age| duration(age / 1000));
    match app.heartbeat.state {
        HeartbeatState::Off => {}
        HeartbeatState::Awaited => page.more(&format!("first heartbeat awaited for {silence}")),
        HeartbeatState::Alive => page.more(&format!("last heartbeat {silence} ago")),
        HeartbeatState::Lost => page.more(&format!("no heartbeat for {silence}")),
    }
    if let Some(exit) = &app.last_exit {
        page.more(&format!("last time, it {}", exit.text));
    }
}

fn word(state: AppState) -> Option<&'static str> {
    match state {
        AppState::Unknown => None,
        AppState::Starting => Some("is starting"),
        AppState::Running => Some("runs"),
        AppState::Stopping => Some("is stopping"),
        AppState::Restarting => Some("waits to be started again"),
        AppState::Stopped => Some("does not run"),
        AppState::Failed => Some("has failed"),
    }
}

fn used(app: &AppStatus) -> String {
    let usage = &app.usage;
    let memory = usage.memory_bytes.map(|used| match usage.memory_limit {
        Some(limit) => format!("{} of {} memory", bytes(used), bytes(limit)),
        None => format!("{} memory", bytes(used)),
    });
    let peak = usage.memory_peak.map(|peak| format!("{} at most", bytes(peak)));
    let cpu = usage.cpu_ns.map(|cpu| format!("{} of processor time", duration(cpu / 1_000_000_000)));
    let tasks = usage.tasks.map(|tasks| format!("{} tasks", number(tasks)));
    let descriptors = usage.descriptors.map(|count| format!("{} descriptors", number(count)));
    [memory, peak, cpu, tasks, descriptors].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
