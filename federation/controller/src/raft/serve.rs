//! What this member answers the others.

use std::pin::pin;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use fabric_quic::env::Env;
use fabric_quic::lane::{Lane, LaneReceiver};
use futures::{Stream, StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::Snapshot;
use specs::codec::{DecodeError, Message};
use specs::fault::{Fault, FaultCode};
use specs::unit::{Instant, Millis};
use specs::wire::method::Method;
use tokio::sync::{Mutex, watch};

use super::abstain::{Abstention, tail_of};
use super::archive::{Archive, answer};
use super::audit::Audit;
use super::log_store::LogStore;
use super::snapshot::{FileId, Image, Incoming, Offer, SNAPSHOT_MAX_BYTES, Snapshots, is_full};
use super::state_machine::StateMachine;
use super::types::{Types, Vote};
use super::version::Gate;
use super::wire::{
    AppendRequest, AppendResponse, SnapshotAck, SnapshotPiece, TailRequest, TransferResponse,
    WireTransferRequest, WireVote, WireVoteRequest, WireVoteResponse, get_id, put_id,
};

pub(crate) type Raft = openraft::Raft<Types, StateMachine>;

/// How long a question is kept waiting while a snapshot is being installed.
const INSTALL_POLL: Millis = Millis(2_000);

/// Answers for one member.
pub(crate) struct Server {
    env: Env,
    raft: Raft,
    own: Own,
    /// One at a time; held while a piece is written.
    transfer: Mutex<Transfer>,
    /// When entries, or a sign of life, were last taken from a leader.
    heard: std::sync::Mutex<Option<Instant>>,
}

/// What a member answers from.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) log: LogStore,
    pub(crate) abstention: Arc<Abstention>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) gate: Gate,
    pub(crate) archive: Arc<Archive>,
}

/// The snapshot that comes in.
enum Transfer {
    None,
    Receives(Incoming),
    Installs { offer: Offer, outcome: watch::Receiver<Option<Installed>> },
}

/// The vote of this member afterwards, or why it is not installed.
type Installed = Result<WireVote, Fault>;

impl Server {
    pub(crate) fn new(env: Env, raft: Raft, own: Own) -> Self {
        let (transfer, heard) = (Mutex::new(Transfer::None), std::sync::Mutex::default());
        Self { env, raft, own, transfer, heard }
    }

    /// Since a leader was last followed; none if none was.
    pub(crate) fn heard(&self, now: Instant) -> Option<Millis> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|at| now.since(at))
    }

    /// Answers a call of the Raft plane.
    pub(crate) async fn call(&self, method: Method, body: &[u8]) -> Result<Bytes, Fault> {
        let raft = &self.raft;
        let answer = if method == Method::RaftVote {
            let request = parse::<WireVoteRequest>(body)?;
            if !self.own.abstention.allows(get_id(request.last)) {
                return Ok(self.no_vote().encode().into());
            }
            let response = raft.vote(request.into()).await.map_err(|e| stopped(&e))?;
            WireVoteResponse::from(&response).encode()
        } else if method == Method::RaftPreVote {
            let request = parse::<WireVoteRequest>(body)?;
            if !self.own.abstention.allows(get_id(request.last)) {
                return Ok(self.no_vote().encode().into());
            }
            let response = raft.pre_vote(request.into()).await.map_err(|e| stopped(&e))?;
            WireVoteResponse::from(&response).encode()
        } else if method == Method::RaftTransfer {
            let request = parse::<WireTransferRequest>(body)?;
            if !self.own.abstention.is_over() {
                let why = "this member does not stand: its log was cut off";
                return Err(Fault::new(FaultCode::Conflict, why));
            }
            let response = raft.handle_transfer_leader(request.into()).await;
            TransferResponse::from(&response.map_err(|e| stopped(&e))?).encode()
        } else if method == Method::RaftSnapshot {
            self.piece(parse(body)?).await?.encode()
        } else if method == Method::RaftTail {
            let TailRequest {} = parse(body)?;
            tail_of(&raft.metrics().borrow_watched(), self.own.log.last(), self.own.gate.known)
                .encode()
        } else if method == Method::RaftVerify {
            self.own.audit.answer(parse(body)?).await?.encode()
        } else if method == Method::RaftArchive {
            answer(&self.own.archive, parse(body)?).await?.encode()
        } else {
            let message = format!("{method} is not a call of Raft's");
            return Err(Fault::new(FaultCode::Unimplemented, message));
        };
        Ok(answer.into())
    }

    /// What a member that abstains answers a candidate.
    fn no_vote(&self) -> WireVoteResponse {
        let vote = self.raft.metrics().borrow_watched().vote;
        let last = put_id(self.own.log.last().as_ref());
        WireVoteResponse { vote: (&vote).into(), is_granted: false, last }
    }

    /// Takes entries from a leader, and answers them in order, until the lane ends.
    pub(crate) async fn lane(&self, lane: Lane) {
        let (sender, receiver) = lane.split();
        let mut answers = pin!(self.raft.stream_append(requests(receiver)));
        while let Some(Ok(answer)) = answers.next().await {
            if answer.is_ok() {
                let now = Some(self.env.clock.now());
                *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            if sender.send(AppendResponse::from(answer).encode()).await.is_err() {
                return;
            }
        }
    }

    /// Takes a piece of a snapshot, and installs it once it is whole.
    async fn piece(&self, piece: SnapshotPiece) -> Result<SnapshotAck, Fault> {
        let (vote, own, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (Vote::from(piece.vote), metrics.vote, metrics.last_applied)
        };
        let own_ack = |next, is_installed| SnapshotAck { vote: (&own).into(), next, is_installed };
        if own > vote {
            return Ok(own_ack(0, false));
        }
        let offer = offer_of(&piece)?;
        if applied.is_some_and(|at| at >= offer.last && at.index >= offer.last.index) {
            return Ok(own_ack(offer.total, true));
        }
        let mut outcome = {
            let mut transfer = self.transfer.lock().await;
            match self.go_on(&mut transfer, vote, &offer, piece).await? {
                Next::Piece(next) => return Ok(own_ack(next, false)),
                Next::Wait(outcome) => outcome,
            }
        };
        let ended = outcome.wait_for(Option::is_some);
        match self.env.timeout(INSTALL_POLL, ended).await {
            Err(_) => Ok(own_ack(offer.total, false)),
            Ok(Err(_)) => Err(stopped(&"the installation has ended")),
            Ok(Ok(ended)) => match ended.clone() {
                Some(Ok(vote)) => Ok(SnapshotAck { vote, next: offer.total, is_installed: true }),
                Some(Err(fault)) => Err(fault),
                None => Ok(own_ack(offer.total, false)),
            },
        }
    }

    /// Adds a piece to those before it.
    async fn go_on(
        &self,
        transfer: &mut Transfer,
        vote: Vote,
        offer: &Offer,
        piece: SnapshotPiece,
    ) -> Result<Next, Fault> {
        let mut incoming = match std::mem::replace(transfer, Transfer::None) {
            Transfer::Installs { offer: installs, outcome } => {
                let (has_ended, is_this) = (outcome.borrow().is_some(), installs == *offer);
                let failed = matches!(*outcome.borrow(), Some(Err(_)));
                if is_this && !failed || !has_ended {
                    *transfer = Transfer::Installs { offer: installs, outcome: outcome.clone() };
                }
                if is_this {
                    return Ok(Next::Wait(outcome));
                }
                if !has_ended {
                    let message = "another snapshot is being installed";
                    return Err(Fault::new(FaultCode::Conflict, message));
                }
                self.receive(offer.clone()).await?
            }
            Transfer::Receives(incoming) if incoming.offer() == offer => incoming,
            // A file that is not finished is closed before another one is begun.
            Transfer::Receives(_) | Transfer::None => self.receive(offer.clone()).await?,
        };
        if piece.offset == incoming.have() && !piece.data.0.is_empty() {
            let work = move || incoming.push(&piece.data.0).map(|()| incoming);
            let pushed = self.own.snapshots.off_thread(work).await.flatten();
            incoming = pushed.map_err(|error| not_kept(&error))?;
        }
        if !incoming.is_whole() {
            let next = incoming.have();
            *transfer = Transfer::Receives(incoming);
            return Ok(Next::Piece(next));
        }
        let (done, outcome) = watch::channel(None);
        *transfer = Transfer::Installs { offer: offer.clone(), outcome: outcome.clone() };
        let (raft, snapshots) = (self.raft.clone(), self.own.snapshots.clone());
        let gate = self.own.gate.clone();
        self.env.spawn(async move {
            let installed = Box::pin(install(raft, snapshots, gate, vote, incoming)).await;
            done.send_replace(Some(installed));
        });
        Ok(Next::Wait(outcome))
    }

    async fn receive(&self, offer: Offer) -> Result<Incoming, Fault> {
        let snapshots = self.own.snapshots.clone();
        let begun = self.own.snapshots.off_thread(move || snapshots.receive(offer)).await.flatten();
        begun.map_err(|error| not_kept(&error))
    }
}

/// What the receiver of a piece wants.
enum Next {
    Piece(u64),
    Wait(watch::Receiver<Option<Installed>>),
}

async fn install(
    raft: Raft,
    snapshots: Arc<Snapshots>,
    gate: Gate,
    vote: Vote,
    incoming: Incoming,
) -> Installed {
    let verifier = snapshots.clone();
    let verified = snapshots.off_thread(move || verifier.verify(incoming)).await;
    let verified = verified.map_err(|error| not_kept(&error))?.map_err(|error| {
        tracing::warn!(%error, "a snapshot that came in is not sound");
        Fault::new(FaultCode::InvalidArgument, format!("the snapshot is not sound: {error}"))
    })?;
    gate.admit_snapshot(verified.version())?;
    let meta = verified.meta().clone();
    let snapshot = Snapshot { meta, snapshot: Image::Received(verified) };
    let response = raft.install_full_snapshot(vote, snapshot).await;
    Ok((&response.map_err(|error| stopped(&error))?.vote).into())
}

fn offer_of(piece: &SnapshotPiece) -> Result<Offer, Fault> {
    let refuse = |why| Err(Fault::new(FaultCode::InvalidArgument, why));
    let data = &piece.data.0;
    let end = piece.offset.saturating_add(data.len() as u64);
    if piece.total > SNAPSHOT_MAX_BYTES || end > piece.total {
        return refuse("the snapshot is too large");
    }
    if crc32c::crc32c(data) != piece.crc {
        return refuse("a piece has a wrong checksum");
    }
    let Ok(file) = FileId::try_from(piece.file.0.as_slice()) else {
        return refuse("the snapshot does not say which it is");
    };
    Ok(Offer { last: piece.last.into(), file, total: piece.total })
}

fn not_kept(error: &std::io::Error) -> Fault {
    let code = if is_full(error) { FaultCode::DiskFull } else { FaultCode::Internal };
    Fault::new(code, format!("the snapshot cannot be kept: {error}"))
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
