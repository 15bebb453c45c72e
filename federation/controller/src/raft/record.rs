//! What one record of the log says. A variant is added, never altered.

extern crate alloc;

use openraft::EntryPayload;
use specs::codec::Message;

use super::types::{Entry, Payload};
use super::wire::{WireContent, WireEntry, WireLogId, WireVote};

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

/// The keys of the fields on the way from a record to a command's bytes: tag and wire type.
const KEY_APPEND: u8 = 1 << 3 | 2;
const KEY_ENTRY: u8 = 1 << 3 | 2;
const KEY_TERM: u8 = 1 << 3;
const KEY_INDEX: u8 = 2 << 3;
const KEY_CONTENT: u8 = 3 << 3 | 2;
const KEY_COMMAND: u8 = 2 << 3 | 2;

/// The bytes of [`Record::Append`] with these entries, written from the outside in: the general way
/// copies each command once for each message around it, and this is what a log mostly holds.
pub(crate) fn encode_append(entries: &[Entry]) -> Vec<u8> {
    let contents: Vec<Content<'_>> = entries.iter().map(Content::of).collect();
    let lengths: Vec<usize> =
        entries.iter().zip(&contents).map(|(entry, content)| entry_len(entry, content)).collect();
    let body: usize = lengths.iter().map(|length| 1 + varint_len(*length as u64) + length).sum();
    let mut out = Vec::with_capacity(1 + varint_len(body as u64) + body);
    out.push(KEY_APPEND);
    put_varint(body as u64, &mut out);
    for ((entry, content), length) in entries.iter().zip(&contents).zip(lengths) {
        out.push(KEY_ENTRY);
        put_varint(length as u64, &mut out);
        put_number(KEY_TERM, entry.log_id.leader_id.term, &mut out);
        put_number(KEY_INDEX, entry.log_id.index, &mut out);
        out.push(KEY_CONTENT);
        put_varint(content.len() as u64, &mut out);
        content.put(&mut out);
    }
    out
}

/// What an entry says.
enum Content<'a> {
    Command(&'a Payload),
    /// Anything rarer, encoded.
    Other(Vec<u8>),
}

impl<'a> Content<'a> {
    fn of(entry: &'a Entry) -> Self {
        match &entry.payload {
            EntryPayload::Normal(payload) => Self::Command(payload),
            EntryPayload::Blank | EntryPayload::Membership(_) => {
                Self::Other(WireContent::encode(&WireEntry::from(entry).content))
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Command(payload) => 1 + varint_len(payload.len() as u64) + payload.len(),
            Self::Other(bytes) => bytes.len(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Command(payload) => {
                out.push(KEY_COMMAND);
                put_varint(payload.len() as u64, out);
                out.extend_from_slice(payload.as_bytes());
            }
            Self::Other(bytes) => out.extend_from_slice(bytes),
        }
    }
}

fn entry_len(entry: &Entry, content: &Content<'_>) -> usize {
    let number = |value: u64| if value == 0 { 0 } else { 1 + varint_len(value) };
    let content = content.len();
    let numbers = number(entry.log_id.leader_id.term) + number(entry.log_id.index);
    numbers + 1 + varint_len(content as u64) + content
}

/// A number that is zero is not written.
fn put_number(key: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(key);
        put_varint(value, out);
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::impls::BasicNode;

    use super::*;
    use crate::raft::types::{CommittedLeaderId, LogId, Membership};
    use crate::raft::wire::put_entries;

    fn entry(term: u64, index: u64, payload: EntryPayload<Payload, u64, BasicNode>) -> Entry {
        Entry { log_id: LogId::new(CommittedLeaderId::new(term), index), payload }
    }

    #[test]
    fn the_direct_way_writes_the_bytes_of_the_general_one() {
        let nodes = BTreeMap::from([(1, BasicNode::new("a:1"))]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        let mut entries = vec![
            entry(0, 0, EntryPayload::Membership(membership)),
            entry(1, 1, EntryPayload::Blank),
        ];
        let numbers = [0, 1, 127, 128, 300, 16_383, 16_384, 1 << 35, u64::MAX];
        for (size, number) in
            [0, 1, 127, 128, 16_300, 16_384, 20_000, 5, 6].into_iter().zip(numbers)
        {
            let payload = Payload::raw(vec![7; size]);
            entries.push(entry(number, number, EntryPayload::Normal(payload)));
        }
        for count in 0..=entries.len() {
            let entries = &entries[..count];
            let general = Record::Append(AppendRecord { entries: put_entries(entries) });
            assert_eq!(encode_append(entries), general.encode(), "{count}");
        }
    }
}
