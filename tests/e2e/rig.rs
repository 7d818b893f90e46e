//! The parts of the rig that need no real broker.

use crate::common::device::Device;
use crate::common::fake_broker::{FakeBroker, Opening, Reply, Script};
use crate::common::http;
use crate::common::sidecar::Home;
use crate::common::{SOON, wire::Wire};
use rumqttc::QoS;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet, Publish};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// Publishes 1 to `count` as the simplest client that is right: one at a time, again after every failure.
fn publish_all(broker: &FakeBroker, count: u64) {
    let mut next = 1;
    while next <= count {
        // A refused or dropped connection is what this is about.
        let _ = publish_from(broker, &mut next, count);
    }
}

fn publish_from(broker: &FakeBroker, next: &mut u64, count: u64) -> std::io::Result<()> {
    let mut wire = Wire::new(TcpStream::connect(broker.address())?)?;
    wire.patience(Some(Duration::from_millis(200)))?;
    wire.write(&Packet::Connect(Connect::new("rig")))?;
    match wire.read()? {
        Some(Packet::ConnAck(ack)) if ack.code == ConnectReturnCode::Success => {}
        _ => return Ok(()),
    }
    while *next <= count {
        let payload = format!(r#"{{"id":"telemetry:{next}","data":{next}}}"#);
        let publish = Publish { pkid: 7, ..Publish::new("p/app/x", QoS::AtLeastOnce, payload) };
        wire.write(&Packet::Publish(publish))?;
        loop {
            match wire.read()? {
                Some(Packet::PubAck(ack)) if ack.pkid == 7 => break,
                Some(_) => {}
                None => return Ok(()),
            }
        }
        *next += 1;
    }
    Ok(())
}

#[test]
fn a_rude_broker_never_forgets_what_it_was_told() {
    let script = Script {
        opening: |number, rng| match (number, rng.u8(..4)) {
            (1, _) => Opening::Close,
            (2, _) => Opening::Refuse(ConnectReturnCode::ServiceUnavailable),
            (3, _) => Opening::Mute,
            _ => Opening::Accept,
        },
        reply: |_, rng| match rng.u8(..40) {
            0 => Reply::Drop,
            1 => Reply::Never,
            2 => Reply::Unknown,
            3 => Reply::Late,
            4 => Reply::AckAndDrop,
            5 => Reply::Hang,
            _ => Reply::Ack,
        },
    };
    let broker = FakeBroker::start(script, 7);
    publish_all(&broker, 200);
    broker.read(|account| {
        assert_eq!(account.distinct("telemetry"), 200);
        assert!(account.records.values().all(|heard| heard.times >= 1 && heard.acknowledged >= 1));
        assert!(account.connections > 5 && account.sessions < account.connections);
        assert_eq!(account.publishes, 200 + account.repeats());
        assert_eq!(account.disorder, [] as [String; 0]);
    });
}

#[test]
fn a_device_never_echoes_and_its_reader_sees_it_go() {
    let home = Home::new(["mqtt://127.0.0.1:1"]);
    let mut device = Device::at(home.path("meter"));
    device.line("early");
    let mut reader = std::fs::File::open(device.path()).unwrap();
    device.line("one");
    let mut bytes = [0; 10];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"early\none\n");
    device.pull_out();
    // A terminal that has hung up reads as its end, or as an error while it is hanging up.
    assert_eq!(reader.read(&mut bytes).unwrap_or(0), 0);
    device.plug_in();
    device.line("two");
    std::fs::File::open(device.path()).unwrap().read_exact(&mut bytes[..4]).unwrap();
    assert_eq!(&bytes[..4], b"two\n");
}

#[test]
fn an_answer_that_is_cut_off_never_counts() {
    let home = Home::new(["mqtt://127.0.0.1:1"]);
    let socket = home.path("http.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        for answer in ["{\"a\":1}", "{\"a\":"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{answer}").unwrap();
        }
    });
    let whole = http::request(&socket, "GET", "/v1/status", "", b"").unwrap();
    assert_eq!((whole.code, whole.json["a"].as_u64()), (200, Some(1)));
    assert!(http::request(&socket, "GET", "/v1/status", "", b"").is_err());
    server.join().unwrap();
}

#[test]
fn a_polite_broker_never_refuses() {
    let broker = FakeBroker::start(Script::POLITE, 0);
    publish_all(&broker, 10);
    broker.expect("ten records", SOON, |account| account.distinct("telemetry") == 10);
    assert_eq!(broker.read(|account| (account.connections, account.repeats())), (1, 0));
}
