//! The gateway: pillion as a user installs it on the machine, beside an application, and a broker on this side.

use crate::common::SOON;
use crate::common::mosquitto::Mosquitto;
use crate::common::relay::Relay;
use crate::common::sidecar::STREAM;
use crate::common::subscriber::Subscriber;
use crate::machine::{self, Clock, HOST, Machine};
use crate::package;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// pillion's unit.
pub const SIDECAR: &str = "pillion@gateway.service";

/// The application, which does nothing.
const APPLICATION: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

/// The whole of it. pillion is stopped and its state removed when this is dropped.
pub struct Gateway {
    pub mosquitto: Mosquitto,
    pub relay: Relay,
    pub subscriber: Subscriber,
    pub machine: MutexGuard<'static, Machine>,
}

impl Gateway {
    /// Installs everything on the machine and starts the broker alone. `None` where there is no machine.
    pub fn install() -> Option<Self> {
        Self::install_by(Clock::Time)
    }

    /// The same on a machine with this clock.
    pub fn install_by(clock: Clock) -> Option<Self> {
        let mut machine = machine::shared()?;
        let package = package::built()?;
        machine.go_by(clock);
        if machine.try_run("test -e /etc/systemd/system/gateway.service", b"").is_none_or(|outcome| outcome.code != 0) {
            package::install(&machine, package);
            machine.write("/etc/systemd/system/gateway.service", APPLICATION);
            machine.shell("systemctl daemon-reload && sync");
        }
        let mosquitto = Mosquitto::start();
        let relay = Relay::on(Ipv4Addr::LOCALHOST, mosquitto.address());
        let subscriber = Subscriber::at(mosquitto.address());
        let gateway = Gateway { mosquitto, relay, subscriber, machine };
        gateway.configure("sync = \"1s\"", "");
        Some(gateway)
    }

    /// Writes pillion's configuration with these lines of `[spool]` and these tables.
    pub fn configure(&self, spool: &str, tables: &str) {
        let port = self.relay.address().port();
        let text = format!(
            "[mqtt]\nservers = [\"mqtt://{HOST}:{port}\"]\ntopic_prefix = \"p\"\n[spool]\n{spool}\n[stream.{STREAM}]\n{tables}\n"
        );
        self.machine.write("/etc/pillion/gateway.toml", text);
        self.machine.shell("chgrp pillion /etc/pillion/gateway.toml && chmod 640 /etc/pillion/gateway.toml");
    }

    /// Starts pillion and the application, and waits for the link.
    pub fn start(&self) {
        self.machine.shell(&format!("systemctl start {SIDECAR}"));
        self.expect_status("the link", |status| status["link"]["state"] == "connected");
    }

    /// Stops pillion, in order.
    pub fn stop(&self) {
        self.machine.shell(&format!("systemctl stop {SIDECAR}"));
    }

    /// Restarts pillion alone, in order, and waits for the link.
    pub fn restart(&self) {
        self.machine.shell(&format!("systemctl restart {SIDECAR}"));
        self.expect_status("the link", |status| status["link"]["state"] == "connected");
    }

    /// A property of pillion's unit, as `systemctl show` has it.
    pub fn property(&self, property: &str) -> String {
        self.machine.shell(&format!("systemctl show --value --property={property} {SIDECAR}"))
    }

    /// A figure of its control group's memory in bytes: `current` or `peak`.
    pub fn memory(&self, figure: &str) -> u64 {
        let group = self.property("ControlGroup");
        self.machine.shell(&format!("cat /sys/fs/cgroup{group}/memory.{figure}")).parse().unwrap()
    }

    /// The status; `Null` where pillion does not answer.
    pub fn status(&self) -> Value {
        let answer = self.machine.try_run("pillion status --instance gateway --json", b"");
        answer.and_then(|answer| serde_json::from_str(&answer.said).ok()).unwrap_or(Value::Null)
    }

    /// Waits until pillion answers with a status that satisfies `right`, and returns it.
    pub fn expect_status(&self, what: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status();
            if right(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited {SOON:?} for {what}; {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a device is in this state.
    pub fn expect_device(&self, name: &str, state: &str) -> Value {
        let of = |status: &Value| status["devices"][name].clone();
        of(&self.expect_status(&format!("{name} to be {state}"), |status| of(status)["state"] == state))
    }

    /// Has a device carry out a command, which must be done.
    pub fn command(&self, device: &str, payload: &str) {
        self.machine.shell(&format!("pillion command --instance gateway {device} '{payload}'"));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.machine.try_run("journalctl --no-pager --lines=100 --output=short-monotonic", b"");
            println!("{}", journal.map_or_else(|| self.machine.console(), |journal| journal.said));
        }
        let tidy =
            format!("systemctl stop {SIDECAR} gateway; systemctl reset-failed; rm -rf /var/lib/pillion /run/pillion");
        let _ = self.machine.try_run(&tidy, b"");
    }
}
