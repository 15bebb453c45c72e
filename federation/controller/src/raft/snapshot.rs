//! Snapshots on disk: one file each, whole or not there.
//!
//! ```text
//!  magic 8 | format u32 | meta length u32 | body length u64 | CRC32C of meta and body u32
//!  | CRC32C of the 28 bytes before u32 | meta | body            (numbers little-endian)
//! ```
//!
//! A file is written under another name, synced, and renamed; the directory is synced; only then
//! may the log before it go. The newest is kept.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use federation_core::State;
use federation_wal::Disk;
use specs::codec::{DecodeError, Message};
use tokio::sync::oneshot;

use super::types::SnapshotMeta;
use super::wire::WireSnapshotMeta;

/// Runs what it is given on a thread of the given name. A simulator may run it at once.
pub type Threads = Arc<dyn Fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync>;

/// The largest file that is accepted from another member, bytes.
pub(crate) const SNAPSHOT_MAX_BYTES: u64 = 8 << 30;

const MAGIC: &[u8; 8] = b"spwsnap\n";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 32;
const META_MAX_BYTES: usize = 1 << 20;
const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = "unfinished";

/// What a snapshot holds.
pub(crate) type Content = (SnapshotMeta, State);

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("it is cut short: {have} bytes of {need}")]
    Short { have: u64, need: u64 },
    #[error("it does not begin like a snapshot")]
    Magic,
    #[error("its format is {0}, which this version does not know")]
    Format(u32),
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its content is not one that this version knows")]
    Content(#[from] DecodeError),
    #[error("the disk failed")]
    Disk(#[from] io::Error),
}

/// The snapshots of one member.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    threads: Threads,
    /// Held while a file is written, so that the newest stays.
    latest: Mutex<Option<Latest>>,
}

/// The newest snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Latest {
    pub(crate) meta: SnapshotMeta,
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// What openraft passes around as a snapshot.
pub(crate) enum Image {
    /// A file of a member; gone once a newer one is there.
    Stored { snapshots: Arc<Snapshots>, name: String },
    /// A file that another member sent, verified.
    Received { file: Bytes, state: Box<State> },
}

impl Image {
    /// The bytes of the file.
    pub(crate) async fn file(self) -> Result<Bytes, SnapshotError> {
        match self {
            Self::Received { file, .. } => Ok(file),
            Self::Stored { snapshots, name } => {
                let reader = snapshots.clone();
                snapshots.off_thread(move || reader.read(&name)).await?
            }
        }
    }
}

impl Snapshots {
    /// Finds the newest snapshot and reads it. An error comes with the name of the file. Blocks.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        threads: Threads,
    ) -> Result<(Self, Option<Content>), (String, SnapshotError)> {
        let failed = |error: io::Error| ("the directory".to_owned(), SnapshotError::Disk(error));
        let names = disk.list().map_err(failed)?;
        let newest = names.into_iter().filter(|name| name.ends_with(SUFFIX)).max();
        let snapshots = Self { disk, threads, latest: Mutex::default() };
        let Some(name) = newest else { return Ok((snapshots, None)) };
        let read = snapshots.read(&name).and_then(|file| Ok((decode(&file)?, file.len() as u64)));
        let (content, bytes) = match read {
            Ok(read) => read,
            Err(error) => return Err((name, error)),
        };
        *snapshots.lock() = Some(Latest { meta: content.0.clone(), name, bytes });
        Ok((snapshots, Some(content)))
    }

    pub(crate) fn latest(&self) -> Option<Latest> {
        self.lock().clone()
    }

    /// Runs what blocks on a thread of its own.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, outcome) = oneshot::channel();
        let task = Box::new(move || {
            // No one waits when the member is stopping.
            let _ = done.send(work());
        });
        (self.threads)("snapshot", task)?;
        outcome.await.map_err(|_| io::Error::other("the work on a snapshot has panicked"))
    }

    /// Writes the snapshot of a state. Blocks.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &State) -> io::Result<Latest> {
        self.store(meta, &encode(meta, state))
    }

    /// Writes a snapshot's file, unless a newer one is there. Blocks.
    pub(crate) fn store(&self, meta: &SnapshotMeta, file: &[u8]) -> io::Result<Latest> {
        let name = name_of(meta);
        let stored = Latest { meta: meta.clone(), name: name.clone(), bytes: file.len() as u64 };
        let mut latest = self.lock();
        if latest.as_ref().is_some_and(|latest| latest.meta.last_log_id >= meta.last_log_id) {
            return Ok(stored);
        }
        let names = self.disk.list()?;
        if names.iter().any(|name| name == UNFINISHED) {
            self.disk.remove(UNFINISHED)?;
        }
        let mut unfinished = self.disk.create(UNFINISHED, file.len() as u64)?;
        unfinished.write_at(0, file)?;
        unfinished.sync_data()?;
        self.disk.rename(UNFINISHED, &name)?;
        self.disk.sync_directory()?;
        *latest = Some(stored.clone());
        for old in names.iter().filter(|old| old.ends_with(SUFFIX) && **old < name) {
            self.disk.remove(old)?;
        }
        self.disk.sync_directory()?;
        Ok(stored)
    }

    /// Reads a snapshot's file. Blocks.
    pub(crate) fn read(&self, name: &str) -> Result<Bytes, SnapshotError> {
        Ok(self.disk.open(name)?.read_all()?.into())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names sort like the log.
fn name_of(meta: &SnapshotMeta) -> String {
    let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:020}{SUFFIX}")
}

/// The bytes of a snapshot's file.
pub(crate) fn encode(meta: &SnapshotMeta, state: &State) -> Vec<u8> {
    let (meta, body) = (WireSnapshotMeta::from(meta).encode(), state.encode());
    let mut file = Vec::with_capacity(HEAD_BYTES + meta.len() + body.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&FORMAT.to_le_bytes());
    let meta_len = u32::try_from(meta.len()).expect("a membership has far fewer than 2^32 bytes");
    file.extend_from_slice(&meta_len.to_le_bytes());
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&meta), &body);
    file.extend_from_slice(&crc.to_le_bytes());
    let head_crc = crc32c::crc32c(&file);
    file.extend_from_slice(&head_crc.to_le_bytes());
    file.extend_from_slice(&meta);
    file.extend_from_slice(&body);
    file
}

/// Verifies a snapshot's file and reads it.
pub(crate) fn decode(file: &[u8]) -> Result<Content, SnapshotError> {
    let have = file.len() as u64;
    let short = |need: u64| SnapshotError::Short { have, need };
    let (head, rest) = file.split_at_checked(HEAD_BYTES).ok_or_else(|| short(HEAD_BYTES as u64))?;
    let (magic, numbers) = head.split_first_chunk::<8>().ok_or(SnapshotError::Magic)?;
    if magic != MAGIC {
        return Err(SnapshotError::Magic);
    }
    let mut numbers = numbers.chunks_exact(4).map(|it| it.try_into().map_or(0, u32::from_le_bytes));
    let mut next = || numbers.next().unwrap_or(0);
    let (format, meta_len, low, high) = (next(), next(), next(), next());
    let (crc, head_crc) = (next(), next());
    if crc32c::crc32c(&head[..HEAD_BYTES - 4]) != head_crc {
        return Err(SnapshotError::Checksum);
    }
    if format != FORMAT {
        return Err(SnapshotError::Format(format));
    }
    let body_len = u64::from(high) << 32 | u64::from(low);
    let need = HEAD_BYTES as u64 + u64::from(meta_len) + body_len;
    if have != need {
        return Err(short(need));
    }
    let meta_len = usize::try_from(meta_len).unwrap_or(usize::MAX);
    if meta_len > META_MAX_BYTES {
        return Err(SnapshotError::Checksum);
    }
    let (meta, body) = rest.split_at_checked(meta_len).ok_or_else(|| short(need))?;
    if crc32c::crc32c_append(crc32c::crc32c(meta), body) != crc {
        return Err(SnapshotError::Checksum);
    }
    Ok((WireSnapshotMeta::decode(meta)?.try_into()?, State::decode(body)?))
}
