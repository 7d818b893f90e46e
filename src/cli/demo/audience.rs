//! The demo's consumer: subscribes at the broker and keeps count of what arrives, as a consumer in the field would.

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde::Deserialize;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// How long the broker may take to come up.
const SEATING: Duration = Duration::from_secs(10);
/// Messages that wait for being counted; more stay with the broker.
const WAITING: usize = 256;

/// A message as it arrived.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: String,
}

/// Subscribes to `demo/#` and passes on what arrives. Returns once the broker has confirmed it, so that nothing is missed.
///
/// # Errors
/// The broker didn't come up.
pub(super) async fn subscribe(broker: SocketAddr) -> Result<mpsc::Receiver<Message>, String> {
    let mut options = MqttOptions::new("demo-subscriber", broker.ip().to_string(), broker.port());
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, WAITING);
    client.subscribe("demo/#", QoS::AtLeastOnce).await.map_err(|error| error.to_string())?;
    let confirmed = timeout(SEATING, confirmation(&mut events)).await;
    confirmed.map_err(|_| format!("the broker of the demo at {broker} did not come up"))?;
    let (messages, received) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        // Events end with their last client.
        let _client = client;
        listen(events, messages).await;
    });
    Ok(received)
}

/// Until the broker has taken the subscription; it may not listen yet.
async fn confirmation(events: &mut EventLoop) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::SubAck(_))) => return,
            Ok(_) => {}
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Until nobody wants to know any more, or the broker is gone.
async fn listen(mut events: EventLoop, messages: mpsc::Sender<Message>) {
    while let Ok(event) = events.poll().await {
        let Event::Incoming(Packet::Publish(publish)) = event else { continue };
        let payload = String::from_utf8_lossy(&publish.payload).into_owned();
        if messages.send(Message { topic: publish.topic, payload }).await.is_err() {
            return;
        }
    }
}

/// What a consumer sees of the envelope of a record.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    data: Measurement,
}

/// What the sensor says.
#[derive(Deserialize)]
struct Measurement {
    n: u64,
}

/// Which of the sensor's measurements arrived, and what arrived twice.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ids: HashSet<String>,
    numbers: HashSet<u64>,
    /// Records whose id had arrived before.
    pub(super) repeated: usize,
}

impl Tally {
    /// Counts a record of the sensor.
    pub(super) fn count(&mut self, payload: &str) {
        let Ok(Envelope { id, data }) = serde_json::from_str(payload) else { return };
        self.numbers.insert(data.n);
        if !self.ids.insert(id) {
            self.repeated += 1;
        }
    }

    /// Measurements that arrived at least once.
    pub(super) fn received(&self) -> usize {
        self.numbers.len()
    }

    /// Measurements 1 to `sent` that did not arrive.
    pub(super) fn lost(&self, sent: u32) -> usize {
        (1..=u64::from(sent)).filter(|n| !self.numbers.contains(n)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_record_never_hides_a_lost_one() {
        let mut tally = Tally::default();
        for (id, n) in [(1, 1), (2, 2), (2, 2), (4, 4), (5, 4)] {
            tally.count(&format!(r#"{{"id":"telemetry:{id}","ts":"…","data":{{"n":{n},"celsius":20.0}}}}"#));
        }
        tally.count("no JSON");
        assert_eq!((tally.received(), tally.repeated), (3, 1));
        assert_eq!((tally.lost(4), tally.lost(6), tally.lost(0)), (1, 3, 0));
    }
}
