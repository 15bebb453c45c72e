//! What recovery may make of a damaged log: the one judge that the fuzz targets and the tests ask.
//!
//! Bytes choose a log, as the writer would leave it, and then what happens to its files. A model
//! knows what was written, what was durable, and which intact header vouches for what.
//!
//! It demands, whatever the damage:
//! - a record that comes back is the one that was written under its number, without gaps;
//! - what an intact header of the newest segment vouches for, or a later segment, comes back, or
//!   the log does not open;
//! - damage to bytes that were never synced is cut off and never called rot, also over the stale
//!   bytes of another segment;
//! - bytes that are cut off are reported as cut off.

use std::ops::Range;

use crate::format::{BATCH_HEADER_BYTES, BatchEncoder, BatchHeader, Seq};
use crate::recover::{RecoverError, Recovery, Rules, Scan};
use crate::sim_disk::SECTOR_BYTES;

/// Steps in writing one log; further bytes are damage.
const STEPS: usize = 48;
/// Damages to one log.
const DAMAGES: usize = 8;

/// What a case came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Only bytes that were never synced had been damaged.
    pub was_harmless: bool,
    /// The log does not open.
    pub is_refused: bool,
    /// The log opens, and its tail is cut off.
    pub is_cut: bool,
    /// The log opens without records that were durable, but that no intact header vouches for.
    pub is_short: bool,
}

/// Builds the log that `input` chooses, damages it as `input` says, recovers and judges it.
///
/// # Errors
/// What recovery did wrong.
pub fn damage(input: &[u8]) -> Result<Outcome, String> {
    damage_under(Rules::Sound, input)
}

pub(crate) fn damage_under(rules: Rules, input: &[u8]) -> Result<Outcome, String> {
    let mut choices = Choices { input, noise: 0x9e37_79b9_7f4a_7c15 };
    let mut log = Log::write(rules, &mut choices);
    for _ in 0..1 + choices.below(DAMAGES) {
        log.damage(&mut choices);
    }
    log.judge()
}

/// Recovers segments that are `input` and nothing else. Lengths come first, then the bytes.
///
/// # Errors
/// What recovery did wrong: a record out of order, or one that is not in the bytes.
pub fn decode(input: &[u8]) -> Result<(), String> {
    let mut choices = Choices { input, noise: 1 };
    let mut recovery = Recovery::default();
    let mut next = None;
    let mut wrong = None;
    for index in 1..=1 + choices.below(3) as u64 {
        let length = choices.below(1 << 12);
        let mut segment = Vec::new();
        if choices.flip() {
            // Recovery looks at nothing without an opening.
            let first_seq = 1 + choices.below(4) as u64;
            segment.extend(opening(index, u32::from(choices.byte()), first_seq));
        }
        let taken = length.min(choices.input.len());
        let (bytes, rest) = choices.input.split_at(taken);
        choices.input = rest;
        segment.extend_from_slice(bytes);
        let within = segment.as_ptr_range();
        let result = recovery.push(index, &segment, &mut |seq, record| {
            let place = record.as_ptr_range();
            if next.is_some_and(|next| next != seq) {
                wrong = Some(format!("record {seq} after {next:?}"));
            }
            if place.start < within.start || place.end > within.end {
                wrong = Some(format!("record {seq} is not of these bytes"));
            }
            next = Some(seq + 1);
        });
        if result.is_err() {
            break;
        }
    }
    wrong.map_or(Ok(()), Err)
}

/// Decisions, taken from bytes; when they are used up, the simplest ones.
struct Choices<'a> {
    input: &'a [u8],
    noise: u64,
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.input.split_first() else { return 0 };
        self.input = rest;
        *byte
    }

    /// A number below `bound`, which is not 0 and fits 24 bits.
    fn below(&mut self, bound: usize) -> usize {
        let bytes = if bound > 1 << 16 { 3 } else { 1 + usize::from(bound > 1 << 8) };
        (0..bytes).fold(0, |number, _| number << 8 | usize::from(self.byte())) % bound
    }

    fn flip(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A byte that the input need not spell out.
    fn noise(&mut self) -> u8 {
        self.noise =
            self.noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.noise.to_be_bytes()[0]
    }
}

fn opening(index: u64, salt: u32, first_seq: Seq) -> [u8; BATCH_HEADER_BYTES] {
    BatchHeader::opening(index, salt, first_seq).encode()
}

/// A header that was written, and up to where it says that the log is durable.
struct Vouch {
    segment: usize,
    at: usize,
    upto: Seq,
}

type Records = Vec<(Seq, Vec<u8>)>;

struct Log {
    rules: Rules,
    encoder: BatchEncoder,
    /// As written, and as they are after the damage; of those that are left.
    written: Vec<Vec<u8>>,
    segments: Vec<Option<Vec<u8>>>,
    salts: u32,
    records: Vec<Vec<u8>>,
    vouches: Vec<Vouch>,
    durable: Seq,
    /// End of what is synced of the newest segment, and of what is written.
    synced: usize,
    end: usize,
    /// How many segments there were when the first one got stale bytes behind its end.
    stale: Option<usize>,
}

impl Log {
    fn write(rules: Rules, choices: &mut Choices<'_>) -> Log {
        let mut log = Log {
            rules,
            encoder: BatchEncoder::default(),
            written: Vec::new(),
            segments: Vec::new(),
            salts: u32::from_le_bytes([choices.byte(), choices.byte(), choices.byte(), 1]),
            records: Vec::new(),
            vouches: Vec::new(),
            durable: 0,
            synced: 0,
            end: 0,
            stale: None,
        };
        log.begin_segment();
        for _ in 0..1 + choices.below(STEPS) {
            match choices.below(8) {
                0 => log.sync(),
                1 if log.written.len() < 6 => {
                    log.sync();
                    log.end_segment(choices);
                    log.begin_segment();
                }
                records => log.batch(records % 5, choices),
            }
        }
        if choices.flip() {
            log.sync();
        }
        log.end_segment(choices);
        log.segments = log.written.iter().cloned().map(Some).collect();
        log
    }

    fn begin_segment(&mut self) {
        self.salts = self.salts.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        let first_seq = self.records.len() as Seq + 1;
        let upto = first_seq - 1;
        self.vouches.push(Vouch { segment: self.written.len(), at: 0, upto });
        let index = self.written.len() as u64 + 1;
        self.written.push(opening(index, self.salts, first_seq).to_vec());
        (self.synced, self.end) = (BATCH_HEADER_BYTES, BATCH_HEADER_BYTES);
    }

    /// Leaves the rest zeros, or, as if a segment were used again as it is, what another one held.
    fn end_segment(&mut self, choices: &mut Choices<'_>) {
        let rest = choices.below(3 * SECTOR_BYTES);
        let number = self.written.len() - 1;
        let source = self.written[choices.below(self.written.len())].clone();
        let segment = &mut self.written[number];
        segment.resize(self.end + rest, 0);
        let stale = self.end..segment.len().min(source.len());
        if choices.below(4) == 3 && number > 0 && !stale.is_empty() {
            segment[stale.clone()].copy_from_slice(&source[stale]);
            self.stale.get_or_insert(self.written.len());
        }
    }

    fn batch(&mut self, records: usize, choices: &mut Choices<'_>) {
        let first = self.records.len();
        for _ in 0..records {
            let size = choices.below(600);
            let record = (0..size).map(|_| choices.noise()).collect();
            self.records.push(record);
        }
        let is_own = self.rules.attest_own_batch();
        let upto = if is_own { self.records.len() as Seq } else { self.durable };
        let payloads = self.records[first..].iter().map(Vec::as_slice);
        let bytes = self.encoder.encode(self.salts, first as Seq + 1, upto, payloads);
        let segment = self.written.len() - 1;
        self.vouches.push(Vouch { segment, at: self.end, upto: self.durable });
        self.written[segment].extend_from_slice(bytes);
        self.end += bytes.len();
    }

    fn sync(&mut self) {
        self.durable = self.records.len() as Seq;
        self.synced = self.end;
    }

    fn damage(&mut self, choices: &mut Choices<'_>) {
        let newest = self.written.len() - 1;
        match choices.below(8) {
            // The power fails: sectors of what was not synced are as they were, or worse.
            0..3 => {
                let sectors = self.synced / SECTOR_BYTES..self.end.div_ceil(SECTOR_BYTES);
                let sector = sectors.start + choices.below(sectors.len().max(1));
                let lost = sector_of(sector, self.synced..self.end);
                self.overwrite(newest, lost, choices);
            }
            3 => {
                let (segment, at) = self.place(choices);
                let bit = 1 << choices.below(8);
                if let Some(bytes) = &mut self.segments[segment] {
                    bytes[at] ^= bit;
                }
            }
            4 => {
                let (segment, at) = self.place(choices);
                let length = self.written[segment].len();
                self.overwrite(segment, sector_of(at / SECTOR_BYTES, 0..length), choices);
            }
            5 => self.misdirect(choices),
            6 => {
                let (segment, at) = self.place(choices);
                if let Some(bytes) = &mut self.segments[segment] {
                    bytes[at..].fill(0);
                }
            }
            _ => {
                let lost = choices.below(self.written.len());
                if choices.below(4) == 3 && self.written.len() > 1 {
                    self.segments[lost] = None;
                }
            }
        }
    }

    fn place(&self, choices: &mut Choices<'_>) -> (usize, usize) {
        let segment = choices.below(self.written.len());
        (segment, choices.below(self.written[segment].len()))
    }

    /// A sector is written where another should be.
    fn misdirect(&mut self, choices: &mut Choices<'_>) {
        let ((from, source), (to, target)) = (self.place(choices), self.place(choices));
        let source = sector_of(source / SECTOR_BYTES, 0..self.written[from].len());
        let target = sector_of(target / SECTOR_BYTES, 0..self.written[to].len());
        let length = source.len().min(target.len());
        let bytes = self.written[from][source.start..source.start + length].to_vec();
        if let Some(segment) = &mut self.segments[to] {
            segment[target.start..target.start + length].copy_from_slice(&bytes);
        }
    }

    fn overwrite(&mut self, segment: usize, lost: Range<usize>, choices: &mut Choices<'_>) {
        let is_noise = choices.flip();
        if let Some(bytes) = &mut self.segments[segment] {
            for byte in &mut bytes[lost] {
                *byte = if is_noise { choices.noise() } else { 0 };
            }
        }
    }

    /// Whether nothing that was synced differs, nor stands in the way of where a segment ends.
    fn is_harmless(&self) -> bool {
        let newest = self.written.len() - 1;
        let is_intact = |number: usize, range: Range<usize>| {
            let after = self.segments[number].as_ref().map(|bytes| &bytes[range.clone()]);
            after == Some(&self.written[number][range])
        };
        // Behind the end of an earlier one they stand in the way of the next segment.
        self.stale.is_none_or(|segments| segments == self.written.len())
            && (0..newest).all(|number| is_intact(number, 0..self.written[number].len()))
            && is_intact(newest, 0..self.synced)
    }

    /// Up to where headers that are intact in the newest segment vouch for the log.
    fn vouched(&self) -> Seq {
        let Some((newest, bytes)) = self.newest() else { return 0 };
        let is_intact = |vouch: &&Vouch| {
            let header = vouch.at..vouch.at + BATCH_HEADER_BYTES;
            vouch.segment == newest && bytes[header.clone()] == self.written[newest][header]
        };
        self.vouches.iter().filter(is_intact).map(|vouch| vouch.upto).max().unwrap_or(0)
    }

    fn newest(&self) -> Option<(usize, &Vec<u8>)> {
        let left = self.segments.iter().enumerate().rev();
        left.filter_map(|(number, bytes)| Some((number, bytes.as_ref()?))).next()
    }

    fn recover(&self) -> Result<(Records, Scan), RecoverError> {
        let mut recovery = Recovery::with_rules(self.rules);
        let mut found = Vec::new();
        for (index, segment) in (1..).zip(&self.segments) {
            if let Some(segment) = segment {
                let visit = &mut |seq, record: &[u8]| found.push((seq, record.to_vec()));
                recovery.push(index, segment, visit)?;
            }
        }
        Ok((found, recovery.finish()))
    }

    fn judge(&self) -> Result<Outcome, String> {
        let was_harmless = self.is_harmless();
        let (found, scan) = match self.recover() {
            Ok(recovered) => recovered,
            Err(error) if was_harmless => return Err(format!("refused without cause: {error}")),
            Err(_) => return Ok(Outcome { is_refused: true, ..Outcome::default() }),
        };
        let next = scan.newest.as_ref().map_or(1, |newest| newest.next_seq);
        let first = found.first().map_or(next, |(seq, _)| *seq);
        for ((seq, record), expected) in found.iter().zip(first..) {
            let place = usize::try_from(*seq).ok().and_then(|seq| self.records.get(seq - 1));
            if *seq != expected || place != Some(record) {
                return Err(format!("record {seq} is not what was written, or not in its place"));
            }
        }
        if found.len() as Seq != next - first {
            return Err(format!("{} records from {first} to before {next}", found.len()));
        }
        let last = next - 1;
        if last < self.vouched() {
            return Err(format!("{last} of {} records, in silence", self.vouched()));
        }
        if was_harmless && last < self.durable {
            return Err(format!("{last} of {} durable records", self.durable));
        }
        if let (Some(newest), Some((number, bytes))) = (&scan.newest, self.newest()) {
            if newest.index != number as u64 + 1 {
                return Err("the newest segment is ignored".to_owned());
            }
            if bytes[newest.end..].iter().any(|byte| *byte != 0) && !scan.truncated_tail {
                return Err("bytes were cut off in silence".to_owned());
            }
        }
        let is_short = last < self.durable;
        Ok(Outcome { was_harmless, is_refused: false, is_cut: scan.truncated_tail, is_short })
    }
}

/// The bytes of a sector that lie in `within`.
fn sector_of(sector: usize, within: Range<usize>) -> Range<usize> {
    let start = (sector * SECTOR_BYTES).clamp(within.start, within.end);
    start..((sector + 1) * SECTOR_BYTES).clamp(start, within.end)
}
