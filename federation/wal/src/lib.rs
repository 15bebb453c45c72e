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
//! - Knowledge of files lost at either end. A removed oldest segment looks like a release, so the
//!   owner compares the first number with its snapshot; a removed newest one only peers can notice.
//!   Likewise a rotten last batch, between an unclean stop and its seal, looks like a torn one:
//!   [`Recovered::truncated_tail`] says so.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may stop at the first surprise"))]

mod disk;
pub mod format;
mod inspect;
pub mod oracle;
mod prepare;
mod queue;
mod recover;
pub mod sim_disk;
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
pub use wal::{
    BATCH_BYTES, Clock, Config, Done, Environment, IDLE_SEAL, MAX_RECORD_BYTES, MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES, NoRoom, OnFatal, OpenError, Recovered, Refusal, SEGMENT_BYTES, Salts, Spawn,
    Task, Wal, Wish, WriteError,
};
