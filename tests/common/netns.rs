//! Two network namespaces with a cable between them: one for the sidecar, one for its broker. It takes root and iproute2.
//!
//! Constraint: nothing outside of the two is touched, and both go when this is dropped.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The sidecar's address, and another one that it may get.
pub const NEAR: &str = "10.77.0.1";
/// See [`NEAR`].
pub const NEAR_TOO: &str = "10.77.0.3";
/// The broker's.
pub const FAR: &str = "10.77.0.2";
const CABLE: &str = "cable";
/// Nobody's.
const NOBODY: &str = "02:00:00:00:00:99";

/// The two.
#[derive(Debug)]
pub struct Cable {
    near: String,
    far: String,
}

impl Cable {
    /// With the broker's address on its end, and none on the sidecar's. `None`, and a word about it, where that can't be
    /// had.
    pub fn lay() -> Option<Cable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pillion-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cable = Cable { near: format!("{name}-near"), far: format!("{name}-far") };
        let Cable { near, far } = &cable;
        if !ip(&format!("netns add {near}")) || !ip(&format!("netns add {far}")) {
            println!("SKIPPED: no network namespace can be made here (needs root and iproute2)");
            return None;
        }
        cable.must(&format!("-n {near} link add {CABLE} type veth peer name {CABLE} netns {far}"));
        for end in [near, far] {
            cable.must(&format!("-n {end} link set lo up"));
            cable.must(&format!("-n {end} link set {CABLE} up"));
        }
        cable.must(&format!("-n {far} address add {FAR}/24 dev {CABLE}"));
        Some(cable)
    }

    /// Gives the sidecar's end this address.
    pub fn give(&self, address: &str) {
        self.must(&format!("-n {} address add {address}/24 dev {CABLE}", self.near));
    }

    /// Takes it away.
    pub fn take(&self, address: &str) {
        self.must(&format!("-n {} address del {address}/24 dev {CABLE}", self.near));
    }

    /// From now on what either end sends is for nobody: no end is told, neither by RST nor by the carrier.
    pub fn go_dead(&self) {
        for (end, other) in [(&self.near, FAR), (&self.far, NEAR)] {
            self.must(&format!("-n {end} neighbour replace {other} lladdr {NOBODY} dev {CABLE} nud permanent"));
        }
    }

    /// It is well again.
    pub fn revive(&self) {
        for (end, other) in [(&self.near, FAR), (&self.far, NEAR)] {
            self.must(&format!("-n {end} neighbour del {other} dev {CABLE}"));
        }
    }

    /// Does this at the sidecar's end; children that it starts stay there.
    pub fn near<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.near, work)
    }

    /// The same at the broker's end.
    pub fn far<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.far, work)
    }

    fn must(&self, arguments: &str) {
        assert!(ip(arguments), "ip {arguments}");
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            ip(&format!("netns del {name}"));
        }
    }
}

/// A thread that has entered a namespace does not come back, so it is one of its own.
fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let network = File::open(format!("/run/netns/{name}")).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
