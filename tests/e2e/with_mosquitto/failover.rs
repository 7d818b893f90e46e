//! Several servers: the next one when one is lost, and back to the first when it is well again.

use super::numbered;
use crate::common::LONG;
use crate::common::mosquitto::Mosquitto;
use crate::common::operator::Operator;
use crate::common::relay::Relay;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::subscriber::Subscriber;
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Brokers that are no cluster, each behind a link, with a consumer that hears all of both.
struct Brokers {
    mosquittos: [Mosquitto; 2],
    relays: [Relay; 2],
    subscribers: [Subscriber; 2],
}

impl Brokers {
    fn new() -> Self {
        let mosquittos = [Mosquitto::start(), Mosquitto::start()];
        let relays = [Relay::to(mosquittos[0].address()), Relay::to(mosquittos[1].address())];
        let subscribers = [Subscriber::at(mosquittos[0].address()), Subscriber::at(mosquittos[1].address())];
        Brokers { mosquittos, relays, subscribers }
    }

    fn home(&self, fall_back: &str) -> Home {
        let mut home = Home::new(self.relays.iter().map(Relay::url));
        home.mqtt = format!("fall_back = \"{fall_back}\"");
        home
    }

    fn expect_online(&self, broker: usize) {
        self.subscribers[broker].expect_latest("p/status", |status| status["state"] == "online");
    }

    /// How often the consumer there heard that the sidecar is online, and that it is not.
    fn told(&self, broker: usize) -> (usize, usize) {
        self.subscribers[broker].flush();
        self.subscribers[broker].read(|inbox| {
            let said =
                inbox.messages.iter().filter(|message| message.topic == "p/status").map(|message| message.json());
            let said: Vec<Value> = said.collect();
            let count = |state: &str| said.iter().filter(|status| status["state"] == state).count();
            (count("online"), count("offline"))
        })
    }

    /// The numbers of the records that came, of both brokers, each once; and how many came to both.
    fn came(&self) -> (Vec<u64>, usize) {
        let of = |subscriber: &Subscriber| -> Vec<u64> {
            subscriber.flush();
            subscriber.read(|inbox| {
                inbox.assert_in_order();
                inbox.of(STREAM).iter().map(|arrival| arrival.seq).collect()
            })
        };
        let [mut all, there] = [of(&self.subscribers[0]), of(&self.subscribers[1])];
        let count = all.len() + there.len();
        all.extend(there);
        all.sort_unstable();
        all.dedup();
        let twice = count - all.len();
        (all, twice)
    }
}

fn servers(status: &Value) -> Vec<&str> {
    status["link"]["servers"].as_array().unwrap().iter().map(|server| server["state"].as_str().unwrap()).collect()
}

#[test]
fn a_server_that_dies_never_holds_up_what_the_next_one_can_take() {
    let mut brokers = Brokers::new();
    let sidecar = Sidecar::start(brokers.home("off"));
    brokers.expect_online(0);
    sidecar.publish("orders", "to the first");
    brokers.subscribers[0].expect_text(STREAM, "to the first");

    let lost = Instant::now();
    brokers.relays[0].cut();
    brokers.mosquittos[0].stop();
    brokers.expect_online(1);
    // A moment of up to a second for the fleet's sake; the rest is for a machine that is busy with other tests.
    assert!(lost.elapsed() < Duration::from_secs(10), "{:?}", lost.elapsed());
    println!("at the second after {:?}", lost.elapsed());
    sidecar.publish("orders", "to the second");
    brokers.subscribers[1].expect_text(STREAM, "to the second");
    let status = sidecar.status();
    assert_eq!(servers(&status), ["failed", "connected"], "{status:#}");
    let [first, second] = [0, 1].map(|index| &status["link"]["servers"][index]);
    assert_eq!((&first["connects"], &second["connects"]), (&1.into(), &1.into()));
    assert!(first["failures"].as_u64() >= Some(1) && second["failures"] == 0, "{status:#}");
    assert!(first["last_error"].is_string() && second["last_error"].is_null(), "{status:#}");

    // That one goes too: back to the first, which lives again, without waiting.
    brokers.mosquittos[0].start_again();
    brokers.subscribers[0].connect(brokers.mosquittos[0].address());
    brokers.relays[0].open();
    brokers.relays[1].cut();
    sidecar.publish("orders", "to the first again");
    brokers.subscribers[0].expect_text(STREAM, "to the first again");
    assert_eq!(servers(&sidecar.status()), ["connected", "failed"]);
}

#[test]
fn the_way_back_to_the_first_server_never_loses_a_record_or_says_offline() {
    let brokers = Brokers::new();
    let mut sidecar = Sidecar::start(brokers.home("1s"));
    brokers.expect_online(0);
    brokers.relays[0].cut();
    brokers.expect_online(1);
    let (_, offline) = brokers.told(1);
    assert_eq!(offline, 0);
    // What was on its way to the first server when that was cut off goes again.
    let is_quiet = |status: &serde_json::Value| {
        status["link"]["in_flight"] == 0
            && status["streams"].as_object().unwrap().values().all(|stream| stream["waiting"] == 0)
    };
    let before = sidecar.expect_status("nothing to be on its way", is_quiet)["link"]["repeated"].clone();

    // Records flow while it moves, with some on the wire at any time.
    let moved = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut published = 0;
            while !moved.load(Ordering::Relaxed) || published < 3000 {
                sidecar.publish_lines("orders", &numbered(&format!("record {published}"), 500));
                published += 500;
                // A flow, not a flood.
                sidecar.expect_status("room", |status| status["streams"][STREAM]["waiting"].as_u64() <= Some(1000));
            }
            published
        });
        brokers.relays[0].open();
        let back = Instant::now();
        sidecar.expect_status("it to be back at the first server", |status| servers(status) == ["connected", "left"]);
        println!("back after {:?}", back.elapsed());
        moved.store(true, Ordering::Relaxed);
        publisher.join().unwrap()
    });
    sidecar.expect_drained(STREAM);
    let (came, twice) = brokers.came();
    assert_eq!(came.len(), published, "none is missing");
    assert_eq!(twice, 0, "none is repeated");
    let status = sidecar.status();
    assert_eq!(status["link"]["repeated"], before, "{status:#}");
    let there = brokers.subscribers[1].read(|inbox| inbox.of(STREAM).len());
    println!("{there} of {published} records went to the second server");

    // The one that was left has heard neither the Last Will nor a good-bye; the first has a new birth, and nothing behind it.
    assert_eq!(brokers.told(1), (1, 0));
    brokers.expect_online(0);
    assert!(sidecar.terminate().success());
    brokers.subscribers[0].expect_latest("p/status", |status| status["reason"] == "stopped");
    assert_eq!(brokers.told(1), (1, 0));
}

#[test]
fn a_first_server_that_only_seems_well_never_costs_a_record() {
    let brokers = Brokers::new();
    let sidecar = Sidecar::start(brokers.home("1s"));
    brokers.expect_online(0);
    // It takes connections from now on, and says nothing.
    brokers.relays[0].cut();
    brokers.expect_online(1);
    let tries = brokers.relays[0].tries();
    brokers.relays[0].silence();
    // The look, and the CONNECT that is not answered; meanwhile records wait.
    brokers.relays[0].expect_tries(tries + 2, LONG);
    let texts = numbered("record", 200);
    sidecar.publish_lines("orders", &texts);
    sidecar.expect_drained(STREAM);
    brokers.subscribers[1].expect_texts(STREAM, texts, LONG);
    assert_eq!(brokers.told(1).1, 0, "it was never offline there");
    let status = sidecar.status();
    assert_eq!(servers(&status)[1], "connected", "{status:#}");
}

#[test]
fn a_command_never_waits_at_another_server_than_the_records_are_at() {
    let brokers = Brokers::new();
    let mut home = brokers.home("1s");
    home.tables += "[app]\ncommands = true\nheartbeat_timeout = \"1h\"\n";
    let sidecar = Sidecar::start(home);
    let both_at = |broker: usize| {
        let url = brokers.relays[broker].url();
        sidecar.expect_status("both connections at one server", |status| {
            let of = |link: &Value| (link["state"].clone(), link["server"].clone());
            let there = (Value::from("connected"), Value::from(url.clone()));
            of(&status["link"]) == there && of(&status["commands"]["session"]) == there
        });
    };
    both_at(0);
    brokers.relays[0].cut();
    both_at(1);
    let mut operator = Operator::at(brokers.mosquittos[1].address());
    operator.publish("p/app/set/x", "1", false);
    sidecar.expect_status("the message", |status| status["inbox"]["received"] == 1);
    brokers.relays[0].open();
    both_at(0);
    let mut operator = Operator::at(brokers.mosquittos[0].address());
    operator.publish("p/app/set/x", "2", false);
    sidecar.expect_status("the message", |status| status["inbox"]["received"] == 2);
}
