//! Waiting until a line has been silent, to a fraction of a millisecond.
//!
//! tokio's timers count in whole milliseconds and round up, so that 1 ms of silence took two or more: every frame of
//! `idle-gap` came that much later, and a device that paused for less had its frames merged. A timer of the kernel
//! (timerfd_create(2)) is late by its slack of 50 µs.
//!
//! Constraints: the descriptor is made when silence matters for the first time, then kept. Its timer runs only while
//! silence matters, so it wakes nobody without need. Where the system has no descriptor left, tokio's timer does.

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// Waits for one silence at a time.
#[derive(Debug, Default)]
pub struct Silence {
    timer: Option<AsyncFd<OwnedFd>>,
    /// When the silence that is waited for is over; `None`: silence doesn't matter, and the timer is off.
    until: Option<Instant>,
}

impl Silence {
    /// The line is silent from now on, and that matters after `limit`, or not at all. What was asked for is forgotten.
    pub fn begin(&mut self, limit: Option<Duration>) {
        if limit.is_none() && self.until.is_none() {
            return;
        }
        self.until = limit.map(|limit| Instant::now() + limit);
        if self.timer.is_none() {
            self.timer = timer().inspect_err(|error| tracing::debug!("no timer for silence: {error}")).ok();
        }
        if self.timer.as_ref().is_some_and(|timer| set(timer, limit.unwrap_or_default()).is_err()) {
            self.timer = None;
        }
    }

    /// Returns when the silence is over, once; never if silence doesn't matter. Cancel-safe.
    pub async fn over(&mut self) {
        let Some(until) = self.until else { return std::future::pending().await };
        let is_exact = match &self.timer {
            Some(timer) => expired(timer).await.is_ok(),
            None => false,
        };
        if !is_exact {
            self.timer = None;
            sleep_until(until).await;
        }
        self.until = None;
    }
}

/// A timer that is off. It has the clock that tokio has.
fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
    // What it is deprecated for is a type that lies about its descriptor; ours is the system's own.
    #[allow(deprecated)]
    AsyncFd::with_interest(timer, Interest::READABLE)
}

/// Lets it expire after this long; zero turns it off. An expiry that nobody has heard of is forgotten.
fn set(timer: &AsyncFd<OwnedFd>, after: Duration) -> io::Result<()> {
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = after.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let once = Itimerspec { it_interval: never, it_value };
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

/// Returns when it has expired, once.
async fn expired(timer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = timer.readable().await?;
        // It blocks if the expiry that made it readable was forgotten meanwhile.
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?));
        if let Ok(read) = read {
            return read.map(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SHORT: Duration = Duration::from_micros(500);
    const LONG: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn silence_is_never_over_before_its_time_nor_a_millisecond_after() {
        let mut silence = Silence::default();
        let mut waited = Vec::new();
        for _ in 0..50 {
            let since = std::time::Instant::now();
            silence.begin(Some(SHORT));
            timeout(SOON, silence.over()).await.unwrap();
            waited.push(since.elapsed());
        }
        waited.sort();
        assert!(waited[0] >= SHORT, "{waited:?}");
        // The best of many: a busy machine has others to run.
        assert!(waited[0] < Duration::from_millis(1), "{waited:?}");
    }

    #[tokio::test]
    async fn a_silence_that_was_broken_never_counts() {
        let mut silence = Silence::default();
        assert!(timeout(A_WHILE, silence.over()).await.is_err(), "none has begun");
        for broken_by in [Some(LONG), None] {
            silence.begin(Some(SHORT));
            // It is over, and nobody has heard of it yet.
            drop(timeout(SOON, silence.timer.as_ref().unwrap().readable()).await.unwrap().unwrap());
            silence.begin(broken_by);
            assert!(timeout(A_WHILE, silence.over()).await.is_err(), "{broken_by:?}");
        }
        // Nor does one count twice.
        silence.begin(Some(SHORT));
        timeout(SOON, silence.over()).await.unwrap();
        assert!(timeout(A_WHILE, silence.over()).await.is_err());
    }

    #[tokio::test]
    async fn a_wait_that_was_interrupted_never_begins_again() {
        let mut silence = Silence::default();
        silence.begin(Some(A_WHILE));
        let since = Instant::now();
        while timeout(Duration::from_millis(3), silence.over()).await.is_err() {
            assert!(since.elapsed() < SOON);
        }
    }

    #[tokio::test]
    async fn without_a_descriptor_silence_is_never_missed() {
        let mut silence = Silence { timer: None, until: Some(Instant::now() + SHORT) };
        timeout(SOON, silence.over()).await.unwrap();
        assert!(timeout(A_WHILE, silence.over()).await.is_err());
    }
}
