//! What this member answers the others.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::lane::{Lane, LaneReceiver};
use futures::{Stream, StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::Snapshot;
use specs::codec::{DecodeError, Message};
use specs::fault::{Fault, FaultCode};
use specs::wire::method::Method;
use tokio::sync::Mutex;

use super::snapshot::{Image, SNAPSHOT_MAX_BYTES, Snapshots, decode};
use super::state_machine::StateMachine;
use super::types::{Types, Vote};
use super::wire::{
    AppendRequest, AppendResponse, SnapshotAck, SnapshotPiece, TransferResponse,
    WireTransferRequest, WireVoteRequest, WireVoteResponse,
};

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// Answers for one member.
pub(crate) struct Server {
    raft: Raft,
    snapshots: Arc<Snapshots>,
    /// The snapshot that is coming in. One at a time: a new one takes its place.
    incoming: Mutex<Option<Incoming>>,
}

struct Incoming {
    transfer: u64,
    total: u64,
    file: Vec<u8>,
}

impl Server {
    pub(crate) fn new(raft: Raft, snapshots: Arc<Snapshots>) -> Self {
        Self { raft, snapshots, incoming: Mutex::default() }
    }

    /// Answers a call of the Raft plane.
    pub(crate) async fn call(&self, method: Method, body: &[u8]) -> Result<Bytes, Fault> {
        let raft = &self.raft;
        let answer = if method == Method::RaftVote {
            let request = parse::<WireVoteRequest>(body)?;
            let response = raft.vote(request.into()).await.map_err(|e| stopped(&e))?;
            WireVoteResponse::from(&response).encode()
        } else if method == Method::RaftPreVote {
            let request = parse::<WireVoteRequest>(body)?;
            let response = raft.pre_vote(request.into()).await.map_err(|e| stopped(&e))?;
            WireVoteResponse::from(&response).encode()
        } else if method == Method::RaftTransfer {
            let request = parse::<WireTransferRequest>(body)?;
            let response = raft.handle_transfer_leader(request.into()).await;
            TransferResponse::from(&response.map_err(|e| stopped(&e))?).encode()
        } else if method == Method::RaftSnapshot {
            self.piece(parse(body)?).await?.encode()
        } else {
            let message = format!("{method} is not a call of Raft's");
            return Err(Fault::new(FaultCode::Unimplemented, message));
        };
        Ok(answer.into())
    }

    /// Takes entries from a leader, and answers them in order, until the lane ends.
    pub(crate) async fn lane(&self, lane: Lane) {
        let (sender, receiver) = lane.split();
        let mut answers = pin!(self.raft.stream_append(requests(receiver)));
        while let Some(Ok(answer)) = answers.next().await {
            if sender.send(AppendResponse::from(answer).encode()).await.is_err() {
                return;
            }
        }
    }

    /// Takes a piece of a snapshot; installs it with the last one.
    async fn piece(&self, piece: SnapshotPiece) -> Result<SnapshotAck, Fault> {
        let (vote, own) = (Vote::from(piece.vote), self.raft.metrics().borrow_watched().vote);
        if own > vote {
            return Ok(SnapshotAck { vote: (&own).into(), next: 0 });
        }
        let Some(file) = self.gather(&piece).await? else {
            let next = piece.offset + piece.data.0.len() as u64;
            return Ok(SnapshotAck { vote: (&own).into(), next });
        };
        let work = move || decode(&file).map(|(meta, state)| (meta, state, file));
        let verified = self.snapshots.off_thread(work).await.map_err(|e| stopped(&e))?;
        let (meta, state, file) = verified.map_err(|error| {
            Fault::new(FaultCode::InvalidArgument, format!("the snapshot is not sound: {error}"))
        })?;
        let state = Box::new(state);
        let snapshot = Snapshot { meta, snapshot: Image::Received { file: file.into(), state } };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let response = installed.map_err(|error| stopped(&error))?;
        Ok(SnapshotAck { vote: (&response.vote).into(), next: piece.total })
    }

    /// Adds a piece to those before it. Returns the file once it is whole.
    async fn gather(&self, piece: &SnapshotPiece) -> Result<Option<Vec<u8>>, Fault> {
        let data = &piece.data.0;
        let end = piece.offset.saturating_add(data.len() as u64);
        if piece.total > SNAPSHOT_MAX_BYTES || end > piece.total {
            return Err(Fault::new(FaultCode::InvalidArgument, "the snapshot is too large"));
        }
        if crc32c::crc32c(data) != piece.crc {
            return Err(Fault::new(FaultCode::InvalidArgument, "a piece has a wrong checksum"));
        }
        let mut incoming = self.incoming.lock().await;
        if piece.offset == 0 {
            let (transfer, total) = (piece.transfer, piece.total);
            *incoming = Some(Incoming { transfer, total, file: Vec::new() });
        }
        let fits = |it: &&mut Incoming| {
            (it.transfer, it.total, it.file.len() as u64)
                == (piece.transfer, piece.total, piece.offset)
        };
        let Some(transfer) = incoming.as_mut().filter(fits) else {
            return Err(Fault::new(FaultCode::Conflict, "a piece does not follow the last one"));
        };
        transfer.file.extend_from_slice(data);
        if end < piece.total {
            return Ok(None);
        }
        Ok(incoming.take().map(|whole| whole.file))
    }
}

/// What a lane carries; it ends at the first frame that is none.
fn requests(receiver: LaneReceiver) -> impl Stream<Item = AppendEntriesRequest<Types>> {
    stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        match AppendRequest::decode(&frame).and_then(AppendEntriesRequest::try_from) {
            Ok(request) => Some((request, receiver)),
            Err(error) => {
                tracing::warn!(%error, "a leader sent entries that this version cannot read");
                None
            }
        }
    })
}

fn parse<T: Message>(body: &[u8]) -> Result<T, Fault> {
    T::decode(body).map_err(|error: DecodeError| {
        Fault::new(FaultCode::InvalidArgument, format!("the message is malformed: {error}"))
    })
}

fn stopped(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(FaultCode::Unreachable, format!("this member has stopped: {error}"))
}
