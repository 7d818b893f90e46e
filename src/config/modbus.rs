//! `[[modbus]]`: buses of Modbus RTU, their units, and what is read from and written to them.
//!
//! What a unit's registers mean is all here; `device::modbus` has no defaults of its own.

mod read;

pub(super) use read::read;

use super::effective::{Toml, word};
use super::port::PARITIES;
use super::units::duration_text;
use super::{Commands, Line};
use std::time::Duration;

/// A bus: one serial port and the units on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bus {
    /// `[a-z0-9_-]{1,32}`, unique over all devices.
    pub name: String,
    /// The port: 8 data bits, no flow control (Modbus over Serial Line V1.02, section 2.5.1).
    pub line: Line,
    /// How long a unit may take until its answer begins, 10 ms to 10 s (default 300 ms).
    pub timeout: Duration,
    /// Silence before each request; [`standard_gap`] at least and by default, 1 s at most.
    pub gap: Duration,
    /// In the order of the file; not empty.
    pub units: Vec<Unit>,
}

/// A unit (slave) on a bus: a device of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// `[a-z0-9_-]{1,32}`, unique over all devices.
    pub name: String,
    /// Its address on the bus, 1 to 247, unique there.
    pub unit: u8,
    /// The first pause after a failure, 100 ms to 1 h (default 1 s). It doubles with each further one.
    pub backoff: Duration,
    /// The longest pause, `backoff` to 1 d (default 1 min).
    pub max_backoff: Duration,
    /// Which commands it takes; `None`: none at all.
    pub commands: Option<Commands>,
    /// In the order of the file; not empty.
    pub polls: Vec<Poll>,
}

/// A value that is read at its interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Poll {
    /// Its key in the record, `[a-z0-9_-]{1,32}`, unique in the unit.
    pub name: String,
    /// Where it is.
    pub table: Table,
    /// Its first register or bit as the protocol counts, from 0; its last one is 65,535 at most.
    pub address: u16,
    /// What its registers hold.
    pub kind: Kind,
    /// Which of its registers comes first (default big: the most significant one).
    pub word_order: WordOrder,
    /// A number's value is what the registers hold, times this (default 1), ±1e-9 to ±1e9.
    pub scale: f64,
    /// Plus this (default 0), -1e12 to 1e12.
    pub offset: f64,
    /// How often it is read, 50 ms to 1 d (default 5 s).
    pub interval: Duration,
    /// Which readings become records.
    pub publish: Publish,
    /// Whether commands may write it (default no).
    pub write: bool,
    /// Whether what was written is read back and compared (default no).
    pub verify: bool,
}

impl Poll {
    /// How many registers or bits it takes.
    pub fn count(&self) -> u16 {
        match self.kind {
            Kind::Bool | Kind::U16 | Kind::I16 => 1,
            Kind::U32 | Kind::I32 | Kind::F32 => 2,
            Kind::U64 | Kind::I64 | Kind::F64 => 4,
            Kind::Text { words } => words,
        }
    }
}

/// `table`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Bits that can be written.
    Coil,
    /// Bits that can't.
    Discrete,
    /// Registers that can be written.
    Holding,
    /// Registers that can't.
    Input,
}

impl Table {
    const WORDS: [(&'static str, Table); 4] =
        [("holding", Table::Holding), ("input", Table::Input), ("coil", Table::Coil), ("discrete", Table::Discrete)];

    /// Whether it holds bits and not registers.
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }

    /// How many can be read at once (Application Protocol V1.1b3, sections 6.1 to 6.4).
    pub fn most(self) -> u16 {
        if self.is_bits() { 2000 } else { 125 }
    }

    /// As it is configured.
    pub fn word(self) -> &'static str {
        word(&Table::WORDS, self)
    }
}

/// `type` and `words`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Bool,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    /// UTF-8, two bytes in a register, the first one in its high byte; it ends at the first NUL.
    Text {
        /// Its length in registers, 1 to 123.
        words: u16,
    },
}

impl Kind {
    const WORDS: [(&'static str, Kind); 10] = [
        ("u16", Kind::U16),
        ("i16", Kind::I16),
        ("u32", Kind::U32),
        ("i32", Kind::I32),
        ("u64", Kind::U64),
        ("i64", Kind::I64),
        ("f32", Kind::F32),
        ("f64", Kind::F64),
        ("string", Kind::Text { words: 0 }),
        ("bool", Kind::Bool),
    ];

    /// Whether it is neither a string nor a bool.
    pub fn is_number(self) -> bool {
        !matches!(self, Kind::Bool | Kind::Text { .. })
    }
}

/// `word_order`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordOrder {
    /// The most significant register has the lowest address.
    Big,
    /// The least significant register has the lowest address.
    Little,
}

impl WordOrder {
    const WORDS: [(&'static str, WordOrder); 2] = [("big", WordOrder::Big), ("little", WordOrder::Little)];
}

/// `publish` and `deadband`
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Publish {
    /// Every reading.
    Always,
    /// A reading that differs from the last one that was published, a number by this much at least (default 0: at all).
    Change(f64),
}

/// The silence between frames that the standard asks for (Modbus over Serial Line V1.02, section 2.5.1.1): 3.5
/// characters of 11 bits, and 1.75 ms above 19,200 baud.
pub fn standard_gap(baud: u32) -> Duration {
    match baud {
        0..=19_200 => characters(7, baud) / 2,
        _ => Duration::from_micros(1750),
    }
}

/// How long this many characters of 11 bits take on the line.
pub fn characters(count: u32, baud: u32) -> Duration {
    Duration::from_secs(11).saturating_mul(count) / baud.max(1)
}

impl Bus {
    pub(super) fn toml(&self, out: &mut Toml) {
        out.table("[[modbus]]");
        out.text("name", &self.name);
        self.line.place(out);
        out.plain("baud", self.line.baud);
        out.choice("parity", &PARITIES, self.line.parity);
        out.plain("stop_bits", self.line.stop_bits.number());
        self.line.specials(out);
        out.text("timeout", &duration_text(self.timeout));
        if self.gap != standard_gap(self.line.baud) {
            out.text("gap", &duration_text(self.gap));
        }
        for unit in &self.units {
            unit.toml(out);
        }
    }
}

impl Unit {
    fn toml(&self, out: &mut Toml) {
        out.table("[[modbus.unit]]");
        out.text("name", &self.name);
        out.plain("unit", self.unit);
        out.text("backoff", &duration_text(self.backoff));
        out.text("max_backoff", &duration_text(self.max_backoff));
        if let Some(commands) = &self.commands {
            out.plain("commands", commands.toml());
        }
        for poll in &self.polls {
            poll.toml(out);
        }
    }
}

impl Poll {
    fn toml(&self, out: &mut Toml) {
        out.table("[[modbus.unit.poll]]");
        out.text("name", &self.name);
        out.choice("table", &Table::WORDS, self.table);
        out.plain("address", self.address);
        match self.kind {
            Kind::Text { words } => {
                out.text("type", "string");
                out.plain("words", words);
            }
            kind => out.choice("type", &Kind::WORDS, kind),
        }
        if self.kind.is_number() {
            if self.count() > 1 {
                out.choice("word_order", &WordOrder::WORDS, self.word_order);
            }
            out.plain("scale", format!("{:?}", self.scale));
            out.plain("offset", format!("{:?}", self.offset));
        }
        out.text("interval", &duration_text(self.interval));
        match self.publish {
            Publish::Always => out.text("publish", "always"),
            Publish::Change(deadband) => {
                out.text("publish", "change");
                if self.kind.is_number() {
                    out.plain("deadband", format!("{deadband:?}"));
                }
            }
        }
        if self.write {
            out.plain("write", true);
            out.plain("verify", self.verify);
        }
    }
}
