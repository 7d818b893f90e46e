//! A booted Debian with a systemd of its own, in half a second: systemd-nspawn over a root file system that all share.
//!
//! Constraints: it takes root, and where that or the root file system (`tests/booted/root`) can't be had, `boot` says so and
//! returns `None`. What is written inside goes to memory and is gone with it. It has a network of its own, on which nothing is
//! but its loopback device; so any number of them run side by side. It dies with the thread that booted it, however that ends:
//!
//! ```text
//! test ─ setpriv (killed when the test's thread ends) ─ unshare (process namespace: all below end with it)
//!        └─ systemd-nspawn (control group of ours) ─ systemd ─ the units
//! ```
//!
//! systemd inside sees control groups of version 2 alone, as on Debian; the host's controllers of version 1 are not given to
//! it. Where these have the memory and the tasks, limits of units are accepted and not enforced.

use crate::common::SOON;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Joins the control group, hides what systemd-nspawn keeps of its containers from the host, and becomes it.
const LAUNCH: &str = r#"set -e
echo 0 > "$0"/cgroup.procs
if [ -d /run/systemd ]; then hidden=/run/systemd; else hidden=/run; fi
mount -t tmpfs tmpfs "$hidden"
exec systemd-nspawn "$@""#;

/// The first program inside. systemd-nspawn covers the kernel's boot id with one of the container's own; a unit with a /proc of
/// its own (`ProtectProc=`) would see another one than the journal has.
const INIT: &str = "umount /proc/sys/kernel/random/boot_id && exec /lib/systemd/systemd";

/// The container. Gone when dropped; the journal is shown when a test fails.
#[derive(Debug)]
pub struct Container {
    /// The outermost process.
    outer: Child,
    /// The first process inside, as the host counts.
    leader: u32,
    control_group: PathBuf,
    folder: TempDir,
}

impl Container {
    /// Boots one with these files of the host in it, read-only; returns once its default target is reached. `None` where none
    /// can be had.
    pub fn boot(files: &[(&Path, &str)]) -> Option<Self> {
        let root = root()?;
        let folder = tempfile::tempdir().unwrap();
        let ears = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let name = own_name();
        let control_group = own_control_group().join(&name);
        fs::create_dir(&control_group).unwrap();

        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", LAUNCH]).arg(&control_group);
        command.args(["--quiet", "--directory"]).arg(root).args(["--volatile=overlay", "--read-only"]);
        command.args([&format!("--machine={name}"), "--register=no", "--keep-unit", "--private-network"]);
        // systemd filters devices and IP addresses by BPF.
        command.args(["--console=read-only", "--notify-ready=yes", "--system-call-filter=bpf"]);
        for (file, inside) in files {
            command.arg(format!("--bind-ro={}:{inside}", file.display()));
        }
        command.args(["sh", "-c", INIT]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let console = File::create(folder.path().join("console")).unwrap();
        command.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let mut container = Container { outer: command.spawn().unwrap(), leader: 0, control_group, folder };
        container.expect_ready(&ears);
        Some(container)
    }

    fn expect_ready(&mut self, ears: &UnixDatagram) {
        let deadline = Instant::now() + SOON;
        ears.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            let mut note = [0; 4096];
            // Without a note it may have ended.
            let length = ears.recv(&mut note).unwrap_or(0);
            if String::from_utf8_lossy(&note[..length]).lines().any(|line| line == "READY=1") {
                break;
            }
            let alive = self.outer.try_wait().unwrap().is_none() && Instant::now() < deadline;
            assert!(alive, "the container does not boot; its console says:\n{}", self.console());
        }
        let first = fs::read_to_string(self.control_group.join("payload/init.scope/cgroup.procs")).unwrap();
        self.leader = first.lines().next().unwrap().parse().unwrap();
    }

    /// Moves the calling thread onto the container's network: what it connects, binds, spawns and starts from now on lives there.
    pub fn join_network(&self) {
        let network = File::open(format!("/proc/{}/ns/net", self.leader)).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// A path inside, as the test can use it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader))
    }

    /// Writes a file, and makes its folder.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs a program inside, as root, until it ends, which must be soon.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command();
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (tell, told) = mpsc::channel();
        // Whatever hangs inside is killed with the container, and this thread ends with it.
        std::thread::spawn(move || tell.send(child.wait_with_output().unwrap()));
        told.recv_timeout(SOON).unwrap_or_else(|_| panic!("{arguments:?} has not ended after {SOON:?}"))
    }

    /// Runs a shell script inside, as root, that must succeed; returns what it says, without the last end of line.
    pub fn shell(&self, script: &str) -> String {
        let output = self.run(&["sh", "-euc", script]);
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{}\n{said}\n{complaint}", output.status);
        said
    }

    /// A property of a unit, as `systemctl show` has it.
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.shell(&format!("systemctl show --value --property={property} {unit}"))
    }

    /// Waits until this property of a unit satisfies `right`, and returns it.
    pub fn expect_property(&self, unit: &str, property: &str, right: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            last = self.property(unit, property);
            if right(&last) {
                return last;
            }
            // systemd tells of changes over D-Bus alone, which is one more thing that can fail: ask again.
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("waited {SOON:?} for {property} of {unit}; it is {last:?}");
    }

    /// A program that is to run inside, as root.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.leader.to_string(),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--root",
        ]);
        command.arg("--").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null());
        command
    }

    fn console(&self) -> String {
        fs::read_to_string(self.folder.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() && self.leader != 0 {
            let lines = ["journalctl", "--no-pager", "--lines=60", "--output=short-monotonic"];
            let journal = self.command().args(lines).output().map(|output| output.stdout).unwrap_or_default();
            println!("{}", String::from_utf8_lossy(&journal));
        }
        // Kernels before 5.14 can't kill a group. All ends with the outer process as well, but then nobody of ours reaps it.
        if fs::write(self.control_group.join("cgroup.kill"), "1").is_err() {
            let _ = self.outer.kill();
        }
        let _ = self.outer.wait();
        // Its groups can be removed when the last process is through, which is soon; systemd has made the same ones in its
        // hierarchy of version 1, where there is one.
        for group in [Some(self.control_group.clone()), version_1(&self.control_group)].into_iter().flatten() {
            let deadline = Instant::now() + SOON;
            while group.exists() && !remove_groups(&group) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// The root file system; `None`, and a word about it, where it can't be had.
fn root() -> Option<PathBuf> {
    static ROOT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/booted/root");
        let output = Command::new(script).output().map_err(|error| error.to_string())?;
        let path = String::from_utf8_lossy(&output.stdout).trim_end().into();
        let reason = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        if output.status.success() { Ok(path) } else { Err(reason) }
    });
    root.clone().map_err(|reason| println!("SKIPPED: no container can be booted here: {reason}")).ok()
}

/// A name for a container that no other has.
fn own_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("pillion-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The folder of the control group of version 2 in which this process is.
fn own_control_group() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // proc_pid_mountinfo(5): the mount point is the fifth field, the type stands behind the lone hyphen.
    let version_2 = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("control groups of version 2");
    let mount_point = version_2.split(' ').nth(4).unwrap();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new(mount_point).join(own)
}

/// The same group in systemd's hierarchy of version 1, on hosts that have both.
fn version_1(group: &Path) -> Option<PathBuf> {
    let below = group.strip_prefix("/sys/fs/cgroup/unified").ok()?;
    Some(Path::new("/sys/fs/cgroup/systemd").join(below))
}

/// Removes a group and those below it; `false` where one still has processes.
fn remove_groups(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    below.for_each(|entry| _ = remove_groups(&entry.path()));
    fs::remove_dir(group).is_ok()
}
