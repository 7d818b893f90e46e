//! Orders for a serial device: their bytes go out as a frame, and the next frame that comes in is the answer.
//!
//! Constraints: one order at a time; none is begun at its deadline or later, nor while the port is not open. What has
//! been written even in part may have been carried out, and the report says so. Where an answer is awaited, the next
//! order waits for it. A frame that is an answer is a record of the device as any other.

use crate::command::{Data, Order, Progress};
use crate::config::{Framing, FramingKind};
use crate::frame;
use crate::record::{Clock, Encoding};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// How long the device may take to let us write a frame: flow control, or a slow line with much to say.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// The device's orders, and the one that waits for its answer.
pub(super) struct Orders {
    orders: mpsc::Receiver<Order>,
    /// How long an answer may take; `None`: none is awaited.
    patience: Option<Duration>,
    clock: Clock,
    awaiting: Option<Awaiting>,
}

struct Awaiting {
    progress: mpsc::Sender<Progress>,
    until: Instant,
}

/// What there is to be done.
pub(super) enum Next {
    /// This order is due.
    Order(Order),
    /// No answer has come in time.
    NoAnswer,
}

impl Orders {
    pub(super) fn new(orders: mpsc::Receiver<Order>, patience: Option<Duration>, clock: Clock) -> Self {
        Orders { orders, patience, clock, awaiting: None }
    }

    /// Waits for the next thing to be done; for ever where no order can come any more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Next {
        if let Some(awaiting) = &self.awaiting {
            sleep_until(awaiting.until).await;
            return Next::NoAnswer;
        }
        match self.orders.recv().await {
            Some(order) => Next::Order(order),
            None => std::future::pending().await,
        }
    }

    /// Writes an order to the open port, or says why not. After an error in writing the port tells by itself what it
    /// is. Returns what may be on the wire.
    pub(super) async fn perform(
        &mut self,
        order: Order,
        port: &mut (impl AsyncWrite + Unpin),
        framing: &Framing,
    ) -> Vec<u8> {
        let Order { data, expires_ms, progress } = order;
        let bytes = match encode(data, framing) {
            Ok(bytes) => bytes,
            Err(reason) => {
                report(&progress, Progress::Refused(reason));
                return Vec::new();
            }
        };
        if (self.clock)().mono_ms >= expires_ms {
            report(&progress, Progress::Expired);
            return Vec::new();
        }
        let written = timeout(WRITE_TIME, async {
            port.write_all(&bytes).await?;
            port.flush().await
        });
        match (written.await, self.patience) {
            (Ok(Ok(())), None) => report(&progress, Progress::Done),
            (Ok(Ok(())), Some(patience)) => {
                report(&progress, Progress::Written);
                self.awaiting = Some(Awaiting { progress, until: Instant::now() + patience });
            }
            (Ok(Err(error)), _) => {
                let reason = format!("it can't be written: {error}; nobody knows whether it was done");
                report(&progress, Progress::Failed(reason));
            }
            (Err(_), _) => {
                let reason = format!(
                    "the device did not take it within {} s; nobody knows whether it was done",
                    WRITE_TIME.as_secs()
                );
                report(&progress, Progress::Failed(reason));
            }
        }
        bytes
    }

    /// A frame has come in. It is the answer, if one is awaited.
    pub(super) fn frame(&mut self, frame: &[u8], encoding: Encoding) {
        if let Some(Awaiting { progress, .. }) = self.awaiting.take() {
            report(&progress, Progress::Replied { data: frame.to_vec(), encoding });
        }
    }

    /// No answer has come, or none can come any more.
    pub(super) fn give_up_answer(&mut self, why: &str) {
        if let Some(Awaiting { progress, .. }) = self.awaiting.take() {
            report(&progress, Progress::Failed(format!("{why}; nobody knows whether it was done")));
        }
    }

    /// How long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience.unwrap_or_default()
    }

    /// Ends all orders that wait.
    pub(super) fn stop(&mut self) {
        self.give_up_answer("pillion stopped before the device answered");
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            refuse(&order, "pillion is stopping; it was not done");
        }
    }
}

/// An order that can't be begun.
pub(super) fn refuse(order: &Order, why: &str) {
    report(&order.progress, Progress::Failed(why.to_owned()));
}

/// There is always room for the reports of one order; whoever has gone does not miss them.
fn report(progress: &mpsc::Sender<Progress>, report: Progress) {
    let _ = progress.try_send(report);
}

/// The bytes of a frame.
fn encode(data: Data, framing: &Framing) -> Result<Vec<u8>, String> {
    let bytes = data.into_bytes();
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    // Devices take either for the end of a line, whatever the delimiter: that would be a way around the list of what is allowed.
    if matches!(framing.kind, FramingKind::Lines { .. }) && bytes.iter().any(is_end) {
        return Err("a line can't hold an end of line; send one command for each line".to_owned());
    }
    let mut frame = Vec::new();
    frame::encode(framing, &bytes, &mut frame).map_err(|error| error.to_string())?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ClockQuality, Timestamp};
    use tokio::io::AsyncReadExt;

    fn orders(patience: Option<Duration>) -> (Orders, mpsc::Sender<Order>) {
        let (sender, receiver) = mpsc::channel(4);
        let clock = || Timestamp { wall_ms: 0, mono_ms: 100, quality: ClockQuality::Unsynced };
        (Orders::new(receiver, patience, clock), sender)
    }

    fn order(data: &[u8], expires_ms: u64) -> (Order, mpsc::Receiver<Progress>) {
        let (progress, reports) = mpsc::channel(crate::command::PROGRESS);
        (Order { data: Data::Bytes(data.to_vec()), expires_ms, progress }, reports)
    }

    #[tokio::test]
    async fn what_is_late_or_two_lines_never_reaches_the_wire() {
        let (mut orders, _sender) = orders(None);
        let (mut near, mut far) = tokio::io::duplex(64);
        for (data, expires_ms) in [(&b"on"[..], 100), (b"on\nreboot", 200), (b"on\rreboot", 200), (&[b'x'; 17], 200)] {
            let (order, mut reports) = order(data, expires_ms);
            orders.perform(order, &mut near, &Framing::lines(16)).await;
            let report = reports.recv().await.unwrap();
            assert!(matches!(report, Progress::Expired | Progress::Refused(_)), "{report:?}");
            assert_eq!(reports.recv().await, None);
        }
        let (order, mut reports) = order(b"on", 101);
        orders.perform(order, &mut near, &Framing::lines(16)).await;
        assert_eq!(reports.recv().await, Some(Progress::Done));
        drop(near);
        let mut wire = Vec::new();
        far.read_to_end(&mut wire).await.unwrap();
        assert_eq!(wire, b"on\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_takes_nothing_never_holds_the_task_for_long() {
        let (mut orders, _sender) = orders(None);
        let (mut near, _far) = tokio::io::duplex(2);
        let (order, mut reports) = order(b"status", 200);
        let since = Instant::now();
        orders.perform(order, &mut near, &Framing::lines(16)).await;
        assert_eq!(since.elapsed(), WRITE_TIME);
        let report = reports.recv().await.unwrap();
        assert!(matches!(&report, Progress::Failed(reason) if reason.contains("nobody knows")), "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_never_goes_to_another_order() {
        let (mut orders, sender) = orders(Some(Duration::from_millis(500)));
        let (mut near, _far) = tokio::io::duplex(64);
        orders.frame(b"noise", Encoding::Text);
        let (first, mut reports) = order(b"a?", 200);
        let (second, mut later) = order(b"b?", 200);
        sender.send(second).await.unwrap();
        orders.perform(first, &mut near, &Framing::lines(16)).await;
        assert_eq!(reports.recv().await, Some(Progress::Written));
        assert!(matches!(orders.next().await, Next::NoAnswer), "the second waits for the first");
        orders.give_up_answer("no answer");
        assert!(matches!(reports.recv().await, Some(Progress::Failed(_))));
        let Next::Order(second) = orders.next().await else { panic!("its turn") };
        orders.perform(second, &mut near, &Framing::lines(16)).await;
        orders.frame(b"yes", Encoding::Text);
        orders.frame(b"again", Encoding::Text);
        assert_eq!(later.recv().await, Some(Progress::Written));
        let answer = Progress::Replied { data: b"yes".to_vec(), encoding: Encoding::Text };
        assert_eq!((later.recv().await, later.recv().await), (Some(answer), None));
    }

    #[tokio::test]
    async fn a_stop_never_leaves_an_order_without_a_word() {
        let (mut orders, sender) = orders(Some(Duration::from_secs(1)));
        let (mut near, _far) = tokio::io::duplex(64);
        let (first, mut reports) = order(b"a?", 200);
        let (second, mut later) = order(b"b?", 200);
        orders.perform(first, &mut near, &Framing::lines(16)).await;
        sender.send(second).await.unwrap();
        orders.stop();
        assert_eq!(reports.recv().await, Some(Progress::Written));
        assert!(matches!(reports.recv().await, Some(Progress::Failed(reason)) if reason.contains("nobody knows")));
        assert!(matches!(later.recv().await, Some(Progress::Failed(reason)) if reason.contains("not done")));
    }
}
