//! `POST /v1/reload`: has the configuration read again, as SIGHUP does, and tells what became of it.
//!
//! Constraint: the files are root's. Whoever may use the socket can have them read, and nothing more.

use super::answer::{Answer, Error, json};
use super::call::Shared;
use crate::record::Refusal;
use crate::stats::{ReloadOutcome, ReloadStatus};
use hyper::StatusCode;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Devices have to let go of their ports, and the broker to acknowledge what is on the wire.
const PATIENCE: Duration = Duration::from_secs(40);

/// The answer.
#[derive(Serialize)]
struct Document<'r> {
    /// Where it was not applied: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    reload: &'r ReloadStatus,
}

pub(super) async fn reload(shared: &Shared) -> Result<Answer, Error> {
    let (reply, answer) = oneshot::channel();
    shared.api.reload.try_send(reply).map_err(|error| match error {
        TrySendError::Full(_) => Error::Reloads,
        TrySendError::Closed(_) => Error::Refused(Refusal::Stopping),
    })?;
    match timeout(PATIENCE, answer).await {
        Ok(Ok(reload)) => {
            let error = (!reload.is_done()).then(|| reload.text());
            Ok(json(status_of(reload.outcome), &Document { error, reload: &reload }))
        }
        Ok(Err(_)) => Err(Error::Refused(Refusal::Stopping)),
        Err(_) => Err(Error::NoAnswer),
    }
}

fn status_of(outcome: ReloadOutcome) -> StatusCode {
    match outcome {
        ReloadOutcome::Applied | ReloadOutcome::Unchanged => StatusCode::OK,
        ReloadOutcome::NeedsRestart => StatusCode::CONFLICT,
        ReloadOutcome::Wrong => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
