//! One command on its way through its device: what the device's task reports becomes replies.

use super::tell;
use crate::command::{Progress, Reply, Stage};
use crate::record::{Clock, Durability, Encoding, Record, StreamId, Submission, Timestamp};
use serde::Serialize;
use tokio::sync::mpsc;

/// Who hears what becomes of a command.
pub(super) struct Voice {
    pub(super) submissions: mpsc::Sender<Submission>,
    pub(super) clock: Clock,
    pub(super) local: Option<mpsc::Sender<Reply>>,
}

/// A command that has come to its end; nobody has heard of that yet.
pub(super) struct Carried {
    pub(super) device: String,
    pub(super) reply: Reply,
    pub(super) local: Option<mpsc::Sender<Reply>>,
}

/// Follows a command to its end.
pub(super) async fn carry(device: String, id: String, mut reports: mpsc::Receiver<Progress>, voice: Voice) -> Carried {
    while let Some(report) = reports.recv().await {
        let is_final = report.is_final();
        let reply = Reply::of(&id, report);
        if is_final {
            return Carried { device, reply, local: voice.local };
        }
        tell(voice.local.as_ref(), &reply);
        let _ = voice.submissions.send(reply_record(&device, &reply, (voice.clock)())).await;
    }
    let reason = "the device was given up before it was done; nobody knows whether it was done";
    Carried { device, reply: Reply::because(&id, Stage::Failed, reason), local: voice.local }
}

/// A reply on its way to the broker.
pub(super) fn reply_record(device: &str, reply: &Reply, time: Timestamp) -> Submission {
    record(format!("device/{device}/reply"), reply, time)
}

/// Something that whoever looks after the gateway should know.
pub(super) fn event(kind: &str, detail: &str, time: Timestamp) -> Submission {
    record("event".to_owned(), &serde_json::json!({ "type": kind, "detail": detail }), time)
}

fn record(topic: String, document: &impl Serialize, time: Timestamp) -> Submission {
    // Plain structs with string keys always serialise.
    let data = serde_json::to_vec(document).unwrap_or_default();
    let records = vec![Record { topic, time, encoding: Encoding::Json, data }];
    Submission { stream: StreamId::EVENT, records, durability: Durability::Window, note: None, reply: None }
}
