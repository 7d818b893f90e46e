//! Which request goes where, and how a flow is asked.

use super::answer::{Answer, Error, json, text};
use super::{Api, command, metrics, publish};
use crate::record::Refusal;
use crate::stats::{HealthState, Status, TraceEntry};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// How long a flow may take to answer. An fdatasync on a worn SD card takes seconds.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Large bodies in memory at once; with their limit of 1 MiB (or `max_payload`) this bounds what clients can make us hold.
const LARGE_BODIES: usize = 4;

/// What all connections share.
pub(super) struct Shared {
    pub(super) api: Api,
    pub(super) large_bodies: Semaphore,
}

impl Shared {
    pub(super) fn new(api: Api) -> Self {
        Shared { api, large_bodies: Semaphore::new(LARGE_BODIES) }
    }
}

/// Answers one request, whatever it is.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    let outcome = match (request.uri().path(), request.method()) {
        ("/v1/health", &Method::GET | &Method::HEAD) => health(&shared.api).await,
        ("/v1/status", &Method::GET | &Method::HEAD) => status(&shared.api).await,
        ("/metrics", &Method::GET | &Method::HEAD) => all_metrics(&shared.api).await,
        ("/v1/devices", &Method::GET | &Method::HEAD) => devices(&shared.api).await,
        ("/v1/publish", &Method::POST) => publish::publish(shared, request).await,
        ("/v1/health" | "/v1/status" | "/v1/devices" | "/metrics", _) => Err(Error::Method("GET, HEAD")),
        ("/v1/publish", _) => Err(Error::Method("POST")),
        (path, method) => match (command::device_of(path).map(str::to_owned), method) {
            (Some(device), &Method::POST) => command::command(shared, device, request).await,
            (Some(_), _) => Err(Error::Method("POST")),
            (None, &Method::GET | &Method::HEAD) => trace(&shared.api, path).await,
            (None, _) => Err(Error::NotFound),
        },
    };
    outcome.unwrap_or_else(|error| {
        tracing::debug!("refused a request on the local socket: {error}");
        error.answer()
    })
}

/// The last bytes of the device in `/v1/devices/NAME/trace`.
async fn trace(api: &Api, path: &str) -> Result<Answer, Error> {
    let name = path.strip_prefix("/v1/devices/").and_then(|rest| rest.strip_suffix("/trace"));
    let name = name.filter(|name| !name.contains('/')).ok_or(Error::NotFound)?;
    let device = api.traces.get(name).ok_or_else(|| Error::NoTrace(name.to_owned()))?;
    let (request, answer) = oneshot::channel();
    let asked = async {
        device.send(request).await.ok()?;
        answer.await.ok()
    };
    let entries: Vec<TraceEntry> = timeout(ANSWER_TIME, asked).await.ok().flatten().ok_or(Error::NoAnswer)?;
    Ok(json(StatusCode::OK, &entries))
}

async fn health(api: &Api) -> Result<Answer, Error> {
    let health = ask_status(api).await?.health;
    let status = match health.state {
        HealthState::Healthy => StatusCode::OK,
        HealthState::Degraded => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok(json(status, &health))
}

async fn status(api: &Api) -> Result<Answer, Error> {
    Ok(json(StatusCode::OK, &ask_status(api).await?))
}

async fn devices(api: &Api) -> Result<Answer, Error> {
    Ok(json(StatusCode::OK, &ask_status(api).await?.devices))
}

async fn all_metrics(api: &Api) -> Result<Answer, Error> {
    Ok(text(metrics::CONTENT_TYPE, metrics::render(&ask_status(api).await?)))
}

pub(super) async fn ask_status(api: &Api) -> Result<Status, Error> {
    ask(&api.status, |reply| reply).await
}

/// Sends a question that carries its own way back, and waits for the answer, each within the time allowed.
pub(super) async fn ask<Q, A>(
    flow: &mpsc::Sender<Q>,
    question: impl FnOnce(oneshot::Sender<A>) -> Q,
) -> Result<A, Error> {
    let exchange = async {
        let (reply, answer) = oneshot::channel();
        flow.send(question(reply)).await.ok()?;
        answer.await.ok()
    };
    match timeout(ANSWER_TIME, exchange).await {
        Ok(Some(answer)) => Ok(answer),
        // The flow has ended, or ended with the question in its hands.
        Ok(None) => Err(Error::Refused(Refusal::Stopping)),
        Err(_) => Err(Error::NoAnswer),
    }
}
