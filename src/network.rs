//! Changes of the machine's network, as those hear of them who talk to brokers over it.
//!
//! Constraint: these are hints. Nothing depends on them: where the kernel tells nothing, time-outs and pauses do their
//! work alone, later.

use std::net::IpAddr;
use tokio::sync::watch;

/// How often something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// An address, a route, or the carrier of an interface came.
    pub gained: u64,
    /// An address or the carrier of an interface went.
    pub lost: u64,
}

/// One listener's view of it.
#[derive(Debug, Clone)]
pub struct Network {
    changes: watch::Receiver<Changes>,
    seen: Changes,
    is_ours: fn(IpAddr) -> bool,
}

impl Network {
    /// `is_ours` tells whether an address is one of this machine's now.
    pub fn new(changes: watch::Receiver<Changes>, is_ours: fn(IpAddr) -> bool) -> Self {
        let seen = *changes.borrow();
        Network { changes, seen, is_ours }
    }

    /// One that never changes.
    pub fn still() -> Self {
        Network::new(watch::channel(Changes::default()).1, |_| true)
    }

    /// What has come so far is no news any more.
    pub fn forget(&mut self) {
        self.seen = *self.changes.borrow();
    }

    /// Returns when something has come. Cancel-safe.
    pub async fn gained(&mut self) {
        let seen = self.seen.gained;
        let now = self.wait(|now| now.gained != seen).await;
        self.seen.gained = now.gained;
    }

    /// Returns when this address is none of this machine's any more. Cancel-safe.
    pub async fn gone(&mut self, address: IpAddr) {
        loop {
            let seen = self.seen.lost;
            let now = self.wait(|now| now.lost != seen).await;
            self.seen.lost = now.lost;
            if !(self.is_ours)(address) {
                return;
            }
        }
    }

    async fn wait(&mut self, is_news: impl FnMut(&Changes) -> bool) -> Changes {
        let now = self.changes.wait_for(is_news).await.ok().map(|now| *now);
        match now {
            Some(now) => now,
            // Nobody tells any more.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use tokio::time::timeout;

    const OURS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const GONE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    #[tokio::test(start_paused = true)]
    async fn an_address_that_stays_is_never_reported_as_gone() {
        let short = Duration::from_millis(1);
        let (sender, changes) = watch::channel(Changes::default());
        let mut network = Network::new(changes, |address| address == OURS);
        assert!(timeout(short, network.gained()).await.is_err());
        sender.send_modify(|changes| changes.lost += 1);
        assert!(timeout(short, network.gained()).await.is_err(), "that something went is no reason to hurry");
        assert!(timeout(short, network.gone(OURS)).await.is_err());
        sender.send_modify(|changes| (changes.lost, changes.gained) = (2, 1));
        assert!(timeout(short, network.gone(GONE)).await.is_ok());
        assert!(timeout(short, network.gone(GONE)).await.is_err(), "told once");
        assert!(timeout(short, network.gained()).await.is_ok());
        sender.send_modify(|changes| changes.gained += 1);
        network.forget();
        assert!(timeout(short, network.gained()).await.is_err());
        drop(sender);
        assert!(timeout(short, network.gained()).await.is_err(), "no news is no change");
        assert!(timeout(short, Network::still().gone(GONE)).await.is_err());
    }
}
