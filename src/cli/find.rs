//! Which socket is meant: `--socket`, else `--instance`, else `$PILLION_SOCKET`, else the only one that there is.

use super::exit::{Failure, UNAVAILABLE, USAGE};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where systemd's `RuntimeDirectory=pillion/%i` puts the sockets.
pub const RUN_DIR: &str = "/run/pillion";

/// The options of every command that asks a running sidecar.
#[derive(Debug, clap::Args)]
pub struct Whom {
    /// Instance to ask: /run/pillion/NAME/pillion.sock
    #[arg(long, value_name = "NAME", conflicts_with = "socket", value_parser = instance_name)]
    pub instance: Option<String>,
    /// Socket to ask [default: $PILLION_SOCKET]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// An instance's name becomes a part of paths: it must be one part and stay below.
pub fn instance_name(name: &str) -> Result<String, String> {
    match name {
        "" => Err("it is empty".to_owned()),
        "." | ".." => Err("that is a directory".to_owned()),
        _ if name.contains(['/', '\0']) => Err("a name has no slash".to_owned()),
        _ => Ok(name.to_owned()),
    }
}

impl Whom {
    /// The socket that is meant. It need not exist, unless it had to be searched for.
    ///
    /// # Errors
    /// None is named, and below `run_dir` there is none (69), or there are several (64).
    pub fn socket(&self, variable: Option<OsString>, run_dir: &Path) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        if let Some(name) = &self.instance {
            return Ok(run_dir.join(name).join("pillion.sock"));
        }
        if let Some(path) = variable.filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let mut instances = instances(run_dir);
        match (instances.pop(), instances.as_slice()) {
            (None, _) => Err(none(run_dir)),
            (Some(only), []) => Ok(run_dir.join(only).join("pillion.sock")),
            (Some(last), others) => {
                let names = [others, &[last]].concat().join(", ");
                Err(Failure::new(USAGE, format!("there are several instances, say which with --instance: {names}")))
            }
        }
    }
}

fn none(run_dir: &Path) -> Failure {
    let message = format!(
        "no sidecar runs here: there is no {}/*/pillion.sock.\n\
         Start one: systemctl start pillion@INSTANCE, or see why it ended: systemctl status pillion@INSTANCE\n\
         Or say where its socket is with --socket PATH or $PILLION_SOCKET.",
        run_dir.display()
    );
    Failure::new(UNAVAILABLE, message)
}

/// Names of the instances that have a socket, sorted.
fn instances(run_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    // Where we may not look there may be one, and who asks it is told that they may not.
    let may_be =
        |there: io::Result<bool>| there.unwrap_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied);
    let with_socket = entries.filter(|entry| may_be(entry.path().join("pillion.sock").try_exists()));
    let mut names: Vec<String> = with_socket.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    const NOBODY: Whom = Whom { instance: None, socket: None };

    fn with_instances(names: &[&str]) -> tempfile::TempDir {
        let dir = tempdir().unwrap();
        for name in names {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("pillion.sock"), "").unwrap();
        }
        fs::create_dir(dir.path().join("without-socket")).unwrap();
        dir
    }

    #[test]
    fn the_nearer_word_never_loses_against_the_farther() {
        let dir = with_instances(&["only"]);
        let socket = |whom: &Whom, variable: &str| whom.socket(Some(variable.into()), dir.path()).unwrap();
        let by_path = Whom { instance: None, socket: Some("/x/y".into()) };
        let by_name = Whom { instance: Some("gw".into()), socket: None };
        assert_eq!(socket(&by_path, "/env"), Path::new("/x/y"));
        assert_eq!(socket(&by_name, "/env"), dir.path().join("gw/pillion.sock"));
        assert_eq!(socket(&NOBODY, "/env"), Path::new("/env"));
        assert_eq!(socket(&NOBODY, ""), dir.path().join("only/pillion.sock"));
    }

    #[test]
    fn it_never_guesses_among_several() {
        let dir = with_instances(&["b", "a", "c"]);
        let failure = NOBODY.socket(None, dir.path()).unwrap_err();
        assert_eq!(failure.code, USAGE);
        assert!(failure.message.ends_with("--instance: a, b, c"), "{}", failure.message);
    }

    #[test]
    fn finding_none_never_leaves_one_without_advice() {
        let failure = NOBODY.socket(None, with_instances(&[]).path()).unwrap_err();
        assert_eq!(failure.code, UNAVAILABLE);
        assert!(failure.message.contains("systemctl start"), "{}", failure.message);
        assert_eq!(NOBODY.socket(None, Path::new("/does/not/exist")).unwrap_err().code, UNAVAILABLE);
    }

    #[test]
    fn a_name_never_leads_out_of_the_directory() {
        assert!(instance_name("gateway-2").is_ok());
        for wrong in ["", ".", "..", "a/b", "../x"] {
            assert!(instance_name(wrong).is_err(), "{wrong}");
        }
    }
}
