//! The log as its owner sees it: open, append, release, close.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::disk::Disk;
use crate::format::Seq;
use crate::queue::{Append, NotQueued, Queue, Work};
use crate::recover::{RecoverError, Rules};
use crate::writer::{Trouble, Writer, batch_room, record_bytes};

/// Size of a segment file, bytes.
pub const SEGMENT_BYTES: usize = 64 << 20;

/// The smallest segment that is accepted, bytes.
pub const MIN_SEGMENT_BYTES: usize = 4 << 10;

/// The largest segment that is accepted, bytes: lengths in it must fit 32 bits.
pub const MAX_SEGMENT_BYTES: usize = 1 << 30;

/// Records gathered into one write, bytes.
pub const BATCH_BYTES: usize = 4 << 20;

/// The largest record, bytes, if the segment is not smaller still.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// How long the log is idle before a seal vouches for its last batch.
pub const IDLE_SEAL: Duration = Duration::from_secs(1);

/// Told once what became of a record, its number or why it was not written, and given it back. Runs
/// on the writer thread, in the order of the records, and so must be short; it must not call
/// [`Wal::append`], which may wait for that very thread.
pub type Done = Box<dyn FnOnce(Result<Seq, WriteError>, Vec<u8>) + Send>;

/// When a record is to be written, and whether it is to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// At once, and durable before its owner is told.
    Sync,
    /// At once. It is durable with the next one that is, or with the next seal.
    Write,
    /// With the next record of another wish, or when the log has been idle for
    /// [`Config::idle_seal`]: so it costs no write of its own while others come.
    Ride,
}

/// A record that was not queued for lack of room, and whom to tell of it.
pub type NoRoom = (Vec<u8>, Done);

/// A source of random 32-bit numbers. They must not be predictable: whoever knew a segment's salt
/// could forge a batch inside a record.
pub type Salts = Box<dyn FnMut() -> u32 + Send>;

/// What runs on a thread of the log.
pub type Task = Box<dyn FnOnce() + Send>;

/// Starts a thread of the given name that runs the task to its end.
pub type Spawn = Box<dyn Fn(&str, Task) -> io::Result<()> + Send>;

/// Called once, on the writer thread, when the log has failed and every waiter has been told.
/// A product logs the text and aborts the process; the next start recovers.
pub type OnFatal = Box<dyn Fn(&str) + Send>;

/// Tells the time since some fixed moment. It never goes back.
pub type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Why the owner refuses a record that it wrote once.
pub type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// Everything the log takes from outside.
pub struct Environment {
    /// The directory, for this log alone.
    pub disk: Arc<dyn Disk>,
    /// Randomness.
    pub salts: Salts,
    /// Threads.
    pub spawn: Spawn,
    /// For [`Wal::stalled_for`].
    pub clock: Clock,
    /// What to do when the disk has failed.
    pub on_fatal: OnFatal,
}

/// Sizes and times. A change applies from the next segment on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of a segment file, bytes; within [`MIN_SEGMENT_BYTES`] and [`MAX_SEGMENT_BYTES`].
    pub segment_bytes: usize,
    /// Records gathered into one write, bytes.
    pub batch_bytes: usize,
    /// How long the log is idle before a seal vouches for its last batch.
    pub idle_seal: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config { segment_bytes: SEGMENT_BYTES, batch_bytes: BATCH_BYTES, idle_seal: IDLE_SEAL }
    }
}

impl Config {
    /// The largest record that [`Wal::append`] takes, bytes.
    #[must_use]
    pub fn max_record_bytes(&self) -> usize {
        batch_room(self.segment_bytes).saturating_sub(record_bytes(0)).min(MAX_RECORD_BYTES)
    }
}

/// What the log held when it was opened. All of it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The number that the next record will get. If there were no records and this is not 1, all
    /// were released.
    pub next_seq: Seq,
    /// Bytes that were never acknowledged were cut off. After an unclean stop this may also be a
    /// rotten last batch, so a member of a group should not vote before it has caught up.
    pub truncated_tail: bool,
}

/// Why a log did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A number in the configuration is out of its bounds.
    #[error(
        "segment size {segment_bytes} is not within {MIN_SEGMENT_BYTES} and {MAX_SEGMENT_BYTES}"
    )]
    SegmentSize {
        /// The size asked for, bytes.
        segment_bytes: usize,
    },
    /// Another process has it open.
    #[error("the log is in use")]
    InUse(#[source] io::Error),
    /// There is no room for the first segment.
    #[error("no space left for a segment of the log")]
    DiskFull,
    /// The disk failed.
    #[error("cannot {doing} of the log")]
    Disk {
        /// What was attempted.
        doing: &'static str,
        /// What the disk said.
        source: io::Error,
    },
    /// Acknowledged records cannot be read.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The owner makes no sense of a record. Nothing has been changed on disk.
    #[error("record {seq} of the log makes no sense")]
    Refused {
        /// Its number.
        seq: Seq,
        /// Why.
        source: Refusal,
    },
    /// The thread did not start.
    #[error("cannot start the writer thread")]
    Spawn(#[source] io::Error),
}

/// Why a record was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no room for the next segment. The record was not written, nor will any other be
    /// until [`Wal::resume`] finds room.
    #[error("no space left for the next segment of the log")]
    DiskFull,
    /// The record is too large. It alone was not written.
    #[error("a record of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// [`Config::max_record_bytes`].
        limit: usize,
    },
    /// The disk failed. The record may or may not be there at the next start.
    #[error("cannot {doing} of the log")]
    Failed {
        /// What was attempted.
        doing: &'static str,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// A callback has panicked, and with it the writer. The record may or may not be there.
    #[error("the writer of the log has panicked")]
    Panicked,
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

/// A log open for writing. Dropping it closes it.
pub struct Wal {
    queue: Arc<Queue>,
    pace: Arc<Pace>,
}

impl Wal {
    /// Opens the log in a directory, or begins one if there are no segments, and starts its writer.
    ///
    /// `visit` is given all records of all segments, in order, without gaps, one segment in memory
    /// at a time. The first may be older than what was last released, as whole segments go. They
    /// are durable once this returns, and mean nothing if it fails.
    ///
    /// # Errors
    /// [`OpenError`]; then no record was changed.
    pub fn open(
        environment: Environment,
        config: Config,
        mut visit: impl FnMut(Seq, &[u8]) -> Result<(), Refusal>,
    ) -> Result<(Wal, Recovered), OpenError> {
        let Environment { disk, salts, spawn, clock, on_fatal } = environment;
        let segment_bytes = config.segment_bytes;
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes) {
            return Err(OpenError::SegmentSize { segment_bytes });
        }
        let (writer, recovered) = Writer::open(disk, salts, &config, Rules::Sound, &mut visit)?;
        let queue = Arc::new(Queue::default());
        let pace = Arc::new(Pace { clock, busy_since: AtomicU64::new(IDLE) });
        let (preparer, told) = (Arc::clone(writer.preparer()), Arc::clone(&queue));
        let prepare = move || preparer.run(|| told.check());
        spawn("wal-preparer", Box::new(prepare)).map_err(OpenError::Spawn)?;
        let gone = Gone(Arc::clone(&queue));
        let watched = Arc::clone(&pace);
        let runner = Runner { writer, config, pace: watched, on_fatal, waiting: Vec::new(), gone };
        spawn("wal-writer", Box::new(move || runner.run())).map_err(OpenError::Spawn)?;
        Ok((Wal { queue, pace }, recovered))
    }

    /// Queues a record. `done` is told its number once it is written, and durable if it or another
    /// record of its batch has [`Wish::Sync`].
    ///
    /// Waits while the queue holds [`crate::QUEUE_RECORDS`] or [`crate::QUEUE_BYTES`]; who must not
    /// wait calls [`Wal::try_append`]. After the log has ended `done` is told so at once, on the
    /// caller's thread.
    pub fn append(&self, record: Vec<u8>, wish: Wish, done: Done) {
        if let Err((append, error)) = self.queue.push(Append { record, wish, done }) {
            (append.done)(Err(error), append.record);
        }
    }

    /// As [`Wal::append`], but never waits.
    ///
    /// # Errors
    /// Gives the record back if there is no room; [`Wal::when_room`] tells when to try again. The
    /// caller queues no other record before it that must come after it.
    pub fn try_append(&self, record: Vec<u8>, wish: Wish, done: Done) -> Result<(), NoRoom> {
        match self.queue.try_push(Append { record, wish, done }) {
            Ok(()) => Ok(()),
            Err(NotQueued::NoRoom(append)) => Err((append.record, append.done)),
            Err(NotQueued::Ended(append, error)) => {
                (append.done)(Err(error), append.record);
                Ok(())
            }
        }
    }

    /// Calls `hook` once: when the queue has room again, or the log has ended. It runs at once on
    /// this thread or later on the writer's, and must be short.
    pub fn when_room(&self, hook: Box<dyn FnOnce() + Send>) {
        self.queue.when_room(hook);
    }

    /// Says that records up to and including `upto` are no longer needed. Whole segments of such
    /// records are removed soon; the newest one stays.
    pub fn release(&self, upto: Seq) {
        self.queue.release(upto);
    }

    /// Whether the disk is full: every append is then refused with [`WriteError::DiskFull`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// For how long the disk has been at what it was last asked to do. `None` while it has nothing
    /// to do. A watchdog of the owner decides what is too long.
    #[must_use]
    pub fn stalled_for(&self) -> Option<Duration> {
        self.pace.busy_for()
    }

    /// Looks for room again; [`Wal::is_full`] tells whether it was found.
    ///
    /// A full log does not accept records again by itself: one queued behind a refused one would
    /// be written without it. Call this when every refusal has been dealt with. What was queued
    /// before is refused, what is queued after it is written.
    pub fn resume(&self) {
        self.queue.resume();
    }

    /// Writes what is queued, seals the log, and waits until its writer has ended. Appends from
    /// other threads are refused from here on.
    ///
    /// # Errors
    /// [`WriteError::Failed`] or [`WriteError::Panicked`] if the log has ended so, before or in this.
    pub fn close(self) -> Result<(), WriteError> {
        self.queue.close()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // The hook has told of a failure already.
        let _ = self.queue.close();
    }
}

/// How long the disk takes.
struct Pace {
    clock: Clock,
    /// When the disk was last asked for something, nanoseconds; [`IDLE`] if it is done.
    busy_since: AtomicU64,
}

const IDLE: u64 = u64::MAX;

impl Pace {
    fn busy_for(&self) -> Option<Duration> {
        // The clock comes second, so that it is not before the beginning.
        let since = self.busy_since.load(Ordering::Acquire);
        (since != IDLE).then(|| (self.clock)().saturating_sub(Duration::from_nanos(since)))
    }

    /// Does what asks something of the disk.
    fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let now = u64::try_from((self.clock)().as_nanos()).unwrap_or(IDLE - 1);
        self.busy_since.store(now, Ordering::Release);
        let result = work();
        self.busy_since.store(IDLE, Ordering::Release);
        result
    }
}

struct Runner {
    writer: Writer,
    config: Config,
    pace: Arc<Pace>,
    on_fatal: OnFatal,
    /// Who waits for the batch that failed.
    waiting: Vec<Append>,
    /// The last field, so dropped last: who waits for the end finds the directory free.
    gone: Gone,
}

impl Runner {
    fn run(mut self) {
        self.queue().writer_is_here();
        let batch_bytes = self.config.batch_bytes.min(batch_room(self.config.segment_bytes));
        loop {
            let needs_seal = self.writer.needs_seal();
            let work = self.queue().take(batch_bytes, self.config.idle_seal, needs_seal);
            let is_last = matches!(work, Work::Close);
            let result = match work {
                Work::Write(batch) => self.write(batch),
                Work::Resume => self.resume(),
                Work::Check => self.writer.preparer().check(),
                Work::Release(upto) => self.pace.time(|| self.writer.release(upto)),
                Work::Idle | Work::Close => self.pace.time(|| self.writer.seal()),
            };
            match result {
                // Those whom a full disk concerns have been told.
                Ok(()) | Err(Trouble::Full) if !is_last => {}
                Ok(()) | Err(Trouble::Full) => return,
                Err(Trouble::Fatal { doing, source }) => return self.fail(doing, source),
            }
        }
    }

    fn write(&mut self, batch: Vec<Append>) -> Result<(), Trouble> {
        let limit = self.config.max_record_bytes();
        let fits = |append: &&Append| append.record.len() <= limit;
        let sync = batch.iter().filter(fits).any(|append| append.wish == Wish::Sync);
        let result = if self.queue().is_full() {
            Err(Trouble::Full)
        } else {
            let payloads = batch.iter().filter(fits).map(|append| append.record.as_slice());
            self.pace.time(|| self.writer.write(payloads, sync))
        };
        match result {
            Ok(mut seq) => {
                for Append { record, done, .. } in batch {
                    let bytes = record.len();
                    if bytes <= limit {
                        done(Ok(seq), record);
                        seq += 1;
                    } else {
                        done(Err(WriteError::TooLarge { bytes, limit }), record);
                    }
                }
                Ok(())
            }
            Err(Trouble::Full) => {
                if !self.queue().is_full() {
                    self.queue().set_full(true);
                    tracing::error!("no space left for the next segment of the log: read-only");
                }
                for Append { record, done, .. } in batch {
                    done(Err(WriteError::DiskFull), record);
                }
                Ok(())
            }
            Err(trouble @ Trouble::Fatal { .. }) => {
                self.waiting = batch;
                Err(trouble)
            }
        }
    }

    fn resume(&mut self) -> Result<(), Trouble> {
        self.pace.time(|| self.writer.preparer().finish())?;
        if self.queue().is_full() {
            self.queue().set_full(false);
            tracing::info!("there is room for the log again: it takes records");
        }
        Ok(())
    }

    fn queue(&self) -> &Queue {
        &self.gone.0
    }

    /// Tells every waiter, then the hook. Nothing is tried again.
    fn fail(&mut self, doing: &'static str, source: io::Error) {
        let message = format!("cannot {doing} of the log: {source}");
        let error = WriteError::Failed { doing, source: Arc::new(source) };
        let queued = self.queue().fail(error.clone());
        for Append { record, done, .. } in self.waiting.drain(..).chain(queued) {
            done(Err(error.clone()), record);
        }
        (self.on_fatal)(&message);
    }
}

/// Tells the queue that the writer has ended, even by a panic or because it was never run.
struct Gone(Arc<Queue>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.writer_is_gone(std::thread::panicking());
    }
}
