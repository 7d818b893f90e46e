//! What holds for every framing: the bytes on the wire are those of the module's head, what is sent arrives however it
//! is cut, and damage costs what the head says and no more.

use super::*;
use crate::config::{Crc, Delimiter, Endian, LengthBytes};
use proptest::prelude::*;

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

/// Every flip of one bit, and every loss of one byte, in the middle one of five frames.
#[test]
fn one_wrong_bit_or_lost_byte_never_becomes_a_frame_where_there_is_a_crc() {
    for crc in [Some(Crc::Crc16Modbus), Some(Crc::Crc16Ccitt), Some(Crc::Crc32)] {
        for framing in every(crc, None) {
            let payloads: Vec<Vec<u8>> = (0..5_u8)
                .map(|n| (0..u8::try_from(framing.max.min(15)).unwrap()).map(|m| b'g' + (m * 7 + n * 3) % 16).collect())
                .collect();
            let frames: Vec<Vec<u8>> = payloads.iter().map(|payload| encoded(&framing, payload)).collect();
            let mut cases: Vec<(usize, Vec<u8>)> = Vec::new();
            for at in 0..frames[2].len() {
                for bit in 0..8 {
                    let mut frame = frames[2].clone();
                    frame[at] ^= 1 << bit;
                    cases.push((at, frame));
                }
                let mut frame = frames[2].clone();
                frame.remove(at);
                cases.push((at, frame));
            }
            for (at, frame) in cases {
                let mut bursts = frames.clone();
                bursts[2] = frame;
                let silent = matches!(framing.kind, FramingKind::IdleGap { .. });
                let (out, counters) = receive(&framing, &bursts, &[usize::MAX], silent);
                let expected = untouched(&framing, &payloads, &frames, &bursts);
                assert!(is_within(&out, &payloads), "{framing:?} {at}: {out:02x?}");
                assert!(is_within(&expected, &out), "{framing:?} {at}: {out:02x?}");
                let counted = counters.damaged + counters.oversize + counters.incomplete;
                assert!(out.len() == 5 || counted == 1 || counted == 2, "{framing:?} {at}: {counters:?}");
            }
        }
    }
}

// Anything.

/// What is done to one byte of a frame.
#[derive(Debug, Clone)]
enum Change {
    Flip(u8),
    Drop,
    /// Before the byte.
    Insert(u8),
}

/// The payloads of the frames that must arrive, as the module's head promises.
///
/// Where a lost or added byte is like its neighbours, nothing tells which of them it was; all of them count as touched.
fn untouched(framing: &Framing, payloads: &[Vec<u8>], frames: &[Vec<u8>], damaged: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut touched = vec![false; frames.len() + 1];
    for middle in (0..frames.len()).filter(|index| frames[*index] != damaged[*index]) {
        let around = middle.saturating_sub(1)..frames.len().min(middle + 2);
        let (before, after) = (frames[around.clone()].concat(), damaged[around.clone()].concat());
        let same = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.take_while(|(one, other)| one == other).count();
        let front = same(&mut before.iter().zip(&after));
        let back = same(&mut before.iter().rev().zip(after.iter().rev()));
        // The bytes that may have been touched: what surely stands before, and what surely stands behind.
        let shorter = before.len().min(after.len());
        let from = front.min(shorter.saturating_sub(back));
        let to = before.len() - back.min(shorter.saturating_sub(front));
        let mut start = 0;
        for index in around {
            let end = start + frames[index].len();
            touched[index] |= from < end && to > start;
            let marks = match &framing.kind {
                FramingKind::Lines { delimiter } => delimiter.bytes().len(),
                FramingKind::Cobs => 1,
                _ => 0,
            };
            // In the delimiter or directly behind it.
            touched[index + 1] |= marks > 0 && from <= end && to > end - marks;
            touched[index] |= marks > 0 && from <= start && to >= start;
            touched[index] |= index == middle && matches!(framing.kind, FramingKind::IdleGap { .. });
            start = end;
        }
    }
    let kept = payloads.iter().zip(touched).filter(|(_, touched)| !touched);
    kept.map(|(payload, _)| payload.clone()).collect()
}

/// Whether all of `few` stand in `many`, in the same order.
fn is_within(few: &[Vec<u8>], many: &[Vec<u8>]) -> bool {
    let mut many = many.iter();
    few.iter().all(|wanted| many.any(|there| there == wanted))
}

/// Bytes that framings care about, and all others.
fn byte() -> impl Strategy<Value = u8> {
    let special = b"\0\x01\x02\x03\n\r;\xC0\xDB\xDC\xDD\xFF<>!\x04".to_vec();
    prop_oneof![1 => prop::sample::select(special), 2 => any::<u8>()]
}

/// One framing, and payloads that it can carry.
fn traffic(crc: Option<Crc>, idle: Option<Duration>) -> impl Strategy<Value = (Framing, Vec<Vec<u8>>)> {
    let payloads = prop::collection::vec(prop::collection::vec(byte(), 1..=32), 1..16);
    (prop::sample::select(every(crc, idle)), payloads).prop_map(|(framing, mut payloads)| {
        if let FramingKind::Fixed { .. } = framing.kind {
            for payload in &mut payloads {
                payload.resize(framing.max, 0x55);
            }
        }
        payloads.retain(|payload| encode(&framing, payload, &mut Vec::new()).is_ok());
        (framing, payloads)
    })
}

/// Damage at up to three places: which frame, and up to four changes of its bytes.
type Places = Vec<(prop::sample::Index, Vec<(prop::sample::Index, Change)>)>;

fn places() -> impl Strategy<Value = Places> {
    let change = prop_oneof![(0..8_u8).prop_map(Change::Flip), Just(Change::Drop), byte().prop_map(Change::Insert)];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change), 1..5);
    prop::collection::vec((any::<prop::sample::Index>(), changes), 1..4)
}

/// Damages frames, of which some at least stay whole between two damaged ones: from byte `first` on.
fn damaged(frames: &[Vec<u8>], places: &Places, first: usize) -> Vec<Vec<u8>> {
    let mut damaged = frames.to_vec();
    let mut used: Vec<usize> = Vec::new();
    for (index, changes) in places {
        let index = index.index(frames.len());
        if used.iter().any(|used| used.abs_diff(index) < 3) {
            continue;
        }
        used.push(index);
        let frame = &mut damaged[index];
        for (at, change) in changes.iter().filter(|_| frames[index].len() > first + 4) {
            let at = first + at.index(frame.len() - first);
            match change {
                Change::Flip(bit) => frame[at] ^= 1 << bit,
                Change::Drop => drop(frame.remove(at)),
                Change::Insert(byte) => frame.insert(at, *byte),
            }
        }
    }
    damaged
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..40_usize, 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_is_ever_lost_or_changed_on_a_good_line(
        (framing, payloads) in prop::sample::select(CRCS.to_vec()).prop_flat_map(|crc| traffic(crc, Some(IDLE))),
        cuts in cuts(),
        pauses in any::<bool>(),
    ) {
        let frames: Vec<Vec<u8>> = payloads.iter().map(|payload| encoded(&framing, payload)).collect();
        let silent = pauses || matches!(framing.kind, FramingKind::IdleGap { .. });
        let (out, counters) = receive(&framing, &frames, &cuts, silent);
        let expected = Counters { frames: payloads.len() as u64, ..Counters::default() };
        prop_assert_eq!((out, counters), (payloads, expected));
    }

    #[test]
    fn damage_never_costs_other_frames_and_never_invents_one_where_there_is_a_crc(
        (framing, payloads) in traffic(Some(Crc::Crc32), None),
        places in places(),
        cuts in cuts(),
    ) {
        prop_assume!(!payloads.is_empty());
        let frames: Vec<Vec<u8>> = payloads.iter().map(|payload| encoded(&framing, payload)).collect();
        let damaged = damaged(&frames, &places, 0);
        let silent = matches!(framing.kind, FramingKind::IdleGap { .. });
        let (out, counters) = receive(&framing, &damaged, &cuts, silent);
        prop_assert!(is_within(&out, &payloads), "invented: {out:02x?}");
        let expected = untouched(&framing, &payloads, &frames, &damaged);
        prop_assert!(is_within(&expected, &out), "lost: {out:02x?} of {expected:02x?}");
        prop_assert_eq!(counters.frames, out.len() as u64);
        let counted = counters.damaged + counters.oversize + counters.incomplete + counters.empty;
        prop_assert!(out.len() == payloads.len() || counted > 0, "not counted: {counters:?}");
    }

    #[test]
    fn damage_never_costs_other_frames_where_the_line_is_marked_or_pauses(
        (framing, payloads) in traffic(None, Some(IDLE)),
        places in places(),
        cuts in cuts(),
    ) {
        prop_assume!(!payloads.is_empty());
        let frames: Vec<Vec<u8>> = payloads.iter().map(|payload| encoded(&framing, payload)).collect();
        // A byte in a pause is taken for the start of the frame behind it.
        let damaged = damaged(&frames, &places, 1);
        let (out, _) = receive(&framing, &damaged, &cuts, true);
        let expected = untouched(&framing, &payloads, &frames, &damaged);
        prop_assert!(is_within(&expected, &out), "lost: {out:02x?} of {expected:02x?}");
    }

    #[test]
    fn noise_never_panics_overruns_or_depends_on_its_chunks(
        framing in prop::sample::select(CRCS.iter().flat_map(|crc| every(*crc, Some(IDLE))).collect::<Vec<_>>()),
        noise in prop::collection::vec(prop::collection::vec(byte(), 0..200), 0..8),
        cuts in cuts(),
        silent in any::<bool>(),
    ) {
        let (out, counters) = receive(&framing, &noise, &cuts, silent);
        prop_assert!(out.iter().all(|payload| (1..=framing.max).contains(&payload.len())));
        prop_assert_eq!((out, counters), receive(&framing, &noise, &[usize::MAX], silent));
    }
}
