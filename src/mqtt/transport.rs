//! The byte stream to a broker: host name, TCP, TLS, WebSocket, and whole packets out of the bytes.
//!
//! Both versions of MQTT cut the stream in the same way (section 2.2 of both): one byte for the packet's kind, one to four for the
//! length of the rest, the rest.
//!
//! Constraints: what is written waits in a buffer until it is flushed or [`WRITE_AT`] bytes have come together, so that many packets
//! cost one system call. Reading and flushing are cancel-safe: what was read stays in the buffer, and what was written has
//! left it. A packet that is larger than agreed is refused by its length, before its bytes are taken in.

use super::LinkError;
use super::tls::{Setup, TlsError};
use super::websocket::WebSocket;
use crate::config::Server;
use bytes::BytesMut;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Bytes that are written at once.
const WRITE_AT: usize = 16 * 1024;
/// Room for one read, in bytes.
const READ_AT: usize = 8 * 1024;
/// A buffer that has grown larger than this, in bytes, for a large packet is let go of with it.
const KEPT: usize = 64 * 1024;

/// Whatever carries the bytes.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open byte stream, with its buffers.
pub(super) struct Transport {
    stream: Box<dyn Stream>,
    local: Option<IpAddr>,
    incoming: BytesMut,
    outgoing: BytesMut,
    max_incoming: usize,
}

impl Transport {
    /// Connects, by `deadline` at the latest. No packet larger than `max_incoming` bytes is taken in. Cancel-safe: a half-made
    /// connection is dropped.
    pub(super) async fn open(
        server: &Server,
        tls: &mut Setup,
        max_incoming: usize,
        keep_alive: Duration,
        deadline: Instant,
    ) -> Result<Transport, LinkError> {
        let config = if server.tls { Some(tls.config()?) } else { None };
        let tcp = connect(server, deadline).await?;
        // Twice the time that a keep-alive takes to notice: this is for what the kernel still has when we have let go of it.
        let user_timeout_ms = u32::try_from(keep_alive.saturating_mul(2).as_millis()).unwrap_or(u32::MAX);
        set_tcp_user_timeout(&tcp, user_timeout_ms).map_err(|error| LinkError::Network(error.into()))?;
        let local = tcp.local_addr().ok().map(|address| address.ip());
        let stream: Box<dyn Stream> = match config {
            None => Box::new(tcp),
            Some(config) => {
                Box::new(handshake(server, config, tcp).await?.map_err(|error| match has_hung_up(&error) {
                    true => LinkError::Tls(TlsError::HungUp),
                    false => of_io(error, tls),
                })?)
            }
        };
        let stream = match &server.websocket {
            None => stream,
            Some(path) => {
                let host = match server.host.contains(':') {
                    true => format!("[{}]:{}", server.host, server.port),
                    false => format!("{}:{}", server.host, server.port),
                };
                let opened = WebSocket::open(stream, &host, path).await;
                Box::new(opened.map_err(|error| of_io(error, tls))?)
            }
        };
        Ok(Transport { stream, local, incoming: BytesMut::new(), outgoing: BytesMut::new(), max_incoming })
    }

    /// The address of this end.
    pub(super) fn local(&self) -> Option<IpAddr> {
        self.local
    }

    /// The next packet, whole. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<BytesMut, LinkError> {
        loop {
            if let Some(packet) = split(&mut self.incoming, self.max_incoming)? {
                if packet.len() > KEPT {
                    self.incoming = BytesMut::from(&self.incoming[..]);
                }
                return Ok(packet);
            }
            self.incoming.reserve(READ_AT);
            if self.stream.read_buf(&mut self.incoming).await.map_err(LinkError::Network)? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }

    /// What goes out with the next flush. Packets are appended here.
    pub(super) fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Writes if enough has come together that it is worth it.
    pub(super) async fn settle(&mut self) -> Result<(), LinkError> {
        match self.outgoing.len() < WRITE_AT {
            true => Ok(()),
            false => self.write_all().await,
        }
    }

    /// Writes out everything. Cancel-safe.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        self.write_all().await?;
        self.stream.flush().await.map_err(LinkError::Network)
    }

    /// Nothing more is written: ends whatever is below MQTT in its own way, as far as that goes at once or soon. Don't wait for
    /// it long: the other side may be gone.
    pub(super) async fn shut_down(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    async fn write_all(&mut self) -> Result<(), LinkError> {
        while !self.outgoing.is_empty() {
            if self.stream.write_buf(&mut self.outgoing).await.map_err(LinkError::Network)? == 0 {
                return Err(LinkError::Closed);
            }
        }
        if self.outgoing.capacity() > KEPT {
            self.outgoing = BytesMut::new();
        }
        Ok(())
    }
}

/// Whether a connection comes about, with TLS where there is a configuration for it, before anything of MQTT is said.
pub(super) async fn is_well(server: &Server, config: Option<Arc<ClientConfig>>, deadline: Instant) -> bool {
    let Ok(tcp) = connect(server, deadline).await else { return false };
    match config {
        None => true,
        Some(config) => {
            timeout_at(deadline, handshake(server, config, tcp)).await.is_ok_and(|done| matches!(done, Ok(Ok(_))))
        }
    }
}

async fn handshake(
    server: &Server,
    config: Arc<ClientConfig>,
    tcp: TcpStream,
) -> Result<io::Result<TlsStream<TcpStream>>, TlsError> {
    let name = ServerName::try_from(server.host.clone())
        .map_err(|_| TlsError::Other(format!("{} is no name that a certificate can have", server.host)))?;
    Ok(TlsConnector::from(config).connect(name, tcp).await)
}

/// Tries the host's addresses in turn. None but the last gets more than half of the time that is left.
async fn connect(server: &Server, deadline: Instant) -> Result<TcpStream, LinkError> {
    let found = lookup_host((server.host.as_str(), server.port)).await.map_err(LinkError::Network)?;
    let addresses: Vec<SocketAddr> = found.collect();
    let mut last = LinkError::Network(io::Error::new(io::ErrorKind::NotFound, "the host name has no address"));
    for (place, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = if place + 1 == addresses.len() { left } else { left / 2 };
        match timeout(share.max(Duration::from_millis(1)), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(LinkError::Network)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = LinkError::Network(error),
            Err(_) => last = LinkError::ConnectTimeout,
        }
    }
    Err(last)
}

/// What a failed read or write says, if TLS is the reason.
pub(super) fn of_io(error: io::Error, tls: &Setup) -> LinkError {
    match TlsError::of_io(&error, tls.clock()) {
        Some(error) => LinkError::Tls(error),
        None => LinkError::Network(error),
    }
}

/// Whether it was the other side that ended the connection.
pub(super) fn has_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Takes the first packet out of the buffer, if it is there as a whole.
pub(super) fn split(buffer: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, LinkError> {
    let mut rest = 0usize;
    for (place, byte) in (0u32..).zip(buffer.iter().skip(1).take(4)) {
        rest |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let whole = rest + 2 + usize::try_from(place).unwrap_or_default();
            if rest > max {
                return Err(LinkError::Protocol(format!("a packet of {whole} bytes; {max} are taken at the most")));
            }
            if buffer.len() < whole {
                buffer.reserve(whole - buffer.len());
                return Ok(None);
            }
            return Ok(Some(buffer.split_to(whole)));
        }
        if place == 3 {
            return Err(LinkError::Protocol("a packet's length has more than four bytes".to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lengths(bytes: &[u8], max: usize) -> Result<Vec<usize>, String> {
        let mut buffer = BytesMut::from(bytes);
        let mut found = Vec::new();
        while let Some(packet) = split(&mut buffer, max).map_err(|error| error.to_string())? {
            found.push(packet.len());
        }
        found.push(buffer.len());
        Ok(found)
    }

    #[test]
    fn packets_never_run_into_each_other() {
        assert_eq!(lengths(&[], 10), Ok(vec![0]));
        assert_eq!(lengths(&[0xd0], 10), Ok(vec![1]));
        assert_eq!(lengths(&[0xd0, 0], 10), Ok(vec![2, 0]));
        assert_eq!(lengths(&[0x40, 2, 0, 1, 0xd0, 0, 0x40, 2, 0], 10), Ok(vec![4, 2, 3]));
        let mut long = vec![0x30, 0xc8, 0x01];
        long.extend([0; 200]);
        assert_eq!(lengths(&long, 200), Ok(vec![203, 0]));
        assert_eq!(lengths(&long[..202], 200), Ok(vec![202]));
    }

    #[test]
    fn a_packet_that_is_too_large_is_never_waited_for() {
        let error = lengths(&[0x30, 0xff, 0xff, 0xff, 0x7f], 4096).unwrap_err();
        assert!(error.contains("a packet of 268435460 bytes; 4096 are taken at the most"), "{error}");
        assert!(lengths(&[0x30, 0x80, 0x80, 0x80, 0x80], 4096).unwrap_err().contains("more than four bytes"));
        assert_eq!(lengths(&[0x30, 0x80, 0x80, 0x80], 4096), Ok(vec![4]));
    }

    #[tokio::test]
    async fn one_large_packet_never_costs_memory_for_good() {
        let (stream, mut broker) = tokio::io::duplex(1 << 20);
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        let mut transport =
            Transport { stream: Box::new(stream), local: None, incoming, outgoing, max_incoming: 1 << 20 };
        let large = [&[0x30, 0xfc, 0xff, 0x0f][..], &vec![7; 0x3_fffc], &[0xd0, 0, 0x40]].concat();
        broker.write_all(&large).await.unwrap();
        assert_eq!(transport.next().await.unwrap().len(), 1 << 18);
        assert_eq!(transport.next().await.unwrap()[..], [0xd0, 0]);
        broker.write_all(&[2, 0, 9]).await.unwrap();
        assert_eq!(transport.next().await.unwrap()[..], [0x40, 2, 0, 9]);
        assert!(transport.incoming.capacity() < KEPT, "{}", transport.incoming.capacity());
    }

    proptest! {
        #[test]
        fn no_bytes_ever_lose_their_place(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(lengths) = lengths(&bytes, 100) {
                prop_assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
            }
        }
    }
}
