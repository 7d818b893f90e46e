//! MQTT 5 for the tests: packets over a blocking socket, a consumer who sees what 3.1.1 does not show, and a broker that answers as
//! its script says. Its answers are bytes, so that it can say what no codec would.

use super::{SOON, listener::Listener, watched::Watched};
use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{Connect, Filter, Packet, Publish, PublishProperties, Subscribe};
use rumqttc::v5::mqttbytes::{Error as Incomplete, QoS};
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// One end of a connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    unread: BytesMut,
}

impl Wire {
    /// Takes over a connected socket.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Wire { stream, unread: BytesMut::new() }
    }

    /// The next packet. The end of the stream is an error.
    pub fn read(&mut self) -> io::Result<Packet> {
        loop {
            // A DISCONNECT without a reason is no packet to the codec.
            match Packet::read(&mut self.unread, None) {
                Ok(packet) => return Ok(packet),
                Err(Incomplete::InsufficientBytes(_)) => {}
                Err(wrong) => return Err(io::Error::new(ErrorKind::InvalidData, wrong)),
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.unread.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Sends one packet.
    pub fn write(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }
}

/// Whoever subscribes with MQTT 5, and sees the properties of messages.
#[derive(Debug)]
pub struct Watcher {
    wire: Wire,
}

impl Watcher {
    /// Subscribes to this filter.
    pub fn at(broker: SocketAddr, filter: &str) -> Self {
        let mut wire = Wire::new(TcpStream::connect(broker).unwrap());
        wire.stream.set_read_timeout(Some(SOON)).unwrap();
        let client_id = format!("watcher-{}", fastrand::u64(..));
        wire.write(&Packet::Connect(
            Connect { keep_alive: 0, client_id, clean_start: true, properties: None },
            None,
            None,
        ));
        assert!(matches!(wire.read().unwrap(), Packet::ConnAck(_)));
        let subscribe = Subscribe { pkid: 1, ..Subscribe::new(Filter::new(filter, QoS::AtMostOnce), None) };
        wire.write(&Packet::Subscribe(subscribe));
        assert!(matches!(wire.read().unwrap(), Packet::SubAck(_)));
        Watcher { wire }
    }

    /// Waits for the next message.
    pub fn next(&mut self) -> (Publish, PublishProperties) {
        loop {
            if let Packet::Publish(mut publish) = self.wire.read().expect("a message") {
                let properties = publish.properties.take().unwrap_or_default();
                return (publish, properties);
            }
        }
    }
}

/// What the broker does with a PUBLISH of quality 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// PUBACK with this reason code.
    Say(u8),
    /// It is taken, and acknowledged when nothing more comes.
    Hold,
    /// These bytes, and the end of the connection.
    End(Vec<u8>),
}

/// The script. Connections count from 1.
#[derive(Clone, Copy)]
pub struct Script {
    /// The answer to each CONNECT; without one the connection is closed.
    pub opening: fn(u64) -> Option<Vec<u8>>,
    /// For each PUBLISH, with what was heard so far.
    pub reply: fn(&Account, &str, &Value) -> Reply,
}

/// A client that sends nothing for so long has sent all that it may.
const PAUSE: Duration = Duration::from_millis(200);

/// CONNACK: accepted, no session, no properties.
pub const ACCEPTED: [u8; 5] = [0x20, 3, 0, 0, 0];

/// What it was told.
#[derive(Debug, Default)]
pub struct Account {
    /// TCP connections.
    pub connections: u64,
    /// Messages with QoS 1 that were taken: topic and envelope.
    pub taken: Vec<(String, Value)>,
    /// How many were not.
    pub refused: u64,
    /// The most that ever waited for their PUBACK at a time.
    pub most_held: usize,
}

impl Account {
    /// The texts of the records on this topic that were taken, each once.
    pub fn texts(&self, topic: &str) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for (_, envelope) in self.taken.iter().filter(|(of, _)| of == topic) {
            let text = envelope["data"].as_str().unwrap_or_default();
            if !texts.iter().any(|known| known == text) {
                texts.push(text.to_owned());
            }
        }
        texts
    }
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    listener: Listener,
    account: Arc<Watched<Account>>,
}

impl Broker {
    /// Starts it.
    pub fn start(script: Script) -> Self {
        Broker::start_with(script, None)
    }

    /// With this answer to every CONNECT instead of the script's.
    pub fn start_with(script: Script, opening: Option<Vec<u8>>) -> Self {
        let account = Arc::new(Watched::new(Account::default()));
        let shared = Arc::clone(&account);
        let listener = Listener::start(move |client, number| {
            shared.update(|account| account.connections += 1);
            let closing = client.try_clone().unwrap();
            let opening = opening.clone().or_else(|| (script.opening)(number));
            // An error is the client's leaving, which is its right.
            let _ = serve(Wire::new(client), opening, script, &shared);
            let _ = closing.shutdown(Shutdown::Both);
        });
        Broker { listener, account }
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
            self.read(|account| {
                let Account { connections, refused, taken, .. } = account;
                panic!(
                    "waited {limit:?} for {what}; {connections} connections, {refused} refused, {} taken",
                    taken.len()
                )
            });
        }
    }
}

fn serve(mut wire: Wire, opening: Option<Vec<u8>>, script: Script, account: &Watched<Account>) -> io::Result<()> {
    let Packet::Connect(..) = wire.read()? else { return Ok(()) };
    let Some(opening) = opening else { return Ok(()) };
    wire.stream.write_all(&opening)?;
    let mut aliases: HashMap<u16, Bytes> = HashMap::new();
    let mut held: Vec<[u8; 2]> = Vec::new();
    loop {
        wire.stream.set_read_timeout((!held.is_empty()).then_some(PAUSE))?;
        let packet = match wire.read() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                for [high, low] in held.drain(..) {
                    wire.stream.write_all(&[0x40, 2, high, low])?;
                }
                continue;
            }
            packet => packet?,
        };
        match packet {
            Packet::Publish(mut publish) => {
                let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
                match alias {
                    Some(alias) if publish.topic.is_empty() => publish.topic = aliases[&alias].clone(),
                    Some(alias) => _ = aliases.insert(alias, publish.topic.clone()),
                    None => {}
                }
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                let envelope = serde_json::from_slice(&publish.payload).unwrap_or(Value::Null);
                let reply = account.update(|account| {
                    let reply = (script.reply)(account, &topic, &envelope);
                    match &reply {
                        Reply::Say(0x80..) | Reply::End(_) => account.refused += 1,
                        Reply::Say(_) | Reply::Hold => account.taken.push((topic, envelope)),
                    }
                    if reply == Reply::Hold {
                        account.most_held = account.most_held.max(held.len() + 1);
                    }
                    reply
                });
                let [high, low] = publish.pkid.to_be_bytes();
                match reply {
                    Reply::Hold => held.push([high, low]),
                    Reply::Say(code) => wire.stream.write_all(&[0x40, 3, high, low, code])?,
                    Reply::End(bytes) => return wire.stream.write_all(&bytes),
                }
            }
            Packet::PingReq(_) => wire.stream.write_all(&[0xd0, 0])?,
            Packet::Subscribe(subscribe) => {
                let [high, low] = subscribe.pkid.to_be_bytes();
                wire.stream.write_all(&[0x90, 4, high, low, 0, 1])?;
            }
            _ => {}
        }
    }
}
