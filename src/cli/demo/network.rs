//! The demo's network: an MQTT broker within this process, and the link to it, which can be cut.
//!
//! The broker can't be stopped once it runs, so an outage is made where most of them happen: on the way. The link is a TCP
//! relay; cutting it drops its connections and closes its port. A client is refused then, as by a broker that is gone.

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Any free port that only this machine can reach.
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Starts a broker in a thread of its own. It ends with the process.
///
/// # Errors
/// There is no free port or no thread.
pub(super) fn start_broker() -> io::Result<SocketAddr> {
    // The broker wants to know its port beforehand.
    let address = std::net::TcpListener::bind(LOOPBACK)?.local_addr()?;
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "demo".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = RouterConfig {
        max_connections: 10,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let config = Config { router, v4: Some(HashMap::from([("1".to_owned(), server)])), ..Config::default() };
    // What it can't do shows when nobody can connect to it.
    thread::Builder::new().name("broker".to_owned()).spawn(|| Broker::new(config).start().ok())?;
    Ok(address)
}

/// The way to the broker.
pub(super) struct Link {
    broker: SocketAddr,
    /// Where clients connect to.
    pub(super) address: SocketAddr,
    /// While the link is cut: bound but not listening, so that nobody else gets the port and clients are refused.
    reserved: Option<TcpSocket>,
    /// While the link is up.
    relay: Option<JoinHandle<()>>,
}

impl Link {
    /// A link that is cut.
    ///
    /// # Errors
    /// There is no free port.
    pub(super) fn to(broker: SocketAddr) -> io::Result<Self> {
        let reserved = reserve(LOOPBACK)?;
        let address = reserved.local_addr()?;
        Ok(Link { broker, address, reserved: Some(reserved), relay: None })
    }

    /// Lets clients through, now and until it is cut.
    ///
    /// # Errors
    /// The system doesn't listen.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        if let Some(socket) = self.reserved.take() {
            self.relay = Some(tokio::spawn(relay(socket.listen(16)?, self.broker)));
        }
        Ok(())
    }

    /// Drops all connections and refuses new ones.
    ///
    /// # Errors
    /// Somebody else took the port.
    pub(super) async fn cut(&mut self) -> io::Result<()> {
        if let Some(relay) = self.relay.take() {
            relay.abort();
            let _ = relay.await;
            self.reserved = Some(reserve(self.address)?);
        }
        Ok(())
    }
}

fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Dropped connections linger in TIME_WAIT and would keep us from our own port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Runs until it is aborted; its connections end with it.
async fn relay(listener: TcpListener, broker: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        connections.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(broker).await {
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_cut_link_never_lets_anything_through_and_always_comes_back() {
        let server = TcpListener::bind(LOOPBACK).await.unwrap();
        let mut link = Link::to(server.local_addr().unwrap()).unwrap();
        for _ in 0..3 {
            let refused = TcpStream::connect(link.address).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            link.restore().unwrap();
            let mut client = TcpStream::connect(link.address).await.unwrap();
            let (_held, _) = timeout(Duration::from_secs(20), server.accept()).await.unwrap().unwrap();
            link.cut().await.unwrap();
            let end = timeout(Duration::from_secs(20), client.read_u8()).await.unwrap();
            assert!(end.is_err());
        }
    }
}
