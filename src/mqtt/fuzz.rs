//! The decoders of what a broker sends, for the fuzz targets in `fuzz/`.
//!
//! Constraint: no part of the interface; nothing else calls it.

use super::v4::V4;
use super::v5::V5;
use super::{Dialect, Purpose, Session, transport};
use crate::config::{MqttVersion, Server};
use bytes::BytesMut;
use std::time::Duration;

/// Cuts the bytes into packets of at most `max` bytes, and reads each as an answer to CONNECT and as what comes behind it, in both
/// versions. Returns how many there were before the first that is none.
pub fn packets(bytes: &[u8], max: usize) -> usize {
    let server = Server { tls: false, websocket: None, host: "broker".to_owned(), port: 1883 };
    let session = Session {
        version: MqttVersion::V5,
        client_id: "client".to_owned(),
        credentials: None,
        keep_alive: Duration::from_secs(30),
        max_payload: max,
        purpose: Purpose::Commands { clean: false, will: None },
    };
    let mut dialects: [Box<dyn Dialect>; 2] = [Box::new(V4 { max_outgoing: max }), Box::new(V5::new(&server, max))];
    let mut buffer = BytesMut::from(bytes);
    let mut count = 0;
    while let Ok(Some(packet)) = transport::split(&mut buffer, max) {
        count += 1;
        for dialect in &mut dialects {
            let _: Result<_, _> = dialect.accepted(packet.clone(), &session);
            let _: Result<_, _> = dialect.receive(packet.clone());
        }
    }
    count
}
