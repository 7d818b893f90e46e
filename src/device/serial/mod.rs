//! A serial device: its bytes become records on `device/NAME/data`.
//!
//! Constraints: the descriptor is dropped at the first sign of a hang-up, for a held one makes ttyUSB0 come back as
//! ttyUSB1. The port is opened by its path anew each time, so a link under `/dev/serial/by-id` is followed to wherever
//! the device has gone. Memory is one chunk, one frame and one submission. While an open port is silent there is no
//! timer and no wake-up but the pulse, except for one timer where a frame has begun that silence would end.
//!
//! States:
//!
//! ```text
//! Closed ── opened ──> Open ── hung up, failed ──> Backoff ── delay over ──> Closed
//!    └──────────────── not opened ────────────────────^
//! ```
//!
//! The back-off starts over only after the device has sent something: a port that opens and hangs up at once is not a
//! working one. A device that is plugged in again ends the wait at once, see `arrival`; one that comes and goes in silence,
//! after a quarter of a second.
//!
//! While the records' channel is full the port is not read. The kernel holds what it can, then makes the device
//! wait if flow control is configured; without it, what comes on top of that is lost, as on any serial line that
//! nobody reads.

mod arrival;
mod ioctl;
mod orders;
pub mod port;
mod silence;
mod trace;
mod usb;

use super::Wiring;
use crate::backoff::Backoff;
use crate::command::Order;
use crate::config::Serial;
use crate::frame::Decoder;
use crate::record::{Durability, Encoding, PayloadRule, Record, StreamId, Submission};
use crate::stats::{DeviceState, Direction, TraceRequest};
use arrival::Arrival;
use orders::{Next, Orders};
use port::Trouble;
use silence::Silence;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_serial::SerialStream;
use trace::Trace;

/// The delays between attempts to open: short enough for a plug that is put back, long enough to cost nothing.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Bytes for one read: what the kernel's line discipline buffers (`N_TTY_BUF_SIZE`).
const CHUNK: usize = 4096;

/// Records for one submission, so that a chunk of tiny lines doesn't become a big one.
const MAX_RECORDS: usize = 256;

/// Where the port stands. Whoever holds the stream is in `Open`.
enum State {
    /// Nothing is held; the port is about to be opened.
    Closed,
    /// The port is ours.
    Open(SerialStream),
    /// Nothing is held; the next attempt comes after a delay.
    Backoff,
}

/// Bridges one device until `wiring.stop` becomes true or nobody takes its records any more.
///
/// On a stop the frames that were read are handed over, which takes as long as `wiring.submissions` is full; a frame
/// that has begun is dropped and counted as incomplete.
pub async fn run(config: Serial, wiring: Wiring) {
    let mut device = Device::new(config, wiring);
    let mut state = State::Closed;
    loop {
        let next = match state {
            // One attempt. It is made on the runtime's thread, since it never waits for the device.
            State::Closed => Some(device.open()),
            // Bytes become records until the port hangs up; then it is closed before anything else.
            State::Open(port) => device.bridge(port).await,
            // The device is away or unusable.
            State::Backoff => device.wait().await,
        };
        match next {
            Some(next) => state = next,
            None => return device.stopped().await,
        }
    }
}

struct Device {
    config: Serial,
    topic: String,
    wiring: Wiring,
    orders: Orders,
    decoder: Decoder,
    silence: Silence,
    backoff: Backoff,
    trace: Trace,
    /// Where the port is that was opened last.
    path: PathBuf,
    /// Whether it has said anything.
    has_spoken: bool,
}

/// What ended the reading of a chunk.
enum Input {
    /// This many bytes are in the chunk, at least one.
    Bytes(usize),
    /// None came for as long as the decoder wanted to know of.
    Silence,
    /// The port is of no use any more.
    Lost(Trouble),
    /// This order is due.
    Order(Order),
    /// The task shall end.
    Stop,
}

impl Device {
    fn new(config: Serial, mut wiring: Wiring) -> Self {
        // What stays in the wiring takes nothing.
        let receiver = std::mem::replace(&mut wiring.orders, mpsc::channel(1).1);
        let patience = config.commands.as_ref().and_then(|commands| commands.reply);
        let orders = Orders::new(receiver, patience, wiring.clock);
        let topic = format!("device/{}/data", config.name);
        let decoder = Decoder::new(&config.framing);
        let backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let (silence, trace, path) = (Silence::default(), Trace::default(), config.line.path.clone());
        Device { config, topic, wiring, orders, decoder, silence, backoff, trace, path, has_spoken: false }
    }

    /// State Closed: `Open`, or `Backoff` if that did not work.
    fn open(&mut self) -> State {
        match port::open(&self.config.line) {
            Ok((port, path)) => {
                self.path = path;
                self.report(DeviceState::Online, None);
                self.has_spoken = false;
                State::Open(port)
            }
            Err(trouble) => {
                self.report(DeviceState::Offline, Some(trouble.to_string()));
                State::Backoff
            }
        }
    }

    /// State Open: `Backoff` when the port is lost, `None` when the task shall end. The port is closed in both cases.
    async fn bridge(&mut self, mut port: SerialStream) -> Option<State> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.read(&mut port, &mut chunk).await {
                Input::Bytes(count) => {
                    self.backoff.reset();
                    self.has_spoken = true;
                    let bytes = chunk.get(..count).unwrap_or_default();
                    self.trace.note((self.wiring.clock)(), Direction::Received, bytes);
                    self.submit(bytes).await?;
                }
                Input::Silence => {
                    self.decoder.silence();
                    self.submit(&[]).await?;
                }
                Input::Order(order) => {
                    let sent = self.orders.perform(order, &mut port, &self.config.framing).await;
                    self.trace.note((self.wiring.clock)(), Direction::Sent, &sent);
                }
                Input::Lost(trouble) => {
                    drop(port);
                    self.orders.give_up_answer(&trouble.to_string());
                    self.decoder.cut_off();
                    self.submit(&[]).await?;
                    self.report(DeviceState::Offline, Some(trouble.to_string()));
                    return Some(State::Backoff);
                }
                Input::Stop => return None,
            }
        }
    }

    /// State Backoff: `Closed` when the delay is over, `None` when the task shall end.
    async fn wait(&mut self) -> Option<State> {
        let delay = tokio::time::sleep(self.backoff.next(fastrand::f64()));
        tokio::pin!(delay);
        let mut arrival = Arrival::watch(&port::places(&self.config.line));
        // A bad plug comes and goes.
        let pause = if self.has_spoken { Duration::ZERO } else { FIRST_DELAY };
        let earliest = Instant::now() + pause;
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.wiring.stop) => return None,
                () = self.wiring.pulse.answer() => {}
                () = &mut delay => return Some(State::Closed),
                () = arrived(&mut arrival, earliest) => return Some(State::Closed),
                Some(request) = self.wiring.traces.recv() => answer(request, &self.trace),
                next = self.orders.next() => if let Next::Order(order) = next {
                    let reason = self.wiring.status.borrow().reason.clone().unwrap_or_default();
                    orders::refuse(&order, &format!("the device is not open: {reason}; nothing was done"));
                },
            }
        }
    }

    /// The task ends.
    async fn stopped(&mut self) {
        self.orders.stop();
        self.decoder.cut_off();
        // Nobody may take records any more; what is left is counted all the same.
        let _ = self.submit(&[]).await;
        self.report(DeviceState::Offline, Some("pillion is stopping".to_owned()));
    }

    /// Waits for bytes, or for the silence that the decoder asks for, answering the pulse meanwhile. Bytes that are
    /// there go first: while they waited for us the line was not silent.
    async fn read(&mut self, port: &mut SerialStream, chunk: &mut [u8]) -> Input {
        self.silence.begin(self.decoder.patience());
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.wiring.stop) => return Input::Stop,
                () = self.wiring.pulse.answer() => {}
                result = port.read(chunk) => return match result {
                    // The end of a terminal: it has hung up.
                    Ok(0) => Input::Lost(Trouble::HungUp(self.path.clone())),
                    Ok(count) => Input::Bytes(count),
                    Err(error) => Input::Lost(port::of_read(&self.path, &error)),
                },
                () = self.silence.over() => return Input::Silence,
                Some(request) = self.wiring.traces.recv() => answer(request, &self.trace),
                next = self.orders.next() => match next {
                    Next::Order(order) => return Input::Order(order),
                    Next::NoAnswer => {
                        let patience = self.orders.patience();
                        self.orders.give_up_answer(&format!("no answer within {patience:?}"));
                    }
                },
            }
        }
    }

    /// Hands over the frames that `chunk` completes, together where possible. `None` if nobody takes records any more.
    async fn submit(&mut self, mut chunk: &[u8]) -> Option<()> {
        let bytes = chunk.len();
        let time = (self.wiring.clock)();
        let mut records = Vec::new();
        let mut not_text = 0;
        while let Some(frame) = self.decoder.next(&mut chunk) {
            let encoding = self.config.payload.encoding_of(frame);
            self.orders.frame(frame, encoding);
            not_text += u64::from(encoding == Encoding::Base64 && self.config.payload != PayloadRule::Base64);
            records.push(Record { topic: self.topic.clone(), time, encoding, data: frame.to_vec() });
            if records.len() == MAX_RECORDS {
                self.send(std::mem::take(&mut records)).await?;
            }
        }
        self.count(bytes, not_text);
        if !records.is_empty() {
            self.send(records).await?;
        }
        Some(())
    }

    /// Waits for room and hands the records over. `None` if nobody takes records any more.
    async fn send(&self, records: Vec<Record>) -> Option<()> {
        let submission = Submission {
            stream: StreamId::TELEMETRY,
            records,
            durability: Durability::Window,
            note: None,
            reply: None,
        };
        self.wiring.submissions.send(submission).await.ok()
    }

    /// Brings the status' counters up to date and wakes nobody for it.
    fn count(&self, bytes: usize, not_text: u64) {
        let seen = self.decoder.counters();
        self.wiring.status.send_if_modified(|status| {
            status.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
            status.last_ms = if bytes > 0 { Some((self.wiring.clock)().wall_ms) } else { status.last_ms };
            status.not_text += not_text;
            status.frames = seen.frames;
            status.oversize = seen.oversize;
            status.empty = seen.empty;
            status.incomplete = seen.incomplete;
            status.damaged = seen.damaged;
            status.resyncs = seen.resyncs;
            false
        });
    }

    /// Enters the state in the status. Receivers are woken and a line is logged if state or reason are news; a port
    /// that stays away for the same reason is reported once.
    fn report(&self, state: DeviceState, reason: Option<String>) {
        let now = (self.wiring.clock)().wall_ms;
        let (device, path) = (self.config.name.as_str(), self.path.display());
        let is_news = self.wiring.status.send_if_modified(|status| {
            status.opens += u64::from(state == DeviceState::Online);
            status.enter(state, reason.as_deref(), now)
        });
        match reason {
            _ if !is_news => {}
            // The daemon says so itself.
            Some(_) if *self.wiring.stop.borrow() => {}
            Some(reason) => tracing::warn!(device, %path, "device {device} is offline: {reason}"),
            None => tracing::info!(device, %path, "device {device} is online: {path}"),
        }
    }
}

/// Whoever asked may have gone.
fn answer(request: TraceRequest, trace: &Trace) {
    let _ = request.send(trace.entries());
}

/// Something has appeared where the device may be. Cancel-safe, but for the event.
async fn arrived(arrival: &mut Arrival, earliest: Instant) {
    arrival.changed().await;
    sleep_until(earliest).await;
}

/// Returns when the task shall end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it whoever could have stopped us.
    let _ = stop.wait_for(|stop| *stop).await;
}
