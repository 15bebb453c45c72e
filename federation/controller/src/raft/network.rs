//! How this member reaches the others.
//!
//! ```text
//!   raft     one lane for entries, pipelined, kept between sessions    ─┐
//!   control  one lane for heartbeats; votes and transfers as calls      ├─▶ a member
//!   bulk     snapshots, piece by piece                                 ─┘
//! ```
//!
//! Three connections, so that a heartbeat waits behind nothing. Everything is bounded: dials by the
//! fabric, calls by the time that openraft gives them, entries in flight by their number and by how
//! long an answer may take. What cannot be delivered is `Unreachable`, never an answer.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use fabric_quic::connection::{CallError, CallOptions};
use fabric_quic::lane::{Lane, LaneReceiver, LaneSender};
use fabric_quic::pool::{BULK, CONTROL, RAFT};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use openraft::BasicNode;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use specs::codec::{Blob, Message};
use specs::unit::Millis;
use specs::wire::method::Method;

use super::links::Links;
use super::snapshot::Image;
use super::state_machine::RaftSnapshot;
use super::types::{Types, Vote};
use super::wire::{
    AppendRequest, AppendResponse, SnapshotAck, SnapshotPiece, TransferResponse,
    WireTransferRequest, WireVoteRequest, WireVoteResponse,
};

/// Appends of one lane that wait for their answer; openraft's own pipeline holds as many.
const WINDOW: usize = 64;
/// How long an append may wait for its answer; a follower syncs its disk before it gives one.
const ACK_SPAN: Millis = Millis(5_000);
/// A piece of a snapshot, bytes.
const PIECE_BYTES: usize = 1 << 20;
/// How long one piece may take; the last one waits until the snapshot is installed.
const PIECE_SPAN: Millis = Millis(60_000);

type Error = RPCError<Types>;
type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, Error>>;

/// Makes the ways to the other members.
pub(crate) struct Network {
    pub(crate) links: Links,
}

/// The way to one member, over connections of one class.
pub(crate) struct Peer {
    links: Links,
    id: u64,
    class: &'static str,
    /// Kept between sessions; none while one uses it.
    lane: Option<(LaneSender, LaneReceiver)>,
}

impl Network {
    fn peer(&self, id: u64, node: &BasicNode, class: &'static str) -> Peer {
        self.links.learn(id, &node.addr);
        Peer { links: self.links.clone(), id, class, lane: None }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(target, node, RAFT)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(target, node, CONTROL)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        self.peer(target, node, BULK)
    }
}

fn unreachable(why: &dyn std::fmt::Display) -> Error {
    Unreachable::from_string(why).into()
}

fn millis(span: Duration) -> Millis {
    Millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

impl Peer {
    async fn call(&mut self, method: Method, body: Vec<u8>, span: Millis) -> Result<Bytes, Error> {
        let exchange = async {
            let connection = self.links.connection(self.id, self.class).await?;
            let options = CallOptions { deadline: Some(span), ..CallOptions::default() };
            let called = connection.call_with(method, body, options).await;
            called.map_err(|error: CallError| error.to_string())
        };
        let outcome = self.links.env().timeout(span, exchange).await;
        match outcome.unwrap_or_else(|elapsed| Err(elapsed.to_string())) {
            Ok(answer) => {
                self.links.heard(self.id);
                Ok(answer)
            }
            Err(why) => {
                self.links.missed(self.id);
                Err(unreachable(&why))
            }
        }
    }

    async fn open_lane(&mut self) -> Result<(LaneSender, LaneReceiver), Error> {
        if let Some(lane) = self.lane.take() {
            return Ok(lane);
        }
        let connection = self.links.connection(self.id, self.class).await;
        let opening = connection.map_err(|why| unreachable(&why))?;
        let lane = opening.open_lane(Method::RaftAppend).await;
        lane.map(Lane::split).map_err(|error| unreachable(&error))
    }

    /// Sends a snapshot's file, from its beginning.
    async fn send_snapshot(&mut self, vote: Vote, snapshot: RaftSnapshot) -> Result<Vote, Error> {
        let file = snapshot.snapshot.file().await.map_err(|error| unreachable(&error))?;
        let transfer = self.links.env().random_u64();
        let total = file.len() as u64;
        let mut rest = file;
        let mut offset = 0;
        loop {
            let data = rest.split_to(PIECE_BYTES.min(rest.len()));
            let piece = SnapshotPiece {
                vote: (&vote).into(),
                transfer,
                offset,
                total,
                crc: crc32c::crc32c(&data),
                data: Blob(data.to_vec()),
            };
            offset += data.len() as u64;
            let answer = self.call(Method::RaftSnapshot, piece.encode(), PIECE_SPAN).await?;
            let ack = SnapshotAck::decode(&answer).map_err(|error| unreachable(&error))?;
            let theirs = Vote::from(ack.vote);
            if theirs > vote || offset == total {
                return Ok(theirs);
            }
            if ack.next != offset {
                let why = format!("the receiver wants offset {} after {offset}", ack.next);
                return Err(unreachable(&why));
            }
        }
    }
}

/// One use of a lane: requests out, answers in, in order.
struct Session<'s, S> {
    peer: &'s mut Peer,
    /// None once it has failed.
    lane: Option<(LaneSender, LaneReceiver)>,
    /// None once it has ended.
    requests: Option<S>,
    in_flight: usize,
}

impl<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin> Session<'_, S> {
    /// The next answer; none when all requests are answered.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, Error>> {
        let answer = self.exchange().await;
        match &answer {
            Some(Ok(Ok(_))) => self.peer.links.heard(self.peer.id),
            // The other side ends its stream with a refusal.
            Some(Ok(Err(_))) => {
                self.peer.links.heard(self.peer.id);
                self.lane = None;
                self.in_flight = 0;
            }
            Some(Err(_)) => self.lane = None,
            None => self.peer.lane = self.lane.take(),
        }
        answer
    }

    async fn exchange(&mut self) -> Option<Result<StreamAppendResult<Types>, Error>> {
        let env = self.peer.links.env().clone();
        let (sender, receiver) = self.lane.as_mut()?;
        loop {
            if self.requests.is_none() && self.in_flight == 0 {
                return None;
            }
            let may_send = self.in_flight < WINDOW;
            let waits = self.in_flight > 0;
            tokio::select! {
                answer = receiver.recv() => {
                    let answer = parse_answer(answer);
                    if answer.is_ok() {
                        self.in_flight = self.in_flight.saturating_sub(1);
                    }
                    return Some(answer);
                }
                request = next_of(&mut self.requests), if may_send && self.requests.is_some() => {
                    let Some(request) = request else {
                        self.requests = None;
                        continue;
                    };
                    let frame = AppendRequest::from(&request).encode();
                    match env.timeout(ACK_SPAN, sender.send(frame)).await {
                        Ok(Ok(())) => self.in_flight += 1,
                        Ok(Err(error)) => return Some(Err(unreachable(&error))),
                        Err(elapsed) => return Some(Err(unreachable(&elapsed))),
                    }
                }
                () = env.sleep(ACK_SPAN), if waits => {
                    return Some(Err(unreachable(&"an append was not answered in time")));
                }
            }
        }
    }
}

impl<S> Drop for Session<'_, S> {
    /// A session that is given up while it waits was not answered.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            self.peer.links.missed(self.peer.id);
        }
    }
}

async fn next_of<S: Stream + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => None,
    }
}

fn parse_answer(frame: Option<Bytes>) -> Result<StreamAppendResult<Types>, Error> {
    let frame = frame.ok_or_else(|| unreachable(&"the lane for entries was closed"))?;
    let answer = AppendResponse::decode(&frame).map_err(|error| unreachable(&error))?;
    Ok(answer.into())
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, Error> {
        let env = self.links.env().clone();
        let once = async {
            let mut answers =
                RaftNetworkV2::stream_append(self, stream::iter([request]), option.clone()).await?;
            let answer = answers.next().await;
            answer.unwrap_or_else(|| Err(unreachable(&"the append was not answered")))
        };
        let answer = env.timeout(millis(option.hard_ttl()), once).await;
        answer.map_err(|elapsed| unreachable(&elapsed))?.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, Error>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + openraft::OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let lane = Some(self.open_lane().await?);
            let session = Session { peer: self, lane, requests: Some(requests), in_flight: 0 };
            let answers = stream::unfold(session, |mut session| async {
                session.next().await.map(|answer| (answer, session))
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Error> {
        let body = WireVoteRequest::from(&request).encode();
        let answer = self.call(Method::RaftVote, body, millis(option.hard_ttl())).await?;
        let vote = WireVoteResponse::decode(&answer).map_err(|error| unreachable(&error))?;
        Ok(vote.into())
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, Error> {
        let body = WireVoteRequest::from(&request).encode();
        let answer = self.call(Method::RaftPreVote, body, millis(option.hard_ttl())).await?;
        let vote = WireVoteResponse::decode(&answer).map_err(|error| unreachable(&error))?;
        Ok(vote.into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let env = self.links.env().clone();
        let sent = env.timeout(millis(option.hard_ttl()), self.send_snapshot(vote, snapshot));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sent => match sent {
                Ok(answer) => Ok(SnapshotResponse::new(answer?)),
                Err(elapsed) => Err(unreachable(&elapsed).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, Error> {
        let body = WireTransferRequest::from(&request).encode();
        let answer = self.call(Method::RaftTransfer, body, millis(option.hard_ttl())).await?;
        let answer = TransferResponse::decode(&answer).map_err(|error| unreachable(&error))?;
        Ok(answer.into())
    }
}
