//! The bytes of what members say to one another and of what they keep: openraft's types, field by
//! field. A field is added with a fresh tag and never changed.

extern crate alloc;

use std::collections::{BTreeMap, BTreeSet};

use openraft::impls::BasicNode;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use specs::codec::{Blob, DecodeError};
use specs::id::JobId;
use specs::version::ClusterVersion;

use super::types::{
    CommittedLeaderId, Entry, EntryPayload, LogId, Membership, Payload, SnapshotMeta,
    StoredMembership, Types, Vote,
};

specs::message! {
    /// Where an entry stands.
    #[derive(Copy)]
    pub struct WireLogId {
        1 => term: u64,
        2 => index: u64,
    }

    /// Whom a member votes for, or follows.
    #[derive(Copy)]
    pub struct WireVote {
        1 => term: u64,
        2 => member: u64,
        3 => committed: bool,
    }

    pub struct WireMember {
        1 => id: u64,
        2 => address: String,
    }

    /// One of the two sets of voters of a joint membership, or the only one.
    pub struct WireVoters {
        1 => ids: Vec<u64>,
    }

    pub struct WireMembership {
        1 => voters: Vec<WireVoters>,
        /// Voters and learners.
        2 => members: Vec<WireMember>,
    }

    /// An entry that only ends the terms before its own.
    pub struct WireBlank {}

    pub struct WireEntry {
        1 => term: u64,
        2 => index: u64,
        3 => content: WireContent,
    }

    pub struct AppendRequest {
        1 => vote: WireVote,
        2 => previous: Option<WireLogId>,
        3 => entries: Vec<WireEntry>,
        4 => committed: Option<WireLogId>,
    }

    /// Up to where the follower has the leader's log.
    pub struct WireMatched {
        1 => upto: Option<WireLogId>,
    }

    /// Asks for a vote, or whether one would be given.
    pub struct WireVoteRequest {
        1 => vote: WireVote,
        2 => last: Option<WireLogId>,
        3 => is_transfer: bool,
    }

    pub struct WireVoteResponse {
        1 => vote: WireVote,
        2 => is_granted: bool,
        3 => last: Option<WireLogId>,
    }

    pub struct WireTransferRequest {
        1 => from: WireVote,
        2 => to: u64,
        3 => last: Option<WireLogId>,
    }

    pub struct WireVoteChanged {
        1 => expected: WireVote,
        2 => actual: WireVote,
    }

    pub struct WireNotFlushed {
        1 => expected: Option<WireLogId>,
        2 => actual: Option<WireLogId>,
    }

    /// A piece of a snapshot's file. One without data asks where to go on.
    pub struct SnapshotPiece {
        1 => vote: WireVote,
        3 => offset: u64,
        /// Size of the file, bytes.
        4 => total: u64,
        5 => data: Blob,
        /// CRC32C of the data.
        6 => crc: u32,
        /// The last entry that the snapshot holds.
        7 => last: WireLogId,
        /// Which file it is: equal ones are equal byte for byte.
        8 => file: Blob,
    }

    pub struct SnapshotAck {
        /// The receiver's own.
        1 => vote: WireVote,
        /// Where the next piece begins.
        2 => next: u64,
        /// The receiver has all that the snapshot holds, and nothing more is to be sent.
        3 => is_installed: bool,
    }

    /// Asks a member how far its log goes.
    pub struct TailRequest {}

    pub struct TailResponse {
        1 => vote: WireVote,
        /// The last entry of its log.
        2 => last: Option<WireLogId>,
        /// It leads, in the term of its vote.
        3 => leads: bool,
        /// The one in effect at it.
        4 => membership: WireMembership,
        /// The versions of a site that it knows.
        5 => oldest: ClusterVersion,
        6 => newest: ClusterVersion,
        7 => build: String,
    }

    /// The hash of what was applied of one window of the log.
    #[derive(Copy)]
    pub struct WireWindow {
        1 => number: u64,
        2 => hash: u64,
    }

    pub struct WireWindows {
        1 => windows: Vec<WireWindow>,
    }

    /// How a member's windows compare with those it was sent; those it lacks are left out.
    pub struct WireComparison {
        1 => same: Vec<u64>,
        /// With its own hashes.
        2 => differs: Vec<WireWindow>,
    }

    /// Asks for jobs that have left the state: one by its id, or those of the numbers named.
    pub struct ArchiveRequest {
        1 => from: u64,
        2 => upto: u64,
        3 => job: Option<JobId>,
    }

    pub struct WireArchived {
        1 => number: u64,
        2 => id: JobId,
        /// The job as the core encodes it.
        3 => job: Blob,
    }

    /// Those of them that are here, as many as one answer holds.
    pub struct ArchiveResponse {
        1 => jobs: Vec<WireArchived>,
    }

    /// What a snapshot's state is the state of.
    pub struct WireSnapshotMeta {
        1 => last: Option<WireLogId>,
        2 => membership_at: Option<WireLogId>,
        3 => membership: WireMembership,
        /// Empty before the site was founded.
        4 => site: String,
    }
}

specs::choice! {
    pub enum WireContent {
        1 => Blank(WireBlank),
        2 => Command(Payload),
        3 => Membership(WireMembership),
    }

    pub enum AppendResponse {
        1 => Matched(WireMatched),
        2 => Conflict(WireLogId),
        3 => HigherVote(WireVote),
    }

    pub enum VerifyRequest {
        1 => Compare(WireWindows),
        /// The receiver differs from a majority; the hash is not used.
        2 => Condemn(WireWindow),
    }

    pub enum TransferResponse {
        1 => Accepted(WireBlank),
        2 => VoteChanged(WireVoteChanged),
        3 => NotFlushed(WireNotFlushed),
    }
}

impl From<&LogId> for WireLogId {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}

impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        Self::new(CommittedLeaderId::new(id.term), id.index)
    }
}

pub(crate) fn put_id(id: Option<&LogId>) -> Option<WireLogId> {
    id.map(WireLogId::from)
}

pub(crate) fn get_id(id: Option<WireLogId>) -> Option<LogId> {
    id.map(LogId::from)
}

impl From<&Vote> for WireVote {
    fn from(vote: &Vote) -> Self {
        let leader = vote.leader_id;
        Self { term: leader.term, member: leader.voted_for, committed: vote.committed }
    }
}

impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Self { committed: vote.committed, ..Self::new(vote.term, vote.member) }
    }
}

impl From<&Membership> for WireMembership {
    fn from(membership: &Membership) -> Self {
        let ids = |set: &BTreeSet<u64>| WireVoters { ids: set.iter().copied().collect() };
        let member =
            |(id, node): (&u64, &BasicNode)| WireMember { id: *id, address: node.addr.clone() };
        Self {
            voters: membership.get_joint_config().iter().map(ids).collect(),
            members: membership.nodes().map(member).collect(),
        }
    }
}

impl TryFrom<WireMembership> for Membership {
    type Error = DecodeError;
    fn try_from(wire: WireMembership) -> Result<Self, DecodeError> {
        let voters: Vec<BTreeSet<u64>> =
            wire.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
        let members: BTreeMap<u64, BasicNode> = wire
            .members
            .into_iter()
            .map(|member| (member.id, BasicNode::new(member.address)))
            .collect();
        if voters.is_empty() && members.is_empty() {
            return Ok(Self::default());
        }
        Self::new(voters, members).map_err(|_| DecodeError::Invalid("membership"))
    }
}

impl From<&Entry> for WireEntry {
    fn from(entry: &Entry) -> Self {
        let content = match &entry.payload {
            EntryPayload::Blank => WireContent::Blank(WireBlank {}),
            EntryPayload::Normal(payload) => WireContent::Command(payload.clone()),
            EntryPayload::Membership(membership) => WireContent::Membership(membership.into()),
        };
        Self { term: entry.log_id.leader_id.term, index: entry.log_id.index, content }
    }
}

pub(crate) fn get_entry(wire: WireEntry) -> Result<Entry, DecodeError> {
    let payload = match wire.content {
        WireContent::Blank(WireBlank {}) => EntryPayload::Blank,
        WireContent::Command(payload) => EntryPayload::Normal(payload),
        WireContent::Membership(membership) => EntryPayload::Membership(membership.try_into()?),
    };
    let log_id = WireLogId { term: wire.term, index: wire.index }.into();
    Ok(Entry { log_id, payload })
}

pub(crate) fn put_entries(entries: &[Entry]) -> Vec<WireEntry> {
    entries.iter().map(WireEntry::from).collect()
}

pub(crate) fn get_entries(entries: Vec<WireEntry>) -> Result<Vec<Entry>, DecodeError> {
    entries.into_iter().map(get_entry).collect()
}

impl From<&AppendEntriesRequest<Types>> for AppendRequest {
    fn from(request: &AppendEntriesRequest<Types>) -> Self {
        Self {
            vote: (&request.vote).into(),
            previous: put_id(request.prev_log_id.as_ref()),
            entries: put_entries(&request.entries),
            committed: put_id(request.leader_commit.as_ref()),
        }
    }
}

impl TryFrom<AppendRequest> for AppendEntriesRequest<Types> {
    type Error = DecodeError;
    fn try_from(wire: AppendRequest) -> Result<Self, DecodeError> {
        Ok(Self {
            vote: wire.vote.into(),
            prev_log_id: get_id(wire.previous),
            entries: get_entries(wire.entries)?,
            leader_commit: get_id(wire.committed),
        })
    }
}

impl From<StreamAppendResult<Types>> for AppendResponse {
    fn from(result: StreamAppendResult<Types>) -> Self {
        match result {
            Ok(upto) => Self::Matched(WireMatched { upto: put_id(upto.as_ref()) }),
            Err(StreamAppendError::Conflict(at)) => Self::Conflict((&at).into()),
            Err(StreamAppendError::HigherVote(vote)) => Self::HigherVote((&vote).into()),
        }
    }
}

impl From<AppendResponse> for StreamAppendResult<Types> {
    fn from(wire: AppendResponse) -> Self {
        match wire {
            AppendResponse::Matched(matched) => Ok(get_id(matched.upto)),
            AppendResponse::Conflict(at) => Err(StreamAppendError::Conflict(at.into())),
            AppendResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

impl From<&VoteRequest<Types>> for WireVoteRequest {
    fn from(request: &VoteRequest<Types>) -> Self {
        Self {
            vote: (&request.vote).into(),
            last: put_id(request.last_log_id.as_ref()),
            is_transfer: request.leadership_transfer,
        }
    }
}

impl From<WireVoteRequest> for VoteRequest<Types> {
    fn from(wire: WireVoteRequest) -> Self {
        Self {
            vote: wire.vote.into(),
            last_log_id: get_id(wire.last),
            leadership_transfer: wire.is_transfer,
        }
    }
}

impl From<&VoteResponse<Types>> for WireVoteResponse {
    fn from(response: &VoteResponse<Types>) -> Self {
        Self {
            vote: (&response.vote).into(),
            is_granted: response.vote_granted,
            last: put_id(response.last_log_id.as_ref()),
        }
    }
}

impl From<WireVoteResponse> for VoteResponse<Types> {
    fn from(wire: WireVoteResponse) -> Self {
        Self {
            vote: wire.vote.into(),
            vote_granted: wire.is_granted,
            last_log_id: get_id(wire.last),
        }
    }
}

impl From<&TransferLeaderRequest<Types>> for WireTransferRequest {
    fn from(request: &TransferLeaderRequest<Types>) -> Self {
        Self {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: put_id(request.last_log_id()),
        }
    }
}

impl From<WireTransferRequest> for TransferLeaderRequest<Types> {
    fn from(wire: WireTransferRequest) -> Self {
        Self::new(wire.from.into(), wire.to, get_id(wire.last))
    }
}

impl From<&TransferLeaderResponse<Types>> for TransferResponse {
    fn from(response: &TransferLeaderResponse<Types>) -> Self {
        match response {
            Ok(()) => Self::Accepted(WireBlank {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                let (expected, actual) = (expected.into(), actual.into());
                Self::VoteChanged(WireVoteChanged { expected, actual })
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                let (expected, actual) = (put_id(expected.as_ref()), put_id(actual.as_ref()));
                Self::NotFlushed(WireNotFlushed { expected, actual })
            }
        }
    }
}

impl From<TransferResponse> for TransferLeaderResponse<Types> {
    fn from(wire: TransferResponse) -> Self {
        match wire {
            TransferResponse::Accepted(WireBlank {}) => Ok(()),
            TransferResponse::VoteChanged(it) => Err(TransferLeaderError::VoteChanged {
                expected: it.expected.into(),
                actual: it.actual.into(),
            }),
            TransferResponse::NotFlushed(it) => Err(TransferLeaderError::LogNotFlushed {
                expected: get_id(it.expected),
                actual: get_id(it.actual),
            }),
        }
    }
}

impl From<&SnapshotMeta> for WireSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: put_id(meta.last_log_id.as_ref()),
            membership_at: put_id(meta.last_membership.log_id().as_ref()),
            membership: meta.last_membership.membership().into(),
            site: String::new(),
        }
    }
}

impl TryFrom<WireSnapshotMeta> for SnapshotMeta {
    type Error = DecodeError;
    fn try_from(wire: WireSnapshotMeta) -> Result<Self, DecodeError> {
        let membership = wire.membership.try_into()?;
        Ok(Self {
            last_log_id: get_id(wire.last),
            last_membership: StoredMembership::new(get_id(wire.membership_at), membership),
        })
    }
}
