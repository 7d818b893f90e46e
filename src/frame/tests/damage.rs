//! Cuts, damage and noise, at every place or at random ones: a good line loses nothing, damage costs what the module's head says,
//! and nothing panics.

use super::*;
use proptest::prelude::*;

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
