//! A link with a long way: a proxy to the broker that hands every byte on only after so long a time, and counts them.
//!
//! In place of netem, which not every kernel has. Nothing is lost and the rate is not limited; it holds back what it has read, as
//! a long cable would. Its connections end with either side; its thread ends with the bench.

use super::Result;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Pieces that may be under way in one direction: more than any window of the bench needs.
const UNDER_WAY: usize = 65_536;

pub struct Link {
    port: u16,
    up: Arc<AtomicU64>,
}

impl Link {
    /// A link to the port, with this delay in each direction.
    pub fn to(broker: u16, delay: Duration) -> Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let link = Link { port: listener.local_addr()?.port(), up: Arc::default() };
        let up = link.up.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) else { continue };
                let (Ok(near_copy), Ok(far_copy)) = (near.try_clone(), far.try_clone()) else { continue };
                carry(near_copy, far_copy, delay, up.clone());
                carry(far, near, delay, Arc::default());
            }
        });
        Ok(link)
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that went towards the broker so far.
    pub fn sent(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }
}

/// One direction: a thread that reads and one that writes when the time has come.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, count: Arc<AtomicU64>) {
    let (pieces, due) = mpsc::sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let _ = to.set_nodelay(true);
    thread::spawn(move || {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk) {
            count.fetch_add(length as u64, Ordering::Relaxed);
            if pieces.send((Instant::now() + delay, chunk[..length].to_vec())).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Read);
    });
    thread::spawn(move || {
        for (at, piece) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
