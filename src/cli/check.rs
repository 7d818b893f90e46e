//! `pillion check`: says whether a configuration is valid, and what it comes to.
//!
//! The effective configuration goes to stdout and is a valid configuration itself; warnings and problems go to stderr,
//! one a line.

use crate::api::access::Access;
use crate::config::{self, Loaded, Problems, Surroundings};
use crate::host;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// sysexits(3) EX_CONFIG.
const CONFIGURATION_ERROR: u8 = 78;

/// Checks `file` with its drop-ins; `instance` is the option of that name. Exits with 0 or 78.
pub fn run(file: &Path, instance: Option<&str>) -> ExitCode {
    let surroundings = Surroundings::from_env(host::name(), instance.map(str::to_owned));
    let loaded = config::load(file, &surroundings);
    let code = if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(CONFIGURATION_ERROR) };
    // A reader that has gone (`| head`) changes nothing about the verdict.
    let _ = report(file, &loaded, &mut io::stdout().lock(), &mut io::stderr().lock());
    code
}

fn report(
    file: &Path,
    loaded: &Result<Loaded, Problems>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<()> {
    match loaded {
        Ok(Loaded { config, warnings }) => {
            for warning in warnings {
                writeln!(err, "warning: {warning}")?;
            }
            for unknown in Access::of_this_machine(&config.api).1 {
                writeln!(err, "warning: {}: {unknown}", file.display())?;
            }
            out.write_all(config.to_toml().as_bytes())?;
            out.flush()
        }
        Err(problems) => {
            let count = problems.count();
            let noun = if count == 1 { "problem" } else { "problems" };
            writeln!(err, "{problems}\n{}: {count} {noun}; pillion does not start with it", file.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What `text` makes it print on stdout and stderr, with FILE for the file's path.
    fn printed(text: &str) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        fs::write(&file, text).unwrap();
        let surroundings = Surroundings { host: "pi".to_owned(), ..Surroundings::default() };
        let loaded = config::load(&file, &surroundings);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        report(&file, &loaded, &mut out, &mut err).unwrap();
        let err = String::from_utf8(err).unwrap().replace(&*file.to_string_lossy(), "FILE");
        (String::from_utf8(out).unwrap(), err)
    }

    #[test]
    fn a_wrong_configuration_never_prints_an_effective_one() {
        let (out, err) = printed("[health]\ninterval = 5\n[spool]\nsnyc = \"1s\"");
        assert_eq!(out, "");
        assert_eq!(
            err,
            "FILE:2:12: health.interval: 5 has no unit; write \"5s\" for seconds (units: ms, s, m, h, d)\n\
             FILE:4:1: spool.snyc: unknown key; did you mean `sync`?\n\
             FILE: 2 problems; pillion does not start with it\n"
        );
        assert!(printed("x = 1").1.ends_with("FILE: 1 problem; pillion does not start with it\n"));
    }

    #[test]
    fn warnings_never_get_into_the_effective_configuration() {
        let (out, err) = printed("[mqtt]\nservers = [\"mqtt://broker\"]");
        assert!(err.starts_with("warning: FILE:2:12: mqtt.servers[0]: plain MQTT to a remote host: "), "{err}");
        assert!(out.starts_with("instance = \"gateway\"\nstate_dir = \"/var/lib/pillion/gateway\"\n"), "{out}");
        assert!(out.contains("servers = [\"mqtt://broker:1883\"]\n"), "{out}");
        assert_eq!(printed(&out).0, out);
    }
}
