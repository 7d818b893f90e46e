//! Disks of the test's own: an ext4 in a loop device, which can be frozen, cut off from its power, taken away, and asked what
//! was written to it; and a tmpfs, which can be full.
//!
//! Constraints: they take root, the first one loop devices, and for a power cut Python, since there is no way to that ioctl
//! without unsafe code. Where they can't be had, `mount` says so and returns `None`. Dropping one unmounts it; whoever uses
//! it must be gone by then.

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
        // Else the kernel goes on to write empty tables for a while.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        let made = succeeds("mkfs.ext4", &["-q", "-J", "size=4", "-E", now], &disk.image());
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

    /// Writes out all that is to be written, and returns how many bytes its device has been given so far: data, journal
    /// and all else, as the kernel's block layer counts.
    pub fn bytes_written(&self) -> u64 {
        assert!(succeeds("sync", &["-f"], &self.path()));
        let device = Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.path()).output().unwrap().stdout;
        let device = String::from_utf8(device).unwrap();
        let name = device.trim().rsplit('/').next().unwrap();
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        // The seventh number is sectors written, of 512 bytes (Documentation/block/stat.rst).
        stat.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn attach(&self) -> bool {
        let options = format!("loop,commit={WRITE_BACK_S}");
        succeeds("mount", &["-o", &options, self.image().to_str().unwrap()], &self.path())
    }
}

/// A tmpfs. Unmounted when dropped.
#[derive(Debug)]
pub struct Tmpfs {
    folder: TempDir,
}

impl Tmpfs {
    /// A new one of this many KiB; `None` where it can't be had.
    pub fn mount(kib: u64) -> Option<Self> {
        let disk = Tmpfs { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(disk.path()).unwrap();
        let there = succeeds("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], &disk.path());
        if !there {
            println!("SKIPPED: no tmpfs can be mounted here (needs root)");
        }
        there.then_some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        succeeds("umount", &[], &self.path());
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
