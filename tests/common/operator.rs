//! Whoever sends messages to the gateway through the broker.

use super::wire::Wire;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish};
use std::net::SocketAddr;

/// A client of the broker that only publishes.
pub struct Operator {
    wire: Wire,
    next: u16,
}

impl Operator {
    /// Connects.
    pub fn at(broker: SocketAddr) -> Self {
        let wire = Wire::connect(broker, &Connect::new(format!("operator-{}", fastrand::u64(..))));
        Operator { wire, next: 0 }
    }

    /// Returns when the broker has it.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, retain: bool) {
        self.next = self.next % 60_000 + 1;
        let publish = Publish::new(topic, QoS::AtLeastOnce, payload.as_ref().to_vec());
        self.wire.write(&Packet::Publish(Publish { pkid: self.next, retain, ..publish })).unwrap();
        assert!(matches!(self.wire.read().unwrap(), Some(Packet::PubAck(_))));
    }

    /// Has the broker forget what it keeps, with QoS 0: it queues that for nobody who is away. Returns when it is done.
    pub fn forget(&mut self, topic: &str) {
        let publish = Publish { retain: true, ..Publish::new(topic, QoS::AtMostOnce, Vec::new()) };
        self.wire.write(&Packet::Publish(publish)).unwrap();
        self.wire.write(&Packet::PingReq).unwrap();
        assert!(matches!(self.wire.read().unwrap(), Some(Packet::PingResp)));
    }

    /// Says good-bye.
    pub fn leave(mut self) {
        self.wire.write(&Packet::Disconnect).unwrap();
    }
}
