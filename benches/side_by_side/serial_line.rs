//! A serial device on a pseudo terminal, whose frames say when they were sent.

use super::Result;
use pillion::config::{Framing, Source, Surroundings, parse};
use pillion::frame::encode;
use serialport::{SerialPort, TTYPort};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the reader may leave the line full.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a line is by default, in pillion's configuration.
pub const LINES: &str = "{ kind = \"lines\" }";

/// The device's end of the line.
pub struct SerialLine {
    name: String,
    device: TTYPort,
    /// Held open, so that the line does not hang up before anybody has opened it.
    _held: TTYPort,
    path: PathBuf,
    /// `framing` in pillion's configuration, and what pillion makes of it.
    toml: &'static str,
    framing: Framing,
    /// The frame that is sent.
    wire: Vec<u8>,
    /// What the times in the frames are relative to.
    epoch: Instant,
}

impl SerialLine {
    /// A new device, silent, that frames like this. Times are measured from `epoch` on.
    pub fn new(name: &str, framing: &'static str, epoch: Instant) -> Result<SerialLine> {
        let (mut device, held) = TTYPort::pair()?;
        device.set_timeout(PATIENCE)?;
        let path = held.name().ok_or("the terminal has no name")?.into();
        let (name, wire) = (name.to_owned(), Vec::new());
        Ok(SerialLine { name, device, _held: held, path, toml: framing, framing: framing_of(framing)?, wire, epoch })
    }

    /// What it is called in pillion.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a reader opens it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its section in pillion's configuration.
    pub fn section(&self) -> String {
        format!("[[serial]]\nname = {:?}\npath = {:?}\nbaud = 115200\nframing = {}\n", self.name, self.path, self.toml)
    }

    /// Sends a frame of 128 bytes, without what the framing adds, with this number and the time of now.
    pub fn send(&mut self, number: u64) -> Result<()> {
        let at = self.epoch.elapsed().as_nanos();
        let payload = format!("{{\"number\":{number:>10},\"at\":{at:>20},\"text\":\"{:x<71}\"}}", "");
        debug_assert_eq!(payload.len(), 128);
        self.wire.clear();
        encode(&self.framing, payload.as_bytes(), &mut self.wire)?;
        Ok(self.device.write_all(&self.wire)?)
    }
}

/// Sends frames numbered from 1 on over each of the lines, at a steady rate, the lines one after the other with equal
/// pauses. A thread that is late makes up for it, but leaves `quiet` between two frames.
pub fn send_steadily(lines: &mut [&mut SerialLine], frames: u64, period: Duration, quiet: Duration) -> Result<()> {
    let pause = period / u32::try_from(lines.len())?;
    let mut due = Instant::now();
    for number in 1..=frames {
        for line in lines.iter_mut() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            line.send(number)?;
            due += pause;
            if !quiet.is_zero() {
                due = due.max(Instant::now() + quiet);
            }
        }
    }
    Ok(())
}

/// The numbers in a message, whatever stands around them. Frames that came in one piece have several.
pub fn read_numbers(message: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut rest = message;
    while let Some(end) = end_of(rest, b"\"number\":") {
        rest = &rest[end..];
        numbers.extend(value_at(rest));
    }
    numbers
}

/// The time in a message.
pub fn read_time(message: &[u8]) -> Option<Duration> {
    Some(Duration::from_nanos(value_at(&message[end_of(message, b"\"at\":")?..])?))
}

fn end_of(message: &[u8], key: &[u8]) -> Option<usize> {
    Some(message.windows(key.len()).position(|window| window == key)? + key.len())
}

fn value_at(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text.split(|byte| *byte == b',').next()?).ok()?.trim().parse().ok()
}

/// What pillion reads in this.
fn framing_of(toml: &str) -> Result<Framing> {
    let device = format!("[[serial]]\nname = \"line\"\npath = \"/dev/line\"\nframing = {toml}\n");
    let text = format!("state_dir = \"/s\"\nruntime_dir = \"/r\"\n{device}");
    let source = Source::new("framing.toml", &text);
    let loaded = parse(&[source], &Surroundings::default(), Path::new("/"), &|_| false);
    let loaded = loaded.map_err(|problems| problems.to_string())?;
    Ok(loaded.config.serial.first().ok_or("no device")?.framing.clone())
}
