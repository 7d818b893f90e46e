//! What came from the broker for the application, as numbers: messages, and the keys of its configuration.

use super::family::{Family, counter, flag, gauge};
use super::text::Text;
use crate::stats::{InboxStatus, SettingsStatus, Status};

const INBOX: &[Family<InboxStatus>] = &[
    gauge("pillion_inbox_kept", "Messages that are kept for the application.", |inbox| inbox.kept),
    gauge("pillion_inbox_bytes", "Their bytes, topics included.", |inbox| inbox.bytes),
    gauge("pillion_inbox_latest", "The number of the latest message.", |inbox| inbox.latest),
    counter("pillion_inbox_received", "Messages taken in.", |inbox| inbox.received),
    counter("pillion_inbox_repeated", "Messages that came again, and were not taken in again.", |inbox| inbox.repeated),
    counter("pillion_inbox_dropped", "Messages that went before any client had read them.", |inbox| inbox.dropped),
    counter("pillion_inbox_refused", "Messages that were too large.", |inbox| inbox.refused),
    flag("pillion_inbox_error", "Whether messages can't be kept because the disk fails.", |inbox| {
        inbox.error.is_some()
    }),
];

const CONFIG: &[Family<SettingsStatus>] = &[
    flag("pillion_config_synced", "Whether all keys that the broker has are here.", |config| config.synced),
    gauge("pillion_config_keys", "Keys of the application's configuration.", |config| config.keys),
    gauge("pillion_config_bytes", "Bytes of their values and names.", |config| config.bytes),
    counter("pillion_config_updates", "Values that were new.", |config| config.updates),
    counter("pillion_config_deletions", "Keys that were deleted.", |config| config.deletions),
    counter("pillion_config_refused", "Values that were too large or too many.", |config| config.refused),
    counter("pillion_config_damaged", "Keys whose files were damaged.", |config| config.damaged),
    gauge("pillion_config_unconfirmed", "Keys that the broker did not send when asked for all.", |config| {
        config.unconfirmed
    }),
    flag("pillion_config_error", "Whether values can't be kept because the disk fails.", |config| {
        config.error.is_some()
    }),
];

pub(super) fn write(text: &mut Text, status: &Status) {
    text.families(INBOX, || status.inbox.iter().map(|inbox| (vec![], inbox)));
    text.families(CONFIG, || status.config.iter().map(|config| (vec![], config)));
}
