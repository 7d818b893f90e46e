//! What is shown of the link: where it stands, and each of the servers.

use super::{Lost, Publisher};
use crate::config::Server;
use crate::mqtt::LinkError;
use crate::outage::Outage;
use crate::stats::{LinkState, LinkStatus, ServerState, ServerStatus};
use tokio::sync::watch;

/// A try that came to nothing, or the end of a connection.
pub(super) struct Failure {
    reason: String,
    tls: Option<&'static str>,
    timed_out: bool,
}

impl Failure {
    pub(super) fn of_link(error: &LinkError) -> Self {
        let tls = match error {
            LinkError::Tls(error) => Some(error.kind()),
            _ => None,
        };
        Failure { reason: error.to_string(), tls, timed_out: false }
    }

    fn of(lost: &Lost) -> Self {
        match lost {
            Lost::Link(error) => Failure::of_link(error),
            lost => Failure { reason: lost.to_string(), tls: None, timed_out: matches!(lost, Lost::AckTimeout) },
        }
    }
}

/// A server is tried.
pub(super) fn trying(status: &watch::Sender<LinkStatus>, server: &Server, place: Option<usize>, now_ms: u64) {
    status.send_if_modified(|status| {
        status.state = LinkState::Connecting;
        status.server = Some(server.to_string());
        change(status, place, ServerState::Connecting, now_ms);
        false
    });
}

/// A server could not be connected to, or not any more.
pub(super) fn failed(
    status: &watch::Sender<LinkStatus>,
    outage: &mut Outage,
    (server, place): (&Server, Option<usize>),
    failure: &Failure,
    now_ms: u64,
) {
    let Failure { reason, tls, timed_out } = failure;
    status.send_if_modified(|status| {
        let lost = matches!(status.state, LinkState::Connected | LinkState::Draining);
        let changed = lost || status.reason.as_ref() != Some(reason);
        let server = server.to_string();
        if outage.is_news(lost, &format!("{server}: {reason}")) {
            tracing::warn!(server, reason, "not connected to {server}: {reason}");
        }
        if lost {
            status.since_ms = now_ms;
        }
        status.state = LinkState::Disconnected;
        status.server = Some(server);
        status.reason = Some(reason.clone());
        status.in_flight = 0;
        status.ack_timeouts += u64::from(*timed_out);
        if let Some(kind) = tls {
            *status.tls_failures.entry((*kind).to_owned()).or_default() += 1;
        }
        if let Some(server) = change(status, place, ServerState::Failed, now_ms) {
            server.failures += 1;
            server.last_error = Some(reason.clone());
            server.last_error_ms = Some(now_ms);
        }
        changed
    });
}

/// Changes the state of one of the servers, if it is a listed one.
fn change(status: &mut LinkStatus, place: Option<usize>, state: ServerState, now_ms: u64) -> Option<&mut ServerStatus> {
    let server = status.servers.get_mut(place?)?;
    if server.state != state {
        (server.state, server.since_ms) = (state, now_ms);
    }
    Some(server)
}

impl Publisher {
    /// All servers, none of them connected. What was known of them before is kept.
    pub(super) fn show_servers(&self) {
        let now_ms = (self.wiring.clock)().wall_ms;
        self.wiring.status.send_if_modified(|status| {
            let known = std::mem::take(&mut status.servers);
            let servers = self.mqtt.servers.iter().map(|server| {
                let name = server.to_string();
                let known = known.iter().find(|known| known.server == name).cloned();
                known.unwrap_or_else(|| ServerStatus {
                    server: name,
                    since_ms: now_ms,
                    warning: server.warning(),
                    ..ServerStatus::default()
                })
            });
            status.servers = servers.collect();
            for server in status.servers.iter_mut().filter(|server| server.state == ServerState::Connected) {
                (server.state, server.since_ms) = (ServerState::Left, now_ms);
            }
            false
        });
    }

    pub(super) fn show_state(&self, state: LinkState) {
        self.wiring.status.send_if_modified(|status| {
            let changed = status.state != state;
            status.state = state;
            changed
        });
    }

    /// `notices`: what the broker does not allow.
    pub(super) fn show_connected(&self, notices: Vec<String>) {
        let now_ms = (self.wiring.clock)().wall_ms;
        let (_, place) = self.dialer.at();
        self.wiring.status.send_modify(|status| {
            status.state = LinkState::Connected;
            status.reason = None;
            status.since_ms = now_ms;
            status.connects += 1;
            for notice in notices.iter().filter(|notice| !status.notices.contains(notice)) {
                tracing::warn!("{notice}");
            }
            status.notices = notices;
            if let Some(server) = change(status, place, ServerState::Connected, now_ms) {
                server.connects += 1;
            }
            let server = status.server.as_deref().unwrap_or_default();
            tracing::info!(server, "connected to {server}");
        });
    }

    /// Topics were barred, or are no more.
    pub(super) fn show_bars(&self) {
        let bars = self.poison.bars();
        self.wiring.status.send_if_modified(|status| {
            for (name, words) in bars.iter().filter(|(name, words)| status.barred.get(*name) != Some(words)) {
                tracing::warn!(topic = name, "{words}");
            }
            for name in status.barred.keys().filter(|name| !bars.contains_key(*name)) {
                tracing::info!(topic = name, "the broker takes what is sent on {name} again");
            }
            status.barred = bars;
            false
        });
    }

    /// A better server is well again.
    pub(super) fn show_moving(&self, to: usize) {
        let to = self.mqtt.servers.get(to).map(ToString::to_string).unwrap_or_default();
        self.wiring.status.send_modify(|status| {
            status.state = LinkState::Draining;
            let server = status.server.as_deref().unwrap_or_default();
            tracing::info!(server, to, "moving from {server} back to {to}");
        });
    }

    /// The connection was ended for a better server.
    pub(super) fn show_left(&self) {
        let now_ms = (self.wiring.clock)().wall_ms;
        let (_, place) = self.dialer.at();
        self.wiring.status.send_if_modified(|status| {
            status.in_flight = 0;
            change(status, place, ServerState::Left, now_ms);
            false
        });
    }

    pub(super) fn show_lost(&mut self, lost: &Lost) {
        let now_ms = (self.wiring.clock)().wall_ms;
        if let (Some(server), place) = self.dialer.at() {
            failed(&self.wiring.status, &mut self.outage, (server, place), &Failure::of(lost), now_ms);
        }
    }
}
