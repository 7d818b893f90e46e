//! The frames of Modbus RTU: what is sent, and which bytes are the answer to it.
//!
//! Pure. Modbus over Serial Line V1.02 and Modbus Application Protocol V1.1b3:
//!
//! ```text
//! unit (1 byte), function (1), data, CRC-16 (2, low byte first)      at most 256 bytes
//! ```
//!
//! An answer carries no number that ties it to its request. So what was heard is searched for the one shape that this
//! request can have as its answer: unit, function, and length, or for a write the whole echo, and a right CRC behind it.
//! All that stands before it are strays: late answers to others, and noise. What tells answers of the same shape apart
//! is time alone; that is in `schedule`.

use crate::config::modbus::Table;
use crc::{CRC_16_MODBUS, Crc};

const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_MODBUS);
/// The longest frame in bytes.
pub const MAX_FRAME: usize = 256;
/// This bit in the function says that the answer is an exception.
const EXCEPTION: u8 = 0x80;

/// What a unit is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Functions 1 to 4.
    Read {
        /// Where from.
        table: Table,
        /// The first one, from 0.
        address: u16,
        /// How many registers (1 to 125) or bits (1 to 2000).
        count: u16,
    },
    /// Function 5.
    WriteCoil {
        /// Which one, from 0.
        address: u16,
        /// Its new state.
        on: bool,
    },
    /// Function 6, or 16 for several.
    WriteRegisters {
        /// The first one, from 0.
        address: u16,
        /// 1 to 123 of them.
        words: Vec<u16>,
    },
}

/// What a unit answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a read of registers: as many as were asked for.
    Words(Vec<u16>),
    /// To a read of bits: at least as many as were asked for.
    Bits(Vec<bool>),
    /// To a write: done.
    Done,
    /// It can't or won't.
    Exception(Exception),
}

/// An exception's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception(pub u8);

impl Exception {
    /// Whether the same request will fail again: this address, function or value does not exist there.
    pub fn is_lasting(self) -> bool {
        matches!(self.0, 1..=4)
    }
}

/// Application Protocol V1.1b3, section 7.
impl std::fmt::Display for Exception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = match self.0 {
            1 => "illegal function: it does not know this table, or does not allow this",
            2 => "illegal data address: it has nothing there, or not that many",
            3 => "illegal data value: it does not take this value or length",
            4 => "server device failure: it failed while doing it",
            5 => "acknowledge: it has begun and takes long",
            6 => "server device busy: it has something else to do",
            8 => "memory parity error: its memory is damaged",
            10 => "gateway path unavailable: the gateway is set up wrongly or overloaded",
            11 => "gateway target device failed to respond: the device behind the gateway is absent",
            _ => "an exception that the standard does not know",
        };
        write!(f, "{words} (exception {})", self.0)
    }
}

/// Where an answer was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The answer.
    pub answer: Answer,
    /// How many bytes of something else came before it.
    pub before: usize,
}

/// What is left to say when no answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// Nothing, or only whole frames of other units.
    Silence,
    /// Bytes that are no frame, or a frame of this unit that answers something else.
    Garbage,
}

impl Request {
    /// The function's code.
    fn function(&self) -> u8 {
        match self {
            Request::Read { table: Table::Coil, .. } => 1,
            Request::Read { table: Table::Discrete, .. } => 2,
            Request::Read { table: Table::Holding, .. } => 3,
            Request::Read { table: Table::Input, .. } => 4,
            Request::WriteCoil { .. } => 5,
            Request::WriteRegisters { words, .. } if words.len() == 1 => 6,
            Request::WriteRegisters { .. } => 16,
        }
    }

    /// The frame to send.
    pub fn frame(&self, unit: u8) -> Vec<u8> {
        let mut frame = vec![unit, self.function()];
        match self {
            Request::Read { address, count, .. } => {
                frame.extend(address.to_be_bytes());
                frame.extend(count.to_be_bytes());
            }
            Request::WriteCoil { address, on } => {
                frame.extend(address.to_be_bytes());
                frame.extend(if *on { [0xFF, 0] } else { [0, 0] });
            }
            Request::WriteRegisters { address, words } => {
                frame.extend(address.to_be_bytes());
                if words.len() != 1 {
                    frame.extend(u16::try_from(words.len()).unwrap_or(u16::MAX).to_be_bytes());
                    frame.push(u8::try_from(words.len() * 2).unwrap_or(u8::MAX));
                }
                frame.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        seal(frame)
    }

    /// What the answer begins with, and how many bytes of data and CRC follow.
    fn expected(&self, unit: u8) -> (Vec<u8>, usize) {
        match self {
            Request::Read { table, count, .. } => {
                let bytes = match table {
                    Table::Coil | Table::Discrete => count.div_ceil(8),
                    Table::Holding | Table::Input => count.saturating_mul(2),
                };
                let bytes = u8::try_from(bytes).unwrap_or(u8::MAX);
                (vec![unit, self.function(), bytes], usize::from(bytes) + 2)
            }
            // The echo of the request, or of its first six bytes.
            Request::WriteCoil { .. } | Request::WriteRegisters { .. } => {
                let mut start = self.frame(unit);
                start.truncate(6);
                (start, 2)
            }
        }
    }

    /// The length of the answer in bytes, if it is no exception.
    pub fn answer_length(&self) -> usize {
        let (start, rest) = self.expected(0);
        start.len() + rest
    }

    /// Searches what was heard for the answer of this unit.
    pub fn find(&self, unit: u8, heard: &[u8]) -> Option<Found> {
        let (start, rest) = self.expected(unit);
        let refusal = [unit, self.function() | EXCEPTION];
        (0..heard.len()).find_map(|before| {
            let tail = heard.get(before..)?;
            if tail.starts_with(&start) {
                let frame = tail.get(..start.len() + rest).filter(|frame| is_sealed(frame))?;
                let data = frame.get(start.len()..frame.len().saturating_sub(2))?;
                return Some(Found { answer: self.answer(data), before });
            }
            let frame = tail.get(..5).filter(|frame| frame.starts_with(&refusal) && is_sealed(frame))?;
            Some(Found { answer: Answer::Exception(Exception(*frame.get(2)?)), before })
        })
    }

    fn answer(&self, data: &[u8]) -> Answer {
        match self {
            Request::Read { table: Table::Coil | Table::Discrete, .. } => {
                Answer::Bits(data.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect())
            }
            Request::Read { .. } => {
                let word = |pair: &[u8]| pair.iter().fold(0, |word: u16, byte| word << 8 | u16::from(*byte));
                Answer::Words(data.chunks_exact(2).map(word).collect())
            }
            Request::WriteCoil { .. } | Request::WriteRegisters { .. } => Answer::Done,
        }
    }
}

/// What was heard instead of an answer of this unit, and how many whole frames of others were among it.
pub fn account(unit: u8, mut heard: &[u8]) -> (Miss, u64) {
    let (mut miss, mut strays) = (Miss::Silence, 0);
    while let Some(frame) = whole_frame(heard) {
        match frame.first() == Some(&unit) {
            true => miss = Miss::Garbage,
            false => strays += 1,
        }
        heard = heard.get(frame.len()..).unwrap_or_default();
    }
    if heard.is_empty() { (miss, strays) } else { (Miss::Garbage, strays) }
}

/// An answer to anything at the start of these bytes.
fn whole_frame(heard: &[u8]) -> Option<&[u8]> {
    let length = match *heard.get(1)? {
        1..=4 => usize::from(*heard.get(2)?) + 5,
        5 | 6 | 15 | 16 => 8,
        EXCEPTION.. => 5,
        _ => return None,
    };
    heard.get(..length).filter(|frame| is_sealed(frame))
}

/// Puts the CRC behind a frame.
fn seal(mut frame: Vec<u8>) -> Vec<u8> {
    let crc = CRC.checksum(&frame);
    frame.extend(crc.to_le_bytes());
    frame
}

fn is_sealed(frame: &[u8]) -> bool {
    let at = frame.len().saturating_sub(2);
    let (body, crc) = frame.split_at_checked(at).unwrap_or_default();
    CRC.checksum(body).to_le_bytes() == crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const READ: Request = Request::Read { table: Table::Holding, address: 0x6B, count: 3 };

    #[test]
    fn no_frame_ever_differs_from_the_standard() {
        // Application Protocol V1.1b3, the examples of sections 6.1, 6.3, 6.5, 6.6 and 6.12, for unit 17.
        let bits = Request::Read { table: Table::Coil, address: 0x13, count: 0x13 };
        let coil = Request::WriteCoil { address: 0xAC, on: true };
        let one = Request::WriteRegisters { address: 1, words: vec![3] };
        let two = Request::WriteRegisters { address: 1, words: vec![0x0A, 0x0102] };
        for (request, asked, answered, answer) in [
            (&READ, &[3, 0, 0x6B, 0, 3][..], &[3, 6, 2, 0x2B, 0, 0, 0, 0x64][..], Answer::Words(vec![0x022B, 0, 0x64])),
            (&coil, &[5, 0, 0xAC, 0xFF, 0], &[5, 0, 0xAC, 0xFF, 0], Answer::Done),
            (&one, &[6, 0, 1, 0, 3], &[6, 0, 1, 0, 3], Answer::Done),
            (&two, &[16, 0, 1, 0, 2, 4, 0, 0x0A, 1, 2], &[16, 0, 1, 0, 2], Answer::Done),
            (&READ, &[3, 0, 0x6B, 0, 3], &[0x83, 2], Answer::Exception(Exception(2))),
        ] {
            assert_eq!(request.frame(17), seal([&[17], asked].concat()));
            let heard = seal([&[17], answered].concat());
            assert_eq!(request.find(17, &heard), Some(Found { answer, before: 0 }));
            assert!(matches!(heard.len(), 5) || heard.len() == request.answer_length());
            assert_eq!(request.find(18, &heard), None);
        }
        let Some(Found { answer: Answer::Bits(read), .. }) = bits.find(17, &seal(vec![17, 1, 3, 0xCD, 0x6B, 5])) else {
            panic!("no bits")
        };
        let on: Vec<usize> = (0..19).filter(|bit| read[*bit]).collect();
        assert_eq!(on, [0, 2, 3, 6, 7, 8, 9, 11, 13, 14, 16, 18]);
        // Serial Line V1.02, section 6.2.2: the CRC of 02 07 is 41 12, low byte first.
        assert_eq!(seal(vec![2, 7]), [2, 7, 0x41, 0x12]);
    }

    #[test]
    fn an_answer_to_something_else_is_never_taken() {
        let (other_unit, other_function) =
            (seal(vec![5, 3, 6, 0, 1, 0, 2, 0, 3]), seal(vec![17, 4, 6, 0, 1, 0, 2, 0, 3]));
        let other_length = seal(vec![17, 3, 4, 0, 1, 0, 2]);
        let ours = seal(vec![17, 3, 6, 0, 7, 0, 8, 0, 9]);
        assert_eq!(account(17, &other_unit), (Miss::Silence, 1));
        assert_eq!(account(17, &other_function), (Miss::Garbage, 0));
        assert_eq!(account(17, &[]), (Miss::Silence, 0));
        assert_eq!(account(17, &ours[..7]), (Miss::Garbage, 0));
        for other in [other_unit, other_function, other_length, vec![17, 3, 6], vec![17]] {
            assert_eq!(READ.find(17, &other), None);
            let found = READ.find(17, &[&other[..], &ours].concat()).expect("ours comes behind it");
            assert_eq!(found, Found { answer: Answer::Words(vec![7, 8, 9]), before: other.len() });
        }
    }

    proptest! {
        #[test]
        fn damage_to_an_answer_never_goes_unnoticed(words in prop::collection::vec(any::<u16>(), 1..=125), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            let request = Request::Read { table: Table::Input, address: 0, count: u16::try_from(words.len()).unwrap() };
            let mut data = vec![9, 4, u8::try_from(words.len() * 2).unwrap()];
            data.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            let mut heard = seal(data);
            prop_assert!(heard.len() <= MAX_FRAME && heard.len() == request.answer_length());
            prop_assert_eq!(request.find(9, &heard), Some(Found { answer: Answer::Words(words), before: 0 }));
            let at = at.index(heard.len());
            heard[at] ^= flip;
            prop_assert_eq!(request.find(9, &heard), None);
        }

        #[test]
        fn no_noise_ever_panics_or_passes_for_an_answer(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = account(17, &noise);
            prop_assert!(READ.find(17, &noise).is_none_or(|found| matches!(found.answer, Answer::Words(_) | Answer::Exception(_))));
        }
    }
}
