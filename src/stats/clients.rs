//! The local API: who came, and what became of the requests.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The local API.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ApiStatus {
    /// Connections that are open now.
    pub open: u64,
    /// Connections so far.
    pub connections: u64,
    /// Idle or slow connections ended to make room for new ones.
    pub sent_away: u64,
    /// Requests of users who may not use the socket.
    pub forbidden: u64,
    /// What became of requests, by method and route (`GET /v1/health`); `other` are those that no route has.
    pub requests: BTreeMap<String, Outcomes>,
    /// Requests by the number of their user; `other` are users beyond the first sixteen.
    pub users: BTreeMap<String, u64>,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Answered with a status below 400.
    pub ok: u64,
    /// Answered with 400 to 499: the client did something wrong, or came at a bad time.
    pub client_errors: u64,
    /// Answered with 500 to 599: something does not work. The 503 of `GET /v1/health` is one of them.
    pub server_errors: u64,
}
