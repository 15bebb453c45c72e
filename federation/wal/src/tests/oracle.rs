//! The judge of damaged logs, over logs and damages drawn at random. The fuzz targets of `fuzz/`
//! ask the same judge.

use crate::format::{BATCH_HEADER_BYTES, BatchEncoder, BatchHeader};
use crate::oracle::{Outcome, damage, damage_under, decode};
use crate::recover::{Recovery, Rules};
use crate::sim_disk::SplitMix64;

const CASES: u64 = 40_000;

fn input(seed: u64) -> Vec<u8> {
    let mut random = SplitMix64(seed);
    let length = random.below(256);
    (0..length).map(|_| random.next().to_le_bytes()[0]).collect()
}

fn failures(rules: Rules, cases: u64) -> usize {
    (0..cases).filter(|seed| damage_under(rules, &input(*seed)).is_err()).count()
}

#[test]
fn no_damage_is_misjudged() {
    let (mut harmless, mut refused, mut cut, mut short) = (0, 0, 0, 0);
    for seed in 0..CASES {
        let outcome = damage(&input(seed)).unwrap_or_else(|wrong| panic!("input({seed}): {wrong}"));
        let Outcome { was_harmless, is_refused, is_cut, is_short } = outcome;
        harmless += u64::from(was_harmless);
        refused += u64::from(is_refused);
        cut += u64::from(is_cut);
        short += u64::from(is_short);
    }
    eprintln_counts(&[
        ("harmless", harmless),
        ("refused", refused),
        ("cut", cut),
        ("short", short),
    ]);
    assert!(harmless > CASES / 20 && refused > CASES / 10, "{harmless} {refused}");
    assert!(cut > CASES / 20 && short > CASES / 100, "{cut} {short}");
}

#[test]
fn the_judge_finds_each_broken_rule() {
    for rules in [Rules::TruncateAtFirstInvalid, Rules::AttestOwnBatch] {
        let found = failures(rules, CASES / 4);
        assert!(found > 5, "{rules:?}: {found}");
    }
}

#[test]
fn no_bytes_make_recovery_panic() {
    for seed in 0..CASES {
        decode(&input(seed)).unwrap_or_else(|wrong| panic!("input({seed}): {wrong}"));
    }
}

/// Shown with `--nocapture`: the numbers are worth reading when the format or writer changes.
fn eprintln_counts(counts: &[(&str, u64)]) {
    eprintln!("of {CASES}: {counts:?}");
}
/// Found by the fuzz target: a segment without records and the one after it begin with the same
/// number, and under the salt of the first, nothing in the second is evidence.
#[test]
fn the_opening_of_an_empty_segment_does_not_fit_the_next_one() {
    for (first, second) in [(false, true), (true, true)] {
        let mut segments = [
            BatchHeader::opening(1, 7, 1).encode().to_vec(),
            BatchHeader::opening(2, 8, 1).encode().to_vec(),
        ];
        let mut encoder = BatchEncoder::default();
        segments[1].extend_from_slice(encoder.encode(8, 1, 0, [b"x".as_slice()].into_iter()));
        segments[1].extend_from_slice(encoder.encode(8, 2, 1, std::iter::empty()));
        let openings = segments.each_ref().map(|segment| segment[..BATCH_HEADER_BYTES].to_vec());
        if second {
            segments[1][..BATCH_HEADER_BYTES].copy_from_slice(&openings[0]);
        }
        if first {
            segments[0][..BATCH_HEADER_BYTES].copy_from_slice(&openings[1]);
        }
        let mut recovery = Recovery::default();
        let results = [1, 2]
            .map(|index| recovery.push(index as u64, &segments[index - 1], &mut |_, _| ()).is_ok());
        assert_eq!(results, [!first, false]);
    }
}
