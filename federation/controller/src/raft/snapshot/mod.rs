//! Snapshots on disk: one file each, whole or not there ([`mod@file`] has the bytes).
//!
//! ```text
//!  State ─▶ chunks ─▶ unfinished ──┐ sync, rename,       ┌─▶ chunks ─▶ State
//!                                  ├──────────────▶ N.snapshot
//!  leader ─▶ pieces ─▶ N.incoming ─┘ sync directory      └─▶ pieces ─▶ follower
//!                         └─ verified first
//! ```
//!
//! Only when all of that is done may the log before a snapshot go. The newest is kept.
//!
//! # Invariants
//! * No file is ever in memory as a whole.
//! * What is half written has another name, and what is half received is used only to go on.
//! * A file that is being sent stays readable: removing its name does not end an open file.

mod file;
mod incoming;
mod pace;
mod policy;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_core::{State, StateBuilder};
use federation_wal::{Disk, DiskFile};
use tokio::sync::oneshot;

use super::types::SnapshotMeta;
use file::{Facts, Reader, Writer};
pub(crate) use file::{FileId, SnapshotError, StateDigest};
pub(crate) use incoming::{Incoming, Offer, Verified, read_piece};
pub(crate) use pace::Pace;
pub(crate) use policy::{Since, Trigger};

/// Runs what it is given on a thread of the given name. A simulator may run it at once.
pub type Threads = Arc<dyn Fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync>;

/// The largest file that is accepted from another member, bytes.
pub(crate) const SNAPSHOT_MAX_BYTES: u64 = 8 << 30;

const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = "unfinished";

/// What a snapshot holds.
pub(crate) type Content = (SnapshotMeta, State);

/// The snapshots of one member.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    threads: Threads,
    pace: Pace,
    latest: Mutex<Option<Latest>>,
    /// Held while a state is written: there is one name for what is unfinished.
    writing: Mutex<()>,
    /// Held while a file gets its name, so that the newest stays.
    naming: Mutex<()>,
    sending: AtomicUsize,
    pub(crate) trigger: Trigger,
}

/// The newest snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Latest {
    pub(crate) meta: SnapshotMeta,
    pub(crate) name: String,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Size of the state's bytes, before compression.
    pub(crate) plain_bytes: u64,
    /// Of the state: the same on every member that has a snapshot of the same entry.
    pub(crate) digest: StateDigest,
    /// Of the file.
    pub(crate) id: FileId,
}

/// What openraft passes around as a snapshot.
pub(crate) enum Image {
    /// A file of a member.
    Stored { snapshots: Arc<Snapshots>, latest: Latest },
    /// A file that another member sent, verified.
    Received(Verified),
    /// The disk had no room; the snapshot before stays the newest.
    Nothing,
}

impl Latest {
    fn new(meta: SnapshotMeta, name: String, facts: &Facts) -> Self {
        let Facts { bytes, plain_bytes, digest, id, .. } = *facts;
        Self { meta, name, bytes, plain_bytes, digest, id }
    }
}

/// While it is there, a snapshot is being sent.
pub(crate) struct Sending(Arc<Snapshots>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Snapshots {
    /// Removes what was left half written, finds the newest snapshot and reads it. An error comes
    /// with the name of the file, and then nothing was changed. Blocks.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        threads: Threads,
        pace: Pace,
    ) -> Result<(Self, Option<Content>), (String, SnapshotError)> {
        let failed = |error: io::Error| ("the directory".to_owned(), SnapshotError::Disk(error));
        let names = disk.list().map_err(failed)?;
        let newest = names.iter().filter(|name| name.ends_with(SUFFIX)).max().cloned();
        let snapshots = Self {
            disk,
            threads,
            pace,
            latest: Mutex::default(),
            writing: Mutex::default(),
            naming: Mutex::default(),
            sending: AtomicUsize::new(0),
            trigger: Trigger::default(),
        };
        let content = match newest {
            Some(name) => {
                let (latest, state) = snapshots.load(&name).map_err(|error| (name, error))?;
                let content = (latest.meta.clone(), state);
                *snapshots.lock() = Some(latest);
                Some(content)
            }
            None => None,
        };
        snapshots.tidy(&names).map_err(failed)?;
        Ok((snapshots, content))
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

    /// Drops what may take long to drop on a thread of its own.
    pub(crate) fn discard(&self, what: impl Send + 'static) {
        // Without a thread it is dropped here, which is only slower.
        let _ = (self.threads)("discard", Box::new(move || drop(what)));
    }

    /// Writes the snapshot of a state, unless a newer one is there. Blocks.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &State) -> io::Result<Latest> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newer) = self.newer_than(meta) {
            return Ok(newer);
        }
        let began = self.pace.now();
        let written = self.write(meta, state);
        self.trigger.rest_after(began, self.pace.now());
        if written.is_err() {
            // The next one begins again; the error that matters is the first.
            let _ = self.disk.remove(UNFINISHED);
        }
        let latest = Latest::new(meta.clone(), name_of(meta), &written?);
        self.put_in_place(UNFINISHED, latest)
    }

    fn write(&self, meta: &SnapshotMeta, state: &State) -> io::Result<Facts> {
        if self.disk.list()?.iter().any(|name| name == UNFINISHED) {
            self.disk.remove(UNFINISHED)?;
        }
        let site = state.own().map_or_else(String::new, ToString::to_string);
        let mut writer = Writer::create(self.disk.as_ref(), UNFINISHED, meta, &site)?;
        let mut pace = self.pace.begin();
        for chunk in state.chunks() {
            pace.wait(writer.push(&chunk)?);
        }
        writer.finish()
    }

    /// Gives a durable file its name, and removes older ones, unless a newer one is there.
    fn put_in_place(&self, from: &str, latest: Latest) -> io::Result<Latest> {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newer) = self.newer_than(&latest.meta) {
            match self.disk.remove(from) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => return Ok(newer),
            }
        }
        self.disk.rename(from, &latest.name)?;
        self.disk.sync_directory()?;
        *self.lock() = Some(latest.clone());
        let digest = blake3::Hash::from(latest.digest);
        tracing::info!(name = latest.name, bytes = latest.bytes, %digest, "a snapshot is in place");
        let mut names = self.disk.list()?;
        // Another may be under way.
        names.retain(|name| name != UNFINISHED);
        self.tidy(&names)?;
        Ok(latest)
    }

    /// Removes what is of no use beside the newest snapshot, and makes the directory durable.
    fn tidy(&self, names: &[String]) -> io::Result<()> {
        let newest = self.lock().as_ref().map(|latest| latest.name.clone());
        let is_old = |name: &String| {
            newest.as_ref().is_some_and(|newest| {
                (name.ends_with(SUFFIX) && name < newest)
                    || (incoming::is_incoming(name) && stem(name) <= stem(newest))
            })
        };
        for name in names.iter().filter(|name| *name == UNFINISHED || is_old(name)) {
            self.disk.remove(name)?;
        }
        self.disk.sync_directory()
    }

    /// Reads and verifies a snapshot. Blocks.
    pub(crate) fn load(&self, name: &str) -> Result<(Latest, State), SnapshotError> {
        let mut reader = Reader::open(self.disk.open(name)?)?;
        let state = read_state(&mut reader)?;
        Ok((Latest::new(reader.meta().clone(), name.to_owned(), reader.facts()), state))
    }

    /// Opens a file to send it. Blocks.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(name)
    }

    pub(crate) fn sending(self: &Arc<Self>) -> Sending {
        self.sending.fetch_add(1, Ordering::Relaxed);
        Sending(self.clone())
    }

    /// True while a snapshot is on its way to another member.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed) > 0
    }

    fn newer_than(&self, meta: &SnapshotMeta) -> Option<Latest> {
        self.latest().filter(|latest| latest.meta.last_log_id >= meta.last_log_id)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Names sort like the log.
fn name_of(meta: &SnapshotMeta) -> String {
    let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:020}{SUFFIX}")
}

/// What of a name sorts like the log.
fn stem(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// The newest snapshot of a directory: its name, and its last entry, size and state, or why it is
/// of no use. Changes nothing. Blocks.
#[expect(clippy::type_complexity, reason = "one caller takes it apart at once")]
pub(crate) fn newest_in(
    disk: &dyn Disk,
) -> io::Result<Option<(String, Result<(u64, u64, Box<State>), SnapshotError>)>> {
    let names = disk.list()?;
    let Some(name) = names.into_iter().filter(|name| name.ends_with(SUFFIX)).max() else {
        return Ok(None);
    };
    let read = || {
        let mut reader = Reader::open(disk.open(&name)?)?;
        let state = Box::new(read_state(&mut reader)?);
        let index = reader.meta().last_log_id.map_or(0, |id| id.index);
        Ok((index, reader.facts().bytes, state))
    };
    let read = read();
    Ok(Some((name, read)))
}

/// Makes a state of the chunks, the last of which verifies all.
fn read_state(reader: &mut Reader) -> Result<State, SnapshotError> {
    let mut builder = StateBuilder::new();
    while let Some(chunk) = reader.next_chunk()? {
        builder.push(chunk.table, chunk.records, &chunk.bytes)?;
    }
    let state = builder.finish()?;
    let site = state.own().map_or_else(String::new, ToString::to_string);
    if site != reader.site() {
        return Err(SnapshotError::Damaged("header"));
    }
    Ok(state)
}
