//! A write-ahead log of opaque records in one directory, which never loses an acknowledged record
//! silently: after a crash it returns every one of them, or it refuses to open and says why.
//!
//! ```text
//!  append ──┐                       ┌─ write ── fdatasync ── done, done, done
//!  append ──┼── bounded queue ── writer thread
//!  append ──┘                       └─ roll: fdatasync ── next segment ── sync the directory
//!                                                             ▲
//!                      preparing thread: zeros ── fdatasync ──┘ ◀── released segments
//!
//!  00000000000000000007.wal   opening | batch | batch | batch ...           (full, may be released)
//!  00000000000000000008.wal   opening | batch | batch | seal | 0 0 0 0 ...  (the log goes on here)
//!  spare                      0 0 0 0 ...                                   (space for segment 9)
//!  released-5                 stale bytes, or zeros already                 (space for a later one)
//!  LOCK                       held by the process that has the log open
//! ```
//!
//! One batch is one write and at most one `fdatasync`, however many callers it serves; while it is
//! under way the next one gathers. Its header also says up to where the log was durable before it,
//! and by this recovery tells a torn tail, which it cuts off, from rot, which it refuses
//! ([`mod@format`] has the bytes, [`Recovery`] the rule).
//!
//! # Invariants
//!
//! - Records are numbered from 1 without gaps, across batches and segments, in the order of
//!   [`Wal::append`]; `done` is called in that order.
//! - A header vouches only for records that an `fdatasync` has covered.
//! - A segment gets its name when all before it, and its own opening, are durable. So only the
//!   newest segment may have a torn tail, and only a spare or a released one may be half made.
//! - A segment begins as zeros that are durable, also when it is a released one used again: it is
//!   renamed, the directory is synced, its bytes become zeros in place, and those are synced. Thus
//!   "only zeros follow" stays the mark of a clean end, which stale bytes would hide. It costs no
//!   write, as the space becomes reserved again; where a disk cannot, the file is made anew.
//! - Space is reserved before it is used. A full disk is met at a roll, where nothing is half
//!   written; anything else that a disk refuses ends the log for good.
//! - No sync is tried again after it failed: the kernel may have dropped what it could not write.
//! - What recovery returns is durable, and vouched for by a seal, before [`Wal::open`] returns. It
//!   changes a segment in place only by the bytes that are there; a torn one is replaced by a copy.
//!
//! # Deliberately absent
//!
//! - The meaning of records. Votes, truncations and purges are records of the owner like any other.
//! - Reading while the log is open: the owner holds what it may need again.
//! - Any repair of rot. Peers have the data; the owner rejoins them under a new identity.
//!
//! # What it cannot notice, and who does
//!
//! - *A rotten last batch* that no later header vouches for: it looks like a torn one, and is cut
//!   off. [`Recovered::truncated_tail`] says so: the member should not vote before it
//!   has caught up. A seal closes the gap after [`IDLE_SEAL`] and on a clean stop. The sector that
//!   a batch shares with the one before it is such a case until a third batch is written.
//! - *A suffix of the newest segment that has become zeros*, seals included: it looks like a clean
//!   end. Only the peers know better: they hold more of the log than this member, which cannot win
//!   an election against a majority that has the rest; what they cannot see is a member that voted
//!   in the lost part, so a disk that does this is to be replaced.
//! - *A newest segment whose file is gone* is the same case.
//! - *An oldest segment whose file is gone* looks like a release. The owner compares the first
//!   record with its snapshot.
//! - *A whole directory put back from an earlier time* is intact. The peers hold more, as above.
//! - *Two damages that agree*: a sum of 32 bits misses one in four thousand million at random.
//!
//! Everything else about acknowledged bytes is refused: any flipped bit, sectors that are lost,
//! zeroed or written in the wrong place, and missing segments between others. [`oracle`] is the
//! judge of that, for the tests and for the fuzz targets in `fuzz/`:
//! `cargo +nightly fuzz run damage` and `cargo +nightly fuzz run decode`, in this directory.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may stop at the first surprise"))]

mod disk;
pub mod format;
pub mod hooked_disk;
mod inspect;
pub mod oracle;
mod prepare;
mod queue;
mod recover;
pub mod sim_disk;
mod tail;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

pub use disk::{DirectoryLock, Disk, DiskFile, LOCK_FILE, RealDisk};
pub use format::Seq;
pub use inspect::{InspectError, Report, TornTail, inspect};
pub use prepare::RECYCLED_SEGMENTS;
pub use queue::{QUEUE_BYTES, QUEUE_RECORDS};
pub use recover::{Evidence, RecoverError, Recovery, Scan, SegmentSpan, Visit};
pub use tail::has_torn_tail;
pub use wal::{
    BATCH_BYTES, Clock, Config, Done, Environment, IDLE_SEAL, MAX_RECORD_BYTES, MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES, NoRoom, OnFatal, OpenError, Recovered, Refusal, SEGMENT_BYTES, Salts, Spawn,
    Task, Wal, Wish, WriteError,
};
