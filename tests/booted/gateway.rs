//! A gateway: pillion installed on a booted system, an application that does what it is told, and a broker behind a link.

use crate::common::SOON;
use crate::common::http::{self, Answer};
use crate::common::mosquitto::Mosquitto;
use crate::common::relay::Relay;
use crate::common::sidecar::{PILLION, STREAM};
use crate::common::subscriber::Subscriber;
use crate::container::Container;
use serde_json::Value;
use std::io;
use std::path::Path;
use std::time::Instant;

/// The application's unit, and pillion's.
pub const APP: &str = "gateway.service";
pub const SIDECAR: &str = "pillion@gateway.service";

/// What its status has to hold of the link while it has one.
const ONLINE: &str = "connected";

/// The application: a shell that carries out the lines that come in by a pipe, each as soon as the former is done. It tells
/// systemd that it is ready, if that is to be told.
const APPLICATION: &str = "\
#!/bin/sh
exec 3<> /run/orders
[ -z \"$NOTIFY_SOCKET\" ] || systemd-notify --ready
while read -r order <&3; do eval \"$order\"; done
";

/// The whole of it. The test's thread is on its network from `boot` on.
pub struct Gateway {
    pub mosquitto: Mosquitto,
    pub relay: Relay,
    pub subscriber: Subscriber,
    /// Outlives the others, which are on its network.
    pub container: Container,
}

impl Gateway {
    /// Installs everything and starts the broker alone. `None` where no container can be booted.
    pub fn boot() -> Option<Self> {
        let container = Container::boot(&[(Path::new(PILLION), "/usr/bin/pillion")])?;
        container.write("/etc/systemd/system/pillion@.service", include_str!("../../systemd/pillion@.service"));
        container.write("/usr/lib/sysusers.d/pillion.conf", include_str!("../../systemd/pillion.sysusers"));
        container.shell("systemd-sysusers");
        Some(Gateway::around(container))
    }

    /// The same with a package of pillion; `packages` are in `/run/packages` by their names.
    pub fn boot_packaged(package: &str, packages: &Path) -> Option<Self> {
        let container = Container::boot(&[(packages, "/run/packages")])?;
        container.shell(&format!("dpkg --install /run/packages/{package}"));
        Some(Gateway::around(container))
    }

    fn around(container: Container) -> Self {
        container.join_network();
        let mosquitto = Mosquitto::start();
        let relay = Relay::to(mosquitto.address());
        let subscriber = Subscriber::at(mosquitto.address());
        let gateway = Gateway { mosquitto, relay, subscriber, container };
        let inside = &gateway.container;
        inside.write("/usr/local/bin/gateway", APPLICATION);
        inside.shell("chmod +x /usr/local/bin/gateway && mkfifo /run/orders /run/done");
        let server = gateway.relay.url();
        let configuration =
            format!("[app]\nunit = {APP:?}\n[mqtt]\nservers = [{server:?}]\ntopic_prefix = \"p\"\n[stream.{STREAM}]\n");
        gateway.container.write("/etc/pillion/gateway.toml", &configuration);
        gateway.configure("");
        gateway.application("");
        inside.shell("systemctl enable pillion@gateway");
        gateway
    }

    /// Adds to pillion's configuration, in its drop-in folder.
    pub fn configure(&self, tables: &str) {
        self.container.write("/etc/pillion/gateway.toml.d/test.toml", tables);
        self.container.shell("chgrp -R pillion /etc/pillion && chmod -R g+rX,o= /etc/pillion");
    }

    /// Writes the application's unit, with more lines in `[Service]`.
    pub fn application(&self, lines: &str) {
        let text = format!("[Service]\nType=exec\nExecStart=/usr/local/bin/gateway\n{lines}\n");
        self.container.write(&format!("/etc/systemd/system/{APP}"), &text);
        self.container.shell("systemctl daemon-reload");
    }

    /// Adds lines to `[Service]` of pillion's unit.
    pub fn drop_in(&self, lines: &str) {
        self.container.write("/etc/systemd/system/pillion@.service.d/test.conf", &format!("[Service]\n{lines}\n"));
        self.container.shell("systemctl daemon-reload");
    }

    /// Starts the application, and waits for pillion to be connected.
    pub fn start(&self) {
        self.container.shell(&format!("systemctl start {APP}"));
        self.expect_status("the link", |status| status["link"]["state"] == ONLINE);
    }

    /// Has the application carry out a line of shell.
    pub fn order(&self, line: &str) {
        let output = self.container.run(&["sh", "-c", "echo \"$0\" > /run/orders", line]);
        assert!(output.status.success(), "{line}: {output:?}");
    }

    /// The same, and waits until it is done.
    pub fn carry_out(&self, line: &str) {
        self.order(&format!("{line}; echo > /run/done"));
        self.container.shell("read -r _ < /run/done");
    }

    /// Waits until a unit is in this state.
    pub fn expect_state(&self, unit: &str, state: &str) {
        self.container.expect_property(unit, "ActiveState", |now| now == state);
    }

    /// Waits until a unit is active in another invocation than this one, and returns the new one.
    pub fn expect_another(&self, unit: &str, invocation: &str) -> String {
        let another = |now: &str| !now.is_empty() && now != invocation;
        let now = self.container.expect_property(unit, "InvocationID", another);
        self.expect_state(unit, "active");
        now
    }

    /// Waits until this invocation of the application is over, whatever comes behind it.
    pub fn expect_another_or_none(&self, invocation: &str) {
        let script = format!(
            "[ $(systemctl show -P InvocationID {APP}) != {invocation} ] || ! systemctl is-active -q {APP} && echo over || true"
        );
        let deadline = Instant::now() + SOON;
        while self.container.shell(&script) != "over" {
            assert!(Instant::now() < deadline, "{invocation} is not over after {SOON:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// A unit's invocation; another one after each start.
    pub fn invocation(&self, unit: &str) -> String {
        self.container.property(unit, "InvocationID")
    }

    /// A unit's main process.
    pub fn main_pid(&self, unit: &str) -> String {
        self.container.property(unit, "MainPID")
    }

    /// Waits until this many events of this kind have come, and returns their data.
    pub fn expect_events(&self, kind: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} events of the kind {kind}");
        self.subscriber.expect(&what, SOON, |inbox| inbox.events(kind).len() >= count);
        self.subscriber.read(|inbox| inbox.events(kind))
    }

    /// A request to pillion's local API, by root.
    pub fn request(&self, method: &str, target: &str, body: &str) -> io::Result<Answer> {
        let socket = self.container.path("/run/pillion/gateway/pillion.sock");
        http::request(&socket, method, target, "text/plain", body.as_bytes())
    }

    /// Runs a script as a user; returns its exit code and all that it said.
    pub fn as_user(&self, user: &str, script: &str) -> (Option<i32>, String) {
        let output = self.container.run(&["runuser", "--user", user, "--", "sh", "-c", script]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Publishes one record to `STREAM`, that must be accepted.
    pub fn publish(&self, text: &str) {
        let answer = self.request("POST", &format!("/v1/publish?topic=orders&stream={STREAM}"), text).unwrap();
        assert_eq!((answer.code, &answer.json["accepted"]), (200, &Value::from(1)), "{text:?}: {answer:?}");
    }

    /// Waits until pillion answers with a status that satisfies `right`, and returns it.
    pub fn expect_status(&self, what: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        let mut last = Value::Null;
        while Instant::now() < deadline {
            // It may not be up, or come back just now.
            last = self.request("GET", "/v1/status", "").map_or(Value::Null, |answer| answer.json);
            if right(&last) {
                return last;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("waited {SOON:?} for {what}; {last:#}");
    }
}
