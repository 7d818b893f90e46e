//! The rig itself, with a plain client in the sidecar's place: what the other tests build on holds.

use crate::common::mosquitto::Mosquitto;
use crate::common::relay::Relay;
use crate::common::subscriber::Subscriber;
use crate::common::wire::Wire;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4::{Connect, LastWill, Packet, Publish};
use std::net::{SocketAddr, TcpStream};

fn client(broker: SocketAddr) -> Wire {
    let mut wire = Wire::new(TcpStream::connect(broker).unwrap()).unwrap();
    let will = LastWill::new("p/status", r#"{"state":"offline"}"#, QoS::AtLeastOnce, true);
    wire.write(&Packet::Connect(Connect { last_will: Some(will), ..Connect::new("rig") })).unwrap();
    assert!(matches!(wire.read().unwrap(), Some(Packet::ConnAck(_))));
    wire
}

fn publish(wire: &mut Wire, topic: &str, payload: &str, retain: bool) {
    let publish = Publish { pkid: 1, retain, ..Publish::new(topic, QoS::AtLeastOnce, payload) };
    wire.write(&Packet::Publish(publish)).unwrap();
    assert!(matches!(wire.read().unwrap(), Some(Packet::PubAck(_))));
}

#[test]
fn an_inbox_never_loses_or_doubles_a_record_over_an_outage() {
    let mut mosquitto = Mosquitto::start();
    let relay = Relay::to(mosquitto.address());
    let mut subscriber = Subscriber::at(mosquitto.address());
    let mut wire = client(relay.address());
    publish(&mut wire, "p/app/x", r#"{"id":"telemetry:1","data":"one"}"#, false);
    publish(&mut wire, "p/app/x", r#"{"id":"telemetry:1","data":"one"}"#, false);
    relay.cut();
    assert!(wire.read().is_err(), "the cut reaches the client");
    subscriber.flush();
    mosquitto.stop();
    mosquitto.start_again();
    subscriber.connect(mosquitto.address());
    relay.open();
    let mut wire = client(relay.address());
    publish(&mut wire, "p/app/x", r#"{"id":"telemetry:2","data":"two"}"#, false);
    assert_eq!(subscriber.expect_text("telemetry", "two").seq, 2);
    subscriber.read(|inbox| {
        inbox.assert_in_order();
        assert_eq!((inbox.of("telemetry").len(), inbox.repeats), (2, 1));
    });
}

#[test]
fn retained_messages_and_wills_never_pass_unseen() {
    let mosquitto = Mosquitto::start();
    let mut wire = client(mosquitto.address());
    publish(&mut wire, "p/status", r#"{"state":"online"}"#, true);
    let subscriber = Subscriber::at(mosquitto.address());
    let birth = subscriber.expect_latest("p/status", |status| status["state"] == "online");
    assert!(birth.retained);
    wire.close();
    subscriber.expect_latest("p/status", |status| status["state"] == "offline");
}

#[test]
fn a_silent_link_never_carries_a_byte() {
    let mosquitto = Mosquitto::start();
    let relay = Relay::to(mosquitto.address());
    let mut wire = client(relay.address());
    relay.silence();
    wire.write(&Packet::PingReq).unwrap();
    wire.patience(Some(std::time::Duration::from_millis(50))).unwrap();
    assert!(wire.read().unwrap().is_none());
    relay.open();
    wire.patience(None).unwrap();
    assert_eq!(wire.read().unwrap(), Some(Packet::PingResp));
    assert_eq!(relay.tries(), 1);
}
