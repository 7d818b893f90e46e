//! What holds for every framing: the bytes on the wire are those of the module's head, what is sent arrives however it
//! is cut, and damage costs what the head says and no more.

mod damage;

use super::*;
use crate::config::{Crc, Delimiter, Endian, LengthBytes};

const IDLE: Duration = Duration::from_millis(20);
const CRCS: [Option<Crc>; 4] = [None, Some(Crc::Crc16Modbus), Some(Crc::Crc16Ccitt), Some(Crc::Crc32)];

fn framing(kind: FramingKind, max: usize, crc: Option<Crc>) -> Framing {
    Framing { kind, max, crc }
}

fn lines(delimiter: &[u8]) -> FramingKind {
    FramingKind::Lines { delimiter: Delimiter::new(delimiter).unwrap() }
}

fn prefixed(length_bytes: LengthBytes, endian: Endian, includes_header: bool, idle: Option<Duration>) -> FramingKind {
    FramingKind::LengthPrefixed { length_bytes, endian, includes_header, idle }
}

/// Frames of `size` bytes with the CRC.
fn fixed(size: usize, idle: Option<Duration>, crc: Option<Crc>) -> Framing {
    framing(FramingKind::Fixed { size, idle }, size - crc.map_or(0, Crc::bytes), crc)
}

/// Every kind, in several forms.
fn every(crc: Option<Crc>, idle: Option<Duration>) -> Vec<Framing> {
    let of = |kind| framing(kind, 32, crc);
    let (one, two, four) = (LengthBytes::One, LengthBytes::Two, LengthBytes::Four);
    vec![
        of(lines(b"\n")),
        of(lines(b"\r\n")),
        of(lines(b";")),
        of(lines(b"\x03<>!\x04")),
        of(FramingKind::Cobs),
        of(FramingKind::Slip),
        of(prefixed(one, Endian::Big, false, idle)),
        of(prefixed(two, Endian::Big, true, idle)),
        of(prefixed(two, Endian::Little, false, idle)),
        of(prefixed(four, Endian::Little, true, idle)),
        of(prefixed(four, Endian::Big, false, idle)),
        fixed(12, idle, crc),
        of(FramingKind::IdleGap { gap: IDLE }),
    ]
}

fn encoded(framing: &Framing, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    encode(framing, payload, &mut wire).unwrap_or_else(|error| panic!("{framing:?} {payload:02x?}: {error}"));
    wire
}

/// A decoder and what came out of it.
struct Receiver {
    decoder: Decoder,
    out: Vec<Vec<u8>>,
}

impl Receiver {
    fn new(framing: &Framing) -> Self {
        Receiver { decoder: Decoder::new(framing), out: Vec::new() }
    }

    fn take(&mut self, mut chunk: &[u8]) {
        while let Some(payload) = self.decoder.next(&mut chunk) {
            self.out.push(payload.to_vec());
        }
        assert!(chunk.is_empty(), "all of the chunk is taken");
    }

    fn silence(&mut self) {
        if self.decoder.patience().is_some() {
            self.decoder.silence();
            self.take(&[]);
        }
        assert_eq!(self.decoder.patience(), None, "silence leaves nothing to wait for");
    }

    fn end(mut self) -> (Vec<Vec<u8>>, Counters) {
        self.decoder.cut_off();
        self.take(&[]);
        (self.out, self.decoder.counters())
    }
}

/// Plays bursts of bytes, cut into chunks of these lengths over and over. After each burst the line is silent if
/// `silent`.
fn receive(framing: &Framing, bursts: &[Vec<u8>], cuts: &[usize], silent: bool) -> (Vec<Vec<u8>>, Counters) {
    let mut receiver = Receiver::new(framing);
    let mut cuts = cuts.iter().cycle();
    let whole = [bursts.concat()];
    for burst in if silent { bursts } else { &whole } {
        let mut rest = burst.as_slice();
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            receiver.take(chunk);
            rest = behind;
        }
        if silent {
            receiver.silence();
        }
    }
    receiver.end()
}

fn receive_whole(framing: &Framing, wire: &[u8]) -> (Vec<Vec<u8>>, Counters) {
    receive(framing, &[wire.to_vec()], &[usize::MAX], matches!(framing.kind, FramingKind::IdleGap { .. }))
}

// The wire.

#[test]
fn the_bytes_on_the_wire_never_change() {
    let modbus = Some(Crc::Crc16Modbus);
    let (one, two, four) = (LengthBytes::One, LengthBytes::Two, LengthBytes::Four);
    let check = b"123456789";
    for (framing, payload, wire) in [
        // The request "read one holding register at 0" to unit 1: its CRC goes low byte first.
        (
            framing(FramingKind::IdleGap { gap: IDLE }, 256, modbus),
            &[1, 3, 0, 0, 0, 1][..],
            &b"\x01\x03\0\0\0\x01\x84\x0A"[..],
        ),
        (framing(FramingKind::IdleGap { gap: IDLE }, 9, modbus), check, b"123456789\x37\x4B"),
        (framing(FramingKind::IdleGap { gap: IDLE }, 9, Some(Crc::Crc16Ccitt)), check, b"123456789\x29\xB1"),
        (framing(FramingKind::IdleGap { gap: IDLE }, 9, Some(Crc::Crc32)), check, b"123456789\x26\x39\xF4\xCB"),
        (framing(lines(b"\n"), 9, modbus), check, b"1234567894B37\n"),
        (framing(lines(b";"), 9, Some(Crc::Crc16Ccitt)), check, b"12345678929B1;"),
        (framing(lines(b"\r\n"), 9, Some(Crc::Crc32)), check, b"123456789CBF43926\r\n"),
        (framing(lines(b"\n"), 9, None), check, b"123456789\n"),
        // RFC 1055: END and ESC inside.
        (framing(FramingKind::Slip, 9, None), b"\x01\xC0\xDB\x02", b"\xC0\x01\xDB\xDC\xDB\xDD\x02\xC0"),
        (framing(FramingKind::Slip, 9, None), b"\xDC\xDD", b"\xC0\xDC\xDD\xC0"),
        // Cheshire and Baker, and what follows from their rules.
        (framing(FramingKind::Cobs, 9, None), b"\0", b"\x01\x01\0"),
        (framing(FramingKind::Cobs, 9, None), b"\0\0", b"\x01\x01\x01\0"),
        (framing(FramingKind::Cobs, 9, None), b"\x11\x22\0\x33", b"\x03\x11\x22\x02\x33\0"),
        (framing(FramingKind::Cobs, 9, None), b"\x11\0\0\0", b"\x02\x11\x01\x01\x01\0"),
        (framing(FramingKind::Cobs, 9, modbus), b"\0", b"\x01\x03\xBF\x40\0"),
        (framing(prefixed(two, Endian::Big, false, None), 9, None), b"\xAB\xCD", b"\0\x02\xAB\xCD"),
        (framing(prefixed(two, Endian::Little, true, None), 9, None), b"\xAB\xCD", b"\x04\0\xAB\xCD"),
        (framing(prefixed(one, Endian::Big, false, None), 9, None), b"\xAB\xCD", b"\x02\xAB\xCD"),
        (framing(prefixed(four, Endian::Big, false, None), 9, None), b"\xAB\xCD", b"\0\0\0\x02\xAB\xCD"),
        (framing(prefixed(one, Endian::Little, true, None), 9, modbus), check, b"\x0C123456789\x8D\x83"),
        (fixed(11, None, modbus), check, b"123456789\x37\x4B"),
    ] {
        assert_eq!(encoded(&framing, payload), wire, "{framing:?}");
        let (out, counters) = receive_whole(&framing, wire);
        assert_eq!(
            (out, counters),
            (vec![payload.to_vec()], Counters { frames: 1, ..Counters::default() }),
            "{framing:?}"
        );
    }
}

#[test]
fn long_pieces_of_cobs_never_differ_from_the_paper() {
    let cobs = framing(FramingKind::Cobs, 1024, None);
    let nonzero = |count: usize| (1..=254_u8).cycle().take(count).collect::<Vec<_>>();
    for count in [253, 254, 255, 508, 509] {
        let payload = nonzero(count);
        let wire = encoded(&cobs, &payload);
        let first = payload.len().min(254);
        assert_eq!((usize::from(wire[0]), &wire[1..=first]), (first + 1, &payload[..first]), "{count}");
        assert_eq!(receive_whole(&cobs, &wire).0, [payload]);
    }
    // With and without an empty last piece behind 254 bytes: both are in use.
    let full = nonzero(254);
    for end in [&b"\0"[..], b"\x01\0"] {
        assert_eq!(receive_whole(&cobs, &[b"\xFF", full.as_slice(), end].concat()).0, std::slice::from_ref(&full));
    }
    let mut zero_behind = full.clone();
    zero_behind.push(0);
    assert_eq!(receive_whole(&cobs, &[b"\xFF", full.as_slice(), b"\x01\x01\0"].concat()).0, [zero_behind]);
}

#[test]
fn what_other_senders_do_never_costs_a_frame() {
    // SLIP with END at the end only, and at both sides.
    let slip = framing(FramingKind::Slip, 9, None);
    let (out, counters) = receive_whole(&slip, b"ab\xC0cd\xC0\xC0ef\xC0\xC0\xC0");
    assert_eq!((out, counters.empty), (vec![b"ab".to_vec(), b"cd".to_vec(), b"ef".to_vec()], 0));
    // Digits in lower case, and CR LF behind them.
    let line = framing(lines(b"\n"), 9, Some(Crc::Crc16Modbus));
    assert_eq!(receive_whole(&line, b"1234567894b37\r\n").0, [b"123456789"]);
    // Zeros that flush the line.
    let (out, counters) = receive_whole(&framing(FramingKind::Cobs, 9, None), b"\0\0\x02a\0");
    assert_eq!((out, counters.empty, counters.damaged), (vec![b"a".to_vec()], 2, 0));
}

#[test]
fn what_can_not_be_framed_is_never_sent() {
    let refused = |framing: &Framing, payload: &[u8]| {
        let mut out = b"before".to_vec();
        let error = encode(framing, payload, &mut out).unwrap_err();
        assert_eq!(out, b"before", "nothing is appended");
        error
    };
    for crc in CRCS {
        for framing in every(crc, None) {
            assert_eq!(refused(&framing, b""), EncodeError::Empty);
            let too_long = vec![b'x'; framing.max + 1];
            match framing.kind {
                FramingKind::Fixed { .. } => {
                    assert_eq!(refused(&framing, &too_long), EncodeError::WrongSize(framing.max + 1, framing.max));
                    assert_eq!(refused(&framing, b"x"), EncodeError::WrongSize(1, framing.max));
                }
                _ => assert_eq!(refused(&framing, &too_long), EncodeError::TooLong(33, 32)),
            }
        }
    }
    let line = |delimiter| framing(lines(delimiter), 32, None);
    assert_eq!(refused(&line(b"\n"), b"a\nb"), EncodeError::Delimiter);
    assert_eq!(refused(&line(b"\n"), b"a\r"), EncodeError::CarriageReturn);
    assert_eq!(refused(&line(b"aa"), b"xa"), EncodeError::Delimiter, "xaaa would end after xaa");
    assert_eq!(encoded(&line(b"\r\n"), b"a\r"), b"a\r\r\n");
    assert_eq!(encoded(&framing(lines(b"\n"), 32, Some(Crc::Crc16Modbus)), b"a\r").len(), 7);
    let narrow = framing(prefixed(LengthBytes::One, Endian::Big, true, None), 300, None);
    assert_eq!(encoded(&narrow, &[7; 254]).len(), 255);
    assert_eq!(refused(&narrow, &[7; 255]), EncodeError::TooLong(255, 300));
}

// Limits.

#[test]
fn the_longest_frame_never_overruns_the_buffer() {
    for crc in CRCS {
        for mut framing in every(crc, Some(IDLE)) {
            let trailer = crc.map_or(0, Crc::bytes);
            framing.max = MAX_FRAME;
            match &mut framing.kind {
                FramingKind::Fixed { size, .. } => (*size, framing.max) = (MAX_FRAME, MAX_FRAME - trailer),
                FramingKind::LengthPrefixed { length_bytes: LengthBytes::One, .. } => continue,
                _ => {}
            }
            let mut payload = vec![0xC0; framing.max];
            let wire = encoded(&framing, &payload);
            assert_eq!(receive_whole(&framing, &wire).0, [payload.clone()], "{framing:?}");
            if let FramingKind::Fixed { .. } = framing.kind {
                continue;
            }
            // One more, and the frame behind it.
            payload.push(0xC0);
            let larger = Framing { max: MAX_FRAME + 1, ..framing.clone() };
            let bursts = [encoded(&larger, &payload), encoded(&framing, b"behind")];
            let (out, counters) = receive(&framing, &bursts, &[1000], true);
            assert_eq!(out, [b"behind"], "{framing:?}");
            assert_eq!((counters.oversize, counters.damaged, counters.incomplete), (1, 0, 0), "{framing:?}");
        }
    }
}

#[test]
fn a_decoder_never_holds_more_than_one_frame() {
    assert!(size_of::<Decoder>() < CAPACITY + 256, "{}", size_of::<Decoder>());
}

#[test]
fn a_length_of_gigabytes_never_stops_a_device_that_pauses_or_has_a_crc() {
    let four = |crc, idle| framing(prefixed(LengthBytes::Four, Endian::Big, false, idle), 32, crc);
    for (framing, silent) in [(four(None, Some(IDLE)), true), (four(Some(Crc::Crc32), None), false)] {
        let bursts = [b"\xFF\xFF\xFF\xFFjunk".to_vec(), encoded(&framing, b"good")];
        let (out, counters) = receive(&framing, &bursts, &[3], silent);
        assert_eq!((out, counters.oversize, counters.damaged), (vec![b"good".to_vec()], 1, 0), "{framing:?}");
    }
}

#[test]
fn an_oversize_frame_without_a_crc_is_never_cut_into_wrong_ones() {
    let framing = framing(prefixed(LengthBytes::Two, Endian::Big, false, None), 4, None);
    let (out, counters) = receive(&framing, &[b"\0\x06\0\x01a\0\x01b\0\x02ok".to_vec()], &[1], false);
    assert_eq!(out, [b"ok"]);
    assert_eq!(counters, Counters { frames: 1, oversize: 1, ..Counters::default() });
}

// Finding back.

#[test]
fn a_wrong_length_never_holds_good_frames_back_beyond_the_next_silence() {
    let framing = framing(prefixed(LengthBytes::One, Endian::Big, false, Some(IDLE)), 32, Some(Crc::Crc16Modbus));
    let mut wire = [encoded(&framing, b"bad"), encoded(&framing, b"one"), encoded(&framing, b"two")].concat();
    // Longer than all that comes.
    wire[0] = 30;
    let mut receiver = Receiver::new(&framing);
    receiver.take(&wire);
    assert_eq!((receiver.out.len(), receiver.decoder.patience()), (0, Some(IDLE)));
    receiver.silence();
    assert_eq!(receiver.out, [b"one", b"two"]);
    let counters = receiver.decoder.counters();
    assert_eq!(counters, Counters { frames: 2, incomplete: 1, resyncs: 1, ..Counters::default() });
}

#[test]
fn starting_in_the_middle_of_a_frame_never_costs_the_next_one() {
    for crc in [Some(Crc::Crc16Modbus), Some(Crc::Crc16Ccitt), Some(Crc::Crc32)] {
        for framing in every(crc, None) {
            let payload = b"12345678901234567890";
            let payload = &payload[..framing.max.min(20)];
            let wire = encoded(&framing, payload);
            // SLIP without its first END is whole.
            let first = if framing.kind == FramingKind::Slip { 2 } else { 1 };
            for start in first..wire.len() {
                let bursts = [wire[start..].to_vec(), wire.clone(), wire.clone()];
                let silent = matches!(framing.kind, FramingKind::IdleGap { .. });
                let (out, counters) = receive(&framing, &bursts, &[5], silent);
                // The rest of a delimiter sticks to the next line.
                let in_delimiter = matches!(&framing.kind, FramingKind::Lines { delimiter }
                    if start > wire.len() - delimiter.bytes().len());
                let arrive = if in_delimiter { 1 } else { 2 };
                assert_eq!(out, [payload, payload][..arrive], "{framing:?} from {start}");
                assert!(
                    counters.damaged + counters.oversize + counters.empty <= 1,
                    "{framing:?} from {start}: {counters:?}"
                );
            }
        }
    }
}

#[test]
fn a_decoder_without_a_frame_never_asks_for_a_timer() {
    for crc in CRCS {
        for framing in every(crc, Some(IDLE)) {
            let payload = vec![b'x'; framing.max.min(8)];
            let payload = if let FramingKind::Fixed { .. } = framing.kind { vec![b'x'; framing.max] } else { payload };
            let mut receiver = Receiver::new(&framing);
            assert_eq!(receiver.decoder.patience(), None);
            let wire = encoded(&framing, &payload);
            receiver.take(&wire[..3]);
            let waits = match framing.kind {
                FramingKind::Lines { .. } | FramingKind::Cobs | FramingKind::Slip => None,
                _ => Some(IDLE),
            };
            assert_eq!(receiver.decoder.patience(), waits, "{framing:?}");
            receiver.take(&wire[3..]);
            let waits = waits.filter(|_| matches!(framing.kind, FramingKind::IdleGap { .. }));
            assert_eq!(receiver.decoder.patience(), waits, "{framing:?}");
            receiver.silence();
            assert_eq!(receiver.out, [payload], "{framing:?}");
        }
    }
}
