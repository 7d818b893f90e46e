//! `framing` of a device: how its bytes become frames. The types, and how they are printed; what each key may be is in `read`.
//!
//! What each kind looks like on the wire stands at the head of `frame`.
//!
//! A new kind: a variant of [`FramingKind`], its keys in `keys`, and one arm in `read` and in `to_toml`.

mod read;

pub(super) use read::{ENVELOPE, read};

use super::units::fine_duration_text;
use heapless::Vec;
use std::fmt::Write as _;
use std::time::Duration;

/// The longest frame that any device may send, in bytes without what the framing adds: the capacity of the frame
/// buffer.
pub const MAX_FRAME: usize = 4096;

/// The longest delimiter of lines, in bytes.
pub const MAX_DELIMITER: usize = 8;

/// `framing = { kind = …, … }`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framing {
    /// What tells where a frame ends.
    pub kind: FramingKind,
    /// Longest frame in bytes, without what the framing adds and without the CRC: 1 to [`MAX_FRAME`] (default 1024).
    pub max: usize,
    /// The checksum at the end of every frame, if there is one.
    pub crc: Option<Crc>,
}

/// `kind`, with the keys that only this kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FramingKind {
    /// Text lines that end in a delimiter.
    Lines {
        /// What ends a line (default LF, which may have a CR before it).
        delimiter: Delimiter,
    },
    /// Consistent Overhead Byte Stuffing, ended by a zero.
    Cobs,
    /// RFC 1055.
    Slip,
    /// A binary length before each frame.
    LengthPrefixed {
        /// Width of the length (default 2 bytes).
        length_bytes: LengthBytes,
        /// Order of its bytes (default big).
        endian: Endian,
        /// Whether the length counts its own bytes too (default false).
        includes_header: bool,
        /// After this much silence the next byte begins a frame: 100 µs to 10 s; none by default.
        idle: Option<Duration>,
    },
    /// Frames that all have the same length.
    Fixed {
        /// Bytes of a frame on the wire, the CRC included: the CRC and at least 1, up to [`MAX_FRAME`].
        size: usize,
        /// After this much silence the next byte begins a frame: 100 µs to 10 s; none by default.
        idle: Option<Duration>,
    },
    /// A frame ends when the line falls silent.
    IdleGap {
        /// For how long, 100 µs to 10 s (default 20 ms).
        gap: Duration,
    },
}

/// `crc`; polynomials, byte order and check values stand at the head of `frame`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crc {
    /// CRC-16/MODBUS.
    Crc16Modbus,
    /// CRC-16/IBM-3740, which is also called CRC-16/CCITT-FALSE.
    Crc16Ccitt,
    /// CRC-32/ISO-HDLC, that of Ethernet and zlib.
    Crc32,
}

impl Crc {
    /// Its width in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Crc::Crc16Modbus | Crc::Crc16Ccitt => 2,
            Crc::Crc32 => 4,
        }
    }
}

/// `delimiter`: 1 to [`MAX_DELIMITER`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delimiter(Vec<u8, MAX_DELIMITER>);

impl Delimiter {
    /// These bytes; `None` if there are none or too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Vec::from_slice(bytes).ok().filter(|bytes| !bytes.is_empty()).map(Delimiter)
    }

    /// The line feed.
    pub fn line_feed() -> Self {
        Delimiter(Vec::from_array([b'\n']))
    }

    /// The byte zero.
    pub fn zero() -> Self {
        Delimiter(Vec::from_array([0]))
    }

    /// Its bytes, at least one.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `length_bytes`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LengthBytes {
    One,
    Two,
    Four,
}

impl LengthBytes {
    /// How many bytes that are.
    pub fn bytes(self) -> usize {
        match self {
            LengthBytes::One => 1,
            LengthBytes::Two => 2,
            LengthBytes::Four => 4,
        }
    }

    /// The largest length that they can hold.
    pub fn largest(self) -> u32 {
        match self {
            LengthBytes::One => u32::from(u8::MAX),
            LengthBytes::Two => u32::from(u16::MAX),
            LengthBytes::Four => u32::MAX,
        }
    }
}

/// `endian`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// Most significant byte first.
    Big,
    /// Least significant byte first.
    Little,
}

impl Framing {
    /// Lines that end in LF or CR LF, of at most `max` bytes, without a CRC.
    pub fn lines(max: usize) -> Self {
        Framing { kind: FramingKind::Lines { delimiter: Delimiter::line_feed() }, max, crc: None }
    }

    /// As the inline table that [`read`] reads, with every key that this kind has and that has a value.
    pub(super) fn to_toml(&self) -> String {
        let (kind, own) = match &self.kind {
            FramingKind::Lines { delimiter } => ("lines", format!(", delimiter = {}", delimiter_text(delimiter))),
            FramingKind::Cobs => ("cobs", String::new()),
            FramingKind::Slip => ("slip", String::new()),
            FramingKind::LengthPrefixed { length_bytes, endian, includes_header, idle } => {
                let endian = match endian {
                    Endian::Big => "big",
                    Endian::Little => "little",
                };
                let keys = format!(
                    ", length_bytes = {}, endian = \"{endian}\", includes_header = {includes_header}{}",
                    length_bytes.bytes(),
                    idle_text(*idle)
                );
                ("length-prefixed", keys)
            }
            FramingKind::Fixed { size, idle } => ("fixed", format!(", size = {size}{}", idle_text(*idle))),
            FramingKind::IdleGap { gap } => ("idle-gap", format!(", gap = \"{}\"", fine_duration_text(*gap))),
        };
        let max = match self.kind {
            FramingKind::Fixed { .. } => String::new(),
            _ => format!(", max = {}", self.max),
        };
        let crc = match self.crc {
            None => "",
            Some(Crc::Crc16Modbus) => ", crc = \"crc16-modbus\"",
            Some(Crc::Crc16Ccitt) => ", crc = \"crc16-ccitt\"",
            Some(Crc::Crc32) => ", crc = \"crc32\"",
        };
        format!("{{ kind = \"{kind}\"{max}{own}{crc} }}")
    }
}

fn idle_text(idle: Option<Duration>) -> String {
    idle.map_or_else(String::new, |idle| format!(", idle = \"{}\"", fine_duration_text(idle)))
}

/// The delimiter as a basic string of TOML; it is ASCII.
fn delimiter_text(delimiter: &Delimiter) -> String {
    let mut text = String::from("\"");
    for byte in delimiter.bytes() {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a String can't fail.
            _ => _ = write!(text, "\\u{byte:04X}"),
        }
    }
    text + "\""
}
