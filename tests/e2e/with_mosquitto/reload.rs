//! The configuration changes while everything flows.

use super::logs::{Journal, expect_each_once};
use super::{World, expect_open, numbered};
use crate::common::SOON;
use crate::common::device::Device;
use crate::common::fake_broker::{Account, FakeBroker, Opening, Script};
use crate::common::http::Answer;
use crate::common::operator::Operator;
use crate::common::sidecar::{Home, Sidecar};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Lines per second of the device that is not touched.
const RATE: u64 = 1000;

/// A table for each device.
fn tables(devices: &[(&str, &Path, &str)]) -> String {
    let table =
        |(name, path, more): &(&str, &Path, &str)| format!("[[serial]]\nname = {name:?}\npath = {path:?}\n{more}\n");
    "[stream.work]\n".to_owned() + &devices.iter().map(table).collect::<String>()
}

/// Changes the configuration and has it read; returns the answer.
fn reload(sidecar: &mut Sidecar, tables: &str, mqtt: &str) -> Answer {
    (sidecar.home.tables, sidecar.home.mqtt) = (tables.to_owned(), mqtt.to_owned());
    sidecar.home.configure();
    sidecar.request("POST", "/v1/reload", "", b"").unwrap()
}

/// How often it was opened. A device that is stopped and started begins its own account anew, so the log has to say.
fn opens(sidecar: &Sidecar, device: &str) -> usize {
    let line = format!("device {device} is online");
    sidecar.expect_log(&line);
    sidecar.log().matches(&line).count()
}

fn ended(answer: &Answer) -> (u16, &str) {
    (answer.code, answer.json["outcome"].as_str().unwrap_or_default())
}

/// Has the device say lines at `RATE` while `work` is done, and then some more; all of them must come, in order and once.
fn while_it_flows(world: &World, device: &Device, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let flow = scope.spawn(|| {
            let start = Instant::now();
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                device.line(&format!("line {number}"));
                number += 1;
                let due = start + Duration::from_micros(number * 1_000_000 / RATE);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            number
        });
        // Else a failure in `work` would wait for a flow that never ends.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        let said = flow.join().unwrap();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        said
    });
    world.subscriber.expect("all lines", SOON, |inbox| inbox.count("p/device/steady/data") as u64 >= said);
    world.subscriber.read(|inbox| {
        let texts: Vec<&str> = inbox.on("p/device/steady/data").map(|arrival| arrival.text()).collect();
        assert_eq!(texts, (0..said).map(|number| format!("line {number}")).collect::<Vec<_>>());
        inbox.assert_in_order();
        assert_eq!(inbox.repeats, 0, "what is on the wire is acknowledged before a connection ends");
    });
    println!("{said} lines");
}

#[test]
fn a_reload_never_costs_a_record_nor_disturbs_what_is_configured_as_before() {
    let world = World::new();
    let mut home = world.home();
    let [steady, changing, going, coming] =
        ["steady", "changing", "going", "coming"].map(|name| Device::at(home.path(name)));
    let before = tables(&[
        ("steady", steady.path(), ""),
        ("changing", changing.path(), "baud = 9600"),
        ("going", going.path(), ""),
    ]);
    let after = tables(&[
        ("coming", coming.path(), ""),
        ("steady", steady.path(), ""),
        ("changing", changing.path(), "baud = 19200\npayload = \"base64\""),
    ]);
    home.tables.clone_from(&before);
    let mut sidecar = Sidecar::start(home);
    ["steady", "changing", "going"].iter().for_each(|device| expect_open(&sidecar, device));
    world.expect_online();
    world.subscriber.expect_latest("p/device/going/state", |state| state["state"] == "online");

    while_it_flows(&world, &steady, || {
        let untouched = |sidecar: &Sidecar| {
            let status = sidecar.status();
            assert_eq!((opens(sidecar, "steady"), &status["link"]["connects"]), (1, &json!(1)), "{status:#}");
            status
        };
        // Nothing has changed.
        assert_eq!(ended(&reload(&mut sidecar, &before, "")), (200, "unchanged"));
        untouched(&sidecar);
        assert_eq!(opens(&sidecar, "changing"), 1);

        // One is changed, one comes, one goes.
        let answer = reload(&mut sidecar, &after, "");
        assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
        let keys = ["serial.changing.baud", "serial.changing.payload", "serial.coming (new)", "serial.going (gone)"];
        assert_eq!(answer.json["keys"], json!(keys));
        ["steady", "changing", "coming"].iter().for_each(|device| expect_open(&sidecar, device));
        sidecar.expect_log_times("device changing is online", 2);
        coming.line("hello");
        world.subscriber.expect_text("telemetry", "hello");
        changing.line("hello");
        world.subscriber.expect_text("telemetry", "aGVsbG8=");
        assert_eq!(untouched(&sidecar)["devices"]["going"], Value::Null);
        // The broker keeps nothing of the one that has gone.
        world.subscriber.expect("its state to be removed", SOON, |inbox| {
            inbox.latest("p/device/going/state").is_some_and(|message| message.payload.is_empty())
        });

        // It is wrong, in two places.
        let wrong = after.replace("baud = 19200", "baud = \"fast\"") + "[health]\nintervall = \"1s\"\n";
        let answer = reload(&mut sidecar, &wrong, "");
        assert_eq!(ended(&answer), (422, "wrong"), "{answer:?}");
        let problems = answer.json["problems"].to_string();
        for part in ["test.toml:", ": serial.changing.baud: ", ": health.intervall: unknown key"] {
            assert!(problems.contains(part), "{problems}");
        }
        sidecar.expect_log("health.intervall: unknown key");
        let status = untouched(&sidecar);
        assert_eq!(status["health"]["state"], "degraded");
        assert!(status["health"]["reasons"][0].as_str().unwrap().contains("would not start with it"), "{status:#}");
        assert_eq!(status["configuration"]["refused"], 1);

        // Some of it needs a restart: nothing is applied.
        let answer = reload(&mut sidecar, &(before.clone() + "[app]\ncommands = true\n"), "keep_alive = \"7s\"");
        assert_eq!(ended(&answer), (409, "needs-restart"), "{answer:?}");
        assert_eq!(answer.json["keys"], json!(["app.commands"]));
        assert_eq!(untouched(&sidecar)["devices"]["going"], Value::Null);

        // All is well again.
        assert_eq!(ended(&reload(&mut sidecar, &after, "")), (200, "unchanged"));
        sidecar.expect_status("health", |status| status["health"]["state"] == "healthy");
        untouched(&sidecar);
    });
    let notes = sidecar.notes();
    assert_eq!(notes.iter().filter(|note| *note == "RELOADING=1").count(), 5, "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("MONOTONIC_USEC=")), "{notes:?}");
}

#[test]
fn another_connection_never_costs_a_record_nor_looks_like_the_end_of_pillion() {
    let world = World::new();
    let mut home = world.home();
    let steady = Device::at(home.path("steady"));
    let devices = tables(&[("steady", steady.path(), "")]);
    home.tables.clone_from(&devices);
    let mut sidecar = Sidecar::start(home);
    expect_open(&sidecar, "steady");
    world.expect_online();
    while_it_flows(&world, &steady, || {
        // What no connection depends on.
        let quota = devices.clone() + "[stream.telemetry]\nmax_bytes = \"8MiB\"\n";
        let answer = reload(&mut sidecar, &quota, "inflight = 16");
        assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
        assert_eq!(sidecar.status()["link"]["connects"], 1);
        // What it does.
        for round in 2..=6 {
            let answer = reload(&mut sidecar, &quota, &format!("inflight = 16\nkeep_alive = \"{round}s\""));
            assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
            sidecar.expect_status("the next connection", |status| status["link"]["connects"] == round);
        }
    });
    world.subscriber.read(|inbox| {
        let offline: Vec<_> = inbox
            .messages
            .iter()
            .filter(|message| message.topic == "p/status" && message.json()["state"] == "offline")
            .collect();
        assert!(offline.is_empty(), "{offline:?}");
    });
    assert_eq!(opens(&sidecar, "steady"), 1);
}

#[test]
fn reloads_never_keep_a_connection_from_being_kept_alive() {
    let broker = FakeBroker::start(Script::POLITE, 0);
    let mut home = Home::new([broker.url()]);
    home.mqtt = "keep_alive = \"1s\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    broker.expect("a ping", SOON, |account| account.pings == 1);
    let tables = sidecar.home.tables.clone();
    // Several in each interval.
    let start = Instant::now();
    for round in 1.. {
        let answer = reload(&mut sidecar, &tables, &format!("keep_alive = \"1s\"\ninflight = {round}"));
        assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
        if broker.read(|account| account.pings >= 3) {
            break;
        }
        assert!(start.elapsed() < SOON, "{round} reloads");
    }
    assert_eq!(broker.read(|account| account.connections), 1);
}

#[test]
fn a_move_to_another_broker_never_leaves_the_old_one_believing() {
    let (world, elsewhere) = (World::new(), World::new());
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    let tables = sidecar.home.tables.clone();
    sidecar.publish("x", "before");
    world.subscriber.expect_text("work", "before");
    sidecar.home.servers = vec![elsewhere.relay.url()];
    assert_eq!(ended(&reload(&mut sidecar, &tables, "")), (200, "applied"));
    elsewhere.expect_online();
    world.subscriber.expect_latest("p/status", |status| status["reason"] == "stopped");
    sidecar.publish("x", "after");
    elsewhere.subscriber.expect_text("work", "after");
    sidecar.expect_drained("work");
}

#[test]
fn a_login_that_is_refused_never_leaves_the_broker_believing() {
    let opening = |number, _: &mut fastrand::Rng| match number {
        1 => Opening::Accept,
        _ => Opening::Refuse(ConnectReturnCode::BadUserNamePassword),
    };
    let broker = FakeBroker::start(Script { opening, ..Script::POLITE }, 0);
    let mut sidecar = Sidecar::start(Home::new([broker.url()]));
    let told = |account: &Account, state: &str| {
        let mut status = account.others.iter().rev().filter(|(topic, ..)| topic == "p/status");
        status.next().is_some_and(|(_, payload, is_retained)| payload["state"] == state && *is_retained)
    };
    broker.expect("the birth", SOON, |account| told(account, "online"));
    let tables = sidecar.home.tables.clone();
    assert_eq!(ended(&reload(&mut sidecar, &tables, "username = \"nobody\"")), (200, "applied"));
    broker.expect("the next connection", SOON, |account| account.connections >= 2);
    assert!(broker.read(|account| told(account, "offline")));
}

#[test]
fn a_broker_that_is_away_or_silent_never_holds_up_a_reload() {
    let mut world = World::new();
    let mut home = world.home();
    home.mqtt = "ack_timeout = \"5s\"".to_owned();
    let mut sidecar = Sidecar::start(home);
    let tables = sidecar.home.tables.clone();
    world.expect_online();
    // It acknowledges nothing any more.
    world.relay.silence();
    sidecar.publish_lines("x", &numbered("silent", 50));
    assert_eq!(ended(&reload(&mut sidecar, &tables, "ack_timeout = \"6s\"")), (200, "applied"));
    world.relay.open();
    world.subscriber.expect_texts("work", numbered("silent", 50), SOON);
    // It is away.
    world.stop_broker();
    sidecar.publish_lines("x", &numbered("away", 50));
    assert_eq!(ended(&reload(&mut sidecar, &tables, "ack_timeout = \"7s\"")), (200, "applied"));
    world.start_broker();
    world.subscriber.expect_texts("work", numbered("away", 50), SOON);
    sidecar.expect_drained("work");
}

#[test]
fn commands_never_wait_for_a_restart_when_the_first_device_takes_them() {
    let world = World::new();
    let mut home = world.home();
    let valve = Device::at(home.path("valve"));
    home.tables = tables(&[("valve", valve.path(), "")]);
    let mut sidecar = Sidecar::start(home);
    expect_open(&sidecar, "valve");
    assert_eq!(sidecar.status()["commands"], Value::Null);
    let takes = tables(&[("valve", valve.path(), "commands = { allow = [\"OPEN*\"] }")]);
    assert_eq!(ended(&reload(&mut sidecar, &takes, "")), (200, "applied"));
    sidecar.expect_status("the session", |status| status["commands"]["session"]["state"] == "connected");
    let mut operator = Operator::at(world.mosquitto.address());
    operator.publish("p/device/valve/set", r#"{"id":"c-1","ttl":"30s","data":"OPEN 1"}"#, false);
    assert_eq!(valve.hear(SOON), b"OPEN 1\n");
    // And not any more. What was carried out stays so.
    let plain = tables(&[("valve", valve.path(), "baud = 300")]);
    assert_eq!(ended(&reload(&mut sidecar, &plain, "")), (200, "applied"));
    expect_open(&sidecar, "valve");
    assert_eq!(sidecar.status()["commands"], Value::Null);
    let answer = sidecar.request("POST", "/v1/devices/valve/command", "", b"OPEN 2").unwrap();
    assert_eq!(answer.code, 422, "{answer:?}");
    operator.leave();
}

#[test]
fn a_hang_up_signal_never_ends_pillion_but_has_it_read_its_configuration() {
    let world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    sidecar.hang_up();
    sidecar.expect_notes("RELOADING=1", 1);
    sidecar.expect_notes("READY=1", 2);
    sidecar.home.mqtt = "inflight = \"many\"".to_owned();
    sidecar.home.configure();
    sidecar.hang_up();
    sidecar
        .expect_note("what is wrong", |note| note.starts_with("STATUS=Degraded: ") && note.contains("mqtt.inflight"));
    let socket = sidecar.home.socket();
    let output = sidecar.home.run(&["reload", "--socket", socket.to_str().unwrap()], b"");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{complaint}");
    assert!(complaint.contains("test.toml:") && complaint.contains("mqtt.inflight"), "{complaint}");
    sidecar.home.mqtt = String::new();
    sidecar.home.configure();
    let output = sidecar.home.run(&["reload", "--socket", socket.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("has not changed"), "{output:?}");
    assert_eq!(sidecar.terminate().code(), Some(0));
}

#[test]
fn forty_reloads_in_a_row_never_lose_a_record_nor_leave_anything_open() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new();
    let mut home = world.home();
    let devices = ["a", "b", "c", "d"].map(|name| (name, Device::at(home.path(name))));
    home.tables = tables(&[]);
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    let mut open = 0;
    let mut texts = Vec::new();
    for round in 0..40 {
        match random.u8(0..6) {
            0 => world.relay.cut(),
            1 | 2 => world.relay.open(),
            _ => {}
        }
        let lines = |random: &mut fastrand::Rng| match random.bool() {
            true => format!("baud = {}", random.choice([300, 9600]).unwrap()),
            false => "commands = {}".to_owned(),
        };
        let mut chosen: Vec<(&str, &Path, String)> = Vec::new();
        for (name, device) in &devices {
            if random.bool() {
                chosen.push((name, device.path(), lines(&mut random)));
            }
        }
        let chosen: Vec<(&str, &Path, &str)> =
            chosen.iter().map(|(name, path, more)| (*name, *path, more.as_str())).collect();
        let mqtt = format!("inflight = {}\nkeep_alive = \"{}s\"", random.u8(1..100), random.u8(20..22));
        let quota = format!("[stream.telemetry]\nmax_bytes = \"{}MiB\"\n", random.u8(2..9));
        for number in 0..5 {
            texts.push(format!("record {round} {number}"));
            sidecar.publish("x", texts.last().unwrap());
        }
        let answer = reload(&mut sidecar, &(tables(&chosen) + &quota), &mqtt);
        assert_eq!(answer.code, 200, "{answer:?}");
        let status = sidecar.status();
        let there: Vec<&str> = status["devices"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected: Vec<&str> = chosen.iter().map(|(name, ..)| *name).collect();
        expected.sort_unstable();
        assert_eq!(there, expected);
    }
    world.relay.open();
    world.subscriber.expect_texts("work", texts, SOON);
    sidecar.expect_drained("work");
    world.subscriber.read(|inbox| inbox.assert_in_order());
    // As few as at the start of the same configuration.
    for round in 0..3 {
        let plain = tables(&[]);
        assert_eq!(reload(&mut sidecar, &plain, &format!("keep_alive = \"3{round}s\"")).code, 200);
        sidecar.expect_status("the link", |status| status["link"]["state"] == "connected");
        open = if round == 0 { sidecar.descriptors() } else { open };
    }
    sidecar.expect_status("all descriptors to be closed", |_| sidecar.descriptors() <= open);
    // Nor do devices that are gone leave a state at the broker.
    let late = crate::common::subscriber::Subscriber::at(world.mosquitto.address());
    late.flush();
    late.read(|inbox| {
        let states = inbox.messages.iter().filter(|message| message.topic.starts_with("p/device/")).count();
        assert_eq!(states, 0, "{:?}", inbox.messages);
    });
}

#[test]
fn home_assistant_never_learns_of_a_change_only_after_a_restart() {
    let world = World::new();
    let mut home = world.home();
    let meter = Device::at(home.path("meter"));
    home.tables = tables(&[("meter", meter.path(), "")]) + "[homeassistant]\nenable = true\n";
    let mut sidecar = Sidecar::start(home);
    let of = |inbox: &crate::common::subscriber::Inbox, device: &str, is_empty: bool| {
        inbox.messages.iter().rev().any(|message| {
            message.topic.starts_with("homeassistant/")
                && message.topic.contains(device)
                && message.payload.is_empty() == is_empty
        })
    };
    world.subscriber.expect("the meter to be announced", SOON, |inbox| of(inbox, "meter", false));
    let pump = Device::at(sidecar.home.path("pump"));
    let tables = tables(&[("pump", pump.path(), "")]) + "[homeassistant]\nenable = true\n";
    assert_eq!(ended(&reload(&mut sidecar, &tables, "")), (200, "applied"));
    world.subscriber.expect("the pump to be announced", SOON, |inbox| of(inbox, "pump", false));
    world.subscriber.expect("the meter to be deleted", SOON, |inbox| of(inbox, "meter", true));
    assert_eq!(sidecar.status()["link"]["connects"], 1);
}

#[test]
fn what_the_application_logs_is_never_lost_nor_doubled_when_its_table_changes() {
    let world = World::new();
    let mut home = world.home();
    let mut journal = Journal::beside(&mut home);
    let mut sidecar = Sidecar::start(home);
    let app = sidecar.home.tables.clone();
    let mut rng = fastrand::Rng::with_seed(crate::common::seed());
    sidecar.expect_status("the journal to be followed", |status| status["logs"]["state"] == "following");
    for round in 0..24 {
        journal.log(rng.u64(1..200));
        let change = match round % 6 {
            0 => "log_rate = 0\n",
            1 | 4 => "logs = false\n",
            2 => "recorder = \"1KiB\"\nheartbeat_timeout = \"30s\"\n",
            _ => "",
        };
        let answer = reload(&mut sidecar, &(app.clone() + change), "");
        assert_eq!(ended(&answer), (200, "applied"), "{change}: {answer:?}");
        match round % 3 {
            // It is followed, or not, before it changes again; or whatever comes of a change at once.
            0 => _ = sidecar.expect_status("the journal", |status| status["logs"]["state"] == "following"),
            1 => _ = sidecar.expect_status("the journal to be left alone", |status| status["logs"] == Value::Null),
            _ => {}
        }
    }
    journal.log(7);
    expect_each_once(&world, &journal);
    assert_eq!(sidecar.status()["link"]["connects"], 1);
    // From here on what is less severe is shipped as well.
    let all = app.clone() + "log_level = \"debug\"\n";
    assert_eq!(ended(&reload(&mut sidecar, &all, "")), (200, "applied"));
    let before = sidecar.status()["logs"]["below_level"].clone();
    journal.log(8);
    let last = journal.shipped().last().cloned().unwrap();
    let last = format!("{last:?}");
    world.subscriber.expect("the last line", SOON, |inbox| {
        inbox.on("p/log").any(|record| record.envelope.to_string().contains(&last))
    });
    assert_eq!(sidecar.status()["logs"]["below_level"], before);
    // A unit is what other flows are made for.
    let other = app.replace("gw.service", "other.service");
    let answer = reload(&mut sidecar, &other, "");
    assert_eq!((ended(&answer), &answer.json["keys"]), ((409, "needs-restart"), &json!(["app.unit"])));
}

#[test]
fn a_heartbeat_is_never_missed_that_a_reload_asks_for_nor_one_that_nobody_asks_for_any_more() {
    let world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    let tables = sidecar.home.tables.clone();
    let with = |timeout: &str| format!("{tables}[app]\nheartbeat_timeout = {timeout:?}\n");
    assert_eq!(sidecar.status()["app"], Value::Null);
    assert_eq!(ended(&reload(&mut sidecar, &with("1h"), "")), (200, "applied"));
    let heartbeat = sidecar.status()["app"]["heartbeat"].clone();
    assert_eq!((&heartbeat["state"], &heartbeat["timeout_ms"]), (&json!("awaited"), &json!(3_600_000)));
    assert_eq!(ended(&reload(&mut sidecar, &with("1s"), "")), (200, "applied"));
    sidecar.expect_status("a complaint", |status| status["health"]["state"] == "failed");
    world.subscriber.expect("the event", SOON, |inbox| inbox.events("app-unresponsive").len() == 1);
    // It was silent, and a longer time is no heartbeat.
    assert_eq!(ended(&reload(&mut sidecar, &with("1h"), "")), (200, "applied"));
    assert_eq!(sidecar.status()["app"]["heartbeat"]["state"], "lost");
    assert_eq!(sidecar.request("POST", "/v1/heartbeat", "", b"").unwrap().code, 204);
    sidecar.expect_status("the heartbeat", |status| status["app"]["heartbeat"]["state"] == "alive");
    world.subscriber.expect("its return", SOON, |inbox| inbox.events("app-responsive").len() == 1);
    assert_eq!(ended(&reload(&mut sidecar, &tables, "")), (200, "applied"));
    let status = sidecar.status();
    assert_eq!((&status["app"], &status["health"]["state"]), (&Value::Null, &json!("healthy")), "{status:#}");
}

/// Publishes a record to a stream; returns the answer.
fn publish_to(sidecar: &Sidecar, stream: &str, text: &str) -> Answer {
    sidecar.request("POST", &format!("/v1/publish?topic=x&stream={stream}"), "text/plain", text.as_bytes()).unwrap()
}

#[test]
fn a_new_stream_never_waits_for_a_restart_nor_takes_the_place_of_another() {
    let world = World::new();
    let mut home = world.home();
    let steady = Device::at(home.path("steady"));
    let before = tables(&[("steady", steady.path(), "")]);
    home.tables.clone_from(&before);
    let mut sidecar = Sidecar::start(home);
    expect_open(&sidecar, "steady");
    world.expect_online();
    let refused = publish_to(&sidecar, "alarm", "too early");
    assert!(refused.code == 400 && refused.text.contains("there are event, telemetry, log, work"), "{refused:?}");
    while_it_flows(&world, &steady, || {
        for round in 0..6 {
            // In the order of names they come before the one that is there.
            let streams: String = (0..=round).map(|number| format!("[stream.alarm{number}]\npriority = 0\n")).collect();
            let answer = reload(&mut sidecar, &(before.clone() + &streams), "");
            assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
            assert_eq!(answer.json["keys"], json!([format!("stream.alarm{round} (new)")]));
            for number in 0..=round {
                let answer = publish_to(&sidecar, &format!("alarm{number}"), &format!("alarm {round}"));
                assert_eq!((answer.code, &answer.json["first"]), (200, &json!(round - number + 1)), "{answer:?}");
            }
            sidecar.publish("x", &format!("work {round}"));
        }
        world.subscriber.expect_texts("work", numbered("work", 6), SOON);
        world.subscriber.expect_texts("alarm0", numbered("alarm", 6), SOON);
        world.subscriber.expect_text("alarm5", "alarm 5");
    });
    let status = sidecar.status();
    assert_eq!((&status["link"]["connects"], &status["devices"]["steady"]["opens"]), (&json!(1), &json!(1)));
    assert_eq!(status["streams"]["alarm0"]["accepted"], 6, "{status:#}");
    // A restart finds the same.
    assert_eq!(sidecar.terminate().code(), Some(0));
    sidecar.start_again();
    assert_eq!(publish_to(&sidecar, "alarm3", "on").json["first"], 4);
    assert_eq!(sidecar.expect_drained("alarm0")["delivered"], 6);
}

#[test]
fn a_stream_that_is_removed_never_takes_its_records_along() {
    let world = World::new();
    let mut home = world.home();
    let without = home.tables.clone();
    let with = without.clone() + "[stream.old]\n";
    home.tables.clone_from(&with);
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    let mut expected = Vec::new();
    let mut fill = |sidecar: &Sidecar, round: usize| {
        world.relay.cut();
        for text in numbered(&format!("round {round}"), 50) {
            let answer = publish_to(sidecar, "old", &text);
            assert_eq!((answer.code, &answer.json["first"]), (200, &json!(expected.len() + 1)), "{answer:?}");
            expected.push(text);
        }
    };
    let expect_to_go_out = |sidecar: &Sidecar, round: usize| {
        let status = sidecar.status();
        assert_eq!(status["streams"]["old"]["waiting"], 50, "{status:#}");
        assert_eq!(status["streams"]["old"]["retired"], true, "{status:#}");
        assert_eq!(publish_to(sidecar, "old", "too late").code, 400);
        world.relay.open();
        world.subscriber.expect_texts("old", numbered(&format!("round {round}"), 50), SOON);
        sidecar.expect_status("it to be gone", |status| status["streams"]["old"] == Value::Null);
    };
    // While it runs; ...
    fill(&sidecar, 0);
    let answer = reload(&mut sidecar, &without, "");
    assert_eq!((ended(&answer), &answer.json["keys"]), ((200, "applied"), &json!(["stream.old (gone)"])));
    expect_to_go_out(&sidecar, 0);
    // ... over a restart, and over a kill.
    for round in 1..3 {
        if round == 1 {
            assert_eq!(ended(&reload(&mut sidecar, &with, "")), (200, "applied"));
        } else {
            sidecar.terminate();
            sidecar.home.tables.clone_from(&with);
            sidecar.start_again();
        }
        fill(&sidecar, round);
        match round {
            1 => _ = sidecar.terminate(),
            _ => sidecar.kill(),
        }
        sidecar.home.tables.clone_from(&without);
        sidecar.start_again();
        sidecar.expect_log_times("stream old is not configured any more", round);
        expect_to_go_out(&sidecar, round);
    }
    world.subscriber.read(|inbox| {
        inbox.assert_in_order();
        assert_eq!(inbox.of("old").len(), 150);
        assert!(inbox.events("gap").is_empty(), "{:?}", inbox.events("gap"));
    });
    sidecar.publish("x", "the others go on");
    world.subscriber.expect_text("work", "the others go on");
    assert_eq!(sidecar.terminate().code(), Some(0));
    sidecar.start_again();
    sidecar.expect_log_times("stream old is not configured any more", 2);
}

#[test]
fn whatever_comes_during_a_reload_is_never_forgotten() {
    let world = World::new();
    let mut sidecar = Sidecar::start(world.home());
    world.expect_online();
    // From here on a reload waits for acknowledgements that don't come, as long as it may.
    world.relay.silence();
    sidecar.publish_lines("x", &numbered("silent", 50));
    let hang_up = |sidecar: &mut Sidecar, inflight: usize| {
        sidecar.home.mqtt = format!("inflight = {inflight}");
        sidecar.home.configure();
        sidecar.hang_up();
    };
    hang_up(&mut sidecar, 7);
    sidecar.expect_notes("RELOADING=1", 1);
    // Two signals that come meanwhile are one more reload.
    hang_up(&mut sidecar, 8);
    hang_up(&mut sidecar, 9);
    sidecar.expect_notes("RELOADING=1", 2);
    sidecar.expect_notes("READY=1", 3);
    let configuration = sidecar.status()["configuration"].clone();
    let count = |of: &str| usize::try_from(configuration[of].as_u64().unwrap()).unwrap();
    // The first one may have come to the file only when the last change was in it.
    let applied = count("applied");
    assert_eq!((applied.clamp(1, 2), applied + count("unchanged")), (applied, 2), "{configuration}");
    // A stop ends it.
    world.relay.open();
    world.subscriber.expect_texts("work", numbered("silent", 50), SOON);
    world.relay.silence();
    sidecar.publish_lines("x", &numbered("more", 50));
    hang_up(&mut sidecar, 10);
    sidecar.expect_notes("RELOADING=1", 3);
    assert_eq!(sidecar.terminate().code(), Some(0));
    assert_eq!(sidecar.log().matches("was read again and applied").count(), applied);
    assert!(sidecar.log().contains(" stopped"), "in order");
    world.relay.open();
    sidecar.start_again();
    world.subscriber.expect_texts("work", numbered("more", 50), SOON);
    sidecar.expect_drained("work");
}

#[test]
fn a_second_reload_never_waits_for_a_third_when_the_broker_takes_nothing() {
    let (world, elsewhere) = (World::new(), World::new());
    let mut home = world.home();
    let patience = "max_payload = \"8MiB\"\nack_timeout = \"12s\"\n";
    home.mqtt = patience.to_owned();
    let mut sidecar = Sidecar::start(home);
    let tables = sidecar.home.tables.clone();
    world.expect_online();
    // More than the kernel keeps for a link that takes nothing: the publisher is in the middle of it.
    world.relay.silence();
    let large = "x".repeat(7 << 20);
    assert_eq!(publish_to(&sidecar, "work", &large).code, 200);
    sidecar.publish("x", "behind it");
    let answer = reload(&mut sidecar, &tables, &format!("{patience}keep_alive = \"29s\""));
    assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
    sidecar.expect_log("the broker takes nothing at the moment");
    sidecar.home.servers = vec![elsewhere.relay.url()];
    let answer = reload(&mut sidecar, &tables, &format!("{patience}keep_alive = \"29s\""));
    assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
    elsewhere.expect_online();
    elsewhere.subscriber.expect_text("work", "behind it");
    sidecar.expect_drained("work");
    // And it is listened to again.
    let answer = reload(&mut sidecar, &tables, patience);
    assert_eq!(ended(&answer), (200, "applied"), "{answer:?}");
    sidecar.expect_status("the next connection", |status| status["link"]["state"] == "connected");
}
