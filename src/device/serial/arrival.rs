//! Waiting for a device node to appear, so that an adapter that is plugged in again is open again at once.
//!
//! inotify watches the folder of the path, or the nearest one above it that exists (without any adapter there is no
//! `/dev/serial`). udev makes a node first and gives it to its group later, so changes of attributes count too.
//!
//! Constraints: it is a help, not a promise. What it misses (the system has no watches left, a folder is replaced) is found by the
//! back-off's own tries. It costs a descriptor only while a device is away.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// After the first event: what udev does to a new node takes a few milliseconds.
const SETTLE: Duration = Duration::from_millis(50);

/// A watch on the places where a device may appear.
pub struct Arrival {
    /// `None`: the system gives no watch.
    events: Option<AsyncFd<OwnedFd>>,
}

impl Arrival {
    /// Watches for something to appear or change at these paths.
    pub fn watch(paths: &[PathBuf]) -> Self {
        let open = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let watches = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            for folder in paths.iter().filter_map(|path| nearest_folder(path)) {
                let what = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::ONLYDIR;
                inotify::add_watch(&watches, folder, what)?;
            }
            // What it is deprecated for is a type that lies about its descriptor; ours is the system's own.
            #[allow(deprecated)]
            AsyncFd::new(watches)
        };
        let events = open().inspect_err(|error| tracing::debug!("no watch for devices: {error}; they are polled"));
        Arrival { events: events.ok() }
    }

    /// Returns soon after something has happened there: maybe what is waited for. Cancel-safe.
    pub async fn changed(&mut self) {
        let Some(events) = &self.events else { return std::future::pending().await };
        match events.readable().await {
            Ok(mut ready) => {
                tokio::time::sleep(SETTLE).await;
                drain(events.get_ref());
                ready.clear_ready();
            }
            Err(_) => {
                self.events = None;
                std::future::pending().await
            }
        }
    }
}

/// Reads what has happened, to wait for the next.
fn drain(watches: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watches, &mut buffer);
    loop {
        match reader.next() {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The lowest folder on the way to this path that exists.
fn nearest_folder(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|folder| folder.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_node_never_appears_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial/by-id/usb-adapter");
        let mut arrival = Arrival::watch(std::slice::from_ref(&path));
        assert!(timeout(Duration::from_millis(100), arrival.changed()).await.is_err(), "nothing has happened yet");
        // The folder above it is what appears first; whoever waits then watches that one.
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        timeout(SOON, arrival.changed()).await.unwrap();
        let mut arrival = Arrival::watch(std::slice::from_ref(&path));
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        timeout(SOON, arrival.changed()).await.unwrap();
        assert!(timeout(Duration::from_millis(100), arrival.changed()).await.is_err(), "and once only");
    }
}
