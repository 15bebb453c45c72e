//! What mismatches in memory say: a stuck bit comes back at its place in every pass, whoever writes
//! and reads; an alias shows another place's address; what follows an SM is the SM's.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Blame, Finding, Severity};

/// The check's name in findings.
pub const CHECK: &str = "memory";
/// What is to blame for reads that go wrong wherever and for whomever.
pub const SECOND_LEVEL: &str = "second-level cache";
/// Bytes of what is compared at once.
pub const VECTOR: u64 = 16;
/// Findings that are listed; what is beyond is counted.
const LISTED_MAX: usize = 16;
/// Neighbours from which on they are a row.
const ROW_MIN: usize = 4;

/// What is written. Each is also written as its complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    Address,
    Random,
    Walk,
    Checker,
    Modulo,
}

/// Allocated memory: vectors `first` to `first + count` begin at `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub first: u64,
    pub count: u64,
    pub address: u64,
}

/// 16 bytes that were not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    pub pass: u32,
    pub pattern: Pattern,
    pub seed: u64,
    /// True if the complement was wanted.
    pub flipped: bool,
    /// Number of the vector.
    pub index: u64,
    pub want: [u32; 4],
    pub got: [u32; 4],
    /// A second read, right after.
    pub again: [u32; 4],
    pub reader: u32,
    /// The SM that wrote it.
    pub writer: u32,
}

/// What a test of the memory measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Numbers {
    pub pieces: Vec<Piece>,
    pub bytes_free: u64,
    pub passes: u32,
    /// All that differed, also what is not among the mismatches.
    pub count: u64,
    pub spoiled: u32,
    pub mismatches: Vec<Mismatch>,
    /// The pass in which memory was left alone, and the one in which rows were read in turns.
    #[serde(default)]
    pub held: Option<u32>,
    #[serde(default)]
    pub disturbed: Option<u32>,
    /// A bit that the test itself turned round, by its address: in a pass of its own.
    pub canary: Option<Canary>,
    /// Bytes read and written, and how long that took.
    pub bytes_moved: u64,
    pub nanos: u64,
}

/// A planted wrong bit and what was found of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    pub index: u64,
    pub found: Vec<u64>,
}

impl Numbers {
    /// Bytes under test.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|it| it.count * VECTOR).sum()
    }

    fn address(&self, index: u64) -> Option<u64> {
        let holds = |it: &&Piece| index >= it.first && index - it.first < it.count;
        self.pieces.iter().find(holds).map(|it| it.address + (index - it.first) * VECTOR)
    }
}

/// What the numbers say.
#[must_use]
pub fn judge(numbers: &Numbers) -> Vec<Finding> {
    let mut findings = Vec::new();
    if numbers.spoiled > 0 {
        let message = format!("{} records came damaged from the GPU", numbers.spoiled);
        let blame = Blame::Device { what: "results do not arrive whole".into() };
        findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
    }
    // Nine tenths and nine hundredths of what was free.
    if numbers.bytes() * 100 < numbers.bytes_free * 99 {
        let (bytes, free) = (numbers.bytes(), numbers.bytes_free);
        findings.push(Finding::unknown(CHECK, format!("{bytes} of {free} free bytes were tested")));
    }
    if let Some(canary) = &numbers.canary
        && !canary.found.contains(&canary.index)
    {
        findings.push(Finding::unknown(CHECK, "a bit that was turned round was not found"));
    }
    let mut left: Vec<&Mismatch> = numbers.mismatches.iter().collect();
    aliases(numbers, &mut left, &mut findings);
    cells(numbers, &mut left, &mut findings);
    path(&mut left, &mut findings);
    sms(numbers, &mut left, &mut findings);
    single(numbers, &left, &mut findings);
    if numbers.count > 0 && !findings.iter().any(|it| it.severity == Severity::Fault) {
        let message = format!("{} mismatches without a record", numbers.count);
        let blame = Blame::Device { what: "memory".into() };
        findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
    }
    findings
}

/// The vector whose address pattern this is.
#[expect(clippy::cast_possible_truncation, reason = "the halves of the seed are wanted")]
fn decode(it: &Mismatch) -> Option<u64> {
    if it.pattern != Pattern::Address {
        return None;
    }
    let flip = if it.flipped { u32::MAX } else { 0 };
    let [x, y, z, w] = it.got.map(|word| word ^ flip);
    let (low, high) = (x ^ it.seed as u32, y ^ (it.seed >> 32) as u32);
    (z == !x && w == !y).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Takes away what shows another place's address, and all that lies at both places.
fn aliases(numbers: &Numbers, left: &mut Vec<&Mismatch>, findings: &mut Vec<Finding>) {
    let mut pairs: BTreeSet<(u64, u64)> = BTreeSet::new();
    for it in left.iter() {
        if let Some(other) = decode(it)
            && other != it.index
            && numbers.address(other).is_some()
        {
            pairs.insert((it.index.min(other), it.index.max(other)));
        }
    }
    if pairs.is_empty() {
        return;
    }
    let ends: BTreeSet<u64> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    left.retain(|it| !ends.contains(&it.index));
    for (a, b) in pairs.iter().take(LISTED_MAX) {
        let (Some(address), Some(other)) = (numbers.address(*a), numbers.address(*b)) else {
            continue;
        };
        let more = pairs.len() - 1;
        let message = format!("{address:#x} and {other:#x} are one place ({more} more such pairs)");
        let blame = Blame::Alias { address, other };
        findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
    }
}

/// What was seen at one place.
#[derive(Default)]
struct Place {
    passes: BTreeSet<u32>,
    bits: [u32; 4],
    /// Bits that were seen as one, and as zero, where they were wrong.
    ones: [u32; 4],
    zeros: [u32; 4],
}

fn places(of: &[&Mismatch]) -> BTreeMap<u64, Place> {
    let mut places: BTreeMap<u64, Place> = BTreeMap::new();
    for it in of {
        let place = places.entry(it.index).or_default();
        place.passes.insert(it.pass);
        for word in 0..4 {
            let wrong = it.want[word] ^ it.got[word];
            place.bits[word] |= wrong;
            place.ones[word] |= wrong & it.got[word];
            place.zeros[word] |= wrong & !it.got[word];
        }
    }
    places
}

/// Takes away places that were wrong in at least half of the passes.
fn cells(numbers: &Numbers, left: &mut Vec<&Mismatch>, findings: &mut Vec<Finding>) {
    let often = u64::from(numbers.passes.div_ceil(2).max(2));
    let mut places = places(left);
    places.retain(|_, place| place.passes.len() as u64 >= often);
    left.retain(|it| !places.contains_key(&it.index));
    let mut runs: Vec<Vec<(u64, Place)>> = Vec::new();
    for (index, place) in places {
        match runs.last_mut().filter(|run| run.last().is_some_and(|it| it.0 + 1 == index)) {
            Some(run) => run.push((index, place)),
            None => runs.push(alloc::vec![(index, place)]),
        }
    }
    let count = runs.len();
    for run in runs.iter().take(LISTED_MAX) {
        findings.extend(run_finding(numbers, run, count));
    }
}

fn run_finding(numbers: &Numbers, run: &[(u64, Place)], count: usize) -> Vec<Finding> {
    let blames: Vec<Blame> = if run.len() >= ROW_MIN {
        let bits = run.iter().fold([0; 4], |all, (_, place)| or(all, place.bits));
        let address = run.first().and_then(|it| numbers.address(it.0)).unwrap_or(0);
        [Blame::Row { address, bytes: run.len() as u64 * VECTOR, bits }].into()
    } else {
        let all = run.iter();
        all.filter_map(|(index, place)| Some(cell(numbers.address(*index)?, place))).collect()
    };
    let say = |blame: Blame| {
        let what = describe(&blame);
        let message = format!("{what} is wrong whoever writes and reads ({count} such places)");
        Finding::new(CHECK, Severity::Fault, blame, message)
    };
    blames.into_iter().map(say).collect()
}

fn or(a: [u32; 4], b: [u32; 4]) -> [u32; 4] {
    core::array::from_fn(|nth| a[nth] | b[nth])
}

fn cell(address: u64, place: &Place) -> Blame {
    let is_single = place.bits.iter().map(|word| word.count_ones()).sum::<u32>() == 1;
    let ones: u32 = place.ones.iter().fold(0, |all, word| all | word);
    let zeros: u32 = place.zeros.iter().fold(0, |all, word| all | word);
    let word = place.bits.iter().zip(0_u64..).find(|(bits, _)| **bits != 0);
    match word {
        Some((bits, nth)) if is_single && (ones == 0 || zeros == 0) => {
            Blame::Bit { address: address + nth * 4, bit: bits.trailing_zeros(), one: ones != 0 }
        }
        _ => Blame::Cell { address, bits: place.bits },
    }
}

fn describe(blame: &Blame) -> String {
    match blame {
        Blame::Bit { address, bit, one } => {
            format!("bit {bit} at {address:#x} (always {})", u8::from(*one))
        }
        Blame::Row { address, bytes, bits } => {
            format!("a row of {bytes} bytes at {address:#x} (bits {bits:08x?})")
        }
        Blame::Cell { address, bits } => format!("{address:#x} (bits {bits:08x?})"),
        Blame::Alias { .. }
        | Blame::Sm { .. }
        | Blame::Link { .. }
        | Blame::Transfer { .. }
        | Blame::Counter { .. }
        | Blame::Device { .. }
        | Blame::Test { .. } => format!("{blame:?}"),
    }
}

/// Takes away what follows an SM: first reads that were right when repeated, which are the
/// reader's, then the rest, which is whoever's took part in nearly all of it.
fn sms(numbers: &Numbers, left: &mut Vec<&Mismatch>, findings: &mut Vec<Finding>) {
    let (transient, lasting): (Vec<&Mismatch>, Vec<&Mismatch>) =
        left.iter().partition(|it| it.again == it.want);
    let is_read = transient.len() >= lasting.len();
    let parts: [(&[&Mismatch], bool); 2] = [(&transient, true), (&lasting, false)];
    let mut named: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
    for (part, once) in parts {
        let Some((sm, count)) = suspect(part, once) else { continue };
        // A second read can be wrong too, and a write that is lost can be read wrong.
        let is_main = once == is_read;
        let what = if once { "reads of it are right when repeated" } else { "its writes are lost" };
        let share_is_enough = count * 20 >= part.len() * 19;
        if share_is_enough && (count >= 2 || (is_main && left.len() > 2)) {
            named.entry(sm).or_insert((count, what));
        }
    }
    for (sm, (count, what)) in &named {
        let unit = if *what == "its writes are lost" { "writes" } else { "reads" };
        let message =
            format!("{count} mismatches follow SM {sm}: {what} ({} in all)", numbers.count);
        let blame = Blame::Sm { sm: *sm, unit: unit.into() };
        findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
    }
    left.retain(|it| !named.contains_key(&it.reader) && !named.contains_key(&it.writer));
}

/// The SM that took part in most.
fn suspect(of: &[&Mismatch], readers_only: bool) -> Option<(u32, usize)> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for it in of {
        *counts.entry(it.reader).or_default() += 1;
        if !readers_only && it.writer != it.reader {
            *counts.entry(it.writer).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count)
}

/// Takes away reads that were right when repeated, of several SMs and places and mostly of no one
/// SM: what they share. A few that were wrong twice in a row belong to them.
fn path(left: &mut Vec<&Mismatch>, findings: &mut Vec<Finding>) {
    let (passing, lasting): (Vec<&Mismatch>, Vec<&Mismatch>) =
        left.iter().partition(|it| it.again == it.want);
    let readers: BTreeSet<u32> = passing.iter().map(|it| it.reader).collect();
    let places: BTreeSet<u64> = passing.iter().map(|it| it.index).collect();
    let most = suspect(&passing, true).map_or(0, |(_, count)| count);
    if readers.len() < 3 || places.len() < 3 || most * 2 > passing.len() {
        return;
    }
    let (count, of) = (passing.len(), readers.len());
    let message = format!("{count} reads by {of} SMs were wrong and right when repeated");
    let blame = Blame::Device { what: SECOND_LEVEL.into() };
    findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
    *left = if lasting.len() * 10 > count { lasting } else { Vec::new() };
}

/// What is left has no pattern: each place is named.
fn single(numbers: &Numbers, left: &[&Mismatch], findings: &mut Vec<Finding>) {
    for (index, place) in places(left).iter().take(LISTED_MAX) {
        let Some(address) = numbers.address(*index) else { continue };
        let blame = Blame::Cell { address, bits: place.bits };
        let is_only_in = |pass: Option<u32>| place.passes.iter().all(|it| Some(*it) == pass);
        let how = if is_only_in(numbers.held) {
            String::from("lost what it held when it was left alone")
        } else if is_only_in(numbers.disturbed) {
            String::from("lost what it held when rows were read in turns")
        } else {
            format!("was wrong in {} passes", place.passes.len())
        };
        let message = format!("{} {how}", describe(&blame));
        findings.push(Finding::new(CHECK, Severity::Fault, blame, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSES: u32 = 14;
    const BASE: u64 = 0x1000;

    fn mismatch(pass: u32, index: u64, reader: u32, writer: u32) -> Mismatch {
        let (want, got) = ([0; 4], [0, 1 << 7, 0, 0]);
        let (pattern, seed, flipped) = (Pattern::Random, 0, false);
        Mismatch { pass, pattern, seed, flipped, index, want, got, again: got, reader, writer }
    }

    fn numbers(mismatches: Vec<Mismatch>) -> Numbers {
        let pieces = alloc::vec![Piece { first: 0, count: 1_000, address: BASE }];
        let count = mismatches.len() as u64;
        let (passes, bytes_free) = (PASSES, 16_000);
        Numbers { pieces, count, passes, bytes_free, mismatches, ..Numbers::default() }
    }

    fn blames(numbers: &Numbers) -> Vec<Blame> {
        judge(numbers).into_iter().map(|it| it.blame).collect()
    }

    #[test]
    fn reads_that_go_wrong_for_several_sms_at_several_places_are_no_cells() {
        let wrong = |nth: u32| {
            let it = mismatch(nth, 10 * u64::from(nth), nth % 4, 7);
            // One of them was wrong twice.
            Mismatch { again: if nth == 19 { it.got } else { it.want }, ..it }
        };
        let found = judge(&numbers((0..20).map(wrong).collect()));
        let blames: Vec<&Blame> = found.iter().map(|it| &it.blame).collect();
        assert_eq!(blames, [&Blame::Device { what: SECOND_LEVEL.into() }], "{found:?}");
    }

    #[test]
    fn what_comes_back_at_one_place_is_a_bit() {
        let all = (0..PASSES).map(|pass| mismatch(pass, 5, pass % 8, (pass + 3) % 8));
        let expected = Blame::Bit { address: BASE + 5 * 16 + 4, bit: 7, one: true };
        assert_eq!(blames(&numbers(all.collect())), [expected]);
    }

    #[test]
    fn neighbours_that_come_back_are_a_row() {
        let all = (0..PASSES)
            .flat_map(|pass| (8..40).map(move |index| mismatch(pass, index, pass % 8, 1)));
        let expected = Blame::Row { address: BASE + 128, bytes: 32 * 16, bits: [0, 128, 0, 0] };
        assert_eq!(blames(&numbers(all.collect())), [expected]);
    }

    #[test]
    fn what_shows_another_address_is_an_alias() {
        let mut it = mismatch(0, 5, 0, 0);
        it.pattern = Pattern::Address;
        it.seed = 0x77_0000_0099;
        let x = 9_u32 ^ 0x99;
        it.got = [x, 0x77, !x, !0x77];
        let mut rest = mismatch(1, 9, 0, 0);
        rest.flipped = true;
        let expected = Blame::Alias { address: BASE + 5 * 16, other: BASE + 9 * 16 };
        assert_eq!(blames(&numbers(alloc::vec![it, rest])), [expected]);
    }

    #[test]
    fn what_follows_a_writer_is_its_and_what_is_right_again_the_readers() {
        let lost = (0..40_u32).map(|nth| mismatch(nth % 3, u64::from(nth) * 7, nth % 8, 6));
        let expected = Blame::Sm { sm: 6, unit: "writes".into() };
        assert_eq!(blames(&numbers(lost.collect())), [expected]);
        let read = (0..40_u32).map(|nth| {
            let mut it = mismatch(nth % 3, u64::from(nth) * 7, 2, nth % 8);
            it.again = it.want;
            it
        });
        let expected = Blame::Sm { sm: 2, unit: "reads".into() };
        assert_eq!(blames(&numbers(read.collect())), [expected]);
    }

    #[test]
    fn what_is_lost_in_one_pass_alone_is_named_with_what_was_done_in_it() {
        let with = |held, disturbed| {
            let it = Numbers { held, disturbed, ..numbers(alloc::vec![mismatch(11, 5, 0, 1)]) };
            let found = judge(&it).remove(0);
            let blame = Blame::Cell { address: BASE + 5 * 16, bits: [0, 1 << 7, 0, 0] };
            assert_eq!(found.blame, blame);
            found.message
        };
        assert!(with(Some(11), Some(16)).contains("left alone"));
        assert!(with(Some(6), Some(11)).contains("rows were read"));
        assert!(with(None, None).contains("in 1 passes"));
    }

    #[test]
    fn little_coverage_and_a_canary_that_nobody_saw_are_no_pass() {
        let mut it = numbers(Vec::new());
        it.canary = Some(Canary { index: 3, found: alloc::vec![3] });
        assert!(judge(&it).is_empty());
        it.canary = Some(Canary { index: 3, found: Vec::new() });
        it.bytes_free = 17_000;
        let severities: Vec<Severity> = judge(&it).iter().map(|it| it.severity).collect();
        assert_eq!(severities, [Severity::Unknown; 2]);
    }

    #[test]
    fn mismatches_without_a_record_are_a_fault_all_the_same() {
        let mut it = numbers(Vec::new());
        it.count = 3;
        assert_eq!(judge(&it).len(), 1);
        assert_eq!(judge(&it)[0].severity, Severity::Fault);
    }
}
