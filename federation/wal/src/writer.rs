//! What the one writer does to the disk, step by step. It knows no threads and no callbacks.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::disk::{DirectoryLock, Disk, DiskFile};
use crate::format::{BATCH_HEADER_BYTES, BatchEncoder, BatchHeader, RECORD_HEADER_BYTES, Seq};
use crate::prepare::{self, Preparer, SPARE_FILE, Spare};
use crate::recover::{Newest, Recovery, Rules, Scan};
use crate::wal::{Config, OpenError, Recovered, Refusal, Salts};

/// A released segment that is to be used again has this before its number.
const RECYCLED_PREFIX: &str = "released-";
const SEGMENT_SUFFIX: &str = ".wal";
const SEGMENT_DIGITS: usize = 20;
const FIRST_SEGMENT: u64 = 1;
const FIRST_SEQ: Seq = 1;

/// Why the writer could not do what it was asked.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// There is no room for a segment. Nothing was written.
    Full,
    /// The state of the disk is unknown: never try again.
    Fatal { doing: &'static str, source: io::Error },
}

impl Trouble {
    pub(crate) fn panicked() -> Trouble {
        let source = io::Error::other("the code of the disk has panicked");
        Trouble::Fatal { doing: "prepare a segment", source }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Before the directory is let go.
        self.preparer.close();
    }
}

pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    salts: Salts,
    rules: Rules,
    config: Config,
    current: Segment,
    preparer: Arc<Preparer>,
    /// Full segments with the last number in each, oldest first.
    closed: VecDeque<(u64, Seq)>,
    next_seq: Seq,
    /// Invariant: `attested <= durable_upto < next_seq`.
    durable_upto: Seq,
    /// Highest number that a durable batch header vouches for.
    attested: Seq,
    /// What the last batch header vouches for, durable or not.
    last_attestation: Seq,
    encoder: BatchEncoder,
    _lock: DirectoryLock,
}

struct Segment {
    index: u64,
    salt: u32,
    file: Box<dyn DiskFile>,
    capacity: usize,
    /// Invariant: whenever something is unattested, a seal fits between `end` and `capacity`.
    end: usize,
}

/// The room that `payload` bytes take in a batch.
pub(crate) fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload
}

/// The room that a segment of `segment_bytes` has for the records of one batch: it also holds an
/// opening, the header of the batch and a seal.
pub(crate) fn batch_room(segment_bytes: usize) -> usize {
    segment_bytes.saturating_sub(3 * BATCH_HEADER_BYTES)
}

impl Writer {
    /// Recovers the log, and makes what it returns durable and vouched for.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        mut salts: Salts,
        config: &Config,
        rules: Rules,
        visit: &mut TryVisit<'_>,
    ) -> Result<(Writer, Recovered), OpenError> {
        let lock = disk.lock().map_err(|source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                OpenError::InUse(source)
            } else {
                OpenError::Disk { doing: "lock the directory", source }
            }
        })?;
        let (scan, file) = recover(disk.as_ref(), rules, visit)?;
        // A process that was killed may have named a segment and not come to this.
        disk.sync_directory().map_err(fatal("sync the directory"))?;
        let (current, next_seq, attested) = match (&scan.newest, file) {
            (Some(newest), Some((file, bytes))) => (
                repair_tail(disk.as_ref(), newest, file, &bytes)?,
                newest.next_seq,
                newest.attested,
            ),
            (Some(_) | None, _) => {
                let file = prepare::create(disk.as_ref(), config.segment_bytes as u64)?;
                let spare = Spare { name: SPARE_FILE.to_owned(), file };
                let opening = Opening { index: FIRST_SEGMENT, salt: salts(), seq: FIRST_SEQ };
                (start_segment(disk.as_ref(), spare, opening, config)?, FIRST_SEQ, FIRST_SEQ - 1)
            }
        };
        let full_segments = scan.segments.len().saturating_sub(1);
        let closed = scan.segments.iter().take(full_segments);
        let preparer = Preparer::new(disk.clone(), config.segment_bytes as u64, rules);
        let mut writer = Writer {
            disk,
            salts,
            rules,
            config: config.clone(),
            current,
            preparer: Arc::new(preparer),
            closed: closed.map(|span| (span.index, span.next_seq - 1)).collect(),
            next_seq,
            durable_upto: next_seq - 1,
            attested,
            last_attestation: attested,
            encoder: BatchEncoder::default(),
            _lock: lock,
        };
        writer.seal()?;
        match writer.preparer.finish() {
            // A full disk stops a log when it needs the room, not before.
            Ok(()) | Err(Trouble::Full) => {}
            Err(trouble @ Trouble::Fatal { .. }) => return Err(trouble.into()),
        }
        Ok((writer, Recovered { next_seq, truncated_tail: scan.truncated_tail }))
    }

    /// Writes one batch, and makes it durable if `sync`. Returns the number of its first record.
    ///
    /// The records must fit [`batch_room`].
    pub(crate) fn write<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a [u8]> + Clone,
        sync: bool,
    ) -> Result<Seq, Trouble> {
        let records: usize = payloads.clone().map(|payload| record_bytes(payload.len())).sum();
        if BATCH_HEADER_BYTES + records + BATCH_HEADER_BYTES > self.current.room() {
            self.roll()?;
        }
        let first_seq = self.next_seq;
        self.write_batch(payloads)?;
        if sync {
            self.sync()?;
        }
        Ok(first_seq)
    }

    /// Lets go of whole segments that hold no number above `upto`: some are used again.
    pub(crate) fn release(&mut self, upto: Seq) -> Result<(), Trouble> {
        while let Some((index, _)) = self.closed.front().filter(|(_, last)| *last <= upto) {
            let name = segment_name(*index);
            let recycled = format!("{RECYCLED_PREFIX}{index}");
            let is_kept = self.preparer.takes_another();
            if is_kept {
                self.disk.rename(&name, &recycled).map_err(fatal("rename a segment"))?;
            } else {
                self.disk.remove(&name).map_err(fatal("remove a segment"))?;
            }
            // One by one, so that a power loss cannot leave a gap between two segments; and before
            // its bytes go, so that it cannot come back as a segment without them.
            if !(is_kept && self.rules.zero_before_names_are_durable()) {
                self.disk.sync_directory().map_err(fatal("sync the directory"))?;
            }
            if is_kept {
                self.preparer.recycle(recycled);
            }
            self.closed.pop_front();
        }
        Ok(())
    }

    /// Whether the last batch still lacks a later header that vouches for it.
    pub(crate) fn needs_seal(&self) -> bool {
        self.attested + 1 < self.next_seq
    }

    /// Makes everything durable, and vouches for it with an empty batch.
    pub(crate) fn seal(&mut self) -> Result<(), Trouble> {
        if !self.needs_seal() {
            return Ok(());
        }
        if self.current.room() < BATCH_HEADER_BYTES {
            return self.roll();
        }
        if self.durable_upto + 1 < self.next_seq {
            self.sync()?;
        }
        self.write_batch(std::iter::empty())?;
        self.sync()
    }

    /// Who makes the next segment's file. Its space is reserved early, so that a full disk is met
    /// where nothing is half written.
    pub(crate) fn preparer(&self) -> &Arc<Preparer> {
        &self.preparer
    }

    fn write_batch<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), Trouble> {
        let records = payloads.clone().count() as u64;
        let is_own = self.rules.attest_own_batch();
        let attestation = if is_own { self.next_seq + records - 1 } else { self.durable_upto };
        let bytes = self.encoder.encode(self.current.salt, self.next_seq, attestation, payloads);
        // The space is reserved: even "no space left" would mean that a part may be written.
        let offset = self.current.end as u64;
        self.current.file.write_at(offset, bytes).map_err(fatal("write a batch"))?;
        self.current.end += bytes.len();
        self.next_seq += records;
        self.last_attestation = attestation;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Trouble> {
        self.current.file.sync_data().map_err(fatal("sync a batch"))?;
        self.durable_upto = self.next_seq - 1;
        self.attested = self.last_attestation;
        Ok(())
    }

    /// Goes on in the next segment. All before it is durable first.
    fn roll(&mut self) -> Result<(), Trouble> {
        self.preparer.finish()?;
        if self.durable_upto + 1 < self.next_seq {
            self.sync()?;
        }
        let spare = self.preparer.take()?;
        let before = self.current.index;
        let opening = Opening { index: before + 1, salt: (self.salts)(), seq: self.next_seq };
        self.current = start_segment(self.disk.as_ref(), spare, opening, &self.config)?;
        self.closed.push_back((before, self.durable_upto));
        self.preparer.want();
        self.last_attestation = self.durable_upto;
        self.attested = self.durable_upto;
        Ok(())
    }
}

impl Segment {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.end)
    }
}

type OpenFile = (Box<dyn DiskFile>, Vec<u8>);
type TryVisit<'a> = dyn FnMut(Seq, &[u8]) -> Result<(), Refusal> + 'a;

/// Reads all segments; returns the newest one's file and bytes too. Changes nothing but the spare.
fn recover(
    disk: &dyn Disk,
    rules: Rules,
    visit: &mut TryVisit<'_>,
) -> Result<(Scan, Option<OpenFile>), OpenError> {
    let failed = |doing| move |source| OpenError::Disk { doing, source };
    let names = disk.list().map_err(failed("list the directory"))?;
    let mut refused = None;
    let mut visit_until_refused = |seq, record: &[u8]| {
        if refused.is_none() {
            refused = visit(seq, record).err().map(|source| OpenError::Refused { seq, source });
        }
    };
    let mut recovery = Recovery::with_rules(rules);
    let mut newest = None;
    // One buffer serves all segments.
    let mut bytes = Vec::new();
    for index in segment_indexes(&names) {
        let mut file = disk.open(&segment_name(index)).map_err(failed("open a segment"))?;
        read_segment(file.as_mut(), &mut bytes).map_err(failed("read a segment"))?;
        recovery.push(index, &bytes, &mut visit_until_refused)?;
        newest = Some(file);
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    for leftover in names.iter().filter(|name| is_leftover(name)) {
        disk.remove(leftover).map_err(failed("remove an old spare"))?;
    }
    Ok((recovery.finish(), newest.map(|file| (file, bytes))))
}

pub(crate) fn read_segment(file: &mut dyn DiskFile, bytes: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    bytes.resize(length, 0);
    file.read_at(0, bytes)
}

/// Makes the newest segment durable as it was read, without its torn tail.
fn repair_tail(
    disk: &dyn Disk,
    newest: &Newest,
    mut file: Box<dyn DiskFile>,
    bytes: &[u8],
) -> Result<Segment, Trouble> {
    let Newest { index, salt, end, .. } = *newest;
    if newest.is_torn() {
        // A copy goes in its place. Left there, torn batches could come back behind shorter ones
        // written over the first of them; and zeros in place could fail to reach the disk, and yet
        // be what the kernel shows the next time.
        file = prepare::create(disk, bytes.len() as u64)?;
        file.write_at(0, &bytes[..end]).map_err(fatal("copy the newest segment"))?;
        let mut spare = Spare { name: SPARE_FILE.to_owned(), file };
        name_spare(disk, &mut spare, index)?;
        file = spare.file;
    } else {
        // What nothing vouches for is written again: after a failed sync the kernel shows bytes
        // that it no longer means to write, and a bare sync would succeed without them.
        let unattested = &bytes[newest.unattested_from..end];
        if !unattested.is_empty() {
            let offset = newest.unattested_from as u64;
            file.write_at(offset, unattested).map_err(fatal("rewrite the tail"))?;
        }
        file.sync_data().map_err(fatal("sync the tail"))?;
    }
    Ok(Segment { index, salt, file, capacity: bytes.len(), end })
}

struct Opening {
    index: u64,
    salt: u32,
    seq: Seq,
}

/// Turns the spare into a segment. Its opening is durable before it gets its name, so that an
/// invalid opening is never a torn one.
fn start_segment(
    disk: &dyn Disk,
    mut spare: Spare,
    opening: Opening,
    config: &Config,
) -> Result<Segment, Trouble> {
    let Opening { index, salt, seq: first_seq } = opening;
    let header = BatchHeader::opening(index, salt, first_seq);
    spare.file.write_at(0, &header.encode()).map_err(fatal("write an opening"))?;
    name_spare(disk, &mut spare, index)?;
    Ok(Segment {
        index,
        salt,
        file: spare.file,
        capacity: config.segment_bytes,
        end: BATCH_HEADER_BYTES,
    })
}

/// Makes the spare durable, and then a segment.
fn name_spare(disk: &dyn Disk, spare: &mut Spare, index: u64) -> Result<(), Trouble> {
    spare.file.sync_data().map_err(fatal("sync the spare"))?;
    disk.rename(&spare.name, &segment_name(index)).map_err(fatal("name a segment"))?;
    disk.sync_directory().map_err(fatal("sync the directory"))
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

pub(crate) fn fatal(doing: &'static str) -> impl FnOnce(io::Error) -> Trouble {
    move |source| Trouble::Fatal { doing, source }
}

/// The numbers of the segments among `names`, oldest first.
pub(crate) fn segment_indexes(names: &[String]) -> Vec<u64> {
    let mut indexes: Vec<u64> = names.iter().filter_map(|name| segment_index(name)).collect();
    indexes.sort_unstable();
    indexes
}

/// Whether a file of that name is a segment to be, or was one.
pub(crate) fn is_leftover(name: &str) -> bool {
    name == SPARE_FILE || name.starts_with(RECYCLED_PREFIX)
}

pub(crate) fn segment_name(index: u64) -> String {
    format!("{index:0SEGMENT_DIGITS$}{SEGMENT_SUFFIX}")
}

pub(crate) fn segment_index(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SEGMENT_SUFFIX)?;
    let plain = digits.len() == SEGMENT_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

impl From<Trouble> for OpenError {
    fn from(trouble: Trouble) -> OpenError {
        match trouble {
            Trouble::Full => OpenError::DiskFull,
            Trouble::Fatal { doing, source } => OpenError::Disk { doing, source },
        }
    }
}
