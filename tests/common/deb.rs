//! The Debian package, built from a binary that is there already.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds it with `cross/deb`; `target` is a target of Rust, and nothing for this machine. `None`, and a word about it, where
/// `cargo-deb` can't be had.
pub fn build(binary: &Path, target: Option<&str>, revision: &str) -> Option<PathBuf> {
    if std::env::var_os("PILLION_TEST_NO_PACKAGE").is_some() {
        println!("SKIPPED: cargo-deb can't be had");
        return None;
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(project.join("cross/deb"));
    // What cargo tells its tests must not reach the cargo that builds the manual pages.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        command.env_remove(name);
    }
    let output = command.args(target).env("BINARY", binary).env("REVISION", revision).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(project.join(said.lines().last().unwrap()))
}

/// What `lintian` has against a package, a line for each breach of a rule that it calls an error; `None`, and a word about it, where it is not
/// there.
pub fn breaches(package: &Path) -> Option<Vec<String>> {
    let mut command = Command::new("lintian");
    let Ok(output) = command.args(["--fail-on", "error", "--allow-root"]).arg(package).output() else {
        println!("SKIPPED: there is no lintian (apt-get install lintian)");
        return None;
    };
    // 2: there are errors.
    assert!(output.status.code().is_some_and(|code| code == 0 || code == 2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    Some(said.lines().filter(|line| line.starts_with("E:")).map(str::to_owned).collect())
}
