//! mosquitto, with each way of letting a gateway in.

use crate::broker::{Broker, Keeps, Program};
use crate::common::authority::{Authority, NOW};
use crate::matrix;
use std::process::Command;

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

/// One with a second listener, for the sidecar.
fn with_door(more: impl FnOnce(&mut Broker) -> Vec<String>) -> Broker {
    let mut broker = Broker::new(Keeps::WhenTold);
    let door = broker.port();
    broker.door.address = door;
    let mut lines = vec![format!("listener {} {}", door.port(), door.ip())];
    lines.extend(more(&mut broker));
    mosquitto(broker, &lines)
}

/// The sidecar comes by TLS, with a certificate of its own where `asks` says that it has to show one.
fn with_tls(asks: bool) -> Broker {
    with_door(|broker| {
        let authority = Authority::new();
        let ca = authority.own.display().to_string();
        let server = authority.issue(&broker.link.to_string(), NOW);
        broker.door.scheme = "mqtts";
        broker.door.mqtt = format!("ca_file = {ca:?}\n");
        if asks {
            let ours = authority.issue("gateway", NOW);
            broker.door.mqtt += &format!("cert_file = {:?}\nkey_file = {:?}\n", ours.cert, ours.key);
        }
        broker.authority = Some(authority);
        vec![
            "allow_anonymous true".to_owned(),
            format!("cafile {ca}"),
            format!("certfile {}", server.cert.display()),
            format!("keyfile {}", server.key.display()),
            format!("require_certificate {asks}"),
        ]
    })
}

/// The sidecar has to give a password, and may do what these lines of an access control list say.
fn with_password(allowed: &[&str]) -> Broker {
    with_door(|broker| {
        let password = broker.write("password", &["correct horse".to_owned()]);
        broker.door.mqtt = format!("username = \"gw\"\npassword_file = {password:?}\n");
        let passwords = broker.file("passwords");
        let made = Command::new("mosquitto_passwd").args(["-b", "-c", &passwords, "gw", "correct horse"]).status();
        assert!(made.unwrap().success());
        let mut lines = vec!["allow_anonymous false".to_owned(), format!("password_file {passwords}")];
        if !allowed.is_empty() {
            let list: Vec<_> = ["user gw"].iter().chain(allowed).map(ToString::to_string).collect();
            lines.push(format!("acl_file {}", broker.write("acl", &list)));
        }
        lines
    })
}

#[test]
fn a_restart_never_costs_a_record_or_a_command() {
    matrix::nothing_is_ever_lost_over_a_restart_of(mosquitto(Broker::new(Keeps::WhenTold), &[]));
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
