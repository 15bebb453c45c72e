//! The bytes of what is kept and sent. They never change; a variant or a field may be added.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation_core::{AttemptKey, Command, OpenToken, PreemptJobs, SetVersion, TokenKind};
use federation_wal::Disk;
use federation_wal::sim_disk::SimDisk;
use openraft::EntryPayload;
use openraft::impls::BasicNode;
use specs::codec::{Blob, Message};
use specs::id::{Epoch, JobId, TokenId};
use specs::unit::Timestamp;
use specs::version::ClusterVersion;

use super::snapshots::{meta, state};
use super::{entry, id, threads};
use crate::raft::record::{
    AppendRecord, CheckpointRecord, CommittedRecord, Record, TruncateRecord,
};
use crate::raft::snapshot::{Pace, Snapshots};
use crate::raft::types::{Entry, Membership, Payload, Vote};
use crate::raft::wire::{
    AppendRequest, AppendResponse, ArchiveRequest, ArchiveResponse, SnapshotAck, SnapshotPiece,
    TailRequest, TailResponse, VerifyRequest, WireArchived, WireComparison, WireWindow,
    WireWindows, get_entries, put_entries, put_id,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
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

#[test]
fn what_a_member_says_of_its_tail_keeps_its_bytes() {
    let [_, _, membership] = <[Entry; 3]>::try_from(entries()).unwrap();
    let EntryPayload::Membership(membership) = membership.payload else { panic!() };
    let response = TailResponse {
        vote: (&Vote::new_committed(3, 2)).into(),
        last: put_id(Some(&id(3, 6))),
        leads: true,
        membership: (&membership).into(),
        oldest: ClusterVersion(1),
        newest: ClusterVersion(1),
        build: String::new(),
    };
    // As a build writes it that says nothing of versions.
    assert_eq!(hex(&response.encode()), GOLDEN_TAIL);
    assert_eq!(TailResponse::decode(&unhex(GOLDEN_TAIL)).unwrap(), response);
    let (newest, build) = (ClusterVersion(3), "0.2.0".to_owned());
    let response = TailResponse { oldest: ClusterVersion(2), newest, build, ..response };
    assert_eq!(TailResponse::decode(&response.encode()).unwrap(), response);
    assert_eq!(hex(&response.encode()), format!("{GOLDEN_TAIL}280230033a05302e322e30"));
    assert_eq!(hex(&TailRequest {}.encode()), "");
}

/// Written before a site had a version.
const GOLDEN_COMMAND: &str = "02000a1cf201190a100000000000000000000000000000000110011a01072805";
const GOLDEN_SET_VERSION: &str = "02000a05e203020802";
const GOLDEN_PREEMPT: &str = "02000a38aa01350a1000000000000000000000000000000009100218012204623230302a150a10000000000000\
     0000000000000000000310ac023005";

#[test]
fn commands_in_the_log_keep_their_bytes() {
    let token = Command::OpenToken(OpenToken {
        token: TokenId(1),
        kind: TokenKind::Invite,
        key: Blob(vec![7]),
        bound: String::new(),
        expires_at: Timestamp(5),
    });
    let raise = Command::SetVersion(SetVersion { version: ClusterVersion(2) });
    let preempt = Command::PreemptJobs(PreemptJobs {
        job: JobId(9),
        after: Epoch(2),
        times: 1,
        class: "b200".parse().unwrap(),
        victims: vec![AttemptKey { job: JobId(3), epoch: Epoch(300) }],
        at: Timestamp(5),
    });
    let commands =
        [(token, GOLDEN_COMMAND), (raise, GOLDEN_SET_VERSION), (preempt, GOLDEN_PREEMPT)];
    for (command, golden) in commands {
        let payload = Payload::of(&command);
        assert_eq!(hex(payload.as_bytes()), golden);
        let payload = Payload::raw(unhex(golden));
        let read: Vec<Command> = payload.commands().unwrap().map(Result::unwrap).collect();
        assert_eq!(read, [command]);
    }
}

#[test]
fn a_snapshot_from_before_there_were_versions_is_one_of_the_first() {
    let disk = SimDisk::new(1 << 20);
    let bytes = unhex(GOLDEN_SNAPSHOT);
    let name = "00000000000000000005-00000000000000000001.snapshot";
    let mut file = disk.create(name, bytes.len() as u64).unwrap();
    file.write_at(0, &bytes).unwrap();
    file.sync_data().unwrap();
    let opened = Snapshots::open(Arc::new(disk), threads(), Pace::default());
    let (_, state) = opened.ok().unwrap().1.unwrap();
    assert_eq!(state.version, ClusterVersion(1));
    assert_eq!(state.encode(), super::snapshots::state(1).encode());
}

const GOLDEN_TAIL: &str =
    "0a06080310021801120408031006180122160a020801120708011203613a31120708021203623a32";

#[test]
fn archived_jobs_keep_their_bytes() {
    let job = JobId(5 << 64 | 7);
    let request = ArchiveRequest { from: 3, upto: 300, job: Some(job) };
    let archived = WireArchived { number: 3, id: job, job: Blob(b"xy".to_vec()) };
    let response = ArchiveResponse { jobs: vec![archived] };
    let bytes = [request.encode(), response.encode()];
    assert_eq!(bytes.map(|bytes| hex(&bytes)), GOLDEN_ARCHIVE);
    assert_eq!(ArchiveResponse::decode(&response.encode()).unwrap(), response);
}

const GOLDEN_ARCHIVE: [&str; 2] = [
    "080310ac021a1000000000000000050000000000000007",
    "0a1808031210000000000000000500000000000000071a027879",
];

#[test]
fn comparisons_keep_their_bytes() {
    let window = WireWindow { number: 3, hash: 300 };
    let compare = VerifyRequest::Compare(WireWindows { windows: vec![window] });
    let comparison = WireComparison { same: vec![1, 2], differs: vec![window] };
    let bytes = [compare.encode(), VerifyRequest::Condemn(window).encode(), comparison.encode()];
    assert_eq!(bytes.map(|bytes| hex(&bytes)), GOLDEN_COMPARISONS);
}

const GOLDEN_COMPARISONS: [&str; 3] =
    ["0a070a05080310ac02", "1205080310ac02", "080108021205080310ac02"];

const GOLDEN_REQUEST: &str = "0a060803100218011204080210031a0b080310051a05120378797a220408021001";
const GOLDEN_RESPONSE: &str = "0a060a0408031005";

#[test]
fn a_snapshot_keeps_its_bytes() {
    let disk = SimDisk::new(1 << 20);
    let opened = Snapshots::open(Arc::new(disk.clone()), threads(), Pace::default());
    let latest = opened.ok().unwrap().0.save(&meta(5), &state(1)).unwrap();
    assert_eq!(latest.name, "00000000000000000005-00000000000000000001.snapshot");
    assert_eq!(hex(&disk.read(&latest.name)), GOLDEN_SNAPSHOT);
}

const GOLDEN_SNAPSHOT: &str = "\
    737077736e61700a02000000190000000a0408011005120208011a0d0a020801120708011203613a31483217\
    4863686e6b0000000001000000020000000200000069371e9ef0146f77080163686e6b0d0000000100000059\
    00000059000000d95a31346fcff29d580a100000000000000000000000000000000012440801124000070e15\
    1c232a31383f464d545b626970777e858c939aa1a8afb6bdc4cbd2d9e0e7eef5fc030a11181f262d343b4249\
    50575e656c737a81888f969da4abb2b92d000000000000000100000069371e9e00004b000000000000000100\
    0000d95a31340d000aa0aa410200000002000000000000005b00000000000000c000000000000000c9bc3c16\
    6f00260b22012618fed6431aa5b156b39d3081d2b4687f668847cf823ae532b37461696c";

#[test]
fn pieces_of_a_snapshot_keep_their_bytes() {
    let piece = SnapshotPiece {
        vote: (&Vote::new_committed(3, 2)).into(),
        offset: 7,
        total: 10,
        data: Blob(b"xyz".to_vec()),
        crc: 9,
        last: (&id(3, 4)).into(),
        file: Blob(vec![1; 4]),
    };
    assert_eq!(hex(&piece.encode()), GOLDEN_PIECE);
    let ack = SnapshotAck { vote: piece.vote, next: 10, is_installed: true };
    assert_eq!(hex(&ack.encode()), GOLDEN_ACK);
}

const GOLDEN_PIECE: &str = "0a060803100218011807200a2a0378797a30093a0408031004420401010101";
const GOLDEN_ACK: &str = "0a06080310021801100a1801";
