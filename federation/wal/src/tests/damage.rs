//! Flips every bit of a log and tears its tail in thousands of ways: recovery may refuse, and may
//! lose what was never acknowledged, but may not lose the rest in silence.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::{BATCH_HEADER_BYTES, BatchEncoder, BatchHeader, Seq};
use crate::recover::{Evidence, RecoverError, Recovery, Rules};
use crate::sim_disk::{SECTOR_BYTES, SplitMix64};

const RECORDS: u64 = 100;
const REST: usize = 8 << 10;

/// What recovery makes of a log.
#[derive(Debug)]
struct Found {
    records: Vec<(Seq, Vec<u8>)>,
    truncated_tail: bool,
}

/// A log in which each batch was synced before the next one was written.
#[derive(Clone)]
struct Log {
    rules: Rules,
    random: SplitMix64,
    encoder: BatchEncoder,
    segments: Vec<Vec<u8>>,
    salt: u32,
    payloads: Vec<Vec<u8>>,
    last_batch: Range<usize>,
}

impl Log {
    fn new(seed: u64, rules: Rules) -> Log {
        let mut log = Log {
            rules,
            random: SplitMix64(seed),
            encoder: BatchEncoder::default(),
            segments: Vec::new(),
            salt: 0,
            payloads: Vec::new(),
            last_batch: 0..0,
        };
        log.begin_segment();
        log
    }

    /// As the one above, with `records` in `segments` segments of equal numbers of records.
    fn filled(seed: u64, rules: Rules, records: u64, segments: u64) -> Log {
        let mut log = Log::new(seed, rules);
        for segment in 1..=segments {
            while log.len() < records * segment / segments {
                let left = usize::try_from(records * segment / segments - log.len()).unwrap();
                let count = (1 + log.random.below(4)).min(left);
                log.append_batch(count, 50..350);
            }
            log.current().extend([0; REST]);
            if segment < segments {
                log.begin_segment();
            }
        }
        log
    }

    fn len(&self) -> u64 {
        self.payloads.len() as u64
    }

    fn current(&mut self) -> &mut Vec<u8> {
        self.segments.last_mut().unwrap()
    }

    fn begin_segment(&mut self) {
        self.salt = u32::try_from(self.random.next() >> 32).unwrap();
        let (salt, durable_upto) = (self.salt, self.len());
        let first_seq = durable_upto + 1;
        let opening = BatchHeader::opening(self.segments.len() as u64 + 1, salt, first_seq);
        self.segments.push(opening.encode().to_vec());
    }

    fn batch(&mut self, records: usize, sizes: Range<usize>) -> Vec<u8> {
        let durable = self.len();
        for _ in 0..records {
            let size = sizes.start + self.random.below(sizes.len());
            let payload = (0..size).map(|_| self.random.next().to_le_bytes()[0]).collect();
            self.payloads.push(payload);
        }
        let durable_upto = if self.rules.attest_own_batch() { self.len() } else { durable };
        let payloads = self.payloads[usize::try_from(durable).unwrap()..].iter();
        let payloads = payloads.map(Vec::as_slice);
        self.encoder.encode(self.salt, durable + 1, durable_upto, payloads).to_vec()
    }

    fn append_batch(&mut self, records: usize, sizes: Range<usize>) {
        let bytes = self.batch(records, sizes);
        let start = self.current().len();
        self.last_batch = start..start + bytes.len();
        self.current().extend(bytes);
    }

    fn recover(&self) -> Result<Found, RecoverError> {
        let mut recovery = Recovery::with_rules(self.rules);
        let mut records = Vec::new();
        for (index, segment) in (1..).zip(&self.segments) {
            recovery
                .push(index, segment, &mut |seq, record| records.push((seq, record.to_vec())))?;
        }
        Ok(Found { records, truncated_tail: recovery.finish().truncated_tail })
    }

    /// Whether what was recovered is a part of what was written, in order, from the first on.
    fn wrote(&self, scan: &Found) -> bool {
        let written = (1..).zip(&self.payloads).map(|(seq, payload)| (seq, payload.as_slice()));
        let recovered = scan.records.iter().map(|(seq, payload)| (*seq, payload.as_slice()));
        scan.records.len() <= self.payloads.len() && recovered.zip(written).all(|(a, b)| a == b)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It refuses to open.
    Reported,
    /// Nothing is missing.
    Unaffected,
    /// The last batch is missing and damaged, and nothing vouches for it.
    Tail,
    /// Acknowledged records are missing or wrong, and nobody is told.
    Silent,
}

fn verdict(log: &Log, in_last_batch: bool) -> Verdict {
    match log.recover() {
        Err(_) => Verdict::Reported,
        Ok(scan) if !log.wrote(&scan) => Verdict::Silent,
        Ok(scan) if scan.records.len() == log.payloads.len() => Verdict::Unaffected,
        Ok(scan) if in_last_batch && scan.truncated_tail => Verdict::Tail,
        Ok(_) => Verdict::Silent,
    }
}

/// Flips every `step`-th bit of all bytes in use, one at a time.
fn flip_bits(log: &mut Log, step: usize) -> BTreeMap<Verdict, usize> {
    let mut verdicts = BTreeMap::new();
    for segment in 0..log.segments.len() {
        let is_newest = segment + 1 == log.segments.len();
        let used = log.segments[segment].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for bit in (0..used * 8).step_by(step) {
            log.segments[segment][bit / 8] ^= 1 << (bit % 8);
            let in_last_batch = is_newest && log.last_batch.contains(&(bit / 8));
            *verdicts.entry(verdict(log, in_last_batch)).or_default() += 1;
            log.segments[segment][bit / 8] ^= 1 << (bit % 8);
        }
    }
    verdicts
}

#[test]
fn an_undamaged_log_is_read_whole() {
    for segments in 1..5 {
        let log = Log::filled(7, Rules::Sound, RECORDS, segments);
        let scan = log.recover().unwrap();
        assert!(log.wrote(&scan) && scan.records.len() == 100 && !scan.truncated_tail);
    }
}

#[test]
fn no_flipped_bit_loses_an_acknowledged_record_in_silence() {
    let mut log = Log::filled(1, Rules::Sound, RECORDS, 1);
    let verdicts = flip_bits(&mut log, 1);
    assert!(!verdicts.contains_key(&Verdict::Silent), "{verdicts:?}");
    assert!(verdicts[&Verdict::Reported] > 150_000, "{verdicts:?}");
    assert_eq!(verdicts[&Verdict::Tail], log.last_batch.len() * 8, "{verdicts:?}");
    eprint_verdicts("one segment", &verdicts);
}

#[test]
fn no_flipped_bit_of_several_segments_loses_an_acknowledged_record_in_silence() {
    let mut log = Log::filled(2, Rules::Sound, 60, 3);
    let verdicts = flip_bits(&mut log, 1);
    assert!(!verdicts.contains_key(&Verdict::Silent), "{verdicts:?}");
    assert!(verdicts.values().sum::<usize>() > 100_000, "{verdicts:?}");
    assert_eq!(verdicts[&Verdict::Tail], log.last_batch.len() * 8, "{verdicts:?}");
    eprint_verdicts("three segments", &verdicts);
}

#[test]
fn a_seal_vouches_for_the_last_batch() {
    let mut log = Log::filled(3, Rules::Sound, 12, 1);
    let rest = log.current().len() - REST;
    log.current().truncate(rest);
    let batch = log.last_batch.clone();
    log.append_batch(0, 50..350);
    for bit in batch.start * 8..batch.end * 8 {
        log.segments[0][bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verdict(&log, true), Verdict::Reported, "bit {bit}");
        log.segments[0][bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn flipped_bits_find_a_recovery_that_truncates_at_the_first_invalid_byte() {
    for segments in [1, 3] {
        let mut log = Log::filled(1, Rules::TruncateAtFirstInvalid, RECORDS, segments);
        let verdicts = flip_bits(&mut log, 97);
        assert!(verdicts[&Verdict::Silent] > 1_000, "{verdicts:?}");
    }
}

#[test]
fn zeroed_sectors_of_acknowledged_data_are_reported() {
    let whole = Log::filled(4, Rules::Sound, RECORDS, 3);
    for segment in 0..3 {
        let used = whole.segments[segment].iter().rposition(|byte| *byte != 0).unwrap() + 1;
        // The end of the newest segment is the tail, which nothing vouches for.
        let end = if segment == 2 { whole.last_batch.start - SECTOR_BYTES } else { used };
        for start in (0..end).step_by(SECTOR_BYTES) {
            let mut log = whole.clone();
            let sector = start..(start + SECTOR_BYTES).min(used);
            log.segments[segment][sector].fill(0);
            assert_eq!(verdict(&log, false), Verdict::Reported, "{segment} {start}");
            if segment < 2 {
                log.segments[segment][start..].fill(0);
                assert_eq!(verdict(&log, false), Verdict::Reported, "{segment} from {start}");
            }
        }
    }
}

struct TornTails {
    trials: usize,
    misjudged: usize,
    lost: usize,
}

/// Adds a batch that was written but not synced, and damages subsets of its sectors.
fn tear_tails(rules: Rules, logs: u64) -> TornTails {
    let mut seen = TornTails { trials: 0, misjudged: 0, lost: 0 };
    for seed in 0..logs {
        let mut log = Log::filled(1_000 + seed, rules, RECORDS, 1 + seed % 2);
        let durable = log.len();
        let start = log.last_batch.end;
        let batch = log.batch(12, 100..600);
        let end = start + batch.len();
        let segment = log.current();
        segment.truncate(start);
        segment.extend(batch);
        segment.extend([0; REST]);
        let whole = segment.clone();
        let sectors = (end.div_ceil(SECTOR_BYTES) - start / SECTOR_BYTES).min(12);
        for subset in (1_usize..1 << sectors).step_by(if seed < 4 { 1 } else { 17 }) {
            for sector in (0..sectors).filter(|sector| subset >> sector & 1 == 1) {
                let at = (start / SECTOR_BYTES + sector) * SECTOR_BYTES;
                let lost = at.max(start)..(at + SECTOR_BYTES).min(end);
                for byte in lost {
                    let noise = log.random.next().to_le_bytes()[0];
                    log.current()[byte] = if subset % 2 == 0 { 0 } else { noise };
                }
            }
            seen.trials += 1;
            match log.recover() {
                Err(_) => seen.misjudged += 1,
                Ok(scan) => {
                    let kept = log.wrote(&scan) && scan.records.len() as u64 >= durable;
                    seen.lost += usize::from(!kept);
                }
            }
            log.current().copy_from_slice(&whole);
        }
    }
    seen
}

#[test]
fn torn_tails_are_cut_off_and_never_called_rot() {
    let TornTails { trials, misjudged, lost } = tear_tails(Rules::Sound, 200);
    assert!(trials >= 10_000, "{trials}");
    assert_eq!((misjudged, lost), (0, 0), "of {trials}");
    eprintln!("{trials} torn tails");
}

#[test]
fn torn_tails_find_a_header_that_vouches_for_its_own_batch() {
    let TornTails { misjudged, .. } = tear_tails(Rules::AttestOwnBatch, 2);
    assert!(misjudged > 100, "{misjudged}");
}

#[test]
fn a_missing_segment_is_named() {
    let log = Log::filled(5, Rules::Sound, RECORDS, 3);
    let mut recovery = Recovery::default();
    recovery.push(1, &log.segments[0], &mut |_, _| ()).unwrap();
    let error = recovery.push(3, &log.segments[2], &mut |_, _| ()).unwrap_err();
    assert_eq!(error, RecoverError::MissingSegment { segment: 2 });
    assert!(error.to_string().starts_with("segment 2 is missing"), "{error}");
}

#[test]
fn a_segment_in_the_place_of_another_is_refused() {
    let log = Log::filled(5, Rules::Sound, RECORDS, 3);
    let mut recovery = Recovery::default();
    recovery.push(1, &log.segments[0], &mut |_, _| ()).unwrap();
    let error = recovery.push(2, &log.segments[2], &mut |_, _| ()).unwrap_err();
    let evidence = Evidence::Opening;
    assert_eq!(error, RecoverError::Corrupt { segment: 2, offset: 0, evidence });
}

#[test]
fn an_unknown_version_is_refused_wherever_it_stands() {
    let mut log = Log::filled(6, Rules::Sound, 10, 1);
    for offset in [0, log.last_batch.start] {
        let before = log.segments[0].clone();
        let header = &mut log.segments[0][offset..offset + BATCH_HEADER_BYTES];
        header[3] = b'3';
        let crc = crc32c::crc32c(&header[..32]);
        header[32..36].copy_from_slice(&crc.to_le_bytes());
        let error = log.recover().unwrap_err();
        assert_eq!(error, RecoverError::UnknownVersion { segment: 1, found: b'3' });
        log.segments[0] = before;
    }
}

#[test]
fn stale_batches_of_another_segment_are_no_evidence() {
    let mut log = Log::filled(8, Rules::Sound, 10, 1);
    let stale = Log::filled(9, Rules::Sound, RECORDS, 1);
    let end = log.segments[0].len() - REST;
    log.segments[0][end..].copy_from_slice(&stale.segments[0][..REST]);
    let scan = log.recover().unwrap();
    assert!(scan.truncated_tail && scan.records.len() == 10);
    // One that would fit, but for its salt.
    let header = BatchHeader { records: 0, bytes: 0, salt: !log.salt, ..next_header(&log) };
    log.segments[0][end..].fill(0);
    log.segments[0][end..end + BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
    assert!(log.recover().unwrap().truncated_tail);
    // As would one that vouches for what is expected here, which is found if salts are not compared.
    let upto = log.len() + 5;
    let header = BatchHeader { durable_upto: upto, first_seq: upto + 1, ..header };
    log.segments[0][end + 100..end + 100 + BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
    assert!(log.recover().unwrap().truncated_tail);
    log.rules = Rules::AnySalt;
    assert!(matches!(log.recover(), Err(RecoverError::Corrupt { .. })));
}

#[test]
fn a_sector_written_in_the_place_of_another_is_reported() {
    let whole = Log::filled(11, Rules::Sound, RECORDS, 3);
    let sectors: Vec<(usize, usize)> = (0..3)
        .flat_map(|segment| {
            let used = whole.segments[segment].len() - REST;
            (0..used / SECTOR_BYTES).map(move |sector| (segment, sector * SECTOR_BYTES))
        })
        .collect();
    let mut verdicts = BTreeMap::new();
    for (segment, target) in &sectors {
        // What nothing vouches for begins with the last batch.
        if *segment == 2 && target + SECTOR_BYTES > whole.last_batch.start {
            continue;
        }
        for (from, source) in &sectors {
            if (segment, target) == (from, source) {
                continue;
            }
            let mut log = whole.clone();
            let bytes = whole.segments[*from][*source..source + SECTOR_BYTES].to_vec();
            log.segments[*segment][*target..target + SECTOR_BYTES].copy_from_slice(&bytes);
            *verdicts.entry(verdict(&log, false)).or_insert(0) += 1;
        }
    }
    eprint_verdicts("misdirected sectors", &verdicts);
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), [Verdict::Reported]);
    assert!(verdicts[&Verdict::Reported] > 1_000, "{verdicts:?}");
}

/// The next batch begins in the sector in which the durable ones end, and a disk may lose that
/// sector when it is written again.
#[test]
fn a_lost_sector_that_the_next_batch_shares_is_cut_off_aloud_until_a_later_one_vouches_for_it() {
    for (seed, later) in (0..200).flat_map(|seed| [(seed, 0), (seed, 1)]) {
        let mut log = Log::filled(2_000 + seed, Rules::Sound, 40, 1 + seed % 3);
        let end = log.last_batch.end;
        let mut next = log.batch(3, 100..600);
        for _ in 0..later {
            next.extend(log.batch(1, 100..600));
        }
        let segment = log.current();
        segment.truncate(end);
        segment.extend(next);
        segment.extend([0; REST]);
        let start = end / SECTOR_BYTES * SECTOR_BYTES;
        for noise in [0, 0x5a] {
            log.current()[start..start + SECTOR_BYTES].fill(noise);
            match log.recover() {
                Err(_) => assert_eq!(later, 1, "seed {seed}: the header was lost with it"),
                Ok(found) => {
                    assert_eq!(later, 0, "seed {seed}: lost in silence");
                    assert!(log.wrote(&found) && found.truncated_tail, "seed {seed}");
                }
            }
        }
    }
}

#[test]
fn a_batch_longer_than_its_records_is_invalid() {
    let mut log = Log::filled(10, Rules::Sound, 10, 1);
    let end = log.segments[0].len() - REST;
    for (bytes, truncated_tail) in [(0, false), (8, true), (u32::MAX, true)] {
        let header = BatchHeader { bytes, ..next_header(&log) };
        log.segments[0][end..end + BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        assert_eq!(log.recover().unwrap().truncated_tail, truncated_tail, "{bytes}");
    }
}

fn next_header(log: &Log) -> BatchHeader {
    let durable_upto = log.len();
    let first_seq = durable_upto + 1;
    BatchHeader { records: 0, bytes: 0, salt: log.salt, first_seq, durable_upto }
}

/// Shown with `--nocapture`: the numbers are worth reading when the format or writer changes.
fn eprint_verdicts(what: &str, verdicts: &BTreeMap<Verdict, usize>) {
    eprintln!("{what}: {verdicts:?}");
}
