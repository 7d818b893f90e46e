//! A serial device on a pseudo terminal, whose lines say when they were sent.

use super::Result;
use serialport::{SerialPort, TTYPort};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the reader may leave the line full.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device's end of the line.
pub struct SerialLine {
    device: TTYPort,
    /// Held open, so that the line does not hang up before anybody has opened it.
    _held: TTYPort,
    path: PathBuf,
    /// What the times on the lines are relative to.
    epoch: Instant,
}

impl SerialLine {
    /// A new device, silent. Times are measured from `epoch` on.
    pub fn new(epoch: Instant) -> Result<SerialLine> {
        let (mut device, held) = TTYPort::pair()?;
        device.set_timeout(PATIENCE)?;
        let path = held.name().ok_or("the terminal has no name")?.into();
        Ok(SerialLine { device, _held: held, path, epoch })
    }

    /// Where a reader opens it.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Sends one line of 128 bytes with this number and the time of now.
    pub fn send(&mut self, number: u64) -> Result<()> {
        let at = self.epoch.elapsed().as_nanos();
        let line = format!("{{\"number\":{number:>10},\"at\":{at:>20},\"text\":\"{:x<71}\"}}\n", "");
        debug_assert_eq!(line.len(), 128 + 1);
        Ok(self.device.write_all(line.as_bytes())?)
    }

    /// Sends lines numbered from 1 on, at a steady rate.
    pub fn send_steadily(&mut self, lines: u64, pause: Duration) -> Result<()> {
        let mut due = Instant::now();
        for number in 1..=lines {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.send(number)?;
            due += pause;
        }
        Ok(())
    }
}

/// The number and the time in a message, whatever stands around the line.
pub fn read_line(message: &[u8]) -> Option<(u64, Duration)> {
    let number = value_of(message, b"\"number\":")?;
    Some((number, Duration::from_nanos(value_of(message, b"\"at\":")?)))
}

fn value_of(message: &[u8], key: &[u8]) -> Option<u64> {
    let start = message.windows(key.len()).position(|window| window == key)? + key.len();
    let text = message[start..].split(|byte| *byte == b',').next()?;
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}
