//! What may be sent, and when: the budget and quiet hours.

use super::{World, numbered};
use crate::common::SOON;
use crate::common::sidecar::{Home, STREAM, Sidecar, assert_balanced};
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BUDGET: u64 = 64 << 10;

/// Seconds since midnight UTC.
fn time_of_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400
}

/// A budget whose period is not over soon: in the last minutes of a day this waits for the next one.
fn budget() -> String {
    const NOT_SOON_S: u64 = 180;
    let start = Instant::now();
    while time_of_day() > 86_400 - NOT_SOON_S {
        assert!(start.elapsed() < Duration::from_secs(2 * NOT_SOON_S), "midnight never comes");
        std::thread::sleep(Duration::from_secs(1));
    }
    let now = time_of_day();
    let period = if (now % 3600) * 24 < now { "hour" } else { "day" };
    format!("budget = \"{BUDGET}B/{period}\"")
}

fn event(sidecar: &Sidecar, text: &str) {
    let answer = sidecar.request("POST", "/v1/publish?topic=door&stream=event", "text/plain", text.as_bytes()).unwrap();
    assert_eq!(answer.code, 200, "{answer:?}");
}

fn used(status: &Value) -> u64 {
    status["link"]["budget"]["used"].as_u64().unwrap()
}

fn least_urgent(home: &mut Home, more: &str) {
    home.tables = format!("[stream.{STREAM}]\npriority = 3\n{more}\n");
}

#[test]
fn an_event_never_waits_for_a_budget_that_others_have_used_up() {
    let world = World::new();
    let mut home = world.home();
    home.mqtt = budget();
    least_urgent(&mut home, "");
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    sidecar.publish_lines("orders", &numbered("order", 1000));
    let waits = |status: &Value| status["link"]["held"][STREAM].is_string();
    let status = sidecar.expect_status("the budget to be used up for logs", waits);
    println!("{}", status["link"]);
    assert!((1..=BUDGET).contains(&used(&status)), "{status}");
    assert_eq!(status["health"]["state"], "healthy", "{status}");
    event(&sidecar, "open");
    world.subscriber.expect_text("event", "open");
    let arrived = world.subscriber.read(|inbox| inbox.of(STREAM).len());
    assert!(arrived < 900, "{arrived}");

    // Nothing gives it back.
    sidecar.kill();
    sidecar.start_again();
    world.expect_online();
    let again = sidecar.expect_status("the budget to be still used up", waits);
    assert!(used(&again) >= used(&status), "{} after {}", used(&again), used(&status));
    assert!(sidecar.terminate().success());
    sidecar.start_again();
    let after = sidecar.expect_status("the budget to be still used up", waits);
    assert!(used(&after) >= used(&again), "{} after {}", used(&after), used(&again));
    assert_balanced(&after["streams"][STREAM]);
    assert!(after["streams"][STREAM]["waiting"].as_u64() > Some(100), "{after}");
    world.subscriber.read(|inbox| inbox.assert_in_order());

    // Even the most urgent ones can use up all of it, and that is told.
    for number in 0..1000 {
        event(&sidecar, &format!("{number}: {}", "x".repeat(200)));
        if number % 50 == 0 && used(&sidecar.status()) >= BUDGET {
            break;
        }
    }
    let status = sidecar.expect_status("the end of the budget", |status| status["health"]["state"] == "degraded");
    assert!(status["health"]["reasons"][0].as_str().unwrap().starts_with("all of mqtt.budget ("), "{status}");
    assert!(used(&status) < BUDGET + 1024, "{status}");
    // Nothing is lost by it.
    let tables = format!("[stream.{STREAM}]\n");
    assert!(sidecar.terminate().success());
    (sidecar.home.mqtt, sidecar.home.tables) = (String::new(), tables);
    sidecar.start_again();
    world.subscriber.expect_texts(STREAM, numbered("order", 1000), crate::common::LONG);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["accepted"], ledger["delivered"], "{ledger}");
}

#[test]
fn quiet_hours_never_hold_an_event_nor_a_stop() {
    let world = World::new();
    let mut home = world.home();
    let time = |minute: u64| format!("{:02}:{:02}Z", minute / 60 % 24, minute % 60);
    let minute = time_of_day() / 60 + 24 * 60;
    let (from, until) = (time(minute - 60), time(minute + 120));
    least_urgent(&mut home, &format!("quiet_hours = \"{from}-{until}\""));
    let mut sidecar = Sidecar::start(home);
    world.expect_online();
    // More than the publisher may hold.
    let lines: Vec<String> = (0..500).map(|number| format!("{number} {}", "x".repeat(1000))).collect();
    sidecar.publish_lines("orders", &lines);
    event(&sidecar, "open");
    world.subscriber.expect_text("event", "open");
    let status = sidecar.status();
    assert!(status["link"]["held"][STREAM].as_str().unwrap().starts_with("quiet hours until "), "{status}");
    assert_eq!(
        (&status["streams"][STREAM]["waiting"], &status["streams"][STREAM]["delivered"]),
        (&500.into(), &0.into())
    );
    let start = Instant::now();
    assert!(sidecar.terminate().success());
    assert!(start.elapsed() < SOON / 2, "{:?}", start.elapsed());
    world.subscriber.flush();
    world.subscriber.read(|inbox| assert!(inbox.of(STREAM).is_empty()));
    least_urgent(&mut sidecar.home, "");
    sidecar.start_again();
    world.subscriber.expect("what was held", Duration::from_secs(30), |inbox| inbox.of(STREAM).len() == 500);
}
