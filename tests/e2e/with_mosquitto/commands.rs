//! Commands to a device: carried out once, or never, whatever happens to them and to the sidecar.

use super::{World, expect_open};
use crate::common::device::Device;
use crate::common::operator::Operator;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::{SOON, seed};
use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SET: &str = "p/device/meter/set";
const REPLY: &str = "p/device/meter/reply";

/// Sends commands.
trait Commander {
    fn send(&mut self, id: &str, data: &str, ttl: &str);
}

impl Commander for Operator {
    fn send(&mut self, id: &str, data: &str, ttl: &str) {
        self.publish(SET, json!({ "id": id, "data": data, "ttl": ttl }).to_string(), false);
    }
}

/// A device that writes down what it hears.
struct Listening {
    device: Device,
    bytes: Vec<u8>,
}

impl Listening {
    fn at(home: &mut Home, commands: &str) -> Self {
        let device = Device::at(home.path("meter"));
        home.serial("meter", device.path(), &format!("commands = {{ {commands} }}"));
        Listening { device, bytes: Vec::new() }
    }

    /// Everything it has heard so far.
    fn lines(&mut self) -> Vec<String> {
        self.bytes.extend(self.device.hear(Duration::ZERO));
        String::from_utf8(self.bytes.clone()).unwrap().lines().map(str::to_owned).collect()
    }

    /// Waits until it has heard this line.
    fn expect(&mut self, line: &str) {
        let deadline = Instant::now() + SOON;
        while !self.lines().iter().any(|heard| heard == line) {
            assert!(Instant::now() < deadline, "waited {SOON:?} for {line:?}; heard {:?}", self.lines());
            self.bytes.extend(self.device.hear(Duration::from_millis(100)));
        }
    }
}

fn start(world: &World, commands: &str, more: impl FnOnce(&mut Home)) -> (Sidecar, Listening) {
    let mut home = world.home();
    let device = Listening::at(&mut home, commands);
    more(&mut home);
    let sidecar = Sidecar::start(home);
    expect_listening(&sidecar);
    (sidecar, device)
}

fn expect_listening(sidecar: &Sidecar) {
    expect_open(sidecar, "meter");
    sidecar.expect_status("a session for commands", |status| status["commands"]["session"]["state"] == "connected");
}

/// Waits for the final reply to this command, and returns it.
fn final_reply(world: &World, id: &str) -> Value {
    nth_final_reply(world, id, 1)
}

/// Waits until this command has so many final replies, and returns the latest.
fn nth_final_reply(world: &World, id: &str, count: usize) -> Value {
    let mut found = Value::Null;
    world.subscriber.expect(&format!("{count} final replies to {id}"), SOON, |inbox| {
        let replies = inbox.on(REPLY).map(|arrival| &arrival.envelope["data"]);
        let replies: Vec<_> = replies.filter(|reply| reply["id"] == id && reply["final"] == true).collect();
        found = replies.last().map_or(Value::Null, |reply| (*reply).clone());
        replies.len() >= count
    });
    found
}

#[test]
fn a_command_that_comes_a_hundred_times_is_never_carried_out_twice() {
    let world = World::new();
    let (mut sidecar, mut device) = start(&world, "rate = 1000", |_| {});
    let mut operator = Operator::at(world.mosquitto.address());
    for _ in 0..100 {
        operator.send("c-1", "OPEN", "60s");
    }
    operator.send("c-2", "END", "60s");
    assert_eq!(final_reply(&world, "c-1")["stage"], "written");
    final_reply(&world, "c-2");
    sidecar.kill();
    sidecar.start_again();
    expect_listening(&sidecar);
    for id in ["c-1", "c-2", "c-3"] {
        operator.send(id, &format!("again {id}"), "60s");
    }
    device.expect("again c-3");
    assert_eq!(device.lines(), ["OPEN", "END", "again c-3"]);
    let repeated = |reply: &Value| reply["id"] == "c-2" && reply["repeated"] == true && reply["stage"] == "written";
    world
        .subscriber
        .expect("the old answer", SOON, |inbox| inbox.on(REPLY).any(|arrival| repeated(&arrival.envelope["data"])));
    let counts = sidecar.status()["commands"]["counts"].clone();
    assert_eq!((&counts["begun"], &counts["repeated"]), (&json!(1), &json!(2)), "{counts}");
}

#[test]
fn no_kill_ever_has_a_command_carried_out_twice() {
    let mut rng = Rng::with_seed(seed());
    let world = World::new();
    let (mut sidecar, mut device) = start(&world, "rate = 1000", |_| {});
    let mut operator = Operator::at(world.mosquitto.address());
    let mut sent = Vec::new();
    for round in 0..20 {
        for number in 0..rng.usize(1..12) {
            let id = format!("k-{round}-{number}");
            operator.send(&id, &id, "10m");
            if rng.bool() {
                operator.send(&id, &id, "10m");
            }
            sent.push(id);
        }
        std::thread::sleep(Duration::from_micros(rng.u64(..30_000)));
        sidecar.kill();
        device.lines();
        // What an earlier process has left at the broker, and what comes while there is none.
        let old = rng.choice(&sent).unwrap().clone();
        operator.send(&old, &old, "10m");
        sidecar.start_again();
        if rng.bool() {
            expect_listening(&sidecar);
        }
    }
    expect_listening(&sidecar);
    for id in &sent {
        operator.send(id, id, "10m");
        // Repetitions are not answered without limit.
        std::thread::sleep(Duration::from_millis(60));
    }
    operator.send("last", "last", "10m");
    device.expect("last");
    let lines = device.lines();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for id in &sent {
        let reply = final_reply(&world, id);
        let heard = lines.iter().filter(|line| *line == id).count();
        *outcomes.entry(reply["stage"].as_str().unwrap().to_owned()).or_default() += 1;
        match reply["stage"].as_str() {
            Some("written") => assert_eq!(heard, 1, "{id}: {reply}"),
            // Killed while it was carried out, or before the port was open.
            Some("failed") => assert!(heard <= 1, "{id} came {heard} times: {reply}"),
            other => panic!("{id}: {other:?} {reply}"),
        }
    }
    println!("{} commands: {outcomes:?}", sent.len());
    assert!(outcomes["written"] > sent.len() / 4, "{outcomes:?}");
    assert_eq!(sidecar.status()["commands"]["session"]["resets"], 0);
}

#[test]
fn a_retained_command_is_never_carried_out() {
    let world = World::new();
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish(SET, json!({ "id": "old", "data": "OPEN" }).to_string(), true);
    let (mut sidecar, mut device) = start(&world, "", |_| {});
    let reply = final_reply(&world, "old");
    assert_eq!(reply["stage"], "refused", "{reply}");
    sidecar.kill();
    sidecar.start_again();
    expect_listening(&sidecar);
    nth_final_reply(&world, "old", 2);
    operator.send("new", "CLOSE", "60s");
    device.expect("CLOSE");
    assert_eq!(device.lines(), ["CLOSE"]);
}

#[test]
fn what_waited_while_the_gateway_was_away_is_never_carried_out_late() {
    let world = World::new();
    let (mut sidecar, mut device) = start(&world, "ttl = \"60s\"", |home| home.mqtt += "keep_alive = \"1s\"\n");
    let mut operator = Operator::at(world.mosquitto.address());
    for (name, kill) in [("stopped", false), ("killed", true)] {
        match kill {
            false => assert!(sidecar.terminate().success()),
            true => sidecar.kill(),
        }
        operator.send(&format!("{name} short"), &format!("{name} short"), "1s");
        operator.send(&format!("{name} long"), &format!("{name} long"), "10m");
        operator.publish(SET, format!("{name} plain"), false);
        // A minute is allowed, and this was sent an hour ago by its own account.
        let ts = humantime::format_rfc3339(std::time::SystemTime::now() - Duration::from_secs(3600)).to_string();
        let stale = json!({ "id": format!("{name} stale"), "data": "stale", "ts": ts });
        operator.publish(SET, stale.to_string(), false);
        // Time has to pass here: it is what makes a command too late.
        std::thread::sleep(Duration::from_millis(1500));
        sidecar.start_again();
        for expired in ["short", "stale"] {
            let reply = final_reply(&world, &format!("{name} {expired}"));
            assert_eq!(reply["stage"], "expired", "{reply}");
        }
        device.expect(&format!("{name} plain"));
    }
    // An outage of the link alone.
    world.relay.cut();
    operator.send("cut short", "cut short", "1s");
    operator.send("cut long", "cut long", "10m");
    std::thread::sleep(Duration::from_millis(1500));
    world.relay.open();
    assert_eq!(final_reply(&world, "cut short")["stage"], "expired");
    device.expect("cut long");
    let heard = ["stopped long", "stopped plain", "killed long", "killed plain", "cut long"];
    assert_eq!(device.lines(), heard);
    // After a while what comes is known to be fresh again.
    let since = Instant::now();
    let fresh = (0..).map(|number| format!("fresh {number}")).find(|id| {
        // Slowly, for refusals are not answered without limit.
        std::thread::sleep(Duration::from_millis(200));
        operator.send(id, id, "500ms");
        assert!(since.elapsed() < SOON, "nothing counts as fresh any more");
        final_reply(&world, id)["stage"] == "written"
    });
    device.expect(&fresh.unwrap());
}

#[test]
fn without_a_memory_of_the_last_connection_nothing_counts_as_fresh() {
    let world = World::new();
    let (mut sidecar, mut device) = start(&world, "", |_| {});
    sidecar.kill();
    // As after a reboot.
    std::fs::remove_file(sidecar.home.path("run/commands-alive")).unwrap();
    let mut operator = Operator::at(world.mosquitto.address());
    operator.send("unknown", "unknown", "10m");
    let now = humantime::format_rfc3339(std::time::SystemTime::now()).to_string();
    operator.publish(SET, json!({ "id": "known", "data": "known", "ts": now, "ttl": "10m" }).to_string(), false);
    sidecar.start_again();
    let reply = final_reply(&world, "unknown");
    assert_eq!(reply["stage"], "expired", "{reply}");
    assert!(reply["reason"].as_str().unwrap().contains("send a ts"), "{reply}");
    device.expect("known");
    assert_eq!(device.lines(), ["known"]);
}

#[test]
fn nothing_hostile_ever_reaches_the_device_or_stops_the_sidecar() {
    let world = World::new();
    let (sidecar, mut device) = start(&world, "allow = [\"SET *\", \"STATUS\"], rate = 20", |_| {});
    let mut operator = Operator::at(world.mosquitto.address());
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(7000), "]".repeat(7000));
    let wrong: [&[u8]; 12] = [
        b"",
        b"REBOOT",
        b"SET 1\nREBOOT",
        b"\xff\xfe\x00",
        b"{\"id\":\"x\",\"data\":",
        b"{\"id\":\"\\u0000\",\"data\":\"SET 1\"}",
        b"{\"data\":\"SET 1\",\"ttl\":\"for ever\"}",
        b"{\"data\":\"SET 1\",\"reboot\":true}",
        b"{\"data\":{\"SET 1\":1}}",
        deep.as_bytes(),
        &[b'['; 16_000],
        &[b'S'; 200_000],
    ];
    for payload in wrong {
        operator.publish(SET, payload, false);
    }
    for name in ["nobody", "..", "a b", "mêter", &"x".repeat(10_000), "$SYS", "METER"] {
        operator.publish(&format!("p/device/{name}/set"), "SET 2", false);
    }
    for topic in ["p/device/meter/set/", "p/device//set", "p/device/meter/meter/set", "q/device/meter/set"] {
        operator.publish(topic, "SET 3", false);
    }
    operator.send("good", "SET 4", "60s");
    device.expect("SET 4");
    assert_eq!(device.lines(), ["SET 4"]);
    let counts = sidecar.status()["commands"]["counts"].clone();
    let refused = counts["refused"].as_u64().unwrap();
    assert!(refused >= 18, "{counts}");
    // A flood gets what the rate allows.
    let since = Instant::now();
    for number in 0..500 {
        operator.send(&format!("f-{number}"), "STATUS", "60s");
    }
    let took = since.elapsed().as_secs() + 1;
    operator.leave();
    sidecar.expect_status("an end of the flood", |status| {
        let counts = &status["commands"]["counts"];
        let of = |name: &str| counts[name].as_u64().unwrap();
        of("begun") + of("refused") >= refused + 501 && of("done") + of("failed") + 1 >= of("begun")
    });
    let statuses = device.lines().iter().filter(|line| *line == "STATUS").count();
    let allowed = usize::try_from(20 * (took + 2)).unwrap();
    assert!((10..=allowed).contains(&statuses), "{statuses} of 500 in {took} s");
}

#[test]
fn a_message_that_is_too_large_never_comes_again_and_again() {
    let world = World::new();
    let (sidecar, mut device) = start(&world, "", |_| {});
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish(SET, vec![b'x'; 600_000], false);
    world.subscriber.expect("an event", SOON, |inbox| !inbox.events("commands-lost").is_empty());
    expect_listening(&sidecar);
    operator.send("after", "after", "60s");
    device.expect("after");
    assert_eq!(device.lines(), ["after"]);
    assert_eq!(sidecar.status()["commands"]["session"]["resets"], 1);
}

#[test]
fn a_local_client_never_waits_in_vain() {
    let world = World::new();
    let (sidecar, mut device) = start(&world, "allow = [\"GET *\"], reply = \"300ms\"", |_| {});
    let post = |target: &str, body: &str| sidecar.request("POST", target, "text/plain", body.as_bytes()).unwrap();
    let meter = "/v1/devices/meter/command";

    let answer = post(meter, r#"{"id":"l-1","data":"GET silence"}"#);
    assert_eq!((answer.code, &answer.json["stage"]), (502, &json!("failed")), "{answer:?}");
    assert!(answer.json["reason"].as_str().unwrap().contains("no answer within 300ms"), "{answer:?}");

    std::thread::scope(|scope| {
        scope.spawn(|| {
            device.expect("GET temperature");
            device.device.line("21.5");
        });
        let answer = post(meter, r#"{"id":"l-2","data":"GET temperature"}"#);
        assert_eq!((answer.code, &answer.json["data"]), (200, &json!(21.5)), "{answer:?}");
    });
    let again = post(meter, r#"{"id":"l-2","data":"GET temperature"}"#);
    assert_eq!((again.code, &again.json["data"], &again.json["repeated"]), (200, &json!(21.5), &json!(true)));
    assert_eq!(final_reply(&world, "l-2")["data"], 21.5, "everybody hears of it");

    assert_eq!(post("/v1/devices/nobody/command", "GET x").code, 404);
    assert_eq!(post(meter, "REBOOT").code, 422);
    assert_eq!(post(&format!("{meter}?wait=never"), "GET x").code, 400);
    assert_eq!(post(meter, &"x".repeat(20_000)).code, 413);
    assert_eq!(sidecar.request("GET", meter, "", b"").unwrap().code, 405);
    let late = r#"{"data":"GET x","ts":"2026-01-02T00:00:00Z"}"#;
    assert_eq!(post(meter, late).code, 410);
    let devices = sidecar.request("GET", "/v1/devices", "", b"").unwrap();
    assert_eq!((devices.code, &devices.json["meter"]["state"]), (200, &json!("online")), "{devices:?}");

    let socket = sidecar.home.socket();
    let command = |arguments: &[&str], input: &[u8]| {
        let arguments = [&["command", "--socket", socket.to_str().unwrap()], arguments].concat();
        let output = sidecar.home.run(&arguments, input);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, _) = command(&["meter", "GET temperature", "--id", "l-2"], b"");
    assert!(code == Some(0) && out.contains("\"data\": 21.5"), "{code:?} {out}");
    let (code, _, err) = command(&["meter"], b"REBOOT\n");
    assert!(code == Some(65) && err.contains("commands.allow"), "{code:?} {err}");
    let (code, _, err) = command(&["nobody", "x"], b"");
    assert!(code == Some(65) && err.contains("no device \"nobody\""), "{code:?} {err}");
    let (code, out, _) = command(&["meter", "GET more", "--ttl", "5s"], b"");
    assert!(code == Some(1) && out.contains("\"stage\": \"failed\""), "{code:?} {out}");
}

#[test]
fn a_device_that_is_not_there_never_gets_a_command_later() {
    let world = World::new();
    let (sidecar, mut device) = start(&world, "", |_| {});
    device.device.pull_out();
    sidecar.expect_status("its absence", |status| status["devices"]["meter"]["state"] == "offline");
    let mut operator = Operator::at(world.mosquitto.address());
    operator.send("away", "away", "10m");
    let reply = final_reply(&world, "away");
    assert_eq!(reply["stage"], "failed");
    assert!(reply["reason"].as_str().unwrap().contains("not open"), "{reply}");
    device.device.plug_in();
    expect_open(&sidecar, "meter");
    operator.send("back", "back", "10m");
    device.expect("back");
    assert_eq!(device.lines(), ["back"]);
}

#[test]
fn a_disk_that_takes_nothing_never_has_a_command_carried_out_without_a_note() {
    let world = World::new();
    let mut home = world.home();
    let mut device = Listening::at(&mut home, "");
    home.configure();
    // A file in the place of the journal's folder: nothing can be written there.
    std::fs::write(home.path("state/commands"), "").unwrap();
    let sidecar = Sidecar::start(home);
    expect_listening(&sidecar);
    let mut operator = Operator::at(world.mosquitto.address());
    operator.send("c-1", "one", "60s");
    let reply = final_reply(&world, "c-1");
    assert!(reply["stage"] == "refused" && reply["reason"].as_str().unwrap().contains("can't be noted"), "{reply}");
    sidecar.expect_status("a complaint", |status| status["health"]["reasons"].to_string().contains("can't be noted"));
    std::fs::remove_file(sidecar.home.path("state/commands")).unwrap();
    operator.send("c-1", "one", "60s");
    device.expect("one");
    assert_eq!(device.lines(), ["one"]);
    sidecar.expect_status("no complaint", |status| status["commands"]["counts"]["journal_error"].is_null());
}
