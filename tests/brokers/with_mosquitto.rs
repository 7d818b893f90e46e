//! mosquitto, with each way of letting a gateway in.
//!
//! MQTT 3.1.1 has no answer for a PUBLISH that access control refuses: a broker may acknowledge it nevertheless, or close the
//! connection (section 3.3.5). mosquitto 2.0.11 does both where `max_queued_messages` is 0. So pillion counts such a record as
//! delivered, as it can't know better, until it bars the topic. With MQTT 5 the PUBACK says what became of it; the connection is
//! closed all the same.

use crate::broker::{Broker, Door, Keeps, Program};
use crate::common::authority::NOW;
use crate::matrix;
use std::process::Command;

/// Everything but one topic of the application's.
const SECRET: &[&str] = &["topic readwrite p/#", "topic deny p/app/secret"];

/// One with a plain listener for anyone, and with these lines besides. It saves what it has when it is told to stop.
fn mosquitto(broker: Broker, more: &[String]) -> Broker {
    let mut configuration = vec![
        "per_listener_settings true".to_owned(),
        "persistence true".to_owned(),
        format!("persistence_location {}", broker.file("")),
        "max_queued_messages 0".to_owned(),
        "max_inflight_messages 0".to_owned(),
        "set_tcp_nodelay true".to_owned(),
        "log_dest stderr".to_owned(),
        // Root may be the only one who can use the folder.
        "user root".to_owned(),
        format!("listener {} {}", broker.address.port(), broker.address.ip()),
        "allow_anonymous true".to_owned(),
    ];
    configuration.extend_from_slice(more);
    let arguments = vec!["-c".to_owned(), broker.write("mosquitto.conf", &configuration)];
    broker.run(Program { path: "/usr/sbin/mosquitto".into(), arguments, environment: Vec::new() })
}

/// One with a second listener, for the sidecar, and these lines for it.
fn with_door(broker: Broker, mut more: Vec<String>) -> Broker {
    let door = broker.door.address;
    more.insert(0, format!("listener {} {}", door.port(), door.ip()));
    mosquitto(broker, &more)
}

/// The sidecar comes by TLS, with a certificate of its own where `asks` says that it has to show one.
fn with_tls(asks: bool) -> Broker {
    let mut broker = Broker::new(Keeps::WhenTold);
    let server = broker.by_tls();
    let authority = broker.authority.as_ref().unwrap();
    let ca = authority.own.display();
    let lines = vec![
        "allow_anonymous true".to_owned(),
        format!("cafile {ca}"),
        format!("certfile {}", server.cert.display()),
        format!("keyfile {}", server.key.display()),
        format!("require_certificate {asks}"),
    ];
    if asks {
        let ours = authority.issue("gateway", NOW);
        broker.door.mqtt += &format!("cert_file = {:?}\nkey_file = {:?}\n", ours.cert, ours.key);
    }
    with_door(broker, lines)
}

/// The sidecar has to give a password, and may do what these lines of an access control list say.
fn with_password(allowed: &[&str]) -> Broker {
    let mut broker = Broker::new(Keeps::WhenTold);
    let password = broker.write("password", &["correct horse".to_owned()]);
    let mqtt = format!("username = \"gw\"\npassword_file = {password:?}\n");
    broker.door = Door { scheme: "mqtt", address: broker.port(), mqtt };
    let passwords = broker.file("passwords");
    let made = Command::new("mosquitto_passwd").args(["-b", "-c", &passwords, "gw", "correct horse"]).status();
    assert!(made.unwrap().success());
    let mut lines = vec!["allow_anonymous false".to_owned(), format!("password_file {passwords}")];
    if !allowed.is_empty() {
        let list: Vec<_> = ["user gw"].iter().chain(allowed).map(ToString::to_string).collect();
        lines.push(format!("acl_file {}", broker.write("acl", &list)));
    }
    with_door(broker, lines)
}

#[test]
fn a_restart_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(mosquitto(Broker::new(Keeps::WhenTold), &[]));
}

#[test]
fn mqtt_5_never_costs_a_record_or_a_command() {
    let mut broker = Broker::new(Keeps::WhenTold);
    broker.by_mqtt5();
    matrix::nothing_is_ever_lost_over_a_restart_of(mosquitto(broker, &[]));
}

#[test]
fn tls_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(with_tls(false));
}

#[test]
fn a_certificate_of_our_own_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(with_tls(true));
}

#[test]
fn a_password_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(with_password(&[]));
}

#[test]
fn a_broker_that_allows_what_we_need_never_costs_a_record_or_a_command() {
    let allowed = ["topic write p/#", "topic read p/device/+/set", "topic read p/app/set/#", "topic read p/config/#"];
    matrix::nothing_is_ever_lost_over_a_restart_of(with_password(&allowed));
}

#[test]
fn a_topic_that_the_broker_refuses_never_holds_up_the_others() {
    let broker = with_password(SECRET);
    let ledger = matrix::a_topic_never_holds_up_the_others_of(&broker, "secret", 100);
    let quarantined = ledger["quarantined"].as_u64().unwrap();
    assert_eq!(ledger["delivered"].as_u64().unwrap() + quarantined, 200, "{ledger}");
    assert!(quarantined >= 85, "{ledger}");
}

#[test]
fn a_topic_that_the_broker_refuses_with_mqtt_5_never_counts_as_delivered() {
    let mut broker = with_password(SECRET);
    broker.by_mqtt5();
    let ledger = matrix::a_topic_never_holds_up_the_others_of(&broker, "secret", 100);
    assert_eq!((&ledger["delivered"], &ledger["quarantined"]), (&100.into(), &100.into()), "{ledger}");
}
