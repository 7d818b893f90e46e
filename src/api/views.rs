//! The routes that only look: health, status, devices, metrics, and the last bytes of a port.

use super::answer::{Answer, Error, json, json_text, text};
use super::call::{self, Call, Shared, ask_status};
use super::metrics;
use crate::stats::HealthState;
use hyper::StatusCode;

pub(super) async fn health(shared: &Shared) -> Result<Answer, Error> {
    let health = ask_status(&shared.api).await?.health;
    let status = match health.state {
        HealthState::Healthy => StatusCode::OK,
        HealthState::Degraded | HealthState::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok(json(status, &health))
}

pub(super) async fn status(shared: &Shared) -> Result<Answer, Error> {
    Ok(json(StatusCode::OK, &ask_status(&shared.api).await?))
}

pub(super) async fn devices(shared: &Shared) -> Result<Answer, Error> {
    Ok(json(StatusCode::OK, &ask_status(&shared.api).await?.devices))
}

/// The description of all this, in OpenAPI 3.1.
pub(super) const DESCRIPTION: &str = include_str!("openapi.json");

pub(super) async fn description() -> Result<Answer, Error> {
    Ok(json_text(StatusCode::OK, DESCRIPTION.to_owned()))
}

pub(super) async fn all_metrics(shared: &Shared) -> Result<Answer, Error> {
    Ok(text(metrics::CONTENT_TYPE, metrics::render(&ask_status(&shared.api).await?)))
}

/// The last bytes that passed a device's port.
pub(super) async fn trace(shared: &Shared, call: Call) -> Result<Answer, Error> {
    let name = call.name;
    let roster = shared.api.roster.borrow().clone();
    let device = roster.iter().find(|member| member.name == name).and_then(|member| member.traces.as_ref());
    let device = device.ok_or(Error::NoTrace(name))?;
    Ok(json(StatusCode::OK, &call::ask(device, |reply| reply).await?))
}
