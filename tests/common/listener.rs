//! A TCP server of the rig: a thread for each connection, and nothing left of it when it is dropped.

use super::{own_address, watched::Watched};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

/// It listens on a port and an address of its own.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    state: Arc<Watched<State>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    connections: u64,
    is_over: bool,
    sockets: Vec<TcpStream>,
}

impl Listener {
    /// Has `serve` speak to each connection, on a thread of its own, until it returns or this is dropped. Connections count
    /// from 1.
    pub fn start(serve: impl Fn(TcpStream, u64) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((own_address(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Watched::new(State::default()));
        let (shared, serve) = (Arc::clone(&state), Arc::new(serve));
        let acceptor = std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let socket = client.try_clone().unwrap();
                let number = shared.update(|state| {
                    state.sockets.push(socket);
                    state.connections += 1;
                    (!state.is_over).then_some(state.connections)
                });
                let Some(number) = number else { break };
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(client, number));
            }
        });
        Listener { address, state, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the configuration names it.
    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.state.update(|state| {
            state.is_over = true;
            for socket in state.sockets.drain(..) {
                // Most have ended by themselves.
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}
