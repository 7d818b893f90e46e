//! `/v1/config`: the application's configuration, as the broker keeps it and as it was kept here.
//!
//! ```text
//! GET /v1/config                 {"synced":true,"keys":{"limits/high":{"etag":"…","ts":"…","data":…}}}
//! GET /v1/config/limits%2Fhigh   {"synced":true,"key":"limits/high","etag":"…","ts":"…","data":…}
//! GET /v1/config?watch=true      all keys, a line each:      {"key":"limits/high","etag":"…","ts":"…","data":…}
//!                                then, and when it changes:  {"synced":true}
//!                                then what changes:          {"key":…,"etag":…,…}   {"key":…,"deleted":true}
//! ```
//!
//! `"encoding":"base64"` stands beside `data` where that is a string of base64, `"clock":"unsynced"` beside a time that is
//! not to be trusted. `synced`: the store has all that the broker has, since the connection was made. An application that
//! must not start with an old configuration asks with `wait=10s`, and gets the answer when it is so, or at that time.
//!
//! A slow reader of changes misses values that were replaced meanwhile, never the latest.

use super::answer::{Answer, Error, json, json_text};
use super::call::{Call, Shared, ask};
use super::lines;
use super::phase::{Phase, Phases};
use super::publish::place_for;
use super::query::Query;
use super::records::check_topic;
use crate::inbound::{Setting, SettingsNews, SettingsRequest, SettingsStore, data_of};
use crate::record::{ClockQuality, Durability, Encoding, REPORTED, Record, StreamId, Submission, rfc3339};
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::timeout;

/// The longest `wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(40);
/// The largest reported value in bytes.
const MAX_REPORT: usize = 16 * 1024;
/// From the request's head to the end of its body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A key as a client sees it.
#[derive(Serialize)]
struct Shown<'s> {
    #[serde(skip_serializing_if = "Option::is_none")]
    synced: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'s str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

impl<'s> Shown<'s> {
    const NOTHING: Shown<'static> = Shown {
        synced: None,
        key: None,
        deleted: false,
        etag: None,
        ts: None,
        clock: None,
        encoding: None,
        data: None,
    };

    fn of(setting: &'s Setting) -> Shown<'s> {
        let Some((etag, time, value)) = &setting.kept else {
            return Shown { key: Some(&setting.key), deleted: true, ..Shown::NOTHING };
        };
        let (data, encoding) = data_of(value);
        Shown {
            key: Some(&setting.key),
            etag: Some(etag),
            ts: Some(rfc3339(time.wall_ms)),
            clock: (time.quality == ClockQuality::Unsynced).then_some("unsynced"),
            encoding,
            data: Some(data),
            ..Shown::NOTHING
        }
    }
}

/// `GET /v1/config`
pub(super) async fn all(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let query = Query::read(call.head.uri.query(), &["watch", "wait"])?;
    let mut store = store(shared)?;
    let wait = wait_of(&query)?;
    if query.flag("watch")? {
        return match wait {
            None => lines::answer(shared, &call, |out| watch(store, out)),
            Some(_) => Err(Error::Bad("wait and watch don't go together: a line tells when it is synced".to_owned())),
        };
    }
    let synced = synced(&mut store, wait, &call.phases).await;
    // All values at once are the largest answer there is.
    let _place = place_for(&shared.large_bodies).await?;
    let mut text = format!("{{\"synced\":{synced},\"keys\":{{");
    let mut after = 0;
    let mut comma = "";
    loop {
        let page = changes(&store, after, true).await?.unwrap_or_default();
        let Some(last) = page.last() else { break };
        after = last.revision.max(after);
        for setting in page.iter().filter(|setting| setting.kept.is_some()) {
            let key = serde_json::Value::from(setting.key.as_str());
            let shown = serde_json::to_string(&Shown { key: None, ..Shown::of(setting) }).unwrap_or_default();
            text += &format!("{comma}{key}:{shown}");
            comma = ",";
        }
    }
    text += "}}\n";
    Ok(json_text(StatusCode::OK, text))
}

/// `GET /v1/config/{key}`
pub(super) async fn one(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let query = Query::read(call.head.uri.query(), &["wait"])?;
    let mut store = store(shared)?;
    let synced = synced(&mut store, wait_of(&query)?, &call.phases).await;
    let key = call.name;
    let setting = ask(&store.requests, |reply| SettingsRequest::Value { key: key.clone(), reply }).await??;
    let setting = setting.filter(|setting| setting.kept.is_some()).ok_or(Error::NoKey(key))?;
    Ok(json(StatusCode::OK, &Shown { synced: Some(synced), ..Shown::of(&setting) }))
}

/// `PUT /v1/config/{key}/reported`: a record that the broker keeps.
pub(super) async fn report(shared: &Shared, call: Call) -> Result<Answer, Error> {
    Query::read(call.head.uri.query(), &[])?;
    store(shared)?;
    let key = call.name;
    let longest = shared.api.max_topic.saturating_sub(REPORTED.len());
    check_topic(&key, longest).map_err(|why| Error::Bad(format!("key: {why}")))?;
    let most = MAX_REPORT.min(shared.api.max_payload);
    call.phases.enter(Phase::Body);
    let reading = Limited::new(call.body, most).collect();
    let body = timeout(BODY_TIME, reading).await.map_err(|_| Error::TooSlow)?;
    call.phases.enter(Phase::Request);
    let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
        true => Error::TooLarge(format!("what is reported may have {most} bytes at the most")),
        false => Error::CutOff,
    })?;
    let data = body.to_bytes().to_vec();
    let record =
        Record { topic: format!("{REPORTED}{key}"), time: (shared.api.clock)(), encoding: Encoding::Raw, data };
    let submit = |reply| Submission {
        stream: StreamId::EVENT,
        records: vec![record],
        durability: Durability::Process,
        note: None,
        reply: Some(reply),
    };
    let accepted = ask(&shared.api.submissions, submit).await??;
    Ok(json(StatusCode::OK, &serde_json::json!({ "accepted": 1, "id": format!("event:{}", accepted.first) })))
}

async fn watch(mut store: SettingsStore, out: lines::Lines) {
    let (mut after, mut told) = (0, None);
    // What changes while the keys that there are go out comes behind them, if need be once more.
    let begin = store.news.borrow().revision;
    let mut all = true;
    loop {
        let SettingsNews { synced, .. } = *store.news.borrow_and_update();
        // Changes that can't be told any more, or not now, or the end of pillion: the client asks again.
        let Ok(Some(page)) = changes(&store, after, all).await else { return };
        for setting in &page {
            if out.send(&Shown::of(setting)).await.is_err() {
                return;
            }
            after = setting.revision.max(after);
        }
        if !page.is_empty() {
            continue;
        }
        if std::mem::take(&mut all) {
            after = begin;
            continue;
        }
        if told.replace(synced) != Some(synced)
            && out.send(&Shown { synced: Some(synced), ..Shown::NOTHING }).await.is_err()
        {
            return;
        }
        if store.news.changed().await.is_err() {
            return;
        }
    }
}

async fn changes(store: &SettingsStore, after: u64, all: bool) -> Result<Option<Vec<Setting>>, Error> {
    Ok(ask(&store.requests, |reply| SettingsRequest::Changes { after, all, reply }).await??)
}

/// Waits until the store is synced; whether it is.
async fn synced(store: &mut SettingsStore, wait: Option<Duration>, phases: &Phases) -> bool {
    phases.enter(Phase::Wait);
    let wait = wait.unwrap_or_default();
    let _ = timeout(wait, store.news.wait_for(|news| news.synced)).await;
    phases.enter(Phase::Request);
    store.news.borrow().synced
}

fn store(shared: &Shared) -> Result<SettingsStore, Error> {
    shared.api.settings.clone().ok_or(Error::Off("keys of the configuration", "config"))
}

fn wait_of(query: &Query) -> Result<Option<Duration>, Error> {
    let Some(text) = query.get("wait") else { return Ok(None) };
    let wait = humantime::parse_duration(text).ok().filter(|wait| *wait <= LONGEST_WAIT);
    wait.map(Some).ok_or_else(|| Error::Bad(format!("wait is {text:?}; give up to 40s, such as 10s")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timestamp;

    #[test]
    fn the_lines_of_keys_never_change_their_shape() {
        let time = Timestamp { wall_ms: 1_795_401_667_123, mono_ms: 5, quality: ClockQuality::Trusted };
        let kept = |value: &[u8]| Some(("ab-1".to_owned(), time, value.to_vec()));
        let line = |kept| {
            let setting = Setting { key: "limits/high".to_owned(), revision: 9, kept };
            serde_json::to_string(&Shown::of(&setting)).unwrap()
        };
        assert_eq!(
            line(kept(b"{\"bar\":\n4}")),
            r#"{"key":"limits/high","etag":"ab-1","ts":"2026-11-23T02:41:07.123Z","data":{"bar": 4}}"#
        );
        assert_eq!(
            line(kept(&[0, 255])),
            r#"{"key":"limits/high","etag":"ab-1","ts":"2026-11-23T02:41:07.123Z","encoding":"base64","data":"AP8="}"#
        );
        assert_eq!(line(None), r#"{"key":"limits/high","deleted":true}"#);
        let synced = serde_json::to_string(&Shown { synced: Some(false), ..Shown::NOTHING }).unwrap();
        assert_eq!(synced, r#"{"synced":false}"#);
    }
}
