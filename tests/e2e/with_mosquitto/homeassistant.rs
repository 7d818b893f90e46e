//! Home Assistant's side: its documents are found, what they name is there, and what they say how to read can be read.

use super::World;
use super::modbus::{Units, python};
use crate::common::SOON;
use crate::common::device::Device;
use crate::common::operator::Operator;
use crate::common::sidecar::Sidecar;
use crate::common::subscriber::{Inbox, Subscriber};
use pillion::config::{Source, Surroundings, parse};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Renders each template with its payload, for an entity that has this state.
fn render(tasks: &[(&str, &str, &str)]) -> Option<Vec<String>> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-python/bin/python");
    let has_it = Command::new(&python).args(["-c", "import jinja2"]).output().ok();
    has_it.filter(|output| output.status.success())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jinja.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(tasks).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn render_one(template: &str, payload: &str) -> String {
    render(&[(template, payload, "before")]).expect("jinja2 was there a moment ago").remove(0)
}

/// Every document that the broker keeps, by its topic; a new subscriber gets them. What pillion sends meanwhile may come
/// too, but not as a kept one.
fn kept(world: &World) -> BTreeMap<String, Value> {
    let subscriber = Subscriber::at(world.mosquitto.address());
    subscriber.flush();
    subscriber.read(|inbox| {
        let kept = inbox.messages.iter().filter(|message| message.retained);
        let documents = kept.filter(|message| message.topic.starts_with("homeassistant/"));
        documents.map(|message| (message.topic.clone(), serde_json::from_slice(&message.payload).unwrap())).collect()
    })
}

fn find<'d>(documents: &'d BTreeMap<String, Value>, unique_id: &str) -> &'d Value {
    let found = documents.values().find(|document| document["unique_id"] == unique_id);
    found.unwrap_or_else(|| panic!("{unique_id} is not among {:?}", documents.keys()))
}

/// The latest payload on a topic, with or without an id.
fn latest(inbox: &Inbox, topic: &str) -> Option<String> {
    let record = inbox.on(topic).last().map(|arrival| arrival.envelope.to_string());
    record.or_else(|| inbox.latest(topic).map(|message| String::from_utf8_lossy(&message.payload).into_owned()))
}

fn expect_data(world: &World, topic: &str, right: &dyn Fn(&Value) -> bool) {
    world.subscriber.expect(topic, SOON, |inbox| inbox.on(topic).any(|arrival| right(&arrival.envelope["data"])));
}

#[test]
fn no_document_ever_names_what_is_not_there() {
    let (Some(python), Some(_)) = (python(), render(&[])) else {
        println!(
            "SKIPPED: there is no Python with pymodbus and jinja2 under target/test-python (tests/run installs them)"
        );
        return;
    };
    let world = World::new();
    let mut home = world.home();
    let meter = Device::at(home.path("meter"));
    let (near, far) = (Device::at(home.path("bus")), Device::at(home.path("units")));
    home.serial("meter", meter.path(), "");
    let polls = "[[modbus.unit.poll]]\nname = \"setpoint\"\ninterval = \"100ms\"\ntable = \"holding\"\naddress = 5\nwrite = true\n\
                 [[modbus.unit.poll]]\nname = \"pump\"\ninterval = \"150ms\"\ntable = \"coil\"\naddress = 1\nwrite = true\n";
    home.tables += &format!(
        "[[modbus]]\nname = \"bus\"\npath = \"{}\"\ntimeout = \"500ms\"\n[[modbus.unit]]\nname = \"heat-pump\"\nunit = 1\n\
         commands = {{}}\n{polls}[homeassistant]\nenable = true\n[health]\ninterval = \"1s\"\n",
        near.path().display()
    );
    let _units = Units::on(&python, near, far);
    let sidecar = Sidecar::start(home);
    world.expect_online();
    meter.line("{\"kWh\":1042.7}");
    expect_data(&world, "p/device/meter/data", &|data| data["kWh"] == 1042.7);
    expect_data(&world, "p/device/heat-pump/data", &|data| data["setpoint"] == 105);
    expect_data(&world, "p/device/heat-pump/data", &|data| data["pump"] == false);
    world.subscriber.expect("health", SOON, |inbox| inbox.count("p/health") > 0);
    world.subscriber.expect_latest("p/device/heat-pump/state", |state| state["state"] == "online");
    let documents = kept(&world);
    assert_eq!(documents.len(), 5 + 1 + 2, "{:?}", documents.keys());

    for document in documents.values() {
        let topics = ["state_topic", "json_attributes_topic"].into_iter().filter_map(|key| document[key].as_str());
        for topic in topics {
            assert!(world.subscriber.read(|inbox| latest(inbox, topic)).is_some(), "nothing is on {topic}");
        }
        for place in document["availability"].as_array().into_iter().flatten() {
            let topic = place["topic"].as_str().unwrap();
            let payload = world.subscriber.read(|inbox| latest(inbox, topic)).unwrap();
            assert_eq!(render_one(place["value_template"].as_str().unwrap(), &payload), "online", "{topic}");
        }
        assert_eq!(document["origin"]["name"], "pillion");
    }
    let shows = |unique_id: &str, key: &str| {
        let document = find(&documents, unique_id);
        let topic =
            document[key.replace("value_template", "state_template").replace("_template", "_topic")].as_str().unwrap();
        let payload = world.subscriber.read(|inbox| latest(inbox, topic)).unwrap();
        render_one(document[key].as_str().unwrap(), &payload)
    };
    assert_eq!(shows("p/connection", "value_template"), "ON");
    assert!(["healthy", "degraded"].contains(&shows("p/health", "value_template").as_str()));
    assert!(shows("p/health", "json_attributes_template").starts_with("{\"reasons\": ["));
    shows("p/waiting", "value_template").parse::<u64>().unwrap();
    let used: f64 = shows("p/disk", "value_template").parse().unwrap();
    assert!((0.0..=100.0).contains(&used), "{used}");
    let temperature = shows("p/temperature", "value_template");
    assert!(temperature.is_empty() || temperature.parse::<f64>().is_ok(), "{temperature}");
    assert!(shows("p/meter/data", "value_template").ends_with('Z'), "the time of an object");
    assert_eq!(shows("p/meter/data", "json_attributes_template"), "{\"kWh\": 1042.7}");

    // Its values come in records of their own, and the template of each passes over the other's.
    let (pump, setpoint) = (find(&documents, "p/heat-pump/pump"), find(&documents, "p/heat-pump/setpoint"));
    let records = world.subscriber.read(|inbox| {
        let on = inbox.on("p/device/heat-pump/data");
        on.map(|arrival| arrival.envelope.to_string()).collect::<Vec<_>>()
    });
    let mut seen = [Vec::new(), Vec::new()];
    for record in &records {
        for (seen, document) in seen.iter_mut().zip([pump, setpoint]) {
            seen.push(render_one(document["value_template"].as_str().unwrap(), record));
        }
        if seen.iter().all(|seen| seen.iter().any(|text| !text.is_empty())) {
            break;
        }
    }
    assert!(seen[0].contains(&"{\"pump\": false}".to_owned()), "{seen:?}");
    assert!(seen[1].contains(&"105".to_owned()), "{seen:?}");

    let mut operator = Operator::at(world.mosquitto.address());
    let on = pump["payload_on"].as_str().unwrap();
    operator.publish(pump["command_topic"].as_str().unwrap(), on, false);
    world.subscriber.expect("the pump to run", SOON, |inbox| {
        let on = inbox.on("p/device/heat-pump/data");
        on.filter(|arrival| arrival.envelope["data"]["pump"] == true).count() > 0
    });
    let last = world.subscriber.read(|inbox| {
        let all = inbox.on("p/device/heat-pump/data").filter(|arrival| arrival.envelope["data"]["pump"] == true);
        all.last().unwrap().envelope.to_string()
    });
    assert_eq!(render_one(pump["value_template"].as_str().unwrap(), &last), on);
    let written = |count: usize| {
        world.subscriber.expect("the answer", SOON, |inbox| {
            let replies = inbox.on("p/device/heat-pump/reply");
            replies.filter(|reply| reply.envelope["data"]["stage"] == "written").count() >= count
        });
    };
    written(1);
    let order = render(&[(setpoint["command_template"].as_str().unwrap(), "21", "")]).unwrap().remove(0);
    operator.publish(setpoint["command_topic"].as_str().unwrap(), order, false);
    expect_data(&world, "p/device/heat-pump/data", &|data| data["setpoint"] == 21);
    written(2);
    drop(sidecar);
}

#[test]
fn what_is_gone_never_stays_in_home_assistant() {
    let world = World::new();
    let mut home = world.home();
    let (meter, scale) = (Device::at(home.path("meter")), Device::at(home.path("scale")));
    let both = |home: &mut crate::common::sidecar::Home| home.serial("scale", scale.path(), "");
    home.serial("meter", meter.path(), "");
    let one = home.tables.clone();
    both(&mut home);
    let enabled = "[homeassistant]\nenable = true\n";
    home.tables += enabled;
    let remembered = home.path("state/homeassistant.topics");
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    let of = |count: usize| {
        world.subscriber.expect("the documents", SOON, |inbox| {
            let all = inbox.messages.iter().map(|message| message.topic.as_str());
            let topics: BTreeSet<&str> = all.filter(|topic| topic.starts_with("homeassistant/")).collect();
            let is_there = |topic: &&&str| inbox.latest(topic).is_some_and(|message| !message.payload.is_empty());
            topics.iter().filter(is_there).count() == count
        });
        let documents = kept(&world);
        assert_eq!(documents.len(), count);
        documents
    };
    let documents = of(5 + 2);
    find(&documents, "p/scale/data");
    // A device is removed while pillion does not run.
    sidecar.terminate();
    let written = std::fs::metadata(&remembered).unwrap().modified().unwrap();
    sidecar.start_again();
    world.expect_online();
    sidecar.terminate();
    assert_eq!(std::fs::metadata(&remembered).unwrap().modified().unwrap(), written, "nothing has changed");
    sidecar.home.tables = one.clone() + enabled;
    sidecar.start_again();
    let documents = of(5 + 1);
    assert!(documents.values().all(|document| document["unique_id"] != "p/scale/data"));
    let lines = || std::fs::read_to_string(&remembered).unwrap().lines().count();
    sidecar.expect_status("the file to forget it", |_| lines() == 6);
    // Home Assistant is not used any more, and the broker can't be reached just then; nor does a kill matter.
    sidecar.terminate();
    world.relay.cut();
    sidecar.home.tables = one;
    sidecar.start_again();
    sidecar.kill();
    assert_eq!((lines(), kept(&world).len()), (6, 6));
    world.relay.open();
    sidecar.start_again();
    of(0);
    sidecar.expect_status("the file to be empty", |_| lines() == 0);
    assert!(sidecar.terminate().success());
}

#[test]
fn a_lines_record_is_never_read_as_another_level() {
    let text = "[homeassistant]\nenable = true\n[[gpio]]\nname = \"door\"\nchip = \"c\"\nline = 1\ndirection = \"input\"\n\
                [[gpio]]\nname = \"button\"\nchip = \"c\"\nline = 2\ndirection = \"input\"\nedge = \"rising\"\n\
                [[gpio]]\nname = \"water\"\nchip = \"c\"\nline = 3\ndirection = \"input\"\ncounter = {}\n\
                [[gpio]]\nname = \"relay\"\nchip = \"c\"\nline = 4\ndirection = \"output\"\ncommands = {}\n\
                [[serial]]\nname = \"scale\"\npath = \"/dev/a\"\n[[serial]]\nname = \"probe\"\npath = \"/dev/b\"\n\
                [[homeassistant.sensor]]\ndevice = \"probe\"\nfield = \"phase1.power\"\nunit_of_measurement = \"W\"\n\
                [[homeassistant.sensor]]\ndevice = \"probe\"\nfield = \"mode\"\n\
                [[modbus]]\nname = \"b\"\npath = \"/dev/c\"\n[[modbus.unit]]\nname = \"unit\"\nunit = 1\n[[modbus.unit.poll]]\n\
                name = \"model\"\ntable = \"holding\"\naddress = 0\ntype = \"string\"\nwords = 2\n";
    let source = [Source::new("gateway.toml", text)];
    let config = parse(&source, &Surroundings::default(), Path::new("/etc/pillion"), &|_| false).unwrap().config;
    let documents = pillion::homeassistant::documents(&config, "pi");
    let documents: Vec<Value> =
        documents.iter().map(|document| serde_json::from_str(&document.payload).unwrap()).collect();
    let cases = [
        ("door/value", r#"{"value":true,"edge":"rising"}"#, "ON"),
        ("door/value", r#"{"value":false}"#, "OFF"),
        ("button/edge", r#"{"value":true,"edge":"rising"}"#, r#"{"event_type": "rising"}"#),
        ("button/edge", r#"{"value":true}"#, ""),
        ("water/count", r#"{"count":17,"delta":2}"#, "17"),
        ("relay/value", r#"{"value":true,"cause":"command"}"#, "on"),
        ("relay/value", r#"{"value":false,"cause":"safe"}"#, "off"),
        ("scale/data", "22.5", "22.5"),
        ("scale/data", "\"net 5 kg\"", "net 5 kg"),
        ("scale/data", "null", "None"),
        ("scale/data", r#"{"kg":5}"#, "2026-11-23T02:41:07.123Z"),
        ("probe/phase1_power", r#"{"phase1":{"power":-5.25}}"#, "-5.25"),
        ("probe/phase1_power", r#"{"phase1":{}}"#, ""),
        ("probe/phase1_power", r#"{"phase2":{"power":1}}"#, ""),
        ("probe/phase1_power", "7", ""),
        ("probe/mode", r#"{"mode":"auto"}"#, "auto"),
        ("probe/mode", r#"{"other":1}"#, "before"),
        ("unit/model", r#"{"model":"AB"}"#, "AB"),
        ("unit/model", r#"{"power":1}"#, "before"),
    ];
    let template = |id: &str| {
        let id = format!("pillion/localhost/gateway/{id}");
        let is_it = |document: &&Value| document["unique_id"].as_str().is_some_and(|unique| unique.starts_with(&id));
        documents.iter().find(is_it).unwrap_or_else(|| panic!("{id} is not in {documents:#?}"))["value_template"]
            .as_str()
            .unwrap()
    };
    let payloads =
        cases.map(|(_, data, _)| format!(r#"{{"id":"telemetry:1","ts":"2026-11-23T02:41:07.123Z","data":{data}}}"#));
    let tasks: Vec<_> =
        cases.iter().zip(&payloads).map(|((id, _, _), payload)| (template(id), payload.as_str(), "before")).collect();
    let Some(shown) = render(&tasks) else {
        println!("SKIPPED: there is no Python with jinja2 under target/test-python (tests/run installs it)");
        return;
    };
    for ((id, data, expected), shown) in cases.iter().zip(shown) {
        assert_eq!(shown, *expected, "{id} of {data}");
    }
}
