//! TLS with a real mosquitto: what gets through, and what is said of each of the usual mistakes.

use crate::common::LONG;
use crate::common::authority::{Authority, Identity, NOW};
use crate::common::mosquitto::Mosquitto;
use crate::common::relay::Relay;
use crate::common::sidecar::{Home, STREAM, Sidecar};
use crate::common::subscriber::Subscriber;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

/// A broker with a listener for TLS beside the plain one.
struct Broker {
    mosquitto: Mosquitto,
    tls: SocketAddr,
}

impl Broker {
    /// `server` makes its certificate for its address; `asks` whether clients have to show one of this authority.
    fn start(authority: &Authority, server: impl FnOnce(&str) -> Identity, asks: bool) -> Self {
        let mut tls = None;
        let mosquitto = Mosquitto::start_with(|plain| {
            let address = TcpListener::bind((plain.ip(), 0)).and_then(|probe| probe.local_addr()).unwrap();
            tls = Some(address);
            let Identity { cert, key } = server(&address.ip().to_string());
            let ca = authority.own.display();
            format!(
                "listener {} {}\ncertfile {}\nkeyfile {}\ncafile {ca}\nrequire_certificate {asks}\nuser root\n",
                address.port(),
                address.ip(),
                cert.display(),
                key.display(),
            )
        });
        Broker { mosquitto, tls: tls.unwrap() }
    }

    fn home(&self, mqtt: String) -> Home {
        let mut home = Home::new([format!("mqtts://{}", self.tls)]);
        home.mqtt = mqtt;
        home
    }
}

/// Waits for the link's reason to hold this text.
fn expect_reason(sidecar: &Sidecar, text: &str) {
    let has =
        |status: &serde_json::Value| status["link"]["reason"].as_str().is_some_and(|reason| reason.contains(text));
    sidecar.expect_status(text, has);
}

#[test]
fn records_never_travel_but_to_a_broker_that_proves_who_it_is() {
    let authority = Authority::new();
    let broker = Broker::start(&authority, |host| authority.issue(host, NOW), true);
    let subscriber = Subscriber::at(broker.mosquitto.address());
    let ours = authority.issue("gateway", NOW);
    let mqtt = format!("ca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}", authority.own, ours.cert, ours.key);
    let sidecar = Sidecar::start(broker.home(mqtt));
    for number in 0..100 {
        sidecar.publish("over-tls", &format!("record {number}"));
    }
    subscriber.expect_text(STREAM, "record 99");
    sidecar.expect_drained(STREAM);
    let status = sidecar.status();
    assert_eq!(status["link"]["server"], format!("mqtts://{}", broker.tls));
    assert_eq!(status["link"]["tls_failures"], serde_json::Value::Null);
}

#[test]
fn a_look_at_the_first_server_is_never_taken_for_the_end_of_the_second() {
    let authority = Authority::new();
    let start = || Broker::start(&authority, |_| authority.issue("broker", NOW), false);
    let [first, second] = [start(), start()];
    let relay = Relay::to(first.tls);
    let mut home = Home::new([format!("mqtts://{}", relay.address()), format!("mqtts://{}", second.tls)]);
    home.mqtt = format!("ca_file = {:?}\nserver_name = \"broker\"\nfall_back = \"1s\"", authority.own);
    let sidecar = Sidecar::start(home);
    let states = |status: &serde_json::Value| [0, 1].map(|place| status["link"]["servers"][place]["state"].clone());
    sidecar.expect_status("the first server", |status| states(status) == ["connected", "untried"]);
    relay.cut();
    sidecar.expect_status("the second server", |status| states(status) == ["failed", "connected"]);
    // Looks that are cut off before the handshake is done change nothing.
    let tries = relay.tries();
    relay.expect_tries(tries + 2, LONG);
    assert_eq!(sidecar.status()["link"]["connects"], 2);
    relay.open();
    let status = sidecar.expect_status("the first server again", |status| states(status) == ["connected", "left"]);
    assert_eq!(status["link"]["connects"], 3, "{status:#}");
}

#[test]
fn no_mistake_with_certificates_ever_goes_without_a_name_of_its_own() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let ca = format!("ca_file = {:?}", authority.own);
    let ours = authority.issue("gateway", NOW);
    let identity = |cert: &PathBuf, key: &PathBuf| format!("{ca}\ncert_file = {cert:?}\nkey_file = {key:?}");
    let right = |host: &str| authority.issue(host, NOW);
    type Server<'a> = &'a dyn Fn(&str) -> Identity;
    let expired: Server<'_> = &|host| authority.issue(host, (2020, 2021));
    let early: Server<'_> = &|host| authority.issue(host, (3000, 3001));
    let other: Server<'_> = &|_| authority.issue("other.example", NOW);
    let cases: [(Server<'_>, bool, String, &str, &str); 9] = [
        (expired, false, ca.clone(), "expired", "has expired: it ended at 2021-01-01T00:00:00.000Z"),
        (early, false, ca.clone(), "not-yet-valid", "is valid from 3000-01-01T00:00:00.000Z on"),
        (other, false, ca.clone(), "wrong-name", "but for"),
        (&right, false, format!("ca_file = {:?}", stranger.own), "unknown-issuer", "give it as mqtt.ca_file"),
        (&right, true, ca.clone(), "client-certificate-required", "give mqtt.cert_file and mqtt.key_file"),
        (
            &right,
            true,
            {
                let theirs = stranger.issue("gateway", NOW);
                identity(&theirs.cert, &theirs.key)
            },
            "client-certificate-refused",
            "does not accept the certificate of mqtt.cert_file",
        ),
        (&right, true, identity(&ours.cert, &authority.issue("x", NOW).key), "file", "it is not the key of"),
        (&right, false, "ca_file = \"missing.pem\"".to_owned(), "file", "put it there, readable by this user"),
        (&right, false, format!("ca_file = {:?}", ours.key), "file", "it holds no certificate in PEM"),
    ];
    for (server, asks, mqtt, kind, text) in cases {
        let broker = Broker::start(&authority, server, asks);
        let sidecar = Sidecar::start(broker.home(mqtt));
        expect_reason(&sidecar, text);
        let failures = &sidecar.status()["link"]["tls_failures"];
        assert!(failures[kind].as_u64().is_some_and(|count| count > 0), "{kind}: {failures}");
        let metrics = sidecar.request("GET", "/metrics", "", b"").unwrap();
        let line = format!("pillion_link_tls_failures_total{{reason=\"{kind}\"}} ");
        assert!(metrics.text.contains(&line), "{line} is not in {}", metrics.text);
    }
}

#[test]
fn a_port_without_tls_never_looks_like_a_dead_broker() {
    let mosquitto = Mosquitto::start();
    let sidecar = Sidecar::start(Home::new([format!("mqtts://{}", mosquitto.address())]));
    expect_reason(&sidecar, "does this port speak TLS?");
}

#[test]
fn a_renewed_certificate_never_needs_a_restart() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let broker = Broker::start(&authority, |host| authority.issue(host, NOW), true);
    let old = stranger.issue("gateway", NOW);
    let mqtt = format!("ca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}", authority.own, old.cert, old.key);
    let sidecar = Sidecar::start(broker.home(mqtt));
    expect_reason(&sidecar, "does not accept the certificate");
    let new = authority.issue("gateway", NOW);
    fs::copy(&new.key, &old.key).unwrap();
    fs::copy(&new.cert, &old.cert).unwrap();
    sidecar.expect_status("a connection", |status| status["link"]["state"] == "connected");
}

#[test]
fn a_broker_behind_another_name_is_never_trusted_without_being_told_so() {
    let authority = Authority::new();
    let broker = Broker::start(&authority, |_| authority.issue("broker.example", NOW), false);
    let mqtt = format!("ca_file = {:?}\nserver_name = \"broker.example\"\nalpn = [\"mqtt\"]", authority.own);
    let sidecar = Sidecar::start(broker.home(mqtt));
    sidecar.expect_status("a connection", |status| status["link"]["state"] == "connected");
    drop(sidecar);
    let mqtt = format!("ca_file = {:?}\nserver_name = \"other.example\"", authority.own);
    let sidecar = Sidecar::start(broker.home(mqtt));
    expect_reason(&sidecar, "is not for other.example, but for");
}

/// Who shares a port with others: shakes hands with the first client, and says what protocol and what host it was asked for.
fn asked_for(listener: &TcpListener, Identity { cert, key }: &Identity) -> (Option<Vec<u8>>, Option<String>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap());
    let mut config = config.unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"mqtt".to_vec()];
    let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
    let (mut client, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut client).unwrap();
    }
    (tls.alpn_protocol().map(<[u8]>::to_vec), tls.server_name().map(str::to_owned))
}

#[test]
fn a_port_that_others_share_is_never_entered_without_saying_mqtt() {
    let authority = Authority::new();
    let identity = authority.issue("localhost", NOW);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let start = |more: &str| {
        let mut home = Home::new([format!("mqtts://localhost:{}", listener.local_addr().unwrap().port())]);
        home.mqtt = format!("ca_file = {:?}\n{more}", authority.own);
        Sidecar::start(home)
    };
    let sidecar = start("alpn = [\"x-other\", \"mqtt\"]");
    assert_eq!(asked_for(&listener, &identity), (Some(b"mqtt".to_vec()), Some("localhost".to_owned())));
    drop(sidecar);
    let _sidecar = start("");
    assert_eq!(asked_for(&listener, &identity).0, None, "nobody has asked for it");
}
