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
use super::snapshot::{Image, read_piece};
use super::state_machine::RaftSnapshot;
use super::types::{EntryPayload, Types, Vote};
use super::wire::{
    AppendRequest, AppendResponse, SnapshotAck, SnapshotPiece, TransferResponse,
    WireTransferRequest, WireVoteRequest, WireVoteResponse,
};

/// Appends of one lane that wait for their answer; openraft's own pipeline holds as many.
const WINDOW: usize = 64;
/// How long an append may wait for its answer; a follower syncs its disk before it gives one.
const ACK_SPAN: Millis = Millis(5_000);
/// More than the bytes of an append beside its commands, and of an entry beside its own.
const ENTRY_ROOM: usize = 96;
/// How long one piece of a snapshot may take, so that a transfer may take as long as it moves.
const PIECE_SPAN: Millis = Millis(15_000);
/// How long the receiver of a whole snapshot may take to read and install it; it does so at far
/// more than 50 MB/s, at which this is enough for the largest.
const INSTALL_SPAN: Millis = Millis(300_000);
/// How often the receiver may want other pieces than those that come next.
const REWINDS_MAX: u32 = 4;

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

    /// Sends a snapshot's file, from where the receiver has it, and waits until it is installed.
    async fn send_snapshot(&mut self, vote: Vote, snapshot: RaftSnapshot) -> Result<Vote, Error> {
        let Image::Stored { snapshots, latest } = snapshot.snapshot else {
            return Err(unreachable(&"there is no file to send"));
        };
        let _sending = snapshots.sending();
        let last = latest.meta.last_log_id.ok_or_else(|| unreachable(&"the snapshot is empty"))?;
        let total = latest.bytes;
        let (opener, name) = (snapshots.clone(), latest.name.clone());
        let opened = snapshots.off_thread(move || opener.open_file(&name)).await.flatten();
        let mut file = opened.map_err(|error| unreachable(&error))?;
        let (mut offset, mut data, mut rewinds) = (0, Vec::new(), 0);
        let mut waits_since = None;
        loop {
            let end = offset + data.len() as u64;
            let piece = SnapshotPiece {
                vote: (&vote).into(),
                offset,
                total,
                crc: crc32c::crc32c(&data),
                data: Blob(data),
                last: (&last).into(),
                file: Blob(latest.id.to_vec()),
            };
            let answer = self.call(Method::RaftSnapshot, piece.encode(), PIECE_SPAN).await?;
            let ack = SnapshotAck::decode(&answer).map_err(|error| unreachable(&error))?;
            let theirs = Vote::from(ack.vote);
            if theirs > vote || ack.is_installed {
                return Ok(theirs);
            }
            // The first question is answered with any offset.
            rewinds += u32::from(ack.next < end || (ack.next > end && end > 0));
            if ack.next > total || rewinds > REWINDS_MAX {
                return Err(unreachable(&"the receiver does not follow"));
            }
            offset = ack.next;
            if offset == total {
                let now = self.links.env().clock.now();
                if now >= waits_since.get_or_insert(now).after(INSTALL_SPAN) {
                    return Err(unreachable(&"the snapshot was not installed in time"));
                }
                data = Vec::new();
            } else {
                let work =
                    move || read_piece(file.as_mut(), offset, total).map(|data| (data, file));
                let read = snapshots.off_thread(work).await.flatten();
                (data, file) = read.map_err(|error| unreachable(&error))?;
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
                    let frame = frame_of(&request);
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

/// An append's bytes. Their room is known: growing would copy long entries again and again.
fn frame_of(request: &AppendEntriesRequest<Types>) -> Vec<u8> {
    let entries = request.entries.iter().map(|entry| match &entry.payload {
        EntryPayload::Normal(payload) => payload.len() + ENTRY_ROOM,
        EntryPayload::Blank | EntryPayload::Membership(_) => ENTRY_ROOM,
    });
    let mut frame = Vec::with_capacity(ENTRY_ROOM + entries.sum::<usize>());
    AppendRequest::from(request).encode_to(&mut frame);
    frame
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
            let mut requests = requests;
            // openraft waits in this stream while a member is away. To dial before the first
            // request is there would be to try again without end.
            let Some(first) = requests.next().await else { return Ok(stream::empty().boxed()) };
            let lane = Some(self.open_lane().await?);
            let requests = Some(stream::iter([first]).chain(requests));
            let session = Session { peer: self, lane, requests, in_flight: 0 };
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
        // No span is right for a file of any size: see `PIECE_SPAN`.
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => Ok(SnapshotResponse::new(sent?)),
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
