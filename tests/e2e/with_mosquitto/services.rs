//! Who is there: other gateways announce themselves, and vanish.

use super::World;
use crate::common::SOON;
use crate::common::relay::Relay;
use crate::common::sidecar::{Home, Sidecar};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn home(url: String, prefix: &str, more: &str) -> Home {
    let mut home = Home::new([url]);
    home.prefix = prefix.to_owned();
    // They have one host and one name, and a broker has no two clients of one name.
    home.mqtt = format!("client_id = {prefix:?}");
    home.tables += more;
    home
}

fn expect_services(sidecar: &Sidecar, what: &str, right: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let services = sidecar.request("GET", "/v1/services", "", b"").unwrap();
        assert_eq!(services.code, 200, "{services:?}");
        if right(&services.json) {
            return services.json;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} for {what}: {}", services.json);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_gateway_that_comes_or_goes_never_stays_unknown_to_its_neighbour() {
    let world = World::new();
    let other_link = Relay::to(world.mosquitto.address());
    let before = Sidecar::start(home(other_link.url(), "site/one/gw", ""));
    world.subscriber.expect_latest("site/one/gw/status", |status| status["state"] == "online");
    let us = home(world.relay.url(), "site/us/gw", "[discovery]\nfilter = \"site/+/+/status\"\n");
    let sidecar = Sidecar::start(us);
    let services = expect_services(&sidecar, "the one that was there", |services| {
        services["gateways"]["site/one/gw"]["state"] == "online" && services["broker"]["state"] == "connected"
    });
    assert_eq!(services["gateways"].as_object().unwrap().len(), 1, "we are none of our neighbours: {services}");
    assert!(services["streams"].as_array().unwrap().contains(&json!("telemetry")), "{services}");
    let mut late = Sidecar::start(home(world.relay.url(), "site/two/gw", ""));
    expect_services(&sidecar, "the one that came", |services| services["gateways"]["site/two/gw"]["state"] == "online");
    late.kill();
    expect_services(&sidecar, "the Last Will", |services| {
        let two = &services["gateways"]["site/two/gw"];
        two["reason"] == "connection-lost" && two["instance"] == "test"
    });
    drop(before);
}
