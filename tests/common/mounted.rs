//! A small file system of the test's own: one that can be full, frozen, or asked what was written to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A mounted file system. Thawed and unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    folder: TempDir,
}

impl Mounted {
    /// An ext4 of this many MiB in a loop device, with nothing left to write by itself. `None` where it can't be had:
    /// that takes root and loop devices.
    pub fn ext4(mib: u64) -> Option<Self> {
        let disk = Mounted::unmounted();
        let image = disk.folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        // Else the kernel goes on to write empty tables for a while.
        let made = run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"], &image).is_some();
        let mounted = made && run("mount", &["-o", "loop", image.to_str().unwrap()], &disk.path()).is_some();
        mounted.then_some(disk)
    }

    /// A tmpfs of this many KiB. `None` where it can't be had: that takes root.
    pub fn tmpfs(kib: u64) -> Option<Self> {
        let disk = Mounted::unmounted();
        let options = ["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"];
        run("mount", &options, &disk.path()).is_some().then_some(disk)
    }

    fn unmounted() -> Self {
        let disk = Mounted { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(disk.path()).unwrap();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Lets every write wait in the kernel.
    pub fn freeze(&self) {
        assert!(run("fsfreeze", &["-f"], &self.path()).is_some());
    }

    /// Lets writes go on.
    pub fn thaw(&self) {
        assert!(run("fsfreeze", &["-u"], &self.path()).is_some());
    }

    /// Writes out all that is to be written, and returns how many bytes its device has been given so far: data, journal
    /// and all else, as the kernel's block layer counts. Only of an ext4.
    pub fn bytes_written(&self) -> u64 {
        assert!(run("sync", &["-f"], &self.path()).is_some());
        let device = run("findmnt", &["-no", "SOURCE"], &self.path()).unwrap().stdout;
        let device = String::from_utf8(device).unwrap();
        let name = device.trim().rsplit('/').next().unwrap();
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        // The seventh number is sectors written, of 512 bytes (Documentation/block/stat.rst).
        stat.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Either may have been done, or never have been needed.
        run("fsfreeze", &["-u"], &self.path());
        run("umount", &[], &self.path());
    }
}

/// What the program put out, if it succeeded.
fn run(program: &str, options: &[&str], path: &Path) -> Option<Output> {
    let output = Command::new(program).args(options).arg(path).output().ok()?;
    output.status.success().then_some(output)
}
