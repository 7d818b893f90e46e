//! One request and its answer on the serial port.
//!
//! Constraints: a request is sent only after the line was silent for the gap, and whatever was heard until then is
//! thrown away: in the kernel's buffer, too, it can't be an answer to a request that is not sent yet. How long the bytes
//! themselves take is added to the time-out, for it is about the unit and not about the baud rate.

use super::rtu::{self, Answer, Found, MAX_FRAME, Miss, Request};
use crate::config::modbus::{Bus, characters};
use crate::device::serial::port::{self, Trouble};
use crate::pulse::Pulse;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_serial::{ClearBuffer, SerialPort, SerialStream};

/// The most that is kept of what is heard in answer to one request; what comes on top of it is thrown away.
const HEARD: usize = 4 * MAX_FRAME;
/// How long the line may be noisy without a gap before it is of no use. A whole frame takes 1.2 s at 2400 baud.
const NOISE: Duration = Duration::from_secs(5);

/// Why the line can't be used on.
#[derive(Debug)]
pub enum End {
    /// The port is of no use any more.
    Lost(Trouble),
    /// The task shall end.
    Stop,
}

/// What came of a request.
#[derive(Debug)]
pub struct Outcome {
    /// The answer, or what there was instead.
    pub result: Result<Answer, Miss>,
    /// Whole frames of others.
    pub strays: u64,
    /// Bytes received, before the request too.
    pub bytes: u64,
}

/// What a task hears while it waits for the line.
#[derive(Debug)]
pub struct Ears {
    /// Answered while waiting.
    pub pulse: Pulse,
    /// Ends the waiting.
    pub stop: watch::Receiver<bool>,
}

/// An open port with a bus behind it.
#[derive(Debug)]
pub struct Line {
    port: SerialStream,
    path: PathBuf,
    baud: u32,
    timeout: Duration,
    gap: Duration,
    /// When the line was last not silent, as far as we know.
    busy: Instant,
    /// Bytes that were thrown away since the last request.
    ignored: u64,
}

impl Line {
    /// Opens the port of this bus.
    pub fn open(bus: &Bus) -> Result<Self, Trouble> {
        let (port, path) = port::open(&bus.line)?;
        Ok(Line {
            port,
            path,
            baud: bus.line.baud,
            timeout: bus.timeout,
            gap: bus.gap,
            busy: Instant::now(),
            ignored: 0,
        })
    }

    /// Sends a request and waits for its answer.
    pub async fn exchange(&mut self, unit: u8, request: &Request, ears: &mut Ears) -> Result<Outcome, End> {
        self.await_silence(ears).await?;
        let frame = request.frame(unit);
        self.send(&frame, ears).await?;
        let first = Instant::now() + self.duration(frame.len()) + self.timeout;
        let whole = first + self.duration(request.answer_length());
        let mut heard = Vec::with_capacity(MAX_FRAME);
        let mut chunk = [0; MAX_FRAME];
        loop {
            let deadline = if heard.is_empty() { first } else { whole };
            let Some(count) = self.read(&mut chunk, Some(deadline), ears).await? else { break };
            let room = HEARD.saturating_sub(heard.len());
            heard.extend(chunk.iter().take(count.min(room)));
            if let Some(Found { answer, before }) = request.find(unit, &heard) {
                // What came before it may be a late answer, or noise.
                let (_, strays) = rtu::account(unit, heard.get(..before).unwrap_or_default());
                return Ok(self.outcome(Ok(answer), strays, heard.len()));
            }
        }
        let (miss, strays) = rtu::account(unit, &heard);
        Ok(self.outcome(Err(miss), strays, heard.len()))
    }

    /// Listens until `until`, and throws away what is heard. Cancel-safe.
    pub async fn listen(&mut self, until: Option<Instant>, ears: &mut Ears) -> Result<(), End> {
        let mut chunk = [0; MAX_FRAME];
        while let Some(count) = self.read(&mut chunk, until, ears).await? {
            self.ignored += u64::try_from(count).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Listens until nothing was heard for the gap, and nothing waits in the kernel's buffer.
    async fn await_silence(&mut self, ears: &mut Ears) -> Result<(), End> {
        let limit = Instant::now() + NOISE;
        let mut chunk = [0; MAX_FRAME];
        loop {
            let until = self.busy + self.gap;
            if until > limit {
                let error = "something talks on it without a pause; look for a second master or a faulty unit";
                return Err(End::Lost(Trouble::Failed { path: self.path.clone(), error: error.to_owned() }));
            }
            if let Some(count) = self.read(&mut chunk, Some(until), ears).await? {
                self.ignored += u64::try_from(count).unwrap_or(u64::MAX);
                continue;
            }
            // The event loop may not have heard of the latest bytes yet; the kernel has.
            match self.port.bytes_to_read() {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.ignored += u64::from(count);
                    self.port.clear(ClearBuffer::Input).map_err(|error| self.lost(&error.into()))?;
                    self.busy = Instant::now();
                }
                Err(error) => return Err(self.lost(&error.into())),
            }
        }
    }

    /// Hands the whole frame to the kernel.
    async fn send(&mut self, frame: &[u8], ears: &mut Ears) -> Result<(), End> {
        let duration = self.duration(frame.len());
        // A port that takes nothing for this long, such as one whose driver hangs, is of no use.
        let limit = Instant::now() + duration + NOISE;
        tokio::select! {
            biased;
            () = stopped(&mut ears.stop) => return Err(End::Stop),
            result = self.port.write_all(frame) => result.map_err(|error| self.lost(&error))?,
            () = sleep_until(limit) => {
                let error = "it takes no bytes to send".to_owned();
                return Err(End::Lost(Trouble::Failed { path: self.path.clone(), error }));
            }
        }
        self.busy = Instant::now() + duration;
        Ok(())
    }

    /// Waits for bytes, at least one; `None` when the deadline passes first. Bytes that are there already are read
    /// even when it has passed.
    async fn read(
        &mut self,
        chunk: &mut [u8],
        deadline: Option<Instant>,
        ears: &mut Ears,
    ) -> Result<Option<usize>, End> {
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut ears.stop) => return Err(End::Stop),
                () = ears.pulse.answer() => {}
                result = self.port.read(chunk) => return match result {
                    // The end of a terminal: it has hung up.
                    Ok(0) => Err(End::Lost(Trouble::HungUp(self.path.clone()))),
                    Ok(count) => {
                        self.busy = self.busy.max(Instant::now());
                        Ok(Some(count))
                    }
                    Err(error) => Err(self.lost(&error)),
                },
                () = passed(deadline) => return Ok(None),
            }
        }
    }

    fn lost(&self, error: &io::Error) -> End {
        End::Lost(port::of_read(&self.path, error))
    }

    fn outcome(&mut self, result: Result<Answer, Miss>, strays: u64, heard: usize) -> Outcome {
        let bytes = std::mem::take(&mut self.ignored).saturating_add(u64::try_from(heard).unwrap_or(u64::MAX));
        Outcome { result, strays, bytes }
    }

    /// How long so many bytes take on the line.
    fn duration(&self, bytes: usize) -> Duration {
        characters(u32::try_from(bytes).unwrap_or(u32::MAX), self.baud)
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Returns when the task shall end.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have stopped us.
    let _ = stop.wait_for(|stop| *stop).await;
}
