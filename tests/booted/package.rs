//! The Debian package: installed, upgraded while records flow, removed and purged.

use crate::common::sidecar::{PILLION, STREAM};
use crate::gateway::{APP, Gateway, SIDECAR};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The folder of two packages of the binary under test, and their names; `None`, and a word about it, where they can't be
/// built.
fn packages() -> Option<(PathBuf, [String; 2])> {
    static PACKAGES: OnceLock<Option<[PathBuf; 2]>> = OnceLock::new();
    let built = PACKAGES.get_or_init(|| {
        if std::env::var_os("PILLION_TEST_NO_PACKAGE").is_some() {
            println!("SKIPPED: cargo-deb can't be had");
            return None;
        }
        Some(["1", "2"].map(build))
    });
    let paths = built.clone()?;
    let folder = paths[0].parent().unwrap().to_owned();
    Some((folder, paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())))
}

fn build(revision: &str) -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(project.join("cross/deb"));
    // What cargo tells its tests must not reach the cargo that builds the manual pages.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        command.env_remove(name);
    }
    let output = command.env("BINARY", PILLION).env("REVISION", revision).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    project.join(said.lines().last().unwrap())
}

#[test]
fn an_upgrade_never_costs_a_record_nor_restarts_the_application() {
    let Some((folder, [old, new])) = packages() else { return };
    let Some(gateway) = Gateway::boot_packaged(&old, &folder) else { return };
    gateway.start();
    let (app, sidecar) = (gateway.invocation(APP), gateway.invocation(SIDECAR));
    let upgraded = AtomicBool::new(false);
    let accepted = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut number = 0;
            while !upgraded.load(Ordering::Relaxed) || number < 500 {
                let target = format!("/v1/publish?topic=orders&stream={STREAM}");
                // Nobody answers while the sidecar is away; what was not answered is sent again, as a client should.
                if gateway.request("POST", &target, &format!("order {number}")).is_ok_and(|answer| answer.code == 200) {
                    number += 1;
                }
            }
            number
        });
        gateway.container.shell(&format!("dpkg --install /run/packages/{new}"));
        gateway.expect_another(SIDECAR, &sidecar);
        upgraded.store(true, Ordering::Relaxed);
        publisher.join().unwrap()
    });
    assert_eq!(gateway.invocation(APP), app, "the application was restarted");
    gateway.subscriber.expect_text(STREAM, &format!("order {}", accepted - 1));
    gateway.subscriber.read(|inbox| {
        inbox.assert_in_order();
        let mut texts: Vec<&str> = inbox.of(STREAM).iter().map(|arrival| arrival.text()).collect();
        // A record whose answer was cut off was accepted, and sent again by the client.
        texts.dedup();
        assert_eq!(texts.len(), accepted, "records are missing");
    });
}

#[test]
fn a_purge_never_leaves_anything_behind_nor_stops_the_application() {
    let Some((folder, [package, _])) = packages() else { return };
    let Some(gateway) = Gateway::boot_packaged(&package, &folder) else { return };
    let inside = &gateway.container;
    assert_eq!(
        inside.shell("stat -c '%U:%G %a' /etc/pillion /etc/pillion/example.toml"),
        "root:pillion 750\nroot:pillion 640"
    );
    inside.shell("runuser -u pillion -- pillion check --config /etc/pillion/example.toml");
    gateway.start();
    gateway.publish("to be kept");
    let app = gateway.invocation(APP);
    inside.shell("dpkg --remove pillion");
    inside.shell("test -d /var/lib/pillion/gateway/spool && test -f /etc/pillion/gateway.toml && ! pgrep pillion");
    inside.shell("dpkg --purge pillion");
    let left = "find / -xdev -name '*pillion*' -not -path '/proc/*' -not -path '/var/lib/dpkg/*' -not -path '/run/packages*' \
                -not -path '/run/credentials/*' -not -path '/sys/*' -not -path '/var/log/journal/*'";
    assert_eq!(inside.shell(left), "");
    assert_eq!(gateway.invocation(APP), app);
    gateway.expect_state(APP, "active");
}

#[test]
fn no_package_ever_breaks_a_rule_of_the_distribution() {
    let Some((folder, [package, _])) = packages() else { return };
    let mut command = Command::new("lintian");
    let Ok(output) = command.args(["--fail-on", "error", "--allow-root"]).arg(folder.join(package)).output() else {
        println!("SKIPPED: there is no lintian (apt-get install lintian)");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    // Only this is about the test's binary, which is not stripped.
    let errors: Vec<_> =
        said.lines().filter(|line| line.starts_with("E:") && !line.contains("unstripped-binary")).collect();
    assert!(output.status.code().is_some_and(|code| code == 0 || code == 2) && errors.is_empty(), "{output:?}");
}
