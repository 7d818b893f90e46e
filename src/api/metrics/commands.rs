//! Commands to devices as numbers, and the session in which they come.

use super::family::{Family, counter, flag, gauge, many, moment};
use super::text::Text;
use crate::stats::{CommandsStatus, LinkState};

const COMMANDS: &[Family<CommandsStatus>] = &[
    flag("pillion_commands_up", "Whether commands can come from the broker.", |commands| {
        commands.session.state == LinkState::Connected
    }),
    moment("pillion_commands_since_timestamp_seconds", "When their session came into its state.", |commands| {
        commands.session.since_ms
    }),
    counter("pillion_commands_connects", "Subscriptions that the broker confirmed.", |commands| {
        commands.session.connects
    }),
    counter("pillion_commands_received", "Messages from the broker.", |commands| commands.session.received),
    counter("pillion_commands_resets", "Sessions given up with all commands in them.", |commands| {
        commands.session.resets
    }),
    gauge("pillion_commands_denied", "Topic filters that are not subscribed to, denied or set aside.", |commands| {
        let session = &commands.session;
        many(session.denied.len() + session.set_aside.len())
    }),
    counter("pillion_commands_begun", "Commands handed to their device.", |commands| commands.counts.begun),
    counter("pillion_commands_done", "Commands that were done.", |commands| commands.counts.done),
    counter("pillion_commands_failed", "Commands that did not work, or nobody knows.", |commands| {
        commands.counts.failed
    }),
    counter("pillion_commands_expired", "Commands that were too late.", |commands| commands.counts.expired),
    counter("pillion_commands_refused", "Commands that were not allowed, malformed or too many.", |commands| {
        commands.counts.refused
    }),
    counter("pillion_commands_repeated", "Commands that came again, and were not carried out again.", |commands| {
        commands.counts.repeated
    }),
    counter("pillion_commands_unanswered", "Refusals and repetitions that got no reply.", |commands| {
        commands.counts.unanswered
    }),
    flag("pillion_commands_journal_error", "Whether commands are refused because the disk fails.", |commands| {
        commands.counts.journal_error.is_some()
    }),
];

pub(super) fn write(text: &mut Text, commands: Option<&CommandsStatus>) {
    text.families(COMMANDS, || commands.map(|commands| (vec![], commands)));
}
