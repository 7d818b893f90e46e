//! The consumer: takes in everything that the broker has, and de-duplicates by `id` as a consumer should.

use super::{SOON, watched::Watched, wire, wire::Wire};
use bytes::Bytes;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, PubAck, Publish, Subscribe};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A message as it came.
#[derive(Debug, Clone)]
pub struct Message {
    /// The whole topic.
    pub topic: String,
    /// The whole payload.
    pub payload: Bytes,
    /// Whether the broker had kept it for whoever comes later.
    pub retained: bool,
}

impl Message {
    /// The payload as JSON; `Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or(Value::Null)
    }
}

/// A record, when it came for the first time.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Its number in its stream.
    pub seq: u64,
    /// The whole topic.
    pub topic: String,
    /// The envelope.
    pub envelope: Value,
}

impl Arrival {
    /// The record's data where it is text, else nothing.
    pub fn text(&self) -> &str {
        self.envelope["data"].as_str().unwrap_or_default()
    }
}

/// Everything that came.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Messages without an `id`: states, health, raw payloads.
    pub messages: Vec<Message>,
    /// Records by stream, each once, in the order of their first coming.
    pub records: BTreeMap<String, Vec<Arrival>>,
    /// Records that came once more.
    pub repeats: u64,
    /// Ids that came again with another content: never right.
    pub conflicts: Vec<String>,
    counts: HashMap<String, usize>,
    known: HashMap<String, Bytes>,
    pongs: u64,
    subscribed: bool,
    ended: bool,
}

impl Inbox {
    /// The records of a stream.
    pub fn of(&self, stream: &str) -> &[Arrival] {
        self.records.get(stream).map_or(&[], Vec::as_slice)
    }

    /// The records on a topic.
    pub fn on<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Arrival> {
        self.records.values().flatten().filter(move |arrival| arrival.topic == topic)
    }

    /// How many records came on a topic.
    pub fn count(&self, topic: &str) -> usize {
        self.counts.get(topic).copied().unwrap_or(0)
    }

    /// The latest message without an id on this topic.
    pub fn latest(&self, topic: &str) -> Option<&Message> {
        self.messages.iter().rfind(|message| message.topic == topic)
    }

    /// The `data` of all events of this kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let data = self.of("event").iter().map(|arrival| arrival.envelope["data"].clone());
        data.filter(|data| data["type"] == kind).collect()
    }

    /// Fails when a stream's records came out of order or an id came with two contents.
    pub fn assert_in_order(&self) {
        assert!(self.conflicts.is_empty(), "ids with two contents: {:?}", self.conflicts);
        for (stream, records) in &self.records {
            let wrong = records.windows(2).find(|pair| pair[0].seq >= pair[1].seq);
            assert!(wrong.is_none(), "out of order in {stream}: {wrong:?}");
        }
    }

    fn take(&mut self, publish: Publish) {
        let Publish { topic, payload, retain: retained, .. } = publish;
        let envelope: Value = serde_json::from_slice(&payload).unwrap_or(Value::Null);
        let id = envelope["id"].as_str().map(str::to_owned);
        let Some((stream, seq)) = id.as_deref().and_then(split) else {
            return self.messages.push(Message { topic, payload, retained });
        };
        match self.known.insert(envelope["id"].to_string(), payload.clone()) {
            None => {
                *self.counts.entry(topic.clone()).or_default() += 1;
                self.records.entry(stream).or_default().push(Arrival { seq, topic, envelope });
            }
            Some(before) => {
                self.repeats += 1;
                if before != payload {
                    self.conflicts.push(format!("{before:?} then {payload:?}"));
                }
            }
        }
    }
}

/// `telemetry:12` is record 12 of telemetry.
fn split(id: &str) -> Option<(String, u64)> {
    let (stream, seq) = id.rsplit_once(':')?;
    Some((stream.to_owned(), seq.parse().ok()?))
}

/// A connection that fills an inbox. The inbox outlives the connection: `connect` again after the broker was away.
#[derive(Debug)]
pub struct Subscriber {
    inbox: Arc<Watched<Inbox>>,
    filter: &'static str,
    /// The client id, where the broker has to keep its session.
    kept: Option<String>,
    line: Option<(TcpStream, JoinHandle<()>)>,
}

impl Subscriber {
    /// Subscribes to everything at this broker.
    pub fn at(broker: SocketAddr) -> Self {
        let mut subscriber = Subscriber { inbox: Arc::default(), filter: "#", kept: None, line: None };
        subscriber.connect(broker);
        subscriber
    }

    /// Subscribes to this filter, in a session that the broker keeps when the subscriber is away.
    #[allow(dead_code, reason = "only tests/brokers restarts what keeps sessions")]
    pub fn keeping(broker: SocketAddr, filter: &'static str) -> Self {
        let kept = Some(format!("subscriber-{}", fastrand::u64(..)));
        let mut subscriber = Subscriber { inbox: Arc::default(), filter, kept, line: None };
        subscriber.connect(broker);
        subscriber
    }

    /// Connects, or connects again; returns once the broker has confirmed the subscription.
    pub fn connect(&mut self, broker: SocketAddr) {
        self.hang_up();
        let mut connect = Connect::new(format!("subscriber-{}", fastrand::u64(..)));
        // Some brokers refuse to wait for ever.
        connect.keep_alive = 3600;
        if let Some(id) = &self.kept {
            (connect.client_id, connect.clean_session) = (id.clone(), false);
        }
        let subscribe = Packet::Subscribe(Subscribe { pkid: 1, ..Subscribe::new(self.filter, QoS::AtLeastOnce) });
        let mut wire = Wire::connect(broker, &connect);
        wire.write(&subscribe).unwrap();
        self.inbox.update(|inbox| (inbox.subscribed, inbox.ended) = (false, false));
        let socket = wire.socket().unwrap();
        let inbox = Arc::clone(&self.inbox);
        let thread = std::thread::spawn(move || {
            // Any error is the end of the connection, and that is all there is to know.
            while let Ok(Some(packet)) = wire.read() {
                let received = receive(&mut wire, &inbox, packet);
                if received.is_err() {
                    break;
                }
            }
            inbox.update(|inbox| inbox.ended = true);
        });
        self.line = Some((socket, thread));
        self.expect("the subscription to be confirmed", SOON, |inbox| inbox.subscribed);
    }

    /// Waits until the broker has sent all that it had taken in before this call.
    pub fn flush(&self) {
        let before = self.inbox.read(|inbox| inbox.pongs);
        let (socket, _) = self.line.as_ref().expect("connected");
        wire::write(socket, &Packet::PingReq).unwrap();
        self.expect("the broker to answer a ping", SOON, |inbox| inbox.pongs > before);
    }

    /// Looks at what came so far.
    pub fn read<R>(&self, look: impl FnOnce(&Inbox) -> R) -> R {
        self.inbox.read(look)
    }

    /// Waits until what came is enough; fails with `what` was expected.
    pub fn expect(&self, what: &str, limit: Duration, mut enough: impl FnMut(&Inbox) -> bool) {
        if self.inbox.wait_for(limit, |inbox| enough(inbox).then_some(())).is_none() {
            panic!("waited {limit:?} for {what}; {}", self.read(summary));
        }
    }

    /// Waits until every one of these texts has come as the data of a record of this stream.
    pub fn expect_texts(&self, stream: &str, texts: impl IntoIterator<Item = String>, limit: Duration) {
        let mut missing: HashSet<String> = texts.into_iter().collect();
        let (all, mut seen) = (missing.len(), 0);
        let came = self.inbox.wait_for(limit, |inbox| {
            let records = inbox.of(stream);
            records[seen..].iter().for_each(|arrival| _ = missing.remove(arrival.text()));
            seen = records.len();
            missing.is_empty().then_some(())
        });
        if came.is_none() {
            let mut some: Vec<_> = missing.iter().take(10).collect();
            some.sort();
            panic!("{} of {all} are missing after {limit:?}, such as {some:?}; {}", missing.len(), self.read(summary));
        }
    }

    /// Waits until the record of this stream with this text has come, and returns it.
    pub fn expect_text(&self, stream: &str, text: &str) -> Arrival {
        let found = |inbox: &Inbox| inbox.of(stream).iter().find(|arrival| arrival.text() == text).cloned();
        let arrival = self.inbox.wait_for(SOON, found);
        arrival.unwrap_or_else(|| panic!("waited {SOON:?} for {text:?}; {}", self.read(summary)))
    }

    /// Waits for the latest message without an id on this topic to satisfy `right`, and returns it.
    pub fn expect_latest(&self, topic: &str, right: impl Fn(&Value) -> bool) -> Message {
        let found = |inbox: &Inbox| inbox.latest(topic).filter(|message| right(&message.json())).cloned();
        let message = self.inbox.wait_for(SOON, found);
        message.unwrap_or_else(|| panic!("waited {SOON:?} for the message on {topic}; {}", self.read(summary)))
    }

    fn hang_up(&mut self) {
        if let Some((socket, thread)) = self.line.take() {
            // The broker may have been faster.
            let _ = socket.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn receive(wire: &mut Wire, inbox: &Watched<Inbox>, packet: Packet) -> std::io::Result<()> {
    match packet {
        Packet::Publish(publish) => {
            if publish.qos == QoS::AtLeastOnce {
                wire.write(&Packet::PubAck(PubAck::new(publish.pkid)))?;
            }
            inbox.update(|inbox| inbox.take(publish));
        }
        Packet::SubAck(_) => inbox.update(|inbox| inbox.subscribed = true),
        Packet::PingResp => inbox.update(|inbox| inbox.pongs += 1),
        _ => {}
    }
    Ok(())
}

/// What a failing test shows of the inbox.
fn summary(inbox: &Inbox) -> String {
    let mut text = format!("so far (connection ended: {}):", inbox.ended);
    for (stream, records) in &inbox.records {
        let last = records.iter().rev().take(3).map(|arrival| arrival.envelope.to_string()).collect::<Vec<_>>();
        text += &format!("\n  {stream}: {} records, the last ones {last:?}", records.len());
    }
    for message in inbox.messages.iter().rev().take(8) {
        text += &format!("\n  {} {}", message.topic, String::from_utf8_lossy(&message.payload));
    }
    text
}
