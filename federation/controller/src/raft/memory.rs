//! What a log's records add up to.

use std::collections::VecDeque;

use federation_wal::Seq;
use specs::codec::DecodeError;

use super::record::{CheckpointRecord, Record};
use super::types::{Entry, LogId, Vote};
use super::wire::get_entry;

/// The log, in memory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Entries up to here are gone.
    purged: Option<LogId>,
    /// Invariant: their indexes have no gaps, and begin right after `purged` once the log is open.
    entries: VecDeque<Entry>,
    /// Records that hold entries which are not purged, with the last index of each, in order.
    /// Entries that were truncated since may be among them.
    held_by: VecDeque<(Seq, u64)>,
}

/// Why a record does not follow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("entry {found} stands where entry {expected} should")]
    Gap { expected: u64, found: u64 },
    #[error("an entry is not one that this version knows")]
    Entry(#[from] DecodeError),
}

impl Memory {
    /// Takes in what a record says. `seq` is its number if it is written already.
    pub(crate) fn apply(&mut self, record: Record, seq: Option<Seq>) -> Result<(), MemoryError> {
        match record {
            Record::Append(append) => {
                let last = append.entries.last().map(|entry| entry.index);
                for entry in append.entries {
                    self.push(get_entry(entry)?)?;
                }
                if let (Some(last), Some(seq)) = (last, seq) {
                    self.written(last, seq);
                }
            }
            Record::Vote(vote) => self.vote = Some(vote.into()),
            Record::Truncate(truncate) => self.truncate(truncate.after.map(LogId::from)),
            Record::Checkpoint(checkpoint) => self.checkpoint(&checkpoint),
            Record::Committed(committed) => self.committed = committed.upto.map(LogId::from),
        }
        Ok(())
    }

    /// Takes in entries that a record is to say.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> Result<(), MemoryError> {
        entries.into_iter().try_for_each(|entry| self.push(entry))
    }

    /// Takes note of where entries up to `last` were written.
    pub(crate) fn written(&mut self, last: u64, seq: Seq) {
        self.held_by.push_back((seq, last));
    }

    /// The last record that is not needed once the checkpoint of that number is durable.
    pub(crate) fn releasable(&mut self, checkpoint: Seq) -> Seq {
        let purged = self.purged.map(|id| id.index);
        while self.held_by.front().is_some_and(|(_, last)| Some(*last) <= purged) {
            self.held_by.pop_front();
        }
        let first = self.held_by.front().map_or(checkpoint, |(seq, _)| checkpoint.min(*seq));
        first.saturating_sub(1)
    }

    /// Whether the entries begin where the purged ones end.
    pub(crate) fn check_beginning(&self) -> Result<(), MemoryError> {
        let expected = self.purged.map_or(0, |id| id.index + 1);
        match self.entries.front() {
            Some(entry) if entry.log_id.index != expected => {
                Err(MemoryError::Gap { expected, found: entry.log_id.index })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.vote.is_none() && self.last().is_none()
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(crate) fn committed(&self) -> Option<&LogId> {
        self.committed.as_ref()
    }

    pub(crate) fn purged(&self) -> Option<&LogId> {
        self.purged.as_ref()
    }

    /// The last entry, purged or not.
    pub(crate) fn last(&self) -> Option<&LogId> {
        self.entries.back().map(|entry| &entry.log_id).or(self.purged.as_ref())
    }

    /// Entries with indexes from `from` up to before `to`, as far as they are here.
    pub(crate) fn entries(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        let first = self.entries.front().map_or(0, |entry| entry.log_id.index);
        let place = |index: u64| {
            usize::try_from(index.saturating_sub(first))
                .unwrap_or(usize::MAX)
                .min(self.entries.len())
        };
        let (from, to) = (place(from), place(to));
        self.entries.range(from..to.max(from))
    }

    fn push(&mut self, entry: Entry) -> Result<(), MemoryError> {
        let found = entry.log_id.index;
        if Some(found) <= self.purged.map(|id| id.index) {
            return Ok(());
        }
        let expected = match self.entries.back() {
            Some(last) => last.log_id.index + 1,
            // The records of earlier entries may have been released; see `check_beginning`.
            None => found,
        };
        if found != expected {
            return Err(MemoryError::Gap { expected, found });
        }
        self.entries.push_back(entry);
        Ok(())
    }

    fn truncate(&mut self, after: Option<LogId>) {
        let end = after.map_or(0, |id| id.index + 1);
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= end) {
            self.entries.pop_back();
        }
    }

    fn checkpoint(&mut self, checkpoint: &CheckpointRecord) {
        let purged = LogId::from(checkpoint.purged);
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= purged.index) {
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(purged));
        self.vote = checkpoint.vote.map(Vote::from);
        self.committed = checkpoint.committed.map(LogId::from);
    }
}
