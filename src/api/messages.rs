//! `GET /v1/commands`: the messages that the broker has for the application, as they come.
//!
//! ```text
//! {"id":17,"topic":"mode","ts":"2026-11-23T02:41:07.123Z","retained":false,"data":…}
//!     "clock":"unsynced"    when the wall clock was not yet to be trusted
//!     "encoding":"base64"   when `data` is a string that holds base64
//! ```
//!
//! A client that was away gives the last id that it has seen as `after`, and gets what came since, as far as that is kept.

use super::answer::{Answer, Error};
use super::call::{Call, Shared, ask};
use super::lines;
use super::query::Query;
use crate::inbound::{Message, MessagesRequest, data_of};
use crate::record::{ClockQuality, rfc3339};
use serde::Serialize;
use serde_json::value::RawValue;

/// A message as a client sees it.
#[derive(Serialize)]
struct Line<'m> {
    id: u64,
    topic: &'m str,
    ts: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    retained: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    data: Box<RawValue>,
}

pub(super) async fn messages(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let after = after_of(call.head.uri.query())?;
    let mut inbox = shared.api.inbox.clone().ok_or(Error::Off("messages", "commands"))?;
    let mut after = after.unwrap_or_else(|| *inbox.latest.borrow());
    lines::answer(shared, &call, move |out| async move {
        loop {
            inbox.latest.mark_unchanged();
            let Ok(page) = ask(&inbox.requests, |reply| MessagesRequest { after, reply }).await else { return };
            for message in &page {
                if out.send(&line(message)).await.is_err() {
                    return;
                }
                after = message.id;
            }
            // The end of the flow is the end of pillion.
            if page.is_empty() && inbox.latest.changed().await.is_err() {
                return;
            }
        }
    })
}

fn line(message: &Message) -> Line<'_> {
    let (data, encoding) = data_of(&message.data);
    Line {
        id: message.id,
        topic: &message.topic,
        ts: rfc3339(message.time.wall_ms),
        clock: (message.time.quality == ClockQuality::Unsynced).then_some("unsynced"),
        retained: message.retained,
        encoding,
        data,
    }
}

fn after_of(query: Option<&str>) -> Result<Option<u64>, Error> {
    let query = Query::read(query, &["after"])?;
    let Some(text) = query.get("after") else { return Ok(None) };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number).map(Some);
    number.ok_or_else(|| {
        Error::Bad(format!(
            "after is {text:?}; give the id of the last message that you have, or 0 for all that are kept"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timestamp;

    #[test]
    fn the_line_of_a_message_never_changes_its_shape() {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };
        let message = Message { id: 17, topic: "mode".into(), time, retained: false, data: b"{\n\"a\":1}".to_vec() };
        let text = serde_json::to_string(&line(&message)).unwrap();
        assert_eq!(
            text,
            r#"{"id":17,"topic":"mode","ts":"2026-11-23T02:41:07.123Z","retained":false,"data":{ "a":1}}"#
        );
        let time = Timestamp { quality: ClockQuality::Unsynced, ..time };
        let text = serde_json::to_string(&line(&Message { time, data: vec![0, 255], ..message })).unwrap();
        assert_eq!(
            text,
            r#"{"id":17,"topic":"mode","ts":"2026-11-23T02:41:07.123Z","clock":"unsynced","retained":false,"encoding":"base64","data":"AP8="}"#
        );
    }

    #[test]
    fn an_id_is_never_guessed() {
        assert_eq!((after_of(None).unwrap(), after_of(Some("after=0")).unwrap()), (None, Some(0)));
        for wrong in
            ["after=", "after=-1", "after=+1", "after=x", "after=1&after=2", "since=1", "after=99999999999999999999"]
        {
            assert!(after_of(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
