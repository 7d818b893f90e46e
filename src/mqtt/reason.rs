//! MQTT 5: what a broker says with a reason code, in words that say what to do. Pure.
//!
//! Reason codes are read here and not by rumqttc, which knows some of them only and takes a packet with another one for no MQTT,
//! and a DISCONNECT without a reason too; a broker's word is never a reason to lose the connection.
//!
//! Format (MQTT 5 sections 2.2.2 and 2.4): a byte with the code, then the properties: their length as a variable byte integer,
//! then for each a byte that says which it is, and its value. Code and properties may be missing at the end: success.

use super::LinkError;
use std::fmt;

/// No more characters of what a broker says are shown.
const MOST_TEXT: usize = 200;

/// A value of a property, as far as it is of use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Property {
    /// Of one to four bytes.
    Number(u32),
    /// UTF-8, or what is nearest to it.
    Text(String),
    /// Anything else.
    Other,
}

/// Session expiry interval.
pub(super) const SESSION_EXPIRY: u8 = 0x11;
/// Assigned client identifier.
pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
/// Server keep alive.
pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
/// Server reference.
const SERVER_REFERENCE: u8 = 0x1c;
/// Reason string.
const REASON_STRING: u8 = 0x1f;
/// Receive maximum.
pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
/// Topic alias maximum.
pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
/// Maximum QoS.
pub(super) const MAXIMUM_QOS: u8 = 0x24;
/// Retain available.
pub(super) const RETAIN_AVAILABLE: u8 = 0x25;
/// Maximum packet size.
pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// A reason, with whatever the broker adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    /// 0x80 and above: it does not want to.
    pub(super) code: u8,
    /// By the number of each, in their order.
    pub(super) properties: Vec<(u8, Property)>,
}

impl Reason {
    /// Reads code and properties.
    pub(super) fn read(bytes: &[u8]) -> Result<Reason, LinkError> {
        let Some((&code, rest)) = bytes.split_first() else { return Ok(Reason { code: 0, properties: Vec::new() }) };
        let mut cursor = Cursor(rest);
        let properties = match rest.is_empty() {
            true => Some(Vec::new()),
            false => cursor.properties(),
        };
        let properties = properties.ok_or_else(|| LinkError::Protocol("properties that end too early".to_owned()))?;
        Ok(Reason { code, properties })
    }

    /// Reads the answer to a SUBSCRIBE of one filter: its packet id, properties, and a code.
    pub(super) fn of_subscription(bytes: &[u8]) -> Result<(u16, Reason), LinkError> {
        let mut cursor = Cursor(bytes);
        let id = cursor.number(2).and_then(|id| u16::try_from(id).ok());
        let (Some(id), Some(properties), Some(&code)) = (id, cursor.properties(), cursor.0.first()) else {
            return Err(LinkError::Protocol("a SUBACK that ends too early".to_owned()));
        };
        Ok((id, Reason { code, properties }))
    }

    /// The last value of this property, if it is a number.
    pub(super) fn number(&self, property: u8) -> Option<u32> {
        self.properties.iter().rev().find_map(|(of, value)| match value {
            Property::Number(number) if *of == property => Some(*number),
            _ => None,
        })
    }

    /// The last value of this property, if it is a text.
    pub(super) fn text(&self, property: u8) -> Option<&str> {
        self.properties.iter().rev().find_map(|(of, value)| match value {
            Property::Text(text) if *of == property => Some(text.as_str()),
            _ => None,
        })
    }

    /// Where the broker sends us, as it says.
    pub(super) fn reference(&self) -> Option<&str> {
        self.text(SERVER_REFERENCE)
    }

    /// What the broker says in its own words, fit to be shown.
    pub(super) fn says(&self) -> Option<String> {
        self.text(REASON_STRING).filter(|text| !text.is_empty()).map(fit)
    }

    /// For a sentence: `words`, and what the broker says.
    pub(super) fn explain(&self, words: &str) -> String {
        match self.says() {
            Some(says) => format!("{words} (it says: {says})"),
            None => words.to_owned(),
        }
    }
}

fn fit(text: &str) -> String {
    let mut fit: String = text.chars().take(MOST_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > MOST_TEXT {
        fit.push('…');
    }
    fit
}

/// Bytes that are read one after the other; `None`: there are too few.
struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u32> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// A variable byte integer.
    fn variable(&mut self) -> Option<u32> {
        let mut number = 0;
        for place in 0..4 {
            let byte = self.number(1)?;
            number |= (byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number(2)?;
        let bytes = self.take(usize::try_from(length).ok()?)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn properties(&mut self) -> Option<Vec<(u8, Property)>> {
        let length = self.variable()?;
        let mut inner = Cursor(self.take(usize::try_from(length).ok()?)?);
        let mut properties = Vec::new();
        while let Some((&property, rest)) = inner.0.split_first() {
            inner.0 = rest;
            let value = match property {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => Property::Number(inner.number(1)?),
                0x13 | 0x21 | 0x22 | 0x23 => Property::Number(inner.number(2)?),
                0x02 | 0x11 | 0x18 | 0x27 => Property::Number(inner.number(4)?),
                0x0b => Property::Number(inner.variable()?),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => Property::Text(inner.text()?),
                0x26 => {
                    inner.text()?;
                    inner.text()?;
                    Property::Other
                }
                // How long it is nobody can know.
                _ => return None,
            };
            properties.push((property, value));
        }
        Some(properties)
    }
}

/// A reason code as a noun, for counters and for sentences (MQTT 5 table 2-6).
pub(super) fn name(code: u8) -> &'static str {
    match code {
        0x80 => "unspecified-error",
        0x81 => "malformed-packet",
        0x82 => "protocol-error",
        0x83 => "implementation-specific-error",
        0x84 => "unsupported-protocol-version",
        0x85 => "client-id-not-valid",
        0x86 => "bad-user-name-or-password",
        0x87 => "not-authorized",
        0x88 => "server-unavailable",
        0x89 => "server-busy",
        0x8a => "banned",
        0x8b => "server-shutting-down",
        0x8c => "bad-authentication-method",
        0x8d => "keep-alive-timeout",
        0x8e => "session-taken-over",
        0x8f => "topic-filter-invalid",
        0x90 => "topic-name-invalid",
        0x91 => "packet-id-in-use",
        0x93 => "receive-maximum-exceeded",
        0x94 => "topic-alias-invalid",
        0x95 => "packet-too-large",
        0x96 => "message-rate-too-high",
        0x97 => "quota-exceeded",
        0x98 => "administrative-action",
        0x99 => "payload-format-invalid",
        0x9a => "retain-not-supported",
        0x9b => "qos-not-supported",
        0x9c => "use-another-server",
        0x9d => "server-moved",
        0x9f => "connection-rate-exceeded",
        0xa0 => "maximum-connect-time",
        _ => "other",
    }
}

/// What is to be done about a CONNACK with this code (MQTT 5 section 3.2.2.2).
pub(super) fn refusal(code: u8) -> String {
    let words = match code {
        0x84 => "it does not speak MQTT 5; set mqtt.version = \"3.1.1\"",
        0x85 => "it does not allow this client id; set mqtt.client_id",
        0x86 => "wrong user name or password; see mqtt.username and mqtt.password_file",
        0x87 => "not authorised; see mqtt.username and mqtt.password_file",
        0x88 => "it is not available now",
        0x89 => "it is busy now",
        0x8a => "it has banned this client; whoever runs it can lift that",
        0x8c => "it wants another way of authentication than a user name and a password",
        0x90 => "it does not allow the topic of the Last Will; see mqtt.topic_prefix",
        0x95 => "CONNECT is too large for it; see mqtt.client_id and mqtt.topic_prefix",
        0x97 => "a quota of its is used up; it is tried again",
        0x9b => "it does not take QoS 1, which no record can do without",
        0x9f => "connections come too fast for it",
        code => return format!("{} (0x{code:02x})", name(code)),
    };
    words.to_owned()
}

/// Why the broker has ended the connection (MQTT 5 section 3.14.2.1).
pub(super) fn farewell(code: u8) -> String {
    let words = match code {
        0x00 => return "the broker closed the connection".to_owned(),
        0x87 => "not authorised any more",
        0x89 => "it is busy",
        0x8b => "it is shutting down",
        0x8d => "it has heard nothing for 1.5 times the keep-alive; is the link very slow?",
        0x8e => "another client has connected with this client id; give each gateway its own mqtt.client_id",
        0x95 => "a packet was too large for it; see mqtt.max_payload",
        0x96 => "messages come too fast for it; see mqtt.backfill_rate and mqtt.inflight",
        0x97 => "a quota of its is used up",
        0x98 => "whoever runs it has ended it",
        0x9f => "connections come too fast for it",
        0xa0 => "it may last no longer; the next one is allowed",
        code => return format!("the broker ended the connection: {} (0x{code:02x})", name(code)),
    };
    format!("the broker ended the connection: {words}")
}

/// What is to become of a message that the broker has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It will be refused whenever it is sent: quarantine.
    Never,
    /// It may be taken later.
    Later,
    /// Broker and client disagree on what was sent: connect again.
    Reconnect,
}

/// Why the broker did not take a message (MQTT 5 section 3.4.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason code, 0x80 or above.
    pub code: u8,
    /// What the broker says besides, of a bounded length.
    pub says: Option<String>,
}

impl Refusal {
    /// A short name, which is counted by.
    pub fn name(&self) -> &'static str {
        name(self.code)
    }

    /// What follows from it.
    pub fn fate(&self) -> Fate {
        match self.code {
            0x87 | 0x90 | 0x95 | 0x99 => Fate::Never,
            0x91 => Fate::Reconnect,
            _ => Fate::Later,
        }
    }

    /// Whether the reason may be one of several records in the message, and the others would be taken.
    pub fn may_be_one_records_fault(&self) -> bool {
        matches!(self.code, 0x80 | 0x83 | 0x95 | 0x99)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.code {
            0x80 => "the broker refuses it without giving a reason",
            0x83 => "the broker refuses it for a reason of its own",
            0x87 => "the broker does not allow to publish on this topic; see its access control",
            0x90 => "the broker does not accept this topic's name",
            0x91 => "the broker takes the packet id for one in use",
            0x95 => "it is too large for the broker",
            0x97 => "a quota of the broker is used up",
            0x99 => "the broker does not accept what is in the payload",
            code => return write!(f, "the broker refuses it: reason code 0x{code:02x}").and_then(|()| self.add(f)),
        };
        write!(f, "{words} (0x{:02x})", self.code)?;
        self.add(f)
    }
}

impl Refusal {
    fn add(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.says {
            Some(says) => write!(f, "; it says: {says}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reason_is_never_misread() {
        assert_eq!(Reason::read(&[]).unwrap(), Reason { code: 0, properties: vec![] });
        assert_eq!(Reason::read(&[0x87]).unwrap(), Reason { code: 0x87, properties: vec![] });
        let bytes = [0x97, 17, 0x26, 0, 1, b'k', 0, 1, b'v', 0x1f, 0, 4, b'n', b'\n', b'o', b'!', 0x21, 1, 2];
        let reason = Reason::read(&bytes[..bytes.len() - 1]);
        assert!(reason.is_err(), "cut off");
        let reason = Reason::read(&[&bytes[..1], &[17u8][..], &bytes[2..]].concat()).unwrap();
        assert_eq!(reason.says().as_deref(), Some("n o!"));
        assert_eq!(reason.number(RECEIVE_MAXIMUM), Some(258));
        assert_eq!(reason.number(MAXIMUM_QOS), None);
        assert_eq!(reason.explain("no"), "no (it says: n o!)");
    }

    #[test]
    fn what_a_broker_says_never_fills_the_screen() {
        let text = "x".repeat(1000);
        let refusal = Refusal { code: 0x87, says: Some(fit(&text)) };
        assert!(refusal.to_string().chars().count() < 300, "{refusal}");
    }

    #[test]
    fn every_refusal_has_a_fate() {
        for code in 0x80..=0xff {
            let fate = Refusal { code, says: None }.fate();
            let expected = match code {
                0x87 | 0x90 | 0x95 | 0x99 => Fate::Never,
                0x91 => Fate::Reconnect,
                _ => Fate::Later,
            };
            assert_eq!(fate, expected);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_ever_end_in_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(reason) = Reason::read(&bytes) {
                let _ = (reason.says(), refusal(reason.code), farewell(reason.code));
            }
        }
    }
}
