//! `pillion run`: reads the configuration and hands over to the daemon.

use super::exit;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Runs the daemon until it is told to stop.
pub fn run(file: &Path, _instance: Option<&str>) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "pillion run: {}: the daemon is not part of this build", file.display());
    exit::INTERNAL.into()
}
