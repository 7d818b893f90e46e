use super::metric::{LONGEST_NAME, MOST};
use super::protobuf::{Field, Metric, Payload};
use super::*;
use crate::record::{ClockQuality, Encoding, Record, Timestamp};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

const LIMIT: usize = 256 * 1024;

fn node() -> Node {
    Node { group: "site-1".to_owned(), node: "gw".to_owned() }
}

fn session() -> Session {
    let meter = Declared { device: "meter".to_owned(), metrics: vec![("power".to_owned(), Kind::Double)] };
    Session::new(node(), Some(vec![meter, Declared { device: "door".to_owned(), metrics: Vec::new() }]))
}

fn record(topic: &str, data: &str, wall_ms: u64) -> Record {
    let time = Timestamp { wall_ms, mono_ms: 0, quality: ClockQuality::Trusted };
    Record { topic: topic.to_owned(), time, encoding: Encoding::Json, data: data.as_bytes().to_vec() }
}

/// What a subscriber knows: it fails at whatever the specification does not allow.
#[derive(Default)]
struct Host {
    seq: Option<u64>,
    bd_seq: Option<Field>,
    /// The metrics of each device that is born.
    born: BTreeMap<String, BTreeMap<String, u32>>,
    /// What is shown of each metric now.
    shown: BTreeMap<(String, String), Option<Field>>,
    /// Every value that was not of a birth.
    values: Vec<(String, Option<Field>, bool)>,
    heard: Vec<String>,
}

impl Host {
    fn hear(&mut self, messages: Vec<Outgoing>) -> &mut Self {
        for Outgoing { topic, payload } in messages {
            let payload = Payload::decode(payload.as_slice()).unwrap();
            let levels: Vec<&str> = topic.split('/').collect();
            assert_eq!((levels[0], levels[1], levels[3]), ("spBv1.0", "site-1", "gw"));
            let device = levels.get(4).map(ToString::to_string);
            self.heard.push(levels[2].to_owned());
            match levels[2] {
                "NBIRTH" => (self.seq, self.born) = (Some(0), BTreeMap::new()),
                kind => {
                    assert!(matches!(kind, "DBIRTH" | "DDATA" | "DDEATH"));
                    self.seq = self.seq.map(|seq| (seq + 1) % 256);
                }
            }
            assert_eq!(payload.seq, self.seq, "{topic}");
            assert!(payload.timestamp.is_some());
            self.take(levels[2], device.unwrap_or_default(), payload.metrics);
        }
        self
    }

    fn take(&mut self, kind: &str, device: String, metrics: Vec<Metric>) {
        for metric in &metrics {
            assert!(metric.datatype.is_some() && metric.name.is_some());
            assert_eq!(metric.value.is_none(), metric.is_null == Some(true));
        }
        let name = |metric: &Metric| metric.name.clone().unwrap();
        match kind {
            "NBIRTH" => {
                self.bd_seq = metrics.iter().find(|metric| name(metric) == "bdSeq").unwrap().value.clone();
                assert!(metrics.iter().any(|metric| name(metric) == "Node Control/Rebirth"));
            }
            "DBIRTH" => {
                let kinds = metrics.iter().map(|metric| (name(metric), metric.datatype.unwrap())).collect();
                self.born.insert(device.clone(), kinds);
                for metric in metrics {
                    assert!(metric.timestamp.is_some());
                    self.shown.insert((device.clone(), name(&metric)), metric.value);
                }
            }
            "DDATA" => {
                let born = self.born.get(&device).expect("no data before the birth");
                for metric in metrics {
                    assert_eq!(born.get(&name(&metric)), metric.datatype.as_ref(), "{metric:?}");
                    let is_historical = metric.is_historical == Some(true);
                    if !is_historical {
                        self.shown.insert((device.clone(), name(&metric)), metric.value.clone());
                    }
                    self.values.push((format!("{device}:{}", name(&metric)), metric.value, is_historical));
                }
            }
            _ => {
                assert!(metrics.is_empty());
                self.born.remove(&device).expect("only who was born dies");
            }
        }
    }

    fn shown(&self, device: &str, metric: &str) -> Option<Field> {
        self.shown[&(device.to_owned(), metric.to_owned())].clone()
    }

    fn last_kinds(&self, count: usize) -> Vec<&str> {
        self.heard[self.heard.len() - count..].iter().map(String::as_str).collect()
    }
}

#[test]
fn data_never_comes_before_its_birth() {
    let (mut session, mut host) = (session(), Host::default());
    let will = session.connecting(7);
    assert_eq!(will.topic, "spBv1.0/site-1/NDEATH/gw");
    let death = Payload::decode(will.payload.as_slice()).unwrap();
    assert_eq!((death.seq, death.metrics.len()), (None, 1));
    host.hear(session.connected(1_000, LIMIT));
    assert_eq!((host.heard.len(), &host.bd_seq), (1, &death.metrics[0].value), "nobody is online");
    host.hear(session.presence([("meter", true), ("door", false)].into_iter(), 1_001));
    assert_eq!((host.last_kinds(1), host.shown("meter", "power")), (vec!["DBIRTH"], None));
    host.hear(session.record(&record("device/meter/data", "{\"power\":5}", 1_002), 1_003, LIMIT).unwrap());
    assert_eq!(host.last_kinds(2), ["DBIRTH", "DDATA"]);
    assert_eq!(host.shown("meter", "power"), Some(Field::Double(5.0)), "as it was declared");
    // A metric that nobody knew of, and records of no device.
    host.hear(session.record(&record("device/meter/data", "{\"l1\":{\"v\":230}}", 1_004), 1_005, LIMIT).unwrap());
    assert_eq!(host.last_kinds(2), ["DBIRTH", "DDATA"]);
    assert_eq!(host.shown("meter", "l1/v"), Some(Field::Long(230)));
    host.hear(session.record(&record("app/orders", "3", 1_006), 1_007, LIMIT).unwrap());
    host.hear(session.record(&record("app/orders", "-4", 1_006), 1_007, LIMIT).unwrap());
    assert_eq!(host.last_kinds(3), ["DBIRTH", "DDATA", "DDATA"]);
    assert_eq!(host.shown("APP", "orders"), Some(Field::Long((-4_i64).cast_unsigned())));
    assert_eq!(session.rebirth(1_008).len(), 3, "the node, the meter and APP");
}

#[test]
fn a_backlog_is_never_taken_for_the_present() {
    let (mut session, mut host) = (session(), Host::default());
    session.connecting(0);
    host.hear(session.connected(1_000, LIMIT)).hear(session.presence([("meter", true)].into_iter(), 1_000));
    host.hear(session.record(&record("device/meter/data", "{\"power\":1.5}", 900), 1_001, LIMIT).unwrap());
    assert!(session.is_draining());
    assert_eq!(host.values, [("meter:power".to_owned(), Some(Field::Double(1.5)), true)]);
    assert_eq!(host.shown("meter", "power"), None);
    host.hear(session.settle(1_002));
    assert_eq!(host.last_kinds(1), ["DBIRTH"]);
    assert_eq!(host.shown("meter", "power"), Some(Field::Double(1.5)), "and is, once nothing newer waits");
    assert_eq!(session.settle(1_003), []);
    host.hear(session.record(&record("device/meter/data", "{\"power\":2}", 1_003), 1_003, LIMIT).unwrap());
    assert_eq!((host.last_kinds(1), session.is_draining()), (vec!["DDATA"], false));
    assert_eq!(session.settle(1_004), []);
}

#[test]
fn an_offline_device_never_stays_alive_nor_loses_its_records() {
    let (mut session, mut host) = (session(), Host::default());
    session.connecting(0);
    host.hear(session.connected(1_000, LIMIT)).hear(session.presence([("door", true)].into_iter(), 1_000));
    host.hear(session.presence([("door", false)].into_iter(), 1_001));
    assert_eq!(host.last_kinds(1), ["DBIRTH"], "something of it may wait");
    host.hear(session.settle(1_002));
    assert_eq!(host.last_kinds(1), ["DDEATH"]);
    assert_eq!(session.settle(1_003), []);
    host.hear(session.record(&record("device/door/data", "true", 900), 1_004, LIMIT).unwrap());
    assert_eq!(host.last_kinds(2), ["DBIRTH", "DDATA"]);
    host.hear(session.settle(1_005));
    assert_eq!(host.last_kinds(1), ["DDEATH"]);
    // The next connection knows what it had.
    session.connecting(1);
    host.hear(session.connected(2_000, LIMIT)).hear(session.presence([("door", true)].into_iter(), 2_001));
    assert_eq!(host.shown("door", "value"), Some(Field::Boolean(true)));
}

#[test]
fn a_value_of_another_type_never_surprises() {
    let (mut session, mut host) = (session(), Host::default());
    session.connecting(0);
    host.hear(session.connected(0, LIMIT));
    let said = ["null", "22", "22.5", "21", "\"n/a\"", "20", "null", "true", "[1,2]", "18446744073709551615"];
    for (time, data) in (1..).zip(said) {
        host.hear(session.record(&record("device/door/data", data, time), time, LIMIT).unwrap());
    }
    let births = host.heard.iter().filter(|kind| *kind == "DBIRTH").count();
    assert_eq!(births, 4, "null, Int64, Double, String");
    let text = |text: &str| Some(Field::Text(text.to_owned()));
    let values: Vec<_> = host.values.into_iter().map(|(_, value, _)| value).collect();
    let expected = [
        None,
        Some(Field::Long(22)),
        Some(Field::Double(22.5)),
        Some(Field::Double(21.0)),
        text("n/a"),
        text("20"),
        None,
        text("true"),
        text("[1,2]"),
        text("18446744073709552000"),
    ];
    assert_eq!(values, expected);
}

#[test]
fn a_metric_is_never_of_an_earlier_type_after_a_kill() {
    let mut before = session();
    before.connected(0, LIMIT);
    assert_eq!(before.types(), None, "nothing is written for nothing");
    for data in ["22", "22.5", "{\"deep\":{\"flag\":true}}"] {
        before.record(&record("device/door/data", data, 1), 1, LIMIT).unwrap();
    }
    let types = before.types().unwrap();
    before.record(&record("device/door/data", "23", 1), 1, LIMIT).unwrap();
    assert_eq!(before.types(), None);
    assert_eq!(String::from_utf8(types.clone()).unwrap(), "{\"door\":{\"deep/flag\":11,\"value\":10}}");

    let (mut after, mut host) = (session(), Host::default());
    after.remember(&types);
    host.hear(after.connected(2, LIMIT)).hear(after.presence([("door", true)].into_iter(), 2));
    assert!(host.born["door"].is_empty(), "of what was not measured since nobody speaks");
    for (data, expected) in [("22", 22.0), ("22.5", 22.5), ("23", 23.0)] {
        host.hear(after.record(&record("device/door/data", data, 1), 3, LIMIT).unwrap());
        assert_eq!(host.values.last().unwrap().1, Some(Field::Double(expected)));
    }
    host.hear(after.record(&record("device/door/data", "{\"deep\":{\"flag\":null}}", 1), 3, LIMIT).unwrap());
    assert_eq!(host.born["door"]["deep/flag"], 11);
    assert_eq!(host.heard.iter().filter(|kind| *kind == "DBIRTH").count(), 3, "the first one, value, deep/flag");
    // A file that is damaged, or of a later version, is no reason for anything.
    for file in [&b"{\"door\":{\"value\":99}}"[..], b"{\"door\":[]}", b"\xff", b""] {
        let mut after = session();
        after.remember(file);
        let messages = after.record(&record("device/door/data", "22", 1), 3, LIMIT).unwrap();
        assert_eq!(Payload::decode(messages[1].payload.as_slice()).unwrap().metrics[0].datatype, Some(4));
    }
}

#[test]
fn a_record_that_does_not_fit_never_takes_the_birth_of_the_next_one() {
    let (mut session, mut host) = (session(), Host::default());
    host.hear(session.connected(0, 500));
    host.hear(session.record(&record("device/door/data", "{\"a\":1}", 1), 1, 500).unwrap());
    let long = format!("{{\"b\":1,\"c\":\"{}\"}}", "x".repeat(1000));
    assert!(session.record(&record("device/door/data", &long, 2), 2, 500).is_err());
    host.hear(session.record(&record("device/door/data", "{\"b\":2}", 3), 3, 500).unwrap());
    assert_eq!(host.last_kinds(2), ["DBIRTH", "DDATA"]);
}

#[test]
fn a_birth_is_never_larger_than_the_broker_takes() {
    let (mut session, mut host) = (session(), Host::default());
    host.hear(session.connected(0, LIMIT)).hear(session.presence([("door", true)].into_iter(), 0));
    for number in 0..20 {
        let data = format!("{{\"{number}{}\":1}}", "n".repeat(100));
        host.hear(session.record(&record("device/door/data", &data, 1), 1, LIMIT).unwrap());
    }
    // The next broker takes less.
    for message in session.connected(2, 500).into_iter().chain(session.presence([("door", true)].into_iter(), 2)) {
        assert!(message.payload.len() <= 500);
        host.hear(vec![message]);
    }
    let data = format!("{{\"7{}\":2}}", "n".repeat(100));
    host.hear(session.record(&record("device/door/data", &data, 3), 3, 500).unwrap());
    assert_eq!(host.last_kinds(2), ["DBIRTH", "DDATA"]);
}

#[test]
fn what_is_no_json_never_gets_lost() {
    let (mut session, mut host) = (session(), Host::default());
    host.hear(session.connected(0, LIMIT));
    for (encoding, data) in [
        (Encoding::Raw, &b"\xff\x00"[..]),
        (Encoding::Base64, b"\x01"),
        (Encoding::Text, b"007"),
        (Encoding::Json, b"{}"),
    ] {
        let record = Record { encoding, data: data.to_vec(), ..record("device/door/data", "", 1) };
        host.hear(session.record(&record, 1, LIMIT).unwrap());
    }
    let values: Vec<_> = host.values.iter().map(|(_, value, _)| value.clone().unwrap()).collect();
    let bytes = |bytes: &[u8]| Field::Bytes(bytes.to_vec());
    let text = |text: &str| Field::Text(text.to_owned());
    assert_eq!(values, [bytes(b"\xff\x00"), bytes(b"\x01"), text("007"), text("{}")]);
}

#[test]
fn no_record_ever_makes_a_message_that_the_broker_can_not_take() {
    let (mut session, mut host) = (session(), Host::default());
    host.hear(session.connected(0, LIMIT));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    assert!(session.record(&record("device/door/data", &long, 1), 1, 500).is_err());
    host.hear(session.record(&record("device/door/data", "{\"b\":1}", 2), 2, 500).unwrap());
    // A birth leaves out what is long, and what was learned and does not fit.
    host.hear(session.record(&record("device/door/data", &long, 3), 3, 2000).unwrap());
    assert_eq!(host.shown("door", "a"), Some(Field::Text("x".repeat(1000))));
    for number in 0..100 {
        let data = format!("{{\"{number}{}\":1}}", "n".repeat(100));
        for message in session.record(&record("device/door/data", &data, 4), 4, 2000).unwrap() {
            assert!(message.payload.len() <= 2000);
            host.hear(vec![message]);
        }
    }
    // Names and numbers of metrics have their limits, too.
    let many: serde_json::Map<String, Json> = (0..MOST + 1).map(|number| (number.to_string(), json!(1))).collect();
    let deep = format!("{{\"{}\":1}}", "d".repeat(LONGEST_NAME + 1));
    for data in [Json::Object(many).to_string(), deep] {
        host.hear(session.record(&record("device/door/data", &data, 5), 5, LIMIT).unwrap());
        assert_eq!(host.values.last().unwrap().1, Some(Field::Text(data)));
    }
}

/// The bytes of one message, as `sparkplug_b.proto` says: a decoder of anybody must take them.
#[test]
fn a_message_never_changes_its_bytes() {
    let mut session = Session::new(node(), None);
    assert_eq!(
        session.connecting(3).payload,
        b"\x12\x0b\x0a\x05bdSeq\x20\x04\x58\x03",
        "metrics: name, datatype Int64, long_value"
    );
    session.connected(0, LIMIT);
    let messages = session.record(&record("app/t", "2.5", 1), 2, LIMIT).unwrap();
    let expected = b"\x08\x02\x12\x10\x0a\x01t\x18\x01\x20\x0a\x69\x00\x00\x00\x00\x00\x00\x04\x40\x18\x02";
    assert_eq!(
        messages[1].payload, expected,
        "timestamp, metrics: name, timestamp, datatype Double, double_value; seq"
    );
}

fn metric(name: &str, datatype: Option<u32>, value: Field) -> Metric {
    Metric { name: Some(name.to_owned()), datatype, value: Some(value), ..Metric::default() }
}

fn payload(metrics: Vec<Metric>) -> Vec<u8> {
    Payload { timestamp: Some(1_795_401_667_123), metrics, seq: None }.encode_to_vec()
}

#[test]
fn a_command_is_never_read_as_another_one() {
    let data = |metrics: Vec<Metric>| {
        let command: Json = serde_json::from_slice(&command(&payload(metrics)).unwrap()).unwrap();
        assert_eq!(command["ts"], "2026-11-23T02:41:07.123Z");
        command["data"].clone()
    };
    let text = |text: &str| Field::Text(text.to_owned());
    assert_eq!(data(vec![metric("value", None, Field::Boolean(true))]), json!(true));
    assert_eq!(data(vec![metric("value", Some(12), text("SET 5"))]), json!("SET 5"));
    assert_eq!(data(vec![metric("value", Some(9), Field::Float(0.1))]), json!(0.1));
    let two = vec![metric("setpoint", Some(10), Field::Double(21.5)), metric("pump", Some(11), Field::Boolean(false))];
    assert_eq!(data(two), json!({"setpoint": 21.5, "pump": false}));
    for (datatype, value, expected) in [
        (Some(1), Field::Int(0xff), json!(-1)),
        (Some(2), Field::Int(0xffff_fffe), json!(-2)),
        (Some(3), Field::Int(0xffff_fffd), json!(-3)),
        (Some(7), Field::Int(0xffff_ffff), json!(4_294_967_295_u32)),
        (Some(4), Field::Long(u64::MAX), json!(-1)),
        (None, Field::Long(u64::MAX), json!(-1)),
        (Some(8), Field::Long(u64::MAX), json!(u64::MAX)),
    ] {
        assert_eq!(data(vec![metric("x", datatype, value)]), json!({"x": expected}));
    }
    assert_eq!(data(vec![metric("a/b", None, text("c"))]), json!({"a": {"b": "c"}}));
}

#[test]
fn nothing_hostile_ever_becomes_a_command() {
    let nameless = Metric { name: None, ..metric("", None, Field::Boolean(true)) };
    let deep = "a/".repeat(100_000);
    for metrics in [
        vec![],
        vec![nameless],
        vec![metric(&deep, None, Field::Boolean(true))],
        vec![metric("file", Some(18), Field::Bytes(vec![1]))],
        vec![metric("x", None, Field::Boolean(true)); 257],
        vec![Metric { value: None, ..metric("x", None, Field::Boolean(true)) }],
    ] {
        assert_eq!(command(&payload(metrics)), None);
    }
    // Two bytes for each metric, as many as a broker may send.
    let many = [0x12, 0].repeat(128 * 1024);
    assert!(command(&many).is_none() && !asks_for_rebirth(&many));
    let rebirth = |value| metric("Node Control/Rebirth", None, value);
    for (metrics, expected) in [
        (vec![rebirth(Field::Boolean(true))], true),
        (vec![rebirth(Field::Boolean(false))], false),
        (vec![rebirth(Field::Int(1))], false),
        (vec![Metric::default(), metric("file", Some(18), Field::Bytes(vec![1])), rebirth(Field::Boolean(true))], true),
        (vec![], false),
    ] {
        assert_eq!(asks_for_rebirth(&payload(metrics.clone())), expected, "{metrics:?}");
    }
}

#[test]
fn no_topic_ever_names_another_device() {
    let node = node();
    assert_eq!(
        (node.commands().as_str(), node.device_commands().as_str()),
        ("spBv1.0/site-1/NCMD/gw", "spBv1.0/site-1/DCMD/gw/+")
    );
    assert_eq!(node.commanded("spBv1.0/site-1/DCMD/gw/meter"), Some("meter"));
    for topic in
        ["spBv1.0/site-1/DCMD/gw/", "spBv1.0/site-1/DCMD/gw", "spBv1.0/site-1/DCMD/gw/a/b", "spBv1.0/site-1/NCMD/gw"]
    {
        assert_eq!(node.commanded(topic), None, "{topic}");
    }
}

fn any_metric() -> impl Strategy<Value = Metric> {
    let name = prop_oneof![8 => "[a-z]{1,3}".prop_map(Some), 1 => Just(Some("value".to_owned())), 1 => Just(None), 1 => Just(Some(String::new()))];
    let field = prop_oneof![
        any::<u32>().prop_map(Field::Int),
        any::<u64>().prop_map(Field::Long),
        any::<f32>().prop_map(Field::Float),
        any::<f64>().prop_map(Field::Double),
        any::<bool>().prop_map(Field::Boolean),
        ".{0,5}".prop_map(Field::Text),
        prop::collection::vec(any::<u8>(), 0..3).prop_map(Field::Bytes),
    ];
    let datatype = prop::option::of(0..36_u32);
    (name, prop::option::weighted(0.9, field), datatype).prop_map(|(name, value, datatype)| Metric {
        name,
        value,
        datatype,
        ..Metric::default()
    })
}

proptest! {
    #[test]
    fn no_bytes_ever_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (command(&bytes), asks_for_rebirth(&bytes));
        let mut session = session();
        session.remember(&bytes);
        session.connected(0, LIMIT);
        prop_assert!(session.record(&record("device/door/data", "1", 1), 1, LIMIT).is_ok());
    }

    /// Whatever a host says becomes a command that says the same, or none.
    #[test]
    fn what_a_host_says_never_changes(metrics in prop::collection::vec(any_metric(), 1..6)) {
        let names: std::collections::BTreeSet<_> = metrics.iter().filter_map(|metric| metric.name.clone()).collect();
        let is_plain = |metric: &Metric| {
            metric.name.as_ref().is_some_and(|name| !name.is_empty()) && !matches!(metric.value, None | Some(Field::Bytes(_)))
        };
        let said = command(&payload(metrics.clone()));
        prop_assert_eq!(said.is_some(), metrics.iter().all(is_plain));
        if let Some(said) = said {
            let said: Json = serde_json::from_slice(&said).unwrap();
            let data = &said["data"];
            if names.len() == metrics.len() && !names.contains("value") {
                prop_assert_eq!(data.as_object().unwrap().len(), names.len());
                for Metric { name, value, .. } in metrics {
                    let said = &data[name.unwrap()];
                    match value.unwrap() {
                        Field::Boolean(flag) => prop_assert_eq!(said, &json!(flag)),
                        Field::Text(text) => prop_assert_eq!(said, &json!(text)),
                        Field::Double(number) => prop_assert_eq!(said, &json!(number)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Whatever happens in whatever order, a host that takes the specification by its word has nothing to complain of, gets every
    /// value, and shows the latest ones in the end.
    #[test]
    fn a_strict_host_never_objects(
        steps in prop::collection::vec((0..9u8, 0..3usize, 0..8usize, 0..50u64), 1..400),
        limit in prop_oneof![Just(LIMIT), 90..400usize],
    ) {
        let (mut session, mut host) = (session(), Host::default());
        let devices = ["meter", "door", "APP"];
        let (mut bd_seq, mut now, mut sent, mut written) = (0, 1_000, 0, Vec::new());
        let mut killed_at = 0;
        session.connecting(bd_seq);
        host.hear(session.connected(now, limit));
        for (what, device, value, passed) in steps {
            now += passed;
            match what {
                8 => {
                    // It is killed, and knows what it wrote down.
                    if let Some(types) = session.types() {
                        written = types;
                    }
                    session = self::session();
                    session.remember(&written);
                    // Values of which only the birth at the end would have told are not among that.
                    killed_at = host.values.len();
                    bd_seq = bd_seq.wrapping_add(1);
                    session.connecting(bd_seq);
                    host.hear(session.connected(now, limit));
                }
                0 => {
                    bd_seq = bd_seq.wrapping_add(1);
                    session.connecting(bd_seq);
                    host.hear(session.connected(now, limit));
                    prop_assert_eq!(&host.bd_seq, &Some(Field::Long(bd_seq.into())));
                }
                1 => _ = host.hear(session.rebirth(now)),
                2 => _ = host.hear(session.settle(now)),
                3 => _ = host.hear(session.presence([(devices[device], value % 2 == 0)].into_iter(), now)),
                _ => {
                    let topic = if device == 2 { "app/x".to_owned() } else { format!("device/{}/data", devices[device]) };
                    let long = format!("{{\"a\":\"{}\",\"l\":1}}", "y".repeat(250));
                    let data = ["1", "{\"a\":1.5}", "{\"b\":{\"c\":true}}", "\"x\"", "null", "{\"a\":\"y\"}", "{\"l\":2}", &long][value];
                    let record = record(&topic, data, now.saturating_sub(if passed > 25 { 2_000 } else { 0 }));
                    if let Ok(messages) = session.record(&record, now, limit) {
                        prop_assert!(messages.iter().all(|message| message.payload.len() <= limit));
                        host.hear(messages);
                        sent += if value == 7 { 2 } else { 1 };
                    } else {
                        prop_assert!(limit < 400);
                    }
                }
            }
        }
        host.hear(session.settle(now));
        prop_assert_eq!(host.values.len(), sent);
        // What did not fit is what a birth tells of, and came in no data; and where little fits, much is forgotten.
        let born: Vec<_> = host.born.keys().filter(|_| limit == LIMIT).cloned().collect();
        for device in born {
            let latest: BTreeMap<_, _> = host.values[killed_at..].iter().filter(|(name, ..)| name.starts_with(&format!("{device}:"))).map(|(name, value, _)| (name.clone(), value.clone())).collect();
            for (name, value) in latest {
                let metric = name.split_once(':').unwrap().1;
                let same_type = |one: &Field, other: &Field| std::mem::discriminant(one) == std::mem::discriminant(other);
                if let (Some(shown), Some(value)) = (host.shown(&device, metric), value) && same_type(&shown, &value) {
                    prop_assert_eq!(shown, value);
                }
            }
        }
    }
}
