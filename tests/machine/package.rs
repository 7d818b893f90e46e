//! The Debian package for arm64, and what it makes of a machine: all that a gateway is for, for those who may have it.

use crate::common::SOON;
use crate::common::operator::Operator;
use crate::deb;
use crate::gateway::{Gateway, SIDECAR};
use crate::machine::Machine;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The package, of the binary that `cross/build` has made; `None`, and a word about it, where it can't be built.
pub fn built() -> Option<&'static Path> {
    static PACKAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(TARGET).join("release/pillion");
        assert!(binary.exists(), "there is no {}; cross/build makes it", binary.display());
        deb::build(&binary, Some(TARGET), "1")
    };
    PACKAGE.get_or_init(build).as_deref()
}

/// Installs it as a user would.
pub fn install(machine: &Machine, package: &Path) {
    machine.write("/root/pillion.deb", std::fs::read(package).unwrap());
    machine.shell("dpkg --install /root/pillion.deb && rm /root/pillion.deb && udevadm settle");
}

/// Runs a script in there as a user; its exit code and all that it said.
fn as_user(machine: &Machine, user: &str, script: &str) -> (i32, String) {
    let outcome = machine.try_run(&format!("runuser --user {user} -- {script}"), b"").unwrap();
    (outcome.code, outcome.said)
}

#[test]
fn no_package_for_arm_ever_breaks_a_rule_of_the_distribution() {
    if std::env::var_os("PILLION_MACHINE").is_none() {
        println!("SKIPPED: PILLION_MACHINE does not say where the machine's image is; tests/run makes one");
        return;
    }
    let Some(breaches) = built().and_then(deb::breaches) else { return };
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn an_installation_never_differs_from_its_package() {
    let Some(gateway) = Gateway::install() else { return };
    let machine = &gateway.machine;
    assert_eq!(
        machine.shell("dpkg --print-architecture; dpkg-query -W -f '${Status} ${Architecture}' pillion"),
        "arm64\ninstall ok installed arm64"
    );
    // What `dpkg` depends on is there, and every file is as it was packed.
    assert_eq!(machine.shell("dpkg --audit; dpkg --verify pillion"), "");
    assert_eq!(
        machine.shell("stat -c '%U:%G %a' /etc/pillion /etc/pillion/example.toml /dev/gpiochip0"),
        "root:pillion 750\nroot:pillion 640\nroot:gpio 660"
    );
    let conffiles = machine.shell("dpkg-query -W -f '${Conffiles}' pillion");
    assert!(conffiles.trim().starts_with("/etc/pillion/example.toml "), "{conffiles}");
    let groups = machine.shell("id --name --groups pillion");
    for group in ["pillion", "gpio", "dialout", "systemd-journal"] {
        assert!(groups.split(' ').any(|name| name == group), "{groups}");
    }
    machine.shell("runuser --user pillion -- pillion check --config /etc/pillion/example.toml");
    assert_eq!(gateway.property("FragmentPath"), "/lib/systemd/system/pillion@.service");
    assert_eq!(gateway.property("DropInPaths"), "");
}

#[test]
fn an_installation_never_fails_those_who_may_have_it_nor_serves_others() {
    let Some(gateway) = Gateway::install() else { return };
    let machine = &gateway.machine;
    machine.shell("id -u member || { useradd --groups pillion member && useradd stranger; }");
    let mut adapter = machine.plug_in();
    let path = machine.expect("the adapter's name", "ls /dev/serial/by-id/*");
    gateway.configure(
        "sync = \"1s\"",
        &format!(
            "[app]\nunit = \"gateway.service\"\n[[serial]]\nname = \"meter\"\npath = {path:?}\nbaud = 9600\n\
             [[gpio]]\nname = \"button\"\nchip = \"gpiochip0\"\nline = 3\ndirection = \"input\"\n\
             [[gpio]]\nname = \"relay\"\nchip = \"gpiochip0\"\nline = 5\ndirection = \"output\"\ncommands = {{ allow = [\"on\", \"off\"] }}\n"
        ),
    );
    gateway.start();
    for device in ["meter", "button", "relay"] {
        gateway.expect_device(device, "online");
    }

    // A serial line to the broker.
    adapter.write_all(b"{\"kWh\":1042.7}\r\n").unwrap();
    let meter = "p/device/meter/data";
    gateway.subscriber.expect("the meter's record", SOON, |inbox| inbox.count(meter) == 1);
    let record = gateway.subscriber.read(|inbox| inbox.on(meter).next().unwrap().envelope["data"].clone());
    assert_eq!(record, json!({"kWh": 1042.7}));

    // An edge from outside.
    let button = "p/device/button/data";
    machine.press_button();
    gateway.subscriber.expect("the level and two edges", SOON, |inbox| inbox.count(button) == 3);

    // An output by a command from the broker.
    let mut operator = Operator::at(gateway.mosquitto.address());
    for (id, data, level) in [("c-1", "on", true), ("c-2", "off", false)] {
        operator.publish("p/device/relay/set", json!({"id": id, "ttl": "60s", "data": data}).to_string(), false);
        gateway.subscriber.expect("the reply", SOON, |inbox| {
            inbox.on("p/device/relay/reply").any(|reply| reply.envelope["data"]["id"] == id)
        });
        let pins = machine.levels(5);
        assert_eq!(pins.last(), Some(&level), "{data}: {pins:?}");
    }
    operator.leave();

    // The status, for the group alone.
    let ask = "pillion status --instance gateway";
    let curl = "curl -sS --unix-socket /run/pillion/gateway/pillion.sock http://localhost/v1/status";
    let (code, screen) = as_user(machine, "member", ask);
    assert_eq!(code, 0, "{screen}");
    assert!(["meter", "button", "relay"].iter().all(|device| screen.contains(device)), "{screen}");
    let (code, document) = as_user(machine, "member", curl);
    assert_eq!(code, 0, "{document}");
    let status: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(status["devices"]["meter"]["state"], "online", "{status:#}");
    let (code, complaint) = as_user(machine, "stranger", ask);
    assert_eq!(code, 69, "{complaint}");
    // 7: it could not connect.
    let (code, complaint) = as_user(machine, "stranger", curl);
    assert_eq!(code, 7, "{complaint}");
    assert_eq!(gateway.property("NRestarts"), "0", "{SIDECAR} was restarted");
}
