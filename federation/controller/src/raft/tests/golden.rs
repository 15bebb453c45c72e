//! The bytes of what is kept and sent. They never change; a variant or a field may be added.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::impls::BasicNode;
use specs::codec::Message;

use super::{entry, id};
use crate::raft::record::{
    AppendRecord, CheckpointRecord, CommittedRecord, Record, TruncateRecord,
};
use crate::raft::types::{Entry, Membership, Vote};
use crate::raft::wire::{AppendRequest, AppendResponse, get_entries, put_entries, put_id};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entries() -> Vec<Entry> {
    let nodes = BTreeMap::from([(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))]);
    let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
    vec![
        Entry { log_id: id(3, 4), payload: EntryPayload::Blank },
        entry(3, 5, b"xyz"),
        Entry { log_id: id(3, 6), payload: EntryPayload::Membership(membership) },
    ]
}

#[test]
fn entries_come_back_as_they_were() {
    let wire = AppendRecord { entries: put_entries(&entries()) };
    let read = AppendRecord::decode(&wire.encode()).unwrap();
    assert_eq!(get_entries(read.entries).unwrap(), entries());
}

#[test]
fn records_keep_their_bytes() {
    let vote = Vote::new_committed(3, 2);
    let records = [
        Record::Append(AppendRecord { entries: put_entries(&entries()) }),
        Record::Vote((&vote).into()),
        Record::Truncate(TruncateRecord { after: put_id(Some(&id(3, 4))) }),
        Record::Checkpoint(CheckpointRecord {
            purged: (&id(3, 4)).into(),
            vote: Some((&vote).into()),
            committed: put_id(Some(&id(3, 5))),
        }),
        Record::Committed(CommittedRecord { upto: None }),
    ];
    let bytes: Vec<String> = records.iter().map(|record| hex(&record.encode())).collect();
    for (record, bytes) in records.iter().zip(&bytes) {
        assert_eq!(&Record::decode(&record.encode()).unwrap(), record, "{bytes}");
    }
    assert_eq!(bytes, GOLDEN_RECORDS);
}

const GOLDEN_RECORDS: [&str; 5] = [
    "0a370a08080310041a020a000a0b080310051a05120378797a0a1e080310061a181a160a0208011207080112\
     03613a31120708021203623a32",
    "1206080310021801",
    "1a060a0408031004",
    "22140a040803100412060803100218011a0408031005",
    "2a00",
];

#[test]
fn appends_keep_their_bytes() {
    let request = AppendRequest {
        vote: (&Vote::new_committed(3, 2)).into(),
        previous: put_id(Some(&id(2, 3))),
        entries: put_entries(&entries()[1..2]),
        committed: put_id(Some(&id(2, 1))),
    };
    assert_eq!(hex(&request.encode()), GOLDEN_REQUEST);
    let response = AppendResponse::from(Ok(Some(id(3, 5))));
    assert_eq!(hex(&response.encode()), GOLDEN_RESPONSE);
}

const GOLDEN_REQUEST: &str = "0a060803100218011204080210031a0b080310051a05120378797a220408021001";
const GOLDEN_RESPONSE: &str = "0a060a0408031005";
