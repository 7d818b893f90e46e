//! Packets of MQTT 5 as they are on the wire, both ways.

use super::*;
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::v5 as codec;

fn server(url: &str) -> Server {
    let (host, port) = url.rsplit_once(':').unwrap();
    Server { tls: true, websocket: None, host: host.to_owned(), port: port.parse().unwrap() }
}

fn v5() -> V5 {
    V5::new(&server("broker.example:8883"), 4096)
}

fn session(purpose: Purpose) -> Session {
    Session {
        version: crate::config::MqttVersion::V5,
        client_id: "gw".to_owned(),
        credentials: Some(("user".to_owned(), "secret".to_owned())),
        keep_alive: Duration::from_secs(30),
        max_payload: 1000,
        purpose,
    }
}

fn commands(clean: bool) -> Session {
    session(Purpose::Commands { clean, will: None })
}

fn message(topic: &str, payload: &str, about: About) -> Message {
    Message { topic: topic.to_owned(), payload: payload.into(), retain: true, about }
}

fn terms(answer: &[u8]) -> Result<Terms, LinkError> {
    v5().accepted(BytesMut::from(answer), &commands(false))
}

#[test]
fn connect_never_changes_its_shape() {
    let mut out = BytesMut::new();
    let will = message("p/status", "{}", About::json());
    v5().connect(&session(Purpose::Publish { will }), &mut out).unwrap();
    let expected: &[&[u8]] = &[
        &[0x10, 72, 0, 4],
        b"MQTT",
        &[5, 0b1110_1110, 0, 30],
        // Session expiry 0, maximum packet size 4096.
        &[10, 0x11, 0, 0, 0, 0, 0x27, 0, 0, 0x10, 0],
        &[0, 2],
        b"gw",
        // Payload format, content type.
        &[21, 0x01, 1, 0x03, 0, 16],
        b"application/json",
        &[0, 8],
        b"p/status",
        &[0, 2],
        b"{}",
        &[0, 4],
        b"user",
        &[0, 6],
        b"secret",
    ];
    let mut expected = expected.concat();
    expected[1] = u8::try_from(expected.len() - 2).unwrap();
    assert_eq!(out, expected);
    let mut out = BytesMut::new();
    v5().connect(&commands(false), &mut out).unwrap();
    assert!(out.windows(5).any(|window| window == [0x11, 0xff, 0xff, 0xff, 0xff]), "kept for ever");
    assert_eq!(out[9] & 0b10, 0, "no clean start");
    let mut out = BytesMut::new();
    v5().connect(&commands(true), &mut out).unwrap();
    assert_eq!(out[9] & 0b10, 0b10);
}

#[test]
fn publish_never_changes_its_shape() {
    let mut v5 = v5();
    v5.accepted(BytesMut::from(&[0x20, 6, 0, 0, 3, 0x22, 0, 2][..]), &commands(false)).unwrap();
    let properties = vec![("id".to_owned(), "t:1".to_owned())];
    let about = About { expiry_s: Some(258), is_text: true, content_type: None, properties };
    let mut out = BytesMut::new();
    v5.publish(message("p/a/b", "x", about), 7, &mut out).unwrap();
    let expected: &[&[u8]] = &[
        &[0x33, 31, 0, 5],
        b"p/a/b",
        // Payload format, expiry, topic alias, user property.
        &[0, 7, 20, 0x01, 1, 0x02, 0, 0, 1, 2, 0x23, 0, 1, 0x26, 0, 2],
        b"id",
        &[0, 3],
        b"t:1",
        b"x",
    ];
    assert_eq!(out, expected.concat());
    let mut out = BytesMut::new();
    v5.publish(message("p/a/b", "y", About::default()), 8, &mut out).unwrap();
    assert_eq!(out[..], [0x33, 9, 0, 0, 0, 8, 3, 0x23, 0, 1, b'y'], "the alias alone");
}

#[test]
fn a_packet_is_never_larger_than_it_was_said_to_be() {
    let properties = vec![("id".to_owned(), "telemetry:1042".to_owned())];
    let about = About { expiry_s: Some(1), is_text: true, content_type: Some("application/json"), properties };
    for length in [0, 1, 100, 127, 128, 16_000, 16_383, 16_384, 300_000] {
        let message = message("pillion/host/x", &"x".repeat(length), about.clone());
        let mut v5 = v5();
        v5.aliases = Aliases::new(5);
        let said = v5.overhead(&message.topic, &about) + length;
        let mut out = BytesMut::new();
        v5.publish(message, 1, &mut out).unwrap();
        assert!((out.len()..out.len() + 12).contains(&said), "{said} for {}", out.len());
    }
}

#[test]
fn what_the_broker_allows_is_never_overlooked() {
    let plain = terms(&[0x20, 3, 1, 0, 0]).unwrap();
    let expected = Terms {
        session_present: true,
        keep_alive: Duration::from_secs(30),
        receive_maximum: u16::MAX,
        max_packet: usize::MAX,
        notices: vec![],
    };
    assert_eq!(plain, expected);
    let properties: &[u8] = &[0x11, 0, 0, 0, 60, 0x21, 0, 20, 0x25, 0, 0x27, 0, 0, 4, 0, 0x12, 0, 1, b'x', 0x13, 0, 10];
    let answer = [&[0x20, 0, 0, 0, u8::try_from(properties.len()).unwrap()], properties].concat();
    let terms = terms(&answer).unwrap();
    assert_eq!((terms.receive_maximum, terms.max_packet), (20, 1024));
    assert_eq!(terms.keep_alive, Duration::from_secs(10));
    let said = terms.notices.join("; ");
    for part in ["keeps no messages", "the id \"x\"", "for 60 s only"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn no_refusal_to_connect_ever_goes_without_words() {
    let refused = |answer: &[u8]| terms(answer).unwrap_err();
    for (answer, text) in [
        (&[0x20u8, 2, 0, 1][..], "set mqtt.version = \"3.1.1\""),
        (&[0x20, 3, 0, 0x84, 0], "set mqtt.version = \"3.1.1\""),
        (&[0x20, 3, 0, 0x87, 0], "see mqtt.username"),
        (
            &[0x20, 9, 0, 0x8a, 6, 0x1f, 0, 3, b'b', b'a', b'd'],
            "has banned this client; whoever runs it can lift that (it says: bad)",
        ),
        (&[0x20, 5, 0, 0, 2, 0x24, 0], "QoS 0 only"),
        (&[0x20, 3, 0, 0xee, 0], "other (0xee)"),
        (&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0], "packets of 0 bytes"),
        (&[0xd0, 2, 0, 0], "a packet of kind 13 instead of CONNACK"),
    ] {
        let error = refused(answer).to_string();
        assert!(error.contains(text), "{text} is not in {error}");
    }
    assert!(matches!(refused(&[0x20, 3, 0, 0x9a, 0]), LinkError::NoRetained));
    let again = v5().without_retained().accepted(BytesMut::from(&[0x20, 3, 0, 0x9a, 0][..]), &commands(false));
    assert!(matches!(again, Err(LinkError::Refused(_))), "once only");
}

#[test]
fn a_broker_never_sends_us_to_nobody() {
    let here = server("broker.example:8883");
    let to = |reference| elsewhere(reference, &here);
    assert_eq!(to("other.example"), Some(server("other.example:8883")));
    assert_eq!(to("other.example:1234 third.example"), Some(server("other.example:1234")));
    assert_eq!(to("[::1]:5"), Some(server("::1:5")));
    assert_eq!(to("::1"), Some(server("::1:8883")));
    for wrong in ["", " ", ":1", "a:0", "a:x", "a/b", "user@host", "[x]:1", "[::1"] {
        assert_eq!(to(wrong), None, "{wrong}");
    }
    let answer = [&[0x20, 9, 0, 0x9d, 6, 0x1c, 0, 3], &b"b:9"[..]].concat();
    match terms(&answer) {
        Err(LinkError::Redirected { to, says }) => {
            assert_eq!(to, Some(server("b:9")));
            assert_eq!(says, "the broker sends us on to mqtts://b:9");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_answer_is_ever_misread() {
    let receive = |packet: &[u8]| v5().receive(BytesMut::from(packet));
    let taken = |id| Received::Acknowledged { id, verdict: Verdict::Taken };
    assert_eq!(receive(&[0x40, 2, 1, 2]).unwrap(), taken(258));
    assert_eq!(receive(&[0x40, 3, 0, 5, 0x10]).unwrap(), taken(5), "no subscriber is no refusal");
    let refusal = Refusal { code: 0x87, says: Some("no".to_owned()) };
    let packet = [0x40, 9, 0, 5, 0x87, 5, 0x1f, 0, 2, b'n', b'o'];
    assert_eq!(receive(&packet).unwrap(), Received::Acknowledged { id: 5, verdict: Verdict::Refused(refusal) });
    assert_eq!(receive(&[0x90, 4, 0, 1, 0, 1]).unwrap(), Received::Subscribed { id: 1, granted: true });
    assert_eq!(receive(&[0x90, 4, 0, 1, 0, 0x87]).unwrap(), Received::Subscribed { id: 1, granted: false });
    assert_eq!(receive(&[0xd0, 0]).unwrap(), Received::Pong);
    assert!(matches!(receive(&[0xe0, 0]), Err(LinkError::Closed)));
    let taken_over = receive(&[0xe0, 1, 0x8e]).unwrap_err().to_string();
    assert!(taken_over.contains("give each gateway its own mqtt.client_id"), "{taken_over}");
    assert!(matches!(receive(&[0x40, 1, 0]), Err(LinkError::Protocol(_))));
    let mut out = BytesMut::new();
    let publish = codec::Publish::new("p/x", QoS::AtLeastOnce, "data", None);
    codec::Publish { pkid: 9, dup: true, ..publish }.write(&mut out).unwrap();
    match v5().receive(out).unwrap() {
        Received::Delivered(delivery) => {
            assert_eq!((delivery.topic.as_str(), delivery.packet, delivery.redelivered), ("p/x", Some(9), true));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_answer_to_a_subscription_ever_counts_as_a_yes_or_costs_the_session() {
    let answer = |packet: &[u8]| v5().receive(BytesMut::from(packet));
    let reason = [&[0x90, 10, 0, 7, 6, 0x1f, 0, 3][..], b"bad", &[0x97]].concat();
    for (packet, granted) in [
        (&[0x90, 4, 0, 7, 0, 1][..], true),
        (&[0x90, 4, 0, 7, 0, 0x87], false),
        // A code that no standard has.
        (&[0x90, 4, 0, 7, 0, 0xee], false),
        (&reason, false),
    ] {
        assert_eq!(answer(packet).unwrap(), Received::Subscribed { id: 7, granted }, "{packet:?}");
    }
    for packet in [&[0x90, 0][..], &[0x90, 3, 0, 7, 0], &[0x90, 4, 0, 7, 9, 1]] {
        assert!(matches!(answer(packet), Err(LinkError::Protocol(_))), "{packet:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_from_a_broker_ever_end_in_a_panic(
        kind in any::<u8>(),
        rest in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut packet = BytesMut::from(&[kind, u8::try_from(rest.len()).unwrap()][..]);
        packet.extend_from_slice(&rest);
        let _: Result<_, _> = v5().receive(packet.clone());
        packet[0] = 0x20;
        let _: Result<_, _> = v5().accepted(packet, &commands(false));
    }
}
