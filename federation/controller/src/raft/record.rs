//! What one record of the log says. A variant is added, never altered.

extern crate alloc;

use super::wire::{WireEntry, WireLogId, WireVote};

specs::message! {
    pub struct AppendRecord {
        1 => entries: Vec<WireEntry>,
    }

    /// The log ends behind the entry; without one it is empty.
    pub struct TruncateRecord {
        1 => after: Option<WireLogId>,
    }

    /// Entries up to this one are in a snapshot and gone. It repeats what else the records before
    /// it may have said, so that they can go too.
    pub struct CheckpointRecord {
        1 => purged: WireLogId,
        2 => vote: Option<WireVote>,
        3 => committed: Option<WireLogId>,
    }

    pub struct CommittedRecord {
        1 => upto: Option<WireLogId>,
    }
}

specs::choice! {
    pub enum Record {
        1 => Append(AppendRecord),
        2 => Vote(WireVote),
        3 => Truncate(TruncateRecord),
        4 => Checkpoint(CheckpointRecord),
        5 => Committed(CommittedRecord),
    }
}
