//! The log and the vote on disk: all that must survive goes, in order, through the one queue of the
//! one thread of the write-ahead log, and so a vote can never pass the entries before it.
//!
//! ```text
//!  append ─▶ memory (readable at once) ─▶ record ─▶ WAL thread ─▶ fsync ─▶ io_completed
//!                                           │ no space left
//!                                           ▼
//!                                        refused, in order ─▶ again once there is room
//! ```
//!
//! # Invariants
//! * What memory holds is what the records say, read in order; [`Memory::apply`] is used for both.
//! * A record that a full disk refused is written before any record that was queued after it.
//! * Segments are released only up to a checkpoint that repeats what they alone knew.
//!
//! All entries that are not purged are kept in memory.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use federation_wal::{Config, Done, Environment, OpenError, Recovered, Seq, Wal, Wish, WriteError};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use specs::codec::Message;
use tokio::sync::{Notify, oneshot};

use super::memory::{Memory, MemoryError};
use super::record::{CheckpointRecord, CommittedRecord, Record, TruncateRecord, encode_append};
use super::types::{Entry, LogId, Types, Vote};
use super::wire::put_id;

/// Entries that a record gathers, bytes; a larger one stands alone.
const RECORD_TARGET_BYTES: usize = 1 << 20;
/// Entries that one read for replication returns, bytes; at least one entry is returned.
const READ_TARGET_BYTES: usize = 1 << 20;
/// What an entry costs besides its command, bytes; generous.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// What a full disk may refuse before entries wait to be taken, bytes.
const REFUSED_BYTES: usize = 64 << 20;

/// Told what became of a record; runs on the thread of the log.
type Then = Box<dyn FnOnce(Result<Seq, WriteError>) + Send>;

/// The log store. Clones share it and serve as its readers.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    memory: Mutex<Memory>,
    /// None once it is closed.
    wal: RwLock<Option<Wal>>,
    /// Held to keep the order of memory and records the same.
    turn: tokio::sync::Mutex<()>,
    /// What a full disk refused, in order.
    refused: Mutex<Vec<Pending>>,
    /// Nothing is refused any more.
    accepted: Notify,
    record_bytes: usize,
}

/// A record on its way.
struct Pending {
    record: Vec<u8>,
    kind: Kind,
    wish: Wish,
    then: Then,
}

/// What is to be known of a record once it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It holds entries up to the one of this index.
    Entries(u64),
    Checkpoint,
    Other,
}

/// Why the records of a log make no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("record {seq} of the log is not one that this version knows")]
    Record {
        seq: Seq,
        #[source]
        source: specs::codec::DecodeError,
    },
    #[error("record {seq} of the log does not follow from those before it")]
    Order {
        seq: Seq,
        #[source]
        source: MemoryError,
    },
    #[error("the log begins with entries that are missing")]
    Beginning(#[source] MemoryError),
}

/// Why the log does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenStoreError {
    #[error(transparent)]
    Log(OpenError),
    #[error(transparent)]
    Replay(ReplayError),
}

impl LogStore {
    /// Opens the log and rebuilds what it holds from its records. Blocks.
    pub(crate) fn open(
        environment: Environment,
        config: Config,
    ) -> Result<(Self, Recovered), OpenStoreError> {
        let record_bytes_max = config.max_record_bytes();
        let mut memory = Memory::default();
        let visit = |seq, bytes: &[u8]| Ok(replay(&mut memory, seq, bytes)?);
        let (wal, recovered) = Wal::open(environment, config, visit).map_err(open_error)?;
        let beginning = memory.check_beginning().map_err(ReplayError::Beginning);
        beginning.map_err(OpenStoreError::Replay)?;
        let shared = Shared {
            memory: Mutex::new(memory),
            wal: RwLock::new(Some(wal)),
            turn: tokio::sync::Mutex::new(()),
            refused: Mutex::default(),
            accepted: Notify::new(),
            record_bytes: RECORD_TARGET_BYTES.min(record_bytes_max / 2),
        };
        Ok((Self { shared: Arc::new(shared) }, recovered))
    }

    /// For how long the disk has been at what it was last asked to do; none while it is idle.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        let wal = self.shared.wal.try_read().ok()?;
        wal.as_ref().and_then(Wal::stalled_for)
    }

    /// True if no vote and no entry was ever kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.memory().is_empty()
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.memory().vote()
    }

    /// The last entry, purged or not, durable or not yet.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.memory().last().copied()
    }

    /// Waits until all that is in the log by now is durable.
    pub(crate) async fn barrier(&self) -> io::Result<()> {
        let upto = put_id(self.shared.memory().committed());
        let (done, outcome) = oneshot::channel();
        let then = Box::new(move |result: Result<Seq, WriteError>| {
            // No one waits when the member is stopping.
            let _ = done.send(result);
        });
        {
            let _turn = self.shared.turn.lock().await;
            let record = Record::Committed(CommittedRecord { upto }).encode();
            let pending = Pending { record, kind: Kind::Other, wish: Wish::Sync, then };
            self.shared.write(pending).await;
        }
        match outcome.await {
            Ok(result) => result.map(drop).map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log is closed")),
        }
    }

    /// True while the disk has no room; nothing is written then, and no writer is told.
    pub(crate) fn is_full(&self) -> bool {
        let wal = self.shared.wal.read().unwrap_or_else(PoisonError::into_inner);
        wal.as_ref().is_some_and(Wal::is_full)
    }

    /// Writes what is queued and closes the log. Blocks.
    pub(crate) fn close(&self) -> Result<(), WriteError> {
        let wal = self.shared.wal.write().unwrap_or_else(PoisonError::into_inner).take();
        wal.map_or(Ok(()), Wal::close)
    }

    /// Looks for room if the disk is full, and writes what waits for it. Call it from time to time.
    pub(crate) async fn look_for_room(&self) {
        if self.is_full() {
            self.shared.try_again().await;
        }
    }

    /// Changes memory and queues the record of it. The caller has the turn.
    async fn change(&self, record: Record, wish: Wish, then: Then) -> io::Result<()> {
        let kind = match record {
            Record::Checkpoint(_) => Kind::Checkpoint,
            Record::Append(_) | Record::Vote(_) | Record::Truncate(_) | Record::Committed(_) => {
                Kind::Other
            }
        };
        let bytes = record.encode();
        self.shared.memory().apply(record, None).map_err(io::Error::other)?;
        self.shared.write(Pending { record: bytes, kind, wish, then }).await;
        Ok(())
    }

    /// As [`LogStore::change`], of entries.
    async fn change_entries(&self, entries: Vec<Entry>, wish: Wish, then: Then) -> io::Result<()> {
        let Some(last) = entries.last().map(|entry| entry.log_id.index) else { return Ok(()) };
        let record = encode_append(&entries);
        self.shared.memory().append(entries).map_err(io::Error::other)?;
        self.shared.write(Pending { record, kind: Kind::Entries(last), wish, then }).await;
        Ok(())
    }

    /// As [`LogStore::change`], and waits until it is durable, on a full disk until there is room:
    /// a vote that is not on disk must not be given. The turn ends before the wait, so that others
    /// go on.
    async fn change_durably(&self, record: Record) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        let then = Box::new(move |result| {
            // No one waits when the member is stopping.
            let _ = done.send(result);
        });
        {
            let _turn = self.shared.turn.lock().await;
            self.change(record, Wish::Sync, then).await?;
        }
        match outcome.await {
            Ok(result) => result.map(drop).map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log is closed")),
        }
    }
}

/// Why the log did not open, in the terms of whoever reads its records.
fn open_error(error: OpenError) -> OpenStoreError {
    let OpenError::Refused { seq, source } = error else { return OpenStoreError::Log(error) };
    match source.downcast() {
        Ok(replay) => OpenStoreError::Replay(*replay),
        Err(source) => OpenStoreError::Log(OpenError::Refused { seq, source }),
    }
}

fn replay(memory: &mut Memory, seq: Seq, bytes: &[u8]) -> Result<(), ReplayError> {
    let record = Record::decode(bytes).map_err(|source| ReplayError::Record { seq, source })?;
    memory.apply(record, Some(seq)).map_err(|source| ReplayError::Order { seq, source })
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Vec<Pending>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a record, and waits while the queue of the log is full, which bounds its memory.
    async fn write(self: &Arc<Self>, pending: Pending) {
        let Pending { mut record, kind, wish, then } = pending;
        let shared = Arc::downgrade(self);
        let mut done: Done = Box::new(move |result, record| {
            finish(&shared, Pending { record, kind, wish, then }, result);
        });
        loop {
            let room = {
                let wal = self.wal.read().unwrap_or_else(PoisonError::into_inner);
                let Some(wal) = wal.as_ref() else { break };
                match wal.try_append(record, wish, done) {
                    Ok(()) => return,
                    Err(back) => (record, done) = back,
                }
                let (tell, room) = oneshot::channel();
                wal.when_room(Box::new(move || {
                    // Who waited has gone away.
                    let _ = tell.send(());
                }));
                room
            };
            // Whatever the outcome, the next attempt says more.
            let _ = room.await;
        }
        done(Err(WriteError::Closed), record);
    }

    /// Waits while a full disk has refused more than memory should hold twice.
    async fn accepts(&self) {
        loop {
            let accepted = self.accepted.notified();
            let refused: usize = self.refused().iter().map(|pending| pending.record.len()).sum();
            if refused <= REFUSED_BYTES {
                return;
            }
            accepted.await;
        }
    }

    /// Writes again what a full disk refused, in order, before anything else is written.
    async fn try_again(self: &Arc<Self>) {
        let _turn = self.turn.lock().await;
        // Refusals come in the order of the queue: when this one is there, all are.
        let (done, came) = oneshot::channel();
        let upto = put_id(self.memory().committed());
        let record = Record::Committed(CommittedRecord { upto }).encode();
        let done: Done = Box::new(move |result, _| {
            let _ = done.send(result);
        });
        // A log that is full empties its queue at once: there is room, or will be.
        if let Some(wal) = self.wal.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            if wal.try_append(record, Wish::Write, done).is_err() {
                return;
            }
        } else {
            return;
        }
        if came.await.is_err() {
            return;
        }
        if let Some(wal) = self.wal.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            wal.resume();
        }
        let refused = std::mem::take(&mut *self.refused());
        for pending in refused {
            self.write(pending).await;
        }
        self.accepted.notify_waiters();
    }

    /// Lets go of segments that hold nothing but what is purged or repeated by the checkpoint.
    fn release(&self, checkpoint: Seq) {
        let upto = self.memory().releasable(checkpoint);
        // Whoever closes the log waits for this very thread.
        if let Ok(wal) = self.wal.try_read()
            && let Some(wal) = wal.as_ref()
        {
            wal.release(upto);
        }
    }
}

/// Runs on the thread of the log.
fn finish(shared: &Weak<Shared>, pending: Pending, result: Result<Seq, WriteError>) {
    let Some(shared) = shared.upgrade() else { return (pending.then)(result) };
    match result {
        Err(WriteError::DiskFull) => shared.refused().push(pending),
        Ok(seq) => {
            if let Kind::Entries(last) = pending.kind {
                shared.memory().written(last, seq);
            }
            (pending.then)(Ok(seq));
            if pending.kind == Kind::Checkpoint {
                shared.release(seq);
            }
        }
        Err(error) => (pending.then)(Err(error)),
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.shared.memory().entries(from, to).cloned().collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.memory().vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let memory = self.shared.memory();
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry_bytes(entry);
            is_first || bytes <= READ_TARGET_BYTES
        };
        Ok(memory.entries(start, end).take_while(fits).cloned().collect())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = self.shared.memory();
        Ok(LogState {
            last_purged_log_id: memory.purged().copied(),
            last_log_id: memory.last().copied(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.change_durably(Record::Vote(vote.into())).await?;
        // Rot in the last durable write looks like a torn one and is cut off. A vote must not be
        // lost like that, so it is never in the last write alone.
        self.change_durably(Record::Vote(vote.into())).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let _turn = self.shared.turn.lock().await;
        let record = CommittedRecord { upto: put_id(committed.as_ref()) };
        // It only spares work after a restart, so it rides on the next batch.
        self.change(Record::Committed(record), Wish::Ride, Box::new(|_| ())).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.shared.memory().committed().copied())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let mut chunks = chunks(entries, self.shared.record_bytes);
        let Some(last) = chunks.pop() else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        self.shared.accepts().await;
        let _turn = self.shared.turn.lock().await;
        for chunk in chunks {
            self.change_entries(chunk, Wish::Write, Box::new(|_| ())).await?;
        }
        let then = Box::new(move |result: Result<Seq, WriteError>| {
            callback.io_completed(result.map(drop).map_err(io::Error::other));
        });
        self.change_entries(last, Wish::Sync, then).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let record = TruncateRecord { after: put_id(last.as_ref()) };
        self.change_durably(Record::Truncate(record)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let _turn = self.shared.turn.lock().await;
        let checkpoint = {
            let memory = self.shared.memory();
            CheckpointRecord {
                purged: (&upto).into(),
                vote: memory.vote().as_ref().map(Into::into),
                committed: put_id(memory.committed()),
            }
        };
        // Nothing waits for it: if it is lost the entries are there again, and so is the snapshot.
        self.change(Record::Checkpoint(checkpoint), Wish::Sync, Box::new(|_| ())).await
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    let content = match &entry.payload {
        openraft::EntryPayload::Blank => 0,
        openraft::EntryPayload::Normal(payload) => payload.len(),
        openraft::EntryPayload::Membership(membership) => {
            membership.nodes().map(|(_, node)| ENTRY_OVERHEAD_BYTES + node.addr.len()).sum()
        }
    };
    ENTRY_OVERHEAD_BYTES + content
}

/// Entries in groups of about `target` bytes.
fn chunks(entries: impl IntoIterator<Item = Entry>, target: usize) -> Vec<Vec<Entry>> {
    let mut chunks: Vec<Vec<Entry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = entry_bytes(&entry);
        match chunks.last_mut() {
            Some(chunk) if bytes + size <= target => {
                bytes += size;
                chunk.push(entry);
            }
            Some(_) | None => {
                bytes = size;
                chunks.push(vec![entry]);
            }
        }
    }
    chunks
}
