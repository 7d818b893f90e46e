//! A broker that misbehaves in every way that the protocol leaves it.

use crate::common::fake_broker::{FakeBroker, Opening, Reply, Script};
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::{LONG, SOON, seed};
use rumqttc::mqttbytes::v4::ConnectReturnCode;

const RECORDS: usize = 20_000;
const WINDOW: u64 = 64;

#[test]
fn nothing_is_lost_to_a_broker_that_drops_delays_and_forgets() {
    let script = Script {
        opening: |number, _| match number % 16 {
            3 => Opening::Close,
            7 => Opening::Refuse(ConnectReturnCode::ServiceUnavailable),
            _ => Opening::Accept,
        },
        reply: |number, rng| match rng.u32(..12_000) {
            // Each of these costs an ack_timeout.
            0..2 if number > 1 => Reply::Never,
            2 if number > 1 => Reply::Hang,
            3..52 => Reply::Drop,
            52..70 => Reply::AckAndDrop,
            70..90 => Reply::Unknown,
            90..100 => Reply::Twice,
            100..4_000 => Reply::Late,
            _ => Reply::Ack,
        },
    };
    let broker = FakeBroker::start(script, seed());
    let mut home = Home::new([broker.url()]);
    home.mqtt = format!("inflight = {WINDOW}\nack_timeout = \"1s\"\nkeep_alive = \"5s\"");
    let sidecar = Sidecar::start(home);
    let texts: Vec<String> = (0..RECORDS).map(|number| format!("record {number}")).collect();
    for lines in texts.chunks(500) {
        sidecar.publish_lines("orders", lines);
    }
    broker.expect("every record", LONG, |account| account.distinct(STREAM) >= RECORDS);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["accepted"], &ledger["delivered"]), (&RECORDS.into(), &RECORDS.into()), "{ledger}");
    broker.read(|account| {
        let (sessions, repeats) = (account.sessions, account.repeats());
        println!("{} connections, {sessions} sessions, {repeats} repeats", account.connections);
        let heard: Vec<_> = account.records.iter().filter(|((stream, _), _)| stream == STREAM).collect();
        let data = heard.iter().map(|(_, heard)| &heard.data);
        assert!(data.eq(texts.iter()), "each text under its own id, in order");
        let trimmed: Vec<_> = heard.iter().filter(|(_, heard)| heard.acknowledged == 0).collect();
        assert!(trimmed.is_empty(), "trimmed without an acknowledgement: {trimmed:?}");
        assert!(sessions >= 100, "only {sessions} sessions: no test of reconnecting");
        // A lost session costs at most its window again.
        assert!(repeats <= sessions * WINDOW, "{repeats} repeats over {sessions} sessions");
        assert!(account.most_in_flight <= usize::try_from(WINDOW).unwrap(), "{} in flight", account.most_in_flight);
        assert!(account.disorder.is_empty(), "out of order: {:?}", account.disorder);
        assert!(account.reused.is_empty(), "packet ids used twice: {:?}", account.reused);
    });
}

#[test]
fn a_broker_that_never_answers_connect_never_hides_the_next_one() {
    let mute = FakeBroker::start(Script { opening: |_, _| Opening::Mute, ..Script::POLITE }, 0);
    let polite = FakeBroker::start(Script::POLITE, 0);
    let sidecar = Sidecar::start(Home::new([mute.url(), polite.url()]));
    sidecar.publish("orders", "to whoever answers");
    polite.expect("the record", SOON, |account| account.distinct(STREAM) == 1);
    assert!(mute.read(|account| account.connections) >= 1);
}

#[test]
fn a_broker_that_refuses_never_gets_a_flood_and_is_asked_again() {
    let script = Script {
        opening: |number, _| match number {
            1..=3 => Opening::Refuse(ConnectReturnCode::NotAuthorized),
            _ => Opening::Accept,
        },
        ..Script::POLITE
    };
    let broker = FakeBroker::start(script, 0);
    let sidecar = Sidecar::start(Home::new([broker.url()]));
    sidecar.publish("orders", "in the end");
    broker.expect("a refusal", SOON, |account| account.connections >= 2);
    broker.expect("the record", SOON, |account| account.distinct(STREAM) == 1);
    assert_eq!(broker.read(|account| account.connections), 4);
    assert_eq!(sidecar.expect_drained(STREAM)["delivered"], 1);
}

#[test]
fn an_outage_never_floods_the_log() {
    // Each fails for a reason of its own, time and again.
    let closing = FakeBroker::start(Script { opening: |_, _| Opening::Close, ..Script::POLITE }, 0);
    let refusing = FakeBroker::start(
        Script { opening: |_, _| Opening::Refuse(ConnectReturnCode::ServiceUnavailable), ..Script::POLITE },
        0,
    );
    let mut home = Home::new([closing.url(), refusing.url()]);
    home.tables += "[app]\ncommands = true\n";
    let sidecar = Sidecar::start(home);
    sidecar.expect_status("some rounds", |status| {
        status["link"]["servers"].as_array().unwrap().iter().all(|server| server["failures"].as_u64().unwrap() >= 3)
    });
    sidecar.expect_log_times("not connected to", 4);
    let log = sidecar.log();
    for server in [closing.url(), refusing.url()] {
        for whom in [format!("not connected to {server}: "), format!("not connected to {server} for commands: ")] {
            assert_eq!(log.matches(&whom).count(), 1, "{whom}\n{log}");
        }
    }
}

#[test]
fn a_broker_that_stops_reading_never_holds_the_records_back() {
    let script = Script {
        reply: |number, rng| if number <= 3 && rng.u8(..20) == 0 { Reply::Hang } else { Reply::Ack },
        ..Script::POLITE
    };
    let broker = FakeBroker::start(script, seed());
    let mut home = Home::new([broker.url()]);
    home.mqtt = "ack_timeout = \"1s\"\nkeep_alive = \"5s\"".to_owned();
    let sidecar = Sidecar::start(home);
    let texts: Vec<String> = (0..1000).map(|number| format!("{number} {}", "x".repeat(1000))).collect();
    for lines in texts.chunks(100) {
        sidecar.publish_lines("orders", lines);
    }
    broker.expect("every record", SOON, |account| account.distinct(STREAM) == texts.len());
    assert_eq!(sidecar.expect_drained(STREAM)["delivered"], texts.len());
}

#[test]
fn a_broker_that_stops_reading_never_makes_the_watchdog_take_us_for_stuck() {
    let broker = FakeBroker::start(Script { reply: |_, _| Reply::Hang, ..Script::POLITE }, 0);
    let mut home = Home::new([broker.url()]);
    home.mqtt = "ack_timeout = \"1h\"\nmax_payload = \"8MiB\"".to_owned();
    home.environment.insert("WATCHDOG_USEC".to_owned(), "900000".to_owned());
    let sidecar = Sidecar::start(home);
    // More than the kernel keeps for whoever does not read: the publisher is in the middle of it.
    let large = vec![b'x'; 7 << 20];
    assert_eq!(sidecar.request("POST", "/v1/publish?topic=x", "text/plain", &large).unwrap().code, 200);
    sidecar.expect_status("it to be on its way", |status| status["link"]["sent_messages"].as_u64() >= Some(1));
    let pings = sidecar.notes().iter().filter(|note| *note == "WATCHDOG=1").count();
    sidecar.expect_notes("WATCHDOG=1", pings + 5);
    assert!(!sidecar.log().contains("no progress"));
}

#[test]
fn connect_says_who_it_is_and_leaves_a_will() {
    let broker = FakeBroker::start(Script::POLITE, 0);
    let mut home = Home::new([broker.url()]);
    home.mqtt = "client_id = \"{instance}-one\"\nusername = \"gw\"\npassword_file = \"secret\"".to_owned();
    std::fs::write(home.path("secret"), "open sesame\n").unwrap();
    let _sidecar = Sidecar::start(home);
    broker.expect("a session", SOON, |account| account.sessions == 1);
    let connect = broker.read(|account| account.connect.clone()).unwrap();
    assert_eq!((connect.client_id.as_str(), connect.clean_session, connect.keep_alive), ("test-one", true, 30));
    let login = connect.login.unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("gw", "open sesame"));
    let will = connect.last_will.unwrap();
    assert_eq!((will.topic.as_str(), will.retain), ("p/status", true));
    let message: serde_json::Value = serde_json::from_slice(&will.message).unwrap();
    assert_eq!((&message["state"], &message["reason"]), (&"offline".into(), &"connection-lost".into()));
    broker.expect("the birth", SOON, |account| {
        account
            .others
            .iter()
            .any(|(topic, payload, retain)| topic == "p/status" && payload["state"] == "online" && *retain)
    });
}

#[test]
fn a_record_that_ends_every_connection_never_stops_the_others() {
    let broker = FakeBroker::closing_on("p/app/bad");
    let sidecar = Sidecar::start(Home::new([broker.url()]));
    let sent: Vec<String> = (0..300).map(|number| format!("record {number}")).collect();
    sidecar.publish_lines("orders", &sent[..100]);
    sidecar.publish("bad", "poison 1");
    sidecar.publish_lines("orders", &sent[100..150]);
    sidecar.publish("bad", "poison 2");
    sidecar.publish("bad", "poison 3");
    sidecar.publish_lines("orders", &sent[150..]);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&300.into(), &3.into()), "{ledger}");
    broker.read(|account| {
        let acknowledged = account.records.iter().filter(|((stream, _), _)| stream == STREAM);
        let texts: Vec<_> = acknowledged
            .filter(|(_, heard)| heard.acknowledged > 0)
            .map(|(_, heard)| heard.data.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(texts, sent);
        assert!(account.disorder.is_empty(), "{:?}", account.disorder);
        assert!(account.sessions < 30, "{} sessions", account.sessions);
    });
    broker.expect("three records to be reported as lost", SOON, |account| {
        let events = account.records.iter().filter(|((stream, _), heard)| stream == "event" && heard.acknowledged > 0);
        let lost = events.map(|(_, heard)| &heard.data).filter(|data| {
            data["reason"] == "refused" && data["detail"].as_str().is_some_and(|detail| detail.contains("ended each"))
        });
        lost.map(|gap| gap["count"].as_u64().unwrap()).sum::<u64>() == 3
    });
    let link = sidecar.status()["link"].clone();
    assert_eq!(link["refusals"]["connection-ended"], 3, "{link}");
}

#[test]
fn a_link_that_breaks_again_and_again_never_costs_a_record() {
    let script = Script {
        opening: |_, _| Opening::Accept,
        reply: |_, rng| if rng.u8(..16) == 0 { Reply::Drop } else { Reply::Ack },
    };
    let broker = FakeBroker::start(script, seed());
    let mut home = Home::new([broker.url()]);
    home.mqtt = "inflight = 4".to_owned();
    let sidecar = Sidecar::start(home);
    let sent: Vec<String> = (0..100).map(|number| format!("record {number}")).collect();
    sidecar.publish_lines("orders", &sent);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&100.into(), &0.into()), "{ledger}");
}

#[test]
fn a_broker_that_answers_to_pings_first_never_holds_the_records_back() {
    // Three connections raise suspicion.
    let script = Script { reply: |number, _| if number < 4 { Reply::Ack } else { Reply::Late }, ..Script::POLITE };
    let broker = FakeBroker::closing_on_else(BAD, script);
    let mut home = Home::new([broker.url()]);
    // Nothing else has it pinged.
    home.mqtt = "keep_alive = \"1h\"".to_owned();
    let sidecar = Sidecar::start(home);
    sidecar.publish("bad", "poison");
    broker.expect("suspicion", SOON, |account| account.sessions >= 4);
    broker.forgive();
    // They go alone, each with a ping behind it.
    let texts: Vec<String> = (0..20).map(|number| format!("record {number}")).collect();
    sidecar.publish_lines("bad", &texts);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!(ledger["accepted"], 21, "{ledger}");
    assert!(broker.read(|account| account.pings >= 21), "they were not alone");
}

const BAD: &str = "p/app/bad";

/// 500 records on the bad topic among 5,000 others: returns these.
fn publish_with_bad_ones(sidecar: &Sidecar) -> Vec<String> {
    let good: Vec<String> = (0..5000).map(|number| format!("record {number}")).collect();
    let bad: Vec<String> = (0..500).map(|number| format!("poison {number}")).collect();
    for (good, bad) in good.chunks(100).zip(bad.chunks(10)) {
        sidecar.publish_lines("orders", &good[..50]);
        sidecar.publish_lines("bad", bad);
        sidecar.publish_lines("orders", &good[50..]);
    }
    good
}

fn assert_all_came_over_few_connections(broker: &FakeBroker, texts: &[String]) {
    broker.read(|account| {
        let acknowledged = account.records.iter().filter(|((stream, _), heard)| {
            stream == STREAM && heard.acknowledged > 0 && heard.data.as_str().unwrap().starts_with("record")
        });
        assert!(acknowledged.map(|(_, heard)| heard.data.as_str().unwrap()).eq(texts), "each of them, in order");
        assert!(account.disorder.is_empty(), "{:?}", account.disorder);
        println!("{} connections, {} repeats", account.connections, account.repeats());
        // Three that raise suspicion, eight or nine that prove it, and the one that lasts.
        assert!(account.connections <= 13, "{} connections", account.connections);
    });
}

#[test]
fn a_topic_that_ends_every_connection_never_costs_one_for_each_record() {
    let broker = FakeBroker::closing_on(BAD);
    let sidecar = Sidecar::start(Home::new([broker.url()]));
    let good = publish_with_bad_ones(&sidecar);
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&5000.into(), &500.into()), "{ledger}");
    assert_all_came_over_few_connections(&broker, &good);
    let lost = |account: &crate::common::fake_broker::Account| -> Vec<u64> {
        let events = account.records.iter().filter(|((stream, _), heard)| stream == "event" && heard.acknowledged > 0);
        let gaps = events.map(|(_, heard)| &heard.data).filter(|data| data["reason"] == "refused");
        gaps.map(|gap| gap["count"].as_u64().unwrap()).collect()
    };
    broker.expect("each loss to be told", SOON, |account| lost(account).iter().sum::<u64>() == 500);
    let events = broker.read(|account| lost(account).len());
    assert!(events < 20, "{events} events");
    let link = sidecar.status()["link"].clone();
    let words = link["barred"][BAD].as_str().unwrap_or_else(|| panic!("{link}"));
    assert!(words.contains("set aside unsent for 1 min"), "{words}");
    let metrics = sidecar.request("GET", "/metrics", "", b"").unwrap().text;
    assert!(metrics.contains("pillion_link_barred_topics 1"), "{metrics}");
}

#[test]
fn a_topic_that_is_acknowledged_before_the_end_never_costs_a_connection_for_each_record() {
    let broker = FakeBroker::acknowledging_and_closing_on(BAD);
    let sidecar = Sidecar::start(Home::new([broker.url()]));
    let good = publish_with_bad_ones(&sidecar);
    let ledger = sidecar.expect_drained(STREAM);
    let (delivered, quarantined) = (ledger["delivered"].as_u64().unwrap(), ledger["quarantined"].as_u64().unwrap());
    // What it has acknowledged counts as delivered: nobody can know better.
    assert!(delivered + quarantined == 5500 && (5000..5012).contains(&delivered), "{ledger}");
    assert_all_came_over_few_connections(&broker, &good);
}

#[test]
fn a_topic_that_was_mended_never_waits_for_longer_than_the_next_reload() {
    let broker = FakeBroker::closing_on(BAD);
    let sidecar = Sidecar::start(Home::new([broker.url()]));
    let poison: Vec<String> = (0..10).map(|number| format!("poison {number}")).collect();
    sidecar.publish_lines("bad", &poison);
    sidecar.expect_status("a bar", |status| status["link"]["barred"][BAD].is_string());
    sidecar.expect_drained(STREAM);
    broker.forgive();
    sidecar.request("POST", "/v1/reload", "", b"").unwrap();
    sidecar.expect_status("the bar to be lifted", |status| {
        status["link"]["barred"][BAD].as_str().is_some_and(|words| words.contains("the next record is tried again"))
    });
    sidecar.publish("bad", "welcome");
    let ledger = sidecar.expect_drained(STREAM);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&1.into(), &10.into()), "{ledger}");
    sidecar.expect_status("no bar", |status| status["link"]["barred"].is_null());
}
