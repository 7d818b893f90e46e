//! `pillion apply`: writes the managed files of a configuration; see `apply`.

use crate::config::{self, Surroundings};
use crate::outcome::Result as Became;
use crate::{apply, host};
use std::path::Path;
use std::process::ExitCode;

/// sysexits(3) EX_CONFIG and EX_SOFTWARE.
const CONFIGURATION_ERROR: u8 = 78;
const INTERNAL_ERROR: u8 = 70;

/// Exits with 0 if all files have what is wanted, with 1 if one of them was rejected or rolled back just now.
pub fn run(file: &Path, instance: Option<&str>) -> ExitCode {
    // systemd's folders of this unit are not those of the sidecar.
    let surroundings = Surroundings { host: host::name(), instance: instance.map(str::to_owned), ..Default::default() };
    let config = match config::load(file, &surroundings) {
        Ok(loaded) => loaded.config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(CONFIGURATION_ERROR);
        }
    };
    let mut all_well = true;
    let applied = apply::run(&config, |apply::Done { key, outcome }| {
        let reason = outcome.reason.as_deref().unwrap_or_default();
        match outcome.result {
            Became::Applied => println!("{key}: applied"),
            Became::Rejected => eprintln!("{key}: rejected: {reason}"),
            Became::RolledBack => eprintln!("{key}: rolled back: {reason}"),
        }
        all_well &= outcome.result == Became::Applied;
    });
    match applied {
        Ok(()) if all_well => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(INTERNAL_ERROR)
        }
    }
}
