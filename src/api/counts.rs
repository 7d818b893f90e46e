//! What is counted of the local API: connections, requests by route and outcome, and whose they are.
//!
//! Constraint: the tables are bounded, whatever clients do: routes are those of the table and one for all else, and of users
//! the first [`USERS`] have a line of their own.

use crate::stats::{ApiStatus, Outcomes};
use hyper::StatusCode;
use tokio::sync::watch;

/// Users with a count of their own.
const USERS: usize = 16;

/// The name under which everything else is counted.
pub(super) const OTHER: &str = "other";

/// The counters, shown to whoever asks for the status.
#[derive(Debug, Clone)]
pub(super) struct Counts(watch::Sender<ApiStatus>);

impl Counts {
    pub(super) fn new(shown: watch::Sender<ApiStatus>) -> Self {
        Counts(shown)
    }

    /// Somebody connected.
    pub(super) fn connected(&self) {
        self.0.send_modify(|status| status.connections = status.connections.saturating_add(1));
    }

    /// How many connections are open now.
    pub(super) fn open(&self, open: usize) {
        let open = u64::try_from(open).unwrap_or(u64::MAX);
        self.0.send_if_modified(|status| std::mem::replace(&mut status.open, open) != open);
    }

    /// Somebody idle was sent away for somebody new.
    pub(super) fn sent_away(&self) {
        self.0.send_modify(|status| status.sent_away = status.sent_away.saturating_add(1));
    }

    /// A request of this user was answered; `route` is `GET /v1/health`, or [`OTHER`].
    pub(super) fn answered(&self, route: &str, user: Option<u32>, answer: StatusCode) {
        let user = user.map_or_else(|| OTHER.to_owned(), |user| user.to_string());
        self.0.send_modify(|status| {
            let is_new = !status.users.contains_key(&user);
            let user = if is_new && status.users.len() >= USERS { OTHER.to_owned() } else { user };
            let count = status.users.entry(user).or_default();
            *count = count.saturating_add(1);
            if answer == StatusCode::FORBIDDEN {
                status.forbidden = status.forbidden.saturating_add(1);
            }
            if !status.requests.contains_key(route) {
                status.requests.insert(route.to_owned(), Outcomes::default());
            }
            if let Some(outcomes) = status.requests.get_mut(route) {
                let count = match answer.as_u16() {
                    ..400 => &mut outcomes.ok,
                    400..500 => &mut outcomes.client_errors,
                    500.. => &mut outcomes.server_errors,
                };
                *count = count.saturating_add(1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_crowd_of_users_ever_fills_the_memory() {
        let (shown, status) = watch::channel(ApiStatus::default());
        let counts = Counts::new(shown);
        for user in 0..1000 {
            counts.answered("GET /v1/health", Some(user), StatusCode::OK);
        }
        counts.answered(OTHER, Some(3), StatusCode::FORBIDDEN);
        counts.answered("GET /v1/health", None, StatusCode::SERVICE_UNAVAILABLE);
        let status = status.borrow();
        assert_eq!((status.users.len(), status.users["3"], status.users[OTHER]), (USERS + 1, 2, 1000 - 16 + 1));
        assert_eq!(status.forbidden, 1);
        assert_eq!(status.requests["GET /v1/health"], Outcomes { ok: 1000, client_errors: 0, server_errors: 1 });
        assert_eq!(status.requests[OTHER].client_errors, 1);
    }
}
