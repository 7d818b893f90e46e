//! A disk of the test's own: an ext4 in a loop device, which can be frozen, cut off from its power, and taken away.
//!
//! Constraints: it takes root and loop devices, and for a power cut Python, since there is no way to that ioctl without
//! unsafe code. Where they can't be had, `mount` says so and returns `None`. Dropping it unmounts it; whoever uses it must be
//! gone by then.

use super::SOON;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Waits for a line, then EXT4_IOC_SHUTDOWN without a flush of the journal (linux/ext4.h): from here on every call fails
/// with EIO, and what was not synced is gone at the next mount.
const CUTTER: &str = "\
import fcntl, os, struct, sys
disk = os.open(sys.argv[1], os.O_RDONLY)
IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587d, struct.pack('I', 2)
print('ready', flush=True)
if sys.stdin.readline():
    fcntl.ioctl(disk, IOC_SHUTDOWN, NO_LOG_FLUSH)
";

/// Size of the whole disk in bytes.
const SIZE: u64 = 64 * 1024 * 1024;

/// The kernel writes nothing to it by itself before this many seconds: what nobody synced is in memory alone.
const WRITE_BACK_S: u64 = 3600;

/// The disk. Unmounted when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    folder: TempDir,
}

impl LoopDisk {
    /// A new one that is mounted; `None` where it can't be had.
    pub fn mount() -> Option<Self> {
        let disk = LoopDisk { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(disk.path()).unwrap();
        File::create(disk.image()).unwrap().set_len(SIZE).unwrap();
        let made = succeeds("mkfs.ext4", &["-q", "-J", "size=4"], &disk.image());
        let there = made && succeeds("python3", &["-I", "-c", "import fcntl, struct"], Path::new("")) && disk.attach();
        if !there {
            println!("SKIPPED: there is no loop device here, or no Python (needs root)");
        }
        there.then_some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Every call that writes hangs until it is thawed.
    pub fn freeze(&self) {
        assert!(succeeds("fsfreeze", &["-f"], &self.path()));
    }

    /// Ends the freeze.
    pub fn thaw(&self) {
        assert!(succeeds("fsfreeze", &["-u"], &self.path()));
    }

    /// A hand at the switch: the cut itself then takes no time.
    pub fn cutter(&self) -> Cutter {
        let mut command = Command::new("python3");
        command.args(["-I", "-c", CUTTER]).arg(self.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Cutter { child }
    }

    /// Takes it away. Nobody may have a file of it open any more; a process that was killed just now lets go in a moment.
    pub fn unmount(&self) {
        let deadline = Instant::now() + SOON;
        while !succeeds("umount", &[], &self.path()) {
            assert!(Instant::now() < deadline, "somebody still uses {}", self.path().display());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Mounts it again, as after a boot: the journal is replayed.
    pub fn mount_again(&self) {
        assert!(self.attach(), "{} can't be mounted again", self.path().display());
    }

    /// Mounts it again so that nothing can be written.
    pub fn mount_again_read_only(&self) {
        // Not at once: the loop device would be read-only, too.
        assert!(self.attach() && self.remount("ro"), "{} can't be mounted again", self.path().display());
    }

    /// Makes it read-only, or writable again. No file may be open for writing when it becomes read-only; returns whether
    /// that was so.
    pub fn remount(&self, mode: &str) -> bool {
        succeeds("mount", &["-o", &format!("remount,{mode}")], &self.path())
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn attach(&self) -> bool {
        let options = format!("loop,commit={WRITE_BACK_S}");
        succeeds("mount", &["-o", &options, self.image().to_str().unwrap()], &self.path())
    }
}

/// Somebody with a hand at a disk's power switch.
#[derive(Debug)]
pub struct Cutter {
    child: Child,
}

impl Cutter {
    /// Cuts the power: the disk forgets what was not synced. Until it is unmounted it answers nearly everything with EIO.
    pub fn cut(mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert!(self.child.wait().unwrap().success(), "the power could not be cut");
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        // The end of its input ends it, if it has not cut; and it must not keep the disk mounted.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Any of it may have been done, or never have been needed.
        succeeds("fsfreeze", &["-u"], &self.path());
        succeeds("umount", &[], &self.path());
    }
}

fn succeeds(program: &str, options: &[&str], path: &Path) -> bool {
    Command::new(program).args(options).arg(path).output().is_ok_and(|output| output.status.success())
}
