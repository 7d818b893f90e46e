//! Tests that need a real mosquitto.

use crate::common::mosquitto::Mosquitto;
use crate::common::relay::Relay;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::subscriber::Subscriber;

mod app;
mod bad_network;
mod batches;
mod clients;
mod commands;
mod damage;
mod device;
mod disk_faults;
mod failover;
mod flash;
mod framings;
mod full_disk;
mod homeassistant;
mod inbox;
mod kills;
mod lifecycle;
mod limits;
mod logs;
mod machine;
mod managed;
mod modbus;
mod mqtt5;
mod outages;
mod pacing;
mod power_cut;
mod reload;
mod rig;
mod services;
mod settings;
mod sparkplug;
mod tls;
mod websocket;

/// A broker behind a link, with a consumer that hears all of it.
struct World {
    mosquitto: Mosquitto,
    relay: Relay,
    subscriber: Subscriber,
}

impl World {
    fn new() -> Self {
        let mosquitto = Mosquitto::start();
        let relay = Relay::to(mosquitto.address());
        let subscriber = Subscriber::at(mosquitto.address());
        World { mosquitto, relay, subscriber }
    }

    /// A sidecar's folders, with this broker in its configuration.
    fn home(&self) -> Home {
        Home::new([self.relay.url()])
    }

    /// The broker dies. What it has acknowledged has reached the consumer, for mosquitto would take it along.
    fn stop_broker(&mut self) {
        self.relay.cut();
        self.subscriber.flush();
        self.mosquitto.stop();
    }

    /// The broker comes back, and the consumer before the sidecar.
    fn start_broker(&mut self) {
        self.mosquitto.start_again();
        self.subscriber.connect(self.mosquitto.address());
        self.relay.open();
    }

    /// Waits until the sidecar has told this broker that it is online.
    fn expect_online(&self) {
        self.subscriber.expect_latest("p/status", |status| status["state"] == "online");
    }
}

/// `count` texts that are not JSON, numbered from 0.
fn numbered(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{kind} {number}")).collect()
}

/// Waits until the device can be talked to.
fn expect_open(sidecar: &Sidecar, device: &str) {
    sidecar.expect_status("the device to be opened", |status| status["devices"][device]["state"] == "online");
}
