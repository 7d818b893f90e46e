//! `GET /v1/services`: who is there: the devices, the streams, the broker, the application, and other gateways of the site.

use super::answer::{Answer, Error, json};
use super::call::{Shared, ask_status};
use crate::inbound::Neighbour;
use crate::stats::{AppStatus, DeviceState, Status};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json as value};
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Services {
    instance: String,
    broker: Value,
    devices: BTreeMap<String, Device>,
    streams: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Value>,
    gateways: BTreeMap<String, Neighbour>,
}

#[derive(Serialize)]
struct Device {
    kind: String,
    state: DeviceState,
}

pub(super) async fn services(shared: &Shared) -> Result<Answer, Error> {
    let Status { instance, link, devices, streams, app, .. } = ask_status(&shared.api).await?;
    let gateways = shared.api.neighbours.as_ref().map(|table| table.borrow().clone()).unwrap_or_default();
    let services = Services {
        instance,
        broker: value!({ "server": link.server, "state": link.state }),
        devices: devices.into_iter().map(|(name, of)| (name, Device { kind: of.kind, state: of.state })).collect(),
        // What only goes out is no service.
        streams: streams.into_iter().filter(|(_, stream)| !stream.retired).map(|(name, _)| name).collect(),
        application: app.map(|AppStatus { unit, state, .. }| value!({ "unit": unit, "state": state })),
        gateways,
    };
    Ok(json(StatusCode::OK, &services))
}
