//! `GET /v1/environment`: where the application runs, for the application that wants to know.
//!
//! What doesn't change is told at the start; how the machine is doing comes from the status, read just now. The document:
//!
//! ```text
//! {"instance":"gateway","version":"0.1.0","uptime_s":61,"app":{"unit":"gateway.service"},
//!  "topic_prefix":"pillion/cm4/gateway","state_dir":"/var/lib/pillion/gateway","runtime_dir":"/run/pillion/gateway",
//!  "machine":{"model":"Raspberry Pi …","os":{…},"kernel":"6.1.21","architecture":"aarch64","cpus":4},
//!  "host":{"name":"cm4","boot_id":"…","uptime_s":3600,"clock":"synced","load":{…},"memory":{…},"disk":{…},…}}
//! ```

use super::answer::{Answer, Error, json};
use super::call::{Shared, ask_status};
use crate::stats::{AppStatus, Facts, HostStatus};
use hyper::StatusCode;
use serde::Serialize;
use std::path::PathBuf;

/// What doesn't change while pillion runs.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Every topic begins with it.
    pub topic_prefix: String,
    /// What survives a power cut is there.
    pub state_dir: PathBuf,
    /// The socket is there.
    pub runtime_dir: PathBuf,
    /// The machine.
    pub machine: Facts,
}

#[derive(Serialize)]
struct Document<'a> {
    instance: &'a str,
    version: &'a str,
    uptime_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a AppStatus>,
    topic_prefix: &'a str,
    state_dir: String,
    runtime_dir: String,
    machine: &'a Facts,
    host: &'a HostStatus,
}

pub(super) async fn environment(shared: &Shared) -> Result<Answer, Error> {
    let status = ask_status(&shared.api).await?;
    let known = &shared.api.environment;
    let document = Document {
        instance: &status.instance,
        version: &status.version,
        uptime_s: status.uptime_s,
        app: status.app.as_ref(),
        topic_prefix: &known.topic_prefix,
        // In a `Path` odd bytes would be an error; here they come out as U+FFFD.
        state_dir: known.state_dir.to_string_lossy().into_owned(),
        runtime_dir: known.runtime_dir.to_string_lossy().into_owned(),
        machine: &known.machine,
        host: &status.host,
    };
    Ok(json(StatusCode::OK, &document))
}
