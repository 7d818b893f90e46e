//! The Debian package: installed, upgraded while records flow, removed and purged.

use crate::common::sidecar::{PILLION, STREAM};
use crate::deb;
use crate::gateway::{APP, Gateway, SIDECAR};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The folder of two packages of the binary under test, and their names; `None`, and a word about it, where they can't be
/// built.
fn packages() -> Option<(PathBuf, [String; 2])> {
    static PACKAGES: OnceLock<Option<[PathBuf; 2]>> = OnceLock::new();
    let build = |revision| deb::build(Path::new(PILLION), None, revision);
    let paths = PACKAGES.get_or_init(|| Some([build("1")?, build("2")?])).clone()?;
    let folder = paths[0].parent().unwrap().to_owned();
    Some((folder, paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())))
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
    let Some(breaches) = deb::breaches(&folder.join(package)) else { return };
    // Only this is about the test's binary, which is not stripped.
    let breaches: Vec<_> = breaches.iter().filter(|line| !line.contains("unstripped-binary")).collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
}
