//! What has left the state: ended jobs, on this member's disk, numbered as the group agreed.
//!
//! ```text
//!  apply ─▶ pending ─▶ store (a thread) ─▶ synced ─▶ a snapshot without them may be kept
//!  other members ─▶ missing numbers ─▶ store
//! ```
//!
//! # Invariants
//! * No snapshot of a state is in place, made here or taken in, before all that this member has
//!   taken out of the state is durable. The log before it goes later still, so that whatever is
//!   not on disk is taken out again when the log is read again.
//! * A record has the same number on every member.

mod fetch;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_core::{Job, Leaving};
use federation_wal::Disk;
use specs::codec::Message;
use specs::id::JobId;

pub(crate) use fetch::{answer, watch_archive};
use store::Store;
pub(crate) use store::{FILE_BYTES, Record};

use super::snapshot::Threads;

/// What was taken out of the state and is not written yet.
type Pending = BTreeMap<u64, Job>;

/// The archive of one member. What reads or writes it blocks, unless it says otherwise.
pub(crate) struct Archive {
    disk: Arc<dyn Disk>,
    threads: Threads,
    file_bytes: u64,
    pending: Mutex<Pending>,
    stage: Mutex<Stage>,
    /// As the store has it; told without waiting for the disk.
    held: AtomicU64,
}

/// The files are read when they are first needed, off the way of a start.
enum Stage {
    Unread,
    Open(Box<Store>),
    /// A write or a sync has failed: what the disk holds is not known.
    Failed(String),
}

/// What is about to be done with the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Reads,
    Writes,
}

/// How far the archive of a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchiveView {
    /// Jobs that the site has archived, as far as is known here.
    pub archived: u64,
    /// How many of them are missing here, and are fetched from other controllers.
    pub missing: u64,
}

impl Archive {
    /// Begins to read what is there, on a thread of its own.
    pub(crate) fn open(disk: Arc<dyn Disk>, threads: Threads, file_bytes: u64) -> Arc<Self> {
        let (pending, stage) = (Mutex::default(), Mutex::new(Stage::Unread));
        let held = AtomicU64::new(0);
        let archive = Arc::new(Self { disk, threads, file_bytes, pending, stage, held });
        archive.clone().work_off();
        archive
    }

    /// Takes what leaves the state. Does not block.
    pub(crate) fn add(self: &Arc<Self>, leaving: Vec<Leaving>) {
        if leaving.is_empty() {
            return;
        }
        self.pending().extend(leaving.into_iter().map(|it| (it.number, it.job)));
        self.clone().work_off();
    }

    /// Writes what is pending on a thread of its own.
    fn work_off(self: Arc<Self>) {
        let threads = self.threads.clone();
        let task = Box::new(move || {
            if let Err(error) = self.write_pending() {
                tracing::warn!(%error, "the archive is not written");
            }
        });
        if let Err(error) = threads("archive", task) {
            tracing::warn!(%error, "the archive is written later");
        }
    }

    fn write_pending(&self) -> io::Result<()> {
        self.with_store(Use::Writes, |store| self.write_out(store))
    }

    /// Makes durable all that has left the state so far. Blocks.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.with_store(Use::Writes, |store| {
            self.write_out(store)?;
            store.sync()
        })
    }

    fn write_out(&self, store: &mut Store) -> io::Result<()> {
        loop {
            let next = self.pending().first_key_value().map(|(number, job)| record(*number, job));
            let Some(next) = next else { return Ok(()) };
            store.write(&next)?;
            self.pending().remove(&next.number);
        }
    }

    /// Runs with the files at hand. A disk without room may have some later; any other failure
    /// to write stays, so that no snapshot is kept.
    fn with_store<T>(
        &self,
        how: Use,
        work: impl FnOnce(&mut Store) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Unread = *stage {
            *stage = Stage::Open(Box::new(Store::open(self.disk.clone(), self.file_bytes)?));
        }
        let worked = match &mut *stage {
            Stage::Open(store) => {
                let worked = work(store);
                self.held.store(store.held(), Ordering::Relaxed);
                worked
            }
            Stage::Failed(why) => return Err(io::Error::other(why.clone())),
            Stage::Unread => return Err(io::Error::other("the archive is not read")),
        };
        if let Err(error) = &worked
            && how == Use::Writes
            && !super::snapshot::is_full(error)
        {
            *stage = Stage::Failed(format!("the disk of the archive has failed: {error}"));
        }
        worked
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is, given how many jobs the site has archived. Does not block.
    pub(crate) fn view(&self, archived: u64) -> ArchiveView {
        let held = self.held.load(Ordering::Relaxed) + self.pending().len() as u64;
        ArchiveView { archived, missing: archived.saturating_sub(held) }
    }

    /// A stretch of numbers behind `after` and up to `upto` that is missing here. Blocks.
    pub(crate) fn missing(
        &self,
        after: u64,
        upto: u64,
        most: u64,
    ) -> io::Result<Option<(u64, u64)>> {
        self.write_pending()?;
        self.with_store(Use::Reads, |store| Ok(store.missing(after, upto, most)))
    }

    /// Records of the numbers from `from` to `upto` that are here, until they are longer than
    /// `bytes` together. Blocks.
    pub(crate) fn read(&self, from: u64, upto: u64, bytes: usize) -> io::Result<Vec<Record>> {
        self.write_pending()?;
        self.with_store(Use::Reads, |store| {
            let (mut found, mut length) = (Vec::new(), 0);
            for number in from..=upto {
                let Some(record) = store.read(number)? else { continue };
                length += record.bytes.len();
                found.push(record);
                if length > bytes {
                    break;
                }
            }
            Ok(found)
        })
    }

    /// Takes in records that another member has. Blocks.
    pub(crate) fn take_in(&self, records: &[Record]) -> io::Result<()> {
        self.with_store(Use::Writes, |store| {
            records.iter().try_for_each(|record| store.write(record))
        })
    }

    /// The jobs whose ids stand between the two, not more than `most`. Blocks.
    pub(crate) fn find(&self, from: JobId, to: JobId, most: usize) -> io::Result<Vec<Record>> {
        self.write_pending()?;
        self.with_store(Use::Reads, |store| {
            let mut found = Vec::new();
            for (_, number) in store.find(from, to, most) {
                found.extend(store.read(number)?);
            }
            Ok(found)
        })
    }

    /// The newest jobs, the newest first, not more than `most`. Blocks.
    pub(crate) fn newest(&self, upto: u64, most: usize) -> io::Result<Vec<Record>> {
        self.write_pending()?;
        self.with_store(Use::Reads, |store| {
            let mut found = Vec::new();
            for number in (1..=upto).rev() {
                if found.len() >= most {
                    break;
                }
                found.extend(store.read(number)?);
            }
            Ok(found)
        })
    }
}

fn record(number: u64, job: &Job) -> Record {
    Record { number, job: job.id, bytes: job.encode() }
}
