//! Messages for the application: each comes once, under a number that it keeps, whatever is killed.

use super::World;
use crate::common::http::Lines;
use crate::common::operator::Operator;
use crate::common::seed;
use crate::common::sidecar::{Home, Sidecar};
use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

fn home(world: &World) -> Home {
    let mut home = world.home();
    home.tables += "[app]\ncommands = true\n";
    home
}

fn start(world: &World) -> Sidecar {
    let sidecar = Sidecar::start(home(world));
    expect_listening(&sidecar);
    sidecar
}

fn expect_listening(sidecar: &Sidecar) {
    sidecar.expect_status("a session", |status| status["commands"]["session"]["state"] == "connected");
}

fn lines(sidecar: &Sidecar, query: &str) -> Lines {
    Lines::of(&sidecar.home.socket(), &format!("/v1/commands{query}"))
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["data"].as_str().unwrap()).collect()
}

#[test]
fn a_message_never_gets_lost_or_doubled_when_the_sidecar_is_killed() {
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    let mut sidecar = start(&world);
    let mut operator = Operator::at(world.mosquitto.address());
    let (mut sent, mut seen) = (0, BTreeMap::new());
    for _ in 0..15 {
        let client = lines(&sidecar, "?after=0");
        for _ in 0..rng.usize(1..10) {
            operator.publish("p/app/set/n", format!("message {sent}"), false);
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(rng.u64(..20_000)));
        sidecar.kill();
        for line in client.so_far() {
            let text = line["data"].as_str().unwrap().to_owned();
            let before = seen.insert(line["id"].as_u64().unwrap(), text.clone());
            assert!(before.is_none_or(|before| before == text), "a number was given twice: {line}");
        }
        // What comes while there is no sidecar waits at the broker.
        if rng.bool() {
            operator.publish("p/app/set/n", format!("message {sent}"), false);
            sent += 1;
        }
        sidecar.start_again();
    }
    let wanted: Vec<String> = (0..sent).map(|number| format!("message {number}")).collect();
    let client = lines(&sidecar, "?after=0");
    let all = client.expect("all messages", |lines| lines.len() >= wanted.len());
    assert_eq!(texts(&all), wanted, "each once, in order");
    assert!(all.windows(2).all(|pair| pair[0]["id"].as_u64() < pair[1]["id"].as_u64()));
    for line in &all {
        let known = seen.get(&line["id"].as_u64().unwrap());
        assert!(known.is_none_or(|text| line["data"] == *text), "a message changed its number: {line}");
    }
    let inbox = sidecar.status()["inbox"].clone();
    assert_eq!((&inbox["kept"], &inbox["dropped"]), (&json!(sent), &json!(0)), "{inbox}");
}

#[test]
fn a_client_that_comes_back_never_misses_or_repeats_a_message() {
    let world = World::new();
    let mut sidecar = start(&world);
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish("p/app/set/mode", "\"before\"", false);
    sidecar.expect_status("the first message", |status| status["inbox"]["latest"] == 1);
    let [live, other] = [lines(&sidecar, ""), lines(&sidecar, "?after=0")];
    operator.publish("p/app/set/mode", "{\n  \"level\": 3\n}", false);
    operator.publish("p/app/set", [0, 255], false);
    let first = live.expect("two messages", |lines| lines.len() == 2);
    assert_eq!(
        (&first[0]["topic"], &first[0]["data"], &first[0]["id"]),
        (&json!("mode"), &json!({"level": 3}), &json!(2))
    );
    assert_eq!(
        (&first[1]["topic"], &first[1]["data"], &first[1]["encoding"]),
        (&json!(""), &json!("AP8="), &json!("base64"))
    );
    assert_eq!(texts(&other.expect("three messages", |lines| lines.len() == 3)[..1]), ["before"]);
    drop(live);
    operator.publish("p/app/set/mode", "while away", false);
    sidecar.kill();
    operator.publish("p/app/set/mode", "while off", false);
    sidecar.start_again();
    let again = lines(&sidecar, "?after=3");
    assert_eq!(texts(&again.expect("two more", |lines| lines.len() == 2)), ["while away", "while off"]);
    sidecar.terminate();
    // A stop ends the stream as an answer ends.
    sidecar.start_again();
    let kept = lines(&sidecar, "?after=4").expect("the last one", |lines| lines.len() == 1);
    assert_eq!(texts(&kept), ["while off"]);
}

#[test]
fn messages_that_nobody_reads_never_fill_the_disk_or_vanish_silently() {
    let world = World::new();
    let sidecar = start(&world);
    let mut operator = Operator::at(world.mosquitto.address());
    for number in 0..300 {
        operator.publish("p/app/set/n", number.to_string(), false);
    }
    operator.publish("p/app/set/huge", vec![b'x'; 70_000], false);
    operator.publish("p/app/set/n", "last", false);
    let status = sidecar.expect_status("all of them", |status| status["inbox"]["latest"] == 301);
    let inbox = &status["inbox"];
    assert_eq!((&inbox["kept"], &inbox["dropped"], &inbox["refused"]), (&json!(256), &json!(45), &json!(1)), "{inbox}");
    let told = |kind: &str, least: u64| {
        let kind = kind.to_owned();
        world.subscriber.expect(&format!("an event {kind}"), crate::common::LONG, move |inbox| {
            let events = inbox.on("p/event").filter(|event| event.envelope["data"]["type"] == kind.as_str());
            events.filter_map(|event| event.envelope["data"]["count"].as_u64()).sum::<u64>() >= least
        });
    };
    told("messages-dropped", 1);
    told("messages-refused", 1);
    let kept = lines(&sidecar, "?after=1").expect("what is kept", |lines| lines.len() == 256);
    assert_eq!((&kept[0]["id"], &kept[255]["data"]), (&json!(46), &json!("last")));
    let size = std::fs::metadata(sidecar.home.path("state/inbox/messages")).unwrap().len();
    assert!(size < 600 * 1024, "{size}");
}

#[test]
fn what_the_broker_keeps_never_comes_again_with_each_connection() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish("p/app/set/mode", "eco", true);
    let mut sidecar = start(&world);
    let first = lines(&sidecar, "?after=0").expect("it", |lines| lines.len() == 1);
    assert_eq!((&first[0]["data"], &first[0]["retained"]), (&json!("eco"), &json!(true)));
    for _ in 0..2 {
        sidecar.kill();
        sidecar.start_again();
        sidecar.expect_status("the repetition", |status| status["inbox"]["repeated"] == 1);
    }
    operator.publish("p/app/set/mode", "full", true);
    let all = lines(&sidecar, "?after=0").expect("the new one", |lines| lines.len() == 2);
    assert_eq!(texts(&all), ["eco", "full"]);
}

#[test]
fn without_an_inbox_a_client_never_waits_for_nothing() {
    let world = World::new();
    let sidecar = Sidecar::start(world.home());
    let answer = sidecar.request("GET", "/v1/commands", "", b"").unwrap();
    assert_eq!(answer.code, 404);
    assert!(answer.text.contains("commands = true"), "{answer:?}");
    assert_eq!(sidecar.status()["inbox"], Value::Null);
}
