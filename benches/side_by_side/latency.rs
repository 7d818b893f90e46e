//! How late the frames of serial lines are behind the broker.
//!
//! Each frame carries a number and the time at which it was written; the observer subtracts that from the time at which
//! it read the message.

use super::Result;
use super::broker::Broker;
use super::serial_line::{SerialLine, read_numbers, read_time};
use super::sidecar::PREFIX;
use super::subscriber::Subscriber;
use super::tally::quantile;
use std::time::{Duration, Instant};

/// The number of frames that are not measured.
pub const UNMEASURED: u64 = 0;
/// How long a contender may take until its first frame arrives.
const START: Duration = Duration::from_secs(20);
/// Until every frame that is still under way has come, or never will.
const LATE: Duration = Duration::from_millis(300);

/// The topic below the prefix on which a line's frames arrive.
pub fn topic(line: &str) -> String {
    format!("device/{line}/data")
}

/// What the frames of one run have shown.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Of each frame that came as it was sent, in milliseconds.
    ms: Vec<f64>,
    /// Frames that came in one piece with another, or never.
    pub spoilt: u64,
}

impl Latencies {
    pub fn median(&self) -> f64 {
        quantile(&self.ms, 0.5)
    }

    pub fn late(&self) -> f64 {
        quantile(&self.ms, 0.99)
    }
}

/// What the observer tells.
enum Seen {
    /// A frame that is not measured, of the line with this index.
    Unmeasured(usize),
    /// Every frame of every line has come.
    All(Latencies),
}

/// Looks on behind the broker.
pub struct Watch {
    subscriber: Subscriber<Seen>,
}

/// Where one line stands.
struct Line {
    topic: String,
    next: u64,
}

impl Watch {
    /// Waits for frames 1 to `frames` of each of these lines, whose times are relative to `epoch`.
    pub fn start(broker: &Broker, epoch: Instant, lines: &[&SerialLine], frames: u64) -> Result<Watch> {
        let start = |line: &&SerialLine| Line { topic: format!("{PREFIX}/{}", topic(line.name())), next: 1 };
        let mut lines: Vec<Line> = lines.iter().map(start).collect();
        let topics: Vec<String> = lines.iter().map(|line| line.topic.clone()).collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut seen = Latencies::default();
        let subscriber = Subscriber::start(broker.port(), &topics, move |publish, at| {
            let index = lines.iter().position(|line| line.topic == publish.topic)?;
            let line = lines.get_mut(index)?;
            let numbers = read_numbers(&publish.payload);
            let (first, last) = (*numbers.first()?, *numbers.last()?);
            if last == UNMEASURED {
                // Behind the measured ones: what has not come by now never will.
                let over = line.next > 1 && line.next <= frames;
                seen.spoilt += if over { frames + 1 - line.next } else { 0 };
                line.next = if over { frames + 1 } else { line.next };
                if !over {
                    return Some(Seen::Unmeasured(index));
                }
            } else if first < line.next {
                return None;
            } else {
                let sent = read_time(&publish.payload)?;
                let whole = numbers.len() == 1;
                seen.spoilt += first - line.next + if whole { 0 } else { last + 1 - first };
                if whole {
                    seen.ms.push((at - epoch).saturating_sub(sent).as_secs_f64() * 1000.0);
                }
                line.next = last + 1;
            }
            lines.iter().all(|line| line.next > frames).then(|| Seen::All(std::mem::take(&mut seen)))
        })?;
        Ok(Watch { subscriber })
    }

    /// Sends frames until one of each line has come through: a terminal that is being opened may drop what was written
    /// before.
    pub fn wait_for_first(&self, lines: &mut [&mut SerialLine]) -> Result<()> {
        let deadline = Instant::now() + START;
        for (index, line) in lines.iter_mut().enumerate() {
            loop {
                line.send(UNMEASURED)?;
                match self.subscriber.result_within(Duration::from_millis(100))? {
                    Some(Seen::Unmeasured(seen)) if seen == index => break,
                    _ if Instant::now() < deadline => {}
                    _ => return Err(format!("no frame came through within {} s", START.as_secs()).into()),
                }
            }
        }
        Ok(())
    }

    /// Waits until all have come, each as it was sent.
    pub fn all(&self) -> Result<Latencies> {
        loop {
            if let Seen::All(latencies) = self.subscriber.result()? {
                return match latencies.spoilt {
                    0 => Ok(latencies),
                    spoilt => Err(format!("{spoilt} frames did not come, or not as they were sent").into()),
                };
            }
        }
    }

    /// Waits until what is under way on this line has come, though frames may have been spoilt.
    pub fn rest(&self, line: &mut SerialLine) -> Result<Latencies> {
        std::thread::sleep(LATE);
        line.send(UNMEASURED)?;
        loop {
            if let Seen::All(latencies) = self.subscriber.result()? {
                return Ok(latencies);
            }
        }
    }
}
