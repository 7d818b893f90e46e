//! Sparkplug B as others read it: every message is decoded by pysparkplug, from PyPI, which `tests/run` installs, and held against
//! what a host application may rely on.

use super::{World, numbered};
use crate::common::SOON;
use crate::common::device::Device;
use crate::common::disk::LoopDisk;
use crate::common::operator::Operator;
use crate::common::sidecar::{Home, Sidecar};
use crate::common::subscriber::Inbox;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

const TABLES: &str = "[stream.telemetry]\nconvention = \"sparkplug\"\n[stream.work]\nconvention = \"sparkplug\"\n\
    [sparkplug]\ngroup = \"site-1\"\nnode = \"gw\"\n";

/// A Python with pysparkplug, as a child process.
struct Library {
    child: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl Library {
    fn start() -> Option<Library> {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-python/bin/python");
        let has_it = Command::new(&python).args(["-c", "import pysparkplug"]).output().ok();
        if !has_it.is_some_and(|output| output.status.success()) {
            println!("SKIPPED: there is no Python with pysparkplug under target/test-python (tests/run installs it)");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sparkplug_host.py");
        let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let say = child.stdin.take();
        let hear = BufReader::new(child.stdout.take().unwrap());
        Some(Library { child, say, hear })
    }

    fn ask(&mut self, task: &Value) -> Value {
        writeln!(self.say.as_mut().unwrap(), "{task}").unwrap();
        let mut line = String::new();
        self.hear.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} for {task}"))
    }

    /// A command as a host application sends it.
    fn command(&mut self, kind: &str, metrics: &Value, timestamp: u64, types: bool) -> Vec<u8> {
        let task = json!({ "type": kind, "metrics": metrics, "timestamp": timestamp, "types": types });
        let payload = self.ask(&task);
        bytes(payload["payload"].as_str().unwrap())
    }

    /// All that came so far, in order.
    fn heard(&mut self, world: &World) -> Vec<Value> {
        let messages: Vec<(String, Vec<u8>)> = world.subscriber.read(|inbox| {
            let all = of_sparkplug(inbox).map(|(topic, payload)| (topic.to_owned(), payload.to_vec()));
            all.collect()
        });
        let all = messages.into_iter().filter(|(topic, _)| !topic.contains("CMD/"));
        all.map(|(topic, payload)| self.ask(&json!({ "topic": topic, "payload": hex(&payload) }))).collect()
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.say = None;
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn of_sparkplug(inbox: &Inbox) -> impl Iterator<Item = (&str, &[u8])> {
    let all = inbox.messages.iter().filter(|message| message.topic.starts_with("spBv1.0/"));
    all.map(|message| (message.topic.as_str(), message.payload.as_ref()))
}

fn count(inbox: &Inbox, kind: &str) -> usize {
    of_sparkplug(inbox).filter(|(topic, _)| topic.split('/').nth(2) == Some(kind)).count()
}

fn expect(world: &World, kind: &str, least: usize) {
    world.subscriber.expect(kind, SOON, |inbox| count(inbox, kind) >= least);
}

/// Fails at whatever the specification does not allow; returns the bdSeq of each NDEATH.
fn hold_to_the_specification(messages: &[Value]) -> Vec<u64> {
    let (mut seq, mut bd_seq, mut deaths) = (None, None, Vec::new());
    let mut born: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for message in messages {
        let device = message["device"].as_str().unwrap_or_default().to_owned();
        let metrics = message["metrics"].as_array().unwrap();
        let types = || metrics.iter().map(|metric| (text(&metric["name"]), text(&metric["type"]))).collect();
        let of_death = || metrics.iter().find(|metric| metric["name"] == "bdSeq").unwrap()["value"].as_u64().unwrap();
        match text(&message["type"]).as_str() {
            "NBIRTH" => {
                (seq, bd_seq) = (Some(0), Some(of_death()));
                born.clear();
                let rebirth = metrics.iter().find(|metric| metric["name"] == "Node Control/Rebirth").unwrap();
                assert_eq!((&rebirth["type"], &rebirth["value"]), (&json!("BOOLEAN"), &json!(false)));
            }
            "NDEATH" => {
                assert_eq!((Some(of_death()), metrics.len()), (bd_seq, 1), "the death of another birth");
                deaths.push(of_death());
                born.clear();
                continue;
            }
            kind => {
                seq = seq.map(|seq| (seq + 1) % 256);
                match kind {
                    "DBIRTH" => _ = born.insert(device, types()),
                    "DDEATH" => _ = born.remove(&device).expect("only who was born dies"),
                    _ => {
                        let birth = born.get(&device).unwrap_or_else(|| panic!("{message} before the birth"));
                        let types: BTreeMap<String, String> = types();
                        assert!(types.iter().all(|(name, kind)| birth.get(name) == Some(kind)), "{message}: {birth:?}");
                    }
                }
            }
        }
        assert_eq!(message["seq"].as_u64(), seq, "{message}");
        assert!(message["timestamp"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{message}");
        assert!(metrics.iter().all(|metric| metric["null"] == metric["value"].is_null()), "{message}");
    }
    deaths
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Every value of a metric that came as data, in order, and whether it was historical. What comes once more, after a kill, has the
/// same time, and perhaps a wider type: 1042 has become 1042.0.
fn values<'m>(messages: &'m [Value], device: &'m str, name: &'m str) -> Vec<(&'m Value, bool)> {
    let of_device = messages.iter().filter(|message| message["type"] == "DDATA" && message["device"] == device);
    let metrics = of_device.flat_map(|message| message["metrics"].as_array().unwrap());
    let of_name = metrics.filter(|metric| metric["name"] == name);
    let mut known = BTreeSet::new();
    let plain = |value: &Value| value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string());
    let new = of_name.filter(|metric| known.insert((metric["timestamp"].as_u64(), plain(&metric["value"]))));
    new.map(|metric| (&metric["value"], metric["historical"] == true)).collect()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn with_meter(world: &World) -> (Home, Device) {
    let mut home = world.home();
    let meter = Device::at(home.path("meter"));
    home.tables = TABLES.to_owned();
    home.serial("meter", meter.path(), "commands = {}");
    (home, meter)
}

#[test]
fn births_data_deaths_and_rebirths_are_never_invalid() {
    let Some(mut library) = Library::start() else { return };
    let world = World::new();
    let (home, mut meter) = with_meter(&world);
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    expect(&world, "DBIRTH", 1);
    for line in
        ["{\"kWh\":1042,\"phase\":{\"l1\":230.5,\"on\":true}}", "{\"kWh\":1042.5}", "{\"text\":\"ok\",\"none\":null}"]
    {
        meter.line(line);
    }
    expect(&world, "DDATA", 3);
    // Somebody came late, and asks.
    let mut operator = Operator::at(world.mosquitto.address());
    let rebirth = json!([["Node Control/Rebirth", "BOOLEAN", true]]);
    operator.publish("spBv1.0/site-1/NCMD/gw", library.command("NCmd", &rebirth, now_ms(), false), false);
    expect(&world, "NBIRTH", 2);
    meter.line("{\"kWh\":1043}");
    expect(&world, "DDATA", 4);
    meter.pull_out();
    expect(&world, "DDEATH", 1);
    let births = world.subscriber.read(|inbox| count(inbox, "DBIRTH"));
    meter.plug_in();
    expect(&world, "DBIRTH", births + 1);
    sidecar.publish("orders", "{\"open\":3}");
    // It dies, and the broker says so.
    sidecar.kill();
    expect(&world, "NDEATH", 1);
    world.subscriber.expect_latest("p/status", |status| status["reason"] == "connection-lost");
    sidecar.start_again();
    expect(&world, "NBIRTH", 3);
    world.expect_online();
    super::expect_open(&sidecar, "meter");
    let before = world.subscriber.read(|inbox| count(inbox, "DDATA"));
    meter.line("{\"kWh\":1044}");
    expect(&world, "DDATA", before + 1);
    assert!(sidecar.terminate().success());
    expect(&world, "NDEATH", 2);
    world.subscriber.expect_latest("p/status", |status| status["reason"] == "stopped");

    let messages = library.heard(&world);
    let deaths = hold_to_the_specification(&messages);
    assert_eq!(deaths[1], (deaths[0] + 1) % 256, "each connection has a number of its own");
    let births: BTreeSet<_> = messages
        .iter()
        .filter(|message| message["type"] == "NBIRTH")
        .collect::<Vec<_>>()
        .iter()
        .map(|birth| birth["metrics"][0]["value"].as_u64())
        .collect();
    assert_eq!(births.len(), 2, "a rebirth is of the same connection");
    let kwh = values(&messages, "meter", "kWh");
    let expected = [json!(1042), json!(1042.5), json!(1043.0), json!(1044.0)];
    assert_eq!(kwh.iter().map(|(value, _)| (*value).clone()).collect::<Vec<_>>(), expected);
    assert!(kwh.iter().all(|(_, is_historical)| !is_historical));
    assert_eq!(values(&messages, "meter", "phase/l1"), [(&json!(230.5), false)]);
    assert_eq!(values(&messages, "meter", "phase/on"), [(&json!(true), false)]);
    assert_eq!(values(&messages, "meter", "text"), [(&json!("ok"), false)]);
    assert_eq!(values(&messages, "meter", "none"), [(&Value::Null, false)]);
    assert_eq!(values(&messages, "APP", "orders/open").last().map(|(value, _)| *value), Some(&json!(3)));
    let is_of_meter = |message: &&Value| message["type"] == "DBIRTH" && message["device"] == "meter";
    let first = messages.iter().find(is_of_meter).unwrap();
    assert_eq!(first["metrics"], json!([]), "of a device that has said nothing nobody knows more");
    assert!(world.subscriber.read(|inbox| inbox.on("p/device/meter/data").count()) == 0);
}

/// Whether a host takes the meter for alive.
fn is_alive(inbox: &Inbox) -> bool {
    let kinds = of_sparkplug(inbox).filter_map(|(topic, _)| {
        let mut levels = topic.split('/').skip(2);
        Some((levels.next()?, levels.nth(1)))
    });
    kinds.fold(false, |is_alive, (kind, device)| match (kind, device) {
        ("DBIRTH", Some("meter")) => true,
        ("DDEATH", Some("meter")) | ("NBIRTH" | "NDEATH", _) => false,
        _ => is_alive,
    })
}

#[test]
fn a_reload_never_hides_that_a_device_has_gone() {
    let Some(disk) = LoopDisk::mount() else { return };
    let world = World::new();
    let (mut home, mut meter) = with_meter(&world);
    std::os::unix::fs::symlink(disk.path(), home.path("state")).unwrap();
    home.mqtt = "budget = \"1MiB/day\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    world.subscriber.expect("the meter", SOON, is_alive);
    sidecar.home.mqtt += "\ninflight = 7";
    sidecar.home.configure();
    // It waits a second for what is used of the budget to be written, with nobody at the connection.
    disk.freeze();
    sidecar.hang_up();
    sidecar.expect_notes("RELOADING=1", 1);
    // Longer than it takes the publisher to leave; should it not be enough, this proves nothing.
    sidecar.status();
    meter.pull_out();
    sidecar.expect_notes("READY=1", 2);
    disk.thaw();
    world.subscriber.expect("its death", SOON, |inbox| !is_alive(inbox));
    assert_eq!(sidecar.status()["link"]["connects"], 1);
}

#[test]
fn an_outage_never_costs_a_record_nor_its_time() {
    let Some(mut library) = Library::start() else { return };
    let mut world = World::new();
    let (mut home, meter) = with_meter(&world);
    home.mqtt = "version = \"5\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    meter.line("before");
    expect(&world, "DDATA", 1);
    world.stop_broker();
    let (stored, live) = (numbered("stored", 500), numbered("live", 20));
    stored.iter().for_each(|line| meter.line(line));
    sidecar.expect_status("the lines to be stored", |status| {
        status["streams"]["telemetry"]["waiting"].as_u64() >= Some(500)
    });
    // Half of them are still there after a kill.
    sidecar.kill();
    sidecar.start_again();
    world.start_broker();
    let distinct = |inbox: &Inbox| {
        let data = of_sparkplug(inbox).filter(|(topic, _)| topic.ends_with("/DDATA/gw/meter"));
        data.map(|(_, payload)| payload).filter(|payload| payload.windows(7).any(|part| part == b"stored ")).count()
    };
    world.subscriber.expect("what was stored", SOON, |inbox| distinct(inbox) >= 500);
    sidecar.expect_status("the meter", |status| status["devices"]["meter"]["state"] == "online");
    sidecar.expect_status("nothing to wait", |status| status["streams"]["telemetry"]["waiting"] == 0);
    // When all of it was there, a birth says what the present value is.
    world.subscriber.expect("the birth after the backlog", SOON, |inbox| {
        let mut births = of_sparkplug(inbox).filter(|(topic, _)| topic.contains("/DBIRTH/"));
        births.any(|(_, payload)| payload.windows(10).any(|part| part == b"stored 499"))
    });
    live.iter().for_each(|line| meter.line(line));
    world.subscriber.expect("live lines", SOON, |inbox| {
        of_sparkplug(inbox).any(|(_, payload)| payload.windows(7).any(|part| part == b"live 19"))
    });
    assert!(sidecar.terminate().success());
    expect(&world, "NDEATH", 1);

    let messages = library.heard(&world);
    hold_to_the_specification(&messages);
    let values = values(&messages, "meter", "value");
    let of =
        |kind: &str| values.iter().filter(|(value, _)| value.as_str().unwrap().starts_with(kind)).collect::<Vec<_>>();
    let texts = |kind: &str| {
        let mut texts: Vec<String> = of(kind).iter().map(|(value, _)| text(value)).collect();
        texts.dedup();
        texts
    };
    assert_eq!((texts("stored"), texts("live")), (stored, live));
    assert!(of("stored").iter().all(|(_, is_historical)| *is_historical), "they are no present values");
    assert!(of("live").iter().all(|(_, is_historical)| !is_historical));
}

#[test]
fn a_command_of_a_host_is_never_late_nor_strange() {
    let Some(mut library) = Library::start() else { return };
    let world = World::new();
    let (home, meter) = with_meter(&world);
    let sidecar = Sidecar::start(home);
    world.expect_online();
    super::expect_open(&sidecar, "meter");
    sidecar.expect_status("the subscriptions", |status| status["commands"]["session"]["state"] == "connected");
    let mut operator = Operator::at(world.mosquitto.address());
    let topic = "spBv1.0/site-1/DCMD/gw/meter";
    let order = |text: &str| json!([["value", "STRING", text]]);
    operator.publish(topic, library.command("DCmd", &order("LATE"), now_ms() - 3_600_000, true), false);
    operator.publish(topic, b"\xff\xff no payload of Sparkplug", false);
    operator.publish(topic, library.command("DCmd", &order("SET 5"), now_ms(), false), false);
    let mut heard = Vec::new();
    while !heard.ends_with(b"SET 5\n") {
        let more = meter.hear(SOON);
        assert!(!more.is_empty(), "heard {:?}", String::from_utf8_lossy(&heard));
        heard.extend(more);
    }
    assert_eq!(String::from_utf8_lossy(&heard), "SET 5\n");
    let stages = |inbox: &Inbox| {
        let replies = inbox.on("p/device/meter/reply").map(|reply| text(&reply.envelope["data"]["stage"]));
        replies.collect::<Vec<_>>()
    };
    world.subscriber.expect("the answers", SOON, |inbox| stages(inbox).len() >= 4);
    assert_eq!(world.subscriber.read(stages), ["expired", "refused", "received", "written"]);
}
