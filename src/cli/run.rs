//! `pillion run`: reads the configuration, sets up the log, and hands over to the daemon.

use super::exit;
use crate::config::{self, Loaded, Surroundings};
use crate::daemon::{self, DaemonError, Source};
use crate::host;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;

/// Runs until SIGTERM or SIGINT; SIGHUP has the configuration read again. Exits with 0 then, 78 for a wrong configuration,
/// 69 if another process has what this one needs, 70 if something broke.
pub fn run(file: &Path, instance: Option<&str>) -> ExitCode {
    let surroundings = Surroundings::from_env(host::name(), instance.map(str::to_owned));
    let Loaded { config, warnings } = match config::load(file, &surroundings) {
        Ok(loaded) => loaded,
        Err(problems) => {
            last_words(&problems);
            return exit::CONFIG.into();
        }
    };
    start_log();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let source = Source { file: file.to_owned(), surroundings };
    match daemon::run(config, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            last_words(&error);
            match error {
                DaemonError::Password { .. } => exit::CONFIG.into(),
                DaemonError::Spool(_) | DaemonError::Socket(_) => exit::UNAVAILABLE.into(),
                DaemonError::System(_) | DaemonError::Flow(_) => exit::INTERNAL.into(),
            }
        }
    }
}

/// Why it does not run, on standard error, for people and in the journal alike. Not by the journal's own socket: a message there
/// is looked at when its process has gone already, and then stands under no unit. The mark in front is its priority
/// (sd-daemon(3)), or `journalctl -p warning` would not show it.
fn last_words(error: &dyn std::fmt::Display) {
    let mark = if std::env::var_os("JOURNAL_STREAM").is_some() { "<3>" } else { "" };
    let text: String = error.to_string().lines().map(|line| format!("{mark}{line}\n")).collect();
    let _ = io::stderr().write_all(text.as_bytes());
}

/// To the journal with fields if systemd started us, else readable lines on standard error: every message says all by
/// itself, and its fields are for programs. `$PILLION_LOG` is the least severe level that is shown (default `info`).
fn start_log() {
    let level = std::env::var("PILLION_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let message_only = debug_fn(|out, field, value| match field.name() {
        "message" => write!(out, "{value:?}"),
        _ => Ok(()),
    });
    let lines = journal.is_none().then(|| {
        let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(ansi)
            .with_target(false)
            .fmt_fields(message_only)
    });
    let subscriber = tracing_subscriber::registry().with(level).with(journal).with(lines);
    // Fails only if a log is set up already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
