//! A TCP relay between the sidecar and its broker: the link, which tests cut and let hang.

use super::{LONG, own_address, watched::Watched};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Bytes flow.
    Open,
    /// Whoever connects is thrown out at once, and nobody is connected.
    Cut,
    /// Connections are accepted and kept, but no byte flows: a half-open link.
    Silent,
    /// The relay is going away.
    Gone,
}

#[derive(Debug)]
struct State {
    line: Line,
    /// Both ends of every connection.
    sockets: Vec<TcpStream>,
    accepted: u64,
}

/// The link to a broker.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<Watched<State>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// An open link to the broker at this address.
    pub fn to(broker: SocketAddr) -> Self {
        Relay::on(own_address(), broker)
    }

    /// One that listens on this address, for whoever reaches no other.
    pub fn on(address: Ipv4Addr, broker: SocketAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Watched::new(State { line: Line::Open, sockets: Vec::new(), accepted: 0 }));
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let line = shared.update(|state| {
                    state.accepted += 1;
                    state.line
                });
                match line {
                    Line::Gone => break,
                    Line::Cut => drop(client),
                    Line::Open | Line::Silent => join(client, broker, &shared),
                }
            }
        });
        Relay { address, state, acceptor: Some(acceptor) }
    }

    /// Where the sidecar connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the configuration names it.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Lets connections through.
    pub fn open(&self) {
        self.turn(Line::Open);
    }

    /// Ends all connections and lets none through.
    pub fn cut(&self) {
        self.turn(Line::Cut);
    }

    /// Keeps all connections, lets no byte through.
    pub fn silence(&self) {
        self.turn(Line::Silent);
    }

    /// Connections that were tried so far.
    pub fn tries(&self) -> u64 {
        self.state.read(|state| state.accepted)
    }

    /// Waits until this many connections have been tried in all.
    pub fn expect_tries(&self, count: u64, limit: Duration) {
        let seen = self.state.wait_for(limit, |state| (state.accepted >= count).then_some(()));
        assert!(seen.is_some(), "waited {limit:?} for try {count}, {} came", self.tries());
    }

    fn turn(&self, line: Line) {
        self.state.update(|state| {
            state.line = line;
            if matches!(line, Line::Cut | Line::Gone) {
                for socket in state.sockets.drain(..) {
                    // Its ends may have left before.
                    let _ = socket.shutdown(Shutdown::Both);
                }
            }
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.turn(Line::Gone);
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

/// Connects the client with the broker; without a broker the client is let go.
fn join(client: TcpStream, broker: SocketAddr, state: &Arc<Watched<State>>) {
    let Ok(server) = TcpStream::connect(broker) else { return };
    for socket in [&client, &server] {
        socket.set_nodelay(true).unwrap();
    }
    let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
    let let_in = state.update(|state| {
        let open = matches!(state.line, Line::Open | Line::Silent);
        if open {
            state.sockets.extend(ends);
        }
        open
    });
    if !let_in {
        return;
    }
    let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let (there, back) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || pump(client, server, &there));
    std::thread::spawn(move || pump(back_from, back_to, &back));
}

/// Carries bytes one way until an end closes.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &Watched<State>) {
    let mut chunk = [0; 16 << 10];
    loop {
        let count = from.read(&mut chunk).unwrap_or(0);
        state.wait_for(LONG, |state| (state.line != Line::Silent).then_some(()));
        if count == 0 || to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}
