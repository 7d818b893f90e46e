//! The connection to the broker as numbers, and each server.

use super::family::{Family, Value, counter, flag, gauge, gauge_if_known, info, many, moment, states};
use super::text::Text;
use crate::stats::{LinkState, LinkStatus, ServerState, ServerStatus};

const SERVER: Family<()> = info("pillion_link", "The server that is connected or was tried last.");

const STATE: Family<LinkState> = states("pillion_link_state", "Where the connection to the broker stands.");

/// The words are those of `/v1/status`.
const STATES: [(LinkState, &str); 4] = [
    (LinkState::Disconnected, "disconnected"),
    (LinkState::Connecting, "connecting"),
    (LinkState::Connected, "connected"),
    (LinkState::Draining, "draining"),
];

const LINK: &[Family<LinkStatus>] = &[
    flag("pillion_link_up", "Whether the broker is connected.", |link| {
        matches!(link.state, LinkState::Connected | LinkState::Draining)
    }),
    moment("pillion_link_since_timestamp_seconds", "When the link came into its state.", |link| link.since_ms),
    counter("pillion_link_connects", "Connections that the broker accepted.", |link| link.connects),
    gauge("pillion_link_in_flight", "Messages sent and not acknowledged yet.", |link| link.in_flight),
    gauge("pillion_link_window", "Messages that may be under way on the present link.", |link| link.window),
    counter("pillion_link_acknowledged", "Acknowledgements of messages with records.", |link| link.acknowledged),
    counter("pillion_link_repeated", "Records sent again after a lost connection.", |link| link.repeated),
    counter("pillion_link_sent_messages", "Messages with records that were sent.", |link| link.sent_messages),
    counter("pillion_link_sent_records", "Records in these messages.", |link| link.sent_records),
    counter("pillion_link_sent_bytes", "Bytes of these messages, topics and payloads.", |link| link.sent_bytes),
    counter("pillion_link_sent_plain_bytes", "The same before compression.", |link| link.plain_bytes),
    gauge_if_known(
        "pillion_link_budget_bytes",
        "What may be sent in each period of mqtt.budget; none without one.",
        |link| link.budget.as_ref().map(|budget| Value::Count(budget.bytes)),
    ),
    gauge_if_known("pillion_link_budget_used_bytes", "What of mqtt.budget is used in this period.", |link| {
        link.budget.as_ref().map(|budget| Value::Count(budget.used))
    }),
    gauge_if_known(
        "pillion_link_budget_ends_timestamp_seconds",
        "When mqtt.budget begins anew, if that is known.",
        |link| link.budget.as_ref()?.ends_ms.map(Value::Millis),
    ),
    gauge(
        "pillion_link_held_streams",
        "Streams that wait for mqtt.budget, the end of their quiet hours, or a broker that refuses them now.",
        |link| many(link.held.len()),
    ),
    gauge("pillion_link_barred_topics", "Topics on which messages have ended the connection time and again.", |link| {
        many(link.barred.len())
    }),
    counter("pillion_link_unsolicited_acks", "Acknowledgements that nothing was waiting for.", |link| {
        link.unsolicited_acks
    }),
    counter("pillion_link_ack_timeouts", "Connections given up for want of an acknowledgement.", |link| {
        link.ack_timeouts
    }),
];

const SERVERS: &[Family<ServerStatus>] = &[
    flag("pillion_server_up", "Whether this server is the one that is connected.", |server| {
        server.state == ServerState::Connected
    }),
    moment("pillion_server_since_timestamp_seconds", "When this server came into its state.", |server| server.since_ms),
    counter("pillion_server_connects", "Connections that this server accepted.", |server| server.connects),
    counter("pillion_server_failures", "Tries that came to nothing, and connections that were lost.", |server| {
        server.failures
    }),
    gauge_if_known("pillion_server_last_failure_timestamp_seconds", "When the latest of them was.", |server| {
        server.last_error_ms.map(Value::Millis)
    }),
    flag("pillion_server_exposed", "Whether this server is remote and spoken to without TLS.", |server| {
        server.warning.is_some()
    }),
];

const TLS: Family<u64> =
    counter("pillion_link_tls_failures", "Connections that TLS did not come about on.", |count| *count);

const REFUSALS: Family<u64> =
    counter("pillion_link_refusals", "Messages that the broker did not take.", |count| *count);

pub(super) fn write(text: &mut Text, link: &LinkStatus) {
    text.family(&SERVER, link.server.as_deref().map(|server| (vec![("server", server)], &())));
    text.states(&STATE, &STATES, link.state);
    text.families(LINK, || [(vec![], link)]);
    text.families(SERVERS, || link.servers.iter().map(|server| (vec![("server", server.server.as_str())], server)));
    for (family, counts) in [(TLS, &link.tls_failures), (REFUSALS, &link.refusals)] {
        text.family(&family, counts.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], count)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_never_called_otherwise_than_in_the_status() {
        for (state, word) in STATES {
            assert_eq!(serde_json::to_value(state).unwrap(), word);
        }
    }
}
