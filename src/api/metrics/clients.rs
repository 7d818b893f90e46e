//! The local API as numbers: connections, and what became of requests.

use super::family::{Family, counter, gauge};
use super::text::{Row, Text};
use crate::stats::{ApiStatus, Outcomes};

const API: &[Family<ApiStatus>] = &[
    gauge("pillion_api_open", "Connections to the local socket that are open now.", |api| api.open),
    counter("pillion_api_connections", "Connections to the local socket.", |api| api.connections),
    counter("pillion_api_sent_away", "Idle or slow connections ended to make room for new ones.", |api| api.sent_away),
    counter("pillion_api_forbidden", "Requests of users who may not use the local socket.", |api| api.forbidden),
];

const REQUESTS: Family<u64> =
    counter("pillion_api_requests", "Requests by route and class of the answer.", |count| *count);

const USERS: Family<u64> =
    counter("pillion_api_user_requests", "Requests by the number of their user.", |count| *count);

pub(super) fn write(text: &mut Text, api: Option<&ApiStatus>) {
    text.families(API, || api.map(|api| (vec![], api)));
    text.family(&REQUESTS, api.into_iter().flat_map(|api| &api.requests).flat_map(outcomes));
    let users = api.into_iter().flat_map(|api| &api.users);
    text.family(&USERS, users.map(|(user, count)| (vec![("uid", user.as_str())], count)));
}

fn outcomes<'a>((route, outcomes): (&'a String, &'a Outcomes)) -> [Row<'a, u64>; 3] {
    let row = |class, count| (vec![("route", route.as_str()), ("class", class)], count);
    [row("ok", &outcomes.ok), row("4xx", &outcomes.client_errors), row("5xx", &outcomes.server_errors)]
}
