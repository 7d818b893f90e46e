//! A network that dies without a word, comes late, or gives us another address: in namespaces of its own.

use super::numbered;
use crate::common::LONG;
use crate::common::mosquitto::Mosquitto;
use crate::common::netns::{Cable, FAR, NEAR, NEAR_TOO};
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::subscriber::Subscriber;
use serde_json::Value;
use std::time::{Duration, Instant};

const PORT: u16 = 1883;
/// What a machine that is busy with other tests may take longer.
const SLACK: Duration = Duration::from_secs(3);

/// A broker at the far end, with a consumer beside it.
struct World {
    sidecar: Sidecar,
    subscriber: Subscriber,
    _mosquitto: Mosquitto,
    cable: Cable,
}

impl World {
    /// `address`: the sidecar's, if it has one from the start.
    fn new(mqtt: &str, address: Option<&str>) -> Option<World> {
        let cable = Cable::lay()?;
        address.iter().for_each(|address| cable.give(address));
        let mosquitto = cable.far(|| Mosquitto::start_with(|_| format!("listener {PORT} {FAR}")));
        let subscriber = cable.far(|| Subscriber::at(mosquitto.address()));
        let mut home = Home::new([format!("mqtt://{FAR}:{PORT}")]);
        home.mqtt = mqtt.to_owned();
        home.tables += "[app]\ncommands = true\nheartbeat_timeout = \"1h\"\n";
        let sidecar = cable.near(|| Sidecar::start(home));
        Some(World { sidecar, subscriber, _mosquitto: mosquitto, cable })
    }

    fn expect_connected(&self) {
        let connected = |link: &Value| link["state"] == "connected";
        self.sidecar.expect_status("both connections", |status| {
            connected(&status["link"]) && connected(&status["commands"]["session"])
        });
    }

    /// Waits until this connection is given up, and returns after what time, and why.
    fn expect_given_up(&self, began: Instant, which: impl Fn(&Value) -> Value) -> (Duration, String) {
        let status = self.sidecar.expect_status("it to be given up", |status| which(status)["reason"].is_string());
        (began.elapsed(), which(&status)["reason"].as_str().unwrap().to_owned())
    }
}

fn link(status: &Value) -> Value {
    status["link"].clone()
}

fn session(status: &Value) -> Value {
    status["commands"]["session"].clone()
}

#[test]
fn a_half_open_link_never_holds_records_back_for_longer_than_ack_timeout() {
    let Some(world) = World::new("ack_timeout = \"3s\"\nkeep_alive = \"60s\"", Some(NEAR)) else { return };
    world.expect_connected();
    let texts = numbered("record", 2000);
    world.sidecar.publish_lines("orders", &texts[..1000]);
    world.subscriber.expect_texts(STREAM, texts[..1000].to_vec(), LONG);

    world.cable.go_dead();
    let dead = Instant::now();
    world.sidecar.publish_lines("orders", &texts[1000..]);
    let (took, reason) = world.expect_given_up(dead, link);
    println!("given up after {took:?}: {reason}");
    assert_eq!(reason, "no acknowledgement within mqtt.ack_timeout");
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(3) + SLACK, "{took:?}");
    let status = world.sidecar.status();
    assert_eq!(status["link"]["ack_timeouts"], 1, "{status:#}");
    assert_eq!(status["link"]["servers"][0]["failures"], 1, "{status:#}");
    assert_eq!(status["health"]["state"], "degraded", "{status:#}");
    let warning = status["link"]["servers"][0]["warning"].as_str().unwrap_or_default();
    assert!(warning.starts_with("plain MQTT to a remote host: all that goes to 10.77.0.2"), "{status:#}");
    // The way there is a black hole: a try has its end.
    world.sidecar.expect_status("a try to come to its end", |status| {
        let failures = status["link"]["servers"][0]["failures"].as_u64();
        failures >= Some(2) && dead.elapsed() < Duration::from_secs(30)
    });

    world.cable.revive();
    world.expect_connected();
    world.sidecar.expect_drained(STREAM);
    world.subscriber.expect_texts(STREAM, texts, LONG);
    world.subscriber.read(|inbox| inbox.assert_in_order());
    world.subscriber.expect_latest("p/status", |status| status["state"] == "online");
}

#[test]
fn an_idle_half_open_link_is_never_believed_in_for_two_keep_alives() {
    let Some(world) = World::new("ack_timeout = \"1h\"\nkeep_alive = \"8s\"", Some(NEAR)) else { return };
    world.expect_connected();
    world.cable.go_dead();
    let dead = Instant::now();
    for which in [link, session] {
        let (took, reason) = world.expect_given_up(dead, which);
        println!("given up after {took:?}: {reason}");
        assert_eq!(reason, "no answer to a ping within half of mqtt.keep_alive");
        assert!(took < Duration::from_secs(12) + SLACK, "{took:?}");
    }
    world.cable.revive();
    world.expect_connected();
}

#[test]
fn a_network_that_comes_never_waits_for_the_end_of_a_pause() {
    let Some(world) = World::new("", None) else { return };
    // The pause behind the seventh try in vain is 8 to 16 seconds.
    let tries = |status: &Value| status["link"]["servers"][0]["failures"].as_u64().unwrap();
    let status = world.sidecar.expect_status("seven tries", |status| tries(status) >= 7);
    assert_eq!(tries(&status), 7);
    let came = Instant::now();
    world.cable.give(NEAR);
    world.expect_connected();
    println!("connected {:?} after the address came", came.elapsed());
    assert!(came.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", came.elapsed());
}

#[test]
fn an_address_that_goes_never_leaves_a_dead_connection_for_long() {
    let Some(world) = World::new("ack_timeout = \"1h\"\nkeep_alive = \"1h\"", Some(NEAR)) else { return };
    world.expect_connected();
    let went = Instant::now();
    world.cable.take(NEAR);
    world.cable.give(NEAR_TOO);
    for which in [link, session] {
        let again =
            |status: &Value| which(status)["connects"].as_u64() >= Some(2) && which(status)["state"] == "connected";
        world.sidecar.expect_status("a connection from the new address", again);
    }
    println!("connected from the new address after {:?}", went.elapsed());
    assert!(went.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", went.elapsed());
    world.sidecar.expect_log("the address that it was made from has gone");
    world.sidecar.publish("orders", "from the new address");
    world.subscriber.expect_text(STREAM, "from the new address");
}
