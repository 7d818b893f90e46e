//! A serial device: a PTY under a name that stays the same when the device is pulled out and comes back.

use super::SOON;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pty::{grantpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The far end of a serial line.
#[derive(Debug)]
pub struct Device {
    link: PathBuf,
    /// Where new PTYs come from.
    multiplexer: PathBuf,
    /// The PTY's master; `None` while the device is pulled out.
    end: Option<File>,
}

impl Device {
    /// Plugs a device in under this name.
    pub fn at(link: impl Into<PathBuf>) -> Self {
        Device::of("/dev/ptmx", link)
    }

    /// Plugs in a device of another system, with that one's PTYs, under this name there.
    pub fn of(multiplexer: impl Into<PathBuf>, link: impl Into<PathBuf>) -> Self {
        let mut device = Device { link: link.into(), multiplexer: multiplexer.into(), end: None };
        device.plug_in();
        device
    }

    /// The device's name, for the configuration.
    pub fn path(&self) -> &Path {
        &self.link
    }

    /// Pulls it out: its node is gone, and whoever holds it open reads the end.
    pub fn pull_out(&mut self) {
        assert!(self.end.take().is_some(), "it is out already");
        std::fs::remove_file(&self.link).unwrap();
    }

    /// Plugs it in: a new node under the old name.
    pub fn plug_in(&mut self) {
        assert!(self.end.is_none(), "it is in already");
        let end = open(&self.multiplexer, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        grantpt(&end).unwrap();
        unlockpt(&end).unwrap();
        // Raw from the start: what is written before anyone listens must not come back as an echo.
        let mut terminal = tcgetattr(&end).unwrap();
        terminal.make_raw();
        tcsetattr(&end, OptionalActions::Now, &terminal).unwrap();
        // A reader that has died must not keep the test for ever.
        fcntl_setfl(&end, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
        let name = ptsname(&end, Vec::new()).unwrap();
        symlink(std::ffi::OsStr::from_bytes(name.as_bytes()), &self.link).unwrap();
        self.end = Some(File::from(end));
    }

    /// Sends bytes. The kernel holds a few KiB for the reader; then this waits for it to read.
    pub fn write(&self, mut bytes: &[u8]) {
        let mut end = self.end.as_ref().expect("plugged in");
        while !bytes.is_empty() {
            match end.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_room(end).unwrap(),
                Err(error) => panic!("writing to {}: {error}", self.link.display()),
            }
        }
    }

    /// What the sidecar has written since this was called last; waits at most so long for the first byte of it.
    pub fn hear(&self, limit: Duration) -> Vec<u8> {
        let mut end = self.end.as_ref().expect("plugged in");
        let mut heard = Vec::new();
        let mut limit = limit;
        loop {
            let patience = Timespec::try_from(limit).unwrap();
            let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&patience)).unwrap();
            let mut chunk = [0; 4096];
            match end.read(&mut chunk) {
                Ok(count) if count > 0 => heard.extend_from_slice(&chunk[..count]),
                // Nothing is there, or nobody has the far end open.
                _ => return heard,
            }
            limit = Duration::ZERO;
        }
    }

    /// Sends one line.
    pub fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }
}

fn wait_for_room(end: &File) -> io::Result<()> {
    let limit = Timespec::try_from(SOON).map_err(io::Error::other)?;
    let ready = poll(&mut [PollFd::new(end, PollFlags::OUT)], Some(&limit))?;
    if ready == 0 { Err(io::Error::new(ErrorKind::TimedOut, "nobody reads the serial line")) } else { Ok(()) }
}
