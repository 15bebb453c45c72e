//! Cuts the power at every kind of step, again and again, and compares what comes back with a model
//! of what was written and what was acknowledged.

use std::io;
use std::sync::Arc;

use crate::disk::Disk;
use crate::format::Seq;
use crate::recover::Rules;
use crate::sim_disk::{Operation, SimDisk, SplitMix64};
use crate::wal::{Config, MIN_SEGMENT_BYTES, OpenError, Recovered};
use crate::writer::{Trouble, Writer};

const SEEDS: u64 = 2_000;
const CRASHES: u64 = 8;
const DISK_BYTES: u64 = 1 << 30;
/// The most steps of the disk between two crashes.
const STEPS: usize = 80;
/// What may fail at any time besides the power; most of all, syncs.
const FAILING: [Operation; 8] = [
    Operation::Sync,
    Operation::Sync,
    Operation::Sync,
    Operation::Write,
    Operation::Create,
    Operation::Zero,
    Operation::Rename,
    Operation::SyncDirectory,
];

/// What a run must have met to count.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: u64,
    crashes: u64,
    torn_tails: u64,
    failures: u64,
    most_segments: usize,
    recycled: u64,
    full: u64,
}

struct Run {
    seed: u64,
    rules: Rules,
    disk: SimDisk,
    random: SplitMix64,
    /// Everything handed to the writer that may be in the log, from number 1 on.
    written: Vec<Vec<u8>>,
    acknowledged: u64,
    released: u64,
    has_room: bool,
    seen: Seen,
}

impl Run {
    fn new(seed: u64, rules: Rules) -> Run {
        Run {
            seed,
            rules,
            disk: SimDisk::new(DISK_BYTES),
            random: SplitMix64(seed),
            written: Vec::new(),
            acknowledged: 0,
            released: 0,
            has_room: true,
            seen: Seen::default(),
        }
    }

    /// Runs to the end, or to the first thing that must not be.
    fn run(mut self) -> Result<Seen, String> {
        for _ in 0..CRASHES {
            let steps = self.random.below(STEPS) as u64;
            self.disk.cut_power_after(steps);
            if self.random.below(4) == 0 {
                let operation = FAILING[self.random.below(FAILING.len())];
                let others = self.random.below(10) as u64;
                let is_unable = operation == Operation::Zero && self.random.flip();
                let kind =
                    if is_unable { io::ErrorKind::Unsupported } else { io::ErrorKind::Other };
                self.disk.fail(operation, others, kind);
            }
            if self.random.flip() {
                self.make_room();
            }
            if let Some(writer) = self.open()? {
                self.write_until_trouble(writer)?;
            }
            self.seen.crashes += 1;
            if self.random.below(4) == 0 {
                self.disk.kill_process();
            } else {
                self.disk.power_loss(self.random.next());
            }
        }
        self.make_room();
        self.open()?.ok_or("the disk is well, but the log does not open")?;
        self.seen.recycled = self.disk.count(Operation::Zero);
        Ok(self.seen)
    }

    /// Opens the log and checks it. `None` if the disk failed under it.
    fn open(&mut self) -> Result<Option<Writer>, String> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let mut salts = SplitMix64(self.random.next());
        let salts = Box::new(move || u32::try_from(salts.next() >> 32).unwrap());
        let config = Config { segment_bytes: MIN_SEGMENT_BYTES, ..Config::default() };
        let mut records = Vec::new();
        let mut visit = |seq, record: &[u8]| {
            records.push((seq, record.to_vec()));
            Ok(())
        };
        match Writer::open(disk, salts, &config, self.rules, &mut visit) {
            Ok((writer, recovered)) => {
                self.check(&recovered, &records)?;
                self.seen.torn_tails += u64::from(recovered.truncated_tail);
                let segments = self.disk.list().unwrap();
                self.seen.most_segments = self.seen.most_segments.max(segments.len());
                self.written.truncate(usize::try_from(recovered.next_seq - 1).unwrap());
                // What recovery has returned, somebody may have acted on.
                self.acknowledged = recovered.next_seq - 1;
                Ok(Some(writer))
            }
            Err(OpenError::Disk { .. }) => Ok(None),
            // A torn tail is replaced by a copy.
            Err(OpenError::DiskFull) if !self.has_room => Ok(None),
            Err(error) => Err(format!("seed {}: power losses are no rot: {error}", self.seed)),
        }
    }

    fn check(&self, recovered: &Recovered, records: &[(Seq, Vec<u8>)]) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("seed {}: {what}", self.seed));
        let last = recovered.next_seq - 1;
        let first = records.first().map_or(recovered.next_seq, |(seq, _)| *seq);
        if last < self.acknowledged {
            return wrong(&format!("{last} of {} acknowledged records", self.acknowledged));
        }
        if first > self.released + 1 {
            return wrong(&format!("begins with {first}, but {} is released", self.released));
        }
        if last > self.written.len() as u64 {
            return wrong("more records than were written");
        }
        for ((seq, payload), expected) in records.iter().zip(first..) {
            if *seq != expected || *payload != self.written[usize::try_from(seq - 1).unwrap()] {
                return wrong(&format!("record {seq} differs"));
            }
        }
        if records.len() as u64 != last + 1 - first {
            return wrong("a gap before the next number");
        }
        Ok(())
    }

    fn write_until_trouble(&mut self, mut writer: Writer) -> Result<(), String> {
        loop {
            let result = match self.random.below(19) {
                0 => writer.seal(),
                2..5 => {
                    writer.preparer().step();
                    writer.preparer().check()
                }
                5 => {
                    self.has_room = false;
                    self.disk.set_free_bytes(0);
                    Ok(())
                }
                1 => {
                    let unreleased = usize::try_from(self.acknowledged - self.released).unwrap();
                    self.released += self.random.below(unreleased + 1) as u64;
                    writer.release(self.released)
                }
                _ => self.write(&mut writer)?,
            };
            match result {
                Ok(()) => {}
                Err(Trouble::Full) => {
                    if self.has_room {
                        return Err("a full disk, with room".to_owned());
                    }
                    self.seen.full += 1;
                    self.make_room();
                }
                Err(Trouble::Fatal { source, .. }) => {
                    let cut = source.to_string() == "the power is off";
                    self.seen.failures += u64::from(!cut);
                    return Ok(());
                }
            }
        }
    }

    fn make_room(&mut self) {
        self.has_room = true;
        self.disk.set_free_bytes(DISK_BYTES);
    }

    fn write(&mut self, writer: &mut Writer) -> Result<Result<(), Trouble>, String> {
        let before = self.written.len();
        for _ in 0..=self.random.below(4) {
            let byte = self.random.next().to_le_bytes()[0];
            self.written.push(vec![byte; self.random.below(600)]);
        }
        let sync = self.random.below(3) > 0;
        match writer.write(self.written[before..].iter().map(Vec::as_slice), sync) {
            Ok(first) if first != before as u64 + 1 => Err(format!("{first} after {before}")),
            Ok(_) => {
                if sync {
                    self.seen.acknowledged += (self.written.len() - before) as u64;
                    self.acknowledged = self.written.len() as u64;
                }
                Ok(Ok(()))
            }
            Err(trouble) => {
                if matches!(trouble, Trouble::Full) {
                    self.written.truncate(before);
                }
                Ok(Err(trouble))
            }
        }
    }
}

#[test]
fn power_losses_lose_no_acknowledged_record() {
    let mut total = Seen::default();
    for seed in 0..SEEDS {
        let seen = Run::new(seed, Rules::Sound).run().unwrap();
        total.acknowledged += seen.acknowledged;
        total.crashes += seen.crashes;
        total.torn_tails += seen.torn_tails;
        total.failures += seen.failures;
        total.recycled += seen.recycled;
        total.full += seen.full;
        total.most_segments = total.most_segments.max(seen.most_segments);
    }
    assert!(total.acknowledged > 100_000, "{total:?}");
    assert!(total.torn_tails > 1_000, "{total:?}");
    assert!(total.failures > 1_000, "{total:?}");
    assert!(total.most_segments > 5, "{total:?}");
    assert!(total.recycled > 1_000 && total.full > 500, "{total:?}");
    eprint_seen(&total);
}

#[test]
fn power_losses_find_a_header_that_vouches_for_its_own_batch() {
    let found =
        (0..SEEDS / 30).filter(|seed| Run::new(*seed, Rules::AttestOwnBatch).run().is_err());
    assert!(found.count() > 5);
}

#[test]
fn power_losses_find_a_released_segment_that_is_used_as_it_is() {
    let found = (0..SEEDS / 30).filter(|seed| Run::new(*seed, Rules::SkipZeroing).run().is_err());
    assert!(found.count() > 5);
}

#[test]
fn power_losses_find_a_segment_that_loses_its_bytes_before_its_name() {
    let rules = Rules::ZeroBeforeNamesAreDurable;
    let found = (0..SEEDS / 10).filter(|seed| Run::new(*seed, rules).run().is_err());
    assert!(found.count() > 5);
}

/// Shown with `--nocapture`: the numbers are worth reading when the format or writer changes.
fn eprint_seen(seen: &Seen) {
    eprintln!("{seen:?}");
}

#[test]
fn what_recovery_returned_after_a_failed_sync_survives_a_power_loss() {
    let mut run = Run::new(1, Rules::Sound);
    let mut writer = run.open().unwrap().unwrap();
    run.disk.fail(Operation::Sync, 0, io::ErrorKind::Other);
    // Several sectors, or the seal that follows would write them again.
    run.written.push(vec![7; 2_000]);
    let payloads = run.written.iter().map(Vec::as_slice);
    assert!(matches!(writer.write(payloads, true), Err(Trouble::Fatal { .. })));
    run.disk.kill_process();
    let writer = run.open().unwrap().unwrap();
    assert_eq!(run.acknowledged, 1, "the record is read from memory");
    drop(writer);
    run.disk.power_loss(1);
    run.open().unwrap().unwrap();
    assert_eq!(run.acknowledged, 1);
}

#[test]
fn a_seal_is_written_once_and_survives_a_roll() {
    let mut run = Run::new(2, Rules::Sound);
    let mut writer = run.open().unwrap().unwrap();
    assert!(!writer.needs_seal());
    // Sizes that leave every possible rest of a segment behind, down to the last byte.
    for size in 0..MIN_SEGMENT_BYTES / 4 {
        let payload = vec![1; size];
        writer.write(std::iter::once(payload.as_slice()), true).unwrap();
        run.written.push(payload);
        assert!(writer.needs_seal());
        writer.seal().unwrap();
        assert!(!writer.needs_seal());
        let writes = run.disk.count(Operation::Write);
        writer.seal().unwrap();
        assert_eq!(run.disk.count(Operation::Write), writes);
    }
    drop(writer);
    run.open().unwrap().unwrap();
    assert_eq!(run.acknowledged, run.written.len() as u64);
}
