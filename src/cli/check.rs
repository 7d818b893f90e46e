//! `pillion check`: says whether a configuration is valid, and what it comes to.
//!
//! The effective configuration goes to stdout and is a valid configuration itself; warnings and problems go to stderr,
//! one a line. A file that the configuration names and that can't be read is a warning: the unit may hand it over, where
//! this command does not see it.

use crate::api::access::Access;
use crate::config::{self, Loaded, Mqtt, Problems, Surroundings, Tls};
use crate::host;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
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
            for unread in unreadable(&config.mqtt) {
                writeln!(err, "warning: {}: {unread}", file.display())?;
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

/// What to say of the files with secrets and certificates that whoever asks can't read.
fn unreadable(mqtt: &Mqtt) -> Vec<String> {
    let Tls { ca_file, identity, .. } = &mqtt.tls;
    let files = [
        ("password_file", mqtt.password_file.as_ref()),
        ("ca_file", ca_file.as_ref()),
        ("cert_file", identity.as_ref().map(|identity| &identity.cert_file)),
        ("key_file", identity.as_ref().map(|identity| &identity.key_file)),
    ];
    let unread = |(key, path): (&str, Option<&PathBuf>)| {
        let path = path?;
        let error = File::open(path).err()?;
        let advice = "put it there, unless the unit hands it over with LoadCredential=";
        Some(format!("mqtt.{key}: {}: {error}; {advice}", path.display()))
    };
    files.into_iter().filter_map(unread).collect()
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

    #[test]
    fn a_file_that_pillion_would_miss_never_passes_without_a_word() {
        let (out, err) = printed(
            "[mqtt]\nservers = [\"mqtts://broker\"]\nusername = \"gw\"\npassword_file = \"gateway.toml\"\n\
             ca_file = \"/nowhere/ca.pem\"\ncert_file = \"/nowhere/gw.pem\"\nkey_file = \"/nowhere/gw.key\"",
        );
        assert!(out.contains("ca_file = \"/nowhere/ca.pem\""), "{out}");
        let keys: Vec<&str> = err.lines().filter_map(|line| line.strip_prefix("warning: FILE: mqtt.")).collect();
        let is = |key: &str, told: &str| told.starts_with(key) && told.contains("No such file or directory");
        assert_eq!(keys.len(), 3, "{err}");
        assert!(
            is("ca_file: /nowhere/ca.pem: ", keys[0]) && is("cert_file: ", keys[1]) && is("key_file: ", keys[2]),
            "{err}"
        );
    }
}
