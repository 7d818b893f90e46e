//! What the kernel says when the network changes: rtnetlink(7).
//!
//! Constraints: one socket, which is told of addresses, routes and interfaces, and never asks. A datagram is looked at
//! in a buffer of fixed size; what does not fit, or is no message that is known here, is skipped. What the kernel had
//! to drop counts as a change of everything.
//!
//! Format, in the byte order of the machine: a header (length with header u32, kind u16, flags u16, sequence u32, port
//! u32), then a structure by kind: `ifinfomsg` (family u8, –, type u16, index i32, flags u32, …), `ifaddrmsg` (family
//! u8, prefix u8, flags u8, scope u8, …), `rtmsg` (family u8, –, –, –, table u8, protocol u8, scope u8, type u8, flags
//! u32); the next header stands at a multiple of 4.

use crate::network::Changes;
use crate::pulse::Pulse;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Larger than any message of the kernel about an interface: NLMSG_GOODSIZE is a page, at most 8 KiB.
const LARGEST: usize = 8 * 1024;
/// Datagrams that are looked at in one go, before others have their turn.
const AT_ONCE: usize = 64;
/// Interfaces whose carrier is remembered.
const MOST: usize = 64;

const HEADER: usize = 16;
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
/// IFF_LOOPBACK and IFF_RUNNING: the latter is the carrier.
const LOOPBACK: u32 = 0x8;
const RUNNING: u32 = 0x40;
/// IFA_F_TENTATIVE: not to be used yet; the kernel tells again when it is.
const TENTATIVE: u8 = 0x40;
/// RT_SCOPE_HOST: reaches nobody else.
const SCOPE_HOST: u8 = 254;
/// RTN_UNICAST, and RTM_F_CLONED: a note in the kernel's cache.
const UNICAST: u8 = 1;
const CLONED: u32 = 0x200;

/// Tells of changes until `stop`. Where the kernel allows no such socket, nothing is told.
pub async fn watch(changes: watch::Sender<Changes>, mut pulse: Pulse, mut stop: watch::Receiver<bool>) {
    // Deprecated for types whose descriptor may change under it, which this one's can't; its successor is unsafe.
    #[allow(deprecated)]
    let socket = open().and_then(|socket| AsyncFd::with_interest(socket, Interest::READABLE));
    let mut socket = match socket {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!("changes of the network go unnoticed, since netlink is not to be had: {error}");
            None
        }
    };
    let mut carriers = Carriers::default();
    loop {
        tokio::select! {
            news = listen(socket.as_ref(), &mut carriers) => match news {
                Ok(news) if news == Changes::default() => {}
                Ok(news) => changes.send_modify(|changes| {
                    changes.gained += news.gained;
                    changes.lost += news.lost;
                }),
                Err(error) => {
                    tracing::warn!("changes of the network go unnoticed from now on: {error}");
                    socket = None;
                }
            },
            () = pulse.answer() => {}
            _ = stop.changed() => return,
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// The next changes. Cancel-safe.
async fn listen(socket: Option<&AsyncFd<OwnedFd>>, carriers: &mut Carriers) -> io::Result<Changes> {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut ready = socket.readable().await?;
    let mut news = Changes::default();
    let mut buffer = [0; LARGEST];
    for _ in 0..AT_ONCE {
        match recv(socket, &mut buffer, RecvFlags::TRUNC) {
            Ok((_, length)) => carriers.read(buffer.get(..length.min(LARGEST)).unwrap_or_default(), &mut news),
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                break;
            }
            Err(Errno::NOBUFS) => (news.gained, news.lost) = (news.gained + 1, news.lost + 1),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(news)
}

/// Which interfaces have a carrier, as far as the kernel has told.
#[derive(Debug, Default)]
struct Carriers(BTreeMap<u32, bool>);

impl Carriers {
    /// Adds what the messages of a datagram tell.
    fn read(&mut self, mut datagram: &[u8], news: &mut Changes) {
        while let (Some(length), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(body) = datagram.get(HEADER..length) else { return };
            let (gained, lost) = self.message(kind, body).unwrap_or_default();
            news.gained += u64::from(gained);
            news.lost += u64::from(lost);
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    /// Whether something came, and whether something went. `None`: it is too short.
    fn message(&mut self, kind: u16, body: &[u8]) -> Option<(bool, bool)> {
        match kind {
            NEW_LINK | DEL_LINK => {
                let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
                let runs = kind == NEW_LINK && flags & RUNNING != 0;
                if flags & LOOPBACK != 0 {
                    return Some((false, false));
                }
                if self.0.len() >= MOST {
                    self.0.clear();
                }
                let before = match kind {
                    NEW_LINK => self.0.insert(index, runs),
                    _ => self.0.remove(&index),
                };
                Some((runs && before != Some(true), !runs && before != Some(false)))
            }
            NEW_ADDRESS => {
                let (flags, scope) = (*body.get(2)?, *body.get(3)?);
                Some((flags & TENTATIVE == 0 && scope != SCOPE_HOST, false))
            }
            DEL_ADDRESS => Some((false, true)),
            NEW_ROUTE => {
                let (kind, flags) = (*body.get(7)?, u32_at(body, 8)?);
                Some((kind == UNICAST && flags & CLONED == 0, false))
            }
            _ => Some((false, false)),
        }
    }
}

/// What a datagram tells, for the fuzz targets in `fuzz/`: how much came, and how much went.
#[doc(hidden)]
pub fn fuzz(datagram: &[u8]) -> (u64, u64) {
    let mut news = Changes::default();
    Carriers::default().read(datagram, &mut news);
    (news.gained, news.lost)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = HEADER + body.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn link(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let body = [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), [0; 4]].concat();
        message(kind, &body)
    }

    fn route(kind: u8, flags: u32) -> Vec<u8> {
        message(NEW_ROUTE, &[&[2, 0, 0, 0, 254, 3, 0, kind][..], &flags.to_ne_bytes()].concat())
    }

    /// What came and went.
    fn told(carriers: &mut Carriers, datagram: &[u8]) -> (u64, u64) {
        let mut news = Changes::default();
        carriers.read(datagram, &mut news);
        (news.gained, news.lost)
    }

    #[test]
    fn a_carrier_is_never_told_of_twice() {
        let mut carriers = Carriers::default();
        let up = link(NEW_LINK, 2, RUNNING | 1);
        assert_eq!(told(&mut carriers, &up), (1, 0));
        assert_eq!(told(&mut carriers, &up), (0, 0), "a wireless interface says this all the time");
        assert_eq!(told(&mut carriers, &link(NEW_LINK, 2, 1)), (0, 1));
        assert_eq!(told(&mut carriers, &[up.clone(), link(DEL_LINK, 2, 1)].concat()), (1, 1));
        assert_eq!(told(&mut carriers, &link(NEW_LINK, 1, RUNNING | LOOPBACK)), (0, 0));
        for index in 0..10_000 {
            told(&mut carriers, &link(NEW_LINK, index, RUNNING));
        }
        assert!(carriers.0.len() <= MOST);
    }

    #[test]
    fn what_can_not_be_used_never_counts_as_come() {
        let mut carriers = Carriers::default();
        let address = |flags, scope| message(NEW_ADDRESS, &[10, 64, flags, scope, 2, 0, 0, 0]);
        assert_eq!(told(&mut carriers, &[address(0x80, 0), route(UNICAST, 0)].concat()), (2, 0));
        assert_eq!(told(&mut carriers, &address(TENTATIVE, 0)), (0, 0));
        assert_eq!(told(&mut carriers, &address(0, SCOPE_HOST)), (0, 0));
        assert_eq!(told(&mut carriers, &route(2, 0)), (0, 0), "RTN_LOCAL: the address itself");
        assert_eq!(told(&mut carriers, &route(UNICAST, CLONED)), (0, 0));
        assert_eq!(told(&mut carriers, &message(DEL_ADDRESS, &[0; 8])), (0, 1));
        assert_eq!(told(&mut carriers, &message(28, &[0; 12])), (0, 0), "a neighbour");
    }

    proptest! {
        #[test]
        fn no_datagram_ever_does_harm(datagram in prop::collection::vec(any::<u8>(), 0..200), kind in 14u16..26, cut in 0usize..40) {
            let mut carriers = Carriers::default();
            told(&mut carriers, &datagram);
            let whole = message(kind, &datagram);
            told(&mut carriers, whole.get(..cut.min(whole.len())).unwrap());
            let (gained, lost) = told(&mut carriers, &whole);
            prop_assert!(gained + lost <= 1);
        }
    }
}
