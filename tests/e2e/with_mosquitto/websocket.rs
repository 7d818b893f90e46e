//! WebSockets with a real mosquitto: in the clear and over TLS, with both versions of MQTT.

use super::numbered;
use crate::common::LONG;
use crate::common::authority::{Authority, Identity, NOW};
use crate::common::mosquitto::Mosquitto;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::subscriber::Subscriber;
use std::net::{SocketAddr, TcpListener};

/// A broker with two more listeners for WebSockets, one of them with TLS.
struct Broker {
    mosquitto: Mosquitto,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Broker {
    fn start(authority: &Authority) -> Self {
        let mut addresses = None;
        let mosquitto = Mosquitto::start_with(|own| {
            let free = || TcpListener::bind((own.ip(), 0)).unwrap();
            // Both at once, so that they differ.
            let (one, two) = (free(), free());
            let (plain, tls) = (one.local_addr().unwrap(), two.local_addr().unwrap());
            addresses = Some((plain, tls));
            let Identity { cert, key } = authority.issue(&own.ip().to_string(), NOW);
            let (ip, cert, key) = (own.ip(), cert.display(), key.display());
            // What has no address of its own listens on all of them: libwebsockets wants an interface.
            format!(
                "user root\nlistener {}\nsocket_domain ipv4\nprotocol websockets\nlistener {}\nsocket_domain ipv4\nprotocol \
                 websockets\ncertfile {cert}\nkeyfile {key}\n# {ip}",
                plain.port(),
                tls.port(),
            )
        });
        let (plain, tls) = addresses.unwrap();
        Broker { mosquitto, plain, tls }
    }
}

#[test]
fn no_record_is_ever_lost_in_a_frame() {
    let authority = Authority::new();
    let broker = Broker::start(&authority);
    let large = |case: usize| format!("{case}{}", "x".repeat(100_000));
    for (case, version) in ["3.1.1", "5"].into_iter().enumerate() {
        for (tls, url) in [(false, format!("ws://{}", broker.plain)), (true, format!("wss://{}/mqtt?gw=1", broker.tls))]
        {
            // Each sidecar begins with the same ids.
            let subscriber = Subscriber::at(broker.mosquitto.address());
            let mut home = Home::new([&url]);
            home.mqtt = format!("version = \"{version}\"\nca_file = {:?}", authority.own);
            home.tables += "[app]\ncommands = true\n";
            let mut sidecar = Sidecar::start(home);
            let case = case * 2 + usize::from(tls);
            let mut sent = numbered(&format!("record {case}"), 2000);
            sidecar.publish_lines("orders", &sent);
            sidecar.publish("orders", &large(case));
            sent.push(large(case));
            subscriber.expect_texts(STREAM, sent, LONG);
            let ledger = sidecar.expect_drained(STREAM);
            assert_eq!(ledger["delivered"], 2001, "{url}: {ledger}");
            let status = sidecar.expect_status("a session for messages", |status| {
                status["commands"]["session"]["state"] == "connected"
            });
            let link = &status["link"];
            let shown = if tls { url.clone() } else { format!("{url}/mqtt") };
            assert_eq!((&link["connects"], &link["server"]), (&1.into(), &shown.into()), "{link}");
            assert!(sidecar.terminate().success());
        }
    }
}

#[test]
fn a_port_without_websockets_never_looks_like_a_dead_broker() {
    let mosquitto = Mosquitto::start();
    let sidecar = Sidecar::start(Home::new([format!("ws://{}/mqtt", mosquitto.address())]));
    sidecar.expect_status("the reason", |status| {
        let reason = status["link"]["reason"].as_str().unwrap_or_default();
        reason.contains("no WebSocket for MQTT: ")
    });
}
