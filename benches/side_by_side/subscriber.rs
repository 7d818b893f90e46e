//! The observer behind the broker: a thread that notes when messages arrive, as cheaply as it can.
//!
//! QoS 0 and large reads, so that it costs the machine little; rumqttc's codec on a blocking socket, without its event loop.

use super::Result;
use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish, Subscribe};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Larger than any packet of the bench.
const MAX_PACKET: usize = 1 << 20;
/// No message for this long: whoever published has stopped.
const SILENCE: Duration = Duration::from_secs(30);

/// A subscription that runs until its `take` is content.
pub struct Subscriber<T> {
    stream: TcpStream,
    results: Receiver<Result<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Subscriber<T> {
    /// Subscribes and returns once the broker has confirmed it. `take` gets every message with the time at which it was
    /// read, and each result that it returns can be awaited.
    pub fn start<F>(port: u16, topics: &[&str], mut take: F) -> Result<Subscriber<T>>
    where
        F: FnMut(&Publish, Instant) -> Option<T> + Send + 'static,
    {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let chunk = vec![0; 64 * 1024];
        let mut wire = Wire { stream: stream.try_clone()?, chunk, unread: BytesMut::new(), at: Instant::now() };
        let mut connect = Connect::new("bench-subscriber");
        connect.keep_alive = 0;
        wire.write(&Packet::Connect(connect))?;
        wire.expect(|packet| matches!(packet, Packet::ConnAck(_)))?;
        let mut subscribe = Subscribe::new(topics[0], QoS::AtMostOnce);
        topics[1..].iter().for_each(|topic| {
            subscribe.add((*topic).to_owned(), QoS::AtMostOnce);
        });
        subscribe.pkid = 1;
        wire.write(&Packet::Subscribe(subscribe))?;
        wire.expect(|packet| matches!(packet, Packet::SubAck(_)))?;
        let (sender, results) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            loop {
                let sent = match wire.read() {
                    Ok(Packet::Publish(publish)) => take(&publish, wire.at).map(|result| sender.send(Ok(result))),
                    Ok(_) => None,
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                if sent.is_some_and(|sent| sent.is_err()) {
                    return;
                }
            }
        });
        Ok(Subscriber { stream, results, thread: Some(thread) })
    }

    /// The next result, or nothing for now. `patience` is bounded by the silence that a subscriber bears.
    pub fn result_within(&self, patience: Duration) -> Result<Option<T>> {
        match self.results.recv_timeout(patience) {
            Ok(result) => result.map(Some),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err("the subscriber has ended".into()),
        }
    }

    /// The next result.
    pub fn result(&self) -> Result<T> {
        self.results.recv().unwrap_or_else(|_| Err("the subscriber has ended".into()))
    }
}

impl<T> Drop for Subscriber<T> {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Wire {
    stream: TcpStream,
    chunk: Vec<u8>,
    unread: BytesMut,
    /// When the latest bytes were read.
    at: Instant,
}

impl Wire {
    fn read(&mut self) -> Result<Packet> {
        loop {
            match Packet::read(&mut self.unread, MAX_PACKET) {
                Ok(packet) => return Ok(packet),
                Err(CodecError::InsufficientBytes(_)) => {}
                Err(wrong) => return Err(wrong.into()),
            }
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err("the broker closed the subscriber's connection".into()),
                Ok(count) => self.unread.extend_from_slice(&self.chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(format!("messages are missing: none came for {} s", SILENCE.as_secs()).into());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            self.at = Instant::now();
        }
    }

    fn write(&mut self, packet: &Packet) -> Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, MAX_PACKET)?;
        Ok(self.stream.write_all(&bytes)?)
    }

    fn expect(&mut self, right: impl Fn(&Packet) -> bool) -> Result<()> {
        let packet = self.read()?;
        if right(&packet) { Ok(()) } else { Err(format!("the broker answered {packet:?}").into()) }
    }
}
