//! A broker that misbehaves as its script says, and keeps account of what it was told.
//!
//! It speaks MQTT 3.1.1 with publishers only: what it takes in goes nowhere but into its account. All that is random in
//! it comes from the seed.

use super::{listener::Listener, watched::Watched, wire::Wire};
use fastrand::Rng;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// What it does with a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// CONNACK, accepted.
    Accept,
    /// Closes the connection instead.
    Close,
    /// CONNACK with this code, and closes.
    Refuse(ConnectReturnCode),
    /// Never says a word, and keeps the connection.
    Mute,
}

/// What it does with a PUBLISH of quality 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// PUBACK at once.
    Ack,
    /// PUBACK some packets later, or when the line is quiet, in any order.
    Late,
    /// No PUBACK on this connection.
    Never,
    /// PUBACK at once, and the same again late.
    Twice,
    /// A PUBACK for a packet id that was never used, then the right one.
    Unknown,
    /// Closes the connection, without a PUBACK for this and what is late.
    Drop,
    /// PUBACK, and closes right behind it.
    AckAndDrop,
    /// Reads no more and says no more, and keeps the connection: half open.
    Hang,
}

/// The script. Connections count from 1.
#[derive(Clone, Copy)]
pub struct Script {
    /// For each CONNECT.
    pub opening: fn(u64, &mut Rng) -> Opening,
    /// For each PUBLISH.
    pub reply: fn(u64, &mut Rng) -> Reply,
}

impl Script {
    /// As the standard wants it.
    pub const POLITE: Script = Script { opening: |_, _| Opening::Accept, reply: |_, _| Reply::Ack };
}

/// What it was told.
#[derive(Debug, Default)]
pub struct Account {
    /// TCP connections.
    pub connections: u64,
    /// CONNECTs that were accepted.
    pub sessions: u64,
    /// The latest CONNECT.
    pub connect: Option<Connect>,
    /// Every id, with how often it came and how often it was acknowledged.
    pub records: BTreeMap<(String, u64), Heard>,
    /// PINGREQs.
    pub pings: u64,
    /// PUBLISHes with an id.
    pub publishes: u64,
    /// Messages without an id: topic, payload, retain flag.
    pub others: Vec<(String, Value, bool)>,
    /// Records that came with a smaller number than the one before, on one connection.
    pub disorder: Vec<String>,
    /// Packet ids that were used again before they were acknowledged, on one connection.
    pub reused: Vec<String>,
    /// The most records that were unacknowledged at once, on one connection.
    pub most_in_flight: usize,
    distinct: BTreeMap<String, usize>,
    forgives: bool,
    gone: bool,
}

/// One record in the account.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Times it came.
    pub times: u64,
    /// Times a PUBACK was sent for it.
    pub acknowledged: u64,
    /// The envelope's `data`.
    pub data: Value,
}

impl Account {
    /// Distinct records of this stream that came.
    pub fn distinct(&self, stream: &str) -> usize {
        self.distinct.get(stream).copied().unwrap_or(0)
    }

    /// Records that came more than once, each as often as it came too much.
    pub fn repeats(&self) -> u64 {
        self.records.values().map(|heard| heard.times - 1).sum()
    }
}

/// The broker.
#[derive(Debug)]
pub struct FakeBroker {
    listener: Listener,
    account: Arc<Watched<Account>>,
}

impl FakeBroker {
    /// Starts it.
    pub fn start(script: Script, seed: u64) -> Self {
        FakeBroker::start_with(script, seed, Hated { topic: "", acknowledges: false })
    }

    /// As the standard wants it, but for messages on one topic: they end the connection.
    pub fn closing_on(topic: &'static str) -> Self {
        FakeBroker::start_with(Script::POLITE, 0, Hated { topic, acknowledges: false })
    }

    /// The same, but it acknowledges them first.
    pub fn acknowledging_and_closing_on(topic: &'static str) -> Self {
        FakeBroker::start_with(Script::POLITE, 0, Hated { topic, acknowledges: true })
    }

    /// The first of these, but it answers to what it takes as its script says.
    pub fn closing_on_else(topic: &'static str, script: Script) -> Self {
        FakeBroker::start_with(script, 0, Hated { topic, acknowledges: false })
    }

    /// From now on it takes what it hated.
    pub fn forgive(&self) {
        self.account.update(|account| account.forgives = true);
    }

    fn start_with(script: Script, seed: u64, hated: Hated) -> Self {
        let account = Arc::new(Watched::new(Account::default()));
        let shared = Arc::clone(&account);
        let listener = Listener::start(move |client, number| {
            shared.update(|account| account.connections += 1);
            serve(client, number, script, Rng::with_seed(seed ^ number << 32), hated, &shared);
        });
        FakeBroker { listener, account }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// As the configuration names it.
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// Looks at the account.
    pub fn read<R>(&self, look: impl FnOnce(&Account) -> R) -> R {
        self.account.read(look)
    }

    /// Waits until the account is good enough; fails with `what` was expected.
    pub fn expect(&self, what: &str, limit: Duration, mut enough: impl FnMut(&Account) -> bool) {
        if self.account.wait_for(limit, |account| enough(account).then_some(())).is_none() {
            let text = self.read(|account| {
                format!(
                    "{} connections, {} sessions, {} publishes, {} distinct records, {} others",
                    account.connections,
                    account.sessions,
                    account.publishes,
                    account.records.len(),
                    account.others.len()
                )
            });
            panic!("waited {limit:?} for {what}; so far {text}");
        }
    }
}

impl Drop for FakeBroker {
    /// The listener ends the rest.
    fn drop(&mut self) {
        self.account.update(|account| account.gone = true);
    }
}

/// A packet id that waits for its PUBACK, with the record that it carries, if it is one.
#[derive(Debug)]
struct Open {
    pkid: u16,
    record: Option<(String, u64)>,
    late: bool,
}

/// Messages on this topic end the connection, and are acknowledged or not.
#[derive(Debug, Clone, Copy)]
struct Hated {
    topic: &'static str,
    acknowledges: bool,
}

/// One connection.
struct Line<'a> {
    wire: Wire,
    number: u64,
    script: Script,
    rng: Rng,
    hated: Hated,
    account: &'a Watched<Account>,
    open: Vec<Open>,
    last: BTreeMap<String, u64>,
}

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    On,
    Close,
}

fn serve(client: TcpStream, number: u64, script: Script, rng: Rng, hated: Hated, account: &Watched<Account>) {
    let Ok(wire) = Wire::new(client) else { return };
    let mut line = Line { wire, number, script, rng, hated, account, open: Vec::new(), last: BTreeMap::new() };
    // An error is the client's leaving, which is its right.
    let _ = line.run();
    line.wire.close();
}

impl Line<'_> {
    fn run(&mut self) -> io::Result<()> {
        let Some(Packet::Connect(connect)) = self.wire.read()? else { return Ok(()) };
        self.account.update(|account| account.connect = Some(connect));
        match (self.script.opening)(self.number, &mut self.rng) {
            Opening::Accept => {}
            Opening::Close => return Ok(()),
            Opening::Refuse(code) => return self.wire.write(&Packet::ConnAck(ConnAck::new(code, false))),
            Opening::Mute => return self.hang(),
        }
        self.account.update(|account| account.sessions += 1);
        self.wire.write(&Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false)))?;
        // A quiet line is when the late acknowledgements come.
        self.wire.patience(Some(Duration::from_millis(5)))?;
        loop {
            let next = match self.wire.read()? {
                Some(packet) => self.receive(packet)?,
                None => self.settle(usize::MAX)?,
            };
            if next == Next::Close {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, packet: Packet) -> io::Result<Next> {
        match packet {
            Packet::Publish(publish) if publish.pkid == 0 => self.note(&publish),
            Packet::Publish(publish) => return self.publish(&publish),
            Packet::PingReq => {
                self.account.update(|account| account.pings += 1);
                self.wire.write(&Packet::PingResp)?;
            }
            Packet::Subscribe(subscribe) => {
                let codes = subscribe.filters.iter().map(|filter| SubscribeReasonCode::Success(filter.qos)).collect();
                self.wire.write(&Packet::SubAck(SubAck::new(subscribe.pkid, codes)))?;
            }
            Packet::Disconnect => return Ok(Next::Close),
            _ => {}
        }
        Ok(Next::On)
    }

    fn publish(&mut self, publish: &Publish) -> io::Result<Next> {
        self.note(publish);
        if publish.topic == self.hated.topic && !self.account.read(|account| account.forgives) {
            if self.hated.acknowledges {
                self.hold(publish, true);
                self.release(self.open.len() - 1)?;
            }
            return Ok(Next::Close);
        }
        let pkid = publish.pkid;
        let reply = (self.script.reply)(self.number, &mut self.rng);
        if matches!(reply, Reply::Late | Reply::Never) {
            self.hold(publish, reply == Reply::Late);
            // A few at a time, so that some wait for long.
            return if self.rng.bool() { self.settle(2) } else { Ok(Next::On) };
        }
        match reply {
            Reply::Drop => return Ok(Next::Close),
            Reply::Hang => {
                self.hang()?;
                return Ok(Next::Close);
            }
            Reply::Twice => self.open.push(Open { pkid, record: None, late: true }),
            // MQTT 3.1.1 section 2.3.1: 0 is no packet id.
            Reply::Unknown => self.ack(0)?,
            Reply::Ack | Reply::AckAndDrop | Reply::Late | Reply::Never => {}
        }
        self.hold(publish, true);
        let place = self.open.len() - 1;
        self.release(place)?;
        Ok(if reply == Reply::AckAndDrop { Next::Close } else { Next::On })
    }

    /// Enters a message into the account.
    fn note(&mut self, publish: &Publish) {
        let envelope: Value = serde_json::from_slice(&publish.payload).unwrap_or(Value::Null);
        let Some((stream, seq)) = id_of(&envelope) else {
            let other = (publish.topic.clone(), envelope, publish.retain);
            return self.account.update(|account| account.others.push(other));
        };
        let before = self.last.insert(stream.clone(), seq);
        let disorder = before.filter(|before| *before >= seq);
        let reused = self.open.iter().any(|open| open.pkid == publish.pkid);
        self.account.update(|account| {
            let what = || format!("connection {}: {stream}:{seq} as packet {}", self.number, publish.pkid);
            account.disorder.extend(disorder.map(|before| format!("{} behind {before}", what())));
            account.reused.extend(reused.then(what));
            account.publishes += 1;
            let heard = account.records.entry((stream.clone(), seq)).or_default();
            heard.times += 1;
            heard.data = envelope["data"].clone();
            if heard.times == 1 {
                *account.distinct.entry(stream.clone()).or_default() += 1;
            }
        });
    }

    fn hold(&mut self, publish: &Publish, late: bool) {
        let envelope: Value = serde_json::from_slice(&publish.payload).unwrap_or(Value::Null);
        self.open.push(Open { pkid: publish.pkid, record: id_of(&envelope), late });
        let in_flight = self.open.iter().filter(|open| open.record.is_some()).count();
        self.account.update(|account| account.most_in_flight = account.most_in_flight.max(in_flight));
    }

    /// Acknowledges up to `count` of the late ones, picked at random.
    fn settle(&mut self, count: usize) -> io::Result<Next> {
        for _ in 0..count {
            let late: Vec<usize> = (0..self.open.len()).filter(|place| self.open[*place].late).collect();
            let Some(place) = self.rng.choice(late) else { break };
            self.release(place)?;
        }
        Ok(Next::On)
    }

    fn release(&mut self, place: usize) -> io::Result<()> {
        let open = self.open.remove(place);
        if let Some(record) = open.record {
            self.account.update(|account| account.records.entry(record).or_default().acknowledged += 1);
        }
        self.ack(open.pkid)
    }

    fn ack(&mut self, pkid: u16) -> io::Result<()> {
        self.wire.write(&Packet::PubAck(PubAck::new(pkid)))
    }

    /// Neither reads nor writes any more, for as long as the broker is there.
    fn hang(&mut self) -> io::Result<()> {
        self.account.wait_for(super::LONG, |account| account.gone.then_some(()));
        Ok(())
    }
}

/// `{"id":"telemetry:12",…}` is record 12 of telemetry.
fn id_of(envelope: &Value) -> Option<(String, u64)> {
    let (stream, seq) = envelope["id"].as_str()?.rsplit_once(':')?;
    Some((stream.to_owned(), seq.parse().ok()?))
}
