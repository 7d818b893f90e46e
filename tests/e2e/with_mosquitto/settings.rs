//! The application's configuration: there in time, whatever happened while the gateway was off.

use super::World;
use crate::common::http::Lines;
use crate::common::operator::Operator;
use crate::common::seed;
use crate::common::sidecar::{Home, Sidecar};
use fastrand::Rng;
use serde_json::{Value, json};
use std::time::Duration;

fn home(world: &World) -> Home {
    let mut home = world.home();
    home.tables += "[app]\nconfig = true\n";
    home
}

fn config(sidecar: &Sidecar, query: &str) -> Value {
    let answer = sidecar.request("GET", &format!("/v1/config{query}"), "", b"").unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
    answer.json
}

/// Every key with its data, when all has come from the broker.
fn synced(sidecar: &Sidecar) -> Value {
    let document = config(sidecar, "?wait=40s");
    assert_eq!(document["synced"], true, "{document}");
    data(&document)
}

fn data(document: &Value) -> Value {
    let keys = document["keys"].as_object().unwrap();
    keys.iter().map(|(key, setting)| (key.clone(), setting["data"].clone())).collect()
}

#[test]
fn a_key_that_changed_while_the_gateway_was_off_never_comes_late_or_not_at_all() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish("p/config/mode", "eco", true);
    operator.publish("p/config/limits/high", r#"{"bar":4}"#, true);
    operator.publish("p/config/gone", "1", true);
    let mut sidecar = Sidecar::start(home(&world));
    assert_eq!(synced(&sidecar), json!({ "mode": "eco", "limits/high": { "bar": 4 }, "gone": 1 }));
    let one = config(&sidecar, "/limits%2Fhigh");
    assert_eq!(
        (&one["key"], &one["data"], &one["synced"]),
        (&json!("limits/high"), &json!({ "bar": 4 }), &json!(true))
    );
    assert_eq!(sidecar.request("GET", "/v1/config/nothing", "", b"").unwrap().code, 404);
    for way in ["terminate", "kill"] {
        match way {
            "kill" => sidecar.kill(),
            _ => _ = sidecar.terminate(),
        }
        operator.publish("p/config/mode", format!("full, after a {way}"), true);
        match way {
            "kill" => operator.publish("p/config/gone", "", true),
            // Nobody will tell the sidecar.
            _ => operator.forget("p/config/gone"),
        }
        operator.publish("p/config/new", way, true);
        sidecar.start_again();
        let all = json!({ "mode": format!("full, after a {way}"), "limits/high": { "bar": 4 }, "new": way });
        assert_eq!(synced(&sidecar), all);
        operator.publish("p/config/gone", "1", true);
        sidecar.expect_status("the key again", |status| status["config"]["keys"] == 4);
    }
}

#[test]
fn a_gateway_without_its_broker_never_lacks_its_configuration() {
    let mut world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish("p/config/mode", "eco", true);
    operator.publish("p/config/raw", [0, 255], true);
    let mut sidecar = Sidecar::start(home(&world));
    synced(&sidecar);
    sidecar.kill();
    world.stop_broker();
    sidecar.start_again();
    let document = config(&sidecar, "?wait=100ms");
    assert_eq!((&document["synced"], data(&document)), (&json!(false), json!({ "mode": "eco", "raw": "AP8=" })));
    assert_eq!(document["keys"]["raw"]["encoding"], "base64");
    // This broker comes back without its memory: what it has lost is no deletion.
    world.start_broker();
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish("p/config/new", "1", true);
    assert_eq!(synced(&sidecar), json!({ "mode": "eco", "raw": "AP8=", "new": 1 }));
    sidecar.expect_status("what is not sure", |status| status["config"]["unconfirmed"] == 2);
}

#[test]
fn a_client_that_watches_never_misses_the_latest_value() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    (0..40).for_each(|number| operator.publish(&format!("p/config/k{number:02}"), "old", true));
    let sidecar = Sidecar::start(home(&world));
    synced(&sidecar);
    let watch = Lines::of(&sidecar.home.socket(), "/v1/config?watch=true");
    let start =
        watch.expect("all keys, and that it is synced", |lines| lines.iter().any(|line| line["synced"] == true));
    assert_eq!(start.len(), 41);
    operator.publish("p/config/k07", "", true);
    (0..100).for_each(|number| operator.publish("p/config/k08", number.to_string(), true));
    let all =
        watch.expect("the last value", |lines| lines.iter().any(|line| line["key"] == "k08" && line["data"] == 99));
    assert!(all.contains(&json!({ "key": "k07", "deleted": true })), "{all:?}");
    let reported = |text: &str| {
        let answer = sidecar.request("PUT", "/v1/config/k08/reported", "text/plain", text.as_bytes()).unwrap();
        assert_eq!(answer.code, 200, "{answer:?}");
    };
    world.relay.cut();
    reported(r#"{"applied":98}"#);
    reported(r#"{"applied":99}"#);
    world.relay.open();
    world.subscriber.expect_latest("p/config-reported/k08", |reported| reported["applied"] == 99);
    let late = crate::common::subscriber::Subscriber::at(world.mosquitto.address());
    assert!(late.expect_latest("p/config-reported/k08", |reported| reported["applied"] == 99).retained);
}

#[test]
fn a_report_that_no_message_can_hold_is_never_taken() {
    let world = World::new();
    let mut home = home(&world);
    home.mqtt = "max_payload = \"1KiB\"".to_owned();
    let sidecar = Sidecar::start(home);
    let report = |length: usize| {
        let body = format!("\"{}\"", "x".repeat(length - 2));
        sidecar.request("PUT", "/v1/config/limits/reported", "application/json", body.as_bytes()).unwrap()
    };
    let answer = report(1025);
    assert_eq!(answer.code, 413, "{answer:?}");
    assert_eq!(report(1024).code, 200);
    world.subscriber.expect_latest("p/config-reported/limits", |reported| reported.is_string());
}

#[test]
fn no_kill_ever_leaves_a_broken_or_an_old_key() {
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    let mut sidecar = Sidecar::start(home(&world));
    let mut operator = Operator::at(world.mosquitto.address());
    let mut wanted = serde_json::Map::new();
    for round in 0..10 {
        for _ in 0..rng.usize(1..12) {
            let key = format!("k{}", rng.u8(..6));
            let value = format!("{round} {}", "x".repeat(rng.usize(..20_000)));
            operator.publish(&format!("p/config/{key}"), &value, true);
            wanted.insert(key, value.into());
        }
        std::thread::sleep(Duration::from_micros(rng.u64(..30_000)));
        sidecar.kill();
        sidecar.start_again();
        let text = sidecar.request("GET", "/v1/config", "", b"").unwrap();
        assert_eq!(text.code, 200, "{text:?}");
        assert_eq!(sidecar.status()["config"]["damaged"], 0);
    }
    assert_eq!(synced(&sidecar), Value::Object(wanted));
}

#[test]
fn a_damaged_or_too_large_key_never_costs_another() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    for key in ["a", "b", "c"] {
        operator.publish(&format!("p/config/{key}"), key, true);
    }
    let mut sidecar = Sidecar::start(home(&world));
    synced(&sidecar);
    sidecar.kill();
    let path = sidecar.home.path("state/config/00000002.key");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    operator.publish("p/config/huge", vec![b'x'; 70_000], true);
    world.relay.cut();
    sidecar.start_again();
    assert_eq!(data(&config(&sidecar, "")).as_object().unwrap().len(), 2);
    sidecar.expect_log("can't be read");
    world.relay.open();
    assert_eq!(synced(&sidecar), json!({ "a": "a", "b": "b", "c": "c" }), "the damaged one has come again");
    let status = sidecar.status()["config"].clone();
    // What is too large may come twice: from the queue for our session, and as what the broker keeps.
    assert!(status["damaged"] == 1 && (1..=2).contains(&status["refused"].as_u64().unwrap()), "{status}");
    for kind in ["config-damaged", "config-refused"] {
        world.subscriber.expect(kind, crate::common::SOON, |inbox| {
            inbox.on("p/event").any(|event| event.envelope["data"]["type"] == kind)
        });
    }
}
