//! The bytes of a snapshot's file, written and read piece by piece.
//!
//! ```text
//!  header  magic 8 | format u32 | meta length u32 | meta | CRC32C of all before u32
//!  chunks  mark u32 | table u16 | codec u16 | records u32 | plain u32 | stored u32
//!          | CRC32C of the data u32 | CRC32C of the 24 bytes before u32 | data
//!  index   for each chunk: offset u64 | records u32 | CRC32C of its data u32 | table u16
//!  tail    CRC32C of the index u32 | chunks u32 | records u64 | plain bytes u64
//!          | offset of the index u64 | state digest 32 | CRC32C of the 64 bytes before u32
//!          | mark u32                                                (numbers little-endian)
//! ```
//!
//! # Invariants
//! * A file without its tail is not whole: the tail is written last and says where all else is.
//! * Equal states give equal digests, however they are cut into chunks and compressed.

use std::io;

use federation_core::{Chunk, ChunkError};
use federation_wal::{Disk, DiskFile};
use specs::codec::{DecodeError, Message};

use super::super::types::SnapshotMeta;
use super::super::wire::WireSnapshotMeta;

/// A chunk may hold one record that is larger than chunks are; no record comes near this, bytes.
pub(crate) const PLAIN_MAX_BYTES: usize = 64 << 20;

const MAGIC: &[u8; 8] = b"spwsnap\n";
pub(super) const FORMAT: u32 = 2;
const HEAD_BYTES: usize = 16;
const META_MAX_BYTES: usize = 1 << 20;
const CHUNK_MARK: u32 = u32::from_le_bytes(*b"chnk");
const CHUNK_HEAD_BYTES: usize = 28;
const ENTRY_BYTES: usize = 18;
const TAIL_BYTES: usize = 72;
const TAIL_MARK: u32 = u32::from_le_bytes(*b"tail");
const CRC_BYTES: usize = 4;

const PLAIN: u16 = 0;
const ZSTD: u16 = 1;
/// The fastest level: records are alike enough that it removes most of what there is to remove.
const ZSTD_LEVEL: i32 = 1;

/// Of the uncompressed content: the same for equal states on every member.
pub(crate) type StateDigest = [u8; 32];
/// Of a file's bytes, by its header, index and tail: the same only for equal files.
pub(crate) type FileId = [u8; 32];

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("it is cut short: {have} bytes of at least {need}")]
    Short { have: u64, need: u64 },
    #[error("it does not begin like a snapshot")]
    Magic,
    #[error("its format is {0}, and this version knows only format {FORMAT}")]
    Format(u32),
    #[error("its end is missing: it is cut short or damaged")]
    End,
    #[error("its {0} is damaged")]
    Damaged(&'static str),
    #[error("its chunk {nth} is damaged")]
    Chunk { nth: usize },
    #[error("its content does not have the digest that it names")]
    Digest,
    #[error("its header is not one that this version knows")]
    Header(#[from] DecodeError),
    #[error("its content is not one that this version knows")]
    Content(#[from] ChunkError),
    #[error("it is of site {found}, and this is site {own}")]
    Site { found: String, own: String },
    #[error("it ends with another entry than was announced")]
    Other,
    #[error("the disk failed")]
    Disk(#[from] io::Error),
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Size of its content before compression.
    pub(crate) plain_bytes: u64,
    pub(crate) records: u64,
    pub(crate) digest: StateDigest,
    pub(crate) id: FileId,
}

struct Entry {
    offset: u64,
    records: u32,
    crc: u32,
    table: u16,
}

/// Takes in the content chunk by chunk. Tables are told apart by what stands between them, so the
/// ends of chunks leave no trace.
#[derive(Default)]
struct Digester {
    hasher: blake3::Hasher,
    table: Option<u16>,
    records: u64,
    bytes: u64,
}

impl Digester {
    fn push(&mut self, table: u16, records: u32, bytes: &[u8]) {
        if self.table != Some(table) {
            self.end_table();
            self.table = Some(table);
            self.hasher.update(&table.to_le_bytes());
        }
        self.records += u64::from(records);
        self.bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    fn end_table(&mut self) {
        self.hasher.update(&self.records.to_le_bytes());
        self.hasher.update(&self.bytes.to_le_bytes());
        (self.records, self.bytes) = (0, 0);
    }

    fn finish(mut self) -> StateDigest {
        self.end_table();
        self.hasher.finalize().into()
    }
}

/// A file that is being written. Until [`Writer::finish`] it is no snapshot.
pub(crate) struct Writer {
    file: Box<dyn DiskFile>,
    end: u64,
    header: Vec<u8>,
    entries: Vec<Entry>,
    records: u64,
    plain_bytes: u64,
    digester: Digester,
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Creates the file and writes its header.
    pub(crate) fn create(
        disk: &dyn Disk,
        name: &str,
        meta: &SnapshotMeta,
        site: &str,
    ) -> io::Result<Self> {
        let header = header(meta, site);
        let mut file = disk.create(name, header.len() as u64)?;
        file.write_at(0, &header)?;
        Ok(Self {
            file,
            end: header.len() as u64,
            header,
            entries: Vec::new(),
            records: 0,
            plain_bytes: 0,
            digester: Digester::default(),
            compressor: zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
            buffer: Vec::new(),
        })
    }

    /// Writes a chunk. Returns how many bytes the file has grown by.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> io::Result<u64> {
        if chunk.bytes.len() > PLAIN_MAX_BYTES {
            return Err(io::Error::other("a record is too large for a snapshot"));
        }
        let Chunk { table, records, bytes } = chunk;
        self.digester.push(*table, *records, bytes);
        let packed = self.compressor.compress(bytes)?;
        // What hardly shrinks is cheaper to read as it is.
        let (codec, data) = if packed.len() < bytes.len() - bytes.len() / 8 {
            (ZSTD, &packed)
        } else {
            (PLAIN, bytes)
        };
        let crc = crc32c::crc32c(data);
        self.entries.push(Entry { offset: self.end, records: *records, crc, table: *table });
        self.records += u64::from(*records);
        self.plain_bytes += bytes.len() as u64;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(&CHUNK_MARK.to_le_bytes());
        buffer.extend_from_slice(&table.to_le_bytes());
        buffer.extend_from_slice(&codec.to_le_bytes());
        buffer.extend_from_slice(&records.to_le_bytes());
        buffer.extend_from_slice(&length(bytes).to_le_bytes());
        buffer.extend_from_slice(&length(data).to_le_bytes());
        buffer.extend_from_slice(&crc.to_le_bytes());
        let head_crc = crc32c::crc32c(&buffer);
        buffer.extend_from_slice(&head_crc.to_le_bytes());
        buffer.extend_from_slice(data);
        let written = self.append(&buffer);
        self.buffer = buffer;
        written.map(|()| self.buffer.len() as u64)
    }

    /// Writes index and tail, and makes all of it durable.
    pub(crate) fn finish(mut self) -> io::Result<Facts> {
        let mut end = Vec::with_capacity(self.entries.len() * ENTRY_BYTES + TAIL_BYTES);
        for entry in &self.entries {
            end.extend_from_slice(&entry.offset.to_le_bytes());
            end.extend_from_slice(&entry.records.to_le_bytes());
            end.extend_from_slice(&entry.crc.to_le_bytes());
            end.extend_from_slice(&entry.table.to_le_bytes());
        }
        let digest = std::mem::take(&mut self.digester).finish();
        let chunks = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        let (index_crc, tail_from) = (crc32c::crc32c(&end), end.len());
        end.extend_from_slice(&index_crc.to_le_bytes());
        end.extend_from_slice(&chunks.to_le_bytes());
        end.extend_from_slice(&self.records.to_le_bytes());
        end.extend_from_slice(&self.plain_bytes.to_le_bytes());
        end.extend_from_slice(&self.end.to_le_bytes());
        end.extend_from_slice(&digest);
        let tail_crc = crc32c::crc32c(&end[tail_from..]);
        end.extend_from_slice(&tail_crc.to_le_bytes());
        end.extend_from_slice(&TAIL_MARK.to_le_bytes());
        self.append(&end)?;
        self.file.sync_data()?;
        let (plain_bytes, records) = (self.plain_bytes, self.records);
        let id = file_id(&self.header, &end);
        Ok(Facts { bytes: self.end, plain_bytes, records, digest, id })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.end + bytes.len() as u64;
        self.file.resize(end)?;
        self.file.write_at(self.end, bytes)?;
        self.end = end;
        Ok(())
    }
}

/// A whole file, read chunk by chunk.
pub(crate) struct Reader {
    file: Box<dyn DiskFile>,
    meta: SnapshotMeta,
    site: String,
    facts: Facts,
    entries: Vec<Entry>,
    index_at: u64,
    next: usize,
    digester: Digester,
}

impl Reader {
    /// Reads and verifies what stands around the chunks.
    pub(crate) fn open(mut file: Box<dyn DiskFile>) -> Result<Self, SnapshotError> {
        let have = file.len()?;
        let (header, meta, site) = read_header(file.as_mut(), have)?;
        let least = (header.len() + TAIL_BYTES) as u64;
        if have < least {
            return Err(SnapshotError::Short { have, need: least });
        }
        let tail = read(file.as_mut(), have - TAIL_BYTES as u64, TAIL_BYTES)?;
        let mut fields = Fields(&tail);
        let (index_crc, chunks, records) = (fields.u32(), fields.u32(), fields.u64());
        let (plain_bytes, index_at) = (fields.u64(), fields.u64());
        let digest: StateDigest = fields.take();
        let (tail_crc, mark) = (fields.u32(), fields.u32());
        if mark != TAIL_MARK || tail_crc != crc32c::crc32c(&tail[..TAIL_BYTES - 8]) {
            return Err(SnapshotError::End);
        }
        let index_bytes = u64::from(chunks) * ENTRY_BYTES as u64;
        if index_at.checked_add(index_bytes + TAIL_BYTES as u64) != Some(have) {
            return Err(SnapshotError::End);
        }
        let index_bytes = usize::try_from(index_bytes).map_err(io::Error::other)?;
        let mut end = read(file.as_mut(), index_at, index_bytes)?;
        if crc32c::crc32c(&end) != index_crc {
            return Err(SnapshotError::Damaged("index"));
        }
        let entries: Vec<Entry> = end.chunks_exact(ENTRY_BYTES).map(Entry::read).collect();
        let offsets = entries.iter().map(|entry| entry.offset).chain([index_at]);
        let begins = entries.first().map_or(index_at, |entry| entry.offset);
        if begins != header.len() as u64 || !offsets.is_sorted_by(|a, b| a < b) {
            return Err(SnapshotError::Damaged("index"));
        }
        end.extend_from_slice(&tail);
        let id = file_id(&header, &end);
        let facts = Facts { bytes: have, plain_bytes, records, digest, id };
        let digester = Digester::default();
        Ok(Self { file, meta, site, facts, entries, index_at, next: 0, digester })
    }

    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Empty before the site was founded.
    pub(crate) fn site(&self) -> &str {
        &self.site
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The next chunk, verified. None behind the last one, when the digest is verified too.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Chunk>, SnapshotError> {
        let nth = self.next;
        let Some(entry) = self.entries.get(nth) else {
            let digest = std::mem::take(&mut self.digester).finish();
            return if digest == self.facts.digest { Ok(None) } else { Err(SnapshotError::Digest) };
        };
        let end = self.entries.get(nth + 1).map_or(self.index_at, |next| next.offset);
        let damaged = || SnapshotError::Chunk { nth };
        let bytes = usize::try_from(end - entry.offset).map_err(|_| damaged())?;
        if !(CHUNK_HEAD_BYTES..=CHUNK_HEAD_BYTES + PLAIN_MAX_BYTES).contains(&bytes) {
            return Err(damaged());
        }
        let bytes = read(self.file.as_mut(), entry.offset, bytes)?;
        let (head, data) = bytes.split_at(CHUNK_HEAD_BYTES);
        let head = ChunkHead::read(head).ok_or_else(damaged)?;
        let fits = (head.table, head.records, head.crc) == (entry.table, entry.records, entry.crc);
        if !fits || head.stored != data.len() || crc32c::crc32c(data) != head.crc {
            return Err(damaged());
        }
        let plain = head.unpack(data).ok_or_else(damaged)?;
        self.digester.push(head.table, head.records, &plain);
        self.next += 1;
        Ok(Some(Chunk { table: head.table, records: head.records, bytes: plain }))
    }
}

/// How many bytes of a file that is coming in are certainly right: those up to behind the last
/// sound chunk of the row from the beginning.
pub(crate) fn sound_bytes(file: &mut dyn DiskFile, total: u64) -> u64 {
    let have = file.len().unwrap_or(0).min(total);
    let Ok((header, ..)) = read_header(file, have) else { return 0 };
    let mut end = header.len() as u64;
    loop {
        let Some(behind_head) = end.checked_add(CHUNK_HEAD_BYTES as u64).filter(|it| *it <= have)
        else {
            return end;
        };
        let head = read(file, end, CHUNK_HEAD_BYTES).ok().and_then(|head| ChunkHead::read(&head));
        let Some(head) = head else { return end };
        let next = behind_head + head.stored as u64;
        if next > have {
            return end;
        }
        match read(file, behind_head, head.stored) {
            Ok(data) if crc32c::crc32c(&data) == head.crc => end = next,
            Ok(_) | Err(_) => return end,
        }
    }
}

struct ChunkHead {
    table: u16,
    codec: u16,
    records: u32,
    plain: usize,
    stored: usize,
    crc: u32,
}

impl ChunkHead {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (mark, table, codec, records) =
            (fields.u32(), fields.u16(), fields.u16(), fields.u32());
        let (plain, stored, crc, head_crc) =
            (fields.u32(), fields.u32(), fields.u32(), fields.u32());
        let sound = mark == CHUNK_MARK
            && crc32c::crc32c(bytes.get(..CHUNK_HEAD_BYTES - CRC_BYTES)?) == head_crc;
        let plain = usize::try_from(plain).ok().filter(|it| *it <= PLAIN_MAX_BYTES)?;
        let stored = usize::try_from(stored).ok().filter(|it| *it <= PLAIN_MAX_BYTES)?;
        sound.then_some(Self { table, codec, records, plain, stored, crc })
    }

    fn unpack(&self, data: &[u8]) -> Option<Vec<u8>> {
        match self.codec {
            PLAIN => Some(data.to_vec()),
            ZSTD => zstd::bulk::decompress(data, self.plain).ok(),
            _ => None,
        }
        .filter(|plain| plain.len() == self.plain)
    }
}

impl Entry {
    fn read(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        Self { offset: fields.u64(), records: fields.u32(), crc: fields.u32(), table: fields.u16() }
    }
}

/// Reads numbers off the front; zeros behind the end.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => [0; N],
        }
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

fn header(meta: &SnapshotMeta, site: &str) -> Vec<u8> {
    let meta = WireSnapshotMeta { site: site.to_owned(), ..WireSnapshotMeta::from(meta) }.encode();
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&length(&meta).to_le_bytes());
    header.extend_from_slice(&meta);
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

type Header = (Vec<u8>, SnapshotMeta, String);

fn read_header(file: &mut dyn DiskFile, have: u64) -> Result<Header, SnapshotError> {
    let short = |need: usize| SnapshotError::Short { have, need: need as u64 };
    if have < HEAD_BYTES as u64 {
        return Err(short(HEAD_BYTES));
    }
    let head = read(file, 0, HEAD_BYTES)?;
    let mut fields = Fields(&head);
    let (magic, format, meta_bytes) = (fields.take(), fields.u32(), fields.u32());
    if &magic != MAGIC {
        return Err(SnapshotError::Magic);
    }
    if format != FORMAT {
        return Err(SnapshotError::Format(format));
    }
    let meta_bytes = usize::try_from(meta_bytes).ok().filter(|it| *it <= META_MAX_BYTES);
    let meta_bytes = meta_bytes.ok_or(SnapshotError::Damaged("header"))?;
    let whole = HEAD_BYTES + meta_bytes + CRC_BYTES;
    if have < whole as u64 {
        return Err(short(whole));
    }
    let header = read(file, 0, whole)?;
    let (covered, crc) = header.split_at(whole - CRC_BYTES);
    if Fields(crc).u32() != crc32c::crc32c(covered) {
        return Err(SnapshotError::Damaged("header"));
    }
    let wire = WireSnapshotMeta::decode(&covered[HEAD_BYTES..])?;
    let site = wire.site.clone();
    Ok((header, wire.try_into()?, site))
}

fn read(file: &mut dyn DiskFile, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    file.read_at(offset, &mut buffer)?;
    Ok(buffer)
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a chunk and a membership have far fewer than 2^32 bytes")
}

fn file_id(header: &[u8], end: &[u8]) -> FileId {
    blake3::Hasher::new().update(header).update(end).finalize().into()
}
