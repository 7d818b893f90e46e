//! `pillion reload`: has a running sidecar read its configuration again, and says what became of it. The unit's ExecReload.

use super::client;
use super::exit::{CONFIG, DEGRADED, Failure, UNAVAILABLE, print};
use super::find::{RUN_DIR, Whom};
use crate::stats::{ReloadOutcome, ReloadStatus};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    whom: Whom,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let socket = arguments.whom.socket(std::env::var_os("PILLION_SOCKET"), RUN_DIR.as_ref())?;
    let request = Request::post("/v1/reload").body(Full::new(Bytes::new()));
    let request = request.map_err(|error| Failure::new(UNAVAILABLE, error.to_string()))?;
    let answer = client::runtime()?.block_on(client::request(&socket, request))?;
    let Ok(reload) = serde_json::from_slice::<ReloadStatus>(&answer.body) else {
        return Err(Failure::new(UNAVAILABLE, format!("the sidecar at {}: {}", socket.display(), answer.error())));
    };
    match code_of(reload.outcome) {
        0 => print(&format!("{}\n", reload.text())).map(|_| ExitCode::SUCCESS),
        code => Err(Failure::new(code, reload.text())),
    }
}

fn code_of(outcome: ReloadOutcome) -> u8 {
    match outcome {
        ReloadOutcome::Applied | ReloadOutcome::Unchanged => 0,
        ReloadOutcome::NeedsRestart => DEGRADED,
        ReloadOutcome::Wrong => CONFIG,
    }
}
