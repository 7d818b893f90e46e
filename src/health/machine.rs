//! The machine in the health document: reads it now and then, and has it held against the limits of `[health]`.
//!
//! Constraints: it is read on request and once in each `health.interval`, no more often than once a second, on a thread for
//! what may block: a sensor that measures when asked, or a disk that answers no more, must not hold up the flow. While one
//! reading hangs no other one is begun, and what is not known is not shown.

use super::limits::Watch;
use super::{Complaint, Identity};
use crate::config::Limits;
use crate::host::{self, Sources};
use crate::stats::HostStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long a reading is awaited. Sensors on a one-wire bus take 0.75 s each.
const PATIENCE: Duration = Duration::from_secs(2);
/// Younger than this, what was read is still true.
const FRESH: Duration = Duration::from_secs(1);

/// The machine, as it was when it was read last.
pub(super) struct Machine {
    sources: Arc<Sources>,
    /// Host name and boot id.
    known: HostStatus,
    started: Instant,
    latest: HostStatus,
    read_at: Option<Instant>,
    /// A reading that has not come back yet.
    reading: Option<JoinHandle<HostStatus>>,
    watch: Watch,
    complaints: Vec<Complaint>,
}

impl Machine {
    pub(super) fn new(identity: &Identity) -> Self {
        Machine {
            sources: Arc::new(identity.sources.clone()),
            known: identity.host.clone(),
            started: Instant::now(),
            latest: identity.host.clone(),
            read_at: None,
            reading: None,
            watch: Watch::default(),
            complaints: Vec::new(),
        }
    }

    /// Looks at it, unless that was done just now, and holds it against these limits.
    pub(super) async fn look(&mut self, limits: &Limits) {
        if self.read_at.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        // One that was late before is not awaited again, or each request would be late, too.
        let patience = if self.reading.is_some() { Duration::ZERO } else { PATIENCE };
        let mut reading = self.reading.take().unwrap_or_else(|| {
            let sources = Arc::clone(&self.sources);
            tokio::task::spawn_blocking(move || sources.state())
        });
        let read = match timeout(patience, &mut reading).await {
            Ok(read) => read.ok(),
            Err(_) => {
                self.reading = Some(reading);
                None
            }
        };
        // Behind the wait: the next try of a hanging one is due after FRESH.
        self.read_at = Some(Instant::now());
        let HostStatus { name, boot_id, .. } = self.known.clone();
        self.latest = HostStatus { name, boot_id, ..read.unwrap_or_default() };
        self.complaints = self.watch.judge(&self.latest, limits, self.started.elapsed());
    }

    /// As it was at the latest look, with what we cost it now.
    pub(super) fn status(&self) -> HostStatus {
        HostStatus { rss_bytes: host::rss_bytes(), ..self.latest.clone() }
    }

    /// What was wrong at the latest look.
    pub(super) fn complaints(&self) -> impl Iterator<Item = Complaint> + '_ {
        self.complaints.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hangs_never_holds_up_the_flow_nor_piles_up() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::{Condvar, Mutex};
        static READINGS: AtomicUsize = AtomicUsize::new(0);
        static HANGS: Mutex<bool> = Mutex::new(true);
        static RELEASED: Condvar = Condvar::new();
        fn hang() -> Vec<(String, std::net::IpAddr)> {
            READINGS.fetch_add(1, Ordering::SeqCst);
            drop(RELEASED.wait_while(HANGS.lock().unwrap(), |hangs| *hangs));
            Vec::new()
        }
        let empty = tempfile::tempdir().unwrap();
        let sources = Sources { root: empty.path().into(), state_dir: empty.path().into(), addresses: hang };
        let identity = Identity {
            instance: "gw".into(),
            host: HostStatus { name: "cm4".into(), ..HostStatus::default() },
            sources,
        };
        let mut machine = Machine::new(&identity);
        let limits = Limits::default();
        for _ in 0..3 {
            tokio::join!(machine.look(&limits), tokio::time::advance(PATIENCE));
            assert_eq!(machine.status().name, "cm4");
            assert!(machine.status().disk.is_none());
            tokio::time::advance(FRESH).await;
        }
        assert!(READINGS.load(Ordering::SeqCst) <= 1);
        *HANGS.lock().unwrap() = false;
        RELEASED.notify_all();
        // What was late is taken at a later look, whenever the thread has got that far.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while machine.status().disk.is_none() {
            assert!(std::time::Instant::now() < deadline, "what was read is never taken");
            std::thread::yield_now();
            tokio::time::advance(FRESH).await;
            machine.look(&limits).await;
        }
        assert_eq!(READINGS.load(Ordering::SeqCst), 1);
    }
}
