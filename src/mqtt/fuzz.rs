//! The decoders of what a broker sends, for the fuzz targets in `fuzz/`.
//!
//! Constraint: no part of the interface; nothing else calls it.

use super::v4::V4;
use super::v5::V5;
use super::websocket::frame::{Decoder, Seen};
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

/// What a WebSocket server has sent, as it came in chunks of so many bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The bytes of MQTT.
    pub payload: Vec<u8>,
    /// What each ping held.
    pub pings: Vec<Vec<u8>>,
    /// A close frame has come, with this status code.
    pub closed: Option<Option<u16>>,
    /// It sent what no server may send.
    pub is_wrong: bool,
}

/// Reads frames until there are no more, or the stream has ended.
pub fn frames(bytes: &[u8], chunk: usize) -> Heard {
    let (mut decoder, mut heard) = (Decoder::default(), Heard::default());
    for chunk in bytes.chunks(chunk.max(1)) {
        decoder.incoming().extend_from_slice(chunk);
        loop {
            match decoder.next(usize::MAX) {
                Ok(Seen::Payload(payload)) => heard.payload.extend_from_slice(&payload),
                Ok(Seen::Ping(payload)) => heard.pings.push(payload.to_vec()),
                Ok(Seen::Incomplete) => break,
                Ok(Seen::Close(code)) => {
                    heard.closed = Some(code);
                    return heard;
                }
                Err(_) => {
                    heard.is_wrong = true;
                    return heard;
                }
            }
        }
    }
    heard
}
