//! `POST /v1/heartbeat`: the application is alive. What the body says does not matter.

use super::answer::{Answer, Error, nothing};
use super::call::Shared;
use tokio::time::Instant;

pub(super) async fn heartbeat(shared: &Shared) -> Result<Answer, Error> {
    shared.api.beats.send_replace(Some(Instant::now()));
    Ok(nothing())
}
