//! The archive's files: framed records, appended, never changed.
//!
//! ```text
//!  frame   mark u32 | length u32 | number u64 | job 16 | CRC32C of the record u32
//!          | CRC32C of the 36 bytes before u32 | record          (numbers little-endian)
//! ```
//!
//! # Invariants
//! * A number that is held is never written again; whoever gives the same one twice is ignored.
//! * A file of an earlier life is only read, and cut to what is whole in it.
//! * In memory a job costs 28 bytes: its place by its number, its number by its id.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use federation_wal::{Disk, DiskFile};
use specs::id::JobId;

const MARK: u32 = u32::from_le_bytes(*b"arch");
const HEAD_BYTES: usize = 40;
const SUFFIX: &str = ".archive";
/// Size of a file, bytes: read as a whole at a start, and reserved ahead.
pub(crate) const FILE_BYTES: u64 = 8 << 20;
/// The longest record that is read back, bytes; no command is longer.
const RECORD_MAX_BYTES: usize = 64 << 20;
/// Ids outside the sorted list before they are merged into it.
const FRESH_MIN: usize = 4_096;

/// One archived job, as the disk and other members have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) job: JobId,
    /// The encoded job.
    pub(crate) bytes: Vec<u8>,
}

/// Where a record stands. The default is nowhere.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// One more than the file's place in the list.
    file: u32,
    offset: u32,
}

/// Numbers by id.
#[derive(Default)]
struct Ids {
    sorted: Vec<([u8; 16], u32)>,
    fresh: BTreeMap<[u8; 16], u32>,
}

struct Head {
    file: Box<dyn DiskFile>,
    end: u64,
    size: u64,
    is_synced: bool,
}

/// The archive of one member.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    /// Names, by place in the list.
    files: Vec<String>,
    last_file: u64,
    /// By number, less one.
    places: Vec<Place>,
    held: u64,
    ids: Ids,
    head: Option<Head>,
    /// The file that was read last.
    reader: Option<(u32, Box<dyn DiskFile>)>,
    /// Every number below it is held.
    first_missing: u64,
}

impl Ids {
    fn insert(&mut self, job: JobId, number: u32) {
        self.fresh.insert(job.0.to_be_bytes(), number);
        if self.fresh.len() > FRESH_MIN + self.sorted.len() / 8 {
            self.merge();
        }
    }

    fn merge(&mut self) {
        self.sorted.extend(std::mem::take(&mut self.fresh));
        self.sorted.sort_unstable();
        self.sorted.shrink_to_fit();
    }

    /// Numbers of the ids from `from` to `to`, not more than `most`.
    fn range(&self, from: JobId, to: JobId, most: usize) -> Vec<(JobId, u64)> {
        let (from, to) = (from.0.to_be_bytes(), to.0.to_be_bytes());
        let begin = self.sorted.partition_point(|(id, _)| *id < from);
        let old = self.sorted[begin..].iter().take_while(|(id, _)| *id <= to).take(most);
        let fresh = self.fresh.range(from..=to).take(most).map(|(id, number)| (*id, *number));
        let found = old.copied().chain(fresh);
        found.map(|(id, n)| (JobId(u128::from_be_bytes(id)), u64::from(n))).take(most).collect()
    }
}

impl Store {
    /// Reads what is there. What is damaged is reported and left out.
    pub(crate) fn open(disk: Arc<dyn Disk>, file_bytes: u64) -> io::Result<Self> {
        let mut store = Self {
            disk,
            file_bytes,
            files: Vec::new(),
            last_file: 0,
            places: Vec::new(),
            held: 0,
            ids: Ids::default(),
            head: None,
            reader: None,
            first_missing: 1,
        };
        let mut names = store.disk.list()?;
        names.retain(|name| name.ends_with(SUFFIX));
        names.sort_unstable();
        for name in names {
            store.take_in(name)?;
        }
        store.disk.sync_directory()?;
        store.ids.merge();
        Ok(store)
    }

    fn take_in(&mut self, name: String) -> io::Result<()> {
        let number = name.strip_suffix(SUFFIX).and_then(|stem| stem.parse().ok());
        self.last_file = self.last_file.max(number.unwrap_or(0));
        let mut file = self.disk.open(&name)?;
        let bytes = file.read_all()?;
        let (frames, end) = frames(&bytes, &name);
        if frames.is_empty() {
            drop(file);
            return self.disk.remove(&name);
        }
        if end < bytes.len() {
            match file.resize(end as u64) {
                Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
                Ok(()) => file.sync_data()?,
                Err(_) => {}
            }
        }
        self.files.push(name);
        for frame in frames {
            self.place(frame.number, frame.job, frame.offset as u64);
        }
        Ok(())
    }

    /// Notes where a number stands: at `offset` of the last file of the list.
    fn place(&mut self, number: u64, job: JobId, offset: u64) {
        let (Ok(short), Ok(offset)) = (u32::try_from(number), u32::try_from(offset)) else {
            return;
        };
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let (Ok(nth), false) = (usize::try_from(number), number == 0) else { return };
        if self.places.len() < nth {
            self.places.resize(nth, Place::default());
        }
        let place = &mut self.places[nth - 1];
        if place.file == 0 {
            *place = Place { file, offset };
            self.held += 1;
            self.ids.insert(job, short);
        }
    }

    pub(crate) fn holds(&self, number: u64) -> bool {
        self.place_of(number).is_some()
    }

    fn place_of(&self, number: u64) -> Option<Place> {
        let nth = usize::try_from(number.checked_sub(1)?).ok()?;
        self.places.get(nth).copied().filter(|place| place.file != 0)
    }

    /// How many of the numbers up to there are held.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// The first stretch of numbers behind `after` and up to `upto` that is not held, not longer
    /// than `most`.
    pub(crate) fn missing(&mut self, after: u64, upto: u64, most: u64) -> Option<(u64, u64)> {
        while self.first_missing <= upto && self.holds(self.first_missing) {
            self.first_missing += 1;
        }
        let mut from = self.first_missing.max(after.saturating_add(1));
        while from <= upto && self.holds(from) {
            from += 1;
        }
        (from <= upto).then(|| {
            let last = upto.min(from.saturating_add(most.max(1) - 1));
            let end = (from..=last).take_while(|number| !self.holds(*number)).last();
            (from, end.unwrap_or(from))
        })
    }

    /// Writes a record, unless its number is held. Not durable before [`Store::sync`].
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        if self.holds(record.number) {
            return Ok(());
        }
        let frame = frame_of(record)?;
        let length = frame.len() as u64;
        if self.head.as_ref().is_none_or(|head| head.end + length > head.size) {
            self.rotate(length)?;
        }
        let head = self.head.as_mut().ok_or_else(|| io::Error::other("there is no file"))?;
        head.is_synced = false;
        head.file.write_at(head.end, &frame)?;
        let offset = head.end;
        head.end += length;
        self.place(record.number, record.job, offset);
        Ok(())
    }

    fn rotate(&mut self, length: u64) -> io::Result<()> {
        self.sync()?;
        self.head = None;
        let size = self.file_bytes.max(length);
        let name = format!("{:010}{SUFFIX}", self.last_file + 1);
        let file = self.disk.create(&name, size)?;
        self.disk.sync_directory()?;
        self.last_file += 1;
        self.files.push(name);
        self.head = Some(Head { file, end: 0, size, is_synced: true });
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        match &mut self.head {
            Some(head) if !head.is_synced => {
                head.file.sync_data()?;
                head.is_synced = true;
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Reads a record; none if it is not held, or is damaged.
    pub(crate) fn read(&mut self, number: u64) -> io::Result<Option<Record>> {
        let Some(place) = self.place_of(number) else { return Ok(None) };
        let Some(name) = self.files.get(place.file as usize - 1) else { return Ok(None) };
        if self.reader.as_ref().is_none_or(|(file, _)| *file != place.file) {
            self.reader = Some((place.file, self.disk.open_for_reading(name)?));
        }
        let Some((_, file)) = &mut self.reader else { return Ok(None) };
        let mut head = [0; HEAD_BYTES];
        file.read_at(u64::from(place.offset), &mut head)?;
        let frame = Head40::parse(&head).filter(|frame| frame.number == number);
        let sound = match frame {
            Some(frame) => {
                let mut bytes = vec![0; frame.length];
                file.read_at(u64::from(place.offset) + HEAD_BYTES as u64, &mut bytes)?;
                let job = frame.job;
                (crc32c::crc32c(&bytes) == frame.crc).then_some(Record { number, job, bytes })
            }
            None => None,
        };
        if sound.is_none() {
            tracing::error!(number, file = name, "a record of the archive is damaged");
            self.forget(number);
        }
        Ok(sound)
    }

    /// A record turned out to be damaged: another member may have it.
    fn forget(&mut self, number: u64) {
        let nth = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        if let Some(place) = nth.and_then(|nth| self.places.get_mut(nth)) {
            *place = Place::default();
            self.held = self.held.saturating_sub(1);
            self.first_missing = self.first_missing.min(number);
        }
    }

    /// The numbers of jobs whose ids stand between the two, not more than `most`.
    pub(crate) fn find(&self, from: JobId, to: JobId, most: usize) -> Vec<(JobId, u64)> {
        self.ids.range(from, to, most)
    }
}

/// The head of a frame.
struct Head40 {
    length: usize,
    number: u64,
    job: JobId,
    crc: u32,
}

impl Head40 {
    fn parse(head: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (sealed, seal) = head.split_last_chunk::<4>()?;
        let (mark, rest) = sealed.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*mark) != MARK || crc32c::crc32c(sealed) != u32::from_le_bytes(*seal)
        {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (job, rest) = rest.split_first_chunk::<16>()?;
        let (crc, _) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        (length <= RECORD_MAX_BYTES).then_some(Self {
            length,
            number: u64::from_le_bytes(*number),
            job: JobId(u128::from_le_bytes(*job)),
            crc: u32::from_le_bytes(*crc),
        })
    }
}

fn frame_of(record: &Record) -> io::Result<Vec<u8>> {
    let too_long = || io::Error::other("a record is too long for the archive");
    let length = u32::try_from(record.bytes.len()).map_err(|_| too_long())?;
    if record.bytes.len() > RECORD_MAX_BYTES {
        return Err(too_long());
    }
    let mut frame = Vec::with_capacity(HEAD_BYTES + record.bytes.len());
    frame.extend(MARK.to_le_bytes());
    frame.extend(length.to_le_bytes());
    frame.extend(record.number.to_le_bytes());
    frame.extend(record.job.0.to_le_bytes());
    frame.extend(crc32c::crc32c(&record.bytes).to_le_bytes());
    let seal = crc32c::crc32c(&frame);
    frame.extend(seal.to_le_bytes());
    frame.extend(&record.bytes);
    Ok(frame)
}

struct Found {
    number: u64,
    job: JobId,
    offset: usize,
}

/// The whole frames of a file, and where the last of them ends. What is damaged between them is
/// reported; what is damaged behind them was never synced, or is lost like it.
fn frames(bytes: &[u8], name: &str) -> (Vec<Found>, usize) {
    let (mut found, mut at, mut end) = (Vec::new(), 0, 0);
    while let Some(next) = next_frame(bytes, at) {
        if next.offset > end {
            let (from, upto) = (end, next.offset);
            tracing::error!(file = name, from, upto, "a part of the archive is damaged");
        }
        at = next.offset + HEAD_BYTES + next.length;
        end = at;
        found.push(Found { number: next.number, job: next.job, offset: next.offset });
    }
    if bytes[end..].iter().any(|byte| *byte != 0) {
        tracing::warn!(file = name, end, "the archive ends in a record that is not whole");
    }
    (found, end)
}

struct Next {
    offset: usize,
    length: usize,
    number: u64,
    job: JobId,
}

/// The first whole frame from there on.
fn next_frame(bytes: &[u8], from: usize) -> Option<Next> {
    let mut at = from;
    loop {
        let rest = bytes.get(at..)?;
        let head = rest.first_chunk::<HEAD_BYTES>()?;
        if let Some(head) = Head40::parse(head)
            && let Some(data) = rest.get(HEAD_BYTES..HEAD_BYTES + head.length)
            && crc32c::crc32c(data) == head.crc
        {
            let Head40 { length, number, job, .. } = head;
            return Some(Next { offset: at, length, number, job });
        }
        // A mark begins with a byte that zeros do not have.
        let [first, ..] = MARK.to_le_bytes();
        at += 1 + bytes.get(at + 1..)?.iter().position(|byte| *byte == first)?;
    }
}
