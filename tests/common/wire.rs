//! MQTT 3.1.1 packets over a blocking socket, for both ends of a connection.

use super::SOON;
use bytes::BytesMut;
use rumqttc::mqttbytes::Error as Incomplete;
use rumqttc::mqttbytes::v4::{Connect, ConnectReturnCode, Packet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Larger than any packet of a test.
const MAX_PACKET: usize = 8 << 20;

/// One end of a connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    unread: BytesMut,
}

impl Wire {
    /// Takes over a connected socket.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Wire { stream, unread: BytesMut::new() })
    }

    /// Connects to a broker as this client. One that has just started may turn clients away for a while, and nothing tells of
    /// the end of it, so this asks again and again.
    pub fn connect(broker: SocketAddr, client: &Connect) -> Self {
        let hello = Packet::Connect(client.clone());
        let deadline = Instant::now() + SOON;
        loop {
            let mut wire = TcpStream::connect(broker).and_then(Wire::new).unwrap();
            wire.patience(Some(SOON)).unwrap();
            let answer = wire.write(&hello).and_then(|()| wire.read());
            match answer {
                Ok(Some(Packet::ConnAck(ack))) if ack.code == ConnectReturnCode::Success => {
                    wire.patience(None).unwrap();
                    return wire;
                }
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                answer => panic!("{broker} does not let {} in: {answer:?}", client.client_id),
            }
        }
    }

    /// A second handle of the same socket, to write to it or to shut it from another thread.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// How long `read` waits before it returns `None`; it waits for ever with `None`.
    pub fn patience(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)
    }

    /// The next packet, or `None` when the patience ends first. The end of the stream is an error.
    pub fn read(&mut self) -> io::Result<Option<Packet>> {
        loop {
            match Packet::read(&mut self.unread, MAX_PACKET) {
                Ok(packet) => return Ok(Some(packet)),
                Err(Incomplete::InsufficientBytes(_)) => {}
                Err(wrong) => return Err(io::Error::new(ErrorKind::InvalidData, wrong)),
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one packet.
    pub fn write(&mut self, packet: &Packet) -> io::Result<()> {
        write(&self.stream, packet)
    }

    /// Ends the connection as a crash would: nothing more is read or written.
    pub fn close(&self) {
        // It may be gone already, which is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Sends one packet over a second handle.
pub fn write(mut stream: &TcpStream, packet: &Packet) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, MAX_PACKET).map_err(|wrong| io::Error::new(ErrorKind::InvalidData, wrong))?;
    stream.write_all(&bytes)
}
